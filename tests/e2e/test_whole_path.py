"""From a hotel check-out to the app, Redis and ClickHouse, through every process of the pipeline, over HTTP and Kafka."""

import asyncio
import base64
import json
import time
import urllib.parse
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import clickhouse_connect
import pytest

from infra.fakes.apaleo import ApaleoFake
from infra.fakes.receiver import Receiver
from infra.stack import Stack
from streams import signatures
from streams.configuration import new_webhook_secret
from tests.waiting import wait_until

APP_SECRET, HR_SECRET = new_webhook_secret(), new_webhook_secret()
PMS_PASSWORD, TOKEN = "password-of-the-pms", "token-of-the-whole-path-test"
TIMEOUT_S = 20


@dataclass(slots=True)
class World:
    stack: Stack
    app: Receiver
    pms: ApaleoFake
    http: aiohttp.ClientSession

    @property
    def api(self) -> str:
        settings = self.stack.settings
        return f"http://127.0.0.1:{settings.ingress_port}"

    async def post(self, path: str, body: dict[str, Any], wait: bool = True) -> tuple[int, dict[str, Any]]:
        headers = {"Authorization": f"Bearer {TOKEN}"} | ({"Prefer": "wait=10"} if wait else {})
        async with self.http.post(f"{self.api}{path}", json={"program_id": "grand"} | body, headers=headers) as response:
            return response.status, await response.json()

    async def get(self, path: str) -> tuple[int, dict[str, Any]]:
        async with self.http.get(f"{self.api}{path}?program=grand", headers={"Authorization": f"Bearer {TOKEN}"}) as response:
            return response.status, await response.json()

    async def arrived(self, member: str, kind: str, count: int = 1) -> list[dict[str, Any]]:
        """The member's events of a kind at the app, once there are `count`."""

        def matching() -> list[dict[str, Any]]:
            return [r.data for r in self.app.accepted if r.data["member_id"] == member and r.data["kind"] == kind]

        await self.app.wait_for(lambda _: len(matching()) >= count, timeout_s=TIMEOUT_S)
        return matching()

    def rows(self, sql: str) -> list[Any]:
        settings = self.stack.settings
        url = urllib.parse.urlsplit(settings.clickhouse_url)
        client = clickhouse_connect.get_client(host=url.hostname, port=url.port, database=settings.clickhouse_database)
        try:
            return list(client.query(sql).result_rows)
        finally:
            client.close()


@pytest.fixture(scope="module")
def ports() -> tuple[int, int]:
    """Where the app and the PMS will listen: the pipeline is told before they do."""
    from tests.e2e.processes import free_port

    return free_port(), free_port()


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, kafka_jars: list[Path], ports: tuple[int, int]) -> Iterator[Stack]:
    app_port, pms_port = ports
    home = tmp_path_factory.mktemp("whole-path")
    config_file = home / "test.toml"
    config_file.write_text(f"""
[programs.grand.earn]
points_per_unit = {{ EUR = 10 }}
[[programs.grand.tiers]]
name = "MEMBER"
[[programs.grand.tiers]]
name = "GOLD"
threshold_points = 3000
[programs.grand.offers.double]
bonus_percent = 100
[sources.apaleo]
kind = "apaleo"
program = "grand"
secret = "{PMS_PASSWORD}"
base_url = "http://127.0.0.1:{pms_port}"
identity_url = "http://127.0.0.1:{pms_port}/connect/token"
client_id = "LOYALTY"
client_secret = "client-secret-of-the-pms"
[sources.hr]
kind = "hr"
program = "grand"
secret = "{HR_SECRET}"
[destinations.app]
url = "http://127.0.0.1:{app_port}/hooks/loyalty"
secret = "{APP_SECRET}"
[tokens.test]
token = "{TOKEN}"
scopes = ["transactions:write", "enrolments:write", "profile-changes:write", "offer-activations:write", "members:read"]
""")
    with Stack(home / "stack", config_file=config_file, partitions=2, free_ports=True) as stack:
        yield stack


@pytest.fixture
async def world(stack: Stack, ports: tuple[int, int]) -> AsyncIterator[World]:
    app_port, pms_port = ports
    pms = ApaleoFake(port=pms_port, client_id="LOYALTY", client_secret="client-secret-of-the-pms")
    app = Receiver(APP_SECRET, port=app_port)
    await pms.start()
    await app.start()
    async with aiohttp.ClientSession() as http:
        yield World(stack, app, pms, http)
    await app.stop()
    await pms.stop()


async def test_a_check_out_reaches_the_app_the_balance_and_the_history(world: World) -> None:
    status, answer = await world.post("/v1/enrolments", {"member_id": "G-1", "event_id": "crm:G-1", "attributes": {"email": "g1@example.org"}})
    assert (status, answer["status"], answer["sequence"]) == (200, "applied", 1)
    world.pms.add_reservation("STAY-1", member_id="G-1", amount="120.50", currency="EUR")
    await world.pms.subscribe(f"{world.api.replace('//', f'//pms:{PMS_PASSWORD}@')}/v1/webhooks/apaleo")
    await world.pms.check_out("STAY-1")
    (credited,) = await world.arrived("G-1", "BALANCE_CHANGED")
    assert (credited["points_delta"], credited["account"]["available_points"], credited["sequence"]) == (1205, 1205, 2)
    assert world.app.unverified == []

    await world.pms.check_out("STAY-1")  # The PMS says it again.
    await asyncio.to_thread(wait_until, lambda: world.rows("SELECT count() FROM sync_audit FINAL WHERE replayed")[0][0] == 1, TIMEOUT_S)
    status, balance = await world.get("/v1/members/G-1/balance")
    assert (status, balance["available_points"], balance["sequence"]) == (200, 1205, 2)
    entries = "SELECT points_delta, balance_after, source_system FROM ledger_entries FINAL WHERE member_id = 'G-1'"
    await asyncio.to_thread(wait_until, lambda: world.rows(entries) != [], TIMEOUT_S)  # Each table is mirrored at its own pace.
    assert world.rows(entries) == [(1205, 1205, "apaleo")]


async def test_a_refusal_an_offer_a_promotion_and_a_suspension(world: World) -> None:
    await world.post("/v1/enrolments", {"member_id": "G-2", "event_id": "crm:G-2"})
    status, answer = await world.post("/v1/transactions", {"member_id": "G-2", "transaction_id": "app:1", "kind": "REDEEM", "points": 1})
    assert (status, answer["type"]) == (422, "urn:loyalty:refused:INSUFFICIENT_POINTS")
    await world.post("/v1/offer-activations", {"member_id": "G-2", "event_id": "app:offer", "offer_id": "double"})
    _, answer = await world.post("/v1/transactions", {"member_id": "G-2", "transaction_id": "pms:1", "kind": "EARN", "points": 1500})
    assert (answer["available_points"], answer["tier"]) == (3000, "GOLD")
    (promoted,) = await world.arrived("G-2", "TIER_CHANGED")
    assert (promoted["previous_tier"], promoted["account"]["tier"]) == ("MEMBER", "GOLD")

    body = json.dumps({"type": "worker.deactivated", "timestamp": "2026-11-22T00:00:00Z", "data": {"employee_id": "G-2"}}).encode()
    headers = signatures.headers(signatures.decode_secret(HR_SECRET), "msg_1", int(time.time()), body)
    async with world.http.post(f"{world.api}/v1/webhooks/hr", data=body, headers=headers | {"Content-Type": "application/json"}) as response:
        assert response.status == 202
    await world.arrived("G-2", "ACCOUNT_SUSPENDED")
    status, answer = await world.post("/v1/transactions", {"member_id": "G-2", "transaction_id": "app:2", "kind": "REDEEM", "points": 1})
    assert (status, answer["type"]) == (422, "urn:loyalty:refused:ACCOUNT_SUSPENDED")
    sequences = world.app.sequences("G-2")
    assert sequences == list(range(1, len(sequences) + 1))


async def test_events_wait_for_a_destination_that_is_down_and_arrive_in_order(world: World) -> None:
    await world.post("/v1/enrolments", {"member_id": "G-3", "event_id": "crm:G-3"})
    await world.arrived("G-3", "MEMBER_ENROLLED")
    await world.app.go_down()
    for number in range(5):
        status, _ = await world.post("/v1/transactions", {"member_id": "G-3", "transaction_id": f"t:{number}", "kind": "EARN", "points": 10})
        assert status == 200
    world.stack.kill("sink-webhooks")
    world.stack.start_service("sink-webhooks")
    await world.app.come_back()
    changes = await world.arrived("G-3", "BALANCE_CHANGED", count=5)
    assert [change["account"]["available_points"] for change in changes] == [10, 20, 30, 40, 50]


async def test_a_stranger_is_turned_away(world: World) -> None:
    async with world.http.post(f"{world.api}/v1/transactions", json={}) as response:
        assert response.status == 401
    body = b'{"type":"worker.deactivated","data":{"employee_id":"G-1"}}'
    headers = signatures.headers(signatures.decode_secret(new_webhook_secret()), "msg_2", int(time.time()), body)
    async with world.http.post(f"{world.api}/v1/webhooks/hr", data=body, headers=headers) as response:
        assert response.status == 401
    wrong = base64.b64encode(b"pms:wrong").decode()
    async with world.http.post(f"{world.api}/v1/webhooks/apaleo", data=body, headers={"Authorization": f"Basic {wrong}"}) as response:
        assert response.status == 401
    status, answer = await world.get("/v1/members/nobody")
    assert status == 404
    assert answer["type"].startswith("urn:loyalty:")
