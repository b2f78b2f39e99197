"""Where an account can be read: the newest balance in Redis, the whole account at the worker that owns it."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

import aiohttp
import orjson
from redis.exceptions import RedisError
from yarl import URL

from schemas.records import Account
from sinks import redis_cache
from streams.errors import UnavailableError
from streams.owners import first_answer
from streams.settings import Settings

T = TypeVar("T")

ANSWER_TIMEOUT_S = 2.0  # Of Redis and of a worker: a reader would rather hear quickly that it cannot be told.
ANSWER_BYTES_MAX = 1024 * 1024

CACHED = frozenset({"sequence", "status", "tier", "available_points", "qualifying_points", "recorded_at_ms"})


WAITING_FIELDS = ("member_id", "commands", "first_ingested_at_ms", "last_ingested_at_ms", "streams", "source_systems")
MERGES_FOLLOWED_MAX = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """What the workers say of commands that wait."""

    partitions: frozenset[int]
    """Those that were looked at."""
    rows: list[dict[str, Any]]
    """By member_id, in its order: WAITING_FIELDS."""


class Accounts:
    """Asks Redis and the workers. Neither needs to be up when the ingress starts."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._owners = [url.strip().rstrip("/") for url in settings.worker_urls.split(",") if url.strip()]
        self._redis = redis_cache.connect(settings)
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=ANSWER_TIMEOUT_S),
            connector=aiohttp.TCPConnector(limit=0, limit_per_host=64),
            headers={"Authorization": f"Bearer {settings.internal_token}"},
        )

    async def close(self) -> None:
        await self._session.close()
        await self._redis.aclose()

    async def from_cache(self, program_id: str, member_id: str) -> dict[str, Any] | None:
        """The newest balance that Redis holds; None if it holds none. Raises UnavailableError."""
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                balance = await redis_cache.read_balance(self._redis, self._settings.topic_prefix, program_id, member_id)
        except (RedisError, OSError, TimeoutError) as error:
            raise UnavailableError(f"Redis does not answer at LOYALTY_REDIS_URL: {type(error).__name__}: {error}") from error
        except (ValueError, UnicodeError) as error:
            raise UnavailableError(f"Redis at LOYALTY_REDIS_URL holds something else than a balance: {error}") from error
        return balance if balance is not None and CACHED <= balance.keys() else None

    async def from_owner(self, program_id: str, member_id: str) -> Account | None:
        """The account as the worker that owns it has it; None if there is no such member. Raises UnavailableError.

        All workers are asked at once: exactly one owns the member, the others say so (421).
        """
        path = f"/internal/accounts/{quote(program_id, safe='')}/{quote(member_id, safe='')}"
        return await self._first(path, Account.from_avro, "no worker of LOYALTY_WORKER_URLS owns the member: ")

    async def resolve(self, program_id: str, kind: str, value: str) -> str | None:
        """The member an external id leads to, by now: who took over is named for one who was merged. None: nobody has the id.

        Raises UnavailableError.
        """
        path = "/internal/identities/" + "/".join(quote(part, safe="") for part in (program_id, kind, value))
        member_id = await self._first(path, _member_id, "no worker of LOYALTY_WORKER_URLS owns the external id: ")
        for _ in range(MERGES_FOLLOWED_MAX):
            account = None if member_id is None else await self.from_owner(program_id, member_id)
            if account is None or account.merged_into is None:
                break
            member_id = account.merged_into
        return member_id

    async def waiting(self, program_id: str, limit: int, after: str) -> Waiting:
        """The first `limit` members behind `after` for whom commands wait, of the workers that answer. Raises UnavailableError if none does."""
        query = urlencode({"program": program_id, "limit": limit, "after": after})
        answers = await asyncio.gather(
            *(self._ask(f"{url}/internal/waiting?{query}", _waiting) for url in self._owners), return_exceptions=True
        )
        pages = [answer for answer in answers if isinstance(answer, Waiting)]
        failures = [answer for answer in answers if isinstance(answer, BaseException)]
        if not pages:
            raise UnavailableError("no worker of LOYALTY_WORKER_URLS says what waits: " + "; ".join(map(str, failures)))
        for failure in failures:
            if not isinstance(failure, UnavailableError):
                raise failure
        # Two workers may both have held a partition for a moment.
        rows = {row["member_id"]: row for page in pages for row in page.rows}
        return Waiting(partitions=frozenset().union(*(page.partitions for page in pages)), rows=[rows[name] for name in sorted(rows)][:limit])

    async def _first(self, path: str, read: Callable[[Any], T], problem: str) -> T | None:
        """The answer of the one worker that has it; None if that says there is nothing. Raises UnavailableError."""
        if not self._settings.internal_token:
            raise UnavailableError("the workers serve no accounts without LOYALTY_INTERNAL_TOKEN")
        return await first_answer((self._ask(url + path, read) for url in self._owners), problem)

    async def _ask(self, url: str, read: Callable[[Any], T]) -> T | None:
        try:
            async with self._session.get(URL(url, encoded=True), allow_redirects=False) as response:
                if response.status == 404:
                    return None
                if response.status != 200:
                    raise UnavailableError(f"{response.url.origin()} answers {response.status}")
                return read(orjson.loads(await read_bounded(response, ANSWER_BYTES_MAX)))
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError, KeyError, TypeError) as error:
            raise UnavailableError(f"{url.split('/internal/')[0]}: {type(error).__name__}: {error}") from error


def _member_id(answer: Any) -> str:
    return str(answer["member_id"])


def _waiting(answer: Any) -> Waiting:
    rows = [{name: row[name] for name in WAITING_FIELDS} for row in answer["rows"]]
    return Waiting(partitions=frozenset(map(int, answer["partitions"])), rows=rows)


async def read_bounded(response: aiohttp.ClientResponse, bytes_max: int) -> bytes:
    """The body, or its first `bytes_max` bytes."""
    body = bytearray()
    while len(body) < bytes_max:
        chunk = await response.content.read(bytes_max - len(body))
        if not chunk:
            break
        body += chunk
    return bytes(body)
