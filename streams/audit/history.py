"""Queries of the audit -> rows from ClickHouse, in pieces, and links for the verifier."""

from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any, Self

import aiohttp
import orjson

from streams import clickhouse
from streams.audit.query import COLUMNS, Direction, Query, chains
from streams.audit.verification import Link, link_of_row
from streams.settings import Settings

ANSWER_TIMEOUT_S = 60.0  # The server answers when the first row is known: a chain is sorted before.
SORT_BYTES_MAX = 256 << 20  # Beyond it ClickHouse sorts on its disk.


class History:
    """`async with History(settings) as history`. Methods raise UnavailableError."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._session: aiohttp.ClientSession

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None, sock_connect=ANSWER_TIMEOUT_S, sock_read=ANSWER_TIMEOUT_S))
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._session.close()

    async def rows(self, query: Query) -> AsyncIterator[list[Any]]:
        """Rows as lists, whole numbers as such, times as texts."""
        async for line in self._lines(query, "JSONCompactEachRow"):
            yield orjson.loads(line)

    async def objects(self, query: Query) -> AsyncIterator[dict[str, Any]]:
        """Rows by the names of their columns."""
        async for line in self._lines(query, "JSONEachRow"):
            yield orjson.loads(line)

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

    def _lines(self, query: Query, form: str) -> AsyncIterator[bytes]:
        return clickhouse.rows(
            self._session, self._settings, query.sql, query.values, form=form, output_format_json_named_tuples_as_objects="0",
            max_bytes_before_external_sort=str(SORT_BYTES_MAX),
        )  # fmt: skip
