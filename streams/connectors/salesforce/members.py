"""Fields of a record -> commands about its member. Shared by change events, re-reads and the reconciliation. Pure.

Versions order what Salesforce says: by the number of the commit, within it by the sequence number of the change. What was read by REST shows a
commit and perhaps more: it counts as the last change of the commit that led to it.
"""

import hashlib
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import orjson

from schemas.codec import INT64_MAX
from schemas.contract import ADDRESS_MARK, ID_CHARACTERS_MAX, Command
from schemas.records import Enrolment, MemberStatus, ProfileChange
from streams.connectors import values
from streams.connectors.contract import Options, Source
from streams.errors import ContractError
from streams.ingress import commands

VERSIONS_PER_COMMIT = 16_384
LAST = VERSIONS_PER_COMMIT - 1
"""Sequence within a commit of what was read by REST, and of changes beyond what a version has room for: they are read."""
AS_IT_IS = "as it is"
DELETED = "deleted in Salesforce"
READ_ALWAYS = ("Id", "IsDeleted", "CreatedDate", "SystemModstamp")

Fields = Mapping[str, Any]
"""Only what is said; None: has no value any more."""


def version(commit_number: int, sequence: int = LAST) -> int:
    """Raises ContractError for a commit that has none."""
    found = commit_number * VERSIONS_PER_COMMIT + min(sequence, LAST)
    if not 0 < found <= INT64_MAX:
        raise ContractError("COMMIT_INVALID", "commitNumber must be above 0, and leave room for a version")
    return found


def wanted(options: Options) -> set[str]:
    """Fields that something follows from, but for the member's number."""
    maps = (*options["field_map"].values(), *options["external_id_map"].values())
    return {field for field in (*maps, options["segments_field"], options["status_field"]) if field}


def read_fields(options: Options) -> list[str]:
    """What a query must ask for."""
    return list(dict.fromkeys((*READ_ALWAYS, options["member_id_field"], *sorted(wanted(options)))))


def flat(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record with its compound fields taken apart: FirstName of Name, MailingCity of MailingAddress."""
    found: dict[str, Any] = {}
    for name, value in record.items():
        if isinstance(value, Mapping):
            found = {flat_name(f"{name}.{inner}"): part for inner, part in value.items()} | found
        else:
            found[name] = value
    return found


def flat_name(name: str) -> str:
    """Name.FirstName -> FirstName, MailingAddress.City -> MailingCity: what queries call the parts of compound fields."""
    parent, dot, inner = name.rpartition(".")
    return parent.removesuffix("Address") + inner if dot and parent.endswith("Address") else inner


def number_of(fields: Fields, options: Options) -> str | None:
    """The member's number; None if the record has, or says, none."""
    return values.text(fields, options["member_id_field"])


def ends_memberships(options: Options) -> bool:
    """Whether the end of a record means anything for the member."""
    return bool(options["deleted_status"] != AS_IT_IS)


def address_of(record_id: str, options: Options) -> str | None:
    """The member by the record's id, as one of their external ids; None if those are not kept."""
    kind = options["record_id_type"]
    return f"{ADDRESS_MARK}{kind}:{record_id}" if kind else None


def whole(fields: Fields, record_id: str, source: Source, *, version: int, at_ms: int, command_id: str = "", is_back: bool = False) -> tuple[Command, ...]:
    """What a whole record means: an enrolment, and its profile with the record's id. Nothing without a member's number. `is_back`: it was deleted before.
    Without a command_id, that of the profile is made of what it says. Raises ContractError."""
    options = source.options
    member_id = number_of(fields, options)
    if member_id is None:
        return ()
    if fields.get("IsDeleted") is True:
        return removed(member_id, record_id, source, version=version, at_ms=at_ms)
    found: list[Command] = []
    if options["enrols"]:
        found.append(_enrolment(fields, member_id, record_id, source))
    status = MemberStatus.ACTIVE if is_back and ends_memberships(options) else None
    found += profile(fields, member_id, record_id, source, version=version, at_ms=at_ms, command_id=command_id, learns_id=True, status=status)
    for command in found:
        commands.check(command)
    return tuple(found)


def profile(
    fields: Fields, member_id: str, record_id: str, source: Source, *, version: int, at_ms: int, command_id: str = "", learns_id: bool = False,
    status: MemberStatus | None = None,
) -> tuple[ProfileChange, ...]:  # fmt: skip
    """What the fields say of a member; empty if that is nothing that is kept. `status` counts unless a field says another. Raises ContractError."""
    options = source.options
    external_ids = {kind: text(fields, name) for kind, name in options["external_id_map"].items() if name in fields}
    if learns_id and options["record_id_type"]:
        external_ids[options["record_id_type"]] = record_id
    segments, word = options["segments_field"], text(fields, options["status_field"])
    said: dict[str, Any] = {
        "attributes": {attribute: text(fields, name) for attribute, name in options["field_map"].items() if name in fields},
        "external_ids": external_ids or None,
        "segments": tuple(sorted(one.strip() for one in (text(fields, segments) or "").split(";") if one.strip())) if segments in fields else None,
        "status": status if word is None else _status(word, options),
        "status_reason": None if word is None else word[:512],
    }
    if not any(value or value == () for value in said.values()):
        return ()
    change = ProfileChange(
        program_id=source.program_id, member_id=member_id, event_id=command_id or _id(source, record_id, version, said), source_system=source.name,
        occurred_at_ms=at_ms, source_version=version, **said,
    )  # fmt: skip
    commands.check(change)
    return (change,)


def removed(member_id: str, record_id: str, source: Source, *, version: int, at_ms: int) -> tuple[ProfileChange, ...]:
    """What the end of a record means, by the option deleted_status."""
    if not ends_memberships(source.options):
        return ()
    status = source.options["deleted_status"]
    change = ProfileChange(
        program_id=source.program_id, member_id=member_id, event_id=_id(source, record_id, version, status), source_system=source.name,
        occurred_at_ms=at_ms, source_version=version, status=MemberStatus(status), status_reason=DELETED,
    )  # fmt: skip
    commands.check(change)
    return (change,)


def text(fields: Fields, name: str) -> str | None:
    """A value as an attribute's text. None if there is none. Raises ContractError for a compound one."""
    value = fields.get(name)
    match value:
        case bool():
            return "true" if value else "false"
        case float() | Decimal():
            return f"{Decimal(str(value)):f}".removesuffix(".0")
        case _:
            return values.text({"value": value}, "value")


def _status(word: str, options: Options) -> MemberStatus:
    found = options["status_map"].get(word)
    if found not in (MemberStatus.ACTIVE, MemberStatus.SUSPENDED, MemberStatus.LEFT):
        raise ContractError("VALUE_UNKNOWN", f"{options['status_field']} has a value that status_map does not name as ACTIVE, SUSPENDED or LEFT")
    return MemberStatus(found)


def _enrolment(fields: Fields, member_id: str, record_id: str, source: Source) -> Enrolment:
    """The same for ever for the same record and number; the profile comes behind it."""
    created_at_ms = max(1, values.time_ms(fields, "CreatedDate") or 1)
    external_ids = {source.options["record_id_type"]: record_id} if source.options["record_id_type"] else None
    return Enrolment(
        program_id=source.program_id, member_id=member_id, event_id=f"{source.name}:{record_id}:enrolled:{created_at_ms}"[:ID_CHARACTERS_MAX],
        source_system=source.name, occurred_at_ms=created_at_ms, source_version=1, external_ids=external_ids,
    )  # fmt: skip


def _id(source: Source, record_id: str, version: int, said: Any) -> str:
    digest = hashlib.sha256(orjson.dumps(said, option=orjson.OPT_SORT_KEYS)).hexdigest()[:12]
    return f"{source.name}:{record_id}:{version}:{digest}"[:ID_CHARACTERS_MAX]
