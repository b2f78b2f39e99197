"""Records and items for the tests of sinks."""

from typing import Any

from schemas.contract import member_key
from schemas.records import (
    AccountSnapshot,
    AttemptVerdict,
    AttributeChange,
    Cause,
    CommandResult,
    DeadLetter,
    DeadLetterStage,
    DeliveryAttempt,
    DeliveryAudit,
    DeliveryNotice,
    DeliveryResult,
    EntryKind,
    LedgerEntry,
    LotPart,
    LoyaltyEvent,
    LoyaltyEventKind,
    MemberProfile,
    MemberStatus,
    NoticeKind,
    ProfileOperation,
    RunResult,
    RunTrigger,
    SyncAudit,
    SyncRun,
)
from sinks.base import Item
from tests.sinks.broker import codec

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
MOMENT_MS = 1_772_366_400_000  # 2026-03-01T12:00:00Z


def event(sequence: int = 1, member_id: str = "m-1", program_id: str = "grand", **fields: Any) -> LoyaltyEvent:
    points = fields.pop("points", 100 * sequence)
    return LoyaltyEvent(**{
        "event_id": f"{program_id}-{member_id}-{sequence}",
        "program_id": program_id,
        "member_id": member_id,
        "sequence": sequence,
        "kind": LoyaltyEventKind.BALANCE_CHANGED,
        "account": AccountSnapshot(status=MemberStatus.ACTIVE, tier="MEMBER", available_points=points, qualifying_points=points),
        "cause": Cause(command_id=f"t-{sequence}", stream="transactions", source_system="pms"),
        "points_delta": 100,
        "occurred_at_ms": MOMENT_MS + sequence,
        "ingested_at_ms": MOMENT_MS + 1000 + sequence,
        "recorded_at_ms": MOMENT_MS + 2000 + sequence,
        **fields,
    })  # fmt: skip


def lot(number: int = 1, points: int = 10, expires_at_ms: int | None = MOMENT_MS + 10**10) -> LotPart:
    return LotPart(lot_id=f"t-{number}", points=points, expires_at_ms=expires_at_ms)


def ledger_entry(entry_sequence: int = 1, member_id: str = "m-1", program_id: str = "grand", **fields: Any) -> LedgerEntry:
    return LedgerEntry(**{
        "entry_id": f"{program_id}-{member_id}-{entry_sequence}",
        "program_id": program_id,
        "member_id": member_id,
        "entry_sequence": entry_sequence,
        "transaction_id": f"t-{entry_sequence}",
        "kind": EntryKind.EARN,
        "points_delta": 10,
        "balance_after": 10 * entry_sequence,
        "counter_account": "issued",
        "rule_id": "earn",
        "source_system": "pms",
        "occurred_at_ms": MOMENT_MS + entry_sequence,
        "ingested_at_ms": MOMENT_MS + 1000 + entry_sequence,
        "recorded_at_ms": MOMENT_MS + 2000 + entry_sequence,
        "rule_version": 2,
        "available_after": 10 * entry_sequence,
        "lots": (lot(entry_sequence), lot(entry_sequence + 1, expires_at_ms=None)),
        "previous_hash": f"{entry_sequence - 1:032x}" if entry_sequence > 1 else "",
        "entry_hash": f"{entry_sequence:032x}",
        **fields,
    })  # fmt: skip


def profile(version: int = 1, member_id: str = "m-1", **fields: Any) -> MemberProfile:
    return MemberProfile(**{
        "program_id": "grand",
        "member_id": member_id,
        "version": version,
        "operation": ProfileOperation.ENROL if version == 1 else ProfileOperation.CHANGE,
        "attributes": {"email": f"v{version}@example.com", "given_name": "Zoë"},
        "segments": ("vip", "spa"),
        "status": MemberStatus.ACTIVE,
        "tier": "MEMBER",
        "changed": ("email",),
        "source_system": "crm",
        "valid_from_ms": MOMENT_MS + version * 1000,
        "ingested_at_ms": MOMENT_MS + version,
        "recorded_at_ms": MOMENT_MS + version,
        **fields,
    })  # fmt: skip


def erased_profile(version: int, member_id: str = "m-1", **fields: Any) -> MemberProfile:
    return profile(version, member_id, **{
        "operation": ProfileOperation.ERASE, "attributes": {}, "segments": (), "status": MemberStatus.ERASED, "changed": (), **fields,
    })  # fmt: skip


def audit(number: int = 1, member_id: str = "m-1", **fields: Any) -> SyncAudit:
    return SyncAudit(**{
        "audit_id": f"loyalty.transactions.v1-0-{number}",
        "program_id": "grand",
        "member_id": member_id,
        "stream": "transactions",
        "command_id": f"t-{number}",
        "payload_hash": "0" * 16,
        "source_system": "pms",
        "result": CommandResult.APPLIED,
        "changes": (AttributeChange(attribute="available_points", before="0", after="10"), AttributeChange(attribute="tier")),
        "sequence": number,
        "points_delta": 10,
        "available_points": 10,
        "occurred_at_ms": MOMENT_MS + number,
        "ingested_at_ms": MOMENT_MS + number,
        "recorded_at_ms": MOMENT_MS + number,
        "topic": "loyalty.transactions.v1",
        "partition": 0,
        "offset": number,
        **fields,
    })  # fmt: skip


def delivery_audit(number: int = 1, member_id: str = "m-1", **fields: Any) -> DeliveryAudit:
    return DeliveryAudit(**{
        "delivery_id": f"crm/grand-{member_id}-{number}",
        "destination": "crm",
        "event_id": f"grand-{member_id}-{number}",
        "program_id": "grand",
        "member_id": member_id,
        "sequence": number,
        "kind": "PROFILE_CHANGED",
        "result": DeliveryResult.DELIVERED,
        "status": 204,
        "attempts": 2,
        "command_id": f"e-{number}",
        "source_system": "crm",
        "changed_attributes": ("email",),
        "occurred_at_ms": MOMENT_MS + number,
        "ingested_at_ms": MOMENT_MS + number,
        "recorded_at_ms": MOMENT_MS + number,
        "ended_at_ms": MOMENT_MS + 1000 + number,
        "chain_number": number,
        "previous_hash": f"{number - 1:064x}" if number > 1 else "",
        "record_hash": f"{number:064x}",
        **fields,
    })  # fmt: skip


def delivery_attempt(number: int = 1, member_id: str = "m-1", **fields: Any) -> DeliveryAttempt:
    destination, started_at_ms = fields.get("destination", "crm"), fields.get("started_at_ms", MOMENT_MS + number)
    event_id = f"grand-{member_id}-{number}"
    return DeliveryAttempt(**{
        "attempt_id": f"{destination}/{event_id}/{started_at_ms}",
        "destination": destination,
        "channel": destination,
        "webhook_id": event_id,
        "event_ids": (event_id,),
        "kind": "BALANCE_CHANGED",
        "program_id": "grand",
        "member_id": member_id,
        "sequence": number,
        "attempt": 2,
        "verdict": AttemptVerdict.DELIVERED,
        "outcome": "204",
        "status": 204,
        "detail": "",
        "url": "https://crm.example.com/hooks",
        "peer_address": "192.0.2.7",
        "request_headers": {"webhook-id": event_id, "webhook-signature": "v1,***"},
        "request_body": '{"data":{"cause":{"command_id":"t-1","reason":"moved \\"away\\"","stream":"transactions"}}}',
        "response_headers": {"content-type": "text/plain"},
        "response_body": "taken",
        "appended_at_ms": started_at_ms - 40,
        "started_at_ms": started_at_ms,
        "duration_us": 12_345,
        "correlation_id": f"c-{number}",
        **fields,
    })  # fmt: skip


def failed_attempt(number: int = 1, member_id: str = "m-1", **fields: Any) -> DeliveryAttempt:
    return delivery_attempt(number, member_id, **{
        "verdict": AttemptVerdict.RETRY, "outcome": "503", "status": 503, "detail": "answers 503", "next_attempt_at_ms": MOMENT_MS + 60_000,
        "response_body": "busy", **fields,
    })  # fmt: skip


def delivery_notice(number: int = 1, **fields: Any) -> DeliveryNotice:
    return DeliveryNotice(**{
        "notice_id": f"crm-exhausted-{number}",
        "kind": NoticeKind.DELIVERY_EXHAUSTED,
        "destination": "crm",
        "reason": "RETRIES_EXHAUSTED",
        "detail": "answers 503",
        "program_id": "grand",
        "member_id": "m-1",
        "event_id": f"grand-m-1-{number}",
        "occurred_at_ms": MOMENT_MS + number,
        **fields,
    })  # fmt: skip


def dead_letter(number: int = 1, **fields: Any) -> DeadLetter:
    return DeadLetter(**{
        "dead_letter_id": f"worker-loyalty.transactions.v1-0-{number}",
        "stage": DeadLetterStage.DECODE,
        "reason": "UNDECODABLE",
        "detail": "schema 1: EOFError",
        "processor": "worker",
        "topic": "loyalty.transactions.v1",
        "partition": 0,
        "offset": number,
        "key": b"grand/m-1",
        "value": b"\x00\xff\x00",
        "ingested_at_ms": MOMENT_MS,
        "failed_at_ms": MOMENT_MS + number,
        **fields,
    })  # fmt: skip


def sync_run(number: int = 1, **fields: Any) -> SyncRun:
    return SyncRun(**{
        "run_id": f"report/liability@{MOMENT_MS + number}",
        "job": "report/liability",
        "trigger": RunTrigger.SCHEDULE,
        "result": RunResult.DONE,
        "detail": "",
        "attempt": 1,
        "cadence": "cron 45 3 * * *",
        "requested_by": "",
        "scheduled_for_ms": MOMENT_MS + number,
        "started_at_ms": MOMENT_MS + 100 + number,
        "ended_at_ms": MOMENT_MS + 2000 + number,
        "rows": 10 * number,
        "counts": {"months": number},
        "due_after_ms": MOMENT_MS + 10**8,
        **fields,
    })  # fmt: skip


def item(record: Any, *, offset: int = 0, partition: int = 0, topic: str = "loyalty.events.v1", timestamp_ms: int = MOMENT_MS) -> Item[Any]:
    key = member_key(record.program_id, record.member_id) if getattr(record, "member_id", None) else b""
    return Item(record=record, topic=topic, partition=partition, offset=offset, key=key, value=codec().encode(record), timestamp_ms=timestamp_ms)


EVERY_KIND = {
    LoyaltyEventKind.MEMBER_ENROLLED: event(1, kind=LoyaltyEventKind.MEMBER_ENROLLED, points_delta=0, points=0),
    LoyaltyEventKind.PROFILE_CHANGED: event(
        2, kind=LoyaltyEventKind.PROFILE_CHANGED, points_delta=0, changed_attributes=("email", "phone"), correlation_id="c-2"
    ),
    LoyaltyEventKind.BALANCE_CHANGED: event(
        3, points_delta=-250, shortfall_points=50, movement=EntryKind.HOLD, lots=(lot(1, 200), lot(2, 50, None)), hold_id="h-3",
        expires_at_ms=MOMENT_MS + 10**9,
        account=AccountSnapshot(
            status=MemberStatus.ACTIVE, tier="GOLD", available_points=300, qualifying_points=900, pending_points=40, held_points=250,
            debt_points=7, tier_valid_until_ms=MOMENT_MS + 10**10,
        ),
    ),
    LoyaltyEventKind.TIER_CHANGED: event(4, kind=LoyaltyEventKind.TIER_CHANGED, points_delta=0, previous_tier="MEMBER"),
    LoyaltyEventKind.OFFER_ACTIVATED: event(5, kind=LoyaltyEventKind.OFFER_ACTIVATED, points_delta=0, offer_id="double-points"),
    LoyaltyEventKind.VOUCHER_ISSUED: event(
        6, kind=LoyaltyEventKind.VOUCHER_ISSUED, points_delta=0, reward_code="SPA-50", voucher_code="ABCD-EFGH",
        expires_at_ms=MOMENT_MS + 10**10,
    ),
    LoyaltyEventKind.ACCOUNT_SUSPENDED: event(
        7, kind=LoyaltyEventKind.ACCOUNT_SUSPENDED, points_delta=0,
        account=AccountSnapshot(status=MemberStatus.SUSPENDED, tier="GOLD", available_points=2**53, qualifying_points=9),
        cause=Cause(command_id="e-7", stream="profile-changes", source_system="crm", reason='fraud "ring" — Zoë'),
    ),
    LoyaltyEventKind.ACCOUNT_REACTIVATED: event(8, kind=LoyaltyEventKind.ACCOUNT_REACTIVATED, points_delta=0),
    LoyaltyEventKind.COMMAND_REFUSED: event(9, kind=LoyaltyEventKind.COMMAND_REFUSED, points_delta=0, refusal="INSUFFICIENT_POINTS"),
    LoyaltyEventKind.VOUCHER_REDEEMED: event(10, kind=LoyaltyEventKind.VOUCHER_REDEEMED, points_delta=0, voucher_code="ABCD-EFGH"),
    LoyaltyEventKind.VOUCHER_CANCELLED: event(11, kind=LoyaltyEventKind.VOUCHER_CANCELLED, points_delta=0, voucher_code="ABCD-EFGH"),
    LoyaltyEventKind.VOUCHER_EXPIRED: event(12, kind=LoyaltyEventKind.VOUCHER_EXPIRED, points_delta=0, voucher_code="ABCD-EFGH"),
    LoyaltyEventKind.TIER_RETAINED: event(13, kind=LoyaltyEventKind.TIER_RETAINED, points_delta=0),
    LoyaltyEventKind.MEMBER_MERGED: event(15, kind=LoyaltyEventKind.MEMBER_MERGED, points_delta=0, counter_member_id="m-2"),
    LoyaltyEventKind.MEMBER_ERASED: event(
        16, kind=LoyaltyEventKind.MEMBER_ERASED, points_delta=0,
        account=AccountSnapshot(status=MemberStatus.ERASED, tier="MEMBER", available_points=0, qualifying_points=0),
    ),
    LoyaltyEventKind.STATUS_SCHEDULED: event(
        17, kind=LoyaltyEventKind.STATUS_SCHEDULED, points_delta=0, effective_at_ms=MOMENT_MS + 10**9
    ),
    LoyaltyEventKind.POOL_CHANGED: event(18, kind=LoyaltyEventKind.POOL_CHANGED, points_delta=0, counter_member_id="family-1"),
    LoyaltyEventKind.MEMBER_LEFT: event(19, kind=LoyaltyEventKind.MEMBER_LEFT, points_delta=0),
    LoyaltyEventKind.IDENTITY_CONFLICT: event(
        20, kind=LoyaltyEventKind.IDENTITY_CONFLICT, points_delta=0, identity_type="card", counter_member_id="m-2"
    ),
}  # fmt: skip
