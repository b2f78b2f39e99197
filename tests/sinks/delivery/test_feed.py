"""The log into the event loop over a real broker: where it begins, rebalances, openings that fail, the loop that is busy, outages, poison."""

import asyncio
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from confluent_kafka import TopicPartition

from schemas.records import DeliveryNotice, LoyaltyEvent
from sinks.delivery import feed as feeds
from sinks.delivery.feed import Feed, Handlers, Place
from sinks.delivery.journal import Fenced
from sinks.delivery.records import Outgoing, Undecodable
from streams import kafka as kafka_clients
from streams import metrics, topics
from streams.settings import Settings
from streams.topics import Topic
from tests.sinks.broker import codec, fill, until
from tests.sinks.examples import delivery_notice, event

pytestmark = pytest.mark.stack

MakeSettings = Callable[..., Settings]
STREAMS = (topics.EVENTS, topics.DELIVERY_NOTICES)
GROUP = "sink-webhooks"


class Log:
    """How far all processes of a test together have come, as the progress topic would keep it."""

    def __init__(self) -> None:
        self.positions: dict[Place, int] = {}


class Runner:
    """What one process makes of its feed: it notes everything, and keeps where each partition goes on when it gives it up."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.records: list[tuple[Place, Outgoing]] = []
        self.poison: list[Undecodable] = []
        self.own: set[Place] = set()
        self.said: list[tuple[str, Place]] = []
        self.foreign: list[Place] = []
        """Places of which something came although they were not its own."""
        self.before_assign: Callable[[Place], None] = lambda _: None
        self.in_loop: Callable[[], None] = lambda: None

    def handlers(self) -> Handlers:
        return Handlers(assign=self.assign, received=self.received, revoke=self.revoke, lost=self.lost)

    def assign(self, stream: str, partition: int) -> int:
        self.said.append(("assign", (stream, partition)))
        self.before_assign((stream, partition))
        self.own.add((stream, partition))
        return self.log.positions.get((stream, partition), 0)

    def received(self, stream: str, partition: int, records: list[Outgoing], poison: list[Undecodable], next_offset: int) -> None:
        place = (stream, partition)
        if place not in self.own:
            self.foreign.append(place)
        assert all(record.offset < next_offset for record in records)
        self.records += [(place, record) for record in records]
        self.poison += poison
        self.log.positions[place] = next_offset
        self.in_loop()

    def revoke(self, revoked: Iterable[Place]) -> None:
        self._give_up("revoke", revoked)

    def lost(self, lost: Iterable[Place]) -> None:
        self._give_up("lost", lost)

    def _give_up(self, how: str, places: Iterable[Place]) -> None:
        for place in places:
            self.said.append((how, place))
            self.own.discard(place)

    def event_ids(self) -> list[str]:
        return [record.event_id for _, record in self.records]


@pytest.fixture
def settings(kafka: Any, make_settings: MakeSettings) -> Settings:
    made = make_settings(kafka_partitions=4)
    kafka_clients.ensure_topics(made, STREAMS)
    return made


StartFeed = Callable[[Runner], Feed]


@pytest.fixture
async def start_feed(settings: Settings) -> AsyncIterator[StartFeed]:
    """`start_feed(runner)` -> a feed that is closed at the end of the test, and must not have failed."""
    async with AsyncExitStack() as stack:

        def start(runner: Runner, of: Settings = settings) -> Feed:
            feed = Feed(of, codec(), STREAMS, GROUP, runner.handlers())
            feed.start()

            async def end() -> None:
                await feed.close()
                assert not feed.failed.done()
                assert not runner.foreign

            stack.push_async_callback(end)
            return feed

        yield start


def ready(*feeds_: Feed) -> Callable[[], bool]:
    return lambda: not any(feed.readiness() for feed in feeds_)


def events(count: int, first: int = 0) -> list[LoyaltyEvent]:
    return [event(sequence, f"m-{sequence % 23}") for sequence in range(first, first + count)]


async def filled(settings: Settings, records: Iterable[Any], topic: Topic = topics.EVENTS) -> None:
    await asyncio.to_thread(fill, settings, topic, records)


def assert_in_order(*runners: Runner) -> None:
    """Offsets of a partition rise in each process."""
    for runner in runners:
        newest: dict[Place, int] = {}
        for place, record in runner.records:
            assert record.offset > newest.get(place, -1)
            newest[place] = record.offset


async def test_all_topics_come_in_order_and_the_end_is_told(settings: Settings, start_feed: StartFeed) -> None:
    await filled(settings, events(300))
    await filled(settings, [delivery_notice(number) for number in range(20)], topics.DELIVERY_NOTICES)
    runner = Runner(Log())
    feed = start_feed(runner)
    await until(ready(feed))
    await until(lambda: len(runner.records) == 320)
    assert_in_order(runner)
    assert Counter(type(record.record) for _, record in runner.records) == {LoyaltyEvent: 300, DeliveryNotice: 20}
    await until(lambda: len(runner.log.positions) == 8)  # Of the empty ones, too.
    one = next(record for _, record in runner.records if record.event_id == "grand-m-1-1")
    assert (one.key, one.lane) == (b"grand/m-1", "grand/m-1")
    assert one.timestamp_ms > 0


async def test_the_end_moves_over_the_marks_of_transactions(settings: Settings, start_feed: StartFeed) -> None:
    producer = kafka_clients.producer(settings, transactional_id=f"{settings.topic_prefix}.test", retry_backoff_ms=10)
    producer.init_transactions(30)
    for is_committed in (True, False):
        producer.begin_transaction()
        producer.produce(topics.EVENTS.name(settings.topic_prefix), codec().encode(event()), b"grand/m-1", 2)
        producer.flush(30)
        if is_committed:
            producer.commit_transaction(30)
        else:
            producer.abort_transaction(30)
    runner = Runner(Log())
    start_feed(runner)
    await until(lambda: runner.log.positions.get(("events", 2)) == 4)
    assert [record.offset for _, record in runner.records] == [0]


async def test_it_begins_where_the_opening_says_whatever_the_group_has_committed(settings: Settings, start_feed: StartFeed) -> None:
    await filled(settings, events(400))
    consumer = kafka_clients.consumer(settings, GROUP)
    name = topics.EVENTS.name(settings.topic_prefix)
    consumer.commit(offsets=[TopicPartition(name, number, 50) for number in range(4)], asynchronous=False)
    consumer.close()
    log = Log()
    log.positions = {("events", 0): 7, ("events", 1): 60}
    runner = Runner(log)
    start_feed(runner)
    await until(lambda: len(runner.records) == 400 - 67)
    firsts: dict[Place, int] = {}
    for place, record in runner.records:
        firsts.setdefault(place, record.offset)
    assert firsts == {("events", 0): 7, ("events", 1): 60, ("events", 2): 0, ("events", 3): 0}


async def test_nothing_is_lost_or_doubled_when_processes_come_and_go(settings: Settings, start_feed: StartFeed) -> None:
    """Given up in order, the next one goes on exactly where the last one was: no record comes twice."""
    log = Log()
    runners = [Runner(log) for _ in range(3)]
    running = [start_feed(runners[0])]
    await until(ready(running[0]))
    filling = asyncio.create_task(_fill_for_a_while(settings, 3_000))
    running.append(start_feed(runners[1]))
    await until(ready(*running))
    await until(lambda: bool(runners[1].own))
    running.append(start_feed(runners[2]))
    await until(lambda: bool(runners[2].own) and ready(*running)())
    await running[0].close()
    await until(lambda: len(runners[1].own | runners[2].own) == 8 and ready(*running[1:])())
    await filling
    await until(lambda: sum(len(runner.records) for runner in runners) >= 3_000)
    assert_in_order(*runners)
    counts = Counter(event_id for runner in runners for event_id in runner.event_ids())
    assert len(counts) == 3_000
    assert set(counts.values()) == {1}
    assert not runners[0].own


async def _fill_for_a_while(settings: Settings, count: int) -> None:
    for first in range(0, count, 100):
        await filled(settings, events(100, first))
        await asyncio.sleep(0.02)


async def test_a_spare_process_is_ready(make_settings: MakeSettings, start_feed: Callable[..., Feed]) -> None:
    settings = make_settings(kafka_partitions=1)
    await asyncio.to_thread(kafka_clients.ensure_topics, settings, STREAMS)
    runners = [Runner(Log()) for _ in range(3)]
    running = [start_feed(runner, settings) for runner in runners]
    await until(ready(*running))
    await until(lambda: sorted(len(runner.own) for runner in runners) == [0, 1, 1])


async def test_an_opening_that_fails_is_tried_again_and_the_others_do_not_wait(settings: Settings, start_feed: StartFeed) -> None:
    await filled(settings, events(200))
    runner = Runner(Log())
    failures = Counter[Place]()
    is_well = threading.Event()

    def fail(place: Place) -> None:
        if place[1] != 2 and not is_well.is_set():
            failures[place] += 1
            raise Fenced("another is opening it") if place[0] == "events" else RuntimeError("a bug")

    runner.before_assign = fail
    feed = start_feed(runner)
    await until(lambda: runner.own == {("events", 2), ("delivery-notices", 2)} and bool(runner.records))
    await until(lambda: len(failures) == 6 and max(failures.values()) > 1)
    assert {place for place, _ in runner.records} == {("events", 2)}
    assert "opens 6" in feed.readiness()
    is_well.set()
    await until(ready(feed))
    await until(lambda: len(runner.records) == 200)


async def test_a_partition_that_is_given_up_while_it_opens_is_given_up_again(settings: Settings, start_feed: StartFeed) -> None:
    """And is not opened a second time meanwhile, though it comes back."""
    runner, other = Runner(Log()), Runner(Log())
    let_open, at_once = threading.Event(), Counter[Place]()
    together: list[Place] = []

    def hang(place: Place) -> None:
        at_once[place] += 1
        if at_once[place] > 1:
            together.append(place)
        let_open.wait(30)
        at_once[place] -= 1

    runner.before_assign = hang
    start_feed(runner)
    await until(lambda: at_once.total() == 8)
    second = start_feed(other)
    await until(lambda: len(other.own) == 4)
    given_up = {place for how, place in runner.said if how == "revoke"}
    assert given_up == other.own
    await second.close()
    await until(lambda: not other.own)
    let_open.set()
    await until(lambda: len(runner.own) == 8)
    for place in given_up:
        assert [how for how, about in runner.said if about == place] == ["assign", "revoke", "lost", "assign"]
    assert not together


async def test_a_busy_loop_bounds_what_is_on_its_way(settings: Settings, start_feed: StartFeed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "HELD_MAX", 200)
    monkeypatch.setattr(feeds, "POLL_RECORDS_MAX", 50)
    await filled(settings, events(3_000))
    runner = Runner(Log())
    most = 0
    feed = start_feed(runner)

    def work() -> None:
        nonlocal most
        time.sleep(0.005)
        most = max(most, feed._handed_over - feed._received)

    runner.in_loop = work
    await until(lambda: len(runner.records) == 3_000)
    assert 50 <= most < 200 + 50
    assert_in_order(runner)


async def test_what_was_read_before_a_partition_was_given_up_is_dropped(settings: Settings, start_feed: StartFeed) -> None:
    """The loop hangs while another process takes partitions over: what is on its way then is the other's."""
    log = Log()
    runner, other = Runner(log), Runner(log)
    feed = start_feed(runner)
    await until(ready(feed))

    are_read: list[bool] = []

    def hang() -> None:
        runner.in_loop = lambda: None
        fill(settings, topics.EVENTS, events(200, 1))
        fill(settings, topics.DELIVERY_NOTICES, [delivery_notice(number, member_id=f"m-{number % 23}") for number in range(200)])
        are_read.append(_wait_for(lambda: feed._handed_over >= 401))
        start_feed(other)
        are_read.append(_wait_for(lambda: "revoke" in {how for how, _ in runner.said}))

    runner.in_loop = hang
    await filled(settings, [event(0)])
    await until(lambda: len(set(runner.event_ids()) | set(other.event_ids())) == 401)
    assert are_read == [True, True]
    assert set(Counter(runner.event_ids() + other.event_ids()).values()) == {1}
    assert other.records
    assert other.own == {place for how, place in runner.said if how == "revoke"}


def _wait_for(predicate: Callable[[], bool]) -> bool:
    """In the loop, which hangs meanwhile: whether it came true."""
    deadline_s = time.monotonic() + 30
    while not predicate() and time.monotonic() < deadline_s:
        time.sleep(0.01)
    return predicate()


async def test_poison_comes_whole(settings: Settings, start_feed: StartFeed) -> None:
    producer = kafka_clients.producer(settings)
    producer.produce(topics.EVENTS.name(settings.topic_prefix), b"\x01rubbish", b"k", 1, headers=[("source", b"x"), ("empty", None)])
    producer.produce(topics.EVENTS.name(settings.topic_prefix), None, None, 1)
    producer.produce(topics.EVENTS.name(settings.topic_prefix), codec().encode(event()), b"grand/m-1", 1)
    assert producer.flush(30) == 0
    runner = Runner(Log())
    start_feed(runner)
    await until(lambda: len(runner.records) == 1)
    rubbish, empty = runner.poison
    assert (rubbish.offset, rubbish.key, rubbish.value, rubbish.reason) == (0, b"k", b"\x01rubbish", "NOT_WIRE_FORMAT")
    assert rubbish.headers == {"source": b"x", "empty": b""}
    assert rubbish.detail
    assert rubbish.timestamp_ms > 0
    assert (empty.offset, empty.key, empty.value, empty.reason) == (1, b"", b"", "EMPTY")


async def test_an_error_in_the_loop_is_logged_and_the_rest_comes(
    settings: Settings, start_feed: StartFeed, caplog: pytest.LogCaptureFixture
) -> None:
    runner = Runner(Log())
    feed = start_feed(runner)
    await until(ready(feed))
    raised: list[int] = []

    def fail_once() -> None:
        if not raised:
            raised.append(1)
            raise RuntimeError("a bug")

    runner.in_loop = fail_once
    await filled(settings, [event(1)])
    await until(lambda: bool(raised))
    await filled(settings, [event(2)])
    await until(lambda: "grand-m-1-2" in runner.event_ids())
    assert "feed.receive_failed" in caplog.text


async def test_operators_see_the_position_and_the_lag(settings: Settings, start_feed: StartFeed) -> None:
    await filled(settings, events(100))
    runner = Runner(Log())
    feed = start_feed(runner)
    await until(lambda: len(runner.records) == 100)
    consumer = kafka_clients.consumer(settings, GROUP)
    name = topics.EVENTS.name(settings.topic_prefix)

    async def committed() -> int:
        found = await asyncio.to_thread(consumer.committed, [TopicPartition(name, number) for number in range(4)], 10)
        return sum(max(0, tp.offset) for tp in found)

    await _until_it_is(committed, 100)
    consumer.close()
    assert [_lag(name, number) for number in range(4)] == [0, 0, 0, 0]
    await feed.close()
    assert [_lag(name, number) for number in range(4)] == [None] * 4


def _lag(name: str, partition: int) -> float | None:
    return metrics.SINK_LAG.collect() and next((
        sample.value for family in metrics.SINK_LAG.collect() for sample in family.samples
        if sample.labels == {"sink": "webhooks", "topic": name, "partition": str(partition)}
    ), None)  # fmt: skip


async def _until_it_is(ask: Callable[[], Awaitable[int]], wanted: int) -> None:
    async with asyncio.timeout(20):
        while await ask() != wanted:
            await asyncio.sleep(0.05)


async def test_an_outage_is_waited_for(kafka: Any, settings: Settings, start_feed: StartFeed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "SILENCE_S", 0.5)
    monkeypatch.setattr(feeds, "ANSWER_S", 0.5)
    log = Log()
    runner = Runner(log)
    feed = start_feed(runner)
    await until(ready(feed))
    await filled(settings, events(100))
    await until(lambda: len(runner.records) == 100)
    await asyncio.to_thread(kafka.kill)
    try:
        await until(lambda: "no Kafka broker answers" in feed.readiness())
    finally:
        await asyncio.to_thread(kafka.start)
    await filled(settings, events(100, 100))
    await until(lambda: len(set(runner.event_ids())) == 200, 40)
    await until(ready(feed))
    assert set(Counter(runner.event_ids()).values()) == {1}
