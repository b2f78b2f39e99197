"""One partition of the events, for one connected system: events -> what is in hand of each member, and all that must outlive the process -> one
transaction at a time.

Everything here belongs to the event loop but for `open`, which the feed's thread calls. A state is written to the system only after a transaction that
names it is committed: so whoever takes the partition over, and fences this process first, knows of every state that may have got there.
"""

import asyncio
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from confluent_kafka import TopicPartition

from schemas.contract import Command, member_key
from schemas.records import ConnectorProgress, DeadLetter, DeliveryAttempt, DeliveryResult
from sinks.connectors import progress
from sinks.connectors.members import Entry, event_of
from sinks.connectors.progress import Link, Memory
from sinks.delivery import evidence
from sinks.delivery.evidence import Ended
from sinks.delivery.journal import Doubtful, Fenced, Journal, Write
from sinks.delivery.records import Outgoing, Undecodable
from sinks.delivery.transaction import audit_writes, in_slices
from sinks.turns import Tasks
from streams import kafka, metrics, topics
from streams.errors import ContractError, LoyaltyError, UnavailableError
from streams.ingress.commands import TOPIC_OF

if TYPE_CHECKING:
    from sinks.connectors.process import Run

log = logging.getLogger(__name__)

COMMIT_S = 0.25
OPEN_AGAIN_S = 1.0
FENCED_S = 8.0
"""Longer than the group's session: whoever was fenced hears by then that the partition is another's, and does not fence that one in turn."""
BOUNDS_S = 15.0


@dataclass(slots=True)
class Gathered:
    """What one transaction writes."""

    rows: dict[bytes, ConnectorProgress | None] = field(default_factory=dict)
    ends: list[Ended] = field(default_factory=list)
    attempts: list[DeliveryAttempt] = field(default_factory=list)
    letters: list[DeadLetter] = field(default_factory=list)
    commands: list[Command] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.rows) + len(self.ends) + len(self.attempts) + len(self.letters) + len(self.commands)


class Partition:
    """What a process does with one partition for as long as it has it."""

    def __init__(self, run: "Run", number: int) -> None:
        self.number = number
        self.position = 0
        """Everything below is in hand, or has ended."""
        self.hand: dict[str, Entry] = {}
        self.failing: dict[str, Entry] = {}
        """Of them those that fail on their own, parked ones included."""
        self.writing: set[str] = set()
        """Of them those that are being written."""
        self.acts: set[str] = set()
        """Jobs of operators that are done here."""
        self.is_open = False
        self.is_stopping = False
        self._run = run
        self._name = topics.EVENTS.name(run.settings.topic_prefix)
        self._journal: Journal | None = None
        self._chains: dict[str, Link] = {}
        self._changed: dict[str, None] = {}
        self._rows: set[str] = set()
        """Members that have a row in the progress topic."""
        self._position_written = -1
        self._gathered = Gathered()
        self._write_now = asyncio.Event()
        self._waiters: list[asyncio.Future[None]] = []
        self._writer: asyncio.Task[None] | None = None
        self._tasks = Tasks()

    # The feed's side.

    def open(self) -> int:
        """In the feed's thread: take the partition over from whoever had it, and say where the feed begins. Raises Fenced, KafkaException."""
        journal = self._new_journal()
        try:
            memory, position = self._recall(journal)
        except BaseException:
            journal.close()
            raise
        self._run.loop.call_soon_threadsafe(self._begin, journal, memory, position)
        return position

    def received(self, records: Sequence[Outgoing], poison: Sequence[Undecodable], next_offset: int) -> None:
        """What the feed brings, in order; `next_offset` is where it goes on."""
        if self.is_stopping:
            return
        now_ms = self._now_ms()
        for one in poison:
            self.bury(evidence.letter_of_undecodable(self._name, self.number, one, now_ms, processor=self._run.processor))
        for record in records:
            if self._run.wants(event_of(record)):
                self._take(record)
            self.position = record.offset + 1
        self.position = max(self.position, next_offset)

    def _take(self, record: Outgoing) -> None:
        member = record.lane
        entry = self.hand.get(member)
        if entry is None:
            entry = self.hand[member] = Entry(member=member, newest=record)
            entry.note_kind(event_of(record).kind)
        else:
            superseded = entry.take(record)
            if superseded is not None:
                self.ended(superseded, DeliveryResult.SUPERSEDED)
        self.changed(entry)
        self._run.outlet.offer(self, entry)

    async def stop(self, drain_s: float) -> None:
        """Begin nothing further, wait for writes under way, write what has happened, give the partition up."""
        self.is_stopping = True
        deadline_s = time.monotonic() + drain_s
        while self.writing and time.monotonic() < deadline_s:
            await asyncio.sleep(0.01)
        if self.is_open:
            await asyncio.wait((asyncio.ensure_future(self._last_commit()),), timeout=drain_s)
        await self.abandon()

    async def _last_commit(self) -> None:
        try:
            await self.commit()
        except LoyaltyError:
            pass  # Whoever has the partition next goes on from what is durable.

    async def abandon(self) -> None:
        """It is another's already: forget all."""
        self.is_stopping = True
        self._forget()
        if self._writer is not None:
            self._writer.cancel()
            await asyncio.gather(self._writer, return_exceptions=True)
        await self._tasks.cancel()
        if self._journal is not None:
            await asyncio.to_thread(self._journal.close)

    # How it begins.

    def _new_journal(self) -> Journal:
        return Journal(
            self._run.settings, self._run.codec, topics.EVENTS, self.number, progress=topics.CONNECTOR_PROGRESS, owner=self._run.target.name
        )

    def _recall(self, journal: Journal) -> tuple[Memory, int]:
        """In a thread: fence whoever had the partition, then read what is durable, and where the feed goes on."""
        memory = Memory.of(journal.open())
        consumer = kafka.consumer(self._run.settings, "connector-bounds")
        try:
            first, end = consumer.get_watermark_offsets(TopicPartition(self._name, self.number), timeout=BOUNDS_S)
        finally:
            consumer.close()
        if memory.position is not None and memory.position > end:
            raise UnavailableError(
                f"{self._name} partition {self.number} ends at {end}, but {self._run.target.name} has come to {memory.position}: the topic was created"
                f" anew. Delete the records of {topics.CONNECTOR_PROGRESS.name(self._run.settings.topic_prefix)}, too, to begin anew."
            )
        return memory, first if memory.position is None else max(memory.position, first)

    def _begin(self, journal: Journal, memory: Memory, position: int) -> None:
        """Go on from what is remembered."""
        if self.is_stopping:
            self._tasks.begin(asyncio.to_thread(journal.close))
            return
        self._journal, self._chains = journal, memory.chains
        self.position = max(self.position, position)
        self._position_written = -1 if memory.position is None else memory.position
        self._rows = set(memory.members)
        now_ms, now_s = self._now_ms(), time.monotonic()
        for member, row in memory.members.items():
            try:
                entry = self.hand[member] = progress.entry_of(row, self._run.codec, now_ms, now_s)
                if entry.is_parked or entry.attempts:
                    self.failing[member] = entry
            except ContractError as error:
                log.error("connector.row_unreadable", extra={"destination": self._run.target.name, "partition": self.number, "reason": error.reason})
        self.is_open = True
        self._writer = self._run.loop.create_task(self._write_forever())
        for entry in list(self.hand.values()):
            self._run.outlet.offer(self, entry)
        self._run.act(self)

    def _forget(self) -> None:
        self.is_open = False
        for entry in self.hand.values():
            entry.is_gone = True
        for members in (self.hand, self.failing, self.writing, self._changed):
            members.clear()
        self._gathered = Gathered()
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_exception(Doubtful(f"partition {self.number} was given up"))
        self._waiters.clear()

    # What happens.

    def changed(self, entry: Entry) -> None:
        self._changed[entry.member] = None
        if entry.is_parked or entry.attempts:
            self.failing[entry.member] = entry
        else:
            self.failing.pop(entry.member, None)

    def finished(self, entry: Entry) -> None:
        """Nothing of the member is in hand any more."""
        entry.is_gone = True
        self.hand.pop(entry.member, None)
        self.failing.pop(entry.member, None)
        self._changed[entry.member] = None

    def ended(self, record: Outgoing, result: DeliveryResult, *, reason: str = "", status: int | None = None, attempts: int = 0) -> None:
        self._gathered.ends.append(Ended(
            destination=self._run.target.name, record=record, result=result, reason=reason, status=status, attempts=attempts, ended_at_ms=self._now_ms(),
        ))  # fmt: skip
        self._run.count_end(record, result)

    def attempted(self, attempt: DeliveryAttempt) -> None:
        self._gathered.attempts.append(attempt)

    def follow(self, commands: Sequence[Command]) -> None:
        """What an answer tells of members of this partition: it gets into the log with what became of the write."""
        self._gathered.commands += commands

    def give_up(self, record: Outgoing, reason: str, detail: str) -> None:
        """A dead letter about a state that a person must look at."""
        try:
            value = self._run.codec.encode(event_of(record))
        except ContractError:
            value = b""
        letter = evidence.letter_of_unsendable(self._name, self.number, record, value, reason, detail, self._now_ms(), processor=self._run.processor)
        self.bury(letter)

    def bury(self, letter: DeadLetter) -> None:
        self._gathered.letters.append(letter)
        metrics.DEAD_LETTERS.labels(letter.processor, letter.stage.value, letter.reason).inc()
        log.error("delivery.dead_letter", extra={
            "topic": letter.topic, "partition": letter.partition, "offset": letter.offset, "reason": letter.reason, "detail": letter.detail,
        })  # fmt: skip

    def redrive(self, members: frozenset[str], before_ms: int) -> int:
        """Try these members again, or all, if they were parked by then; how many. A job is read again after a restart, and must do nothing then."""
        found = [
            entry for entry in self.failing.values()
            if entry.is_parked and (not members or entry.member in members) and (entry.failing_since_ms or 0) <= before_ms
        ]  # fmt: skip
        for entry in found:
            entry.unpark()
            self.changed(entry)
            self._run.outlet.offer(self, entry)
        return len(found)

    # Writing it down.

    async def commit(self) -> None:
        """Return when all that has happened so far is committed. Raises Fenced, Doubtful."""
        if not self.is_open:
            raise Doubtful(f"partition {self.number} is not open")
        waiter: asyncio.Future[None] = self._run.loop.create_future()
        self._waiters.append(waiter)
        self._write_now.set()
        await waiter

    async def _write_forever(self) -> None:
        loop = self._run.loop
        began_s = loop.time()
        while True:
            try:
                await asyncio.wait_for(self._write_now.wait(), max(0.0, began_s + COMMIT_S - loop.time()))
            except TimeoutError:
                pass
            self._write_now.clear()
            began_s = loop.time()
            waiters, self._waiters = self._waiters, []
            try:
                await self._write()
            except (Fenced, Doubtful) as error:
                _fail(waiters, error)
                log.warning("connector.journal_lost", extra={"destination": self._run.target.name, "partition": self.number, "error": str(error)})
                self._begin_again(FENCED_S if isinstance(error, Fenced) else 0.0)
                return
            except asyncio.CancelledError:
                _fail(waiters, Doubtful(f"partition {self.number} was given up"))
                raise
            except Exception as error:
                # What was to be written is gone from memory: only what is durable can be gone on from.
                _fail(waiters, Doubtful(str(error)))
                log.exception("connector.journal_failed", extra={"destination": self._run.target.name, "partition": self.number})
                self._begin_again(OPEN_AGAIN_S)
                return
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)

    async def _write(self) -> None:
        gathered = self._snapshot()
        if not gathered or self._journal is None:
            return
        chains: dict[str, Link] = {}
        writes = await in_slices(self._writes(gathered, chains), len(gathered))
        await self._journal.commit(writes)
        self._chains |= chains

    def _snapshot(self) -> Gathered:
        """All that has happened since the last one; consistent, because nothing happens meanwhile."""
        gathered, self._gathered = self._gathered, Gathered()
        changed, self._changed = self._changed, {}
        target = self._run.target.name
        gathered.rows = progress.changed_rows(target, changed, self.hand, self._rows, self._run.codec, self._now_ms(), time.monotonic())
        if self.position != self._position_written:
            self._position_written = self.position
            row = progress.position_row(target, self.position)
            gathered.rows[progress.key_of(row)] = row
        return gathered

    def _writes(self, gathered: Gathered, chains: dict[str, Link]) -> Iterator[Write]:
        prefix, encode = self._run.settings.topic_prefix, self._run.codec.encode
        yield from audit_writes(gathered.ends, self._chains, chains, prefix, self._run.codec, self.number)
        for link in chains.values():
            row = progress.chain_row(self._run.target.name, link)
            gathered.rows[progress.key_of(row)] = row
        attempts, letters, rows = (topic.name(prefix) for topic in (topics.DELIVERY_ATTEMPTS, topics.DEAD_LETTERS, topics.CONNECTOR_PROGRESS))
        for attempt in gathered.attempts:
            yield Write(attempts, self.number, member_key(attempt.program_id, attempt.member_id), encode(attempt), [])
        for letter in gathered.letters:
            yield Write(letters, self.number, letter.key or b"", encode(letter), [])
        for command in gathered.commands:
            name = TOPIC_OF[type(command)].name(prefix)
            yield Write(name, self.number, member_key(command.program_id, command.member_id), encode(command), [])
        for key, one in gathered.rows.items():
            yield Write(rows, self.number, key, None if one is None else encode(one), [])

    def _begin_again(self, after_s: float) -> None:
        """What is durable counts, not what is in memory: the partition is opened anew."""
        self._forget()
        self._writer = None
        if not self.is_stopping:
            self._run.open_again(self, after_s)

    @staticmethod
    def _now_ms() -> int:
        return time.time_ns() // 1_000_000


def _fail(waiters: Sequence[asyncio.Future[None]], error: Exception) -> None:
    for waiter in waiters:
        if not waiter.done():
            waiter.set_exception(error)
