"""Deliveries in a real ClickHouse: attempts are found by what is known of them, read in pages, and cost little; dead letters are those that still are."""

import asyncio
import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from clickhouse_connect.driver.client import Client

from schemas.records import AttemptVerdict, DeliveryResult, LoyaltyEventKind
from sinks import clickhouse
from sinks.base import Verdict
from sinks.clickhouse import TABLES, History
from sinks.clickhouse.tables import without_words
from sinks.delivery.history import DeliveryHistory
from sinks.delivery.records import Outgoing
from streams.deliveries import query
from streams.deliveries.query import FAILED, Attempts, DeadLetters
from streams.destinations.model import Job, Which
from streams.history import Cursor, Query, Reader
from streams.settings import Settings
from tests.sinks import examples
from tests.sinks.examples import MOMENT_MS, delivery_attempt, failed_attempt, item

pytestmark = pytest.mark.stack

NOBODY = "127.0.0.1:1"
TIMEOUT = {"outcome": "TIMEOUT", "status": None, "detail": "no answer within 15 s"}
BATCH = {"kind": "BATCH", "program_id": "", "member_id": "", "webhook_id": "b-1", "event_ids": ("grand-m-1-3", "grand-m-2-8"), "channel": "crm#batch"}
ATTEMPTS = [
    delivery_attempt(1),
    failed_attempt(2),
    failed_attempt(3, "m-2", **TIMEOUT),
    failed_attempt(4, verdict=AttemptVerdict.GIVEN_UP, outcome="404", status=404, next_attempt_at_ms=None),
    delivery_attempt(5, destination="app", kind="TIER_CHANGED"),
    delivery_attempt(6, program_id="staff"),
    delivery_attempt(7, **BATCH),
    failed_attempt(8, outcome="302", status=302, correlation_id=None),
    # What JSON and ClickHouse escape.
    failed_attempt(9, "Zoë \\ \t\n\"'`{}/x", response_body="a'b\\\n\t{x:String}", response_headers={"x-a'b\\": "\\t"}),
]


@pytest.fixture(scope="module")
def settings(make_settings: Callable[..., Settings]) -> Settings:
    made = make_settings(kafka_bootstrap_servers=NOBODY, redis_url=f"redis://{NOBODY}", attempt_retention_days=0)
    clickhouse.migrate(made)
    for _ in range(2):  # What is read again shows nowhere.
        write(made, "delivery_attempts", ATTEMPTS)
    return made


@pytest.fixture(scope="module")
def client(settings: Settings) -> Iterator[Client]:
    connected = clickhouse.connect(settings)
    yield connected
    connected.close()


def write(settings: Settings, table: str, records: list[Any]) -> None:
    history = History(settings, next(one for one in TABLES if one.name == table))
    receipts = history.write_now([item(record, offset=10 + number, partition=1) for number, record in enumerate(records)])
    assert {receipt.verdict for receipt in receipts} == {Verdict.DELIVERED}
    history.close()


def rows(settings: Settings, asked: Query) -> list[list[Any]]:
    async def read() -> list[list[Any]]:
        async with Reader(settings) as reader:
            return [row async for row in reader.rows(asked)]

    return asyncio.run(read())


def numbers(settings: Settings, asked: Attempts, limit: int = 100, after: Cursor | None = None) -> list[int]:
    return [query.named(query.LISTED, row)["sequence"] for row in rows(settings, query.attempts(asked, limit, after))]


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({}, [9, 8, 7, 6, 5, 4, 3, 2, 1]),
        ({"destination": "app"}, [5]),
        ({"program": "staff"}, [6]),
        ({"programs": frozenset({"grand", "other"})}, [9, 8, 5, 4, 3, 2, 1]),
        ({"member": "m-2"}, [3]),
        ({"member": ATTEMPTS[-1].member_id}, [9]),
        ({"event": "grand-m-1-2"}, [2]),
        ({"event": "grand-m-2-8"}, [7]),
        ({"kind": "TIER_CHANGED"}, [5]),
        ({"kind": "BATCH"}, [7]),
        ({"outcome": "2xx"}, [7, 6, 5, 1]),
        ({"outcome": "3xx"}, [8]),
        ({"outcome": "4xx"}, [4]),
        ({"outcome": "503"}, [9, 2]),
        ({"outcome": "failure"}, [3]),
        ({"outcome": "TIMEOUT"}, [3]),
        ({"outcome": "DNS"}, []),
        ({"verdict": "DELIVERED"}, [7, 6, 5, 1]),
        ({"verdict": "RETRY"}, [9, 8, 3, 2]),
        ({"verdict": "GIVEN_UP"}, [4]),
        ({"verdict": FAILED}, [9, 8, 4, 3, 2]),
        ({"destination": "crm", "verdict": FAILED, "since_ms": MOMENT_MS + 3, "until_ms": MOMENT_MS + 8}, [4, 3]),
        ({"correlation": "c-4"}, [4]),
        ({"destination": "' OR 1 = 1 --"}, []),
    ],
)
def test_filters(settings: Settings, asked: dict[str, Any], found: list[int]) -> None:
    assert numbers(settings, Attempts(**asked)) == found


@pytest.mark.parametrize("verdict", [None, FAILED, "DELIVERED"])
@pytest.mark.parametrize("limit", [1, 2, 3])
def test_pages_join_without_a_gap(settings: Settings, verdict: str | None, limit: int) -> None:
    asked, found, after = Attempts(verdict=verdict), list[int](), None
    while page := rows(settings, query.attempts(asked, limit, after)):
        found += [query.named(query.LISTED, row)["sequence"] for row in page]
        after = Cursor.parse(query.cursor_of(page[-1], query.LISTED, "started_at_ms").text)
    assert found == numbers(settings, asked)


@pytest.mark.parametrize("record", ATTEMPTS, ids=lambda record: str(record.sequence))
def test_an_attempt_is_found_by_its_id_and_is_what_it_was(settings: Settings, record: Any) -> None:
    (row,) = rows(settings, query.attempt(record.attempt_id, frozenset()))
    found = query.named(query.WHOLE, row)
    told = record.to_avro()
    reason = found.pop("request_body")
    assert found == {name: told[name] for name in query.WHOLE if name != "request_body"}
    assert "moved" in told["request_body"] and "moved" not in reason and '"reason":"***"' in reason


def test_an_attempt_of_another_programme_is_not_shown(settings: Settings) -> None:
    assert rows(settings, query.attempt(ATTEMPTS[0].attempt_id, frozenset({"staff"}))) == []
    assert len(rows(settings, query.attempt(ATTEMPTS[0].attempt_id, frozenset({"grand", "staff"})))) == 1


@pytest.mark.parametrize("attempt_id", ["", "x", "crm/x/", "crm/x/soon", "/x/1", f"crm/x/{10**18}", "crm/x/-1", "crm/x/²"])
def test_what_is_no_attempts_id(attempt_id: str) -> None:
    with pytest.raises(ValueError):
        query.attempt(attempt_id, frozenset())


@pytest.mark.parametrize("verdict", ["GIVEN_UP", FAILED, None])
def test_a_list_of_a_destination_reads_from_the_newest_end(settings: Settings, client: Client, verdict: str | None) -> None:
    """It neither sorts all that fits nor reads what is not of the destination and the time."""
    asked = query.attempts(Attempts(destination="crm", since_ms=MOMENT_MS, verdict=verdict), 10)
    plan = client.query(f"EXPLAIN PLAN actions = 1, indexes = 1 {asked.sql}", parameters=dict(asked.values)).result_rows
    lines = [line.lstrip(" │├└─") for (line,) in plan]
    reads = sum(line.startswith("ReadFromMergeTree") for line in lines)
    assert reads == {"GIVEN_UP": 1, FAILED: 3, None: 4}[verdict]
    assert lines.count("Read type: InReverseOrder") == reads
    keys = [line for line in lines if line.startswith("Condition: ") and "destination" in line]
    assert len(keys) == reads and all("started_at" in key and "verdict" in key for key in keys)


def test_an_erasure_finds_no_words_of_senders(settings: Settings, client: Client) -> None:
    bodies = [body for row in client.query("SELECT request_body, response_body FROM delivery_attempts").result_rows for body in row]
    assert bodies and not any("moved" in body for body in bodies)


# Dead letters.


def outcome(number: int, result: DeliveryResult, member_id: str = "m-1", **fields: Any) -> Any:
    reason = None if result is DeliveryResult.DELIVERED else "RETRIES_EXHAUSTED"
    return examples.delivery_audit(number, member_id, **{"result": result, "reason": reason, **fields})


DELIVERED, DEAD, SKIPPED, DROPPED = DeliveryResult.DELIVERED, DeliveryResult.DEAD_LETTERED, DeliveryResult.SKIPPED, DeliveryResult.DROPPED
SUPERSEDED = DeliveryResult.SUPERSEDED
AUDITS = [
    outcome(1, DELIVERED),
    outcome(2, DEAD),
    outcome(3, DEAD, "m-2", reason="STATUS_404", status=404, ended_at_ms=MOMENT_MS + 5_000),
    outcome(4, DEAD), outcome(4, SKIPPED, ended_at_ms=MOMENT_MS + 4_000),
    outcome(5, DEAD), outcome(5, DELIVERED),
    outcome(6, DELIVERED), outcome(6, DEAD),
    outcome(7, DROPPED),
    outcome(8, DEAD, destination="app"),
    outcome(9, DEAD, program_id="staff"),
    outcome(10, DEAD), outcome(10, DROPPED),
    outcome(11, DEAD), outcome(11, DELIVERED, destination="app"),
    outcome(13, SUPERSEDED),
]


@pytest.fixture(scope="module")
def audited(settings: Settings) -> Settings:
    for _ in range(2):
        write(settings, "delivery_audit", AUDITS)
        write(settings, "loyalty_events", [examples.event(2, kind=LoyaltyEventKind.PROFILE_CHANGED), examples.event(1)])
    return settings


def dead(settings: Settings, **asked: Any) -> list[dict[str, Any]]:
    found = rows(settings, query.dead_letters(DeadLetters(**{"destination": "crm"} | asked), 100))
    return [query.named(query.DEAD_LETTERS, row) for row in found]


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({}, [3, 4, 11, 9, 6, 2]),
        ({"destination": "app"}, [8]),
        ({"destination": "nobody"}, []),
        ({"program": "staff"}, [9]),
        ({"programs": frozenset({"grand"})}, [3, 4, 11, 6, 2]),
        ({"member": "m-2"}, [3]),
        ({"reason": "STATUS_404"}, [3]),
        ({"since_ms": MOMENT_MS + 1_006, "until_ms": MOMENT_MS + 4_001}, [4, 11, 9, 6]),
        ({"event_ids": frozenset({"grand-m-1-2", "grand-m-1-5", "grand-m-2-3"})}, [3, 2]),
    ],
)
def test_dead_letters_are_what_was_given_up_and_not_delivered_since(audited: Settings, asked: dict[str, Any], found: list[int]) -> None:
    assert [row["sequence"] for row in dead(audited, **asked)] == found


@pytest.mark.parametrize(("which", "found"), [(Which.FAILED, [2, 4, 6, 9, 11]), (Which.MISSING, [2, 3, 4, 7, 8, 9, 10, 11, 12])])
def test_a_replay_sends_what_its_newest_word_says_is_missing(audited: Settings, which: Which, found: list[int]) -> None:
    """Of a window's worth of events at once, some with names that ClickHouse must be told with care."""
    names = ["Zoë", "a'b", "a\\", "\\'), ('x", "t\tn\n", "{x:String}"]
    events = [examples.event(number) for number in range(1, 14)] + [examples.event(number, names[number % 6]) for number in range(487)]
    records = [Outgoing(offset=number, key=b"", record=event, timestamp_ms=MOMENT_MS) for number, event in enumerate(events)]

    async def choose() -> list[Outgoing]:
        history = DeliveryHistory(audited)
        try:
            return await history.choose(Job(job_id="again", destination="crm", which=which), records)
        finally:
            await history.close()

    chosen = asyncio.run(choose())
    assert [one.record.sequence for one in chosen if one.offset < 13] == found
    assert len(chosen) == len(found) + (487 if which is Which.MISSING else 0)


def test_many_long_ids_are_sought_at_once(audited: Settings) -> None:
    """Servers and proxies take addresses of some thousand bytes."""
    ids = {f"{number}-{'x' * 200}" for number in range(200)} | {"grand-m-1-2"}
    assert [row["sequence"] for row in dead(audited, event_ids=frozenset(ids))] == [2]


def test_a_dead_letter_says_how_it_ended_and_where_it_is(audited: Settings) -> None:
    by_number = {row["sequence"]: row for row in dead(audited)}
    assert (by_number[2]["log_partition"], by_number[2]["log_offset"]) == (1, 10)
    assert (by_number[3]["log_partition"], by_number[3]["log_offset"], by_number[3]["status"]) == (None, None, 404)
    assert (by_number[4]["result"], by_number[4]["ended_at_ms"]) == ("SKIPPED", MOMENT_MS + 4_000)
    assert rows(audited, query.span(DeadLetters(destination="crm"))) == [[6, MOMENT_MS + 2, MOMENT_MS + 5_000]]


@pytest.mark.parametrize("limit", [1, 4])
def test_pages_of_dead_letters_join_without_a_gap(audited: Settings, limit: int) -> None:
    found, after = list[int](), None
    while page := rows(audited, query.dead_letters(DeadLetters(destination="crm"), limit, after)):
        found += [query.named(query.DEAD_LETTERS, row)["sequence"] for row in page]
        after = query.cursor_of(page[-1], query.DEAD_LETTERS, "ended_at_ms")
    assert found == [3, 4, 11, 9, 6, 2]


# Views.


def test_how_a_destination_fares(settings: Settings, client: Client) -> None:
    (status,) = [row for row in client.query("SELECT * FROM delivery_status").named_results() if row["destination"] == "crm"]
    counts = ("attempts", "deliveries", "failed", "given_up", "status_2xx", "status_3xx", "status_4xx", "status_5xx", "failures")
    assert [status[name] for name in counts] == [8, 3, 5, 1, 3, 1, 1, 2, 1]
    assert (status["duration_p50_ms"], status["append_to_2xx_p99_ms"]) == (12.345, 52.345)
    assert f"{status['hour']:%Y-%m-%dT%H:%M}" == "2026-03-01T12:00"


# Retention.


def test_days_that_are_over_are_dropped_whole_and_the_sink_changes_how_many(make_settings: Callable[..., Settings]) -> None:
    made = make_settings(kafka_bootstrap_servers=NOBODY, redis_url=f"redis://{NOBODY}", attempt_retention_days=7)
    clickhouse.migrate(made)
    now_ms, day_ms = time.time_ns() // 1_000_000, 24 * 3600 * 1000
    write(made, "delivery_attempts", [delivery_attempt(age + 1, started_at_ms=now_ms - age * day_ms) for age in range(12)])
    connected = clickhouse.connect(made)
    connected.command("OPTIMIZE TABLE delivery_attempts FINAL")
    kept = {row[0] for row in connected.query("SELECT sequence FROM delivery_attempts").result_rows}
    assert set(range(1, 7)) <= kept <= set(range(1, 9))  # The seventh day is over somewhere within its part.
    for days in (30, 0, 0, 3):
        clickhouse.migrate(replace(made, attempt_retention_days=days))
        definition = str(connected.command("SHOW CREATE TABLE delivery_attempts"))
        assert (f"toIntervalDay({days})" in definition) if days else ("TTL" not in definition)
        assert "toIntervalDay(2555)" in str(connected.command("SHOW CREATE TABLE delivery_notices"))
    connected.close()


# What senders wrote.


CAUSE = '{"cause":{"command_id":"c{}","reason":%s,"source_system":"hr"},"reason":"OPERATOR"}'


SAID = ['"left us"', '"a \\"b\\" \\\\"', '""', '"ü } { , "']
MASKED = CAUSE % '"***"'


@pytest.mark.parametrize("said", SAID)
def test_what_a_sender_wrote_is_masked_and_nothing_else(said: str) -> None:
    whole = CAUSE % said
    assert without_words(whole) == MASKED
    assert without_words(f"[{whole}, {whole}]") == f"[{MASKED}, {MASKED}]"


@pytest.mark.parametrize("body", [CAUSE % "null", '{"error":{"reason":"signature"}}', "", "no JSON", '"reason":"x"'])
def test_other_bodies_are_left_as_they_are(body: str) -> None:
    assert without_words(body) == body


def test_a_body_that_was_cut_anywhere_has_nothing_left() -> None:
    said = "X\\Y\"Z"
    whole = CAUSE % json.dumps(said)
    for end in range(len(whole) + 1):
        assert not re.search("[XYZ]", without_words(whole[:end])), end
