"""What is around the handler, in memory: logs with the broker's clock, tables that can be undone, units that commit whole or not at all."""

import random
import zlib
from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, NamedTuple

from schemas.codec import Codec
from schemas.records import ProgramVersion, Relay, WaitingCommands
from schemas.registry import LocalRegistry
from streams import programs, topics
from streams.agents.keep_accounts import KeepAccounts, Tables
from streams.domain.program import Program
from streams.engine import Input, Outgoing, Poison
from streams.errors import ContractError
from streams.tables import TABLES

PARTITIONS = 4
PREFIX = "sim"
VOUCHER_KEY = b"a key for simulations, no secret"
NAMES = {topic.stream: topic.name(PREFIX) for topic in topics.ALL}
RECORDS = {topic.name(PREFIX): topic.record for topic in topics.ALL}
SOURCES = tuple(NAMES[topic.stream] for topic in topics.SOURCES)
RELAYS, PROGRAMS, TICKS = NAMES[topics.RELAYS.stream], NAMES[topics.PROGRAMS.stream], NAMES[topics.TICKS.stream]
ORDERED = frozenset({"due", "outcomes", "waiting"})
"""Tables that are scanned."""

AVRO = Codec(LocalRegistry())
GARBAGE = b"\x01 no record"


class Objects:
    """A codec that leaves records as they are: most of a run's time would go into bytes that nobody reads."""

    header_bytes = 0

    def encode(self, record: Any) -> Any:
        return record

    def decode(self, value: Any, record_type: type) -> Any:
        if not isinstance(value, record_type):
            raise ContractError("UNDECODABLE", "no record")
        return value


@lru_cache
def parse_rules(version: ProgramVersion) -> Program:
    return programs.from_record(version, VOUCHER_KEY)


def partition_of(key: bytes) -> int:
    return zlib.crc32(key) % PARTITIONS


class Change(NamedTuple):
    """One write to a table."""

    table: str
    key: bytes
    before: Any
    after: Any


class Table:
    """One table of one partition. Rows are never changed in place; every write is noted, so that a unit can be undone."""

    def __init__(self, name: str, changes: list[Change]) -> None:
        self.name = name
        self.rows: dict[bytes, Any] = {}
        self._changes = changes
        self._keys: list[bytes] | None = [] if name in ORDERED else None

    def write(self, key: bytes, value: Any) -> None:
        self._changes.append(Change(self.name, key, self.rows.get(key), value))
        self.put(key, value)

    def put(self, key: bytes, value: Any) -> None:
        if self._keys is not None and (value is None) == (key in self.rows):
            if value is None:
                del self._keys[bisect_left(self._keys, key)]
            else:
                insort(self._keys, key)
        if value is None:
            self.rows.pop(key, None)
        else:
            self.rows[key] = value

    def scan(self, start: bytes, end: bytes | None, limit: int) -> list[tuple[bytes, Any]]:
        keys = self._keys
        assert keys is not None, f"nobody scans {self.name}"
        first = bisect_left(keys, start)
        last = len(keys) if end is None else bisect_left(keys, end)
        return [(key, self.rows[key]) for key in keys[first : min(last, first + limit)]]

    def rebuild(self) -> None:
        """As a worker does that finds no local state: from the changelog, through bytes."""
        record_type = TABLES[self.name]
        for key, row in self.rows.items():
            again = AVRO.decode(AVRO.encode(in_bytes(row)), record_type)
            if again != in_bytes(row):
                raise AssertionError(f"{self.name}: a row comes back from its changelog as another: {key!r} {row} -> {again}")
            self.rows[key] = row if self.name == "waiting" else again


def in_bytes(row: Any) -> Any:
    """The row with the commands in it as bytes, which the codec of objects leaves as they are."""
    if isinstance(row, WaitingCommands):
        return replace(row, commands=tuple(replace(one, value=as_bytes(one.value)) for one in row.commands))
    if isinstance(row, Relay):
        return replace(row, origin=replace(row.origin, value=None if row.origin.value is None else as_bytes(row.origin.value)))
    return row


def as_bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else AVRO.encode(in_bytes(value))


class Routed:
    """A table as a handler sees it: that of the partition whose unit is running."""

    def __init__(self, world: "World", name: str) -> None:
        self._world = world
        self._name = name

    @property
    def _table(self) -> Table:
        return self._world.running.tables[self._name]

    def get(self, key: bytes, default: Any = None) -> Any:
        return self._table.rows.get(key, default)

    def __getitem__(self, key: bytes) -> Any:
        return self._table.rows[key]

    def __contains__(self, key: object) -> bool:
        return key in self._table.rows

    def __setitem__(self, key: bytes, value: Any) -> None:
        self._table.write(key, value)

    def __delitem__(self, key: bytes) -> None:
        self._table.write(key, None)

    def scan(self, start: bytes, end: bytes | None, limit: int) -> list[tuple[bytes, Any]]:
        return self._table.scan(start, end, limit)


class Partition:
    """Tables, positions, and the order in which records were decided."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.changes: list[Change] = []
        self.tables = {name: Table(name, self.changes) for name in TABLES}
        self.positions = dict.fromkeys(SOURCES, 0)
        self.history: list[Input] = []
        self.paused_until_step = 0

    def undo(self) -> None:
        for change in reversed(self.changes):
            self.tables[change.table].put(change.key, change.before)
        self.changes.clear()

    @property
    def clock_ms(self) -> int:
        clock = self.tables["clock"].rows.get(b"now")
        return clock.now_ms if clock is not None else 0


@dataclass(slots=True)
class Effects:
    """What one record did."""

    one: Input
    outputs: list[Outgoing] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)

    def send(self, topic: str, key: bytes | None, value: Any, headers: Mapping[str, bytes] | None = None, *, partition: int | None = None) -> None:
        """As that of a unit."""
        self.outputs.append(Outgoing(topic, key, value, headers, partition))


class World:
    """The broker, the workers and what they keep."""

    def __init__(self, codec: Any, now_ms: int) -> None:
        self.codec = codec
        self.now_ms = now_ms
        self.skew_ms = [0] * PARTITIONS
        """The brokers' clocks do not agree."""
        self.worker_clock_ms: Callable[[], int] = lambda: self.now_ms
        self.logs: dict[tuple[str, int], list[Input]] = {(name, number): [] for name in SOURCES for number in range(PARTITIONS)}
        self.partitions = [Partition(number) for number in range(PARTITIONS)]
        self.running = self.partitions[0]
        self.handler: KeepAccounts
        self.restart()

    def restart(self) -> None:
        """A new worker, which knows nothing but its tables."""
        self.handler = KeepAccounts(
            Tables(**{name: Routed(self, name) for name in TABLES}),
            codec=self.codec,
            parse_rules=parse_rules,
            prefix=PREFIX,
            partition_of=partition_of,
            clock_ms=lambda: self.worker_clock_ms(),
        )

    def append(self, topic: str, partition: int, key: bytes | None, record: Any) -> Input:
        """The broker stamps it and gives it its place."""
        log = self.logs[topic, partition]
        value = record if record is GARBAGE else self.codec.encode(record)
        one = Input(topic, partition, len(log), self.now_ms + self.skew_ms[partition], key, value, ())
        log.append(one)
        return one

    def unread(self, partition: Partition) -> int:
        return sum(len(self.logs[topic, partition.number]) - position for topic, position in partition.positions.items())

    def take(self, partition: Partition, records_max: int, rng: random.Random) -> list[Input]:
        """The next records of a partition: each topic's in order, the topics in any."""
        left = {topic: self.logs[topic, partition.number][position:] for topic, position in partition.positions.items()}
        left = {topic: log[::-1] for topic, log in left.items() if log}
        taken: list[Input] = []
        while left and len(taken) < records_max:
            topic = PROGRAMS if PROGRAMS in left else rng.choice(list(left))
            for _ in range(min(len(left[topic]), rng.choice((1, 1, 2, 5)))):
                taken.append(left[topic].pop())
            if not left[topic]:
                del left[topic]
        return taken

    def decide(self, partition: Partition, inputs: Iterable[Input]) -> list[Effects]:
        """A unit of work, not committed."""
        self.running = partition
        assert not partition.changes, "a unit begins with what is committed"
        decided: list[Effects] = []
        for one in inputs:
            effects = Effects(one)
            mark = len(partition.changes)
            if one.record is None:
                try:
                    one.record = self.codec.decode(one.value, RECORDS[one.topic])
                except ContractError as error:
                    one.failure = (error.reason, error.detail)
            if one.failure is not None:
                effects.outputs.append(self.handler.dead_letter(Poison(one, "DECODE", *one.failure)))
            else:
                self.handler.handle(one, effects)  # type: ignore[arg-type]
            effects.changes = partition.changes[mark:]
            decided.append(effects)
        return decided

    def crash(self, partition: Partition) -> None:
        """Before the commit: nothing has happened."""
        partition.undo()
        self.restart()

    def commit(self, partition: Partition, decided: list[Effects], *, deliver: bool = True) -> None:
        """Tables, positions and outbound records at once."""
        for effects in decided:
            one = effects.one
            assert one.offset == partition.positions[one.topic], "records of a topic are decided in order"
            partition.positions[one.topic] += 1
            partition.history.append(one)
            for out in effects.outputs:
                if out.topic == RELAYS and deliver:
                    assert out.partition is not None, "a relay has an address"
                    log = self.logs[RELAYS, out.partition]
                    log.append(Input(RELAYS, out.partition, len(log), self.now_ms + self.skew_ms[out.partition], out.key, out.value, ()))
        partition.changes.clear()
