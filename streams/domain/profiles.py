"""Enrolments and profile changes -> decisions."""

from collections.abc import Iterable, Mapping

from schemas.contract import ATTRIBUTES_MAX
from schemas.records import Account, CommandResult, Enrolment, ProfileChange, ProfileOperation
from streams.domain.book import Book
from streams.domain.facts import (
    MemberEnrolled,
    ProfileChanged,
    ProfileVersioned,
    SourceVersionApplied,
    StatusChanged,
    StatusScheduled,
)
from streams.domain.refusals import Refusal
from streams.domain.tiers import tier_for

SOURCE_SYSTEMS_MAX = 64  # Per member. With ATTRIBUTES_MAX it keeps an account well below Kafka's limit of 1 MB per record.


def decide_enrolment(book: Book, command: Enrolment) -> Refusal | None:
    if book.opened is not None:
        return Refusal.MEMBER_ALREADY_ENROLLED
    attributes = dict(sorted(command.attributes.items()))
    segments = _tags(command.segments)
    enrolled = MemberEnrolled(
        program_id=command.program_id,
        member_id=command.member_id,
        tier=tier_for(book.program, 0).name,
        attributes=attributes,
        segments=segments,
        enrolled_at_ms=command.occurred_at_ms,
    )
    book.record(enrolled)
    _note_source_version(book, command)
    changed = (*attributes, *(("segments",) if segments else ()), "status", "tier")
    book.record(ProfileVersioned(operation=ProfileOperation.ENROL, changed=changed))
    return None


def decide_change(book: Book, command: ProfileChange) -> Refusal | CommandResult | None:
    """Only what really changes makes an event. A command that changes nothing is applied: the account is as it asks for."""
    account = book.account
    if not _is_newer(account, command):
        return CommandResult.SUPERSEDED
    attributes = _merged(account, command)
    if _grows_too_large(account, command, attributes):
        return Refusal.PROFILE_TOO_LARGE
    segments = account.segments if command.segments is None else _tags(command.segments)
    names = sorted(name for name in command.attributes if attributes.get(name) != account.attributes.get(name))
    if segments != account.segments:
        names.append("segments")
    _note_source_version(book, command)
    if names:
        book.record(ProfileChanged(attributes=attributes, segments=segments, changed=tuple(names)))
    if command.status is not None and _change_status(book, account, command):
        names.append("status")
    if names:
        book.record(ProfileVersioned(operation=ProfileOperation.CHANGE, changed=tuple(names)))
    return None


def _change_status(book: Book, account: Account, command: ProfileChange) -> bool:
    """At once, or at its time. Whether the status is another one now."""
    assert command.status is not None
    if command.status_from_ms is not None and command.status_from_ms > book.now_ms:
        book.record(StatusScheduled(status=command.status, at_ms=command.status_from_ms, reason=command.status_reason))
        return False
    if command.status is account.status and account.scheduled_status is None:
        return False
    # The newest word counts: what was scheduled before is off, even if the status stays what it is.
    book.record(StatusChanged(status=command.status, reason=command.status_reason))
    return command.status is not account.status


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


def _note_source_version(book: Book, command: Enrolment | ProfileChange) -> None:
    if command.source_version is not None:
        book.record(SourceVersionApplied(source_system=command.source_system, version=command.source_version))
