"""The job `sync/<name>`: what has waited for a stream's schedule -> the stream's own topic, in Kafka transactions with the group's offsets.

A kill loses and doubles nothing: what was read counts as read only when what was sent is committed. Whoever flushes fences the flush before
by the transactional id, so that of two schedulers only the newer one's counts.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, cast

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from schemas.codec import Codec
from streams import kafka
from streams.errors import UnavailableError
from streams.scheduling.cadence import REALTIME, Cadence
from streams.scheduling.job import Outcome, Run
from streams.settings import Settings
from streams.sync import coalescing, names
from streams.sync.coalescing import Waiting

log = logging.getLogger(__name__)

SCHEDULE = "sync"
"""Header of what waits: whose schedule. Without it: the stream's."""
CHUNK_RECORDS = 2_000
TRANSACTION_TIMEOUT_S = 30.0
ASK_TIMEOUT_S = 10.0
READ_S = 0.2
BACKLOG_RECORDS_MAX = 20_000  # Beyond it a backlog is told as that much, or more.


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """What waits for one schedule."""

    records: int = 0
    oldest_ms: int | None = None
    """When the broker appended the oldest of it."""


class FlushJob:
    """One inbound stream's schedule, or that of one of its sources."""

    after: tuple[str, ...] = ()
    default = REALTIME

    def __init__(self, name: str, settings: Settings, codec: Codec, known: Callable[[], Collection[str]]) -> None:
        """`known`: all schedules there are; what waits for one that is no more goes with its stream's."""
        self.name = names.SYNC + name
        self._schedule = name
        self._stream = names.stream_of(name)
        self._settings = settings
        self._codec = codec
        self._known = known
        self._group = f"sync-{name.replace('/', '.')}"
        self._staging = names.STAGING[self._stream].name(settings.topic_prefix)
        self._topic = names.INBOUND[self._stream].name(settings.topic_prefix)
        self._lock = asyncio.Lock()
        self._asking = asyncio.Lock()
        self._asker: Consumer | None = None

    async def run(self, run: Run) -> Outcome:
        """Send on all that has waited until now. Raises UnavailableError."""
        return await self.flush(run.stop, run.cadence, is_requested="operator-" in run.run_id)

    async def flush(self, stop: asyncio.Event, cadence: Cadence, *, is_requested: bool = False) -> Outcome:
        """`is_requested`: outside the window, too. Raises UnavailableError."""
        async with self._lock:
            stopped = threading.Event()
            watching = asyncio.create_task(_pass_on(stop, stopped))
            try:
                window = Cadence() if is_requested else cadence
                return await asyncio.to_thread(self._flush, stopped, window, cadence.rate_max_per_s)
            except KafkaException as error:
                raise self._error(error) from error
            finally:
                watching.cancel()

    async def waiting_max(self) -> int:
        """Records that wait, those of the stream's other schedules included: cheap, and 0 only when nothing waits. Raises UnavailableError."""
        try:
            async with self._asking:
                return await asyncio.to_thread(self._count)
        except KafkaException as error:
            raise self._error(error) from error

    async def read_to(self) -> dict[int, int]:
        """Partition -> the offset before which all has gone on. Raises UnavailableError."""
        try:
            async with self._asking:
                return await asyncio.to_thread(self._committed)
        except KafkaException as error:
            raise self._error(error) from error

    async def backlog(self) -> Backlog:
        """What waits for this schedule alone, by reading it. Raises UnavailableError."""
        try:
            return await asyncio.to_thread(self._measure)
        except KafkaException as error:
            raise self._error(error) from error

    # What follows runs in a thread.

    def _flush(self, stopped: threading.Event, window: Cadence, rate_max_per_s: float | None) -> Outcome:
        producer = kafka.producer(
            self._settings, transactional_id=f"{self._settings.topic_prefix}.{self._group}", transaction_timeout_ms=int(TRANSACTION_TIMEOUT_S * 1000)
        )
        producer.init_transactions(TRANSACTION_TIMEOUT_S)  # Before the offsets are read: whoever flushed before commits nothing more.
        consumer = kafka.consumer(self._settings, self._group, enable_partition_eof=True)
        commands = sent = 0
        try:
            reading = _Reading(consumer, self._staging, self._settings.kafka_partitions)
            chunk_max = CHUNK_RECORDS if rate_max_per_s is None else max(1, min(CHUNK_RECORDS, int(rate_max_per_s)))
            while reading.has_more and not stopped.is_set() and window.is_open(time.time_ns() // 1_000_000):
                began_s = time.monotonic()
                messages = reading.read(chunk_max)
                if not messages:
                    continue
                outgoing = coalescing.coalesced(
                    [_waiting(one) for one in messages if self._is_ours(one)], self._codec, is_profile_changes=self._stream == "profile-changes"
                )
                self._send(producer, consumer, outgoing, reading.read_to())
                sent += len(outgoing)
                commands += sum(len(one.members) for one in outgoing)
                if rate_max_per_s is not None:
                    stopped.wait(max(0.0, len(outgoing) / rate_max_per_s - (time.monotonic() - began_s)))
            detail = "" if not reading.has_more or stopped.is_set() else "the window has closed: the rest waits for the next one"
        finally:
            consumer.close()
        return Outcome(rows=sent, counts={"commands": commands, "coalesced": commands - sent}, detail=detail)

    def _send(self, producer: Producer, consumer: Consumer, outgoing: list[coalescing.Outgoing], read_to: list[TopicPartition]) -> None:
        """One transaction."""
        producer.begin_transaction()
        try:
            for one in outgoing:
                own = one.members[-1]
                headers = cast(Any, coalescing.headers(one, self._codec))
                producer.produce(self._topic, key=own.key, value=own.value, headers=headers)
            producer.send_offsets_to_transaction(read_to, consumer.consumer_group_metadata(), TRANSACTION_TIMEOUT_S)
            producer.commit_transaction(TRANSACTION_TIMEOUT_S)
        except KafkaException as error:
            if error.args[0].txn_requires_abort():
                producer.abort_transaction(TRANSACTION_TIMEOUT_S)
            raise

    def _count(self) -> int:
        if self._asker is None:
            self._asker = kafka.consumer(self._settings, self._group)
        return sum(high - begin for begin, high in _unread(self._asker, self._staging, self._settings.kafka_partitions).values())

    def _committed(self) -> dict[int, int]:
        if self._asker is None:
            self._asker = kafka.consumer(self._settings, self._group)
        found = kafka.commits(self._asker, _places(self._staging, self._settings.kafka_partitions))
        return {one.partition: max(0, one.offset) for one in found}

    def _is_ours(self, message: Message) -> bool:
        wanted = _header(message, SCHEDULE) or self._stream
        return wanted == self._schedule or (self._schedule == self._stream and wanted not in self._known())

    def _measure(self) -> Backlog:
        consumer = kafka.consumer(self._settings, self._group, enable_partition_eof=True)
        records, oldest_ms = 0, None
        try:
            reading = _Reading(consumer, self._staging, self._settings.kafka_partitions)
            while reading.has_more and records < BACKLOG_RECORDS_MAX:
                ours = [one.timestamp()[1] for one in reading.read(CHUNK_RECORDS) if self._is_ours(one)]
                records += len(ours)
                oldest_ms = min([*ours, *([] if oldest_ms is None else [oldest_ms])], default=None)
        finally:
            consumer.close()
        return Backlog(records=records, oldest_ms=oldest_ms)

    def _error(self, error: KafkaException) -> UnavailableError:
        reason = error.args[0]
        if reason.fatal():
            return UnavailableError(f"another scheduler flushes {self._schedule}: {reason.str()}")
        return UnavailableError(f"Kafka at LOYALTY_KAFKA_BOOTSTRAP_SERVERS={self._settings.kafka_bootstrap_servers}: {reason.str()}")


class _Reading:
    """From what the group has committed to where each partition ended at the start."""

    def __init__(self, consumer: Consumer, topic: str, partitions: int) -> None:
        self._consumer = consumer
        self._topic = topic
        unread = _unread(consumer, topic, partitions)
        self._ends = {number: high for number, (_, high) in unread.items()}
        self._read: dict[int, int] = {}
        if unread:
            consumer.assign([TopicPartition(topic, number, begin) for number, (begin, _) in unread.items()])

    @property
    def has_more(self) -> bool:
        return bool(self._ends)

    def read(self, records_max: int) -> list[Message]:
        """The next records, in the order of each partition. Raises KafkaException."""
        found = []
        for message in self._consumer.consume(records_max, timeout=READ_S):
            error, number, offset = message.error(), message.partition(), message.offset()
            if number is None or offset is None:
                continue
            if error is None and offset < self._ends.get(number, 0):
                found.append(message)
                self._read[number] = offset + 1
                if offset + 1 == self._ends[number]:
                    del self._ends[number]
            elif error is None or error.code() == KafkaError._PARTITION_EOF:
                self._ends.pop(number, None)
            elif error.fatal():
                raise KafkaException(error)
        return found

    def read_to(self) -> list[TopicPartition]:
        """Where the next run goes on."""
        return [TopicPartition(self._topic, number, offset) for number, offset in self._read.items()]


def _places(topic: str, partitions: int) -> list[TopicPartition]:
    return [TopicPartition(topic, number) for number in range(partitions)]


def _unread(consumer: Consumer, topic: str, partitions: int) -> dict[int, tuple[int, int]]:
    """Partition -> the first offset that the group has not read, and the end; of those in which there is something."""
    found = {}
    for one in kafka.commits(consumer, _places(topic, partitions)):
        low, high = consumer.get_watermark_offsets(TopicPartition(topic, one.partition), timeout=ASK_TIMEOUT_S)
        begin = max(low, one.offset)  # Below 0 when the group has read nothing yet.
        if begin < high:
            found[one.partition] = (begin, high)
    return found


def _waiting(message: Message) -> Waiting:
    return Waiting(
        topic=message.topic() or "", partition=message.partition() or 0, offset=message.offset() or 0, timestamp_ms=message.timestamp()[1],
        key=message.key(), value=message.value(), correlation_id=_header(message, "correlation_id"),
    )  # fmt: skip


def _header(message: Message, name: str) -> str | None:
    found = [value for key, value in cast(Any, message.headers() or ()) if key == name and value is not None]
    return bytes(found[-1]).decode(errors="replace") if found else None


async def _pass_on(stop: asyncio.Event, stopped: threading.Event) -> None:
    await stop.wait()
    stopped.set()
