"""Recorded CloudEvents -> commands, in both modes."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.contract import Command, command_id
from schemas.records import Enrolment, LineItem, OfferActivation, ProfileChange, Transaction, TransactionKind
from streams.connectors.cloudevents import CONNECTOR, inbound
from streams.connectors.contract import Delivery, Source, Translation
from streams.errors import ContractError

PAYLOADS = Path(__file__).parent / "payloads"
RECEIVED_MS = 1_795_319_000_000  # 2026-11-22T03:43:20Z
PARTNER = Source(name="partner", kind=CONNECTOR.kind, program_id="grand")


def recorded(name: str, headers: Mapping[str, str]) -> Delivery:
    """A payload as it was sent."""
    return Delivery(body=(PAYLOADS / name).read_bytes(), headers=headers, delivery_id="msg_1", received_at_ms=RECEIVED_MS)


def only(translation: Translation) -> Command:
    (command,) = translation.commands
    return command


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
        ("transaction.json", CE_TRANSACTION), ("enrolment.json", CE_ENROLMENT), ("profile_change.json", CE_PROFILE_CHANGE),
        ("offer_activation.json", CE_OFFER_ACTIVATION),
    ],
)  # fmt: skip
def test_structured_cloudevents(name: str, expected: Command) -> None:
    assert only(inbound.translate(recorded(name, STRUCTURED), PARTNER)) == expected


BINARY = {
    "content-type": "application/json", "ce-specversion": "1.0", "ce-type": "loyalty.transaction.v1", "ce-source": "/partner/%C3%A9",
    "ce-id": "77", "ce-time": "2026-11-22T03:48:10.531Z",
}  # fmt: skip


def test_a_binary_cloudevent_is_named_by_what_is_signed() -> None:
    command = only(inbound.translate(recorded("binary_data.json", BINARY), PARTNER))
    assert isinstance(command, Transaction)
    assert (command.transaction_id, command.occurred_at_ms, command.reward_code) == ("partner:msg_1", 1795319290531, "SPA-DAY")
    again = only(inbound.translate(recorded("binary_data.json", BINARY | {"ce-id": "78", "ce-source": "/other"}), PARTNER))
    assert again == command, "a caught delivery could be sent again under another ce-id"


def test_a_long_source_and_id_still_name_the_event() -> None:
    text = (PAYLOADS / "transaction.json").read_text()
    events = [text.replace("/partner/shop", "/partner/" + "x" * 200).replace("A234-1234-1234", one) for one in ("1", "1", "2")]
    delivery = recorded("transaction.json", STRUCTURED)
    ids = [
        command_id(only(inbound.translate(replace(delivery, body=event.encode()), PARTNER)))
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
        inbound.translate(Delivery(body=body.encode(), headers=headers, delivery_id="d", received_at_ms=RECEIVED_MS), PARTNER)
    assert caught.value.reason == reason


@given(body=st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_a_translator_raises_only_contract_errors(body: bytes) -> None:
    try:
        inbound.translate(Delivery(body=body, headers=STRUCTURED, delivery_id="d", received_at_ms=RECEIVED_MS), PARTNER)
    except ContractError:
        pass
