"""The lines of an earn: which rule gave what, how far caps are used, and what is kept of that."""

from dataclasses import replace

import pytest

from schemas.records import EntryKind, LineItem
from streams.domain.earning import USES_KEPT_MAX, sale_amount_minor
from streams.domain.program import EarnRule, Period, Rounding
from tests.domain.casework import DAY_MS
from tests.domain.shell import NOW_MS, PROGRAM, Shell, activate, earn

PLAIN = replace(PROGRAM, points_per_unit={"EUR": 1}, points_per_night=5)


def lines(shell: Shell) -> list[tuple[str, int]]:
    return [(entry.rule_id, entry.points_delta) for entry in shell.entries]


def sold(rules: tuple[EarnRule, ...], rounding: Rounding = Rounding.FLOOR, **sale: object) -> list[tuple[str, int]]:
    shell = Shell(program=replace(PLAIN, rules=rules, rounding=rounding)).enrolled()
    shell.send(earn(**{"amount_minor": 150, "currency": "EUR", **sale}))  # type: ignore[arg-type]
    return lines(shell)


ANOTHER = EarnRule(rule_id="another", points_per_unit={"EUR": 1})
HALF = EarnRule(rule_id="half", percent=50)
STAY = EarnRule(rule_id="stay", points_per_stay=7)
SPA = EarnRule(rule_id="spa", points_per_stay=7, categories=frozenset({"spa"}))


@pytest.mark.parametrize(
    ("rules", "rounding", "sale", "expected"),
    [
        ((), Rounding.FLOOR, {}, [("earn:amount", 1)]),
        ((), Rounding.FLOOR, {"nights": 2}, [("earn:amount+nights", 11)]),
        ((), Rounding.FLOOR, {"amount_minor": None, "nights": 2}, [("earn:nights", 10)]),
        ((STAY,), Rounding.FLOOR, {}, [("earn:amount", 1), ("rule:stay", 7)]),
        ((SPA,), Rounding.FLOOR, {}, [("earn:amount", 1)]),
        ((SPA,), Rounding.FLOOR, {"category": "spa"}, [("earn:amount", 1), ("rule:spa", 7)]),
        # 1.5 and 1.5 are 3: the second line has the half of the first.
        ((ANOTHER,), Rounding.FLOOR, {}, [("earn:amount", 1), ("rule:another", 2)]),
        ((ANOTHER,), Rounding.HALF_UP, {}, [("earn:amount", 2), ("rule:another", 1)]),
        ((ANOTHER,), Rounding.CEILING, {}, [("earn:amount", 2), ("rule:another", 1)]),
        # 1.5, 0.75 of it, and 1.125 of both: 3.375 in all.
        ((HALF, replace(HALF, rule_id="again")), Rounding.FLOOR, {}, [("earn:amount", 1), ("rule:half", 1), ("rule:again", 1)]),
        ((HALF, replace(HALF, rule_id="again")), Rounding.CEILING, {}, [("earn:amount", 2), ("rule:half", 1), ("rule:again", 1)]),
        # A line of nothing is none.
        ((HALF,), Rounding.FLOOR, {"amount_minor": 10}, []),
        ((STAY,), Rounding.FLOOR, {"amount_minor": 10}, [("rule:stay", 7)]),
        ((replace(STAY, cap_points=3), HALF), Rounding.FLOOR, {}, [("earn:amount", 1), ("rule:stay", 3), ("rule:half", 2)]),
    ],
)
def test_lines(rules: tuple[EarnRule, ...], rounding: Rounding, sale: dict[str, object], expected: list[tuple[str, int]]) -> None:
    assert sold(rules, rounding, **sale) == expected


def test_the_lot_is_of_all_lines_and_the_event_is_one() -> None:
    shell = Shell(program=replace(PLAIN, rules=(STAY,))).enrolled()
    shell.send(activate("double"))
    settlement = shell.send(earn(amount_minor=150, currency="EUR"))
    assert lines(shell) == [("earn:amount", 1), ("rule:stay", 7), ("offer:double", 8)]
    assert [entry.kind for entry in shell.entries] == [EntryKind.EARN, EntryKind.EARN, EntryKind.OFFER_BONUS]
    assert shell.account is not None
    (lot,) = shell.account.lots
    assert (lot.lot_id, lot.points, lot.remaining, lot.qualifying) == ("c2", 16, 16, 16)
    (event,) = settlement.events
    assert (event.points_delta, event.movement) == (16, EntryKind.EARN)


@pytest.mark.parametrize(
    ("amount", "items", "expected"),
    [
        (None, (), None), (0, (), 0), (100, (), 100), (100, (7,), 100), (None, (7,), 7), (None, (7, 8), 15), (None, (7, -3), 4), (None, (7, -7), 0),
        (None, (7, -8), 0),
    ],
)  # fmt: skip
def test_the_money_of_a_sale(amount: int | None, items: tuple[int, ...], expected: int | None) -> None:
    sale = earn(amount_minor=amount, currency="EUR", line_items=tuple(LineItem(amount_minor=cents) for cents in items))
    assert sale_amount_minor(sale) == expected


def test_uses_are_kept_by_rule_and_period() -> None:
    daily = EarnRule(rule_id="daily", points_per_stay=10, cap_points=15, cap_period=Period.DAY)
    shell = Shell(program=replace(PLAIN, rules=(daily, replace(STAY, cap_points=100)))).enrolled()
    for at_ms in (NOW_MS, NOW_MS, NOW_MS + DAY_MS):
        shell.send(earn(nights=0, occurred_at_ms=at_ms))
    assert shell.account is not None
    assert [(use.rule_id, use.period_starts_at_ms, use.points) for use in shell.account.rule_uses] == [
        ("daily", 0, 15), ("daily", DAY_MS, 10), ("stay", 0, 21),
    ]  # fmt: skip


def test_the_oldest_uses_are_forgotten_and_an_account_does_not_grow_without_end() -> None:
    daily = EarnRule(rule_id="daily", points_per_stay=10, cap_points=15, cap_period=Period.DAY)
    shell = Shell(program=replace(PLAIN, rules=(daily,))).enrolled()
    for number in range(USES_KEPT_MAX + 5):
        shell.send(earn(nights=0, occurred_at_ms=NOW_MS + number * DAY_MS))
    assert shell.account is not None
    starts = [use.period_starts_at_ms for use in shell.account.rule_uses]
    assert starts == [number * DAY_MS for number in range(5, USES_KEPT_MAX + 5)]
