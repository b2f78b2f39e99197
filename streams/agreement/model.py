"""What a difference is, and what is compared of an account, an entry, an event and a profile. Pure."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from operator import attrgetter, itemgetter
from typing import Any, NamedTuple
from zlib import crc32

from schemas.records import LedgerEntry, LoyaltyEvent, MemberProfile


class Cause(StrEnum):
    """Why a copy is not what it should be."""

    LAG = "lag"
    """What is missing is behind the place that the copy's sink has come to: it waits, and is no error."""
    DEAD_LETTER = "dead_letter"
    SKIPPED = "skipped"
    DROPPED = "dropped"
    MISSING = "missing"
    """It should be there, by all that is on record."""
    DOUBLED = "doubled"
    """It is there under a key that it does not have in the log."""
    ALTERED = "altered"
    """A record is not what was written, or does not follow the one before it."""
    DRIFT = "drift"
    """A value differs, and the sequence is the same."""
    BUG = "bug"
    """What the journal adds up to is not what the account has."""


class Store(StrEnum):
    """Where a copy is. A destination is `destination:` and its name."""

    CHANGELOG = "changelog"
    TABLE = "table"
    JOURNAL = "journal"
    EVENTS = "events"
    PROFILES = "profiles"
    LEDGER_ROWS = "clickhouse.ledger_entries"
    EVENT_ROWS = "clickhouse.loyalty_events"
    PROFILE_ROWS = "clickhouse.member_profile_history"
    REDIS = "redis"


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One thing that a copy has not as the others have."""

    program_id: str
    member_id: str
    store: str
    cause: Cause
    field: str = ""
    """What differs; empty: all of a record."""
    here: str | None = None
    """What the store has."""
    there: str | None = None
    """What it should have."""
    sequence: int | None = None
    """Of the entry, event or profile version at which they part."""
    record_id: str = ""
    """Its entry_id or event_id."""
    age_s: float | None = None
    """LAG: for how long it has waited."""
    detail: str = ""
    repair: str = ""
    """What --repair does, or `operator: ` and what somebody must do."""


class Standing(NamedTuple):
    """What is compared of an account."""

    event_sequence: int
    entry_sequence: int
    profile_version: int
    status: str
    tier: str
    available_points: int
    pending_points: int
    held_points: int
    debt_points: int
    qualifying_points: int
    entry_hash: str
    check: int
    """CRC-32 of the account as it is stored."""


SHOWN = Standing._fields[:-1]
_standing = itemgetter(*SHOWN)
BALANCES = ("available", "pending", "held", "debt")
"""The member's own accounts in the ledger; debt is below 0 there."""
SNAPSHOT = ("status", "tier", "available_points", "qualifying_points", "pending_points", "held_points", "debt_points")
"""What an event says of the account after it, and Redis keeps."""


def standing(account: Mapping[str, Any], value: bytes) -> Standing:
    """Of an account's fields, and the account as it is stored."""
    return Standing._make((*_standing(account), crc32(value)))


def snapshot(event: LoyaltyEvent) -> list[Any]:
    """The values of SNAPSHOT."""
    return [_plain(value) for value in _snapshot(event.account)]


_snapshot = attrgetter(*SNAPSHOT)


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, StrEnum) else value


@dataclass(frozen=True, slots=True, kw_only=True)
class Digest:
    """A checksum of a record that ClickHouse can calculate of the row as well: CRC-32 of some values, as texts, with '|' between them."""

    of: Callable[[Any], int]
    sql: str


def _digest(values: Callable[[Any], Iterable[object]], *columns: str) -> Digest:
    def of(record: Any) -> int:
        return crc32("|".join(map(str, values(record))).encode())

    return Digest(of=of, sql=f"CRC32(concatWithSeparator('|', {', '.join(map(_text_of, columns))}))")


def _text_of(column: str) -> str:
    name, _, kind = column.partition(":")
    match kind:
        case "ms":
            return f"toString(toUnixTimestamp64Milli({name}))"
        case "number":
            return f"toString({name})"
        case "list":
            return f"arrayStringConcat({name}, ',')"
        case "map":
            return f"arrayStringConcat(arrayMap((k, v) -> concat(k, '=', v), mapKeys(mapSort({name})), mapValues(mapSort({name}))), ',')"
    return f"toString({name})"  # LowCardinality and plain texts alike.


_entry = attrgetter(
    "entry_sequence", "entry_id", "transaction_id", "kind", "account", "points_delta", "balance_after", "counter_account", "source_system",
    "previous_hash", "entry_hash", "occurred_at_ms", "recorded_at_ms",
)  # fmt: skip
_event = attrgetter(
    "sequence", "event_id", "kind", "account.status", "account.tier", "account.available_points", "account.qualifying_points",
    "account.pending_points", "account.held_points", "account.debt_points", "points_delta", "cause.command_id", "occurred_at_ms",
    "recorded_at_ms",
)  # fmt: skip


def _entry_values(entry: LedgerEntry) -> Iterable[object]:
    # An entry without hash is from before there were several accounts: its balance is the available one.
    return (*_entry(entry), entry.available_after if entry.entry_hash else entry.balance_after)


def _profile_values(profile: MemberProfile) -> Iterable[object]:
    return (
        profile.version, profile.operation, _pairs(profile.attributes), ",".join(profile.segments), _pairs(profile.external_ids), profile.status,
        profile.tier, profile.source_system, profile.valid_from_ms, profile.recorded_at_ms,
    )  # fmt: skip


def _pairs(values: Mapping[str, str]) -> str:
    return ",".join(f"{name}={value}" for name, value in sorted(values.items()))


ENTRY = _digest(
    _entry_values, "entry_sequence:number", "entry_id", "transaction_id", "kind", "account", "points_delta:number", "balance_after:number",
    "counter_account", "source_system", "previous_hash", "entry_hash", "occurred_at:ms", "recorded_at:ms", "available_after:number",
)  # fmt: skip
EVENT = _digest(
    _event, "sequence:number", "event_id", "kind", "status", "tier", "available_points:number", "qualifying_points:number",
    "pending_points:number", "held_points:number", "debt_points:number", "points_delta:number", "command_id", "occurred_at:ms", "recorded_at:ms",
)  # fmt: skip
PROFILE = _digest(
    _profile_values, "version:number", "operation", "attributes:map", "segments:list", "external_ids:map", "status", "tier", "source_system",
    "valid_from:ms", "recorded_at:ms",
)  # fmt: skip
