"""The cache holds the newest balance per member, whatever arrives twice, late or at once."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from schemas.records import AccountSnapshot, Cause, LoyaltyEventKind, MemberStatus
from sinks import redis_cache
from sinks.base import Verdict
from sinks.redis_cache import BalanceCache, balance_key, read_balance
from streams.settings import Settings
from tests.sinks.examples import EVERY_KIND, event, item

pytestmark = pytest.mark.stack
NOWHERE = {"kafka_bootstrap_servers": "127.0.0.1:1", "clickhouse_url": "http://127.0.0.1:1"}


@pytest.fixture
def settings(make_settings: Callable[..., Settings]) -> Settings:
    return make_settings(**NOWHERE)


@pytest.fixture
async def cache(settings: Settings) -> AsyncIterator[BalanceCache]:
    unit = BalanceCache(redis_cache.connect(settings), settings.topic_prefix)
    yield unit
    await unit.close()


@pytest.fixture
async def client(settings: Settings) -> AsyncIterator[Redis]:
    connected = redis_cache.connect(settings)
    yield connected
    await connected.aclose()


async def put(cache: BalanceCache, *events: Any) -> list[Verdict]:
    return [receipt.verdict for receipt in await cache.write([item(one) for one in events])]


async def test_the_balance_that_readers_get(cache: BalanceCache, client: Redis, settings: Settings) -> None:
    account = AccountSnapshot(
        status=MemberStatus.SUSPENDED, tier="GOLD", available_points=-5, qualifying_points=10**15, pending_points=3, held_points=4,
        debt_points=2**53 + 1,
    )
    assert await put(cache, event(7, "ü/1", account=account)) == [Verdict.DELIVERED]
    assert await read_balance(client, settings.topic_prefix, "grand", "ü/1") == {
        "sequence": 7,
        "event_id": "grand-ü/1-7",
        "status": "SUSPENDED",
        "tier": "GOLD",
        "available_points": -5,
        "qualifying_points": 10**15,
        "pending_points": 3,
        "held_points": 4,
        "debt_points": 2**53 + 1,
        "occurred_at_ms": event(7).occurred_at_ms,
        "recorded_at_ms": event(7).recorded_at_ms,
    }
    assert await read_balance(client, settings.topic_prefix, "grand", "nobody") is None
    assert await read_balance(client, settings.topic_prefix, "staff", "ü/1") is None


async def test_a_hash_from_before_there_were_several_accounts_is_read_and_replaced(
    cache: BalanceCache, client: Redis, settings: Settings
) -> None:
    await put(cache, event(1))
    await client.hdel(balance_key(settings.topic_prefix, "grand", "m-1"), *redis_cache.ADDED_POINTS)
    old = await read_balance(client, settings.topic_prefix, "grand", "m-1")
    assert old is not None and [old[name] for name in redis_cache.ADDED_POINTS] == [0, 0, 0] and old["available_points"] == 100
    account = AccountSnapshot(status=MemberStatus.ACTIVE, tier="GOLD", available_points=1, qualifying_points=1, pending_points=9)
    await put(cache, event(2, account=account))
    new = await read_balance(client, settings.topic_prefix, "grand", "m-1")
    assert new is not None and (new["pending_points"], new["held_points"]) == (9, 0)


async def test_no_field_can_hold_personal_data(cache: BalanceCache, client: Redis, settings: Settings) -> None:
    """What an erasure leaves in the cache, and all that is there for others: states, codes, numbers; never texts that people wrote."""
    texts = {"source_system": "SECRET", "reason": "SECRET", "stream": "SECRET", "command_id": "SECRET"}
    secret: dict[str, Any] = {"cause": Cause(**texts), "changed_attributes": ("SECRET",), "voucher_code": "SECRET", "correlation_id": "SECRET"}
    await put(cache, event(1, **secret))
    await put(cache, EVERY_KIND[LoyaltyEventKind.MEMBER_ERASED])
    stored = await read_balance(client, settings.topic_prefix, "grand", "m-1")
    assert stored is not None and (stored["status"], stored["sequence"]) == ("ERASED", 16)
    assert stored.keys() == {"sequence", "event_id", "status", "tier"} | redis_cache.NUMBERS
    for one in (event(1, **secret), EVERY_KIND[LoyaltyEventKind.MEMBER_ERASED]):
        assert "SECRET" not in str(redis_cache.arguments(one))


async def test_clients_that_decode_read_the_same(cache: BalanceCache, client: Redis, settings: Settings) -> None:
    await put(cache, event(1))
    decoding = Redis.from_url(settings.redis_url, decode_responses=True)
    both = [await read_balance(one, settings.topic_prefix, "grand", "m-1") for one in (client, decoding)]
    await decoding.aclose()
    assert both[0] == both[1] and both[0] is not None


@pytest.mark.parametrize("seed", range(3))
async def test_shuffled_repeated_concurrent_writes_never_go_back(settings: Settings, client: Redis, seed: int) -> None:
    rng = random.Random(seed)
    written = [event(sequence, f"m-{member}") for member in range(20) for sequence in range(1, 51)] * 2
    seen: dict[str, int] = {}

    async def write_some(part: list[Any]) -> None:
        unit = BalanceCache(redis_cache.connect(settings), settings.topic_prefix)
        for start in range(0, len(part), 37):
            assert set(await put(unit, *part[start : start + 37])) == {Verdict.DELIVERED}
        await unit.close()

    done = asyncio.Event()

    async def watch() -> None:
        while not done.is_set():
            for member in range(20):
                balance = await read_balance(client, settings.topic_prefix, "grand", f"m-{member}")
                if balance is not None:
                    assert balance["sequence"] >= seen.get(f"m-{member}", 0)
                    assert balance["available_points"] == 100 * balance["sequence"]  # Never half of one and half of another.
                    seen[f"m-{member}"] = balance["sequence"]

    rng.shuffle(written)
    watching = asyncio.create_task(watch())
    await asyncio.gather(*(write_some(written[number::4]) for number in range(4)))
    done.set()
    await watching
    for member in range(20):
        balance = await read_balance(client, settings.topic_prefix, "grand", f"m-{member}")
        assert balance is not None and balance["sequence"] == 50


@pytest.mark.parametrize(("first", "second", "stays"), [
    (9, 10, 10), (10, 9, 10), (99, 100, 100), (2**53, 2**53 + 1, 2**53 + 1), (2**53 + 1, 2**53, 2**53 + 1), (5, 5, 5),
])  # fmt: skip
async def test_sequences_are_compared_as_integers(
    cache: BalanceCache, client: Redis, settings: Settings, first: int, second: int, stays: int
) -> None:
    await put(cache, event(first))
    await put(cache, event(second))
    balance = await read_balance(client, settings.topic_prefix, "grand", "m-1")
    assert balance is not None and balance["sequence"] == stays


async def test_a_server_that_forgot_the_script_gets_it_again(cache: BalanceCache, client: Redis) -> None:
    assert await put(cache, event(1)) == [Verdict.DELIVERED]
    await client.script_flush()
    assert await put(cache, event(2), event(1, "m-2")) == [Verdict.DELIVERED] * 2


async def test_a_foreign_value_refuses_its_member_only(cache: BalanceCache, client: Redis, settings: Settings) -> None:
    await client.set(balance_key(settings.topic_prefix, "grand", "m-1"), "not ours")
    assert await put(cache, event(1, "m-1"), event(1, "m-2"), event(2, "m-1")) == [Verdict.REFUSED, Verdict.DELIVERED, Verdict.REFUSED]


async def test_a_server_that_is_not_there_is_a_retry(make_settings: Callable[..., Settings]) -> None:
    unit = BalanceCache(redis_cache.connect(make_settings(**NOWHERE, redis_url="redis://127.0.0.1:1/0")), "x")
    assert await put(unit, event(1), event(2)) == [Verdict.RETRY] * 2
    await unit.close()


async def test_a_server_that_hangs_is_a_retry(settings: Settings, valkey: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_cache, "ANSWER_S", 0.3)
    unit = BalanceCache(redis_cache.connect(settings), settings.topic_prefix)
    assert await put(unit, event(1)) == [Verdict.DELIVERED]
    valkey.pause()
    try:
        assert await put(unit, event(2)) == [Verdict.RETRY]
    finally:
        valkey.resume()
    assert await put(unit, event(3)) == [Verdict.DELIVERED]
    await unit.close()


@pytest.mark.parametrize("error", ["OOM command not allowed", "READONLY You can't write", "LOADING Dataset", "BUSY script"])
def test_errors_that_pass_are_retries(error: str) -> None:
    assert redis_cache.judge(ResponseError(error)).verdict is Verdict.RETRY


def test_settings_reach_the_client() -> None:
    plain = redis_cache.connect(Settings(redis_url="redis://h:1/2", redis_password="p", redis_ca_file="/ca.pem"))
    secure = redis_cache.connect(Settings(redis_url="rediss://h:1/0", redis_ca_file="/ca.pem"))
    assert plain.connection_pool.connection_kwargs["password"] == "p"
    assert plain.connection_pool.connection_kwargs["db"] == 2
    assert secure.connection_pool.connection_kwargs["ssl_ca_certs"] == "/ca.pem"
    assert "p'" not in repr(Settings(redis_password="p"))
