"""What members' partitions pass to each other -> settlements: transfers, merges, commands for merged members, answers of budgets."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from schemas.contract import Command
from schemas.records import Account, CommandResult, LotPart, MemberStatus, OfferActivation, Outcome, Relay, RelayKind, Transaction
from streams.domain import desk, identities, ledger, membership, offers, tiers, timers
from streams.domain.accounts import brought_up
from streams.domain.book import Book, Received, is_asked, is_remembered
from streams.domain.desk import Rows, Settlement
from streams.domain.identity import outcome_key, payload_hash, transaction_key
from streams.domain.lots import POINTS_LIMIT, total_points
from streams.domain.program import Program, in_force
from streams.domain.relays import cause_of


def receive(
    account: Account | None,
    relay: Relay,
    received: Received,
    *,
    rows: Rows,
    programs: Sequence[Program],
    clock_ms: int,
    recorded_at_ms: int,
) -> Settlement:
    """Take what another member's partition passes on. `received.command` is the command of a FORWARD, an ADDRESSED or a BUDGET_ANSWER, as
    it was.

    What cannot be taken goes back to where it came from: it is never dropped.
    """
    account = brought_up(account)
    if relay.kind is RelayKind.ADDRESSED:
        assert account is not None, "who claimed an external id exists"
        own = identities.under_number(received, relay.member_id)
        return desk.settle(account, own, rows=rows, programs=programs, clock_ms=clock_ms, recorded_at_ms=recorded_at_ms)
    now_ms = max(received.ingested_at_ms, clock_ms, account.clock_ms if account is not None else 0)
    if relay.kind is RelayKind.IDENTITY_REFUSED:
        assert account is not None, "who claimed an external id exists"
        return _identity_refused(account, relay, received, rows, programs, now_ms, recorded_at_ms)
    if relay.kind is RelayKind.FORWARD:
        received = identities.under_number(received, relay.from_member_id)
    key = transaction_key(relay.program_id, relay.member_id, "\x00" + relay.relay_id)
    if key in rows.outcomes:
        return Settlement(account=account, outcomes={}, vouchers={}, audit=None)
    if account is not None and account.merged_into is not None and relay.kind is not RelayKind.MERGE_BACK:
        if relay.kind is RelayKind.FORWARD:
            return _forwarded_again(account, relay, received, rows, programs, now_ms, recorded_at_ms)
        return _passed_on(account, relay)
    merged_id = _merged_id(relay)
    if merged_id is not None and (account is None or merged_id not in (account.member_id, *account.moved_from)):
        # It came by a merge that was not taken. Whoever was to be merged is itself again when it arrives: the MERGE_BACK goes before it.
        return _sent(account, replace(relay, member_id=merged_id, path=()))
    if relay.kind is RelayKind.FORWARD:
        assert account is not None, "who took over exists"
        return _decide_forwarded(account, relay, received, rows=rows, programs=programs, clock_ms=clock_ms, recorded_at_ms=recorded_at_ms)
    back = relay.kind in (RelayKind.TRANSFER_BACK, RelayKind.MERGE_BACK)
    if account is None or (account.status is MemberStatus.ERASED and not back and relay.kind is not RelayKind.BUDGET_ANSWER):
        return _returned(account, relay)
    cause = cause_of(relay, received.stream, received.ingested_at_ms)
    book = Book(
        account, cause, None, programs=programs, now_ms=now_ms, recorded_at_ms=recorded_at_ms, outcomes=rows.outcomes, vouchers=rows.vouchers
    )
    if relay.kind is RelayKind.BUDGET_ANSWER:
        return _answered(book, relay, received, rows, account, recorded_at_ms)
    timers.advance(book)
    tiers.roll(book)
    match relay.kind:
        case RelayKind.TRANSFER_IN | RelayKind.TRANSFER_BACK:
            if not back and total_points(book.account) + sum(lot.remaining for lot in relay.lots) > POINTS_LIMIT:
                return _returned(account, relay)
            ledger.receive(book, relay)
        case RelayKind.MERGE_IN:
            if relay.from_member_id == account.member_id or not membership.fits(book, relay):
                return _returned(account, relay)
            membership.absorb(book, relay)
        case RelayKind.MERGE_BACK:
            membership.restore(book, relay)
        case _:
            raise ValueError(f"a relay {relay.kind} is not for members")
    book.outcomes[key] = Outcome(
        payload_hash="", result=CommandResult.APPLIED, sequence=book.account.event_sequence, available_points=book.account.available_points,
        tier=book.account.tier, ingested_at_ms=now_ms,
    )  # fmt: skip
    book.touch(clock_ms=now_ms)
    timers.catch_up(book)
    return desk.finish(book, None, recorded_at_ms, account)


def _identity_refused(
    account: Account, relay: Relay, received: Received, rows: Rows, programs: Sequence[Program], now_ms: int, recorded_at_ms: int
) -> Settlement:
    """At the claimant itself, also when it was merged meanwhile: its external ids stay in its own partition."""
    cause = cause_of(relay, received.stream, received.ingested_at_ms)
    book = Book(
        account, cause, None, programs=programs, now_ms=now_ms, recorded_at_ms=recorded_at_ms, outcomes=rows.outcomes, vouchers=rows.vouchers
    )
    if not identities.holds(account, relay):
        return Settlement(account=account, outcomes={}, vouchers={}, audit=None)
    timers.advance(book)
    identities.refuse(book, relay)
    book.touch(clock_ms=now_ms)
    return desk.finish(book, None, recorded_at_ms, account)


def _passed_on(account: Account, relay: Relay) -> Settlement:
    """The addressee was merged: on to whoever took over. A way that leads back to a member it came through is a circle, and lasts only as
    long as a MERGE_BACK is under way: what cannot be given back to its sender goes round until then."""
    assert account.merged_into is not None
    is_circle = account.member_id in relay.path or relay.from_member_id == account.member_id
    if relay.kind in (RelayKind.TRANSFER_IN, RelayKind.MERGE_IN) and is_circle:
        # Two members were merged into each other at once. This one's own points come back, and it is itself again.
        return _returned(account, relay)
    return _sent(account, replace(relay, member_id=account.merged_into, path=(*_path_to(account, relay), account.member_id)))


def _merged_id(relay: Relay) -> str | None:
    """The merged member in whose name a relay came here; None: it was sent here."""
    if relay.kind is RelayKind.FORWARD:
        return relay.from_member_id
    return relay.path[0] if relay.path else None


def _path_to(account: Account, relay: Relay) -> tuple[str, ...]:
    """The merged members that lead here, without the rounds of a circle."""
    path = relay.path
    return path[: path.index(account.member_id)] if account.member_id in path else path


def _returned(account: Account | None, relay: Relay) -> Settlement:
    """Back to where it came from."""
    back = {RelayKind.TRANSFER_IN: RelayKind.TRANSFER_BACK, RelayKind.MERGE_IN: RelayKind.MERGE_BACK}[relay.kind]
    # A merge's way back tells whose account it carries, a transfer's who did not take the points.
    sender = relay.member_id if back is RelayKind.TRANSFER_BACK else relay.from_member_id
    return _sent(account, replace(relay, member_id=relay.from_member_id, kind=back, path=(), from_member_id=sender))


def _sent(account: Account | None, relay: Relay) -> Settlement:
    return Settlement(account=account, outcomes={}, vouchers={}, relays=(relay,), audit=None)


def _answered(book: Book, relay: Relay, received: Received, rows: Rows, before: Account, recorded_at_ms: int) -> Settlement:
    """The budget has answered an activation. Once: an activation that is decided stays as it is."""
    command = received.command
    assert isinstance(command, OfferActivation), "a budget's answer carries the activation"
    account = book.account
    # Who asked may have been merged into this member meanwhile, and may have been asked in the name of another.
    event_id = membership.moved(_path_to(account, relay), relay.origin.command_id)
    command = replace(command, member_id=account.member_id, event_id=event_id)
    own_key = outcome_key(command.program_id, command.member_id, command)
    known = rows.outcomes.get(own_key)
    if known is not None and not is_asked(known):
        return Settlement(account=before, outcomes={}, vouchers={}, audit=None)
    timers.advance(book)
    book.resume(desk.cause_of_command(received, command), command, book.now_ms)
    own_from = len(book.steps)
    answer = offers.decide_answer(book, command, granted=bool(relay.granted))
    digest = payload_hash(command)
    return desk.conclude(book, received, command, digest, own_key, answer, ledger.Effect(), own_from, recorded_at_ms, before=before)


def _decide_forwarded(
    account: Account,
    relay: Relay,
    received: Received,
    *,
    rows: Rows,
    programs: Sequence[Program],
    clock_ms: int,
    recorded_at_ms: int,
) -> Settlement:
    """A command that was sent to a member who was merged into this one.

    Its ids are told apart from this member's own by the names of those that it came through. It may also have come back, because the merge
    was not taken.
    """
    command = received.command
    assert command is not None, "a forwarded command is carried along"
    if account.member_id == relay.from_member_id:
        return desk.settle(account, received, rows=rows, programs=programs, clock_ms=clock_ms, recorded_at_ms=recorded_at_ms)
    command, original = _here(account, relay, command)
    known: Mapping[bytes, Outcome] = rows.outcomes
    if original is not None and isinstance(command, Transaction):
        key = transaction_key(account.program_id, account.member_id, desk.named_by(command) or "")
        if known.get(key) is None:
            known = _With(known, key, original)
    return desk.settle(
        account, replace(received, command=command), rows=Rows(outcomes=known, vouchers=rows.vouchers), programs=programs, clock_ms=clock_ms,
        recorded_at_ms=recorded_at_ms,
    )  # fmt: skip


def _forwarded_again(
    account: Account, relay: Relay, received: Received, rows: Rows, programs: Sequence[Program], now_ms: int, recorded_at_ms: int
) -> Settlement:
    """A forwarded command at a member who was merged as well: answered if it was decided here before that, passed on if not."""
    command = received.command
    assert command is not None, "a forwarded command is carried along"
    came_back = account.member_id == relay.from_member_id  # This one was itself for a while, and is merged anew.
    command, original = (command, relay.original) if came_back else _here(account, relay, command)
    program = in_force(programs, now_ms)
    remembered = rows.outcomes.get(outcome_key(command.program_id, command.member_id, command))
    if remembered is not None and is_remembered(remembered, program, now_ms):
        return desk.repeat(account, replace(received, command=command), command, payload_hash(command), remembered, recorded_at_ms)
    if desk.stays_here(account, command):
        own = replace(received, command=command)
        return desk.settle(account, own, rows=rows, programs=programs, clock_ms=now_ms, recorded_at_ms=recorded_at_ms)
    named = desk.named_by(command)
    if named is not None:
        mine = rows.outcomes.get(transaction_key(account.program_id, account.member_id, named))
        original = mine if is_remembered(mine, program, now_ms) else original
    relay = replace(relay, original=original)
    return _sent(account, replace(relay, member_id=account.merged_into or "", path=())) if came_back else _passed_on(account, relay)


def _here(account: Account, relay: Relay, command: Command) -> tuple[Command, Outcome | None]:
    """A forwarded command and what goes along with it, by the names that they have at this member."""
    path = _path_to(account, relay)
    original = relay.original
    if original is not None:  # It has the names of the one who passed it on last.
        original = _renamed(original, path[-1] if path else relay.from_member_id)
    return _under_name(command, account.member_id, (relay.from_member_id, *path)), original


class _With(Mapping[bytes, Outcome]):
    """A table with one row more."""

    def __init__(self, rows: Mapping[bytes, Outcome], key: bytes, row: Outcome) -> None:
        self._rows, self._key, self._row = rows, key, row

    def get(self, key: bytes, default: Outcome | None = None) -> Outcome | None:  # type: ignore[override]
        return self._row if key == self._key else self._rows.get(key, default)

    def __getitem__(self, key: bytes) -> Outcome:
        return self._row if key == self._key else self._rows[key]

    def __iter__(self):  # type: ignore[no-untyped-def]
        raise TypeError("rows are looked up, not walked")

    def __len__(self) -> int:
        raise TypeError("rows are looked up, not counted")


def _renamed(original: Outcome, source: str) -> Outcome:
    lot = original.lot
    parts: tuple[LotPart, ...] = tuple(replace(part, lot_id=membership.moved_id(source, part.lot_id)) for part in original.parts)
    return replace(original, parts=parts, lot=None if lot is None else replace(lot, lot_id=membership.moved_id(source, lot.lot_id)))


def _under_name(command: Command, member_id: str, path: Sequence[str]) -> Command:
    def renamed(identifier: str | None) -> str | None:
        return None if identifier is None else membership.moved(path, identifier)

    if isinstance(command, Transaction):
        return replace(
            command, member_id=member_id, transaction_id=membership.moved(path, command.transaction_id),
            reverses_transaction_id=renamed(command.reverses_transaction_id), related_transaction_id=renamed(command.related_transaction_id),
        )  # fmt: skip
    return replace(command, member_id=member_id, event_id=membership.moved(path, command.event_id))
