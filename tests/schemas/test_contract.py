"""The rules that Avro cannot say: each has a command that breaks it, and a value just within it."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import contract
from schemas.contract import Command, command_id, member_key, problems
from schemas.currencies import MINOR_UNIT_DIGITS
from schemas.records import Enrolment, LineItem, MemberStatus, OfferActivation, ProfileChange, Transaction, TransactionKind
from tests.schemas.strategies import records

WHO: dict[str, Any] = {"program_id": "grand", "member_id": "m-1", "source_system": "pms", "occurred_at_ms": 1}
ENROLMENT = Enrolment(**WHO, event_id="e1")
CHANGE = ProfileChange(**WHO, event_id="e1", segments=())
ACTIVATION = OfferActivation(**WHO, event_id="e1", offer_id="double")


def transaction(kind: TransactionKind, **more: Any) -> Transaction:
    return Transaction(**WHO, transaction_id="t1", kind=kind, **more)


EARN = transaction(TransactionKind.EARN, points=1)
SALE = transaction(TransactionKind.EARN, amount_minor=1, currency="EUR")
REDEEM = transaction(TransactionKind.REDEEM, points=1)
ADJUST = transaction(TransactionKind.ADJUST, points=-1, reason="goodwill", actor="agent-7")
REVERSE = transaction(TransactionKind.REVERSE, reverses_transaction_id="t0")
ALL = (ENROLMENT, CHANGE, ACTIVATION, EARN, SALE, REDEEM, ADJUST, REVERSE)

BROKEN = [
    (ENROLMENT, {"program_id": ""}, "PROGRAM_ID_INVALID", "program_id"),
    (ENROLMENT, {"program_id": "Grand"}, "PROGRAM_ID_INVALID", "program_id"),
    (ENROLMENT, {"program_id": "grand/hotel"}, "PROGRAM_ID_INVALID", "program_id"),
    (ENROLMENT, {"program_id": "-grand"}, "PROGRAM_ID_INVALID", "program_id"),
    (ENROLMENT, {"program_id": "grand\n"}, "PROGRAM_ID_INVALID", "program_id"),
    (ENROLMENT, {"program_id": "g" * 64}, "PROGRAM_ID_INVALID", "program_id"),
    (ENROLMENT, {"member_id": ""}, "ID_INVALID", "member_id"),
    (ENROLMENT, {"member_id": "m" * 129}, "ID_INVALID", "member_id"),
    (ENROLMENT, {"member_id": "m\x00"}, "ID_INVALID", "member_id"),
    (ENROLMENT, {"member_id": "m\n"}, "ID_INVALID", "member_id"),
    (ENROLMENT, {"event_id": ""}, "ID_INVALID", "event_id"),
    (EARN, {"transaction_id": "t\t"}, "ID_INVALID", "transaction_id"),
    (EARN, {"source_system": ""}, "ID_INVALID", "source_system"),
    (ACTIVATION, {"offer_id": ""}, "ID_INVALID", "offer_id"),
    (ACTIVATION, {"occurred_at_ms": 0}, "OCCURRED_AT_INVALID", "occurred_at_ms"),
    (ACTIVATION, {"occurred_at_ms": -1}, "OCCURRED_AT_INVALID", "occurred_at_ms"),
    (ENROLMENT, {"attributes": {f"a{n}": "" for n in range(65)}}, "TOO_MANY_ATTRIBUTES", "attributes"),
    (ENROLMENT, {"attributes": {"Email": "x"}}, "ATTRIBUTE_NAME_INVALID", "attributes"),
    (CHANGE, {"attributes": {"": "x"}}, "ATTRIBUTE_NAME_INVALID", "attributes"),
    (CHANGE, {"attributes": {"a": "x" * 1_025}}, "ATTRIBUTE_TOO_LONG", "attributes.a"),
    (CHANGE, {"attributes": {"tier": "GOLD"}}, "ATTRIBUTE_NAME_RESERVED", "attributes.tier"),
    (CHANGE, {"status_reason": "r" * 513}, "TEXT_TOO_LONG", "status_reason"),
    (ADJUST, {"reason": "r" * 513}, "TEXT_TOO_LONG", "reason"),
    (EARN, {"property_id": "p" * 513}, "TEXT_TOO_LONG", "property_id"),
    (SALE, {"line_items": (LineItem(amount_minor=1), LineItem(amount_minor=-(10**15) - 1))}, "LINE_ITEM_INVALID", "line_items[1]"),
    (SALE, {"line_items": (LineItem(amount_minor=1, sku="s" * 513),)}, "LINE_ITEM_INVALID", "line_items[0]"),
    (CHANGE, {"segments": ("s",) * 257}, "SEGMENTS_INVALID", "segments"),
    (CHANGE, {"segments": ("",)}, "SEGMENTS_INVALID", "segments"),
    (CHANGE, {"segments": ("s" * 129,)}, "SEGMENTS_INVALID", "segments"),
    (CHANGE, {"status": MemberStatus.UNKNOWN}, "STATUS_UNKNOWN", "status"),
    (CHANGE, {"segments": None}, "CHANGE_EMPTY", "attributes"),
    (EARN, {"kind": TransactionKind.UNKNOWN}, "KIND_UNKNOWN", "kind"),
    (EARN, {"points": 0}, "POINTS_NOT_POSITIVE", "points"),
    (EARN, {"points": -1}, "POINTS_NOT_POSITIVE", "points"),
    (REDEEM, {"points": -1}, "POINTS_NOT_POSITIVE", "points"),
    (REVERSE, {"points": 0}, "POINTS_NOT_POSITIVE", "points"),
    (ADJUST, {"points": 0}, "POINTS_NOT_POSITIVE", "points"),
    (EARN, {"points": 10**15 + 1}, "POINTS_TOO_LARGE", "points"),
    (ADJUST, {"points": -(10**15) - 1}, "POINTS_TOO_LARGE", "points"),
    (SALE, {"amount_minor": -1}, "AMOUNT_INVALID", "amount_minor"),
    (SALE, {"amount_minor": 10**15 + 1}, "AMOUNT_INVALID", "amount_minor"),
    (SALE, {"currency": None}, "CURRENCY_REQUIRED", "currency"),
    (EARN, {"line_items": (LineItem(amount_minor=1),)}, "CURRENCY_REQUIRED", "currency"),
    (SALE, {"currency": "EURO"}, "CURRENCY_UNKNOWN", "currency"),
    (SALE, {"currency": "eur"}, "CURRENCY_UNKNOWN", "currency"),
    (SALE, {"line_items": (LineItem(amount_minor=1),) * 1_001}, "TOO_MANY_LINE_ITEMS", "line_items"),
    (EARN, {"nights": -1}, "NIGHTS_INVALID", "nights"),
    (EARN, {"nights": 3_661}, "NIGHTS_INVALID", "nights"),
    (EARN, {"points": None}, "POINTS_OR_AMOUNT_REQUIRED", "points"),
    (SALE, {"points": 1}, "POINTS_AND_AMOUNT", "points"),
    (REDEEM, {"points": None}, "POINTS_REQUIRED", "points"),
    (ADJUST, {"points": None}, "POINTS_REQUIRED", "points"),
    (ADJUST, {"reason": None}, "REASON_REQUIRED", "reason"),
    (ADJUST, {"reason": ""}, "REASON_REQUIRED", "reason"),
    (ADJUST, {"actor": None}, "ACTOR_REQUIRED", "actor"),
    (REVERSE, {"reverses_transaction_id": None}, "REVERSES_REQUIRED", "reverses_transaction_id"),
    (REVERSE, {"reverses_transaction_id": ""}, "REVERSES_REQUIRED", "reverses_transaction_id"),
]

KEPT: list[tuple[Command, dict[str, Any]]] = [
    (ENROLMENT, {"program_id": "g"}),
    (ENROLMENT, {"program_id": "0-9"}),
    (ENROLMENT, {"program_id": "g" * 63}),
    (ENROLMENT, {"member_id": "Ü/ñ 1" + "m" * 123}),
    (ENROLMENT, {"attributes": {f"a{n}": "" for n in range(64)}}),
    (ENROLMENT, {"attributes": {"a.b_9": "x" * 1_024}, "segments": ("s" * 128,) * 256}),
    (CHANGE, {"segments": None, "attributes": {"email": None}}),
    (CHANGE, {"segments": None, "status": MemberStatus.SUSPENDED}),
    (EARN, {"points": 10**15}),
    (EARN, {"points": 1, "nights": 3_660}),
    (EARN, {"points": None, "nights": 0}),
    (SALE, {"amount_minor": 0}),
    (SALE, {"amount_minor": 10**15, "line_items": (LineItem(amount_minor=1),) * 1_000}),
    (ADJUST, {"points": -(10**15)}),
    (ADJUST, {"points": 10**15}),
    (REVERSE, {"points": 1}),
    (ADJUST, {"reason": "r" * 512}),
]


@pytest.mark.parametrize("command", ALL, ids=lambda command: command.SCHEMA)
def test_the_examples_are_sound(command: Command) -> None:
    assert problems(command) == ()


@pytest.mark.parametrize(("command", "broken", "reason", "field"), BROKEN)
def test_each_rule_has_its_reason_and_its_field(command: Command, broken: dict[str, Any], reason: str, field: str) -> None:
    found = problems(replace(command, **broken))
    assert [(problem.reason, problem.field) for problem in found] == [(reason, field)]
    assert found[0].detail


@pytest.mark.parametrize(("command", "kept"), KEPT)
def test_the_last_value_within_a_rule(command: Command, kept: dict[str, Any]) -> None:
    assert problems(replace(command, **kept)) == ()


def test_every_reason_is_tested() -> None:
    import re
    from pathlib import Path

    source = Path(contract.__file__).read_text()
    assert set(re.findall(r'Problem\("([A-Z_]+)"', source)) == {reason for _, _, reason, _ in BROKEN}


def test_all_problems_are_reported_in_the_order_of_the_fields() -> None:
    command = replace(ADJUST, program_id="", member_id="", transaction_id="", occurred_at_ms=0, points=0, actor=None)
    assert [problem.field for problem in problems(command)] == [
        "program_id", "member_id", "transaction_id", "occurred_at_ms", "points", "actor",
    ]  # fmt: skip


@given(st.one_of([records(name) for name in ("Enrolment", "Transaction", "ProfileChange", "OfferActivation")]))
def test_whatever_decodes_can_be_judged(command: Any) -> None:
    """It answers for every record of the schema, and never tells a value."""
    for problem in problems(command):
        assert problem.reason.isupper() and problem.detail
        assert problem.field.partition(".")[0].partition("[")[0] in command.to_avro()


def test_details_hold_no_personal_data() -> None:
    secret = "Zqxjkvb" * 200
    found = problems(replace(CHANGE, attributes={"email": secret}, status=MemberStatus.UNKNOWN))
    assert len(found) == 2 and "Zqxjkvb" not in str(found)


@pytest.mark.parametrize(
    ("program_id", "member_id", "key"),
    [("grand", "m-1", b"grand/m-1"), ("grand", "m/1", b"grand/m/1"), ("a-1", "ü", "a-1/ü".encode()), ("g", " ", b"g/ ")],
)
def test_member_key(program_id: str, member_id: str, key: bytes) -> None:
    assert member_key(program_id, member_id) == key


MEMBERS = st.tuples(st.from_regex(contract.PROGRAM_ID, fullmatch=True), st.text(min_size=1, max_size=5))


@given(MEMBERS, MEMBERS)
def test_members_share_no_key(one: tuple[str, str], other: tuple[str, str]) -> None:
    assert (member_key(*one) == member_key(*other)) == (one == other)


def test_command_id() -> None:
    assert (command_id(EARN), command_id(ENROLMENT), command_id(CHANGE), command_id(ACTIVATION)) == ("t1", "e1", "e1", "e1")


def test_currencies() -> None:
    assert len(MINOR_UNIT_DIGITS) > 140 and all(len(code) == 3 and code.isupper() for code in MINOR_UNIT_DIGITS)
    assert (MINOR_UNIT_DIGITS["EUR"], MINOR_UNIT_DIGITS["JPY"], MINOR_UNIT_DIGITS["KWD"]) == (2, 0, 3)
