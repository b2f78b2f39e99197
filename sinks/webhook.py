"""loyalty events -> one signed POST per event and destination, in order per member (Standard Webhooks 1.0.0, scheme v1).

What a status means for the event:

    2xx                      DELIVERED
    3xx                      RETRY: redirects are not followed, they would turn the POST into a GET without a body
    408, 425, 429, 5xx       RETRY, after Retry-After (seconds or a date) if there is one
    410                      RETRY every GONE_RETRY_S, with an error in the log: the receiver wants no more events, but only the operator
                             takes a destination out of the configuration, and nothing is lost until then
    other 4xx                RETRY: most are a receiver's mistake that is mended within hours, and none proves that the event is wrong
    no answer                RETRY (name not found, refused, TLS, timeout, reset, not HTTP)

What fails on its own for Schedule.give_up_after_s, while others get through, goes to the dead letters with RETRIES_EXHAUSTED.
"""

import asyncio
import logging
import re
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import orjson

from schemas.codec import Codec
from schemas.records import LoyaltyEvent, LoyaltyEventKind
from sinks.audit import Deliveries, DeliveryLog
from sinks.base import Health, Item, Receipt, Verdict
from sinks.lanes import by_key
from sinks.runner import run_lanes
from sinks.transport import Answer, Transport, retry_after_s
from streams import metrics, signatures, topics
from streams.codec import open_codec
from streams.configuration import Configuration, Destination
from streams.settings import Settings

log = logging.getLogger(__name__)

GONE_RETRY_S = 5 * 60.0  # How often a destination that answered 410 is asked again.
CORRELATION_ID = re.compile(r"[!-~]{1,128}")
RESTART_S = 5.0  # Pause before a destination's runner that failed, which is a bug, starts again.

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


async def run(settings: Settings, configuration: Configuration, stop: asyncio.Event, health: Health) -> None:
    """Deliver to every destination of the configuration until `stop` is set, each in its own consumer group and at its own pace."""
    if not configuration.destinations:
        log.warning("webhooks.no_destinations")
        await stop.wait()
        return
    codec = open_codec(settings)
    delivery_log = DeliveryLog(settings, codec)
    try:
        async with asyncio.TaskGroup() as group:
            for destination in configuration.destinations.values():
                group.create_task(_run_destination(settings, destination, codec, delivery_log, stop, health))
    finally:
        await delivery_log.close()


async def _run_destination(
    settings: Settings, destination: Destination, codec: Codec, delivery_log: DeliveryLog, stop: asyncio.Event, health: Health
) -> None:
    """One destination. What breaks it does not stop the others."""
    deliveries = Deliveries(delivery_log, destination.name)
    while not stop.is_set():
        webhook = Webhook(destination)
        try:
            await run_lanes(
                settings,
                sink=f"webhooks-{destination.name}",
                group=f"sink-webhooks-{destination.name}",
                topic=topics.EVENTS,
                deliver=webhook.deliver,
                wanted=lambda item: wants(destination, item.record),
                lane=by_key,
                concurrency_max=destination.concurrency_max,
                stop=stop,
                codec=codec,
                health=health,
                destination=destination.name,
                drain_s=min(destination.timeout_s, 10.0),
                ended=deliveries.ended,
                revoked=deliveries.revoked,
            )
        except Exception:
            log.exception("webhooks.runner_failed", extra={"destination": destination.name})
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), RESTART_S)
        finally:
            await webhook.close()


class Webhook:
    """Attempts of one destination."""

    def __init__(self, destination: Destination, *, clock: Callable[[], float] = time.time) -> None:
        self._destination = destination
        self._key = signatures.decode_secret(destination.secret)
        self._clock = clock
        self._transport = Transport(concurrency_max=destination.concurrency_max, timeout_s=destination.timeout_s)
        self._in_flight = metrics.DELIVERIES_IN_FLIGHT.labels(destination.name)

    async def deliver(self, item: Item[LoyaltyEvent]) -> Receipt:
        """One attempt."""
        event = item.record
        if event.kind not in TYPES:
            detail = "this version does not know the event's kind: upgrade the sink and send the event again"
            return Receipt(verdict=Verdict.REFUSED, reason="KIND_UNKNOWN", detail=detail)
        try:
            body = render(event)
            headers = signatures.headers(self._key, event.event_id, int(self._clock()), body)
        except (ValueError, OverflowError, TypeError) as error:
            return Receipt(verdict=Verdict.REFUSED, reason="NOT_RENDERABLE", detail=f"{type(error).__name__}: {error}")
        headers |= {"content-type": "application/json"} | correlation(event)
        with self._in_flight.track_inprogress():
            answer = await self._transport.request("POST", self._destination.url, headers=headers, body=body)
        receipt = judge(answer, now_s=self._clock())
        self._report(item, answer, receipt)
        return receipt

    async def close(self) -> None:
        await self._transport.close()

    def _report(self, item: Item[LoyaltyEvent], answer: Answer, receipt: Receipt) -> None:
        name = self._destination.name
        metrics.DELIVERIES.labels(name, receipt.verdict.value, answer.outcome).inc()
        metrics.DELIVERY_SECONDS.labels(name).observe(answer.seconds)
        level = logging.ERROR if answer.status == 410 else logging.INFO
        if log.isEnabledFor(level):
            event = item.record
            log.log(level, "delivery.attempted", extra={
                "destination": name, "event_id": event.event_id, "program_id": event.program_id, "member_id": event.member_id,
                "sequence": event.sequence, "kind": event.kind.value, "attempt": item.attempt, "verdict": receipt.verdict.value,
                "outcome": answer.outcome, "detail": receipt.detail, "duration_ms": round(answer.seconds * 1000, 1),
                "correlation_id": event.correlation_id,
            })  # fmt: skip


def correlation(event: LoyaltyEvent) -> dict[str, str]:
    """The header that joins the delivery to the request that caused it. Producers may have named it as no header can be."""
    name = event.correlation_id or ""
    return {"x-correlation-id": name} if CORRELATION_ID.fullmatch(name) else {}


def wants(destination: Destination, event: LoyaltyEvent) -> bool:
    """Whether the destination hears of this event; its configuration says so."""
    return (not destination.programs or event.program_id in destination.programs) and (
        not destination.events or event.kind.value in destination.events
    )


def judge(answer: Answer, *, now_s: float) -> Receipt:
    """What the answer means for the event: the table at the top of this module."""
    status = answer.status
    if answer.failure is not None or status is None:
        return Receipt(verdict=Verdict.RETRY, detail=f"{answer.outcome}: {answer.detail}")
    if 200 <= status < 300:
        return Receipt(verdict=Verdict.DELIVERED, status=status)
    wish_s = retry_after_s(answer.headers.get("retry-after", ""), now_s)
    if status == 410:
        wish_s = max(wish_s or 0.0, GONE_RETRY_S)
        return Receipt(verdict=Verdict.RETRY, status=status, retry_after_s=wish_s, detail="410: the receiver wants no more events")
    return Receipt(verdict=Verdict.RETRY, status=status, retry_after_s=wish_s, detail=f"status {status}")


def render(event: LoyaltyEvent) -> bytes:
    """The body: the same bytes for the same event for ever. Raises KeyError for a kind that this version does not know."""
    envelope = {"type": TYPES[event.kind], "timestamp": iso(event.occurred_at_ms), "data": _public(event.to_avro())}
    # Sorted, so that the bytes do not depend on the order in which a schema lists its fields.
    return orjson.dumps(envelope, option=orjson.OPT_SORT_KEYS)


def iso(moment_ms: int) -> str:
    """ISO 8601 in UTC with milliseconds, for example 2026-03-01T12:00:00.000Z. Raises ValueError or OverflowError beyond year 9999."""
    seconds, millis = divmod(moment_ms, 1000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{millis:03d}Z"


def _public(value: Any) -> Any:
    """Times, which are all that is named in _ms, become texts without that suffix, at any depth; what is empty stays null."""
    if isinstance(value, dict):
        return {
            name.removesuffix("_ms"): iso(inner) if name.endswith("_ms") and inner is not None else _public(inner)
            for name, inner in value.items()
        }
    return [_public(inner) for inner in value] if isinstance(value, list) else value
