"""loyalty events and notices -> signed webhooks, in order per member and destination: the process of `loyalty sink webhooks`.

What it does is in sinks/delivery/; sinks/delivery/README.md says how, and what it promises.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from aiohttp import web

from sinks.addresses import parse_allowed
from sinks.base import Health
from sinks.delivery.feed import Feed, Handlers
from sinks.delivery.hub import LANES_SHOWN_MAX, STREAMS, Hub
from sinks.delivery.log_reader import LogReader
from sinks.transport import Transport
from streams.codec import open_codec
from streams.configuration import Configuration
from streams.destinations.control import ControlLog
from streams.internal_access import refusal
from streams.settings import Settings

SINK = "webhooks"
GROUP = "sink-webhooks"
HUB = web.AppKey("hub", list[Hub])


async def run(settings: Settings, configuration: Configuration, stop: asyncio.Event, health: Health) -> None:
    """Deliver to all destinations, those of the configuration and those of the control topic, until `stop` is set."""
    codec = open_codec(settings)
    control = ControlLog(settings, codec, configuration.destinations)
    log_reader = LogReader(settings, codec)
    transport = Transport(parse_allowed(settings.delivery_allowed_addresses))
    hub = Hub(settings, codec, control, log_reader, transport)
    health.set("control", lambda: "webhooks: reads its destinations")
    control.start()
    feeds: list[Feed] = []
    stopped = asyncio.create_task(stop.wait())
    try:
        if not await control.ready_unless(stopped):
            return
        health.set("control", lambda: "")
        hub.start()
        handlers = Handlers(assign=hub.assign, received=hub.received, revoke=hub.revoke, lost=hub.lost)
        for topic in STREAMS.values():
            # A group of its own for each: in one group, a process may get all partitions of one topic and none of the other.
            feed = Feed(settings, codec, (topic,), f"{GROUP}-{topic.stream}", handlers)
            health.set(f"{SINK}-{topic.stream}", feed.readiness)
            feeds.append(feed)
            feed.start()
        if health.app is not None:
            health.app[HUB].append(hub)
        failures: list[asyncio.Future[Any]] = [feed.failed for feed in feeds]
        await asyncio.wait([stopped, *failures], return_when=asyncio.FIRST_COMPLETED)
        for feed in feeds:
            if feed.failed.done():
                feed.failed.result()
    finally:
        stopped.cancel()
        await asyncio.gather(*(feed.close() for feed in feeds))
        await hub.stop()
        await transport.close()
        await log_reader.close()
        await control.close()


def add_routes(app: web.Application, settings: Settings) -> None:
    """Serve /internal/destinations, .../{name}/lanes and /internal/jobs/{job}: 401 without the internal token, 503 while starting."""
    hubs: list[Hub] = []
    app[HUB] = hubs

    def answer(request: web.Request, look: Callable[[Hub], Any]) -> web.Response:
        if (refused := refusal(request, settings)) is not None:
            return refused
        return web.json_response(look(hubs[0])) if hubs else web.json_response({"error": "starting"}, status=503)

    async def status(request: web.Request) -> web.Response:
        return answer(request, lambda hub: hub.status())

    async def lanes(request: web.Request) -> web.Response:
        text = request.query.get("limit", str(LANES_SHOWN_MAX))
        limit = int(text) if text.isascii() and text.isdigit() and len(text) < 9 else 0
        if not 1 <= limit <= LANES_SHOWN_MAX:
            return web.json_response({"error": f"limit must be a number from 1 to {LANES_SHOWN_MAX}"}, status=400)
        return answer(request, lambda hub: {"lanes": hub.lanes(request.match_info["name"], limit, request.query.get("after", ""))})

    async def job(request: web.Request) -> web.Response:
        return answer(request, lambda hub: hub.progress(request.match_info["job"]))

    app.router.add_get("/internal/destinations", status)
    app.router.add_get("/internal/destinations/{name}/lanes", lanes)
    app.router.add_get("/internal/jobs/{job}", job)
