"""Enrolments and profile changes -> decisions. Whose word counts is in mastering.py, what is news of a source in origins.py."""

from collections.abc import Iterable, Mapping
from datetime import date

from schemas.contract import ATTRIBUTES_MAX, EXTERNAL_IDS_MAX
from schemas.records import (
    Account,
    AttributeOrigin,
    CommandResult,
    Enrolment,
    MemberStatus,
    ProfileChange,
    ProfileOperation,
    Relay,
    RelayKind,
)
from streams.domain import ledger, origins
from streams.domain.book import Book
from streams.domain.facts import (
    MemberEnrolled,
    OriginsNoted,
    ProfileChanged,
    ProfileVersioned,
    StatusChanged,
    StatusScheduled,
)
from streams.domain.identity import address, derived_id
from streams.domain.mastering import EXTERNAL_IDS, SEGMENTS, STATUS, master_of, names_of
from streams.domain.origins import STATUS_RANK, Word
from streams.domain.periods import instant, is_time_zone
from streams.domain.refusals import Refusal
from streams.domain.relays import origin_of
from streams.domain.tiers import tier_for

SOURCE_SYSTEMS_MAX = 64  # Per member. With ATTRIBUTES_MAX it keeps an account well below Kafka's limit of 1 MB per record.


def decide_enrolment(book: Book, command: Enrolment) -> Refusal | CommandResult | None:
    if book.opened is not None:
        return _begin_again(book, command)
    attributes = dict(sorted(command.attributes.items()))
    segments = _tags(command.segments)
    external_ids = dict(sorted((command.external_ids or {}).items()))
    book.record(
        MemberEnrolled(
            program_id=command.program_id,
            member_id=command.member_id,
            tier=tier_for(book.program, 0).name,
            attributes=attributes,
            segments=segments,
            external_ids=external_ids,
            enrolled_at_ms=command.occurred_at_ms,
        )
    )
    _note(book, command, origins.noted(book.account, command, book.cause.command_id, names_of(command)))
    _tell_identities(book, {}, external_ids)
    changed = (*attributes, *((SEGMENTS,) if segments else ()), *(EXTERNAL_IDS + kind for kind in external_ids), STATUS, "tier")
    book.record(ProfileVersioned(operation=ProfileOperation.ENROL, changed=changed))
    return None


def _begin_again(book: Book, command: Enrolment) -> Refusal | CommandResult | None:
    """An enrolment of who has left: the same number, points, tier and history; what the enrolment says of the profile is set. Where the news
    of their leaving comes later than that of their return, the return's version says so, and the leaving is superseded when it comes."""
    account = book.account
    if account.status is not MemberStatus.LEFT and not _overtakes(account, command):
        return Refusal.MEMBER_ALREADY_ENROLLED
    change = ProfileChange(
        program_id=command.program_id, member_id=command.member_id, event_id=command.event_id, source_system=command.source_system,
        occurred_at_ms=command.occurred_at_ms, source_version=command.source_version, attributes=command.attributes,
        segments=command.segments or None, status=MemberStatus.ACTIVE, external_ids=command.external_ids,
    )  # fmt: skip
    if not _is_news(book, origins.by_name(account), change, STATUS):
        return CommandResult.SUPERSEDED
    return decide_change(book, change)


def _overtakes(account: Account, command: Enrolment) -> bool:
    """Whether the enrolment is a newer word of the system that has the last one on the status."""
    last = origins.by_name(account).get(STATUS)
    return (
        account.status in STATUS_RANK
        and last is not None
        and last.source_system == command.source_system
        and last.source_version is not None
        and command.source_version is not None
        and command.source_version > last.source_version
    )


def decide_change(book: Book, command: ProfileChange) -> Refusal | CommandResult | None:
    """Only what really changes makes an event. A command that changes nothing is applied: the account is as it asks for."""
    account = book.account
    touched = names_of(command)
    known = origins.by_name(account)
    news = {name for name in touched if _is_news(book, known, command, name)}
    if not news:
        return CommandResult.SUPERSEDED
    attributes = _merged(account.attributes, {name: value for name, value in command.attributes.items() if name in news})
    said_ids = command.external_ids or {}
    external_ids = _merged(account.external_ids, {kind: value for kind, value in said_ids.items() if EXTERNAL_IDS + kind in news})
    noted = origins.noted(account, command, book.cause.command_id, news)
    if _grows_too_large(account, command, attributes, external_ids, sum(len(origin.names) for origin in noted)):
        return Refusal.PROFILE_TOO_LARGE
    if len(news) < len(touched):
        book.detail = "superseded: " + ", ".join(name for name in touched if name not in news)
    segments = account.segments if command.segments is None or SEGMENTS not in news else _tags(command.segments)
    names = sorted(name for name in command.attributes if attributes.get(name) != account.attributes.get(name))
    if segments != account.segments:
        names.append(SEGMENTS)
    names += sorted(EXTERNAL_IDS + kind for kind in said_ids if external_ids.get(kind) != account.external_ids.get(kind))
    _note(book, command, noted)
    if names:
        book.record(ProfileChanged(attributes=attributes, segments=segments, external_ids=external_ids, changed=tuple(names)))
        _tell_identities(book, account.external_ids, external_ids)
    if STATUS in news and _change_status(book, account, command):
        names.append(STATUS)
    if names:
        book.record(ProfileVersioned(operation=ProfileOperation.CHANGE, changed=tuple(names)))
    return None


def adopt(book: Book, after: Account, source_system: str) -> None:
    """Tell as one change what several of one source have made of the profile."""
    before = book.account
    book.record(OriginsNoted(origins=after.origins, source_system=source_system, version=after.source_versions.get(source_system)))
    names = sorted(name for name in before.attributes.keys() | after.attributes.keys() if before.attributes.get(name) != after.attributes.get(name))
    if before.segments != after.segments:
        names.append(SEGMENTS)
    kinds = before.external_ids.keys() | after.external_ids.keys()
    names += sorted(EXTERNAL_IDS + kind for kind in kinds if before.external_ids.get(kind) != after.external_ids.get(kind))
    if names:
        changed = tuple(names)
        book.record(ProfileChanged(attributes=after.attributes, segments=after.segments, external_ids=after.external_ids, changed=changed))
        _tell_identities(book, before.external_ids, after.external_ids)
        book.record(ProfileVersioned(operation=ProfileOperation.CHANGE, changed=changed))


def _is_news(book: Book, known: Mapping[str, AttributeOrigin], command: ProfileChange, name: str) -> bool:
    account = book.account
    said: Word
    current: Word
    if name == STATUS:
        assert command.status is not None
        said, current = STATUS_RANK.get(command.status, -1), STATUS_RANK.get(account.scheduled_status or account.status, -1)
    elif name == SEGMENTS:
        said, current = _tags(command.segments or ()), account.segments
    elif name.startswith(EXTERNAL_IDS):
        kind = name.removeprefix(EXTERNAL_IDS)
        said, current = (command.external_ids or {})[kind] or "", account.external_ids.get(kind, "")
    else:
        said, current = command.attributes[name] or "", account.attributes.get(name, "")
    return origins.is_news(
        account, known, command, name, said=said, current=current,
        is_master=master_of(book.program.mastering, name) == command.source_system,
    )  # fmt: skip


def _change_status(book: Book, account: Account, command: ProfileChange) -> bool:
    """At once, or at its time. Whether the status is another one now."""
    assert command.status is not None
    from_ms = starts_at(book, command)
    if from_ms is not None and from_ms > book.now_ms:
        book.record(StatusScheduled(status=command.status, at_ms=from_ms, reason=command.status_reason))
        return False
    if command.status is account.status and account.scheduled_status is None:
        return False
    # The newest word counts: what was scheduled before is off, even if the status stays what it is.
    book.record(StatusChanged(status=command.status, reason=command.status_reason))
    ledger.unpark(book)
    return command.status is not account.status


def starts_at(book: Book, command: ProfileChange) -> int | None:
    """When the status is to be in force; a date begins in the member's time zone. None: at once."""
    if command.status_from_date is None:
        return command.status_from_ms
    zone = book.account.attributes.get("time_zone", "")
    day = date.fromisoformat(command.status_from_date)
    return instant(zone if is_time_zone(zone) else book.program.time_zone, day.year, day.month, day.day)


def _tell_identities(book: Book, before: Mapping[str, str], after: Mapping[str, str]) -> None:
    """Claim what is new and let go of what is gone, each at the partition of the external id."""
    gone = [(kind, value) for kind, value in before.items() if after.get(kind) != value]
    new = [(kind, value) for kind, value in after.items() if before.get(kind) != value]
    for relay_kind, pairs in ((RelayKind.IDENTITY_RELEASE, gone), (RelayKind.IDENTITY_CLAIM, new)):
        for kind, value in pairs:
            tell_identity(book, relay_kind, kind, value)


def tell_identity(book: Book, relay_kind: RelayKind, kind: str, value: str) -> None:
    """One relay to the partition of an external id."""
    account = book.account
    name = f"{relay_kind.value}:{kind}:{value}:{account.event_sequence}"
    book.relays.append(
        Relay(
            program_id=account.program_id,
            member_id=address(kind, value),
            relay_id=derived_id("rly", account.program_id, account.member_id, name),
            kind=relay_kind,
            from_member_id=account.member_id,
            # Whose numbers lead here, and whose external ids therefore may.
            path=account.moved_from,
            origin=origin_of(book.cause),
        )
    )


def _grows_too_large(
    account: Account, command: ProfileChange, attributes: Mapping[str, str], external_ids: Mapping[str, str], origins_count: int
) -> bool:
    """An account that is above a limit, because the limit was lowered, can still be changed; it only cannot grow."""
    if len(attributes) > ATTRIBUTES_MAX and len(attributes) > len(account.attributes):
        return True
    if len(external_ids) > EXTERNAL_IDS_MAX and len(external_ids) > len(account.external_ids):
        return True
    if origins_count > origins.NAMES_MAX and origins_count > sum(len(origin.names) for origin in account.origins):
        return True
    known = account.source_versions
    return command.source_version is not None and command.source_system not in known and len(known) >= SOURCE_SYSTEMS_MAX


def _merged(before: Mapping[str, str], changes: Mapping[str, str | None]) -> dict[str, str]:
    # Sorted, so that the order of arrival does not show in the bytes of the account.
    return {name: value for name, value in sorted({**before, **changes}.items()) if value is not None}


def _tags(segments: Iterable[str]) -> tuple[str, ...]:
    """Segments are a set: order and repetition say nothing."""
    return tuple(sorted(set(segments)))


def _note(book: Book, command: Enrolment | ProfileChange, noted: tuple[AttributeOrigin, ...]) -> None:
    """The command has the last word on some parts: `noted` are all origins after it."""
    book.record(OriginsNoted(origins=noted, source_system=command.source_system, version=command.source_version))
