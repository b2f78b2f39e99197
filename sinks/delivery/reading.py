"""The log's past -> branches that are behind, and lanes whose records are not in memory: of one partition.

What the feed brought last stays in memory for a while: a branch that is just behind costs no read. Belongs to the event loop.
"""

import asyncio
import logging
from collections import deque
from typing import TYPE_CHECKING

from sinks.delivery.branch import LOADED_AT_ONCE, Branch
from sinks.delivery.channels import asks_the_history
from sinks.delivery.lane import Lane
from sinks.delivery.records import Outgoing
from streams.errors import UnavailableError

if TYPE_CHECKING:
    from sinks.delivery.hub import Hub
    from sinks.delivery.partition import Partition

log = logging.getLogger(__name__)

TAIL = 2_000
"""Records of the feed that stay in memory for branches that are just behind."""
READ_AT_ONCE = 500
LOADED_TOGETHER = 2_000
HISTORY_RETRY_S = 5.0
RETENTION = "RETENTION"


class Reading:
    """What a partition reads again."""

    def __init__(self, partition: "Partition", hub: "Hub") -> None:
        self._partition = partition
        self._hub = hub
        self._topic = partition.topic
        self._number = partition.number
        self._tail: deque[Outgoing] = deque(maxlen=TAIL)
        self._tail_start: int | None = None  # From here on the tail is whole.
        self._to_load: dict[Lane, None] = {}
        self._is_loading = False

    def passes(self, record: Outgoing) -> None:
        """The feed hands this record out."""
        if self._tail_start is None:
            self._tail_start = self._partition.position
        if len(self._tail) == TAIL:
            self._tail_start = self._tail[0].offset + 1
        self._tail.append(record)

    def forget(self) -> None:
        """All lanes are others now."""
        self._to_load.clear()

    def tick(self) -> None:
        """From time to time: whoever is behind and has room reads on."""
        for branch in list(self._partition.branches.values()):
            if not branch.follows:
                self.catch_up(branch)

    def catch_up(self, branch: Branch) -> None:
        """Read on for a branch that is behind, if there is room and a point in it. Harmless to repeat."""
        if branch.follows or branch.is_reading or branch.is_closed or branch.is_stopping or branch.is_new or branch.is_done:
            return
        if branch.unfinished or not self._partition.is_open or self._partition.finish_if_done(branch) or not branch.wants_more:
            return
        if not branch.may_read(self._partition.now_ms()) or (branch.channel.is_batch and branch.position >= self._partition.position):
            return
        if branch.channel.job is None and self._tail_start is not None and branch.position >= self._tail_start:
            self._read_tail(branch)
            return
        branch.is_reading = True
        self._partition.spawn(self._read(branch))

    def _read_tail(self, branch: Branch) -> None:
        end = self._partition.position if branch.end is None else min(branch.end, self._partition.position)
        now_ms = self._partition.now_ms()
        for record in self._tail:
            if record.offset >= end:
                break
            if record.offset >= branch.position and branch.channel.wants(record):
                if not branch.is_due(record, now_ms):
                    branch.position = record.offset
                elif self._takes_last(branch, record):
                    branch.position = record.offset + 1
                else:
                    continue
                self._partition.branch_changed(branch)
                branch.gathered()
                return
        branch.position = max(branch.position, end)
        branch.gathered()
        self._arrive(branch)

    def _takes_last(self, branch: Branch, record: Outgoing) -> bool:
        """Give the branch the record, and say whether there is no room for more then."""
        branch.take(record)
        if branch.has_room:
            return False
        branch.coalesce()
        return not (branch.channel.coalesces and branch.wants_more)

    async def _read(self, branch: Branch) -> None:
        try:
            while branch.wants_more and branch.may_read(self._partition.now_ms()) and not (branch.is_closed or branch.is_stopping or branch.is_done):
                end = self._partition.position if branch.end is None else min(branch.end, self._partition.position)
                if branch.position >= end:
                    self._arrive(branch)
                    return
                await self._read_once(branch, end)
                self._partition.branch_changed(branch)
                if not branch.wants_more:
                    branch.coalesce()
        except UnavailableError as error:
            log.warning("delivery.history_unreachable", extra={"channel": branch.channel.channel_id, "error": str(error)})
            await asyncio.sleep(HISTORY_RETRY_S)
        finally:
            branch.is_reading = False
            branch.gathered()

    async def _read_once(self, branch: Branch, end: int) -> None:
        chunk = await self._hub.log.read(self._topic, self._number, branch.position, end, READ_AT_ONCE, branch.channel.keys)
        job = branch.channel.job
        if chunk.first_offset > branch.position:
            if job is None:
                self._partition.dropped(branch, branch.position, chunk.first_offset - 1, "", RETENTION)
            branch.position = chunk.first_offset
        wanted = [record for record in chunk.records if branch.channel.wants(record)]
        if job is not None and asks_the_history(job) and wanted:
            wanted = await self._hub.history.choose(job, wanted)
        now_ms = self._partition.now_ms()
        for record in wanted:
            if branch.is_closed or branch.is_stopping or branch.is_done:
                return
            if not branch.is_due(record, now_ms):
                branch.position = record.offset
                return
            if job is not None and not job.is_dry_run:
                await self._hub.pace(job)
                if branch.is_closed or branch.is_stopping or branch.is_done:
                    return
            branch.count("matched", 1)
            if job is not None and job.is_dry_run:
                continue
            branch.position = record.offset + 1
            if self._takes_last(branch, record):
                return
        branch.position = chunk.next_offset

    def _arrive(self, branch: Branch) -> None:
        """It has come as far as there is to read."""
        self._partition.branch_changed(branch)
        if self._partition.finish_if_done(branch):
            return
        if branch.channel.follows and branch.end is None and branch.position >= self._partition.position and branch.outlet.takes_more:
            branch.follows, branch.behind_since_ms = True, 0

    def load(self, lane: Lane) -> None:
        """Read a lane's next records again."""
        self._to_load[lane] = None
        if not self._is_loading:
            self._is_loading = True
            self._partition.spawn(self._load())

    async def _load(self) -> None:
        try:
            while self._to_load:
                await asyncio.sleep(0)  # Those that are asked for in one go are read in one go.
                lanes: dict[Lane, list[int]] = {}
                total = 0
                while self._to_load and total < LOADED_TOGETHER:
                    lane = next(iter(self._to_load))
                    del self._to_load[lane]
                    lanes[lane] = lane.first(LOADED_AT_ONCE)
                    total += len(lanes[lane])
                near = {record.offset: record for record in self._tail}
                far = sorted({offset for offsets in lanes.values() for offset in offsets if offset not in near})
                found = await self._hub.log.read_offsets(self._topic, self._number, far) if far else {}
                for lane, offsets in lanes.items():
                    lane.branch.loaded(lane, {offset: near.get(offset) or found.get(offset) for offset in offsets})
                    if not len(lane):
                        self.catch_up(lane.branch)
        finally:
            self._is_loading = False
