"""One transaction at a time over a real broker: takeovers, histories that are compacted, outages, records that are too large."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource

from schemas.records import DeliveryProgress, ProgressKind
from sinks.delivery.journal import Doubtful, Fenced, Journal, Write, key_of
from streams import kafka as kafka_clients
from streams import topics
from streams.errors import ConfigurationError
from streams.settings import Settings
from tests.sinks.broker import codec, read_all

pytestmark = pytest.mark.stack

MakeSettings = Callable[..., Settings]
OpenJournal = Callable[..., tuple[Journal, list[DeliveryProgress]]]


@pytest.fixture
def settings(kafka: Any, make_settings: MakeSettings) -> Settings:
    made = make_settings()
    kafka_clients.ensure_topics(made, (topics.DELIVERY_PROGRESS, topics.DELIVERY_NOTICES, topics.DEAD_LETTERS))
    return made


@pytest.fixture
def open_journal(settings: Settings) -> Iterator[OpenJournal]:
    """`open_journal(topic, partition)` -> a journal and what it has read."""
    with ExitStack() as stack:

        def make(topic: topics.Topic = topics.EVENTS, partition: int = 0) -> tuple[Journal, list[DeliveryProgress]]:
            journal = Journal(settings, codec(), topic, partition)
            stack.callback(journal.close)
            return journal, journal.open()

        yield make


def feed(position: int, stream: str = "events") -> DeliveryProgress:
    return DeliveryProgress(kind=ProgressKind.FEED, topic=stream, position=position)


def lane(member: str, *offsets: int, channel: str = "crm", segment: int = 0) -> DeliveryProgress:
    return DeliveryProgress(
        kind=ProgressKind.LANE, topic="events", destination="crm", channel=channel, member=member, segment=segment, offsets=offsets
    )  # fmt: skip


def kept(settings: Settings, record: DeliveryProgress, partition: int = 0) -> Write:
    return Write(topics.DELIVERY_PROGRESS.name(settings.topic_prefix), partition, key_of(record), codec().encode(record))


def deleted(settings: Settings, record: DeliveryProgress, partition: int = 0) -> Write:
    return Write(topics.DELIVERY_PROGRESS.name(settings.topic_prefix), partition, key_of(record), None)


@pytest.mark.parametrize("other", [
    feed(1, "delivery-notices"),
    lane("grand/m-1", segment=1),
    lane("grand/m-2"),
    lane("grand/m-1", channel="crm#batch"),
    DeliveryProgress(kind=ProgressKind.CHANNEL, topic="events", destination="crm", channel="crm"),
    DeliveryProgress(kind=ProgressKind.CHAIN, topic="events", destination="crm"),
    DeliveryProgress(kind=ProgressKind.CHAIN, topic="events", destination="app"),
    lane("grand/m-1|0"),
], ids=["stream", "segment", "member", "channel", "kind", "chain", "destination", "bar"])  # fmt: skip
def test_keys_differ_in_whatever_tells_records_apart(other: DeliveryProgress) -> None:
    assert key_of(other) != key_of(lane("grand/m-1"))
    assert key_of(other) == key_of(codec().decode(codec().encode(other), DeliveryProgress))


async def test_the_newest_record_of_each_key_is_read_and_what_was_deleted_is_not(settings: Settings, open_journal: OpenJournal) -> None:
    journal, found = open_journal()
    assert found == []
    await journal.commit([kept(settings, feed(1)), kept(settings, lane("grand/m-1", 1, 2)), kept(settings, lane("grand/m-2", 3))])
    await journal.commit([kept(settings, feed(2)), deleted(settings, lane("grand/m-1")), kept(settings, lane("grand/m-2", 3, 4))])
    await journal.commit([kept(settings, lane("grand/m-1", 9)), kept(settings, lane("grand/m-3", 5))])
    await journal.commit([deleted(settings, lane("grand/m-3")), deleted(settings, lane("never"))])

    again, found = open_journal()
    assert sorted(found, key=key_of) == sorted([feed(2), lane("grand/m-1", 9), lane("grand/m-2", 3, 4)], key=key_of)


async def test_partitions_and_streams_do_not_see_each_other(settings: Settings, open_journal: OpenJournal) -> None:
    events, _ = open_journal()
    notices, _ = open_journal(topics.DELIVERY_NOTICES)
    second, _ = open_journal(topics.EVENTS, 1)
    await events.commit([kept(settings, feed(1))])
    await notices.commit([kept(settings, feed(2, "delivery-notices"))])
    await second.commit([kept(settings, feed(3), 1)])
    await events.commit([kept(settings, feed(4))])  # None has fenced another.

    assert open_journal()[1] == [feed(4)]
    assert open_journal(topics.DELIVERY_NOTICES)[1] == [feed(2, "delivery-notices")]
    assert open_journal(topics.EVENTS, 1)[1] == [feed(3)]


async def test_an_older_journal_is_fenced_and_nothing_of_it_is_visible(settings: Settings, open_journal: OpenJournal) -> None:
    older, _ = open_journal()
    await older.commit([kept(settings, feed(1))])
    newer, found = open_journal()
    assert found == [feed(1)]

    with pytest.raises(Fenced, match="delivery.events.0"):
        await older.commit([kept(settings, feed(2)), kept(settings, lane("grand/m-1", 2))])
    await newer.commit([kept(settings, feed(3))])

    assert open_journal()[1] == [feed(3)]
    assert [record.position for _, record in read_all(settings, topics.DELIVERY_PROGRESS)] == [1, 3]


async def test_what_an_older_journal_left_open_never_becomes_visible(settings: Settings, open_journal: OpenJournal) -> None:
    older, _ = open_journal()
    await older.commit([kept(settings, feed(1))])
    older._write([kept(settings, feed(2))])  # As if its process had been killed here: the records are in the log, and no mark is.

    newer, found = open_journal()
    assert found == [feed(1)]
    await newer.commit([kept(settings, lane("grand/m-1", 3))])
    assert sorted(open_journal()[1], key=key_of) == sorted([feed(1), lane("grand/m-1", 3)], key=key_of)


async def test_a_transaction_of_the_other_stream_does_not_hide_what_was_committed_behind_it(settings: Settings, open_journal: OpenJournal) -> None:
    """Readers of committed records see nothing behind an open transaction: the opening waits for its end."""
    notices, _ = open_journal(topics.DELIVERY_NOTICES)
    notices._write([kept(settings, feed(7, "delivery-notices"))])
    events = Journal(settings, codec(), topics.EVENTS, 0)
    try:
        opening = asyncio.create_task(asyncio.to_thread(events.open))
        assert not (await asyncio.wait((opening,), timeout=1.0))[0]
        notices._abort()
        assert await opening == []
    finally:
        events.close()


async def test_a_record_without_a_partition_goes_where_all_producers_put_its_key(settings: Settings, open_journal: OpenJournal) -> None:
    journal, _ = open_journal()
    name = topics.DELIVERY_NOTICES.name(settings.topic_prefix)
    keys = [f"destination-{number}".encode() for number in range(20)]
    await journal.commit([Write(name, None, key, key, [("about", key)]) for key in keys])
    producer = kafka_clients.producer(settings)
    for key in keys:
        producer.produce(name, value=key, key=key)
    assert producer.flush(10) == 0

    places, headers = _places(settings, name)
    assert all(len(places[key]) == 2 and len(set(places[key])) == 1 for key in keys)
    assert {key: [("about", key)] for key in keys} == headers


def _places(settings: Settings, name: str) -> tuple[dict[bytes, list[int]], dict[bytes, list[tuple[str, bytes]]]]:
    """Key -> partitions of its records, and key -> headers of those that have any."""
    consumer = kafka_clients.consumer(settings, "places")
    consumer.subscribe([name])
    places: dict[bytes, list[int]] = {}
    headers: dict[bytes, list[tuple[str, bytes]]] = {}
    while sum(map(len, places.values())) < 40:
        message = consumer.poll(10)
        assert message is not None and message.error() is None
        places.setdefault(message.key(), []).append(message.partition())
        if message.headers():
            headers[message.key()] = message.headers()
    consumer.close()
    return places, headers


async def test_a_record_that_the_broker_never_takes_names_its_topic_and_the_setting(settings: Settings, open_journal: OpenJournal) -> None:
    name = topics.DEAD_LETTERS.name(settings.topic_prefix)
    journal, _ = open_journal()
    with pytest.raises(ConfigurationError, match=rf"{name}.*max\.message\.bytes"):
        await journal.commit([kept(settings, feed(1)), Write(name, 0, b"k", bytes(2_000_000))])

    again, found = open_journal()
    assert found == []
    entries = [ConfigEntry("max.message.bytes", "3000000", incremental_operation=AlterConfigOpType.SET)]
    admin = kafka_clients.AdminClient(kafka_clients.client_config(settings))
    (altered,) = admin.incremental_alter_configs([ConfigResource(ConfigResource.Type.TOPIC, name, incremental_configs=entries)]).values()
    altered.result(10)
    await again.commit([kept(settings, feed(1)), Write(name, 0, b"k", bytes(2_000_000))])
    assert open_journal()[1] == [feed(1)]


async def test_an_outage_is_waited_for(kafka: Any, settings: Settings, open_journal: OpenJournal) -> None:
    journal, _ = open_journal()
    await journal.commit([kept(settings, feed(1))])
    await asyncio.to_thread(kafka.kill)
    try:
        committing = asyncio.create_task(journal.commit([kept(settings, feed(2))]))
        assert not (await asyncio.wait((committing,), timeout=1.0))[0]
    finally:
        await asyncio.to_thread(kafka.start)
    await asyncio.wait_for(committing, 30)
    assert open_journal()[1] == [feed(2)]


async def test_the_close_does_not_wait_for_an_outage_to_end(kafka: Any, settings: Settings, open_journal: OpenJournal) -> None:
    journal, _ = open_journal()
    await journal.commit([kept(settings, feed(1))])
    await asyncio.to_thread(kafka.pause)
    try:
        committing = asyncio.create_task(journal.commit([kept(settings, feed(2))]))
        assert not (await asyncio.wait((committing,), timeout=1.0))[0]
        journal.close()
        with pytest.raises(Doubtful):
            await asyncio.wait_for(committing, 15)
    finally:
        await asyncio.to_thread(kafka.resume)
    assert open_journal()[1] in ([feed(1)], [feed(2)])
