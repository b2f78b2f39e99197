"""encoded records of the outbound topics -> columns of Arrow: every table of the history that mirrors a topic. Pure."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.columns import Array
from streams import topics
from streams.topics import Topic

# The range of DateTime64(3): 1900 to 2299. ClickHouse would store what is beyond it as some other time.
TIME_MS_MIN, TIME_MS_MAX = -2_208_988_800_000, 10_413_791_999_999

# The reason in the cause of an event, as the bodies of webhooks have it. The end of a body may have been cut off, even amid an escape.
_TEXT = r'"(?:[^"\\]|\\.)*'
WORDS = re.compile(rf"""("cause"\s*:\s*\{{(?:[^{{}}"]|{_TEXT}")*?"reason"\s*:\s*){_TEXT}(?:"|\\?\Z)""", re.DOTALL)

TIME = pa.timestamp("ms", tz="UTC")
LOTS = pa.list_(pa.struct([("lot_id", pa.string()), ("points", pa.int64()), ("expires_at", TIME)]))

Columns = dict[str, Array]


class Fields:
    """The fields of a batch's records, by name; of records within them by `account.tier`. Notes the rows that no table can hold."""

    def __init__(self, fields: Mapping[str, Array]) -> None:
        self._fields = fields
        self.invalid: dict[int, str] = {}
        """Row -> what is wrong with it."""

    def __getitem__(self, path: str) -> Array:
        name, _, inner = path.partition(".")
        array = self._fields[name]
        return array.field(inner) if inner else array

    def number(self, path: str, kind: Any) -> Array:
        """Integers of another type than Avro's own. ClickHouse would store one that does not fit as some other number."""
        limits = np.iinfo(kind.to_pandas_dtype())
        kept = self._bounded(self[path], max(int(limits.min), -(2**63)), min(int(limits.max), 2**63 - 1), f"{path} does not fit {kind}")
        return kept.cast(kind)

    def time(self, path: str) -> Array:
        """A time: what a source says, or a broken clock, may be out of range."""
        name = path.rpartition(".")[2].removesuffix("_ms")
        return self._bounded(self[path], TIME_MS_MIN, TIME_MS_MAX, f"{name} is not between the years 1900 and 2299").view(TIME)

    def lots(self, path: str) -> Array:
        lists = self[path]
        points, ends = lists.values.field("points"), lists.values.field("expires_at_ms")
        if (wrong := _outside(ends, TIME_MS_MIN, TIME_MS_MAX)) is not None:
            rows = np.searchsorted(np.asarray(lists.offsets), np.flatnonzero(wrong), side="right") - 1
            self.invalid |= dict.fromkeys(rows.tolist(), "expiry of a lot is not between the years 1900 and 2299")
            ends = pc.if_else(pa.array(wrong), 0, ends)
        lots = pa.StructArray.from_arrays([lists.values.field("lot_id"), points, ends.view(TIME)], fields=list(LOTS.value_type))
        return pa.ListArray.from_arrays(lists.offsets, lots)

    def _bounded(self, values: Array, least: int, most: int, complaint: str) -> Array:
        wrong = _outside(values, least, most)
        if wrong is None:
            return values
        self.invalid |= dict.fromkeys(np.flatnonzero(wrong).tolist(), complaint)
        return pc.if_else(pa.array(wrong), 0, values)


def _outside(values: Array, least: int, most: int) -> Any:
    """Which values are out of bounds; None if none is, as almost always."""
    found = pc.min_max(values)
    if not found["min"].is_valid or (least <= found["min"].as_py() and found["max"].as_py() <= most):
        return None
    outside = pc.or_(pc.less(values, least), pc.greater(values, most))
    return np.asarray(pc.fill_null(outside, False))


@dataclass(frozen=True, slots=True)
class Table:
    """A table and the topic it mirrors."""

    name: str
    topic: Topic
    columns: Callable[[Fields], Columns]
    """Records -> their columns, by their names in the table. Pure."""
    erasable: bool = False
    """Its records are versions of members, and an ERASE ends all that came before it."""
    words: str = ""
    """Column with what a command's sender wrote, which may be about a person: emptied when the member is erased."""


def _ledger_entry(of: Fields) -> Columns:
    return {
        "program_id": of["program_id"],
        "member_id": of["member_id"],
        "entry_sequence": of.number("entry_sequence", pa.uint64()),
        "entry_id": of["entry_id"],
        "transaction_id": of["transaction_id"],
        "kind": of["kind"],
        "points_delta": of["points_delta"],
        "balance_after": of["balance_after"],
        "counter_account": of["counter_account"],
        "rule_id": of["rule_id"],
        "reverses_transaction_id": of["reverses_transaction_id"],
        "source_system": of["source_system"],
        "property_id": of["property_id"],
        "category": of["category"],
        "reason": of["reason"],
        "occurred_at": of.time("occurred_at_ms"),
        "ingested_at": of.time("ingested_at_ms"),
        "recorded_at": of.time("recorded_at_ms"),
        "correlation_id": of["correlation_id"],
        "account": of["account"],
        "rule_version": of.number("rule_version", pa.uint64()),
        # An entry without hash is from before there were several accounts: its balance is the available one.
        "available_after": pc.if_else(pc.equal(of["entry_hash"], ""), of["balance_after"], of["available_after"]),
        "lots": of.lots("lots"),
        "counter_member_id": of["counter_member_id"],
        "previous_hash": of["previous_hash"],
        "entry_hash": of["entry_hash"],
    }


def _loyalty_event(of: Fields) -> Columns:
    return {
        "program_id": of["program_id"],
        "member_id": of["member_id"],
        "sequence": of.number("sequence", pa.uint64()),
        "event_id": of["event_id"],
        "kind": of["kind"],
        "status": of["account.status"],
        "tier": of["account.tier"],
        "available_points": of["account.available_points"],
        "qualifying_points": of["account.qualifying_points"],
        "pending_points": of["account.pending_points"],
        "held_points": of["account.held_points"],
        "debt_points": of["account.debt_points"],
        "tier_valid_until": of.time("account.tier_valid_until_ms"),
        "points_delta": of["points_delta"],
        "shortfall_points": of["shortfall_points"],
        "previous_tier": of["previous_tier"],
        "offer_id": of["offer_id"],
        "reward_code": of["reward_code"],
        "voucher_code": of["voucher_code"],
        "refusal": of["refusal"],
        "refusal_detail": of["refusal_detail"],
        "changed_attributes": of["changed_attributes"],
        "command_id": of["cause.command_id"],
        "command_stream": of["cause.stream"],
        "source_system": of["cause.source_system"],
        "command_reason": of["cause.reason"],
        "occurred_at": of.time("occurred_at_ms"),
        "ingested_at": of.time("ingested_at_ms"),
        "recorded_at": of.time("recorded_at_ms"),
        "correlation_id": of["correlation_id"],
        "movement": of["movement"],
        "lots": of.lots("lots"),
        "hold_id": of["hold_id"],
        "expires_at": of.time("expires_at_ms"),
        "counter_member_id": of["counter_member_id"],
        "effective_at": of.time("effective_at_ms"),
        "identity_type": of["identity_type"],
    }


def _member_profile(of: Fields) -> Columns:
    return {
        "program_id": of["program_id"],
        "member_id": of["member_id"],
        "version": of.number("version", pa.uint64()),
        "operation": of["operation"],
        "attributes": of["attributes"],
        "segments": of["segments"],
        "external_ids": of["external_ids"],
        "status": of["status"],
        "tier": of["tier"],
        "changed": of["changed"],
        "source_system": of["source_system"],
        "valid_from": of.time("valid_from_ms"),
        "ingested_at": of.time("ingested_at_ms"),
        "recorded_at": of.time("recorded_at_ms"),
        "correlation_id": of["correlation_id"],
    }


def _sync_audit(of: Fields) -> Columns:
    return {
        "program_id": of["program_id"],
        "member_id": of["member_id"],
        "audit_id": of["audit_id"],
        "stream": of["stream"],
        "command_id": of["command_id"],
        "payload_hash": of["payload_hash"],
        "source_system": of["source_system"],
        "source_version": of["source_version"],
        "actor": of["actor"],
        "result": of["result"],
        "reason": of["reason"],
        "detail": of["detail"],
        "replayed": of["replayed"],
        "changes": of["changes"],
        "sequence": of.number("sequence", pa.uint64()),
        "points_delta": of["points_delta"],
        "available_points": of["available_points"],
        "tier": of["tier"],
        "voucher_code": of["voucher_code"],
        "occurred_at": of.time("occurred_at_ms"),
        "ingested_at": of.time("ingested_at_ms"),
        "recorded_at": of.time("recorded_at_ms"),
        "correlation_id": of["correlation_id"],
        "topic": of["topic"],
        "partition": of.number("partition", pa.uint16()),
        "offset": of.number("offset", pa.uint64()),
        "chain_number": of.number("chain_number", pa.uint64()),
        "previous_hash": of["previous_hash"],
        "record_hash": of["record_hash"],
    }


def _delivery_audit(of: Fields) -> Columns:
    return {
        "destination": of["destination"],
        "program_id": of["program_id"],
        "member_id": of["member_id"],
        "sequence": of.number("sequence", pa.uint64()),
        "delivery_id": of["delivery_id"],
        "event_id": of["event_id"],
        "kind": of["kind"],
        "result": of["result"],
        "reason": of["reason"],
        "status": of.number("status", pa.int32()),
        "attempts": of.number("attempts", pa.uint32()),
        "command_id": of["command_id"],
        "source_system": of["source_system"],
        "changed_attributes": of["changed_attributes"],
        "occurred_at": of.time("occurred_at_ms"),
        "ingested_at": of.time("ingested_at_ms"),
        "recorded_at": of.time("recorded_at_ms"),
        "ended_at": of.time("ended_at_ms"),
        "correlation_id": of["correlation_id"],
        "chain_number": of.number("chain_number", pa.uint64()),
        "previous_hash": of["previous_hash"],
        "record_hash": of["record_hash"],
    }


def _delivery_attempt(of: Fields) -> Columns:
    return {
        "attempt_id": of["attempt_id"],
        "destination": of["destination"],
        "channel": of["channel"],
        "webhook_id": of["webhook_id"],
        "event_ids": of["event_ids"],
        "kind": of["kind"],
        "program_id": of["program_id"],
        "member_id": of["member_id"],
        "sequence": of.number("sequence", pa.uint64()),
        "attempt": of.number("attempt", pa.uint32()),
        "verdict": of["verdict"],
        "outcome": of["outcome"],
        "status": of.number("status", pa.uint16()),
        "detail": of["detail"],
        "next_attempt_at": of.time("next_attempt_at_ms"),
        "url": of["url"],
        "peer_address": of["peer_address"],
        "request_headers": of["request_headers"],
        "request_body": _without_words(of["request_body"]),
        "response_headers": of["response_headers"],
        "response_body": _without_words(of["response_body"]),
        "appended_at": of.time("appended_at_ms"),
        "started_at": of.time("started_at_ms"),
        "duration_us": of.number("duration_us", pa.uint64()),
        "correlation_id": of["correlation_id"],
    }


def _without_words(bodies: Array) -> Array:
    return pa.array([without_words(body) for body in bodies.to_pylist()], type=pa.string())


def without_words(body: str) -> str:
    """A body, whole or cut, without what the command's sender wrote: it may be about a person, and no erasure would find it in here."""
    return WORDS.sub(r'\1"***"', body)


def _delivery_notice(of: Fields) -> Columns:
    return {
        "notice_id": of["notice_id"],
        "kind": of["kind"],
        "destination": of["destination"],
        "reason": of["reason"],
        "detail": of["detail"],
        "program_id": of["program_id"],
        "member_id": of["member_id"],
        "event_id": of["event_id"],
        "occurred_at": of.time("occurred_at_ms"),
    }


def _dead_letter(of: Fields) -> Columns:
    return {
        "dead_letter_id": of["dead_letter_id"],
        "stage": of["stage"],
        "reason": of["reason"],
        "detail": of["detail"],
        "processor": of["processor"],
        "topic": of["topic"],
        "partition": of.number("partition", pa.uint16()),
        "offset": of.number("offset", pa.uint64()),
        "key": pa.array([(key or b"").decode(errors="backslashreplace") for key in of["key"].to_pylist()], type=pa.string()),
        "value_bytes": pc.fill_null(pc.binary_length(of["value"]), 0),
        "ingested_at": of.time("ingested_at_ms"),
        "failed_at": of.time("failed_at_ms"),
    }


def _sync_run(of: Fields) -> Columns:
    return {
        "run_id": of["run_id"],
        "job": of["job"],
        "trigger": of["trigger"],
        "result": of["result"],
        "detail": of["detail"],
        "attempt": of.number("attempt", pa.uint32()),
        "cadence": of["cadence"],
        "requested_by": of["requested_by"],
        "scheduled_for": of.time("scheduled_for_ms"),
        "started_at": of.time("started_at_ms"),
        "ended_at": of.time("ended_at_ms"),
        "rows": of["rows"],
        "counts": of["counts"],
        "due_after": of.time("due_after_ms"),
    }


TABLES = (
    Table("ledger_entries", topics.LEDGER_ENTRIES, _ledger_entry),
    Table("loyalty_events", topics.EVENTS, _loyalty_event, words="command_reason"),
    Table("member_profile_history", topics.PROFILES, _member_profile, erasable=True),
    Table("sync_audit", topics.SYNC_AUDIT, _sync_audit),
    Table("delivery_audit", topics.DELIVERY_AUDIT, _delivery_audit),
    Table("delivery_attempts", topics.DELIVERY_ATTEMPTS, _delivery_attempt),
    Table("delivery_notices", topics.DELIVERY_NOTICES, _delivery_notice),
    Table("dead_letters", topics.DEAD_LETTERS, _dead_letter),
    Table("sync_runs", topics.SYNC_RUNS, _sync_run),
)
