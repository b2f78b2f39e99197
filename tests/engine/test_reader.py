"""A partition's source topics on a real broker: some are read to their end first, nothing is lost or repeated."""

import itertools
import json
import secrets
import threading
from collections.abc import Callable, Iterator

import pytest
from confluent_kafka import Consumer, Producer

from streams.engine import App, EngineConfig, Input, Outgoing
from streams.engine.reader import CONFIG, HELD_MAX, SourceReader
from streams.engine.records import TopicPartition
from tests.engine import log
from tests.engine.counting import PARTITIONS, JsonCodec, topic_names
from tests.engine.test_exactly_once import processed, running
from tests.waiting import wait_until

READ_S = 0.2


@pytest.fixture
def bootstrap(kafka) -> str:
    return kafka.bootstrap_servers


@pytest.fixture
def topics(bootstrap: str) -> list[str]:
    """Two to be read first, and another."""
    name = f"reader-{secrets.token_hex(4)}"
    topics = [f"{name}.first", f"{name}.first-too", f"{name}.other"]
    log.create(bootstrap, topics, 1)
    return topics


class Reading:
    """Everything that a reader gave, checked to be without a hole from batch to batch."""

    def __init__(self, bootstrap: str, topics: list[str]) -> None:
        self.reader = SourceReader(Consumer({"bootstrap.servers": bootstrap, "group.id": "reader"} | CONFIG), "reader", topics[:2])
        self.inputs: list[Input] = []
        self.next: dict[TopicPartition, int] = {}

    def start(self, positions: dict[str, int]) -> None:
        self.inputs.clear()
        self.next = {(topic, 0): offset for topic, offset in positions.items()}
        self.reader.start(self.next)

    def read(self, count: int, records_max: int = 1000) -> list[str]:
        """Read until there are so many records; the topics' roles in the order of the records, without repetition."""
        wait_until(lambda: self._read_once(records_max) >= count, timeout_s=30)
        assert len(self.inputs) == count
        return [role for role, _ in itertools.groupby(one.topic.rpartition(".")[2] for one in self.inputs)]

    def _read_once(self, records_max: int) -> int:
        batch = self.reader.read(records_max, READ_S)
        if batch is not None:
            assert batch.starts == {tp: self.next[tp] for tp in batch.starts}
            ends = {(one.topic, one.partition): one.offset + 1 for one in batch.inputs}
            assert batch.ends == ends and batch.starts.keys() == ends.keys()
            self.next.update(ends)
            self.inputs += batch.inputs
        return len(self.inputs)

    def offsets(self, topic: str) -> list[int]:
        return [one.offset for one in self.inputs if one.topic == topic]


@pytest.fixture
def reading(bootstrap: str, topics: list[str]) -> Iterator[Reading]:
    reading = Reading(bootstrap, topics)
    yield reading
    reading.reader.close()


def produce(bootstrap: str, topic: str, count: int) -> None:
    log.produce(bootstrap, [(topic, b"k", b"v")] * count)


def in_transaction(bootstrap: str, topic: str, count: int) -> Callable[[], None]:
    """Write records in a transaction, and return what commits it."""
    producer = Producer({"bootstrap.servers": bootstrap, "transactional.id": topic})
    producer.init_transactions()
    producer.begin_transaction()
    for _ in range(count):
        producer.produce(topic, b"v", b"k")
    assert producer.flush(30) == 0
    return producer.commit_transaction


@pytest.mark.parametrize("records_max", [7, 1000])
def test_topics_are_read_to_their_end_first_at_every_start(bootstrap: str, topics: list[str], reading: Reading, records_max: int) -> None:
    first, too, other = topics
    produce(bootstrap, other, 700)  # The oldest: merged by time, they would be the first.
    produce(bootstrap, first, 500)
    produce(bootstrap, too, 300)
    for start in (0, 250):
        reading.start({other: start, first: start, too: start})
        reading.read(1500 - 3 * start, records_max)
        assert [one.topic for one in reading.inputs[:800 - 2 * start]].count(other) == 0
        for topic, end in ((first, 500), (too, 300), (other, 700)):
            assert reading.offsets(topic) == list(range(start, end))
    produce(bootstrap, too, 1)
    reading.read(1500 - 3 * 250 + 1)
    assert reading.offsets(too)[-1] == 300, "and go on being read"


def test_a_start_in_the_midst_of_the_first_topics_leaves_nothing_of_the_last(bootstrap: str, topics: list[str], reading: Reading) -> None:
    first, too, other = topics
    for topic in topics:
        produce(bootstrap, topic, 500)
    reading.start(dict.fromkeys(topics, 0))
    reading._read_once(100)
    reading.start({first: 490, too: 500, other: 480})
    assert reading.read(30) == ["first", "other"]
    assert (reading.offsets(first), reading.offsets(other)) == (list(range(490, 500)), list(range(480, 500)))


@pytest.mark.parametrize("case", ["empty", "read to the end", "read to the end, which is a marker"])
def test_first_topics_with_nothing_to_read_hold_nothing_up(bootstrap: str, topics: list[str], reading: Reading, case: str) -> None:
    first, too, other = topics
    position = 0
    if case == "read to the end":
        produce(bootstrap, first, 10)
        position = 10
    elif case == "read to the end, which is a marker":
        in_transaction(bootstrap, first, 10)()
        position = 10
        assert log.end_offsets(bootstrap, first) == 11
    produce(bootstrap, other, 10)
    reading.start({first: position, too: 0, other: 0})
    assert reading.read(10) == ["other"]
    produce(bootstrap, first, 1)
    assert reading.read(11) == ["other", "first"]
    assert reading.offsets(first) == [11 if "marker" in case else 10 if position else 0]


def test_the_end_is_where_a_transaction_is_still_open(bootstrap: str, topics: list[str], reading: Reading) -> None:
    first, _, other = topics
    produce(bootstrap, first, 5)
    commit = in_transaction(bootstrap, first, 5)
    produce(bootstrap, other, 5)
    reading.start(dict.fromkeys(topics, 0))
    assert reading.read(10) == ["first", "other"]
    commit()
    assert reading.read(15) == ["first", "other", "first"]


def test_a_first_topic_that_is_written_without_a_pause_does_not_keep_the_others_out(bootstrap: str, topics: list[str], reading: Reading) -> None:
    """A consumer is told of an end only when nothing came for 100 ms."""
    first, _, other = topics
    produce(bootstrap, first, 10)
    produce(bootstrap, other, 10)
    stop = threading.Event()

    def write() -> None:
        producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 0})
        while not stop.wait(0.01):
            producer.produce(first, b"v", b"k")
            producer.poll(0)
        producer.flush(30)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        reading.start(dict.fromkeys(topics, 0))
        wait_until(lambda: reading._read_once(1000) > 0 and len(reading.offsets(other)) == 10, timeout_s=30)
    finally:
        stop.set()
        writer.join()


def test_only_a_topic_of_the_source_can_be_read_first() -> None:
    app = App(EngineConfig(app_id="app", client={"bootstrap.servers": "localhost:1"}, partitions=1, data_dir="data"), JsonCodec(),
              lambda poison: Outgoing("dead", None, None))  # fmt: skip
    with pytest.raises(ValueError, match=r"not among the topics: \['c'\]"):
        app.source({"a": dict, "b": dict}, first=["c"])
    app.source({"a": dict, "b": dict}, first=["b"])
    assert (set(app.source_types), app.sources_first) == ({"a", "b"}, {"b"})


def test_a_worker_reads_a_topic_first_whenever_it_starts(bootstrap: str) -> None:
    prefix, count = f"engine-{secrets.token_hex(4)}", 3000
    names = topic_names(prefix)
    log.create(bootstrap, names.values(), PARTITIONS)
    for part in range(2):
        start = part * 2 * count
        for role, number in (("a", start), ("b", start + count)):
            log.produce(bootstrap, [(names[role], b"%d" % (i % 50), json.dumps({"i": i}).encode()) for i in range(number, number + count)])
        with running(bootstrap, prefix, first="b") as worker:
            wait_until(lambda start=start: processed(bootstrap, prefix) >= start + 2 * count, timeout_s=60)
            worker.stop()
        rows = [(row.partition, json.loads(row.value or b"")["i"]) for row in log.read(bootstrap, names["out"])]
        assert sorted(i for _, i in rows) == list(range(start + 2 * count))
        for partition in range(PARTITIONS):
            numbers = [i for place, i in rows if place == partition and i >= start]
            first_a = min(place for place, i in enumerate(numbers) if i < start + count)
            last_b = max(place for place, i in enumerate(numbers) if i >= start + count)
            assert last_b < first_a


# Bulk topics.


class BulkReading(Reading):
    """One topic is bulk: so many of its records in a batch."""

    def __init__(self, bootstrap: str, topics: list[str]) -> None:
        super().__init__(bootstrap, topics)
        self.reader.close()
        consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "reader"} | CONFIG)
        self.reader = SourceReader(consumer, "reader", topics[:1], bulk=topics[1:2])
        self.bulk_max: int | None = None
        self.batches: list[list[Input]] = []

    def _read_once(self, records_max: int) -> int:
        batch = self.reader.read(records_max, READ_S, self.bulk_max)
        if batch is not None:
            assert batch.starts == {tp: self.next[tp] for tp in batch.starts}
            ends = {(one.topic, one.partition): one.offset + 1 for one in batch.inputs}
            assert batch.ends == ends and batch.starts.keys() == ends.keys()
            self.next.update(ends)
            self.inputs += batch.inputs
            self.batches.append(batch.inputs)
        return len(self.inputs)


@pytest.fixture
def bulk_reading(bootstrap: str, topics: list[str]) -> Iterator[BulkReading]:
    reading = BulkReading(bootstrap, topics)
    yield reading
    reading.reader.close()


def test_a_backlog_of_bulk_keeps_nothing_else_waiting_and_comes_whole(bootstrap: str, topics: list[str], bulk_reading: BulkReading) -> None:
    _, bulk, other = topics
    backlog, live = 30_000, 20  # More than is held back: fetching stops and goes on, again and again.
    produce(bootstrap, bulk, backlog)
    bulk_reading.bulk_max = 100
    bulk_reading.start(dict.fromkeys(topics, 0))
    wait_until(lambda: bulk_reading._read_once(1000) >= 3 * HELD_MAX, timeout_s=30)
    before = len(bulk_reading.batches)
    produce(bootstrap, other, live)
    wait_until(lambda: bulk_reading._read_once(1000) > 0 and len(bulk_reading.offsets(other)) == live, timeout_s=30)
    assert len(bulk_reading.offsets(bulk)) < backlog, "the live ones overtook the rest"
    at = [number for number, batch in enumerate(bulk_reading.batches) if any(one.topic == other for one in batch)]
    assert at[-1] - before < 50, "some batches at most went out before them"
    bulk_reading.read(backlog + live)
    assert bulk_reading.offsets(bulk) == list(range(backlog)) and bulk_reading.offsets(other) == list(range(live))
    assert max(sum(one.topic == bulk for one in batch) for batch in bulk_reading.batches) == 100


@pytest.mark.parametrize("records_max", [7, 1000])
def test_without_room_for_bulk_only_the_others_are_read(bootstrap: str, topics: list[str], bulk_reading: BulkReading, records_max: int) -> None:
    _, bulk, other = topics
    produce(bootstrap, bulk, 500)
    produce(bootstrap, other, 50)
    bulk_reading.bulk_max = 0
    bulk_reading.start(dict.fromkeys(topics, 0))
    assert bulk_reading.read(50, records_max) == ["other"]
    wait_until(lambda: bulk_reading.reader.read(records_max, READ_S, 0) is None, timeout_s=30)
    bulk_reading.bulk_max = None
    bulk_reading.read(550, records_max)
    assert bulk_reading.offsets(bulk) == list(range(500))


def test_a_new_start_forgets_what_was_held_back(bootstrap: str, topics: list[str], bulk_reading: BulkReading) -> None:
    first, bulk, other = topics
    produce(bootstrap, bulk, 10_000)
    produce(bootstrap, first, 10)
    bulk_reading.bulk_max = 10
    bulk_reading.start(dict.fromkeys(topics, 0))
    wait_until(lambda: bulk_reading._read_once(1000) >= HELD_MAX, timeout_s=30)  # By now more was fetched than went out, and fetching stopped.
    bulk_reading.bulk_max = None
    bulk_reading.start({first: 0, bulk: 9_000, other: 0})
    assert bulk_reading.read(1010) == ["first", "first-too"]
    assert bulk_reading.offsets(bulk) == list(range(9_000, 10_000))


def test_a_bulk_topic_is_one_of_the_source_and_not_read_first() -> None:
    app = App(EngineConfig(app_id="app", client={"bootstrap.servers": "localhost:1"}, partitions=1, data_dir="data"), JsonCodec(),
              lambda poison: Outgoing("dead", None, None))  # fmt: skip
    for name in ("c", "b"):
        with pytest.raises(ValueError, match=rf"not among the topics, or to be read first: \['{name}'\]"):
            app.source({"a": dict, "b": dict}, first=["b"], bulk=[name])
    app.source({"a": dict, "b": dict}, first=["b"], bulk=["a"])
    assert app.sources_bulk == {"a"}
