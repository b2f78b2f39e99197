"""Reading the log again over a real broker: gaps, retention, times, keys, and what is shared."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

import pytest
from confluent_kafka import TopicPartition

from schemas.contract import member_key
from schemas.records import LoyaltyEvent
from sinks.delivery import log_reader
from sinks.delivery.log_reader import Chunk, LogReader
from sinks.delivery.records import Outgoing
from streams import kafka as kafka_clients
from streams import topics
from streams.settings import Settings
from tests.sinks.broker import codec, until
from tests.sinks.examples import event

pytestmark = pytest.mark.stack

MakeSettings = Callable[..., Settings]
EVENTS = topics.EVENTS
MARK = object()
"""In the log of a test: a transaction ends here, which takes an offset."""


@pytest.fixture
def settings(kafka: Any, make_settings: MakeSettings) -> Settings:
    made = make_settings()
    kafka_clients.ensure_topics(made, (EVENTS,))
    return made


@pytest.fixture
async def reader(settings: Settings) -> AsyncIterator[LogReader]:
    made = LogReader(settings, codec())
    yield made
    await made.close()


def append(settings: Settings, records: Iterable[LoyaltyEvent | bytes], timestamp_ms: Callable[[int], int] | None = None) -> None:
    """Records, or bytes as they are, to partition 0."""
    producer = kafka_clients.producer(settings)
    for number, record in enumerate(records):
        key, value = (b"grand/poison", record) if isinstance(record, bytes) else (member_key(record.program_id, record.member_id), codec().encode(record))
        extra = {} if timestamp_ms is None else {"timestamp": timestamp_ms(number)}
        producer.produce(EVENTS.name(settings.topic_prefix), value, key, 0, **extra)
        producer.poll(0)
    assert producer.flush(30) == 0


def append_in_transactions(settings: Settings, *transactions: tuple[list[LoyaltyEvent], bool]) -> None:
    """Records of each transaction to partition 0, and whether it is committed. Each takes one offset more than it has records."""
    producer = kafka_clients.producer(settings, transactional_id=f"{settings.topic_prefix}.test", retry_backoff_ms=10)
    producer.init_transactions(30)
    for records, is_committed in transactions:
        producer.begin_transaction()
        for record in records:
            producer.produce(EVENTS.name(settings.topic_prefix), codec().encode(record), member_key(record.program_id, record.member_id), 0)
        producer.flush(30)
        if is_committed:
            producer.commit_transaction(30)
        else:
            producer.abort_transaction(30)


def delete_before(settings: Settings, offset: int) -> None:
    """What retention does, at once."""
    admin = kafka_clients.AdminClient(kafka_clients.client_config(settings))
    (done,) = admin.delete_records([TopicPartition(EVENTS.name(settings.topic_prefix), 0, offset)]).values()
    done.result(30)


async def read_through(reader: LogReader, start: int, end: int, limit: int = 500, keys: frozenset[bytes] | None = None) -> list[Outgoing]:
    """All that a channel gets that reads on until the end; each chunk keeps what it promises."""
    found: list[Outgoing] = []
    while start < end:
        chunk = await reader.read(EVENTS, 0, start, end, limit, keys)
        assert start < chunk.next_offset <= end
        assert len(chunk.records) <= limit
        assert all(start <= record.offset < chunk.next_offset for record in chunk.records)
        found += chunk.records
        start = chunk.next_offset
    return found


def sequences(records: Iterable[Outgoing]) -> list[int]:
    return [record.record.sequence for record in records if isinstance(record.record, LoyaltyEvent)]


@pytest.mark.parametrize("limit", [1, 7, 500, 5_000])
async def test_everything_is_read_in_order_in_pieces_of_any_size(settings: Settings, reader: LogReader, limit: int) -> None:
    count = 40 if limit == 1 else 1_234
    append(settings, [event(sequence) for sequence in range(count)])
    found = await read_through(reader, 0, count, limit)
    assert sequences(found) == list(range(count))
    assert [record.offset for record in found] == list(range(count))
    assert found[3].key == b"grand/m-1"
    assert found[3].timestamp_ms > 0


async def test_any_piece_is_what_the_log_holds_there(settings: Settings, reader: LogReader) -> None:
    """Pieces at random, forwards and backwards, asked for by many at once, over a log with marks and aborted records."""
    append_in_transactions(settings, *(([event(10 * number + sequence) for sequence in range(9)], number % 4 != 0) for number in range(200)))
    there = {10 * number + sequence for number in range(200) if number % 4 for sequence in range(9)}
    _, end = await reader.bounds(EVENTS, 0)
    offset_of_first = end - 2_000  # A broker may begin with a mark of its own.
    assert offset_of_first == 0
    rng = random.Random(5)

    async def piece() -> None:
        start = rng.randrange(end)
        until = rng.randrange(start, end + 1)
        keys = rng.choice([None, frozenset({b"grand/m-1"})])
        found = await read_through(reader, start, until, rng.choice([3, 100, 500]), keys)
        assert sequences(found) == [offset for offset in range(start, until) if offset in there]

    await asyncio.gather(*(piece() for _ in range(40)))


async def test_marks_and_aborted_records_at_the_end_are_passed(settings: Settings, reader: LogReader) -> None:
    append_in_transactions(settings, ([event(0), event(1)], True), ([event(9) for _ in range(30)], False))
    first, end = await reader.bounds(EVENTS, 0)
    assert (first, end) == (0, 34)
    chunk = await reader.read(EVENTS, 0, 0, end, 500)
    assert (sequences(chunk.records), chunk.next_offset) == ([0, 1], end)
    assert await reader.read(EVENTS, 0, 2, end, 500) == Chunk([], end, 0)
    assert await reader.read(EVENTS, 0, 2, end, 500, frozenset({b"grand/m-1"})) == Chunk([], end, 0)


async def test_retention_is_told_and_reading_goes_on_behind_it(settings: Settings, reader: LogReader) -> None:
    append(settings, [event(sequence) for sequence in range(1_500)])
    before = await reader.read(EVENTS, 1, 0, 0, 5)
    assert before == Chunk([], 0, 0)
    delete_before(settings, 1_100)

    for keys in (None, frozenset({b"grand/m-1"})):
        chunk = await reader.read(EVENTS, 0, 600, 1_500, 500, keys)
        assert chunk.first_offset == 1_100
        assert sequences(chunk.records)[0] == 1_100
        assert sequences(await read_through(reader, 600, 1_500, keys=keys)) == list(range(1_100, 1_500))
    behind = await reader.read(EVENTS, 0, 1_200, 1_500, 5)
    assert behind.first_offset <= 1_200
    assert await reader.read(EVENTS, 0, 600, 1_000, 500) == Chunk([], 1_000, 1_000)
    assert await reader.bounds(EVENTS, 0) == (1_100, 1_500)


async def test_retention_that_takes_what_a_kept_block_lacked(settings: Settings, reader: LogReader) -> None:
    append(settings, [event(sequence) for sequence in range(10)])
    assert len((await reader.read(EVENTS, 0, 0, 10, 500)).records) == 10
    await until(lambda: all(one._place is None for one in reader._readers))  # Or it would have read ahead what is deleted below.
    append(settings, [event(sequence) for sequence in range(10, 30)])
    delete_before(settings, 20)
    chunk = await reader.read(EVENTS, 0, 5, 30, 500)
    assert (sequences(chunk.records), chunk.next_offset, chunk.first_offset) == (list(range(20, 30)), 30, 20)


async def test_only_the_keys_that_are_asked_for(settings: Settings, reader: LogReader, monkeypatch: pytest.MonkeyPatch) -> None:
    append(settings, [event(sequence, f"m-{sequence % 7}") for sequence in range(1_000)])
    monkeypatch.setattr(log_reader, "SCAN_MAX", 50)
    keys = frozenset({b"grand/m-3", b"grand/m-5"})
    chunk = await reader.read(EVENTS, 0, 0, 1_000, 500, keys)
    assert (len(chunk.records), chunk.next_offset) == (14, 50)
    assert sequences(await read_through(reader, 0, 1_000, 20, keys)) == [sequence for sequence in range(1_000) if sequence % 7 in (3, 5)]
    assert await read_through(reader, 0, 1_000, 20, frozenset({b"grand/nobody"})) == []


async def test_what_cannot_be_decoded_is_left_out(settings: Settings, reader: LogReader) -> None:
    append(settings, [event(0), b"poison", event(2)])
    assert sequences(await read_through(reader, 0, 3)) == [0, 2]
    found = await reader.read_offsets(EVENTS, 0, [0, 1, 2])
    assert [found[0] is not None, found[1], found[2] is not None] == [True, None, True]


async def test_records_at_offsets_near_and_far(settings: Settings, reader: LogReader) -> None:
    append(settings, [event(sequence) for sequence in range(6_000)])
    wanted = [5_999, 3, 4, 900, 2_500, 2_501, 5_000]
    found = await reader.read_offsets(EVENTS, 0, wanted)
    assert {offset: record and record.record.sequence for offset, record in found.items()} == {offset: offset for offset in wanted}  # type: ignore[union-attr]
    assert await reader.read_offsets(EVENTS, 0, []) == {}

    delete_before(settings, 2_501)
    found = await reader.read_offsets(EVENTS, 0, wanted)
    assert {offset for offset, record in found.items() if record is None} == {3, 4, 900, 2_500}


async def test_records_at_offsets_where_there_are_none(settings: Settings, reader: LogReader) -> None:
    append_in_transactions(settings, ([event(0), event(1)], True), ([event(3)], False), ([event(5)], True))
    for _ in range(2):  # From the log, then from what is kept.
        found = await reader.read_offsets(EVENTS, 0, [0, 1, 2, 3, 4, 5, 6])
        assert [offset for offset, record in found.items() if record is not None] == [0, 1, 5]
        await reader.read(EVENTS, 0, 0, 7, 500)


async def test_offsets_of_times(settings: Settings, reader: LogReader) -> None:
    first_ms = time.time_ns() // 1_000_000 - 3_600_000
    append(settings, [event(sequence) for sequence in range(100)], lambda number: first_ms + 10 * number)
    assert await reader.offset_at(EVENTS, 0, 0) == 0
    assert await reader.offset_at(EVENTS, 0, first_ms + 10) == 1
    assert await reader.offset_at(EVENTS, 0, first_ms + 11) == 2
    assert await reader.offset_at(EVENTS, 0, first_ms + 990) == 99
    assert await reader.offset_at(EVENTS, 0, first_ms + 991) == 100
    assert await reader.offset_at(EVENTS, 1, first_ms) == 0


async def test_those_who_are_at_the_same_place_share_one_reading_and_its_records(
    settings: Settings, reader: LogReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    append(settings, [event(sequence) for sequence in range(1_000)])
    decoded = _count_decoded(reader, monkeypatch)
    chunks = await asyncio.gather(*(reader.read(EVENTS, 0, 500 + number, 1_000, 500) for number in range(100)))
    assert sum(decoded) == 500
    assert all(chunk.records[-1] is chunks[0].records[-1] for chunk in chunks)

    found = await reader.read_offsets(EVENTS, 0, [999])
    assert found[999] is chunks[0].records[-1]
    append(settings, [event(sequence) for sequence in range(1_000, 1_010)])
    await reader.read(EVENTS, 0, 1_000, 1_005, 500)
    await reader.read(EVENTS, 0, 1_000, 1_010, 500)
    assert sum(decoded) == 510  # A block that has grown is read on, not again.


async def test_what_is_kept_is_bounded(settings: Settings, reader: LogReader, monkeypatch: pytest.MonkeyPatch) -> None:
    append(settings, [event(sequence) for sequence in range(2_000)])
    monkeypatch.setattr(log_reader, "BLOCKS_MAX", 2)
    decoded = _count_decoded(reader, monkeypatch)
    await read_through(reader, 0, 2_000)
    await read_through(reader, 1_000, 2_000)
    assert sum(decoded) == 2_000
    await read_through(reader, 0, 500)
    assert sum(decoded) == 2_500
    monkeypatch.setattr(log_reader, "BLOCKS_BYTES_MAX", 1)
    assert sequences(await read_through(reader, 0, 2_000)) == list(range(2_000))


async def test_reading_on_costs_no_seek(settings: Settings, reader: LogReader, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also with another in between who jumps about."""
    append(settings, [event(sequence) for sequence in range(8_000)])
    seeks: list[int] = []
    for one in reader._readers:
        monkeypatch.setattr(one, "_go_to", _noting(one, seeks))
    for start in range(0, 2_500, 500):
        await reader.read(EVENTS, 0, start, 8_000, 500)
        await reader.read_offsets(EVENTS, 0, [7_900 - start])
    assert [offset for offset in seeks if offset < 5_000] == [0]


def _noting(one: Any, seeks: list[int]) -> Callable[[str, int, int], None]:
    go_to = one._go_to

    def wrapped(name: str, partition: int, start: int) -> None:
        before = one._position
        go_to(name, partition, start)
        if one._position != before or not before:
            seeks.append(start)

    return wrapped


def _count_decoded(reader: LogReader, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    counts: list[int] = []
    decode = reader._codec.decode

    class Counting:
        def decode(self, value: bytes | None, record: Any) -> Any:
            counts.append(1)
            return decode(value, record)

    monkeypatch.setattr(reader, "_codec", Counting())
    return counts


async def test_an_outage_is_waited_for_and_who_waits_may_give_up(kafka: Any, settings: Settings, reader: LogReader) -> None:
    append(settings, [event(sequence) for sequence in range(2_000)])
    await reader.read(EVENTS, 0, 0, 2_000, 500)
    await asyncio.to_thread(kafka.kill)
    try:
        reading = [
            asyncio.create_task(reader.read(EVENTS, 0, 1_500, 2_000, 500)),
            asyncio.create_task(reader.read_offsets(EVENTS, 0, [700])),
            asyncio.create_task(reader.bounds(EVENTS, 0)),
            asyncio.create_task(reader.offset_at(EVENTS, 0, 0)),
        ]
        impatient = asyncio.create_task(reader.bounds(EVENTS, 1))
        impatient.cancel()
        with pytest.raises(asyncio.CancelledError):
            await impatient
        assert reading[2] in (await asyncio.wait(reading, timeout=0.5))[1]
    finally:
        await asyncio.to_thread(kafka.start)
    chunk, found, bounds, offset = await asyncio.wait_for(asyncio.gather(*reading), 30)
    assert sequences(chunk.records) == list(range(1_500, 2_000))
    assert found[700].record.sequence == 700
    assert (bounds, offset) == ((0, 2_000), 0)
