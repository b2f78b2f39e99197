"""One change event, in its JSON form -> commands about its members, or hints at records that must be read. Pure.

    CREATE, UNDELETE           the whole record is in it
    UPDATE                     what has changed is in it; the member's number is not, unless the channel is enriched with it
    DELETE, GAP_*              ids alone
    GAP_OVERFLOW, 003*         not even ids: all records of the object are read that were modified since

Whoever's number is not in the event is found by reading the record, or addressed by the record's id (option number_missing).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from schemas.contract import ID_CHARACTERS_MAX, TIME_MS_MAX, Command
from streams.connectors import values
from streams.connectors.contract import Hint, Source, Translation
from streams.connectors.salesforce import api, members
from streams.errors import ContractError

HEADER = "ChangeEventHeader"
CREATE, UPDATE, DELETE, UNDELETE = "CREATE", "UPDATE", "DELETE", "UNDELETE"
GAP, OVERFLOW = "GAP_", "GAP_OVERFLOW"
WHOLE = (CREATE, UNDELETE)
KNOWN = (*WHOLE, UPDATE, DELETE)
RECORDS_MAX = 10_000  # Ids in one event.
ALL = "*"
RESYNC = "RESYNC"
"""Kind of the hint at all records of an object."""
REACH_BACK_MS = 24 * 3600 * 1000
"""How far behind its moment all records are read: a transaction's records may be modified long before it is committed."""
_CLIENT = ";client="


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    entity: str
    record_ids: tuple[str, ...]
    kind: str
    origin: str
    transaction_key: str
    sequence: int
    commit_number: int
    committed_at_ms: int
    changed: frozenset[str]
    """Names of changed fields, those of compound ones as queries have them."""
    fields: members.Fields

    @property
    def version(self) -> int:
        return members.version(self.commit_number, self.sequence)

    @property
    def read_version(self) -> int:
        """Of what is read because of it."""
        return members.version(self.commit_number)


def change_of(payload: Mapping[str, Any]) -> Change:
    """Raises ContractError."""
    header = payload.get(HEADER)
    if not isinstance(header, Mapping):
        raise ContractError("FIELD_REQUIRED", f"{HEADER} must be given")
    record_ids = values.items(header, "recordIds")
    if len(record_ids) > RECORDS_MAX or not all(isinstance(one, str) for one in record_ids):
        raise ContractError("TYPE_INVALID", f"{HEADER}.recordIds must be a list of texts, {RECORDS_MAX} at most")
    changed = {members.flat_name(name) for name in values.items(header, "changedFields") if isinstance(name, str)}
    fields = members.flat({name: value for name, value in payload.items() if name != HEADER})
    commit_number, committed_at_ms = _whole(header, "commitNumber"), _whole(header, "commitTimestamp")
    members.version(commit_number)
    if committed_at_ms > TIME_MS_MAX:
        raise ContractError("TIME_INVALID", f"{HEADER}.commitTimestamp is beyond the calendar")
    nulled = {members.flat_name(name): None for name in values.items(header, "nulledFields") if isinstance(name, str)}
    return Change(
        entity=values.required(header, "entityName"), record_ids=tuple(record_ids), kind=values.required(header, "changeType"),
        origin=values.text(header, "changeOrigin") or "", transaction_key=values.required(header, "transactionKey"),
        sequence=_whole(header, "sequenceNumber"), commit_number=commit_number, committed_at_ms=committed_at_ms,
        changed=frozenset(changed), fields={**nulled, **fields},
    )  # fmt: skip


def _whole(header: Mapping[str, Any], name: str) -> int:
    found = header.get(name)
    if type(found) is not int or found <= 0:
        raise ContractError("TYPE_INVALID", f"{HEADER}.{name} must be a whole number above 0")
    return found


def is_echo(change: Change, source: Source) -> bool:
    """Whether it came of our own write."""
    _, mark, client = change.origin.rpartition(_CLIENT)
    return bool(mark) and client == api.client_name(source.options, source.name)


def meaning(change: Change, source: Source) -> Translation:
    """Raises ContractError."""
    options = source.options
    if change.entity != options["object"]:
        return Translation(ignored=f"about {change.entity[:80]}")
    if change.kind == OVERFLOW or any(one.endswith(ALL) for one in change.record_ids):
        return Translation(hints=(everything(source, change.committed_at_ms - REACH_BACK_MS, change.read_version),))
    if change.kind not in KNOWN and not change.kind.startswith(GAP):
        raise ContractError("TYPE_UNKNOWN", f"changeType must be one of {', '.join(KNOWN)}, {GAP}...")
    for one in change.record_ids:
        if not api.RECORD_ID.fullmatch(one):
            raise ContractError("ID_INVALID", f"{HEADER}.recordIds must hold ids of records")
    if change.kind in KNOWN and is_echo(change, source):
        return Translation(ignored="our own write")
    if change.kind == UPDATE and not change.fields.keys() & (members.wanted(options) | {options["member_id_field"]}):
        return Translation(ignored="no field that is kept has changed")
    if change.kind == DELETE and not members.ends_memberships(options):
        return Translation(ignored="deletions mean nothing, by the option deleted_status")
    commands: list[Command] = []
    hints: list[Hint] = []
    for record_id in change.record_ids:
        said = _said(change, record_id, source)
        if said is None:
            hints.append(_hint(change, record_id))
        else:
            commands += said
    return Translation(commands=tuple(commands), hints=tuple(hints), ignored="" if commands or hints else "nothing that is kept, or of no member")


def _said(change: Change, record_id: str, source: Source) -> tuple[Command, ...] | None:
    """What the event says of one record; None: the record must be read."""
    options = source.options
    if change.kind.startswith(GAP) or change.sequence >= members.LAST:
        return None
    version, at_ms = change.version, change.committed_at_ms
    command_id = f"{source.name}:{change.transaction_key}:{change.sequence}:{record_id}"[:ID_CHARACTERS_MAX]
    if change.kind in WHOLE:
        if len(change.record_ids) > 1:
            return None  # One number cannot be that of several.
        return members.whole(
            change.fields, record_id, source, version=version, at_ms=at_ms, command_id=command_id, is_back=change.kind == UNDELETE
        )
    number_has_changed = options["member_id_field"] in change.changed or change.fields.get(options["member_id_field"], "") is None
    member_id = members.number_of(change.fields, options) if len(change.record_ids) == 1 else None
    if number_has_changed and member_id is not None:
        return None  # Somebody has become a member: what of the record has not changed is news, too.
    address = members.address_of(record_id, options)
    if number_has_changed:
        return () if address is None else members.removed(address, record_id, source, version=version, at_ms=at_ms)
    if member_id is None and options["number_missing"] == "address":
        member_id = address
    if member_id is None:
        return None
    if change.kind == DELETE:
        return members.removed(member_id, record_id, source, version=version, at_ms=at_ms)
    return members.profile(change.fields, member_id, record_id, source, version=version, at_ms=at_ms, command_id=command_id)


def _hint(change: Change, record_id: str) -> Hint:
    delivery_id = f"{change.transaction_key}:{change.sequence}@{change.read_version}"
    return Hint(entity_id=f"{change.entity}/{record_id}", kind=change.kind, delivery_id=delivery_id)


def everything(source: Source, since_ms: int, version: int) -> Hint:
    """At all records with a member's number that were modified since; 0: whenever."""
    return Hint(entity_id=f"{source.options['object']}/{ALL}", kind=RESYNC, delivery_id=f"{max(0, since_ms)}@{version}")
