"""A cadence -> which records of an outbound stream are due: those appended before its newest instant. Pure, but for what it remembers.

What is not due waits in the log: nothing has to be remembered over a restart, and a change of the cadence counts at once.
"""

from collections.abc import Callable

from streams.scheduling.cadence import Cadence


class Hold:
    """Of one stream in one process."""

    def __init__(self, cadence: Callable[[], Cadence]) -> None:
        """`cadence`: the one in force now."""
        self._cadence = cadence
        self._known: tuple[Cadence, int, int] | None = None

    @property
    def rate_max_per_s(self) -> float | None:
        return self._cadence().rate_max_per_s

    def due_until_ms(self, now_ms: int) -> int | None:
        """Records appended before that time are due; None: all are."""
        cadence = self._cadence()
        if cadence.is_realtime:
            return None
        if self._known is None or self._known[0] != cadence or not self._known[1] <= now_ms < self._known[2]:
            last_ms = cadence.last_ms(now_ms)
            self._known = (cadence, last_ms, cadence.next_ms(max(now_ms, last_ms)))
        return self._known[1]
