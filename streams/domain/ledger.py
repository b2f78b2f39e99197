"""Transactions -> points move. Balances never fall below 0; what cannot be done whole is refused, never done in part."""

from dataclasses import replace

from schemas.records import Account, EntryKind, Hold, Lot, LotPart, MemberStatus, Relay, RelayKind, Transaction, TransactionKind
from streams.domain import reversals, vouchers
from streams.domain.book import Book
from streams.domain.earning import earn
from streams.domain.facts import ADJUSTED, HELD, IN_TRANSIT, ISSUED, PENDING, REDEEMED, RulesUsed
from streams.domain.identity import derived_id
from streams.domain.lots import NEVER_MS, POINTS_LIMIT, Movement, part_of, total_points
from streams.domain.periods import add_days, expires_at
from streams.domain.program import ExpiryRule, Program
from streams.domain.refusals import Refusal
from streams.domain.relays import origin_of
from streams.domain.suspension import barred, earn_barred, parked_if_barred
from streams.domain.tiers import count, promote

HOLDS_MAX = 200
"""Holds that a member can have open at once."""

MINUTE_MS = 60_000

HOLD_REFUSALS = {
    "CAPTURE": Refusal.HOLD_ALREADY_CAPTURED, "VOID": Refusal.HOLD_ALREADY_VOIDED, "EXPIRY": Refusal.HOLD_EXPIRED,
}  # fmt: skip


def decide(book: Book, command: Transaction, about: "Effect") -> Refusal | None:
    """`about` is told what must be remembered of the transaction beyond its answer."""
    match command.kind:
        case TransactionKind.EARN:
            return _earn(book, command, about)
        case TransactionKind.REDEEM:
            return _redeem(book, command, about)
        case TransactionKind.ADJUST:
            return _adjust(book, command, about)
        case TransactionKind.REVERSE:
            return reversals.reverse(book, command, about)
        case TransactionKind.HOLD:
            return _hold(book, command, about)
        case TransactionKind.CAPTURE:
            return _capture(book, command, about)
        case TransactionKind.VOID:
            return _void(book, command, about)
        case TransactionKind.ACTIVATE:
            return _activate(book, command, about)
        case TransactionKind.TRANSFER:
            return _transfer(book, command, about)
        case TransactionKind.REDEEM_VOUCHER:
            return vouchers.decide_redemption(book, command)
        case TransactionKind.CANCEL_VOUCHER:
            return reversals.cancel_voucher(book, command, about)
        case TransactionKind.UNKNOWN:
            raise ValueError("a transaction of unknown kind breaks the contract and is not to reach the ledger")


Effect = reversals.Effect


def _earn(book: Book, command: Transaction, about: Effect) -> Refusal | None:
    account, program = book.account, book.program_at(command.occurred_at_ms)
    earned = earn(account, command, program)
    if isinstance(earned, Refusal):
        return earned
    if (refusal := earn_barred(account, book.program)) is not None:
        return refusal
    if not earned.points:
        return None
    if total_points(account) + earned.points > POINTS_LIMIT or account.qualifying_points + earned.points > POINTS_LIMIT:
        return Refusal.POINTS_OVERFLOW
    if (earned.rule_uses, earned.offer_uses) != (account.rule_uses, account.offer_uses):
        book.record(RulesUsed(rule_uses=earned.rule_uses, offer_uses=earned.offer_uses))
    # Counted first: the event of a movement tells all numbers as they are after it.
    count(book, earned.points, command.occurred_at_ms)
    lot = parked_if_barred(_new_lot(command, program, command.transaction_id, earned.points, qualifying=earned.points), account, book.program)
    moved = Movement(book)
    moved.put(lot)
    for kind, points, rule_id in earned.lines:
        part = part_of(lot, points)
        moved.post(kind, points, ISSUED, rule_id, PENDING if lot.pending else "available", [part])
    extend_by_activity(moved, account, program, command.occurred_at_ms)
    moved.pay_debt()
    about.points_delta = moved.commit(
        earned.lines[0][0], activity_at_ms=command.occurred_at_ms, expires_at_ms=lot.expires_at_ms
    )
    about.counter_account = ISSUED
    promote(book)
    pool(book, command.transaction_id, lot.lot_id)
    return None


def _new_lot(command: Transaction, program: Program, lot_id: str, points: int, *, qualifying: int = 0) -> Lot:
    """A lot by the programme's rules, or by what the command says of expiry and of being pending."""
    occurred_ms = command.occurred_at_ms
    available_from_ms = command.available_from_ms
    if available_from_ms is None and not command.pending and program.pending_days and command.kind is TransactionKind.EARN:
        available_from_ms = add_days(program.time_zone, occurred_ms, program.pending_days)
    by_rule = command.expires_at_ms is None
    return Lot(
        lot_id=lot_id,
        points=points,
        remaining=points,
        qualifying=qualifying,
        earned_at_ms=occurred_ms,
        expires_at_ms=expires_at(program.expiry, program.time_zone, occurred_ms) if by_rule else command.expires_at_ms,
        available_from_ms=available_from_ms,
        pending=available_from_ms is not None or bool(command.pending),
        extended_by_activity=by_rule and program.expiry.rule is ExpiryRule.INACTIVITY,
    )


def extend_by_activity(moved: Movement, account: Account, program: Program, at_ms: int) -> None:
    """Under INACTIVITY every activity gives all lots the expiry that counts from it; a late one takes nothing away."""
    if program.expiry.rule is ExpiryRule.INACTIVITY:
        moved.extend(expires_at(program.expiry, program.time_zone, max(at_ms, account.last_activity_at_ms or 0)))


def _redeem(book: Book, command: Transaction, about: Effect) -> Refusal | None:
    account, program, points = book.account, book.program, _given(command)
    if (refusal := barred(account)) is not None:
        return refusal
    reward = program.rewards.get(command.reward_code or "")
    if reward is not None and reward.points is not None and reward.points != points:
        return Refusal.REWARD_PRICE_DIFFERS
    if points > account.available_points:
        return Refusal.INSUFFICIENT_POINTS
    if command.reward_code and len(account.vouchers) >= vouchers.OPEN_MAX:
        return Refusal.ACCOUNT_TOO_LARGE
    _spend(book, command, about, EntryKind.REDEEM, points, REDEEMED, "redeem")
    if command.reward_code:
        vouchers.issue(book, command.reward_code, command.transaction_id, command.transaction_id, points)
    return None


def _spend(book: Book, command: Transaction, about: Effect, kind: EntryKind, points: int, counter_account: str, rule_id: str) -> list[LotPart]:
    moved = Movement(book)
    about.parts = moved.take(points, "spent")
    about.counter_account = counter_account
    moved.post(kind, -points, counter_account, rule_id, parts=about.parts)
    activity_at_ms = None
    if kind is not EntryKind.ADJUSTMENT:  # That is somebody else's doing.
        activity_at_ms = command.occurred_at_ms
        extend_by_activity(moved, book.account, book.program, activity_at_ms)
    about.points_delta = moved.commit(kind, activity_at_ms=activity_at_ms, counter_member_id=command.to_member_id)
    return about.parts


def _adjust(book: Book, command: Transaction, about: Effect) -> Refusal | None:
    account, points = book.account, _given(command)
    if points < 0:
        if account.available_points + points < 0:
            return Refusal.INSUFFICIENT_POINTS
        _spend(book, command, about, EntryKind.ADJUSTMENT, -points, ADJUSTED, "adjust")
        return None
    if total_points(account) + points > POINTS_LIMIT:
        return Refusal.POINTS_OVERFLOW
    lot = _new_lot(command, book.program_at(command.occurred_at_ms), command.transaction_id, points)
    moved = Movement(book)
    moved.put(lot)
    moved.post(EntryKind.ADJUSTMENT, points, ADJUSTED, "adjust", parts=[part_of(lot, points)])
    if account.last_activity_at_ms is not None:  # No activity, but its points live as long as the others: their order of arrival says nothing.
        extend_by_activity(moved, account, book.program, account.last_activity_at_ms)
    moved.pay_debt()
    about.points_delta = moved.commit(EntryKind.ADJUSTMENT, expires_at_ms=lot.expires_at_ms)
    about.counter_account = ADJUSTED
    return None


def _hold(book: Book, command: Transaction, about: Effect) -> Refusal | None:
    account, points = book.account, _given(command)
    if (refusal := barred(account)) is not None:
        return refusal
    if points > account.available_points:
        return Refusal.INSUFFICIENT_POINTS
    if len(account.holds) >= HOLDS_MAX:
        return Refusal.ACCOUNT_TOO_LARGE
    moved = Movement(book)
    parts = moved.take(points, "held")
    ends_ms = command.expires_at_ms
    if ends_ms is None and book.program.hold_minutes is not None:
        ends_ms = book.now_ms + book.program.hold_minutes * MINUTE_MS
    moved.hold(Hold(hold_id=command.transaction_id, parts=tuple(parts), expires_at_ms=ends_ms, placed_at_ms=command.occurred_at_ms))
    moved.post(EntryKind.HOLD, -points, HELD, "hold", parts=parts)
    about.points_delta = moved.commit(EntryKind.HOLD, hold_id=command.transaction_id, expires_at_ms=ends_ms)
    return None


def open_hold(book: Book, hold_id: str) -> Hold | Refusal:
    """The member's open hold, or why there is none."""
    for hold in book.account.holds:
        if hold.hold_id == hold_id:
            return hold
    outcome = book.outcome(hold_id)
    if outcome is None or outcome.transaction_kind is not TransactionKind.HOLD or outcome.closed_by is None:
        return Refusal.HOLD_NOT_FOUND
    return HOLD_REFUSALS[outcome.closed_by]


def _capture(book: Book, command: Transaction, about: Effect) -> Refusal | None:
    hold = open_hold(book, command.related_transaction_id or "")
    if hold is Refusal.HOLD_NOT_FOUND:
        return Refusal.HOLD_NOT_FOUND
    if (refusal := barred(book.account)) is not None and not book.program.capture_while_suspended:
        return refusal
    if isinstance(hold, Refusal):
        return hold
    held = sum(part.points for part in hold.parts)
    points = held if command.points is None else command.points
    if points > held:
        return Refusal.CAPTURE_TOO_LARGE
    moved = Movement(book)
    about.parts = moved.capture(hold, points, REDEEMED)
    about.counter_account = REDEEMED
    extend_by_activity(moved, book.account, book.program, command.occurred_at_ms)
    about.points_delta = moved.commit(EntryKind.CAPTURE, hold_id=hold.hold_id, activity_at_ms=command.occurred_at_ms)
    close_hold(book, hold.hold_id, "CAPTURE")
    return None


def _void(book: Book, command: Transaction, about: Effect) -> Refusal | None:
    hold = open_hold(book, command.related_transaction_id or "")
    if isinstance(hold, Refusal):
        return hold
    about.points_delta = let_go(book, hold, "VOID")
    return None


def let_go(book: Book, hold: Hold, closed_by: str) -> int:
    """VOID, or EXPIRY: the hold's points go back. Returns the change of the available points."""
    moved = Movement(book)
    moved.release(hold, hold.parts, "void" if closed_by == "VOID" else "timeout")
    points_delta = moved.commit(EntryKind.RELEASE, hold_id=hold.hold_id)
    close_hold(book, hold.hold_id, closed_by)
    return points_delta


def close_hold(book: Book, hold_id: str, closed_by: str) -> None:
    outcome = book.outcome(hold_id)
    if outcome is not None:
        book.remember(hold_id, replace(outcome, closed_by=closed_by))


def _activate(book: Book, command: Transaction, about: Effect) -> Refusal | None:
    """ACTIVATE: what the points waited for has happened."""
    lot_id = command.related_transaction_id or ""
    lot = next((lot for lot in book.account.lots if lot.lot_id == lot_id), None)
    if lot is None or not lot.pending:
        known = lot is not None or book.outcome(lot_id) is not None
        return Refusal.NOT_PENDING if known else Refusal.TRANSACTION_NOT_FOUND
    if lot.parked and (refusal := barred(book.account)) is not None:
        return refusal
    about.points_delta = make_available(book, [lot], lot_id)
    return None


def unpark(book: Book) -> None:
    """The suspension may be over: what was earned meanwhile becomes available."""
    parked = [lot for lot in book.account.lots if lot.parked and lot.remaining]
    if parked and book.account.status is MemberStatus.ACTIVE:
        make_available(book, parked, f"unpark:{book.cause.command_id}")


def make_available(book: Book, lots: list[Lot], command_id: str) -> int:
    """Pending lots become available; those of a member of a pool go on to it. Returns the change of the available points before that."""
    moved = Movement(book)
    for lot in lots:
        moved.activate(lot)
    moved.pay_debt()
    points_delta = moved.commit(EntryKind.ACTIVATION)
    for lot in lots:
        pool(book, f"{command_id}:{lot.lot_id}", lot.lot_id)
    return points_delta


def _transfer(book: Book, command: Transaction, about: Effect) -> Refusal | None:
    account, points = book.account, _given(command)
    if (refusal := barred(account)) is not None:
        return refusal
    if command.to_member_id == account.member_id:
        return Refusal.SAME_MEMBER
    if points > account.available_points:
        return Refusal.INSUFFICIENT_POINTS
    parts = _spend(book, command, about, EntryKind.TRANSFER_OUT, points, IN_TRANSIT, "transfer")
    book.relays.append(_under_way(book, command.to_member_id or "", command.transaction_id, parts, EntryKind.TRANSFER_IN))
    return None


def pool(book: Book, command_id: str, lot_id: str) -> None:
    """What a member of a pool earns goes on to the pool, as far as it did not pay a debt and is not pending. Nothing leaves while suspended:
    it stays with the member then."""
    account = book.account
    lot = next((lot for lot in account.lots if lot.lot_id == lot_id), None)
    if account.pool_member_id is None or barred(account) is not None or lot is None or lot.pending or not lot.remaining:
        return
    moved = Movement(book)
    parts = moved.take_from(lot, "spent")
    moved.post(EntryKind.POOL_OUT, -lot.remaining, IN_TRANSIT, "pool", parts=parts)
    moved.commit(EntryKind.POOL_OUT, counter_member_id=account.pool_member_id)
    book.relays.append(_under_way(book, account.pool_member_id, f"pool:{command_id}", parts, EntryKind.POOL_IN))


def _under_way(book: Book, to_member_id: str, command_id: str, parts: list[LotPart], movement: EntryKind) -> Relay:
    """The relay that brings points to another member: one lot for each expiry, so that nobody gains time by passing points on."""
    account = book.account
    name = f"{command_id}:{account.event_sequence}"  # An id that was forgotten may come again; its lots and its relay may still be there.
    by_expiry: dict[int | None, int] = {}
    for part in parts:
        by_expiry[part.expires_at_ms] = by_expiry.get(part.expires_at_ms, 0) + part.points
    lots = tuple(
        Lot(
            lot_id=derived_id("lot", account.program_id, account.member_id, name, number),
            points=by_expiry[expires_at_ms],
            remaining=by_expiry[expires_at_ms],
            earned_at_ms=book.cause.occurred_at_ms,
            expires_at_ms=expires_at_ms,
        )
        for number, expires_at_ms in enumerate(sorted(by_expiry, key=lambda ms: NEVER_MS if ms is None else ms))
    )
    return Relay(
        program_id=account.program_id,
        member_id=to_member_id,
        relay_id=derived_id("rly", account.program_id, account.member_id, name),
        kind=RelayKind.TRANSFER_IN,
        from_member_id=account.member_id,
        movement=movement,
        lots=lots,
        origin=origin_of(book.cause),
    )


def receive(book: Book, relay: Relay) -> None:
    """TRANSFER_IN: points arrive. TRANSFER_BACK: they could not be delivered and are the sender's again.

    Both are new lots: the old ones have been spent, and say so.
    """
    back = relay.kind is RelayKind.TRANSFER_BACK
    movement = EntryKind.TRANSFER_RETURN if back else relay.movement or EntryKind.TRANSFER_IN
    moved = Movement(book)
    for lot in relay.lots:
        # Extended or not: what was passed on keeps the expiry it came with.
        moved.put(lot)
        part = part_of(lot, lot.remaining)
        moved.post(movement, lot.remaining, IN_TRANSIT, "transfer", parts=[part])
    moved.pay_debt()
    moved.commit(movement, counter_member_id=relay.from_member_id)


def _given(command: Transaction) -> int:
    if command.points is None:
        raise ValueError(f"a {command.kind} without points breaks the contract and is not to reach the ledger")
    return command.points
