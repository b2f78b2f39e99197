import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.fakes.cloudbeds import CloudbedsFake
from schemas.records import Transaction, TransactionKind
from streams.connectors.cloudbeds import CONNECTOR, inbound
from streams.connectors.contract import Delivery, Hint
from streams.errors import ContractError
from tests.connectors.support import NOW_MS, commands_in, poll_fake, source_of

RECORDED = (Path(__file__).parent / "payloads/status_changed.json").read_bytes()
ID = "2326925352181"


def source(**options: Any) -> Any:
    return source_of(CONNECTOR, **{"base_url": "https://pms.example.com", "secret": "a-long-secret", "api_key": "fake-api-key", **options})


def delivery(body: bytes) -> Delivery:
    return Delivery(body=body, headers={}, received_at_ms=NOW_MS)


@pytest.fixture
async def pms() -> AsyncIterator[CloudbedsFake]:
    fake = CloudbedsFake()
    await fake.start()
    yield fake
    await fake.stop()


async def read(pms: CloudbedsFake, kind: str = inbound.STATUS_CHANGED, **options: Any) -> list[Any]:
    hint = Hint(entity_id=f"320754/{ID}", kind=kind, delivery_id="1")
    return commands_in(await poll_fake(pms, inbound.read(source(**options), hint, b"", NOW_MS), {"Authorization": "Bearer fake-api-key"}))


def test_a_captured_webhook_is_a_hint() -> None:
    assert inbound.translate(delivery(RECORDED), source()).hints == (
        Hint(entity_id=f"320754/{ID}", kind="reservation/status_changed", delivery_id="reservation/status_changed 1784141201.429757"),
    )


@pytest.mark.parametrize(
    ("changes", "kind"),
    [({"status": "checked_in", "previousStatus": "checked_out"}, "taken back"), ({"event": "reservation/created"}, "reservation/created")],
)
def test_what_a_hint_is_about(changes: dict[str, str], kind: str) -> None:
    (hint,) = inbound.translate(delivery(orjson.dumps(orjson.loads(RECORDED) | changes)), source()).hints
    assert hint.kind == kind


def test_names_are_written_in_two_ways_and_other_events_are_ignored() -> None:
    body = {"event": "reservation/created", "propertyId": 7, "reservationId": 8, "timestamp": 1.5}
    assert inbound.translate(delivery(orjson.dumps(body)), source()).hints[0].entity_id == "7/8"
    assert inbound.translate(delivery(b'{"event":"guest/created","guestID":1}'), source()).ignored


_JSON = st.recursive(st.none() | st.integers() | st.floats() | st.text(max_size=5), lambda inner: st.lists(inner, max_size=2) | st.dictionaries(
    st.sampled_from(["event", "reservationID", "propertyID", "status"]), inner | st.just("reservation/created")), max_leaves=5)  # fmt: skip


@given(st.binary(max_size=60) | _JSON.map(json.dumps).map(str.encode))
def test_any_body_is_understood_or_refused(body: bytes) -> None:
    try:
        found = inbound.translate(delivery(body), source())
    except ContractError:
        return
    assert bool(found.hints) != bool(found.ignored)


async def test_a_check_out_earns(pms: CloudbedsFake) -> None:
    pms.add_reservation(ID, member_id="M-1", total="260.55", nights=3)
    assert await read(pms) == [], "the guest is still there"
    await pms.set_status(ID, "checked_out")
    (earn,) = await read(pms)
    assert isinstance(earn, Transaction)
    assert (earn.kind, earn.transaction_id, earn.member_id) == (TransactionKind.EARN, f"cloudbeds:{ID}:stay", "M-1")
    assert (earn.amount_minor, earn.currency, earn.nights, earn.property_id) == (26055, "EUR", 3, "320754")
    assert await read(pms) == [earn]


async def test_a_stay_that_is_taken_back_is_reversed(pms: CloudbedsFake) -> None:
    pms.add_reservation(ID, member_id="M-1")
    (reversal,) = await read(pms, inbound.TAKEN_BACK)
    assert (reversal.kind, reversal.reverses_transaction_id) == (TransactionKind.REVERSE, f"cloudbeds:{ID}:stay")


@pytest.mark.parametrize("status", ["canceled", "no_show"])
async def test_who_does_not_come_loses_what_the_booking_promised(pms: CloudbedsFake, status: str) -> None:
    pms.add_reservation(ID, member_id="M-1")
    pms.reservations[ID]["thirdPartyIdentifier"] = "B-7"
    await pms.set_status(ID, status)
    assert await read(pms) == []
    (reversal,) = await read(pms, booking_source="channel")
    assert (reversal.kind, reversal.reverses_transaction_id) == (TransactionKind.REVERSE, "channel:B-7:booking")


async def test_the_end_replaces_what_the_booking_promised_if_so_configured(pms: CloudbedsFake) -> None:
    pms.add_reservation(ID, member_id="M-1")
    pms.reservations[ID]["thirdPartyIdentifier"] = "B-7"
    await pms.set_status(ID, "checked_out")
    reversal, earn = await read(pms, booking_source="channel", booking_settlement="replace")
    assert (reversal.kind, reversal.reverses_transaction_id) == (TransactionKind.REVERSE, "channel:B-7:booking")
    assert (earn.kind, earn.amount_minor) == (TransactionKind.EARN, 26000)


async def test_guests_without_a_number_and_unknown_reservations(pms: CloudbedsFake) -> None:
    with pytest.raises(ContractError, match="Reservation not found"):
        await read(pms)
    pms.add_reservation(ID)
    await pms.set_status(ID, "checked_out")
    assert await read(pms) == []


async def test_what_an_amount_must_be(pms: CloudbedsFake) -> None:
    pms.add_reservation(ID, member_id="M-1")
    await pms.set_status(ID, "checked_out")
    for total, currency in (("much", "EUR"), (None, "EUR"), (True, "EUR"), ("NaN", "EUR"), ("1e999999", "EUR"), ("1", "XXQ")):
        pms.reservations[ID]["balanceDetailed"]["grandTotal"] = total
        with pytest.raises(ContractError):
            await read(pms, currency=currency)
