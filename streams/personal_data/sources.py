"""Where an export comes from: the worker that owns the member, and ClickHouse. Both are read in pieces, so that a long history costs no memory."""

from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import aiohttp
import orjson
from yarl import URL

from streams import clickhouse
from streams.errors import UnavailableError
from streams.owners import first_answer
from streams.settings import Settings

ANSWER_TIMEOUT_S = 15.0
PAGE_BYTES_MAX = 16 << 20

# Whatever table has a member's rows is part of the export, also one that a later migration adds.
TABLES = """
SELECT name FROM system.tables
WHERE database = currentDatabase() AND engine LIKE '%MergeTree' AND name IN (
    SELECT table FROM system.columns WHERE database = currentDatabase() AND name IN ('program_id', 'member_id') GROUP BY table HAVING count() = 2
)
ORDER BY name FORMAT JSONEachRow
"""
ROWS = """
SELECT * EXCEPT ('^(mirrored|written)_at$') FROM {table:Identifier} FINAL
WHERE program_id = {program_id:String} AND member_id = {member_id:String}
ORDER BY tupleElement(tuple(COLUMNS('^(source_partition|started_at)$')), 1), tupleElement(tuple(COLUMNS('^(source_offset|number)$')), 1) FORMAT JSONEachRow
"""
"""In the order of the topic; what is no record of a topic, a finding of a reconciliation, in the order in which it was found."""
DEAD_LETTERS = """
SELECT * EXCEPT (mirrored_at) FROM dead_letters FINAL WHERE key = concat({program_id:String}, '/', {member_id:String})
ORDER BY failed_at, dead_letter_id FORMAT JSONEachRow
"""


class Sources:
    """For the time of one export: `async with Sources(settings) as sources`. Methods raise UnavailableError."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._owners = [url.strip().rstrip("/") for url in settings.worker_urls.split(",") if url.strip()]
        self._session: aiohttp.ClientSession

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None, sock_connect=ANSWER_TIMEOUT_S, sock_read=ANSWER_TIMEOUT_S))
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._session.close()

    async def held(self, program_id: str, member_id: str, after: str = "") -> dict[str, Any]:
        """One page of `streams.personal_data.owner.held`, from whichever worker owns the member."""
        if not self._settings.internal_token:
            raise UnavailableError("the workers serve no accounts without LOYALTY_INTERNAL_TOKEN")
        path = f"/internal/export/{quote(program_id, safe='')}/{quote(member_id, safe='')}{f'?after={after}' if after else ''}"
        problem = "no worker of LOYALTY_WORKER_URLS owns the member: "
        return await first_answer((self._page(url + path) for url in self._owners), problem)

    async def _page(self, url: str) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {self._settings.internal_token}"}
        try:
            async with self._session.get(URL(url, encoded=True), headers=headers, allow_redirects=False) as response:
                if response.status != 200:
                    raise UnavailableError(f"{response.url.origin()} answers {response.status}")
                page: dict[str, Any] = orjson.loads(await response.read())
                return page
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            raise UnavailableError(f"{url.split('/internal/')[0]}: {type(error).__name__}: {error}") from error

    async def tables(self) -> list[str]:
        """Names of ClickHouse's tables with rows of members."""
        return [orjson.loads(row)["name"] async for row in self._rows(TABLES, {})]

    async def history(self, table: str, program_id: str, member_id: str) -> AsyncIterator[bytes]:
        """A member's rows of a table, each as JSON."""
        async for row in self._rows(ROWS, {"table": table, "program_id": program_id, "member_id": member_id}):
            yield row

    async def dead_letters(self, program_id: str, member_id: str) -> AsyncIterator[bytes]:
        """What ClickHouse has of records under the member's key that could not be processed, each as JSON."""
        async for row in self._rows(DEAD_LETTERS, {"program_id": program_id, "member_id": member_id}):
            yield row

    def _rows(self, query: str, values: dict[str, str]) -> AsyncIterator[bytes]:
        return clickhouse.rows(self._session, self._settings, query, values)
