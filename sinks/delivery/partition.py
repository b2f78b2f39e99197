"""The deliveries of one partition of one stream: feed -> branches -> lanes, and all that must outlive the process -> one transaction at a time.

Everything here belongs to the event loop but for `open`, which the feed's thread calls. What happens is gathered and written every COMMIT_S in one
transaction: how far each channel has come, what waits, the audit, the attempts. A process that is killed repeats what happened since, no more.
"""

import asyncio
import logging
import time
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from confluent_kafka import KafkaException

from schemas.records import DeadLetter, DeliveryNotice, DeliveryProgress, DeliveryResult, NoticeKind
from sinks.base import Receipt
from sinks.delivery import channels, evidence, progress
from sinks.delivery.branch import Branch
from sinks.delivery.channels import Channel
from sinks.delivery.evidence import Attempted, Dropped, Ended
from sinks.delivery.journal import Doubtful, Fenced, Journal, Write, key_of
from sinks.delivery.lane import Lane
from sinks.delivery.progress import Memory, Remembered
from sinks.delivery.reading import RETENTION, Reading
from sinks.delivery.records import Outgoing, Undecodable
from sinks.delivery.transaction import Gathered, encoded
from streams import metrics, topics
from streams.destinations.model import Action, Job
from streams.errors import ContractError, LoyaltyError, UnavailableError
from streams.scheduling.cadence import REALTIME
from streams.topics import Topic

if TYPE_CHECKING:
    from sinks.delivery.hub import Hub

log = logging.getLogger(__name__)

COMMIT_S = 0.25
REOPEN_S = 1.0
FENCED_S = 8.0
"""Longer than the group's session: whoever was fenced hears by then that the partition is another's, and does not fence that one in turn."""
HOLD_AFTER_S = 2.0
"""What is delivered while nothing can be written may be repeated: after so long no further attempt is begun until the broker answers."""
UNWRITTEN_MAX = 1_000
"""So many ends of deliveries wait to be written at most: a kill repeats no more. At half of them the next transaction begins at once."""
UNSENDABLE = frozenset({"KIND_UNKNOWN", "NOT_RENDERABLE"})
REMOVED = "DESTINATION_REMOVED"


class Partition:
    """What a process does with one partition for as long as it has it."""

    def __init__(self, hub: "Hub", topic: Topic, number: int) -> None:
        self.topic = topic
        self.number = number
        self.position = 0
        """Everything below has been handed out."""
        self.branches: dict[str, Branch] = {}
        self.acts: dict[str, dict[str, int]] = {}
        """Jobs that are no replays and are done here -> what they did."""
        self.is_open = False
        self.is_closed = False
        self._hub = hub
        self._name = topic.name(hub.settings.topic_prefix)
        self._journal: Journal | None = None
        self._chains: dict[str, tuple[int, str]] = {}
        self._interested: dict[tuple[str, str], tuple[Branch, ...]] = {}
        self._reading = Reading(self, hub)
        self._changed_branches: dict[Branch, None] = {}
        self._changed_lanes: dict[Lane, None] = {}
        self._written: dict[str, DeliveryProgress] = {}
        self._feed_written = -1
        self._gathered = Gathered()
        self._unwritten = 0
        """Ends that are in no committed transaction yet."""
        self._is_held = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._writer: asyncio.Task[None] | None = None
        self._write_now = asyncio.Event()
        self._is_stopping = False
        self._is_drained = False
        """Nothing that is under way is waited for any more."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    # The feed's side.

    def open(self) -> int:
        """In the feed's thread: take the partition over from whoever had it, and say where the feed begins. Raises Fenced, KafkaException."""
        journal = Journal(self._hub.settings, self._hub.codec, self.topic, self.number)
        try:
            memory = Memory.of(journal.open())
            bounds = asyncio.run_coroutine_threadsafe(self._hub.log.bounds(self.topic, self.number), self._hub.loop).result()
            position = self._checked(memory.position, bounds)
            first = bounds[0]
        except BaseException:
            journal.close()
            raise
        self._hub.loop.call_soon_threadsafe(self._begin, journal, memory, position, first)
        return position

    def _checked(self, position: int | None, bounds: tuple[int, int]) -> int:
        """Where the feed goes on. What retention took from branches that followed shows when they read on from their own positions."""
        first, end = bounds
        if position is not None and position > end:
            raise UnavailableError(
                f"{self._name} partition {self.number} ends at {end}, but deliveries have come to {position}: the topic was created anew. Delete the"
                f" records of {self._hub.name(topics.DELIVERY_PROGRESS)}, too, to begin anew."
            )
        return first if position is None else position

    def received(self, records: Sequence[Outgoing], poison: Sequence[Undecodable], next_offset: int) -> None:
        """What the feed brings, in order; `next_offset` is where it goes on."""
        if self._is_stopping:
            return
        for one in poison:
            self._bury(evidence.letter_of_undecodable(self._name, self.number, one, self.now_ms()))
        for record in records:
            self._reading.passes(record)
            for branch in self._interested_in(record):
                if branch.follows and branch.channel.passes(record):
                    if not branch.outlet.takes_more:
                        branch.stay_behind(record.offset)
                        continue
                    branch.take(record)
                    if not branch.has_room:
                        branch.stay_behind(record.offset + 1)
            self.position = record.offset + 1
        self.position = max(self.position, next_offset)

    def _interested_in(self, record: Outgoing) -> tuple[Branch, ...]:
        """Branches that want this kind of this programme. Looked up once, not for each record: there may be thousands of destinations."""
        key = (record.program_id, record.record.kind.value)
        found = self._interested.get(key)
        if found is None:
            found = self._interested[key] = tuple(
                branch for branch in self.branches.values()
                if key[1] in branch.channel.kinds and (not branch.channel.programs or key[0] in branch.channel.programs)
            )  # fmt: skip
        return found

    async def stop(self, drain_s: float) -> None:
        """Begin nothing further, wait for attempts under way, write what has happened, give the partition up."""
        self._is_stopping = True
        for branch in self.branches.values():
            branch.is_stopping = True
        deadline_s = time.monotonic() + drain_s
        while self._is_busy() and time.monotonic() < deadline_s:
            await asyncio.sleep(0.01)
        self._is_drained = True
        if self._writer is not None:
            self._write_now.set()
            await asyncio.wait((self._writer,), timeout=drain_s)
        await self.abandon()

    async def abandon(self) -> None:
        """It is another's already: forget all."""
        self._is_stopping = self.is_closed = True
        for branch in self.branches.values():
            branch.close()
        tasks = self._tasks | ({self._writer} if self._writer is not None else set())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._journal is not None:
            await asyncio.to_thread(self._journal.close)

    def _is_busy(self) -> bool:
        return any(lane.busy for branch in self.branches.values() for lane in branch.lanes.values())

    # How it begins.

    def _begin(self, journal: Journal, memory: Memory, feed: int, first: int) -> None:
        """Go on from what is remembered. `feed` is what branches that follow had come to, `first` where the log begins now."""
        if self._is_stopping:
            self.spawn(asyncio.to_thread(journal.close))
            return
        self._journal, self._chains = journal, memory.chains
        self.position = max(self.position, feed)
        self._feed_written = -1 if memory.position is None else memory.position
        self._written = {channel_id: remembered.row for channel_id, remembered in memory.channels.items() if remembered.row is not None}
        unfinished: list[tuple[Branch, list[int]]] = []
        added: list[Channel] = []
        for channel in self._hub.channels(self.topic):
            remembered = memory.channels.pop(channel.channel_id, None)
            if remembered is None:
                added.append(channel)
            else:
                unfinished += self._resume(channel, remembered, feed)
        retiring: list[Branch] = []
        for channel_id, remembered in memory.channels.items():
            channel_or_none = self._retiring(channel_id)
            if channel_or_none is None:
                self._resume_unknown(channel_id, remembered, feed)
            else:
                unfinished += self._resume(channel_or_none, remembered, feed)
                retiring.append(self.branches[channel_id])
        resumed = list(self.branches.values())
        for branch in resumed:
            if branch.end is not None and not branch.channel.is_replay and branch not in retiring:
                self._return(branch)
        for channel in added:
            self._add(channel, resumed, first)
        for branch in retiring:
            self._retire(branch)
        self.is_open = True
        self._interested.clear()
        if unfinished:
            self.spawn(self._read_unfinished(unfinished))
        for branch in self.branches.values():
            branch.release_blocked()
            for lane in list(branch.lanes.values()):
                branch.outlet.offer(lane)
        self.act()
        self.tick()
        self._writer = asyncio.get_running_loop().create_task(self._write_forever())

    def _resume(self, channel: Channel, remembered: Remembered, feed: int) -> list[tuple[Branch, list[int]]]:
        row = remembered.row
        if row is None:  # Lanes alone: a row of the channel is written with them, so this is another's doing. They are delivered.
            row = progress.following_row(self.topic.stream, channel.channel_id)
        unfinished = progress.unpacked(row.offsets)
        position = feed if row.position < 0 else row.position
        branch = Branch(self, channel, self._hub.outlet(channel.destination), position=position, follows=False)
        branch.counts, branch.is_done = dict(row.counts), row.is_done
        branch.end = branch.counts.pop("end", None)
        branch.unfinished = unfinished
        progress.restore_lanes(branch, remembered)
        self.branches[channel.channel_id] = branch
        if not unfinished and channel.follows and branch.end is None and position >= self.position:
            branch.follows = True
        self.branch_changed(branch)  # One that followed and does not yet must say where it is before the feed says more.
        return [(branch, unfinished)] if unfinished else []

    def _retiring(self, channel_id: str) -> Channel | None:
        """A channel that its destination, which lives on, has no more."""
        destination, _, rest = channel_id.partition("#")
        if rest not in ("", channels.BATCH) or not self._hub.has_destination(destination):
            return None
        return channels.of_retiring(channel_id, self.topic.stream, self._hub.outlet(destination).destination)

    def _resume_unknown(self, channel_id: str, remembered: Remembered, feed: int) -> None:
        """What is remembered of a channel that is no more."""
        destination, _, rest = channel_id.partition("#")
        row = remembered.row
        if rest and rest in self._hub.jobs and row is not None and row.is_done:
            self.acts[rest] = dict(row.counts)
        elif self._hub.is_unreadable(destination):
            log.error("delivery.destination_unreadable", extra={"destination": destination, "partition": self.number})
            if row is not None and row.position < 0:
                self._gathered.rows[key_of(row)] = self._written[channel_id] = replace(row, position=feed)
        else:
            kept = [offset for rows in remembered.lanes.values() for one in rows for offset in progress.unpacked(one.offsets)]
            kept += progress.unpacked(row.offsets) if row is not None else []
            is_behind = row is not None and 0 <= row.position < feed
            if rest in ("", channels.BATCH) and (kept or is_behind):
                first = min([*kept, *([row.position] if row is not None and is_behind else [])])
                self._dropped(destination, first, max([*kept, *([feed - 1] if is_behind else [])]), "", REMOVED)
            for one in [*([row] if row is not None else []), *(one for rows in remembered.lanes.values() for one in rows)]:
                self._gathered.rows[key_of(one)] = None
            self._written.pop(channel_id, None)

    async def _read_unfinished(self, unfinished: Sequence[tuple[Branch, list[int]]]) -> None:
        """What was handed out and not finished, before anything newer."""
        wanted = sorted({offset for _, offsets in unfinished for offset in offsets})
        records = await self._hub.log.read_offsets(self.topic, self.number, wanted)
        for branch, offsets in unfinished:
            if branch.is_closed or branch.is_done:
                continue
            gone = [offset for offset in offsets if records.get(offset) is None]
            for offset in offsets:
                record = records.get(offset)
                if record is not None:
                    branch.take(record)
            branch.unfinished = []
            branch.gathered()
            if gone:
                self._dropped(branch.channel.destination, gone[0], gone[-1], "", RETENTION)
            self.branch_changed(branch)
            self.catch_up(branch)

    # Channels that come, change and go.

    def reconcile(self) -> None:
        """Destinations or jobs have changed."""
        if not self.is_open or self._is_stopping:
            return
        known = {channel.channel_id: channel for channel in self._hub.channels(self.topic)}
        before = list(self.branches.values())
        for channel_id, channel in known.items():
            branch = self.branches.get(channel_id)
            if branch is None:
                if not self._is_finished(channel):
                    self._add(channel, before)
            else:
                branch.change(channel)
                if branch.end is not None and not channel.is_replay:
                    self._return(branch)
                branch.release_blocked()
            if branch is not None and channel.job is not None and channel.job.is_cancelled:
                self._cancel(branch)
        for channel_id in [channel_id for channel_id in self.branches if channel_id not in known]:
            self._retire(self.branches[channel_id])
        self._interested.clear()
        self.act()
        self.tick()

    def _is_finished(self, channel: Channel) -> bool:
        row = self._written.get(channel.channel_id)
        return row is not None and row.is_done

    def _add(self, channel: Channel, before: Sequence[Branch], first: int | None = None) -> None:
        """A channel that has never been here, unlike those `before` it. `first`: where the log begins now, if that is known."""
        heard = [
            self._heard(other) for other in before
            if other.channel.destination == channel.destination and not other.channel.is_replay and not other.is_new
        ]  # fmt: skip
        branch = Branch(self, channel, self._hub.outlet(channel.destination), position=min(heard, default=self.position), follows=False)
        branch.is_stopping = self._is_held
        self.branches[channel.channel_id] = branch
        self._interested.clear()
        if heard and channel.job is None:
            self.branch_changed(branch)  # A part of what another channel of the destination has heard so far.
        elif channel.job is None and not channel.start_at_ms and first is not None:
            # Looked up once for all: there may be thousands of destinations.
            branch.position, branch.follows = first, channel.follows and first >= self.position
            self.branch_changed(branch)
        else:
            branch.is_new = True
            self.spawn(self._start(branch))

    def _heard(self, branch: Branch) -> int:
        """How far a branch has come."""
        return self.position if branch.follows else branch.position

    async def _start(self, branch: Branch) -> None:
        """Find out where a channel begins that has never been here."""
        channel, log_reader = branch.channel, self._hub.log
        begun = [branch]
        if channel.job is not None:
            position = await log_reader.offset_at(self.topic, self.number, channel.job.since_ms)
            branch.end = await log_reader.offset_at(self.topic, self.number, channel.job.until_ms)
        else:
            if channel.start_at_ms:
                position = await log_reader.offset_at(self.topic, self.number, channel.start_at_ms)
            else:
                position = (await log_reader.bounds(self.topic, self.number))[0]
            # All of a destination at once: one that is written down alone would be taken for the elder of the other.
            begun = [one for one in self.branches.values() if one.is_new and one.channel.job is None and one.channel.destination == channel.destination]
        if not branch.is_new:
            return
        for one in begun:
            one.position, one.is_new = position, False
            self.branch_changed(one)
        if channel.job is not None and channel.job.is_cancelled:
            self._cancel(branch)
        for one in begun:
            self.catch_up(one)

    def _cancel(self, branch: Branch) -> None:
        if not branch.is_done:
            branch.is_done = True
            branch.counts["cancelled"] = 1
            branch.unfinished = []
            for lane in list(branch.lanes.values()):
                self._forget(lane)
            branch.lanes.clear()
            branch.waiting = branch.parked = 0
            self.branch_changed(branch)

    def _retire(self, branch: Branch) -> None:
        """Its channel is no more. What a destination that lives on has not sent yet is sent; of one that was removed nothing is."""
        channel = branch.channel
        if self._hub.is_unreadable(channel.destination):
            branch.stay_behind(self.position)
            row = progress.channel_row(branch)
            self._gathered.rows[key_of(row)] = self._written[channel.channel_id] = row
            branch.close()
            del self.branches[channel.channel_id]
        elif not channel.is_replay and self._hub.has_destination(channel.destination):
            if branch.end is None:
                # Another channel of the destination hears of the same kinds from where it is now.
                heirs = [other for other in self._heirs(branch) if other.channel.kinds & channel.kinds]
                branch.change(replace(channel, cadence=REALTIME if channel.is_batch else None))
                branch.stay_behind(self.position)
                branch.end = min([self.position, *(self._heard(other) for other in heirs)])
                self.branch_changed(branch)
                self.finish_if_done(branch)
        else:
            offsets = [*branch.unfinished, *(offset for lane in branch.lanes.values() for offset in lane.offsets)]
            if not channel.is_replay and (offsets or not branch.follows):
                first = min([*offsets, *([] if branch.follows else [branch.position])])
                if offsets or first < self.position:
                    self._dropped(channel.destination, first, max([*offsets, self.position - 1]), "", REMOVED)
            self._remove(branch)

    def _return(self, branch: Branch) -> None:
        """It was on its way out, and is wanted again. If it has come to its end, it goes on where its heir is; what that has had is not sent twice."""
        if branch.end is not None and branch.position >= branch.end:
            branch.position = max([branch.position, *(self._heard(other) for other in self._heirs(branch))])
        branch.end = None
        self.branch_changed(branch)

    def _heirs(self, branch: Branch) -> list[Branch]:
        """The destination's other channels, but for replays."""
        return [
            other for other in self.branches.values()
            if other is not branch and other.channel.destination == branch.channel.destination and not other.channel.is_replay and not other.is_new
        ]  # fmt: skip

    def _remove(self, branch: Branch) -> None:
        branch.close()
        for lane in branch.lanes.values():
            self._forget(lane)
        self._changed_branches.pop(branch, None)
        self._gathered.rows[key_of(progress.channel_row(branch))] = None
        self._written.pop(branch.channel.channel_id, None)
        if self.branches.get(branch.channel.channel_id) is branch:
            del self.branches[branch.channel.channel_id]
        self._interested.clear()

    def _forget(self, lane: Lane) -> None:
        self._changed_lanes.pop(lane, None)
        lane.branch.outlet.withdraw(lane)
        if lane.is_parked:
            for segment in {*lane.segments(), *lane.dirty}:
                self._gathered.rows[key_of(progress.no_lane_row(lane, segment))] = None

    # Jobs that are no replays.

    def act(self) -> None:
        """What operators want of members that wait: once."""
        for job in list(self._hub.jobs.values()):
            if job.action is not Action.REPLAY and not job.is_cancelled and job.job_id not in self.acts and self.is_open:
                self.acts[job.job_id] = {}
                self.spawn(self._act(job))

    async def _act(self, job: Job) -> None:
        lanes = [
            lane for branch in self.branches.values() if branch.channel.destination == job.destination and not branch.channel.is_replay
            for lane in list(branch.lanes.values()) if lane.is_parked and (not job.members or lane.key in job.members)
        ]  # fmt: skip
        if job.action is Action.SKIP:
            lanes = [lane for lane in lanes if lane.is_blocked]
            missing = [lane.first()[0] for lane in lanes if lane.head() is None]
            found = await self._hub.log.read_offsets(self.topic, self.number, sorted(missing)) if missing else {}
            for lane in lanes:
                first = lane.first()[0]
                if (record := found.get(first)) is not None:
                    lane.records[first] = record
                if lane.is_blocked:
                    lane.branch.skip(lane)
        else:
            for lane in lanes:
                if lane.is_blocked:
                    lane.failing_since_ms = self.now_ms()
                lane.branch.unblock(lane)
        self.acts[job.job_id] = {"matched": len(lanes)}
        row = progress.done_row(self.topic.stream, job.job_id, job.destination, {"matched": len(lanes)})
        self._gathered.rows[key_of(row)] = row

    def job(self, job_id: str) -> tuple[bool, dict[str, int]] | None:
        """Whether a job is done here, and what it did so far; None: nothing is known of it."""
        for branch in self.branches.values():
            if branch.channel.job_id == job_id:
                return branch.is_done, branch.counts
        return (True, self.acts[job_id]) if job_id in self.acts else None

    def finish_if_done(self, branch: Branch) -> bool:
        """Whether a channel with an end has come to it, and has nothing left to do."""
        if branch.end is None or branch.position < branch.end or branch.lanes or branch.is_reading:
            return False
        if branch.channel.is_replay:
            branch.is_done = True
            self.branch_changed(branch)
        else:
            self._remove(branch)
        return True

    def tick(self) -> None:
        """From time to time: whoever is behind and has room reads on."""
        self._reading.tick()

    def catch_up(self, branch: Branch) -> None:
        """Read on for a branch that is behind, if there is room and a point in it. Harmless to repeat."""
        self._reading.catch_up(branch)

    def load(self, lane: Lane) -> None:
        """Read a lane's next records again."""
        self._reading.load(lane)

    # What happens.

    def branch_changed(self, branch: Branch) -> None:
        self._changed_branches[branch] = None

    def lane_changed(self, lane: Lane) -> None:
        self._changed_lanes[lane] = None
        self._changed_branches[lane.branch] = None

    def attempted(self, attempted: Attempted) -> None:
        self._gathered.attempts.append(attempted)
        self._hub.count_attempt(attempted)

    def ended(
        self, branch: Branch, record: Outgoing, result: DeliveryResult, *, reason: str = "", status: int | None = None, attempts: int = 0
    ) -> None:
        destination = branch.channel.destination
        self._gathered.ends.append(Ended(
            destination=self._chain(destination), record=record, result=result, reason=reason, status=status, attempts=attempts, ended_at_ms=self.now_ms(),
        ))  # fmt: skip
        self._unwritten += result is not DeliveryResult.SUPERSEDED
        if self._unwritten >= UNWRITTEN_MAX // 2:
            self._write_now.set()
            if self._unwritten >= UNWRITTEN_MAX:
                self._hold()
        self._hub.count_end(destination, record, result, is_replay=branch.channel.is_replay)

    def given_up(self, branch: Branch, record: Outgoing, kind: NoticeKind, receipt: Receipt) -> None:
        """An event was given up. Notices about notices would never end."""
        log.error("delivery.given_up", extra={
            "destination": branch.channel.destination, "event_id": record.event_id, "kind": record.record.kind.value, "reason": receipt.reason,
            "detail": receipt.detail, "is_blocked": kind is NoticeKind.DELIVERY_BLOCKED,
        })  # fmt: skip
        if self.topic is topics.EVENTS:
            self.tell(evidence.notice(kind, branch.channel.destination, receipt.reason, receipt.detail, self.now_ms(), record))
        if receipt.reason in UNSENDABLE:
            try:
                value = self._hub.codec.encode(record.record)
            except ContractError:
                value = b""
            self._bury(evidence.letter_of_unsendable(self._name, self.number, record, value, receipt.reason, receipt.detail, self.now_ms()))

    def skipped(self, branch: Branch, lane: Lane, offset: int) -> None:
        record = lane.records.get(offset)
        if record is None:
            self._dropped(branch.channel.destination, offset, offset, lane.key, RETENTION)
        else:
            self.ended(branch, record, DeliveryResult.SKIPPED, reason="OPERATOR", attempts=lane.attempts)

    def dropped(self, branch: Branch, first: int, last: int, member: str, reason: str) -> None:
        self._dropped(branch.channel.destination, first, last, member, reason)

    def _dropped(self, destination: str, first: int, last: int, member: str, reason: str) -> None:
        now_ms = self.now_ms()
        self._gathered.ends.append(Dropped(
            destination=self._chain(destination), stream=self.topic.stream, partition=self.number, first=first, last=last, member=member, reason=reason,
            ended_at_ms=now_ms,
        ))  # fmt: skip
        detail = f"{self.topic.stream} partition {self.number}, offsets {first} to {last}"
        log.error("delivery.dropped", extra={"destination": destination, "reason": reason, "detail": detail})
        metrics.DELIVERIES_DROPPED.labels(destination, reason).inc()
        if self.topic is topics.EVENTS:
            self.tell(evidence.notice(NoticeKind.DELIVERIES_DROPPED, destination, reason, detail, now_ms))

    def _chain(self, destination: str) -> str:
        """The audit chain's name: what is written of events and of notices stands in the same topic, and has a writer each."""
        return destination if self.topic is topics.EVENTS else f"{destination}/notices"

    def gone(self, branch: Branch) -> None:
        self._hub.disable(branch.channel.destination, "GONE", "it answered 410: the receiver wants no more events")

    def tell(self, notice: DeliveryNotice) -> None:
        self._gathered.notices.append(notice)

    def _bury(self, letter: DeadLetter) -> None:
        self._gathered.letters.append(letter)
        metrics.DEAD_LETTERS.labels(letter.processor, letter.stage.value, letter.reason).inc()
        log.error("delivery.dead_letter", extra={
            "topic": letter.topic, "partition": letter.partition, "offset": letter.offset, "reason": letter.reason, "detail": letter.detail,
        })  # fmt: skip

    # Writing it down.

    async def _write_forever(self) -> None:
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        while True:
            try:
                # From one beginning to the next: a transaction that takes long makes nothing wait longer.
                await asyncio.wait_for(self._write_now.wait(), max(0.0, began_s + COMMIT_S - loop.time()))
            except TimeoutError:
                pass
            self._write_now.clear()
            is_last = self._is_stopping and (self._is_drained or not self._is_busy())
            began_s = loop.time()
            gathered = self._snapshot()
            try:
                if gathered and self._journal is not None:
                    prefix, codec = self._hub.settings.topic_prefix, self._hub.codec
                    writes, chains = await encoded(gathered, self._chains, prefix, codec, self.topic, self.number)
                    await self._commit(self._journal, writes, began_s)
                    self._chains |= chains
                    self._unwritten -= gathered.ended
                    self._release()
            except (Fenced, Doubtful) as error:
                if not self._is_stopping:
                    log.warning("delivery.journal_lost", extra={"topic": self._name, "partition": self.number, "error": str(error)})
                    self.spawn(self._reopen(FENCED_S if isinstance(error, Fenced) else 0.0))
                return
            except Exception:
                # What was to be written is gone from memory: only what is durable can be gone on from.
                log.exception("delivery.journal_failed", extra={"topic": self._name, "partition": self.number})
                if not self._is_stopping:
                    self.spawn(self._reopen(REOPEN_S))
                return
            if is_last:
                return

    async def _commit(self, journal: Journal, writes: Sequence[Write], began_s: float) -> None:
        """`began_s`: when what is written began to be taken together."""
        committing = asyncio.ensure_future(journal.commit(writes))
        try:
            done, _ = await asyncio.wait((committing,), timeout=max(0.0, began_s + HOLD_AFTER_S - asyncio.get_running_loop().time()))
            if not done:
                log.warning("delivery.held", extra={"topic": self._name, "partition": self.number})
                self._hold()
            await committing
            if not done:
                log.warning("delivery.goes_on", extra={"topic": self._name, "partition": self.number})
        finally:
            committing.cancel()

    def _hold(self) -> None:
        """Begin no further attempt until something is written: what would be delivered meanwhile could be repeated."""
        self._is_held = True
        for branch in self.branches.values():
            branch.is_stopping = True

    def _release(self) -> None:
        if not self._is_held or self._is_stopping or self._unwritten >= UNWRITTEN_MAX:
            return
        self._is_held = False
        for branch in self.branches.values():
            branch.is_stopping = False
        for branch in list(self.branches.values()):
            for lane in list(branch.lanes.values()):
                branch.outlet.offer(lane)
            self.catch_up(branch)

    def _snapshot(self) -> Gathered:
        """All that has happened since the last one; consistent, because nothing happens meanwhile."""
        gathered, self._gathered = self._gathered, Gathered()
        stream = self.topic.stream
        if self.position != self._feed_written:
            self._feed_written = self.position
            row = progress.feed_row(stream, self.position)
            gathered.rows[key_of(row)] = row
        for lane in self._changed_lanes:
            for segment in lane.dirty:
                gathered.rows[key_of(progress.no_lane_row(lane, segment))] = progress.lane_row(lane, segment)
            lane.dirty.clear()
        for branch in self._changed_branches:
            if branch.is_new or branch.is_closed:
                continue
            row = progress.channel_row(branch)
            if self._written.get(branch.channel.channel_id) != row:
                self._written[branch.channel.channel_id] = row
                gathered.rows[key_of(row)] = row
        self._changed_lanes = {}
        self._changed_branches = {branch: None for branch in self._changed_branches if branch.is_new and not branch.is_closed}
        return gathered

    async def _reopen(self, after_s: float) -> None:
        """What is durable counts, not what is in memory: begin again from there."""
        self.is_open = False
        for branch in self.branches.values():
            branch.close()
        self.branches.clear()
        self._interested.clear()
        self._changed_branches, self._changed_lanes, self._gathered = {}, {}, Gathered()
        self._unwritten, self._is_held = 0, False
        self._reading.forget()
        self.acts.clear()
        old, self._journal = self._journal, None
        if old is not None:
            await asyncio.to_thread(old.close)
        while not self._is_stopping:
            await asyncio.sleep(after_s)
            journal = Journal(self._hub.settings, self._hub.codec, self.topic, self.number)
            try:
                memory = Memory.of(await asyncio.to_thread(journal.open))
                bounds = await self._hub.log.bounds(self.topic, self.number)
                feed = self._checked(memory.position, bounds)
            except (Fenced, Doubtful, KafkaException, LoyaltyError) as error:
                log.warning("delivery.not_reopened", extra={"topic": self._name, "partition": self.number, "error": str(error)})
                await asyncio.to_thread(journal.close)
                after_s = FENCED_S if isinstance(error, Fenced) else REOPEN_S
                continue
            self._begin(journal, memory, feed, bounds[0])
            return

    def spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        """Work of its own, for as long as the partition is here."""
        task = asyncio.get_running_loop().create_task(self._guarded(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _guarded(self, work: Coroutine[Any, Any, Any]) -> None:
        """An error of ours costs the partition a new beginning, not the process."""
        try:
            await work
        except Exception:
            log.exception("delivery.partition_failed", extra={"topic": self._name, "partition": self.number})
            self.begin_again()

    def begin_again(self) -> None:
        """Something of ours broke: what is in memory may be wrong, what is durable is not."""
        if not self._is_stopping and self.is_open:
            self.is_open = False
            if self._writer is not None:
                self._writer.cancel()
            self.spawn(self._reopen(REOPEN_S))
