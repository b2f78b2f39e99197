"""The counter of an offer's budget: exact, first come, first served."""

from dataclasses import replace

import pytest

from schemas.records import Budget, Relay, RelayKind
from streams.domain import budgets
from streams.domain.program import Offer, Program
from tests.domain.family import Family
from tests.domain.shell import NOW_MS, PROGRAM, activate, earn


def with_budget(points: int | None) -> Program:
    return replace(PROGRAM, offers={"rare": Offer(offer_id="rare", bonus_points=10, cap_points=10, budget_points=points)})


def ask(number: int = 1, points: int = 10, offer_id: str = "rare") -> Relay:
    family = Family.of("m-1", program=with_budget(100))
    family.send(activate("rare"))
    (relay,) = family.under_way
    return replace(relay, relay_id=f"rly-{number}", points=points, offer_id=offer_id)


@pytest.mark.parametrize(
    ("budget", "reserved", "points", "granted"),
    [
        (10, 0, 10, True),
        (10, 0, 11, False),
        (10, 10, 1, False),
        (25, 10, 10, True),
        (25, 20, 5, True),
        (25, 20, 6, False),
        (25, 30, 1, False),  # The budget was lowered.
        (None, 10**15, 10, True),  # It was taken away: there is no limit any more.
    ],
)
def test_what_is_granted(budget: int | None, reserved: int, points: int, granted: bool) -> None:
    before = Budget(reserved_points=reserved, grants=1, denials=1)
    after, reply = budgets.answer(before, ask(points=points), with_budget(budget))
    assert reply.granted is granted
    assert after == Budget(reserved_points=reserved + points * granted, grants=1 + granted, denials=2 - granted)


def test_an_offer_that_is_gone_grants_nothing() -> None:
    after, reply = budgets.answer(None, ask(), PROGRAM)
    assert (reply.granted, after) == (False, Budget(reserved_points=0, grants=0, denials=1))


def test_the_answer_goes_back_with_what_it_came_with() -> None:
    question = ask()
    _, reply = budgets.answer(None, question, with_budget(10))
    assert (reply.kind, reply.member_id, reply.from_member_id, reply.offer_id) == (RelayKind.BUDGET_ANSWER, "m-1", question.member_id, "rare")
    assert reply.origin == question.origin
    assert reply.relay_id != question.relay_id


@pytest.mark.parametrize(("budget", "active"), [(10, 1), (19, 1), (20, 2), (29, 2), (30, 3), (1_000, 5)])
def test_so_many_members_get_it_and_no_more(budget: int, active: int) -> None:
    """I-26: the cost of an offer stays within its budget, whatever its members buy."""
    members = [f"m-{number}" for number in range(5)]
    family = Family.of(*members, program=with_budget(budget))
    for member_id in members:
        family.send(activate("rare", member_id=member_id))
    family.deliver()
    for member_id in members:
        family.does(*[earn(1, member_id=member_id, occurred_at_ms=NOW_MS)] * 3)
    assert [family.account(member_id).active_offers for member_id in members] == [("rare",)] * active + [()] * (5 - active)
    bonus = sum(family.account(member_id).available_points - 3 for member_id in members)
    assert bonus == 10 * active <= budget
    (counter,) = family.budgets.values()
    assert counter == Budget(reserved_points=10 * active, grants=active, denials=5 - active)
