"""loyalty events -> the newest balance per member in Redis, for reads.

One hash per member, `<topic_prefix>:balance:<program_id>/<member_id>`, in absolute values. A write with an older sequence than the
stored one changes nothing, so repeated, late and concurrent writes are all harmless, and the cache can be rebuilt from the topic.
"""

import asyncio
import logging
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, cast

from redis.asyncio import Redis
from redis.exceptions import NoScriptError, RedisError, ResponseError

from schemas.records import LoyaltyEvent, RestatedStore
from sinks import restatements
from sinks.base import Health, Item, Receipt, Verdict
from sinks.batches import run_batches
from streams import topics
from streams.codec import open_codec
from streams.configuration import Configuration
from streams.settings import Settings

log = logging.getLogger(__name__)

ROWS_MAX = 500  # One round trip; more would hold up other clients of the server for milliseconds.
ANSWER_S = 5.0
ADDED_POINTS = ("pending_points", "held_points", "debt_points")
"""Fields that hashes from before there were several accounts do not have: nothing was pending, held or owed then."""
NUMBERS = frozenset({"sequence", "available_points", "qualifying_points", *ADDED_POINTS, "occurred_at_ms", "recorded_at_ms"})

# Sequences are compared as integers by length and text: Lua's numbers are doubles, which lose the last digits of large integers.
_PUT_UNLESS = """
local old = redis.call('HGET', KEYS[1], 'sequence')
local new = ARGV[2]
if old and (#old > #new or (#old == #new and old {comparison} new)) then return 0 end
redis.call('HSET', KEYS[1], unpack(ARGV))
return 1
"""
PUT_IF_NEWER = _PUT_UNLESS.format(comparison=">=")
PUT_IF_NOT_OLDER = _PUT_UNLESS.format(comparison=">")
"""For restatements: they may have to mend the values of the very sequence that is stored."""


def balance_key(prefix: str, program_id: str, member_id: str) -> str:
    return f"{prefix}:balance:{program_id}/{member_id}"


def connect(settings: Settings) -> "Redis":
    """A client of the settings' server; it connects at the first command."""
    options: dict[str, Any] = {"socket_timeout": ANSWER_S, "socket_connect_timeout": ANSWER_S}
    if settings.redis_password:
        options["password"] = settings.redis_password
    if settings.redis_ca_file and settings.redis_url.startswith("rediss://"):
        options["ssl_ca_certs"] = settings.redis_ca_file
    return Redis.from_url(settings.redis_url, **options)


async def read_balance(redis: "Redis", prefix: str, program_id: str, member_id: str) -> dict[str, Any] | None:
    """The member's cached balance, numbers as integers; None if the cache does not hold it. Raises redis' own errors.

    Works with clients that decode responses and with those that do not.
    """
    stored = await cast(Awaitable[dict[Any, Any]], redis.hgetall(balance_key(prefix, program_id, member_id)))
    if not stored:
        return None
    texts = dict.fromkeys(ADDED_POINTS, "0") | {_text(name): _text(value) for name, value in stored.items()}
    return {name: int(value) if name in NUMBERS else value for name, value in texts.items()}


async def run(settings: Settings, _: Configuration, stop: asyncio.Event, health: Health) -> None:
    """Keep the cache until `stop` is set."""
    cache = BalanceCache(connect(settings), settings.topic_prefix)
    mended = BalanceCache(connect(settings), settings.topic_prefix, PUT_IF_NOT_OLDER)
    codec = open_codec(settings)
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(run_batches(
                settings, sink="redis", group="sink-redis", topic=topics.EVENTS, write=cache.write,
                rows_max=ROWS_MAX, wait_max_s=0.0, outstanding_max=10 * ROWS_MAX, stop=stop, codec=codec, health=health,
            ))  # fmt: skip
            group.create_task(restatements.run(settings, RestatedStore.REDIS, {topics.EVENTS.stream: mended.write}, codec, stop, health))
    finally:
        await cache.close()
        await mended.close()


class BalanceCache:
    """Writes balances, a pipeline per batch."""

    def __init__(self, redis: "Redis", prefix: str, script: str = PUT_IF_NEWER) -> None:
        self._redis = redis
        self._script = script
        self._prefix = prefix
        self._sha = ""  # The server forgets scripts when it restarts: it gets this one again whenever it misses it.

    async def write(self, items: Sequence[Item[LoyaltyEvent]]) -> list[Receipt]:
        newest: dict[str, LoyaltyEvent] = {}
        for item in items:
            key = balance_key(self._prefix, item.record.program_id, item.record.member_id)
            if key not in newest or newest[key].sequence < item.record.sequence:
                newest[key] = item.record
        try:
            results = dict(zip(newest, await self._put(newest), strict=True))
        except (RedisError, OSError, TimeoutError) as error:
            return [Receipt(verdict=Verdict.RETRY, detail=f"Redis: {type(error).__name__}: {error}")] * len(items)
        return [judge(results[balance_key(self._prefix, item.record.program_id, item.record.member_id)]) for item in items]

    async def close(self) -> None:
        await self._redis.aclose()

    async def _put(self, newest: Mapping[str, LoyaltyEvent]) -> list[Any]:
        """One result per key: what the script returned, or the error of that key."""
        results = await self._call(newest) if self._sha else []
        if not results or any(isinstance(result, NoScriptError) for result in results):
            self._sha = _text(await self._redis.script_load(self._script))
            results = await self._call(newest)
        return results

    async def _call(self, newest: Mapping[str, LoyaltyEvent]) -> list[Any]:
        # Without MULTI: the script is atomic per member, which is all that is promised.
        pipeline = self._redis.pipeline(transaction=False)
        for key, event in newest.items():
            pipeline.evalsha(self._sha, 1, key, *arguments(event))
        return await pipeline.execute(raise_on_error=False)


def arguments(event: LoyaltyEvent) -> list[str | int]:
    """Field, value, field, value ... of the member's hash; the sequence first, for the script."""
    return [
        "sequence", event.sequence,
        "event_id", event.event_id,
        "status", event.account.status.value,
        "tier", event.account.tier,
        "available_points", event.account.available_points,
        "qualifying_points", event.account.qualifying_points,
        "pending_points", event.account.pending_points,
        "held_points", event.account.held_points,
        "debt_points", event.account.debt_points,
        "occurred_at_ms", event.occurred_at_ms,
        "recorded_at_ms", event.recorded_at_ms,
    ]  # fmt: skip


def judge(result: Any) -> Receipt:
    """What the server's answer for one key means: only a key that holds something else than our hash is hopeless."""
    if not isinstance(result, Exception):
        return Receipt(verdict=Verdict.DELIVERED)
    if isinstance(result, ResponseError) and "WRONGTYPE" in str(result):
        return Receipt(verdict=Verdict.REFUSED, reason="WRONG_TYPE", detail="the member's key holds something else than a hash")
    return Receipt(verdict=Verdict.RETRY, detail=f"Redis: {type(result).__name__}: {result}")


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
