"""The committed rows of a table, by partition: filled from the changelog, changed only by what a transaction committed."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from faust.stores.base import Store
from faust.types import TP, EventT

from streams.engine import metrics

Rows = dict[bytes, bytes]


class PartitionedStore(Store):  # type: ignore[type-arg]
    """Encoded rows in memory. A partition is here exactly while this worker owns it.

    Faust's own recovery and persistence calls do nothing: the engine's recovery fills the store (streams/engine/recovery.py).
    """

    mundane_level = "debug"

    def __post_init__(self) -> None:
        self.partitions: dict[int, Rows] = {}

    def open(self, partition: int, rows: Rows) -> None:
        """Take over a partition with the rows its changelog gave."""
        self.partitions[partition] = rows
        self._count(partition)

    def close(self, partition: int) -> None:
        """Forget a partition: another worker owns it now, or it must be loaded again."""
        self.partitions.pop(partition, None)
        metrics.TABLE_ROWS.labels(self.table_name, partition).set(0)

    def apply(self, partition: int, rows: dict[bytes, bytes | None]) -> None:
        """Make committed changes visible; None deletes a row."""
        target = self.partitions[partition]
        for key, value in rows.items():
            if value is None:
                target.pop(key, None)
            else:
                target[key] = value
        self._count(partition)

    def _count(self, partition: int) -> None:
        metrics.TABLE_ROWS.labels(self.table_name, partition).set(len(self.partitions[partition]))

    # What Faust's interface asks for.

    def __getitem__(self, key: bytes) -> bytes:
        for rows in self.partitions.values():
            if key in rows:
                return rows[key]
        raise KeyError(key)

    def __setitem__(self, key: bytes, value: bytes) -> None:
        raise TypeError("rows change through a unit of work only")

    def __delitem__(self, key: bytes) -> None:
        raise TypeError("rows change through a unit of work only")

    def __iter__(self) -> Iterator[bytes]:
        for rows in self.partitions.values():
            yield from rows

    def __len__(self) -> int:
        return sum(len(rows) for rows in self.partitions.values())

    def persisted_offset(self, tp: TP) -> int | None:
        return None

    def apply_changelog_batch(self, batch: Iterable[EventT], to_key: Callable[[Any], Any], to_value: Callable[[Any], Any]) -> None:
        raise TypeError("the engine's recovery loads the tables")

    async def backup_partition(self, tp: TP | int, flush: bool = True, purge: bool = False, keep: int = 1) -> None:
        """Nothing to back up: the changelog is the copy."""

    def restore_backup(self, tp: TP | int, latest: bool = True, backup_id: int = 0) -> None:
        """Nothing to restore from but the changelog."""

    def reset_state(self) -> None:
        self.partitions.clear()
