"""Kafka away: no false yes, a quick no, and back to work without help."""

import asyncio
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from infra import ports
from infra.kafka_server import KafkaServer
from schemas.records import Transaction
from streams import topics
from streams.ingress.publisher import Publisher
from streams.settings import Settings
from tests.connectors.apaleo.test_apaleo import PAYLOADS
from tests.ingress.support import CODEC, NOBODY, Decider, Service, basic_headers, make_configuration, read_all

pytestmark = pytest.mark.stack

EARN = {"program_id": "grand", "member_id": "M-1", "kind": "EARN", "points": 5}
ACKNOWLEDGEMENT_TIMEOUT_S = 1.5
REFUSED_PAUSE_S = 0.05  # Clients that ask on and on would take the processors from the broker that is to come back.


@pytest.fixture(scope="module")
def exposed(kafka: KafkaServer, make_settings: Any) -> Iterator[Service]:
    settings = make_settings(clickhouse_url=NOBODY)
    service = Service(settings, make_configuration(), acknowledgement_timeout_s=ACKNOWLEDGEMENT_TIMEOUT_S)
    service.wait_ready()
    yield service
    service.stop()


async def test_without_a_broker_the_service_says_so_and_takes_nothing() -> None:
    port = ports.choose()
    service = Service(replace(Settings(), kafka_bootstrap_servers=f"127.0.0.1:{port}"), make_configuration())
    try:
        assert (await service.request("GET", "/healthz", token=None)).status == 200
        readiness = await service.request("GET", "/readyz", token=None)
        assert readiness.status == 503 and "LOYALTY_KAFKA_BOOTSTRAP_SERVERS" in readiness.json["reason"]
        started_s = time.monotonic()
        answer = await service.post("transactions", EARN | {"transaction_id": "t"})
        assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
        assert (await service.webhook("apaleo", (PAYLOADS / "checked_out.json").read_bytes(), basic_headers())).status == 503
        assert time.monotonic() - started_s < 2
    finally:
        service.stop()


async def test_a_broker_that_hangs_costs_no_more_than_the_acknowledgements_time(exposed: Service, kafka: KafkaServer) -> None:
    assert (await exposed.post("transactions", EARN | {"transaction_id": "before"})).status == 202
    kafka.pause()
    try:
        started_s = time.monotonic()
        answers = await asyncio.gather(*(exposed.post("transactions", EARN | {"transaction_id": f"hung-{n}"}) for n in range(10)))
        assert {answer.status for answer in answers} == {503}
        bulk = await exposed.post("transactions", [EARN | {"transaction_id": "hung-bulk"}])
        assert bulk.status == 503 and "Retry-After" in bulk.headers
        assert time.monotonic() - started_s < 2 * ACKNOWLEDGEMENT_TIMEOUT_S + 5
    finally:
        kafka.resume()
    await back(exposed)


async def back(service: Service, within_s: float = 30) -> None:
    """Wait until commands are taken again."""
    deadline_s = time.monotonic() + within_s
    while (await service.post("transactions", EARN | {"transaction_id": "back"})).status != 202:
        assert time.monotonic() < deadline_s, "the service does not come back"


async def test_what_was_acknowledged_is_there_after_the_broker_was_killed(exposed: Service, kafka: KafkaServer) -> None:
    acknowledged: list[str] = []
    refused: list[int] = []
    stop = asyncio.Event()

    async def client(number: int) -> None:
        sent = 0
        while not stop.is_set():
            sent += 1
            name = f"kill-{number}-{sent}"
            answer = await exposed.post("transactions", EARN | {"transaction_id": name, "member_id": f"M-{name}"})
            if answer.status == 202:
                acknowledged.append(name)
            else:
                refused.append(answer.status)
                await asyncio.sleep(REFUSED_PAUSE_S)

    clients = [asyncio.create_task(client(number)) for number in range(8)]
    async with asyncio.timeout(60):
        while len(acknowledged) <= 50:
            await asyncio.sleep(0.01)
    kafka.kill()
    try:
        await asyncio.sleep(2 * ACKNOWLEDGEMENT_TIMEOUT_S)
    finally:
        await asyncio.to_thread(kafka.start)
    await back(exposed)
    stop.set()
    await asyncio.gather(*clients)
    messages = await asyncio.to_thread(read_all, exposed.settings, topics.TRANSACTIONS)
    there = {CODEC.decode(message.value(), Transaction).transaction_id for message in messages}
    assert set(refused) == {503}
    assert set(acknowledged) <= there

    decider = await asyncio.to_thread(Decider, exposed.settings)
    try:
        payload = EARN | {"transaction_id": "after", "category": "APPLIED"}
        answer = await exposed.post("transactions", payload, headers={"Prefer": "wait=20"})
        assert (answer.status, answer.json["status"]) == (200, "applied"), "decisions are not read any more"
    finally:
        decider.stop()


async def test_a_producer_that_cannot_go_on_is_replaced(kafka: Any, make_settings: Any) -> None:
    settings = make_settings(clickhouse_url=NOBODY)
    publisher = Publisher(settings)
    first = publisher._producer
    publisher._broken = True
    while publisher._producer is first:
        await asyncio.sleep(0.01)
    await publisher.close()


async def test_too_much_in_flight_is_turned_away_at_once() -> None:
    port = ports.choose()
    publisher = Publisher(replace(Settings(), kafka_bootstrap_servers=f"127.0.0.1:{port}"), timeout_s=1.0, in_flight_max=3)
    futures = [publisher.send("t", b"k", b"v", {}) for _ in range(5)]
    assert [future.done() for future in futures] == [False, False, False, True, True]
    results = await asyncio.gather(*futures, return_exceptions=True)
    assert all("Kafka" in str(result) for result in results)
    await publisher.close()
