"""Every report over two members' months in a real ClickHouse: exactly what a hand works out, whatever is read again, comes late or is killed."""

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from clickhouse_connect.driver.client import Client
from pyarrow import parquet

from schemas.records import EntryKind
from sinks import clickhouse
from streams.analytics import catalogue, refresh
from streams.analytics.catalogue import Grain, Report
from streams.cli import main
from streams.errors import UnavailableError
from streams.settings import Settings
from tests.analytics import world
from tests.analytics.world import ms

pytestmark = pytest.mark.stack

NOBODY = "127.0.0.1:1"
NOW_MS = ms("2026-07-01")
JANUARY, FEBRUARY, MARCH = date(2026, 1, 1), date(2026, 2, 1), date(2026, 3, 1)

# Report -> columns and what they hold, in the order of the keys.
EXPECTED: dict[str, tuple[tuple[str, ...], list[tuple[Any, ...]]]] = {
    "points-issued": (("period", "kind", "rule_id", "entries", "members", "points"), [
        (date(2026, 1, 10), "EARN", "earn:amount", 1, 1, 100), (date(2026, 1, 10), "OFFER_BONUS", "offer:spring", 1, 1, 10),
        (date(2026, 2, 20), "EARN", "earn:amount", 1, 1, 200),
    ]),
    "points-redeemed": (("period", "kind", "points"), [
        (date(2026, 2, 5), "REDEEM", 40), (date(2026, 3, 2), "CAPTURE", 50), (date(2026, 3, 5), "REFUND", -20),
    ]),
    "points-expired": (("period", "kind", "points"), [(date(2026, 6, 1), "EXPIRY", 70)]),
    "liability": (("period", "expires", "members", "points", "points_not_in_lots"), [(date(2026, 7, 1), None, 1, 170, 0)]),
    "breakage": (("period", "lots", "points_issued", "points_expired", "breakage_rate"), [
        (JANUARY, 1, 110, 70, 70 / 110), (FEBRUARY, 1, 200, 0, 0.0),
    ]),
    "active-members": (("period", "active_members", "earning_members", "spending_members"), [(JANUARY, 1, 1, 0), (FEBRUARY, 2, 1, 1), (MARCH, 1, 0, 1)]),
    "tier-movement": (("period", "previous_tier", "tier", "changes", "members"), [(FEBRUARY, "MEMBER", "GOLD", 1, 1)]),
    "offer-uplift": (("offer_id", "members", "points_before", "points_since", "bonus_points", "uplift_rate"), [("spring", 1, 0, 100, 10, None)]),
    "redemption-rate": (("period", "points_issued", "points_redeemed", "redemption_rate"), [
        (JANUARY, 110, 0, 0.0), (FEBRUARY, 200, 40, 0.2), (MARCH, 0, 30, None),
    ]),
    "cohort-retention": (("period", "months_since", "members", "active_members", "retention_rate"), [
        (JANUARY, 0, 1, 1, 1.0), (JANUARY, 1, 1, 1, 1.0), (FEBRUARY, 0, 1, 1, 1.0), (FEBRUARY, 1, 1, 1, 1.0),
    ]),
    "source-latency": (("period", "source_system", "stream", "events", "source_p50_ms", "source_p99_ms", "decision_p50_ms", "decision_p99_ms"), [
        (date(2026, 2, 5), "pms", "transactions", 3, 20_000, 30_000, 2, 3),
    ]),
    "destination-latency": (("destination", "period", "deliveries", "failed_attempts", "append_to_2xx_p50_ms"), [("crm", date(2026, 2, 5), 1, 1, 1_030)]),
    "refused-commands": (("period", "stream", "reason", "refusals"), [(date(2026, 2, 5), "transactions", "INSUFFICIENT_POINTS", 2)]),
    "discrepancies": (("period", "proof", "discrepancies"), [
        (date(2026, 7, 1), "chain of hashes", 0), (date(2026, 7, 1), "entries add up to balances", 0), (date(2026, 7, 1), "entries without gaps", 0),
        (date(2026, 7, 1), "mirror without gaps", 0), (date(2026, 7, 1), "zero in sum", 0),
    ]),
}  # fmt: skip


@pytest.fixture(scope="module")
def settings(make_settings: Callable[..., Settings]) -> Settings:
    made = make_settings(kafka_bootstrap_servers=NOBODY, redis_url=f"redis://{NOBODY}", attempt_retention_days=0)
    clickhouse.migrate(made)
    for _ in range(2):  # What is read again changes no figure.
        world.fill(made)
    return made


@pytest.fixture(scope="module")
def client(settings: Settings) -> Iterator[Client]:
    connected = clickhouse.connect(settings)
    yield connected
    connected.close()


def run(settings: Settings, name: str, until_ms: int = NOW_MS, previous_ms: int | None = None) -> refresh.Refreshed:
    return refresh.refresh(settings, catalogue.load()[name], until_ms=until_ms, previous_ms=previous_ms)


def rows(client: Client, report: Report, columns: tuple[str, ...]) -> list[tuple[Any, ...]]:
    sql, values = refresh.stored(report, program=None, since=None, until=None, columns=columns)
    return [tuple(row) for row in client.query(sql, parameters=values).result_rows]


def test_the_catalogue_is_whole() -> None:
    reports = catalogue.load()
    assert set(reports) == set(EXPECTED)
    for name, report in reports.items():
        assert catalogue.readme(name).startswith("# ") and report.title
        assert all(one.removeprefix("report/") in reports or one == catalogue.RECONCILE for one in report.after)


@pytest.mark.parametrize("name", EXPECTED)
def test_a_report_is_what_a_hand_works_out(settings: Settings, client: Client, name: str) -> None:
    columns, expected = EXPECTED[name]
    done = run(settings, name)
    assert rows(client, catalogue.load()[name], columns) == expected
    assert run(settings, name).rows == done.rows
    assert rows(client, catalogue.load()[name], columns) == expected


def test_a_snapshot_is_as_of_its_day_and_stays(settings: Settings, client: Client) -> None:
    report = catalogue.load()["liability"]
    run(settings, "liability")
    run(settings, "liability", ms("2026-04-01"))
    found = client.query(f"SELECT period, expires, points FROM {report.table} ORDER BY period, expires NULLS LAST").result_rows
    assert found == [(date(2026, 4, 1), date(2026, 6, 1), 70), (date(2026, 4, 1), None, 170), (date(2026, 7, 1), None, 170)]
    assert rows(client, report, ("points",)) == [(170,)]  # Without times, the newest.


def test_what_is_owed_is_what_went_in_less_what_went_out(settings: Settings, client: Client) -> None:
    for name in ("points-issued", "points-redeemed", "points-expired", "liability"):
        run(settings, name)
    reports = catalogue.load()
    issued, redeemed, expired = (
        client.command(f"SELECT sum(points) FROM {reports[f'points-{name}'].table}") for name in ("issued", "redeemed", "expired")
    )
    (owed,) = rows(client, reports["liability"], ("points",))[0]
    assert owed == int(issued) - int(redeemed) - int(expired) == int(client.command("SELECT sum(available + pending + held) FROM zero_sum"))


def test_what_comes_late_changes_its_own_month_and_no_other(settings: Settings, client: Client, make_settings: Callable[..., Settings]) -> None:
    """A sale of January that is booked in July, long after the months of the last weeks."""
    report = catalogue.load()["points-issued"]
    run(settings, report.name)
    before = dict(client.query(f"SELECT toYYYYMM(period), max(computed_at) FROM {report.table} GROUP BY 1").result_rows)
    late = world.entry(5, "m-1", "2026-01-20", kind=EntryKind.EARN, account="available", points_delta=7, counter_account="issued", rule_id="late")
    previous_ms = int(client.command("SELECT toUnixTimestamp64Milli(now64(3)) + 600000"))  # All that is there was mirrored long before.
    assert run(settings, report.name, previous_ms=previous_ms).periods == 3  # Those of the last 35 days, and none that is older.
    try:
        world.write(settings, "ledger_entries", [late], first_offset=100)
        mirrored_ms = client.command("SELECT toUnixTimestamp64Milli(max(mirrored_at)) FROM ledger_entries WHERE source_offset = 100")
        assert run(settings, report.name, previous_ms=int(mirrored_ms)).rows == 4
        assert client.query(f"SELECT rule_id, points FROM {report.table} WHERE period = '2026-01-20'").result_rows == [("late", 7)]
        after = dict(client.query(f"SELECT toYYYYMM(period), max(computed_at) FROM {report.table} GROUP BY 1").result_rows)
        assert after[202601] > before[202601]
    finally:
        client.command("DELETE FROM ledger_entries WHERE source_offset = 100")
        client.command("DELETE FROM mirror_ranges WHERE last_offset = 100")
        run(settings, report.name)


def test_what_the_mirror_has_missed_is_a_discrepancy(settings: Settings, client: Client) -> None:
    """What is read again is none."""
    report = catalogue.load()["discrepancies"]
    missed = "SELECT 'loyalty_events', 't', 1, arrayJoin([0, 5, 20]) AS first_offset, first_offset + 9, 10, 10, 0, 0"
    client.command("INSERT INTO mirror_ranges (table_name, topic, partition, first_offset, last_offset, records, row_count, refused, points) " + missed)
    try:
        run(settings, report.name)
        found = {row[0]: row[1:] for row in rows(client, report, ("proof", "program_id", "discrepancies", "example"))}
        assert found["mirror without gaps"] == ("", 1, "t[1]@15-19")
    finally:
        client.command("DELETE FROM mirror_ranges WHERE topic = 't'")
        run(settings, report.name)


def test_a_month_without_rows_any_more_is_empty(settings: Settings, client: Client) -> None:
    report = catalogue.load()["tier-movement"]
    run(settings, report.name)
    client.command(f"INSERT INTO {report.table} SELECT * REPLACE (toDate('2026-05-01') AS period) FROM {report.table}")
    run(settings, report.name)
    assert rows(client, report, ("period",)) == [(FEBRUARY,), (date(2026, 5, 1),)]  # Nothing came for May, and it is long ago.
    run(settings, report.name, until_ms=ms("2026-06-01"), previous_ms=NOW_MS)
    assert rows(client, report, ("period",)) == [(FEBRUARY,)]


# Stops where the new rows of a period are made and the old ones still in their place.
UNTIL_KILLED = """
import sys, threading
from clickhouse_connect.driver.httpclient import HttpClient
from streams import settings
from streams.analytics import catalogue, refresh

command = HttpClient.command

def until_replaced(client, statement, *arguments, **options):
    if statement.startswith("ALTER TABLE"):
        print("made", flush=True)
        threading.Event().wait()
    return command(client, statement, *arguments, **options)

HttpClient.command = until_replaced
refresh.refresh(settings.load(), catalogue.load()[sys.argv[1]], until_ms=int(sys.argv[2]), previous_ms=None)
"""


@pytest.fixture
def paused(settings: Settings) -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    """A refresh in a process of its own, which stops before it replaces the first period."""
    started: list[subprocess.Popen[str]] = []

    def start(name: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", UNTIL_KILLED, name, str(NOW_MS)]
        process = subprocess.Popen(command, env=os.environ | settings.environment(), stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None and process.stdout.readline() == "made\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def tables_of(client: Client, report: Report) -> list[str]:
    return [row[0] for row in client.query(f"SHOW TABLES LIKE '{report.table}%'").result_rows]


def test_a_refresh_that_is_killed_leaves_the_old_rows(settings: Settings, client: Client, paused: Callable[[str], subprocess.Popen[str]]) -> None:
    report = catalogue.load()["redemption-rate"]
    columns, expected = EXPECTED[report.name]
    run(settings, report.name)
    client.command(f"ALTER TABLE {report.table} DROP PARTITION 202602")  # What the old rows are told by.
    killed = paused(report.name)
    killed.kill()
    killed.wait()
    assert len(tables_of(client, report)) == 2
    assert rows(client, report, columns) == [expected[0], expected[2]]
    run(settings, report.name)
    assert rows(client, report, columns) == expected
    assert tables_of(client, report) == [report.table]


def test_a_first_refresh_that_is_killed_is_no_report_yet(settings: Settings, client: Client, paused: Callable[[str], subprocess.Popen[str]]) -> None:
    """Else the next one would take the months that are missing for unchanged ones."""
    report = catalogue.load()["active-members"]
    columns, expected = EXPECTED[report.name]
    client.command(f"DROP TABLE IF EXISTS {report.table}")
    paused(report.name).kill()
    assert report.table not in tables_of(client, report)
    run(settings, report.name, previous_ms=NOW_MS)
    assert rows(client, report, columns) == expected


def test_of_two_refreshes_at_once_the_older_one_fails(settings: Settings, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when a scheduler was paused while another one began to lead."""
    report = catalogue.load()["redemption-rate"]
    columns, expected = EXPECTED[report.name]
    run(settings, report.name)
    months = refresh.months

    def while_another_one_runs(*arguments: Any) -> Any:
        monkeypatch.setattr(refresh, "months", months)
        run(settings, report.name)
        return months(*arguments)

    monkeypatch.setattr(refresh, "months", while_another_one_runs)
    with pytest.raises(UnavailableError, match=report.table):
        run(settings, report.name)
    assert rows(client, report, columns) == expected
    assert tables_of(client, report) == [report.table]


def test_every_grain_is_in_use() -> None:
    assert {report.grain for report in catalogue.load().values()} == set(Grain)


# As people ask for them.


@pytest.fixture(scope="module")
def computed(settings: Settings) -> Settings:
    for name in ("points-issued", "cohort-retention"):
        run(settings, name)
    return settings


def ask(settings: Settings, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["report", *arguments], env=settings.environment())


def test_the_list_says_what_is_computed(computed: Settings) -> None:
    rows = {row["name"]: row for row in map(json.loads, ask(computed, "--format", "json").stdout.splitlines())}
    assert set(rows) == set(EXPECTED)
    assert rows["points-issued"]["rows"] == 3 and rows["points-issued"]["computed_at"]
    answer = ask(computed)
    assert answer.exit_code == 0 and "cohort-retention" in answer.stdout


def test_csv_json_and_parquet_hold_the_same(computed: Settings, tmp_path: Path) -> None:
    file = tmp_path / "issued.parquet"
    as_csv = list(csv.DictReader(ask(computed, "points-issued", "--format", "csv").stdout.splitlines()))
    as_json = [json.loads(line) for line in ask(computed, "points-issued", "--format", "json").stdout.splitlines()]
    assert ask(computed, "points-issued", "--format", "parquet", "-o", str(file)).exit_code == 0
    as_parquet = parquet.read_table(file).to_pylist()
    assert [row["points"] for row in as_json] == [row["points"] for row in as_parquet] == [int(row["points"]) for row in as_csv] == [100, 10, 200]
    assert [row["period"] for row in as_csv] == [row["period"] for row in as_json] == [str(row["period"]) for row in as_parquet]


@pytest.mark.parametrize(("options", "points"), [
    (("--since", "2026-02-01"), [200]), (("--until", "2026-02-01"), [100, 10]), (("--program", "staff"), []), (("--program", "grand"), [100, 10, 200]),
])  # fmt: skip
@pytest.mark.parametrize("fresh", [(), ("--fresh",)])
def test_times_and_programmes(computed: Settings, options: tuple[str, ...], points: list[int], fresh: tuple[str, ...]) -> None:
    answer = ask(computed, "points-issued", "--format", "json", *options, *fresh)
    assert [json.loads(line)["points"] for line in answer.stdout.splitlines()] == points


@pytest.mark.parametrize("name", ["points-issued", "cohort-retention"])
@pytest.mark.parametrize(("suffix", "beginning"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".html", b"<!doctype html>")])
def test_pictures(computed: Settings, tmp_path: Path, name: str, suffix: str, beginning: bytes) -> None:
    file = tmp_path / f"{name}{suffix}"
    assert ask(computed, name, "--picture", str(file)).exit_code == 0
    assert file.read_bytes().startswith(beginning)


def test_a_chart_on_the_screen(computed: Settings) -> None:
    assert "2026-02-20" in ask(computed, "points-issued", "--chart").stdout


@pytest.mark.parametrize(("arguments", "code", "said"), [
    (("nonsense",), 2, "There are: active-members"), (("liability", "--format", "parquet"), 2, "--output"),
    (("liability", "--since", "soon"), 2, "no time like"), (("liability", "--picture", "x.pdf"), 2, ".png"),
])  # fmt: skip
def test_what_is_refused(computed: Settings, arguments: tuple[str, ...], code: int, said: str) -> None:
    answer = ask(computed, *arguments)
    assert (answer.exit_code, said in answer.stderr) == (code, True)


def test_what_was_not_computed_yet_says_so(computed: Settings) -> None:
    elsewhere = replace(computed, clickhouse_database=f"{computed.clickhouse_database}_other")
    clickhouse.migrate(elsewhere)
    answer = ask(elsewhere, "liability")
    assert answer.exit_code == 1 and "--fresh" in answer.stderr
    assert ask(elsewhere, "liability", "--fresh").exit_code == 0


def test_what_a_report_means_is_told(computed: Settings) -> None:
    assert "Outstanding points" in ask(computed, "liability", "--about").stdout
