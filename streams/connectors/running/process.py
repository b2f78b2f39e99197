"""`loyalty connectors run`: polls and streams of all sources, each led by one of the processes that run this.

A feed belongs to the partition of its record in source-progress, and a partition to one process of the group: several processes spread the feeds among
them, and after a kill another one goes on within seconds, at the cursor that is in the log.
"""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Iterator
from functools import partial

from aiohttp import web

from sinks.schedule import Schedule
from streams import metrics, observability, topics
from streams.configuration import Configuration
from streams.connectors import ways
from streams.connectors.contract import Poll, Source
from streams.connectors.exchange import Exchange, connect
from streams.connectors.registry import CONNECTORS
from streams.connectors.running import poller, progress, streamer
from streams.connectors.running.feed import Feed
from streams.connectors.running.progress import Name, Progress
from streams.errors import LoyaltyError
from streams.group_share import GroupShare
from streams.ingress.publisher import ACKNOWLEDGEMENT_TIMEOUT_S
from streams.ingress.sender import Sender
from streams.settings import Settings

log = logging.getLogger(__name__)

GROUP = "connectors"
MEASURE_S = 5.0
SCHEDULE = Schedule()

RunFeed = Callable[[Feed], Awaitable[None]]


def feeds_of(source: Source) -> Iterator[tuple[Name, RunFeed]]:
    """Polls and streams of a source that its options want."""
    for feed, one in ways.wanted(source):
        yield (source.name, feed), partial(poller.run, poll=one) if isinstance(one, Poll) else partial(streamer.run, stream=one)


async def run(settings: Settings, configuration: Configuration, stop: asyncio.Event) -> None:
    """Run until `stop` is set. Raises ConfigurationError, and OSError for an HTTP port in use."""
    process = Process(settings, configuration)
    app = web.Application()
    observability.add_routes(app, process.readiness)
    server = await observability.serve(app, settings.http_host, settings.http_port)
    try:
        await process.run(stop)
    finally:
        await server.cleanup()


class Process:
    """One process of several."""

    def __init__(self, settings: Settings, configuration: Configuration) -> None:
        self._settings = settings
        self._sources = configuration.sources
        self._sender = Sender(settings, configuration, time.time, ACKNOWLEDGEMENT_TIMEOUT_S)
        self._transport = connect()
        self._exchanges: dict[str, Exchange] = {}
        """By source: its feeds share tokens."""
        self._feeds = {name: run for source in configuration.sources.values() for name, run in feeds_of(source)}
        self._share = GroupShare(settings, GROUP, topics.SOURCE_PROGRESS, self._changed)
        self._partitions: frozenset[int] = frozenset()
        self._has_changed = asyncio.Event()
        self._running: dict[Name, asyncio.Task[None]] = {}
        self._progress: dict[Name, Progress] = {}

    def readiness(self) -> str:
        if not self._share.has_joined:
            return f"The connectors wait for Kafka at LOYALTY_KAFKA_BOOTSTRAP_SERVERS={self._settings.kafka_bootstrap_servers}."
        return ""

    async def run(self, stop: asyncio.Event) -> None:
        """Lead what is this one's, until `stop` is set."""
        leading = asyncio.create_task(self._lead())
        measuring = asyncio.create_task(self._measure())
        stopped = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait((stopped, leading), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (leading, measuring, stopped, *self._running.values()):
                task.cancel()
            results = await asyncio.gather(leading, measuring, *self._running.values(), return_exceptions=True)
            await self._share.close()
            await self._transport.close()
            await self._sender.close()
        if isinstance(results[0], Exception):
            raise results[0]

    def _changed(self, partitions: frozenset[int]) -> None:
        self._partitions = partitions
        self._has_changed.set()

    async def _lead(self) -> None:
        await self._sender.connect()
        self._share.start()
        while True:
            await self._has_changed.wait()
            self._has_changed.clear()
            mine = {name for name in self._feeds if progress.partition_of(name, self._settings.kafka_partitions) in self._partitions}
            lost = [self._running.pop(name) for name in self._running.keys() - mine]
            for task in lost:
                task.cancel()
            await asyncio.gather(*lost, return_exceptions=True)
            for name in sorted(mine - self._running.keys()):
                self._running[name] = asyncio.create_task(self._run_feed(name), name="/".join(name))

    async def _run_feed(self, name: Name) -> None:
        """Until it is cancelled: whatever goes wrong, it begins anew at the cursor that is in the log."""
        failures = 0
        while True:
            try:
                feed = await self._open(name)
                log.info("source.led", extra={"source": name[0], "feed": name[1], "cursor": feed.progress.record.cursor.decode()[:500]})
                await self._feeds[name](feed)
            except LoyaltyError as error:
                log.warning("source.not_led_yet", extra={"source": name[0], "feed": name[1], "reason": str(error)})
            except Exception:
                log.exception("source.feed_raised", extra={"source": name[0], "feed": name[1]})
            failures += 1
            await asyncio.sleep(SCHEDULE.delay_s(failures, random.random()))

    async def _open(self, name: Name) -> Feed:
        source = self._sources[name[0]]
        partition = progress.partition_of(name, self._settings.kafka_partitions)
        known = await asyncio.to_thread(progress.read, self._settings, self._sender.codec, (partition,))
        kept = self._progress[name] = Progress(self._settings, self._sender.codec, self._sender.publisher, known.get(name) or progress.nothing(name))
        exchange = self._exchanges.get(source.name)
        if exchange is None:
            exchange = self._exchanges[source.name] = Exchange(CONNECTORS[source.kind], source.options, self._transport)
        return Feed(self._sender, source, exchange, kept)

    async def _measure(self) -> None:
        while True:
            for name in self._running:
                if name in self._progress:
                    metrics.SOURCE_FEED_LAG_SECONDS.labels(*name).set(progress.lag_ms(self._progress[name].record, progress.now_ms()) / 1000)
            await asyncio.sleep(MEASURE_S)
