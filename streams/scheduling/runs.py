"""The sync-runs topic -> how each job has fared: the standing from which the scheduler goes on, and what people are shown."""

import logging
from collections import deque
from dataclasses import dataclass

from confluent_kafka import Message

from schemas.codec import Codec
from schemas.records import RunResult, RunTrigger, SyncRun
from streams import topics
from streams.errors import ContractError
from streams.log_follower import LogFollower
from streams.settings import Settings

log = logging.getLogger(__name__)

RUNS_KEPT = 100_000


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
        self._codec = codec
        self._follower = LogFollower(settings, topics.SYNC_RUNS, self._read, self._take)

    async def open(self) -> None:
        """Return once all that the topic holds is known."""
        self._follower.start()
        await self._follower.ready()

    async def close(self) -> None:
        await self._follower.close()

    def standing(self, job: str) -> Standing:
        return self.standings.setdefault(job, Standing())

    def _read(self, message: Message) -> SyncRun | None:
        try:
            return self._codec.decode(message.value(), SyncRun)
        except ContractError as error:
            log.warning("run.unreadable", extra={"partition": message.partition(), "offset": message.offset(), "reason": error.reason})
            return None

    def _take(self, batch: list[SyncRun]) -> None:
        for run in batch:
            self.standing(run.job).note(run)
            self.newest.append(run)
