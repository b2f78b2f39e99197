"""A published version of a programme's rules -> the audit record of what it changes, the mastering policy included."""

from collections.abc import Iterator
from hashlib import sha256

import orjson

from schemas.records import AttributeChange, CommandResult, ProgramVersion, SyncAudit
from streams.domain.book import Received
from streams.domain.identity import HASH_CHARACTERS


def audit(before: ProgramVersion | None, version: ProgramVersion, received: Received, recorded_at_ms: int) -> SyncAudit:
    """It concerns no member: member_id is empty, and command_id is the version's number."""
    return SyncAudit(
        audit_id=f"{received.topic}-{received.partition}-{received.offset}",
        program_id=version.program_id,
        member_id="",
        stream=received.stream,
        command_id=f"version:{version.version}",
        payload_hash=sha256(version.rules.encode()).hexdigest()[:HASH_CHARACTERS],
        source_system="loyalty",
        actor=version.published_by,
        result=CommandResult.APPLIED,
        changes=tuple(_changes(before.rules if before is not None else "{}", version.rules)),
        occurred_at_ms=version.effective_from_ms,
        ingested_at_ms=received.ingested_at_ms,
        recorded_at_ms=recorded_at_ms,
        correlation_id=received.correlation_id,
        topic=received.topic,
        partition=received.partition,
        offset=received.offset,
    )


def _changes(before: str, after: str) -> Iterator[AttributeChange]:
    old, new = dict(_leaves("", orjson.loads(before))), dict(_leaves("", orjson.loads(after)))
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) != new.get(name):
            yield AttributeChange(attribute=name, before=old.get(name), after=new.get(name))


def _leaves(place: str, value: object) -> Iterator[tuple[str, str]]:
    """Place in the rules -> value there, as JSON."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _leaves(f"{place}.{key}" if place else key, inner)
    else:
        yield place, orjson.dumps(value).decode()
