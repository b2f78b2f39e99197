"""What happened -> the records that tell of it: delivery audit, attempts, notices, dead letters. Pure."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from schemas.records import (
    AttemptVerdict,
    DeadLetter,
    DeadLetterStage,
    DeliveryAttempt,
    DeliveryAudit,
    DeliveryNotice,
    DeliveryResult,
    LoyaltyEvent,
    NoticeKind,
)
from sinks.base import Verdict
from sinks.delivery.attempt import Result, kind_of, masked_request, masked_response, masked_url
from sinks.delivery.records import Outgoing, Undecodable

PROCESSOR = "sink-webhooks"
REQUEST_BODY_BYTES_MAX = 16 * 1024
RESPONSE_BODY_BYTES_MAX = 4 * 1024
RETRIES_EXHAUSTED = "RETRIES_EXHAUSTED"
RANGE = "RANGE"
"""Kind of an audit record about several events of which no more is known than their places."""
VERDICTS = {Verdict.DELIVERED: AttemptVerdict.DELIVERED, Verdict.RETRY: AttemptVerdict.RETRY, Verdict.REFUSED: AttemptVerdict.GIVEN_UP}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """An event is finished for a destination."""

    destination: str
    record: Outgoing
    result: DeliveryResult
    reason: str = ""
    status: int | None = None
    attempts: int = 0
    ended_at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropped:
    """Events are gone undelivered: `first` to `last` are their offsets, or bound them."""

    destination: str
    stream: str
    partition: int
    first: int
    last: int
    member: str
    """program_id/member_id; empty: of many members."""
    reason: str
    ended_at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempted:
    """One attempt has ended."""

    destination: str
    channel: str
    url: str
    is_batch: bool
    records: Sequence[Outgoing]
    result: Result
    attempt: int
    is_given_up: bool
    next_attempt_at_ms: int | None


def audit_of(ended: Ended | Dropped) -> DeliveryAudit:
    """The record of an end, not chained yet."""
    if isinstance(ended, Dropped):
        return _audit_of_range(ended)
    record = ended.record.record
    return DeliveryAudit(
        delivery_id=f"{ended.destination}/{ended.record.event_id}",
        destination=ended.destination,
        event_id=ended.record.event_id,
        program_id=ended.record.program_id,
        member_id=ended.record.member_id,
        sequence=record.sequence if isinstance(record, LoyaltyEvent) else 0,
        kind=kind_of(record),
        result=ended.result,
        reason=ended.reason or None,
        status=ended.status,
        attempts=ended.attempts,
        command_id=record.cause.command_id if isinstance(record, LoyaltyEvent) else "",
        source_system=record.cause.source_system if isinstance(record, LoyaltyEvent) else "",
        changed_attributes=record.changed_attributes if isinstance(record, LoyaltyEvent) else (),
        occurred_at_ms=record.occurred_at_ms,
        ingested_at_ms=record.ingested_at_ms if isinstance(record, LoyaltyEvent) else record.occurred_at_ms,
        recorded_at_ms=record.recorded_at_ms if isinstance(record, LoyaltyEvent) else record.occurred_at_ms,
        ended_at_ms=ended.ended_at_ms,
        correlation_id=ended.record.correlation_id or None,
        chain_number=0,
        previous_hash="",
        record_hash="",
    )


def _audit_of_range(dropped: Dropped) -> DeliveryAudit:
    program_id, _, member_id = dropped.member.partition("/")
    place = f"{dropped.stream}-{dropped.partition}-{dropped.first}-{dropped.last}"
    return DeliveryAudit(
        delivery_id=f"{dropped.destination}/{place}", destination=dropped.destination, event_id=place, program_id=program_id, member_id=member_id,
        sequence=0, kind=RANGE, result=DeliveryResult.DROPPED, reason=dropped.reason, status=None, attempts=0, command_id="", source_system="",
        changed_attributes=(), occurred_at_ms=dropped.ended_at_ms, ingested_at_ms=dropped.ended_at_ms, recorded_at_ms=dropped.ended_at_ms,
        ended_at_ms=dropped.ended_at_ms, correlation_id=None, chain_number=0, previous_hash="", record_hash="",
    )  # fmt: skip


def attempt_of(attempted: Attempted) -> DeliveryAttempt:
    result, first = attempted.result, attempted.records[0]
    answer, is_batch = result.answer, attempted.is_batch
    return DeliveryAttempt(
        attempt_id=f"{attempted.destination}/{result.webhook_id}/{result.started_at_ms}",
        destination=attempted.destination,
        channel=attempted.channel,
        webhook_id=result.webhook_id,
        event_ids=tuple(one.event_id for one in attempted.records),
        kind="BATCH" if is_batch else kind_of(first.record),
        program_id="" if is_batch else first.program_id,
        member_id="" if is_batch else first.member_id,
        sequence=first.record.sequence if isinstance(first.record, LoyaltyEvent) and not is_batch else 0,
        attempt=attempted.attempt,
        verdict=AttemptVerdict.GIVEN_UP if attempted.is_given_up else VERDICTS[result.receipt.verdict],
        outcome=result.outcome,
        status=result.receipt.status,
        detail=result.receipt.detail[:500],
        next_attempt_at_ms=attempted.next_attempt_at_ms,
        url=masked_url(attempted.url),
        peer_address=answer.peer_address if answer is not None else None,
        request_headers=masked_request(result.headers),
        request_body=result.body[:REQUEST_BODY_BYTES_MAX].decode(errors="replace"),
        response_headers=masked_response(answer.headers) if answer is not None else {},
        response_body=answer.body[:RESPONSE_BODY_BYTES_MAX].decode(errors="replace") if answer is not None else "",
        appended_at_ms=first.timestamp_ms,
        started_at_ms=result.started_at_ms,
        duration_us=int(result.seconds * 1_000_000),
        correlation_id=first.correlation_id or None,
    )


def notice(kind: NoticeKind, destination: str, reason: str, detail: str, at_ms: int, record: Outgoing | None = None) -> DeliveryNotice:
    """What is told of a destination. The same happening has the same id, whoever tells it."""
    about = record.event_id if record is not None else str(at_ms // 60_000)
    notice_id = hashlib.sha256(f"{kind.value}/{destination}/{reason}/{about}".encode()).hexdigest()[:32]
    return DeliveryNotice(
        notice_id=f"notice-{notice_id}", kind=kind, destination=destination, reason=reason, detail=detail[:500],
        program_id=(record.program_id or None) if record is not None else None, member_id=(record.member_id or None) if record is not None else None,
        event_id=record.event_id if record is not None else None, occurred_at_ms=at_ms,
    )  # fmt: skip


def letter_of_undecodable(topic_name: str, partition: int, one: Undecodable, now_ms: int, *, processor: str = PROCESSOR) -> DeadLetter:
    return DeadLetter(
        dead_letter_id=f"{processor}-{topic_name}-{partition}-{one.offset}", stage=DeadLetterStage.DECODE, reason=one.reason, detail=one.detail[:500],
        processor=processor, topic=topic_name, partition=partition, offset=one.offset, key=one.key, value=one.value, headers=one.headers,
        ingested_at_ms=one.timestamp_ms, failed_at_ms=now_ms,
    )  # fmt: skip


def letter_of_unsendable(
    topic_name: str, partition: int, one: Outgoing, value: bytes, reason: str, detail: str, now_ms: int, *, processor: str = PROCESSOR
) -> DeadLetter:
    """Of an event that no destination can be sent: an error of the system's, not of a customer's."""
    return DeadLetter(
        dead_letter_id=f"{processor}-{topic_name}-{partition}-{one.offset}", stage=DeadLetterStage.DELIVERY, reason=reason, detail=detail[:500],
        processor=processor, topic=topic_name, partition=partition, offset=one.offset, key=one.key, value=value, headers={},
        ingested_at_ms=one.timestamp_ms, failed_at_ms=now_ms,
    )  # fmt: skip
