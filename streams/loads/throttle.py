"""How many rows of a load may be undecided at once: fewer while live traffic waits too long, more while it does not. Pure: told the time."""

from collections import deque

WINDOW_MIN, WINDOW_FIRST = 8, 100
ADAPT_S = 0.5
SAMPLES_S = 10.0
"""How far back latencies count."""
SAMPLES_MIN = 20
QUIET_S = 3.0
"""Live samples are waited for so long."""
DECREASE, INCREASE, INCREASE_MAX = 0.7, 0.1, 1.0
AIM = 0.6
"""Of the bound: it is to be held, what is measured is over when it is known, and above that a larger window hardly gives more rows."""
SAMPLES_MAX = 20_000


def percentile(values: list[float], percent: float) -> float:
    """0 for none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))] if ordered else 0.0


class _Latencies:
    def __init__(self) -> None:
        self._samples: deque[tuple[float, float]] = deque(maxlen=SAMPLES_MAX)
        """When a decision was read, and what its command waited, ms."""

    def add(self, at_s: float, latency_ms: float) -> None:
        self._samples.append((at_s, latency_ms))

    def of(self, now_s: float, *, appended_from_s: float = 0.0) -> list[float]:
        """Of the last seconds, of commands that were appended after that time."""
        while self._samples and self._samples[0][0] < now_s - SAMPLES_S:
            self._samples.popleft()
        return [latency_ms for at_s, latency_ms in self._samples if at_s - latency_ms / 1000 > appended_from_s]


class Throttle:
    """By the 99th percentile of the time from the broker's append to the decision: down to seven tenths, up by half of the room that is left, by a
    tenth at least. So it is back within seconds when something else was what live traffic waited for.

    What live traffic waits decides. Where there is too little of it, what the load's own rows wait does: they stand in the same queues, but
    for longer, because they come many at a time.
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
        samples = self._live.of(now_s)
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
        # What was appended before the last change tells nothing of the window that is.
        samples = self._live.of(now_s, appended_from_s=self._changed_s)
        if len(samples) < SAMPLES_MIN:
            is_quiet = not self._live.of(now_s)
            if not is_quiet and now_s - self._changed_s < QUIET_S:
                return
            samples += self._own.of(now_s, appended_from_s=self._changed_s)
            if len(samples) < SAMPLES_MIN and now_s - self._changed_s < QUIET_S:
                return
        aim_ms, p99_ms = self._bound_ms * AIM, percentile(samples, 99)
        if p99_ms > aim_ms:
            self._change(now_s, max(WINDOW_MIN, int(self.window * DECREASE)))
        elif samples and self._was_full:
            share = min(INCREASE_MAX, max(INCREASE, (aim_ms / max(1.0, p99_ms) - 1) / 2))
            self._change(now_s, min(self._window_max, self.window + max(2, int(self.window * share))))
        self._was_full = False

    def _change(self, now_s: float, window: int) -> None:
        self.window, self._changed_s = window, now_s
