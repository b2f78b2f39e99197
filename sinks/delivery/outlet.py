"""lanes -> attempts of one destination, in one process: as many at once as the destination takes, first attempts, retries and replays side by side.

Belongs to the event loop. Never sleeps on a retry: a lane that waits costs a place in a heap. What a destination does to its own outlet stays there;
all outlets share nothing but the process's budget of attempts.
"""

import heapq
import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from random import random as system_random
from typing import Protocol

from sinks.base import Verdict
from sinks.delivery.attempt import Result
from sinks.delivery.lane import Lane
from sinks.delivery.limits import AdaptiveLimit, BreakerState, Pace, Phase, RetrySlots
from sinks.delivery.records import Outgoing
from sinks.turns import Alarm, Tasks
from streams.destinations.model import Breaker, Destination

log = logging.getLogger(__name__)

JITTER = 0.2
RETRY_FIRST_S, RETRY_LONGEST_S = 0.2, 30.0
STALLED_S = 2.0
STALLED_LIMIT = 10
"""A destination that has answered nothing for STALLED_S gets no more than this many attempts at once."""
SILENT_S = 0.5
"""... and of what is kept for destinations that answer it gets one attempt at once after so long: a hundred that go down together take all else before
STALLED_S is over."""
OVERLOADED = frozenset({"429", "502", "503", "504", "TIMEOUT", "RESET", "CONNECT"})


class Send(Protocol):
    async def __call__(self, records: list[Outgoing], *, is_batch: bool, job: str, timeout_s: float) -> Result:
        """One attempt. Must not raise; what it raises all the same counts as a failure."""


class Budget:
    """The attempts that a process has under way at once, over all destinations: none waits for its turn longer than the others."""

    def __init__(self, attempts_max: int) -> None:
        self._left = attempts_max
        self._kept = attempts_max // 2
        self._waiting: dict[Outlet, None] = {}
        self._silent: dict[Outlet, None] = {}  # Those of them that do not get what is kept.

    def take(self, outlet: "Outlet", *, is_silent: bool = False) -> bool:
        """Whether one more may begin. One half is kept for destinations that answer."""
        if self._left <= (self._kept if is_silent else 0):
            (self._silent if is_silent else self._waiting)[outlet] = None
            return False
        self._left -= 1
        return True

    def give(self) -> None:
        self._left += 1
        for waiting, kept in ((self._waiting, 0), (self._silent, self._kept)):
            for _ in range(len(waiting)):
                if self._left <= kept:
                    break
                outlet = next(iter(waiting))
                del waiting[outlet]
                outlet.pump()


@dataclass(slots=True)
class Condition:
    """How a destination fares, for operators and for what is told of it."""

    failing_since_ms: int | None = None
    """Nothing got through since; None: the last attempt did, or there was none."""
    failures: int = 0
    """In a row."""
    last_failure: str = ""
    last_failure_ms: int = 0


@dataclass(slots=True)
class _Queues:
    fresh: deque[Lane] = field(default_factory=deque)
    retries: deque[Lane] = field(default_factory=deque)
    replays: deque[Lane] = field(default_factory=deque)


class Outlet:
    """All lanes of one destination in this process."""

    def __init__(
        self,
        destination: Destination,
        send: Send,
        budget: Budget,
        *,
        share: Callable[[], float] = lambda: 1.0,
        breaker_changed: Callable[["Outlet"], None] = lambda _: None,
        monotonic_s: Callable[[], float] = time.monotonic,
        wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        random: Callable[[], float] = system_random,
    ) -> None:
        self.destination = destination
        self.in_flight = 0
        self.condition = Condition()
        self.breaker = BreakerState()
        self.limit = AdaptiveLimit(destination.concurrency_max)
        self.is_paused = False
        self.back_since_ms = 0
        """When it was down, or paused, the last time: what failed until then failed with all others."""
        self._send = send
        self._budget = budget
        self._share = share
        self._breaker_changed = breaker_changed
        self._monotonic_s = monotonic_s
        self._wall_ms = wall_ms
        self._random = random
        self._pace = Pace(None)
        self._paced_for: tuple[float | None, float] = (None, 1.0)
        self._slots = RetrySlots()
        self._queues = _Queues()
        self._waiting: list[tuple[float, int, Lane]] = []
        self._tickets = 0
        self._turn = 0
        self._retries_in_flight = 0
        self._replays_in_flight = 0
        self._unanswered_s: float | None = None  # When the first attempt since the last answer began.
        self._alarm = Alarm(self.pump, monotonic_s=monotonic_s)
        self._tasks = Tasks()
        self._is_closed = False

    @property
    def is_down(self) -> bool:
        """Whether it counts as down: one probe at a time, everything else waits."""
        return self.breaker.is_open and self.destination.breaker is Breaker.ON

    @property
    def takes_more(self) -> bool:
        """Whether there is a point in reading further for it. While it is down there is one only if nobody is left to ask it with."""
        if self.is_paused or self._is_closed:
            return False
        queues = self._queues
        return not self.is_down or not (self.in_flight or self._waiting or queues.fresh or queues.retries or queues.replays)

    def update(self, destination: Destination, send: Send) -> None:
        """From the next attempt on."""
        self.destination, self._send = destination, send
        self.limit.resize(destination.concurrency_max)
        self.pump()

    def pause(self, paused: bool) -> None:
        """Begin no attempt while paused. Those under way end."""
        self.is_paused = paused
        if not paused:
            self.back_since_ms = self._wall_ms()
            self.pump()

    async def close(self) -> None:
        """Cancel what is under way."""
        self._is_closed = True
        self._alarm.stop()
        await self._tasks.cancel()

    def offer(self, lane: Lane) -> None:
        """The lane may have something to deliver now, or later: it is taken in as what it is. Harmless to repeat."""
        if lane.busy or lane.is_queued or lane.is_blocked or lane.is_loading or lane.ticket or not len(lane):
            return
        if lane.branch.is_stopping or lane.branch.is_done:
            return
        if lane.due_ms is not None and (wait_s := (lane.due_ms - self._wall_ms()) / 1000) > 0:
            self._wait(lane, self._monotonic_s() + wait_s)
        else:
            self._enqueue(lane)
        self.pump()

    def hurry(self, lane: Lane) -> None:
        """An operator wants the lane tried now."""
        lane.ticket, lane.due_ms, lane.is_asked = 0, None, False
        self.offer(lane)

    def withdraw(self, lane: Lane) -> None:
        """The lane is no more, or is not to be tried: an attempt under way ends, and changes nothing."""
        lane.ticket = 0

    def pump(self) -> None:
        """Begin as many attempts as may begin now."""
        while (lane := self._take()) is not None:
            self._tasks.begin(self._work(lane))

    # Choosing.

    def _enqueue(self, lane: Lane) -> None:
        lane.is_queued, lane.ticket = True, 0
        queues = self._queues
        (queues.replays if lane.branch.channel.is_replay else queues.retries if lane.attempts else queues.fresh).append(lane)

    def _wait(self, lane: Lane, due_s: float) -> None:
        self._tickets += 1
        lane.ticket = self._tickets
        heapq.heappush(self._waiting, (due_s, lane.ticket, lane))
        if self._waiting[0][2] is lane:
            self._alarm.set(due_s)

    def _take(self) -> Lane | None:
        """Claim the lane whose turn it is, if one may be tried now."""
        if self._is_closed or self.is_paused:
            return None
        now_s = self._monotonic_s()
        waiting = self._waiting
        while waiting and (waiting[0][2].ticket != waiting[0][1] or waiting[0][0] <= now_s):
            _, ticket, lane = heapq.heappop(waiting)
            if lane.ticket == ticket:
                self._enqueue(lane)
        lane_or_none = self._probe(now_s) if self.is_down else self._next(now_s)
        if lane_or_none is None:
            if waiting and not self.is_down:
                self._alarm.set(waiting[0][0])
            return None
        lane = lane_or_none
        lane.busy = True
        self.in_flight += 1
        self._retries_in_flight += bool(lane.attempts)
        self._replays_in_flight += lane.branch.channel.is_replay
        self._pace.began(now_s)
        return lane

    def _next(self, now_s: float) -> Lane | None:
        queues = self._queues
        if not (queues.fresh or queues.retries or queues.replays):
            return None
        limit = self._limit_now(now_s)
        is_full = self.in_flight >= limit
        if is_full and not self._may_exceed(limit):
            return None
        self._set_pace()
        if (free_s := self._pace.free_at_s(now_s)) > now_s:
            self._alarm.set(free_s)
            return None
        if not self._budget.take(self, is_silent=self.in_flight > 0 and self._is_silent(now_s, SILENT_S)):
            return None
        lane = self._pop(queues.fresh) if is_full else self._choose(limit)
        if lane is None:
            self._budget.give()
        return lane

    def _may_exceed(self, limit: int) -> bool:
        """The limit shrinks with retries that hang: those under way may be more than it is now, and leave first attempts their share all the same."""
        firsts_in_flight = self.in_flight - self._retries_in_flight - self._replays_in_flight
        return bool(self._queues.fresh) and firsts_in_flight < max(1, limit // 4) and self.in_flight < self.destination.concurrency_max

    def _choose(self, limit: int) -> Lane | None:
        """First attempts keep a quarter of all slots for themselves, and leave one to retries; replays get a quarter at most."""
        queues = self._queues
        self._turn += 1
        may_retry = self._retries_in_flight < max(1, limit - max(1, limit // 4)) or limit == 1
        if queues.retries and may_retry and (self._retries_in_flight < limit // 4 or not self._turn % 4 or not queues.fresh):
            lane = self._pop(queues.retries)
            if lane is not None:
                return lane
        lane = self._pop(queues.fresh)
        if lane is None and may_retry:
            lane = self._pop(queues.retries)
        if lane is None and self._replays_in_flight < max(1, limit // 4):
            lane = self._pop(queues.replays)
        return lane

    def _pop(self, queue: deque[Lane]) -> Lane | None:
        while queue:
            lane = queue.popleft()
            lane.is_queued = False
            if lane.branch.is_stopping or lane.branch.is_done or lane.is_blocked or lane.busy or not len(lane):
                continue
            if lane.head() is None:
                lane.is_loading = True
                lane.branch.load(lane)
                continue
            return lane
        return None

    def _probe(self, now_s: float) -> Lane | None:
        if self.breaker.phase is Phase.HALF_OPEN:
            return None
        if now_s < self.breaker.probe_due_s:
            self._alarm.set(self.breaker.probe_due_s)
            return None
        if not self._budget.take(self, is_silent=True):
            return None
        queues = self._queues
        lane = self._pop(queues.fresh) or self._pop(queues.retries) or self._pop(queues.replays)
        if lane is None:
            # Nobody new is there to ask: the lane that would be next is asked early.
            early = [one for one in self._waiting if one[2].ticket == one[1] and not one[2].is_asked and one[2].head() is not None]
            if not early:
                self._budget.give()
                if self._waiting:
                    self._alarm.set(max(self._waiting[0][0], now_s + STALLED_S))
                return None
            lane = min(early)[2]
            lane.ticket = 0
        self.breaker.probing()
        return lane

    def _limit_now(self, now_s: float) -> int:
        """Most attempts at once: few of them if the destination has stopped answering."""
        limit = self.limit.limit
        return min(limit, STALLED_LIMIT) if self._is_silent(now_s, STALLED_S) else limit

    def _is_silent(self, now_s: float, for_s: float) -> bool:
        return self._unanswered_s is not None and now_s - self._unanswered_s > for_s

    def _set_pace(self) -> None:
        wanted = (self.destination.rate_max_per_s, self._share())
        if wanted != self._paced_for:
            self._paced_for = wanted
            self._pace.resize(None if wanted[0] is None else max(wanted[0] * wanted[1], 1e-3))

    # One attempt after the other.

    async def _work(self, lane: Lane | None) -> None:
        while lane is not None:
            await self._attempt(lane)
            lane = self._take()
            if lane is not None:
                self.pump()  # The limit may have grown: there is room for more than the one that takes this one's place.

    async def _attempt(self, lane: Lane) -> None:
        channel = lane.branch.channel
        is_probe = self.is_down
        if self._unanswered_s is None:
            self._unanswered_s = self._monotonic_s()
        was_retry, records = bool(lane.attempts), lane.head(channel.batch_events_max) or []
        timeout_s = self.breaker.probe_timeout_s(self.destination.timeout_s) if is_probe else self.destination.timeout_s
        result: Result | None = None
        try:
            try:
                result = await self._send(records, is_batch=channel.is_batch, job=channel.job_id, timeout_s=timeout_s)
            except Exception:
                log.exception("delivery.attempt_raised", extra={"destination": self.destination.name, "offset": records[0].offset if records else None})
            finally:
                in_flight = self.in_flight
                self.in_flight -= 1
                self._retries_in_flight -= was_retry
                self._replays_in_flight -= channel.is_replay
                self._budget.give()
            if result is None:
                result = Result.raised(records, self._wall_ms())
            self._note(lane, result, is_probe=is_probe, in_flight=in_flight)
            if not lane.branch.is_closed:
                lane.branch.settle(lane, result.count, result)
        except Exception:
            log.exception("delivery.settle_failed", extra={"destination": self.destination.name, "offset": records[0].offset if records else None})
            lane.branch.partition.begin_again()
        finally:
            lane.busy = False  # Not before it is settled: whatever that sets off must not take the lane a second time.
        self.offer(lane)

    def _note(self, lane: Lane, result: Result, *, is_probe: bool, in_flight: int) -> None:
        """What the attempt says of the destination."""
        receipt, now_s = result.receipt, self._monotonic_s()
        if result.was_answered:
            self._unanswered_s = None
        if receipt.verdict is not Verdict.RETRY:
            if not result.was_answered:  # It says nothing of the destination.
                self.breaker.put_off(now_s)
                return
            self.limit.succeeded(in_flight)
            self.condition.failing_since_ms, self.condition.failures = None, 0
            if self.breaker.succeeded(result.seconds):
                self._come_back()
            return
        condition = self.condition
        condition.failures += 1
        condition.last_failure, condition.last_failure_ms = receipt.detail, self._wall_ms()
        if condition.failing_since_ms is None:
            condition.failing_since_ms = condition.last_failure_ms
        if result.outcome in OVERLOADED:
            self.limit.overloaded(now_s)
        if self.destination.breaker is Breaker.OFF:
            return
        retry_after_s = None if receipt.retry_after_s is None else min(receipt.retry_after_s, self.destination.retry_after_max_s)
        if self.breaker.failed(lane.key, now_s, is_probe=is_probe, retry_after_s=retry_after_s, jitter=self._jitter()):
            log.warning("delivery.breaker_opened", extra={
                "destination": self.destination.name, "detail": receipt.detail, "is_dry_run": self.destination.breaker is Breaker.OBSERVE,
            })  # fmt: skip
            self._breaker_changed(self)

    def _come_back(self) -> None:
        log.warning("delivery.breaker_closed", extra={"destination": self.destination.name})
        self.back_since_ms = self._wall_ms()
        if self.destination.breaker is Breaker.ON:
            self.limit.restart()
            # What waited for its next attempt waited for this; what the destination asked to wait for goes on waiting.
            for _, ticket, lane in sorted(self._waiting):
                if lane.ticket == ticket and not lane.is_asked:
                    lane.due_ms = None
                    self._enqueue(lane)
        self._breaker_changed(self)
        self.pump()

    def retry_due_ms(self, failures: int, retry_after_s: float | None) -> int:
        """When a lane is tried again after so many failures in a row of its first record."""
        destination, now_ms = self.destination, self._wall_ms()
        if retry_after_s is not None:
            return now_ms + int(min(max(retry_after_s, RETRY_FIRST_S), destination.retry_after_max_s) * 1000)
        if destination.retry_delays_s:
            delay_s = destination.retry_delays_s[min(failures, len(destination.retry_delays_s)) - 1]
        else:
            delay_s = min(RETRY_FIRST_S * 2.0 ** min(failures - 1, 30), RETRY_LONGEST_S)
        now_s = now_ms / 1000
        return int(self._slots.take(now_s + delay_s * self._jitter(), now_s) * 1000)

    def _jitter(self) -> float:
        return 1.0 - JITTER + 2.0 * JITTER * self._random()
