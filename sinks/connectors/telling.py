"""What became of a write -> the record of the attempt. Pure.

Requests hold the states of many members, and some systems want secrets in them; answers may hold anything. So an attempt shows the address, the
status, what was written of this member, and what the translator says of it, and never a request or an answer as it was.
"""

from collections.abc import Sequence

import orjson

from schemas.records import AttemptVerdict, DeliveryAttempt
from sinks.connectors.members import event_of
from sinks.delivery.attempt import kind_of, masked_url
from sinks.delivery.records import Outgoing
from streams.connectors.contract import Outcome, Written
from streams.connectors.exchange import Heard

VERDICTS = {
    Outcome.DONE: AttemptVerdict.DELIVERED, Outcome.SKIP: AttemptVerdict.GIVEN_UP, Outcome.RETRY: AttemptVerdict.RETRY,
    Outcome.PARK: AttemptVerdict.GIVEN_UP,
}  # fmt: skip


def attempt_of(
    target: str, record: Outgoing, heard: Sequence[Heard], written: Written, attempt: int, next_attempt_at_ms: int | None
) -> DeliveryAttempt:
    """One member's part of a conversation that came to its end."""
    detail = ": ".join(part for part in (written.reason, written.detail) if part)
    return _attempt(target, [record], heard, VERDICTS[written.outcome], written.outcome.value, detail, attempt, next_attempt_at_ms)


def attempt_of_all(target: str, records: Sequence[Outgoing], heard: Sequence[Heard], detail: str, next_attempt_at_ms: int) -> DeliveryAttempt:
    """A conversation that was broken off, once for all its members."""
    last = heard[-1].received
    outcome = last.outcome if last.status is None else f"STATUS_{last.status}"
    return _attempt(target, records, heard, AttemptVerdict.RETRY, outcome, detail, 1, next_attempt_at_ms)


def _attempt(
    target: str, records: Sequence[Outgoing], heard: Sequence[Heard], verdict: AttemptVerdict, outcome: str, detail: str, attempt: int,
    next_attempt_at_ms: int | None,
) -> DeliveryAttempt:  # fmt: skip
    first, last, is_batch = records[0], heard[-1] if heard else None, len(records) > 1
    event, account = event_of(first), event_of(first).account
    started_at_ms = heard[0].started_at_ms if heard else event.recorded_at_ms
    shown = {
        "sequence": event.sequence, "status": account.status.value, "tier": account.tier, "available_points": account.available_points,
        "pending_points": account.pending_points,
    }  # fmt: skip
    return DeliveryAttempt(
        attempt_id=f"{target}/{first.event_id}/{started_at_ms}",
        destination=target,
        channel=target,
        webhook_id=first.event_id,
        event_ids=tuple(one.event_id for one in records),
        kind="BATCH" if is_batch else kind_of(event),
        program_id="" if is_batch else event.program_id,
        member_id="" if is_batch else event.member_id,
        sequence=0 if is_batch else event.sequence,
        attempt=attempt,
        verdict=verdict,
        outcome=outcome,
        status=last.received.status if last is not None else None,
        detail=detail[:500],
        next_attempt_at_ms=next_attempt_at_ms,
        url=masked_url(last.url) if last is not None else "",
        peer_address=last.received.peer_address if last is not None else None,
        request_headers={},
        request_body="" if is_batch else orjson.dumps(shown).decode(),
        response_headers={},
        response_body="",
        appended_at_ms=first.timestamp_ms,
        started_at_ms=started_at_ms,
        duration_us=int(sum(one.received.seconds for one in heard) * 1_000_000),
        correlation_id=first.correlation_id or None,
    )
