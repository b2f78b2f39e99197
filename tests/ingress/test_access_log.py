"""Records of reads over a real broker: in whole chains, waited for, and none missing whatever is lost on the way."""

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka import KafkaException, Producer

from schemas.records import DeliveryAudit
from sinks.schedule import Schedule
from streams import kafka as kafka_clients
from streams import topics
from streams.audit import log as audit_log
from streams.audit.verification import Chain, Verifier
from streams.errors import ContractError
from streams.ingress.access_log import AccessLog
from streams.settings import Settings
from tests.sinks.broker import codec, read_all
from tests.sinks.examples import delivery_audit

pytestmark = pytest.mark.stack

SOON = Schedule(first_s=0.01, longest_s=0.01)


@pytest.fixture
def settings(kafka: Any, make_settings: Callable[..., Settings]) -> Settings:
    made = make_settings(clickhouse_url="http://127.0.0.1:1", redis_url="redis://127.0.0.1:1")
    kafka_clients.ensure_topics(made)
    return made


def read_of(number: int, reader: str = "api:desk") -> DeliveryAudit:
    return delivery_audit(number, destination=reader, delivery_id="", chain_number=0, previous_hash="", record_hash="")


def records(settings: Settings) -> list[DeliveryAudit]:
    return [record for _, record in read_all(settings, topics.DELIVERY_AUDIT)]


def chains(settings: Settings) -> list[Chain]:
    verifier = Verifier()
    for link in audit_log.links(settings, codec(), [one for one in audit_log.parts(settings) if one.topic is topics.DELIVERY_AUDIT]):
        verifier.add(link)
    return verifier.finish()


def assert_whole(settings: Settings) -> None:
    assert [chain.name for chain in chains(settings) if chain.broken or chain.beginning_is_gone] == []


async def test_each_reader_has_a_chain_of_its_own(settings: Settings) -> None:
    log = AccessLog(settings, codec())
    await log.write(read_of(1))
    await asyncio.gather(*(log.write(read_of(number, "api:desk" if number % 3 else "api:app")) for number in range(2, 101)))
    await log.close()
    assert_whole(settings)
    assert {chain.name.split("/")[2].split("@")[0]: chain.last_number for chain in chains(settings)} == {"api:desk": 67, "api:app": 33}
    assert all(record.delivery_id == f"{record.destination}/{record.event_id}" for record in records(settings))


async def test_two_processes_do_not_meet_in_a_chain(settings: Settings) -> None:
    logs = [AccessLog(settings, codec()) for _ in range(2)]
    await asyncio.gather(*(log.write(read_of(number)) for log in logs for number in range(1, 21)))
    for log in logs:
        await log.close()
    assert_whole(settings)
    assert [chain.last_number for chain in chains(settings)] == [20, 20]


async def test_kafka_away_is_waited_for(settings: Settings, kafka: Any) -> None:
    log = AccessLog(settings, codec())
    await log.write(read_of(1))
    kafka.pause()
    try:
        writing = [asyncio.ensure_future(log.write(read_of(number))) for number in (2, 3, 4)]
        done, _ = await asyncio.wait(writing, timeout=1)
        assert not done
        writing[1].cancel()  # Whoever asked is gone. It has read all the same.
    finally:
        kafka.resume()
    async with asyncio.timeout(30):
        await asyncio.gather(writing[0], writing[2])
    await log.close()
    assert [record.chain_number for record in records(settings)] == [1, 2, 3, 4]
    assert_whole(settings)


class Unreliable(AccessLog):
    """Its producer refuses some records, and of others it is not heard that they have arrived."""

    count = 0

    def _produce(self, producer: Producer, record: DeliveryAudit) -> "asyncio.Future[bool]":
        self.count += 1
        if self.count % 7 == 3:
            raise KafkaException("refused")
        sent = super()._produce(producer, record)
        return asyncio.ensure_future(_unheard(sent)) if self.count % 7 == 5 else sent


async def _unheard(sent: "asyncio.Future[bool]") -> bool:
    await sent
    return False


@pytest.mark.parametrize("at_once", [1, 5], ids=["one by one", "five at once"])
async def test_what_was_not_acknowledged_is_on_record_again_and_every_chain_is_whole(settings: Settings, at_once: int) -> None:
    log = Unreliable(settings, codec(), schedule=SOON)
    for first in range(1, 16, at_once):
        await asyncio.gather(*(log.write(read_of(number)) for number in range(first, first + at_once)))
    await log.close()
    found = Counter(record.event_id for record in records(settings))
    assert set(found) == {read_of(number).event_id for number in range(1, 16)}
    assert max(found.values()) > 1, "some had arrived"
    assert len(chains(settings)) > 1
    assert_whole(settings)


async def test_a_broker_that_takes_no_more_records_is_waited_for(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real failure of a real producer, which ends it for good; the next one goes on."""
    healthy = kafka_clients.producer
    made: list[Producer] = []

    def first_one_spoils(*args: Any, **options: Any) -> Producer:
        made.append(healthy(*args, **options | ({"message_timeout_ms": 3} if not made else {})))
        return made[-1]

    monkeypatch.setattr(kafka_clients, "producer", first_one_spoils)
    log = AccessLog(settings, codec(), schedule=SOON)
    async with asyncio.timeout(30):
        await asyncio.gather(*(log.write(read_of(number)) for number in range(1, 21)))
    await log.close()
    assert len(made) > 1
    assert {record.event_id for record in records(settings)} == {read_of(number).event_id for number in range(1, 21)}
    assert_whole(settings)


async def test_what_no_record_can_hold_holds_up_nobody(settings: Settings) -> None:
    log = AccessLog(settings, codec())
    with pytest.raises(ContractError):
        await log.write(read_of(1).but(member_id="\ud800"))
    await log.write(read_of(2))
    await log.close()
    assert [record.chain_number for record in records(settings)] == [1]
