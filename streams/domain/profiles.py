"""Enrolments and profile changes -> decisions."""

from collections.abc import Iterable, Mapping

from schemas.contract import ATTRIBUTES_MAX
from schemas.records import Account, CommandResult, Enrolment, ProfileChange, ProfileOperation
from streams.domain.facts import (
    Decision,
    Fact,
    MemberEnrolled,
    ProfileChanged,
    ProfileVersioned,
    SourceVersionApplied,
    StatusChanged,
    applied,
    refused,
)
from streams.domain.program import Program
from streams.domain.refusals import Refusal
from streams.domain.tiers import tier_for

SOURCE_SYSTEMS_MAX = 64  # Per member. With ATTRIBUTES_MAX it keeps an account well below Kafka's limit of 1 MB per record.


def decide_enrolment(account: Account | None, command: Enrolment, program: Program) -> Decision:
    if account is not None:
        return refused(Refusal.MEMBER_ALREADY_ENROLLED)
    attributes = dict(sorted(command.attributes.items()))
    segments = _tags(command.segments)
    enrolled = MemberEnrolled(
        program_id=command.program_id,
        member_id=command.member_id,
        tier=tier_for(program, 0).name,
        attributes=attributes,
        segments=segments,
        enrolled_at_ms=command.occurred_at_ms,
    )
    changed = (*attributes, *(("segments",) if segments else ()), "status", "tier")
    versioned = ProfileVersioned(operation=ProfileOperation.ENROL, changed=changed)
    return applied(enrolled, *_source_version(command), versioned)


def decide_change(account: Account, command: ProfileChange) -> Decision:
    """Only what really changes makes an event. A command that changes nothing is applied: the account is as it asks for."""
    if not _is_newer(account, command):
        return Decision(result=CommandResult.SUPERSEDED)
    attributes = _merged(account, command)
    if _grows_too_large(account, command, attributes):
        return refused(Refusal.PROFILE_TOO_LARGE)
    segments = account.segments if command.segments is None else _tags(command.segments)
    names = sorted(name for name in command.attributes if attributes.get(name) != account.attributes.get(name))
    if segments != account.segments:
        names.append("segments")
    facts: list[Fact] = []
    if names:
        facts.append(ProfileChanged(attributes=attributes, segments=segments, changed=tuple(names)))
    if command.status is not None and command.status is not account.status:
        facts.append(StatusChanged(status=command.status, reason=command.status_reason))
        names.append("status")
    if facts:
        facts.append(ProfileVersioned(operation=ProfileOperation.CHANGE, changed=tuple(names)))
    return applied(*_source_version(command), *facts)


def _is_newer(account: Account, command: ProfileChange) -> bool:
    """Versions are compared within one source system only. An equal one under another id says nothing new."""
    applied_version = account.source_versions.get(command.source_system)
    return command.source_version is None or applied_version is None or command.source_version > applied_version


def _grows_too_large(account: Account, command: ProfileChange, attributes: Mapping[str, str]) -> bool:
    """An account that is above a limit, because the limit was lowered, can still be changed; it only cannot grow."""
    if len(attributes) > ATTRIBUTES_MAX and len(attributes) > len(account.attributes):
        return True
    known = account.source_versions
    return command.source_version is not None and command.source_system not in known and len(known) >= SOURCE_SYSTEMS_MAX


def _merged(account: Account, command: ProfileChange) -> dict[str, str]:
    # Sorted, so that the order of arrival does not show in the bytes of the account.
    merged = {**account.attributes, **command.attributes}
    return {name: value for name, value in sorted(merged.items()) if value is not None}


def _tags(segments: Iterable[str]) -> tuple[str, ...]:
    """Segments are a set: order and repetition say nothing."""
    return tuple(sorted(set(segments)))


def _source_version(command: Enrolment | ProfileChange) -> tuple[Fact, ...]:
    if command.source_version is None:
        return ()
    return (SourceVersionApplied(source_system=command.source_system, version=command.source_version),)
