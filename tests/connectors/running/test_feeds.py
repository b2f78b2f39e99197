"""Polls and streams against a real server and a real broker: all that is found is in the log before the cursor is, whatever goes wrong."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from infra.fakes.server import Misbehaviour
from schemas.records import DeadLetter, Enrolment, ReceivedWebhook, SourceProgress
from sinks.schedule import Schedule
from streams import kafka, topics
from streams.connectors.contract import Cursor, Found, Source
from streams.connectors.exchange import Exchange, connect
from streams.connectors.running import poller, progress, streamer
from streams.connectors.running.feed import Feed
from streams.connectors.running.progress import Progress
from streams.ingress.sender import Sender
from streams.settings import Settings
from tests.connectors.running.support import CONNECTOR, NumbersFake, enrolment
from tests.ingress.support import CODEC, make_configuration, read_all

WAIT_S = 60
QUICK = Schedule(first_s=0.02, longest_s=0.1)
_NUMBERS = itertools.count(1)


@pytest.fixture(scope="module")
def settings(make_settings: Callable[..., Settings]) -> Settings:
    """Shared: each test has a source of its own."""
    settings = make_settings(redis_url="redis://unused", clickhouse_url="http://unused")
    kafka.ensure_topics(settings)
    return settings


@pytest.fixture
def source() -> Source:
    return Source(name=f"numbers-{next(_NUMBERS)}", kind="numbers", program_id="grand")


@pytest.fixture
async def sender(settings: Settings) -> AsyncIterator[Sender]:
    sender = Sender(settings, make_configuration(), time.time, 10.0)
    await asyncio.wait_for(sender.connect(), WAIT_S)
    yield sender
    await sender.close()


@pytest.fixture
async def numbers() -> AsyncIterator[NumbersFake]:
    fake = NumbersFake()
    await fake.start()
    yield fake
    await fake.stop()


async def record_of(sender: Sender, source: Source, feed: str = "numbers") -> SourceProgress:
    known = await asyncio.to_thread(progress.read, sender.settings, sender.codec, range(sender.settings.kafka_partitions))
    name = (source.name, feed)
    return known.get(name) or progress.nothing(name)


@asynccontextmanager
async def following(sender: Sender, run: Callable[[Feed], Any], source: Source, feed_name: str = "numbers") -> AsyncIterator[Feed]:
    """The feed, led from where the log says."""
    transport = connect()
    record = await record_of(sender, source, feed_name)
    feed = Feed(
        sender, source, Exchange(CONNECTOR, source.options, transport), Progress(sender.settings, sender.codec, sender.publisher, record), schedule=QUICK
    )
    task = asyncio.create_task(run(feed))
    try:
        yield feed
        assert not task.done(), task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await transport.close()


def polling(sender: Sender, fake: NumbersFake, source: Source) -> Any:
    source = replace(source, options={"base_url": fake.base_url, "poll_every_s": 0.05})
    return following(sender, lambda feed: poller.run(feed, CONNECTOR.polls["numbers"]), source)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():
            await asyncio.sleep(0.01)


def enrolled(sender: Sender, source: Source) -> list[int]:
    """The numbers whose enrolments are in the log, those of each partition in their order."""
    found = [CODEC.decode(message.value(), Enrolment) for message in read_all(sender.settings, topics.ENROLMENTS)]
    return [int(command.event_id.partition(":")[2]) for command in found if command.source_system == source.name]


def has_read(feed: Feed, number: int) -> Callable[[], bool]:
    return lambda: feed.progress.cursor.get("after") == number and not feed.progress.record.failing_since_ms


async def test_a_poll_goes_on_at_its_cursor(sender: Sender, numbers: NumbersFake, source: Source) -> None:
    numbers.last = 7
    async with polling(sender, numbers, source) as feed:
        await until(has_read(feed, 7))
        numbers.last = 8
        await until(has_read(feed, 8))
    assert sorted(enrolled(sender, source)) == [*range(1, 9)]
    record = await record_of(sender, source)
    assert (record.cursor, record.commands, record.failing_since_ms, record.last_error) == (b'{"after":8}', 8, 0, "")
    assert record.budget_allowed == 1000 and record.budget_used > 0 and record.succeeded_at_ms >= record.begun_at_ms > 0
    assert 1_000 <= progress.lag_ms(record, record.heard_at_ms) < 60_000, "what was read had happened a second before"
    numbers.last, numbers.asked = 9, []
    async with polling(sender, numbers, source) as feed:
        await until(has_read(feed, 9))
    assert numbers.asked[0] == 8 and sorted(enrolled(sender, source)) == [*range(1, 10)], "nothing was read again"


async def test_what_goes_wrong_is_tried_again(sender: Sender, numbers: NumbersFake, source: Source) -> None:
    numbers.last = 10
    numbers.misbehaviours.extend([
        Misbehaviour(status=503), Misbehaviour(drops=True), Misbehaviour(status=200, body=b"<html>"), Misbehaviour(status=200, body=b"{}"),
        Misbehaviour(status=429, headers={"Retry-After": "1"}), *[Misbehaviour(status=500)] * (poller.ATTEMPTS_MAX + 1),
    ])  # fmt: skip
    said: dict[str, None] = {}
    async with polling(sender, numbers, source) as feed:
        async with asyncio.timeout(WAIT_S):
            while not has_read(feed, 10)():
                said |= {feed.progress.record.last_error: None}
                if "429" in feed.progress.record.last_error:
                    waits_ms = feed.progress.record.waits_until_ms - feed.progress.record.last_error_at_ms
                    assert waits_ms == 0 or 900 <= waits_ms <= 1_100, "as long as the system has asked for"
                await asyncio.sleep(0.005)
    assert sorted(enrolled(sender, source)) == [*range(1, 11)]
    for word in ("NOT_JSON", "TYPE_INVALID", "429", "500"):
        assert any(word in text for text in said), (word, said)


async def test_a_poll_that_fails_lags(sender: Sender, numbers: NumbersFake, source: Source) -> None:
    numbers.misbehaves = lambda kind: Misbehaviour(status=500)
    async with polling(sender, numbers, source) as feed:
        await until(lambda: feed.progress.record.failing_since_ms > 0)
        since_ms = feed.progress.record.failing_since_ms
        errors_at_ms = feed.progress.record.last_error_at_ms
        await until(lambda: feed.progress.record.last_error_at_ms > errors_at_ms)
        assert feed.progress.record.failing_since_ms == since_ms
        assert progress.lag_ms(feed.progress.record, since_ms + 5_000) == 5_000
        numbers.behave()
        await until(lambda: feed.progress.record.failing_since_ms == 0)
    assert f"sources.{source.name}:" in feed.progress.record.last_error, "it says which source"


async def test_what_cannot_be_understood_is_parked(sender: Sender, numbers: NumbersFake, source: Source) -> None:
    """Commands that break the contract, and what the connector parks: dead letters, and the feed goes on."""
    numbers.last = 101
    async with polling(sender, numbers, source) as feed:
        await until(has_read(feed, 101))
    assert {*range(1, 102)} - {*enrolled(sender, source)} == {70, 80, 90, 100}
    letters = [CODEC.decode(message.value(), DeadLetter) for message in read_all(sender.settings, topics.DEAD_LETTERS)]
    assert {letter.reason for letter in letters if letter.processor == f"source-{source.name}"} == {"ATTRIBUTE_TOO_LONG", "NINETY", "ID_INVALID"}
    hints = [CODEC.decode(message.value(), ReceivedWebhook) for message in read_all(sender.settings, topics.WEBHOOK_INBOX)]
    assert [(hint.source, hint.entity_id, hint.kind) for hint in hints] == [(source.name, "70", "seventy")]
    record = await record_of(sender, source)
    assert (record.hints, record.parked, record.alert) == (1, 3, "FIFTY: there it is")


async def test_an_error_of_the_connector_does_not_end_its_feed(sender: Sender, numbers: NumbersFake, source: Source) -> None:
    numbers.last = 3
    raised = iter([RuntimeError("of ours"), ValueError("of ours, too")])

    def sometimes(source: Source, cursor: Cursor, now_ms: int) -> Any:
        for error in raised:
            raise error
        return (yield from CONNECTOR.polls["numbers"].begin(source, cursor, now_ms))

    source = replace(source, options={"base_url": numbers.base_url, "poll_every_s": 0.05})
    async with following(sender, lambda feed: poller.run(feed, replace(CONNECTOR.polls["numbers"], begin=sometimes)), source) as feed:
        await until(has_read(feed, 3))
    assert "of ours" not in feed.progress.record.last_error, "what it says may hold anything"


# Streams.


def listening(sender: Sender, source: Source, listen: Callable[[Source, Cursor], AsyncIterator[Found]]) -> Any:
    source = replace(source, options={"listen": listen})
    return following(sender, lambda feed: streamer.run(feed, CONNECTOR.streams["spoken"]), source, "spoken")


async def test_a_stream_is_opened_again_at_its_cursor(sender: Sender, source: Source) -> None:
    opened: list[Any] = []

    async def listen(source: Source, cursor: Cursor) -> AsyncIterator[Found]:
        """One more number with each connection; then it breaks, in one way or another."""
        opened.append(cursor.get("after", 0))
        number = opened[-1] + 1
        yield Found(commands=(enrolment(source, number),), cursor={"after": number})
        match number:
            case 1:
                raise ConnectionResetError("reset by the peer")
            case 2:
                raise RuntimeError("of ours")
            case 3:
                return
        await asyncio.Event().wait()

    async with listening(sender, source, listen) as feed:
        await until(lambda: feed.progress.cursor.get("after") == 4)
    assert opened == [0, 1, 2, 3] and sorted(enrolled(sender, source)) == [1, 2, 3, 4]


async def test_a_stream_on_which_nothing_is_said_stands(sender: Sender, source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streamer, "STANDS_AFTER_S", 0.05)

    async def listen(source: Source, cursor: Cursor) -> AsyncIterator[Found]:
        await asyncio.Event().wait()
        yield Found()

    async with listening(sender, source, listen) as feed:
        await until(lambda: feed.progress.record.succeeded_at_ms > 0)
    assert (await record_of(sender, source, "spoken")).succeeded_at_ms > 0


async def test_a_stream_that_cannot_be_opened_fails(sender: Sender, source: Source) -> None:
    attempts: list[None] = []

    async def listen(source: Source, cursor: Cursor) -> AsyncIterator[Found]:
        attempts.append(None)
        raise OSError("nobody listens")
        yield Found()

    async with listening(sender, source, listen) as feed:
        await until(lambda: len(attempts) >= 3)
        record = feed.progress.record
    assert record.failing_since_ms and not record.succeeded_at_ms and "nobody listens" in record.last_error
