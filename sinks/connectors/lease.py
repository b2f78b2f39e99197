"""Until when a process may still send what it has announced: the clock goes on while the machine sleeps. Pure, but for that clock."""

import time
from collections.abc import Callable

START_S = 5.0
"""So long after what is announced began to be committed a request of it may begin: a commit takes milliseconds."""
MARGIN_S = 1.0
"""A request that ends at its time-out is over for certain so much later; whoever takes over waits it out, too."""


def boottime_s() -> float:
    """Seconds that go on while the process, or the machine, is stopped."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class LeaseOver(Exception):
    """Too late to send: another process may have taken over by now."""


class Lease:
    """One announcement. It begins before the commit does: if the commit succeeds, nobody had taken over by then, and whoever does later waits for
    `life_s` from that moment on before he writes what was announced."""

    def __init__(self, timeout_s: float, clock: Callable[[], float] = boottime_s) -> None:
        """`timeout_s`: longest that a request of it takes."""
        self.timeout_s = timeout_s
        self.is_over = False
        """It was found to be over when a request was about to be sent."""
        self._clock = clock
        self._began_s = clock()

    @property
    def life_s(self) -> float:
        return START_S + self.timeout_s + MARGIN_S

    def allows(self, timeout_s: float) -> bool:
        """Whether a request of so long a time-out may begin now, and with some time to spare until it is sent."""
        return self._clock() - self._began_s <= START_S / 2 and timeout_s <= self.timeout_s

    def check(self) -> None:
        """Right before a request is sent. Raises LeaseOver."""
        if self._clock() - self._began_s > START_S:
            self.is_over = True
            raise LeaseOver(f"announced more than {START_S:g} s ago")
