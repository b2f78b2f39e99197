"""One unit of work: a batch of records of one partition, handled in order, committed whole."""

import logging
import traceback
from bisect import bisect_left, insort
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any

from streams.engine import metrics
from streams.engine.records import Input, Outgoing, Poison, TopicPartition
from streams.engine.state import PartitionState, StateFailed

if TYPE_CHECKING:
    from streams.engine.app import App
    from streams.engine.table import Table

log = logging.getLogger(__name__)

Handler = Callable[[Input, "Unit"], None]

# A handler may turn one record into very many. Beyond this many outbound records a unit is cut, so that its transaction stays short.
OUTGOING_MAX = 10_000
# How often a handler may try one record. The second time tells a bug from a hiccup (memory, a lazy import); more would only take time.
ATTEMPTS_LEFT = (1, 0)
RECORD_OVERHEAD_BYTES = 100  # What a batch of one record adds to its key, value and headers.
CACHED_ROWS_MAX = 8_192  # Decoded rows of one partition.
_ABSENT = object()


class OutputTooLarge(Exception):
    """A handler's row or record is larger than the broker may accept."""

    reason = "OUTPUT_TOO_LARGE"


class RowsRefused(Exception):
    """A row that was written cannot be encoded, or is too large. Which record wrote it is not known yet."""


class Rows:
    """The committed rows of one partition: decoded ones of late, the others from its state. Values are never changed in place."""

    __slots__ = ("_codec", "_new", "_old", "state")

    def __init__(self, state: PartitionState, codec: Any) -> None:
        self.state = state
        self._codec = codec
        # Two generations instead of an order of use: when the new one is full, it becomes the old one, and what was old is forgotten.
        self._new: dict[tuple[str, bytes], Any] = {}
        self._old: dict[tuple[str, bytes], Any] = {}

    def __len__(self) -> int:
        return len(self._new) + len(self._old)

    def get(self, table: str, key: bytes, value_type: type) -> Any:
        """The decoded row, or None. For the partition's own thread only. Raises StateFailed."""
        place = (table, key)
        value = self._new.get(place, _ABSENT)
        if value is _ABSENT:
            value = self._old.get(place, _ABSENT)
            if value is _ABSENT:
                value = self.read(table, key, value_type)
            self.put(table, key, value)
        return value

    def read(self, table: str, key: bytes, value_type: type) -> Any:
        """The decoded row, or None, from the state itself. For any thread. Raises StateFailed."""
        row = self.state.get(table, key)
        return None if row is None else self._codec.decode(row, value_type)

    def scan(self, table: str, start: bytes, end: bytes | None) -> Generator[tuple[bytes, bytes], None, None]:
        """Rows with start <= key < end as they are stored, for `decoded`. To be closed; see PartitionState.scan. Raises StateFailed."""
        return self.state.scan(table, start, end)

    def decoded(self, table: str, key: bytes, row: bytes, value_type: type) -> Any:
        """The value of a row that a scan gave. It is not remembered: many rows that are read once would push out those in use."""
        place = (table, key)
        value = self._new.get(place)
        if value is None:
            value = self._old.get(place)
        return self._codec.decode(row, value_type) if value is None else value

    def put(self, table: str, key: bytes, value: Any) -> None:
        """Remember what is committed."""
        new = self._new
        new[table, key] = value
        if len(new) >= CACHED_ROWS_MAX // 2:
            self._old, self._new = new, {}


class Unit:
    """What an agent's stream yields. `await unit.process(handle)` never raises and never loses a record. It returns once the unit is
    queued for its partition's next transaction.

    `handle(input, unit)` is called once for each record that could be decoded, in the order of the partition; it reads and writes
    tables and calls `unit.send`. It must not await and must depend on nothing but its arguments and the tables: after a crash it
    is called again with the same records. When it raises, what it wrote for that record is undone, it is called once more, and then
    the record becomes poison. So does one whose rows or records cannot be encoded or are too large.
    """

    __slots__ = (
        "_app", "epoch", "ends", "inputs", "outgoing", "partition", "starts", "_committed", "_ordered", "_record_bytes_max", "_savepoint", "_staged",
    )  # fmt: skip

    def __init__(self, app: "App", partition: int, epoch: int, inputs: list[Input], starts: dict[TopicPartition, int], ends: dict[TopicPartition, int]) -> None:
        self._app = app
        self._record_bytes_max = app.config.record_bytes_max
        self.partition = partition
        self.epoch = epoch
        self.inputs = inputs
        self.starts = starts
        """Source topic -> offset at which this batch begins; the engine checks that no batch is missing before it."""
        self.ends = ends
        """Source topic -> offset to go on from once this batch is committed."""
        self.outgoing: list[Outgoing] = []
        self._staged: dict[str, dict[bytes, Any]] = {}
        self._ordered: dict[str, list[bytes]] = {}
        """The staged keys of tables that were scanned, in order; those staged since the last scan of a table are missing."""
        self._committed: Rows | None = None
        self._savepoint: list[tuple[dict[bytes, Any], bytes, Any]] | None = None

    async def process(self, handle: Handler) -> None:
        """Decode, and queue for the partition's next transaction; wait while the queue is full."""
        await self._app.partitions.process(self, handle)

    def send(
        self, topic: str, key: bytes | None, value: bytes | None, headers: dict[str, bytes] | None = None, *, partition: int | None = None
    ) -> None:
        """Produce a record to a partition of `topic`, this unit's own for None, in the unit's transaction.

        Raises OutputTooLarge, and ValueError for a partition that the app does not have: let them pass.
        """
        out = Outgoing(topic, key, value, headers)
        if partition is not None:
            if not 0 <= partition < self._app.config.partitions:
                raise ValueError(f"a record for {topic} cannot go to partition {partition}: the app has {self._app.config.partitions}")
            out = out._replace(partition=partition)
        if (size := _size(out)) > self._record_bytes_max:
            raise OutputTooLarge(f"a record for {topic} has {size} bytes, more than record_bytes_max={self._record_bytes_max}")
        self.outgoing.append(out)

    def __len__(self) -> int:
        return len(self.inputs)

    # What the tables call.

    def read(self, table: "Table", key: bytes) -> Any:
        staged = self._staged.get(table.name)
        if staged is not None and key in staged:
            return staged[key]
        assert self._committed is not None, "a unit is handled before its handler reads"
        return self._committed.get(table.name, key, table.value_type)

    def scan(self, table: "Table", start: bytes, end: bytes | None, limit: int) -> list[tuple[bytes, Any]]:
        assert self._committed is not None, "a unit is handled before its handler reads"
        committed, name, value_type = self._committed, table.name, table.value_type
        staged, keys = self._staged.get(name, {}), self._ordered_keys(name)
        place, places = bisect_left(keys, start), len(keys) if end is None else bisect_left(keys, end)
        found: list[tuple[bytes, Any]] = []

        def take_staged(before: bytes | None) -> None:
            nonlocal place
            while place < places and len(found) < limit and (before is None or keys[place] < before):
                if (value := staged[keys[place]]) is not None:
                    found.append((keys[place], value))
                place += 1

        if limit <= 0:
            return found
        with closing(committed.scan(name, start, end)) as rows:
            for key, row in rows:
                if place < places:
                    take_staged(before=key)
                    if len(found) == limit:
                        return found
                    if place < places and keys[place] == key:  # Written or deleted since.
                        continue
                found.append((key, committed.decoded(name, key, row, value_type)))
                if len(found) == limit:
                    return found
        take_staged(before=None)
        return found

    def _ordered_keys(self, table: str) -> list[bytes]:
        """The staged keys of a table, in order. A dict keeps new keys at its end, so those that are missing are its last."""
        staged = self._staged.get(table)
        if staged is None:
            return []
        keys = self._ordered.get(table)
        if keys is None:
            keys = self._ordered[table] = sorted(staged)
        else:
            for key in islice(reversed(staged), len(staged) - len(keys)):
                insort(keys, key)
        return keys

    def write(self, table: "Table", key: bytes, value: Any) -> None:
        staged = self._staged.setdefault(table.name, {})
        if self._savepoint is not None:
            self._savepoint.append((staged, key, staged.get(key, _ABSENT)))
        staged[key] = value

    # What the engine calls.

    def decode(self) -> None:
        """Decode every record. Needs no state, so it runs beside the last commit."""
        codec, types = self._app.codec, self._app.source_types
        for one in self.inputs:
            try:
                one.record = codec.decode(one.value, types[one.topic])
            except Exception as error:  # Nothing in a source record may stop the stream.
                one.failure = (getattr(error, "reason", type(error).__name__), getattr(error, "detail", str(error)))

    def extend(self, later: "Unit") -> None:
        """Append the batch that follows this one. Raises ValueError when it does not follow: a batch between them was lost."""
        for tp, start in later.starts.items():
            if self.ends.get(tp, start) != start:
                raise ValueError(f"batch of {tp} starts at {start}, expected {self.ends[tp]}")
            self.starts.setdefault(tp, start)
        self.ends.update(later.ends)
        self.inputs += later.inputs

    def handle(self, handle: Handler, committed: Rows, *, careful: bool = False) -> "Unit | None":
        """Call the handler for each record, undoing what it wrote for a record it failed on.

        `careful`: also try to encode what each record wrote, at once. Returns what is left when this unit became too large; this unit
        then ends before it. Raises StateFailed.
        """
        self._committed = committed
        outgoing = self.outgoing
        try:
            for position, one in enumerate(self.inputs):
                mark = len(outgoing)
                if mark >= OUTGOING_MAX:
                    return self._cut(position)
                if one.failure is not None:
                    self._poison(Poison(one, "DECODE", *one.failure))
                    continue
                for attempts_left in ATTEMPTS_LEFT:
                    self._savepoint = []
                    try:
                        handle(one, self)
                        if careful:
                            self._encode_written()
                        break
                    except StateFailed:  # The disk's fault, not the record's.
                        raise
                    except Exception as error:  # A bug, not a refusal: refusals are values.
                        self._undo(mark)
                        if not attempts_left:
                            self._poison_for(one, error)
            return None
        finally:
            self._savepoint = None

    def start_anew(self) -> None:
        """Forget what the handler wrote."""
        self._staged.clear()
        self._ordered.clear()
        self.outgoing.clear()

    def _encode_written(self) -> None:
        for staged, key, _ in self._savepoint or ():
            self._encode(key, staged[key])

    def _encode(self, key: bytes, value: Any) -> bytes | None:
        if value is None:
            return None
        row = self._app.codec.encode(value)
        if len(row) + len(key) + RECORD_OVERHEAD_BYTES > self._record_bytes_max:
            raise OutputTooLarge(f"a row has {len(row)} bytes, more than record_bytes_max={self._record_bytes_max}")
        return row

    def _poison_for(self, one: Input, error: Exception) -> None:
        log.error("engine.handler_failed", extra={"topic": one.topic, "partition": one.partition, "offset": one.offset}, exc_info=error)
        where = traceback.extract_tb(error.__traceback__)[-1]
        detail = str(error) if isinstance(error, OutputTooLarge) else f"{type(error).__name__} in {where.name}, line {where.lineno}"
        self._poison(Poison(one, "HANDLER", getattr(error, "reason", type(error).__name__), getattr(error, "detail", detail)))

    def _cut(self, position: int) -> "Unit":
        """End this unit before the record at `position`; the rest as a unit of its own."""
        ends = dict(self.starts)
        for one in self.inputs[:position]:
            ends[one.topic, one.partition] = one.offset + 1
        rest = Unit(self._app, self.partition, self.epoch, self.inputs[position:], dict(ends), self.ends)
        self.inputs, self.ends = self.inputs[:position], ends
        return rest

    def rows(self) -> dict[str, dict[bytes, bytes | None]]:
        """Table name -> the last written row of each key, encoded: many writes of one key in a unit are one changelog row.

        Raises RowsRefused.
        """
        encode = self._encode
        try:
            return {name: {key: encode(key, value) for key, value in staged.items()} for name, staged in self._staged.items()}
        except Exception as error:
            raise RowsRefused(f"{type(error).__name__}: {error}") from error

    def to_forget(self) -> dict[str, set[bytes]]:
        """Table name -> keys of written rows of which no older version may be left on a disk, by the app's rule for the table."""
        found: dict[str, set[bytes]] = {}
        for name, rule in self._app.config.forget.items():
            if keys := {key for key, value in self._staged.get(name, {}).items() if rule(value)}:
                found[name] = keys
        return found

    def remember(self) -> None:
        """What was staged is committed."""
        assert self._committed is not None
        for name, staged in self._staged.items():
            for key, value in staged.items():
                self._committed.put(name, key, value)

    def _undo(self, mark: int) -> None:
        del self.outgoing[mark:]
        self._ordered.clear()  # It may have keys that are not staged any more.
        for staged, key, before in reversed(self._savepoint or ()):
            if before is _ABSENT:
                del staged[key]
            else:
                staged[key] = before

    def _poison(self, poison: Poison) -> None:
        letter = self._app.on_poison(poison)
        if (size := _size(letter)) > self._record_bytes_max:
            one = poison.input
            where = f"{one.topic}[{one.partition}] offset {one.offset}"
            bare = replace(one, value=None, key=None, headers=())
            letter = self._app.on_poison(replace(poison, input=bare, detail=f"{poison.detail}; left out for its {size} bytes, see {where}"))
        metrics.POISON.labels(poison.stage, poison.reason).inc()
        self.outgoing.append(letter)


def _size(out: Outgoing) -> int:
    headers = sum(len(name) + len(value) for name, value in out.headers.items()) if out.headers else 0
    return len(out.value or b"") + len(out.key or b"") + headers + RECORD_OVERHEAD_BYTES


class _NoUnit:
    """What a table meets outside a handler."""

    def read(self, *_: Any) -> Any:
        raise RuntimeError("a table can be read outside a handler with table.committed(partition, key) only")

    def scan(self, *_: Any) -> Any:
        raise RuntimeError("a table can be scanned inside a handler only")

    def write(self, *_: Any) -> None:
        raise RuntimeError("a table can be written inside a handler only")


NO_UNIT = _NoUnit()
