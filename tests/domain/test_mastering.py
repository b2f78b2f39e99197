"""Whose word counts: source x part x operation, for refusal and acceptance; and what a master has said holds in every interleaving."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas.contract import Command
from schemas.records import Account, CommandResult, LoyaltyEventKind, MemberOperationKind, MemberStatus
from streams.domain.mastering import master_of
from streams.domain.program import Program
from streams.domain.refusals import Refusal
from tests.domain.shell import PROGRAM, Shell, activate, adjust, change, earn, enrol, operate, redeem

SLOW = settings(deadline=None, database=None, derandomize=True, max_examples=80, suppress_health_check=[HealthCheck.too_slow])

POLICIES: dict[str, dict[str, str]] = {
    "all is local": {},
    "one attribute": {"given_name": "salesforce"},
    "several masters": {"given_name": "salesforce", "segments": "crm", "status": "hr", "external_ids.*": "hr"},
    "a pattern": {"contact.*": "salesforce"},
    "a local exception": {"*": "hr", "nickname": "local", "contact.*": "salesforce", "contact.note": "local"},
    "a longer pattern outweighs": {"c*": "hr", "contact.*": "salesforce", "contact.email": "crm"},
    "one type of external ids": {"external_ids.employee": "hr"},
}
SOURCES = ("pms", "hr", "salesforce", "crm")
S, H, C = "salesforce", "hr", "crm"

# Operation -> the command, and by policy whose part it is (as the detail tells it); a policy that is not here masters nothing of it.
OPERATIONS: dict[str, tuple[Command, dict[str, dict[str, str]]]] = {
    "set a name": (
        change(attributes={"given_name": "Ada"}),
        {"one attribute": {"given_name": S}, "several masters": {"given_name": S}, "a local exception": {"given_name": H}},
    ),
    "clear a name": (
        change(attributes={"given_name": None}),
        {"one attribute": {"given_name": S}, "several masters": {"given_name": S}, "a local exception": {"given_name": H}},
    ),
    "the value that is there": (
        change(attributes={"given_name": "Robin"}),
        {"one attribute": {"given_name": S}, "several masters": {"given_name": S}, "a local exception": {"given_name": H}},
    ),
    "set a contact attribute": (
        change(attributes={"contact.email": "a@example.org"}),
        {"a pattern": {"contact.email": S}, "a local exception": {"contact.email": S}, "a longer pattern outweighs": {"contact.email": C}},
    ),
    "another contact attribute": (
        change(attributes={"contact.phone": "1"}),
        {"a pattern": {"contact.phone": S}, "a local exception": {"contact.phone": S}, "a longer pattern outweighs": {"contact.phone": S}},
    ),
    "a shorter name than the pattern": (
        change(attributes={"contact": "1"}), {"a local exception": {"contact": H}, "a longer pattern outweighs": {"contact": H}},
    ),
    "what is local by exception": (change(attributes={"nickname": "A"}), {}),
    "local within a pattern": (change(attributes={"contact.note": "x"}), {"a pattern": {"contact.note": S}, "a longer pattern outweighs": {"contact.note": S}}),
    "set segments": (change(segments=("vip",)), {"several masters": {"segments": C}, "a local exception": {"segments": H}}),
    "clear segments": (change(segments=()), {"several masters": {"segments": C}, "a local exception": {"segments": H}}),
    "suspend": (change(status=MemberStatus.SUSPENDED), {"several masters": {"status": H}, "a local exception": {"status": H}}),
    "reactivate": (change(status=MemberStatus.ACTIVE), {"several masters": {"status": H}, "a local exception": {"status": H}}),
    "leave": (change(status=MemberStatus.LEFT), {"several masters": {"status": H}, "a local exception": {"status": H}}),
    "schedule": (
        change(status=MemberStatus.SUSPENDED, status_from_ms=99_000_000), {"several masters": {"status": H}, "a local exception": {"status": H}},
    ),
    "schedule by day": (
        change(status=MemberStatus.SUSPENDED, status_from_date="2027-01-01"), {"several masters": {"status": H}, "a local exception": {"status": H}},
    ),
    "an employee number": (
        change(external_ids={"employee": "7"}),
        {
            "several masters": {"external_ids.employee": H}, "a local exception": {"external_ids.employee": H},
            "one type of external ids": {"external_ids.employee": H},
        },
    ),
    "clear a card": (
        change(external_ids={"card": None}), {"several masters": {"external_ids.card": H}, "a local exception": {"external_ids.card": H}},
    ),
    "mixed": (
        change(attributes={"given_name": "Ada", "nickname": "A", "contact.email": None}, segments=("vip",), status=MemberStatus.SUSPENDED),
        {
            "one attribute": {"given_name": S}, "a pattern": {"contact.email": S}, "a longer pattern outweighs": {"contact.email": C},
            "several masters": {"given_name": S, "segments": C, "status": H},
            "a local exception": {"contact.email": S, "given_name": H, "segments": H, "status": H},
        },
    ),
    "merge": (operate(MemberOperationKind.MERGE, target_member_id="m-2"), {}),
    "erase": (operate(MemberOperationKind.ERASE), {}),
    "set a tier": (operate(MemberOperationKind.SET_TIER, tier="gold"), {}),
    "earn": (earn(5), {}),
    "redeem": (redeem(1), {}),
    "adjust": (adjust(-1), {}),
    "activate an offer": (activate("double"), {}),
}  # fmt: skip


def member(policy: dict[str, str]) -> Shell:
    """Enrolled and given its profile while all was local; the policy is in force from now on."""
    shell = Shell(program=PROGRAM).enrolled(attributes={"given_name": "Robin", "contact.email": "r@example.org"}, segments=("spa",), external_ids={"card": "1"})
    shell.send(earn(50))
    shell.program = replace(PROGRAM, mastering=policy)
    return shell


def without_the_record(account: Account) -> Account:
    return replace(account, event_sequence=0, clock_ms=0)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_who_may_do_what(operation: str, source: str, policy: str) -> None:
    command, mastered = OPERATIONS[operation]
    command = replace(command, source_system=source)
    trespassed = {name: master for name, master in mastered.get(policy, {}).items() if master != source}
    shell = member(POLICIES[policy])
    before, audits, outcomes = shell.account, len(shell.audits), len(shell.outcomes)
    settlement = shell.send(command)
    (audit,) = shell.audits[audits:]
    if not trespassed:
        assert (audit.result, audit.reason) == (CommandResult.APPLIED, None)
        return
    detail = "; ".join(f"{name} is mastered by {master}" for name, master in trespassed.items())
    assert (audit.result, audit.reason, audit.detail) == (CommandResult.REFUSED, "ATTRIBUTE_MASTERED_EXTERNALLY", detail)
    assert (audit.source_system, audit.changes, audit.points_delta, audit.replayed) == (source, (), 0, False)
    assert before is not None and settlement.account is not None
    assert without_the_record(settlement.account) == without_the_record(before), "refused whole"
    assert settlement.account.event_sequence == before.event_sequence + 1
    (event,) = settlement.events
    assert (event.kind, event.refusal, event.refusal_detail) == (LoyaltyEventKind.COMMAND_REFUSED, audit.reason, detail)
    assert (settlement.entries, settlement.profiles, settlement.relays, settlement.audit_by_clock) == ((), (), (), ())
    assert len(shell.outcomes) == outcomes + 1
    # The same again: the same answer and nothing else, also when everybody might by now.
    shell.program = PROGRAM
    again = shell.settle(replace(shell.log[-1], offset=99))
    assert again.audit is not None
    assert (again.audit.replayed, again.audit.result, again.audit.reason, again.audit.detail) == (True, CommandResult.REFUSED, audit.reason, detail)
    assert (again.account, again.events, again.outcomes) == (settlement.account, (), {})


@pytest.mark.parametrize(
    ("policy", "enrolment", "refused_for"),
    [
        ("all is local", enrol(), None),
        ("one attribute", enrol(), None),
        ("one attribute", enrol(attributes={"given_name": "Ada"}), "given_name is mastered by salesforce"),
        ("several masters", enrol(), "status is mastered by hr"),
        ("several masters", enrol(segments=("vip",)), "segments is mastered by crm; status is mastered by hr"),
        ("several masters", enrol(source_system="hr"), None),
        ("several masters", enrol(source_system="hr", segments=("vip",)), "segments is mastered by crm"),
        ("several masters", enrol(source_system="hr", external_ids={"employee": "7"}), None),
        ("one type of external ids", enrol(external_ids={"employee": "7"}), "external_ids.employee is mastered by hr"),
        ("one type of external ids", enrol(external_ids={"card": "7"}), None),
        ("a local exception", enrol(source_system="hr", attributes={"nickname": "A"}), None),
        ("a local exception", enrol(attributes={"nickname": "A"}), "status is mastered by hr"),
    ],
)
def test_who_may_enrol(policy: str, enrolment: Command, refused_for: str | None) -> None:
    """Nobody exists whom the master did not enrol: there is no account then, and the answer is remembered all the same."""
    shell = Shell(program=replace(PROGRAM, mastering=POLICIES[policy]))
    settlement = shell.send(enrolment)
    assert settlement.audit is not None
    if refused_for is None:
        assert settlement.audit.result is CommandResult.APPLIED and settlement.account is not None
        return
    assert (settlement.audit.result, settlement.audit.reason) == (CommandResult.REFUSED, Refusal.ATTRIBUTE_MASTERED_EXTERNALLY)
    assert settlement.audit.detail == refused_for
    assert (settlement.account, settlement.events, len(settlement.outcomes)) == (None, (), 1)
    again = shell.settle(replace(shell.log[-1], offset=99)).audit
    assert again is not None and (again.replayed, again.detail) == (True, refused_for)


@pytest.mark.parametrize(
    ("name", "master"),
    [("nickname", None), ("contact.note", None), ("contact.email", "salesforce"), ("contact", "hr"), ("status", "hr"), ("external_ids.card", "hr")],
)
def test_the_longest_pattern_decides_in_every_order_of_the_policy(name: str, master: str | None) -> None:
    patterns = list(POLICIES["a local exception"].items())
    for turn in range(len(patterns)):
        assert master_of(dict(patterns[turn:] + patterns[:turn]), name) == master
        assert master_of(dict(reversed(patterns[turn:] + patterns[:turn])), name) == master


def test_the_erased_answer_before_the_masters() -> None:
    shell = member(POLICIES["several masters"])
    shell.send(operate(MemberOperationKind.ERASE))
    audit = shell.send(change(attributes={"given_name": "x"})).audit
    assert audit is not None and audit.reason == Refusal.MEMBER_ERASED


# I-21: every interleaving of local and master commands.

VALUES = st.none() | st.sampled_from("xyz")
SAID = st.lists(
    st.tuples(st.booleans(), st.dictionaries(st.sampled_from(["given_name", "family_name", "nickname"]), VALUES, min_size=1)), max_size=12
)
MASTERED = {"given_name": "salesforce", "family_name": "salesforce"}


def spoken(said: list[tuple[bool, dict[str, str | None]]]) -> list[tuple[Any, bool]]:
    """Commands, and whether each is the master's. The versions of the master are their positions."""
    return [
        (change(f"e{n}", attributes=attributes, source_system="salesforce" if by_master else "pms", source_version=n if by_master else None), by_master)
        for n, (by_master, attributes) in enumerate(said, 1)
    ]


@SLOW
@given(SAID, st.randoms(use_true_random=False))
def test_mastered_attributes_are_those_of_the_masters_latest_version(said: list[tuple[bool, dict[str, str | None]]], order: Any) -> None:
    shell = Shell(program=replace(PROGRAM, mastering=MASTERED)).enrolled()
    commands = spoken(said)
    expected: dict[str, str | None] = {}
    for command, by_master in commands:
        if by_master:
            expected |= {name: value for name, value in command.attributes.items() if name in MASTERED}
    order.shuffle(commands)
    for command, by_master in commands:
        events = len(shell.events)
        before, settlement = shell.account, shell.send(command)
        assert before is not None and settlement.account is not None and settlement.audit is not None
        if not by_master and MASTERED.keys() & command.attributes.keys():
            assert [event.kind for event in shell.events[events:]] == [LoyaltyEventKind.COMMAND_REFUSED]
            assert without_the_record(settlement.account) == without_the_record(before)
        else:
            assert settlement.audit.result is not CommandResult.REFUSED
    assert shell.account is not None
    got = {name: value for name, value in shell.account.attributes.items() if name in MASTERED}
    assert got == {name: value for name, value in expected.items() if value is not None}
    assert {name for one in shell.account.origins for name in one.names if one.source_system != "salesforce"}.isdisjoint(MASTERED)


@SLOW
@given(SAID, st.integers(0, 12))
def test_a_policy_that_changes_at_run_time_holds_from_then_on(said: list[tuple[bool, dict[str, str | None]]], change_at: int) -> None:
    """Before it anybody's word counts, by arrival; from it on the master's alone, and what it finds is kept until the master speaks."""
    mastered: Program = replace(PROGRAM, mastering=MASTERED, effective_from_ms=10_000 + change_at + 1, version=2)
    shell = Shell(program=PROGRAM, later_versions=(mastered,)).enrolled()
    expected: dict[str, str] = {}
    for number, (command, by_master) in enumerate(spoken(said), 1):
        audit = shell.send(command).audit
        assert audit is not None
        is_refused = number > change_at and not by_master and bool(MASTERED.keys() & command.attributes.keys())
        assert audit.result is (CommandResult.REFUSED if is_refused else CommandResult.APPLIED)
        if not is_refused:
            merged: dict[str, str | None] = {**expected, **command.attributes}
            expected = {name: value for name, value in merged.items() if value is not None}
    assert shell.account is not None and shell.account.attributes == expected
