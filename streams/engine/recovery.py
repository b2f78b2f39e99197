"""Takes the place of Faust's table recovery: after a rebalance, the partitions that are ours are taken over, and reading goes on."""

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from faust.tables.manager import TableManager as FaustTableManager
from faust.types import TP
from mode import Service

from streams.engine.ownership import BACKOFF_MAX_S
from streams.engine.reader import Unreadable

if TYPE_CHECKING:
    from streams.engine.app import App

log = logging.getLogger(__name__)


class Recovery(Service):  # type: ignore[misc]
    """Takes the place of Faust's recovery, which reads changelogs event by event and never ends on a transactional one."""

    mundane_level = "debug"

    def __init__(self, app: "App", **kwargs: Any) -> None:
        self.app = app
        self.completed = asyncio.Event()
        self._wanted: tuple[set[TP], int] | None = None
        self._signal = asyncio.Event()
        super().__init__(**kwargs)

    def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Faust's hook; the waiting is done in App.on_partitions_revoked, which it awaits."""
        self.completed.clear()

    async def on_rebalance(self, assigned: set[TP], revoked: set[TP], newly_assigned: set[TP], generation_id: int = 0) -> None:
        # The work is done in the task below: the group's coordinator must not wait for it.
        self._wanted = (assigned, generation_id)
        self._signal.set()

    @Service.task  # type: ignore[untyped-decorator]
    async def _run(self) -> None:
        while not self.should_stop:
            await self._signal.wait()
            self._signal.clear()
            assert self._wanted is not None
            assigned, generation_id = self._wanted
            partitions = {tp.partition for tp in assigned if tp.topic in self.app.source_types}
            # Faust's assignor spreads the copies, and gives a partition to a worker that has a copy of it rather than to another.
            standbys = {tp.partition for tp in self.app.assignor.assigned_standbys()} - partitions
            try:
                await self.app.partitions.assign(partitions)
                self.app.partitions.standbys.follow(standbys)
                if generation_id == self.app.consumer_generation_id and not self._signal.is_set():
                    await self._resume(assigned)
            except Unreadable as error:
                log.critical("engine.stopped", extra={"reason": str(error)})
                await self.app.crash(error)
                return
            except Exception:  # The broker went away in between: the next rebalance, or this loop, tries again.
                log.warning("engine.resume_failed", exc_info=True)
                await self.sleep(BACKOFF_MAX_S)
                self._signal.set()

    async def _resume(self, assigned: set[TP]) -> None:
        """What Faust's recovery does at its end: let the consumer fetch again."""
        app, consumer = self.app, self.app.consumer
        await app.on_rebalance_complete.send()
        consumer.resume_partitions(assigned)
        self.completed.set()
        app.flow_control.resume()
        consumer.resume_flow()
        app.partitions.start_reading()
        await app._fetcher.maybe_start()
        app.tables.on_actives_ready()
        app.tables.on_standbys_ready()
        app.on_rebalance_end()
        log.info("engine.resumed", extra={"partitions": sorted(app.partitions.owned())})


class TableManager(FaustTableManager):
    """Faust's table manager without its changelog channels: nothing but the recovery above reads a changelog."""

    mundane_level = "debug"

    app: "App"

    @property
    def recovery(self) -> Recovery:
        if self._recovery is None:
            self._recovery = Recovery(self.app, beacon=self.beacon, loop=self.loop)
        return self._recovery

    async def on_start(self) -> None:
        await self._update_channels()
        await self.recovery.start()

    async def _update_channels(self) -> None:
        self._tables_finalized.set()
        for table in self.values():
            await table.maybe_start()
        self._tables_registered.set()

    async def on_stop(self) -> None:
        await self.app._fetcher.stop()
        await self.app.partitions.release_all()
        if self._recovery:
            await self._recovery.stop()
        for table in self.values():
            await table.stop()
