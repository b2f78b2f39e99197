"""Where an explanation comes from: ClickHouse, the log, the worker's tables, Redis, the sinks. What does not answer is left out, and said."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, TypeVar

from schemas.codec import Codec
from streams.destinations.model import Destination
from streams.errors import ContractError, UnavailableError
from streams.explanation.log import Log
from streams.history import Query, Reader
from streams.ingress.accounts import Accounts
from streams.ingress.standings import Standings
from streams.personal_data.sources import Sources as Tables
from streams.settings import Settings

T = TypeVar("T")
Row = dict[str, Any]

ANSWER_S = 6.0
"""Of each question. What did not answer one is asked no more."""
HISTORY, LOG, TABLE, CACHE, DESTINATIONS = "history", "log", "table", "cache", "destinations"


class Sources:
    """For the time of one explanation."""

    def __init__(
        self, settings: Settings, codec: Codec, *, history: Reader, tables: Tables, accounts: Accounts, standings: Standings,
        destinations: Callable[[], Awaitable[Collection[str]]], programs: Collection[str],
    ) -> None:  # fmt: skip
        """`destinations`: names of those that there are. `programs`: those in which an id may be; none: they are not known."""
        self.settings = settings
        self.log = Log(settings, codec)
        self.tables = tables
        self.accounts = accounts
        self.standings = standings
        self.destinations = destinations
        self.programs = frozenset(programs)
        self.not_reached: dict[str, str] = {}
        """Source -> why it has no say."""
        self._history = history

    async def ask(self, source: str, work: Callable[[], Awaitable[T]], otherwise: T) -> T:
        """What the source says; `otherwise`, if it does not answer, or has not before."""
        if source in self.not_reached:
            return otherwise
        try:
            async with asyncio.timeout(ANSWER_S):
                return await work()
        except (UnavailableError, ContractError) as error:  # The latter: a record of a version that is newer than this one.
            self.not_reached[source] = str(error)
        except TimeoutError:
            self.not_reached[source] = f"no answer within {ANSWER_S:.0f} s"
        return otherwise

    async def history(self, query: Query) -> list[Row]:
        """Rows of ClickHouse; none when it does not answer."""

        async def read() -> list[Row]:
            return [row async for row in self._history.objects(query)]

        return await self.ask(HISTORY, read, [])

    async def of_log(self, look: Callable[..., T], *arguments: Any, otherwise: T, **options: Any) -> T:
        """What the log has; it is read in a thread."""
        return await self.ask(LOG, lambda: asyncio.to_thread(look, *arguments, **options), otherwise)


@asynccontextmanager
async def opened(settings: Settings, codec: Codec, from_file: Mapping[str, Destination], programs: Collection[str]) -> AsyncIterator[Sources]:
    """The sources, for a command that has none of them yet. `from_file`: destinations of the configuration file."""
    from streams.agreement.deliveries import documents

    async def destinations() -> Collection[str]:
        if LOG in sources.not_reached:  # It would be waited for once more.
            raise UnavailableError(f"which destinations there are is in the log: {sources.not_reached[LOG]}")
        return await documents(settings, codec, from_file)

    async with AsyncExitStack() as stack:
        accounts, standings = Accounts(settings), Standings(settings)
        stack.push_async_callback(accounts.close)
        stack.push_async_callback(standings.close)
        sources = Sources(
            settings, codec, history=await stack.enter_async_context(Reader(settings)), tables=await stack.enter_async_context(Tables(settings)),
            accounts=accounts, standings=standings, destinations=destinations, programs=programs,
        )  # fmt: skip
        yield sources
