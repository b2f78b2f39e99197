"""A question about the history -> rows of ClickHouse, page by page: what all lists of it share.

Values reach ClickHouse as parameters only. A page goes on where the one before it ended: newest first, by time and place in the topic, so
that what is recorded meanwhile shifts nothing.
"""

import base64
import binascii
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, Self

import aiohttp
import orjson

from streams import clickhouse
from streams.settings import Settings

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
TIME_MS_MIN, TIME_MS_MAX = 0, 4_102_444_800_000  # 1970 to 2100.
ANSWER_TIMEOUT_S = 60.0  # The server answers when the first row is known: a long list is sorted before.
SORT_BYTES_MAX = 256 << 20  # Beyond it ClickHouse sorts on its disk.


@dataclass(frozen=True, slots=True)
class Query:
    """A statement with `{name:Type}` for its values, and the values as texts; several for `{name:Array(String)}`."""

    sql: str
    values: Mapping[str, str | Sequence[str]]


@dataclass(frozen=True, slots=True)
class Cursor:
    """The last record of a page. `text` is what clients get, and give back as it is."""

    recorded_at_ms: int
    partition: int
    offset: int

    @property
    def text(self) -> str:
        return base64.urlsafe_b64encode(f"{self.recorded_at_ms}.{self.partition}.{self.offset}".encode()).decode().rstrip("=")

    @classmethod
    def parse(cls, text: str) -> "Cursor":
        """Raises ValueError for what no page has given."""
        try:
            numbers = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True).decode("ascii").split(".")
        except (binascii.Error, UnicodeError) as error:
            raise ValueError("no cursor") from error
        found = cls(*(int(number) for number in numbers)) if len(numbers) == 3 and all(map(str.isdigit, numbers)) else None
        if found is None or found.recorded_at_ms > TIME_MS_MAX or found.partition >= 2**16 or found.offset >= 2**63:
            raise ValueError("no cursor")
        return found


@dataclass(slots=True)
class Conditions:
    """What must hold of each row, and the values that it names."""

    texts: list[str] = field(default_factory=list)
    values: dict[str, str] = field(default_factory=dict)

    def equal(self, columns: Mapping[str, str | None]) -> None:
        """Columns that must equal a value; None: whatever it is."""
        for column, value in columns.items():
            if value is not None:
                self.texts.append(f"{column} = {{{column}:String}}")
                self.values[column] = value

    def among(self, column: str, allowed: frozenset[str]) -> None:
        """A column that must be one of these; empty: whatever it is."""
        if allowed:
            names = {f"{column}_{number}": value for number, value in enumerate(sorted(allowed))}
            self.texts.append(f"{column} IN ({', '.join(f'{{{name}:String}}' for name in names)})")
            self.values |= names

    def between(self, column: str, since_ms: int | None, until_ms: int | None) -> None:
        """A time from `since_ms` on and before `until_ms`."""
        for name, sign, at_ms in (("since", ">=", since_ms), ("until", "<", until_ms)):
            if at_ms is not None:
                self.texts.append(f"{column} {sign} fromUnixTimestamp64Milli({{{name}:Int64}}, 'UTC')")
                self.values[name] = str(at_ms)

    def after(self, column: str, cursor: Cursor | None) -> None:
        """What follows the last record of a page, by the time in this column."""
        if cursor is not None:
            place = "(fromUnixTimestamp64Milli({after_ms:Int64}, 'UTC'), {after_partition:UInt16}, {after_offset:UInt64})"
            self.texts.append(f"({column}, source_partition, source_offset) < {place}")
            self.values |= {"after_ms": str(cursor.recorded_at_ms), "after_partition": str(cursor.partition), "after_offset": str(cursor.offset)}

    @property
    def where(self) -> str:
        """The clause, with a blank before it; nothing without conditions."""
        return f" WHERE {' AND '.join(self.texts)}" if self.texts else ""


class Reader:
    """`async with Reader(settings) as reader`. Methods raise UnavailableError."""

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

    def _lines(self, query: Query, form: str) -> AsyncIterator[bytes]:
        return clickhouse.rows(
            self._session, self._settings, query.sql, query.values, form=form, output_format_json_named_tuples_as_objects="0",
            max_bytes_before_external_sort=str(SORT_BYTES_MAX),
        )  # fmt: skip


def in_milliseconds(columns: tuple[str, ...]) -> str:
    """Columns to select; one that ends with _ms is the time of that name, in milliseconds since 1970."""
    return ", ".join(f"toUnixTimestamp64Milli({name.removesuffix('_ms')}) AS {name}" if name.endswith("_ms") else name for name in columns)


def instant_ms(text: str) -> int:
    """A time in RFC 3339, or a date, which is its midnight in UTC. Raises ValueError."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        if len(text) > len("2026-11-25"):
            raise ValueError("a time needs its offset, Z or +01:00")
        moment = moment.replace(tzinfo=UTC)
    at_ms = (moment - EPOCH) // timedelta(milliseconds=1)
    if not TIME_MS_MIN <= at_ms <= TIME_MS_MAX:
        raise ValueError("is not between the years 1970 and 2100")
    return at_ms
