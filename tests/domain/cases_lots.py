"""Lots: when points expire, to the millisecond, and which of them are spent first."""

from dataclasses import replace

from streams.domain.program import Expiry, ExpiryRule
from streams.domain.refusals import Refusal
from tests.domain.casework import APPLIED, DAY_MS, HOUR_MS, case, ms, on, seen, suspend, tick
from tests.domain.shell import NOW_MS, PROGRAM, adjust, earn, hold, make_available, redeem, reverse

INSUFFICIENT = Refusal.INSUFFICIENT_POINTS
T = 20_000
"""When points expire here, unless they say otherwise."""
DAY_ONE = ms("2025-03-01 10:00")

BERLIN = replace(PROGRAM, time_zone="Europe/Berlin", expiry=Expiry(rule=ExpiryRule.AFTER_DAYS, days=1))
IDLE = replace(PROGRAM, expiry=Expiry(rule=ExpiryRule.INACTIVITY, days=10))
AT_MONTHS_END = replace(PROGRAM, expiry=Expiry(rule=ExpiryRule.END_OF_MONTH, months=0))


def day(number: int) -> int:
    return DAY_ONE + number * DAY_MS


CASES = [
    # The instant: what expires at T can be spent before T and not from T on.
    case("a millisecond before the expiry", earn(100, expires_at_ms=T), seen(T - 1, redeem(100)), after=(0, 100)),
    case("at the instant of the expiry", earn(100, expires_at_ms=T), seen(T, redeem(1)), result=INSUFFICIENT, after=(0, 100)),
    case("a millisecond after the expiry", earn(100, expires_at_ms=T), seen(T + 1, redeem(1)), result=INSUFFICIENT, after=(0, 100)),
    case("a tick before the expiry", earn(100, expires_at_ms=T), tick(T - 1), result=None, after=(100, 100)),
    case("a tick at the expiry", earn(100, expires_at_ms=T), tick(T), result=None, after=(0, 100), events=("BALANCE_CHANGED",)),
    case("a tick long after the expiry", earn(100, expires_at_ms=T), tick(10 * T), result=None, after=(0, 100), events=("BALANCE_CHANGED",)),
    case("a second tick changes nothing", earn(100, expires_at_ms=T), tick(T), tick(T + 1), result=None, after=(0, 100), events=()),
    case("points without an expiry", earn(100), tick(253_402_300_799_999), result=None, after=(100, 100)),
    case(
        "a redemption that happened in time and comes too late",
        earn(100, expires_at_ms=T), seen(T, redeem(1, occurred_at_ms=T - 1)), result=INSUFFICIENT, after=(0, 100),
    ),
    case("a hold at the instant of the expiry", earn(100, expires_at_ms=T), seen(T, hold(1)), result=INSUFFICIENT, after=(0, 100)),
    case("expiry while suspended", earn(100, expires_at_ms=T), suspend, tick(T), result=None, after=(0, 100)),
    case("an adjustment that expires", adjust(100, expires_at_ms=T), seen(T, redeem(1)), result=INSUFFICIENT, after=(0, 0)),
    case("an earn that comes after its own expiry", seen(T, earn(100, expires_at_ms=T)), after=(0, 100), events=("BALANCE_CHANGED", "BALANCE_CHANGED")),
    case("an earn that comes just before its own expiry", seen(T - 1, earn(100, expires_at_ms=T)), after=(100, 100)),
    case("only what is left expires: no balance collapses", earn(100, expires_at_ms=T), redeem(60), tick(T), result=None, after=(0, 100)),
    case("expired points do not take those of other lots along", earn(100, expires_at_ms=T), earn(50), redeem(60), tick(T), result=None, after=(50, 150)),
    case("two lots of one instant expire together", earn(100, expires_at_ms=T), earn(9, expires_at_ms=T), tick(T), result=None, after=(0, 109),
         events=("BALANCE_CHANGED",)),
    case("two instants are two movements", earn(100, expires_at_ms=T), earn(9, expires_at_ms=T + 1), tick(T + 1), result=None, after=(0, 109),
         events=("BALANCE_CHANGED", "BALANCE_CHANGED")),
    # Soonest expiry first, then by effective time, then by id.
    case("soonest expiry first", earn(10, expires_at_ms=T + 9), earn(10, expires_at_ms=T), redeem(10), after=(10, 20), lots={"c1": 10}),
    case("what never expires comes last", earn(10), earn(10, expires_at_ms=T), redeem(10), after=(10, 20), lots={"c1": 10}),
    case("a second lot when the first is empty", earn(10), earn(10, expires_at_ms=T), redeem(15), after=(5, 20), lots={"c1": 5}),
    case(
        "the same expiry: the older one first",
        earn(10, expires_at_ms=T, occurred_at_ms=NOW_MS + 1), earn(10, expires_at_ms=T), redeem(10), after=(10, 20), lots={"c1": 10},
    ),
    case(
        "the same expiry and age: by their ids",
        earn(10, expires_at_ms=T, transaction_id="b"), earn(10, expires_at_ms=T, transaction_id="a"), redeem(10), after=(10, 20), lots={"b": 10},
    ),
    case("no expiry: the older one first", earn(10, occurred_at_ms=NOW_MS + 1), earn(10), redeem(10), after=(10, 20), lots={"c1": 10}),
    case(
        "a lot that has expired is passed over",
        earn(10, expires_at_ms=T), earn(10, expires_at_ms=T + 9), seen(T, redeem(10)), after=(0, 20), lots={},
    ),
    case("pending points are not spent", earn(10, pending=True, expires_at_ms=T), earn(10), redeem(10), after=(0, 20), pending=10, lots={"c1": 10}),
    case(
        "points that were pending take their place",
        earn(10, pending=True, expires_at_ms=T), earn(10), make_available("c1"), redeem(10), after=(10, 20), lots={"c2": 10},
    ),
    case("an adjustment takes the soonest as well", earn(10), earn(10, expires_at_ms=T), adjust(-10), after=(10, 20), lots={"c1": 10}),
    case("a hold takes the soonest as well", earn(10), earn(10, expires_at_ms=T), hold(10), after=(10, 20), held=10, lots={"c1": 10}),
    # The programme's rule, at the member's own clock.
    case(
        "a day of Berlin's that has 23 hours: before its end",
        on(ms("2025-03-29 12:00", "Europe/Berlin"), earn(100)), tick(ms("2025-03-29 12:00", "Europe/Berlin") + 23 * HOUR_MS - 1),
        result=None, after=(100, 100), program=BERLIN,
    ),
    case(
        "a day of Berlin's that has 23 hours: at its end",
        on(ms("2025-03-29 12:00", "Europe/Berlin"), earn(100)), tick(ms("2025-03-29 12:00", "Europe/Berlin") + 23 * HOUR_MS),
        result=None, after=(0, 100), program=BERLIN,
    ),
    case(
        "a day of Berlin's that has 25 hours: before its end",
        on(ms("2025-10-25 12:00", "Europe/Berlin"), earn(100)), tick(ms("2025-10-25 12:00", "Europe/Berlin") + 25 * HOUR_MS - 1),
        result=None, after=(100, 100), program=BERLIN,
    ),
    case(
        "a day of Berlin's that has 25 hours: at its end",
        on(ms("2025-10-25 12:00", "Europe/Berlin"), earn(100)), tick(ms("2025-10-25 12:00", "Europe/Berlin") + 25 * HOUR_MS),
        result=None, after=(0, 100), program=BERLIN,
    ),
    case("counted from the sale, not from when it came", seen(day(0) + 1, earn(100, occurred_at_ms=day(-1) + 1)), after=(0, 100), program=BERLIN),
    case("the sender's expiry outweighs the rule", on(day(0), earn(100, expires_at_ms=day(5))), tick(day(2)), result=None, after=(100, 100), program=BERLIN),
    case("adjustments follow the rule", on(day(0), adjust(100)), tick(day(1)), result=None, after=(0, 0), program=BERLIN),
    case("31 January, end of the month", on(ms("2025-01-31 12:00"), earn(9)), tick(ms("2025-02-01 00:00") - 1), result=None, after=(9, 9),
         program=AT_MONTHS_END),
    case("1 February", on(ms("2025-01-31 12:00"), earn(9)), tick(ms("2025-02-01 00:00")), result=None, after=(0, 9), program=AT_MONTHS_END),
    # Inactivity.
    case("idle for a millisecond less", on(day(0), earn(9)), tick(day(10) - 1), result=None, after=(9, 9), program=IDLE),
    case("idle for as long as it takes", on(day(0), earn(9)), tick(day(10)), result=None, after=(0, 9), program=IDLE),
    case("an earn keeps earlier points alive", on(day(0), earn(9)), on(day(9), earn(1)), tick(day(19) - 1), result=None, after=(10, 10), program=IDLE),
    case("all of them expire together then", on(day(0), earn(9)), on(day(9), earn(1)), tick(day(19)), result=None, after=(0, 10), program=IDLE,
         events=("BALANCE_CHANGED",)),
    case("a redemption keeps the rest alive", on(day(0), earn(9)), on(day(9), redeem(1)), tick(day(19) - 1), result=None, after=(8, 9), program=IDLE),
    case("until it is too long ago", on(day(0), earn(9)), on(day(9), redeem(1)), tick(day(19)), result=None, after=(0, 9), program=IDLE),
    case(
        "a late activity takes no time away",
        on(day(5), earn(9)), seen(day(6), earn(1, occurred_at_ms=day(0))), tick(day(15) - 1), result=None, after=(10, 10), program=IDLE,
    ),
    case(
        "an activity that comes too late does not bring points back",
        on(day(0), earn(9)), seen(day(10), earn(1, occurred_at_ms=day(9))), after=(1, 10), program=IDLE,
    ),
    case("a profile is no activity", on(day(0), earn(9)), on(day(9), suspend), tick(day(10)), result=None, after=(0, 9), program=IDLE),
    case("an adjustment upwards is no activity", on(day(0), earn(9)), on(day(9), adjust(1)), tick(day(10)), result=None, after=(1, 9), program=IDLE),
    case("a reversal is no activity", on(day(0), earn(9)), on(day(9), reverse("c1", 1)), tick(day(10)), result=None, after=(0, 8), program=IDLE),
    case("a refused redemption is no activity", on(day(0), earn(9)), on(day(9), redeem(10)), tick(day(10)), result=None, after=(0, 9), program=IDLE),
    case(
        "points of an expiry of their own are not kept alive",
        on(day(0), earn(9, expires_at_ms=day(12))), on(day(9), earn(1)), tick(day(12)), result=None, after=(1, 10), program=IDLE,
    ),
    case("an activity at the very instant is too late", on(day(0), earn(9)), on(day(10), redeem(1)), result=INSUFFICIENT, after=(0, 9), program=IDLE),
    # Ids older than answers are remembered.
    case("an id is remembered to the last millisecond", on(day(0), earn(9, transaction_id="x")), on(day(90) - 1, earn(9, transaction_id="x")),
         result=APPLIED, after=(9, 9), events=()),
]  # fmt: skip
