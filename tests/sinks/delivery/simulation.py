"""A process of the webhooks sink in virtual time, with a log, a journal and destinations in memory: random happenings by a seed, and what must hold after.

`python -m tests.sinks.delivery.simulation --seeds 1000 --minutes 5` goes on where the tests stop. Hub, partition, outlets and all below them are as
they are; what they talk to is not: commits that fail before or after they are durable, processes that are killed, retention, receivers of all kinds.
"""

import argparse
import asyncio
import logging
import random
import time
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from schemas.records import DeliveryAudit, DeliveryProgress, DeliveryResult, LoyaltyEventKind, ProgressKind
from sinks.base import Receipt, Verdict
from sinks.delivery import channels, hub, partition
from sinks.delivery.attempt import GONE, Result
from sinks.delivery.hub import Hub
from sinks.delivery.journal import Doubtful, Fenced, Write
from sinks.delivery.log_reader import Chunk
from sinks.delivery.outlet import Outlet
from sinks.delivery.partition import Partition
from sinks.delivery.progress import Memory
from sinks.delivery.records import Outgoing
from streams import topics
from streams.destinations.model import Action, Breaker, Destination, Job, OnDeadLetter, State
from streams.settings import Settings
from streams.topics import Topic
from tests.sinks.delivery.support import Desk, destination
from tests.sinks.delivery.virtual import EPOCH_MS, now_ms, now_s, run
from tests.sinks.examples import event

STREAM = topics.EVENTS.stream
PLACE = (STREAM, 0)
NAMES = ("crm", "shop", "push")
MEMBERS = tuple(f"m-{number}" for number in range(6))
KINDS = (LoyaltyEventKind.BALANCE_CHANGED, LoyaltyEventKind.TIER_CHANGED, LoyaltyEventKind.PROFILE_CHANGED)
DRAIN_S = 1800.0
HAPPENINGS = {
    "append": 45, "health": 15, "commit": 8, "state": 8, "create": 3, "change": 4, "remove": 1.5, "job": 7, "cancel": 2, "retention": 1.5, "kill": 3, "stop": 2,
}  # fmt: skip
"""What happens, and how often."""


class Violation(AssertionError):
    """Something that must hold does not."""


@dataclass(frozen=True, slots=True)
class Acceptance:
    """A receiver has taken an event."""

    destination: str
    generation: int
    channel_id: str
    job_id: str
    record: Outgoing
    is_known: bool
    """The sink had the answer."""


class World:
    """What outlives a process."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.random = random.Random(seed)
        self.desk = Desk()
        self.log: list[Outgoing | None] = []
        self.first = 0
        self.progress: dict[bytes, DeliveryProgress] = {}
        self.audit: list[DeliveryAudit] = []
        self.delivered: set[tuple[str, str]] = set()
        """Destination and event: a delivery is on record. Of destinations that were not made anew: the record does not say which one it was."""
        self.acceptances: list[Acceptance] = []
        self.health: dict[str, str] = dict.fromkeys(NAMES, "up")
        self.generations: Counter[str] = Counter()
        self.configured: dict[tuple[str, int], list[tuple[int, Destination]]] = defaultdict(list)
        """Destination and generation -> what it wanted, from which end of the log on."""
        self.given_up: set[tuple[str, str]] = set()
        """Destination and event: the sink has given it up, or passed over it, whether that became durable or not."""
        self.epoch = 0
        self.commit_outcomes: list[str] = []
        self.violations: list[str] = []
        """What was seen on the way."""
        self.is_calm = False
        self.steps = 0
        self.commits = 0
        self._sequences: Counter[str] = Counter()
        self._attempts: Counter[tuple[str, int, str]] = Counter()

    # The log.

    def append(self, member: str, kind: LoyaltyEventKind) -> None:
        if self.random.random() < 0.15:
            self.log.append(None)  # A transaction's mark.
        self._sequences[member] += 1
        made = event(self._sequences[member], member, kind=kind)
        self.log.append(Outgoing(offset=len(self.log), key=f"grand/{member}".encode(), record=made, timestamp_ms=now_ms()))

    def records(self, start: int, end: int) -> list[Outgoing]:
        return [record for record in self.log[max(start, self.first) : end] if record is not None]

    # Destinations.

    def is_wanted(self, name: str, generation: int, record: Outgoing, channel_id: str | None = None) -> bool:
        """Whether the destination has wanted the event ever since it was appended; with `channel_id`, always in this channel."""
        configured = self.configured[name, generation]
        since = max((index for index, (end, _) in enumerate(configured) if end <= record.offset), default=0)
        return all(
            any(channel.wants(record) for channel in channels.of_destination(one) if channel_id in (None, channel.channel_id))
            for _, one in configured[since:]
        )  # fmt: skip

    def is_replayed(self, name: str, record: Outgoing) -> bool:
        return any(
            job.destination == name and job.action is Action.REPLAY and job.since_ms <= record.timestamp_ms < job.until_ms for job in self.desk.jobs.values()
        )

    def put(self, one: Destination) -> None:
        if one.name not in self.desk.destinations:
            self.generations[one.name] += 1
            self.desk.states.pop(one.name, None)
        self.configured[one.name, self.generations[one.name]].append((len(self.log), one))
        self.desk.put(one)

    def answer(self, name: str, record: Outgoing, attempt: int) -> str:
        """What a receiver makes of an attempt: by the seed, the destination, the event and how often it was asked."""
        if record.record.kind is LoyaltyEventKind.UNKNOWN:
            return "unknown"
        if not self.is_calm and self.health[name] != "up":
            return self.health[name]
        dice = random.Random(f"{self.seed}/{name}/{record.event_id}")
        fate, failures = dice.random(), dice.choice((1, 1, 2, 6))
        if fate < 0.03:
            return "refused"
        if fate < 0.2 and attempt <= failures:
            return dice.choice(("failure", "hang", "lost", "raise", "later"))
        return "gone" if fate > 0.997 and attempt == 1 else "ok"

    def next_attempt(self, name: str, record: Outgoing) -> int:
        key = (name, self.generations[name], record.event_id)
        self._attempts[key] += 1
        return self._attempts[key]

    # What is durable.

    def apply(self, writes: Sequence[Write]) -> None:
        self.commits += 1
        for write in writes:
            value: Any = write.value
            if f".{topics.DELIVERY_PROGRESS.stream}." in write.topic_name:
                if value is None:
                    self.progress.pop(write.key, None)
                else:
                    self.progress[write.key] = value
            elif f".{topics.DELIVERY_AUDIT.stream}." in write.topic_name:
                self.audit.append(value)
                if value.result is DeliveryResult.DELIVERED and self.generations[value.destination] == 1:
                    self.delivered.add((value.destination, value.event_id))


class SameCodec:
    """Records stand for their own bytes."""

    def encode(self, record: Any) -> Any:
        return record


class MemoryJournal:
    """As the journal promises: one commit at a time, all or nothing, and whoever opens it fences the one before."""

    def __init__(self, world: World, *_: Any) -> None:
        self._world = world
        self._epoch = -1

    def open(self) -> list[DeliveryProgress]:
        self._world.epoch += 1
        self._epoch = self._world.epoch
        return list(self._world.progress.values())

    async def commit(self, writes: Sequence[Write]) -> None:
        world = self._world
        outcome = world.commit_outcomes.pop() if world.commit_outcomes and not world.is_calm else "ok"
        try:
            await asyncio.sleep(5.0 if outcome == "slow" else world.random.choice((0.003, 0.01, 0.05)))
        except asyncio.CancelledError:
            if self._epoch == world.epoch and world.random.random() < 0.5:
                world.apply(writes)  # The thread goes on.
            raise
        if self._epoch != world.epoch:
            raise Fenced("another has opened it")
        if outcome in ("ok", "slow", "doubtful-kept", "error-kept"):
            world.apply(writes)
        if outcome.startswith("doubtful"):
            raise Doubtful("no answer")
        if outcome == "fenced":
            raise Fenced("a transaction took too long")
        if outcome.startswith("error"):
            raise RuntimeError("an error of ours")

    def close(self) -> None: ...


class MemoryLog:
    """The log's past."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def _pause(self) -> None:
        await asyncio.sleep(self._world.random.choice((0.0, 0.001, 0.02)))

    async def bounds(self, topic: Topic, number: int) -> tuple[int, int]:
        await self._pause()
        return self._world.first, len(self._world.log)

    async def offset_at(self, topic: Topic, number: int, timestamp_ms: int) -> int:
        await self._pause()
        return next((record.offset for record in self._world.records(0, len(self._world.log)) if record.timestamp_ms >= timestamp_ms), len(self._world.log))

    async def read(self, topic: Topic, number: int, start: int, end: int, limit: int, keys: frozenset[bytes] | None = None) -> Chunk:
        await self._pause()
        limit = min(limit, self._world.random.choice((1, 7, 500)))
        found = [record for record in self._world.records(start, end) if keys is None or record.key in keys]
        next_offset = found[limit].offset if len(found) > limit else end
        return Chunk(found[:limit], next_offset, min(self._world.first, end))

    async def read_offsets(self, topic: Topic, number: int, offsets: Sequence[int]) -> dict[int, Outgoing | None]:
        await self._pause()
        return {offset: self._world.log[offset] if offset >= self._world.first else None for offset in offsets}


class MemoryExchange:
    """One destination's receiver."""

    def __init__(self, world: World, one: Destination, *_: Any) -> None:
        self._world = world
        self._name = one.name
        self._generation = world.generations[one.name]

    async def send(self, records: list[Outgoing], *, is_batch: bool, job: str, timeout_s: float) -> Result:
        world, began_s = self._world, now_s()
        channel_id = f"{self._name}#{job}" if job else f"{self._name}#{channels.BATCH}" if is_batch else self._name
        for record in records:
            if not job and (self._name, record.event_id) in world.delivered and self._generation == 1 and not world.is_replayed(self._name, record):
                world.violations.append(f"{self._name}: {record.event_id} is sent again although its delivery is on record")
        answers = [world.answer(self._name, record, world.next_attempt(self._name, record)) for record in records]
        answer = answers[0]
        if answer == "unknown":
            return self._result(records[:1], began_s, Verdict.REFUSED, "KIND_UNKNOWN", was_answered=False)
        unknown = answers.index("unknown") if "unknown" in answers else len(records)
        records = records[:unknown]
        answer = next((one for one in answers[:unknown] if one != "ok"), "ok")
        await asyncio.sleep(world.random.choice((0.001, 0.01, 0.1)))
        if answer in ("ok", "lost"):
            taken = [Acceptance(self._name, self._generation, channel_id, job, record, False) for record in records]
            world.acceptances += taken
        if answer in ("hang", "lost", "hole"):
            await asyncio.sleep(timeout_s)
            return self._result(records, began_s, Verdict.RETRY, "TIMEOUT", was_answered=False)
        await asyncio.sleep(world.random.choice((0.0, 0.01)))
        match answer:
            case "ok":
                return self._result(records, began_s, Verdict.DELIVERED, "200")
            case "refused":
                return self._result(records, began_s, Verdict.REFUSED, "422")
            case "raise":
                raise RuntimeError("scripted")
            case "gone":
                return self._result(records, began_s, Verdict.RETRY, GONE)
            case "later":
                return self._result(records, began_s, Verdict.RETRY, "429", retry_after_s=7.0)
        return self._result(records, began_s, Verdict.RETRY, "503")

    def _result(
        self, records: list[Outgoing], began_s: float, verdict: Verdict, reason: str, *, was_answered: bool = True, retry_after_s: float | None = None
    ) -> Result:
        return Result(
            receipt=Receipt(verdict=verdict, reason="" if verdict is Verdict.DELIVERED else reason, detail=reason, retry_after_s=retry_after_s),
            outcome=reason, webhook_id=records[0].event_id, started_at_ms=now_ms(), seconds=now_s() - began_s, count=len(records), was_answered=was_answered,
        )  # fmt: skip


@contextmanager
def replaced(world: World) -> Iterator[None]:
    """Clocks, journals, receivers: all that leads out of the process."""
    clock = SimpleNamespace(monotonic=now_s, time=lambda: now_ms() / 1000, time_ns=lambda: now_ms() * 1_000_000)
    with ExitStack() as stack:
        for module in (hub, partition):
            stack.enter_context(patch.object(module, "time", clock))
        stack.enter_context(patch.object(partition, "Journal", partial(MemoryJournal, world)))
        stack.enter_context(patch.object(hub, "Exchange", partial(MemoryExchange, world)))
        stack.enter_context(patch.object(hub, "Outlet", partial(Outlet, monotonic_s=now_s, wall_ms=now_ms, random=world.random.random)))
        yield


class ObservedHub(Hub):
    def __init__(self, world: World) -> None:
        super().__init__(Settings(kafka_partitions=1), SameCodec(), world.desk, MemoryLog(world), None)  # type: ignore[arg-type]
        self._world = world

    def count_end(self, destination: str, record: Outgoing, result: DeliveryResult, *, is_replay: bool) -> None:
        if result is not DeliveryResult.DELIVERED:
            self._world.given_up.add((destination, record.event_id))


class Process:
    """The sink, from its start until it is stopped or killed."""

    def __init__(self, world: World, polls_s: Sequence[float] = (0.002, 0.02)) -> None:
        """`polls_s`: how long the feed may take from one look at the log to the next."""
        self._world = world
        self._polls_s = polls_s
        world.desk._listeners.clear()
        self.hub = ObservedHub(world)
        self.hub.start()
        self.partition = Partition(self.hub, topics.EVENTS, 0)
        self._feed: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """As `Partition.open` does it in the feed's thread."""
        self.hub.partitions[PLACE] = self.partition
        journal = MemoryJournal(self._world)
        memory = Memory.of(journal.open())
        bounds = await self.hub.log.bounds(topics.EVENTS, 0)
        position = self.partition._checked(memory.position, bounds)
        self.partition._begin(journal, memory, position, bounds[0])  # type: ignore[arg-type]
        self._feed = asyncio.get_running_loop().create_task(self._deliver(position))

    async def _deliver(self, position: int) -> None:
        while True:
            end = min(len(self._world.log), position + self._world.random.choice((1, 5, 100)))
            position = max(position, self._world.first)
            if position < end:
                self.hub.received(*PLACE, self._world.records(position, end), [], end)
                position = end
            await asyncio.sleep(self._world.random.choice(self._polls_s))

    async def kill(self) -> None:
        """Nothing that it still does counts."""
        self._world.epoch += 1
        await self._end()

    async def stop(self) -> None:
        await self.hub._give_up([PLACE], hub.DRAIN_S)
        await self._end()

    async def _end(self) -> None:
        if self._feed is not None:
            self._feed.cancel()
        await self.hub.stop()
        self._world.desk._listeners.clear()

    @property
    def is_idle(self) -> bool:
        one, end = self.partition, len(self._world.log)
        return one.is_open and one.position == end and all(
            branch.is_done or (not branch.lanes and not branch.is_new and not branch.unfinished and (branch.follows or branch.position >= end))
            for branch in one.branches.values()
        )  # fmt: skip


class Simulation:
    """One seed, from the beginning to the end."""

    def __init__(self, seed: int, steps: int, without: Collection[str]) -> None:
        self.world = World(seed)
        self._without = without
        self._random = random.Random(f"steps/{seed}")
        self._steps = steps
        self._jobs = 0
        self._process: Process

    async def run(self) -> None:
        world = self.world
        for name in NAMES[:2]:
            world.put(self._configured(name))
        self._process = Process(world)
        await self._process.start()
        for _ in range(self._steps):
            world.steps += 1
            await self._step()
            await asyncio.sleep(self._random.choice((0.0, 0.0, 0.01, 0.1, 0.3, 2.0)))
        await self._drain()
        check(world, self._process)
        await self._process.stop()

    def _configured(self, name: str) -> Destination:
        choice = self._random.choice
        return destination(
            "http://127.0.0.1:9/hooks", name, timeout_s=1.0, concurrency_max=choice((1, 4, 32)), cadence_s=choice((None, None, 1.0)),
            coalesce=choice((False, True)),
            batch_events_max=choice((1, 3, 100)), on_dead_letter=choice(tuple(OnDeadLetter)), breaker=choice(tuple(Breaker)),
            give_up_after_s=choice((3.0, 3600.0)),
            events=choice((frozenset(), frozenset({"BALANCE_CHANGED", "PROFILE_CHANGED"}))), retry_delays_s=choice(((), (0.1, 0.5))), disable_after_s=None,
        )  # fmt: skip

    async def _step(self) -> None:
        world, dice = self.world, self._random
        name = dice.choice(NAMES)
        known = world.desk.destinations.get(name)
        what = dice.choices(list(HAPPENINGS), list(HAPPENINGS.values()))[0]
        if what in self._without:
            return
        match what:
            case "append":
                for _ in range(dice.choice((1, 5, 30, 300) if dice.random() < 0.1 else (1, 3, 10))):
                    kind = LoyaltyEventKind.UNKNOWN if dice.random() < 0.005 else dice.choice(KINDS)
                    world.append(dice.choice(MEMBERS) if dice.random() < 0.7 else MEMBERS[0], kind)
            case "health":
                world.health[name] = dice.choice(("up", "up", "failure", "hole"))
            case "commit":
                world.commit_outcomes.append(dice.choice(("ok", "slow", "doubtful-kept", "doubtful-lost", "fenced", "error-kept", "error-lost")))
            case "state" if known is not None:
                world.desk.set_state(name, dice.choice((State.ACTIVE, State.ACTIVE, State.PAUSED, State.DISABLED)))
            case "create" if known is None:
                world.put(self._configured(name))
            case "change" if known is not None:
                world.put(self._configured(name))
            case "remove" if known is not None:
                world.desk.remove(name)
            case "job" if known is not None:
                self._add_job(name)
            case "cancel":
                for job in list(world.desk.jobs.values())[-3:]:
                    world.desk.cancel(job.job_id)
            case "retention":
                world.first = max(world.first, len(world.log) - dice.choice((20, 100, 400)))
            case "kill" | "stop":
                await self._restart(is_killed=what == "kill")

    def _add_job(self, name: str) -> None:
        dice, world = self._random, self.world
        self._jobs += 1
        action = dice.choice((Action.REPLAY, Action.REPLAY, Action.RETRY, Action.SKIP))
        since_ms = EPOCH_MS + int(dice.random() * (now_ms() - EPOCH_MS))
        job = Job(
            job_id=f"j-{self._jobs}", destination=name, action=action, since_ms=since_ms, until_ms=dice.choice((now_ms() + 1, now_ms() + 5_000, since_ms)),
            is_dry_run=dice.random() < 0.2, rate_max_per_s=dice.choice((None, 50.0)), members=dice.choice((frozenset(), frozenset({f"grand/{MEMBERS[0]}"}))),
        )  # fmt: skip
        world.desk.add(job)

    async def _restart(self, *, is_killed: bool) -> None:
        await (self._process.kill() if is_killed else self._process.stop())
        if self._random.random() < 0.3:
            await asyncio.sleep(3.0)
        self._process = Process(self.world)
        await self._process.start()

    async def _drain(self) -> None:
        """Everybody is well again, and operators let go of what is blocked."""
        world, deadline_s = self.world, now_s() + DRAIN_S
        world.is_calm = True
        calm_s = 0.0
        while calm_s < 8.0:  # Longer than the slowest commit.
            for name in world.desk.destinations:
                if name in world.desk.states and world.desk.states[name].state is not State.ACTIVE:
                    world.desk.set_state(name, State.ACTIVE)
            blocked = {branch.channel.destination for branch in self._process.partition.branches.values() for lane in branch.lanes.values() if lane.is_blocked}
            for name in sorted(blocked):
                self._jobs += 1
                world.desk.add(Job(job_id=f"j-{self._jobs}", destination=name, action=Action.SKIP))
            await asyncio.sleep(1.0)
            calm_s = calm_s + 1.0 if self._process.is_idle else 0.0
            if now_s() > deadline_s:
                raise Violation(f"not drained: {stuck(self._process)}")


def stuck(process: Process) -> str:
    return "; ".join(
        f"{name} position {branch.position} of {process.partition.position}, follows {branch.follows}, waiting {branch.waiting}, parked {branch.parked},"
        f" lanes {[(lane.key, len(lane), lane.is_queued, lane.busy, lane.ticket, lane.is_loading, lane.due_ms) for lane in branch.lanes.values()]},"
        f" reading {branch.is_reading}, new {branch.is_new}, stopping {branch.is_stopping}, unfinished {len(branch.unfinished)}, end {branch.end},"
        f" outlet {branch.outlet.in_flight} of {branch.outlet.limit.limit}, paused {branch.outlet.is_paused}, down {branch.outlet.is_down}"
        for name, branch in process.partition.branches.items()
        if not branch.is_done
    ) or f"open {process.partition.is_open}"  # fmt: skip


# What must hold.


def check(world: World, process: Process) -> None:
    """Raises Violation."""
    if world.violations:
        raise Violation(world.violations[0])
    check_order(world)
    check_loss(world)
    check_audit(world)
    check_leftovers(world, process)


def check_order(world: World) -> None:
    """Of each channel and member, first acceptances come in the order of the log."""
    last: dict[tuple[str, int, str, str], int] = {}
    seen: set[tuple[str, int, str, str]] = set()
    for one in world.acceptances:
        key = (one.destination, one.generation, one.channel_id, one.record.event_id)
        if key in seen or (one.destination, one.record.event_id) in world.given_up:
            continue
        seen.add(key)
        if not world.is_wanted(one.destination, one.generation, one.record, None if one.job_id else one.channel_id):
            continue  # It has changed its channel, and each has an order of its own; or it was not wanted at first.
        if one.record.offset < world.first:
            continue  # An attempt may have been under way when its event was dropped.
        lane = (one.destination, one.generation, one.channel_id, one.record.lane)
        if last.get(lane, -1) > one.record.offset:
            raise Violation(f"{lane}: {one.record.offset} was accepted after {last[lane]}")
        last[lane] = one.record.offset


def check_loss(world: World) -> None:
    """What a destination that is still there wanted all the time was accepted, or it is on record why not."""
    accepted = {(one.destination, one.generation, one.record.event_id) for one in world.acceptances if not one.job_id}
    ended = {(one.destination, one.event_id) for one in world.audit if one.kind != "RANGE"}
    dropped: dict[str, set[int]] = defaultdict(set)
    for one in world.audit:
        if one.result is DeliveryResult.DROPPED:
            first, last = (int(part) for part in one.event_id.rsplit("-", 2)[1:])
            dropped[one.destination].update(range(first, last + 1))
    for name in world.desk.destinations:
        generation = world.generations[name]
        for record in (one for one in world.log if one is not None):
            if (name, generation, record.event_id) in accepted or (name, record.event_id) in ended or record.offset in dropped[name]:
                continue
            # One that was removed and made anew while nobody looked goes on where it was: what is older than it may be passed over.
            is_older = generation > 1 and record.offset < world.configured[name, generation][0][0]
            if world.is_wanted(name, generation, record) and record.offset >= world.first and not is_older:
                raise Violation(f"{name}: {record.event_id} at {record.offset} ({record.record.kind.value}) is lost")


def check_audit(world: World) -> None:
    """Chains without gaps; one end of each event, replays apart."""
    chain: dict[str, tuple[int, str]] = {}
    records = {record.event_id: record for record in world.log if record is not None}
    ends: Counter[tuple[str, str]] = Counter()
    for one in world.audit:
        number, record_hash = chain.get(one.destination, (0, ""))
        if (one.chain_number, one.previous_hash) != (number + 1, record_hash):
            raise Violation(f"{one.destination}: chain number {one.chain_number} follows {number}")
        if one.result is DeliveryResult.SUPERSEDED and not any(is_newer(record, records[one.event_id]) for record in records.values()):
            raise Violation(f"{one.destination}: {one.event_id} is superseded by nothing")
        chain[one.destination] = (one.chain_number, one.record_hash)
        if one.kind != "RANGE" and not world.is_replayed(one.destination, records[one.event_id]):
            ends[one.destination, one.event_id] += 1
    for (name, event_id), count in ends.items():
        if count > world.generations[name]:
            raise Violation(f"{name}: {event_id} ended {count} times")


def is_newer(record: Outgoing, than: Outgoing) -> bool:
    return record.offset > than.offset and (record.lane, record.record.kind) == (than.lane, than.record.kind)


def check_leftovers(world: World, process: Process) -> None:
    """Nothing is left that would never go away."""
    known = {branch.channel.channel_id for branch in process.partition.branches.values()}
    for row in world.progress.values():
        is_job = row.channel.partition("#")[2] in world.desk.jobs
        if row.kind is ProgressKind.LANE or (row.kind is ProgressKind.CHANNEL and row.channel not in known and not (is_job and row.is_done)):
            raise Violation(f"an orphan: {row.kind.value} {row.channel} {row.member} {row.segment}")
    for branch in process.partition.branches.values():
        if (branch.waiting, branch.parked, len(branch.lanes)) != (0, 0, 0):
            raise Violation(f"{branch.channel.channel_id}: {branch.waiting} waiting, {branch.parked} parked, {len(branch.lanes)} lanes")
    for name, outlet in process.hub._outlets.items():
        if (outlet.in_flight, outlet._retries_in_flight, outlet._replays_in_flight) != (0, 0, 0):
            raise Violation(f"{name}: {outlet.in_flight} in flight, {outlet._retries_in_flight} retries, {outlet._replays_in_flight} replays")
    if process.hub._budget._left != process.hub.settings.delivery_attempts_max:
        raise Violation(f"{process.hub._budget._left} attempts are left")


def simulate(seed: int, steps: int = 150, without: Collection[str] = ()) -> World:
    """`without`: names of HAPPENINGS. Raises Violation."""
    simulation = Simulation(seed, steps, without)
    with replaced(simulation.world):
        run(simulation.run)
    return simulation.world


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=1_000_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--without", nargs="*", default=(), choices=HAPPENINGS)
    arguments = parser.parse_args()
    logging.disable(logging.CRITICAL)
    began_s, steps, accepted, failed = time.monotonic(), 0, 0, 0
    for seed in range(arguments.first, arguments.first + arguments.seeds):
        if time.monotonic() - began_s > arguments.minutes * 60:
            break
        try:
            world = simulate(seed, arguments.steps, arguments.without)
            steps, accepted = steps + world.steps, accepted + len(world.acceptances)
        except Violation as error:
            failed += 1
            print(f"seed {seed}: {error}")
    print(f"{steps} steps, {accepted} deliveries, {failed} seeds failed, {time.monotonic() - began_s:.0f} s")
    raise SystemExit(bool(failed))


if __name__ == "__main__":
    main()
