"""GET /v1/deliveries and dead letters over a real ClickHouse, by REST and by the command line; and another try, in a real control topic."""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from typing import Any
from urllib.parse import quote

import pytest
from click.testing import CliRunner, Result

from schemas.records import AttemptVerdict, DeliveryResult
from sinks import clickhouse as history_sink
from sinks.clickhouse import TABLES, History
from streams import topics
from streams.configuration import Token
from streams.deliveries.command import deliveries
from streams.destinations.model import Action, Destination, Secret, Which
from tests.ingress.support import INTERNAL_TOKEN, NOBODY, Answer, Service, StubOwner, make_configuration
from tests.sinks import examples
from tests.sinks.broker import read_all
from tests.sinks.examples import MOMENT_MS, delivery_attempt, failed_attempt, item

pytestmark = pytest.mark.stack

READER, GRAND, WRITER, GRAND_WRITER = "token-of-deliveries", "token-of-the-grands-deliveries", "token-of-redrives", "token-of-the-grands-redrives"
TOKENS = tuple(
    Token(name=name, sha256=sha256(text.encode()).hexdigest(), scopes=frozenset(scopes), programs=frozenset(programs))
    for name, text, scopes, programs in (
        ("deliveries", READER, ["destinations:read"], []),
        ("deliveries-grand", GRAND, ["destinations:read"], ["grand"]),
        ("redrives", WRITER, ["destinations:read", "destinations:write"], []),
        ("redrives-grand", GRAND_WRITER, ["destinations:write"], ["grand"]),
    )
)
ATTEMPTS = [
    *(delivery_attempt(number) for number in (1, 2, 3)),
    failed_attempt(4),
    failed_attempt(5, verdict=AttemptVerdict.GIVEN_UP, outcome="TIMEOUT", status=None, next_attempt_at_ms=None),
    failed_attempt(6, program_id="staff"),
    delivery_attempt(7, kind="BATCH", program_id="", member_id="", webhook_id="b-1", event_ids=("grand-m-1-1", "grand-m-2-1"), channel="crm#batch"),
    failed_attempt(8, "Zoë/\\'\t"),
]
AUDITS = [
    examples.delivery_audit(number, result=DeliveryResult.DEAD_LETTERED, reason=reason, program_id=program_id, status=503)
    for number, reason, program_id in ((1, "RETRIES_EXHAUSTED", "grand"), (2, "STATUS_404", "grand"), (3, "RETRIES_EXHAUSTED", "staff"))
] + [examples.delivery_audit(4)]  # fmt: skip


@pytest.fixture(scope="module")
def running(kafka: Any, valkey: Any, clickhouse: Any, make_settings: Any, owners: list[StubOwner]) -> Iterator[Service]:
    """An ingress with a history."""
    settings = make_settings(kafka_partitions=4, worker_urls=owners[0].url, internal_token=INTERNAL_TOKEN, attempt_retention_days=0)
    history_sink.migrate(settings)
    for name, records in (("delivery_attempts", ATTEMPTS), ("delivery_audit", AUDITS)):
        history = History(settings, next(table for table in TABLES if table.name == name))
        history.write_now([item(record, offset=number) for number, record in enumerate(records)])
        history.close()
    configuration = make_configuration()
    secrets = (Secret(secret_id="1", value=examples.SECRET),)
    destinations = {name: Destination(name=name, url=f"https://{name}.example.com/hooks", secrets=secrets) for name in ("crm", "app")}
    made = Service(settings, replace(configuration, tokens=(*configuration.tokens, *TOKENS), destinations=destinations))
    made.wait_ready()
    yield made
    made.stop()


async def ask(service: Service, path: str, token: str = READER) -> Answer:
    return await service.request("GET", path, token=token)


def numbers(answer: Answer) -> list[int]:
    assert answer.status == 200, answer.body
    (rows,) = (value for name, value in answer.json.items() if name != "next")
    return [row["sequence"] for row in rows]


async def test_attempts_come_newest_first(running: Service) -> None:
    answer = await ask(running, "/v1/deliveries?destination=crm&verdict=FAILED&program=grand&since=2026-03-01&until=2026-03-02")
    assert numbers(answer) == [8, 5, 4] and answer.json["next"] is None
    row = answer.json["attempts"][2]
    assert (row["started_at"], row["next_attempt_at"], row["status"]) == ("2026-03-01T12:00:00.004Z", "2026-03-01T12:01:00.000Z", 503)
    assert "request_body" not in row and answer.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("", [8, 7, 6, 5, 4, 3, 2, 1]), ("outcome=failure", [5]), ("outcome=5xx&program=staff", [6]), ("event=grand-m-2-1", [7]),
        ("member=m-1&program=grand&verdict=DELIVERED", [3, 2, 1]), ("correlation=c-2", [2]), ("kind=BATCH", [7]), ("destination=app", []),
    ],
)  # fmt: skip
async def test_filters(running: Service, query: str, found: list[int]) -> None:
    assert numbers(await ask(running, f"/v1/deliveries?{query}")) == found


async def test_pages(running: Service) -> None:
    found: list[int] = []
    after = ""
    while True:
        answer = await ask(running, f"/v1/deliveries?limit=3{after}")
        found += numbers(answer)
        if answer.json["next"] is None:
            break
        after = f"&after={answer.json['next']}"
    assert found == [8, 7, 6, 5, 4, 3, 2, 1]


async def test_an_attempt_is_shown_whole(running: Service) -> None:
    for record in (ATTEMPTS[3], ATTEMPTS[6], ATTEMPTS[7]):
        answer = await ask(running, f"/v1/deliveries/{quote(record.attempt_id, safe='')}")
        assert answer.status == 200, answer.body
        assert (answer.json["attempt_id"], answer.json["response_body"]) == (record.attempt_id, record.response_body)
        assert answer.json["request_headers"] == record.request_headers


@pytest.mark.parametrize("attempt_id", ["crm", "crm%2Fx%2F1", "crm%2Fx%2Fsoon"])
async def test_an_attempt_that_is_not_there(running: Service, attempt_id: str) -> None:
    assert (await ask(running, f"/v1/deliveries/{attempt_id}")).status == 404


async def test_a_token_sees_its_own_programmes(running: Service) -> None:
    """A batch may be about members of others: it is nobody's."""
    assert numbers(await ask(running, "/v1/deliveries", GRAND)) == [8, 5, 4, 3, 2, 1]
    assert (await ask(running, "/v1/deliveries?program=staff", GRAND)).status == 403
    for record, status in ((ATTEMPTS[0], 200), (ATTEMPTS[5], 404), (ATTEMPTS[6], 404)):
        assert (await ask(running, f"/v1/deliveries/{quote(record.attempt_id, safe='')}", GRAND)).status == status
    assert numbers(await ask(running, "/v1/destinations/crm/dead-letters", GRAND)) == [2, 1]


async def test_without_the_scope_nothing_is_shown(running: Service) -> None:
    for path in ("/v1/deliveries", "/v1/deliveries/x", "/v1/destinations/crm/dead-letters"):
        assert (await ask(running, path, GRAND_WRITER)).status == 403
    assert (await running.request("POST", "/v1/destinations/crm/dead-letters/redrive", token=READER, json={"all": True})).status == 403


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "limit"), ("limit=201", "limit"), ("after=x", "after"), ("since=yesterday", "since"), ("outcome=6xx", "outcome"),
        ("outcome=timeout", "outcome"), ("verdict=LOST", "verdict"), ("destinations=crm", "destinations"), ("member=m-1", "program"), ("event=", "event"),
    ],
)  # fmt: skip
async def test_what_is_not_served(running: Service, query: str, field: str) -> None:
    answer = await ask(running, f"/v1/deliveries?{query}")
    assert (answer.status, [one["field"] for one in answer.json["errors"]]) == (422, [field])


async def test_dead_letters(running: Service) -> None:
    answer = await ask(running, "/v1/destinations/crm/dead-letters?reason=RETRIES_EXHAUSTED&program=grand")
    (row,) = answer.json["dead_letters"]
    assert (row["event_id"], row["result"], row["ended_at"], row["log_offset"]) == (
        "grand-m-1-1", "DEAD_LETTERED", "2026-03-01T12:00:01.001Z", None,
    )  # fmt: skip
    assert numbers(await ask(running, "/v1/destinations/crm/dead-letters?limit=2")) == [3, 2]
    assert numbers(await ask(running, "/v1/destinations/nobody/dead-letters")) == []
    assert (await ask(running, "/v1/destinations/crm/dead-letters?kind=x")).status == 422


# Another try.


async def post(service: Service, body: Any, token: str = WRITER, destination: str = "crm") -> Answer:
    return await service.request("POST", f"/v1/destinations/{destination}/dead-letters/redrive", token=token, json=body)


@pytest.mark.parametrize(
    ("body", "token", "event_ids", "count", "programs"),
    [
        ({"all": True}, WRITER, [], 3, []),
        ({"all": True}, GRAND_WRITER, [], 2, ["grand"]),
        ({"all": True, "reason": "STATUS_404"}, WRITER, [2], 1, []),
        ({"all": True, "since": "2026-03-01T12:00:01.002Z", "until": "2026-03-02"}, WRITER, [2, 3], 2, []),
        ({"all": True, "since": "2026-03-01"}, GRAND_WRITER, [1, 2], 2, ["grand"]),
        ({"event_ids": ["grand-m-1-1", "grand-m-1-2", "grand-m-1-1"]}, WRITER, [1, 2], 2, []),
    ],
)  # fmt: skip
async def test_a_redrive_is_a_replay_in_the_log(
    running: Service, body: Any, token: str, event_ids: list[int], count: int, programs: list[str]
) -> None:
    answer = await post(running, body, token)
    assert (answer.status, answer.json["dead_letters"]) == (201, count)
    job = running.parts.control.jobs[answer.json["job_id"]]
    assert (job.destination, job.action, job.which) == ("crm", Action.REPLAY, Which.FAILED)
    assert job.event_ids == {f"grand-m-1-{number}" for number in event_ids} and job.programs == set(programs)
    assert job.created_by in ("redrives", "redrives-grand")
    # Decided at MOMENT_MS + number, given up a second later: it was appended to the log between.
    assert job.since_ms < MOMENT_MS and job.until_ms > MOMENT_MS + 1_003


async def test_those_of_many_ids_that_are_no_dead_letters_are_named(running: Service) -> None:
    """One was delivered, one is another programme's, most were never sent."""
    ids = ["grand-m-1-1", "grand-m-1-4", "grand-m-1-3", *(f"grand-m-9-{number}{'x' * 200}" for number in range(197))]
    answer = await post(running, {"event_ids": ids}, GRAND_WRITER)
    assert answer.status == 422
    assert [one["field"] for one in answer.json["errors"]][:2] == ["event_ids[1]", "event_ids[2]"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "event_ids"), ({"event_ids": ["x"], "all": True}, "event_ids"), ({"all": False}, "all"), ({"event_ids": []}, "event_ids"),
        ({"event_ids": "x"}, "event_ids"), ({"event_ids": [""]}, "event_ids[0]"), ({"event_ids": [1]}, "event_ids[0]"),
        ({"event_ids": ["x"] * 201}, "event_ids"), ({"event_ids": ["grand-m-1-1"], "reason": "x"}, "reason"), ({"all": True, "since": 7}, "since"),
        ({"all": True, "until": "soon"}, "until"), ({"all": True, "reason": ""}, "reason"), ({"all": True, "which": "ALL"}, "which"),
        ({"all": True, "reason": "NEVER"}, ""), ({"event_ids": ["grand-m-1-4"]}, "event_ids[0]"), ([], ""),
    ],
)  # fmt: skip
async def test_what_no_redrive_is_made_of(running: Service, body: Any, field: str) -> None:
    before = set(running.parts.control.jobs)
    answer = await post(running, body)
    assert (answer.status, [one["field"] for one in answer.json["errors"]]) == (422, [field])
    assert set(running.parts.control.jobs) == before


async def test_a_redrive_of_nothing_and_to_nowhere(running: Service) -> None:
    assert (await post(running, {"all": True}, destination="app")).status == 422
    assert (await post(running, {"all": True}, destination="nobody")).status == 404
    malformed = await running.request("POST", "/v1/destinations/crm/dead-letters/redrive", token=WRITER, data=b"{")
    assert malformed.status == 400


def test_a_redrive_on_the_command_line(running: Service) -> None:
    result = run(running, "redrive", "crm", "grand-m-1-1", "grand-m-1-2", "--json", token=WRITER)
    assert result.exit_code == 0, result.output
    assert len(running.parts.control.jobs[json.loads(result.stdout)["job_id"]].event_ids) == 2
    assert "tries again 3 dead letters of crm" in run(running, "redrive", "crm", "--all", token=WRITER).stdout
    refused = run(running, "redrive", "crm", "grand-m-1-4", token=WRITER)
    assert refused.exit_code == 1 and "event_ids[0]: is no dead letter" in refused.output


# Reads of members' data.


async def reads(service: Service, answer: Answer) -> list[tuple[str, str]]:
    found = await asyncio.to_thread(read_all, service.settings, topics.DELIVERY_AUDIT)
    return [(one.member_id, one.command_id) for _, one in found if one.correlation_id == answer.headers["X-Correlation-Id"]]


async def test_reading_what_is_about_a_member_is_recorded(running: Service) -> None:
    whole = quote(ATTEMPTS[0].attempt_id, safe="")
    for path, what in (
        ("/v1/deliveries?member=m-1&program=grand", "GET /v1/deliveries"),
        (f"/v1/deliveries/{whole}", "GET /v1/deliveries/{attempt_id}"),
        ("/v1/destinations/crm/dead-letters?member=m-1&program=grand", "GET /v1/destinations/{name}/dead-letters"),
    ):
        assert await reads(running, await ask(running, path)) == [("m-1", what)]
    for path in ("/v1/deliveries", f"/v1/deliveries/{quote(ATTEMPTS[6].attempt_id, safe='')}"):
        assert await reads(running, await ask(running, path)) == []


async def test_without_clickhouse_it_is_unavailable(make_settings: Any, kafka: Any) -> None:
    configuration = make_configuration()
    made = Service(make_settings(clickhouse_url=NOBODY, redis_url="redis://127.0.0.1:1"), replace(configuration, tokens=TOKENS))
    try:
        for path in ("/v1/deliveries", "/v1/destinations/crm/dead-letters"):
            assert (await ask(made, path)).status == 503
    finally:
        made.stop()


# The command line.


def run(service: Service, *arguments: str, token: str = READER) -> Result:
    return CliRunner().invoke(deliveries, [*arguments, "--url", service.url, "--token", token], env=service.settings.environment() | {"COLUMNS": "250"})


def test_the_list_as_json_lines_and_as_a_table(running: Service) -> None:
    result = run(running, "list", "--destination", "crm", "--verdict", "failed", "--json")
    assert result.exit_code == 0, result.output
    assert [json.loads(line)["sequence"] for line in result.stdout.splitlines()] == [8, 6, 5, 4]
    table = run(running, "list", "--limit", "7").stdout
    assert "crm/grand-m-1-4/" in table and "503 RETRY" in table and "2 events" in table and "grand-m-1-1/" not in table
    assert "Nothing fits." in run(running, "list", "--destination", "nobody").stdout


def test_one_attempt_is_shown_with_headers_and_bodies(running: Service) -> None:
    shown = run(running, "show", ATTEMPTS[3].attempt_id)
    assert shown.exit_code == 0, shown.output
    for said in ("503 RETRY", "attempt 2 of crm", "answers 503", "webhook-signature: v1,***", '"reason":"***"', "busy", "192.0.2.7"):
        assert said in shown.stdout
    assert json.loads(run(running, "show", ATTEMPTS[3].attempt_id, "--json").stdout)["sequence"] == 4
    assert run(running, "show", "crm/x/1").exit_code == 1


def test_dead_letters_on_the_command_line(running: Service) -> None:
    result = run(running, "dead-letters", "crm", "--json", "--limit", "2")
    assert [json.loads(line)["sequence"] for line in result.stdout.splitlines()] == [3, 2]
    assert "RETRIES_EXHAUSTED 503" in run(running, "dead-letters", "crm").stdout


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["redrive", "crm"], 2, "either ids of events, or --all"), (["redrive", "crm", "x", "--all"], 2, "either ids of events"),
        (["redrive", "crm", "x", "--reason", "y"], 2, "--all, which alone"), (["list", "--since", "tomorrow"], 2, "is no time like"),
        (["list", "--member", "m-1"], 1, "program: a number belongs to one programme"), (["list", "--verdict", "lost"], 2, "is not one of"),
        (["redrive", "crm", "--all"], 1, "lacks the scope destinations:write"),
    ],
)  # fmt: skip
def test_what_the_command_line_refuses(running: Service, arguments: list[str], code: int, said: str) -> None:
    result = run(running, *arguments)
    assert (result.exit_code, said in result.output) == (code, True), result.output
