"""`loyalty load` as far as it needs no server: the report, rejected rows that are an input again, options, and what is left in the home."""

import csv
import gzip
import json
import random
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from streams.agents import keep_accounts
from streams.cli import main
from streams.loads import loading, screen, store
from streams.loads.store import Progress
from streams.settings import Settings
from tests.e2e.oracle import RULES_TOML
from tests.loads.mappings import postings

MAPPING = postings("%Y-%m-%d %H:%M", "Asia/Kolkata", more='[csv]\ndelimiter = ";"\nencoding = "windows-1252"')
HISTORY = """folio;guest;posted;type;total;points;clerk
1;M-1;2024-05-03 10:00;stay;100.00;;Müller
2;M-1;2024-05-02 10:00;reward;;40;
3;M-2;2024-06-01 00:00;stay;19.999;;
4;M-2;2024-06-01;walk;1;;
5;M-2
1;M-1;2024-05-03 10:00;stay;100.00;;again
2;M-1;2024-05-02 10:00;reward;;41;
6;M-3;2199-01-01 00:00;stay;0.50;;
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LOYALTY_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LOYALTY_KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1")
    (tmp_path / "mapping.toml").write_text(MAPPING)
    (tmp_path / "history.csv").write_bytes(HISTORY.encode("windows-1252"))
    (tmp_path / "loyalty.toml").write_text(RULES_TOML + "[programs.grand.expiry]\nrule = 'after_days'\ndays = 365\n")
    return tmp_path


def run(*arguments: str, stdin: bytes | None = None) -> Result:
    return CliRunner().invoke(main, ["load", *arguments], input=stdin)


COMMON = ("--program", "grand", "--source", "pms", "--as", "transactions", "--mapping", "mapping.toml")


def test_a_dry_run_tells_all_and_leaves_nothing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOYALTY_CONFIG_FILE", "loyalty.toml")
    result = run("history.csv", *COMMON, "--dry-run", "--json", "--report", "report.json", "--rejects", "rejects.csv")
    assert result.exit_code == 1, result.output
    said = json.loads(result.stdout)
    assert said == json.loads((home / "report.json").read_text())
    assert (said["state"], said["results"]) == ("checked", {})
    report = said["report"]
    assert {name: report[name] for name in ("rows", "to_send", "rejected_rows", "repeated", "members", "out_of_order", "future_rows", "expired_rows")} == {
        "rows": 8, "to_send": 3, "rejected_rows": 4, "repeated": 1, "members": 2, "out_of_order": 1, "future_rows": 1, "expired_rows": 2,
    }  # fmt: skip
    assert {reason: found["rows"] for reason, found in report["rejected"].items()} == {"AMOUNT_INEXACT": 1, "TIME_INVALID": 1, "ROW_INVALID": 1, "ID_TWICE": 1}
    assert report["rejected"]["AMOUNT_INEXACT"]["examples"] == ["history.csv line 4: the amount 19.999 has more decimals than EUR has: 2"]
    assert (report["first"], report["last"]) == ("2024-05-02T04:30:00.000Z", "2198-12-31T18:30:00.000Z")
    assert (report["kinds"], report["points"], report["amounts_minor"]) == ({"EARN": 3, "REDEEM": 2}, {"REDEEM": 81}, {"EUR": 20_050})
    assert report["unused_columns"] == ["clerk"]
    assert list((home / "home" / "loads").iterdir()) == []


def test_rejected_rows_are_an_input_again(home: Path) -> None:
    run("history.csv", *COMMON, "--dry-run", "--rejects", "rejects.csv")
    text = (home / "rejects.csv").read_text("windows-1252")
    header, *rows = csv.reader(text.splitlines(), delimiter=";")
    assert header == ["_file", "_line", "_reason", "folio", "guest", "posted", "type", "total", "points", "clerk"]
    assert [row[:2] + row[3:5] for row in rows] == [
        ["history.csv", "4", "3", "M-2"], ["history.csv", "5", "4", "M-2"], ["history.csv", "6", "5", "M-2"], ["history.csv", "8", "2", "M-1"],
    ]  # fmt: skip
    assert rows[1][2].startswith("TIME_INVALID: ") and "WORD_UNKNOWN: 'type' must be one of stay, reward, not 'walk'" in rows[1][2]
    mended = text.replace("19.999", "19.99").replace("2024-06-01;walk", "2024-06-01 09:00;stay").replace("5;M-2\n", "5;M-2;2024-06-02 09:00;stay;1;;\n")
    (home / "mended.csv").write_text(mended.replace(";2;M-1;", ";7;M-1;"), "windows-1252")
    result = run("mended.csv", *COMMON, "--dry-run", "--json")
    said = json.loads(result.stdout)
    assert (result.exit_code, said["report"]["to_send"], said["report"]["rejected"]) == (0, 4, {}), result.output


def test_rejects_of_mixed_input_are_json(home: Path) -> None:
    row = {"member_id": "M-1", "transaction_id": "t-1", "occurred_at": "2024-05-03T09:30:00Z", "kind": "EARN", "points": 10**30}
    (home / "a.jsonl.gz").write_bytes(gzip.compress(json.dumps(row).encode() + b"\n{broken\n"))
    (home / "b.csv").write_text("member_id,points\nM-1,0\n")
    run("a.jsonl.gz", "b.csv", "--program", "grand", "--source", "pms", "--as", "transactions", "--dry-run", "--rejects", "rejects.jsonl")
    first, second, third = map(json.loads, (home / "rejects.jsonl").read_text().splitlines())
    assert first["points"] == 10**30 and first["_reason"].startswith("NUMBER_INVALID")
    assert (second["_raw"], second["_line"]) == ("{broken\n", 2)
    assert (third["_file"], third["points"]) == ("b.csv", "0")


def test_the_standard_input(home: Path) -> None:
    result = run("-", "--format", "csv", *COMMON, "--dry-run", "--json", stdin=b"folio;guest;posted;type;total;points\n1;M-1;2024-05-03 10:00;stay;1;\n")
    assert (result.exit_code, json.loads(result.stdout)["report"]["to_send"]) == (0, 1), result.output


@pytest.mark.parametrize(("allowed", "asks_kafka"), [("0", False), ("3", False), ("49%", False), ("50%", True)])
def test_too_many_rejects(home: Path, monkeypatch: pytest.MonkeyPatch, allowed: str, asks_kafka: bool) -> None:
    """A load that may be sent comes as far as the broker, which is not there."""
    monkeypatch.setattr(loading, "ASK_TIMEOUT_S", 0.2)
    result = run("history.csv", *COMMON, "--max-rejects", allowed)
    assert (result.exit_code, "no Kafka broker answers" in result.output) == ((3, True) if asks_kafka else (1, False)), result.output
    assert ("more rows are rejected than" in result.output) is not asks_kafka


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("history.csv",), "--program, --source, --as must be given"),
        (("history.csv", "--resume", "x"), "takes no SOURCE"),
        (("--resume", "x"), "there is no such load"),
        (("none.csv", *COMMON), "is neither a file"),
        (("history.csv", *COMMON, "--mapping", "none.toml"), "cannot be read"),
        (("history.csv", *COMMON, "--window", "1-5"), "--window"),
        (("history.csv", *COMMON, "--time-zone", "Berlin"), "--time-zone must be a name"),
        (("history.csv", *COMMON, "--at", "2026-12-01"), "--at must be a time with its zone"),
        (("history.csv", *COMMON, "--max-rejects", "many"), "must be a number of rows"),
        (("history.csv", *COMMON, "--as", "enrolments"), "no field of Enrolment"),
        (("comma.csv", *COMMON), "comma.csv has no column 'folio', 'guest'"),
        (("few.jsonl", *COMMON), "No row has 'points', 'total', which"),
        (("cut.csv.gz", *COMMON), "breaks off or is damaged"),
    ],
)
def test_what_must_be_mended(home: Path, arguments: tuple[str, ...], why: str) -> None:
    (home / "comma.csv").write_text("folio,guest\n1,2\n")
    (home / "few.jsonl").write_text('{"folio":1,"guest":"M-1","posted":"2024-05-03 10:00","type":"stay"}\n')
    (home / "cut.csv.gz").write_bytes(gzip.compress(HISTORY.encode() + random.Random(1).randbytes(5_000).hex().encode())[:-100])
    result = run(*arguments)
    assert (result.exit_code, why in result.output) == (2, True), result.output
    assert list((home / "home").glob("loads/*")) == []


def test_a_programme_that_the_file_does_not_have(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOYALTY_CONFIG_FILE", "loyalty.toml")
    result = run("history.csv", *COMMON, "--program", "other", "--dry-run")
    assert (result.exit_code, "LOYALTY_CONFIG_FILE has grand" in result.output) == (2, True), result.output


def test_a_load_is_one_process_s(home: Path) -> None:
    settings = Settings(home=str(home / "home"))
    made = store.new(settings)
    assert store.new(settings).path != made.path  # The first is in use, and stays.
    assert made.path.exists()
    made.close()
    other = store.new(settings)
    assert not made.path.exists()  # What a killed process leaves.
    other.remove()


def test_progress_comes_back_as_it_was(home: Path) -> None:
    workspace = store.new(Settings(home=str(home / "home")))
    progress = Progress(positions={"sync-audit": {"0": 5}}, decided_below=7, decided_above=[9, 11], rejects_bytes=3, started_at_ms=1, saved_at_ms=2)
    progress.results["applied"] += 8
    workspace.save(progress)
    assert workspace.progress() == progress
    workspace.remove()


def test_as_many_can_wait_as_the_report_says() -> None:
    assert screen.WAITING_COMMANDS_MAX == keep_accounts.WAITING_COMMANDS_MAX


def shown(arguments: tuple[str, ...]) -> list[str]:
    return [line.rstrip() for line in run(*arguments).output.splitlines()]


def test_the_report_for_people(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("LOYALTY_CONFIG_FILE", "loyalty.toml")
    lines = shown(("history.csv", *COMMON, "--dry-run"))
    for wanted in (
        "│ rejected │ 4                                                    │", "│ REDEEM   │ 2 rows, 81 points given                              │",
        "rejected 1 times: ID_TWICE", "    history.csv line 8: its id came before in this input, with other content",
        "note 1 rows are older than the one before of the same member: --sort sends them by time", "Checked.",
    ):  # fmt: skip
        assert wanted in lines, "\n".join(lines)
