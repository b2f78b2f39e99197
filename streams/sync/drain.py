"""Schedules that are off -> nothing of theirs waits. Runs in the scheduler that leads.

    scheduled     sync-control says "not drained" of the stream: whoever takes commands in lets them wait
    realtime      what waits is flushed; then sync-control says "drained", and commands take their direct way again
    afterwards    what was still on its way into the waiting topic at that moment is flushed when it is found
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress

from schemas.records import SyncControlKind
from streams import metrics
from streams.errors import UnavailableError
from streams.sync import names
from streams.sync.control import SyncControlLog
from streams.sync.flush import FlushJob

log = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0


async def keep_drained(control: SyncControlLog, job_of: Callable[[str], FlushJob], end: asyncio.Event) -> None:
    """Until `end` is set. A broker that does not answer is waited for."""
    while not end.is_set():
        backlogs = dict.fromkeys(names.INBOUND, 0)
        for name in control.inbound_names():
            try:
                backlogs[names.stream_of(name)] += await _look_after(control, name, job_of(name), end)
            except UnavailableError as error:
                log.warning("sync.drain_interrupted", extra={"stream": name, "reason": str(error)})
        for stream, records in backlogs.items():
            metrics.SYNC_BACKLOG.labels(stream).set(records)
        with suppress(TimeoutError):
            await asyncio.wait_for(end.wait(), LOOK_EVERY_S)


async def _look_after(control: SyncControlLog, name: str, job: FlushJob, end: asyncio.Event) -> int:
    """Records that wait after the look. Raises UnavailableError."""
    record = control.record(SyncControlKind.DRAINED, name)
    cadence = control.cadence(name)
    if not cadence.is_realtime:
        if record is None or not control.is_draining(name):
            await control.set_drained(name, False, changed_by="scheduler")
        return await job.waiting_max()
    if await job.waiting_max():
        outcome = await job.flush(end, cadence)
        log.info("sync.drained", extra={"stream": name, "rows": outcome.rows, "counts": outcome.counts})
    if control.is_draining(name) and not end.is_set():
        # Under traffic something always waits: what came in the meantime is flushed at the next look.
        await control.set_drained(name, True, changed_by="scheduler")
    return 0
