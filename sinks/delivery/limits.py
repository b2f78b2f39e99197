"""How much a destination gets at once, and when: concurrency that adapts, a rate, retries that do not come in waves, a breaker. Pure: times come in.

All times are seconds of one monotonic clock.
"""

from collections import Counter
from enum import StrEnum

LIMIT_FIRST = 8.0
LIMIT_AFTER_OUTAGE = 4.0
SHRINK = 0.7
SHRINK_EVERY_S = 1.0
"""What fails at the same time is one sign, not many."""


class AdaptiveLimit:
    """Most attempts at once: additive increase while all is used and well, multiplicative decrease when the destination is overloaded."""

    def __init__(self, limit_max: int) -> None:
        self._max = float(limit_max)
        self._limit = min(LIMIT_FIRST, self._max)
        self._threshold = self._max  # Below it, each success adds one: the limit doubles with every round.
        self._shrunk_s = float("-inf")

    @property
    def limit(self) -> int:
        return int(self._limit)

    def resize(self, limit_max: int) -> None:
        """The destination's own maximum has changed."""
        self._max = float(limit_max)
        self._limit, self._threshold = min(self._limit, self._max), self._max

    def succeeded(self, in_flight: int) -> None:
        """Note a success while so many were under way, itself included."""
        if in_flight >= self.limit:
            self._limit = min(self._max, self._limit + (1.0 if self._limit < self._threshold else 1.0 / self._limit))

    def overloaded(self, now_s: float) -> None:
        """Note that an attempt timed out, was reset, or was answered with 429, 502, 503 or 504."""
        if now_s - self._shrunk_s >= SHRINK_EVERY_S:
            self._shrunk_s = now_s
            self._limit = max(1.0, self._limit * SHRINK)
            self._threshold = self._limit

    def restart(self) -> None:
        """Begin low and double: the destination has just come back."""
        self._limit = min(LIMIT_AFTER_OUTAGE, self._max)
        self._threshold = self._max


class Pace:
    """Most attempts a second, evenly spread, with a burst of one second's worth (the generic cell rate algorithm)."""

    def __init__(self, rate_max_per_s: float | None) -> None:
        self._interval_s = 0.0
        self._due_s = float("-inf")
        self.resize(rate_max_per_s)

    def resize(self, rate_max_per_s: float | None) -> None:
        self._interval_s = 1.0 / rate_max_per_s if rate_max_per_s else 0.0

    def free_at_s(self, now_s: float) -> float:
        """When the next attempt may begin; now or before: at once."""
        burst_s = max(0.0, 1.0 - self._interval_s)
        return now_s if not self._interval_s else self._due_s - burst_s

    def began(self, now_s: float) -> None:
        if self._interval_s:
            self._due_s = max(self._due_s, now_s) + self._interval_s


RETRIES_MAX_PER_S = 400
"""Ten thousand events that fail in the same second come back over 25 s: no second of the next wave holds more than 4 % of them."""
SLOT_S = 0.1


class RetrySlots:
    """Spreads retries over the time, in slots that are short enough for every second to hold no more than its share."""

    def __init__(self, max_per_s: int = RETRIES_MAX_PER_S) -> None:
        self._max = int(max_per_s * SLOT_S)
        self._taken: Counter[int] = Counter()

    def take(self, due_s: float, now_s: float) -> float:
        """The first moment from `due_s` on in a slot with room; the retry keeps its place within the slot."""
        if len(self._taken) > 1000:
            for slot in [slot for slot in self._taken if slot < now_s / SLOT_S - 1]:
                del self._taken[slot]
        slot = first = int(due_s / SLOT_S)
        while self._taken[slot] >= self._max:
            slot += 1
        self._taken[slot] += 1
        return due_s + (slot - first) * SLOT_S


class Phase(StrEnum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"  # One probe is under way.


OPEN_FAILURES = 10  # Failures in a row, over all members, after which a destination counts as down.
OPEN_MEMBERS = 3  # ... of this many members at least: a few members that are refused for ever are no outage.
PROBE_FIRST_S, PROBE_LONGEST_S = 0.2, 2.0
PROBE_TIMEOUT_MIN_S = 2.5
"""With the longest pause between two probes: a destination that is well again is noticed within 5 s."""
LATENCY_WEIGHT = 0.1


class BreakerState:
    """Whether a destination as a whole is down. While it is, one probe at a time asks whether it is back."""

    def __init__(self) -> None:
        self.phase = Phase.CLOSED
        self.opened_s = 0.0
        self.probe_due_s = 0.0
        self.latency_s = 0.0
        """Of successes, smoothed."""
        self._failures = 0
        self._members: set[str] = set()
        self._probes = 0

    @property
    def is_open(self) -> bool:
        return self.phase is not Phase.CLOSED

    def failed(self, member: str, now_s: float, *, is_probe: bool, retry_after_s: float | None, jitter: float) -> bool:
        """Note a failure; True if it is what opens the breaker. `jitter` is a factor around 1."""
        if self.is_open:
            if is_probe:
                self._probes += 1
                self._wait(now_s, retry_after_s, jitter)
            return False
        self._failures += 1
        self._members.add(member)
        if self._failures < OPEN_FAILURES or len(self._members) < OPEN_MEMBERS:
            return False
        self.opened_s, self._probes = now_s, 1
        self._wait(now_s, retry_after_s, jitter)
        return True

    def succeeded(self, seconds: float) -> bool:
        """Note a success; True if it is what closes the breaker."""
        self.latency_s += (seconds - self.latency_s) * (LATENCY_WEIGHT if self.latency_s else 1.0)
        self._failures = 0
        self._members.clear()
        was_open, self.phase = self.is_open, Phase.CLOSED
        return was_open

    def probing(self) -> None:
        self.phase = Phase.HALF_OPEN

    def put_off(self, now_s: float) -> None:
        """A probe ended without a word about the destination."""
        if self.phase is Phase.HALF_OPEN:
            self._wait(now_s, None, 1.0)

    def probe_timeout_s(self, timeout_s: float) -> float:
        """A probe waits no longer than an answer usually takes, three times over."""
        return min(timeout_s, max(PROBE_TIMEOUT_MIN_S, 3.0 * self.latency_s))

    def _wait(self, now_s: float, retry_after_s: float | None, jitter: float) -> None:
        self.phase = Phase.OPEN
        delay_s = min(PROBE_FIRST_S * 2.0 ** min(self._probes - 1, 30), PROBE_LONGEST_S) * jitter
        self.probe_due_s = now_s + (delay_s if retry_after_s is None else max(retry_after_s, delay_s))
