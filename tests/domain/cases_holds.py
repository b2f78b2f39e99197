"""Holds: points set aside, captured in whole or in part, let go by hand or by time."""

from dataclasses import replace

from streams.domain.ledger import HOLDS_MAX
from streams.domain.refusals import Refusal
from tests.domain.casework import DAY_MS, MINUTE_MS, case, reactivate, seen, suspend, tick
from tests.domain.shell import PROGRAM, capture, earn, hold, redeem, reverse, void

T = 20_000
TRUSTING = replace(PROGRAM, capture_while_suspended=True)
IMPATIENT = replace(PROGRAM, hold_minutes=1)

CASES = [
    # Placing.
    case("a hold sets points aside", earn(100), hold(60), after=(40, 100), held=60),
    case("a hold of all there is", earn(100), hold(100), after=(0, 100), held=100),
    case("a hold of one more", earn(100), hold(101), result=Refusal.INSUFFICIENT_POINTS, after=(100, 100)),
    case("a second hold of what is left", earn(100), hold(60), hold(40), after=(0, 100), held=100),
    case("a second hold of one more", earn(100), hold(60), hold(41), result=Refusal.INSUFFICIENT_POINTS, after=(40, 100), held=60),
    case("held points cannot be redeemed", earn(100), hold(60), redeem(41), result=Refusal.INSUFFICIENT_POINTS, after=(40, 100), held=60),
    case("a hold while suspended", earn(100), suspend, hold(1), result=Refusal.ACCOUNT_SUSPENDED, after=(100, 100)),
    case("suspended comes before insufficient", suspend, hold(1), result=Refusal.ACCOUNT_SUSPENDED, after=(0, 0)),
    case("as many holds as a member can have", earn(1_000), *[hold(1)] * HOLDS_MAX, after=(800, 1_000, "silver"), held=200),
    case(
        "one more than a member can have",
        earn(1_000), *[hold(1)] * (HOLDS_MAX + 1), result=Refusal.ACCOUNT_TOO_LARGE, after=(800, 1_000, "silver"), held=200,
    ),
    case("insufficient comes before too many", earn(200), *[hold(1)] * (HOLDS_MAX + 1), result=Refusal.INSUFFICIENT_POINTS, after=(0, 200), held=200),
    case("a repetition of a hold", earn(100), hold(60, transaction_id="h"), hold(60, transaction_id="h"), after=(40, 100), held=60),
    # Capturing.
    case("capture all of it", earn(100), hold(60), capture("c2"), after=(40, 100)),
    case("capture exactly all of it", earn(100), hold(60), capture("c2", 60), after=(40, 100)),
    case("capture a part: the rest goes back", earn(100), hold(60), capture("c2", 20), after=(80, 100)),
    case("capture more than there is", earn(100), hold(60), capture("c2", 61), result=Refusal.CAPTURE_TOO_LARGE, after=(40, 100), held=60),
    case("capture twice", earn(100), hold(60), capture("c2", 20), capture("c2", 1), result=Refusal.HOLD_ALREADY_CAPTURED, after=(80, 100)),
    case("capture what was voided", earn(100), hold(60), void("c2"), capture("c2"), result=Refusal.HOLD_ALREADY_VOIDED, after=(100, 100)),
    case("capture what never was", capture("c9"), result=Refusal.HOLD_NOT_FOUND, after=(0, 0)),
    case("capture an earn", earn(100), capture("c1"), result=Refusal.HOLD_NOT_FOUND, after=(100, 100)),
    case("capture a hold that was refused", hold(1), capture("c1"), result=Refusal.HOLD_NOT_FOUND, after=(0, 0)),
    case("capture while suspended", earn(100), hold(60), suspend, capture("c2"), result=Refusal.ACCOUNT_SUSPENDED, after=(40, 100), held=60),
    case("capture while suspended, where the programme allows it", earn(100), hold(60), suspend, capture("c2"), after=(40, 100), program=TRUSTING),
    case("capture after reactivation", earn(100), hold(60), suspend, reactivate, capture("c2"), after=(40, 100)),
    case("not found comes before suspended", suspend, capture("c9"), result=Refusal.HOLD_NOT_FOUND, after=(0, 0)),
    case("suspended comes before captured", earn(100), hold(60), capture("c2"), suspend, capture("c2"), result=Refusal.ACCOUNT_SUSPENDED, after=(40, 100)),
    case(
        "captured comes before too large",
        earn(100), hold(60), capture("c2"), capture("c2", 61), result=Refusal.HOLD_ALREADY_CAPTURED, after=(40, 100),
    ),
    case(
        "a capture takes the soonest of the hold's lots, the others go back",
        earn(10, expires_at_ms=T + 9), earn(10, expires_at_ms=T), hold(20), capture("c3", 10), after=(10, 20), lots={"c1": 10},
    ),
    case(
        "a part of a lot is captured and the rest of it goes back",
        earn(10, expires_at_ms=T + 9), earn(10, expires_at_ms=T), hold(20), capture("c3", 15), after=(5, 20), lots={"c1": 5},
    ),
    case("a hold outlives the memory of its answer", earn(100), hold(60), seen(91 * DAY_MS, capture("c2")), after=(40, 100)),
    case(
        "a hold that ended longer ago than answers are remembered",
        earn(100), hold(60), void("c2"), seen(91 * DAY_MS, capture("c2")), result=Refusal.HOLD_NOT_FOUND, after=(100, 100),
    ),
    # Letting go.
    case("void", earn(100), hold(60), void("c2"), after=(100, 100), lots={"c1": 100}),
    case("void twice", earn(100), hold(60), void("c2"), void("c2"), result=Refusal.HOLD_ALREADY_VOIDED, after=(100, 100)),
    case("void what was captured", earn(100), hold(60), capture("c2"), void("c2"), result=Refusal.HOLD_ALREADY_CAPTURED, after=(40, 100)),
    case("void what never was", void("c9"), result=Refusal.HOLD_NOT_FOUND, after=(0, 0)),
    case("void while suspended", earn(100), hold(60), suspend, void("c2"), after=(100, 100)),
    case("what went back can be spent", earn(100), hold(60), void("c2"), redeem(100), after=(0, 100)),
    case("one of two holds", earn(100), hold(60), hold(30), void("c2"), after=(70, 100), held=30),
    case("a void after the lot's expiry gives nothing back", earn(100, expires_at_ms=T), hold(60), seen(T, void("c2")), after=(0, 100)),
    case("a void just before the lot's expiry", earn(100, expires_at_ms=T), hold(60), seen(T - 1, void("c2")), after=(100, 100)),
    case("held points outlive their lot", earn(100, expires_at_ms=T), hold(60), tick(T), result=None, after=(0, 100), held=60),
    case("and can be captured", earn(100, expires_at_ms=T), hold(60), seen(T, capture("c2")), after=(0, 100)),
    case("but what a partial capture leaves of them expires", earn(100, expires_at_ms=T), hold(60), seen(T, capture("c2", 20)), after=(0, 100)),
    # By time.
    case("a capture just in time", earn(100), hold(60, expires_at_ms=T), seen(T - 1, capture("c2")), after=(40, 100)),
    case("a capture at the instant", earn(100), hold(60, expires_at_ms=T), seen(T, capture("c2")), result=Refusal.HOLD_EXPIRED, after=(100, 100)),
    case("a capture too late", earn(100), hold(60, expires_at_ms=T), seen(T + 1, capture("c2")), result=Refusal.HOLD_EXPIRED, after=(100, 100)),
    case("a void at the instant", earn(100), hold(60, expires_at_ms=T), seen(T, void("c2")), result=Refusal.HOLD_EXPIRED, after=(100, 100)),
    case("a tick just before", earn(100), hold(60, expires_at_ms=T), tick(T - 1), result=None, after=(40, 100), held=60),
    case("a tick at the instant", earn(100), hold(60, expires_at_ms=T), tick(T), result=None, after=(100, 100), events=("BALANCE_CHANGED",)),
    case("the points can be spent from that instant on", earn(100), hold(60, expires_at_ms=T), seen(T, redeem(100)), after=(0, 100)),
    case("a capture that happened in time and comes too late", earn(100), hold(60, expires_at_ms=T), seen(T, capture("c2", occurred_at_ms=T - 1)),
         result=Refusal.HOLD_EXPIRED, after=(100, 100)),
    case("it ends when its lot does", earn(100, expires_at_ms=T), hold(60, expires_at_ms=T), tick(T), result=None, after=(0, 100)),
    case("it ends after its lot", earn(100, expires_at_ms=T), hold(60, expires_at_ms=T + 1), tick(T + 1), result=None, after=(0, 100)),
    case("it ends before its lot", earn(100, expires_at_ms=T + 1), hold(60, expires_at_ms=T), tick(T), result=None, after=(100, 100)),
    case("a hold that comes after its own end", earn(100), seen(T, hold(60, expires_at_ms=T)), after=(100, 100), events=("BALANCE_CHANGED", "BALANCE_CHANGED")),
    case("it ends while suspended", earn(100), hold(60, expires_at_ms=T), suspend, tick(T), result=None, after=(100, 100)),
    case("a programme's minutes: before", earn(100), seen(T, hold(60)), tick(T + MINUTE_MS - 1), result=None, after=(40, 100), held=60, program=IMPATIENT),
    case("a programme's minutes: at the end", earn(100), seen(T, hold(60)), tick(T + MINUTE_MS), result=None, after=(100, 100), program=IMPATIENT),
    case("a hold's own end outweighs the programme's", earn(100), seen(T, hold(60, expires_at_ms=T + 9 * MINUTE_MS)), tick(T + MINUTE_MS), result=None,
         after=(40, 100), held=60, program=IMPATIENT),
    case("without either it has no end", earn(100), hold(60), tick(9_000 * DAY_MS), result=None, after=(40, 100), held=60),
    # Taking a capture back.
    case("reverse a capture", earn(100), hold(60), capture("c2"), reverse("c3"), after=(100, 100), lots={"c1": 100}),
    case("reverse a partial capture", earn(100), hold(60), capture("c2", 20), reverse("c3"), after=(100, 100)),
    case("reverse more than was captured", earn(100), hold(60), capture("c2", 20), reverse("c3", 21), result=Refusal.REVERSAL_TOO_LARGE, after=(80, 100)),
    case("reverse a capture twice", earn(100), hold(60), capture("c2"), reverse("c3"), reverse("c3"), result=Refusal.ALREADY_REVERSED, after=(100, 100)),
    case("reverse a hold", earn(100), hold(60), reverse("c2"), result=Refusal.TRANSACTION_NOT_REVERSIBLE, after=(40, 100), held=60),
    case("reverse a void", earn(100), hold(60), void("c2"), reverse("c3"), result=Refusal.TRANSACTION_NOT_REVERSIBLE, after=(100, 100)),
]  # fmt: skip
