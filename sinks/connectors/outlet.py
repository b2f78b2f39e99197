"""Members with something to tell -> conversations with their system: who goes with whom, when, and what is made of the outcome.

One outlet per target and process. Members of all partitions go together, so that a system that counts calls gets few. What an answer means for the
whole system, and what for one member, is kept apart:

    WAIT                     nothing is begun until the system's own time is over, or one that doubles
    RETRY, no answer         the members of the conversation again, after a while; many in a row: one probe at a time until it is well
    a member's RETRY         that member alone again, after a while; for give_up_after_s at most
    a member's PARK          a dead letter; tried again with a newer state, or when a person asks for it
    a conversation that      is begun again with fewer members each time: in the end with the one alone that breaks it
    breaks off again and again
"""

import asyncio
import heapq
import logging
import time
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import random as system_random
from typing import TYPE_CHECKING

from schemas.records import DeliveryResult
from sinks.connectors import allowance, telling
from sinks.connectors.members import Entry, batch_max
from sinks.connectors.talk import Offer, Talk
from sinks.delivery.evidence import RETRIES_EXHAUSTED
from sinks.delivery.limits import AdaptiveLimit, BreakerState, Pace, Phase
from sinks.schedule import Schedule
from sinks.turns import Alarm, Tasks
from streams.connectors.contract import Outcome, Verdict, Written
from streams.connectors.exchange import Exchange, Unanswered
from streams.errors import ContractError

if TYPE_CHECKING:
    from sinks.connectors.partition import Partition
    from sinks.connectors.process import Run

log = logging.getLogger(__name__)

LINGER_S = 0.05
"""A member waits for company this long."""
SETTLE_S = 10.0
"""A member whose write was not answered is not written again for this long: the system may be at the first one still."""
WAIT_FIRST_S, WAIT_MAX_S, WAIT_ASKED_MAX_S = 1.0, 60.0, 3600.0
UNREADABLE = "ANSWER_NOT_UNDERSTOOD"


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """What tests make shorter."""

    linger_s: float = LINGER_S
    settle_s: float = SETTLE_S


@dataclass(slots=True, kw_only=True)
class Condition:
    """How the system fares, for operators."""

    failing_since_ms: int | None = None
    """No conversation got through since; None: the last one did, or there was none."""
    last_failure: str = ""
    last_failure_ms: int | None = None
    last_success_ms: int | None = None


class Outlet:
    """All conversations of one target in this process."""

    def __init__(
        self, run: "Run", exchange: Exchange, *, schedule: Schedule, timing: Timing = Timing(), share: Callable[[], float] = lambda: 1.0,
        random: Callable[[], float] = system_random,
    ) -> None:  # fmt: skip
        options = run.target.options
        self.in_flight = 0
        self.breaker = BreakerState()
        self.limit = AdaptiveLimit(int(options["concurrency_max"]))
        self.condition = Condition()
        self.rest_until_s = 0.0
        """Nothing is begun until then: the system has asked for it."""
        self.is_paused = False
        self._run = run
        self.exchange = exchange
        self._schedule = schedule
        self._timing = timing
        self._share = share
        self._random = random
        self._states_max = min(run.write.states_max, int(options["batch_members_max"]) or run.write.states_max)
        self._rate_max_per_s = float(options["rate_max_per_s"])
        self._timeout_max_s = float(options["timeout_s"])
        self._pace = Pace(None)
        self._paced_for: float | None = None
        self._ready: dict[int, deque[Offer]] = defaultdict(deque)
        """By how often conversations with them broke off."""
        self._waiting: list[tuple[float, int, Offer]] = []
        self._tickets = 0
        self._failures = 0
        """Conversations in a row that were not answered."""
        self._waits = 0
        self._alarm = Alarm(self.pump)
        self._tasks = Tasks()
        self._is_closed = False

    def offer(self, partition: "Partition", entry: Entry) -> None:
        """The member may have something to tell now, or later. Harmless to repeat."""
        if entry.sent is not None or entry.is_queued or entry.is_parked or entry.is_gone or partition.is_stopping:
            return
        now_s = time.monotonic()
        if entry.due_s > now_s:
            self._tickets += 1
            entry.ticket = self._tickets
            heapq.heappush(self._waiting, (entry.due_s, entry.ticket, (partition, entry)))
        else:
            self._enqueue(partition, entry, now_s)
        self.pump()

    def pause(self, paused: bool) -> None:
        """Begin nothing while paused. What is under way ends."""
        self.is_paused = paused
        self.pump()

    async def close(self) -> None:
        """Cancel what is under way."""
        self._is_closed = True
        self._alarm.stop()
        await self._tasks.cancel()

    def pump(self) -> None:
        """Begin as many conversations as may begin now."""
        while (batch := self._take()) is not None:
            self.in_flight += 1
            self._tasks.begin(self._work(batch, is_probe=self.breaker.is_open))

    # Choosing.

    def _enqueue(self, partition: "Partition", entry: Entry, now_s: float) -> None:
        entry.is_queued, entry.ticket, entry.ready_s = True, 0, now_s
        self._ready[entry.broken].append((partition, entry))

    def _take(self) -> list[Offer] | None:
        if self._is_closed or self.is_paused:
            return None
        now_s = time.monotonic()
        self._promote(now_s)
        level = self._level()
        if level is None:
            if self._waiting:
                self._alarm.set(self._waiting[0][0])
            return None
        free_s = max(self.rest_until_s, self._pace_free_s(now_s), self._company_s(level, now_s), self.breaker.probe_due_s if self.breaker.is_open else 0.0)
        if free_s > now_s:
            self._alarm.set(free_s)
            return None
        if self.breaker.phase is Phase.HALF_OPEN or (not self.breaker.is_open and self.in_flight >= self.limit.limit):
            return None  # The end of what is under way asks again.
        batch = self._pop(level)
        if batch and self.breaker.is_open:
            self.breaker.probing()
        return batch or None

    def _promote(self, now_s: float) -> None:
        waiting = self._waiting
        while waiting and (waiting[0][2][1].ticket != waiting[0][1] or waiting[0][0] <= now_s):
            _, ticket, (partition, entry) = heapq.heappop(waiting)
            if entry.ticket == ticket:
                self._enqueue(partition, entry, now_s)

    def _level(self) -> int | None:
        """Of those that are ready: they go with whom conversations broke off as often; the longest ready first."""
        for level in [level for level, queue in self._ready.items() if not queue]:
            del self._ready[level]
        return min(self._ready, key=lambda level: self._ready[level][0][1].ready_s, default=None)

    def _company_s(self, level: int, now_s: float) -> float:
        """Until when the first one waits for company."""
        queue = self._ready[level]
        return now_s if len(queue) >= batch_max(self._states_max, level) else queue[0][1].ready_s + self._timing.linger_s

    def _pop(self, level: int) -> list[Offer]:
        batch: list[Offer] = []
        queue, most = self._ready[level], batch_max(self._states_max, level)
        while queue and len(batch) < most:
            partition, entry = queue.popleft()
            entry.is_queued = False
            if entry.is_gone or entry.is_parked or partition.is_stopping or not partition.is_open:
                continue
            if entry.broken != level:
                self._enqueue(partition, entry, entry.ready_s)
                continue
            entry.begin()  # At once: until then it could be chosen a second time.
            partition.writing.add(entry.member)
            batch.append((partition, entry))
        return batch

    def _pace_free_s(self, now_s: float) -> float:
        rates = [rate for rate in (self._rate_max_per_s, allowance.rate_max_per_s(self.exchange.budget)) if rate]
        wanted = max(min(rates) * self._share(), 1e-3) if rates else None
        if wanted != self._paced_for:
            self._paced_for = wanted
            self._pace.resize(wanted)
        return self._pace.free_at_s(now_s)

    # One conversation.

    async def _work(self, batch: list[Offer], *, is_probe: bool) -> None:
        began_s, in_flight = time.monotonic(), self.in_flight
        talk = Talk(self._run, self.exchange, batch, turn=self.turn, timeout_max_s=self._timeout_max_s)
        try:
            try:
                written = await talk.hold()
            finally:
                self.in_flight -= 1
            self._succeeded(batch, talk, written, time.monotonic() - began_s, in_flight)
        except Unanswered as error:
            self._broke_off(batch, talk, error, is_probe=is_probe)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            # A translator that does not understand what it was answered, or a mistake of ours: it may be one member's doing.
            if not isinstance(error, ContractError):
                log.exception("connector.conversation_raised", extra={"destination": self._run.target.name})
            self._not_understood(batch, talk, error)
        finally:
            for partition, entry in batch:
                if entry.sent is not None and not self._is_closed and not entry.is_gone:
                    entry.broke_off(may_still_act=True, due_s=time.monotonic() + self._timing.settle_s, is_its_own=False)
                    partition.changed(entry)
                partition.writing.discard(entry.member)
                self.offer(partition, entry)
            self.pump()

    def _succeeded(self, batch: Sequence[Offer], talk: Talk, written: Sequence[Written], seconds: float, in_flight: int) -> None:
        if talk.heard:
            if self.breaker.succeeded(seconds):
                self.limit.restart()
                self._run.breaker_changed(False)
            self.limit.succeeded(in_flight)
            self.condition.failing_since_ms, self.condition.last_success_ms = None, _now_ms()
        self._failures = self._waits = 0
        for (partition, entry), one in zip(batch, written, strict=True):
            if not entry.is_gone:
                self._judge(partition, entry, one, talk)

    def _judge(self, partition: "Partition", entry: Entry, written: Written, talk: Talk) -> None:
        """What became of one member's state."""
        record = entry.sent
        assert record is not None, "it was begun"
        has_newer = entry.answered()
        now_ms, attempts = _now_ms(), entry.attempts + 1
        if written.outcome is Outcome.RETRY and self._schedule.is_exhausted((now_ms - (entry.failing_since_ms or now_ms)) / 1000):
            written = Written(outcome=Outcome.PARK, reason=RETRIES_EXHAUSTED, detail=written.detail)
        due_s = time.monotonic() + self._schedule.delay_s(attempts, self._random())
        next_ms = now_ms + int((due_s - time.monotonic()) * 1000) if written.outcome is Outcome.RETRY else None
        partition.attempted(telling.attempt_of(self._run.target.name, record, talk.heard, written, attempts, next_ms))
        partition.follow(written.commands)
        self._run.count_write(written.outcome)
        reason = written.reason or written.outcome.value
        match written.outcome:
            case Outcome.DONE | Outcome.SKIP:
                is_done = written.outcome is Outcome.DONE
                result = DeliveryResult.DELIVERED if is_done else DeliveryResult.SKIPPED
                partition.ended(record, result, reason="" if is_done else reason, status=talk.status, attempts=attempts)
                entry.settled()
                if not has_newer:
                    partition.finished(entry)
                    return
            case Outcome.PARK:
                log.warning("connector.parked", extra={
                    "destination": self._run.target.name, "event_id": record.event_id, "reason": reason, "detail": written.detail,
                })  # fmt: skip
                partition.ended(record, DeliveryResult.DEAD_LETTERED, reason=reason, status=talk.status, attempts=attempts)
                partition.give_up(record, reason, written.detail)
                if has_newer:
                    entry.unpark()
                else:
                    entry.park(now_ms, reason, written.detail)
            case Outcome.RETRY:
                if has_newer:
                    partition.ended(record, DeliveryResult.SUPERSEDED)
                entry.failed(now_ms, due_s, written.detail)
        partition.changed(entry)

    def _broke_off(self, batch: Sequence[Offer], talk: Talk, error: Unanswered, *, is_probe: bool) -> None:
        """The system as a whole did not answer: its members go again, and it is noted how it fares."""
        now_s, now_ms = time.monotonic(), _now_ms()
        was_open, is_systems = self.breaker.is_open, talk.was_begun and not talk.was_held_back
        if is_systems:
            self.condition.failing_since_ms = self.condition.failing_since_ms or now_ms
            self.condition.last_failure, self.condition.last_failure_ms = error.detail[:300], now_ms
        if error.verdict is Verdict.WAIT:
            self._waits += 1
            wait_s = min(WAIT_FIRST_S * 2.0 ** min(self._waits - 1, 30), WAIT_MAX_S) if error.after_s is None else min(error.after_s, WAIT_ASKED_MAX_S)
            self.rest_until_s = max(self.rest_until_s, now_s + wait_s)
            self.breaker.put_off(now_s)
            log.warning("connector.waits", extra={"destination": self._run.target.name, "seconds": round(wait_s, 1), "detail": error.detail})
        elif is_systems:
            self._failures += 1
            self.limit.overloaded(now_s)
            jitter = 0.8 + 0.4 * self._random()
            if self.breaker.failed(batch[0][1].member, now_s, is_probe=is_probe, retry_after_s=error.after_s, jitter=jitter):
                self._run.breaker_changed(True)
        else:
            self.breaker.put_off(now_s)
        delay_s = self._schedule.delay_s(max(1, self._failures), self._random()) if error.after_s is None else self._schedule.asked_delay_s(error.after_s)
        is_its_own = error.verdict is Verdict.RETRY and is_systems and not was_open
        self._again(batch, talk, error.detail, now_s + delay_s, may_still_act=error.may_still_act and not talk.was_held_back, is_its_own=is_its_own)

    def _not_understood(self, batch: Sequence[Offer], talk: Talk, error: Exception) -> None:
        self.breaker.put_off(time.monotonic())
        detail = error.detail if isinstance(error, ContractError) else f"{type(error).__name__}: the log has it"
        if len(batch) == 1 and batch[0][1].sent is not None:
            partition, entry = batch[0]
            reason = error.reason if isinstance(error, ContractError) else UNREADABLE
            self._judge(partition, entry, Written(outcome=Outcome.PARK, reason=reason, detail=detail), talk)
            return
        due_s = time.monotonic() + self._schedule.delay_s(1, self._random())
        self._again(batch, talk, detail, due_s, may_still_act=False, is_its_own=True)

    def _again(self, batch: Sequence[Offer], talk: Talk, detail: str, due_s: float, *, may_still_act: bool, is_its_own: bool) -> None:
        """A conversation that ended without a word about its members is begun again."""
        live = [(partition, entry) for partition, entry in batch if not entry.is_gone and entry.sent is not None]
        if live and talk.heard:
            records = [entry.sent for _, entry in live if entry.sent is not None]
            live[0][0].attempted(telling.attempt_of_all(
                self._run.target.name, records, talk.heard, detail, _now_ms() + int((due_s - time.monotonic()) * 1000)
            ))
        self._run.count_write(Outcome.RETRY)
        if may_still_act:
            due_s = max(due_s, time.monotonic() + self._timing.settle_s)
        for partition, entry in live:
            record = entry.sent
            if entry.broke_off(may_still_act=may_still_act, due_s=due_s, is_its_own=is_its_own) and record is not None:
                partition.ended(record, DeliveryResult.SUPERSEDED)
            entry.detail = detail[:200]
            partition.changed(entry)

    async def turn(self) -> None:
        """Wait until the pace allows a request."""
        while (wait_s := self._pace_free_s(now_s := time.monotonic()) - now_s) > 0:
            await asyncio.sleep(wait_s)
        self._pace.began(now_s)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
