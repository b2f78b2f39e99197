"""The audit in a real ClickHouse: chains of its rows verify, whatever is altered there is named; lists, pages and reports; the command line."""

import asyncio
import csv
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from clickhouse_connect.driver.client import Client

from schemas.records import AttributeChange, CommandResult
from sinks import clickhouse
from sinks.base import Verdict
from sinks.clickhouse import TABLES, History
from streams.audit import history as audit_history
from streams.audit import query
from streams.audit.command import audit, time_of
from streams.audit.query import Direction, Filters
from streams.audit.verification import Chain, Fault, Verifier
from streams.history import Cursor, instant_ms
from streams.settings import Settings
from tests.audit.chains import chain, delivery_audits
from tests.sinks import examples
from tests.sinks.examples import MOMENT_MS, item

pytestmark = pytest.mark.stack

NOBODY = "127.0.0.1:1"
CHANGES = (AttributeChange(attribute="email", before="a***", after="b***"), AttributeChange(attribute="tier", after="=cmd|' /C calc'!A0"))
MASTERED = {"result": CommandResult.REFUSED, "reason": "ATTRIBUTE_MASTERED_EXTERNALLY", "detail": "phone is mastered by crm; email is mastered by hr"}
ABOUT = {"actor": "@u-7", "correlation_id": "c-3", "source_version": 7, "tier": "GOLD", "voucher_code": "V-1", "stream": "profile-changes"}
INCOMING = chain([
    examples.audit(1), examples.audit(2, "m-2", source_system="hr"), examples.audit(3, changes=CHANGES, points_delta=-5, **ABOUT),
    examples.audit(4, "m-2", **MASTERED), examples.audit(5, program_id="staff"),
    # What JSON and ClickHouse escape, and what a hash must survive all the same.
    examples.audit(6, "Zoë \\ \t\n\"'`{}", sequence=2**63 - 1, available_points=-(2**63), replayed=True, changes=()),
])  # fmt: skip
OUTGOING = [*delivery_audits(3), *delivery_audits(2, "app")]


@pytest.fixture(scope="module")
def settings(make_settings: Callable[..., Settings]) -> Settings:
    made = make_settings(kafka_bootstrap_servers=NOBODY, redis_url=f"redis://{NOBODY}")
    clickhouse.migrate(made)
    tables = {table.name: table for table in TABLES}
    for name, records in (("sync_audit", INCOMING), ("delivery_audit", OUTGOING)):
        history = History(made, tables[name])
        for _ in range(2):  # What is read again shows nowhere.
            receipts = history.write_now([item(record, offset=10 + number, partition=1) for number, record in enumerate(records)])
            assert {receipt.verdict for receipt in receipts} == {Verdict.DELIVERED}
        history.close()
    return made


@pytest.fixture(scope="module")
def client(settings: Settings) -> Iterator[Client]:
    connected = clickhouse.connect(settings)
    yield connected
    connected.close()


def verify(settings: Settings, partition: int | None = None) -> dict[str, Chain]:
    async def read() -> list[Chain]:
        verifier = Verifier()
        async with audit_history.History(settings) as history:
            for direction in Direction:
                async for link in history.links(direction, partition):
                    verifier.add(link)
        return verifier.finish()

    return {one.name: one for one in asyncio.run(read())}


def test_chains_in_clickhouse_are_whole(settings: Settings) -> None:
    found = verify(settings)
    assert {name: (one.records, one.last_hash, one.broken) for name, one in found.items()} == {
        "sync-audit/1": (6, INCOMING[-1].record_hash, None),
        "delivery-audit/1/crm": (3, OUTGOING[2].record_hash, None),
        "delivery-audit/1/app": (2, OUTGOING[4].record_hash, None),
    }
    assert verify(settings, 0) == {} and verify(settings, 1).keys() == found.keys()


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("stream", "'x'"), ("command_id", "'x'"), ("payload_hash", "'x'"), ("source_system", "'x'"), ("actor", "NULL"), ("result", "'REFUSED'"),
        ("reason", "''"), ("replayed", "true"), ("changes", "[]"), ("changes", "[('email', 'a***', 'c***'), changes[2]]"), ("sequence", "NULL"),
        ("points_delta", "points_delta + 1"), ("available_points", "11"), ("tier", "NULL"), ("voucher_code", "'V-2'"),
        ("occurred_at", "occurred_at + toIntervalMillisecond(1)"), ("ingested_at", "now64(3)"), ("correlation_id", "'c-4'"), ("topic", "'x'"),
        ("partition", "1"), ("offset", "9"), ("detail", "''"), ("source_version", "8"), ("chain_number", "4"), ("previous_hash", "''"),
        ("record_hash", "''"),
    ],
)  # fmt: skip
def test_a_column_that_was_altered(settings: Settings, client: Client, column: str, value: str) -> None:
    client.command("CREATE TABLE kept AS sync_audit")
    client.command("INSERT INTO kept SELECT * FROM sync_audit FINAL")
    try:
        client.command(f"ALTER TABLE sync_audit UPDATE `{column}` = {value} WHERE source_offset = 12", settings={"mutations_sync": 2})
        broken = verify(settings)["sync-audit/1"].broken
        assert broken is not None
        assert (broken.fault, broken.place) == (Fault.CHANGED, "sync_audit source_partition 1 source_offset 12")
    finally:
        client.command("TRUNCATE TABLE sync_audit")
        client.command("INSERT INTO sync_audit SELECT * FROM kept")
        client.command("DROP TABLE kept")


@pytest.mark.parametrize(
    ("statement", "fault", "number"),
    [
        ("DELETE WHERE source_offset = 12", Fault.MISSING, 3),
        ("UPDATE source_offset = if(source_offset = 12, 13, 12) WHERE source_offset IN (12, 13)", Fault.REORDERED, 3),
    ],
)
def test_a_row_that_was_removed_or_moved(settings: Settings, client: Client, statement: str, fault: Fault, number: int) -> None:
    client.command("CREATE TABLE kept AS sync_audit")
    client.command("INSERT INTO kept SELECT * FROM sync_audit FINAL")
    try:
        client.command(f"ALTER TABLE sync_audit {statement}", settings={"mutations_sync": 2})
        broken = verify(settings)["sync-audit/1"].broken
        assert broken is not None and (broken.fault, broken.number) == (fault, number)
    finally:
        client.command("TRUNCATE TABLE sync_audit")
        client.command("INSERT INTO sync_audit SELECT * FROM kept")
        client.command("DROP TABLE kept")


def listed(settings: Settings, direction: Direction, filters: Filters, limit: int = 100, after: Cursor | None = None) -> list[dict[str, Any]]:
    async def read() -> list[dict[str, Any]]:
        async with audit_history.History(settings) as history:
            return [query.named(direction, row) async for row in history.rows(query.listing(direction, filters, limit, after))]

    return asyncio.run(read())


@pytest.mark.parametrize(
    ("filters", "numbers"),
    [
        ({}, [6, 5, 4, 3, 2, 1]),
        ({"program": "staff"}, [5]),
        ({"programs": frozenset({"grand", "other"})}, [6, 4, 3, 2, 1]),
        ({"member": "m-2"}, [4, 2]),
        ({"member": INCOMING[5].member_id}, [6]),
        ({"source": "hr"}, [2]),
        ({"actor": "@u-7", "stream": "profile-changes", "correlation": "c-3"}, [3]),
        ({"result": "REFUSED", "reason": "ATTRIBUTE_MASTERED_EXTERNALLY"}, [4]),
        ({"attribute": "email"}, [4, 3]),
        ({"attribute": "mail"}, []),
        ({"command": "t-2"}, [2]),
        ({"since_ms": MOMENT_MS + 3, "until_ms": MOMENT_MS + 5}, [4, 3]),
        ({"member": "m-2", "source": "crm"}, []),
        ({"member": "' OR 1 = 1 --"}, []),
    ],
)
def test_filters(settings: Settings, filters: dict[str, Any], numbers: list[int]) -> None:
    assert [row["chain_number"] for row in listed(settings, Direction.IN, Filters(**filters))] == numbers


def test_filters_of_deliveries(settings: Settings) -> None:
    assert len(listed(settings, Direction.OUT, Filters(attribute="email"))) == 5
    assert len(listed(settings, Direction.OUT, Filters(destination="app", kind="PROFILE_CHANGED", result="DELIVERED"))) == 2
    assert listed(settings, Direction.OUT, Filters(attribute="phone")) == []


def test_pages_join_without_a_gap(settings: Settings) -> None:
    found: list[int] = []
    after = None
    while page := listed(settings, Direction.IN, Filters(), 2, after):
        found += [row["chain_number"] for row in page]
        after = Cursor.parse(query.cursor_of(Direction.IN, page[-1]).text)
    assert found == [6, 5, 4, 3, 2, 1]


@pytest.mark.parametrize("text", ["", "x", "!!!!", "MQ", "MS4yLjM0LjU", "LTEuMi4z", "ÿ", "MS4yLjk5OTk5OTk5OTk5OTk5OTk5OTk5"])
def test_what_is_no_cursor(text: str) -> None:
    with pytest.raises(ValueError):
        Cursor.parse(text)


@pytest.mark.parametrize(
    ("text", "at_ms"),
    [("2026-03-01T12:00:00Z", MOMENT_MS), ("2026-03-01T13:00:00.001+01:00", MOMENT_MS + 1), ("2026-03-01", MOMENT_MS - 12 * 3600_000)],
)
def test_times(text: str, at_ms: int) -> None:
    assert instant_ms(text) == at_ms
    assert instant_ms(time_of(at_ms)) == at_ms


@pytest.mark.parametrize("text", ["", "yesterday", "2026-03-01T12:00:00", "1969-12-31", "2101-01-01"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(ValueError):
        instant_ms(text)


# The command line.


def run(settings: Settings, *arguments: str) -> Result:
    return CliRunner().invoke(audit, arguments, env=settings.environment())


def test_the_list_as_json_lines(settings: Settings) -> None:
    result = run(settings, "--member", "m-1", "--program", "grand", "--json")
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [row["chain_number"] for row in rows] == [3, 1]
    assert rows[0]["changes"][0] == {"attribute": "email", "before": "a***", "after": "b***"}
    assert rows[0]["recorded_at"] == "2026-03-01T12:00:00.003Z"


def test_the_list_as_csv_has_no_formulas(settings: Settings) -> None:
    result = run(settings, "--csv")
    assert result.exit_code == 0, result.output
    rows = list(csv.DictReader(io.StringIO(result.stdout)))
    assert [row["chain_number"] for row in rows] == ["6", "5", "4", "3", "2", "1"]
    assert rows[3]["actor"] == "'@u-7"
    assert rows[3]["points_delta"] == "-5"  # A number is no text.
    assert rows[3]["changes"] == "email: a*** -> b***; tier:  -> =cmd|' /C calc'!A0"
    assert rows[0]["member_id"] == INCOMING[5].member_id


def test_the_list_as_a_table(settings: Settings) -> None:
    result = run(settings, "--result", "refused")
    assert result.exit_code == 0 and "mastered by" in result.output.replace("\n", " ")
    assert "Nothing fits." in run(settings, "--member", "nobody").output
    assert run(settings, "--direction", "out").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--direction", "out", "--actor", "x"], "--actor belongs to direction in"),
        (["--since", "tomorrow"], "is no time like"),
        (["--json", "--csv"], "exclude each other"),
        (["--member", "m-1", "verify"], "options of the list"),
        (["report", "by-source", "--member", "m-1"], "not about single members"),
        (["report", "by-source", "--since", "2026-01-01"], "not by time"),
        (["report", "nothing"], "member-changes"),
    ],
)
def test_what_the_command_line_refuses(settings: Settings, arguments: list[str], said: str) -> None:
    result = run(settings, *arguments)
    assert result.exit_code == 2 and said in result.output


@pytest.mark.parametrize("name", query.REPORTS)
def test_reports(settings: Settings, name: str) -> None:
    result = run(settings, "report", name, "--program", "grand", "--json")
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert bool(rows) is (name in ("member-changes", "by-source", "refused-edits", "contested-attributes"))
    assert run(settings, "report", name).exit_code == 0


def test_a_report_of_one_member_and_time(settings: Settings) -> None:
    result = run(settings, "report", "member-changes", "--member", "m-1", "--since", time_of(MOMENT_MS + 3), "--json")
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert {(row["attribute"], row["before"], row["actor"]) for row in rows if row["program_id"] == "grand"} == {
        ("email", "a***", "@u-7"), ("tier", None, "@u-7"),
    }  # fmt: skip


def test_verify_says_where_a_chain_breaks(settings: Settings, client: Client, tmp_path: Path) -> None:
    whole = run(settings, "verify", "--from-clickhouse", "--json")
    assert whole.exit_code == 0, whole.output
    told = json.loads(whole.stdout)
    assert told["whole"] is True and len(told["clickhouse"]) == 3
    assert "Whole: 11 records in 3 chains." in run(settings, "verify", "--from-clickhouse").output
    noted = tmp_path / "noted.json"
    noted.write_text(whole.stdout)
    client.command("CREATE TABLE kept AS delivery_audit")
    client.command("INSERT INTO kept SELECT * FROM delivery_audit FINAL")
    try:
        client.command("ALTER TABLE delivery_audit DELETE WHERE destination = 'app' AND chain_number = 2", settings={"mutations_sync": 2})
        assert run(settings, "verify", "--from-clickhouse").exit_code == 0  # An end that is gone shows by the anchors only.
        result = run(settings, "verify", "--from-clickhouse", "--anchors", str(noted), "--json")
        (app,) = (one for one in json.loads(result.stdout)["clickhouse"] if one["chain"] == "delivery-audit/1/app")
        assert (result.exit_code, app["broken"]["fault"], app["broken"]["number"]) == (1, "MISSING", 2)
    finally:
        client.command("TRUNCATE TABLE delivery_audit")
        client.command("INSERT INTO delivery_audit SELECT * FROM kept")
        client.command("DROP TABLE kept")


def test_what_is_no_anchor_is_a_configuration_error(settings: Settings, tmp_path: Path) -> None:
    file = tmp_path / "noted.json"
    file.write_text('{"clickhouse": [1]}')
    result = run(settings, "verify", "--from-clickhouse", "--anchors", str(file))
    assert result.exit_code == 2 and "--anchors" in result.output


def test_no_server_is_said(make_settings: Callable[..., Settings]) -> None:
    nowhere = make_settings(kafka_bootstrap_servers=NOBODY, redis_url=f"redis://{NOBODY}", clickhouse_url=f"http://{NOBODY}")
    result = run(nowhere)
    assert result.exit_code == 1 and "LOYALTY_CLICKHOUSE_URL" in result.output
