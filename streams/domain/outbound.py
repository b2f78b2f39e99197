"""Facts -> outbound records: events, ledger entries, profile versions, and the audit record of every command.

What is absolute in an event is as of that very event: a BALANCE_CHANGED shows the points after it and the tier before the promotion
that follows as TIER_CHANGED. The last event of a command shows the account as it is stored.
"""

from collections.abc import Iterable, Sequence
from functools import partial
from operator import attrgetter

from schemas.contract import Command, command_id
from schemas.records import (
    Account,
    AccountSnapshot,
    AttributeChange,
    AttributeOrigin,
    CommandResult,
    Enrolment,
    LoyaltyEvent,
    LoyaltyEventKind,
    MemberOperation,
    MemberProfile,
    MemberStatus,
    OfferActivation,
    Outcome,
    ProfileChange,
    SyncAudit,
    Transaction,
)
from schemas.records import Cause as EventCause
from streams.domain.book import CLOCK_STREAM, Cause, Received, Step
from streams.domain.facts import (
    SILENT,
    CommandRefused,
    Fact,
    IdentityRefused,
    MemberAbsorbed,
    MemberEnrolled,
    MemberErased,
    MemberMerged,
    OfferActivated,
    PointsMoved,
    PoolChanged,
    ProfileChanged,
    ProfileVersioned,
    StatusChanged,
    StatusScheduled,
    TierChanged,
    TierRetained,
    VoucherClosed,
    VoucherIssued,
)
from streams.domain.identity import event_id, pseudonym
from streams.domain.lots import PARTS_SHOWN_MAX
from streams.domain.mastering import EXTERNAL_IDS, SEGMENTS, STATUS
from streams.domain.origins import by_name
from streams.domain.program import PersonalData, Program

HIDDEN, HASHED_CHARACTERS = "***", 16
"""What stands for what is not shown, and how much of a hash is."""


def events(steps: Iterable[Step], recorded_at_ms: int) -> tuple[LoyaltyEvent, ...]:
    """One event per fact, but for the facts that have none."""
    return tuple(_event(step, recorded_at_ms) for step in steps if not isinstance(step.fact, SILENT))


def _event(step: Step, recorded_at_ms: int) -> LoyaltyEvent:
    fact, account, cause = step
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
            pending_points=account.pending_points,
            held_points=account.held_points,
            debt_points=account.debt_points,
            tier_valid_until_ms=account.tier_valid_until_ms,
        ),
        cause=EventCause(
            command_id=cause.command_id,
            stream=cause.stream,
            source_system=cause.source_system,
            # A sender's words may be about the person, the erasure's own among them.
            reason=None if account.status is MemberStatus.ERASED else cause.reason,
        ),
        occurred_at_ms=cause.occurred_at_ms,
        ingested_at_ms=cause.ingested_at_ms,
        recorded_at_ms=recorded_at_ms,
        correlation_id=cause.correlation_id,
    )
    if isinstance(fact, PointsMoved):
        return event(
            kind=LoyaltyEventKind.BALANCE_CHANGED, points_delta=fact.points_delta, shortfall_points=fact.shortfall_points, movement=fact.movement,
            lots=tuple(part for posting in fact.postings for part in posting.lots)[:PARTS_SHOWN_MAX], hold_id=fact.hold_id,
            expires_at_ms=fact.expires_at_ms, counter_member_id=fact.counter_member_id,
        )  # fmt: skip
    return _other_event(fact, event)


def _other_event(fact: Fact, event: "partial[LoyaltyEvent]") -> LoyaltyEvent:
    match fact:
        case CommandRefused():
            return event(kind=LoyaltyEventKind.COMMAND_REFUSED, refusal=fact.refusal.value, refusal_detail=fact.detail)
        case TierChanged():
            return event(kind=LoyaltyEventKind.TIER_CHANGED, previous_tier=fact.previous_tier)
        case TierRetained():
            return event(kind=LoyaltyEventKind.TIER_RETAINED)
        case VoucherIssued():
            return event(
                kind=LoyaltyEventKind.VOUCHER_ISSUED, reward_code=fact.reward_code, voucher_code=fact.voucher_code, expires_at_ms=fact.expires_at_ms
            )
        case VoucherClosed():
            kind = LoyaltyEventKind(f"VOUCHER_{fact.state}")
            return event(kind=kind, reward_code=fact.voucher.reward_code, voucher_code=fact.voucher.voucher_code)
        case OfferActivated():
            return event(kind=LoyaltyEventKind.OFFER_ACTIVATED, offer_id=fact.offer_id)
        case ProfileChanged():
            return event(kind=LoyaltyEventKind.PROFILE_CHANGED, changed_attributes=fact.changed)
        case StatusChanged(status=MemberStatus.SUSPENDED):
            return event(kind=LoyaltyEventKind.ACCOUNT_SUSPENDED)
        case StatusChanged(status=MemberStatus.LEFT):
            return event(kind=LoyaltyEventKind.MEMBER_LEFT)
        case StatusChanged():
            return event(kind=LoyaltyEventKind.ACCOUNT_REACTIVATED)
        case StatusScheduled():
            return event(kind=LoyaltyEventKind.STATUS_SCHEDULED, effective_at_ms=fact.at_ms)
        case MemberEnrolled():
            return event(kind=LoyaltyEventKind.MEMBER_ENROLLED)
        case MemberMerged():
            return event(kind=LoyaltyEventKind.MEMBER_MERGED, counter_member_id=fact.into)
        case MemberAbsorbed():
            return event(kind=LoyaltyEventKind.MEMBER_MERGED, counter_member_id=fact.source)
        case MemberErased():
            return event(kind=LoyaltyEventKind.MEMBER_ERASED)
        case IdentityRefused():
            return event(kind=LoyaltyEventKind.IDENTITY_CONFLICT, identity_type=fact.identity_type, counter_member_id=fact.owner)
        case PoolChanged():
            return event(kind=LoyaltyEventKind.POOL_CHANGED, counter_member_id=fact.pool_member_id)
        case _:
            raise ValueError(f"{type(fact).__name__} has no event")


def profiles(steps: Iterable[Step], recorded_at_ms: int) -> tuple[MemberProfile, ...]:
    """The new version of the profile, if there is one."""
    return tuple(_profile(step.fact, step.account, step.cause, recorded_at_ms) for step in steps if isinstance(step.fact, ProfileVersioned))


def _profile(fact: ProfileVersioned, account: Account, cause: Cause, recorded_at_ms: int) -> MemberProfile:
    return MemberProfile(
        program_id=account.program_id,
        member_id=account.member_id,
        version=account.profile_version,
        operation=fact.operation,
        attributes=account.attributes,
        segments=account.segments,
        external_ids=account.external_ids,
        status=account.status,
        tier=account.tier,
        changed=fact.changed,
        source_system=cause.source_system,
        valid_from_ms=cause.occurred_at_ms,
        ingested_at_ms=cause.ingested_at_ms,
        recorded_at_ms=recorded_at_ms,
        correlation_id=cause.correlation_id,
    )


def audit(
    received: Received,
    command: Command,
    payload_hash: str,
    result: CommandResult,
    answer: Outcome | None,
    recorded_at_ms: int,
    *,
    reason: str | None = None,
    detail: str | None = None,
    replayed: bool = False,
    changes: Sequence[AttributeChange] = (),
) -> SyncAudit:
    """The record of what became of the command, whatever that is. `answer` holds its numbers; None: nothing was decided, there are none."""
    return SyncAudit(
        audit_id=f"{received.topic}-{received.partition}-{received.offset}{'-released' if received.released else ''}",
        program_id=command.program_id,
        member_id=command.member_id,
        stream=received.stream,
        command_id=command_id(command),
        payload_hash=payload_hash,
        source_system=command.source_system,
        actor=None if isinstance(command, OfferActivation) else command.actor,
        result=result,
        reason=answer.reason if answer else reason,
        detail=answer.detail if answer else detail,
        source_version=command.source_version if isinstance(command, Enrolment | ProfileChange) else None,
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


def audit_by_clock(steps: Sequence[Step], before: Account | None, program: Program, recorded_at_ms: int) -> tuple[SyncAudit, ...]:
    """A status that had been scheduled and has taken effect: from the system that scheduled it, by its event. So is an external id that was
    claimed and is refused, later than the command was answered."""
    audits = []
    for number, step in enumerate(steps):
        earlier = steps[number - 1].account if number else before
        if isinstance(step.fact, StatusChanged) and step.cause.stream == CLOCK_STREAM:
            scheduled = by_name(step.account).get(STATUS)
            detail = f"scheduled by {scheduled.event_id}" if scheduled is not None else None
            audits.append(_later_audit(step, earlier, program, scheduled, CommandResult.APPLIED, None, detail, recorded_at_ms))
        elif isinstance(step.fact, IdentityRefused):
            name = EXTERNAL_IDS + step.fact.identity_type
            detail = f"{name} leads to {step.fact.owner}"
            reason = LoyaltyEventKind.IDENTITY_CONFLICT.value
            claimed = by_name(step.account).get(name)
            audits.append(_later_audit(step, earlier, program, claimed, CommandResult.REFUSED, reason, detail, recorded_at_ms))
    return tuple(audits)


def _later_audit(
    step: Step, earlier: Account | None, program: Program, origin: AttributeOrigin | None, result: CommandResult, reason: str | None,
    detail: str | None, recorded_at_ms: int,
) -> SyncAudit:  # fmt: skip
    """Of what follows from a command long after its answer. `origin`: whose word it was."""
    _, account, cause = step
    return SyncAudit(
        audit_id=event_id(account.program_id, account.member_id, account.event_sequence),
        program_id=account.program_id,
        member_id=account.member_id,
        stream=cause.stream,
        command_id=cause.command_id,
        payload_hash="",
        source_system=origin.source_system if origin is not None else cause.source_system,
        result=result,
        reason=reason,
        detail=detail,
        source_version=origin.source_version if origin is not None else None,
        changes=tuple(changes_between(earlier, account, program)),
        sequence=account.event_sequence,
        points_delta=0,
        available_points=account.available_points,
        tier=account.tier,
        occurred_at_ms=cause.occurred_at_ms,
        ingested_at_ms=cause.ingested_at_ms,
        recorded_at_ms=recorded_at_ms,
        correlation_id=cause.correlation_id,
        topic="",
        partition=0,
        offset=0,
    )


NUMBERS_AND_STATES = (
    "available_points", "pending_points", "held_points", "debt_points", "qualifying_points", "tier", "status", "scheduled_status",
    "merged_into", "pool_member_id", "scheduled_at_ms",
)  # fmt: skip
_numbers_and_states, _NO_VALUES = attrgetter(*NUMBERS_AND_STATES), (None,) * len(NUMBERS_AND_STATES)


def changes_between(before: Account | None, after: Account, program: Program) -> list[AttributeChange]:
    """What an audit record tells about a change: numbers and states in full, profile values as the programme says, segments only counted
    unless it shows them."""
    changes = []
    old_values: tuple[object, ...] = _NO_VALUES if before is None else _numbers_and_states(before)
    new_values: tuple[object, ...] = _numbers_and_states(after)
    if old_values != new_values:
        for name, old, new in zip(NUMBERS_AND_STATES, old_values, new_values, strict=True):
            if old != new and (old is not None or new != 0):
                changes.append(AttributeChange(attribute=name, before=_text(old), after=_text(new)))
    old_offers = before.active_offers if before else ()
    if old_offers != after.active_offers:
        old_ids, new_ids = ", ".join(old_offers), ", ".join(after.active_offers)
        changes.append(AttributeChange(attribute="active_offers", before=old_ids or None, after=new_ids or None))
    return changes + _profile_changes(before, after, program)


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _profile_changes(before: Account | None, after: Account, program: Program) -> list[AttributeChange]:
    if (
        before is not None
        and before.attributes is after.attributes
        and before.segments is after.segments
        and before.external_ids is after.external_ids
    ):
        return []
    changes = []
    old_values = before.attributes if before else {}
    for name in sorted(old_values.keys() | after.attributes.keys()):
        old, new = old_values.get(name), after.attributes.get(name)
        if old != new:
            changes.append(AttributeChange(attribute=name, before=masked(program, name, old), after=masked(program, name, new)))
    old_ids = before.external_ids if before else {}
    for kind in sorted(old_ids.keys() | after.external_ids.keys()):
        old, new = old_ids.get(kind), after.external_ids.get(kind)
        if old != new:
            name = EXTERNAL_IDS + kind
            changes.append(AttributeChange(attribute=name, before=masked(program, name, old), after=masked(program, name, new)))
    old_segments = before.segments if before else ()
    if old_segments != after.segments:
        told = ", ".join if SEGMENTS in program.audit_shows else _counted
        changes.append(AttributeChange(attribute=SEGMENTS, before=told(old_segments), after=told(after.segments)))
    return changes


def _counted(tags: Sequence[str]) -> str:
    return f"{len(tags)} tags"


def masked(program: Program, name: str, value: str | None) -> str | None:
    """A value that may be personal, as the programme lets the audit show it. What is not said to be shown may be: what a programme keeps about
    its members is not for us to judge."""
    if value is None or name in program.audit_shows:
        return value
    match program.personal_data:
        case PersonalData.HASHED:
            return "hmac:" + pseudonym(program.voucher_key, "audit", program.program_id, name, value)[:HASHED_CHARACTERS]
        case PersonalData.HIDDEN:
            return HIDDEN
    # Enough to recognise a mistake, and not a person.
    return (value[0] if len(value) > 1 else "") + HIDDEN


def reason_of(command: Command) -> str | None:
    """Why the command was sent, in its sender's words."""
    if isinstance(command, Transaction | MemberOperation):
        return command.reason
    return command.status_reason if isinstance(command, ProfileChange) else None
