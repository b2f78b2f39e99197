"""GET /v1/explanations/{id}: who may read it, of which programmes, and what it says when parts do not answer; over a real ClickHouse and Kafka."""

from collections.abc import Iterator
from typing import Any

import pytest

from sinks.clickhouse import TABLES, History, migrate
from streams import topics
from tests.ingress.support import INTERNAL_TOKEN, TOKENS, Answer, Service, StubOwner, make_configuration
from tests.sinks import examples
from tests.sinks.broker import read_all
from tests.sinks.examples import item
from tests.waiting import wait_until

pytestmark = pytest.mark.stack


@pytest.fixture(scope="module")
def explaining(kafka: Any, valkey: Any, clickhouse: Any, make_settings: Any, owners: list[StubOwner]) -> Iterator[Service]:
    """An ingress with a history of two programmes: t-1 and t/2 of grand, t-1 of staff. The workers answer for nobody."""
    settings = make_settings(kafka_partitions=4, worker_urls=owners[0].url, internal_token=INTERNAL_TOKEN)
    migrate(settings)
    records = [
        examples.audit(1, correlation_id="c-1"), examples.audit(2, correlation_id="c-2", command_id="t/2"),
        examples.audit(3, "s-1", program_id="staff", command_id="t-1", correlation_id="c-3"),
    ]  # fmt: skip
    history = History(settings, next(table for table in TABLES if table.name == "sync_audit"))
    history.write_now([item(record, offset=number) for number, record in enumerate(records)])
    history.close()
    running = Service(settings, make_configuration())
    running.wait_ready()
    yield running
    running.stop()


async def ask(service: Service, path: str, token: str = "auditor") -> Answer:
    return await service.request("GET", f"/v1/explanations/{path}", token=TOKENS[token])


def commands(answer: Answer) -> set[tuple[str, str, str]]:
    assert answer.status == 200, answer.body
    return {(one["program_id"], one["member_id"], one["command_id"]) for one in answer.json["ways"]}


async def test_a_token_sees_its_own_programmes(explaining: Service) -> None:
    assert commands(await ask(explaining, "t-1")) == {("grand", "m-1", "t-1"), ("staff", "s-1", "t-1")}
    assert commands(await ask(explaining, "t-1?program=staff")) == {("staff", "s-1", "t-1")}
    assert commands(await ask(explaining, "t-1", "auditor-grand")) == {("grand", "m-1", "t-1")}
    assert commands(await ask(explaining, "c-3")) == {("staff", "s-1", "t-1")}
    assert (await ask(explaining, "t-1?program=staff", "auditor-grand")).status == 403
    assert (await ask(explaining, "t-1", "all")).status == 403


async def test_an_id_may_have_slashes_and_the_answer_names_what_has_no_say(explaining: Service) -> None:
    answer = await ask(explaining, "t%2F2?limit=1")
    assert commands(answer) == {("grand", "m-1", "t/2")}
    assert answer.json["not_reached"] == {"table": "does not answer"} and answer.headers["Cache-Control"] == "no-store"


async def test_what_is_not_there_may_be_where_nobody_answers(explaining: Service) -> None:
    assert (await ask(explaining, "c-3", "auditor-grand")).status == 503
    assert (await ask(explaining, "c-3", "auditor-grand")).headers["Retry-After"] == "1"


@pytest.mark.parametrize("query", ["limit=0", "limit=21", "limit=x", "member=m-1"])
async def test_what_is_asked_wrongly(explaining: Service, query: str) -> None:
    assert (await ask(explaining, f"t-1?{query}")).status == 422


def test_a_read_is_on_record(explaining: Service) -> None:
    answer = explaining.run(ask(explaining, "c-1", "auditor-grand"))
    assert commands(answer) == {("grand", "m-1", "t-1")}

    def reads() -> set[tuple[str, str, str]]:  # A process has a chain of its own: api:token@process.
        records = [record for _, record in read_all(explaining.settings, topics.DELIVERY_AUDIT)]
        return {(record.destination.partition("@")[0], record.member_id, record.command_id) for record in records}

    wait_until(lambda: ("api:auditor-grand", "m-1", "GET /v1/explanations/{id}") in reads(), 60)
