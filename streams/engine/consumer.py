"""Faust's transport, delivering one unit of work per (partition, fetch) instead of one message per record."""

import asyncio
import heapq
import logging
from typing import TYPE_CHECKING, Any

import aiokafka
import faust
from aiokafka.errors import NoOffsetForPartitionError, OffsetOutOfRangeError
from faust.transport.consumer import Fetcher
from faust.transport.drivers import aiokafka as driver
from faust.types import TP

from streams.engine import metrics
from streams.engine.partition import Unreadable
from streams.engine.records import Input, TopicPartition
from streams.engine.unit import Unit

if TYPE_CHECKING:
    from streams.engine.app import App

log = logging.getLogger(__name__)

# aiokafka leaves a partition out of a fetch while records of it wait to be taken. New records of that partition then wait for the
# running fetch to end, which takes this long on a quiet topic: the bound of that wait, at 40 small requests a second.
FETCH_WAIT_MAX_MS = 25
# aiokafka 0.14 at times holds fetched records without waking who waits for them; the next call returns them at once. Seen at the
# end of a burst: with a long time-out here, its last batch waited that long.
FETCH_TIMEOUT_S = 0.05
FETCH_RETRY_S = 0.2


class ConsumerThread(driver.AIOKafkaConsumerThread):
    """Faust's consumer thread, reading committed records only and with a short fetch wait."""

    mundane_level = "debug"

    def _create_worker_consumer(self, transport: Any) -> aiokafka.AIOKafkaConsumer:
        consumer = super()._create_worker_consumer(transport)
        # Faust has no setting for these two; the values are read when the consumer starts.
        consumer._fetch_max_wait_ms = FETCH_WAIT_MAX_MS
        consumer._isolation_level = "read_committed"
        return consumer


class Consumer(driver.Consumer):
    """Group membership is Faust's and aiokafka's; positions and commits are the engine's."""

    mundane_level = "debug"

    app: "App"

    _resync = True
    """True while aiokafka's positions may be ahead of the owners'."""

    def _new_consumer_thread(self) -> ConsumerThread:
        return ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    async def commit(self, *args: Any, **kwargs: Any) -> bool:
        """Nothing to do: offsets are committed in the units' transactions."""
        return True

    def ack(self, message: Any) -> bool:
        message.acked = True
        self._unacked_messages.discard(message)
        return True

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Faust's livelock warning looks at acknowledged offsets, which we do not use; our own lag metric tells."""

    async def perform_seek(self) -> None:
        """Seek to where the partitions' owners say, never to what the group's offsets said some time ago."""
        await self.seek_to_positions(self.app.partitions.positions())

    async def seek_to_positions(self, positions: dict[TopicPartition, int]) -> None:
        """Go on reading each topic partition from its offset."""
        await self._thread.call_thread(self._seek_in_thread, positions)

    async def _seek_in_thread(self, positions: dict[TopicPartition, int]) -> None:
        consumer = self._thread._ensure_consumer()
        assigned = consumer.assignment()
        for (topic, partition), offset in positions.items():
            tp = TP(topic, partition)
            if aiokafka.TopicPartition(topic, partition) in assigned:
                consumer.seek(aiokafka.TopicPartition(topic, partition), offset)
                self._read_offset[tp] = offset

    async def _drain_messages(self, fetcher: Fetcher) -> None:
        """Fetch for ever: records grouped by partition, whatever their topic, become one Unit each."""
        self._resync = True
        try:
            while not (self.should_stop or fetcher.should_stop):
                try:
                    await self._fetch_once()
                except (*self.consumer_stopped_errors, OffsetOutOfRangeError, Unreadable):
                    raise
                except Exception as error:  # Nothing was committed: what was under way is read again.
                    # aiokafka asks for a committed offset of its own, now and then, before the engine has set the position.
                    level = logging.DEBUG if isinstance(error, NoOffsetForPartitionError) else logging.WARNING
                    log.log(level, "engine.fetch_failed", extra={"reason": f"{type(error).__name__}: {error}"}, exc_info=level > logging.DEBUG)
                    await self.sleep(FETCH_RETRY_S)
        except self.consumer_stopped_errors:
            if not self.transport.app.should_stop:
                raise
        except asyncio.CancelledError:
            # Faust takes a cancellation during a rebalance for a crash of the app, also when it is the app that stops.
            if not (fetcher.should_stop or self.transport.app.should_stop):
                raise
        except Unreadable as error:
            await self._stop_worker(error)
        except OffsetOutOfRangeError as error:
            await self._stop_worker(
                Unreadable(
                    f"{error}: records expired before they were read. Raise retention.ms to more than the longest lag. To go on without"
                    f" them, set the offsets of group {self.app.conf.id} by hand (kafka-consumer-groups.sh --reset-offsets)."
                )
            )

    async def _stop_worker(self, reason: Unreadable) -> None:
        """Going on would lose records: an operator must decide."""
        log.critical("engine.stopped", extra={"reason": str(reason)})
        await self.app.crash(reason)

    async def _fetch_once(self) -> None:
        partitions = self.app.partitions
        await partitions.reopen_failed(self)
        if self._resync:
            # Records were fetched and not delivered: read again from where the partitions' owners are.
            await partitions.settle()
            await self.seek_to_positions(partitions.positions())
        epochs = partitions.epochs()
        generation = self.app.consumer_generation_id
        # From here on aiokafka's position may be ahead of what the owners get. Only when all of it is delivered is that right;
        # a rebalance, a cancellation or an error on the way must not leave a hole.
        self._resync = True
        records, _ = await self._wait_next_records(FETCH_TIMEOUT_S)
        if not records:
            self._resync = False
            await self.sleep(0)
            return
        by_partition: dict[int, dict[TopicPartition, list[Any]]] = {}
        for tp, fetched in records.items():
            by_partition.setdefault(tp.partition, {})[tp.topic, tp.partition] = fetched
        current = partitions.epochs()
        if not self.flow_active or generation != self.app.consumer_generation_id:
            return
        if any(epochs.get(partition) != current.get(partition) for partition in by_partition):
            return
        for partition, topics in by_partition.items():
            if partition in epochs:  # One that is not open yet is read from its position once it is.
                await self._deliver(partition, epochs[partition], topics)
        self._resync = False

    async def _deliver(self, partition: int, epoch: int, topics: dict[TopicPartition, list[Any]]) -> None:
        starts: dict[TopicPartition, int] = {}
        ends: dict[TopicPartition, int] = {}
        first = None
        for (topic, _), fetched in topics.items():
            tp = TP(topic, partition)
            starts[topic, partition] = self._read_offset[tp] or 0
            if fetched[0].offset < starts[topic, partition]:
                raise RuntimeError(f"{topic}[{partition}] was fetched from {fetched[0].offset}, asked for from {starts[topic, partition]}")
            ends[topic, partition] = fetched[-1].offset + 1
            highwater = self.highwater(tp)
            if highwater is not None:
                metrics.LAG.labels(topic, partition).set(max(0, highwater - ends[topic, partition]))
            first = first or (tp, fetched[0])
        assert first is not None
        # Records of several topics are merged by the broker's time; within one topic the order of the log stays as it is.
        merged = heapq.merge(*topics.values(), key=lambda record: record.timestamp) if len(topics) > 1 else iter(next(iter(topics.values())))
        inputs = [
            Input(r.topic, r.partition, r.offset, r.timestamp, r.key, r.value, tuple(r.headers)) for r in merged
        ]
        message = self._to_message(*first)
        message.value = Unit(self.app, partition, epoch, inputs, starts, ends)
        await self.callback(message)
        for (topic, _), offset in ends.items():
            self._read_offset[TP(topic, partition)] = offset


class Transport(driver.Transport):
    """Faust's aiokafka transport with the consumer above."""

    Consumer = Consumer


class UnitSchema(faust.Schema):  # type: ignore[misc]
    """The message's value already is the Unit."""

    def compile(self, app: Any, *, on_key_decode_error: Any = None, on_value_decode_error: Any = None, default_propagate: bool = False) -> Any:
        create_event = app.create_event

        async def decode(message: Any, *, propagate: bool = False) -> Any:
            return create_event(None, message.value, message.headers, message)

        return decode
