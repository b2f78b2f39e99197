"""What an auditor asks -> SQL over sync_audit (what came in) and delivery_audit (what went out). Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any

from schemas.contract import Problem
from streams.domain.audit_chain import DELIVERY_AUDIT_FIELDS, SYNC_AUDIT_FIELDS
from streams.history import Conditions, Cursor, Query, in_milliseconds


class Direction(StrEnum):
    IN = "in"  # Sync events that were received: sync_audit.
    OUT = "out"  # Deliveries, and reads of personal data: delivery_audit.


TABLE = {Direction.IN: "sync_audit", Direction.OUT: "delivery_audit"}
COLUMNS = {Direction.IN: SYNC_AUDIT_FIELDS, Direction.OUT: DELIVERY_AUDIT_FIELDS}
RECORDED = {Direction.IN: "recorded_at", Direction.OUT: "ended_at"}
"""The time of the record, by which it is sought and ordered."""
ONLY = {"actor": Direction.IN, "stream": Direction.IN, "destination": Direction.OUT, "kind": Direction.OUT}
"""Filters that one of the two tables knows."""
_ACCESSES = (
    "(SELECT program_id, member_id, ended_at AS recorded_at, destination AS reader, event_id AS request, correlation_id"
    " FROM delivery_audit FINAL WHERE kind = 'MEMBER_READ')"
)
REPORTS = {
    "member-changes": ("audit_member_changes", True, True),
    "member-accesses": (_ACCESSES, True, True),
    "by-source": ("audit_by_source", False, False),
    "refused-edits": ("audit_refused_edits", True, True),
    "contested-attributes": ("audit_contested_attributes", False, False),
    "erasures": ("audit_erasures", True, True),
    "suspensions": ("audit_suspensions", True, True),
    "rules-changes": ("audit_rules_changes", False, False),
}
"""Report -> where its rows come from, whether they are about members, whether they have a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """What is sought; None: whatever it is. All of them must hold."""

    program: str | None = None
    member: str | None = None
    source: str | None = None
    """Source system."""
    actor: str | None = None
    stream: str | None = None
    destination: str | None = None
    kind: str | None = None
    """Kind of the loyalty event, or MEMBER_READ."""
    result: str | None = None
    reason: str | None = None
    attribute: str | None = None
    """An attribute that was changed, or whose change was refused."""
    command: str | None = None
    correlation: str | None = None
    since_ms: int | None = None
    """Recorded at this time or later."""
    until_ms: int | None = None
    """Recorded before this time."""
    programs: frozenset[str] = frozenset()
    """Programmes that the asker reaches; empty: all."""

    def problems(self, direction: Direction) -> Iterator[Problem]:
        """Filters that the direction does not know."""
        for one in fields(self):
            if one.name in ONLY and getattr(self, one.name) is not None and ONLY[one.name] is not direction:
                yield Problem("FILTER_UNKNOWN", one.name, f"belongs to direction {ONLY[one.name].value}")


def listing(direction: Direction, filters: Filters, limit: int, after: Cursor | None = None) -> Query:
    """The newest `limit` records that fit, as `hashed columns, chain columns, place`; after a page's last one, those that follow."""
    recorded, conditions = RECORDED[direction], Conditions()
    conditions.equal({
        "program_id": filters.program, "member_id": filters.member, "source_system": filters.source, "actor": filters.actor,
        "stream": filters.stream, "destination": filters.destination, "kind": filters.kind, "result": filters.result,
        "reason": filters.reason, "command_id": filters.command, "correlation_id": filters.correlation,
    })  # fmt: skip
    conditions.among("program_id", filters.programs)
    if filters.attribute is not None:
        conditions.texts.append(_ATTRIBUTE[direction])
        conditions.values["attribute"] = filters.attribute
    conditions.between(recorded, filters.since_ms, filters.until_ms)
    conditions.after(recorded, after)
    sql = f"SELECT {selected(direction)} FROM {TABLE[direction]} FINAL{conditions.where}"
    sql += f" ORDER BY {recorded} DESC, source_partition DESC, source_offset DESC LIMIT {{limit:UInt32}}"
    return Query(sql, conditions.values | {"limit": str(limit)})


# Refused edits name their attributes in the detail: "email is mastered by crm; status is mastered by hr".
_ATTRIBUTE = {
    Direction.IN: "(arrayExists(change -> change.1 = {attribute:String}, changes)"
    " OR arrayExists(part -> startsWith(part, concat({attribute:String}, ' is ')), splitByString('; ', ifNull(detail, ''))))",
    Direction.OUT: "has(changed_attributes, {attribute:String})",
}


def chains(direction: Direction, partition: int | None = None) -> Query:
    """All records of the table, or of one partition, each chain's in the order of its topic."""
    where = " WHERE source_partition = {partition:UInt16}" if partition is not None else ""
    sql = f"SELECT {selected(direction)} FROM {TABLE[direction]} FINAL{where} ORDER BY source_partition, source_offset"
    return Query(sql, {} if partition is None else {"partition": str(partition)})


def count(direction: Direction, partition: int | None = None) -> Query:
    where = " WHERE source_partition = {partition:UInt16}" if partition is not None else ""
    return Query(f"SELECT count() FROM {TABLE[direction]}{where}", {} if partition is None else {"partition": str(partition)})


def report(name: str, filters: Filters, limit: int) -> Query:
    """Rows of one of REPORTS, the newest first where they have a time. Only program, member, since and until count. Raises ValueError for a
    filter that the report does not know."""
    source, has_members, has_times = REPORTS[name]
    if filters.member is not None and not has_members:
        raise ValueError(f"{name} is not about single members")
    if (filters.since_ms, filters.until_ms) != (None, None) and not has_times:
        raise ValueError(f"{name} is not by time")
    conditions = Conditions()
    conditions.equal({"program_id": filters.program, "member_id": filters.member})
    conditions.between("recorded_at", filters.since_ms, filters.until_ms)
    sql = f"SELECT * FROM {source}{conditions.where} ORDER BY {'recorded_at DESC' if has_times else 'ALL'} LIMIT {{limit:UInt32}}"
    return Query(sql, conditions.values | {"limit": str(limit)})


def selected(direction: Direction) -> str:
    """The hashed columns in their order, times in milliseconds; then number, previous hash, hash, partition and offset."""
    return in_milliseconds((*COLUMNS[direction], "chain_number", "previous_hash", "record_hash", "source_partition", "source_offset"))


def named(direction: Direction, row: list[Any]) -> dict[str, Any]:
    """A row of `listing` by the names of its columns; changes as objects."""
    names = (*COLUMNS[direction], "chain_number", "previous_hash", "record_hash", "source_partition", "source_offset")
    found = dict(zip(names, row, strict=True))
    if "changes" in found:
        found["changes"] = [{"attribute": attribute, "before": before, "after": after} for attribute, before, after in found["changes"]]
    return found


def cursor_of(direction: Direction, row: Mapping[str, Any]) -> Cursor:
    """Where the next page begins."""
    return Cursor(row[f"{RECORDED[direction]}_ms"], row["source_partition"], row["source_offset"])
