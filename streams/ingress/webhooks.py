"""POST /v1/webhooks/<source>: proof first, over the raw bytes, then translation; answered after the broker's acknowledgement."""

import asyncio
import logging
from typing import Any

import orjson
from aiohttp import web

from schemas.codec import INT64_MAX
from schemas.contract import Problem
from schemas.records import ReceivedWebhook
from streams import metrics, topics
from streams.configuration import Source
from streams.errors import ContractError
from streams.ingress import commands
from streams.ingress.commands import InvalidError
from streams.ingress.delivery import Delivery, Hint, Translation
from streams.ingress.parts import CORRELATION_ID, PARTS, Parts
from streams.ingress.problems import ProblemError
from streams.ingress.sources import KINDS
from streams.signatures import SignatureError

log = logging.getLogger(__name__)

CHALLENGES = {"apaleo": {"WWW-Authenticate": 'Basic realm="loyalty"'}}
HINT_ID_CHARACTERS_MAX = 128


async def post(request: web.Request) -> web.Response:
    parts = request.app[PARTS]
    source = parts.configuration.sources.get(request.match_info["source"])
    if source is None:
        raise ProblemError(404, "not-found", "no source of that name is configured")
    kind = KINDS[source.kind]
    body = await request.read()
    now_s = parts.clock()
    try:
        delivery_id = kind.authenticate(source, request.headers, body, now_s)
    except SignatureError as error:
        # The reason is for the log: told to the sender, it would help whoever guesses.
        _done(request, source, "unauthenticated", reason=error.reason)
        raise ProblemError(401, "unauthenticated", headers=CHALLENGES.get(source.kind, {})) from error
    delivery = Delivery(body=body, headers=request.headers, delivery_id=delivery_id, received_at_ms=min(int(now_s * 1000), INT64_MAX))
    try:
        translation = kind.translate(delivery, source)
        _check(translation, source)
    except ContractError as error:
        _done(request, source, "invalid", delivery_id=delivery_id, reason=error.reason, detail=error.detail)
        raise
    if translation.ignored:
        _done(request, source, "ignored", delivery_id=delivery_id, reason=translation.ignored)
        return _json(200, {"status": "ignored", "reason": translation.ignored, "correlation_id": request[CORRELATION_ID]})
    parts.require_ready()
    items = await _send(parts, source, translation, body, delivery.received_at_ms, request[CORRELATION_ID])
    _done(request, source, "accepted", delivery_id=delivery_id, items=len(items))
    return _json(202, {"status": "accepted", "correlation_id": request[CORRELATION_ID], "items": items})


def _check(translation: Translation, source: Source) -> None:
    """Whatever a translator does: only commands that keep the contract leave here, and only for the source's own programme."""
    for command in translation.commands:
        commands.check(command)
        if command.program_id != source.program_id:
            raise InvalidError(Problem("PROGRAM_NOT_ALLOWED", "program_id", f"must be {source.program_id}, or left out"))
    for hint in translation.hints:
        for name, value in (("entity", hint.entity_id), ("id", hint.delivery_id)):
            if not (1 <= len(value) <= HINT_ID_CHARACTERS_MAX and value.isprintable()):
                raise InvalidError(Problem("ID_INVALID", name, f"must have 1 to {HINT_ID_CHARACTERS_MAX} printable characters"))


async def _send(
    parts: Parts, source: Source, translation: Translation, body: bytes, received_at_ms: int, correlation_id: str
) -> list[dict[str, Any]]:
    """Send all, then await all acknowledgements: a delivery is answered with yes when the whole of it is in its topics."""
    sent = [parts.send(command, correlation_id) for command in translation.commands]
    waiting = [parts.acknowledged(one, source.name) for one in sent]
    waiting += [_keep(parts, source, hint, body, received_at_ms, correlation_id) for hint in translation.hints]
    return list(await asyncio.gather(*waiting))


async def _keep(parts: Parts, source: Source, hint: Hint, body: bytes, received_at_ms: int, correlation_id: str) -> dict[str, Any]:
    record = ReceivedWebhook(
        source=source.name,
        delivery_id=hint.delivery_id,
        entity_id=hint.entity_id,
        kind=hint.kind,
        body=body,
        received_at_ms=received_at_ms,
        correlation_id=correlation_id,
    )
    at = await parts.publisher.send(
        topics.WEBHOOK_INBOX.name(parts.settings.topic_prefix),
        f"{source.name}/{hint.entity_id}".encode(),
        parts.codec.encode(record),
        {"correlation_id": correlation_id.encode()},
    )
    metrics.INGRESS_PRODUCED.labels(topics.WEBHOOK_INBOX.stream, source.name).inc()
    about = {"stream": topics.WEBHOOK_INBOX.stream, "entity_id": hint.entity_id}
    return about | {"topic": at.topic, "partition": at.partition, "offset": at.offset}


def _done(request: web.Request, source: Source, result: str, **fields: Any) -> None:
    metrics.INGRESS_WEBHOOKS.labels(source.name, result).inc()
    log.info("webhook." + result, extra={"source": source.name, "correlation_id": request[CORRELATION_ID], **fields})


def _json(status: int, body: dict[str, Any]) -> web.Response:
    return web.Response(body=orjson.dumps(body), status=status, content_type="application/json")
