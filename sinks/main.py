"""One sink as a process: its name -> topics exist -> it runs, and shows itself on /metrics, /healthz and /readyz."""

import asyncio
import importlib
import logging

from aiohttp import web

from sinks import SINKS
from sinks.base import Health
from streams import kafka, observability
from streams.configuration import Configuration
from streams.errors import ConfigurationError
from streams.settings import Settings

log = logging.getLogger(__name__)

ANSWER_S = 3.0  # How long a look for a broker may take.


async def run_sink(name: str, settings: Settings, configuration: Configuration, stop: asyncio.Event) -> None:
    """Run one sink until `stop` is set, then finish what is under way and return.

    Servers that do not answer are waited for. Raises ConfigurationError for an unknown name and for what only an operator can mend,
    and OSError for an HTTP port in use.
    """
    if name not in SINKS:
        raise ConfigurationError(f"There is no sink {name!r}. There are: {', '.join(SINKS)}.")
    health = Health()
    health.set("start", lambda: f"{name}: waits for Kafka's topics")
    health.app = app = web.Application()
    observability.add_routes(app, health.readiness)
    module = importlib.import_module(SINKS[name])
    if hasattr(module, "add_routes"):
        module.add_routes(app, settings)
    server = await observability.serve(app, settings.http_host, settings.http_port)
    try:
        if await kafka.wait_for_topics(settings, stop):
            health.set("start", lambda: "")
            log.info("sink.started", extra={"sink": name})
            try:
                await module.run(settings, configuration, stop, health)
            except* ConfigurationError as group:
                # Raised from within a sink's tasks, but an error of one line for whoever started it.
                raise ConfigurationError(*(problem for error in _leaves(group) for problem in error.problems)) from group
            log.info("sink.stopped", extra={"sink": name})
    finally:
        await server.cleanup()


def _leaves(group: BaseExceptionGroup[ConfigurationError]) -> list[ConfigurationError]:
    found: list[ConfigurationError] = []
    for error in group.exceptions:
        found += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found
