"""What one ingress process is made of, shared by its handlers."""

import asyncio
import logging
from collections.abc import Callable

from aiohttp import web

from streams.configuration import Configuration
from streams.destinations.control import ControlLog
from streams.errors import UnavailableError
from streams.ingress.access import Accesses
from streams.ingress.accounts import Accounts
from streams.ingress.decisions import Decisions
from streams.ingress.sender import Sender
from streams.ingress.standings import Standings
from streams.settings import Settings

log = logging.getLogger(__name__)


class Parts(Sender):
    """Opened inside the running loop, closed in reverse order."""

    def __init__(
        self, settings: Settings, configuration: Configuration, clock: Callable[[], float], acknowledgement_timeout_s: float
    ) -> None:
        super().__init__(settings, configuration, clock, acknowledgement_timeout_s)
        self.decisions = Decisions(settings, self.codec)
        self.accounts = Accounts(settings)
        self.accesses = Accesses(settings, self.codec, clock)
        self.control = ControlLog(settings, self.codec, configuration.destinations)
        self.standings = Standings(settings)
        self.connected: asyncio.Task[None] = asyncio.create_task(self._connect())
        self.stopping = False

    async def _connect(self) -> None:
        """Ends once the topics exist, decisions are followed and destinations read; ConfigurationError ends it too, and then the process."""
        await self.connect()
        self.control.start()
        await self.decisions.start()
        await self.control.ready()
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

    async def close(self) -> None:
        self.connected.cancel()
        await asyncio.gather(self.connected, return_exceptions=True)
        await self.decisions.close()
        await self.control.close()
        await self.standings.close()
        await super().close()
        await self.accesses.close()
        await self.accounts.close()


PARTS = web.AppKey("parts", Parts)
CORRELATION_ID = web.RequestKey("correlation_id", str)
