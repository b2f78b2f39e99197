"""The rules that Avro cannot say: each has a command that breaks it, and a value just within it."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import contract
from schemas.contract import Command, command_id, member_key, problems
from schemas.currencies import MINOR_UNIT_DIGITS
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
from tests.schemas.strategies import records

WHO: dict[str, Any] = {"program_id": "grand", "member_id": "m-1", "source_system": "pms", "occurred_at_ms": 1}
ENROLMENT = Enrolment(**WHO, event_id="e1")
SUSPENDED = MemberStatus.SUSPENDED
CHANGE = ProfileChange(**WHO, event_id="e1", segments=())
ACTIVATION = OfferActivation(**WHO, event_id="e1", offer_id="double")


def transaction(kind: TransactionKind, **more: Any) -> Transaction:
    return Transaction(**WHO, transaction_id="t1", kind=kind, **more)


EARN = transaction(TransactionKind.EARN, points=1)
SALE = transaction(TransactionKind.EARN, amount_minor=1, currency="EUR")
REDEEM = transaction(TransactionKind.REDEEM, points=1)
ADJUST = transaction(TransactionKind.ADJUST, points=-1, reason="goodwill", actor="agent-7")
REVERSE = transaction(TransactionKind.REVERSE, reverses_transaction_id="t0")
HOLD = transaction(TransactionKind.HOLD, points=1)
CAPTURE = transaction(TransactionKind.CAPTURE, related_transaction_id="t0")
VOID = transaction(TransactionKind.VOID, related_transaction_id="t0")
ACTIVATE = transaction(TransactionKind.ACTIVATE, related_transaction_id="t0")
TRANSFER = transaction(TransactionKind.TRANSFER, points=1, to_member_id="m-2")
REDEEM_VOUCHER = transaction(TransactionKind.REDEEM_VOUCHER, voucher_code="V-1")
CANCEL_VOUCHER = transaction(TransactionKind.CANCEL_VOUCHER, voucher_code="V-1")


def operation(kind: MemberOperationKind, **more: Any) -> MemberOperation:
    return MemberOperation(**WHO, event_id="e1", kind=kind, reason="asked for", actor="agent-7", **more)


MERGE = operation(MemberOperationKind.MERGE, target_member_id="m-2")
ERASE = operation(MemberOperationKind.ERASE)
SET_TIER = operation(MemberOperationKind.SET_TIER, tier="GOLD")
JOIN_POOL = operation(MemberOperationKind.JOIN_POOL, target_member_id="m-2")
LEAVE_POOL = operation(MemberOperationKind.LEAVE_POOL)
TRANSACTIONS = (EARN, REDEEM, REVERSE, ADJUST, HOLD, CAPTURE, VOID, ACTIVATE, TRANSFER, REDEEM_VOUCHER, CANCEL_VOUCHER)
OPERATIONS = (MERGE, ERASE, SET_TIER, JOIN_POOL, LEAVE_POOL)
ALL = (ENROLMENT, CHANGE, ACTIVATION, SALE, *TRANSACTIONS, *OPERATIONS)

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
    (EARN, {"occurred_at_ms": 253_402_300_800_000}, "OCCURRED_AT_INVALID", "occurred_at_ms"),
    (HOLD, {"points": None}, "POINTS_REQUIRED", "points"),
    (HOLD, {"points": -1}, "POINTS_NOT_POSITIVE", "points"),
    (HOLD, {"expires_at_ms": 0}, "TIME_INVALID", "expires_at_ms"),
    (CAPTURE, {"points": 0}, "POINTS_NOT_POSITIVE", "points"),
    (CAPTURE, {"related_transaction_id": None}, "RELATED_REQUIRED", "related_transaction_id"),
    (CAPTURE, {"related_transaction_id": "t" * 513}, "TEXT_TOO_LONG", "related_transaction_id"),
    (VOID, {"related_transaction_id": ""}, "RELATED_REQUIRED", "related_transaction_id"),
    (VOID, {"points": 1}, "FIELD_NOT_FOR_KIND", "points"),
    (ACTIVATE, {"related_transaction_id": None}, "RELATED_REQUIRED", "related_transaction_id"),
    (ACTIVATE, {"points": 1}, "FIELD_NOT_FOR_KIND", "points"),
    (TRANSFER, {"points": None}, "POINTS_REQUIRED", "points"),
    (TRANSFER, {"to_member_id": None}, "TO_MEMBER_REQUIRED", "to_member_id"),
    (TRANSFER, {"to_member_id": ""}, "ID_INVALID", "to_member_id"),
    (TRANSFER, {"to_member_id": "m" * 129}, "ID_INVALID", "to_member_id"),
    (TRANSFER, {"to_member_id": "m\x00"}, "ID_INVALID", "to_member_id"),
    (REDEEM_VOUCHER, {"voucher_code": None}, "VOUCHER_CODE_REQUIRED", "voucher_code"),
    (REDEEM_VOUCHER, {"voucher_code": "v" * 513}, "TEXT_TOO_LONG", "voucher_code"),
    (REDEEM_VOUCHER, {"points": 1}, "FIELD_NOT_FOR_KIND", "points"),
    (CANCEL_VOUCHER, {"voucher_code": ""}, "VOUCHER_CODE_REQUIRED", "voucher_code"),
    (CANCEL_VOUCHER, {"points": 1}, "FIELD_NOT_FOR_KIND", "points"),
    (EARN, {"expires_at_ms": 0}, "TIME_INVALID", "expires_at_ms"),
    (EARN, {"expires_at_ms": 253_402_300_800_000}, "TIME_INVALID", "expires_at_ms"),
    (EARN, {"available_from_ms": -1}, "TIME_INVALID", "available_from_ms"),
    (MERGE, {"kind": MemberOperationKind.UNKNOWN}, "KIND_UNKNOWN", "kind"),
    (MERGE, {"event_id": ""}, "ID_INVALID", "event_id"),
    (MERGE, {"target_member_id": None}, "TARGET_MEMBER_REQUIRED", "target_member_id"),
    (MERGE, {"target_member_id": ""}, "ID_INVALID", "target_member_id"),
    (JOIN_POOL, {"target_member_id": None}, "TARGET_MEMBER_REQUIRED", "target_member_id"),
    (JOIN_POOL, {"target_member_id": "m\n"}, "ID_INVALID", "target_member_id"),
    (SET_TIER, {"tier": None}, "TIER_REQUIRED", "tier"),
    (SET_TIER, {"tier": ""}, "TIER_REQUIRED", "tier"),
    (SET_TIER, {"tier": "G" * 513}, "TEXT_TOO_LONG", "tier"),
    (SET_TIER, {"valid_until_ms": 0}, "TIME_INVALID", "valid_until_ms"),
    (ERASE, {"reason": "r" * 513}, "TEXT_TOO_LONG", "reason"),
    (ERASE, {"actor": "a" * 513}, "TEXT_TOO_LONG", "actor"),
    *((one, {"reason": None}, "REASON_REQUIRED", "reason") for one in OPERATIONS),
    *((one, {"actor": ""}, "ACTOR_REQUIRED", "actor") for one in OPERATIONS),
    *((one, {"target_member_id": "m-2"}, "FIELD_NOT_FOR_KIND", "target_member_id") for one in (ERASE, SET_TIER, LEAVE_POOL)),
    *((one, {"tier": "GOLD"}, "FIELD_NOT_FOR_KIND", "tier") for one in OPERATIONS if one is not SET_TIER),
    *((one, {"valid_until_ms": 1}, "FIELD_NOT_FOR_KIND", "valid_until_ms") for one in OPERATIONS if one is not SET_TIER),
    (CHANGE, {"status": MemberStatus.MERGED}, "STATUS_NOT_SETTABLE", "status"),
    (CHANGE, {"status": MemberStatus.ERASED}, "STATUS_NOT_SETTABLE", "status"),
    (CHANGE, {"status_from_ms": 1}, "STATUS_REQUIRED", "status"),
    (CHANGE, {"status_from_date": "2027-01-01"}, "STATUS_REQUIRED", "status"),
    (CHANGE, {"status": SUSPENDED, "status_from_ms": 1, "status_from_date": "2027-01-01"}, "STATUS_FROM_TWICE", "status_from_date"),
    *[
        (CHANGE, {"status": SUSPENDED, "status_from_date": day}, "DATE_INVALID", "status_from_date")
        for day in ("2027-02-29", "2027-1-1", "20270101", "1970-12-31", "9990-01-01", "", "tomorrow")
    ],
    (CHANGE, {"external_ids": {f"t{n}": "x" for n in range(33)}}, "TOO_MANY_EXTERNAL_IDS", "external_ids"),
    (CHANGE, {"external_ids": {"Card": "1"}}, "EXTERNAL_ID_TYPE_INVALID", "external_ids"),
    (ENROLMENT, {"external_ids": {"card": ""}}, "EXTERNAL_ID_INVALID", "external_ids.card"),
    (CHANGE, {"external_ids": {"card": "x" * 95}}, "EXTERNAL_ID_INVALID", "external_ids.card"),
    (CHANGE, {"member_id": "@card"}, "ADDRESS_INVALID", "member_id"),
    (ENROLMENT, {"member_id": "@card:1"}, "MEMBER_ID_RESERVED", "member_id"),
    (TRANSFER, {"to_member_id": "@card:1"}, "ADDRESS_NOT_HERE", "to_member_id"),
    (MERGE, {"target_member_id": "@card:1"}, "ADDRESS_NOT_HERE", "target_member_id"),
    (CHANGE, {"status": MemberStatus.ACTIVE, "status_from_ms": 0}, "TIME_INVALID", "status_from_ms"),
    (CHANGE, {"status": MemberStatus.SUSPENDED, "status_from_ms": 2**62}, "TIME_INVALID", "status_from_ms"),
]

# Each field that only some kinds have, and who has it.
OWN_FIELDS: dict[str, tuple[Any, tuple[Transaction, ...]]] = {
    "related_transaction_id": ("t0", (CAPTURE, VOID, ACTIVATE)),
    "to_member_id": ("m-2", (TRANSFER,)),
    "voucher_code": ("V-1", (REDEEM_VOUCHER, CANCEL_VOUCHER)),
    "expires_at_ms": (1, (EARN, ADJUST, HOLD)),
    "available_from_ms": (1, (EARN,)),
    "pending": (False, (EARN,)),
}

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
    (ADJUST, {"occurred_at_ms": 253_402_300_799_999, "points": 1, "expires_at_ms": 253_402_300_799_999}),
    (HOLD, {"expires_at_ms": 1}),
    (CAPTURE, {"points": 1, "related_transaction_id": "t" * 512}),
    (EARN, {"expires_at_ms": 1, "available_from_ms": 1, "pending": True}),
    (SALE, {"pending": False}),
    (TRANSFER, {"to_member_id": "Ü/ñ 1" + "m" * 123, "reason": "a gift"}),
    (REDEEM_VOUCHER, {"voucher_code": "v" * 512}),
    (SET_TIER, {"valid_until_ms": 1, "tier": "G" * 512}),
    (CHANGE, {"segments": None, "status": MemberStatus.SUSPENDED, "status_from_ms": 1, "status_reason": "r"}),
]


@pytest.mark.parametrize("command", ALL, ids=lambda command: command.SCHEMA)
def test_the_examples_are_sound(command: Command) -> None:
    assert problems(command) == ()


@pytest.mark.parametrize(("command", "broken", "reason", "field"), BROKEN)
def test_each_rule_has_its_reason_and_its_field(command: Command, broken: dict[str, Any], reason: str, field: str) -> None:
    found = problems(replace(command, **broken))
    assert [(problem.reason, problem.field) for problem in found] == [(reason, field)]
    assert found[0].detail


@pytest.mark.parametrize("command", TRANSACTIONS, ids=lambda command: command.kind.value)
@pytest.mark.parametrize("name", OWN_FIELDS)
def test_a_field_of_other_kinds_must_be_empty(command: Transaction, name: str) -> None:
    value, owners = OWN_FIELDS[name]
    expected = [] if command in owners else [("FIELD_NOT_FOR_KIND", name)]
    assert [(problem.reason, problem.field) for problem in problems(replace(command, **{name: value}))] == expected


def test_every_kind_has_its_example() -> None:
    assert {command.kind for command in TRANSACTIONS} == set(TransactionKind) - {TransactionKind.UNKNOWN}
    assert {command.kind for command in OPERATIONS} == set(MemberOperationKind) - {MemberOperationKind.UNKNOWN}
    assert OWN_FIELDS.keys() == contract.KINDS_OF_FIELD.keys()


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


@given(st.one_of([records(name) for name in ("Enrolment", "Transaction", "ProfileChange", "OfferActivation", "MemberOperation")]))
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
    assert (command_id(EARN), *map(command_id, (ENROLMENT, CHANGE, ACTIVATION, MERGE))) == ("t1", "e1", "e1", "e1", "e1")


def test_currencies() -> None:
    assert len(MINOR_UNIT_DIGITS) > 140 and all(len(code) == 3 and code.isupper() for code in MINOR_UNIT_DIGITS)
    assert (MINOR_UNIT_DIGITS["EUR"], MINOR_UNIT_DIGITS["JPY"], MINOR_UNIT_DIGITS["KWD"]) == (2, 0, 3)
