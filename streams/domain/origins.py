"""Where each part of a profile came from, and by that, whether an event has news of it.

Versions are compared part by part within one source system, never by arrival: every order of the same events ends in the same profile. An
event that is older than what is there for one part may be news of another one. What a system without versions says counts by arrival.
"""

from collections.abc import Iterable, Mapping

from schemas.records import Account, AttributeOrigin, Enrolment, MemberStatus, ProfileChange

NAMES_MAX = 160
"""Parts whose origin is remembered, cleared ones included: no command has more than 64 attributes, but many can."""

STATUS_RANK = {MemberStatus.ACTIVE: 0, MemberStatus.SUSPENDED: 1, MemberStatus.LEFT: 2}
"""Of two statuses under one version the one that allows less counts."""

Word = int | str | tuple[str, ...]
"""What an event says of one part, or what is there: comparable with what another one says of the same part."""


def by_name(account: Account) -> dict[str, AttributeOrigin]:
    """Part -> the event that had the last word on it."""
    return {name: origin for origin in account.origins for name in origin.names}


def is_news(
    account: Account,
    known: Mapping[str, AttributeOrigin],
    command: Enrolment | ProfileChange,
    name: str,
    *,
    said: Word,
    current: Word,
    is_master: bool,
) -> bool:
    """Whether the command's word on this part counts. `said` and `current` order what it says and what is there, for equal versions."""
    version = command.source_version
    if version is None:
        return True
    origin = known.get(name)
    if origin is not None and origin.source_system == command.source_system:
        if origin.source_version is None or version > origin.source_version:
            return True
        return version == origin.source_version and said > current  # type: ignore[operator]
    # Nobody has said anything of it, or another system had the last word.
    seen = account.source_versions.get(command.source_system)
    if origin is None and account.origins:
        return True
    return is_master or seen is None or version > seen


def noted(account: Account, command: Enrolment | ProfileChange, event_id: str, names: Iterable[str]) -> tuple[AttributeOrigin, ...]:
    """The origins after the command had the last word on these parts."""
    known = by_name(account)
    words = {name: (one.source_system, one.source_version, one.event_id, one.occurred_at_ms) for name, one in known.items()}
    for name in names:
        before, version = known.get(name), command.source_version
        if version is None and before is not None and before.source_system == command.source_system:
            version = before.source_version  # What is older than that stays so.
        words[name] = (command.source_system, version, event_id, command.occurred_at_ms)
    groups: dict[tuple[str, int | None, str, int], list[str]] = {}
    for name in sorted(words):
        groups.setdefault(words[name], []).append(name)
    return tuple(
        AttributeOrigin(names=tuple(group), source_system=source, source_version=version, event_id=event, occurred_at_ms=at_ms)
        for (source, version, event, at_ms), group in groups.items()
    )
