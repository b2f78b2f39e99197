"""JSON -> commands: what is taken, what is refused, and with which reasons."""

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.records import (
    Enrolment,
    LineItem,
    MemberOperation,
    MemberOperationKind,
    MemberStatus,
    OfferActivation,
    ProfileChange,
    Transaction,
    TransactionKind,
)
from streams import topics
from streams.errors import ContractError
from streams.ingress.commands import Defaults, InvalidError, format_time, load_json, parse, parse_time

NOW_MS = 1_795_318_800_000
DEFAULTS = Defaults(source_system="pms", occurred_at_ms=NOW_MS)
EARN = {"program_id": "grand", "member_id": "M-1", "transaction_id": "t1", "kind": "EARN", "points": 5}


def test_a_transaction_with_everything() -> None:
    payload = EARN | {
        "points": None, "amount_minor": 7350, "currency": "EUR", "occurred_at": "2026-11-22T11:05:00.5+01:00", "source_system": "pos",
        "line_items": [{"sku": "W", "amount_minor": 2450, "quantity": 3}, {"amount_minor": 0}], "nights": 2, "property_id": "MUC",
    }  # fmt: skip
    assert parse(topics.TRANSACTIONS, payload, DEFAULTS) == Transaction(
        program_id="grand", member_id="M-1", transaction_id="t1", kind=TransactionKind.EARN, source_system="pos",
        occurred_at_ms=1795341900500, amount_minor=7350, currency="EUR", nights=2, property_id="MUC",
        line_items=(LineItem(sku="W", amount_minor=2450, quantity=3), LineItem(amount_minor=0)),
    )  # fmt: skip


def test_a_pending_earn_with_its_own_times() -> None:
    payload = EARN | {"pending": True, "available_from": "2026-12-01T00:00:00Z", "expires_at": "2027-12-01T00:00:00+01:00"}
    command = parse(topics.TRANSACTIONS, payload, DEFAULTS)
    assert isinstance(command, Transaction)
    assert (command.pending, command.available_from_ms, command.expires_at_ms) == (True, 1_796_083_200_000, 1_827_615_600_000)
    absent = parse(topics.TRANSACTIONS, EARN | {"pending": None, "expires_at": None}, DEFAULTS)
    assert absent == parse(topics.TRANSACTIONS, EARN, DEFAULTS)


def test_a_member_operation() -> None:
    payload = {
        "program_id": "grand", "member_id": "M-1", "event_id": "e1", "kind": "SET_TIER", "tier": "GOLD", "valid_until": "2027-01-01T00:00:00Z",
        "reason": "match", "actor": "agent-17",
    }  # fmt: skip
    assert parse(topics.MEMBER_OPERATIONS, payload, DEFAULTS) == MemberOperation(
        program_id="grand", member_id="M-1", event_id="e1", source_system="pms", occurred_at_ms=NOW_MS, kind=MemberOperationKind.SET_TIER,
        tier="GOLD", valid_until_ms=1_798_761_600_000, reason="match", actor="agent-17",
    )  # fmt: skip


def test_a_status_that_is_scheduled() -> None:
    payload = {"program_id": "grand", "member_id": "M-1", "event_id": "e1", "status": "SUSPENDED", "status_from": "2026-12-01T00:00:00Z"}
    change = parse(topics.PROFILE_CHANGES, payload, DEFAULTS)
    assert isinstance(change, ProfileChange) and change.status_from_ms == 1_796_083_200_000


def test_what_is_not_said_comes_from_the_defaults() -> None:
    defaults = Defaults(source_system="till", occurred_at_ms=NOW_MS, program_id="grand", command_id="key-1")
    command = parse(topics.OFFER_ACTIVATIONS, {"member_id": "M-1", "offer_id": "o", "occurred_at": None, "program_id": None}, defaults)
    assert command == OfferActivation(
        program_id="grand", member_id="M-1", event_id="key-1", source_system="till", occurred_at_ms=NOW_MS, offer_id="o"
    )


def test_null_clears_an_attribute_of_a_change_but_not_of_an_enrolment() -> None:
    payload: dict[str, Any] = {"program_id": "grand", "member_id": "M-1", "event_id": "e", "attributes": {"a": None, "b": "x"}}
    change = parse(topics.PROFILE_CHANGES, payload | {"status": "SUSPENDED"}, DEFAULTS)
    assert isinstance(change, ProfileChange)
    assert change.attributes == {"a": None, "b": "x"} and change.status is MemberStatus.SUSPENDED and change.segments is None
    assert problems(topics.ENROLMENTS, payload) == [("TYPE_INVALID", "attributes.a")]
    enrolment = parse(topics.ENROLMENTS, payload | {"attributes": {"b": "x"}, "segments": ["s"]}, DEFAULTS)
    assert isinstance(enrolment, Enrolment) and enrolment.segments == ("s",) and enrolment.source_version is None


def problems(topic: topics.Topic, payload: Any) -> list[tuple[str, str]]:
    with pytest.raises(InvalidError) as caught:
        parse(topic, payload, DEFAULTS)
    return [(problem.reason, problem.field) for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"points": "5"}, [("TYPE_INVALID", "points")]),
        ({"points": 5.0}, [("TYPE_INVALID", "points")]),
        ({"points": True}, [("TYPE_INVALID", "points")]),
        ({"points": [5]}, [("TYPE_INVALID", "points")]),
        ({"points": 2**63}, [("OUT_OF_RANGE", "points")]),
        ({"points": 10**16}, [("POINTS_TOO_LARGE", "points")]),
        ({"points": 0}, [("POINTS_NOT_POSITIVE", "points")]),
        ({"points": -5}, [("POINTS_NOT_POSITIVE", "points")]),
        ({"points": None}, [("POINTS_OR_AMOUNT_REQUIRED", "points")]),
        ({"amount_minor": 1, "currency": "EUR"}, [("POINTS_AND_AMOUNT", "points")]),
        ({"amount_minor": 1}, [("CURRENCY_REQUIRED", "currency"), ("POINTS_AND_AMOUNT", "points")]),
        ({"currency": "EURO"}, [("CURRENCY_UNKNOWN", "currency")]),
        ({"nights": 2**31}, [("OUT_OF_RANGE", "nights")]),
        ({"nights": 4000}, [("NIGHTS_INVALID", "nights")]),
        ({"kind": "SPEND"}, [("VALUE_UNKNOWN", "kind")]),
        ({"kind": "UNKNOWN"}, [("VALUE_UNKNOWN", "kind")]),
        ({"kind": {}}, [("VALUE_UNKNOWN", "kind")]),
        ({"kind": None}, [("FIELD_REQUIRED", "kind")]),
        ({"member_id": 7}, [("TYPE_INVALID", "member_id")]),
        ({"member_id": ""}, [("ID_INVALID", "member_id")]),
        ({"member_id": "a\u0000b"}, [("ID_INVALID", "member_id")]),
        ({"member_id": "x" * 129}, [("ID_INVALID", "member_id")]),
        ({"transaction_id": None}, [("FIELD_REQUIRED", "transaction_id")]),
        ({"program_id": None}, [("FIELD_REQUIRED", "program_id")]),
        ({"program_id": "Grand!"}, [("PROGRAM_ID_INVALID", "program_id")]),
        ({"program_id": "grand/x"}, [("PROGRAM_ID_INVALID", "program_id")]),
        ({"occurred_at": 1795318800000}, [("TIME_INVALID", "occurred_at")]),
        ({"occurred_at": "2026-11-22"}, [("TIME_INVALID", "occurred_at")]),
        ({"occurred_at": "2026-11-22T03:40:00"}, [("TIME_INVALID", "occurred_at")]),
        ({"occurred_at": "2026-13-22T03:40:00Z"}, [("TIME_INVALID", "occurred_at")]),
        ({"occurred_at": "1969-12-31T23:59:59Z"}, [("OCCURRED_AT_INVALID", "occurred_at")]),
        ({"occurred_at_ms": NOW_MS}, [("FIELD_UNKNOWN", "occurred_at_ms")]),
        ({"foo": 1}, [("FIELD_UNKNOWN", "foo")]),
        ({"foo": None}, [("FIELD_UNKNOWN", "foo")]),
        ({"line_items": {}}, [("TYPE_INVALID", "line_items")]),
        ({"line_items": [1]}, [("TYPE_INVALID", "line_items[0]")]),
        ({"line_items": [{"quantity": 1}]}, [("FIELD_REQUIRED", "line_items[0].amount_minor")]),
        ({"line_items": [{"amount_minor": 1, "x": 1}]}, [("FIELD_UNKNOWN", "line_items[0].x")]),
        ({"line_items": [{"amount_minor": 1}]}, [("CURRENCY_REQUIRED", "currency")]),
        ({"line_items": [{"amount_minor": 1, "quantity": 2**31}], "currency": "EUR"}, [("OUT_OF_RANGE", "line_items[0].quantity")]),
        ({"line_items": [{"amount_minor": 2**60}], "currency": "EUR"}, [("LINE_ITEM_INVALID", "line_items[0]")]),
        ({"reason": "x" * 513}, [("TEXT_TOO_LONG", "reason")]),
        ({"kind": "REDEEM", "points": None}, [("POINTS_REQUIRED", "points")]),
        ({"pending": 1}, [("TYPE_INVALID", "pending")]),
        ({"pending": "true"}, [("TYPE_INVALID", "pending")]),
        ({"expires_at": 1795318800000}, [("TIME_INVALID", "expires_at")]),
        ({"expires_at": "1969-12-31T23:59:59Z"}, [("TIME_INVALID", "expires_at")]),
        ({"available_from": "tomorrow"}, [("TIME_INVALID", "available_from")]),
        ({"expires_at_ms": NOW_MS}, [("FIELD_UNKNOWN", "expires_at_ms")]),
        ({"to_member_id": "M-2"}, [("FIELD_NOT_FOR_KIND", "to_member_id")]),
        ({"kind": "REDEEM", "available_from": "2026-12-01T00:00:00Z"}, [("FIELD_NOT_FOR_KIND", "available_from")]),
        ({"kind": "HOLD", "points": None}, [("POINTS_REQUIRED", "points")]),
        ({"kind": "VOID"}, [("FIELD_NOT_FOR_KIND", "points"), ("RELATED_REQUIRED", "related_transaction_id")]),
        ({"kind": "TRANSFER", "to_member_id": "x" * 129}, [("ID_INVALID", "to_member_id")]),
        ({"kind": "REVERSE"}, [("REVERSES_REQUIRED", "reverses_transaction_id")]),
        ({"kind": "ADJUST", "points": -1}, [("REASON_REQUIRED", "reason"), ("ACTOR_REQUIRED", "actor")]),
        ({"points": "5", "foo": 1, "kind": 3}, [("VALUE_UNKNOWN", "kind"), ("TYPE_INVALID", "points"), ("FIELD_UNKNOWN", "foo")]),
    ],
    ids=lambda value: str(value)[:60],
)
def test_a_transaction_that_breaks_a_rule(change: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    assert problems(topics.TRANSACTIONS, EARN | change) == expected


@pytest.mark.parametrize(
    ("topic", "payload", "expected"),
    [
        (topics.PROFILE_CHANGES, {}, [("CHANGE_EMPTY", "attributes")]),
        (topics.PROFILE_CHANGES, {"status": "DELETED"}, [("VALUE_UNKNOWN", "status")]),
        (topics.PROFILE_CHANGES, {"attributes": {"Given Name": "x"}}, [("ATTRIBUTE_NAME_INVALID", "attributes")]),
        (topics.PROFILE_CHANGES, {"attributes": {"tier": "GOLD"}}, [("ATTRIBUTE_NAME_RESERVED", "attributes.tier")]),
        (topics.PROFILE_CHANGES, {"attributes": {"a": "x" * 1025}}, [("ATTRIBUTE_TOO_LONG", "attributes.a")]),
        (topics.PROFILE_CHANGES, {"segments": [1]}, [("TYPE_INVALID", "segments[0]")]),
        (topics.ENROLMENTS, {"attributes": {f"a{n}": "" for n in range(65)}}, [("TOO_MANY_ATTRIBUTES", "attributes")]),
        (topics.ENROLMENTS, {"segments": ["x"] * 257}, [("SEGMENTS_INVALID", "segments")]),
        (topics.ENROLMENTS, {"source_version": "1"}, [("TYPE_INVALID", "source_version")]),
        (topics.PROFILE_CHANGES, {"status": "MERGED"}, [("STATUS_NOT_SETTABLE", "status")]),
        (topics.PROFILE_CHANGES, {"segments": [], "status_from": "2026-12-01T00:00:00Z"}, [("STATUS_REQUIRED", "status")]),
        (topics.MEMBER_OPERATIONS, {}, [("FIELD_REQUIRED", "kind")]),
        (topics.MEMBER_OPERATIONS, {"kind": "ERASE"}, [("REASON_REQUIRED", "reason"), ("ACTOR_REQUIRED", "actor")]),
        (topics.MEMBER_OPERATIONS, {"kind": "MERGE", "reason": "r", "actor": "a"}, [("TARGET_MEMBER_REQUIRED", "target_member_id")]),
        (topics.OFFER_ACTIVATIONS, {"offer_id": ""}, [("ID_INVALID", "offer_id")]),
        (topics.OFFER_ACTIVATIONS, {}, [("FIELD_REQUIRED", "offer_id")]),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, dict) else "",
)
def test_other_commands_that_break_a_rule(topic: topics.Topic, payload: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    assert problems(topic, {"program_id": "grand", "member_id": "M-1", "event_id": "e"} | payload) == expected


@pytest.mark.parametrize("payload", [None, 1, "x", True, []])
def test_a_command_is_an_object(payload: Any) -> None:
    assert problems(topics.ENROLMENTS, payload) == [("TYPE_INVALID", "")]


def test_a_hostile_body_gets_a_bounded_list_of_problems() -> None:
    assert len(problems(topics.TRANSACTIONS, {f"x{n}": n for n in range(10_000)})) < 200
    assert len(problems(topics.TRANSACTIONS, EARN | {"line_items": ["x"] * 10_000})) < 200


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b'{"a":NaN}', b"[" * 2000, b'"\\ud800"', b"{'a':1}"])
def test_not_json(body: bytes) -> None:
    with pytest.raises(ContractError) as caught:
        load_json(body)
    assert caught.value.reason == "NOT_JSON"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01T00:00:00.0019Z", 1),
        ("1970-01-01t01:00:00+01:00", 0),
        ("2026-11-22 03:40:00z", 1795318800000),
        ("1969-12-31T23:59:59.999Z", -1),
        ("2026-11-22T03:40:00.123456789Z", 1795318800123),
        ("2026-11-22T25:00:00Z", None),
        ("2026-11-22T03:40:00+0530", None),
        ("2026-W47-7T03:40:00Z", None),
        ("２026-11-22T03:40:00Z", None),
        ("", None),
    ],
)
def test_times(text: str, expected: int | None) -> None:
    assert parse_time(text) == expected


@given(st.integers(0, 250_000_000_000_000))
def test_a_time_comes_back_as_it_was(at_ms: int) -> None:
    assert parse_time(format_time(at_ms)) == at_ms


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=20,
)
names = st.sampled_from(["member_id", "transaction_id", "kind", "points", "occurred_at", "line_items", "attributes", "segments", "status", "pending"])


@given(topic=st.sampled_from(topics.INBOUND), payload=json_values | st.dictionaries(names, json_values, max_size=6))
def test_whatever_json_comes_there_is_a_command_or_a_list_of_problems(topic: topics.Topic, payload: Any) -> None:
    try:
        command = parse(topic, load_json(orjson.dumps(payload)), DEFAULTS)
    except InvalidError as error:
        assert error.problems
    else:
        assert isinstance(command, topic.record)
