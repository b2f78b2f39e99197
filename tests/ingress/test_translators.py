"""Recorded webhooks -> commands and hints: one table per kind."""

import json
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.contract import Command, command_id
from schemas.records import Enrolment, LineItem, MemberStatus, OfferActivation, ProfileChange, Transaction, TransactionKind
from streams import signatures
from streams.configuration import SOURCE_KINDS, Source
from streams.errors import ContractError
from streams.ingress import apaleo, cloudevents, commands, hr
from streams.ingress.delivery import Delivery, Hint, Translation, basic, signed
from streams.ingress.sources import KINDS
from streams.signatures import SignatureError

PAYLOADS = Path(__file__).parent / "payloads"
RECEIVED_MS = 1_795_319_000_000  # 2026-11-22T03:43:20Z
KEY = b"0123456789abcdef0123456789abcdef"
HR = Source(name="hr", kind="hr", program_id="staff", secret="whsec_" + b64encode(KEY).decode())
PARTNER = Source(name="partner", kind="cloudevents", program_id="grand", secret=HR.secret)
PMS = Source(name="apaleo", kind="apaleo", program_id="grand", secret="a-long-password")


def test_every_configurable_kind_has_a_translator() -> None:
    assert set(KINDS) == set(SOURCE_KINDS)


def recorded(name: str, headers: Mapping[str, str] | None = None, **changes: Any) -> Delivery:
    """A payload as it was sent; with `changes`, re-written with them in its data."""
    body = (PAYLOADS / name).read_bytes()
    if changes:
        value = json.loads(body)
        value["data"] |= changes
        body = json.dumps(value).encode()
    return Delivery(body=body, headers=headers or {}, delivery_id="msg_1", received_at_ms=RECEIVED_MS)


def only(translation: Translation) -> Command:
    assert not translation.hints and not translation.ignored
    (command,) = translation.commands
    return command


HIRED = Enrolment(
    program_id="staff", member_id="21002", event_id="hr:msg_1", source_system="hr", occurred_at_ms=1795318800000,
    attributes={"given_name": "Ada", "department": "spa"}, segments=("hq",), source_version=1,
)  # fmt: skip
UPDATED = ProfileChange(
    program_id="staff", member_id="21002", event_id="hr:msg_1", source_system="hr", occurred_at_ms=1795318860250,
    attributes={"department": "front office", "phone": None}, source_version=1795318860250,
)  # fmt: skip
DEACTIVATED = ProfileChange(
    program_id="staff", member_id="21001", event_id="hr:msg_1", source_system="hr", occurred_at_ms=1795318800000,
    status=MemberStatus.SUSPENDED, status_reason="TERMINATION", source_version=1795318800000,
)  # fmt: skip
DEACTIVATED_AHEAD = replace(DEACTIVATED, status_from_date="2027-01-01")
REACTIVATED = ProfileChange(
    program_id="staff", member_id="21001", event_id="hr:msg_1", source_system="hr", occurred_at_ms=1795318920000,
    status=MemberStatus.ACTIVE, source_version=7,
)  # fmt: skip


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("hr_hired.json", HIRED), ("hr_updated.json", UPDATED), ("hr_deactivated.json", DEACTIVATED),
        ("hr_deactivated_ahead.json", DEACTIVATED_AHEAD), ("hr_reactivated.json", REACTIVATED),
    ],
)  # fmt: skip
def test_hr(name: str, expected: Command) -> None:
    assert only(hr.translate(recorded(name), HR)) == expected


@pytest.mark.parametrize(
    ("last_day", "time_zone", "suspended_from"),
    [
        # It is 2026-11-22 03:40 UTC, 09:10 in Kolkata, 17:40 of the day before in Honolulu.
        ("2026-11-21", None, None),
        ("2026-11-22", None, None),
        ("2026-11-22", "Asia/Kolkata", None),
        ("2026-11-23", "Asia/Kolkata", "2026-11-23T18:30:00.000Z"),
        ("2026-11-22", "Pacific/Honolulu", "2026-11-23T10:00:00.000Z"),
        ("2026-11-21", "Pacific/Honolulu", None),
        ("2027-03-27", "Europe/Berlin", "2027-03-27T23:00:00.000Z"),
        ("2027-03-28", "Europe/Berlin", "2027-03-28T22:00:00.000Z"),
    ],
)
def test_a_last_day_counts_where_the_person_works(last_day: str, time_zone: str | None, suspended_from: str | None) -> None:
    """Who has a last day ahead is suspended from the start of the day after, others at once."""
    at_ms = commands.parse_time(suspended_from) if suspended_from else None
    delivery = recorded("hr_deactivated.json", last_day=last_day, time_zone=time_zone)
    assert only(hr.translate(delivery, HR)) == replace(DEACTIVATED, status_from_ms=at_ms)


def test_a_last_day_without_a_zone_is_one_of_the_members() -> None:
    delivery = recorded("hr_deactivated.json", last_day="2026-11-30", time_zone=None)
    assert only(hr.translate(delivery, HR)) == replace(DEACTIVATED, status_from_date="2026-12-01")


def test_a_termination_is_the_same_command_whenever_it_arrives() -> None:
    early = recorded("hr_deactivated_ahead.json")
    late = replace(early, received_at_ms=RECEIVED_MS + 100 * 86_400_000)
    assert hr.translate(early, HR) == hr.translate(late, HR)


def test_an_hr_event_without_time_version_and_reason() -> None:
    body = b'{"type":"worker.deactivated","data":{"employee_id":"1"}}'
    command = only(hr.translate(Delivery(body=body, headers={}, delivery_id="d", received_at_ms=RECEIVED_MS), HR))
    assert isinstance(command, ProfileChange)
    assert (command.occurred_at_ms, command.source_version, command.status_reason) == (RECEIVED_MS, None, "employment ended")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("", "NOT_JSON"),
        ("[]", "TYPE_INVALID"),
        ("{}", "TYPE_INVALID"),
        ('{"type":"worker.deactivated"}', "TYPE_INVALID"),
        ('{"type":"worker.deactivated","data":{}}', "TYPE_INVALID"),
        ('{"type":"worker.deactivated","data":{"employee_id":21001}}', "TYPE_INVALID"),
        ('{"type":"worker.terminated","data":{"employee_id":"1"}}', "TYPE_UNKNOWN"),
        ('{"type":"worker.deactivated","timestamp":"yesterday","data":{"employee_id":"1"}}', "TIME_INVALID"),
        ('{"type":"worker.deactivated","data":{"employee_id":"1","version":"7"}}', "TYPE_INVALID"),
        ('{"type":"worker.deactivated","data":{"employee_id":"1","last_day":"22.11.2026"}}', "TIME_INVALID"),
        ('{"type":"worker.deactivated","data":{"employee_id":"1","last_day":"9999-12-31"}}', "TIME_INVALID"),
        ('{"type":"worker.deactivated","data":{"employee_id":"1","last_day":"2026-11-22","time_zone":"Mars/Base"}}', "VALUE_UNKNOWN"),
        ('{"type":"worker.deactivated","data":{"employee_id":"1","last_day":"2026-11-22","time_zone":"../../etc"}}', "VALUE_UNKNOWN"),
        ('{"type":"worker.updated","data":{"employee_id":"1","attributes":{"a":1}}}', "TYPE_INVALID"),
        ('{"type":"worker.hired","data":{"employee_id":"1","segments":"hq"}}', "TYPE_INVALID"),
    ],
)
def test_hr_events_that_cannot_be_understood(body: str, reason: str) -> None:
    with pytest.raises(ContractError) as caught:
        hr.translate(Delivery(body=body.encode(), headers={}, delivery_id="d", received_at_ms=RECEIVED_MS), HR)
    assert caught.value.reason == reason


STRUCTURED = {"content-type": "application/cloudevents+json; charset=utf-8"}
CE_TRANSACTION = Transaction(
    program_id="grand", member_id="M-000123", transaction_id="/partner/shop:A234-1234-1234", source_system="partner",
    occurred_at_ms=1795319290531, kind=TransactionKind.EARN, amount_minor=7350, currency="EUR",
    line_items=(LineItem(sku="WINE-1", amount_minor=2450, quantity=3),),
)  # fmt: skip
CE_ENROLMENT = Enrolment(
    program_id="grand", member_id="M-000124", event_id="partner:enrol:124", source_system="partner", occurred_at_ms=1793491200000,
    attributes={"given_name": "Grace"},
)  # fmt: skip
CE_PROFILE_CHANGE = ProfileChange(
    program_id="grand", member_id="M-000124", event_id="/partner/crm:2", source_system="partner", occurred_at_ms=RECEIVED_MS,
    attributes={"phone": None}, source_version=17,
)  # fmt: skip
CE_OFFER_ACTIVATION = OfferActivation(
    program_id="grand", member_id="M-000124", event_id="/partner/app:3", source_system="partner", occurred_at_ms=RECEIVED_MS,
    offer_id="double-points",
)  # fmt: skip


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ce_transaction.json", CE_TRANSACTION), ("ce_enrolment.json", CE_ENROLMENT), ("ce_profile_change.json", CE_PROFILE_CHANGE),
        ("ce_offer_activation.json", CE_OFFER_ACTIVATION),
    ],
)  # fmt: skip
def test_structured_cloudevents(name: str, expected: Command) -> None:
    assert only(cloudevents.translate(recorded(name, STRUCTURED), PARTNER)) == expected


BINARY = {
    "content-type": "application/json", "ce-specversion": "1.0", "ce-type": "loyalty.transaction.v1", "ce-source": "/partner/%C3%A9",
    "ce-id": "77", "ce-time": "2026-11-22T03:48:10.531Z",
}  # fmt: skip


def test_a_binary_cloudevent_is_named_by_what_is_signed() -> None:
    command = only(cloudevents.translate(recorded("ce_binary_data.json", BINARY), PARTNER))
    assert isinstance(command, Transaction)
    assert (command.transaction_id, command.occurred_at_ms, command.reward_code) == ("partner:msg_1", 1795319290531, "SPA-DAY")
    again = only(cloudevents.translate(recorded("ce_binary_data.json", BINARY | {"ce-id": "78", "ce-source": "/other"}), PARTNER))
    assert again == command, "a caught delivery could be sent again under another ce-id"


def test_a_long_source_and_id_still_name_the_event() -> None:
    text = (PAYLOADS / "ce_transaction.json").read_text()
    events = [text.replace("/partner/shop", "/partner/" + "x" * 200).replace("A234-1234-1234", one) for one in ("1", "1", "2")]
    delivery = recorded("ce_transaction.json", STRUCTURED)
    ids = [
        command_id(only(cloudevents.translate(replace(delivery, body=event.encode()), PARTNER)))
        for event in events
    ]
    assert ids[0] == ids[1] != ids[2] and len(ids[0]) <= 128


@pytest.mark.parametrize(
    ("headers", "body", "reason"),
    [
        (STRUCTURED, "{", "NOT_JSON"),
        (STRUCTURED, "[]", "TYPE_INVALID"),
        (STRUCTURED, '{"specversion":"1.0","id":"1","type":"loyalty.transaction.v1","data":{}}', "TYPE_INVALID"),
        (STRUCTURED, '{"specversion":"1.0","id":"","source":"s","type":"loyalty.transaction.v1","data":{}}', "TYPE_INVALID"),
        (STRUCTURED, '{"specversion":"0.3","id":"1","source":"s","type":"loyalty.transaction.v1","data":{}}', "VERSION_UNKNOWN"),
        (STRUCTURED, '{"specversion":"1.0","id":"1","source":"s","type":"com.example","data":{}}', "TYPE_UNKNOWN"),
        (STRUCTURED, '{"specversion":"1.0","id":"1","source":"s","type":"loyalty.transaction.v1"}', "TYPE_INVALID"),
        (STRUCTURED, '{"specversion":"1.0","id":"1","source":"s","type":"loyalty.transaction.v1","data":{}}', "FIELD_REQUIRED"),
        (
            STRUCTURED,
            '{"specversion":"1.0","id":"1","source":"s","type":"loyalty.offer-activation.v1","data":'
            '{"member_id":"M","offer_id":"o","source_system":"hr"}}',
            "SOURCE_SYSTEM_TAKEN",
        ),
        (STRUCTURED, '{"specversion":"1.0","id":"1","source":"s","type":"loyalty.transaction.v1","time":"now","data":{}}', "TIME_INVALID"),
        ({"content-type": "application/cloudevents-batch+json"}, "[]", "MEDIA_TYPE_UNKNOWN"),
        ({"content-type": "application/json"}, "{}", "MEDIA_TYPE_UNKNOWN"),
        ({}, "{}", "MEDIA_TYPE_UNKNOWN"),
        (BINARY | {"content-type": "application/avro"}, "{}", "MEDIA_TYPE_UNKNOWN"),
        ({k: v for k, v in BINARY.items() if k != "ce-source"}, "{}", "TYPE_INVALID"),
        (BINARY, "", "NOT_JSON"),
    ],
)
def test_cloudevents_that_cannot_be_understood(headers: dict[str, str], body: str, reason: str) -> None:
    with pytest.raises(ContractError) as caught:
        cloudevents.translate(Delivery(body=body.encode(), headers=headers, delivery_id="d", received_at_ms=RECEIVED_MS), PARTNER)
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "apaleo_checked_out.json",
            Translation(
                hints=(Hint(entity_id="XPGMSXGF-1", kind=apaleo.CHECKED_OUT, delivery_id="ec5a1fe4-6a16-4b3c-9d10-4f52d4a9a5ab"),)
            ),
        ),
        ("apaleo_healthcheck.json", Translation(ignored="health check")),
        ("apaleo_folio.json", Translation(ignored="not about the end of a stay")),
    ],
)
def test_apaleo_webhooks_are_hints(name: str, expected: Translation) -> None:
    assert apaleo.translate(recorded(name), PMS) == expected


def test_an_apaleo_webhook_without_an_id_is_named_by_its_body() -> None:
    body = b'{"topic":"reservation","type":"Canceled","data":{"entityId":"X-1"}}'
    (hint,) = apaleo.translate(Delivery(body=body, headers={}, delivery_id="", received_at_ms=1), PMS).hints
    assert (hint.kind, len(hint.delivery_id)) == ("Reservation/canceled", 64)


def reservation(**changes: Any) -> dict[str, Any]:
    """The recorded reservation; None removes a field."""
    value = apaleo.load_reservation((PAYLOADS / "apaleo_reservation.json").read_bytes()) | changes
    return {name: field for name, field in value.items() if field is not None}


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
        (apaleo.CHECKED_OUT, {}, EARN),
        # The stay stands as it is now, whatever the hint was: the same id, credited once.
        (apaleo.CHECK_IN_REVERTED, {}, EARN),
        (CANCELED, {}, EARN),
        (apaleo.CHECKED_OUT, {"status": "InHouse", "checkOutTime": None}, None),
        (apaleo.CHECKED_OUT, {"status": "Confirmed"}, None),
        (apaleo.CHECK_IN_REVERTED, {"status": "Confirmed", "checkOutTime": None}, REVERSAL),
        (CANCELED, {"status": "Canceled", "checkOutTime": None}, None),
        ("Reservation/set-to-no-show", {"status": "NoShow", "checkOutTime": None}, None),
        (apaleo.CHECKED_OUT, {"primaryGuest": {"lastName": "Example"}}, None),
        (apaleo.CHECKED_OUT, {"primaryGuest": None}, None),
        (apaleo.CHECKED_OUT, {"primaryGuest": {"loyaltyMemberId": ""}}, None),
    ],
)
def test_what_a_reservation_means(kind: str, changes: dict[str, Any], expected: Transaction | None) -> None:
    assert apaleo.to_transaction(reservation(**changes), kind, RECEIVED_MS, PMS) == expected


def test_a_stay_that_had_ended_and_is_canceled_is_reversed() -> None:
    command = apaleo.to_transaction(reservation(status="Canceled"), CANCELED, RECEIVED_MS, PMS)
    assert command is not None and command.kind is TransactionKind.REVERSE and command.reason == CANCELED


def test_a_check_out_without_its_time_happened_when_it_was_told() -> None:
    command = apaleo.to_transaction(reservation(checkOutTime=None), apaleo.CHECKED_OUT, RECEIVED_MS, PMS)
    assert command is not None and command.occurred_at_ms == RECEIVED_MS


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
    text = (PAYLOADS / "apaleo_reservation.json").read_text().replace("260.10", amount).replace('"EUR"', f'"{currency}"')
    command = apaleo.to_transaction(apaleo.load_reservation(text.encode()), apaleo.CHECKED_OUT, RECEIVED_MS, PMS)
    assert command is not None and (command.amount_minor, command.currency) == (minor, currency)


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
    command = apaleo.to_transaction(reservation(arrival=arrival, departure=departure), apaleo.CHECKED_OUT, RECEIVED_MS, PMS)
    assert command is not None and command.nights == nights


def test_paths_are_configurable() -> None:
    source = Source(
        name="berlin", kind="apaleo", program_id="grand", secret="x",
        attributes={"member_id_path": "booker.externalId", "amount_path": "payableAmount.guest", "category": "apartment"},
    )  # fmt: skip
    value = reservation(booker={"externalId": "M-9"}, payableAmount={"guest": {"amount": 99, "currency": "EUR"}})
    command = apaleo.to_transaction(value, apaleo.CHECKED_OUT, RECEIVED_MS, source)
    assert command is not None
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
        ({"arrival": None}, "TYPE_INVALID"),
        ({"departure": "tomorrow"}, "TIME_INVALID"),
        ({"checkOutTime": 5}, "TYPE_INVALID"),
        ({"status": None}, "TYPE_INVALID"),
        ({"id": None}, "TYPE_INVALID"),
        ({"primaryGuest": {"loyaltyMemberId": 123}}, "TYPE_INVALID"),
        ({"primaryGuest": {"loyaltyMemberId": "x" * 129}}, "ID_INVALID"),
    ],
)
def test_reservations_that_cannot_be_understood(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ContractError) as caught:
        apaleo.to_transaction(reservation(**changes), apaleo.CHECKED_OUT, RECEIVED_MS, PMS)
    assert caught.value.reason == reason


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"a":NaN}', b"[" * 100_000, b"\xff\xfe", b'{"a":' + b"9" * 5000 + b"}"])
def test_reservations_that_are_no_json(body: bytes) -> None:
    with pytest.raises(ContractError):
        apaleo.load_reservation(body)


@pytest.mark.parametrize("amount", ["1e999999999", "1e5000", "-1e999999999", "9" * 400 + ".5"])
def test_amounts_beyond_reason(amount: str) -> None:
    text = (PAYLOADS / "apaleo_reservation.json").read_text().replace("260.10", amount)
    with pytest.raises(ContractError):
        apaleo.to_transaction(apaleo.load_reservation(text.encode()), apaleo.CHECKED_OUT, RECEIVED_MS, PMS)


@given(body=st.binary(max_size=200) | st.text(max_size=200).map(str.encode), kind=st.sampled_from(sorted(KINDS)))
def test_a_translator_raises_only_contract_errors(body: bytes, kind: str) -> None:
    delivery = Delivery(body=body, headers=STRUCTURED, delivery_id="d", received_at_ms=RECEIVED_MS)
    try:
        KINDS[kind].translate(delivery, HR)
    except ContractError:
        pass


# How senders prove themselves.

NOW_S = RECEIVED_MS / 1000
BODY = b'{"a":1}'


def test_a_signed_delivery() -> None:
    assert signed(HR, signatures.headers(KEY, "msg_1", int(NOW_S), BODY), BODY, NOW_S) == "msg_1"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"webhook-id": "msg_2"}, "SIGNATURE_MISMATCH"),
        ({"webhook-timestamp": str(int(NOW_S) - 1)}, "SIGNATURE_MISMATCH"),
        ({"webhook-timestamp": str(int(NOW_S) - 301)}, "TIMESTAMP_STALE"),
        ({"webhook-timestamp": str(int(NOW_S) + 302)}, "TIMESTAMP_AHEAD"),
        ({"webhook-timestamp": "1e9"}, "TIMESTAMP_INVALID"),
        ({"webhook-signature": ""}, "HEADER_MISSING"),
        ({"webhook-signature": "v1,"}, "SIGNATURE_MISMATCH"),
        ({"webhook-signature": "v2,abc v1a,def"}, "SIGNATURE_MISMATCH"),
        ({"webhook-signature": "v1,\udcff"}, "SIGNATURE_MISMATCH"),
    ],
)
def test_a_delivery_that_is_not_genuine(change: dict[str, str], reason: str) -> None:
    with pytest.raises(SignatureError) as caught:
        signed(HR, signatures.headers(KEY, "msg_1", int(NOW_S), BODY) | change, BODY, NOW_S)
    assert caught.value.reason == reason


def test_not_one_byte_of_the_body_may_differ() -> None:
    headers = signatures.headers(KEY, "msg_1", int(NOW_S), BODY)
    with pytest.raises(SignatureError):
        signed(HR, headers, json.dumps(json.loads(BODY)).encode(), NOW_S)


def test_basic_authentication() -> None:
    for user in ("pms", "", "é"):
        header = "Basic " + b64encode(f"{user}:a-long-password".encode()).decode()
        assert basic(PMS, {"authorization": header}, BODY, NOW_S) == ""


@pytest.mark.parametrize(
    "header",
    [
        "", "Basic", "Basic ", "Bearer a-long-password", "a-long-password", "Basic a-long-password", "Basic =", "Basic \udcff", "Basic é",
        "Basic " + b64encode(b"a-long-password").decode(),
        "Basic " + b64encode(b"pms:").decode(),
        "Basic " + b64encode(b"pms:a-long-passwor").decode(),
        "Basic " + b64encode(b"pms:\xff").decode(),
        "Basic " + "A" * 10_000,
    ],
)  # fmt: skip
def test_basic_authentication_that_fails(header: str) -> None:
    with pytest.raises(SignatureError):
        basic(PMS, {"authorization": header}, BODY, NOW_S)


def test_a_source_without_a_secret_lets_nobody_in() -> None:
    source = Source(name="x", kind="apaleo", program_id="grand", secret="")
    with pytest.raises(SignatureError):
        basic(source, {"authorization": "Basic " + b64encode(b"pms:").decode()}, BODY, NOW_S)


headers = st.dictionaries(
    st.sampled_from(["webhook-id", "webhook-timestamp", "webhook-signature", "authorization"]),
    st.text(max_size=60) | st.binary(max_size=60).map(lambda raw: raw.decode(errors="surrogateescape")),
)


@given(headers=headers, kind=st.sampled_from(sorted(KINDS)))
def test_hostile_headers_raise_only_signature_errors(headers: dict[str, str], kind: str) -> None:
    with pytest.raises(SignatureError):
        KINDS[kind].authenticate({"hr": HR, "cloudevents": PARTNER, "apaleo": PMS}[kind], headers, BODY, NOW_S)
