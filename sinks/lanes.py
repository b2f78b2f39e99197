"""items -> one attempt at a time per lane, many lanes at once. Pure asyncio: knows nothing of Kafka or HTTP.

A lane (usually a member) is delivered in order: an item that must be retried keeps its place, and only its own lane waits for it.
When every lane fails, the destination is down: then one probe at a time asks whether it is back, and everything resumes when it is.
"""

import asyncio
import heapq
import logging
import random as random_module
import time
from collections import deque
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, replace
from typing import Generic, Protocol, TypeVar

from sinks.base import Deliver, Item, Receipt, Verdict
from sinks.schedule import Schedule

log = logging.getLogger(__name__)

R = TypeVar("R")

BREAKER_FAILURES = 10  # Failures in a row, over all lanes, after which a destination counts as down.
BREAKER_LANES = 3  # ... from this many lanes at least: a few members that are refused for ever are not an outage.
RETRIES_EXHAUSTED = "RETRIES_EXHAUSTED"

Finished = Callable[[Item[R], Receipt], Awaitable[None]]
"""Called once per item with its last receipt, before the next item of its lane begins. It takes care of refused items itself."""

Partition = tuple[str, int]


class Timer(Protocol):
    def cancel(self) -> object: ...


class Clock(Protocol):
    """The time, as far as lanes need it. Tests bring their own."""

    def monotonic_s(self) -> float: ...

    def wall_ms(self) -> int: ...

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Timer: ...


class SystemClock:
    """The real time, in the running event loop."""

    def monotonic_s(self) -> float:
        return time.monotonic()

    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Timer:
        return asyncio.get_running_loop().call_later(delay_s, callback)


@dataclass(slots=True)
class _Entry(Generic[R]):
    item: Item[R]
    dropped: bool = False


class _Lane(Generic[R]):
    __slots__ = ("asked", "busy", "entries", "key", "probing", "ticket")

    def __init__(self, key: str) -> None:
        self.key = key
        self.entries: deque[_Entry[R]] = deque()
        self.busy = False
        self.probing = False
        self.asked = False  # Waits because the destination asked for it: not released early.
        self.ticket = 0  # The entry of the waiting heap that counts; 0: not waiting.


class Lanes(Generic[R]):
    """Delivers what is added. All methods belong to the event loop's thread, `outstanding` may be read from anywhere."""

    def __init__(
        self,
        deliver: Deliver[R],
        finished: Finished[R],
        *,
        lane: Callable[[Item[R]], str],
        concurrency_max: int,
        postponed: Callable[[Item[R]], None] | None = None,
        schedule: Schedule = Schedule(),
        name: str = "",
        clock: Clock | None = None,
        random: Callable[[], float] = random_module.random,
        breaker_failures: int = BREAKER_FAILURES,
        breaker_lanes: int = BREAKER_LANES,
        breaker_changed: Callable[[bool], None] | None = None,
    ) -> None:
        self.outstanding = 0
        """Items held in memory. Whoever adds items stops doing so above a bound of its own."""
        self.in_flight = 0
        self._deliver = deliver
        self._finished = finished
        self._postponed = postponed
        self._lane_of = lane
        self._concurrency_max = concurrency_max
        self._schedule = schedule
        self._name = name
        self._clock = clock or SystemClock()
        self._random = random
        self._lanes: dict[str, _Lane[R]] = {}
        self._ready: deque[_Lane[R]] = deque()
        self._waiting: list[tuple[float, int, _Lane[R]]] = []
        self._tickets = 0
        self._timer: Timer | None = None
        self._timer_due_s = 0.0
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = False
        # Breaker.
        self._breaker_failures = breaker_failures
        self._breaker_lanes = breaker_lanes
        self._breaker_changed = breaker_changed
        self._failures = 0
        self._failed_lanes: set[str] = set()
        self._down = False
        self._probes = 0
        self._probe_due_s = 0.0

    @property
    def is_down(self) -> bool:
        """Whether the destination counts as down: one probe at a time, everything else waits."""
        return self._down

    def add(self, item: Item[R]) -> None:
        """Put an item at the end of its lane. Never blocks."""
        key = self._lane_of(item)
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = _Lane(key)
        lane.entries.append(_Entry(item))
        self.outstanding += 1
        if len(lane.entries) == 1 and not lane.busy:
            self._ready.append(lane)
        self._pump()

    def drop(self, partitions: Collection[Partition]) -> None:
        """Forget the items of these partitions. An attempt under way ends, but is not repeated."""
        gone = set(partitions)
        for lane in list(self._lanes.values()):
            kept: deque[_Entry[R]] = deque()
            for number, entry in enumerate(lane.entries):
                if (entry.item.topic, entry.item.partition) not in gone:
                    kept.append(entry)
                elif number == 0 and lane.busy:
                    entry.dropped = True
                    kept.append(entry)
                else:
                    self.outstanding -= 1
            lane.entries = kept
            if not kept and not lane.busy:
                lane.ticket = 0
                del self._lanes[lane.key]

    def oldest_timestamp_ms(self) -> int | None:
        """When the oldest item that is not finished was appended to the log; None if there is none."""
        return min((lane.entries[0].item.timestamp_ms for lane in self._lanes.values() if lane.entries), default=None)

    async def close(self, within_s: float) -> None:
        """Begin no further attempt, wait for those under way, cancel them after `within_s`. What is left is forgotten."""
        self._closing = True
        if self._timer is not None:
            self._timer.cancel()
        tasks = set(self._tasks)
        if tasks:
            await asyncio.wait(tasks, timeout=within_s)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # Scheduling.

    def _pump(self) -> None:
        """Start as many attempts as are allowed now, and a timer for what is due later."""
        while (lane := self._take()) is not None:
            task = asyncio.get_running_loop().create_task(self._work(lane))
            self._tasks.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            # `finished` does not raise. If it does, its item is tried again rather than lost.
            log.error("sink.finish_raised", extra={"sink": self._name}, exc_info=error)
            self._wake_at(self._clock.monotonic_s() + self._schedule.longest_s)

    def _take(self) -> _Lane[R] | None:
        """Claim the lane whose turn it is, if one may be tried now."""
        if self._closing:
            return None
        now_s = self._clock.monotonic_s()
        while self._waiting and (self._waiting[0][0] <= now_s or self._is_stale(self._waiting[0])):
            due = heapq.heappop(self._waiting)
            if not self._is_stale(due):
                self._make_ready(due[2])
        lane = self._choose(now_s)
        if lane is not None:
            lane.busy = True
            self.in_flight += 1
        return lane

    def _choose(self, now_s: float) -> _Lane[R] | None:
        if self.in_flight >= (1 if self._down else self._concurrency_max):
            return None
        if self._down and now_s < self._probe_due_s:
            self._wake_at(self._probe_due_s)
            return None
        lane = self._next_ready()
        if lane is None and self._down:
            # Nobody new is there to ask: the lane that would be next is asked early.
            early = [w for w in self._waiting if not self._is_stale(w) and not w[2].asked]
            if early:
                lane = min(early)[2]
                lane.ticket = 0
        if lane is not None:
            lane.probing = self._down
        elif self._waiting:
            self._wake_at(self._waiting[0][0])
        return lane

    def _next_ready(self) -> _Lane[R] | None:
        while self._ready:
            lane = self._ready.popleft()
            # A lane that was dropped meanwhile may have a successor of the same name.
            if lane.entries and not lane.busy and not lane.ticket and self._lanes.get(lane.key) is lane:
                return lane
        return None

    def _make_ready(self, lane: _Lane[R]) -> None:
        lane.ticket = 0
        self._ready.append(lane)

    @staticmethod
    def _is_stale(waiting: tuple[float, int, _Lane[R]]) -> bool:
        return waiting[2].ticket != waiting[1]

    def _wait_until(self, lane: _Lane[R], due_s: float, *, asked: bool) -> None:
        self._tickets += 1
        lane.ticket, lane.asked = self._tickets, asked
        heapq.heappush(self._waiting, (due_s, lane.ticket, lane))

    def _wake_at(self, due_s: float) -> None:
        if self._timer is not None:
            if self._timer_due_s <= due_s:
                return
            self._timer.cancel()
        self._timer_due_s = due_s
        self._timer = self._clock.call_later(max(0.0, due_s - self._clock.monotonic_s()), self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._pump()

    # One attempt.

    async def _work(self, lane: _Lane[R] | None) -> None:
        while lane is not None:
            entry = lane.entries[0]
            try:
                receipt = await self._attempt(entry.item)
                await self._settle(lane, entry, receipt)
            finally:
                lane.busy = lane.probing = False
                self.in_flight -= 1
                if not lane.entries:
                    if self._lanes.get(lane.key) is lane:
                        del self._lanes[lane.key]
                elif not lane.ticket:
                    self._ready.append(lane)
            lane = self._take()

    async def _attempt(self, item: Item[R]) -> Receipt:
        try:
            return await self._deliver(item)
        except Exception as error:
            log.exception("sink.attempt_raised", extra={"sink": self._name, "partition": item.partition, "offset": item.offset})
            return Receipt(verdict=Verdict.RETRY, detail=f"the attempt raised {type(error).__name__}")

    async def _settle(self, lane: _Lane[R], entry: _Entry[R], receipt: Receipt) -> None:
        """Finish the item, or put its lane to wait for the next attempt."""
        if receipt.verdict is Verdict.RETRY:
            self._note_failure(lane, receipt)
            if not entry.dropped:
                exhausted = self._mark_failed(entry, receipt)
                if exhausted is None:
                    self._postpone(lane, entry.item, receipt)
                    return
                receipt = exhausted
        elif receipt.verdict is not Verdict.SKIPPED:  # A skipped item says nothing about the destination.
            self._note_success()
        if not entry.dropped:
            await self._finished(entry.item, receipt)
        lane.entries.popleft()
        self.outstanding -= 1

    def _mark_failed(self, entry: _Entry[R], receipt: Receipt) -> Receipt | None:
        """Count the failure; the receipt of an item that is given up, else None."""
        item, now_ms = entry.item, self._clock.wall_ms()
        since_ms = item.failing_since_ms or now_ms
        failing_for_s = (now_ms - since_ms) / 1000
        # While the destination as a whole is down nothing is given up: the log keeps it.
        if not self._down and self._schedule.is_exhausted(failing_for_s):
            detail = f"{RETRIES_EXHAUSTED}: {item.attempt} attempts, failing for {failing_for_s:.0f} s; last: {receipt.detail}"
            return replace(receipt, verdict=Verdict.REFUSED, reason=RETRIES_EXHAUSTED, detail=detail)
        entry.item = replace(item, attempt=item.attempt + 1, failing_since_ms=since_ms)
        return None

    def _postpone(self, lane: _Lane[R], item: Item[R], receipt: Receipt) -> None:
        if receipt.retry_after_s is None:
            delay_s = self._schedule.delay_s(item.attempt - 1, self._random())
        else:
            delay_s = self._schedule.asked_delay_s(receipt.retry_after_s)
        self._wait_until(lane, self._clock.monotonic_s() + delay_s, asked=receipt.retry_after_s is not None)
        if self._postponed is not None:
            self._postponed(item)

    # The breaker.

    def _note_failure(self, lane: _Lane[R], receipt: Receipt) -> None:
        if self._down:
            if lane.probing:
                self._probes += 1
                self._set_probe_due(receipt)
            return
        self._failures += 1
        self._failed_lanes.add(lane.key)
        if self._failures >= self._breaker_failures and len(self._failed_lanes) >= self._breaker_lanes:
            self._down, self._probes = True, 1
            self._set_probe_due(receipt)
            log.warning("sink.destination_down", extra={"sink": self._name, "failures": self._failures, "detail": receipt.detail})
            self._report_breaker()

    def _set_probe_due(self, receipt: Receipt) -> None:
        if receipt.retry_after_s is None:
            delay_s = self._schedule.probe_delay_s(self._probes, self._random())
        else:
            delay_s = self._schedule.asked_delay_s(receipt.retry_after_s)
        self._probe_due_s = self._clock.monotonic_s() + delay_s

    def _note_success(self) -> None:
        self._failures = 0
        self._failed_lanes.clear()
        if not self._down:
            return
        self._down = False
        log.warning("sink.destination_back", extra={"sink": self._name, "probes": self._probes, "waiting": self.outstanding})
        self._report_breaker()
        for waiting in sorted(self._waiting):
            if not self._is_stale(waiting) and not waiting[2].asked:
                self._make_ready(waiting[2])
        self._pump()

    def _report_breaker(self) -> None:
        if self._breaker_changed is not None:
            self._breaker_changed(self._down)
