"""webhook-inbox -> reservation -> earn, against a PMS that misbehaves."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import aiohttp
import pytest

from infra.fakes.apaleo import ApaleoFake
from infra.fakes.server import Misbehaviour
from schemas.records import DeadLetter, Transaction, TransactionKind
from streams import topics
from streams.connectors.apaleo import CONNECTOR, inbound
from streams.ingress import rereader
from tests.ingress.support import CODEC, NOBODY, PMS_PASSWORD, Looped, Service, make_configuration, read_all

pytestmark = pytest.mark.stack


@pytest.fixture(scope="module")
def pms() -> Iterator[ApaleoFake]:
    looped = Looped()
    fake = ApaleoFake()
    looped.run(fake.start())
    yield fake
    looped.run(fake.stop())
    looped.close()


@pytest.fixture(scope="module")
def rereading(kafka: Any, valkey: Any, make_settings: Any, pms: ApaleoFake) -> Iterator[Service]:
    """An ingress of its own, which follows the hints of the fake."""
    service = Service(make_settings(clickhouse_url=NOBODY), make_configuration(pms.base_url))
    service.wait_ready()

    async def start() -> tuple[asyncio.Event, asyncio.Task[None]]:
        stop = asyncio.Event()
        return stop, asyncio.create_task(rereader.run(service.parts, service.parts.configuration.sources["apaleo"], CONNECTOR.read, stop))

    async def finish() -> None:
        stop.set()
        await task

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inbound, "ANSWER_TIMEOUT_S", 1.0)
        stop, task = service.run(start())
        yield service
    service.run(finish())
    service.stop()


@pytest.fixture
async def subscribed(pms: ApaleoFake, rereading: Service) -> AsyncIterator[Service]:
    """The fake sends its webhooks to the ingress, from the loop of the test."""
    pms.subscriptions.clear()
    pms.misbehaviours.clear()
    async with aiohttp.ClientSession() as session:
        pms._session, before = session, pms._session
        url = rereading.url.replace("http://", f"http://pms:{PMS_PASSWORD}@") + "/v1/webhooks/apaleo"
        await pms.subscribe(url, ["reservation/checked-out", "reservation/check-in-reverted", "reservation/canceled"])
        yield rereading
        pms._session = before


async def transactions(service: Service, member_id: str, count: int, within_s: float = 20) -> list[Transaction]:
    """The member's transactions, once there are `count`."""
    deadline_s = time.monotonic() + within_s
    while True:
        messages = await asyncio.to_thread(read_all, service.settings, topics.TRANSACTIONS)
        found = [CODEC.decode(m.value(), Transaction) for m in messages if m.key() == f"grand/{member_id}".encode()]
        if len(found) >= count or time.monotonic() > deadline_s:
            assert len(found) == count
            return found
        await asyncio.sleep(0.1)


async def test_a_check_out_is_credited_and_told_twice_still_the_same(subscribed: Service, pms: ApaleoFake) -> None:
    pms.add_reservation("R-1", member_id="M-twice", amount="260.10", nights=3)
    event = await pms.check_out("R-1")
    await pms.send(pms.subscriptions[0].endpoint_url, event)
    first, second = await transactions(subscribed, "M-twice", 2)
    assert first == second, "the ledger knows it by its id"
    assert (first.transaction_id, first.kind, first.amount_minor, first.currency, first.nights, first.property_id) == (
        "apaleo:R-1:stay", TransactionKind.EARN, 26010, "EUR", 3, "MUC",
    )  # fmt: skip


async def test_a_stay_that_is_taken_back_is_reversed(subscribed: Service, pms: ApaleoFake) -> None:
    pms.add_reservation("R-2", member_id="M-reverted")
    await pms.check_out("R-2")
    await transactions(subscribed, "M-reverted", 1)
    await pms.revert_check_in("R-2")
    _, reversal = await transactions(subscribed, "M-reverted", 2)
    assert (reversal.kind, reversal.reverses_transaction_id) == (TransactionKind.REVERSE, "apaleo:R-2:stay")


async def test_neither_strangers_nor_cancellations_are_credited(subscribed: Service, pms: ApaleoFake) -> None:
    pms.add_reservation("R-3")
    pms.add_reservation("R-4", member_id="M-canceled")
    pms.add_reservation("R-5", member_id="M-last")
    await pms.check_out("R-3")
    await pms.cancel("R-4")
    await pms.check_out("R-5")
    await transactions(subscribed, "M-last", 1)
    await transactions(subscribed, "M-canceled", 0)


async def test_a_pms_that_misbehaves_is_asked_again(subscribed: Service, pms: ApaleoFake) -> None:
    pms.add_reservation("R-6", member_id="M-patient")
    pms.misbehaviours.extend(
        [
            Misbehaviour(status=500),
            Misbehaviour(status=429, headers={"Retry-After": "1"}),
            Misbehaviour(status=200, body=b"<html>back soon</html>"),
        ]
    )
    asked = pms.requests["reservation"]
    started_s = time.monotonic()
    await pms.check_out("R-6")
    await transactions(subscribed, "M-patient", 1)
    assert pms.requests["reservation"] - asked == 4
    assert time.monotonic() - started_s > 1.0, "it was asked to wait for a second"


async def test_a_pms_that_never_answers_is_given_up_and_asked_again(subscribed: Service, pms: ApaleoFake) -> None:
    pms.add_reservation("R-7", member_id="M-hung")
    pms.misbehaviours.append(Misbehaviour(hangs=True))
    await pms.check_out("R-7")
    await transactions(subscribed, "M-hung", 1)


async def test_a_token_is_used_until_it_ends_and_renewed_once(subscribed: Service, pms: ApaleoFake) -> None:
    for number in range(3):
        pms.add_reservation(f"R-8{number}", member_id="M-token")
    await pms.check_out("R-80")
    await transactions(subscribed, "M-token", 1)
    tokens = pms.requests["token"]
    await pms.check_out("R-81")
    await transactions(subscribed, "M-token", 2)
    assert pms.requests["token"] == tokens
    pms.expire_tokens()
    await pms.check_out("R-82")
    await transactions(subscribed, "M-token", 3)
    assert pms.requests["token"] == tokens + 1


async def test_a_reservation_that_nobody_knows_is_a_dead_letter(subscribed: Service, pms: ApaleoFake) -> None:
    await pms.tell("checked-out", "R-unknown")
    pms.add_reservation("R-broken", member_id="M-broken")
    pms.modify_reservation("R-broken", totalGrossAmount={"amount": 1, "currency": "SHELLS"})
    await pms.check_out("R-broken")
    deadline_s = time.monotonic() + 20
    found: dict[bytes, str] = {}
    while len(found) < 2 and time.monotonic() < deadline_s:
        letters = [CODEC.decode(m.value(), DeadLetter) for m in await asyncio.to_thread(read_all, subscribed.settings, topics.DEAD_LETTERS)]
        found = {letter.key or b"": letter.reason for letter in letters}
        await asyncio.sleep(0.1)
    assert found == {b"apaleo/R-unknown": "ENTITY_UNKNOWN", b"apaleo/R-broken": "CURRENCY_UNKNOWN"}
