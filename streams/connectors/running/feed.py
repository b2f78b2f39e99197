"""What polls and streams have in common: whatever is found goes into the log, whole and in order, and only then the cursor."""

import asyncio
import json
import logging
import random
import uuid
from dataclasses import replace

from schemas.contract import Command, command_id
from sinks.schedule import Schedule
from streams import metrics
from streams.connectors.contract import Found, Hint, Parked, Source
from streams.connectors.exchange import Exchange
from streams.connectors.running.progress import Progress, now_ms
from streams.errors import ContractError, UnavailableError
from streams.ingress.sender import Sender, check

log = logging.getLogger(__name__)


class Feed:
    """One feed, led by this process."""

    def __init__(self, sender: Sender, source: Source, exchange: Exchange, progress: Progress, *, schedule: Schedule = Schedule()) -> None:
        self.source = source
        self.exchange = exchange
        self.progress = progress
        self.schedule = schedule
        """Of what goes wrong."""
        self.name = "/".join(progress.name)
        self._sender = sender

    async def take(self, found: Found) -> None:
        """Return when all of it is in the log, and its cursor too. Kafka away is waited for. What breaks the contract is parked."""
        found = sorted_out(self.source, found)
        correlation_id = uuid.uuid4().hex
        await self._send(found, correlation_id)
        await self.progress.heard(found, self.exchange.budget)
        if self.exchange.budget is not None:
            metrics.SOURCE_BUDGET_USED.labels(self.source.name).set(self.exchange.budget.used)
            metrics.SOURCE_BUDGET_ALLOWED.labels(self.source.name).set(self.exchange.budget.allowed)

    async def failed(self, error: str, *, waits_until_ms: int = 0) -> None:
        log.warning("source.failed", extra={"source": self.source.name, "feed": self.progress.record.feed, "reason": error})
        await self.progress.failed(f"sources.{self.source.name}: {error}", waits_until_ms=waits_until_ms)

    async def _send(self, found: Found, correlation_id: str) -> None:
        attempt = 0
        while True:
            try:
                await self._sender.take(self.source, found, correlation_id, received_at_ms=now_ms())
                return
            except UnavailableError as error:
                attempt += 1
                log.warning("source.waits_for_kafka", extra={"source": self.source.name, "attempt": attempt, "reason": str(error)})
                await asyncio.sleep(self.schedule.delay_s(attempt, random.random()))


def sorted_out(source: Source, found: Found) -> Found:
    """What keeps the contract, in its order; the rest of it parked. Pure."""
    parked: list[Parked] = []

    def is_good(one: Found, what: Command | Hint) -> bool:
        try:
            check(source, one)
        except ContractError as error:
            parked.append(_parked(what, error))
            return False
        return True

    commands = tuple(one for one in found.commands if is_good(Found(commands=(one,)), one))
    hints = tuple(one for one in found.hints if is_good(Found(hints=(one,)), one))
    return replace(found, commands=commands, hints=hints, parked=(*found.parked, *parked))


def _parked(what: Command | Hint, error: ContractError) -> Parked:
    if isinstance(what, Hint):
        return Parked(value=what.entity_id.encode(errors="replace"), reason=error.reason, detail=error.detail, entity_id=what.entity_id[:60])
    text = json.dumps(what.to_avro(), default=str)
    return Parked(value=text.encode(), reason=error.reason, detail=error.detail, entity_id=command_id(what)[:60])
