"""deliveries -> delivery-audit over a real broker: one record per end, in the event's partition, in chains that restarts and kills go on with."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from confluent_kafka import KafkaException

from infra.fakes.receiver import HANG, Receiver
from schemas.codec import Codec
from schemas.records import DeliveryAudit, DeliveryResult
from sinks import audit as delivery_audit
from sinks import webhook
from sinks.audit import DeliveryLog, Head, last_of, record_of
from sinks.base import Health, Receipt, Verdict
from sinks.schedule import Schedule
from streams import kafka as kafka_clients
from streams import topics
from streams.audit import log as audit_log
from streams.audit.verification import Chain, Verifier
from streams.configuration import Configuration, Destination
from streams.settings import Settings
from tests.e2e.processes import Pipeline
from tests.sinks.broker import codec, fill, read_all, running, until_committed
from tests.sinks.examples import MOMENT_MS, SECRET, delivery_audit as example, event, item

pytestmark = pytest.mark.stack

GROUP = "sink-webhooks-crm"
DELIVERED = Receipt(verdict=Verdict.DELIVERED, status=204)
MakeSettings = Callable[..., Settings]


@pytest.fixture
def settings(kafka: Any, make_settings: MakeSettings) -> Settings:
    made = make_settings(clickhouse_url="http://127.0.0.1:1", redis_url="redis://127.0.0.1:1")
    kafka_clients.ensure_topics(made)
    return made


def webhooks(settings: Settings, *destinations: Destination) -> Callable[[asyncio.Event], Awaitable[None]]:
    configuration = Configuration(programs={}, sources={}, tokens=(), destinations={one.name: one for one in destinations})
    return lambda stop: webhook.run(settings, configuration, stop, Health())


def destination(receiver: Receiver, name: str = "crm", **fields: Any) -> Destination:
    return Destination(**{"name": name, "url": receiver.url, "secret": SECRET, "timeout_s": 5.0, **fields})


def records(settings: Settings) -> list[DeliveryAudit]:
    return [record for _, record in read_all(settings, topics.DELIVERY_AUDIT)]


def chains(settings: Settings) -> dict[str, Chain]:
    verifier = Verifier()
    for link in audit_log.links(settings, codec(), [one for one in audit_log.parts(settings) if one.topic is topics.DELIVERY_AUDIT]):
        verifier.add(link)
    return {chain.name: chain for chain in verifier.finish()}


def assert_whole(settings: Settings) -> None:
    assert {name: chain.broken for name, chain in chains(settings).items() if chain.broken or chain.beginning_is_gone} == {}


def test_a_record_says_what_was_delivered() -> None:
    told = replace(item(event(3, correlation_id="c-3", changed_attributes=("email",)), offset=8), attempt=4)
    record = record_of("crm", told, DELIVERED, MOMENT_MS + 9_000)
    assert (record.delivery_id, record.event_id, record.result, record.reason) == ("crm/grand-m-1-3", "grand-m-1-3", DeliveryResult.DELIVERED, None)
    assert (record.status, record.attempts, record.command_id, record.source_system) == (204, 4, "t-3", "pms")
    assert (record.changed_attributes, record.correlation_id, record.ended_at_ms) == (("email",), "c-3", MOMENT_MS + 9_000)


def test_a_record_says_why_it_was_not() -> None:
    refused = Receipt(verdict=Verdict.REFUSED, reason="RETRIES_EXHAUSTED", status=503)
    record = record_of("crm", item(event(3)), refused, MOMENT_MS)
    assert (record.result, record.reason, record.status) == (DeliveryResult.DEAD_LETTERED, "RETRIES_EXHAUSTED", 503)


async def test_every_event_has_one_record_per_destination_in_its_partition(settings: Settings) -> None:
    events = [event(sequence, f"m-{member}") for sequence in range(1, 6) for member in range(20)]
    fill(settings, topics.EVENTS, [*events, b"poison"])
    async with Receiver(SECRET) as receiver, Receiver(SECRET) as other:
        only = destination(other, "app", events=frozenset({"TIER_CHANGED"}))
        async with running(webhooks(settings, destination(receiver), destination(other, "web"), only)):
            for name in ("crm", "web", "app"):
                await until_committed(settings, f"sink-webhooks-{name}")
    assert Counter(record.delivery_id for record in records(settings)) == {
        f"{name}/{one.event_id}": 1 for name in ("crm", "web") for one in events
    }  # fmt: skip
    assert set(chains(settings)) == {f"delivery-audit/{number}/{name}" for number in range(2) for name in ("crm", "web")}
    assert_whole(settings)
    partition_of = {key: number for number in range(2) for key in keys(settings, topics.EVENTS, number)}
    assert all(partition_of[key] == number for number in range(2) for key in keys(settings, topics.DELIVERY_AUDIT, number))


def keys(settings: Settings, topic: topics.Topic, partition: int) -> set[bytes]:
    consumer = kafka_clients.consumer(settings, "keys")
    place = kafka_clients.TopicPartition(topic.name(settings.topic_prefix), partition, 0)
    _, high = consumer.get_watermark_offsets(place, timeout=10)
    consumer.assign([place])
    found = {message.key() or b"" for message in consumer.consume(high, 20)} if high else set()
    consumer.close()
    return found


async def test_a_restart_goes_on_with_the_chain(settings: Settings) -> None:
    async with Receiver(SECRET) as receiver:
        for sequence in range(1, 4):
            fill(settings, topics.EVENTS, [event(sequence, f"m-{member}") for member in range(20)])
            async with running(webhooks(settings, destination(receiver))):
                await until_committed(settings, GROUP)
    assert_whole(settings)
    assert sum(chain.records for chain in chains(settings).values()) == 60


async def test_a_killed_sink_leaves_an_unbroken_chain(settings: Settings, tmp_path: Any) -> None:
    """Killed in the middle of its deliveries, with one member's receiver hanging. What is delivered again has a record of its own."""
    async with Receiver(SECRET) as receiver:
        receiver.script(*[HANG] * 3, member="grand/stuck")
        file = tmp_path / "loyalty.toml"
        file.write_text(
            '[programs.grand]\ntiers = [{name = "MEMBER", threshold_points = 0}]\n[programs.grand.earn]\npoints_per_unit = {EUR = 10}\n'
            f'[destinations.crm]\nurl = "{receiver.url}"\nsecret = "{SECRET}"\ntimeout_s = 2\n'
        )
        configured = replace(settings, config_file=str(file))
        fill(settings, topics.EVENTS, [event(1, "stuck")])
        events = [event(sequence, f"m-{member}") for sequence in range(1, 41) for member in range(20)]
        fill(settings, topics.EVENTS, events)
        for share in (200, 500):
            sink = Pipeline(configured, "sink", "webhooks")
            try:
                await receiver.wait_for(lambda r, share=share: len(r.accepted) >= share, timeout_s=60)
            finally:
                sink.kill()
        sink = Pipeline(configured, "sink", "webhooks")
        try:
            await until_committed(settings, GROUP, timeout_s=60)
            assert sink.stop() == 0
        finally:
            sink.kill()
        deliveries = Counter(one.webhook_id for one in receiver.accepted)
    assert_whole(settings)
    found = Counter(record.event_id for record in records(settings))
    assert set(found) == {"grand-stuck-1", *(one.event_id for one in events)}  # None is missing.
    assert all(1 <= count <= deliveries[event_id] for event_id, count in found.items())


async def test_no_offset_is_committed_before_its_record_is_acknowledged(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    written = asyncio.Event()
    original = DeliveryLog.write

    async def write(self: DeliveryLog, record: DeliveryAudit, partition: int) -> None:
        await written.wait()
        await original(self, record, partition)

    monkeypatch.setattr(DeliveryLog, "write", write)
    fill(settings, topics.EVENTS, [event(1)])
    async with Receiver(SECRET) as receiver:
        async with running(webhooks(settings, destination(receiver))):
            await receiver.wait_for(lambda r: len(r.accepted) == 1)
            with pytest.raises(TimeoutError):
                await until_committed(settings, GROUP, timeout_s=2)
            written.set()
            await until_committed(settings, GROUP)
    assert len(records(settings)) == 1


async def test_the_last_record_of_a_destination_far_back_is_found(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery_audit, "READ_FIRST", 3)
    delivery_log = DeliveryLog(settings, codec())
    for number in range(1, 3):
        await delivery_log.write(example(number, destination="quiet"), 0)
    await asyncio.gather(*(delivery_log.write(example(number), 0) for number in range(1, 51)))
    await delivery_log.close()
    heads = {name: last_of(settings, codec(), name, 0) for name in ("quiet", "crm", "new")}
    assert {name: head.number for name, head in heads.items()} == {"quiet": 2, "crm": 50, "new": 0}
    assert heads["quiet"].record_hash == chains(settings)["delivery-audit/0/quiet"].last_hash
    assert last_of(settings, codec(), "crm", 1) == Head()


class Unreliable(DeliveryLog):
    """Says of some records that they were not acknowledged: of half of them truly, and of the other half though they have arrived."""

    def __init__(self, settings: Settings, some: Codec) -> None:
        super().__init__(settings, some, schedule=Schedule(first_s=0.01, longest_s=0.01))
        self.count = 0

    def _send(self, record: DeliveryAudit, partition: int) -> "asyncio.Future[None]":
        self.count += 1
        if self.count % 7 == 3:
            # As a producer that has given up: neither this one nor those of the batch after it arrive.
            return _failed()
        sent = super()._send(record, partition)
        return asyncio.ensure_future(_then_fail(sent)) if self.count % 7 == 5 else sent


def _failed() -> "asyncio.Future[None]":
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    future.set_exception(KafkaException("lost"))
    return future


async def _then_fail(sent: "asyncio.Future[None]") -> None:
    await sent
    raise KafkaException("acknowledgement lost")


async def test_without_an_acknowledgement_the_topic_says_what_has_arrived(settings: Settings) -> None:
    delivery_log = Unreliable(settings, codec())
    for number in range(1, 41):  # One at a time, so that each batch is one record.
        await delivery_log.write(example(number), 0)
    await delivery_log.close()
    assert [record.event_id for record in records(settings)] == [example(number).event_id for number in range(1, 41)]
    assert_whole(settings)


async def test_what_waits_when_a_partition_leaves_is_left_to_its_next_owner(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()

    def unavailable(*_: Any) -> Head:
        loop.call_soon_threadsafe(asked.set)
        raise KafkaException("away")

    delivery_log = DeliveryLog(settings, codec())
    with monkeypatch.context() as patched:
        patched.setattr(delivery_audit, "last_of", unavailable)
        writing = asyncio.ensure_future(delivery_log.write(example(1), 0))
        await asyncio.wait_for(asked.wait(), 10)
        delivery_log.forget("crm", [0])
        await asyncio.wait_for(writing, 10)
    assert records(settings) == []
    await delivery_log.write(example(2), 0)  # It comes back.
    await delivery_log.close()
    assert [record.event_id for record in records(settings)] == [example(2).event_id]
    assert_whole(settings)


async def test_kafka_away_is_waited_for(settings: Settings, kafka: Any) -> None:
    delivery_log = DeliveryLog(settings, codec())
    await delivery_log.write(example(1), 0)
    kafka.pause()
    try:
        writing: Sequence[asyncio.Future[None]] = [asyncio.ensure_future(delivery_log.write(example(number), 0)) for number in (2, 3)]
        done, _ = await asyncio.wait(writing, timeout=2)
        assert not done
    finally:
        kafka.resume()
    await asyncio.wait_for(asyncio.gather(*writing), 30)
    await delivery_log.close()
    assert [record.chain_number for record in records(settings)] == [1, 2, 3]
    assert_whole(settings)


@pytest.mark.parametrize(("correlation_id", "sent"), [("c-1", "c-1"), (None, None), ("two\r\nlines: x", None), ("é", None), ("x" * 200, None)])
async def test_a_webhook_carries_its_correlation_id(correlation_id: str | None, sent: str | None) -> None:
    async with Receiver(SECRET) as receiver:
        hook = webhook.Webhook(destination(receiver))
        receipt = await hook.deliver(item(event(1, correlation_id=correlation_id)))
        await hook.close()
        assert receipt.verdict is Verdict.DELIVERED
        assert receiver.accepted[0].headers.get("x-correlation-id") == sent
