"""A hint at a record, or at all of an object -> what Salesforce holds of them now -> commands. Pure.

For what change events do not say: gaps, overflows, ids that have run out of the event bus, changes without the member's number.
"""

from typing import Any

from schemas.contract import TIME_MS_MAX, Command
from streams.connectors import values
from streams.connectors.contract import Answer, Found, Hint, Parked, Polling, Request, Source
from streams.connectors.salesforce import api, changes, members
from streams.errors import ContractError
from streams.ingress import commands

DELETIONS = (changes.DELETE, changes.GAP + changes.DELETE)
UNDELETIONS = (changes.UNDELETE, changes.GAP + changes.UNDELETE)


def read(source: Source, hint: Hint, body: bytes, received_at_ms: int) -> Polling:
    """Raises ContractError for a hint that is none of ours, and for a record that cannot be understood."""
    name, _, record_id = hint.entity_id.partition("/")
    said, mark, version = hint.delivery_id.rpartition("@")
    if not mark or not api.NAME.fullmatch(name) or not version.isdecimal() or not version.isascii():
        raise ContractError("HINT_INVALID", "a hint has the form OBJECT/ID and ...@VERSION")
    if record_id == changes.ALL:
        if not said.isdecimal() or not said.isascii() or int(said) > TIME_MS_MAX:
            raise ContractError("HINT_INVALID", "a hint at all records says since when")
        return (yield from _read_all(source, name, int(said), int(version)))
    if not api.RECORD_ID.fullmatch(record_id):
        raise ContractError("HINT_INVALID", "a hint names a record by its id")
    is_deletion = hint.kind in DELETIONS
    answer = yield api.query(source.options, _select(source, name, f"Id = {api.literal(record_id)}"), with_deleted=is_deletion)
    record = values.at(_content(answer), "records.0")
    if record is not None:
        found = _meaning(record, source, int(version), is_back=hint.kind in UNDELETIONS)
    else:
        address = members.address_of(record_id, source.options) if is_deletion else None
        found = () if address is None else members.removed(address, record_id, source, version=int(version), at_ms=received_at_ms)
    yield Found(commands=found)


def _read_all(source: Source, name: str, since_ms: int, version: int) -> Polling:
    """Page by page. What one record is wrong about is parked."""
    condition = f"{source.options['member_id_field']} != null"
    if since_ms:
        condition += f" AND SystemModstamp >= {commands.format_time(since_ms)}"
    request: Request | None = api.query(source.options, _select(source, name, condition), with_deleted=members.ends_memberships(source.options))
    while request is not None:
        content = _content((yield request))
        found: list[Command] = []
        parked: list[Parked] = []
        for record in values.items(content, "records"):
            try:
                found += _meaning(record, source, version)
            except ContractError as error:
                record_id = record.get("Id") if isinstance(record, dict) else None
                detail = f"record {record_id if isinstance(record_id, str) else 'without an id'}: {error.detail}"[:200]
                parked.append(Parked(value=detail.encode(), reason=error.reason, detail=detail, entity_id=str(record_id or "")[:18]))
        yield Found(commands=tuple(found), parked=tuple(parked))
        request = api.next_page(source.options, content)


def _select(source: Source, name: str, condition: str) -> str:
    return f"SELECT {', '.join(members.read_fields(source.options))} FROM {name} WHERE {condition}"


def _content(answer: Answer | None) -> Any:
    assert answer is not None, "an answer follows a request"
    return api.content(answer)


def _meaning(record: Any, source: Source, version: int, *, is_back: bool = False) -> tuple[Command, ...]:
    if not isinstance(record, dict):
        raise ContractError("TYPE_INVALID", "a record must be an object")
    fields = members.flat({name: value for name, value in record.items() if name != "attributes"})
    record_id = values.required(fields, "Id")
    return members.whole(fields, record_id, source, version=version, at_ms=max(1, values.time_ms(fields, "SystemModstamp") or 1), is_back=is_back)
