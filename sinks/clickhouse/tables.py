"""records of the outbound topics -> rows: every table of the history that mirrors a topic. Pure."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from schemas.records import (
    DeadLetter,
    DeliveryAttempt,
    DeliveryAudit,
    DeliveryNotice,
    LedgerEntry,
    LotPart,
    LoyaltyEvent,
    MemberProfile,
    SyncAudit,
)
from sinks.base import Item
from streams import topics
from streams.topics import Topic

# The range of DateTime64(3): 1900 to 2299. ClickHouse would store what is beyond it as some other time.
TIME_MS_MIN, TIME_MS_MAX = -2_208_988_800_000, 10_413_791_999_999

# The reason in the cause of an event, as the bodies of webhooks have it. The end of a body may have been cut off, even amid an escape.
_TEXT = r'"(?:[^"\\]|\\.)*'
WORDS = re.compile(rf"""("cause"\s*:\s*\{{(?:[^{{}}"]|{_TEXT}")*?"reason"\s*:\s*){_TEXT}(?:"|\\?\Z)""", re.DOTALL)

Row = dict[str, Any]
Lot = tuple[str, int, int | None]
"""lot_id, points, expires_at in milliseconds."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table and the topic it mirrors."""

    name: str
    topic: Topic
    row: Callable[[Any], Row]
    """Record -> its columns. Pure."""
    erasable: bool = False
    """Its records are versions of members, and an ERASE ends all that came before it."""
    words: str = ""
    """Column with what a command's sender wrote, which may be about a person: emptied when the member is erased."""


def _lots(lots: Sequence[LotPart]) -> list[Lot]:
    return [(lot.lot_id, lot.points, lot.expires_at_ms) for lot in lots]


def _ledger_entry(entry: LedgerEntry) -> Row:
    return {
        "program_id": entry.program_id,
        "member_id": entry.member_id,
        "entry_sequence": entry.entry_sequence,
        "entry_id": entry.entry_id,
        "transaction_id": entry.transaction_id,
        "kind": entry.kind.value,
        "points_delta": entry.points_delta,
        "balance_after": entry.balance_after,
        "counter_account": entry.counter_account,
        "rule_id": entry.rule_id,
        "reverses_transaction_id": entry.reverses_transaction_id,
        "source_system": entry.source_system,
        "property_id": entry.property_id,
        "category": entry.category,
        "reason": entry.reason,
        "occurred_at": entry.occurred_at_ms,
        "ingested_at": entry.ingested_at_ms,
        "recorded_at": entry.recorded_at_ms,
        "correlation_id": entry.correlation_id,
        "account": entry.account,
        "rule_version": entry.rule_version,
        # An entry without hash is from before there were several accounts: its balance is the available one.
        "available_after": entry.available_after if entry.entry_hash else entry.balance_after,
        "lots": _lots(entry.lots),
        "counter_member_id": entry.counter_member_id,
        "previous_hash": entry.previous_hash,
        "entry_hash": entry.entry_hash,
    }


def _loyalty_event(event: LoyaltyEvent) -> Row:
    return {
        "program_id": event.program_id,
        "member_id": event.member_id,
        "sequence": event.sequence,
        "event_id": event.event_id,
        "kind": event.kind.value,
        "status": event.account.status.value,
        "tier": event.account.tier,
        "available_points": event.account.available_points,
        "qualifying_points": event.account.qualifying_points,
        "pending_points": event.account.pending_points,
        "held_points": event.account.held_points,
        "debt_points": event.account.debt_points,
        "tier_valid_until": event.account.tier_valid_until_ms,
        "points_delta": event.points_delta,
        "shortfall_points": event.shortfall_points,
        "previous_tier": event.previous_tier,
        "offer_id": event.offer_id,
        "reward_code": event.reward_code,
        "voucher_code": event.voucher_code,
        "refusal": event.refusal,
        "refusal_detail": event.refusal_detail,
        "changed_attributes": list(event.changed_attributes),
        "command_id": event.cause.command_id,
        "command_stream": event.cause.stream,
        "source_system": event.cause.source_system,
        "command_reason": event.cause.reason,
        "occurred_at": event.occurred_at_ms,
        "ingested_at": event.ingested_at_ms,
        "recorded_at": event.recorded_at_ms,
        "correlation_id": event.correlation_id,
        "movement": event.movement.value if event.movement else None,
        "lots": _lots(event.lots),
        "hold_id": event.hold_id,
        "expires_at": event.expires_at_ms,
        "counter_member_id": event.counter_member_id,
        "effective_at": event.effective_at_ms,
        "identity_type": event.identity_type,
    }


def _member_profile(profile: MemberProfile) -> Row:
    return {
        "program_id": profile.program_id,
        "member_id": profile.member_id,
        "version": profile.version,
        "operation": profile.operation.value,
        "attributes": dict(profile.attributes),
        "segments": list(profile.segments),
        "external_ids": dict(profile.external_ids),
        "status": profile.status.value,
        "tier": profile.tier,
        "changed": list(profile.changed),
        "source_system": profile.source_system,
        "valid_from": profile.valid_from_ms,
        "ingested_at": profile.ingested_at_ms,
        "recorded_at": profile.recorded_at_ms,
        "correlation_id": profile.correlation_id,
    }


def _sync_audit(audit: SyncAudit) -> Row:
    return {
        "program_id": audit.program_id,
        "member_id": audit.member_id,
        "audit_id": audit.audit_id,
        "stream": audit.stream,
        "command_id": audit.command_id,
        "payload_hash": audit.payload_hash,
        "source_system": audit.source_system,
        "source_version": audit.source_version,
        "actor": audit.actor,
        "result": audit.result.value,
        "reason": audit.reason,
        "detail": audit.detail,
        "replayed": audit.replayed,
        "changes": [(change.attribute, change.before, change.after) for change in audit.changes],
        "sequence": audit.sequence,
        "points_delta": audit.points_delta,
        "available_points": audit.available_points,
        "tier": audit.tier,
        "voucher_code": audit.voucher_code,
        "occurred_at": audit.occurred_at_ms,
        "ingested_at": audit.ingested_at_ms,
        "recorded_at": audit.recorded_at_ms,
        "correlation_id": audit.correlation_id,
        "topic": audit.topic,
        "partition": audit.partition,
        "offset": audit.offset,
        "chain_number": audit.chain_number,
        "previous_hash": audit.previous_hash,
        "record_hash": audit.record_hash,
    }


def _delivery_audit(audit: DeliveryAudit) -> Row:
    return {
        "destination": audit.destination,
        "program_id": audit.program_id,
        "member_id": audit.member_id,
        "sequence": audit.sequence,
        "delivery_id": audit.delivery_id,
        "event_id": audit.event_id,
        "kind": audit.kind,
        "result": audit.result.value,
        "reason": audit.reason,
        "status": audit.status,
        "attempts": audit.attempts,
        "command_id": audit.command_id,
        "source_system": audit.source_system,
        "changed_attributes": list(audit.changed_attributes),
        "occurred_at": audit.occurred_at_ms,
        "ingested_at": audit.ingested_at_ms,
        "recorded_at": audit.recorded_at_ms,
        "ended_at": audit.ended_at_ms,
        "correlation_id": audit.correlation_id,
        "chain_number": audit.chain_number,
        "previous_hash": audit.previous_hash,
        "record_hash": audit.record_hash,
    }


def _delivery_attempt(attempt: DeliveryAttempt) -> Row:
    return {
        "attempt_id": attempt.attempt_id,
        "destination": attempt.destination,
        "channel": attempt.channel,
        "webhook_id": attempt.webhook_id,
        "event_ids": list(attempt.event_ids),
        "kind": attempt.kind,
        "program_id": attempt.program_id,
        "member_id": attempt.member_id,
        "sequence": attempt.sequence,
        "attempt": attempt.attempt,
        "verdict": attempt.verdict.value,
        "outcome": attempt.outcome,
        "status": attempt.status,
        "detail": attempt.detail,
        "next_attempt_at": attempt.next_attempt_at_ms,
        "url": attempt.url,
        "peer_address": attempt.peer_address,
        "request_headers": dict(attempt.request_headers),
        "request_body": without_words(attempt.request_body),
        "response_headers": dict(attempt.response_headers),
        "response_body": without_words(attempt.response_body),
        "appended_at": attempt.appended_at_ms,
        "started_at": attempt.started_at_ms,
        "duration_us": attempt.duration_us,
        "correlation_id": attempt.correlation_id,
    }


def without_words(body: str) -> str:
    """A body, whole or cut, without what the command's sender wrote: it may be about a person, and no erasure would find it in here."""
    return WORDS.sub(r'\1"***"', body)


def _delivery_notice(notice: DeliveryNotice) -> Row:
    return {
        "notice_id": notice.notice_id,
        "kind": notice.kind.value,
        "destination": notice.destination,
        "reason": notice.reason,
        "detail": notice.detail,
        "program_id": notice.program_id,
        "member_id": notice.member_id,
        "event_id": notice.event_id,
        "occurred_at": notice.occurred_at_ms,
    }


def _dead_letter(letter: DeadLetter) -> Row:
    return {
        "dead_letter_id": letter.dead_letter_id,
        "stage": letter.stage.value,
        "reason": letter.reason,
        "detail": letter.detail,
        "processor": letter.processor,
        "topic": letter.topic,
        "partition": letter.partition,
        "offset": letter.offset,
        "key": (letter.key or b"").decode(errors="backslashreplace"),
        "value_bytes": len(letter.value or b""),
        "ingested_at": letter.ingested_at_ms,
        "failed_at": letter.failed_at_ms,
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
)
# Columns that hold a time: what a source says, or a broken clock, may be out of range.
TIMES = frozenset({
    "occurred_at", "ingested_at", "recorded_at", "valid_from", "failed_at", "tier_valid_until", "expires_at", "effective_at", "ended_at",
    "appended_at", "started_at", "next_attempt_at",
})  # fmt: skip


def to_row(table: Table, item: Item[Any]) -> Row:
    """The columns of a record and its place in the log. Raises ValueError for a time that ClickHouse cannot hold."""
    row = table.row(item.record)
    times = [(name, row[name]) for name in TIMES & row.keys()] + [("expiry of a lot", lot[2]) for lot in row.get("lots", ())]
    for name, moment_ms in times:
        if moment_ms is not None and not TIME_MS_MIN <= moment_ms <= TIME_MS_MAX:
            raise ValueError(f"{name} is not between the years 1900 and 2299")
    return row | {"source_partition": item.partition, "source_offset": item.offset}
