"""Reads topics and local states for the verification: own consumer, fastavro, rocksdict, and nothing of the pipeline."""

import io
import json
import struct
import time
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, Self

import fastavro
from confluent_kafka import OFFSET_END, Consumer, KafkaError, KafkaException, TopicPartition
from rocksdict import AccessType, Options, Rdict

from tests.chaos.ledger import Line
from tests.e2e.oracle import AVRO

HEADER_BYTES = 5  # Magic byte and schema id.
SILENCE_S = 60
LOOK_S = 5.0  # Nothing depends on it: what has not been seen by then is seen when it is read.
BATCH_RECORDS, BATCH_WAIT_S = 5_000, 0.05  # The last batch of a topic waits in vain.
OFFSET = struct.Struct(">q")


@cache
def schema(record: str) -> Any:
    """Times stay numbers: making dates of them would take longer than all the rest."""
    return fastavro.parse_schema(_plain(json.loads((AVRO / f"{record}.avsc").read_text())))


def _plain(node: Any) -> Any:
    if isinstance(node, list):
        return [_plain(inner) for inner in node]
    if isinstance(node, dict):
        return {name: _plain(inner) for name, inner in node.items() if name not in ("logicalType", "doc")}
    return node


def decode(data: bytes, record: str) -> Any:
    body = io.BytesIO(data)
    body.seek(HEADER_BYTES)
    return fastavro.schemaless_reader(body, schema(record), None)


class Log:
    """Reads one partition of one topic after the other, with one consumer: making and closing one takes longer than a short topic."""

    def __init__(self, bootstrap: str, topics: Iterable[str] = ()) -> None:
        """`topics`: those that will be read. The first look at a topic takes a second, so all of them are looked at together."""
        self._consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "verifier", "isolation.level": "read_committed",
                                   "enable.partition.eof": True, "enable.auto.commit": False, "auto.offset.reset": "error",
                                   "fetch.wait.max.ms": 10})  # Or the end of every topic would take half a second. fmt: skip

        self._look_at([TopicPartition(topic, 0, OFFSET_END) for topic in topics])

    def _look_at(self, ends: list[TopicPartition]) -> None:
        self._consumer.assign(ends)
        seen, deadline_s = 0, time.monotonic() + LOOK_S
        while seen < len(ends) and time.monotonic() < deadline_s:
            seen += len(self._consumer.consume(len(ends) - seen, timeout=BATCH_WAIT_S))
        self._consumer.unassign()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._consumer.close()

    def raw(self, topic: str, partition: int) -> Iterator[tuple[int, bytes, bytes | None]]:
        """Offset, key and value of all committed records, in order; one reading at a time. Raises KafkaException, also when the broker
        falls silent."""
        self._consumer.assign([TopicPartition(topic, partition, 0)])
        deadline_s = time.monotonic() + SILENCE_S
        try:
            while True:
                messages = self._consumer.consume(BATCH_RECORDS, timeout=BATCH_WAIT_S)
                if messages:
                    deadline_s = time.monotonic() + SILENCE_S
                elif time.monotonic() > deadline_s:
                    raise KafkaException(KafkaError(KafkaError._TIMED_OUT, f"{topic}[{partition}]: nothing for {SILENCE_S} s"))
                for message in messages:
                    error = message.error()
                    if error is None:
                        yield message.offset() or 0, message.key() or b"", message.value()
                    elif error.code() == KafkaError._PARTITION_EOF:
                        return
                    else:
                        raise KafkaException(error)
        finally:
            self._consumer.unassign()

    def lines(self, topic: str, partition: int, record: str) -> Iterator[Line]:
        """The same, decoded."""
        for offset, key, value in self.raw(topic, partition):
            yield Line(offset, key.decode(errors="backslashreplace"), None if value is None else decode(value, record))

    def table(self, changelog: str, partition: int) -> dict[bytes, bytes]:
        """A table rebuilt from its changelog, from empty: the last row of each key."""
        rows: dict[bytes, bytes] = {}
        for _, key, value in self.raw(changelog, partition):
            if value is None:
                rows.pop(key, None)
            else:
                rows[key] = value
        return rows


class LocalState:
    """A partition's state as a worker left it (key layout: streams/engine/state.py)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._db: Any = Rdict(str(folder), Options(raw_mode=True), access_type=AccessType.read_only())

    def offsets(self) -> int:
        """Sum of the changelog offsets that it stands for: of two copies the higher one is the fresher one."""
        return sum(OFFSET.unpack(value)[0] for key, value in self._db.items(from_key=b"o") if key.startswith(b"o"))

    def rows(self, table: str) -> dict[bytes, bytes]:
        prefix = b"r" + table.encode() + b"\0"
        found: dict[bytes, bytes] = {}
        for key, value in self._db.items(from_key=prefix):
            if not key.startswith(prefix):
                break
            found[bytes(key[len(prefix):])] = bytes(value)
        return found

    def close(self) -> None:
        self._db.close()


def freshest(folders: list[Path], partition: int) -> LocalState | None:
    """The freshest of the copies that the workers have of a partition; None when none has one."""
    best: LocalState | None = None
    for folder in folders:
        for path in folder.glob(f"partition-{partition}.v*"):
            state = LocalState(path)
            if best is None or state.offsets() > best.offsets():
                if best is not None:
                    best.close()
                best = state
            else:
                state.close()
    return best
