"""A clock that tests move by hand: what takes three days takes microseconds."""

import asyncio
import heapq
from collections.abc import Callable

TURNS_MAX = 12  # More than any chain of callbacks between two waits.


class _Timer:
    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self.callback = None


class ManualClock:
    def __init__(self, wall_ms: int = 1_772_366_400_000) -> None:
        self.now_s = 0.0
        self._wall_ms = wall_ms
        self._timers: list[tuple[float, int, _Timer]] = []
        self._count = 0

    def monotonic_s(self) -> float:
        return self.now_s

    def wall_ms(self) -> int:
        return self._wall_ms + round(self.now_s * 1000)

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> _Timer:
        self._count += 1
        timer = _Timer(callback)
        heapq.heappush(self._timers, (self.now_s + delay_s, self._count, timer))
        return timer

    async def sleep(self, delay_s: float) -> None:
        woken = asyncio.Event()
        self.call_later(delay_s, woken.set)
        await woken.wait()

    async def advance(self, by_s: float) -> None:
        """Let time pass, timer by timer, and everything happen that they set off."""
        until_s = self.now_s + by_s
        await settle()
        while self._timers and self._timers[0][0] <= until_s:
            due_s, _, timer = heapq.heappop(self._timers)
            self.now_s = max(self.now_s, due_s)
            if timer.callback is not None:
                timer.callback()
                await settle()
        self.now_s = until_s

    async def run_until(self, predicate: Callable[[], bool], within_s: float) -> None:
        """Jump from timer to timer until the predicate holds. Raises TimeoutError after `within_s` of this clock."""
        deadline_s = self.now_s + within_s
        await settle()
        while not predicate():
            if not self._timers or self._timers[0][0] > deadline_s:
                raise TimeoutError(f"not within {within_s} s")
            await self.advance(max(0.0, self._timers[0][0] - self.now_s))


async def settle() -> None:
    """Let every task run until it waits for something."""
    for _ in range(TURNS_MAX):
        await asyncio.sleep(0)
