"""webhook-inbox -> the entity, read again from its own system -> the commands in it. Runs in the ingress, one group per source."""

import asyncio
import logging
import time

from schemas.records import ReceivedWebhook
from sinks.base import Item, Receipt, Verdict
from sinks.runner import run_lanes
from streams import metrics, topics
from streams.connectors import contract
from streams.connectors.contract import Found, Hint, Read, Source
from streams.connectors.exchange import Exchange, Unanswered, connect
from streams.connectors.registry import CONNECTORS
from streams.connectors.running.conversation import lead
from streams.errors import ContractError, UnavailableError
from streams.ingress.parts import Parts

log = logging.getLogger(__name__)

CONCURRENCY_MAX = 8  # Entities read at once: a PMS allows few requests a second.
REST_S = 5.0
"""How long nothing is asked of a system that is at its limit and does not say how long."""
REST_MAX_S = 15 * 60.0
NOTHING = "nothing to tell"


async def run(parts: Parts, source: Source, read: Read, stop: asyncio.Event) -> None:
    """Follow the hints of one source until `stop` is set."""
    transport = connect()
    try:
        rereader = Rereader(parts, source, read, Exchange(CONNECTORS[source.kind], source.options, transport))
        await run_lanes(
            parts.settings,
            sink=f"reread-{source.name}",
            group=f"ingress-reread-{source.name}",
            topic=topics.WEBHOOK_INBOX,
            deliver=rereader.deliver,
            lane=lambda item: item.record.entity_id,
            concurrency_max=CONCURRENCY_MAX,
            stop=stop,
        )
    finally:
        await transport.close()


class Rereader:
    """Reads one source's entities again."""

    def __init__(self, parts: Parts, source: Source, read: Read, exchange: Exchange) -> None:
        self._parts = parts
        self._source = source
        self._read = read
        self._exchange = exchange
        self._rests_until_s = 0.0
        """The system is at its limit: nothing is asked before. Monotonic."""

    async def deliver(self, item: Item[ReceivedWebhook]) -> Receipt:
        """DELIVERED once the commands, if there are any, are in their topics."""
        hint = item.record
        if hint.source != self._source.name:
            return Receipt(verdict=Verdict.SKIPPED)
        while (rest_s := self._rests_until_s - time.monotonic()) > 0:
            await asyncio.sleep(rest_s)
        receipt = await self._reread(hint)
        metrics.INGRESS_REREADS.labels(self._source.name, receipt.verdict.value).inc()
        log.info(
            "entity.reread",
            extra={
                "source": self._source.name, "entity_id": hint.entity_id, "kind": hint.kind, "verdict": receipt.verdict.value,
                "detail": receipt.detail, "attempt": item.attempt, "correlation_id": hint.correlation_id,
            },
        )  # fmt: skip
        return receipt

    async def _reread(self, record: ReceivedWebhook) -> Receipt:
        correlation_id = record.correlation_id or self._parts.decisions.new_id()
        told: list[str] = []

        async def take(found: Found) -> None:
            items = await self._parts.take(self._source, found, correlation_id, received_at_ms=record.received_at_ms)
            told.extend(item["stream"] for item in items)

        hint = Hint(entity_id=record.entity_id, kind=record.kind, delivery_id=record.delivery_id)
        try:
            await lead(self._read.begin(self._source, hint, record.body, record.received_at_ms), self._exchange.ask, take)
        except Unanswered as error:
            if error.verdict is contract.Verdict.WAIT:
                self._rests_until_s = time.monotonic() + min(REST_S if error.after_s is None else error.after_s, REST_MAX_S)
            return Receipt(verdict=Verdict.RETRY, detail=f"sources.{self._source.name}: {error.detail}", retry_after_s=error.after_s)
        except ContractError as error:
            # A page instead of JSON comes from something in between, and passes.
            verdict = Verdict.RETRY if error.reason == "NOT_JSON" else Verdict.REFUSED
            return Receipt(verdict=verdict, reason=error.reason, detail=error.detail)
        except UnavailableError as error:
            return Receipt(verdict=Verdict.RETRY, detail=str(error))
        return Receipt(verdict=Verdict.DELIVERED, detail=", ".join(told) or NOTHING)
