"""Facts -> outbound records: events, ledger entries, profile versions, and the audit record of every command.

What is absolute in an event is as of that very event: a BALANCE_CHANGED shows the points after it and the tier before the promotion
that follows as TIER_CHANGED. The last event of a command shows the account as it is stored.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from schemas.contract import Command, command_id
from schemas.records import (
    Account,
    AccountSnapshot,
    AttributeChange,
    Cause,
    CommandResult,
    LedgerEntry,
    LoyaltyEvent,
    LoyaltyEventKind,
    MemberProfile,
    MemberStatus,
    Outcome,
    ProfileChange,
    SyncAudit,
    Transaction,
)
from streams.domain.accounts import Step
from streams.domain.facts import (
    CommandRefused,
    Fact,
    MemberEnrolled,
    OfferActivated,
    PointsMoved,
    ProfileChanged,
    ProfileVersioned,
    SourceVersionApplied,
    StatusChanged,
    TierChanged,
    VoucherIssued,
)
from streams.domain.identity import entry_id, event_id

UNPERSONAL_ATTRIBUTES = frozenset({"locale", "time_zone"})
"""Attributes whose values the audit shows. All others are masked: what a programme keeps about its members is not for us to judge."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """A command as it came in."""

    stream: str
    """Inbound stream: enrolments, transactions, profile-changes or offer-activations."""
    command: Command
    topic: str
    partition: int
    offset: int
    ingested_at_ms: int
    correlation_id: str | None
    released: bool = False
    """True when it had waited for its member's enrolment and is decided now."""


def events(steps: Iterable[Step], received: Received, recorded_at_ms: int) -> tuple[LoyaltyEvent, ...]:
    """One event per fact, but for the facts that have none."""
    command = received.command
    cause = Cause(
        command_id=command_id(command),
        stream=received.stream,
        source_system=command.source_system,
        reason=_reason(command),
    )
    return tuple(
        _event(fact, account, cause, received, recorded_at_ms)
        for fact, account in steps
        if not isinstance(fact, ProfileVersioned | SourceVersionApplied)
    )


def _event(fact: Fact, account: Account, cause: Cause, received: Received, recorded_at_ms: int) -> LoyaltyEvent:
    event = partial(
        LoyaltyEvent,
        event_id=event_id(account.program_id, account.member_id, account.event_sequence),
        program_id=account.program_id,
        member_id=account.member_id,
        sequence=account.event_sequence,
        account=AccountSnapshot(
            status=account.status,
            tier=account.tier,
            available_points=account.available_points,
            qualifying_points=account.qualifying_points,
        ),
        cause=cause,
        occurred_at_ms=received.command.occurred_at_ms,
        ingested_at_ms=received.ingested_at_ms,
        recorded_at_ms=recorded_at_ms,
        correlation_id=received.correlation_id,
    )
    match fact:
        case PointsMoved():
            return event(kind=LoyaltyEventKind.BALANCE_CHANGED, points_delta=fact.points_delta, shortfall_points=fact.shortfall_points)
        case CommandRefused():
            return event(kind=LoyaltyEventKind.COMMAND_REFUSED, refusal=fact.refusal.value)
        case TierChanged():
            return event(kind=LoyaltyEventKind.TIER_CHANGED, previous_tier=fact.previous_tier)
        case VoucherIssued():
            return event(kind=LoyaltyEventKind.VOUCHER_ISSUED, reward_code=fact.reward_code, voucher_code=fact.voucher_code)
        case OfferActivated():
            return event(kind=LoyaltyEventKind.OFFER_ACTIVATED, offer_id=fact.offer_id)
        case ProfileChanged():
            return event(kind=LoyaltyEventKind.PROFILE_CHANGED, changed_attributes=fact.changed)
        case StatusChanged(status=MemberStatus.SUSPENDED):
            return event(kind=LoyaltyEventKind.ACCOUNT_SUSPENDED)
        case StatusChanged():
            return event(kind=LoyaltyEventKind.ACCOUNT_REACTIVATED)
        case MemberEnrolled():
            return event(kind=LoyaltyEventKind.MEMBER_ENROLLED)
        case _:
            raise ValueError(f"{type(fact).__name__} has no event")


def entries(steps: Iterable[Step], received: Received, recorded_at_ms: int) -> tuple[LedgerEntry, ...]:
    """One entry per posting, with running balances."""
    command = received.command
    if not isinstance(command, Transaction):
        return ()
    written: list[LedgerEntry] = []
    for fact, account in steps:
        if not isinstance(fact, PointsMoved):
            continue
        balance = account.available_points - fact.points_delta
        number = account.entry_sequence - len(fact.postings)
        for posting in fact.postings:
            balance += posting.points_delta
            number += 1
            written.append(
                LedgerEntry(
                    entry_id=entry_id(account.program_id, account.member_id, number),
                    program_id=account.program_id,
                    member_id=account.member_id,
                    entry_sequence=number,
                    transaction_id=command.transaction_id,
                    kind=posting.kind,
                    points_delta=posting.points_delta,
                    balance_after=balance,
                    counter_account=posting.counter_account,
                    rule_id=posting.rule_id,
                    reverses_transaction_id=command.reverses_transaction_id,
                    source_system=command.source_system,
                    property_id=command.property_id,
                    category=command.category,
                    reason=command.reason,
                    occurred_at_ms=command.occurred_at_ms,
                    ingested_at_ms=received.ingested_at_ms,
                    recorded_at_ms=recorded_at_ms,
                    correlation_id=received.correlation_id,
                )
            )
    return tuple(written)


def profiles(steps: Iterable[Step], received: Received, recorded_at_ms: int) -> tuple[MemberProfile, ...]:
    """The new version of the profile, if there is one."""
    return tuple(
        MemberProfile(
            program_id=account.program_id,
            member_id=account.member_id,
            version=account.profile_version,
            operation=fact.operation,
            attributes=account.attributes,
            segments=account.segments,
            status=account.status,
            tier=account.tier,
            changed=fact.changed,
            source_system=received.command.source_system,
            valid_from_ms=received.command.occurred_at_ms,
            ingested_at_ms=received.ingested_at_ms,
            recorded_at_ms=recorded_at_ms,
            correlation_id=received.correlation_id,
        )
        for fact, account in steps
        if isinstance(fact, ProfileVersioned)
    )


def audit(
    received: Received,
    payload_hash: str,
    result: CommandResult,
    answer: Outcome | None,
    recorded_at_ms: int,
    *,
    reason: str | None = None,
    replayed: bool = False,
    changes: Sequence[AttributeChange] = (),
) -> SyncAudit:
    """The record of what became of the command, whatever that is. `answer` holds its numbers; None: nothing was decided, there are none."""
    command = received.command
    return SyncAudit(
        audit_id=f"{received.topic}-{received.partition}-{received.offset}{'-released' if received.released else ''}",
        program_id=command.program_id,
        member_id=command.member_id,
        stream=received.stream,
        command_id=command_id(command),
        payload_hash=payload_hash,
        source_system=command.source_system,
        actor=command.actor if isinstance(command, Transaction) else None,
        result=result,
        reason=answer.reason if answer else reason,
        replayed=replayed,
        changes=tuple(changes),
        sequence=answer.sequence if answer else None,
        points_delta=answer.points_delta if answer else None,
        available_points=answer.available_points if answer else None,
        tier=answer.tier if answer else None,
        voucher_code=answer.voucher_code if answer else None,
        occurred_at_ms=command.occurred_at_ms,
        ingested_at_ms=received.ingested_at_ms,
        recorded_at_ms=recorded_at_ms,
        correlation_id=received.correlation_id,
        topic=received.topic,
        partition=received.partition,
        offset=received.offset,
    )


def changes_between(before: Account | None, after: Account) -> list[AttributeChange]:
    """What an audit record tells about a change: numbers and states in full, profile values masked, segments only counted."""
    changes = []
    for name in ("available_points", "qualifying_points", "tier", "status"):
        old, new = getattr(before, name, None), getattr(after, name)
        if old != new and (old is not None or new != 0):
            changes.append(AttributeChange(attribute=name, before=None if old is None else str(old), after=str(new)))
    old_offers = before.active_offers if before else ()
    if old_offers != after.active_offers:
        old_ids, new_ids = ", ".join(old_offers), ", ".join(after.active_offers)
        changes.append(AttributeChange(attribute="active_offers", before=old_ids or None, after=new_ids or None))
    return changes + _profile_changes(before, after)


def _profile_changes(before: Account | None, after: Account) -> list[AttributeChange]:
    if before is not None and before.attributes is after.attributes and before.segments is after.segments:
        return []
    changes = []
    old_values = before.attributes if before else {}
    for name in sorted(old_values.keys() | after.attributes.keys()):
        old, new = old_values.get(name), after.attributes.get(name)
        if old != new:
            changes.append(AttributeChange(attribute=name, before=masked(name, old), after=masked(name, new)))
    old_segments = before.segments if before else ()
    if old_segments != after.segments:
        changes.append(AttributeChange(attribute="segments", before=f"{len(old_segments)} tags", after=f"{len(after.segments)} tags"))
    return changes


def masked(name: str, value: str | None) -> str | None:
    """The first character of a value that may be personal, enough to recognise a mistake and not a person."""
    if value is None or name in UNPERSONAL_ATTRIBUTES:
        return value
    return (value[0] if len(value) > 1 else "") + "***"


def _reason(command: Command) -> str | None:
    if isinstance(command, Transaction):
        return command.reason
    return command.status_reason if isinstance(command, ProfileChange) else None
