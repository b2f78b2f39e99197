from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.fakes.booking_engine import BookingEngineFake
from schemas.records import Transaction, TransactionKind
from streams.connectors import xml_reader as xml
from streams.connectors.contract import Delivery
from streams.connectors.ota import CONNECTOR, inbound
from streams.errors import ContractError
from streams.signatures import SignatureError
from tests.connectors.support import NOW_MS, source_of

COMMIT = (Path(__file__).parent / "payloads/commit.xml").read_bytes()
BOMB = COMMIT.replace(b"<OTA_", b'<!DOCTYPE x [<!ENTITY a "b">]><OTA_', 1)


def source(**options: Any) -> Any:
    return source_of(CONNECTOR, "channel", **{"secret": "a-long-secret", "loyalty_program": "GRAND", **options})


def delivery(body: bytes, **headers: str) -> Delivery:
    return Delivery(body=body, headers=headers, received_at_ms=NOW_MS)


def translated(body: bytes, **options: Any) -> list[Any]:
    return list(inbound.translate(delivery(body), source(**options)).commands)


def test_a_booking_earns_pending_points() -> None:
    (earn,) = translated(COMMIT)
    assert earn == Transaction(
        program_id="staff", member_id="M-1", transaction_id="channel:B-7:booking", source_system="channel", occurred_at_ms=NOW_MS - 2000,
        kind=TransactionKind.EARN, amount_minor=32550, currency="EUR", nights=3, category="room", property_id="MUC", pending=True,
    )  # fmt: skip
    assert translated(COMMIT, loyalty_program="")[0].member_id == "X-9"


def test_a_cancellation_takes_them_back() -> None:
    (reversal,) = translated(COMMIT.replace(b'"Commit"', b'"Cancel"'))
    assert (reversal.kind, reversal.transaction_id, reversal.reverses_transaction_id) == (
        TransactionKind.REVERSE, "channel:B-7:cancellation", "channel:B-7:booking",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "amount_minor"),
    [
        (b'AmountAfterTax="32550" DecimalPlaces="2"', b'AmountAfterTax="325.50"', 32550),
        (b'AmountAfterTax="32550" DecimalPlaces="2"', b'AmountAfterTax="325"', 32500),
        (b'DecimalPlaces="2"', b'DecimalPlaces="3"', 3255),
        (b'CurrencyCode="EUR"', b'CurrencyCode="JPY"', 326),
        (b'AmountAfterTax="32550" DecimalPlaces="2"', b'AmountBeforeTax="300.10"', 30010),
        (b"</RoomStays>", b'<RoomStay><Total AmountAfterTax="100.00" CurrencyCode="EUR"/></RoomStay></RoomStays>', 42550),
        (b"<ResGlobalInfo>", b'<ResGlobalInfo><Total AmountAfterTax="999.99" CurrencyCode="EUR"/>', 99999),
    ],
)  # fmt: skip
def test_amounts(old: bytes, new: bytes, amount_minor: int) -> None:
    assert old in COMMIT and translated(COMMIT.replace(old, new))[0].amount_minor == amount_minor


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'ResStatus="Commit"', b'ResStatus="Modify"'), (b'MembershipID="M-1"', b'MembershipID=""'), (b'ProgramID="GRAND"', b'ProgramID="SILVER"'),
        (b"HotelReservation ", b"Other "),
    ],
)  # fmt: skip
def test_what_says_nothing_of_points_is_ignored(old: bytes, new: bytes) -> None:
    body = COMMIT.replace(old, new)
    if b"<Other" in body:
        body = body.replace(b"</HotelReservation>", b"</Other>")
    assert body != COMMIT and inbound.translate(delivery(body), source()).ignored


def test_the_status_may_stand_on_the_reservation() -> None:
    body = COMMIT.replace(b' ResStatus="Commit"', b"").replace(b"<HotelReservation ", b'<HotelReservation ResStatus="Reserved" ')
    assert translated(body) == translated(COMMIT)
    enveloped = b'<e:Envelope xmlns:e="urn:e"><e:Body>' + COMMIT.split(b"?>", 1)[1] + b"</e:Body></e:Envelope>"
    assert translated(enveloped) == translated(COMMIT), "some send SOAP"


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (b'"Commit"', b'"Perhaps"', "VALUE_UNKNOWN"), (b'"32550"', b'"much"', "AMOUNT_INVALID"), (b'"32550"', b'"NaN"', "TYPE_INVALID"),
        (b'"EUR"', b'"XXQ"', "CURRENCY_UNKNOWN"), (b"2026-12-20", b"soon", "TIME_INVALID"), (b'CreateDateTime="2026', b'CreateDateTime="x', "TIME_INVALID"),
        (b'DecimalPlaces="2"', b'DecimalPlaces="99"', "TYPE_INVALID"), (b"B-7", b"B" * 61, "ID_INVALID"), (b"<Total ", b"<Sum ", "FIELD_REQUIRED"),
        (b"OTA_HotelResNotifRQ", b"OTA_PingRQ", "TYPE_UNKNOWN"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_in_its_form(old: bytes, new: bytes, reason: str) -> None:
    body = COMMIT.replace(old, new)
    assert body != COMMIT
    with pytest.raises(ContractError) as raised:
        inbound.translate(delivery(body), source())
    assert raised.value.reason == reason
    reply = inbound.refused(delivery(body), source(), 422, raised.value.reason, raised.value.detail)
    root = xml.parse(reply.body)
    assert reply.status == 200 and xml.local_name(root.tag) == "OTA_HotelResNotifRS"
    assert (xml.text_at(root, "Errors/Error@ShortText") or "").startswith(reason)
    assert xml.attribute(root, "EchoToken") == (None if reason == "TYPE_UNKNOWN" else "e-1")


def test_answers() -> None:
    root = xml.parse(inbound.accepted(delivery(COMMIT), source()).body)
    assert root.tag == "{http://www.opentravel.org/OTA/2003/05}OTA_HotelResNotifRS"
    assert xml.attribute(root, "EchoToken") == "e-1" and xml.find(root, "Success") is not None
    assert inbound.refused(delivery(COMMIT), source(), 503, "UNAVAILABLE", "").status == 503, "it comes again"
    assert inbound.refused(delivery(BOMB), source(), 422, "XML_FORBIDDEN", "<&>").status == 200


def test_entities_are_refused() -> None:
    with pytest.raises(ContractError, match="document type"):
        inbound.translate(delivery(BOMB), source())


def test_the_password_proves_a_message() -> None:
    assert CONNECTOR.push is not None
    good = "Basic " + b64encode(b"engine:a-long-secret").decode()
    assert CONNECTOR.push.authenticate(source(), delivery(b"", authorization=good)) == ""
    for wrong in ("", "Basic", "Basic ?", "Bearer a-long-secret", "Basic " + b64encode(b"engine:other").decode(), "Basic " + "A" * 5000):
        with pytest.raises(SignatureError):
            CONNECTOR.push.authenticate(source(), delivery(b"", authorization=wrong))


@given(st.integers(0, len(COMMIT)), st.binary(max_size=6), st.integers(0, 40))
def test_any_body_is_understood_or_refused_and_answered(at: int, other: bytes, cut: int) -> None:
    body = COMMIT[:at] + other + COMMIT[at + cut :]
    try:
        found = inbound.translate(delivery(body), source())
    except ContractError as error:
        assert xml.parse(inbound.refused(delivery(body), source(), 422, error.reason, error.detail).body) is not None
        return
    assert bool(found.commands) != bool(found.ignored)


def test_the_fake_sends_what_is_understood() -> None:
    engine = BookingEngineFake("http://127.0.0.1:1/", "p")
    (earn,) = translated(engine.message("B-8", "Commit", member_id="M-2", amount="99.95", nights=1))
    assert (earn.member_id, earn.amount_minor, earn.nights, earn.pending) == ("M-2", 9995, 1, True)
