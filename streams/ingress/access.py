"""Reads of personal data by the API -> the delivery-audit topic: who read which member's profile, audit or export.

Each process and token has a chain of its own, `api:<token>@<process>`, in one partition, see streams/ingress/access_log.py.
"""

import asyncio
import logging
from collections.abc import Callable

from schemas.codec import Codec
from schemas.records import DeliveryAudit, DeliveryResult
from streams import metrics
from streams.errors import UnavailableError
from streams.ingress.access_log import AccessLog
from streams.settings import Settings

log = logging.getLogger(__name__)

KIND = "MEMBER_READ"
SOURCE_SYSTEM = "api"
WAIT_S = 2.0
"""A read waits this long for its record's acknowledgement. Then it is answered, and the record is written when Kafka is back: a desk must
see its guest. Only a process that ends before loses it, and its log says so."""
WAITING_MAX = 10_000


class Accesses:
    """The records of one ingress process. Belongs to one event loop."""

    def __init__(self, settings: Settings, codec: Codec, clock: Callable[[], float]) -> None:
        self._log = AccessLog(settings, codec)
        self._clock = clock
        self._late: set[asyncio.Future[None]] = set()

    async def record(self, token: str, program_id: str, member_id: str, what: str, correlation_id: str) -> None:
        """Write that the token has read `what` of the member. Raises UnavailableError when too much waits to be written."""
        if self._log.waiting >= WAITING_MAX:
            raise UnavailableError("too many records of reads wait for Kafka")
        now_ms = int(self._clock() * 1000)
        record = DeliveryAudit(
            delivery_id="", destination=f"api:{token}", event_id=correlation_id, program_id=program_id, member_id=member_id,
            sequence=0, kind=KIND, result=DeliveryResult.DELIVERED, status=200, attempts=1, command_id=what, source_system=SOURCE_SYSTEM,
            occurred_at_ms=now_ms, ingested_at_ms=now_ms, recorded_at_ms=now_ms, ended_at_ms=now_ms, correlation_id=correlation_id,
            chain_number=0, previous_hash="", record_hash="",
        )  # fmt: skip
        writing = asyncio.ensure_future(self._log.write(record))
        done, _ = await asyncio.wait((writing,), timeout=WAIT_S)
        metrics.ACCESSES.labels("recorded" if done else "late").inc()
        if done:
            writing.result()
        else:
            self._late.add(writing)
            writing.add_done_callback(self._late.discard)
            log.warning("access.not_recorded_yet", extra={"correlation_id": correlation_id, "token": token})

    async def close(self) -> None:
        await self._log.close()
        for late in self._late:
            late.cancel()
        if self._late:
            log.error("access.lost", extra={"records": len(self._late)})
