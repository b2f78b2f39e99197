"""GET /v1/members/{id}/balance?as_of=: what a member had at a moment, from a real ClickHouse."""

from collections.abc import Iterator
from typing import Any

import pytest

from sinks import clickhouse as history_sink
from sinks.clickhouse import TABLES, History
from streams.ingress.commands import format_time
from tests.ingress.support import INTERNAL_TOKEN, OPENAPI, TOKENS, Answer, Service, StubOwner, make_configuration, validator
from tests.sinks import examples
from tests.sinks.examples import MOMENT_MS, item

pytestmark = pytest.mark.stack


@pytest.fixture(scope="module")
def remembering(kafka: Any, valkey: Any, clickhouse: Any, make_settings: Any, owners: list[StubOwner]) -> Iterator[Service]:
    """An ingress with a history of three entries: 10 points at each of the instants 1, 2 and 3, known two seconds later."""
    settings = make_settings(kafka_partitions=4, worker_urls=owners[0].url, internal_token=INTERNAL_TOKEN)
    history_sink.migrate(settings)
    records = {"ledger_entries": examples.ledger_entry, "loyalty_events": examples.event}
    for name, make in records.items():
        history = History(settings, next(table for table in TABLES if table.name == name))
        history.write_now([item(make(number), offset=number) for number in range(1, 4)])
        history.close()
    running = Service(settings, make_configuration())
    running.wait_ready()
    yield running
    running.stop()


async def ask(service: Service, query: str, member_id: str = "m-1") -> Answer:
    return await service.request("GET", f"/v1/members/{member_id}/balance?program=grand&{query}", token=TOKENS["reader"])


def at(number: int) -> str:
    return format_time(MOMENT_MS + number)


@pytest.mark.parametrize(("query", "points", "entries"), [
    (f"as_of={at(3)}", 30, 3), (f"as_of={at(2)}", 20, 2), (f"recorded_as_of={at(2001)}", 10, 1), (f"as_of={at(3)}&recorded_as_of={at(2002)}", 20, 2),
])  # fmt: skip
async def test_what_a_member_had(remembering: Service, query: str, points: int, entries: int) -> None:
    answer = await ask(remembering, query)
    assert answer.status == 200, answer.body
    found = answer.json
    assert (found["available_points"], found["entries"], found["source"]) == (points, entries, "history")
    assert (found["last_entry_sequence"], found["mirrored_until"]) == (entries, at(2003))
    validator(OPENAPI["components"]["schemas"]["PastBalance"]).validate(found)


async def test_before_the_member_had_joined(remembering: Service) -> None:
    assert (await ask(remembering, f"as_of={at(0)}")).status == 404
    assert (await ask(remembering, f"as_of={at(3)}", "m-none")).status == 404


@pytest.mark.parametrize("query", ["as_of=yesterday", "as_of=2026-11-25T12:00:00", "recorded_as_of="])
async def test_times_that_are_none(remembering: Service, query: str) -> None:
    answer = await ask(remembering, query)
    assert (answer.status, answer.json["errors"][0]["field"]) == (422, query.partition("=")[0])


async def test_without_clickhouse_it_is_unavailable(service: Service) -> None:
    assert (await ask(service, f"as_of={at(3)}")).status == 503
