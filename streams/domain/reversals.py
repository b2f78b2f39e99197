"""Taking back: the reversal of an earn, the refund of a spend, the cancellation of a voucher.

The reversal of an earn asks, in this order, for what remains of its points, for what was spent of them (from the member's other points, by
the programme's policy), and for what is held (taken when the hold ends). What has expired is gone already, and not asked for again.

A refund gives the points back to the lots they came from, the last to expire first. A lot that has expired since lets them expire again,
or gives them days of grace; of a lot that was itself taken back they come as a lot of their own.
"""

from dataclasses import dataclass, field, replace

from schemas.records import CommandResult, EntryKind, Lot, LotPart, Outcome, Transaction, TransactionKind, Voucher, VoucherState
from streams.domain import tiers, vouchers
from streams.domain.book import Book
from streams.domain.facts import ADJUSTED, ISSUED, REDEEMED
from streams.domain.lots import POINTS_LIMIT, Movement, total_points
from streams.domain.program import ReversalPolicy
from streams.domain.refusals import Refusal

SPENDING = {TransactionKind.REDEEM, TransactionKind.CAPTURE}


@dataclass(slots=True)
class Effect:
    """What is to be remembered of a transaction, beside its answer."""

    points_delta: int = 0
    parts: list[LotPart] = field(default_factory=list)
    counter_account: str | None = None


def reverse(book: Book, command: Transaction, about: Effect) -> Refusal | None:
    original_id = command.reverses_transaction_id or ""
    original = book.outcome(original_id)
    if original is None:
        return Refusal.TRANSACTION_NOT_FOUND
    if original.transaction_kind not in (TransactionKind.EARN, TransactionKind.ADJUST, *SPENDING) or original.result is not CommandResult.APPLIED:
        return Refusal.TRANSACTION_NOT_REVERSIBLE
    if not original.parts and original.points_delta < 0:  # Remembered before lots were.
        original = replace(original, parts=(LotPart(lot_id="", points=-original.points_delta, expires_at_ms=None),))
    lot = next((lot for lot in book.account.lots if lot.lot_id == original_id), original.lot)
    # An earn may be pending, or have paid a debt: what it brought is in its lot.
    total = sum(part.points for part in original.parts) or (lot.points if lot is not None else abs(original.points_delta))
    if not total:
        return Refusal.TRANSACTION_NOT_REVERSIBLE
    voucher = _voucher_of(book, original_id, original)
    if voucher is not None and voucher.state is VoucherState.REDEEMED:
        return Refusal.VOUCHER_ALREADY_REDEEMED
    left = total - original.reversed_points
    asked = left if command.points is None else command.points
    if left <= 0:
        return Refusal.ALREADY_REVERSED
    if asked > left:
        return Refusal.REVERSAL_TOO_LARGE
    if original.parts:
        if total_points(book.account) + asked > POINTS_LIMIT:
            return Refusal.POINTS_OVERFLOW
        _refund(book, command.transaction_id, original_id, original, asked, about)
        if voucher is not None and voucher.state is VoucherState.ISSUED:
            if asked == left:
                vouchers.close(book, voucher, VoucherState.CANCELLED)
            else:  # Its row must not promise more than is left, for it may outlive what is remembered of the redemption.
                book.store_voucher(replace(voucher, points=voucher.points - asked))
        return None
    _take_back(book, original_id, original, lot, asked, about)
    return None


def _voucher_of(book: Book, original_id: str, original: Outcome) -> Voucher | None:
    """The voucher that the transaction bought; not one that a tier gave because of it."""
    voucher = book.voucher(original.voucher_code) if original.voucher_code else None
    return voucher if voucher is not None and voucher.issued_by == original_id else None


def _take_back(book: Book, original_id: str, original: Outcome, lot: Lot | None, asked: int, about: Effect) -> None:
    """An earn, or an adjustment upwards."""
    policy = book.program.reversal if original.transaction_kind is TransactionKind.EARN else ReversalPolicy.WITHIN_BALANCE
    counter = ISSUED if original.transaction_kind is TransactionKind.EARN else ADJUSTED
    # Counted first: the event of a movement tells all numbers as they are after it.
    reach_before = tiers.reach(book)
    if original.transaction_kind is TransactionKind.EARN:
        tiers.count(book, -asked, lot.earned_at_ms if lot is not None else book.now_ms)
    moved = Movement(book, counter)
    if lot is None:
        moved.recover(asked, policy, "reverse")
    else:
        moved.claw(original_id, asked, policy)
    about.points_delta = moved.commit(EntryKind.REVERSAL, always=True)
    about.counter_account = counter
    _note_reversed(book, original_id, original, asked)
    tiers.demote_after_reversal(book, reach_before)


def _refund(book: Book, command_id: str, original_id: str, original: Outcome, asked: int, about: Effect) -> None:
    """Points that were spent come back."""
    counter = original.counter_account or REDEEMED
    moved = Movement(book, counter)
    moved.restore(_due_back(original, asked), command_id)
    about.points_delta = moved.commit(EntryKind.REFUND)
    about.counter_account = counter
    _note_reversed(book, original_id, original, asked)


def _note_reversed(book: Book, original_id: str, original: Outcome, asked: int) -> None:
    """So that nothing is given or taken back twice. Read again: the movement may have closed or opened the lot."""
    original = book.outcome(original_id) or original
    book.remember(original_id, replace(original, reversed_points=original.reversed_points + asked))


def _due_back(original: Outcome, asked: int) -> list[LotPart]:
    """Which parts a refund gives back: the last to expire first, and none that an earlier refund gave back."""
    skip, due = original.reversed_points, []
    for part in reversed(original.parts):
        left = part.points - min(skip, part.points)
        skip -= part.points - left
        mine = min(asked, left)
        asked -= mine
        if mine:
            due.append(replace(part, points=mine))
    return due


def cancel_voucher(book: Book, command: Transaction, about: Effect) -> Refusal | None:
    """CANCEL_VOUCHER: it is void, and what is left of its price comes back, once."""
    voucher = book.voucher(command.voucher_code or "")
    if voucher is None:
        return Refusal.VOUCHER_NOT_FOUND
    refusal = vouchers.refusal_of(voucher)
    if refusal is not None:
        return refusal
    original = book.outcome(voucher.issued_by)
    if original is not None:
        left = sum(part.points for part in original.parts) - original.reversed_points
    else:
        # Bought longer ago than answers are remembered, or given by an offer or a tier: its own row knows the price.
        left = voucher.points
    if total_points(book.account) + left > POINTS_LIMIT:
        return Refusal.POINTS_OVERFLOW
    if original is not None and left > 0:
        _refund(book, command.transaction_id, voucher.issued_by, original, left, about)
    elif left > 0:
        moved = Movement(book, REDEEMED)
        moved.restore([LotPart(lot_id="", points=left, expires_at_ms=None)], command.transaction_id)
        about.points_delta = moved.commit(EntryKind.REFUND)
    vouchers.close(book, voucher, VoucherState.CANCELLED)
    return None
