"""deliveries -> delivery-audit over a real broker: one record per end, in the event's partition, in chains that restarts and kills go on with."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from infra.fakes.receiver import HANG, Receiver
from schemas.records import DeliveryAudit, DeliveryResult
from sinks import webhook
from sinks.base import Health
from sinks.delivery.evidence import RETRIES_EXHAUSTED, Ended, audit_of
from sinks.delivery.records import Outgoing
from streams import kafka as kafka_clients
from streams import topics
from streams.audit import log as audit_log
from streams.audit.verification import Chain, Verifier
from streams.configuration import Configuration
from streams.destinations.model import Destination
from streams.settings import Settings
from tests.e2e.processes import Pipeline
from tests.sinks.broker import codec, fill, read_all, running
from tests.sinks.delivery.support import LOOPBACK, destination
from tests.sinks.examples import MOMENT_MS, SECRET, delivery_notice, event

MakeSettings = Callable[..., Settings]


@pytest.fixture
def settings(kafka: Any, make_settings: MakeSettings) -> Settings:
    made = make_settings(clickhouse_url="http://127.0.0.1:1", redis_url="redis://127.0.0.1:1", delivery_allowed_addresses=LOOPBACK)
    kafka_clients.ensure_topics(made)
    return made


def webhooks(settings: Settings, *destinations: Destination) -> Callable[[asyncio.Event], Awaitable[None]]:
    configuration = Configuration(programs={}, sources={}, tokens=(), destinations={one.name: one for one in destinations})
    return lambda stop: webhook.run(settings, configuration, stop, Health())


def records(settings: Settings) -> list[DeliveryAudit]:
    return [record for _, record in read_all(settings, topics.DELIVERY_AUDIT)]


async def until_recorded(settings: Settings, count: int, timeout_s: float = 30.0) -> None:
    """Return when so many deliveries are on record. Raises TimeoutError."""
    async with asyncio.timeout(timeout_s):
        while len({record.delivery_id for record in await asyncio.to_thread(records, settings)}) < count:
            await asyncio.sleep(0.1)


def chains(settings: Settings) -> dict[str, Chain]:
    verifier = Verifier()
    for link in audit_log.links(settings, codec(), [one for one in audit_log.parts(settings) if one.topic is topics.DELIVERY_AUDIT]):
        verifier.add(link)
    return {chain.name: chain for chain in verifier.finish()}


def assert_whole(settings: Settings) -> None:
    assert {name: chain.broken for name, chain in chains(settings).items() if chain.broken or chain.beginning_is_gone} == {}


def keys(settings: Settings, topic: topics.Topic, partition: int) -> set[bytes]:
    consumer = kafka_clients.consumer(settings, "keys")
    place = kafka_clients.TopicPartition(topic.name(settings.topic_prefix), partition, 0)
    _, high = consumer.get_watermark_offsets(place, timeout=10)
    consumer.assign([place])
    found: set[bytes] = set()
    while high and consumer.position([place])[0].offset < high:
        found |= {message.key() or b"" for message in consumer.consume(100, 0.2)}
    consumer.close()
    return found


def ended(record: Any, **fields: Any) -> Ended:
    one = Outgoing(offset=8, key=b"grand/m-1", record=record, timestamp_ms=MOMENT_MS)
    return Ended(**{"destination": "crm", "record": one, "result": DeliveryResult.DELIVERED, "ended_at_ms": MOMENT_MS + 9_000, **fields})


def test_a_record_says_what_was_delivered() -> None:
    record = audit_of(ended(event(3, correlation_id="c-3", changed_attributes=("email",)), status=204, attempts=4))
    assert (record.delivery_id, record.event_id, record.result, record.reason) == ("crm/grand-m-1-3", "grand-m-1-3", DeliveryResult.DELIVERED, None)
    assert (record.status, record.attempts, record.command_id, record.source_system) == (204, 4, "t-3", "pms")
    assert (record.changed_attributes, record.correlation_id, record.ended_at_ms) == (("email",), "c-3", MOMENT_MS + 9_000)


def test_a_record_says_why_it_was_not() -> None:
    record = audit_of(ended(event(3), result=DeliveryResult.DEAD_LETTERED, reason=RETRIES_EXHAUSTED, status=503))
    assert (record.result, record.reason, record.status) == (DeliveryResult.DEAD_LETTERED, "RETRIES_EXHAUSTED", 503)


def test_a_notice_has_a_record_too() -> None:
    record = audit_of(ended(delivery_notice(3)))
    assert (record.delivery_id, record.kind, record.program_id, record.member_id) == ("crm/crm-exhausted-3", "DELIVERY_EXHAUSTED", "grand", "m-1")


async def test_every_event_has_one_record_per_destination_in_its_partition(settings: Settings) -> None:
    events = [event(sequence, f"m-{member}") for sequence in range(1, 6) for member in range(20)]
    fill(settings, topics.EVENTS, [*events, b"poison"])
    async with Receiver(SECRET) as receiver:
        only = destination(receiver, "app", events=frozenset({"TIER_CHANGED"}))
        async with running(webhooks(settings, destination(receiver), destination(receiver, "web"), only)):
            await until_recorded(settings, 2 * len(events))
    assert Counter(record.delivery_id for record in records(settings)) == {f"{name}/{one.event_id}": 1 for name in ("crm", "web") for one in events}
    assert set(chains(settings)) == {f"delivery-audit/{number}/{name}" for number in range(2) for name in ("crm", "web")}
    assert_whole(settings)
    for number in range(2):
        assert keys(settings, topics.DELIVERY_AUDIT, number) == keys(settings, topics.EVENTS, number) - {b"grand/poison"}


async def test_a_restart_goes_on_with_the_chain(settings: Settings) -> None:
    async with Receiver(SECRET) as receiver:
        for sequence in (1, 2):
            fill(settings, topics.EVENTS, [event(sequence, f"m-{member}") for member in range(20)])
            async with running(webhooks(settings, destination(receiver))):
                await until_recorded(settings, sequence * 20)
    assert_whole(settings)
    assert sorted(chain.name for chain in chains(settings).values()) == [f"delivery-audit/{number}/crm" for number in range(2)]
    assert sum(chain.records for chain in chains(settings).values()) == 40


async def test_a_killed_sink_leaves_an_unbroken_chain(settings: Settings, tmp_path: Path) -> None:
    """Killed in the middle of its deliveries, with one member's receiver hanging. What is delivered again has no more records than deliveries."""
    async with Receiver(SECRET) as receiver:
        receiver.script(*[HANG] * 3, member="grand/stuck")
        file = tmp_path / "loyalty.toml"
        file.write_text(
            '[programs.grand]\ntiers = [{name = "MEMBER", threshold_points = 0}]\n[programs.grand.earn]\npoints_per_unit = {EUR = 10}\n'
            f'[destinations.crm]\nurl = "{receiver.url}"\nsecret = "{SECRET}"\ntimeout_s = 2\n'
        )
        configured = replace(settings, config_file=str(file))
        events = [event(1, "stuck"), *(event(sequence, f"m-{member}") for sequence in range(1, 41) for member in range(20))]
        fill(settings, topics.EVENTS, events)
        for share in (200, 500):
            sink = Pipeline(configured, "sink", "webhooks")
            try:
                await receiver.wait_for(lambda r, share=share: len(r.accepted) >= share, timeout_s=60)
            finally:
                sink.kill()
        sink = Pipeline(configured, "sink", "webhooks")
        try:
            await until_recorded(settings, len(events), timeout_s=60)
            assert await asyncio.to_thread(sink.stop) == 0
        finally:
            sink.kill()
        deliveries = Counter(one.webhook_id for one in receiver.accepted)
    assert_whole(settings)
    found = Counter(record.event_id for record in records(settings))
    assert set(found) == {one.event_id for one in events}
    assert all(1 <= count <= deliveries[event_id] for event_id, count in found.items())
