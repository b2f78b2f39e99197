"""topic -> batches -> `write`: at least once. What every sink that writes many rows at once runs in."""

import asyncio
import logging
import random
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Generic, TypeVar

from schemas.codec import Codec
from sinks.base import Health, Item, Receipt, Verdict, Write
from sinks.dead_letters import DeadLetters, GivenUp
from sinks.flushes import Flushes
from sinks.hold import Hold
from sinks.intake import Handlers, Intake, Poison
from sinks.records import Held, Records
from sinks.runner import DRAIN_S, count_finished
from sinks.schedule import Schedule
from streams import metrics
from streams.codec import open_codec
from streams.settings import Settings
from streams.topics import Topic

log = logging.getLogger(__name__)

R = TypeVar("R")

QUIET_S = 1.0  # A flush is over when for this long nothing more of it has been read.
HELD_LOOK_S = 0.5  # How late an instant, or a change of the cadence, is noticed.
REMIND_S = 60.0  # A write that keeps failing says so this often.


async def run_batches(
    settings: Settings,
    *,
    sink: str,
    group: str,
    topic: Topic,
    write: Write[R],
    rows_max: int,
    wait_max_s: float,
    stop: asyncio.Event,
    outstanding_max: int = 0,
    schedule: Schedule = Schedule(),
    codec: Codec | None = None,
    health: Health | None = None,
    drain_s: float = DRAIN_S,
    decodes: bool = True,
    hold: Hold | None = None,
    flushes: Flushes | None = None,
) -> None:
    """Write every record of `topic` until `stop` is set; then try what is held once more within `drain_s`, commit, return.

    A batch is written as soon as it has `rows_max` items, or its first one has waited `wait_max_s`. Items whose receipt is RETRY are
    tried again with back-off and hold up the ones behind them; a dead back end is waited for, in memory bounded by `outstanding_max`
    (default: three batches). Offsets are committed after the write, or after the broker acknowledged a dead letter. Without `decodes`,
    items have no record: `write` decodes their values by itself, and refuses what is none. `hold` says which items are due; the others wait,
    uncommitted, and `flushes` is told what went out for which instant.
    """
    codec = codec or open_codec(settings)
    run = _Run(settings, sink=sink, group=group, topic=topic, codec=codec, write=write, rows_max=rows_max, wait_max_s=wait_max_s,
               outstanding_max=outstanding_max or 3 * rows_max, schedule=schedule, decodes=decodes, hold=hold, flushes=flushes)  # fmt: skip
    if health is not None:
        health.set(sink, run.intake.readiness)
    await run.until(stop, drain_s)


class _Run(Generic[R]):
    def __init__(
        self,
        settings: Settings,
        *,
        sink: str,
        group: str,
        topic: Topic,
        codec: Codec,
        write: Write[R],
        rows_max: int,
        wait_max_s: float,
        outstanding_max: int,
        schedule: Schedule,
        decodes: bool,
        hold: Hold | None,
        flushes: Flushes | None,
    ) -> None:
        self._sink = sink
        self._write = write
        self._rows_max = rows_max
        self._wait_max_s = wait_max_s
        self._schedule = schedule
        self._hold = hold
        self._flushes = flushes
        self._dead_letters = DeadLetters(settings, codec, processor=sink, schedule=schedule)
        self._held: Held[R] = Held()
        self._poison: deque[Poison] = deque()
        self._writing = 0
        self._reported_s = 0.0
        self._some = asyncio.Event()  # Something is held.
        self._full = asyncio.Event()  # A whole batch is held.
        handlers = Handlers(
            received=self._received, revoked=self._revoked, outstanding=lambda: len(self._held) + len(self._poison) + self._writing
        )
        self.intake = Intake(
            settings, handlers, sink=sink, group=group, topic=topic, codec=codec, outstanding_max=outstanding_max, decodes=decodes
        )  # fmt: skip

    async def until(self, stop: asyncio.Event, drain_s: float) -> None:
        self.intake.start()
        writing = asyncio.create_task(self._write_for_ever(stop))
        stopped = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait((stopped, writing, self.intake.failed), return_when=asyncio.FIRST_COMPLETED)
            if stop.is_set():
                self.intake.hold()
                self._some.set()
                self._full.set()
                await asyncio.wait((writing,), timeout=drain_s)
        finally:
            for task in (writing, stopped):
                task.cancel()
            await asyncio.gather(writing, stopped, return_exceptions=True)
            await self.intake.close()
        if self.intake.failed.done():
            self.intake.failed.result()
        if not writing.cancelled():
            writing.result()

    # The handlers of the intake.

    def _received(self, items: Sequence[Item[R]], poison: list[Poison]) -> None:
        self._held.add(Records.of(items))
        self._poison.extend(poison)
        self._some.set()
        if len(self._held) >= self._rows_max:
            self._full.set()

    def _revoked(self, numbers: frozenset[int]) -> None:
        self._held.drop(numbers)
        self._poison = deque(one for one in self._poison if one.item.partition not in numbers)

    # Writing.

    async def _write_for_ever(self, stop: asyncio.Event) -> None:
        """Ends when `stop` is set and nothing is held any more, or what is held cannot be written."""
        while True:
            await self._gather_batch(stop)
            if self._poison:
                await self._bury([self._poison.popleft() for _ in range(len(self._poison))])
            until_ms = self._hold.due_until_ms(time.time_ns() // 1_000_000) if self._hold is not None else None
            batch = self._held.take(self._rows_max, until_ms)
            if batch:
                await self._write_flush(batch, until_ms, stop)
                await self._slow_down(len(batch), stop)
            is_last = stop.is_set() and (self._writing or not batch or not (self._held or self._poison))
            if self._flushes is not None and (is_last or not batch):
                await self._flushes.end()
            if is_last:
                return
            if not batch and self._held:
                with suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), HELD_LOOK_S)

    async def _write_flush(self, batch: Records[R], instant_ms: int | None, stop: asyncio.Event) -> None:
        """A batch, as a part of what goes out for an instant; None: it goes out as it comes."""
        if self._flushes is not None:
            await self._flushes.begin(instant_ms)
        await self._write_whole(batch, stop)
        if self._flushes is not None:
            self._flushes.wrote(len(batch) - self._writing)

    async def _slow_down(self, rows: int, stop: asyncio.Event) -> None:
        """Wait as long as so many rows take at the rate of the hold."""
        rate = self._hold.rate_max_per_s if self._hold is not None else None
        if rate is not None:
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), rows / rate)

    async def _gather_batch(self, stop: asyncio.Event) -> None:
        if stop.is_set():
            return
        if not self._held and not self._poison:
            self._some.clear()
            if self._flushes is not None and self._flushes.is_open:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._some.wait(), QUIET_S)
                if not self._some.is_set():
                    await self._flushes.end()
            await self._some.wait()
        if self._wait_max_s and len(self._held) < self._rows_max and not stop.is_set():
            self._full.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._full.wait(), self._wait_max_s)

    async def _write_whole(self, batch: Records[R], stop: asyncio.Event) -> None:
        """Return when every item of the batch is finished; after `stop`, when it was tried once more."""
        self._writing = len(batch)
        attempt = 0
        while batch:
            last_attempt = stop.is_set()
            receipts = await self._attempt(batch)
            batch = await self._settle(batch, receipts)
            self._writing = len(batch)
            if not batch:
                break
            attempt += 1
            metrics.SINK_WRITE_FAILURES.labels(self._sink).inc()
            self._report_waiting(attempt, len(batch), next(r.detail for r in receipts if r.verdict is Verdict.RETRY))
            if last_attempt:
                return
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), self._schedule.delay_s(attempt, random.random()))
        if attempt:
            log.warning("sink.backend_back", extra={"sink": self._sink, "attempts": attempt})

    def _report_waiting(self, attempt: int, rows: int, detail: str) -> None:
        now_s = asyncio.get_running_loop().time()
        if attempt == 1 or now_s - self._reported_s >= REMIND_S:
            self._reported_s = now_s
            log.error("sink.backend_waits", extra={"sink": self._sink, "attempt": attempt, "rows": rows, "detail": detail})

    async def _attempt(self, batch: Sequence[Item[R]]) -> Sequence[Receipt]:
        try:
            return await self._write(batch)
        except Exception as error:
            log.exception("sink.write_raised", extra={"sink": self._sink})
            return [Receipt(verdict=Verdict.RETRY, detail=f"the write raised {type(error).__name__}")] * len(batch)

    async def _settle(self, batch: Records[R], receipts: Sequence[Receipt]) -> Records[R]:
        """Finish what is finished; the records to try again."""
        places: dict[Verdict, list[int]] = {}
        for place, receipt in zip(range(len(batch)), receipts, strict=True):
            places.setdefault(receipt.verdict, []).append(place)
        if refused := places.get(Verdict.REFUSED):
            await self._dead_letters.send([GivenUp.refused(batch[place], receipts[place]) for place in refused])
        again = places.pop(Verdict.RETRY, [])
        for verdict, own in places.items():
            self._finish(batch.take(own), verdict)
        return batch.take(again)

    async def _bury(self, poison: list[Poison]) -> None:
        await self._dead_letters.send([GivenUp.undecodable(one.item, one.error) for one in poison])
        self._finish(Records.of([one.item for one in poison]), Verdict.REFUSED)

    def _finish(self, records: Records[Any], verdict: Verdict) -> None:
        self.intake.finish_all(records)
        count_finished(self._sink, verdict, records.recorded_at_ms)
