"""Flushes of an outbound stream that waits -> its runs in the sync-runs topic, beside those of inbound streams and jobs."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from schemas.codec import Codec
from schemas.records import RunResult, RunTrigger, SyncRun
from streams import kafka, topics
from streams.errors import LoyaltyError
from streams.scheduling.cadence import Cadence
from streams.scheduling.runs import tell
from streams.settings import Settings

log = logging.getLogger(__name__)


def recorder(settings: Settings, codec: Codec, name: str, cadence: Callable[[], Cadence]) -> Callable[[int, int, int], Awaitable[None]]:
    """Records runs of the stream `name`: record(instant_ms, started_ms, rows). What went out stays so when its run cannot be recorded."""

    async def record(instant_ms: int, started_ms: int, rows: int) -> None:
        now_ms, present = time.time_ns() // 1_000_000, cadence()
        run = SyncRun(
            run_id=f"{name}@{instant_ms}", job=name, trigger=RunTrigger.SCHEDULE, result=RunResult.DONE, detail="", attempt=1, cadence=str(present),
            requested_by="", scheduled_for_ms=instant_ms, started_at_ms=started_ms, ended_at_ms=now_ms, rows=rows, counts={},
            due_after_ms=0 if present.is_realtime else present.next_ms(now_ms),
        )  # fmt: skip
        try:
            await asyncio.to_thread(kafka.write_one, settings, topics.SYNC_RUNS, name, codec.encode(run))
        except LoyaltyError as error:
            log.warning("run.not_recorded", extra={"job": name, "run_id": run.run_id, "reason": str(error)})
        else:
            tell(run)

    return record
