"""GET /v1/members/...: Redis and the owners, each of them alone and together."""

from typing import Any
from urllib.parse import quote

import pytest

from schemas.records import Account, MemberStatus
from sinks import redis_cache
from tests.ingress.support import TOKENS, Service, StubOwner

pytestmark = pytest.mark.stack


def account(member_id: str, sequence: int = 5, **fields: Any) -> Account:
    values: dict[str, Any] = {
        "program_id": "grand", "status": MemberStatus.ACTIVE, "tier": "GOLD", "available_points": 50, "qualifying_points": 60,
        "attributes": {"given_name": "Ada"}, "segments": ("s",), "active_offers": ("double-points",), "enrolled_at_ms": 1795318800000,
    }  # fmt: skip
    return Account(member_id=member_id, event_sequence=sequence, **(values | fields))


def cache(service: Service, member_id: str, sequence: int = 5, **fields: Any) -> None:
    values: dict[str, Any] = {
        "sequence": sequence, "event_id": "e", "status": "ACTIVE", "tier": "GOLD", "available_points": 40, "qualifying_points": 60,
        "occurred_at_ms": 1795318800000, "recorded_at_ms": 1795318800412,
    }  # fmt: skip

    async def put() -> None:
        redis = redis_cache.connect(service.settings)
        key = redis_cache.balance_key(service.settings.topic_prefix, "grand", member_id)
        await redis.hset(key, mapping=values | fields)
        await redis.aclose()

    service.run(put())


def own(owners: list[StubOwner], member_id: str, answer: Any) -> None:
    """The second worker owns the member, the first says so."""
    owners[0].accounts[f"grand/{member_id}"] = 421
    owners[1].accounts[f"grand/{member_id}"] = answer


async def ask(service: Service, member_id: str, query: str = "?program=grand", balance: bool = True, **options: Any) -> Any:
    path = f"/v1/members/{quote(member_id, safe='')}" + ("/balance" if balance else "")
    return await service.request("GET", path + query, **options)


async def test_a_balance_from_the_cache(service: Service, owners: list[StubOwner]) -> None:
    cache(service, "M-cached")
    answer = await ask(service, "M-cached")
    assert answer.status == 200
    assert answer.json == {
        "program_id": "grand", "member_id": "M-cached", "sequence": 5, "status": "ACTIVE", "tier": "GOLD", "available_points": 40,
        "qualifying_points": 60, "recorded_at": "2026-11-22T03:40:00.412Z", "source": "cache",
    }  # fmt: skip
    assert answer.headers["Cache-Control"] == "no-store"
    assert "grand/M-cached" not in owners[1].asked


async def test_a_balance_that_the_cache_does_not_have(service: Service, owners: list[StubOwner]) -> None:
    own(owners, "M-owned", account("M-owned"))
    answer = await ask(service, "M-owned")
    assert (answer.status, answer.json["available_points"], answer.json["source"]) == (200, 50, "owner")
    assert "attributes" not in answer.json


@pytest.mark.parametrize(("least", "status", "source"), [(5, 200, "cache"), (6, 200, "owner"), (7, 200, "owner"), (8, 503, None)])
async def test_reading_your_writes(service: Service, owners: list[StubOwner], least: int, status: int, source: str | None) -> None:
    cache(service, "M-late", sequence=5)
    own(owners, "M-late", account("M-late", sequence=7))
    answer = await ask(service, "M-late", f"?program=grand&min_sequence={least}")
    assert (answer.status, answer.json.get("source")) == (status, source)
    if status == 503:
        assert answer.json["type"] == "urn:loyalty:not-yet" and answer.headers["Retry-After"] == "1"


async def test_a_member_from_the_owner(service: Service, owners: list[StubOwner]) -> None:
    own(owners, "M/ö {}?&#%", account("M/ö {}?&#%", status_reason="r", profile_version=3))
    answer = await ask(service, "M/ö {}?&#%", balance=False)
    assert answer.status == 200
    assert answer.json["member_id"] == "M/ö {}?&#%" and answer.json["source"] == "owner"
    assert answer.json["attributes"] == {"given_name": "Ada"} and answer.json["enrolled_at"] == "2026-11-22T03:40:00.000Z"


@pytest.mark.parametrize("answer", [421, 500, 503, 401, b"<html>", b'{"program_id":"grand"}', b"[]", b""], ids=str)
async def test_a_member_from_the_cache_while_no_owner_answers(service: Service, owners: list[StubOwner], answer: Any) -> None:
    member_id = f"M-down-{str(answer)[:10]}"
    own(owners, member_id, answer)
    assert (await ask(service, member_id, balance=False)).status == 503
    assert (await ask(service, member_id)).status == 503
    cache(service, member_id)
    found = await ask(service, member_id, balance=False)
    assert (found.status, found.json["source"]) == (200, "cache") and "attributes" not in found.json
    assert (await ask(service, member_id, "?program=grand&min_sequence=6", balance=False)).status == 503


async def test_what_is_down_is_not_for_clients(service: Service, owners: list[StubOwner]) -> None:
    own(owners, "M-secret", 500)
    answer = await ask(service, "M-secret")
    assert answer.status == 503 and b"127.0.0.1" not in answer.body and b"Redis" not in answer.body and b"worker" not in answer.body


async def test_nobody_of_that_name(service: Service, owners: list[StubOwner]) -> None:
    own(owners, "M-nobody", 404)
    for balance in (True, False):
        answer = await ask(service, "M-nobody", balance=balance)
        assert (answer.status, answer.json["type"]) == (404, "urn:loyalty:not-a-member")


async def test_a_damaged_cache_entry_is_passed_by(service: Service, owners: list[StubOwner]) -> None:
    own(owners, "M-damaged", account("M-damaged"))
    cache(service, "M-damaged", available_points="many")
    assert (await ask(service, "M-damaged")).json["source"] == "owner"


@pytest.mark.parametrize(
    ("query", "token", "status"),
    [
        ("?program=grand", None, 401),
        ("?program=grand", "all", 200),
        ("?program=grand", "reader", 200),
        ("?program=grand", "pms", 200),
        ("", "pms", 200),
        ("", "all", 422),
        ("?program=", "all", 422),
        ("?program=staff", "pms", 403),
        ("?program=nowhere", "all", 422),
        ("?program=%FF%00", "all", 422),
        ("?program=grand&min_sequence=x", "all", 422),
        ("?program=grand&min_sequence=-1", "all", 422),
        ("?program=grand&min_sequence=" + "9" * 30, "all", 422),
    ],
)
async def test_who_may_read_what(service: Service, query: str, token: str | None, status: int) -> None:
    cache(service, "M-seen")
    answer = await ask(service, "M-seen", query, token=TOKENS[token] if token else None)
    assert answer.status == status


@pytest.mark.parametrize("member_id", ["%00", "%FF", "x" * 129, "%ED%A0%80"])
async def test_ids_that_cannot_be(service: Service, member_id: str) -> None:
    answer = await service.request("GET", f"/v1/members/{member_id}/balance?program=grand")
    assert answer.status in (404, 422)
