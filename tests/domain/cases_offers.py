"""Offers: audience, periods, uses, caps and budgets. (When they run: in the table of basics.)"""

from dataclasses import replace

from streams.domain.offers import USES_MAX
from streams.domain.program import Offer, Period
from streams.domain.refusals import Refusal
from tests.domain.casework import budget, case, ms, on, seen
from tests.domain.shell import PROGRAM, activate, change, earn, reverse


def many(count: int, **more: object) -> dict[str, Offer]:
    return {f"o{number:03}": Offer(offer_id=f"o{number:03}", bonus_points=1, **more) for number in range(count)}  # type: ignore[arg-type]


def program(*offers: Offer) -> object:
    return replace(PROGRAM, offers={offer.offer_id: offer for offer in offers}, time_zone="Europe/Berlin")


OFFERS = program(
    Offer(offer_id="vip", bonus_points=10, segments=frozenset({"vip", "press"})),
    Offer(offer_id="high", bonus_points=10, tiers=frozenset({"silver", "gold"})),
    Offer(offer_id="both", bonus_points=10, tiers=frozenset({"silver"}), segments=frozenset({"vip"})),
    Offer(offer_id="daily", bonus_points=10, period=Period.DAY),
    Offer(offer_id="monthly", bonus_points=10, period=Period.MONTH),
    Offer(offer_id="yearly", bonus_points=10, period=Period.YEAR),
    Offer(offer_id="twice", bonus_points=10, uses_max=2),
    Offer(offer_id="capped", bonus_percent=100, cap_points=15),
    Offer(offer_id="both-ways", bonus_percent=50, bonus_points=3),
    Offer(offer_id="rare", bonus_points=10, cap_points=15, budget_points=15),
)
ENDED = replace(PROGRAM, offers=many(USES_MAX + 1, ends_at_ms=2_000) | {"new": Offer(offer_id="new", bonus_points=1)})
ENDLESS = replace(PROGRAM, offers=many(USES_MAX + 1))
NOT_FOR, ALREADY = Refusal.OFFER_NOT_FOR_MEMBER, Refusal.OFFER_ALREADY_ACTIVE


def berlin(text: str) -> int:
    return ms(text, "Europe/Berlin")


CASES = [
    # Audience.
    case("in the segment", activate("vip"), earn(1), after=(11, 11), program=OFFERS, segments=("vip",)),
    case("in the other one", activate("vip"), after=(0, 0), program=OFFERS, segments=("press", "x")),
    case("not in it", activate("vip"), result=NOT_FOR, after=(0, 0), program=OFFERS, segments=("x",)),
    case("not in it yet", activate("vip"), change(segments=("vip",)), activate("vip"), after=(0, 0), program=OFFERS),
    case("who leaves it keeps the bonus", activate("vip"), change(segments=()), earn(1), after=(11, 11), program=OFFERS, segments=("vip",)),
    case("of the tier", earn(1_000), activate("high"), earn(1), after=(1_011, 1_011, "silver"), program=OFFERS),
    case("below the tier", earn(999), activate("high"), result=NOT_FOR, after=(999, 999), program=OFFERS),
    case("of the tier, not in the segment", earn(1_000), activate("both"), result=NOT_FOR, after=(1_000, 1_000, "silver"), program=OFFERS),
    case("in the segment, below the tier", activate("both"), result=NOT_FOR, after=(0, 0), program=OFFERS, segments=("vip",)),
    case("both", earn(1_000), activate("both"), after=(1_000, 1_000, "silver"), program=OFFERS, segments=("vip",)),
    # What it gives.
    case("percent and points: 50 % of 7, and 3", activate("both-ways"), earn(7), after=(13, 13), program=OFFERS),
    case("nothing before the activation came, whenever it happened", earn(7), activate("both-ways", occurred_at_ms=1), after=(7, 7), program=OFFERS),
    # Periods: an activation is for one, and so is what it gives.
    case("once a day", on(berlin("2025-03-01 00:00"), activate("daily")), on(berlin("2025-03-01 23:59:59.999"), activate("daily")), result=ALREADY,
         after=(0, 0), program=OFFERS),
    case("again on the next day", on(berlin("2025-03-01 23:59:59.999"), activate("daily")), on(berlin("2025-03-02 00:00"), activate("daily")), after=(0, 0),
         program=OFFERS),
    case("a day's bonus", on(berlin("2025-03-01 00:00"), activate("daily")), on(berlin("2025-03-01 23:59:59.999"), earn(1)), after=(11, 11), program=OFFERS),
    case("none on the next day", on(berlin("2025-03-01 00:00"), activate("daily")), on(berlin("2025-03-02 00:00"), earn(1)), after=(1, 1), program=OFFERS),
    case("a late sale of the day itself", on(berlin("2025-03-01 00:00"), activate("daily")),
         seen(berlin("2025-03-02 10:00"), earn(1, occurred_at_ms=berlin("2025-03-01 10:00"))), after=(11, 11), program=OFFERS),
    case("the day is Berlin's", on(ms("2025-03-01 22:59"), activate("daily")), on(ms("2025-03-01 23:00"), earn(1)), after=(1, 1), program=OFFERS),
    case("once a month", on(berlin("2025-03-01 00:00"), activate("monthly")), on(berlin("2025-03-31 23:59:59.999"), activate("monthly")), result=ALREADY,
         after=(0, 0), program=OFFERS),
    case("again in the next month", on(berlin("2025-03-31 23:59:59.999"), activate("monthly")), on(berlin("2025-04-01 00:00"), activate("monthly")),
         after=(0, 0), program=OFFERS),
    case("a month's bonus", on(berlin("2025-03-01 00:00"), activate("monthly")), on(berlin("2025-03-31 23:59:59.999"), earn(1)), after=(11, 11),
         program=OFFERS),
    case("none in the next month", on(berlin("2025-03-01 00:00"), activate("monthly")), on(berlin("2025-04-01 00:00"), earn(1)), after=(1, 1),
         program=OFFERS),
    case("once a year", on(berlin("2025-01-01 00:00"), activate("yearly")), on(berlin("2025-12-31 23:59:59.999"), activate("yearly")), result=ALREADY,
         after=(0, 0), program=OFFERS),
    case("again in the next year", on(berlin("2025-12-31 23:59:59.999"), activate("yearly")), on(berlin("2026-01-01 00:00"), activate("yearly")),
         after=(0, 0), program=OFFERS),
    case("a year's bonus", on(berlin("2025-01-01 00:00"), activate("yearly")), on(berlin("2025-12-31 23:59:59.999"), earn(1)), after=(11, 11),
         program=OFFERS),
    case("none in the next year", on(berlin("2025-01-01 00:00"), activate("yearly")), on(berlin("2026-01-01 00:00"), earn(1)), after=(1, 1), program=OFFERS),
    # Uses and caps.
    case("the last use", activate("twice"), earn(1), earn(1), after=(22, 22), program=OFFERS),
    case("one use too many", activate("twice"), earn(1), earn(1), earn(1), after=(23, 23), program=OFFERS),
    case("a reversal gives no use back", activate("twice"), earn(1), earn(1), reverse("c2"), earn(1), after=(12, 12), program=OFFERS),
    case("a bonus of nothing is no use of it", activate("capped"), earn(nights=0), earn(15), after=(30, 30), program=OFFERS),
    case("below the cap", activate("capped"), earn(14), after=(28, 28), program=OFFERS),
    case("exactly the cap", activate("capped"), earn(15), after=(30, 30), program=OFFERS),
    case("cut by the cap", activate("capped"), earn(16), after=(31, 31), program=OFFERS),
    case("cut at the second sale", activate("capped"), earn(10), earn(10), after=(35, 35), program=OFFERS),
    case("nothing after it", activate("capped"), earn(15), earn(10), after=(40, 40), program=OFFERS),
    # Budgets are asked, and answer later.
    case("asked", activate("rare"), result=None, after=(0, 0), program=OFFERS, events=()),
    case("no bonus while it is asked", activate("rare"), earn(1), after=(1, 1), program=OFFERS),
    case("no second question", activate("rare"), activate("rare"), result=ALREADY, after=(0, 0), program=OFFERS),
    case("granted", activate("rare"), budget(granted=True), after=(0, 0), program=OFFERS, events=("OFFER_ACTIVATED",)),
    case("a bonus from then on", activate("rare"), earn(1), budget(granted=True), earn(1), after=(12, 12), program=OFFERS),
    case("up to what was reserved", activate("rare"), budget(granted=True), earn(1), earn(1), earn(1), after=(18, 18), program=OFFERS),
    case("granted once", activate("rare"), budget(granted=True), activate("rare"), result=ALREADY, after=(0, 0), program=OFFERS),
    case("not granted", activate("rare"), budget(granted=False), result=Refusal.OFFER_BUDGET_SPENT, after=(0, 0), program=OFFERS, events=("COMMAND_REFUSED",)),
    case("no bonus then", activate("rare"), budget(granted=False), earn(1), after=(1, 1), program=OFFERS),
    case("it can be asked again", activate("rare"), budget(granted=False), activate("rare"), result=None, after=(0, 0), program=OFFERS, events=()),
    case("under the same id the answer stays", activate("rare", "x"), budget(granted=False), activate("rare", "x"), result=Refusal.OFFER_BUDGET_SPENT,
         after=(0, 0), program=OFFERS, events=()),
    case("an answer that comes twice", activate("rare"), budget(granted=True), budget(granted=True), result=None, after=(0, 0), program=OFFERS, events=()),
    case("a denial after a grant", activate("rare"), budget(granted=True), budget(granted=False), earn(1), after=(11, 11), program=OFFERS),
    # So many, and no more.
    case("as many as a member can have", *[activate(f"o{n:03}") for n in range(USES_MAX)], after=(0, 0), program=ENDLESS),
    case("one more", *[activate(f"o{n:03}") for n in range(USES_MAX + 1)], result=Refusal.ACCOUNT_TOO_LARGE, after=(0, 0), program=ENDLESS),
    case("those that have ended are forgotten", *[activate(f"o{n:03}") for n in range(USES_MAX)], activate("new", occurred_at_ms=2_000), after=(0, 0),
         program=ENDED),
]  # fmt: skip
