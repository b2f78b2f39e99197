"""The copies of all members on local disk, each in the order of the members' keys: memory stays the same however many there are."""

from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import orjson
from rocksdict import Options

from streams.engine.state import PartitionState

MEMTABLE_BYTES = 16 << 20
ROWS_MAX = 20_000  # Changed in memory before they are written.


class Shelf:
    """Lists by table and key. Methods raise StateFailed; close it, then its folder can be removed."""

    def __init__(self, folder: Path) -> None:
        options = Options(raw_mode=True)
        options.create_if_missing(True)
        options.set_write_buffer_size(MEMTABLE_BYTES)
        self._state = PartitionState(folder / "copies", options)
        self._changed: dict[str, dict[bytes, Any]] = {}
        self._count = 0

    def get(self, table: str, key: bytes) -> Any:
        """The list, or None. It may be changed in place, if it is put again then."""
        changed = self._changed.get(table)
        if changed is not None and key in changed:
            return changed[key]
        value = self._state.get(table, key)
        return None if value is None else orjson.loads(value)

    def put(self, table: str, key: bytes, value: Any) -> None:
        """None takes it away."""
        self._changed.setdefault(table, {})[key] = value
        self._count += 1
        if self._count >= ROWS_MAX:
            self.write()

    def write(self) -> None:
        rows = {
            table: {key: None if value is None else orjson.dumps(value) for key, value in changed.items()} for table, changed in self._changed.items()
        }
        self._state.apply(rows, {}, None, logged=False)
        self._changed, self._count = {}, 0

    def scan(self, table: str) -> Generator[tuple[bytes, Any], None, None]:
        """All of a table in the order of the keys."""
        self.write()
        with closing(self._state.scan(table, b"", None)) as rows:
            for key, value in rows:
                yield key, orjson.loads(value)

    def close(self) -> None:
        self._state.close()


def merged(shelf: Shelf, *tables: str) -> Iterator[tuple[bytes, list[Any]]]:
    """Key by key: what each table has, None where it has nothing."""
    scans = [shelf.scan(table) for table in tables]
    heads = [next(scan, None) for scan in scans]
    try:
        while live := [head[0] for head in heads if head is not None]:
            key = min(live)
            values: list[Any] = []
            for number, head in enumerate(heads):
                if head is not None and head[0] == key:
                    values.append(head[1])
                    heads[number] = next(scans[number], None)
                else:
                    values.append(None)
            yield key, values
    finally:
        for scan in scans:
            scan.close()


Advance = Callable[[int, int], None]
"""(done, total) of a step."""
