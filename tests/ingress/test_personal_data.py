"""DELETE /v1/members/{id} and GET .../export: who may, what is sent, and what happens when a part does not answer."""

import asyncio
import secrets
from typing import Any

import pytest

from schemas.records import MemberOperation, MemberOperationKind
from streams import topics
from tests.ingress.support import CODEC, NOBODY, TOKENS, Service, StubOwner, read_all

pytestmark = pytest.mark.stack
REASON = "program=grand&reason=privacy:1"


def page(*moved_from: str, merged_into: str | None = None) -> dict[str, Any]:
    account = {"moved_from": list(moved_from), "merged_into": merged_into}
    return {"account": account, "waiting": [], "vouchers": [], "outcomes": [], "rows_to_forget": 0, "next": None}


@pytest.fixture
def member(owners: list[StubOwner]) -> str:
    member_id = f"M-{secrets.token_hex(4)}"
    owners[1].pages[f"grand/{member_id}"] = page()
    return member_id


async def sent(service: Service, *member_ids: str) -> list[MemberOperation]:
    """The operations of these members in the log, in the order of `member_ids`."""
    records = [CODEC.decode(one.value(), MemberOperation) for one in await asyncio.to_thread(read_all, service.settings, topics.MEMBER_OPERATIONS)]
    return sorted((one for one in records if one.member_id in member_ids), key=lambda one: member_ids.index(one.member_id))


async def test_the_member_and_all_merged_numbers_are_erased(service: Service, owners: list[StubOwner], member: str) -> None:
    owners[1].pages[f"grand/{member}"] = page(f"{member}-a", f"{member}-b", merged_into="M-other")
    answer = await service.request("DELETE", f"/v1/members/{member}?{REASON}&actor=desk-7")
    assert (answer.status, answer.json["status"], answer.json["merged_into"]) == (202, "accepted", "M-other")
    assert answer.json["numbers"] == {f"{member}-a": "accepted", f"{member}-b": "accepted"}
    found = await sent(service, member, f"{member}-a", f"{member}-b")
    assert [(one.member_id, one.kind, one.event_id, one.reason, one.actor) for one in found] == [
        (name, MemberOperationKind.ERASE, "erasure:privacy:1", "privacy:1", "desk-7") for name in (member, f"{member}-a", f"{member}-b")
    ]


async def test_the_token_is_the_actor_and_the_key_the_id_unless_said(service: Service, member: str) -> None:
    answer = await service.request("DELETE", f"/v1/members/{member}?{REASON}", token=TOKENS["pms"], headers={"Idempotency-Key": '"one-key"'})
    assert (answer.status, answer.json["event_id"]) == (202, "one-key")
    (found,) = await sent(service, member)
    assert (found.actor, found.event_id, found.source_system) == ("pms", "one-key", "pms")


@pytest.mark.parametrize("reason", ["", "&reason=", "&reason=she%20moved%20away", "&reason=" + "x" * 65, "&reason=%C3%84"])
async def test_a_reason_is_a_reference_and_no_text(service: Service, member: str, reason: str) -> None:
    answer = await service.request("DELETE", f"/v1/members/{member}?program=grand{reason}")
    assert (answer.status, [one["field"] for one in answer.json["errors"]]) == (422, ["reason"])
    assert await sent(service, member) == []


@pytest.mark.parametrize(("method", "path", "scope"), [("DELETE", "", "member-operations:write"), ("GET", "/export", "members:export")])
async def test_a_token_needs_the_scope(service: Service, member: str, method: str, path: str, scope: str) -> None:
    answer = await service.request(method, f"/v1/members/{member}{path}?{REASON}", token=TOKENS["reader"])
    assert (answer.status, scope in answer.json["detail"]) == (403, True)
    assert (await service.request(method, f"/v1/members/{member}{path}?{REASON}", token=None)).status == 401


@pytest.mark.parametrize(
    ("query", "field"), [("reason=privacy:1", "program"), ("program=nowhere&reason=privacy:1", "program"), (REASON, "member_id")], ids=str
)
async def test_a_request_that_names_nobody(service: Service, query: str, field: str) -> None:
    name = "%0A" if field == "member_id" else "M-1"
    answer = await service.request("DELETE", f"/v1/members/{name}?{query}")
    assert (answer.status, [one["field"] for one in answer.json["errors"]]) == (422, [field])


async def test_without_the_owner_nothing_is_erased(service: Service) -> None:
    """Its account says which numbers were merged into the member: without it, some would be left."""
    answer = await service.request("DELETE", f"/v1/members/M-nowhere?{REASON}")
    assert answer.status == 503
    assert await sent(service, "M-nowhere") == []


async def test_without_the_history_there_is_no_export(service: Service, member: str) -> None:
    assert service.settings.clickhouse_url == NOBODY
    answer = await service.request("GET", f"/v1/members/{member}/export?program=grand", token=TOKENS["exporter"])
    assert (answer.status, answer.json["type"]) == (503, "urn:loyalty:unavailable")
