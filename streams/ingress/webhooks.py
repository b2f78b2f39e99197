"""POST /v1/webhooks/<source>: proof first, over the raw bytes, then translation; answered after the broker's acknowledgement, in the system's own
form where it has one.
"""

import logging
from dataclasses import replace
from typing import Any

import orjson
from aiohttp import web

from schemas.codec import INT64_MAX
from streams import metrics
from streams.connectors.contract import Delivery, Found, Push, Reply, Source
from streams.connectors.registry import CONNECTORS
from streams.errors import ContractError, UnavailableError
from streams.ingress.parts import CORRELATION_ID, PARTS
from streams.ingress.problems import ProblemError
from streams.ingress.sender import check
from streams.signatures import SignatureError

log = logging.getLogger(__name__)


async def post(request: web.Request) -> web.Response:
    parts = request.app[PARTS]
    source = parts.configuration.sources.get(request.match_info["source"])
    push = None if source is None else CONNECTORS[source.kind].push
    if source is None or push is None:
        raise ProblemError(404, "not-found", "no source of that name takes webhooks")
    delivery = Delivery(
        body=await request.read(), headers=request.headers, query=request.query, received_at_ms=min(int(parts.clock() * 1000), INT64_MAX)
    )
    try:
        delivery_id = push.authenticate(source, delivery)
    except SignatureError as error:
        # The reason is for the log: told to the sender, it would help whoever guesses.
        _done(request, source, "unauthenticated", reason=error.reason)
        raise ProblemError(401, "unauthenticated", headers=push.challenge) from error
    delivery = replace(delivery, delivery_id=delivery_id)
    try:
        return await _take(request, push, source, delivery)
    except (ContractError, UnavailableError) as error:
        if push.refused is None:
            raise
        status, reason, detail = (422, error.reason, error.detail) if isinstance(error, ContractError) else (503, "UNAVAILABLE", str(error))
        return _own(push.refused(delivery, source, status, reason, detail))


async def _take(request: web.Request, push: Push, source: Source, delivery: Delivery) -> web.Response:
    """Raises ContractError and UnavailableError."""
    parts, correlation_id = request.app[PARTS], request[CORRELATION_ID]
    try:
        translation = push.translate(delivery, source)
        found = Found(commands=translation.commands, hints=translation.hints)
        check(source, found)
    except ContractError as error:
        _done(request, source, "invalid", delivery_id=delivery.delivery_id, reason=error.reason, detail=error.detail)
        raise
    items: list[dict[str, Any]] = []
    if not translation.ignored:
        parts.require_ready()
        items = await parts.take(source, found, correlation_id, body=delivery.body, received_at_ms=delivery.received_at_ms)
        _done(request, source, "accepted", delivery_id=delivery.delivery_id, items=len(items))
    else:
        _done(request, source, "ignored", delivery_id=delivery.delivery_id, reason=translation.ignored)
    if push.accepted is not None:
        return _own(push.accepted(delivery, source))
    if translation.ignored:
        return _json(200, {"status": "ignored", "reason": translation.ignored, "correlation_id": correlation_id})
    return _json(202, {"status": "accepted", "correlation_id": correlation_id, "items": items})


def _done(request: web.Request, source: Source, result: str, **fields: Any) -> None:
    metrics.INGRESS_WEBHOOKS.labels(source.name, result).inc()
    log.info("webhook." + result, extra={"source": source.name, "correlation_id": request[CORRELATION_ID], **fields})


def _own(reply: Reply) -> web.Response:
    headers = {**reply.headers, "Content-Type": reply.media_type}
    return web.Response(body=reply.body, status=reply.status, headers=headers)


def _json(status: int, body: dict[str, Any]) -> web.Response:
    return web.Response(body=orjson.dumps(body), status=status, content_type="application/json")
