"""received record -> settlement: the one door to the domain. `settle` is a pure function; the agents call it and store what it returns.

Everything that is stored depends on the record and on the log's time alone, so that replaying the log gives the same bytes. recorded_at_ms,
the worker's clock, goes into outbound records only, and by the audit's into the hash that its chain goes on from.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from schemas.contract import Command, command_id
from schemas.records import (
    Account,
    CommandResult,
    Enrolment,
    LedgerEntry,
    LoyaltyEvent,
    MemberOperation,
    MemberOperationKind,
    MemberProfile,
    MemberStatus,
    OfferActivation,
    Outcome,
    ProfileChange,
    Relay,
    RelayKind,
    SyncAudit,
    Transaction,
    Voucher,
)
from streams.domain import ledger, mastering, membership, offers, outbound, profiles, tiers, timers
from streams.domain.accounts import brought_up
from streams.domain.book import Book, Cause, Received, is_remembered
from streams.domain.facts import CommandRefused, VoucherIssued
from streams.domain.identity import outcome_key, payload_hash, transaction_key
from streams.domain.program import Program
from streams.domain.refusals import ID_REUSED, Refusal
from streams.domain.relays import origin_of

__all__ = ["Received", "Settlement", "outcome_key", "payload_hash", "settle", "tick", "transaction_key"]


NOT_ENROLLED = "nobody is enrolled: what waited is removed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """What the domain may look up beside the account: rows of the member's tables, by their keys."""

    outcomes: Mapping[bytes, Outcome]
    vouchers: Mapping[bytes, Voucher]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """All that follows from one record."""

    account: Account | None
    """State after it; None: the member is not enrolled, the command waits."""
    outcomes: Mapping[bytes, Outcome]
    """Rows of the outcomes table that are new or changed, by their keys."""
    vouchers: Mapping[bytes, Voucher]
    """Rows of the vouchers table that are new or changed."""
    relays: tuple[Relay, ...] = ()
    """For other members' partitions, or for the counter of a budget."""
    events: tuple[LoyaltyEvent, ...] = ()
    entries: tuple[LedgerEntry, ...] = ()
    profiles: tuple[MemberProfile, ...] = ()
    audit: SyncAudit | None
    """Of the command. None: for ticks, and while the budget of an offer is asked; the answer will have one."""
    audit_by_clock: tuple[SyncAudit, ...] = ()
    """Of statuses that had been scheduled and have taken effect, and of external ids that were refused."""


def settle(
    account: Account | None,
    received: Received,
    *,
    rows: Rows,
    programs: Sequence[Program],
    clock_ms: int,
    recorded_at_ms: int,
) -> Settlement:
    """Decide a command. `programs` are the versions of its programme, `clock_ms` is the log's time as the ticks tell it.

    A repetition gets the first answer again and changes nothing; so does a refused one, even if it would be accepted by now. The
    command keeps the contract's rules (schemas.contract.problems).
    """
    command = received.command
    assert command is not None, "a command is settled"
    account = brought_up(account)
    now_ms = max(received.ingested_at_ms, clock_ms, account.clock_ms if account is not None else 0)
    cause = cause_of_command(received, command)
    book = Book(
        account, cause, command, programs=programs, now_ms=now_ms, recorded_at_ms=recorded_at_ms, outcomes=rows.outcomes, vouchers=rows.vouchers
    )
    own_key = outcome_key(command.program_id, command.member_id, command)
    digest = payload_hash(command)
    remembered = rows.outcomes.get(own_key)
    if remembered is not None and is_remembered(remembered, book.program, now_ms):
        return repeat(account, received, command, digest, remembered, recorded_at_ms)
    if account is not None and isinstance(command, Transaction) and _is_open(account, command.transaction_id):
        # Older than answers are remembered, but its points are still here: a second lot or hold of that name would hide the first.
        audit = outbound.audit(received, command, digest, CommandResult.CONFLICT, None, recorded_at_ms, reason=ID_REUSED)
        return Settlement(account=account, outcomes={}, vouchers={}, audit=audit)
    if account is None and isinstance(command, MemberOperation) and command.kind is MemberOperationKind.ERASE:
        # There is nothing but what waits. Kept until an enrolment, it would erase somebody who comes under this number later.
        audit = outbound.audit(received, command, digest, CommandResult.APPLIED, None, recorded_at_ms, detail=NOT_ENROLLED)
        return Settlement(account=None, outcomes={}, vouchers={}, audit=audit)
    if account is None and not isinstance(command, Enrolment):
        # Members are never invented: it waits for the enrolment.
        audit = outbound.audit(received, command, digest, CommandResult.WAITING, None, recorded_at_ms)
        return Settlement(account=None, outcomes={}, vouchers={}, audit=audit)
    if account is not None and account.merged_into is not None and not stays_here(account, command):
        return _forwarded(book, account, received, command)
    if account is not None:
        timers.advance(book)
        tiers.roll(book)
    own_from = len(book.steps)
    trespassed = mastering.trespasses(book.program, command)
    if account is None and trespassed:
        return _not_enrolled(book, received, command, digest, own_key, mastering.told(trespassed), recorded_at_ms)
    effect = ledger.Effect()
    answer = decide(book, command, effect, trespassed)
    return conclude(book, received, command, digest, own_key, answer, effect, own_from, recorded_at_ms, before=account)


def refuse_erased(received: Received, recorded_at_ms: int) -> Settlement:
    """The answer to a command that waited for the enrolment of somebody who has been erased. It is not remembered: nothing is."""
    command = received.command
    assert command is not None, "what waits are commands"
    reason = Refusal.MEMBER_ERASED.value
    audit = outbound.audit(received, command, payload_hash(command), CommandResult.REFUSED, None, recorded_at_ms, reason=reason)
    return Settlement(account=None, outcomes={}, vouchers={}, audit=audit)


def _not_enrolled(
    book: Book, received: Received, command: Command, digest: str, own_key: bytes, detail: str, recorded_at_ms: int
) -> Settlement:
    """Only the master enrols. There is no account that could tell of it in an event; the answer is remembered all the same."""
    outcome = Outcome(
        payload_hash=digest, result=CommandResult.REFUSED, reason=Refusal.ATTRIBUTE_MASTERED_EXTERNALLY.value, detail=detail, sequence=0,
        available_points=0, tier="", ingested_at_ms=book.now_ms,
    )  # fmt: skip
    audit = outbound.audit(received, command, digest, CommandResult.REFUSED, outcome, recorded_at_ms)
    return Settlement(account=None, outcomes={own_key: outcome}, vouchers={}, audit=audit)


def conclude(
    book: Book,
    received: Received,
    command: Command,
    digest: str,
    own_key: bytes,
    answer: Refusal | CommandResult | None,
    effect: ledger.Effect,
    own_from: int,
    recorded_at_ms: int,
    *,
    before: Account | None,
) -> Settlement:
    """What follows from a decision."""
    result, reason = CommandResult.APPLIED, None
    if isinstance(answer, CommandResult):
        result = answer
    elif answer is not None:
        result, reason = CommandResult.REFUSED, answer.value
        book.record(CommandRefused(refusal=answer, detail=book.detail))
    start = book.steps[own_from - 1].account if own_from else before
    if isinstance(command, Enrolment | ProfileChange) and start is not None:
        # What was earned while suspended becomes available with the end of it.
        effect.points_delta = book.account.available_points - start.available_points
    is_asked = any(relay.kind is RelayKind.BUDGET_ASK for relay in book.relays)
    voucher_code = next((step.fact.voucher_code for step in book.steps[own_from:] if isinstance(step.fact, VoucherIssued)), None)
    after = book.account
    outcome = Outcome(
        payload_hash=digest,
        result=CommandResult.WAITING if is_asked else result,
        reason=reason,
        detail=book.detail,
        transaction_kind=command.kind if isinstance(command, Transaction) else None,
        points_delta=effect.points_delta,
        sequence=after.event_sequence,
        available_points=after.available_points,
        tier=after.tier,
        voucher_code=voucher_code,
        ingested_at_ms=book.now_ms,
        lot=book.closed_lots.pop(command_id(command), None),
        parts=tuple(effect.parts),
        counter_account=effect.counter_account,
    )
    book.outcomes[own_key] = outcome
    # What has come too late for its own expiry, or ends at once, does not wait for the next record, nor does it happen before this one.
    book.touch(clock_ms=book.now_ms)
    timers.catch_up(book)
    audit = None
    if not is_asked:
        # What has happened by itself until now is not the command's doing.
        changes = outbound.changes_between(start, book.account, book.program)
        audit = outbound.audit(received, command, digest, result, outcome, recorded_at_ms, changes=changes)
    return finish(book, audit, recorded_at_ms, before)


def finish(book: Book, audit: SyncAudit | None, recorded_at_ms: int, before: Account | None) -> Settlement:
    """The book's account with its times, and everything that was written."""
    due_ms = timers.next_due_ms(book.account)
    indexed_ms = before.due_at_ms if before is not None else None
    # A time that is too early costs one vain look; moving it with every command would cost a row each.
    if indexed_ms is None or indexed_ms <= book.now_ms or (due_ms is not None and due_ms < indexed_ms):
        indexed_ms = None if due_ms is None else max(due_ms, book.now_ms + 1)
    book.touch(clock_ms=max(book.now_ms, book.account.clock_ms), due_at_ms=indexed_ms)
    return Settlement(
        account=book.account,
        outcomes=book.outcomes,
        vouchers=book.vouchers,
        relays=tuple(book.relays),
        events=outbound.events(book.steps, recorded_at_ms),
        entries=tuple(book.entries),
        profiles=outbound.profiles(book.steps, recorded_at_ms),
        audit=audit,
        audit_by_clock=outbound.audit_by_clock(book.steps, before, book.program, recorded_at_ms),
    )


def decide(book: Book, command: Command, effect: ledger.Effect, trespassed: Sequence[tuple[str, str]]) -> Refusal | CommandResult | None:
    """The answer to a command that was not decided before: None if it is applied. Only an enrolment can do without an account."""
    if book.opened is not None and book.opened.status is MemberStatus.ERASED:
        return Refusal.MEMBER_ERASED
    if trespassed:
        book.detail = mastering.told(trespassed)
        return Refusal.ATTRIBUTE_MASTERED_EXTERNALLY
    if isinstance(command, Enrolment):
        return profiles.decide_enrolment(book, command)
    if isinstance(command, Transaction):
        return ledger.decide(book, command, effect)
    if isinstance(command, ProfileChange):
        return profiles.decide_change(book, command)
    if isinstance(command, OfferActivation):
        return offers.decide_activation(book, command)
    return membership.decide(book, command)


def _is_open(account: Account, transaction_id: str) -> bool:
    return any(lot.lot_id == transaction_id for lot in account.lots) or any(hold.hold_id == transaction_id for hold in account.holds)


def stays_here(account: Account, command: Command) -> bool:
    """Whether a merged member decides it: it is about the member's own record, wherever the points are. What is personal of one who was
    erased goes to nobody."""
    if isinstance(command, MemberOperation):
        return command.kind is MemberOperationKind.ERASE
    return isinstance(command, Enrolment) or (isinstance(command, ProfileChange) and account.status is MemberStatus.ERASED)


def repeat(
    account: Account | None, received: Received, command: Command, digest: str, remembered: Outcome, recorded_at_ms: int
) -> Settlement:
    """The id was decided before: the same content gets the same answer, other content is a conflict. Neither changes anything."""
    if digest == remembered.payload_hash:
        audit = outbound.audit(received, command, digest, remembered.result, remembered, recorded_at_ms, replayed=True)
    else:
        audit = outbound.audit(received, command, digest, CommandResult.CONFLICT, None, recorded_at_ms, reason=ID_REUSED)
    return Settlement(account=account, outcomes={}, vouchers={}, audit=audit)


def _forwarded(book: Book, account: Account, received: Received, command: Command) -> Settlement:
    """The member was merged: whoever took over decides. What is remembered of a transaction that the command names goes along."""
    named = named_by(command)
    original = book.outcome(named) if named else None
    relay = Relay(
        program_id=account.program_id,
        member_id=account.merged_into or "",
        relay_id=f"fwd_{received.topic}-{received.partition}-{received.offset}",
        kind=RelayKind.FORWARD,
        from_member_id=account.member_id,
        original=original,
        origin=origin_of(book.cause, topic=received.topic, partition=received.partition, offset=received.offset),
    )
    return Settlement(account=account, outcomes={}, vouchers={}, relays=(relay,), audit=None)


def cause_of_command(received: Received, command: Command) -> Cause:
    return Cause(
        command_id=command_id(command),
        stream=received.stream,
        source_system=command.source_system,
        reason=outbound.reason_of(command),
        occurred_at_ms=command.occurred_at_ms,
        ingested_at_ms=received.ingested_at_ms,
        correlation_id=received.correlation_id,
    )


def tick(
    account: Account, ingested_at_ms: int, *, rows: Rows, programs: Sequence[Program], clock_ms: int, recorded_at_ms: int
) -> Settlement:
    """Let happen what is due to a member until the log's time."""
    opened = brought_up(account)
    assert opened is not None
    now_ms = max(ingested_at_ms, clock_ms, opened.clock_ms)
    cause = Cause(
        command_id="", stream="ticks", source_system="", reason=None, occurred_at_ms=now_ms, ingested_at_ms=ingested_at_ms, correlation_id=None
    )
    book = Book(
        opened, cause, None, programs=programs, now_ms=now_ms, recorded_at_ms=recorded_at_ms, outcomes=rows.outcomes, vouchers=rows.vouchers
    )
    timers.advance(book)
    return finish(book, None, recorded_at_ms, opened)


def named_by(command: Command) -> str | None:
    """The transaction that a command is about."""
    return command.reverses_transaction_id or command.related_transaction_id if isinstance(command, Transaction) else None
