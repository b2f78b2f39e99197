import asyncio
import json
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.fakes.mews import MewsFake
from infra.fakes.server import Misbehaviour
from schemas.records import MemberStatus, ProfileChange, Transaction, TransactionKind
from streams.connectors.contract import Delivery, Hint, Outcome
from streams.connectors.mews import CONNECTOR, inbound, outbound
from streams.errors import ContractError
from streams.signatures import SignatureError
from tests.connectors.support import NOW_MS, commands_in, cursor_of, poll_fake, source_of, state_of, target_of, write_fake

PAYLOADS = Path(__file__).parent / "payloads"
OPTIONS = {"base_url": "https://api.example.com", "client_token": "fake-client-token", "access_token": "fake-access-token"}
RESERVATION = "bfee2c44-1f84-4326-a862-5289598f6e2d"


def source(**options: Any) -> Any:
    return source_of(CONNECTOR, **{**OPTIONS, "secret": "a-long-secret", **options})


def target(**options: Any) -> Any:
    return target_of(CONNECTOR, **{**OPTIONS, **options})


def delivery(body: bytes, **query: str) -> Delivery:
    return Delivery(body=body, headers={}, query=query, received_at_ms=NOW_MS)


def hint(reservation_id: str) -> Hint:
    return Hint(entity_id=reservation_id, kind=inbound.RESERVATION, delivery_id="1")


@pytest.fixture
async def platform() -> AsyncIterator[MewsFake]:
    fake = MewsFake()
    await fake.start()
    yield fake
    await fake.stop()


def test_a_recorded_webhook_hints_once_at_each_reservation() -> None:
    found = inbound.translate(delivery((PAYLOADS / "webhook.json").read_bytes()), source())
    assert [(one.entity_id, one.kind) for one in found.hints] == [(RESERVATION, "Reservation")]


def test_other_events_are_ignored() -> None:
    body = orjson.dumps({"Events": [{"Discriminator": "MessageAdded", "Value": {"Id": "1"}}]})
    assert inbound.translate(delivery(body), source()).ignored


def test_the_token_in_the_address_proves_a_webhook() -> None:
    assert CONNECTOR.push is not None
    assert CONNECTOR.push.authenticate(source(), delivery(b"", token="a-long-secret")) == ""
    for query in ({"token": "another"}, {"token": ""}, {}, {"token": "ü"}):
        with pytest.raises(SignatureError):
            CONNECTOR.push.authenticate(source(), delivery(b"", **query))


_LEAVES = st.none() | st.integers() | st.sampled_from(["Events", "Id", "ServiceOrderUpdated"])
_JSON = st.recursive(_LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["Events", "Value", "Id", "Discriminator"]), inner))


@given(st.binary(max_size=80) | _JSON.map(json.dumps).map(str.encode))
def test_any_body_is_understood_or_refused(body: bytes) -> None:
    try:
        found = inbound.translate(delivery(body), source())
    except ContractError:
        return
    assert bool(found.hints) != bool(found.ignored)


def test_a_recorded_message_of_the_websocket_is_a_hint() -> None:
    assert [one.entity_id for one in inbound.heard((PAYLOADS / "websocket.json").read_bytes()).hints] == [RESERVATION]
    assert inbound.heard(b"<html>").alert.startswith("MESSAGE_UNKNOWN")


async def test_a_check_out_earns_what_its_items_cost(platform: MewsFake) -> None:
    reservation_id = platform.add_reservation(member_id="M-1", amount="260.00", nights=2)
    platform.items[reservation_id].append({"Amount": {"Currency": "EUR", "GrossValue": 12.5}})
    platform.items[reservation_id].append({"AccountingState": "Canceled", "Amount": {"Currency": "EUR", "GrossValue": 99}})
    await platform.set_state(reservation_id, "Processed")
    learnt, earn = commands_in(await poll_fake(platform, inbound.read(source(), hint(reservation_id), b"", NOW_MS)))
    assert isinstance(learnt, ProfileChange)
    assert learnt.external_ids == {"mews_membership": next(iter(platform.memberships.values()))["Id"]}
    assert isinstance(earn, Transaction) and earn.kind is TransactionKind.EARN
    assert (earn.transaction_id, earn.member_id) == (f"mews:{reservation_id}:stay", "M-1")
    assert (earn.amount_minor, earn.currency, earn.nights, earn.category) == (27250, "EUR", 2, "room")
    again = commands_in(await poll_fake(platform, inbound.read(source(), hint(reservation_id), b"", NOW_MS + 5)))
    assert again == [learnt, earn], "told twice, it is the same"


@pytest.mark.parametrize(("state", "kinds"), [("Started", []), ("Confirmed", []), ("Canceled", [])])
async def test_a_stay_that_has_not_ended_earns_nothing(platform: MewsFake, state: str, kinds: list[TransactionKind]) -> None:
    reservation_id = platform.add_reservation(member_id="M-1")
    await platform.set_state(reservation_id, state)
    found = commands_in(await poll_fake(platform, inbound.read(source(membership_id_type=""), hint(reservation_id), b"", NOW_MS)))
    assert [one.kind for one in found if isinstance(one, Transaction)] == kinds


async def test_a_booking_is_activated_or_cancelled(platform: MewsFake) -> None:
    reservation_id = platform.add_reservation(member_id="M-1")
    platform.reservations[reservation_id]["ChannelNumber"] = "B-7"
    ours = source(membership_id_type="", booking_source="channel")
    await platform.set_state(reservation_id, "Processed")
    (activation,) = commands_in(await poll_fake(platform, inbound.read(ours, hint(reservation_id), b"", NOW_MS)))
    assert isinstance(activation, Transaction)
    assert (activation.kind, activation.related_transaction_id) == (TransactionKind.ACTIVATE, "channel:B-7:booking")
    await platform.set_state(reservation_id, "Canceled")
    (reversal,) = commands_in(await poll_fake(platform, inbound.read(ours, hint(reservation_id), b"", NOW_MS)))
    assert isinstance(reversal, Transaction)
    assert (reversal.kind, reversal.reverses_transaction_id) == (TransactionKind.REVERSE, "channel:B-7:booking")


async def test_guests_without_a_membership_are_left_alone(platform: MewsFake) -> None:
    reservation_id = platform.add_reservation()
    await platform.set_state(reservation_id, "Processed")
    assert await poll_fake(platform, inbound.read(source(), hint(reservation_id), b"", NOW_MS)) == []
    assert await poll_fake(platform, inbound.read(source(), hint("nothing"), b"", NOW_MS)) == []


async def test_what_webhooks_missed_the_poll_finds(platform: MewsFake) -> None:
    ended, open_one = platform.add_reservation(member_id="M-1"), platform.add_reservation(member_id="M-2")
    await platform.set_state(ended, "Processed")
    found = await poll_fake(platform, inbound.poll(source(), {}, now_ms()))
    assert [one.entity_id for step in found for one in step.hints] == [ended]
    assert cursor_of(found)["since_ms"] <= now_ms()
    await platform.set_state(open_one, "Canceled")
    again = await poll_fake(platform, inbound.poll(source(), cursor_of(found), now_ms()))
    assert {one.entity_id for step in again for one in step.hints} == {ended, open_one}, "the overlap is read again"


async def test_a_refusal_stops_the_conversation(platform: MewsFake) -> None:
    with pytest.raises(ContractError, match="Invalid AccessToken"):
        await poll_fake(platform, inbound.poll(source(access_token="wrong"), {}, NOW_MS))


async def test_the_websocket_hints(platform: MewsFake) -> None:
    reservation_id = platform.add_reservation(member_id="M-1")
    feed = inbound.listen(source(websocket_url=platform.base_url.replace("http", "ws")), {}, None)  # type: ignore[arg-type]
    heard = asyncio.ensure_future(anext(feed))
    async with asyncio.timeout(10):
        while not platform.sockets:
            await asyncio.sleep(0.01)
        await platform.set_state(reservation_id, "Processed")
        assert [one.entity_id for one in (await heard).hints] == [reservation_id]
    await feed.aclose()  # type: ignore[attr-defined]


def now_ms() -> int:
    return int(time.time() * 1000) + 1


# Writing.


def test_a_state_becomes_an_update() -> None:
    state = state_of("M-1", external_ids={"mews_membership": "905a4489"})
    assert outbound.update(target(tier_ids={"GOLD": "69eedfd2"}), state) == {
        "LoyaltyMembershipId": "905a4489", "Points": {"Value": 1250}, "LoyaltyTierId": {"Value": "69eedfd2"}, "State": {"Value": "Enrolled"},
    }  # fmt: skip
    suspended = replace(state, account=replace(state.account, status=MemberStatus.SUSPENDED, tier="STEEL"))
    assert outbound.update(target(tier_ids={"GOLD": "69eedfd2"}), suspended) == {"LoyaltyMembershipId": "905a4489", "Points": {"Value": 1250}}


async def test_each_member_is_judged_by_itself(platform: MewsFake) -> None:
    account_id = platform.add_member("M-1")
    known = platform.memberships[account_id]["Id"]
    states = [state_of("M-0"), state_of("M-1", external_ids={"mews_membership": known}), state_of("M-2", external_ids={"mews_membership": "gone"})]
    found = await write_fake(platform, outbound.write(target(), states, NOW_MS))
    assert [(one.outcome, one.reason) for one in found] == [(Outcome.SKIP, "NO_MEMBERSHIP"), (Outcome.DONE, ""), (Outcome.PARK, "STATUS_400")]
    assert platform.values == {known: {"State": "Enrolled", "Points": 1250}}, "nobody is enrolled by us"
    assert await write_fake(platform, outbound.write(target(), [state_of("M-0")], NOW_MS)) == [found[0]]
    platform.misbehaviours.append(Misbehaviour(status=403, body=b'{"Message":"Not now."}'))
    (parked,) = await write_fake(platform, outbound.write(target(), [states[1]], NOW_MS))
    assert (parked.outcome, parked.detail) == (Outcome.PARK, "Not now.")
