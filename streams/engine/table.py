"""`app.Table`: a changelog-backed table whose writes belong to the unit of work that is running."""

from typing import Any

import faust
from faust.types.stores import StoreT

from streams.engine.store import NoStore


class Table(faust.Table):  # type: ignore[type-arg]
    """A mapping from bytes to records of `value_type`, inside a handler; see Unit for what happens to its writes.

    Values are replaced, never changed in place: only an assignment reaches the changelog. Outside a handler the table can be read
    with `committed`; all else raises RuntimeError.
    """

    mundane_level = "debug"

    def _new_store(self) -> StoreT:  # type: ignore[type-arg]
        return NoStore("memory://", self.app, self, table_name=self.name, key_type=bytes, value_type=bytes)

    async def on_start(self) -> None:
        # Faust would declare the changelog topic here, with its own idea of the number of partitions.
        await self.add_runtime_dependency(self.data)

    @property
    def changelog_name(self) -> str:
        """Name of the changelog topic."""
        return str(self.changelog_topic.get_topic_name())

    def get(self, key: bytes, default: Any = None) -> Any:
        """The row as the running unit sees it: its own writes first, then what is committed."""
        value = self.app.unit.read(self, key)  # type: ignore[attr-defined]
        return default if value is None else value

    def __getitem__(self, key: bytes) -> Any:
        value = self.get(key)
        if value is None:
            raise KeyError(key)
        return value

    def __contains__(self, key: object) -> bool:
        return self.get(key) is not None  # type: ignore[arg-type]

    def __setitem__(self, key: bytes, value: Any) -> None:
        self.app.unit.write(self, key, value)  # type: ignore[attr-defined]

    def __delitem__(self, key: bytes) -> None:
        self.app.unit.write(self, key, None)  # type: ignore[attr-defined]

    def scan(self, start: bytes, end: bytes | None, limit: int) -> list[tuple[bytes, Any]]:
        """Up to `limit` rows with start <= key < end, in the order of their keys, as the running unit sees them; None: to the table's end.

        It holds the rows of the unit's partition only. Costs a seek and the rows it returns, and as much as a row for each that was deleted
        lately between `start` and the last of them: for a queue, remember where its head is.
        """
        return self.app.unit.scan(self, start, end, limit)  # type: ignore[attr-defined,no-any-return]

    def committed(self, partition: int, key: bytes) -> Any:
        """The committed row, or None. Raises KeyError when this worker does not own the partition."""
        return self.app.partitions.rows(partition).read(self.name, key, self.value_type)  # type: ignore[attr-defined]
