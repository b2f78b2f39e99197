"""GET /v1/audit over a real ClickHouse, and the records of who has read personal data, from a real Kafka."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from schemas.records import Account, MemberStatus
from sinks import clickhouse as history_sink
from sinks.clickhouse import TABLES, History
from streams import topics
from streams.audit import log as audit_log
from streams.audit.verification import Verifier
from streams.ingress import access
from tests.audit.chains import chain, delivery_audits
from tests.ingress.support import CODEC, INTERNAL_TOKEN, TOKENS, Answer, Service, StubOwner, make_configuration
from tests.sinks import examples
from tests.sinks.broker import read_all
from tests.sinks.examples import item

pytestmark = pytest.mark.stack

RECORDS = chain([
    *(examples.audit(number, actor=f"u-{number}", detail="d") for number in range(1, 8)), examples.audit(8, program_id="staff"),
])  # fmt: skip


@pytest.fixture(scope="module")
def audited(kafka: Any, valkey: Any, clickhouse: Any, make_settings: Any, owners: list[StubOwner]) -> Iterator[Service]:
    """An ingress with a history."""
    settings = make_settings(kafka_partitions=4, worker_urls=owners[0].url, internal_token=INTERNAL_TOKEN)
    fill(settings)
    running = Service(settings, make_configuration())
    running.wait_ready()
    yield running
    running.stop()


def fill(settings: Any) -> None:
    history_sink.migrate(settings)
    for name, records in (("sync_audit", RECORDS), ("delivery_audit", delivery_audits(2))):
        history = History(settings, next(table for table in TABLES if table.name == name))
        history.write_now([item(record, offset=number) for number, record in enumerate(records)])
        history.close()


async def ask(service: Service, query: str = "", token: str = "auditor") -> Answer:
    return await service.request("GET", f"/v1/audit?{query}", token=TOKENS[token])


def numbers(answer: Answer) -> list[int]:
    assert answer.status == 200, answer.body
    return [record["chain_number"] for record in answer.json["records"]]


async def test_records_come_newest_first_and_whole(audited: Service) -> None:
    answer = await ask(audited, "program=grand&actor=u-3")
    assert numbers(answer) == [3] and answer.json["next"] is None
    (record,) = answer.json["records"]
    assert record["recorded_at"] == "2026-03-01T12:00:00.003Z" and record["record_hash"] == RECORDS[2].record_hash
    assert record["changes"][0] == {"attribute": "available_points", "before": "0", "after": "10"}
    assert answer.headers["Cache-Control"] == "no-store"


async def test_pages(audited: Service) -> None:
    found: list[int] = []
    after = ""
    while True:
        answer = await ask(audited, f"limit=3{after}")
        found += numbers(answer)
        if answer.json["next"] is None:
            break
        after = f"&after={answer.json['next']}"
    assert found == [8, 7, 6, 5, 4, 3, 2, 1]


async def test_a_token_sees_its_own_programmes(audited: Service) -> None:
    assert 8 not in numbers(await ask(audited, token="auditor-grand"))
    assert numbers(await ask(audited, "program=staff")) == [8]
    assert (await ask(audited, "program=staff", "auditor-grand")).status == 403
    assert (await ask(audited, token="all")).status == 403


async def test_deliveries(audited: Service) -> None:
    answer = await ask(audited, "direction=out&destination=crm&attribute=email&kind=PROFILE_CHANGED&since=2026-03-01&until=2027-01-01")
    assert numbers(answer) == [2, 1]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "limit"), ("limit=201", "limit"), ("after=x", "after"), ("since=yesterday", "since"), ("until=2026-03-01T12:00:00", "until"),
        ("direction=up", "direction"), ("membr=m-1", "membr"), ("destination=crm", "destination"), ("direction=out&actor=u-1", "actor"),
        ("program=", "program"), ("member=m-1", "program"), ("programs=grand", "programs"),
    ],
)  # fmt: skip
async def test_what_is_not_served(audited: Service, query: str, field: str) -> None:
    answer = await ask(audited, query)
    assert (answer.status, [one["field"] for one in answer.json["errors"]]) == (422, [field])


async def test_without_clickhouse_it_is_unavailable(service: Service) -> None:
    assert (await ask(service)).status == 503


# Reads of personal data.


async def reads(service: Service, correlation_id: str) -> list[Any]:
    found = await asyncio.to_thread(read_all, service.settings, topics.DELIVERY_AUDIT)
    return [record for _, record in found if record.correlation_id == correlation_id]


def whole(service: Service) -> bool:
    verifier = Verifier()
    for link in audit_log.links(service.settings, CODEC, audit_log.parts(service.settings)):
        verifier.add(link)
    chains = [one for one in verifier.finish() if "/api:" in one.name]
    assert chains
    return not any(one.broken or one.beginning_is_gone for one in chains)


async def test_reading_an_account_is_recorded(audited: Service, owners: list[StubOwner]) -> None:
    owners[0].accounts["grand/M-read"] = Account(
        program_id="grand", member_id="M-read", status=MemberStatus.ACTIVE, tier="GOLD", event_sequence=5, available_points=50,
        qualifying_points=60, enrolled_at_ms=1_795_318_800_000,
    )  # fmt: skip
    answers = await asyncio.gather(*(
        audited.request("GET", "/v1/members/M-read?program=grand", token=TOKENS[token]) for token in ("reader", "reader", "all", "reader")
    ))  # fmt: skip
    for answer, token in zip(answers, ("reader", "reader", "all", "reader"), strict=True):
        assert answer.status == 200
        (record,) = await reads(audited, answer.headers["X-Correlation-Id"])
        assert (record.kind, record.program_id, record.member_id) == (access.KIND, "grand", "M-read")
        assert record.destination.startswith(f"api:{token}@") and record.command_id == "GET /v1/members/{member_id}"
    assert await asyncio.to_thread(whole, audited)


async def test_reading_a_members_audit_is_recorded(audited: Service) -> None:
    answer = await ask(audited, "member=m-1&program=grand")
    (record,) = await reads(audited, answer.headers["X-Correlation-Id"])
    assert (record.member_id, record.command_id) == ("m-1", "GET /v1/audit")


async def test_what_shows_nothing_personal_is_not_recorded(audited: Service, owners: list[StubOwner]) -> None:
    owners[0].accounts["grand/M-balance"] = Account(
        program_id="grand", member_id="M-balance", status=MemberStatus.ACTIVE, tier="GOLD", event_sequence=5, available_points=50,
        qualifying_points=60, enrolled_at_ms=1_795_318_800_000,
    )  # fmt: skip
    balance = await audited.request("GET", "/v1/members/M-balance/balance?program=grand", token=TOKENS["reader"])
    nobody = await audited.request("GET", "/v1/members/M-unread?program=grand", token=TOKENS["reader"])
    listed = await ask(audited)
    assert (balance.status, nobody.status, listed.status) == (200, 404, 200)
    for answer in (balance, nobody, listed):
        assert await reads(audited, answer.headers["X-Correlation-Id"]) == []


async def test_a_read_does_not_wait_for_kafka_for_long_and_is_recorded_later(
    audited: Service, owners: list[StubOwner], kafka: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    owners[0].accounts["grand/M-late"] = Account(
        program_id="grand", member_id="M-late", status=MemberStatus.ACTIVE, tier="GOLD", event_sequence=5, available_points=50,
        qualifying_points=60, enrolled_at_ms=1_795_318_800_000,
    )  # fmt: skip
    monkeypatch.setattr(access, "WAIT_S", 0.3)
    kafka.pause()
    try:
        answer = await audited.request("GET", "/v1/members/M-late?program=grand", token=TOKENS["reader"])
        assert answer.status == 200
        monkeypatch.setattr(access, "WAITING_MAX", 0)
        assert (await audited.request("GET", "/v1/members/M-late?program=grand", token=TOKENS["reader"])).status == 503
    finally:
        kafka.resume()
    async with asyncio.timeout(30):
        while not await reads(audited, answer.headers["X-Correlation-Id"]):
            await asyncio.sleep(0.1)
    assert await asyncio.to_thread(whole, audited)
