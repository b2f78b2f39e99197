"""Points that cannot be spent yet: by the sender's date, until an event, or by the programme's days."""

from dataclasses import replace

from streams.domain.program import ReversalPolicy
from streams.domain.refusals import Refusal
from tests.domain.casework import DAY_MS, HOUR_MS, case, ms, on, seen, suspend, tick
from tests.domain.shell import NOW_MS, PROGRAM, activate, adjust, earn, hold, make_available, redeem, reverse

T = 20_000
PATIENT = replace(PROGRAM, pending_days=1)
BERLIN = replace(PATIENT, time_zone="Europe/Berlin")
SPRING = ms("2025-03-29 12:00", "Europe/Berlin")
UNLIMITED = replace(PROGRAM, reversal=ReversalPolicy.UNLIMITED)
ONLY_PENDING = replace(PROGRAM, reversal=ReversalPolicy.ONLY_PENDING)
IN_DEBT = (earn(60), redeem(60), reverse("c1"))
"""60 points are owed after it."""

CASES = [
    case("pending points count for the tier at once", earn(1_000, pending=True), after=(0, 1_000, "silver"), pending=1_000),
    case("and cannot be redeemed", earn(100, pending=True), redeem(1), result=Refusal.INSUFFICIENT_POINTS, after=(0, 100), pending=100),
    case("nor held", earn(100, pending=True), hold(1), result=Refusal.INSUFFICIENT_POINTS, after=(0, 100), pending=100),
    case("nor adjusted away", earn(100, pending=True), adjust(-1), result=Refusal.INSUFFICIENT_POINTS, after=(0, 100), pending=100),
    case("bonus and all", activate("double"), earn(100, pending=True), after=(0, 200), pending=200),
    # By a date.
    case("a tick just before the date", earn(100, available_from_ms=T), tick(T - 1), result=None, after=(0, 100), pending=100),
    case("a tick at the date", earn(100, available_from_ms=T), tick(T), result=None, after=(100, 100), events=("BALANCE_CHANGED",)),
    case("those of another date wait for theirs", earn(100, available_from_ms=T), earn(7, available_from_ms=T + 1), earn(5, pending=True), tick(T),
         result=None, after=(100, 112), pending=12),
    case("spent at the date", earn(100, available_from_ms=T), seen(T, redeem(100)), after=(0, 100)),
    case("spent just before the date", earn(100, available_from_ms=T), seen(T - 1, redeem(1)), result=Refusal.INSUFFICIENT_POINTS, after=(0, 100), pending=100),
    case("a date that is over", seen(T, earn(100, available_from_ms=T)), after=(100, 100)),
    case("a date and an event: the event comes first", earn(100, available_from_ms=T), make_available("c1"), after=(100, 100)),
    case(
        "a date and an event: the date comes first",
        earn(100, available_from_ms=T), seen(T, make_available("c1")), result=Refusal.NOT_PENDING, after=(100, 100),
    ),
    case("while suspended", earn(100, available_from_ms=T), suspend, tick(T), result=None, after=(100, 100)),
    # By an event.
    case("made available", earn(100, pending=True), make_available("c1"), after=(100, 100), lots={"c1": 100}),
    case("never by time", earn(100, pending=True), tick(9_000 * DAY_MS), result=None, after=(0, 100), pending=100),
    case("twice", earn(100, pending=True), make_available("c1"), make_available("c1"), result=Refusal.NOT_PENDING, after=(100, 100)),
    case("what was never pending", earn(100), make_available("c1"), result=Refusal.NOT_PENDING, after=(100, 100)),
    case("what is no earn", earn(100), redeem(1), make_available("c2"), result=Refusal.NOT_PENDING, after=(99, 100)),
    case("what never was", make_available("c9"), result=Refusal.TRANSACTION_NOT_FOUND, after=(0, 0)),
    case("what was reversed", earn(100, pending=True), reverse("c1"), make_available("c1"), result=Refusal.NOT_PENDING, after=(0, 0)),
    case("what is left of a reversal", earn(100, pending=True), reverse("c1", 30), make_available("c1"), after=(70, 70)),
    case("while the member is suspended", earn(100, pending=True), suspend, make_available("c1"), after=(100, 100)),
    # By the programme.
    case("a day of the programme: before", earn(100), tick(NOW_MS + DAY_MS - 1), result=None, after=(0, 100), pending=100, program=PATIENT),
    case("a day of the programme: at its end", earn(100), tick(NOW_MS + DAY_MS), result=None, after=(100, 100), program=PATIENT),
    case("a day counts from the sale", seen(T, earn(100, occurred_at_ms=1)), tick(1 + DAY_MS), result=None, after=(100, 100), program=PATIENT),
    case("a late earn is not pending any more", seen(NOW_MS + DAY_MS, earn(100)), after=(100, 100), program=PATIENT),
    case("a short day of Berlin's: before", on(SPRING, earn(9)), tick(SPRING + 23 * HOUR_MS - 1), result=None, after=(0, 9), pending=9, program=BERLIN),
    case("a short day of Berlin's: at its end", on(SPRING, earn(9)), tick(SPRING + 23 * HOUR_MS), result=None, after=(9, 9), program=BERLIN),
    case("the sender's date outweighs the days", earn(100, available_from_ms=T), tick(T), result=None, after=(100, 100), program=PATIENT),
    case("an event outweighs the days", earn(100, pending=True), tick(NOW_MS + DAY_MS), result=None, after=(0, 100), pending=100, program=PATIENT),
    case("adjustments are never pending", adjust(100), after=(100, 0), program=PATIENT),
    # They expire.
    case("pending points expire", earn(100, pending=True, expires_at_ms=T), tick(T), result=None, after=(0, 100)),
    case("not before", earn(100, pending=True, expires_at_ms=T), tick(T - 1), result=None, after=(0, 100), pending=100),
    case("and are not there for an event", earn(100, pending=True, expires_at_ms=T), seen(T, make_available("c1")), result=Refusal.NOT_PENDING, after=(0, 100)),
    case("available and expired at one instant", earn(100, available_from_ms=T, expires_at_ms=T), tick(T), result=None, after=(0, 100)),
    # They are taken back, and they pay.
    case("reverse pending points", earn(100, pending=True), reverse("c1"), after=(0, 0)),
    case("reverse a part of them", earn(100, pending=True), reverse("c1", 30), after=(0, 70), pending=70),
    case("reverse pending points under only_pending", earn(100, pending=True), reverse("c1"), after=(0, 0), program=ONLY_PENDING),
    case("reverse those that were pending under only_pending", earn(9, pending=True), make_available("c1"), reverse("c1"), after=(9, 0), shortfall=9,
         program=ONLY_PENDING),
    case("reverse pending points under unlimited", earn(100, pending=True), reverse("c1"), after=(0, 0), program=UNLIMITED),
    case("pending points pay no debt", *IN_DEBT, earn(100, pending=True), after=(0, 100), pending=100, debt=60, program=UNLIMITED),
    case("they pay it when they become available", *IN_DEBT, earn(100, pending=True), make_available("c4"), after=(40, 100), program=UNLIMITED),
    case("by time as well", *IN_DEBT, earn(100, available_from_ms=T), tick(T), result=None, after=(40, 100), program=UNLIMITED),
    case("reversed while there is a debt", *IN_DEBT, earn(100, pending=True), reverse("c4"), after=(0, 0), debt=60, program=UNLIMITED),
]  # fmt: skip
