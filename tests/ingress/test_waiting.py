"""GET /v1/waiting and accounts by external id: what the workers say, put together; what they do not say is said to be missing."""

from collections.abc import Iterator
from typing import Any

import pytest

from schemas.records import Account, MemberStatus
from tests.ingress.support import TOKENS, Answer, Service, StubOwner

pytestmark = pytest.mark.stack


def row(member_id: str, commands: int = 1) -> dict[str, Any]:
    return {
        "member_id": member_id, "commands": commands, "first_ingested_at_ms": 1_795_318_800_000, "last_ingested_at_ms": 1_795_318_800_412,
        "streams": {"transactions": commands}, "source_systems": {"pms": commands},
    }  # fmt: skip


def page(partitions: list[int], *member_ids: str) -> dict[str, Any]:
    return {"partitions": partitions, "rows": [row(member_id) for member_id in member_ids]}


@pytest.fixture
def two(owners: list[StubOwner]) -> Iterator[list[StubOwner]]:
    """Two workers who own all four partitions, and for whom nothing waits."""
    owners[0].waiting, owners[1].waiting = page([0, 2]), page([1, 3])
    yield owners
    owners[0].waiting = owners[1].waiting = 503


async def ask(service: Service, query: str = "", token: str = TOKENS["operator"]) -> Answer:
    return await service.request("GET", f"/v1/waiting?program=grand{query}", token=token)


async def test_what_all_workers_say_in_one_order(service: Service, two: list[StubOwner]) -> None:
    two[0].waiting, two[1].waiting = page([0, 2], "@card:f00", "M-3"), page([1, 3], "M-1", "M-5")
    answer = await ask(service)
    assert answer.status == 200
    assert [one["member_id"] for one in answer.json["waiting"]] == ["@card:f00", "M-1", "M-3", "M-5"]
    assert answer.json["waiting"][1] == {
        "member_id": "M-1", "commands": 1, "first_ingested_at": "2026-11-22T03:40:00.000Z", "last_ingested_at": "2026-11-22T03:40:00.412Z",
        "streams": {"transactions": 1}, "source_systems": {"pms": 1},
    }  # fmt: skip
    assert (answer.json["next"], answer.json["partitions_missing"]) == (None, [])
    assert answer.headers["Cache-Control"] == "no-store"


async def test_a_page_says_where_the_next_one_begins(service: Service, two: list[StubOwner]) -> None:
    two[0].waiting, two[1].waiting = page([0, 2], "M-2", "M-4"), page([1, 3], "M-1", "M-3")
    answer = await ask(service, "&limit=2&after=M+0")
    assert ([one["member_id"] for one in answer.json["waiting"]], answer.json["next"]) == (["M-1", "M-2"], "M-2")
    assert two[0].asked[-1] == "/internal/waiting?program=grand&limit=3&after=M+0"


async def test_a_member_whose_partition_changes_hands_is_named_once(service: Service, two: list[StubOwner]) -> None:
    two[0].waiting, two[1].waiting = page([0, 2], "M-2"), page([1, 2, 3], "M-2")
    assert [one["member_id"] for one in (await ask(service)).json["waiting"]] == ["M-2"]


async def test_partitions_of_a_worker_that_does_not_answer_are_named(service: Service, two: list[StubOwner]) -> None:
    two[0].waiting, two[1].waiting = page([0, 2], "M-2"), 503
    answer = await ask(service)
    assert ([one["member_id"] for one in answer.json["waiting"]], answer.json["partitions_missing"]) == (["M-2"], [1, 3])


@pytest.mark.parametrize("answer", [503, {"partitions": [0], "rows": [{"member_id": "M-1"}]}, {"rows": []}])
async def test_nobody_who_answers_is_503(service: Service, two: list[StubOwner], answer: Any) -> None:
    two[0].waiting = two[1].waiting = answer
    assert (await ask(service)).status == 503


@pytest.mark.parametrize(
    ("query", "token", "status", "field"),
    [
        ("&limit=0", "operator", 422, "limit"),
        ("&limit=101", "operator", 422, "limit"),
        ("&limit=%C2%B2", "operator", 422, "limit"),
        ("&limit=many", "operator", 422, "limit"),
        ("&after=" + "x" * 129, "operator", 422, "after"),
        ("", "all", 403, None),
    ],
)
async def test_what_is_not_served(service: Service, query: str, token: str, status: int, field: str | None) -> None:
    answer = await ask(service, query, TOKENS[token])
    assert answer.status == status
    assert [one["field"] for one in answer.json.get("errors", ())] == ([field] if field else [])


async def test_the_programme_must_be_named_and_known(service: Service) -> None:
    for query in ("", "?program=other"):
        answer = await service.request("GET", f"/v1/waiting{query}", token=TOKENS["operator"])
        assert (answer.status, answer.json["errors"][0]["field"]) == (422, "program")


def member(owners: list[StubOwner], member_id: str, merged_into: str | None = None) -> None:
    owners[0].accounts[f"grand/{member_id}"] = 421
    owners[1].accounts[f"grand/{member_id}"] = Account(
        program_id="grand", member_id=member_id, status=MemberStatus.MERGED if merged_into else MemberStatus.ACTIVE, tier="GOLD",
        event_sequence=5, available_points=50, qualifying_points=60, enrolled_at_ms=1_795_318_800_000, merged_into=merged_into,
    )  # fmt: skip


@pytest.mark.parametrize("balance", ["", "/balance"])
async def test_an_account_by_external_id(service: Service, owners: list[StubOwner], balance: str) -> None:
    owners[0].identities["grand/card/47 11/a"] = "M-card"
    member(owners, "M-card")
    answer = await service.request("GET", f"/v1/members/@card:47%2011%2Fa{balance}?program=grand")
    assert (answer.status, answer.json["member_id"], answer.json["available_points"]) == (200, "M-card", 50)


async def test_who_was_merged_leads_to_who_took_over(service: Service, owners: list[StubOwner]) -> None:
    owners[0].identities["grand/card/old"] = "M-old"
    for member_id, into in (("M-old", "M-between"), ("M-between", "M-new"), ("M-new", None)):
        member(owners, member_id, into)
    answer = await service.request("GET", "/v1/members/@card:old?program=grand")
    assert (answer.status, answer.json["member_id"]) == (200, "M-new")


async def test_members_who_are_merged_in_a_circle_are_answered_for(service: Service, owners: list[StubOwner]) -> None:
    owners[0].identities["grand/card/round"] = "M-a"
    member(owners, "M-a", "M-b")
    member(owners, "M-b", "M-a")
    answer = await service.request("GET", "/v1/members/@card:round?program=grand")
    assert (answer.status, answer.json["status"]) == (200, "MERGED")


async def test_an_id_of_nobody_is_no_member(service: Service, owners: list[StubOwner]) -> None:
    owners[0].identities["grand/card/nobody"] = 404
    assert (await service.request("GET", "/v1/members/@card:nobody?program=grand")).status == 404


async def test_without_the_owner_of_the_id_nothing_is_said(service: Service) -> None:
    assert (await service.request("GET", "/v1/members/@card:elsewhere?program=grand")).status == 503


@pytest.mark.parametrize("address", ["@", "@card", "@card:", "@Card:1"])
async def test_an_address_has_a_form(service: Service, address: str) -> None:
    answer = await service.request("GET", f"/v1/members/{address}?program=grand")
    assert (answer.status, answer.json["errors"][0]["reason"]) == (422, "ADDRESS_INVALID")
