"""Lots: points that came in together and expire together. A movement takes from them, puts into them, and writes the postings."""

from dataclasses import replace

from schemas.records import Account, EntryKind, Hold, Lot, LotPart
from streams.domain.book import Book
from streams.domain.facts import ADJUSTED, AVAILABLE, DEBT, EXPIRED, HELD, IN_TRANSIT, ISSUED, PENDING, PointsMoved, Posting
from streams.domain.identity import derived_id
from streams.domain.periods import add_days, start_of_day
from streams.domain.program import RefundOfExpired, ReversalPolicy

NEVER_MS = 2**63 - 1

POINTS_LIMIT = 2**62
"""No balance goes above it. Half of what the contract's int64 holds: readers can add two balances without a care."""

PARTS_SHOWN_MAX = 64
"""Lots that one event or entry names; a movement over more of them sums up the others in the last one."""


LOTS_MAX = 250
"""Open lots above which those that expire on one day become one: a member's row is written with every movement."""


def order(lot: Lot) -> tuple[int, int, str]:
    """In which order lots are spent: soonest expiry first, then by effective time and id."""
    return (NEVER_MS if lot.expires_at_ms is None else lot.expires_at_ms, lot.earned_at_ms, lot.lot_id)


def part_of(lot: Lot, points: int) -> LotPart:
    """Points of a lot, as journal and events name them."""
    return LotPart(lot_id=lot.lot_id, points=points, expires_at_ms=lot.expires_at_ms)


def is_open(lot: Lot) -> bool:
    return bool(lot.remaining or lot.held)


def total_points(account: Account) -> int:
    """All that the member has in whatever form."""
    return account.available_points + account.pending_points + account.held_points


class Movement:
    """Points that move together: one BALANCE_CHANGED. Open it, call its verbs, then `commit`."""

    def __init__(self, book: Book, taken_back_to: str = ISSUED) -> None:
        """`taken_back_to` is the programme's account from which came what is taken back, or to which went what is given back."""
        account = book.account
        self._book = book
        self._counter = taken_back_to
        self._lots = {lot.lot_id: lot for lot in account.lots}
        self._inserted = False
        self.holds = {hold.hold_id: hold for hold in account.holds}
        self.postings: list[Posting] = []
        self.available = account.available_points
        self.debt = account.debt_points
        self.shortfall = 0

    def post(
        self, kind: EntryKind, points_delta: int, counter_account: str, rule_id: str, account: str = AVAILABLE, parts: list[LotPart] | None = None
    ) -> None:
        """Write a line of the journal; nothing for 0 points. One line for what moves the same way for the same reason, one after another."""
        if not points_delta:
            return
        posting = Posting(kind=kind, points_delta=points_delta, counter_account=counter_account, rule_id=rule_id, account=account, lots=tuple(parts or ()))
        last = self.postings[-1] if self.postings else posting
        if last is not posting and (last.kind, last.counter_account, last.rule_id, last.account) == (kind, counter_account, rule_id, account):
            self.postings[-1] = replace(last, points_delta=last.points_delta + points_delta, lots=last.lots + posting.lots)
        else:
            self.postings.append(posting)
        if account == AVAILABLE:
            self.available += points_delta
        if account == DEBT:
            self.debt -= points_delta
        elif counter_account == DEBT:
            self.debt += points_delta

    def lot(self, lot_id: str) -> Lot | None:
        """An open lot, or a closed one that is opened again."""
        found = self._lots.get(lot_id)
        if found is None:
            found = self._book.reopen_lot(lot_id)
            if found is not None:
                self.put(found)
        return found

    def put(self, lot: Lot) -> None:
        """Among the open lots, new or changed."""
        self._inserted = self._inserted or lot.lot_id not in self._lots
        self._lots[lot.lot_id] = lot

    def new_lot_id(self, command_id: str) -> str:
        """For points that no EARN of their own brought."""
        account, number = self._book.account, 0
        while (lot_id := derived_id("lot", account.program_id, account.member_id, command_id, number)) in self._lots:
            number += 1
        return lot_id

    # Verbs.

    def take(self, points: int, into: str) -> list[LotPart]:
        """Take available points, soonest expiry first, `into` one of the fields of a lot. The caller has checked that there are enough,
        and posts it."""
        parts: list[LotPart] = []
        for lot in self._spendable():
            if points <= 0:
                break
            part = min(points, lot.remaining)
            self._lots[lot.lot_id] = _moved(lot, part, "remaining", into)
            parts.append(part_of(lot, part))
            points -= part
        if points > 0:
            raise ValueError(f"the lots lack {points} points of the balance")
        return parts

    def pay_debt(self) -> None:
        """Points that came in pay what is owed: nobody has points and a debt. What has come too late for its own expiry pays nothing."""
        if self.debt and self.available:
            self.expire(self._book.now_ms)
        if self.debt and self.available:
            points = min(self.debt, self.available)
            parts = self.take(points, "settled")
            self.post(EntryKind.DEBT_PAYMENT, -points, DEBT, "debt", parts=parts)

    def hold(self, hold: Hold) -> None:
        self.holds[hold.hold_id] = hold

    def capture(self, hold: Hold, points: int, counter_account: str) -> list[LotPart]:
        """Take points of a hold for good, in the order of its parts, and let the rest go."""
        taken: list[LotPart] = []
        left: list[LotPart] = []
        for part in hold.parts:
            mine = min(points, part.points)
            points -= mine
            if mine:
                taken.append(replace(part, points=mine))
            if part.points > mine:
                left.append(replace(part, points=part.points - mine))
        owed = {ISSUED: 0, ADJUSTED: 0}
        claws: dict[str, int] = {}
        for part in taken:
            lot = self._lots[part.lot_id]
            claw = min(part.points, lot.claw_when_released)
            owed[_came_from(lot)] += claw
            claws[lot.lot_id] = claw
            # A reversal has asked for these: now that they are spent, it takes others.
            spent = _moved(lot, part.points, "held", "spent")
            self._lots[lot.lot_id] = replace(spent, claw_when_released=lot.claw_when_released - claw, reversed=lot.reversed + claw)
        self.post(EntryKind.CAPTURE, -sum(part.points for part in taken), counter_account, "capture", HELD, taken)
        self.release(hold, left, "capture")
        missing = {
            ISSUED: self.recover(owed[ISSUED], self._book.program.reversal, "reverse", ISSUED),
            ADJUSTED: self.recover(owed[ADJUSTED], ReversalPolicy.WITHIN_BALANCE, "reverse", ADJUSTED),
        }
        for lot_id, claw in claws.items():
            lot = self._lots[lot_id]
            mine = min(claw, missing[_came_from(lot)])
            missing[_came_from(lot)] -= mine
            self._lots[lot_id] = lot.but(owed=lot.owed + mine)
        return taken

    def release(self, hold: Hold, parts: "list[LotPart] | tuple[LotPart, ...]", rule_id: str) -> None:
        """Let a hold go: its points can be spent again, unless a reversal has asked for them or they have expired."""
        del self.holds[hold.hold_id]
        parts = list(parts)
        self.post(EntryKind.RELEASE, sum(part.points for part in parts), HELD, rule_id, parts=parts)
        for part in parts:
            lot = _moved(self._lots[part.lot_id], part.points, "held", "remaining")
            claw = min(part.points, lot.claw_when_released)
            if claw:
                lot = replace(_moved(lot, claw, "remaining", "clawed"), claw_when_released=lot.claw_when_released - claw)
                self.post(EntryKind.REVERSAL, -claw, _came_from(lot), "reverse", parts=[replace(part, points=claw)])
            self._lots[part.lot_id] = lot
        self.expire(self._book.now_ms)
        self.pay_debt()

    def recover(self, points: int, policy: ReversalPolicy, rule_id: str, counter_account: str | None = None) -> int:
        """Take back points that are not in their lot any more: others of the member, then a debt or a shortfall, as the policy says. Returns
        how many of them are still to be taken, should they come back."""
        if points <= 0:
            return 0
        counter = counter_account or self._counter
        taken = 0 if policy is ReversalPolicy.ONLY_PENDING else min(points, self.available)
        if taken:
            parts = self.take(taken, "settled")  # Not clawed: their own transaction can be reversed as well, and asks for them then.
            self.post(EntryKind.REVERSAL, -taken, counter, rule_id, parts=parts)
        if policy is ReversalPolicy.UNLIMITED:
            self.post(EntryKind.REVERSAL, taken - points, counter, rule_id, DEBT)
            return 0
        self.shortfall += points - taken
        return points - taken if policy is ReversalPolicy.WITHIN_BALANCE else 0

    def claw(self, lot_id: str, points: int, policy: ReversalPolicy) -> None:
        """Take back points of one lot: what remains, then what was spent, then what is held. The rest has expired."""
        lot = self.lot(lot_id)
        if lot is None:
            raise ValueError(f"lot {lot_id} is neither open nor remembered")
        remaining = min(points, lot.remaining)
        if policy is ReversalPolicy.ONLY_PENDING and not lot.pending:
            self.shortfall += remaining
        elif remaining:
            self.put(_moved(lot, remaining, "remaining", "clawed"))
            part = LotPart(lot_id=lot_id, points=remaining, expires_at_ms=lot.expires_at_ms)
            self.post(EntryKind.REVERSAL, -remaining, self._counter, "reverse", PENDING if lot.pending else AVAILABLE, [part])
        points -= remaining
        spent = min(points, lot.spent + lot.settled - lot.reversed)
        if spent:
            owed = self.recover(spent, policy, "reverse")
            self.put(self._lots[lot_id].but(reversed=lot.reversed + spent, owed=lot.owed + owed))
        held = min(points - spent, lot.held - lot.claw_when_released)
        if policy is ReversalPolicy.ONLY_PENDING:
            self.shortfall += held  # Points that could be spent stay with the member, held or not.
        elif held:
            self.put(replace(self._lots[lot_id], claw_when_released=lot.claw_when_released + held))

    def restore(self, parts: list[LotPart], command_id: str) -> None:
        """Give points back that were spent. They pay a debt first; those of lots that have expired since expire again, unless the programme
        gives them days of grace. Points that a reversal has asked for in vain are taken now: nobody keeps the points of a returned purchase
        by returning what was bought with them."""
        book, now_ms = self._book, self._book.now_ms
        for part in parts:
            lot = self.lot(part.lot_id) if part.lot_id else None
            until_ms = part.expires_at_ms if lot is None else lot.expires_at_ms
            grace = until_ms is not None and until_ms <= now_ms and book.program.refund_of_expired is RefundOfExpired.GRACE
            if grace:
                until_ms = add_days(book.program.time_zone, now_ms, book.program.refund_grace_days)
            if lot is None or lot.reversed or grace or lot.spent < part.points:
                # Of a lot that was taken back itself, or is forgotten, even if its name was used again since: a lot of its own.
                restored = Lot(lot_id=self.new_lot_id(command_id), points=part.points, remaining=part.points, earned_at_ms=now_ms, expires_at_ms=until_ms)
            else:
                restored = _moved(lot, part.points, "spent", "remaining")
            self.put(restored)
            self.post(
                EntryKind.REFUND, part.points, self._counter, "refund",
                parts=[LotPart(lot_id=restored.lot_id, points=part.points, expires_at_ms=until_ms)],
            )  # fmt: skip
            if lot is not None and lot.owed:
                owed = min(part.points, lot.owed)
                self.put(lot.but(owed=lot.owed - owed))
                self.put(_moved(restored, owed, "remaining", "clawed"))
                self.post(EntryKind.REVERSAL, -owed, _came_from(lot), "reverse", parts=[LotPart(lot_id=restored.lot_id, points=owed, expires_at_ms=until_ms)])
        self.expire(now_ms)
        self.pay_debt()

    def take_from(self, lot: Lot, into: str) -> list[LotPart]:
        """All that remains of one lot."""
        self._lots[lot.lot_id] = _moved(self._lots[lot.lot_id], lot.remaining, "remaining", into)
        return [part_of(lot, lot.remaining)]

    def extend(self, until_ms: int | None) -> None:
        """Give the lots that activity keeps alive a later expiry."""
        for lot in list(self._lots.values()):
            if lot.extended_by_activity and lot.expires_at_ms is not None and until_ms is not None and until_ms > lot.expires_at_ms:
                self._lots[lot.lot_id] = replace(lot, expires_at_ms=until_ms)
                self._inserted = True

    def expire(self, now_ms: int) -> None:
        """Nothing of a lot can be spent from its expiry on."""
        for account, pending in ((AVAILABLE, False), (PENDING, True)):
            parts = []
            for lot in list(self._lots.values()):
                if lot.pending is pending and lot.remaining and lot.expires_at_ms is not None and lot.expires_at_ms <= now_ms:
                    parts.append(part_of(lot, lot.remaining))
                    self._lots[lot.lot_id] = _moved(lot, lot.remaining, "remaining", "expired")
            self.post(EntryKind.EXPIRY, -sum(part.points for part in parts), EXPIRED, "expiry", account, parts)

    def activate(self, lot: Lot) -> None:
        """Pending points can be spent from now on."""
        self.put(replace(lot, pending=False, parked=False, available_from_ms=None))
        part = part_of(lot, lot.remaining)
        self.post(EntryKind.ACTIVATION, lot.remaining, PENDING, "activation", parts=[part])

    def empty(self, kind: EntryKind, rule_id: str) -> list[Lot]:
        """Take everything out, pending or not, and the debt: it goes to another member as it is. Returns the lots."""
        lots = sorted(self._lots.values(), key=order)
        for account, pending in ((AVAILABLE, False), (PENDING, True)):
            parts = [
                part_of(lot, lot.remaining)
                for lot in lots
                if lot.pending is pending and lot.remaining
            ]
            self.post(kind, -sum(part.points for part in parts), IN_TRANSIT, rule_id, account, parts)
        self.post(kind, self.debt, IN_TRANSIT, rule_id, DEBT)
        self._lots = {}
        return lots

    def commit(self, movement: EntryKind, *, always: bool = False, **about: object) -> int:
        """Record it. Returns the change of the available points. `always`: even if nothing moved."""
        for lot in [lot for lot in self._lots.values() if not is_open(lot)]:
            del self._lots[lot.lot_id]
            self._book.close_lot(lot)
        if len(self._lots) > LOTS_MAX:
            self._gather()
        lots = tuple(self._lots.values())
        if self._inserted:
            lots = tuple(sorted(lots, key=order))
        if not self.postings and not always:
            return 0
        fact = PointsMoved(
            postings=tuple(map(_shortened, self.postings)), lots=lots, holds=tuple(self.holds.values()), shortfall_points=self.shortfall, movement=movement,
            **about,  # type: ignore[arg-type]
        )  # fmt: skip
        self._book.record(fact)
        return fact.points_delta

    def _gather(self) -> None:
        """Make one lot of those that expire on one day, with the latest expiry of them. In the old ones the points count as spent: reversed,
        they are recovered from the member's other points, of which the new lot is one."""
        book = self._book
        by_day: dict[tuple[int, bool], list[Lot]] = {}
        for lot in self._lots.values():
            if lot.remaining and not lot.held and not lot.pending:
                day_ms = 0 if lot.expires_at_ms is None else start_of_day(book.program.time_zone, lot.expires_at_ms)
                by_day.setdefault((day_ms, lot.extended_by_activity), []).append(lot)
        for (_, extended), lots in by_day.items():
            if len(lots) < 2:
                continue
            last = max(lots, key=order)
            points = sum(lot.remaining for lot in lots)
            gathered = Lot(
                lot_id=self.new_lot_id(f"gathered:{last.lot_id}"), points=points, remaining=points, earned_at_ms=min(lot.earned_at_ms for lot in lots),
                expires_at_ms=last.expires_at_ms, extended_by_activity=extended,
            )  # fmt: skip
            for lot in lots:
                del self._lots[lot.lot_id]
                book.close_lot(_moved(lot, lot.remaining, "remaining", "spent"))
            self.put(gathered)

    def _spendable(self) -> list[Lot]:
        now_ms = self._book.now_ms
        lots = [lot for lot in self._lots.values() if lot.remaining and not lot.pending and (lot.expires_at_ms is None or lot.expires_at_ms > now_ms)]
        return sorted(lots, key=order) if self._inserted else lots


def _moved(lot: Lot, points: int, source: str, target: str) -> Lot:
    """Points of a lot from one of its parts to another."""
    return lot.but(**{source: getattr(lot, source) - points, target: getattr(lot, target) + points})


def _came_from(lot: Lot) -> str:
    """The programme's account that a lot's points came from: those of an earn qualify, those of an adjustment do not."""
    return ISSUED if lot.qualifying else ADJUSTED


def _shortened(posting: Posting) -> Posting:
    """With no more lots than are to be shown."""
    parts = posting.lots
    if len(parts) <= PARTS_SHOWN_MAX:
        return posting
    rest = LotPart(lot_id="", points=sum(part.points for part in parts[PARTS_SHOWN_MAX - 1 :]), expires_at_ms=None)
    return replace(posting, lots=(*parts[: PARTS_SHOWN_MAX - 1], rest))
