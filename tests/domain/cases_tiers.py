"""Tiers: thresholds, periods, the days of grace, and how a tier is lost."""

from dataclasses import replace

from schemas.records import MemberOperationKind
from streams.domain.program import Demotion, Tier, TierPolicy, Window
from streams.domain.refusals import Refusal
from tests.domain.casework import DAY_MS, case, ms, on, seen, tick
from tests.domain.shell import PROGRAM, adjust, earn, operate, redeem, reverse


def set_tier(tier: str, **more: object) -> object:
    return operate(MemberOperationKind.SET_TIER, tier=tier, **more)


def by(window: Window, **policy: object) -> object:
    return replace(PROGRAM, tier_policy=TierPolicy(window=window, demote_on_reversal=False, **policy))  # type: ignore[arg-type]


YEARLY = by(Window.CALENDAR_YEAR)
ONE_STEP = by(Window.CALENDAR_YEAR, demotion=Demotion.ONE_STEP)
NEVER = by(Window.CALENDAR_YEAR, demotion=Demotion.NEVER)
GRACE = by(Window.CALENDAR_YEAR, grace_days=10)
BERLIN = replace(YEARLY, time_zone="Europe/Berlin")
STRICT = replace(PROGRAM, idempotency_days=1_000, tier_policy=TierPolicy(window=Window.CALENDAR_YEAR, demote_on_reversal=True))
JOINED = by(Window.MEMBERSHIP_YEAR)
ROLLING = by(Window.ROLLING, window_days=30)
ROLLING_GRACE = by(Window.ROLLING, window_days=30, grace_days=5)

SPRING_25, SPRING_26 = ms("2025-03-01 10:00"), ms("2026-03-01 10:00")
END_25, END_26, END_27 = ms("2026-01-01 00:00"), ms("2027-01-01 00:00"), ms("2028-01-01 00:00")
"""First instants after the years."""
LEAP = ms("2024-02-29 15:00")
"""When a member joined."""

SILVER_25 = on(SPRING_25, earn(1_000))
GOLD_25 = on(SPRING_25, earn(5_000))

CASES = [
    # A lifetime has no end.
    case("for life", earn(1_000), tick(253_402_300_799_999), result=None, after=(1_000, 1_000, "silver"), events=()),
    # Calendar years: a tier lasts to the end of the next one.
    case("the last instant of the next year", SILVER_25, tick(END_26 - 1), result=None, after=(1_000, 1_000, "silver"), program=YEARLY),
    case("the end of the next year", SILVER_25, tick(END_26), result=None, after=(1_000, 0), program=YEARLY, events=("TIER_CHANGED",)),
    case("points of the year before do not count now", SILVER_25, on(END_25, adjust(1)), after=(1_001, 0, "silver"), program=YEARLY),
    case("they do until its last instant", SILVER_25, on(END_25 - 1, adjust(1)), after=(1_001, 1_000, "silver"), program=YEARLY),
    case("earned again: kept", SILVER_25, on(SPRING_26, earn(1_000)), tick(END_26), result=None, after=(2_000, 0, "silver"), program=YEARLY,
         events=("TIER_RETAINED",)),
    case("a point less is not enough", SILVER_25, on(SPRING_26, earn(999)), tick(END_26), result=None, after=(1_999, 0), program=YEARLY),
    case("kept for a year more, and lost then", SILVER_25, on(SPRING_26, earn(1_000)), tick(END_27), result=None, after=(2_000, 0), program=YEARLY,
         events=("TIER_RETAINED", "TIER_CHANGED")),
    case("kept to the last instant of that year", SILVER_25, on(SPRING_26, earn(1_000)), tick(END_27 - 1), result=None, after=(2_000, 0, "silver"),
         program=YEARLY),
    case("points are not carried over: 600 and 600", on(SPRING_25, earn(600)), on(SPRING_26, earn(600)), after=(1_200, 600), program=YEARLY),
    case("redeeming costs no tier", SILVER_25, on(SPRING_26, redeem(1_000)), after=(0, 0, "silver"), program=YEARLY),
    case("a late earn counts in its own year", SILVER_25, seen(SPRING_26, earn(4_000, occurred_at_ms=SPRING_25)), after=(5_000, 0, "silver"), program=YEARLY),
    case("and not for this one's threshold", on(END_25 - 1, earn(999)), seen(END_25, earn(1, occurred_at_ms=END_25 - 1)), after=(1_000, 0), program=YEARLY),
    case("Berlin's year begins an hour earlier", on(END_25 - 3_600_000, earn(1_000)), on(END_25 + DAY_MS, adjust(1)), after=(1_001, 1_000, "silver"),
         program=BERLIN),
    case("and ends an hour earlier", SILVER_25, tick(END_26 - 3_600_000), result=None, after=(1_000, 0), program=BERLIN),
    case("not earlier than that", SILVER_25, tick(END_26 - 3_600_001), result=None, after=(1_000, 1_000, "silver"), program=BERLIN),
    # Where a member goes.
    case("gold, nothing earned: to the tier of the points", GOLD_25, tick(END_26), result=None, after=(5_000, 0), program=YEARLY),
    case("gold, silver's points earned", GOLD_25, on(SPRING_26, earn(1_000)), tick(END_26), result=None, after=(6_000, 0, "silver"), program=YEARLY),
    case("gold, one step down", GOLD_25, tick(END_26), result=None, after=(5_000, 0, "silver"), program=ONE_STEP, events=("TIER_CHANGED",)),
    case("and another a year later", GOLD_25, tick(END_27), result=None, after=(5_000, 0), program=ONE_STEP, events=("TIER_CHANGED", "TIER_CHANGED")),
    case("not before that", GOLD_25, tick(END_27 - 1), result=None, after=(5_000, 0, "silver"), program=ONE_STEP),
    case("one step with the points of two", GOLD_25, on(SPRING_26, earn(999)), tick(END_26), result=None, after=(5_999, 0, "silver"), program=ONE_STEP),
    case("never", GOLD_25, tick(END_27 + 1), result=None, after=(5_000, 0, "gold"), program=NEVER, events=("TIER_RETAINED", "TIER_RETAINED")),
    # Days of grace.
    case("the last instant of grace", SILVER_25, on(END_26 + 10 * DAY_MS - 1, adjust(1)), after=(1_001, 0, "silver"), program=GRACE),
    case("the end of grace", SILVER_25, tick(END_26 + 10 * DAY_MS), result=None, after=(1_000, 0), program=GRACE),
    case("what comes late in the days of grace still counts", SILVER_25, seen(END_26 + DAY_MS, earn(1_000, occurred_at_ms=END_26 - 1)),
         tick(END_26 + 10 * DAY_MS), result=None, after=(2_000, 0, "silver"), program=GRACE),
    case("what is earned in them as well", SILVER_25, on(END_26 + DAY_MS, earn(1_000)), tick(END_26 + 10 * DAY_MS), result=None,
         after=(2_000, 1_000, "silver"), program=GRACE),
    case("the two are not added up", SILVER_25, on(SPRING_26, earn(500)), on(END_26 + DAY_MS, earn(500)), tick(END_26 + 10 * DAY_MS), result=None,
         after=(2_000, 500), program=GRACE),
    case("without grace it is too late", SILVER_25, seen(END_26 + DAY_MS, earn(1_000, occurred_at_ms=END_26 - 1)), after=(2_000, 0), program=YEARLY),
    # Reversals.
    case("a reversal to the threshold", SILVER_25, on(SPRING_25, earn(5)), on(SPRING_25, reverse("c2")), after=(1_000, 1_000, "silver"), program=STRICT),
    case("a reversal below it costs the tier at once", SILVER_25, on(SPRING_25, reverse("c1", 1)), after=(999, 999), program=STRICT),
    case("in the next year as well: the tier rested on them", SILVER_25, on(END_25, reverse("c1", 1)), after=(999, 0), program=STRICT),
    case("not if this year's points reach it", SILVER_25, on(END_25, earn(1_000)), on(END_25, reverse("c1")), after=(1_000, 1_000, "silver"), program=STRICT),
    case("or only at the end of its period", SILVER_25, on(SPRING_25, reverse("c1")), after=(0, 0, "silver"), program=YEARLY),
    case("which comes", SILVER_25, on(SPRING_25, reverse("c1")), tick(END_26), result=None, after=(0, 0), program=YEARLY),
    case("a tier that somebody gave does not rest on points", set_tier("gold"), earn(10), reverse("c2"), after=(0, 0, "gold")),
    # Years of membership; this one began on a 29 February.
    case("the first year's last instant", on(ms("2025-02-27 23:59:59.999"), earn(9)), on(ms("2025-02-27 23:59:59.999"), adjust(1)), after=(10, 9),
         program=JOINED, enrolled_at_ms=LEAP),
    case("the second year begins on the 28th", on(ms("2025-02-27 23:59:59.999"), earn(9)), on(ms("2025-02-28 00:00"), adjust(1)), after=(10, 0),
         program=JOINED, enrolled_at_ms=LEAP),
    case("the first year begins with its day, not with its hour", on(LEAP - 1, earn(9)), on(LEAP + 1, earn(1)), after=(10, 10), program=JOINED,
         enrolled_at_ms=LEAP),
    case("the fifth year begins on the 29th", on(ms("2028-02-28 23:59:59.999"), earn(9)), on(ms("2028-02-28 23:59:59.999"), adjust(1)), after=(10, 9),
         program=JOINED, enrolled_at_ms=LEAP),
    case("and its first instant", on(ms("2028-02-28 23:59:59.999"), earn(9)), on(ms("2028-02-29 00:00"), adjust(1)), after=(10, 0), program=JOINED,
         enrolled_at_ms=LEAP),
    case("the tier lasts to the end of the second year", on(LEAP, earn(1_000)), tick(ms("2026-02-28 00:00") - 1), result=None, after=(1_000, 1_000, "silver"),
         program=JOINED, enrolled_at_ms=LEAP),
    case("and not longer", on(LEAP, earn(1_000)), tick(ms("2026-02-28 00:00")), result=None, after=(1_000, 0), program=JOINED, enrolled_at_ms=LEAP),
    # The last 30 days.
    case("the 30th day", on(SPRING_25, earn(9)), on(ms("2025-03-30 23:59:59.999"), adjust(1)), after=(10, 9), program=ROLLING),
    case("the 31st day", on(SPRING_25, earn(9)), on(ms("2025-03-31 00:00"), adjust(1)), after=(10, 0), program=ROLLING),
    case("two days add up to the threshold", on(SPRING_25, earn(500)), on(ms("2025-03-30 12:00"), earn(500)), after=(1_000, 1_000, "silver"), program=ROLLING),
    case("a day too late they do not", on(SPRING_25, earn(500)), on(ms("2025-03-31 12:00"), earn(500)), after=(1_000, 500), program=ROLLING),
    case("the tier lasts 30 days", SILVER_25, tick(SPRING_25 + 30 * DAY_MS - 1), result=None, after=(1_000, 1_000, "silver"), program=ROLLING),
    case("and not longer than that", SILVER_25, tick(SPRING_25 + 30 * DAY_MS), result=None, after=(1_000, 0), program=ROLLING),
    case("earned again within them: kept", SILVER_25, on(SPRING_25 + 15 * DAY_MS, earn(1_000)), tick(SPRING_25 + 30 * DAY_MS), result=None,
         after=(2_000, 1_000, "silver"), program=ROLLING, events=("TIER_RETAINED",)),
    case("for 30 days more", SILVER_25, on(SPRING_25 + 15 * DAY_MS, earn(1_000)), tick(SPRING_25 + 60 * DAY_MS), result=None, after=(2_000, 0),
         program=ROLLING),
    case("5 days of grace", SILVER_25, tick(SPRING_25 + 35 * DAY_MS - 1), result=None, after=(1_000, 1_000, "silver"), program=ROLLING_GRACE),
    case("and then it is over", SILVER_25, tick(SPRING_25 + 35 * DAY_MS), result=None, after=(1_000, 0), program=ROLLING_GRACE),
    # Given by hand.
    case("set up", set_tier("gold"), after=(0, 0, "gold"), events=("TIER_CHANGED",)),
    case("set down", earn(5_000), set_tier("blue"), after=(5_000, 5_000, "blue"), events=("TIER_CHANGED",)),
    case("set to what it is", earn(1_000), set_tier("silver"), after=(1_000, 1_000, "silver"), events=()),
    case("set to what there is not", set_tier("platinum"), result=Refusal.TIER_UNKNOWN, after=(0, 0)),
    case("an earn promotes from there by the points alone", set_tier("silver"), earn(999), after=(999, 999, "silver")),
    case("an earn does not take it", set_tier("gold"), earn(1_000), after=(1_000, 1_000, "gold")),
    case("until its own end: before", on(SPRING_25, set_tier("gold", valid_until_ms=SPRING_26)), tick(SPRING_26 - 1), result=None, after=(0, 0, "gold"),
         program=YEARLY),
    case("until its own end: at it", on(SPRING_25, set_tier("gold", valid_until_ms=SPRING_26)), tick(SPRING_26), result=None, after=(0, 0), program=YEARLY),
    case("looked at like any other without one", on(SPRING_25, set_tier("gold")), tick(END_26), result=None, after=(0, 0), program=YEARLY),
    case("not before", on(SPRING_25, set_tier("gold")), tick(END_26 - 1), result=None, after=(0, 0, "gold"), program=YEARLY),
    case("a new end for the tier there is", SILVER_25, on(SPRING_25, set_tier("silver", valid_until_ms=SPRING_26)), after=(1_000, 1_000, "silver"),
         program=YEARLY, events=("TIER_RETAINED",)),
    case("at which the year it lies in decides", SILVER_25, on(SPRING_25, set_tier("silver", valid_until_ms=SPRING_26)), tick(SPRING_26), result=None,
         after=(1_000, 0), program=YEARLY, events=("TIER_CHANGED",)),
    case("the first tier has no end", on(SPRING_25, set_tier("blue", valid_until_ms=SPRING_26)), tick(END_27), result=None, after=(0, 0), program=YEARLY,
         events=()),
    # Thresholds of the configuration.
    case("the first tier is at 0", adjust(1), after=(1, 0), program=replace(PROGRAM, tiers=(Tier(name="blue", threshold_points=0),))),
    case("a tier at one point", earn(1), after=(1, 1, "silver"), program=replace(
        PROGRAM, tiers=(Tier(name="blue", threshold_points=0), Tier(name="silver", threshold_points=1)))),
]  # fmt: skip
