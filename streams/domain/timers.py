"""What happens by itself when its time comes: points activate and expire, holds end, vouchers expire, statuses and tiers change.

Time is the log's: it stands still between records. A member is brought up to it before a record of theirs is decided, and by ticks when
nothing else happens to them; either way everything happens in the order and with the effective time of its due instant, so that neither
the number of ticks nor their delay shows in a ledger.
"""

from schemas.records import Account, EntryKind, Lot, ProfileOperation, VoucherState
from streams.domain import ledger, tiers, vouchers
from streams.domain.book import Book
from streams.domain.facts import ProfileVersioned, StatusChanged
from streams.domain.lots import Movement


def next_due_ms(account: Account) -> int | None:
    """The first instant at which something happens to the member by itself."""
    due: int | None = None
    for lot in account.lots:
        if lot.remaining:
            if lot.expires_at_ms is not None and (due is None or lot.expires_at_ms < due):
                due = lot.expires_at_ms
            if lot.pending and lot.available_from_ms is not None and (due is None or lot.available_from_ms < due):
                due = lot.available_from_ms
    ends = [hold.expires_at_ms for hold in account.holds] + [voucher.expires_at_ms for voucher in account.vouchers]
    for at_ms in (*ends, account.scheduled_at_ms, account.tier_valid_until_ms):
        if at_ms is not None and (due is None or at_ms < due):
            due = at_ms
    return due


def advance(book: Book) -> None:
    """Let everything happen that is due until now, by itself; then the book is the record's again. Quick when nothing is: an account never
    stands in the table of due times under a later instant than its first one."""
    indexed_ms = book.account.due_at_ms
    if indexed_ms is not None and indexed_ms <= book.now_ms:
        catch_up(book)


def catch_up(book: Book) -> None:
    """Let everything happen that is due until the book's time."""
    now_ms = book.now_ms
    cause, command = book.cause, book.command
    while (due_ms := next_due_ms(book.account)) is not None and due_ms <= now_ms:
        # What was due before it was known (a late earn whose points have expired) happens at once, not before what has happened. Points move
        # with the effective time at which they were due all the same: what came in late for its period leaves in its period.
        at_ms = max(due_ms, book.account.clock_ms)
        book.by_clock(at_ms)
        tiers.roll(book)
        _happen(book, due_ms, at_ms)
        book.touch(clock_ms=at_ms)
    book.resume(cause, command, now_ms)


def _happen(book: Book, due_ms: int, at_ms: int) -> None:
    account = book.account
    if account.scheduled_at_ms is not None and account.scheduled_at_ms <= at_ms and account.scheduled_status is not None:
        status, reason = account.scheduled_status, account.scheduled_reason
        if status is account.status:  # Somebody was quicker.
            book.touch(scheduled_status=None, scheduled_at_ms=None, scheduled_reason=None)
        else:
            book.record(StatusChanged(status=status, reason=reason))
            ledger.unpark(book)
            book.record(ProfileVersioned(operation=ProfileOperation.CHANGE, changed=("status",)))
    _move(book, due_ms, at_ms)
    book.dated(at_ms)
    for opened in book.account.vouchers:
        if opened.expires_at_ms is not None and opened.expires_at_ms <= at_ms:
            voucher = book.voucher(opened.voucher_code)
            assert voucher is not None, "an open voucher has a row"
            vouchers.close(book, voucher, VoucherState.EXPIRED)
    account = book.account
    if account.tier_valid_until_ms is not None and account.tier_valid_until_ms <= at_ms:
        tiers.end_period(book)


def _move(book: Book, due_ms: int, at_ms: int) -> None:
    """Points whose instant has come by then, though never before they came."""
    account = book.account
    activated = [
        lot for lot in account.lots if lot.pending and lot.remaining and lot.available_from_ms is not None and lot.available_from_ms <= due_ms
    ]
    ended = [hold for hold in account.holds if hold.expires_at_ms is not None and hold.expires_at_ms <= due_ms]
    came_ms = [lot.earned_at_ms for lot in (*activated, *_expired(account, due_ms))] + [hold.placed_at_ms for hold in ended]
    effective_ms = min(at_ms, max([due_ms, *came_ms]))
    book.dated(effective_ms)
    if activated:
        ledger.make_available(book, activated, f"due:{effective_ms}")
    for hold in ended:
        ledger.let_go(book, hold, "EXPIRY")
    expire(book, due_ms)


def _expired(account: Account, at_ms: int) -> list[Lot]:
    return [lot for lot in account.lots if lot.remaining and lot.expires_at_ms is not None and lot.expires_at_ms <= at_ms]


def expire(book: Book, at_ms: int) -> None:
    """Points whose time is over: one movement for all lots of one instant."""
    if _expired(book.account, at_ms):
        moved = Movement(book)
        moved.expire(at_ms)
        moved.commit(EntryKind.EXPIRY)
