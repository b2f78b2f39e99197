"""The HTTP service of the ingress: routes, limits, and the errors of all of them."""

import asyncio
import json
import logging
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path

import yaml
from aiohttp import ClientPayloadError, web
from aiohttp.http import HttpProcessingError

from streams import metrics, topics
from streams.configuration import Configuration
from streams.connectors.registry import CONNECTORS
from streams.errors import ConfigurationError, ContractError, UnavailableError
from streams.ingress import (
    audit, connectors, deliveries, destinations, devices, docs, explanations, members, personal_data, replays, rereader, rest, sync, waiting, webhooks,
)  # fmt: skip
from streams.ingress.parts import CORRELATION_ID, PARTS, Parts
from streams.ingress.problems import ProblemError
from streams.ingress.publisher import ACKNOWLEDGEMENT_TIMEOUT_S
from streams.ingress.scim import routes as scim
from streams.observability import add_routes, serve
from streams.settings import Settings

log = logging.getLogger(__name__)

BODY_BYTES_MAX = 1024 * 1024
READ_TIMEOUT_S = 10.0  # For the body to arrive; a slower sender only holds a connection.
REQUEST_TIMEOUT_S = 20.0  # For the whole request, without the time a client asked to wait: above the broker's acknowledgement.
CLIENT_ID_CHARACTERS_MAX = 128
OPENAPI = Path(__file__).parent / "openapi.yaml"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def make_app(
    settings: Settings,
    configuration: Configuration,
    *,
    clock: Callable[[], float] = time.time,
    acknowledgement_timeout_s: float = ACKNOWLEDGEMENT_TIMEOUT_S,
) -> web.Application:
    """The application. It serves at once; commands are taken as soon as Kafka answers (`/readyz` says when)."""
    app = web.Application(client_max_size=BODY_BYTES_MAX, middlewares=[_answer, _limit])

    async def open_parts(app: web.Application) -> AsyncIterator[None]:
        app[PARTS] = parts = Parts(settings, configuration, clock, acknowledgement_timeout_s)
        yield
        await parts.close()

    app.cleanup_ctx.append(open_parts)
    for topic in topics.INBOUND:
        app.router.add_post(f"/v1/{topic.stream}", partial(rest.post, topic=topic))
    app.router.add_post("/v1/webhooks/{source}", webhooks.post)
    # Without a pattern, aiohttp finds no ids with braces.
    app.router.add_get("/v1/members/{member_id:[^/]+}", members.get_member, allow_head=False)
    app.router.add_get("/v1/members/{member_id:[^/]+}/balance", members.get_balance, allow_head=False)
    app.router.add_get("/v1/members/{member_id:[^/]+}/export", personal_data.export, allow_head=False)
    app.router.add_delete("/v1/members/{member_id:[^/]+}", personal_data.erase)
    app.router.add_get("/v1/audit", audit.get_audit, allow_head=False)
    app.router.add_get("/v1/explanations/{id:.+}", explanations.get_explanation, allow_head=False)
    app.router.add_get("/v1/deliveries", deliveries.get_attempts, allow_head=False)
    app.router.add_get("/v1/deliveries/{attempt_id:.+}", deliveries.get_attempt, allow_head=False)
    app.router.add_get("/v1/destinations/{name}/dead-letters", deliveries.get_dead_letters, allow_head=False)
    app.router.add_post("/v1/destinations/{name}/dead-letters/redrive", deliveries.redrive)
    destinations.add_routes(app)
    devices.add_routes(app)
    replays.add_routes(app)
    app.router.add_get("/v1/connectors", connectors.get_connectors, allow_head=False)
    app.router.add_get("/v1/waiting", waiting.get_waiting, allow_head=False)
    sync.add_routes(app)
    scim.add_routes(app)
    text = OPENAPI.read_text()
    document = yaml.safe_load(text)
    for path, media_type, body in (
        ("/docs", "text/html", docs.render(document)),
        ("/v1/openapi.yaml", "application/yaml", text),
        ("/v1/openapi.json", "application/json", json.dumps(document)),
    ):
        app.router.add_get(path, partial(_static, body=body.encode(), media_type=media_type), allow_head=False)
    add_routes(app, lambda: app[PARTS].not_ready())
    return app


async def run(settings: Settings, configuration: Configuration, stop: asyncio.Event) -> None:
    """Serve until `stop` is set, then finish the requests under way. Raises ConfigurationError."""
    app = make_app(settings, configuration)
    try:
        runner = await serve(app, settings.ingress_host, settings.ingress_port, _tls(settings))
    except OSError as error:
        await app.cleanup()
        raise ConfigurationError(
            f"LOYALTY_INGRESS_HOST={settings.ingress_host} and LOYALTY_INGRESS_PORT={settings.ingress_port} cannot be bound: {error}"
        ) from error
    parts = app[PARTS]
    log.info("ingress.listening", extra={"host": settings.ingress_host, "port": settings.ingress_port})
    stopping = asyncio.create_task(stop.wait())
    rereading_stop = asyncio.Event()
    rereading = asyncio.create_task(_reread(parts, rereading_stop))
    try:
        await asyncio.wait((stopping, rereading), return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()
        parts.stopping = True
        rereading_stop.set()
        if not parts.connected.done():
            rereading.cancel()
        results = await asyncio.gather(rereading, return_exceptions=True)
        await runner.cleanup()
    if isinstance(results[0], Exception):
        raise results[0]


async def _reread(parts: Parts, stop: asyncio.Event) -> None:
    """Follow the hints of every source that gives hints. Ends early only by an error."""
    await asyncio.shield(parts.connected)
    async with asyncio.TaskGroup() as group:
        for source in parts.configuration.sources.values():
            read = CONNECTORS[source.kind].read
            if read is not None:
                group.create_task(rereader.run(parts, source, read, stop))
        group.create_task(stop.wait())


def _tls(settings: Settings) -> ssl.SSLContext | None:
    if not settings.ingress_tls_certificate_file:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(settings.ingress_tls_certificate_file, settings.ingress_tls_key_file)
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(
            f"LOYALTY_INGRESS_TLS_CERTIFICATE_FILE and LOYALTY_INGRESS_TLS_KEY_FILE cannot be loaded: {error}"
        ) from error
    return context


@web.middleware
async def _answer(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every request gets a correlation id, and every error becomes a problem; what went wrong inside is in the log only."""
    started_s = time.perf_counter()
    # Always our own: a client's could be used twice, and two requests would get each other's answers.
    correlation_id = request[CORRELATION_ID] = request.app[PARTS].decisions.new_id()
    error: Exception | None = None
    try:
        response = await handler(request)
    except (ProblemError, ContractError, UnavailableError) as raised:
        error = raised
        response = rest.as_problem(raised).response(correlation_id)
    except web.HTTPException as raised:
        error = raised
        response = _http_problem(raised).response(correlation_id)
    except TimeoutError as raised:
        error = raised
        response = ProblemError(503, "unavailable", headers={"Retry-After": "1"}).response(correlation_id)
    except Exception as raised:
        error = raised
        log.exception("request.failed", extra={"correlation_id": correlation_id})
        response = ProblemError(500, "internal", "tell the operator the correlation_id").response(correlation_id)
    if isinstance(response, web.Response) and not response.prepared:
        response.headers["X-Correlation-Id"] = correlation_id
    resource = request.match_info.route.resource
    route = resource.canonical if resource is not None else "none"
    seconds = time.perf_counter() - started_s
    metrics.INGRESS_REQUESTS.labels(route, str(response.status)).inc()
    metrics.INGRESS_SECONDS.labels(route).observe(seconds)
    level = logging.WARNING if response.status >= 500 else logging.INFO if response.status >= 400 else logging.DEBUG
    if log.isEnabledFor(level):
        log.log(
            level,
            "request.answered",
            extra={
                "method": request.method, "route": route, "status": response.status, "duration_ms": round(seconds * 1000, 3),
                "correlation_id": correlation_id, "reason": "" if error is None else str(error)[:500],
                "client_correlation_id": ascii(request.headers.get("X-Correlation-Id", "")[:CLIENT_ID_CHARACTERS_MAX]),
            },
        )  # fmt: skip
    return response


@web.middleware
async def _limit(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Bound size and time before a handler sees the request."""
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        # Signatures cover the bytes as they are, and a small compressed body can be a huge one.
        raise ProblemError(415, "media-type", "send the body without Content-Encoding")
    if request.content_length is not None and request.content_length > BODY_BYTES_MAX:
        raise ProblemError(413, "too-large", f"a body has {BODY_BYTES_MAX} bytes at most")
    wait_s = rest.preferred_wait(request.headers.getall("Prefer", ()))
    async with asyncio.timeout(REQUEST_TIMEOUT_S + wait_s):
        if request.body_exists:
            try:
                async with asyncio.timeout(READ_TIMEOUT_S):
                    await request.read()  # Kept by the request: a handler's own read() returns it.
            except TimeoutError as error:
                raise ProblemError(408, "timeout", headers={"Connection": "close"}) from error
            except (web.RequestPayloadError, HttpProcessingError, ClientPayloadError, ConnectionError) as error:
                raise ProblemError(400, "malformed", "the body breaks off", headers={"Connection": "close"}) from error
        return await handler(request)


def _http_problem(error: web.HTTPException) -> ProblemError:
    """aiohttp's own errors in our form."""
    match error.status:
        case 404:
            return ProblemError(404, "not-found")
        case 405:
            return ProblemError(405, "method-not-allowed", headers={"Allow": error.headers.get("Allow", "")})
        case 413:
            return ProblemError(413, "too-large", f"a body has {BODY_BYTES_MAX} bytes at most")
    return ProblemError(error.status, "malformed") if error.status < 500 else ProblemError(500, "internal")


async def _static(request: web.Request, body: bytes, media_type: str) -> web.Response:
    headers = {"Content-Security-Policy": docs.POLICY, "X-Content-Type-Options": "nosniff"}
    return web.Response(body=body, content_type=media_type, charset="utf-8", headers=headers)
