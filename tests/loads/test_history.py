"""What becomes of the past in a real ledger: periods, expiry, tiers; rows that wait; loads that were sent before, are stopped, or must not go on."""

import json
import signal
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow
import pytest
from pyarrow import parquet

from streams import kafka
from streams.settings import Settings
from streams.tables import CHANGELOG_CONFIG, app_id, changelog_name, changelogs
from tests.e2e import oracle
from tests.e2e.processes import pipeline
from tests.loads.processes import load, start, write
from tests.waiting import wait_until

RULES = """
[programs.grand]
time_zone = "Europe/Berlin"
[programs.grand.earn]
points_per_unit = { EUR = 10 }
[[programs.grand.earn.rules]]
id = "spa"
categories = ["spa"]
points_per_unit = { EUR = 10 }
cap_points = 100
cap_period = "month"
[programs.grand.expiry]
rule = "end_of_year"
years = 2
[[programs.grand.tiers]]
name = "MEMBER"
threshold_points = 0
[[programs.grand.tiers]]
name = "GOLD"
threshold_points = 1000
[programs.grand.tier_policy]
window = "calendar_year"
"""
YEAR = datetime.now(ZoneInfo("Europe/Berlin")).year
JOINED = datetime(2020, 1, 1, 12, tzinfo=UTC)
COMMON = ("--program", "grand", "--source", "pms")


@pytest.fixture(scope="module")
def settings(make_settings: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Of a deployment whose worker runs."""
    home = tmp_path_factory.mktemp("loads")
    (home / "loyalty.toml").write_text(RULES)
    settings: Settings = make_settings(
        home=str(home), config_file=str(home / "loyalty.toml"), redis_url="redis://unused", clickhouse_url="http://unused"
    )
    kafka.ensure_topics(settings, changelogs={name: CHANGELOG_CONFIG for name in changelogs(settings)})
    with pipeline(settings, "worker") as worker:
        worker.wait_ready()
        yield settings
        assert worker.stop() == 0


def accounts(settings: Settings) -> dict[str, dict[str, Any]]:
    lines = oracle.read(settings.kafka_bootstrap_servers, changelog_name(app_id(settings), "accounts"), "account")
    return {line.key.partition("/")[2]: line.value for line in lines if line.value is not None}


def enrol(settings: Settings, folder: Path, *members: str) -> None:
    joined = pyarrow.array([JOINED] * len(members), pyarrow.timestamp("ms", "UTC"))
    table = pyarrow.table({"member_id": members, "event_id": [f"crm:{one}" for one in members], "occurred_at": joined})
    parquet.write_table(table, folder / "members.parquet")
    code, said = load(settings, str(folder / "members.parquet"), *COMMON, "--as", "enrolments")
    assert (code, said["results"]) == (0, {"applied": len(members)}), said


def earn(member: str, number: int, at: str, **what: Any) -> dict[str, Any]:
    return {"member_id": member, "transaction_id": f"pms:{member}-{number}", "kind": "EARN", "occurred_at": at} | what


def test_the_past_lands_in_its_periods(settings: Settings, tmp_path: Path) -> None:
    enrol(settings, tmp_path, "P-1", "P-2", "P-3")
    euro = {"currency": "EUR", "category": "spa"}
    rows = [
        # The cap of a month counts by the day of the sale, whatever the order: 100 and 50 in two months, not 100 in one.
        earn("P-1", 1, f"{YEAR - 1}-11-30T22:59:59Z", amount="15.00", **euro), earn("P-1", 2, f"{YEAR - 1}-11-30T23:00:00Z", amount="5.00", **euro),
        earn("P-1", 3, f"{YEAR - 1}-11-01T12:00:00Z", amount="15.00", **euro),
        # Expiry counts from the sale. What has expired since cannot be spent any more, though it could then.
        earn("P-2", 1, f"{YEAR - 4}-05-01T00:00:00Z", points=300), earn("P-2", 2, f"{YEAR - 1}-05-01T00:00:00Z", points=40),
        {"member_id": "P-2", "transaction_id": "pms:P-2-3", "kind": "REDEEM", "occurred_at": f"{YEAR - 4}-06-01T00:00:00Z", "points": 200},
        # A tier needs the points of a year that counts: last year's are kept for its end, and give none.
        earn("P-3", 1, f"{YEAR - 1}-05-01T00:00:00Z", points=2_000), earn("P-3", 2, f"{YEAR}-01-01T00:00:00+01:00", points=400),
    ]  # fmt: skip
    code, said = load(settings, str(write(tmp_path / "history.csv", rows)), *COMMON, "--as", "transactions")
    assert (code, said["results"], said["reasons"]) == (1, {"applied": 7, "refused": 1}, {"INSUFFICIENT_POINTS": 1}), said
    assert (said["report"]["expired_rows"], said["report"]["spending_rows"]) == (1, 1)
    found = accounts(settings)
    first, second, third = (found[name] for name in ("P-1", "P-2", "P-3"))
    assert first["enrolled_at_ms"] == JOINED
    assert (first["available_points"], [use["points"] for use in first["rule_uses"]]) == (350 + 100 + 50, [100, 50])
    assert [lot["expires_at_ms"] for lot in first["lots"]] == [datetime(YEAR + 2, 1, 1, tzinfo=ZoneInfo("Europe/Berlin"))] * 3
    assert (second["available_points"], [lot["remaining"] for lot in second["lots"]]) == (40, [40])
    assert (third["tier"], [bucket["points"] for bucket in third["qualifying"]]) == ("MEMBER", [2_000, 400])


def test_a_tier_of_the_past_is_given(settings: Settings, tmp_path: Path) -> None:
    enrol(settings, tmp_path, "T-1")
    tier = {"member_id": "T-1", "event_id": "crm:gold", "occurred_at": "2025-05-01T00:00:00Z", "kind": "SET_TIER", "tier": "GOLD",
            "valid_until": "2090-01-01T00:00:00+01:00", "reason": "earned before the move", "actor": "crm"}  # fmt: skip
    (tmp_path / "tiers.jsonl").write_text(json.dumps(tier) + "\n")
    code, said = load(settings, str(tmp_path / "tiers.jsonl"), *COMMON, "--as", "member-operations")
    assert (code, said["results"]) == (0, {"applied": 1}), said
    account = accounts(settings)["T-1"]
    assert (account["tier"], account["tier_valid_until_ms"]) == ("GOLD", datetime(2090, 1, 1, tzinfo=ZoneInfo("Europe/Berlin")))


def test_rows_that_wait_and_loads_that_were_sent_before(settings: Settings, tmp_path: Path) -> None:
    rows = [earn("W-1", number, "2025-05-01T00:00:00Z", points=10) for number in range(5)]
    file = str(write(tmp_path / "history.csv", rows))
    arguments = (file, *COMMON, "--as", "transactions")
    code, said = load(settings, *arguments)
    assert (code, said["results"]) == (0, {"waiting": 5}), said
    enrol(settings, tmp_path, "W-1")
    wait_until(lambda: accounts(settings).get("W-1", {}).get("available_points") == 50, timeout_s=30)
    code, again = load(settings, *arguments)
    assert (code, again["state"], again["load_id"]) == (0, "loaded before", said["load_id"])
    code, again = load(settings, *arguments, "--again")
    assert (code, again["results"]) == (0, {"replayed": 5})
    code, elsewhere = load(replace(settings, home=str(tmp_path / "elsewhere")), *arguments)
    assert (code, elsewhere["results"], elsewhere["load_id"]) == (0, {"replayed": 5}, said["load_id"])
    assert accounts(settings)["W-1"]["available_points"] == 50
    # Answers are forgotten in the end: then the same rows would be new ones.
    progress = Path(settings.home) / "loads" / said["load_id"] / "progress.json"
    progress.write_text(json.dumps(json.loads(progress.read_text()) | {"saved_at_ms": 1_700_000_000_000}))
    process = start(settings, *arguments, "--again")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2 and "would be posted a second time" in errors, errors


def test_a_load_that_is_stopped_goes_on_without_its_source(settings: Settings, tmp_path: Path) -> None:
    enrol(settings, tmp_path, "S-1")
    file = write(tmp_path / "history.csv", [earn("S-1", number, "2025-05-01T00:00:00Z", points=1) for number in range(400)])
    process = start(settings, str(file), *COMMON, "--as", "transactions", "--rate-max", "20")
    wait_until(lambda: accounts(settings)["S-1"]["available_points"] >= 5, timeout_s=60)
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=60)
    said = json.loads(out)
    assert (process.returncode, said["state"]) == (130, "stopped"), errors
    assert 5 <= said["decided"] == said["results"]["applied"] < 400
    file.unlink()
    code, resumed = load(settings, "--resume", said["load_id"])
    assert (code, resumed["results"]) == (0, {"applied": 400}), resumed
    assert accounts(settings)["S-1"]["available_points"] == 400


def _is_begun(path: Path) -> bool:
    progress = json.loads(path.read_text())
    return bool(progress["positions"]) and not progress["ended_at_ms"]


def test_nothing_is_sent_before_its_time(settings: Settings, tmp_path: Path) -> None:
    enrol(settings, tmp_path, "A-1")
    file = write(tmp_path / "history.csv", [earn("A-1", 1, "2025-05-01T00:00:00Z", points=1)])
    process = start(settings, str(file), *COMMON, "--as", "transactions", "--at", "2199-01-01T00:00:00Z")
    wait_until(lambda: any(_is_begun(path) for path in Path(settings.home).glob("loads/*/progress.json")), timeout_s=60)
    process.send_signal(signal.SIGTERM)
    out, errors = process.communicate(timeout=60)
    assert (process.returncode, json.loads(out)["decided"]) == (130, 0), errors
    assert accounts(settings)["A-1"]["available_points"] == 0


def test_a_programme_that_nobody_has_published(settings: Settings, tmp_path: Path) -> None:
    file = write(tmp_path / "history.csv", [earn("A-1", 1, "2025-05-01T00:00:00Z", points=1)])
    process = start(replace(settings, config_file=""), str(file), "--program", "other", "--source", "pms", "--as", "transactions")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2 and "no rules of it are published" in errors, errors
