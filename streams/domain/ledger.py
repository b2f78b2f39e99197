"""Transactions -> decisions: points are earned, redeemed, adjusted and taken back. Balances never fall below 0."""

from dataclasses import replace

from schemas.records import Account, CommandResult, EntryKind, MemberStatus, Outcome, Transaction, TransactionKind
from streams.domain.earning import ISSUED, earn
from streams.domain.facts import Decision, Fact, PointsMoved, Posting, VoucherIssued, applied, refused
from streams.domain.program import Program
from streams.domain.refusals import Refusal
from streams.domain.tiers import changes_of_tier
from streams.domain.vouchers import voucher_code

POINTS_LIMIT = 2**62
"""No balance goes above it. Half of what the contract's int64 holds: readers can add two balances without a care."""

REDEEMED = "redeemed"
ADJUSTED = "adjusted"
COUNTER_ACCOUNTS = {TransactionKind.EARN: ISSUED, TransactionKind.REDEEM: REDEEMED, TransactionKind.ADJUST: ADJUSTED}


def decide(account: Account, command: Transaction, *, original: Outcome | None, program: Program) -> Decision:
    """`original` is the outcome of the transaction that a REVERSE names, None if there is none; it is not looked at for other kinds."""
    match command.kind:
        case TransactionKind.EARN:
            return _earn(account, command, program)
        case TransactionKind.REDEEM:
            return _redeem(account, command, program)
        case TransactionKind.ADJUST:
            return _adjust(account, command, program)
        case TransactionKind.REVERSE:
            return _reverse(account, command, original, program)
        case TransactionKind.UNKNOWN:
            raise ValueError("a transaction of unknown kind breaks the contract and is not to reach the ledger")


def _earn(account: Account, command: Transaction, program: Program) -> Decision:
    postings = earn(account, command, program)
    if isinstance(postings, Refusal):
        return refused(postings)
    if not postings:
        return applied()
    gained = sum(posting.points_delta for posting in postings)
    return _move(account, program, PointsMoved(postings=postings, qualifying_delta=gained))


def _redeem(account: Account, command: Transaction, program: Program) -> Decision:
    points = _given(command)
    if account.status is MemberStatus.SUSPENDED:
        return refused(Refusal.ACCOUNT_SUSPENDED)
    if points > account.available_points:
        return refused(Refusal.INSUFFICIENT_POINTS)
    moved = _moved(EntryKind.REDEEM, -points, REDEEMED, "redeem")
    if not command.reward_code:
        return _move(account, program, moved)
    code = voucher_code(program.voucher_key, command.program_id, command.member_id, command.transaction_id)
    return _move(account, program, moved, VoucherIssued(reward_code=command.reward_code, voucher_code=code))


def _adjust(account: Account, command: Transaction, program: Program) -> Decision:
    points = _given(command)
    if account.available_points + points < 0:
        return refused(Refusal.INSUFFICIENT_POINTS)
    return _move(account, program, _moved(EntryKind.ADJUSTMENT, points, ADJUSTED, "adjust"))


def _reverse(account: Account, command: Transaction, original: Outcome | None, program: Program) -> Decision:
    if original is None:
        return refused(Refusal.TRANSACTION_NOT_FOUND)
    counter_account = COUNTER_ACCOUNTS.get(original.transaction_kind or TransactionKind.UNKNOWN)
    if counter_account is None or original.result is not CommandResult.APPLIED or original.points_delta == 0:
        return refused(Refusal.TRANSACTION_NOT_REVERSIBLE)
    left_points = abs(original.points_delta) - original.reversed_points
    asked_points = left_points if command.points is None else command.points
    if left_points <= 0:
        return refused(Refusal.ALREADY_REVERSED)
    if asked_points > left_points:
        return refused(Refusal.REVERSAL_TOO_LARGE)
    # Points that were spent meanwhile cannot be taken back. The rest is reported once and never asked for again.
    taken_back = original.points_delta > 0
    moved_points = min(asked_points, account.available_points) if taken_back else asked_points
    moved = replace(
        _moved(EntryKind.REVERSAL, -moved_points if taken_back else moved_points, counter_account, "reverse"),
        qualifying_delta=-asked_points if original.transaction_kind is TransactionKind.EARN else 0,
        shortfall_points=asked_points - moved_points,
    )
    settled = replace(original, reversed_points=original.reversed_points + asked_points)
    return _move(account, program, moved, original=settled)


def _given(command: Transaction) -> int:
    if command.points is None:
        raise ValueError(f"a {command.kind} without points breaks the contract and is not to reach the ledger")
    return command.points


def _moved(kind: EntryKind, points_delta: int, counter_account: str, rule_id: str) -> PointsMoved:
    if points_delta == 0:
        return PointsMoved(postings=())
    return PointsMoved(postings=(Posting(kind=kind, points_delta=points_delta, counter_account=counter_account, rule_id=rule_id),))


def _move(account: Account, program: Program, moved: PointsMoved, *more: Fact, original: Outcome | None = None) -> Decision:
    """The movement, what else comes with it, and the change of tier that follows. The caller has checked that the balance covers it."""
    qualifying_points = max(0, account.qualifying_points + moved.qualifying_delta)
    if account.available_points + moved.points_delta > POINTS_LIMIT or qualifying_points > POINTS_LIMIT:
        return refused(Refusal.POINTS_OVERFLOW)
    if qualifying_points == account.qualifying_points:
        return applied(moved, *more, original=original)
    changes = changes_of_tier(account, program, qualifying_points, may_demote=moved.qualifying_delta < 0)
    return applied(moved, *more, *changes, original=original)
