"""One run: seed -> members, months and faults, checked all the way. The same seed gives the same run."""

import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any

from schemas.contract import member_key
from schemas.records import PartitionClock, SyncAudit, Tick
from streams import topics
from tests.simulation import rules
from tests.simulation.audit import OUTBOUND, Auditor, Violation
from tests.simulation.workload import DAY_MS, HOUR_MS, MINUTE_MS, Workload
from tests.simulation.world import AVRO, GARBAGE, NAMES, PARTITIONS, PROGRAMS, RELAYS, TICKS, Effects, Objects, Partition, World, as_bytes, partition_of

SURVEY_EVERY_STEPS = 250
DRAIN_RECORDS_MAX = 200_000
AVRO_EVERY_SEEDS = 5
"""Every fifth seed runs over bytes, as the pipeline does; the others over objects, which is faster."""


class Failure(AssertionError):
    """A run that found something: how to see it again, and what led to it."""

    def __init__(self, seed: int, steps: int, step: int, error: Exception, story: list[str]) -> None:
        self.seed = seed
        self.steps = steps
        self.step = step
        self.rule = error.rule if isinstance(error, Violation) else type(error).__name__
        self.text = str(error)
        self.story = story
        self.replay = f"make simulate SEED={seed} STEPS={steps}"
        lines = [f"{type(error).__name__} {error}", f"at step {step}; again: {self.replay}", *story]
        super().__init__("\n".join(lines))


@dataclass
class Result:
    """What a run did."""

    seed: int
    steps: int
    digest: str = ""
    elapsed_s: float = 0.0
    codec: str = ""
    simulated_days: int = 0
    counts: Counter[str] = field(default_factory=Counter)


def run(seed: int, steps: int, progress: Callable[[int], None] = lambda step: None) -> Result:
    """Raises Failure."""
    simulation = Simulation(seed, steps)
    started_s = time.perf_counter()
    try:
        simulation.run(progress)
    except Exception as error:
        key = error.key if isinstance(error, Violation) else simulation.key
        raise Failure(seed, steps, simulation.step, error, simulation.auditor.story(key)) from error
    simulation.result.elapsed_s = time.perf_counter() - started_s
    return simulation.result


class Simulation:
    def __init__(self, seed: int, steps: int) -> None:
        self._rng = rng = random.Random(seed)
        self.steps = steps
        self.step = 0
        self.key = b""
        codec = AVRO if seed % AVRO_EVERY_SEEDS == AVRO_EVERY_SEEDS - 1 else Objects()
        self.world = World(codec, rules.START_MS + rng.randrange(DAY_MS))
        self.world.worker_clock_ms = lambda: self.world.now_ms + self.step % 977
        self.auditor = Auditor(self.world)
        self._codes: list[tuple[bytes, str]] = []
        self._workload = Workload(rng, self._account, self._codes)
        self._outbound: list[list[Any]] = [[] for _ in range(PARTITIONS)]
        self._on_the_way: dict[int, list[Any]] = {}
        """Step -> commands that reach the broker then: producers overtake each other."""
        self._ticking = True
        self._pace_ms = MINUTE_MS
        self._first_ms = self.world.now_ms
        self.result = Result(seed=seed, steps=steps, codec="avro" if codec is AVRO else "objects")
        self.faults: Counter[str] = Counter()

    def run(self, progress: Callable[[int], None]) -> None:
        versions = rules.versions(self._first_ms + rules.SECOND_VERSION_AFTER_MS)
        first, second = versions[: len(rules.FIRST)], versions[len(rules.FIRST) :]
        self._publish(first)
        publish_at_step = self._rng.randrange(max(1, self.steps // 3))
        for self.step in range(1, self.steps + 1):
            if self.step == publish_at_step:
                self._publish(second)
            self._one_step()
            if self.step % SURVEY_EVERY_STEPS == 0:
                self.auditor.survey()
                progress(self.step)
        self._publish(second)  # Again, which is no news; and for the first time in runs that are too short.
        self._drain()
        self.auditor.end()
        self.world.now_ms += 400 * DAY_MS
        self._drain()
        self.auditor.end()
        self._replay()
        self._finish()
        progress(self.steps)

    # The run.

    def _one_step(self) -> None:
        rng, world = self._rng, self.world
        self._pass_time()
        command = self._workload.command(world.now_ms)
        delay = 0 if rng.random() < 0.8 else int(rng.expovariate(0.1))
        self._on_the_way.setdefault(self.step + delay, []).append(command)
        for arriving in self._on_the_way.pop(self.step, ()):
            self._send(arriving)
        if rng.random() < 0.01:
            self._fault()
        if rng.random() < 0.3:
            partition = rng.choice(world.partitions)
            if partition.paused_until_step <= self.step:
                self._work(partition, rng.choice((1, 3, 10, 40)))

    def _pass_time(self) -> None:
        rng, world = self._rng, self.world
        chance = rng.random()
        if chance < 0.004:
            self._pace_ms = rng.choice((10, 1_000, MINUTE_MS, 10 * MINUTE_MS, HOUR_MS))
        if chance > 0.999:
            world.now_ms += int(rng.random() * 45 * DAY_MS)
        elif chance > 0.99:
            world.now_ms += int(rng.random() * 2 * DAY_MS)
        else:
            world.now_ms += int(rng.random() * self._pace_ms)
        if rng.random() < 0.002:
            self._ticking = not self._ticking
        if rng.random() < (0.12 if self._ticking else 0.001):
            for _ in range(rng.choice((1, 1, 1, 2))):
                self._tick(rng.randrange(PARTITIONS), rng.choice((1, 3, 100)))

    def _tick(self, partition: int, due_members_max: int) -> None:
        record = Tick(partition=partition, due_members_max=due_members_max, outcomes_max=self._rng.choice((1, 10, 200)))
        self.world.append(TICKS, partition, None, record)

    def _send(self, command: Any) -> None:
        rng = self._rng
        topic = next(NAMES[topic.stream] for topic in topics.INBOUND if topic.record is type(command))
        key = member_key(command.program_id, command.member_id)
        chance = rng.random()
        if chance < 0.002:
            self.world.append(topic, partition_of(key), key, GARBAGE)
        elif chance < 0.003:
            self.world.append(topic, (partition_of(key) + 1) % PARTITIONS, key, command)  # A producer with another partitioner.
        else:
            self.world.append(topic, partition_of(key), key, command)

    def _fault(self) -> None:
        rng, world = self._rng, self.world
        partition = rng.choice(world.partitions)
        kind = rng.choice(("pause", "pause", "skew", "rebuild", "restart"))
        self.faults[kind] += 1
        if kind == "pause":
            partition.paused_until_step = self.step + int(rng.expovariate(1 / 150))
        elif kind == "skew":
            world.skew_ms[partition.number] = rng.randint(-3_000, 3_000)
        elif kind == "rebuild":
            for table in partition.tables.values():
                table.rebuild()
            world.restart()
        else:
            world.restart()

    def _work(self, partition: Partition, records_max: int) -> None:
        rng, world = self._rng, self.world
        inputs = world.take(partition, records_max, rng)
        if not inputs:
            return
        self.key = inputs[-1].key or b""
        decided = world.decide(partition, inputs)
        if rng.random() < 0.05:
            self.faults["crash before the commit"] += 1
            world.crash(partition)
            return
        mine = self._committed(partition, decided)
        world.commit(partition, decided)
        if rng.random() < 0.02:
            self.faults["crash after the commit"] += 1
            world.restart()
        for effects in mine:
            self._learn(effects)

    def _committed(self, partition: Partition, decided: list[Effects]) -> list[Effects]:
        """The auditor sees each record with the tables as they were after it: so the unit's writes are made once more, one by one."""
        changes = list(partition.changes)
        partition.undo()
        for effects in decided:
            for change in effects.changes:
                partition.tables[change.table].put(change.key, change.after)
            self.auditor.record(partition, effects)
            self._outbound[partition.number] += effects.outputs
        partition.changes += changes
        return decided

    def _learn(self, effects: Effects) -> None:
        """Clients read the answers."""
        for out in effects.outputs:
            if out.topic == NAMES[topics.SYNC_AUDIT.stream]:
                audit = self.world.codec.decode(out.value, SyncAudit)
                if audit.voucher_code and not audit.replayed:
                    self._codes.append((member_key(audit.program_id, audit.member_id), audit.voucher_code))

    def _account(self, key: bytes) -> Any:
        return self.world.partitions[partition_of(key)].tables["accounts"].rows.get(key)

    def _publish(self, versions: list[Any]) -> None:
        for version in versions:
            for partition in range(PARTITIONS):
                self.world.append(PROGRAMS, partition, version.program_id.encode(), version)

    # Its end.

    def _drain(self) -> None:
        """Everything is read, everything that is due has happened, and nothing is under way."""
        for arriving in [command for step in sorted(self._on_the_way) for command in self._on_the_way[step]]:
            self._send(arriving)
        self._on_the_way.clear()
        self.world.now_ms += 5_000  # No broker's clock is behind the last record's.
        self.world.skew_ms = [0] * PARTITIONS
        records = 0
        for rounds in range(1_000):
            for partition in self.world.partitions:
                while left := self.world.unread(partition):
                    records += left
                    self._work(partition, 500)
                    if records > DRAIN_RECORDS_MAX:
                        raise Violation("I-17", "records go round in a circle between the partitions")
            if any(map(self.world.unread, self.world.partitions)):
                continue
            if rounds and not any(map(self._is_behind, self.world.partitions)):
                break
            for number in range(PARTITIONS):
                self._tick(number, 1_000)
        else:
            raise Violation("I-16", "ticks do not come to an end")
        self.auditor.survey()

    def _is_behind(self, partition: Partition) -> bool:
        clock = partition.tables["clock"].rows.get(b"now")
        return clock is None or clock.due_cursor != (clock.now_ms + 1).to_bytes(8, "big")

    def _replay(self) -> None:
        """I-28: the same log, in the order in which it was decided, from empty tables: the same tables and the same outbound records."""
        world = World(self.world.codec, 0)
        world.worker_clock_ms = lambda: 1
        for before in self.world.partitions:
            partition = world.partitions[before.number]
            outbound: list[Any] = []
            for start in range(0, len(before.history), 64):
                decided = world.decide(partition, before.history[start : start + 64])
                world.commit(partition, decided, deliver=False)
                for effects in decided:
                    outbound += effects.outputs
            for name, table in before.tables.items():
                then, now = _unchained(table.rows), _unchained(partition.tables[name].rows)
                if then != now:
                    raise Violation("I-28", f"partition {before.number}: {name} differs after a replay: {_difference(then, now)}")
            if len(outbound) != len(self._outbound[before.number]):
                raise Violation("I-28", f"partition {before.number}: {len(outbound)} outbound records, and {len(self._outbound[before.number])} before")
            for out, earlier in zip(outbound, self._outbound[before.number], strict=True):
                if self._unclocked(out) != self._unclocked(earlier):
                    raise Violation("I-28", f"partition {before.number}: an outbound record differs: {earlier} {out}", earlier.key or b"")

    def _unclocked(self, out: Any) -> Any:
        if out.topic == RELAYS:
            return out
        record = self.world.codec.decode(out.value, OUTBOUND[out.topic])
        clock = "failed_at_ms" if out.topic == NAMES[topics.DEAD_LETTERS.stream] else "recorded_at_ms"
        if isinstance(record, SyncAudit):
            record = replace(record, previous_hash="", record_hash="")  # They are over the worker's clock, too.
        return (out.topic, out.key, out.headers, replace(record, **{clock: 0}))

    def _finish(self) -> None:
        """The digest of all tables, as bytes: so every row can be encoded, too."""
        digest = sha256()
        for partition in self.world.partitions:
            for name, table in sorted(partition.tables.items()):
                for key, row in sorted(table.rows.items()):
                    digest.update(name.encode() + key + as_bytes(row))
            digest.update(repr(sorted(Counter(out.topic for out in self._outbound[partition.number]).items())).encode())
        self.result.digest = digest.hexdigest()
        self.result.simulated_days = (self.world.now_ms - self._first_ms) // DAY_MS
        self.result.counts = Counter(self.auditor.counts) + Counter({f"fault {name}": number for name, number in self.faults.items()})


def _unchained(rows: dict[bytes, Any]) -> dict[bytes, Any]:
    """Rows of a table without the audit's last hash, which is over the worker's clock."""
    return {key: replace(row, audit_hash="") if isinstance(row, PartitionClock) else row for key, row in rows.items()}


def _difference(one: dict[bytes, Any], other: dict[bytes, Any]) -> str:
    key = min(key for key in one.keys() | other.keys() if one.get(key) != other.get(key))
    return f"{key!r}: {one.get(key)} and {other.get(key)}"
