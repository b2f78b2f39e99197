"""`loyalty sql` against the embedded ClickHouse."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from infra.clickhouse_service import ClickHouseServer
from infra.sql import sql
from tests.infra.test_clickhouse_server import FAILS_LATE

Run = Callable[..., Result]

QUERY = "SELECT number AS n, toString(number) AS s, if(number = 1, NULL, 1) AS x, [number] AS a FROM numbers(2)"


@pytest.fixture
def run(clickhouse: ClickHouseServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("LOYALTY_HOME", str(tmp_path))
    monkeypatch.setenv("LOYALTY_CLICKHOUSE_URL", clickhouse.url)
    monkeypatch.setenv("LOYALTY_CLICKHOUSE_DATABASE", "default")

    def call(*arguments: str, text: str | None = None) -> Result:
        return CliRunner().invoke(sql, arguments, input=text)

    return call


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), "n\ts\tx\ta\n0\t0\t1\t[0]\n1\t1\t\\N\t[1]\n"),
        (("--format", "csv"), '"n","s","x","a"\n0,"0",1,"[0]"\n1,"1",\\N,"[1]"\n'),
        (("-f", "jsonl"), '{"n":0,"s":"0","x":1,"a":[0]}\n{"n":1,"s":"1","x":null,"a":[1]}\n'),
        (("-f", "CustomSeparated"), "0\t0\t1\t[0]\n1\t1\t\\N\t[1]\n"),
    ],
    ids=str,
)  # fmt: skip
def test_formats(run: Run, arguments: tuple[str, ...], expected: str) -> None:
    done = run(QUERY, *arguments)
    assert (done.exit_code, done.stdout) == (0, expected)


def test_json_is_for_programs(run: Run) -> None:
    assert json.loads(run(QUERY, "--json").stdout)["data"][1] == {"n": 1, "s": "1", "x": None, "a": [1]}


def test_a_table_is_for_people(run: Run) -> None:
    done = run(QUERY, "--format", "table")
    assert done.exit_code == 0
    assert "NULL" in done.stdout and "[1]" in done.stdout and "2 rows" in done.stdout
    assert "0 rows" in run("SELECT 1 AS one WHERE 0", "-f", "table").stdout
    many = run("SELECT number FROM numbers(1500)", "-f", "table").stdout
    assert "1500 rows, the first 1000 shown" in many
    # The query's own format wins.
    assert run("SELECT 1 FORMAT CSV", "-f", "table").stdout == "1\n"
    assert run("SELECT '[bold]x'", "-f", "table").stdout.count("[bold]x") == 2


def test_the_query_from_standard_input(run: Run) -> None:
    assert run("-", text="SELECT 1\nAS one\n").stdout == "one\n1\n"


def test_statements_without_result(run: Run) -> None:
    assert run("CREATE TABLE sql_test (a Int8) ENGINE = Memory").exit_code == 0
    assert run("INSERT INTO sql_test VALUES (5)", "-f", "table").exit_code == 0
    assert run("SELECT a FROM sql_test").stdout == "a\n5\n"
    assert run("DROP TABLE sql_test").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("SELECT * FROM nowhere",), "loyalty sql: Code: 60. DB::Exception: Unknown table"),
        (("SELECT 1", "-d", "nowhere"), "Database nowhere does not exist"),
        ((FAILS_LATE, "-f", "jsonl"), "The result broke off"),
        ((FAILS_LATE, "-f", "table"), "Code: 395"),
    ],
)  # fmt: skip
def test_errors_end_with_1_and_say_why(run: Run, arguments: tuple[str, ...], message: str) -> None:
    done = run(*arguments)
    assert done.exit_code == 1
    assert message in done.stderr


def test_no_server(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOYALTY_CLICKHOUSE_URL", "http://127.0.0.1:9")
    done = run("SELECT 1")
    assert done.exit_code == 1
    assert "No ClickHouse answers at LOYALTY_CLICKHOUSE_URL=http://127.0.0.1:9" in done.stderr
    monkeypatch.setenv("LOYALTY_NONSENSE", "1")
    assert run("SELECT 1").exit_code == 2


def test_a_reader_that_has_seen_enough(clickhouse: ClickHouseServer, tmp_path: Path) -> None:
    environment = {"LOYALTY_HOME": str(tmp_path), "LOYALTY_CLICKHOUSE_URL": clickhouse.url, "LOYALTY_CLICKHOUSE_DATABASE": "default"}
    command = [sys.executable, "-m", "streams.cli", "sql", "SELECT number FROM numbers(10000000)"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
        assert process.stdout and process.stderr
        assert process.stdout.readline() == b"number\n"
        process.stdout.close()
        assert process.stderr.read() == b""
