"""Taking back: the three policies in every situation, debts, and refunds to the lots the points came from."""

from dataclasses import replace

from schemas.contract import Command
from streams.domain.program import RefundOfExpired, ReversalPolicy
from streams.domain.refusals import Refusal
from tests.domain.casework import CONFLICT, DAY_MS, Case, Step, case, on, seen, suspend, tick
from tests.domain.shell import PROGRAM, adjust, capture, earn, hold, redeem, reverse, transfer, void

T = 20_000
WITHIN = PROGRAM
ONLY_PENDING = replace(PROGRAM, reversal=ReversalPolicy.ONLY_PENDING)
UNLIMITED = replace(PROGRAM, reversal=ReversalPolicy.UNLIMITED)
GRACE = replace(PROGRAM, refund_of_expired=RefundOfExpired.GRACE, refund_grace_days=2)

# Situation -> its steps, which begin with an earn of 100 points as c1, and the qualifying points after the reversal of c1; then for each
# policy: available, held and debt after it, and the shortfall.
Numbers = tuple[int, int, int, int]
SITUATIONS: dict[str, tuple[tuple[Command | Step, ...], int, Numbers, Numbers, Numbers]] = {
    # steps, qualifying points, and the numbers under only_pending, within_balance, unlimited
    "unspent": ((earn(100), reverse("c1")), 0, (100, 0, 0, 100), (0, 0, 0, 0), (0, 0, 0, 0)),
    "unspent, other points": ((earn(100), earn(7), reverse("c1")), 7, (107, 0, 0, 100), (7, 0, 0, 0), (7, 0, 0, 0)),
    "partly spent": ((earn(100), redeem(60), reverse("c1")), 0, (40, 0, 0, 100), (0, 0, 0, 60), (0, 0, 60, 0)),
    "partly spent, other points": ((earn(100, expires_at_ms=T), earn(50), redeem(60), reverse("c1")), 50, (90, 0, 0, 100), (0, 0, 0, 10), (0, 0, 10, 0)),
    "partly spent, enough others": ((earn(100, expires_at_ms=T), earn(70), redeem(60), reverse("c1")), 70, (110, 0, 0, 100), (10, 0, 0, 0), (10, 0, 0, 0)),
    "wholly spent": ((earn(100), redeem(100), reverse("c1")), 0, (0, 0, 0, 100), (0, 0, 0, 100), (0, 0, 100, 0)),
    "wholly spent, other points": ((earn(100, expires_at_ms=T), earn(50), redeem(100), reverse("c1")), 50, (50, 0, 0, 100), (0, 0, 0, 50), (0, 0, 50, 0)),
    "wholly spent, exactly as many others": ((earn(100), redeem(100), earn(100), reverse("c1")), 100, (100, 0, 0, 100), (0, 0, 0, 0), (0, 0, 0, 0)),
    "adjusted away": ((earn(100), adjust(-60), reverse("c1")), 0, (40, 0, 0, 100), (0, 0, 0, 60), (0, 0, 60, 0)),
    "given away": ((earn(100), transfer(60, "m-2"), reverse("c1")), 0, (40, 0, 0, 100), (0, 0, 0, 60), (0, 0, 60, 0)),
    "held": ((earn(100), hold(60), reverse("c1")), 0, (40, 60, 0, 100), (0, 60, 0, 0), (0, 60, 0, 0)),
    "wholly held": ((earn(100), hold(100), reverse("c1")), 0, (0, 100, 0, 100), (0, 100, 0, 0), (0, 100, 0, 0)),
    "held and spent": ((earn(100), hold(60), redeem(40), reverse("c1")), 0, (0, 60, 0, 100), (0, 60, 0, 40), (0, 60, 40, 0)),
    "captured": ((earn(100), hold(60), capture("c2"), reverse("c1")), 0, (40, 0, 0, 100), (0, 0, 0, 60), (0, 0, 60, 0)),
    "expired": ((earn(100, expires_at_ms=T), tick(T), reverse("c1")), 0, (0, 0, 0, 0), (0, 0, 0, 0), (0, 0, 0, 0)),
    "expired, other points": ((earn(100, expires_at_ms=T), earn(30), tick(T), reverse("c1")), 30, (30, 0, 0, 0), (30, 0, 0, 0), (30, 0, 0, 0)),
    "expires at the instant of the reversal": ((earn(100, expires_at_ms=T), earn(30), seen(T, reverse("c1"))), 30, (30, 0, 0, 0), (30, 0, 0, 0), (30, 0, 0, 0)),
    "spent and expired": ((earn(100, expires_at_ms=T), redeem(60), tick(T), reverse("c1")), 0, (0, 0, 0, 60), (0, 0, 0, 60), (0, 0, 60, 0)),
    "spent and expired, others": ((earn(100, expires_at_ms=T), earn(30), redeem(60), seen(T, reverse("c1"))), 30, (30, 0, 0, 60), (0, 0, 0, 30), (0, 0, 30, 0)),
    "a part of what was spent": ((earn(100), redeem(60), reverse("c1", 30)), 70, (40, 0, 0, 30), (10, 0, 0, 0), (10, 0, 0, 0)),
    "a part and the rest": ((earn(100), redeem(60), reverse("c1", 30), reverse("c1")), 0, (40, 0, 0, 70), (0, 0, 0, 60), (0, 0, 60, 0)),
    "refunded before": ((earn(100), redeem(60), reverse("c2"), reverse("c1")), 0, (100, 0, 0, 100), (0, 0, 0, 0), (0, 0, 0, 0)),
}  # fmt: skip


def matrix() -> list[Case]:
    cases = []
    for name, (steps, qualifying, *numbers) in SITUATIONS.items():
        for program, (available, held, debt, shortfall) in zip((ONLY_PENDING, WITHIN, UNLIMITED), numbers, strict=True):
            policy = program.reversal.value
            cases.append(case(f"{policy}: {name}", *steps, after=(available, qualifying), held=held, debt=debt, shortfall=shortfall, program=program))
    return cases


REVERSED_WHILE_HELD = (earn(100), hold(60), reverse("c1"))
"""40 are taken at once, 60 when the hold ends."""
OWES_60 = (earn(60), redeem(60), reverse("c1"))
"""60 points are owed after it, under UNLIMITED."""
TWO_LOTS = (earn(10, expires_at_ms=T + 9), earn(10, expires_at_ms=T), redeem(15))
"""c3 took 10 of c2 and 5 of c1."""

CASES = [
    *matrix(),
    # Held points are never a debt before it is known what becomes of them (the rule that a first model got wrong).
    case("an earn after it owes nothing", *REVERSED_WHILE_HELD, earn(50), after=(50, 50), held=60, program=UNLIMITED),
    case("voided then: the held points are taken, the new ones stay", *REVERSED_WHILE_HELD, earn(50), void("c2"), after=(50, 50), program=UNLIMITED),
    case("captured then: others are taken, and the rest is owed", *REVERSED_WHILE_HELD, earn(50), capture("c2"), after=(0, 50), debt=10,
         program=UNLIMITED),
    case("captured in part: 20 of others, 40 of the hold", *REVERSED_WHILE_HELD, earn(50), capture("c2", 20), after=(30, 50), program=UNLIMITED),
    case("captured, and there are no others", *REVERSED_WHILE_HELD, capture("c2"), after=(0, 0), debt=60, program=UNLIMITED),
    case("captured within the balance", *REVERSED_WHILE_HELD, earn(50), capture("c2"), after=(0, 50), shortfall=10),
    case("voided within the balance", *REVERSED_WHILE_HELD, earn(50), void("c2"), after=(50, 50)),
    case("voided under only_pending: they stay", *REVERSED_WHILE_HELD, void("c2"), after=(100, 0), program=ONLY_PENDING),
    case("captured under only_pending", *REVERSED_WHILE_HELD, capture("c2"), after=(40, 0), program=ONLY_PENDING),
    case("the hold's time ends it", earn(100), hold(60, expires_at_ms=T), reverse("c1"), tick(T), result=None, after=(0, 0), program=UNLIMITED),
    case(
        "a hold over two lots, one of which was reversed",
        earn(100, expires_at_ms=T), earn(50), hold(120), reverse("c1"), void("c3"), after=(50, 50), program=UNLIMITED,
    ),
    case(
        "a hold over two lots, captured",
        earn(100, expires_at_ms=T), earn(50), hold(120), reverse("c1"), capture("c3"), after=(0, 50), debt=70, program=UNLIMITED,
    ),
    case("two holds of a reversed lot: one voided", earn(100), hold(60), hold(40), reverse("c1"), void("c2"), after=(0, 0), held=40, program=UNLIMITED),
    case("two holds of a reversed lot: both ended", earn(100), hold(60), hold(40), reverse("c1"), void("c2"), capture("c3"), after=(0, 0), debt=40,
         program=UNLIMITED),
    case("two holds of a reversed lot: one captured", earn(100), hold(60), hold(40), reverse("c1"), capture("c2"), after=(0, 0), held=40, debt=60,
         program=UNLIMITED),
    case("a part reversed while held: taken from what is free", earn(100), hold(60), reverse("c1", 40), void("c2"), after=(60, 60), program=UNLIMITED),
    case("the lot has expired when the hold ends", earn(100, expires_at_ms=T), hold(60), reverse("c1"), seen(T, void("c2")), after=(0, 0), program=UNLIMITED),
    case("reversed twice while held", *REVERSED_WHILE_HELD, reverse("c1"), result=Refusal.ALREADY_REVERSED, after=(0, 0), held=60, program=UNLIMITED),
    case("the capture of a reversed lot refunded: it pays the debt", *REVERSED_WHILE_HELD, capture("c2"), reverse("c4"), after=(0, 0), program=UNLIMITED),
    # Debts.
    case("less than the debt", *OWES_60, earn(59), after=(0, 59), debt=1, program=UNLIMITED),
    case("exactly the debt", *OWES_60, earn(60), after=(0, 60), program=UNLIMITED, lots={}),
    case("more than the debt", *OWES_60, earn(61), after=(1, 61), program=UNLIMITED, lots={"c4": 1}),
    case("in two earns", *OWES_60, earn(59), earn(2), after=(1, 61), program=UNLIMITED, lots={"c5": 1}),
    case("an adjustment pays it as well", *OWES_60, adjust(100), after=(40, 0), program=UNLIMITED),
    case("nothing can be redeemed while owing", *OWES_60, redeem(1), result=Refusal.INSUFFICIENT_POINTS, after=(0, 0), debt=60, program=UNLIMITED),
    case("nothing can be adjusted away while owing", *OWES_60, adjust(-1), result=Refusal.INSUFFICIENT_POINTS, after=(0, 0), debt=60, program=UNLIMITED),
    case("a refund pays it", *OWES_60, reverse("c2"), after=(0, 0), program=UNLIMITED, lots={}),
    case("a part of a refund pays a part of it", *OWES_60, reverse("c2", 20), after=(0, 0), debt=40, program=UNLIMITED),
    case("what was paid before comes back as a lot of its own", *OWES_60, earn(20), reverse("c2"), after=(20, 20), program=UNLIMITED),
    case("reverse the earn that paid it", *OWES_60, earn(100), reverse("c4"), after=(0, 0), debt=60, program=UNLIMITED),
    case("reverse a part of it: what remains goes first", *OWES_60, earn(100), reverse("c4", 50), after=(0, 50), debt=10, program=UNLIMITED),
    case("what has come too late for its own expiry pays nothing", *OWES_60, seen(T, earn(100, expires_at_ms=T)), after=(0, 100), debt=60, program=UNLIMITED),
    case("a void pays it", earn(100), hold(40), redeem(60), adjust(60), redeem(60), reverse("c4"), void("c2"), after=(40, 100), program=UNLIMITED),
    case("an adjustment's reversal makes no debt", adjust(50), redeem(50), reverse("c1"), after=(0, 0), shortfall=50, program=UNLIMITED),
    case("an adjustment's reversal within the balance", adjust(50), redeem(20), reverse("c1"), after=(0, 0), shortfall=20, program=UNLIMITED),
    case("only_pending is about earns", adjust(50), reverse("c1"), after=(0, 0), program=ONLY_PENDING),
    # Refunds go where the points came from, the last to expire first.
    case("a refund to its lot", earn(100, expires_at_ms=T), redeem(60), reverse("c2"), after=(100, 100), lots={"c1": 100}),
    case("a refund to a lot that was used up", earn(100, expires_at_ms=T), redeem(100), reverse("c2"), after=(100, 100), lots={"c1": 100}),
    case("it expires when the lot does", earn(100, expires_at_ms=T), redeem(100), reverse("c2"), tick(T), result=None, after=(0, 100)),
    case("the last to expire first", *TWO_LOTS, reverse("c3", 5), after=(10, 20), lots={"c1": 10}),
    case("then the others", *TWO_LOTS, reverse("c3", 6), after=(11, 20), lots={"c1": 10, "c2": 1}),
    case("in two steps", *TWO_LOTS, reverse("c3", 3), reverse("c3", 4), after=(12, 20), lots={"c1": 10, "c2": 2}),
    case("in two steps, the rest", *TWO_LOTS, reverse("c3", 7), reverse("c3"), after=(20, 20), lots={"c1": 10, "c2": 10}),
    case("in two steps over three lots", earn(5, expires_at_ms=T + 2), earn(10, expires_at_ms=T + 1), earn(5, expires_at_ms=T), redeem(20),
         reverse("c4", 3), reverse("c4", 13), after=(16, 20), lots={"c1": 5, "c2": 10, "c3": 1}),
    case("in two steps, one more", *TWO_LOTS, reverse("c3", 7), reverse("c3", 9), result=Refusal.REVERSAL_TOO_LARGE, after=(12, 20)),
    case("a third step", *TWO_LOTS, reverse("c3", 7), reverse("c3"), reverse("c3", 1), result=Refusal.ALREADY_REVERSED, after=(20, 20)),
    case("a refund just before the lot expires", earn(100, expires_at_ms=T), redeem(60), seen(T - 1, reverse("c2")), after=(100, 100)),
    case("a refund at the instant: it expires again", earn(100, expires_at_ms=T), redeem(60), seen(T, reverse("c2")), after=(0, 100)),
    case("a refund after it: it expires again", earn(100, expires_at_ms=T), redeem(60), tick(T), seen(T + 1, reverse("c2")), after=(0, 100)),
    case("only the expired part expires again", *TWO_LOTS, seen(T, reverse("c3")), after=(10, 20), lots={"c1": 10}),
    case("with grace just before the lot expires: none is needed", earn(9, expires_at_ms=T), redeem(9), seen(T - 1, reverse("c2")), after=(9, 9),
         lots={"c1": 9}, program=GRACE),
    case("with grace at the instant", earn(100, expires_at_ms=T), redeem(60), seen(T, reverse("c2")), after=(60, 100), program=GRACE),
    case("the grace's last millisecond", earn(100, expires_at_ms=T), redeem(60), seen(T, reverse("c2")), tick(T + 2 * DAY_MS - 1), result=None,
         after=(60, 100), program=GRACE),
    case("the grace's end", earn(100, expires_at_ms=T), redeem(60), seen(T, reverse("c2")), tick(T + 2 * DAY_MS), result=None, after=(0, 100), program=GRACE),
    case("a refund of points that a reversal asked for in vain: nobody keeps both", earn(100), redeem(60), reverse("c1"), reverse("c2"), after=(0, 0),
         lots={}),
    case("a part of it", earn(100), redeem(60), reverse("c1"), reverse("c2", 20), after=(0, 0)),
    case("what was found elsewhere comes back", earn(100), redeem(60), earn(50), reverse("c1"), reverse("c2"), after=(50, 50)),
    case("what comes back after that is the member's", earn(100), redeem(60), reverse("c1"), reverse("c2"), earn(7), redeem(7), reverse("c6"),
         after=(7, 7)),
    case("only_pending asks for nothing later", earn(100), redeem(60), reverse("c1"), reverse("c2"), after=(100, 0), program=ONLY_PENDING),
    case("a refund of a reversed lot's points", earn(100), redeem(60), earn(60), reverse("c1"), reverse("c2"), after=(60, 60)),
    case("it keeps the lot's expiry", earn(100, expires_at_ms=T), redeem(60), earn(60), reverse("c1"), reverse("c2"), tick(T), result=None,
         after=(0, 60)),
    case("until then it can be spent", earn(100, expires_at_ms=T), redeem(60), earn(60), reverse("c1"), reverse("c2"), seen(T - 1, redeem(60)),
         after=(0, 60)),
    case("captured points that were asked for in vain", earn(100), hold(60), reverse("c1"), capture("c2"), reverse("c4"), after=(0, 0)),
    case("an adjustment downwards goes back to its lot", earn(100), adjust(-60), reverse("c2"), after=(100, 100), lots={"c1": 100}),
    case("a refund while suspended", earn(100), redeem(60), suspend, reverse("c2"), after=(100, 100)),
    case("a transfer cannot be reversed", earn(100), transfer(60, "m-2"), reverse("c2"), result=Refusal.TRANSACTION_NOT_REVERSIBLE, after=(40, 100)),
    # The window of ids: 90 days here.
    case("reversible to the last millisecond", on(T, earn(9)), seen(T + 90 * DAY_MS - 1, reverse("c1")), after=(0, 0)),
    case("and not a moment longer", on(T, earn(9)), seen(T + 90 * DAY_MS, reverse("c1")), result=Refusal.TRANSACTION_NOT_FOUND, after=(9, 9)),
    case("a refund to a lot that is forgotten", on(T, earn(9)), on(T + DAY_MS, redeem(9)), seen(T + 90 * DAY_MS, reverse("c2")), after=(9, 9)),
    case("an id is new again after the window", on(T, earn(9, transaction_id="x")), redeem(9), seen(T + 90 * DAY_MS, earn(9, transaction_id="x")),
         after=(9, 18)),
    case("but not a millisecond earlier", on(T, earn(9, transaction_id="x")), redeem(9), seen(T + 90 * DAY_MS - 1, earn(9, transaction_id="x")),
         after=(0, 9), events=()),
    case("nor while its points are there", on(T, earn(9, transaction_id="x")), seen(T + 90 * DAY_MS, earn(9, transaction_id="x")), result=CONFLICT,
         after=(9, 9)),
]  # fmt: skip
