"""What a sale comes to: rounding, rules, their conditions and caps, and the version that was in force."""

from dataclasses import replace

from schemas.records import LineItem
from streams.domain.program import EarnRule, Period, Rounding, Tier
from streams.domain.refusals import Refusal
from tests.domain.casework import Case, case, ms, on, seen
from tests.domain.shell import PROGRAM, activate, adjust, change, earn, redeem, reverse

PLAIN = replace(PROGRAM, points_per_unit={"EUR": 1}, points_per_night=0)
"""A point for a euro, and nothing else."""


def with_rules(*rules: EarnRule, rounding: Rounding = Rounding.FLOOR, **more: object) -> object:
    return replace(PLAIN, rules=rules, rounding=rounding, **more)  # type: ignore[arg-type]


def eur(cents: int, **more: object) -> object:
    return earn(amount_minor=cents, currency="EUR", **more)


def lines(*items: tuple[int, str | None], **more: object) -> object:
    """A sale by its lines: cents and category of each."""
    return earn(nights=0, currency="EUR", line_items=tuple(LineItem(amount_minor=cents, category=category) for cents, category in items), **more)


ROUNDED = [
    # cents,        floor, half_up, ceiling
    (0,             0,     0,       0),
    (1,             0,     0,       1),
    (49,            0,     0,       1),
    (50,            0,     1,       1),
    (99,            0,     1,       1),
    (100,           1,     1,       1),
    (101,           1,     1,       2),
    (149,           1,     1,       2),
    (150,           1,     2,       2),
    (250,           2,     3,       3),
]  # fmt: skip


def rounded() -> list[Case]:
    return [
        case(f"{cents} cents, {rounding.value}", eur(cents), after=(points, points), program=with_rules(rounding=rounding))
        for cents, *expected in ROUNDED
        for rounding, points in zip((Rounding.FLOOR, Rounding.HALF_UP, Rounding.CEILING), expected, strict=True)
    ]


def rule(rule_id: str = "r", **more: object) -> EarnRule:
    return EarnRule(rule_id=rule_id, **more)  # type: ignore[arg-type]


DAY_CAP = with_rules(rule(points_per_stay=10, cap_points=15, cap_period=Period.DAY), time_zone="Europe/Berlin")
MONTH_CAP = with_rules(rule(points_per_stay=10, cap_points=15, cap_period=Period.MONTH), time_zone="Europe/Berlin")
YEAR_CAP = with_rules(rule(points_per_stay=10, cap_points=15, cap_period=Period.YEAR), time_zone="Europe/Berlin")
LIFE_CAP = with_rules(rule(points_per_stay=10, cap_points=15))
STAY = earn(nights=0)


def berlin(text: str) -> int:
    return ms(text, "Europe/Berlin")


VERSION_2 = replace(PLAIN, version=2, effective_from_ms=berlin("2025-03-01 00:00"), points_per_unit={"EUR": 10})
VERSION_3 = replace(PLAIN, version=3, effective_from_ms=berlin("2025-04-01 00:00"), points_per_unit={"CHF": 1})

CASES = [
    *rounded(),
    # Rounded once, on the total.
    case("two fractions make a point", eur(150), after=(3, 3), program=with_rules(rule(points_per_unit={"EUR": 1}))),
    case("three thirds of one", eur(100), after=(1, 1), program=with_rules(
        rule("a", percent=33), rule("b", percent=33), rounding=Rounding.FLOOR)),
    case("percent on percent: 3 * 1.5 * 1.5 = 6.75", eur(300), after=(6, 6), program=with_rules(rule("a", percent=50), rule("b", percent=50))),
    case("rounded up once", eur(300), after=(7, 7), program=with_rules(rule("a", percent=50), rule("b", percent=50), rounding=Rounding.HALF_UP)),
    case("rounded up once by ceiling: 3 * 1.1 * 1.1 = 3.63", eur(300), after=(4, 4), program=with_rules(
        rule("a", percent=10), rule("b", percent=10), rounding=Rounding.CEILING)),
    case("the tier's percentage before rounding: 1.5 * 125 % = 1.875", adjust(1), earn(1_000), eur(150), after=(1_003, 1_002, "silver"),
         program=with_rules(rounding=Rounding.HALF_UP)),
    # Kinds of rules.
    case("per night", earn(nights=3), after=(15, 15), program=with_rules(rule(points_per_night=5))),
    case("per stay, whatever its amount", eur(0), after=(7, 7), program=with_rules(rule(points_per_stay=7))),
    case("per stay, not for points that are given", earn(100), after=(100, 100), program=with_rules(rule(points_per_stay=7))),
    case("all in one rule", eur(100, nights=2), after=(1 + 2 + 20 + 7, 30), program=with_rules(
        rule(points_per_unit={"EUR": 2}, points_per_night=10, points_per_stay=7))),
    case("the tier multiplies rules as well: (1 + 7) * 125 %", earn(1_000), eur(100), after=(1_010, 1_010, "silver"),
         program=with_rules(rule(points_per_stay=7))),
    case("percent of nothing", earn(nights=1), after=(0, 0), program=with_rules(rule(percent=50))),
    case("a currency that only a rule knows", earn(amount_minor=100, currency="USD"), after=(4, 4), program=with_rules(rule(points_per_unit={"USD": 4}))),
    case("a currency that no rule knows", earn(amount_minor=100, currency="CHF"), result=Refusal.CURRENCY_NOT_EARNING, after=(0, 0),
         program=with_rules(rule(points_per_unit={"USD": 4}))),
    case("a currency that a rule knows which does not apply", earn(amount_minor=100, currency="USD"), after=(0, 0),
         program=with_rules(rule(points_per_unit={"USD": 4}, categories=frozenset({"spa"})))),
    # Conditions.
    case("in the segment", eur(100), after=(8, 8), program=with_rules(rule(points_per_stay=7, segments=frozenset({"vip", "press"}))), segments=("vip",)),
    case("not in the segment", eur(100), after=(1, 1), program=with_rules(rule(points_per_stay=7, segments=frozenset({"vip"}))), segments=("golf",)),
    case("no segment at all", eur(100), after=(1, 1), program=with_rules(rule(points_per_stay=7, segments=frozenset({"vip"})))),
    case("in the segment since a moment ago", change(segments=("vip",)), eur(100), after=(8, 8),
         program=with_rules(rule(points_per_stay=7, segments=frozenset({"vip"})))),
    case("of the tier", eur(100), after=(8, 8), program=with_rules(rule(points_per_stay=7, tiers=frozenset({"blue", "gold"})))),
    case("of another tier", eur(100), after=(1, 1), program=with_rules(rule(points_per_stay=7, tiers=frozenset({"silver"})))),
    case("of the tier before the earn", eur(100_000), after=(1_000, 1_000, "silver"), program=with_rules(rule(points_per_stay=7, tiers=frozenset({"silver"})))),
    case("of the category", eur(100, category="spa"), after=(3, 3), program=with_rules(rule(points_per_unit={"EUR": 2}, categories=frozenset({"spa"})))),
    case("of another category", eur(100, category="bar"), after=(1, 1), program=with_rules(rule(points_per_unit={"EUR": 2}, categories=frozenset({"spa"})))),
    case("of no category", eur(100), after=(1, 1), program=with_rules(rule(points_per_unit={"EUR": 2}, categories=frozenset({"spa"})))),
    case("by lines: only those of the category, 3 + 2 * 1", lines((100, "spa"), (200, "bar")), after=(5, 5),
         program=with_rules(rule(points_per_unit={"EUR": 2}, categories=frozenset({"spa"})))),
    case("by lines: none of the category", lines((100, "bar"), (200, None)), after=(3, 3),
         program=with_rules(rule(points_per_stay=7, categories=frozenset({"spa"})))),
    case("by lines: fractions of several add up, 1 + 2 * 1", lines((50, "spa"), (50, "spa")), after=(3, 3),
         program=with_rules(rule(points_per_unit={"EUR": 2}, categories=frozenset({"spa"})))),
    case("by lines: a discount beyond its category costs nothing", lines((100, "spa"), (-300, "spa"), (500, "bar")), after=(3, 3),
         program=with_rules(rule(points_per_unit={"EUR": 2}, categories=frozenset({"spa"})))),
    case("the sale's category outweighs its lines: 3 + 2 * 3", lines((100, "spa"), (200, "bar"), category="spa"), after=(9, 9),
         program=with_rules(rule(points_per_unit={"EUR": 2}, categories=frozenset({"spa"})))),
    case("all conditions must be met", eur(100, category="spa"), after=(1, 1),
         program=with_rules(rule(points_per_stay=7, categories=frozenset({"spa"}), segments=frozenset({"vip"})))),
    # Stop.
    case("stop", eur(100), after=(8, 8), program=with_rules(rule("a", points_per_stay=7, stop=True), rule("b", points_per_stay=100))),
    case("no stop by a rule that does not apply", eur(100), after=(101, 101),
         program=with_rules(rule("a", points_per_stay=7, stop=True, segments=frozenset({"vip"})), rule("b", points_per_stay=100))),
    case("stop by a rule whose cap is used up", STAY, STAY, after=(10, 10),
         program=with_rules(rule("a", points_per_stay=10, cap_points=10, stop=True), rule("b", points_per_stay=100))),
    # Caps.
    case("below the cap", STAY, after=(10, 10), program=LIFE_CAP),
    case("cut by the cap", STAY, STAY, after=(15, 15), program=LIFE_CAP),
    case("beyond the cap", STAY, STAY, STAY, after=(15, 15), program=LIFE_CAP),
    case("exactly the cap", STAY, STAY, after=(20, 20), program=with_rules(rule(points_per_stay=10, cap_points=20))),
    case("one below the cap is left", STAY, STAY, after=(11, 11), program=with_rules(rule(points_per_stay=10, cap_points=11))),
    case("what a cap cuts off counts for no later rule: 6 + 4 of 10, and 50 % of 10", eur(600), after=(15, 15),
         program=with_rules(rule("a", points_per_stay=10, cap_points=4), rule("b", percent=50))),
    case("nor for the rounding: 1.5 + 1.5 cut to 2, and 50 % of 2", eur(150), after=(3, 3),
         program=with_rules(rule("a", points_per_unit={"EUR": 1}, cap_points=1), rule("b", percent=50))),
    case("a cap that does not cut leaves fractions alone: 1.5 + 1.5, and 50 % of 3", eur(150), after=(4, 4),
         program=with_rules(rule("a", points_per_unit={"EUR": 1}, cap_points=2), rule("b", percent=50))),
    case("a cap on percent: 100 % of 10 cut to 6", eur(1_000), after=(16, 16), program=with_rules(rule(percent=100, cap_points=6))),
    case("each rule has a cap of its own", STAY, STAY, after=(25, 25),
         program=with_rules(rule("a", points_per_stay=10, cap_points=15), rule("b", points_per_stay=5, cap_points=100))),
    case("a day's cap within a day", on(berlin("2025-03-01 00:00"), STAY), on(berlin("2025-03-01 23:59:59.999"), STAY), after=(15, 15), program=DAY_CAP),
    case("a day's cap on the next day", on(berlin("2025-03-01 23:59:59.999"), STAY), on(berlin("2025-03-02 00:00"), STAY), after=(20, 20), program=DAY_CAP),
    case("a day is the programme's, not UTC's", on(ms("2025-03-01 23:30"), STAY), on(ms("2025-03-02 00:30"), STAY), after=(15, 15), program=DAY_CAP),
    case("a late earn uses its own day's cap", on(berlin("2025-03-01 10:00"), STAY), on(berlin("2025-03-02 10:00"), STAY),
         seen(berlin("2025-03-02 11:00"), earn(nights=0, occurred_at_ms=berlin("2025-03-01 11:00"))), after=(25, 25), program=DAY_CAP),
    case("a month's cap within a month", on(berlin("2025-03-01 00:00"), STAY), on(berlin("2025-03-31 23:59:59.999"), STAY), after=(15, 15),
         program=MONTH_CAP),
    case("a month's cap in the next month", on(berlin("2025-03-31 23:59:59.999"), STAY), on(berlin("2025-04-01 00:00"), STAY), after=(20, 20),
         program=MONTH_CAP),
    case("a year's cap within a year", on(berlin("2025-01-01 00:00"), STAY), on(berlin("2025-12-31 23:59:59.999"), STAY), after=(15, 15), program=YEAR_CAP),
    case("a year's cap in the next year", on(berlin("2025-12-31 23:59:59.999"), STAY), on(berlin("2026-01-01 00:00"), STAY), after=(20, 20),
         program=YEAR_CAP),
    case("a reversal gives no cap back", STAY, reverse("c1"), STAY, after=(5, 5), program=LIFE_CAP),
    case("a refused earn uses no cap", earn(amount_minor=100, currency="CHF"), STAY, STAY, after=(15, 15), program=LIFE_CAP),
    # Offers are on what the rules give.
    case("an offer's percent of rules and all", activate("double"), eur(100), after=(16, 16), program=with_rules(rule(points_per_stay=7))),
    case("an offer's percent after the caps", activate("double"), eur(100), after=(10, 10), program=with_rules(rule(points_per_stay=7, cap_points=4))),
    # Versions.
    case("the version of the sale's time: before", on(berlin("2025-02-28 23:59:59.999"), eur(100)), after=(1, 1), program=PLAIN, later_versions=(VERSION_2,)),
    case("the version of the sale's time: from its first instant", on(berlin("2025-03-01 00:00"), eur(100)), after=(10, 10), program=PLAIN,
         later_versions=(VERSION_2,)),
    case("a late earn uses the old version", seen(berlin("2025-03-02 00:00"), eur(100, occurred_at_ms=berlin("2025-02-28 23:59:59.999"))), after=(1, 1),
         program=PLAIN, later_versions=(VERSION_2,)),
    case("an early one uses the coming version", seen(berlin("2025-02-01 00:00"), eur(100, occurred_at_ms=berlin("2025-03-01 00:00"))), after=(10, 10),
         program=PLAIN, later_versions=(VERSION_2,)),
    case("a currency of an older version", seen(berlin("2025-04-02 00:00"), eur(100, occurred_at_ms=berlin("2025-03-31 12:00"))), after=(10, 10),
         program=PLAIN, later_versions=(VERSION_2, VERSION_3)),
    case("a currency that is gone", on(berlin("2025-04-01 00:00"), eur(100)), result=Refusal.CURRENCY_NOT_EARNING, after=(0, 0), program=PLAIN,
         later_versions=(VERSION_2, VERSION_3)),
    case("what happened before the first version follows it", eur(100, occurred_at_ms=1), after=(1, 1), program=replace(PLAIN, effective_from_ms=1_000)),
    case("a price of the version now in force", on(berlin("2025-03-01 00:00"), earn(50)), on(berlin("2025-03-01 01:00"), redeem(50)), after=(0, 50),
         program=PLAIN, later_versions=(VERSION_2,)),
    case("a first tier of its own percentage", eur(400), after=(2, 2), program=with_rules(tiers=(Tier(name="blue", threshold_points=0, earn_percent=50),))),
]  # fmt: skip
