"""The sync-runs topic -> how each job has fared: the standing from which the scheduler goes on, and what people are shown."""

import logging
from collections import deque
from dataclasses import dataclass

from schemas.codec import Codec
from schemas.records import RunResult, RunTrigger, SyncRun
from streams import metrics, topics
from streams.log_follower import LogFollower, reads
from streams.settings import Settings

log = logging.getLogger(__name__)

RUNS_KEPT = 100_000


def tell(run: SyncRun) -> None:
    """A run that has ended, to metrics and log."""
    seconds = max(0, run.ended_at_ms - run.started_at_ms) / 1000
    metrics.SCHEDULED_RUNS.labels(run.job, run.result.value).inc()
    metrics.SCHEDULED_RUN_SECONDS.labels(run.job).observe(seconds)
    if run.result is RunResult.DONE:
        metrics.SCHEDULED_RUN_DONE.labels(run.job).set(run.ended_at_ms / 1000)
    log.info(
        "run.ended",
        extra={
            "job": run.job, "run_id": run.run_id, "trigger": run.trigger.value, "result": run.result.value, "attempt": run.attempt, "rows": run.rows,
            "counts": run.counts, "seconds": seconds, "detail": run.detail,
        },
    )  # fmt: skip


@dataclass(slots=True)
class Standing:
    """Of one job."""

    last: SyncRun | None = None
    """The newest run, whoever wanted it."""
    done: SyncRun | None = None
    """The newest one that went well."""
    planned: SyncRun | None = None
    """The newest one of the cadence: what is due next follows from it."""
    requested: SyncRun | None = None
    """The newest one that an operator asked for."""

    def note(self, run: SyncRun) -> None:
        self.last = run
        if run.result is RunResult.DONE:
            self.done = run
        if run.trigger is RunTrigger.OPERATOR:
            self.requested = run
        else:
            self.planned = run


class RunLog:
    """Follows the topic. `standings` has every job that ever ran."""

    def __init__(self, settings: Settings, codec: Codec) -> None:
        self.standings: dict[str, Standing] = {}
        self.newest: deque[SyncRun] = deque(maxlen=RUNS_KEPT)
        """For people."""
        self._follower = LogFollower(settings, topics.SYNC_RUNS, reads(codec, SyncRun), self._take)

    def start(self) -> None:
        """Begin to read; `ready` says when all that the topic held is known."""
        self._follower.start()

    async def ready(self) -> None:
        await self._follower.ready()

    async def close(self) -> None:
        await self._follower.close()

    def standing(self, job: str) -> Standing:
        return self.standings.setdefault(job, Standing())

    def _take(self, batch: list[SyncRun]) -> None:
        for run in batch:
            self.standing(run.job).note(run)
            self.newest.append(run)
