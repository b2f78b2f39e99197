"""What one member sees of merges, erasure, pools, transfers and scheduled statuses. (Both halves: test_membership.py.)"""

from schemas.records import MemberOperationKind
from streams.domain.refusals import Refusal
from tests.domain.casework import ACTIVE, LEFT, SUPERSEDED, SUSPENDED, case, reactivate, seen, suspend, tick
from tests.domain.shell import activate, adjust, capture, change, earn, enrol, hold, make_available, operate, redeem, reverse, transfer, void

MERGE, ERASE = operate(MemberOperationKind.MERGE, target_member_id="m-2"), operate(MemberOperationKind.ERASE)
JOIN, LEAVE = operate(MemberOperationKind.JOIN_POOL, target_member_id="m-2"), operate(MemberOperationKind.LEAVE_POOL)
T = 20_000
leave = change(status=LEFT)
LATER = change(status=SUSPENDED, status_reason="leaves", status_from_ms=T)

CASES = [
    # The other member is the member itself.
    case("merged into itself", operate(MemberOperationKind.MERGE, target_member_id="m-1"), result=Refusal.SAME_MEMBER, after=(0, 0)),
    case("its own pool", operate(MemberOperationKind.JOIN_POOL, target_member_id="m-1"), result=Refusal.SAME_MEMBER, after=(0, 0)),
    case("transfer to itself", earn(9), transfer(1, "m-1"), result=Refusal.SAME_MEMBER, after=(9, 9)),
    case("suspended comes before the same member", earn(9), suspend, transfer(1, "m-1"), result=Refusal.ACCOUNT_SUSPENDED, after=(9, 9)),
    # Transfers.
    case("transfer all", earn(9), transfer(9, "m-2"), after=(0, 9)),
    case("transfer one more", earn(9), transfer(10, "m-2"), result=Refusal.INSUFFICIENT_POINTS, after=(9, 9)),
    case("transfer while suspended", earn(9), suspend, transfer(1, "m-2"), result=Refusal.ACCOUNT_SUSPENDED, after=(9, 9)),
    case("held points are not transferred", earn(9), hold(5), transfer(5, "m-2"), result=Refusal.INSUFFICIENT_POINTS, after=(4, 9), held=5),
    # Merging.
    case("merged: everything is on its way", earn(1_000), MERGE, after=(0, 0, "silver"), events=("BALANCE_CHANGED", "MEMBER_MERGED")),
    case("merged with nothing", MERGE, after=(0, 0), events=("MEMBER_MERGED",)),
    case("merged while a hold is open", earn(9), hold(1), MERGE, result=Refusal.HOLDS_OPEN, after=(8, 9), held=1),
    case("merged when it is voided", earn(9), hold(1), void("c2"), MERGE, after=(0, 0)),
    case("merged when it is captured", earn(9), hold(1), capture("c2"), MERGE, after=(0, 0)),
    case("merged when its time is over", earn(9), hold(1, expires_at_ms=T), seen(T, MERGE), after=(0, 0)),
    case("merged while suspended", earn(9), suspend, MERGE, after=(0, 0)),
    case("pending points go along", earn(9, pending=True), MERGE, after=(0, 0)),
    case("commands then are not decided here", earn(9), MERGE, redeem(1), result=None, after=(0, 0), events=()),
    case("nor is a second merge", earn(9), MERGE, MERGE, result=None, after=(0, 0), events=()),
    case("an enrolment is", MERGE, enrol(), result=Refusal.MEMBER_ALREADY_ENROLLED, after=(0, 0)),
    case("and so is the erasure", MERGE, ERASE, after=(0, 0), events=("MEMBER_ERASED",)),
    case("nothing is due any more", earn(9, expires_at_ms=T), MERGE, tick(T), result=None, after=(0, 0), events=()),
    # Erasure.
    case("erased: points stay", earn(9), ERASE, after=(9, 9), events=("MEMBER_ERASED",)),
    case("until they expire", earn(9, expires_at_ms=T), ERASE, tick(T), result=None, after=(0, 9), events=("BALANCE_CHANGED",)),
    case("a hold ends by itself", earn(9), hold(9, expires_at_ms=T), ERASE, tick(T), result=None, after=(9, 9)),
    *[
        case(f"erased: no {name}", earn(9, transaction_id="e"), hold(1, transaction_id="h"), ERASE, command, result=Refusal.MEMBER_ERASED, after=(8, 9), held=1)
        for name, command in {
            "earn": earn(1), "redemption": redeem(1), "adjustment": adjust(1), "reversal": reverse("e"), "capture": capture("h"), "void": void("h"),
            "transfer": transfer(1, "m-2"), "profile": change(segments=()), "suspension": suspend, "offer": activate("double"), "merge": MERGE,
            "pool": JOIN, "erasure": ERASE, "enrolment": enrol(),
        }.items()
    ],
    case("erased comes before everything else", ERASE, activate("nonsense"), result=Refusal.MEMBER_ERASED, after=(0, 0)),
    # Pools.
    case("what a member of a pool earns goes on", JOIN, earn(9), after=(0, 9), events=("BALANCE_CHANGED", "BALANCE_CHANGED")),
    case("what it had stays", earn(5), JOIN, earn(9), after=(5, 14)),
    case("adjustments stay", JOIN, adjust(9), after=(9, 0)),
    case("pending points stay until they are available", JOIN, earn(9, available_from_ms=T), after=(0, 9), pending=9),
    case("and go on then", JOIN, earn(9, available_from_ms=T), tick(T), result=None, after=(0, 9), events=("BALANCE_CHANGED", "BALANCE_CHANGED")),
    case("who left keeps it", JOIN, LEAVE, earn(9), after=(9, 9)),
    case("joined twice", JOIN, JOIN, after=(0, 0), events=()),
    case("left what was not joined", LEAVE, after=(0, 0), events=()),
    case("joined another", JOIN, operate(MemberOperationKind.JOIN_POOL, target_member_id="m-3"), after=(0, 0), events=("POOL_CHANGED",)),
    case("a reversal when the points are gone", JOIN, earn(9), reverse("c2"), after=(0, 0), shortfall=9),
    # Statuses that are scheduled.
    case("scheduled", LATER, after=(0, 0), events=("STATUS_SCHEDULED",)),
    case("just before", earn(9), LATER, seen(T - 1, redeem(1)), after=(8, 9)),
    case("at the instant", earn(9), LATER, seen(T, redeem(1)), result=Refusal.ACCOUNT_SUSPENDED, after=(9, 9)),
    case("a tick just before", LATER, tick(T - 1), result=None, after=(0, 0), events=()),
    case("a tick at the instant", LATER, tick(T), result=None, after=(0, 0), events=("ACCOUNT_SUSPENDED",)),
    case("once", LATER, tick(T), tick(T + 1), result=None, after=(0, 0), events=()),
    case("a time that is over: at once", seen(T, LATER), after=(0, 0), events=("ACCOUNT_SUSPENDED",)),
    case("a time that is near: later", seen(T - 1, LATER), after=(0, 0), events=("STATUS_SCHEDULED",)),
    case("a newer word calls it off", earn(9), LATER, change(status=ACTIVE), seen(T, redeem(1)), after=(8, 9)),
    case("a newer time replaces it", earn(9), LATER, change(status=SUSPENDED, status_from_ms=T + 1), seen(T, redeem(1)), after=(8, 9)),
    case("and comes", earn(9), LATER, change(status=SUSPENDED, status_from_ms=T + 1), seen(T + 1, redeem(1)), result=Refusal.ACCOUNT_SUSPENDED, after=(9, 9)),
    case("an older version calls nothing off", change(status=SUSPENDED, status_from_ms=T, source_version=5),
         change(status=ACTIVE, source_version=4), result=SUPERSEDED, after=(0, 0)),
    case("it comes all the same", earn(9), change(status=SUSPENDED, status_from_ms=T, source_version=5), change(status=ACTIVE, source_version=4),
         seen(T, redeem(1)), result=Refusal.ACCOUNT_SUSPENDED, after=(9, 9)),
    case("a reactivation that is scheduled", earn(9), suspend, change(status=ACTIVE, status_from_ms=T), seen(T, redeem(1)), after=(8, 9)),
    case("not before its time", earn(9), suspend, change(status=ACTIVE, status_from_ms=T), seen(T - 1, redeem(1)), result=Refusal.ACCOUNT_SUSPENDED,
         after=(9, 9)),
    case("what holds already", suspend, LATER, tick(T), result=None, after=(0, 0)),
    # Leaving, and what is parked meanwhile (the whole matrix: test_suspension.py).
    case("who left redeems nothing", earn(9), leave, redeem(1), result=Refusal.MEMBERSHIP_ENDED, after=(9, 9)),
    case("left comes before the same member", earn(9), leave, transfer(1, "m-1"), result=Refusal.MEMBERSHIP_ENDED, after=(9, 9)),
    case("what comes after leaving is parked", leave, earn(9), after=(0, 9), pending=9),
    case("until the member is back", leave, earn(9), reactivate, after=(9, 9)),
    case("or enrols again", leave, earn(9), enrol(), after=(9, 9), events=("ACCOUNT_REACTIVATED", "BALANCE_CHANGED")),
    case("parked points are not for the asking", suspend, earn(9, transaction_id="e"), make_available("e"), result=Refusal.ACCOUNT_SUSPENDED,
         after=(0, 9), pending=9),
    case("available when a scheduled reactivation comes", suspend, earn(9), change(status=ACTIVE, status_from_ms=T), tick(T), result=None, after=(9, 9)),
    case("one version: what allows less counts", change(status=SUSPENDED, source_version=5), change(status=ACTIVE, source_version=5), result=SUPERSEDED,
         after=(0, 0)),
    case("in either order", earn(9), change(status=ACTIVE, source_version=5), change(status=LEFT, source_version=5), redeem(1),
         result=Refusal.MEMBERSHIP_ENDED, after=(9, 9)),
    case("an erasure calls it off", LATER, ERASE, tick(T), result=None, after=(0, 0), events=()),
]  # fmt: skip
