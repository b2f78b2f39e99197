"""Schedules that are off -> nothing of theirs waits. Runs in the scheduler that leads.

    scheduled     sync-control says "not drained" of the stream: whoever takes commands in lets them wait
    realtime      what waits is flushed; then sync-control says "drained", and how far what waited was read: a member's commands take their
                  direct way again when all earlier ones of the member are before that
    afterwards    what has come to wait all the same is flushed when it is found, and that is said again
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress

from streams import metrics
from streams.errors import UnavailableError
from streams.sync import names
from streams.sync.control import SyncControlLog
from streams.sync.flush import FlushJob

log = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0
LOOK_AGAIN_S = 0.1  # While commands follow earlier ones that wait.
CHANGED_BY = "scheduler"


async def keep_drained(control: SyncControlLog, job_of: Callable[[str], FlushJob], end: asyncio.Event) -> None:
    """Until `end` is set. A broker that does not answer is waited for."""
    while not end.is_set():
        backlogs, has_flushed = dict.fromkeys(names.INBOUND, 0), False
        for name in control.inbound_names():
            try:
                waiting = await job_of(name).waiting_max()
                if control.cadence(name).is_realtime:
                    has_flushed |= await _drain(control, name, job_of(name), end, waiting)
                else:
                    backlogs[names.stream_of(name)] += waiting
                    if control.read_to(name) is None or control.is_drained(name):
                        await control.set_drained(name, None, changed_by=CHANGED_BY)
            except UnavailableError as error:
                log.warning("sync.drain_interrupted", extra={"stream": name, "reason": str(error)})
            except Exception:  # A fault of the program's own must not leave the other streams undrained.
                log.exception("sync.drain_failed", extra={"stream": name})
        for stream, records in backlogs.items():
            metrics.SYNC_BACKLOG.labels(stream).set(records)
        with suppress(TimeoutError):
            await asyncio.wait_for(end.wait(), LOOK_AGAIN_S if has_flushed else LOOK_EVERY_S)


async def _drain(control: SyncControlLog, name: str, job: FlushJob, end: asyncio.Event, waiting: int) -> bool:
    """Flush what waits of a schedule that is off, and say so. Whether there was anything. Raises UnavailableError."""
    if waiting:
        outcome = await job.flush(end, control.cadence(name))
        log.info("sync.drained", extra={"stream": name, "rows": outcome.rows, "counts": outcome.counts})
    if not end.is_set() and (not control.is_drained(name) or (waiting and control.read_to(name) is not None)):
        await control.set_drained(name, await job.read_to(), changed_by=CHANGED_BY)
    return waiting > 0
