"""Where an account can be read: the newest balance in Redis, the whole account at the worker that owns it."""

import asyncio
from typing import Any
from urllib.parse import quote

import aiohttp
import orjson
from redis.exceptions import RedisError
from yarl import URL

from schemas.records import Account
from sinks import redis_cache
from streams.errors import UnavailableError
from streams.settings import Settings

ANSWER_TIMEOUT_S = 2.0  # Of Redis and of a worker: a reader would rather hear quickly that it cannot be told.
ANSWER_BYTES_MAX = 1024 * 1024

CACHED = frozenset({"sequence", "status", "tier", "available_points", "qualifying_points", "recorded_at_ms"})


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
        if not self._settings.internal_token:
            raise UnavailableError("the workers serve no accounts without LOYALTY_INTERNAL_TOKEN")
        path = f"/internal/accounts/{quote(program_id, safe='')}/{quote(member_id, safe='')}"
        asked = [asyncio.create_task(self._ask(url + path)) for url in self._owners]
        problems = []
        try:
            for answer in asyncio.as_completed(asked):
                try:
                    return await answer
                except UnavailableError as error:
                    problems.append(str(error))
        finally:
            for task in asked:
                task.cancel()
        raise UnavailableError("no worker of LOYALTY_WORKER_URLS owns the member: " + "; ".join(problems))

    async def _ask(self, url: str) -> Account | None:
        try:
            async with self._session.get(URL(url, encoded=True), allow_redirects=False) as response:
                if response.status == 404:
                    return None
                if response.status != 200:
                    raise UnavailableError(f"{response.url.origin()} answers {response.status}")
                return Account.from_avro(orjson.loads(await read_bounded(response, ANSWER_BYTES_MAX)))
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError, KeyError, TypeError) as error:
            raise UnavailableError(f"{url.split('/internal/')[0]}: {type(error).__name__}: {error}") from error


async def read_bounded(response: aiohttp.ClientResponse, bytes_max: int) -> bytes:
    """The body, or its first `bytes_max` bytes."""
    body = bytearray()
    while len(body) < bytes_max:
        chunk = await response.content.read(bytes_max - len(body))
        if not chunk:
            break
        body += chunk
    return bytes(body)
