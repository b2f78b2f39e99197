"""Recorded webhooks of Apaleo -> hints; reservations -> commands, in conversations led by lists of answers and over HTTP."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.contract import Command
from schemas.records import Transaction, TransactionKind
from streams.connectors.apaleo import CONNECTOR, inbound
from streams.connectors.contract import Answer, Delivery, Hint, Source, Translation, Verdict
from streams.errors import ContractError
from tests.connectors.support import commands_in, polled, source_of

PAYLOADS = Path(__file__).parent / "payloads"
RECEIVED_MS = 1_795_319_000_000  # 2026-11-22T03:43:20Z


def pms(name: str = "apaleo", **options: Any) -> Source:
    return replace(source_of(CONNECTOR, name, **options), program_id="grand")


PMS = pms()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "checked_out.json",
            Translation(
                hints=(Hint(entity_id="XPGMSXGF-1", kind=inbound.CHECKED_OUT, delivery_id="ec5a1fe4-6a16-4b3c-9d10-4f52d4a9a5ab"),)
            ),
        ),
        ("healthcheck.json", Translation(ignored="health check")),
        ("folio.json", Translation(ignored="not about the end of a stay")),
    ],
)
def test_apaleo_webhooks_are_hints(name: str, expected: Translation) -> None:
    delivery = Delivery(body=(PAYLOADS / name).read_bytes(), headers={}, received_at_ms=RECEIVED_MS)
    assert inbound.translate(delivery, PMS) == expected


def test_an_apaleo_webhook_without_an_id_is_named_by_its_body() -> None:
    body = b'{"topic":"reservation","type":"Canceled","data":{"entityId":"X-1"}}'
    (hint,) = inbound.translate(Delivery(body=body, headers={}, received_at_ms=1), PMS).hints
    assert (hint.kind, len(hint.delivery_id)) == ("Reservation/canceled", 64)


def reservation(**changes: Any) -> str:
    """The recorded reservation; None removes a field."""
    value = json.loads((PAYLOADS / "reservation.json").read_text()) | changes
    return json.dumps({name: field for name, field in value.items() if field is not None})


def read(body: str | bytes, kind: str = inbound.CHECKED_OUT, source: Source = PMS) -> list[Command]:
    """What follows from a hint when the reservation is read as `body`."""
    hint = Hint(entity_id="XPGMSXGF-1", kind=kind, delivery_id="d")
    answer = Answer(status=200, body=body.encode() if isinstance(body, str) else body)
    requests, found = polled(inbound.read(source, hint, b"", RECEIVED_MS), [answer])
    assert [request.url for request in requests] == ["/booking/v1/reservations/XPGMSXGF-1"]
    return commands_in(found)


def only(commands: list[Command]) -> Transaction:
    (command,) = commands
    assert isinstance(command, Transaction)
    return command


EARN = Transaction(
    program_id="grand", member_id="M-000123", transaction_id="apaleo:XPGMSXGF-1:stay", source_system="apaleo",
    occurred_at_ms=1795340110000, kind=TransactionKind.EARN, amount_minor=26010, currency="EUR", category="room", nights=2,
    property_id="MUC",
)  # fmt: skip
REVERSAL = Transaction(
    program_id="grand", member_id="M-000123", transaction_id="apaleo:XPGMSXGF-1:stay-reversal", source_system="apaleo",
    occurred_at_ms=RECEIVED_MS, kind=TransactionKind.REVERSE, reverses_transaction_id="apaleo:XPGMSXGF-1:stay", property_id="MUC",
    reason="Reservation/check-in-reverted",
)  # fmt: skip
CANCELED = "Reservation/canceled"


@pytest.mark.parametrize(
    ("kind", "changes", "expected"),
    [
        (inbound.CHECKED_OUT, {}, EARN),
        # The stay stands as it is now, whatever the hint was: the same id, credited once.
        (inbound.CHECK_IN_REVERTED, {}, EARN),
        (CANCELED, {}, EARN),
        (inbound.CHECKED_OUT, {"status": "InHouse", "checkOutTime": None}, None),
        (inbound.CHECKED_OUT, {"status": "Confirmed"}, None),
        (inbound.CHECK_IN_REVERTED, {"status": "Confirmed", "checkOutTime": None}, REVERSAL),
        (CANCELED, {"status": "Canceled", "checkOutTime": None}, None),
        ("Reservation/set-to-no-show", {"status": "NoShow", "checkOutTime": None}, None),
        (inbound.CHECKED_OUT, {"primaryGuest": {"lastName": "Example"}}, None),
        (inbound.CHECKED_OUT, {"primaryGuest": None}, None),
        (inbound.CHECKED_OUT, {"primaryGuest": {"loyaltyMemberId": ""}}, None),
    ],
)
def test_what_a_reservation_means(kind: str, changes: dict[str, Any], expected: Transaction | None) -> None:
    assert read(reservation(**changes), kind) == ([] if expected is None else [expected])


def test_a_stay_that_had_ended_and_is_canceled_is_reversed() -> None:
    command = only(read(reservation(status="Canceled"), CANCELED))
    assert command.kind is TransactionKind.REVERSE and command.reason == CANCELED


def test_a_check_out_without_its_time_happened_when_it_was_told() -> None:
    command = only(read(reservation(checkOutTime=None)))
    assert command.occurred_at_ms == RECEIVED_MS


@pytest.mark.parametrize(
    ("amount", "currency", "minor"),
    [
        ("260.10", "EUR", 26010),
        ("0.1", "EUR", 10),
        ("1.005", "EUR", 101),
        ("4.35", "EUR", 435),  # 434 in binary floating point.
        ("1.15", "EUR", 115),
        ("19.99", "USD", 1999),
        ("0", "EUR", 0),
        ("26000", "JPY", 26000),
        ("12.345", "KWD", 12345),
        ("1e2", "EUR", 10000),
    ],
)
def test_amounts_are_decimal(amount: str, currency: str, minor: int) -> None:
    text = (PAYLOADS / "reservation.json").read_text().replace("260.10", amount).replace('"EUR"', f'"{currency}"')
    command = only(read(text))
    assert (command.amount_minor, command.currency) == (minor, currency)


@pytest.mark.parametrize(
    ("arrival", "departure", "nights"),
    [
        ("2026-11-20T15:00:00+01:00", "2026-11-22T11:00:00+01:00", 2),
        ("2026-11-20T23:59:00+01:00", "2026-11-21T00:01:00+01:00", 1),
        ("2026-10-24T15:00:00+02:00", "2026-10-26T11:00:00+01:00", 2),
        ("2026-11-20T15:00:00+01:00", "2026-11-20T18:00:00+01:00", 0),
    ],
)
def test_nights_are_counted_by_local_days(arrival: str, departure: str, nights: int) -> None:
    command = only(read(reservation(arrival=arrival, departure=departure)))
    assert command.nights == nights


@pytest.mark.parametrize("as_before", [False, True])
def test_paths_are_configurable(as_before: bool) -> None:
    """As options, and as the attributes of earlier versions."""
    paths = {"member_id_path": "booker.externalId", "amount_path": "payableAmount.guest", "category": "apartment"}
    source = pms("berlin", **{"attributes": paths} if as_before else paths)
    value = reservation(booker={"externalId": "M-9"}, payableAmount={"guest": {"amount": 99, "currency": "EUR"}})
    command = only(read(value, source=source))
    assert (command.member_id, command.amount_minor, command.category) == ("M-9", 9900, "apartment")
    assert (command.transaction_id, command.source_system) == ("berlin:XPGMSXGF-1:stay", "berlin")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"totalGrossAmount": None}, "TYPE_INVALID"),
        ({"totalGrossAmount": {"amount": "260.10", "currency": "EUR"}}, "TYPE_INVALID"),
        ({"totalGrossAmount": {"amount": True, "currency": "EUR"}}, "TYPE_INVALID"),
        ({"totalGrossAmount": {"amount": 1, "currency": "POINTS"}}, "CURRENCY_UNKNOWN"),
        ({"totalGrossAmount": {"amount": -1, "currency": "EUR"}}, "AMOUNT_INVALID"),
        ({"totalGrossAmount": {"amount": 10**30, "currency": "EUR"}}, "AMOUNT_INVALID"),
        ({"arrival": None}, "FIELD_REQUIRED"),
        ({"departure": "tomorrow"}, "TIME_INVALID"),
        ({"checkOutTime": 5}, "TYPE_INVALID"),
        ({"status": None}, "TYPE_INVALID"),
        ({"id": None}, "TYPE_INVALID"),
        ({"primaryGuest": {"loyaltyMemberId": True}}, "TYPE_INVALID"),
        ({"primaryGuest": {"loyaltyMemberId": "x" * 129}}, "ID_INVALID"),
    ],
)
def test_reservations_that_cannot_be_understood(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ContractError) as caught:
        read(reservation(**changes))
    assert caught.value.reason == reason


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"a":NaN}', b"[" * 100_000, b"\xff\xfe", b'{"a":' + b"9" * 5000 + b"}"])
def test_reservations_that_are_no_json(body: bytes) -> None:
    with pytest.raises(ContractError):
        read(body)


@pytest.mark.parametrize("amount", ["1e999999999", "1e5000", "-1e999999999", "9" * 400 + ".5"])
def test_amounts_beyond_reason(amount: str) -> None:
    text = (PAYLOADS / "reservation.json").read_text().replace("260.10", amount)
    with pytest.raises(ContractError):
        read(text)


@pytest.mark.parametrize("status", [404, 410, 400, 422])
def test_a_reservation_that_cannot_be_read_is_given_up(status: int) -> None:
    hint = Hint(entity_id="X/1 ", kind=CANCELED, delivery_id="d")
    with pytest.raises(ContractError) as caught:
        polled(inbound.read(PMS, hint, b"", RECEIVED_MS), [Answer(status=status)])
    assert caught.value.reason == ("ENTITY_UNKNOWN" if status in (404, 410) else "READ_REFUSED")


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        (200, Verdict.PASS), (301, Verdict.RETRY), (204, Verdict.RETRY), (400, Verdict.PASS), (401, Verdict.RENEW), (403, Verdict.RETRY),
        (404, Verdict.PASS), (408, Verdict.RETRY), (422, Verdict.PASS), (425, Verdict.RETRY), (429, Verdict.WAIT), (500, Verdict.RETRY),
        (503, Verdict.RETRY),
    ],
)  # fmt: skip
def test_what_a_status_means(status: int, verdict: Verdict) -> None:
    judgement = CONNECTOR.judge(Answer(status=status, headers={"Retry-After": "7"}))
    assert judgement.verdict == verdict and (judgement.after_s == 7.0) is (status in (408, 425, 429, 500, 503))


def test_a_folio_that_is_opened_again_takes_the_stay_back() -> None:
    hint = Hint(entity_id="XPGMSXGF-1-1", kind=inbound.FOLIO_REOPENED, delivery_id="d")
    folio = Answer(status=200, body=b'{"id":"XPGMSXGF-1-1","reservation":{"id":"XPGMSXGF-1"}}')
    requests, found = polled(inbound.read(PMS, hint, b"", RECEIVED_MS), [folio, Answer(status=200, body=reservation().encode())])
    assert [request.url for request in requests] == ["/finance/v1/folios/XPGMSXGF-1-1", "/booking/v1/reservations/XPGMSXGF-1"]
    assert only(commands_in(found)) == replace(REVERSAL, reason=inbound.FOLIO_REOPENED)
    _, found = polled(inbound.read(PMS, hint, b"", RECEIVED_MS), [Answer(status=200, body=b'{"id":"XPGMSXGF-1-1"}')])
    assert not found, "a folio of nobody who stays"


def test_a_folio_may_be_opened_again_without_consequences() -> None:
    body = b'{"topic":"Folio","type":"reopened","id":"1","data":{"entityId":"X-1-1"}}'
    delivery = Delivery(body=body, headers={}, received_at_ms=1)
    assert inbound.translate(delivery, PMS).hints
    assert inbound.translate(delivery, pms(folio_reopened_reverses=False)).ignored


def test_the_end_of_a_stay_activates_its_booking() -> None:
    command = only(read(reservation(externalCode="BK-7"), source=pms(booking_source="booking")))
    assert (command.kind, command.transaction_id) == (TransactionKind.ACTIVATE, "apaleo:XPGMSXGF-1:activation")
    assert command.related_transaction_id == "booking:BK-7:booking"


@given(body=st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_translators_raise_only_contract_errors(body: bytes) -> None:
    for understand in (lambda: inbound.translate(Delivery(body=body, headers={}, received_at_ms=RECEIVED_MS), PMS), lambda: read(body)):
        try:
            understand()
        except ContractError:
            pass
