"""The past of the log -> records again, for channels that are behind: hundreds of them at one place read the broker once.

A few threads read, with a consumer each that stays where it is: reading on costs no seek. What a run of BLOCK offsets held is kept decoded
for a while and shared. No group is joined and nothing is committed.
"""

import asyncio
import logging
import time
from bisect import bisect_left
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from operator import attrgetter
from typing import TypeVar

from confluent_kafka import KafkaError, KafkaException, Message, TopicPartition

from schemas.codec import Codec
from sinks.delivery.records import Outgoing, Payload
from streams import kafka
from streams.errors import ContractError
from streams.settings import Settings
from streams.topics import Topic

log = logging.getLogger(__name__)

T = TypeVar("T")
Key = tuple[str, int, int]

BLOCK = 500  # Offsets that are read and kept together.
BLOCKS_MAX = 64
BLOCKS_BYTES_MAX = 32 * 1024 * 1024  # Of values as they are in the log; decoded they take several times as much.
SCAN_MAX = 20_000  # Records that one look at the log goes over at most: others wait for the thread.
NEAR = 1_000  # Reading over so many records takes as long as a seek.
POLL_S = 0.1
POLL_RECORDS_MAX = 500
ANSWER_S = 5.0  # A broker that says nothing for this long is asked again later; the thread is free for others meanwhile.
RETRY_FIRST_S, RETRY_MAX_S = 0.1, 5.0
REST_S = 0.5  # A reader that nobody asked for this long stops reading ahead.
AHEAD_KBYTES_MAX = 1024
FETCH_BYTES = 256 * 1024  # What a seek makes the broker send at least.
FETCH_WAIT_MS = 10  # At the end of the log the broker holds an answer back this long, and the next seek with it.

offset_of = attrgetter("offset")


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of the log."""

    records: list[Outgoing]
    """In the order of the log."""
    next_offset: int
    """Where to read on; the asked end if all is read."""
    first_offset: int
    """Retention has taken everything between the asked start and here. Not above the start, 0 perhaps, if it has taken nothing."""


@dataclass(frozen=True, slots=True)
class _Scan:
    """What one look at the log found."""

    messages: list[Message]
    next_offset: int
    first_offset: int


@dataclass(slots=True)
class _Block:
    """The records of BLOCK offsets, or of the first of them."""

    records: list[Outgoing] = field(default_factory=list)
    next_offset: int = 0
    first_offset: int = 0
    value_bytes: int = 0


class LogReader:
    """Belongs to the event loop. Its calls wait for as long as no broker answers, and may be cancelled; none raises for an outage."""

    def __init__(self, settings: Settings, codec: Codec, readers: int = 2) -> None:
        self._settings = settings
        self._codec = codec
        self._readers = [_Reader(settings, number) for number in range(readers)]
        # Questions about the log have a consumer that fetches nothing: behind a fetch they would wait.
        self._asker = kafka.consumer(settings, "delivery-log")
        self._ask_executor = ThreadPoolExecutor(2, thread_name_prefix="log-questions")
        self._blocks: OrderedDict[Key, _Block] = OrderedDict()
        self._loading: dict[Key, asyncio.Task[None]] = {}
        self._is_reachable = True

    async def read(self, topic: Topic, partition: int, start: int, end: int, limit: int, keys: frozenset[bytes] | None = None) -> Chunk:
        """Up to `limit` records from offset `start` on and below `end`, which must not be beyond the last stable offset.

        There may be fewer, or none, before the end: only `next_offset` says whether all is read. With `keys`, the records of these keys alone.
        Records that cannot be decoded are left out: they went to the dead letters when they were new.
        """
        if keys is not None:
            return await self._look(topic, partition, start, end, limit, lambda message: message.key() in keys)
        position, first = start, 0
        while position < end:
            block = await self._block(topic, partition, position, end)
            first = max(first, min(block.first_offset, end))
            begin = bisect_left(block.records, position, key=offset_of)
            records = block.records[begin : min(begin + limit, bisect_left(block.records, end, key=offset_of))]
            is_whole = begin + limit >= len(block.records)
            position = max(position, min(block.next_offset if is_whole else block.records[begin + limit].offset, end), first)
            if records:
                return Chunk(records, position, first)
        return Chunk([], end, first)

    async def read_offsets(self, topic: Topic, partition: int, offsets: Sequence[int]) -> dict[int, Outgoing | None]:
        """The records at these offsets, in any order; None: taken by retention, or it cannot be decoded."""
        found: dict[int, Outgoing | None] = dict.fromkeys(offsets)
        first = 0
        for run in _runs(offset for offset in sorted(found) if not self._find(topic, partition, offset, found)):
            position, end, is_wanted = run[0], run[-1] + 1, _is_at(frozenset(run))
            while (position := max(position, first)) < end:
                chunk = await self._look(topic, partition, position, end, len(run), is_wanted)
                for record in chunk.records:
                    found[record.offset] = record
                position, first = chunk.next_offset, max(first, chunk.first_offset)
        return found

    async def offset_at(self, topic: Topic, partition: int, timestamp_ms: int) -> int:
        """The first offset whose record is of this time or later; the end of the log if there is none."""
        place = TopicPartition(self._name(topic), partition, timestamp_ms)

        def ask() -> int:
            (answer,) = self._asker.offsets_for_times([place], timeout=ANSWER_S)
            if answer.error:
                raise KafkaException(answer.error)
            return answer.offset if answer.offset >= 0 else self._bounds(place)[1]

        return await self._until_answered(self._ask_executor, ask)

    async def bounds(self, topic: Topic, partition: int) -> tuple[int, int]:
        """The first offset that the log still holds, and the last stable one: where the next committed record will be."""
        return await self._until_answered(self._ask_executor, partial(self._bounds, TopicPartition(self._name(topic), partition)))

    async def close(self) -> None:
        """To be called when nobody waits for an answer any more."""
        loading = list(self._loading.values())
        for task in loading:
            task.cancel()
        await asyncio.gather(*loading, return_exceptions=True)
        for reader in self._readers:
            reader.close()
        self._ask_executor.submit(self._asker.close)
        self._ask_executor.shutdown(wait=False)

    # Blocks.

    def _find(self, topic: Topic, partition: int, offset: int, found: dict[int, Outgoing | None]) -> bool:
        """Whether a block that is kept says what is at the offset."""
        block = self._blocks.get((topic.stream, partition, offset // BLOCK))
        if block is None or offset >= block.next_offset:
            return False
        index = bisect_left(block.records, offset, key=offset_of)
        if index < len(block.records) and block.records[index].offset == offset:
            found[offset] = block.records[index]
        return True

    async def _block(self, topic: Topic, partition: int, position: int, end: int) -> _Block:
        """The block around a position, whole up to the end at least. Whoever asks for it while it is read waits for the same reading."""
        key = (topic.stream, partition, position // BLOCK)
        target = min(end, (key[2] + 1) * BLOCK)
        while True:
            block = self._blocks.get(key)
            if block is not None and block.next_offset >= target:
                self._blocks.move_to_end(key)
                return block
            if key not in self._loading:
                self._loading[key] = task = asyncio.get_running_loop().create_task(self._load(topic, key, target))
                task.add_done_callback(lambda _: self._loading.pop(key))
            await asyncio.shield(self._loading[key])

    async def _load(self, topic: Topic, key: Key, target: int) -> None:
        """Read a block, or what it lacks. A new one takes the place of the old: whoever iterates over that is not disturbed."""
        before = self._blocks.get(key) or _Block(next_offset=key[2] * BLOCK)
        chunk, value_bytes = await self._scan(topic, key[1], before.next_offset, target, BLOCK, lambda _: True)
        if chunk.first_offset:  # What it held before is not in the log any more, like what it lacked.
            before = _Block()
        self._blocks[key] = _Block(
            [*before.records, *chunk.records], chunk.next_offset, chunk.first_offset or before.first_offset, before.value_bytes + value_bytes
        )  # fmt: skip
        self._blocks.move_to_end(key)
        total = sum(block.value_bytes for block in self._blocks.values())
        while len(self._blocks) > 1 and (len(self._blocks) > BLOCKS_MAX or total > BLOCKS_BYTES_MAX):
            total -= self._blocks.popitem(last=False)[1].value_bytes

    # Asking the threads.

    async def _look(self, topic: Topic, partition: int, start: int, end: int, limit: int, is_wanted: Callable[[Message], bool]) -> Chunk:
        return (await self._scan(topic, partition, start, end, limit, is_wanted))[0]

    async def _scan(
        self, topic: Topic, partition: int, start: int, end: int, limit: int, is_wanted: Callable[[Message], bool]
    ) -> tuple[Chunk, int]:
        """The records and the bytes of their values."""
        name = self._name(topic)
        # One more job is waited for rather than a seek.
        reader = min(self._readers, key=lambda one: (one.jobs + (not one.can_read_on(name, partition, start)), one.uses))

        def work() -> tuple[Chunk, int]:
            scan = reader.scan(name, partition, start, end, limit, is_wanted, self._bounds)
            value_bytes = sum(len(message.value() or b"") for message in scan.messages)
            return Chunk(list(self._decoded(topic, scan.messages)), scan.next_offset, scan.first_offset), value_bytes

        reader.jobs += 1
        try:
            return await self._until_answered(reader.executor, work)
        finally:
            reader.jobs -= 1
            reader.uses = max(one.uses for one in self._readers) + 1
            asyncio.get_running_loop().call_later(REST_S, reader.rest, reader.uses)

    def _decoded(self, topic: Topic, messages: Iterable[Message]) -> Iterator[Outgoing]:
        for message in messages:
            offset = message.offset()
            try:
                record: Payload = self._codec.decode(message.value(), topic.record)
            except ContractError:
                continue
            assert offset is not None, "a record has an offset, but the client's types do not say so"
            yield Outgoing(offset=offset, key=message.key() or b"", record=record, timestamp_ms=message.timestamp()[1])

    def _bounds(self, place: TopicPartition) -> tuple[int, int]:
        first, end = self._asker.get_watermark_offsets(place, timeout=ANSWER_S)
        return first, end

    async def _until_answered(self, executor: Executor, work: Callable[[], T]) -> T:
        """Work in a thread, again and again until a broker answers."""
        loop, wait_s = asyncio.get_running_loop(), RETRY_FIRST_S
        while True:
            try:
                answer = await loop.run_in_executor(executor, work)
            except KafkaException as error:
                if self._is_reachable:
                    log.warning("delivery.log_unreachable", extra={"error": str(error)})
                self._is_reachable = False
                await asyncio.sleep(wait_s)
                wait_s = min(RETRY_MAX_S, wait_s * 2)
            else:
                if not self._is_reachable:
                    log.warning("delivery.log_reachable")
                self._is_reachable = True
                return answer

    def _name(self, topic: Topic) -> str:
        return topic.name(self._settings.topic_prefix)


class _Reader:
    """One consumer and the thread that uses it. `scan` runs there, the rest in the event loop."""

    def __init__(self, settings: Settings, number: int) -> None:
        self.executor = ThreadPoolExecutor(1, thread_name_prefix=f"log-reader-{number}")
        self.jobs = 0
        """Under way and waiting."""
        self.uses = 0
        """Rises: who has the lowest was not used for longest."""
        self._consumer = kafka.consumer(
            settings,
            "delivery-log",
            enable_partition_eof=True,
            queued_max_messages_kbytes=AHEAD_KBYTES_MAX,
            max_partition_fetch_bytes=FETCH_BYTES,
            fetch_wait_max_ms=FETCH_WAIT_MS,
            fetch_queue_backoff_ms=5,
        )
        self._place: tuple[str, int] | None = None
        self._position = 0
        """Nothing below will come from the consumer any more."""
        self._ahead: deque[Message] = deque()
        """Taken from the consumer, at or above the position."""

    def can_read_on(self, name: str, partition: int, start: int) -> bool:
        """Whether reading from there needs no seek. While the thread is at work it is a guess."""
        return self._place == (name, partition) and 0 <= start - self._position <= NEAR

    def rest(self, uses: int) -> None:
        """Read nothing ahead any more, if nobody has asked since."""
        if self.uses == uses and not self.jobs:
            self.executor.submit(self._unassign)

    def close(self) -> None:
        self.executor.submit(self._consumer.close)
        self.executor.shutdown(wait=False)
        self.jobs = 1  # It rests for ever.

    def scan(
        self, name: str, partition: int, start: int, end: int, limit: int, is_wanted: Callable[[Message], bool],
        bounds: Callable[[TopicPartition], tuple[int, int]],
    ) -> _Scan:  # fmt: skip
        """Go over the log from `start` to below `end`, SCAN_MAX records at most. Raises KafkaException when the broker says nothing."""
        self._go_to(name, partition, start)
        found: list[Message] = []
        position, scanned, has_gap, deadline_s = start, 0, False, time.monotonic() + ANSWER_S
        while position < end and scanned < SCAN_MAX and len(found) < limit:
            if not self._ahead:
                self._fill(deadline_s)
                continue
            message = self._ahead[0]
            offset, is_end = message.offset() or 0, message.error() is not None
            if offset < end:
                self._ahead.popleft()
                self._position = offset if is_end else offset + 1
            if offset < position or (is_end and offset < end):
                continue  # Not there yet, or at an end beyond which there must be more.
            deadline_s = time.monotonic() + ANSWER_S
            has_gap = has_gap or offset > position
            if offset >= end:
                position = self._position = end
            else:
                position, scanned = offset + 1, scanned + 1
                if is_wanted(message):
                    found.append(message)
        # A gap is mostly the mark of a transaction. It is retention's if the log begins behind the start by now.
        first = bounds(TopicPartition(name, partition))[0] if has_gap else 0
        if first <= start:
            return _Scan(found, position, 0)
        first = min(first, end)
        return _Scan([message for message in found if (message.offset() or 0) >= first], max(position, first), first)

    def _go_to(self, name: str, partition: int, start: int) -> None:
        is_next = self._place == (name, partition) and self._position <= start and bool(self._ahead) and (self._ahead[0].offset() or 0) >= start
        if not is_next and not self.can_read_on(name, partition, start):
            self._ahead.clear()
            self._place, self._position = (name, partition), start
            self._consumer.assign([TopicPartition(name, partition, start)])

    def _fill(self, deadline_s: float) -> None:
        message = self._consumer.poll(POLL_S)
        reason = KafkaError(KafkaError._TIMED_OUT, f"nothing of {self._place} for {ANSWER_S:g} s")
        for one in [] if message is None else [message, *self._consumer.consume(POLL_RECORDS_MAX, 0)]:
            error = one.error()
            if error is not None and error.code() != KafkaError._PARTITION_EOF:
                reason = error
            elif (one.topic(), one.partition()) == self._place:
                self._ahead.append(one)
        if not self._ahead and time.monotonic() > deadline_s:
            self._unassign()  # Whoever asks again begins anew.
            raise KafkaException(reason)

    def _unassign(self) -> None:
        self._place = None
        self._ahead.clear()
        self._consumer.unassign()


def _is_at(offsets: frozenset[int]) -> Callable[[Message], bool]:
    return lambda message: message.offset() in offsets


def _runs(offsets: Iterable[int]) -> Iterator[list[int]]:
    """Rising offsets, cut where a seek is cheaper than reading over what is between."""
    run: list[int] = []
    for offset in offsets:
        if run and offset - run[-1] > NEAR:
            yield run
            run = []
        run.append(offset)
    if run:
        yield run
