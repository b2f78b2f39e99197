"""PUT and DELETE /v1/members/{id}/devices/{device}: attributes of the profile, by the topic of profile changes."""

import asyncio
import secrets
from typing import Any

import pytest

from schemas.records import ProfileChange
from streams import topics
from streams.connectors.fcm import CONNECTOR
from streams.ingress import devices
from tests.ingress.support import CODEC, TOKENS, Service, read_all

pytestmark = pytest.mark.stack
PHONE = {"push_token": "f9dJQwErTy:APA91bExample"}


@pytest.fixture
def member() -> str:
    return f"M-{secrets.token_hex(4)}"


async def sent(service: Service, member_id: str) -> list[ProfileChange]:
    records = [CODEC.decode(one.value(), ProfileChange) for one in await asyncio.to_thread(read_all, service.settings, topics.PROFILE_CHANGES)]
    return [one for one in records if one.member_id == member_id]


async def test_a_phone_is_registered_and_forgotten(service: Service, member: str) -> None:
    path = f"/v1/members/{member}/devices/phone_1?program=grand"
    first = await service.request("PUT", path, json=PHONE, headers={"Idempotency-Key": "app:1"})
    assert (first.status, first.json["status"], first.json["event_id"]) == (202, "accepted", "app:1")
    second = await service.request("DELETE", path)
    assert (second.status, second.json["event_id"].startswith("device:")) == (202, True)
    found = await sent(service, member)
    assert [one.attributes for one in found] == [{"push_token.phone_1": PHONE["push_token"]}, {"push_token.phone_1": None}]


def test_the_push_service_reads_the_same_attributes() -> None:
    (option,) = (option for option in CONNECTOR.target_options if option.name == "token_prefix")
    assert option.default == devices.PREFIX


@pytest.mark.parametrize(
    ("path", "body", "status", "field"),
    [
        ("phone", {}, 422, "push_token"), ("phone", {"push_token": ""}, 422, "push_token"), ("phone", {"push_token": "a b"}, 422, "push_token"),
        ("phone", {"push_token": "x" * 1025}, 422, "push_token"), ("phone", [], 422, "push_token"),
        ("Phone", PHONE, 422, "device_id"), ("x" * 41, PHONE, 422, "device_id"),
    ],
)  # fmt: skip
async def test_what_cannot_be_is_refused(service: Service, member: str, path: str, body: Any, status: int, field: str) -> None:
    answer = await service.request("PUT", f"/v1/members/{member}/devices/{path}?program=grand", json=body)
    assert (answer.status, [one["field"] for one in answer.json["errors"]]) == (status, [field])
    assert await sent(service, member) == []


async def test_a_token_needs_the_scope(service: Service, member: str) -> None:
    path = f"/v1/members/{member}/devices/phone?program=grand"
    assert (await service.request("PUT", path, json=PHONE, token=TOKENS["reader"])).status == 403
    assert (await service.request("DELETE", path, token=None)).status == 401
