"""How many rows of a load may be undecided at once: fewer while live traffic waits too long, more while it does not. Pure: told the time."""

from collections import deque

WINDOW_MIN, WINDOW_FIRST = 8, 100
ADAPT_S = 0.5
SAMPLES_S = 10.0
"""How far back latencies count."""
SAMPLES_MIN = 20
QUIET_S = 3.0
"""With fewer samples for so long, they are taken as they are."""
DECREASE, INCREASE = 0.7, 0.1
AIM = 0.8
"""Of the bound: it is to be held, and what is measured is over when it is known."""
SAMPLES_MAX = 20_000


def percentile(values: list[float], percent: float) -> float:
    """0 for none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))] if ordered else 0.0


class _Latencies:
    def __init__(self) -> None:
        self._samples: deque[tuple[float, float]] = deque(maxlen=SAMPLES_MAX)

    def add(self, at_s: float, latency_ms: float) -> None:
        self._samples.append((at_s, latency_ms))

    def since(self, from_s: float, now_s: float) -> list[float]:
        while self._samples and self._samples[0][0] < now_s - SAMPLES_S:
            self._samples.popleft()
        return [latency_ms for at_s, latency_ms in self._samples if at_s > from_s]


class Throttle:
    """Additive up by a tenth, down to seven tenths, by the 99th percentile of the time from the broker's append to the decision.

    What live traffic waits decides. Where there is too little of it, what the load's own rows wait does: they stand in the same queues.
    """

    def __init__(self, *, bound_ms: float, window_max: int, rate_max_per_s: float | None = None, now_s: float) -> None:
        self._bound_ms, self._window_max, self._rate = bound_ms, window_max, rate_max_per_s
        self._live, self._own = _Latencies(), _Latencies()
        self._changed_s = self._adapted_s = self._paid_s = now_s
        self._was_full = False
        self._credit = 0.0
        self.window = min(WINDOW_FIRST, window_max)

    def note(self, now_s: float, latency_ms: float, *, is_live: bool) -> None:
        """A decision was read."""
        (self._live if is_live else self._own).add(now_s, latency_ms)

    def live_p99_ms(self, now_s: float) -> float | None:
        """Of the last seconds; None without live traffic."""
        samples = self._live.since(now_s - SAMPLES_S, now_s)
        return percentile(samples, 99) if samples else None

    def allowance(self, now_s: float, undecided: int) -> int:
        """Rows that may be sent now."""
        if now_s - self._adapted_s >= ADAPT_S:
            self._adapt(now_s)
        free = max(0, self.window - undecided)
        self._was_full |= free == 0
        if self._rate is not None:
            # A second's worth may be caught up on, no more.
            self._credit = min(max(self._rate, 1.0), self._credit + (now_s - self._paid_s) * self._rate)
            self._paid_s = now_s
            free = min(free, int(self._credit))
        return free

    def sent(self, rows: int) -> None:
        if self._rate is not None:
            self._credit -= rows

    def _adapt(self, now_s: float) -> None:
        self._adapted_s = now_s
        samples = self._live.since(self._changed_s, now_s)
        waited_s = now_s - self._changed_s
        if len(samples) < SAMPLES_MIN:
            samples += self._own.since(self._changed_s, now_s)
        if len(samples) < SAMPLES_MIN and waited_s < QUIET_S:
            return
        p99_ms = percentile(samples, 99)
        if samples and p99_ms > self._bound_ms * AIM:
            self._change(now_s, p99_ms, max(WINDOW_MIN, int(self.window * DECREASE)))
        elif samples and self._was_full:
            self._change(now_s, p99_ms, min(self._window_max, self.window + max(2, int(self.window * INCREASE))))
        self._was_full = False

    def _change(self, now_s: float, p99_ms: float, window: int) -> None:
        """What was queued before tells nothing of what another window does: it is decided after so long."""
        self.window, self._changed_s = window, now_s + p99_ms / 1000
