"""`loyalty explain` on a real ClickHouse: every id of an event leads to the same way, in the order of time."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from click.testing import CliRunner
from confluent_kafka import TopicPartition

from schemas.records import Cause, EntryKind, LoyaltyEvent, LoyaltyEventKind, ProfileChange
from sinks import clickhouse
from sinks.clickhouse import TABLES, History
from streams import kafka, topics
from streams.explanation.command import explain, explained
from streams.settings import Settings
from streams.tables import CHANGELOG_CONFIG, changelogs
from tests.sinks import examples
from tests.sinks.broker import codec
from tests.sinks.examples import MOMENT_MS, item

pytestmark = pytest.mark.stack

NOBODY = "127.0.0.1:1"
RECORDS: dict[str, Callable[[int], list[Any]]] = {
    "sync_audit": lambda number: [examples.audit(
        number, ingested_at_ms=MOMENT_MS + 1000 + number, recorded_at_ms=MOMENT_MS + 2000 + number, correlation_id=f"c-{number}",
    )],
    "ledger_entries": lambda number: [examples.ledger_entry(number)],
    "loyalty_events": lambda number: [examples.event(number)],
    "delivery_attempts": lambda number: [
        examples.failed_attempt(number, started_at_ms=MOMENT_MS + 3000 + number, attempt=1),
        examples.delivery_attempt(number, started_at_ms=MOMENT_MS + 4000 + number, webhook_id=f"batch-{number}"),
    ],
    "delivery_audit": lambda number: [examples.delivery_audit(number, ended_at_ms=MOMENT_MS + 4500 + number)],
}


def voucher(sequence: int, kind: LoyaltyEventKind, command_id: str) -> LoyaltyEvent:
    cause = Cause(command_id=command_id, stream="transactions", source_system="pms")
    return examples.event(sequence, "m-2", kind=kind, voucher_code="V-5", cause=cause, recorded_at_ms=MOMENT_MS)


EXPIRY = "due:1772366400000"
OTHERS: dict[str, list[Any]] = {
    "sync_audit": [examples.audit(4, command_id="m-0/old-4", recorded_at_ms=MOMENT_MS)],
    "ledger_entries": [examples.ledger_entry(4, transaction_id=EXPIRY, kind=EntryKind.EXPIRY, points_delta=-5, lots=(examples.lot(2, 5),))],
    "loyalty_events": [voucher(5, LoyaltyEventKind.VOUCHER_ISSUED, "buy-5"), voucher(6, LoyaltyEventKind.VOUCHER_REDEEMED, "use-6")],
}


@pytest.fixture(scope="module")
def settings(patience: None, make_settings: Callable[..., Settings]) -> Settings:
    made = make_settings(redis_url=f"redis://{NOBODY}", attempt_retention_days=0)  # The examples are from long ago.
    kafka.ensure_topics(made, changelogs={name: CHANGELOG_CONFIG for name in changelogs(made)})
    clickhouse.migrate(made)
    for _ in range(2):  # What is read again shows once.
        for name, make in RECORDS.items():
            history = History(made, next(table for table in TABLES if table.name == name))
            records = [record for number in (1, 2, 3) for record in make(number)] + OTHERS.get(name, [])
            history.write_now([item(record, offset=number, partition=0) for number, record in enumerate(records)])
            history.close()
    return made


def document(settings: Settings, identifier: str, program: str | None = None) -> dict[str, Any]:
    return asyncio.run(explained(settings, identifier, program, 5))


@pytest.mark.parametrize("identifier", ["t-2", "c-2", "grand-m-1-2", "batch-2"])
def test_every_id_leads_to_the_whole_way(settings: Settings, identifier: str) -> None:
    found = document(settings, identifier)
    [one] = found["ways"]
    assert (one["program_id"], one["member_id"], one["command_id"], one["total_ms"], one["waits_for"]) == ("grand", "m-1", "t-2", 3500, None)
    steps = [(step["step"], step["after_ms"]) for step in one["steps"] if step["step"] != "mirrored"]
    assert steps == [
        ("received", 0), ("decided", 1000), ("posted", 0), ("told", 0), ("attempted", 1000), ("attempted", 1000), ("concluded", 500),
    ]  # fmt: skip
    assert [step["row"]["attempt"] for step in one["steps"] if step["step"] == "attempted"] == [1, 2]
    assert {step["row"]["table"]: step["row"]["rows"] for step in one["steps"] if step["step"] == "mirrored"} == {
        "sync_audit": 1, "ledger_entries": 1, "loyalty_events": 1, "delivery_attempts": 2, "delivery_audit": 1,
    }  # fmt: skip
    assert found["not_reached"] == {}


@pytest.mark.parametrize(("identifier", "commands"), [("old-4", {"m-0/old-4"}), ("grand-m-1-4", {EXPIRY}), ("V-5", {"buy-5", "use-6"})])
def test_what_is_known_by_another_id_than_its_command(settings: Settings, identifier: str, commands: set[str]) -> None:
    assert {one["command_id"] for one in document(settings, identifier)["ways"]} == commands


def test_what_became_of_its_points_and_of_a_voucher(settings: Settings) -> None:
    [earn] = document(settings, "t-2")["ways"]
    bought = next(one for one in document(settings, "V-5")["ways"] if one["command_id"] == "buy-5")
    assert ("points moved by", EXPIRY, ["EXPIRY"], -5) in [
        (one["relation"], one["command_id"], one["kinds"], one["points"]) for one in earn["related"]
    ]  # fmt: skip
    assert [(one["relation"], one["command_id"]) for one in bought["related"]] == [("same voucher", "use-6")]


def test_what_waits_for_a_schedule(settings: Settings) -> None:
    change = ProfileChange(
        program_id="grand", member_id="m-9", event_id="edit-1", source_system="crm", occurred_at_ms=MOMENT_MS, attributes={"email": "a@example.org"}
    )
    waits = topics.BY_STREAM["scheduled-profile-changes"]
    kafka.write_one(settings, waits, "grand/m-9", codec().encode(change), {"sync": b"profile-changes/crm"})
    kafka.write_one(settings, topics.PROFILE_CHANGES, "grand/m-8", codec().encode(replace(change, member_id="m-8", event_id="edit-2")))
    [one], [other] = document(settings, "edit-1")["waiting"], document(settings, "edit-2")["waiting"]
    assert (one["stream"], one["schedule"], one["member_id"]) == ("profile-changes", "profile-changes/crm", "m-9")
    assert (other["schedule"], other["waits_for"]) == ("", "the worker, which has not read it yet")
    flushing = kafka.consumer(settings, "sync-profile-changes.crm")
    flushing.commit(offsets=[TopicPartition(one["topic"], one["partition"], one["offset"] + 1)], asynchronous=False)
    flushing.close()
    assert document(settings, "edit-1")["waiting"] == []


def test_what_was_given_up_is_found_when_nothing_else_is(settings: Settings) -> None:
    kafka.write_one(settings, topics.DEAD_LETTERS, "grand/m-9", codec().encode(examples.dead_letter(1, value=b"broken-77 of somebody")))
    [one] = document(settings, "broken-77")["given_up"]
    assert one["place"].startswith("loyalty.") and one["reason"]


def test_a_member_is_the_newest_of_her_commands(settings: Settings) -> None:
    found = document(settings, "m-1")
    assert [one["command_id"] for one in found["ways"]] == ["t-3", "t-2", "t-1"]
    assert found["mirrored_until_ms"] == MOMENT_MS + 2003
    assert document(settings, "m-1", "staff")["ways"] == []


def test_what_people_and_programs_see(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streams.settings.load", lambda: settings)
    shown = CliRunner().invoke(explain, ["t-2"])
    assert shown.exit_code == 0
    for words in ("loyalty.transactions.v1[0]@2", "+10 available against issued", "earn of version 2", "503 RETRY", "crm: DELIVERED after 2 attempts"):
        assert words in shown.output
    as_json = CliRunner().invoke(explain, ["t-2", "--json"])
    assert json.loads(as_json.output) == document(settings, "t-2")
    assert CliRunner().invoke(explain, ["it's \\ none"]).exit_code == 1
