"""What an auditor asks -> SQL over sync_audit (what came in) and delivery_audit (what went out). Pure.

Values reach ClickHouse as parameters only. A page goes on where the one before it ended: newest first, by time and place in the topic, so
that what is recorded meanwhile shifts nothing.
"""

import base64
import binascii
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from schemas.contract import Problem
from streams.domain.audit_chain import DELIVERY_AUDIT_FIELDS, SYNC_AUDIT_FIELDS

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
TIME_MS_MIN, TIME_MS_MAX = 0, 4_102_444_800_000  # 1970 to 2100.


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


@dataclass(frozen=True, slots=True)
class Cursor:
    """The last record of a page. `text` is what clients get, and give back as it is."""

    recorded_at_ms: int
    partition: int
    offset: int

    @property
    def text(self) -> str:
        return base64.urlsafe_b64encode(f"{self.recorded_at_ms}.{self.partition}.{self.offset}".encode()).decode().rstrip("=")

    @classmethod
    def parse(cls, text: str) -> "Cursor":
        """Raises ValueError for what no page has given."""
        try:
            numbers = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True).decode("ascii").split(".")
        except (binascii.Error, UnicodeError) as error:
            raise ValueError("no cursor") from error
        found = cls(*(int(number) for number in numbers)) if len(numbers) == 3 and all(map(str.isdigit, numbers)) else None
        if found is None or found.recorded_at_ms > TIME_MS_MAX or found.partition >= 2**16 or found.offset >= 2**63:
            raise ValueError("no cursor")
        return found


@dataclass(frozen=True, slots=True)
class Query:
    """A statement with `{name:Type}` for its values, and the values as texts."""

    sql: str
    values: Mapping[str, str]


def listing(direction: Direction, filters: Filters, limit: int, after: Cursor | None = None) -> Query:
    """The newest `limit` records that fit, as `hashed columns, chain columns, place`; after a page's last one, those that follow."""
    recorded = RECORDED[direction]
    where, values = [], dict[str, str]()
    for column, value, kind in _plain(filters):
        where.append(f"{column} = {{{column}:{kind}}}")
        values[column] = value
    if filters.programs:
        names = [f"allowed_{number}" for number in range(len(filters.programs))]
        where.append(f"program_id IN ({', '.join(f'{{{name}:String}}' for name in names)})")
        values |= dict(zip(names, sorted(filters.programs), strict=True))
    if filters.attribute is not None:
        where.append(_ATTRIBUTE[direction])
        values["attribute"] = filters.attribute
    _add_times(filters, recorded, where, values)
    if after is not None:
        place = "(fromUnixTimestamp64Milli({after_ms:Int64}, 'UTC'), {after_partition:UInt16}, {after_offset:UInt64})"
        where.append(f"({recorded}, source_partition, source_offset) < {place}")
        values |= {"after_ms": str(after.recorded_at_ms), "after_partition": str(after.partition), "after_offset": str(after.offset)}
    sql = f"SELECT {selected(direction)} FROM {TABLE[direction]} FINAL"
    sql += f" WHERE {' AND '.join(where)}" if where else ""
    sql += f" ORDER BY {recorded} DESC, source_partition DESC, source_offset DESC LIMIT {{limit:UInt32}}"
    return Query(sql, values | {"limit": str(limit)})


# Refused edits name their attributes in the detail: "email is mastered by crm; status is mastered by hr".
_ATTRIBUTE = {
    Direction.IN: "(arrayExists(change -> change.1 = {attribute:String}, changes)"
    " OR arrayExists(part -> startsWith(part, concat({attribute:String}, ' is ')), splitByString('; ', ifNull(detail, ''))))",
    Direction.OUT: "has(changed_attributes, {attribute:String})",
}


def _plain(filters: Filters) -> Iterator[tuple[str, str, str]]:
    """Columns that must equal a value."""
    columns = {
        "program_id": filters.program, "member_id": filters.member, "source_system": filters.source, "actor": filters.actor,
        "stream": filters.stream, "destination": filters.destination, "kind": filters.kind, "result": filters.result,
        "reason": filters.reason, "command_id": filters.command, "correlation_id": filters.correlation,
    }  # fmt: skip
    for column, value in columns.items():
        if value is not None:
            yield column, value, "String"


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
    where, values = [], {"limit": str(limit)}
    for column, value in (("program_id", filters.program), ("member_id", filters.member)):
        if value is not None:
            where.append(f"{column} = {{{column}:String}}")
            values[column] = value
    _add_times(filters, "recorded_at", where, values)
    condition = f" WHERE {' AND '.join(where)}" if where else ""
    return Query(f"SELECT * FROM {source}{condition} ORDER BY {'recorded_at DESC' if has_times else 'ALL'} LIMIT {{limit:UInt32}}", values)


def _add_times(filters: Filters, column: str, where: list[str], values: dict[str, str]) -> None:
    for name, sign, at_ms in (("since", ">=", filters.since_ms), ("until", "<", filters.until_ms)):
        if at_ms is not None:
            where.append(f"{column} {sign} fromUnixTimestamp64Milli({{{name}:Int64}}, 'UTC')")
            values[name] = str(at_ms)


def instant_ms(text: str) -> int:
    """A time in RFC 3339, or a date, which is its midnight in UTC. Raises ValueError."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        if len(text) > len("2026-11-25"):
            raise ValueError("a time needs its offset, Z or +01:00")
        moment = moment.replace(tzinfo=UTC)
    at_ms = (moment - EPOCH) // timedelta(milliseconds=1)
    if not TIME_MS_MIN <= at_ms <= TIME_MS_MAX:
        raise ValueError("is not between the years 1970 and 2100")
    return at_ms


def selected(direction: Direction) -> str:
    """The hashed columns in their order, times in milliseconds; then number, previous hash, hash, partition and offset."""
    columns = [
        f"toUnixTimestamp64Milli({name.removesuffix('_ms')}) AS {name}" if name.endswith("_ms") else name for name in COLUMNS[direction]
    ]
    return ", ".join([*columns, "chain_number", "previous_hash", "record_hash", "source_partition", "source_offset"])


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
