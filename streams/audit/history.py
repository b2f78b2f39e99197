"""Records of the audit in ClickHouse -> links for the verifier."""

from collections.abc import AsyncIterator

from streams.audit.query import COLUMNS, Direction, chains
from streams.audit.verification import Link, link_of_row
from streams.history import Reader


class History(Reader):
    """The audit's tables, row by row. Methods raise UnavailableError."""

    async def links(self, direction: Direction, partition: int | None = None) -> AsyncIterator[Link]:
        """All records of the direction, each chain's in the order of its topic."""
        fields = COLUMNS[direction]
        destination = fields.index("destination") if direction is Direction.OUT else None
        async for row in self.rows(chains(direction, partition)):
            number, previous, record_hash, source_partition, source_offset = row[len(fields) :]
            yield link_of_row(
                row[: len(fields)], destination=None if destination is None else row[destination], partition=source_partition,
                place=f"{'sync' if destination is None else 'delivery'}_audit source_partition {source_partition} source_offset {source_offset}",
                number=number, previous=previous, record_hash=record_hash,
            )  # fmt: skip
