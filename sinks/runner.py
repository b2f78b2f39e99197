"""topic -> lanes -> `deliver`: at least once, in order per lane. What runs in it delivers one item at a time to one back end, as the ingress reads
entities again. Destinations of webhooks, of which there may be thousands, have sinks/delivery instead.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from schemas.codec import Codec
from sinks.base import Deliver, Health, Item, Receipt, Verdict, recorded_at_ms
from sinks.dead_letters import DeadLetters, GivenUp
from sinks.intake import Handlers, Intake, Poison
from sinks.lanes import Lanes
from sinks.schedule import Schedule
from streams import metrics
from streams.codec import open_codec
from streams.settings import Settings
from streams.topics import Topic

log = logging.getLogger(__name__)

R = TypeVar("R")

OUTSTANDING_MAX = 10_000  # Some 30 MB of events. A member's backlog must fit, or it holds up the others.
DRAIN_S = 10.0  # How long a stop waits for attempts under way.
MEASURE_S = 1.0


async def run_lanes(
    settings: Settings,
    *,
    sink: str,
    group: str,
    topic: Topic,
    deliver: Deliver[R],
    lane: Callable[[Item[R]], str],
    concurrency_max: int,
    stop: asyncio.Event,
    outstanding_max: int = OUTSTANDING_MAX,
    schedule: Schedule = Schedule(),
    codec: Codec | None = None,
    health: Health | None = None,
    drain_s: float = DRAIN_S,
) -> None:
    """Deliver every record of `topic` until `stop` is set; then wait up to `drain_s` for attempts under way, commit, return.

    An offset is committed when its record and all before it in the partition are finished: DELIVERED, SKIPPED, or acknowledged by the
    broker as a dead letter. Kafka out of reach is waited for. `sink` names the processor in dead letters and metrics; `health` learns
    whether records are being read.
    """
    codec = codec or open_codec(settings)
    run = _Run(
        settings, sink=sink, group=group, topic=topic, codec=codec, outstanding_max=outstanding_max, schedule=schedule,
        lanes_of=lambda run: Lanes(
            deliver, run.finished, lane=lane, concurrency_max=concurrency_max, postponed=run.postponed, schedule=schedule, name=sink,
            breaker_changed=lambda down: metrics.DELIVERY_DOWN.labels(sink).set(down),
        ),
    )  # fmt: skip
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
        outstanding_max: int,
        schedule: Schedule,
        lanes_of: "Callable[[_Run[R]], Lanes[R]]",
    ) -> None:
        self._sink = sink
        self._topic_name = topic.name(settings.topic_prefix)
        self._lanes = lanes_of(self)
        self._dead_letters = DeadLetters(settings, codec, processor=sink, schedule=schedule)
        self._burying: set[asyncio.Task[None]] = set()
        self._buried_outstanding = 0
        handlers = Handlers(
            received=self._received,
            revoked=self._revoked,
            outstanding=lambda: self._lanes.outstanding + self._buried_outstanding,
        )
        self.intake = Intake(settings, handlers, sink=sink, group=group, topic=topic, codec=codec, outstanding_max=outstanding_max)

    async def until(self, stop: asyncio.Event, drain_s: float) -> None:
        self.intake.start()
        measuring = asyncio.create_task(self._measure())
        stopped = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait((stopped, self.intake.failed), return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.intake.hold()
            await self._lanes.close(drain_s)
            for task in (measuring, stopped, *self._burying):
                task.cancel()
            await self.intake.close()
        if self.intake.failed.done():
            self.intake.failed.result()

    # The handlers of the intake.

    def _received(self, items: Sequence[Item[R]], poison: list[Poison]) -> None:
        for item in items:
            self._lanes.add(item)
        if poison:
            self._buried_outstanding += len(poison)
            task = asyncio.create_task(self._bury(poison))
            self._burying.add(task)
            task.add_done_callback(self._burying.discard)

    def _revoked(self, numbers: frozenset[int]) -> None:
        self._lanes.drop([(self._topic_name, number) for number in numbers])

    async def _bury(self, poison: list[Poison]) -> None:
        await self._dead_letters.send([GivenUp.undecodable(one.item, one.error) for one in poison])
        for one in poison:
            self.intake.finish(one.item)
        self._buried_outstanding -= len(poison)
        metrics.SINK_RECORDS.labels(self._sink, Verdict.REFUSED.value).inc(len(poison))

    # The handlers of the lanes.

    async def finished(self, item: Item[R], receipt: Receipt) -> None:
        if receipt.verdict is Verdict.REFUSED:
            await self._dead_letters.send([GivenUp.refused(item, receipt)])
        self.intake.finish(item)
        count_finished(self._sink, receipt.verdict, [recorded_at_ms(item)])

    def postponed(self, item: Item[R]) -> None:
        self.intake.note_failing(item)

    async def _measure(self) -> None:
        while True:
            oldest_ms = self._lanes.oldest_timestamp_ms()
            metrics.DELIVERIES_WAITING.labels(self._sink).set(self._lanes.outstanding)
            metrics.DELIVERY_OLDEST_SECONDS.labels(self._sink).set(0 if oldest_ms is None else max(0.0, time.time() - oldest_ms / 1000))
            await asyncio.sleep(MEASURE_S)


def count_finished(sink: str, verdict: Verdict, moments_ms: Sequence[int] | NDArray[np.int64]) -> None:
    """Count finished records, each by when it was recorded, and if they were delivered the time since then."""
    metrics.SINK_RECORDS.labels(sink, verdict.value).inc(len(moments_ms))
    if verdict is Verdict.DELIVERED:
        metrics.observe_all(metrics.SINK_SECONDS.labels(sink), np.maximum(time.time() - np.asarray(moments_ms) / 1000, 0.0))
