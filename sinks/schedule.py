"""failed attempt -> when to try again. Pure: randomness and ages come in."""

from dataclasses import dataclass

DAY_S = 24 * 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """Delays that double, with jitter, up to a ceiling; and the age at which an item is given up."""

    first_s: float = 0.2
    """Short enough that a hiccup passes unnoticed."""
    longest_s: float = 30.0
    """An item waits no longer than this between two attempts, unless its destination asks for it."""
    probe_longest_s: float = 4.0
    """A destination that is down is asked this often whether it is back; with jitter, within 5 s of its return."""
    jitter: float = 0.2
    """Each delay varies by this share in both directions, so that what failed together does not return together."""
    retry_after_longest_s: float = 15 * 60.0
    """Most that a destination's own Retry-After is believed."""
    give_up_after_s: float = 3 * DAY_S
    """An item that has failed for this long, while others got through, is given up."""

    def delay_s(self, attempt: int, random: float) -> float:
        """Delay after the `attempt`-th failure in a row (from 1). `random` is from 0 to 1."""
        return self._spread(min(self.first_s * 2.0 ** min(attempt - 1, 62), self.longest_s), random)

    def probe_delay_s(self, probe: int, random: float) -> float:
        """Delay after the `probe`-th failed probe in a row of a destination that is down."""
        return self._spread(min(self.first_s * 2.0 ** min(probe - 1, 62), self.probe_longest_s), random)

    def asked_delay_s(self, retry_after_s: float) -> float:
        """Delay that the destination asked for, bounded on both sides."""
        return min(max(retry_after_s, self.first_s), self.retry_after_longest_s)

    def is_exhausted(self, failing_for_s: float) -> bool:
        return failing_for_s >= self.give_up_after_s

    def _spread(self, delay_s: float, random: float) -> float:
        return delay_s * (1.0 - self.jitter + 2.0 * self.jitter * random)
