"""Queries of the audit -> rows from ClickHouse, in pieces, and links for the verifier."""

import ssl
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any, Self

import aiohttp
import orjson

from streams.audit.query import COLUMNS, Direction, Query, chains
from streams.audit.verification import Link, link_of_row
from streams.errors import UnavailableError
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
            yield line

    async def objects(self, query: Query) -> AsyncIterator[dict[str, Any]]:
        """Rows by the names of their columns."""
        async for line in self._lines(query, "JSONEachRow"):
            yield line

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

    async def _lines(self, query: Query, form: str) -> AsyncIterator[Any]:
        settings = self._settings
        parameters = {
            "database": settings.clickhouse_database,
            "default_format": form,
            "output_format_json_quote_64bit_integers": "0",
            "output_format_json_named_tuples_as_objects": "0",
            "date_time_output_format": "iso",
            "max_bytes_before_external_sort": str(SORT_BYTES_MAX),
            **{f"param_{name}": _escaped(value) for name, value in query.values.items()},
        }
        headers = {"X-ClickHouse-User": settings.clickhouse_username, "X-ClickHouse-Key": settings.clickhouse_password}
        context = ssl.create_default_context(cafile=settings.clickhouse_ca_file or None) if settings.clickhouse_url.startswith("https:") else True
        where = f"LOYALTY_CLICKHOUSE_URL={settings.clickhouse_url}"
        try:
            url = f"{settings.clickhouse_url.rstrip('/')}/"
            async with self._session.post(url, params=parameters, headers=headers, data=query.sql.encode(), ssl=context) as response:
                if response.status != 200:
                    said = (await response.text()).strip().partition("\n")[0]
                    raise UnavailableError(f"ClickHouse at {where} answers {response.status}: {said[:300]}")
                rest = b""
                async for chunk in response.content.iter_any():
                    *lines, rest = (rest + chunk).split(b"\n")
                    for line in lines:
                        yield _parsed(line, where)
                if rest:
                    yield _parsed(rest, where)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise UnavailableError(f"no ClickHouse answers at {where}: {type(error).__name__}: {error}") from error


def _escaped(value: str) -> str:
    """A text as ClickHouse reads it of a parameter."""
    return value.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n")


def _parsed(line: bytes, where: str) -> Any:
    """A row. An error in the middle of an answer comes as a line of text."""
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise UnavailableError(f"ClickHouse at {where} broke off its answer: {line[:200].decode(errors='replace')}") from error
