"""What one ingress process is made of, shared by its handlers."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from schemas.contract import Command, command_id, member_key
from schemas.records import ProfileChange
from streams import kafka, metrics
from streams.codec import open_codec
from streams.configuration import Configuration
from streams.destinations.control import ControlLog
from streams.errors import UnavailableError
from streams.ingress.access import Accesses
from streams.ingress.accounts import Accounts
from streams.ingress.commands import TOPIC_OF, format_time, id_field
from streams.ingress.decisions import Decisions
from streams.ingress.publisher import Acknowledgement, Publisher
from streams.ingress.staging import Staging
from streams.ingress.standings import Standings
from streams.settings import Settings
from streams.sync import names
from streams.sync.control import SyncControlLog
from streams.sync.flush import SCHEDULE

log = logging.getLogger(__name__)

ASK_AGAIN_S = 0.5


@dataclass(frozen=True, slots=True)
class Sent:
    """A command on its way: what every answer says of it, and the acknowledgement to come."""

    about: dict[str, Any]
    acknowledgement: "asyncio.Future[Acknowledgement]"
    waits: bool = False
    """Its stream has a schedule: it is decided when its instant has come."""


class Parts:
    """Opened inside the running loop, closed in reverse order."""

    def __init__(
        self, settings: Settings, configuration: Configuration, clock: Callable[[], float], acknowledgement_timeout_s: float
    ) -> None:
        self.settings = settings
        self.configuration = configuration
        self.clock = clock
        self.codec = open_codec(settings)
        self.publisher = Publisher(settings, timeout_s=acknowledgement_timeout_s)
        self.decisions = Decisions(settings, self.codec)
        self.accounts = Accounts(settings)
        self.accesses = Accesses(settings, self.codec, clock)
        self.control = ControlLog(settings, self.codec, configuration.destinations)
        self.sync = SyncControlLog(settings, self.codec, configuration)
        self.staging = Staging(settings, self.sync)
        self.standings = Standings(settings)
        self.connected: asyncio.Task[None] = asyncio.create_task(self._connect())
        self.stopping = False

    async def _connect(self) -> None:
        """Ends once the topics exist, decisions are followed and destinations read; ConfigurationError ends it too, and then the process."""
        await kafka.wait_for_topics(self.settings, asyncio.Event())
        while True:
            try:
                await asyncio.to_thread(self.staging.read_ends)
                break
            except UnavailableError:
                await asyncio.sleep(ASK_AGAIN_S)
        self.control.start()
        self.sync.start()
        await self.decisions.start()
        await self.control.ready()
        await self.sync.ready()
        log.info("ingress.ready")

    def not_ready(self) -> str:
        """Why no command can be taken, as a sentence; empty when one can."""
        if self.stopping:
            return "The ingress is stopping."
        if not self.connected.done() or self.connected.cancelled() or self.connected.exception():
            return f"Kafka does not answer at LOYALTY_KAFKA_BOOTSTRAP_SERVERS={self.settings.kafka_bootstrap_servers}."
        return ""

    def require_ready(self) -> None:
        """Raise UnavailableError when no command can be taken."""
        reason = self.not_ready()
        if reason:
            raise UnavailableError(reason)

    def send(self, command: Command, correlation_id: str, *, at_once: bool = False) -> Sent:
        """Encode a command and hand it to the producer: to its stream's topic, or to where it waits for the stream's schedule.

        `at_once`: it does not wait, whatever the schedule. Raises ContractError for values that no record can hold.
        """
        topic = TOPIC_OF[type(command)]
        headers = {"correlation_id": correlation_id.encode()}
        about = {"stream": topic.stream, id_field(topic): command_id(command), "correlation_id": correlation_id}
        key = member_key(command.program_id, command.member_id)
        schedule = "" if at_once else self._schedule_of(topic.stream, command, key)
        if schedule:
            topic = names.STAGING[topic.stream]
            headers[SCHEDULE] = schedule.encode()
            about["decided_after"] = format_time(self.sync.cadence(schedule).next_ms(int(self.clock() * 1000)))
        acknowledgement = self.publisher.send(topic.name(self.settings.topic_prefix), key, self.codec.encode(command), headers)
        if schedule:
            arrived = self.staging.sent(schedule, key)
            acknowledgement.add_done_callback(lambda done: arrived(None if done.cancelled() or done.exception() else done.result()))
        return Sent(about, acknowledgement, waits=bool(schedule))

    def _schedule_of(self, stream: str, command: Command, key: bytes) -> str:
        """Whose schedule the command waits for; empty: it does not."""
        if stream not in names.INBOUND or (isinstance(command, ProfileChange) and command.status is not None):
            return ""
        return self.staging.schedule_of(stream, command.source_system, key)

    async def acknowledged(self, sent: Sent, source: str) -> dict[str, Any]:
        """What to say of a command that the broker has. Raises UnavailableError or ContractError, as the publisher does."""
        at = await sent.acknowledgement
        metrics.INGRESS_PRODUCED.labels(sent.about["stream"], source).inc()
        return sent.about | {"topic": at.topic, "partition": at.partition, "offset": at.offset}

    async def close(self) -> None:
        self.connected.cancel()
        await asyncio.gather(self.connected, return_exceptions=True)
        await self.decisions.close()
        await self.control.close()
        await self.sync.close()
        await self.standings.close()
        await self.publisher.close()
        await self.accesses.close()
        await self.accounts.close()


PARTS = web.AppKey("parts", Parts)
CORRELATION_ID = web.RequestKey("correlation_id", str)
