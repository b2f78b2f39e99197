"""What ClickHouse knows of past deliveries -> which events a replay sends: those that are missing, or were given up."""

from collections.abc import Sequence

import aiohttp
import orjson

from sinks.delivery.records import Outgoing
from streams import clickhouse
from streams.destinations.model import Job, Which
from streams.settings import Settings

ANSWER_S = 60.0
RESULTS = """
SELECT event_id, countIf(result IN ('DELIVERED', 'SUPERSEDED')) > 0 AS delivered, argMax(result, source_offset) IN ('DEAD_LETTERED', 'SKIPPED') AS failed
FROM delivery_audit
WHERE destination = {destination:String} AND event_id IN {events:Array(String)}
GROUP BY event_id
"""


class DeliveryHistory:
    """Asked by replays alone. Belongs to one event loop."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._session: aiohttp.ClientSession | None = None

    async def choose(self, job: Job, records: Sequence[Outgoing]) -> list[Outgoing]:
        """Those of the records that the job is about: with Which.MISSING all that no delivery is on record of, with Which.FAILED all of which the
        newest word is that they were given up or passed over. Raises UnavailableError.
        """
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=ANSWER_S))
        events = [one.event_id for one in records]
        delivered, failed = set[str](), set[str]()
        async for line in clickhouse.rows(
            self._session, self._settings, RESULTS, {"destination": job.destination, "events": events}, max_query_size=str(1 << 24)
        ):
            row = orjson.loads(line)
            if row["delivered"]:
                delivered.add(row["event_id"])
            if row["failed"]:
                failed.add(row["event_id"])
        if job.which is Which.MISSING:
            return [one for one in records if one.event_id not in delivered]
        return [one for one in records if one.event_id in failed]

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
