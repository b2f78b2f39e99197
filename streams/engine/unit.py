"""One unit of work: a batch of records of one partition, handled in order, committed whole."""

import logging
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from streams.engine.records import Input, Outgoing, Poison, TopicPartition

if TYPE_CHECKING:
    from streams.engine.app import App
    from streams.engine.table import Table

log = logging.getLogger(__name__)

Handler = Callable[[Input, "Unit"], None]

# A handler may turn one record into very many. Beyond this many outbound records a unit is cut, so that its transaction stays short.
OUTGOING_MAX = 10_000


class Unit:
    """What an agent's stream yields. `await unit.process(handle)` never raises and never loses a record. It returns once the unit is
    queued for its partition's next transaction.

    `handle(input, unit)` is called once for each record that could be decoded, in the order of the partition; it reads and writes
    tables and calls `unit.send`. It must not await and must depend on nothing but its arguments and the tables: after a crash it
    is called again with the same records. When it raises, what it wrote for that record is undone, and the record becomes poison.
    """

    __slots__ = ("_app", "epoch", "ends", "inputs", "outgoing", "partition", "starts", "_decoded", "_savepoint", "_staged")

    def __init__(self, app: "App", partition: int, epoch: int, inputs: list[Input], starts: dict[TopicPartition, int], ends: dict[TopicPartition, int]) -> None:
        self._app = app
        self.partition = partition
        self.epoch = epoch
        self.inputs = inputs
        self.starts = starts
        """Source topic -> offset at which this batch begins; the engine checks that no batch is missing before it."""
        self.ends = ends
        """Source topic -> offset to go on from once this batch is committed."""
        self.outgoing: list[Outgoing] = []
        self._staged: dict[str, dict[bytes, Any]] = {}
        self._decoded: dict[str, dict[bytes, Any]] = {}
        self._savepoint: list[tuple[dict[bytes, Any], bytes, Any]] | None = None

    async def process(self, handle: Handler) -> None:
        """Decode, and queue for the partition's next transaction; wait while the queue is full."""
        await self._app.partitions.process(self, handle)

    def send(self, topic: str, key: bytes | None, value: bytes | None, headers: dict[str, bytes] | None = None) -> None:
        """Produce a record to this unit's partition of `topic`, in the unit's transaction."""
        self.outgoing.append(Outgoing(topic, key, value, headers or {}))

    def __len__(self) -> int:
        return len(self.inputs)

    # What the tables call.

    def read(self, table: "Table", key: bytes) -> Any:
        staged = self._staged.get(table.name)
        if staged is not None and key in staged:
            return staged[key]
        cache = self._decoded.setdefault(table.name, {})
        if key not in cache:
            cache[key] = table.committed(self.partition, key)
        return cache[key]

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

    def handle(self, handle: Handler) -> "Unit | None":
        """Call the handler for each record, undoing what it wrote for a record it failed on.

        Returns what is left when this unit became too large; this unit then ends before it.
        """
        for position, one in enumerate(self.inputs):
            if len(self.outgoing) >= OUTGOING_MAX:
                return self._cut(position)
            if one.failure is not None:
                self._poison(Poison(one, "DECODE", *one.failure))
                continue
            self._savepoint = []
            mark = len(self.outgoing)
            try:
                handle(one, self)
            except Exception as error:  # A bug, not a refusal: refusals are values.
                self._undo(mark)
                log.error("engine.handler_failed", extra={"topic": one.topic, "partition": one.partition, "offset": one.offset}, exc_info=True)
                where = traceback.extract_tb(error.__traceback__)[-1]
                detail = f"{type(error).__name__} in {where.name}, line {where.lineno}"
                self._poison(Poison(one, "HANDLER", getattr(error, "reason", type(error).__name__), getattr(error, "detail", detail)))
            finally:
                self._savepoint = None
        return None

    def _cut(self, position: int) -> "Unit":
        """End this unit before the record at `position`; the rest as a unit of its own."""
        ends = dict(self.starts)
        for one in self.inputs[:position]:
            ends[one.topic, one.partition] = one.offset + 1
        rest = Unit(self._app, self.partition, self.epoch, self.inputs[position:], dict(ends), self.ends)
        self.inputs, self.ends = self.inputs[:position], ends
        return rest

    def rows(self) -> dict[str, dict[bytes, bytes | None]]:
        """Table name -> the last written row of each key, encoded: many writes of one key in a unit are one changelog row."""
        encode = self._app.codec.encode
        return {
            name: {key: None if value is None else encode(value) for key, value in staged.items()}
            for name, staged in self._staged.items()
        }

    def _undo(self, mark: int) -> None:
        del self.outgoing[mark:]
        for staged, key, before in reversed(self._savepoint or ()):
            if before is _ABSENT:
                del staged[key]
            else:
                staged[key] = before

    def _poison(self, poison: Poison) -> None:
        self.outgoing.append(self._app.on_poison(poison))


_ABSENT = object()
