"""The past of the log -> records, for channels that are behind and for lanes whose records are not in memory.

A few threads with a consumer each. What many channels read at the same place is read once: whole pieces of the log are kept for a while.
Kafka out of reach is waited for; no call raises for it.
"""

import asyncio
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from schemas.codec import Codec
from sinks.delivery.records import Outgoing
from streams import kafka
from streams.errors import ContractError
from streams.settings import Settings
from streams.topics import Topic

log = logging.getLogger(__name__)

T = TypeVar("T")

READERS = 2
PIECE = 500
"""Offsets of a piece that is kept."""
PIECES_MAX = 64
SCANNED_MAX = 20_000
NEAR = 200
"""Offsets up to this far from each other are read in one go."""
POLL_S = 0.1
ANSWER_S = 10.0
SILENCE_S = 10.0
AGAIN_S = 0.5


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of the log."""

    records: Sequence[Outgoing]
    next_offset: int
    """Where to go on."""
    first_offset: int
    """Where the log begins now, or where the part was to begin: what was between is gone."""


@dataclass(slots=True)
class _Position:
    """What a thread's consumer reads next without seeking."""

    consumer: Consumer | None = None
    place: tuple[str, int] | None = None
    offset: int = -1


class LogReader:
    """Belongs to one event loop; `read`, `read_offsets`, `offset_at`, `bounds`, and `close`."""

    def __init__(self, settings: Settings, codec: Codec, readers: int = READERS) -> None:
        self._settings = settings
        self._codec = codec
        self._pool = ThreadPoolExecutor(readers, thread_name_prefix="log-reader")
        self._local = threading.local()
        self._consumers: list[Consumer] = []
        self._lock = threading.Lock()  # Guards _consumers and _pieces.
        self._pieces: OrderedDict[tuple[str, int, int], Chunk] = OrderedDict()
        self._closing = threading.Event()

    async def read(self, topic: Topic, partition: int, start: int, end: int, limit: int, keys: frozenset[bytes] | None = None) -> Chunk:
        """Up to about `limit` records from `start` on, below `end`, which must not be beyond the end of the log.

        `keys`: only records with these keys; then up to SCANNED_MAX offsets are passed over. What cannot be decoded is left out.
        """
        if keys is not None:
            return await self._run(lambda: self._scan(topic, partition, start, min(end, start + SCANNED_MAX), limit, keys))
        number = start // PIECE
        kept = self._kept(topic.stream, partition, number)
        if kept is None:
            begin, stop = number * PIECE, min((number + 1) * PIECE, end)
            whole = stop == (number + 1) * PIECE
            kept = await self._run(lambda: self._scan(topic, partition, begin if whole else start, stop, PIECE, None))
            if whole:
                with self._lock:
                    self._pieces[topic.stream, partition, number] = kept
                    while len(self._pieces) > PIECES_MAX:
                        self._pieces.popitem(last=False)
        records = [record for record in kept.records if start <= record.offset < end][:limit]
        if len(records) == limit:
            return Chunk(records, records[-1].offset + 1, max(start, kept.first_offset))
        return Chunk(records, max(start, min(end, kept.next_offset)), max(start, kept.first_offset))

    async def read_offsets(self, topic: Topic, partition: int, offsets: Sequence[int]) -> dict[int, Outgoing | None]:
        """The records at these offsets, which rise; None: the log has nothing there any more, or it cannot be decoded."""
        return await self._run(lambda: self._pick(topic, partition, offsets)) if offsets else {}

    async def offset_at(self, topic: Topic, partition: int, timestamp_ms: int) -> int:
        """The first offset whose record was appended at or after this time; the end of the log if there is none."""

        def ask(position: _Position) -> int:
            name = topic.name(self._settings.topic_prefix)
            found = self._consumer(position).offsets_for_times([TopicPartition(name, partition, timestamp_ms)], timeout=ANSWER_S)[0]
            if found.error:
                raise KafkaException(found.error)
            if found.offset >= 0:
                return int(found.offset)
            return self._watermarks(position, name, partition)[1]

        return await self._run_positioned(ask)

    async def bounds(self, topic: Topic, partition: int) -> tuple[int, int]:
        """Where the log begins, and where it ends."""
        name = topic.name(self._settings.topic_prefix)
        return await self._run_positioned(lambda position: self._watermarks(position, name, partition))

    async def close(self) -> None:
        self._closing.set()
        self._pool.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            consumers, self._consumers = self._consumers, []
        await asyncio.to_thread(lambda: [consumer.close() for consumer in consumers])

    # In the threads.

    async def _run(self, work: Callable[[], T]) -> T:
        return await self._run_positioned(lambda _: work())

    async def _run_positioned(self, work: Callable[[_Position], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._until_it_works, work)

    def _until_it_works(self, work: Callable[[_Position], T]) -> T:
        attempt = 0
        while True:
            position = self._position()
            try:
                return work(position)
            except KafkaException as error:
                attempt += 1
                if attempt == 1:
                    log.warning("log_reader.waits_for_kafka", extra={"error": str(error)})
                position.place = None
                if self._closing.wait(AGAIN_S):
                    raise

    def _position(self) -> _Position:
        position: _Position | None = getattr(self._local, "position", None)
        if position is None:
            position = self._local.position = _Position()
        return position

    def _consumer(self, position: _Position) -> Consumer:
        if position.consumer is None:
            position.consumer = kafka.consumer(
                self._settings, "delivery-log", enable_partition_eof=True, fetch_wait_max_ms=10, queued_max_messages_kbytes=4 * 1024,
                fetch_queue_backoff_ms=20,
            )  # fmt: skip
            with self._lock:
                self._consumers.append(position.consumer)
        return position.consumer

    def _watermarks(self, position: _Position, name: str, partition: int) -> tuple[int, int]:
        low, high = self._consumer(position).get_watermark_offsets(TopicPartition(name, partition), timeout=ANSWER_S)
        return int(low), int(high)

    def _kept(self, stream: str, partition: int, number: int) -> Chunk | None:
        with self._lock:
            kept = self._pieces.get((stream, partition, number))
            if kept is not None:
                self._pieces.move_to_end((stream, partition, number))
            return kept

    def _pick(self, topic: Topic, partition: int, offsets: Sequence[int]) -> dict[int, Outgoing | None]:
        found: dict[int, Outgoing | None] = dict.fromkeys(offsets)
        begin = 0
        while begin < len(offsets):
            stop = begin + 1
            while stop < len(offsets) and offsets[stop] - offsets[stop - 1] <= NEAR:
                stop += 1
            wanted = set(offsets[begin:stop])
            chunk = self._scan(topic, partition, offsets[begin], offsets[stop - 1] + 1, len(wanted), None, wanted)
            for record in chunk.records:
                found[record.offset] = record
            begin = stop
        return found

    def _scan(
        self, topic: Topic, partition: int, start: int, end: int, limit: int, keys: frozenset[bytes] | None, wanted: set[int] | None = None
    ) -> Chunk:
        """Read `start` to `end`, or to `limit` records. Raises KafkaException when nothing comes."""
        position = self._position()
        name, place = topic.name(self._settings.topic_prefix), (topic.stream, partition)
        consumer, records, first = self._consumer(position), list[Outgoing](), start
        if position.place != place or position.offset != start:
            first = max(start, self._watermarks(position, name, partition)[0])
            consumer.assign([TopicPartition(name, partition, first)])
            position.place, position.offset = place, first
        heard_s = time.monotonic()
        while position.offset < end and len(records) < limit:
            messages = consumer.consume(min(PIECE, max(1, end - position.offset)), POLL_S)
            if messages:
                heard_s = time.monotonic()
            elif time.monotonic() - heard_s > SILENCE_S or self._closing.is_set():
                position.place = None
                raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
            for message in messages:
                error, offset = message.error(), message.offset() or 0
                if error is not None:
                    if error.code() != KafkaError._PARTITION_EOF:
                        position.place = None
                        raise KafkaException(error)
                    position.offset = max(position.offset, offset)
                    continue
                if offset >= end or len(records) >= limit:
                    # Read too far: the next call seeks.
                    position.place, position.offset = None, end if offset >= end else offset
                    return Chunk(records, position.offset, first)
                position.offset = offset + 1
                if (keys is None or message.key() in keys) and (wanted is None or offset in wanted):
                    record = self._decoded(message, topic)
                    if record is not None:
                        records.append(record)
        return Chunk(records, position.offset, first)

    def _decoded(self, message: Any, topic: Topic) -> Outgoing | None:
        try:
            record = self._codec.decode(message.value(), topic.record)
        except ContractError:  # It went to the dead letters when the feed passed it.
            return None
        return Outgoing(offset=message.offset() or 0, key=message.key() or b"", record=record, timestamp_ms=message.timestamp()[1])
