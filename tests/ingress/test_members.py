"""GET /v1/members/...: Redis and the owners, each of them alone and together."""

from typing import Any
from urllib.parse import quote

import pytest

from schemas.records import Account, AttributeOrigin, Hold, Lot, LotPart, MemberStatus, OfferUse, OpenVoucher
from sinks import redis_cache
from streams.domain.program import Program, Tier
from streams.ingress import members
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
        "pending_points": 3, "held_points": 2, "debt_points": 1, "occurred_at_ms": 1795318800000, "recorded_at_ms": 1795318800412,
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
        "pending_points": 3, "held_points": 2, "debt_points": 1, "qualifying_points": 60, "recorded_at": "2026-11-22T03:40:00.412Z", "source": "cache",
    }  # fmt: skip
    assert answer.headers["Cache-Control"] == "no-store"
    assert "grand/M-cached" not in owners[1].asked


async def test_a_balance_that_the_cache_does_not_have(service: Service, owners: list[StubOwner]) -> None:
    own(owners, "M-owned", account("M-owned", pending_points=7, held_points=8, debt_points=9))
    answer = await ask(service, "M-owned")
    assert (answer.status, answer.json["available_points"], answer.json["source"]) == (200, 50, "owner")
    assert [answer.json[name] for name in ("pending_points", "held_points", "debt_points")] == [7, 8, 9]
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


DAY_MS = 86_400_000
EARNED_MS = 1_795_318_800_000  # 2026-11-22T03:40:00Z


def lot(lot_id: str, remaining: int, **fields: Any) -> Lot:
    return Lot(lot_id=lot_id, points=100, remaining=remaining, earned_at_ms=EARNED_MS, **fields)


async def test_a_member_with_everything(service: Service, owners: list[StubOwner]) -> None:
    soon_ms, late_ms = EARNED_MS + DAY_MS, EARNED_MS + 2 * DAY_MS
    whole = account(
        "M-all", pending_points=20, held_points=30, debt_points=4, tier_valid_until_ms=late_ms,
        lots=(
            lot("spent", 0, held=30, expires_at_ms=EARNED_MS + 1),
            lot("a", 10, expires_at_ms=soon_ms),
            lot("b", 20, expires_at_ms=soon_ms, pending=True, available_from_ms=EARNED_MS),
            lot("c", 40, expires_at_ms=late_ms),
            lot("d", 5),
        ),
        holds=(Hold(hold_id="h", parts=(LotPart(lot_id="spent", points=30), LotPart(lot_id="x", points=1)), placed_at_ms=EARNED_MS, expires_at_ms=soon_ms),),
        vouchers=(OpenVoucher(voucher_code="V-1", reward_code="SPA-DAY"),),
        offer_uses=(OfferUse(offer_id="double-points", period_starts_at_ms=0, uses=2, points=50, asked=True),),
        scheduled_status=MemberStatus.SUSPENDED, scheduled_at_ms=late_ms, scheduled_reason="the contract ends", pool_member_id="M-pool",
        external_ids={"card": "6035"},
        origins=(
            AttributeOrigin(names=("external_ids.card", "status"), source_system="hr", source_version=7, event_id="hr:7", occurred_at_ms=EARNED_MS),
        ),
    )  # fmt: skip
    own(owners, "M-all", whole)
    answer = await ask(service, "M-all", balance=False)
    assert answer.status == 200
    shown = {name: value for name, value in answer.json.items() if name not in ("lots", "attributes", "segments", "enrolled_at")}
    assert shown == {
        "program_id": "grand", "member_id": "M-all", "sequence": 5, "source": "owner", "status": "ACTIVE", "status_reason": None, "tier": "GOLD",
        "available_points": 50, "pending_points": 20, "held_points": 30, "debt_points": 4, "qualifying_points": 60, "profile_version": 0,
        "scheduled_status": {"status": "SUSPENDED", "at": "2026-11-24T03:40:00.000Z", "reason": "the contract ends"},
        "merged_into": None, "pool_member_id": "M-pool", "active_offers": ["double-points"],
        "tier_progress": {
            "name": "GOLD", "valid_until": "2026-11-24T03:40:00.000Z", "qualifying_points": 60, "next_tier": None, "points_to_next": None,
            "projected_tier": "GOLD", "points_to_keep": None,
        },
        "expiring": {"points": 30, "expires_at": "2026-11-23T03:40:00.000Z"},
        "holds": [{"hold_id": "h", "points": 31, "placed_at": "2026-11-22T03:40:00.000Z", "expires_at": "2026-11-23T03:40:00.000Z"}],
        "vouchers": [{"voucher_code": "V-1", "reward_code": "SPA-DAY", "expires_at": None}],
        "offers": [{"offer_id": "double-points", "uses": 2, "points": 50, "asked": True}],
        "external_ids": {"card": "6035"},
        "origins": {
            name: {"source_system": "hr", "source_version": 7, "event_id": "hr:7", "occurred_at": "2026-11-22T03:40:00.000Z"}
            for name in ("external_ids.card", "status")
        },
    }  # fmt: skip
    assert [one["lot_id"] for one in answer.json["lots"]] == ["spent", "a", "b", "c", "d"]
    assert answer.json["lots"][2] == {
        "lot_id": "b", "remaining": 20, "held": 0, "pending": True, "parked": False, "earned_at": "2026-11-22T03:40:00.000Z",
        "expires_at": "2026-11-23T03:40:00.000Z", "available_from": "2026-11-22T03:40:00.000Z",
    }  # fmt: skip


async def test_a_member_with_nothing(service: Service, owners: list[StubOwner]) -> None:
    own(owners, "M-new", account("M-new", available_points=0))
    answer = await ask(service, "M-new", balance=False)
    assert [answer.json[name] for name in ("expiring", "scheduled_status", "merged_into", "pool_member_id")] == [None] * 4
    assert [answer.json[name] for name in ("lots", "holds", "vouchers", "offers")] == [[]] * 4


@pytest.mark.parametrize(
    ("tier", "qualifying_points", "next_tier", "points_to_next"),
    [
        ("MEMBER", 0, "GOLD", 10_000),
        ("MEMBER", 9_999, "GOLD", 1),
        ("MEMBER", 12_000, "GOLD", 0),
        ("GOLD", 10_000, "PLATINUM", 20_000),
        ("GOLD", 50, "PLATINUM", 29_950),
        ("PLATINUM", 30_000, None, None),
        ("SILVER", 500, "GOLD", 9_500),
        ("SILVER", 99_999, None, None),
    ],
)
def test_the_way_to_the_next_tier(tier: str, qualifying_points: int, next_tier: str | None, points_to_next: int | None) -> None:
    tiers = (Tier(name="MEMBER", threshold_points=0), Tier(name="GOLD", threshold_points=10_000), Tier(name="PLATINUM", threshold_points=30_000))
    program = Program(program_id="grand", tiers=tiers)
    found = members._tier_progress(account("M", tier=tier, qualifying_points=qualifying_points), program, EARNED_MS)
    assert (found["name"], found["next_tier"], found["points_to_next"]) == (tier, next_tier, points_to_next)


async def test_a_member_who_was_merged_is_still_answered_for(service: Service, owners: list[StubOwner]) -> None:
    own(owners, "M-old", account("M-old", status=MemberStatus.MERGED, merged_into="M-kept", available_points=0))
    answer = await ask(service, "M-old", balance=False)
    assert (answer.status, answer.json["member_id"]) == (200, "M-old")
    assert (answer.json["status"], answer.json["merged_into"]) == ("MERGED", "M-kept")
    assert (await ask(service, "M-old")).json["status"] == "MERGED"


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
