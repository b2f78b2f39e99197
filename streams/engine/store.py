"""What Faust takes for a table's store: nothing is in it. The rows are in the partitions' states (streams/engine/state.py)."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from faust.stores.base import Store
from faust.types import TP, EventT


class NoStore(Store):  # type: ignore[type-arg]
    """Refuses to be read or written past a unit of work; Faust's own recovery and backups find nothing to do."""

    mundane_level = "debug"

    def __getitem__(self, key: bytes) -> bytes:
        raise TypeError("rows are read through a unit of work, or with table.committed(partition, key)")

    def __setitem__(self, key: bytes, value: bytes) -> None:
        raise TypeError("rows change through a unit of work only")

    def __delitem__(self, key: bytes) -> None:
        raise TypeError("rows change through a unit of work only")

    def __iter__(self) -> Iterator[bytes]:
        raise TypeError("a partition's state is not iterated: read its changelog")

    def __len__(self) -> int:
        return 0

    def persisted_offset(self, tp: TP) -> int | None:
        return None

    def apply_changelog_batch(self, batch: Iterable[EventT], to_key: Callable[[Any], Any], to_value: Callable[[Any], Any]) -> None:
        raise TypeError("the engine's recovery fills the states")

    async def backup_partition(self, tp: TP | int, flush: bool = True, purge: bool = False, keep: int = 1) -> None:
        """Nothing to back up: the changelog is the copy."""

    def restore_backup(self, tp: TP | int, latest: bool = True, backup_id: int = 0) -> None:
        """Nothing to restore from but the changelog."""

    def reset_state(self) -> None:
        """Faust calls this at a start: the states see for themselves what they can trust."""
