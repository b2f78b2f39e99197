"""What who is suspended, or has left, may do: the matrix of streams/domain/README.md, and points that are parked until it is over."""

from dataclasses import replace
from typing import Any

import pytest

from schemas.contract import Command
from schemas.records import CommandResult, MemberOperationKind, MemberStatus
from streams.domain.program import EarnWhileSuspended, ReversalPolicy
from streams.domain.refusals import Refusal
from tests.domain.casework import ACTIVE, APPLIED, DAY_MS, LEFT, SUSPENDED, answer, in_order, take, tick
from tests.domain.family import Family
from tests.domain.shell import PROGRAM, Shell, activate, adjust, cancel_voucher, capture, change, earn, enrol, hold, make_available, operate, redeem
from tests.domain.shell import redeem_voucher, reverse, transfer, void

PARK, ACCEPT, REFUSE = EarnWhileSuspended.PARK, EarnWhileSuspended.ACCEPT, EarnWhileSuspended.REFUSE
T = 50_000
STATES: dict[str, tuple[Command, ...]] = {
    "active": (),
    "suspended": (change("off", status=SUSPENDED),),
    "left": (change("off", status=LEFT),),
    "scheduled, not due": (change("off", status=SUSPENDED, status_from_ms=T),),
}
BARRED = {"suspended": Refusal.ACCOUNT_SUSPENDED, "left": Refusal.MEMBERSHIP_ENDED}

# What is refused while barred; the others go on.
SPENDING: dict[str, Command] = {
    "redeem": redeem(1), "hold": hold(1), "transfer": transfer(1, "m-2"), "redeem a voucher": redeem_voucher("CODE"), "activate an offer": activate("double"),
}  # fmt: skip
GOING_ON: dict[str, Command] = {
    "adjust up": adjust(1), "adjust down": adjust(-1), "reverse an earn": reverse("e"), "refund": reverse("r"), "void": void("h"),
    "activate pending points": make_available("p"), "cancel a voucher": cancel_voucher("CODE"), "change the profile": change(attributes={"a": "b"}),
    "set a tier": operate(MemberOperationKind.SET_TIER, tier="gold"), "join a pool": operate(MemberOperationKind.JOIN_POOL, target_member_id="m-2"),
    "leave a pool": operate(MemberOperationKind.LEAVE_POOL), "erase": operate(MemberOperationKind.ERASE),
}  # fmt: skip


def member(state: str = "active", **rules: Any) -> Shell:
    """With 90 points, one more held, a voucher for five, and four pending."""
    shell = Shell(program=replace(PROGRAM, **rules)).enrolled()
    for command in (
        earn(100, transaction_id="e"), redeem(4, transaction_id="r"), hold(1, transaction_id="h"), earn(4, pending=True, transaction_id="p"),
        redeem(5, reward_code="tea", transaction_id="v"), *STATES[state],
    ):  # fmt: skip
        assert answer(shell.send(command)) is APPLIED
    return shell


def told(shell: Shell, command: Command) -> CommandResult | Refusal | None:
    code = next(iter(shell.vouchers.values())).voucher_code
    if getattr(command, "voucher_code", None) == "CODE":
        command = replace(command, voucher_code=code)  # type: ignore[call-arg]
    return answer(shell.send(command))


@pytest.mark.parametrize("earns", EarnWhileSuspended)
@pytest.mark.parametrize("captures", [False, True])
@pytest.mark.parametrize("state", STATES)
def test_the_matrix(state: str, captures: bool, earns: EarnWhileSuspended) -> None:
    rules = {"earn_while_suspended": earns, "capture_while_suspended": captures}
    barred = BARRED.get(state)
    for name, command in SPENDING.items():
        assert told(member(state, **rules), command) is (barred or APPLIED), name
    for name, command in GOING_ON.items():
        assert told(member(state, **rules), command) is APPLIED, name
    assert told(member(state, **rules), capture("h")) is (barred if barred and not captures else APPLIED)
    shell = member(state, **rules)
    before = shell.account
    assert told(shell, earn(10)) is (barred if barred and earns is REFUSE else APPLIED)
    assert before is not None and shell.account is not None
    gained = shell.account.available_points - before.available_points, shell.account.pending_points - before.pending_points
    assert gained == ((10, 0) if barred is None or earns is ACCEPT else (0, 10) if earns is PARK else (0, 0))
    in_order(shell.account, shell.entries)


@pytest.mark.parametrize("state", ["suspended", "left"])
def test_a_currency_that_earns_nothing_is_the_first_answer(state: str) -> None:
    """The order of precedence is that of the refusals."""
    assert told(member(state, earn_while_suspended=REFUSE), earn(amount_minor=1, currency="USD")) is Refusal.CURRENCY_NOT_EARNING


def points(shell: Shell) -> tuple[int, int, int]:
    assert shell.account is not None
    in_order(shell.account, shell.entries)
    return shell.account.available_points, shell.account.pending_points, shell.account.debt_points


def parked(*first: Command, status: MemberStatus = SUSPENDED, **rules: Any) -> Shell:
    """Ten points that were earned while the member was not active."""
    shell = Shell(program=replace(PROGRAM, **rules)).enrolled()
    for command in (*first, change("off", status=status), earn(10, transaction_id="e")):
        assert answer(shell.send(command)) is APPLIED
    return shell


back = change("back", status=ACTIVE)


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ((), (0, 10, 0)),
        ((back,), (10, 0, 0)),
        ((change(status=ACTIVE, status_from_ms=T), tick(T - 1)), (0, 10, 0)),
        ((change(status=ACTIVE, status_from_ms=T), tick(T)), (10, 0, 0)),
        ((change(status=LEFT), enrol()), (10, 0, 0)),
        ((change(status=LEFT),), (0, 10, 0)),
        ((reverse("e"),), (0, 0, 0)),
        ((reverse("e", 4), back), (6, 0, 0)),
        ((back, reverse("e", 4)), (6, 0, 0)),
        ((back, change(status=SUSPENDED)), (10, 0, 0)),
        ((earn(7, expires_at_ms=T), tick(T)), (0, 10, 0)),
        ((earn(7, expires_at_ms=T), tick(T), back), (10, 0, 0)),
        ((earn(7, available_from_ms=T), back), (10, 7, 0)),
        ((earn(7, available_from_ms=T), tick(T)), (7, 10, 0)),
        ((earn(7, available_from_ms=T), back, tick(T)), (17, 0, 0)),
        ((adjust(3), back), (13, 0, 0)),
        ((operate(MemberOperationKind.ERASE), tick(T)), (0, 10, 0)),
    ],
)
def test_parked_points(steps: tuple[Any, ...], expected: tuple[int, int, int]) -> None:
    shell = parked()
    for step in steps:
        take(shell, step)
    assert points(shell) == expected


@pytest.mark.parametrize(("status", "refusal"), [(SUSPENDED, Refusal.ACCOUNT_SUSPENDED), (LEFT, Refusal.MEMBERSHIP_ENDED)])
def test_parked_points_are_not_activated_by_anybody(status: MemberStatus, refusal: Refusal) -> None:
    shell = parked(status=status)
    assert answer(shell.send(make_available("e"))) is refusal
    assert points(shell) == (0, 10, 0)


def test_pending_days_outlast_the_suspension() -> None:
    """What waits anyway is not parked: it comes on its day, whatever the status is then."""
    shell = parked(pending_days=1)
    shell.send(back)
    assert points(shell) == (0, 10, 0)
    shell.tick(3 * DAY_MS)
    assert points(shell) == (10, 0, 0)


def test_parked_points_pay_a_debt_when_they_come() -> None:
    shell = parked(earn(6, transaction_id="first"), redeem(6), reverse("first"), reversal=ReversalPolicy.UNLIMITED)
    assert points(shell) == (0, 10, 6)
    shell.send(back)
    assert points(shell) == (4, 0, 0)


def test_the_bonus_of_an_offer_is_parked_with_its_earn() -> None:
    shell = parked(activate("double"))
    assert points(shell) == (0, 20, 0)
    shell.send(back)
    assert points(shell) == (20, 0, 0)


def test_the_tier_counts_what_is_parked() -> None:
    shell = parked()
    shell.send(earn(1_000))
    assert shell.account is not None and (shell.account.tier, shell.account.available_points) == ("silver", 0)


@pytest.mark.parametrize(("target_is", "expected"), [(ACTIVE, (10, 0, 0)), (SUSPENDED, (0, 10, 0))])
def test_merged_into_another_the_parked_points_go_by_its_status(target_is: MemberStatus, expected: tuple[int, int, int]) -> None:
    family = Family.of("m-1", "m-2")
    family.does(change(status=SUSPENDED), earn(10))
    if target_is is SUSPENDED:
        family.does(change(member_id="m-2", status=SUSPENDED))
    family.does(operate(MemberOperationKind.MERGE, target_member_id="m-2"))
    family.in_order()
    assert points(family.shell("m-2")) == expected
    family.does(change(member_id="m-2", status=ACTIVE))
    assert points(family.shell("m-2")) == (10, 0, 0)


def test_parked_points_of_a_pools_member_go_on_when_it_is_over() -> None:
    family = Family.of("m-1", "m-2")
    family.does(operate(MemberOperationKind.JOIN_POOL, target_member_id="m-2"), change(status=SUSPENDED), earn(10))
    assert points(family.shell("m-2")) == (0, 0, 0)
    family.does(change(status=ACTIVE))
    assert (points(family.shell("m-1")), points(family.shell("m-2"))) == ((0, 0, 0), (10, 0, 0))


def test_who_left_and_comes_back_keeps_number_points_and_tier() -> None:
    shell = Shell(program=PROGRAM).enrolled(attributes={"a": "1"})
    for command in (earn(1_000), change(status=LEFT)):
        shell.send(command)
    settlement = shell.send(enrol(attributes={"b": "2"}))
    assert [event.kind.value for event in settlement.events] == ["PROFILE_CHANGED", "ACCOUNT_REACTIVATED"]
    account = settlement.account
    assert account is not None
    assert (account.status, account.available_points, account.tier, account.attributes) == (ACTIVE, 1_000, "silver", {"a": "1", "b": "2"})
    assert answer(shell.send(enrol())) is Refusal.MEMBER_ALREADY_ENROLLED


def test_an_enrolment_from_before_the_leaving_brings_nobody_back() -> None:
    shell = Shell(program=PROGRAM).enrolled(source_version=1)
    shell.send(change(status=LEFT, source_version=5))
    assert answer(shell.send(enrol(source_version=4))) is CommandResult.SUPERSEDED
    assert answer(shell.send(enrol(source_version=6))) is APPLIED
