"""LoyaltyEvent or DeliveryNotice -> the body of its webhook, in the payload version that the destination is pinned to.

A version lists its fields one by one. A field that the Avro schema gets later is in no version that is older: its bytes stay as they are,
and golden files watch that. The bytes are the same for the same record for ever, because they are signed and may be sent again.

To add a version: its two functions, and a line in VERSIONS.
"""

from collections.abc import Callable, Sequence
from dataclasses import fields
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import orjson

from schemas.records import AccountSnapshot, Cause, DeliveryNotice, LotPart, LoyaltyEvent, LoyaltyEventKind, NoticeKind

Data = dict[str, Any]

TYPES = {
    LoyaltyEventKind.MEMBER_ENROLLED: "loyalty.member.enrolled",
    LoyaltyEventKind.PROFILE_CHANGED: "loyalty.profile.changed",
    LoyaltyEventKind.BALANCE_CHANGED: "loyalty.balance.changed",
    LoyaltyEventKind.TIER_CHANGED: "loyalty.tier.changed",
    LoyaltyEventKind.OFFER_ACTIVATED: "loyalty.offer.activated",
    LoyaltyEventKind.VOUCHER_ISSUED: "loyalty.voucher.issued",
    LoyaltyEventKind.ACCOUNT_SUSPENDED: "loyalty.account.suspended",
    LoyaltyEventKind.ACCOUNT_REACTIVATED: "loyalty.account.reactivated",
    LoyaltyEventKind.COMMAND_REFUSED: "loyalty.command.refused",
    LoyaltyEventKind.VOUCHER_REDEEMED: "loyalty.voucher.redeemed",
    LoyaltyEventKind.VOUCHER_CANCELLED: "loyalty.voucher.cancelled",
    LoyaltyEventKind.VOUCHER_EXPIRED: "loyalty.voucher.expired",
    LoyaltyEventKind.TIER_RETAINED: "loyalty.tier.retained",
    LoyaltyEventKind.MEMBER_MERGED: "loyalty.member.merged",
    LoyaltyEventKind.MEMBER_ERASED: "loyalty.member.erased",
    LoyaltyEventKind.STATUS_SCHEDULED: "loyalty.status.scheduled",
    LoyaltyEventKind.POOL_CHANGED: "loyalty.pool.changed",
    LoyaltyEventKind.MEMBER_LEFT: "loyalty.member.left",
    LoyaltyEventKind.IDENTITY_CONFLICT: "loyalty.identity.conflict",
}
NOTICE_TYPES = {
    NoticeKind.DESTINATION_FAILING: "loyalty.destination.failing",
    NoticeKind.DESTINATION_RECOVERED: "loyalty.destination.recovered",
    NoticeKind.DESTINATION_DISABLED: "loyalty.destination.disabled",
    NoticeKind.DESTINATION_ENABLED: "loyalty.destination.enabled",
    NoticeKind.DELIVERY_EXHAUSTED: "loyalty.delivery.exhausted",
    NoticeKind.DELIVERY_BLOCKED: "loyalty.delivery.blocked",
    NoticeKind.DELIVERIES_DROPPED: "loyalty.deliveries.dropped",
}
BATCH_TYPE = "loyalty.batch"
TEST_TYPE = "loyalty.test"


def render(record: LoyaltyEvent | DeliveryNotice, version: str) -> bytes:
    """The body of one record, in a version of VERSIONS.

    Raises KeyError for a kind or a version that this code does not know, ValueError, OverflowError or TypeError for what no body can hold,
    for example a time beyond the year 9999.
    """
    event_data, notice_data = VERSIONS[version]
    if isinstance(record, DeliveryNotice):
        kind, data = NOTICE_TYPES[record.kind], notice_data(record)
    else:
        kind, data = TYPES[record.kind], event_data(record)
    return orjson.dumps({"data": data, "timestamp": iso(record.occurred_at_ms), "type": kind})


def render_batch(bodies: Sequence[bytes], batch_id: str, timestamp_ms: int) -> bytes:
    """One body of several, which are in it as they are: an event has the same bytes alone and in a batch."""
    head = b'{"data":{"batch_id":%b,"events":[' % orjson.dumps(batch_id)
    return head + b",".join(bodies) + b']},"timestamp":"%b","type":"%b"}' % (iso(timestamp_ms).encode(), BATCH_TYPE.encode())


def test_body(destination_name: str, now_ms: int) -> bytes:
    """The body with which an operator tries a destination. It is about no member."""
    return orjson.dumps({"data": {"destination": destination_name}, "timestamp": iso(now_ms), "type": TEST_TYPE})


def field_text(record: LoyaltyEvent | DeliveryNotice, path: str) -> str | list[str] | None:
    """What a body's data says at a dotted path, for example "account.tier", as a text; below a list, for example "lots.lot_id", the texts of all.

    None: nothing is there.
    """
    found: Any = record
    for name in path.split("."):
        found = tuple([_inner(one, name) for one in found]) if isinstance(found, tuple) else _inner(found, name)
    if isinstance(found, tuple):
        return [text for text in map(_text, found) if text is not None]
    return _text(found)


def iso(moment_ms: int) -> str:
    """ISO 8601 in UTC with milliseconds, for example 2026-03-01T12:00:00.000Z. Raises ValueError or OverflowError beyond year 9999."""
    seconds, millis = divmod(moment_ms, 1000)
    return f"{_iso_second(seconds)}.{millis:03d}Z"


@lru_cache(maxsize=4096)  # Events come together, and expiries are at the same hour of many days.
def _iso_second(moment_s: int) -> str:
    return f"{datetime.fromtimestamp(moment_s, UTC):%Y-%m-%dT%H:%M:%S}"


def _iso_or_none(moment_ms: int | None) -> str | None:
    return None if moment_ms is None else iso(moment_ms)


# Version 1. Names are in alphabetical order, so that the bytes do not depend on the order in which a schema lists its fields.


def _event_1(event: LoyaltyEvent) -> Data:
    account, cause = event.account, event.cause
    return {
        "account": {
            "available_points": account.available_points,
            "debt_points": account.debt_points,
            "held_points": account.held_points,
            "pending_points": account.pending_points,
            "qualifying_points": account.qualifying_points,
            "status": account.status,
            "tier": account.tier,
            "tier_valid_until": _iso_or_none(account.tier_valid_until_ms),
        },
        "cause": {
            "command_id": cause.command_id,
            "reason": cause.reason,
            "source_system": cause.source_system,
            "stream": cause.stream,
        },
        "changed_attributes": event.changed_attributes,
        "correlation_id": event.correlation_id,
        "counter_member_id": event.counter_member_id,
        "effective_at": _iso_or_none(event.effective_at_ms),
        "event_id": event.event_id,
        "expires_at": _iso_or_none(event.expires_at_ms),
        "hold_id": event.hold_id,
        "identity_type": event.identity_type,
        "ingested_at": iso(event.ingested_at_ms),
        "kind": event.kind,
        "lots": [{"expires_at": _iso_or_none(lot.expires_at_ms), "lot_id": lot.lot_id, "points": lot.points} for lot in event.lots],
        "member_id": event.member_id,
        "movement": event.movement,
        "occurred_at": iso(event.occurred_at_ms),
        "offer_id": event.offer_id,
        "points_delta": event.points_delta,
        "previous_tier": event.previous_tier,
        "program_id": event.program_id,
        "recorded_at": iso(event.recorded_at_ms),
        "refusal": event.refusal,
        "refusal_detail": event.refusal_detail,
        "reward_code": event.reward_code,
        "sequence": event.sequence,
        "shortfall_points": event.shortfall_points,
        "voucher_code": event.voucher_code,
    }


def _notice_1(notice: DeliveryNotice) -> Data:
    return {
        "destination": notice.destination,
        "detail": notice.detail,
        "event_id": notice.event_id,
        "kind": notice.kind,
        "member_id": notice.member_id,
        "notice_id": notice.notice_id,
        "occurred_at": iso(notice.occurred_at_ms),
        "program_id": notice.program_id,
        "reason": notice.reason,
    }


VERSIONS: dict[str, tuple[Callable[[LoyaltyEvent], Data], Callable[[DeliveryNotice], Data]]] = {"1": (_event_1, _notice_1)}
"""Payload version -> the data of events, and of notices."""


# Fields by their names in a body.


_ATTRIBUTES: dict[type, dict[str, str]] = {
    record_type: {field.name.removesuffix("_ms"): field.name for field in fields(record_type)}
    for record_type in (LoyaltyEvent, AccountSnapshot, Cause, LotPart, DeliveryNotice)
}
"""Record -> name in a body -> name of the record's field."""


def _inner(record: Any, name: str) -> Any:
    """A field's value, a time as its text; None if there is none."""
    attribute = _ATTRIBUTES.get(type(record), {}).get(name)
    if attribute is None:
        return None
    value = getattr(record, attribute)
    return iso(value) if attribute.endswith("_ms") and value is not None else value


def _text(value: Any) -> str | None:
    """None for what is no single value."""
    return str(value) if isinstance(value, str | int) else None
