"""The embedded ClickHouse as its clients see it: clickhouse-connect with its defaults, and plain HTTP."""

import gzip
import http.client
import json
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import clickhouse_connect
import pytest
from clickhouse_connect.driver.exceptions import DatabaseError, StreamFailureError

from infra.clickhouse_service import ClickHouseServer
from infra.http_probe import answers_ok
from infra.processes import StartError
from tests.waiting import wait_until

TABLE = """
CREATE TABLE t (
    id UInt64, tag LowCardinality(String), note Nullable(String), at DateTime64(3, 'UTC'), attributes Map(LowCardinality(String), String),
    names Array(LowCardinality(String)), code FixedString(4), kind Enum8('x' = 1, 'y' = 2), points Int64
) ENGINE = MergeTree ORDER BY id SETTINGS non_replicated_deduplication_window = 100
"""
COLUMNS = ["id", "tag", "note", "at", "attributes", "names", "code", "kind", "points"]
# A row every tenth of a second, until the sixth one fails.
FAILS_LATE = "SELECT throwIf(number = 5), sleep(0.1) FROM numbers(10) SETTINGS max_block_size = 1, max_threads = 1"
AT = datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=UTC)


def rows(count: int) -> list[list[Any]]:
    return [
        [i, f"tag{i % 3}", None if i % 2 else "é'\n\\", AT, {"k": str(i)}, ["p", "q"], "abcd", "y", -i] for i in range(count)
    ]  # fmt: skip


@pytest.fixture
def database(clickhouse: ClickHouseServer) -> Iterator[str]:
    """A database of this test, with the table `t`."""
    name = f"d{secrets.token_hex(6)}"
    assert ask(clickhouse, f"CREATE DATABASE {name}")[0] == 200
    assert ask(clickhouse, TABLE, database=name)[0] == 200
    yield name
    ask(clickhouse, f"DROP DATABASE {name}")


@pytest.fixture
def client(clickhouse: ClickHouseServer, database: str) -> Iterator[Any]:
    with clickhouse_connect.get_client(host="127.0.0.1", port=clickhouse.port, database=database) as connected:
        yield connected


def ask(
    server: ClickHouseServer, body: str | bytes, method: str = "POST", headers: dict[str, str] | None = None, **parameters: str
) -> tuple[int, dict[str, str], bytes]:  # fmt: skip
    """Status, headers and body of a plain request."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    try:
        content = body.encode() if isinstance(body, str) else body
        connection.request(method, f"/?{urlencode(parameters)}" if parameters else "/", content or None, headers or {})
        response = connection.getresponse()
        return response.status, dict(response.headers), response.read()
    finally:
        connection.close()


def count(server: ClickHouseServer, database: str, table: str = "t") -> int:
    return int(ask(server, f"SELECT count() FROM {table}", database=database)[2])


# clickhouse-connect


@pytest.mark.parametrize("compress", [True, False, "lz4", "zstd", "gzip"])
def test_native_inserts_of_every_type_come_back_as_they_were(clickhouse: ClickHouseServer, database: str, compress: bool | str) -> None:
    with clickhouse_connect.get_client(host="127.0.0.1", port=clickhouse.port, database=database, compress=compress) as client:
        summary = client.insert("t", rows(1000), column_names=COLUMNS)
        assert summary.written_rows == 1000
        found = client.query("SELECT * FROM t ORDER BY id LIMIT 2")
    assert list(found.column_names) == COLUMNS
    one, two = found.result_rows
    assert one == (0, "tag0", "é'\n\\", AT.replace(tzinfo=None), {"k": "0"}, ["p", "q"], b"abcd", "y", 0)
    assert (two[0], two[2], two[8]) == (1, None, -1)


def test_an_insert_with_the_token_of_another_is_ignored(client: Any) -> None:
    for _ in range(2):
        client.insert("t", rows(10), column_names=COLUMNS, settings={"insert_deduplication_token": "batch-1"})
    assert client.command("SELECT count() FROM t") == 10
    client.insert("t", rows(10), column_names=COLUMNS, settings={"insert_deduplication_token": "batch-2"})
    assert client.command("SELECT count() FROM t") == 20


def test_parameters_are_bound_by_the_engine(client: Any) -> None:
    query = "SELECT {n:UInt32} + 1, {s:String}, {a:Array(String)}, {d:DateTime64(3)}"
    at = datetime(2026, 1, 2, 3, 4, 5)
    found = client.query(query, parameters={"n": 1, "s": "it's\t\n\\ {x:UInt8}", "a": ["a'b", "c"], "d": at})
    assert found.result_rows == [(2, "it's\t\n\\ {x:UInt8}", ["a'b", "c"], at)]
    long = "x" * 100_000  # Too long for a URL: sent as a form.
    assert client.query("SELECT {s:String}", parameters={"s": long}).result_rows == [(long,)]
    client.command("INSERT INTO t (id, tag) VALUES ({id:UInt64}, 'bound')", parameters={"id": 7})
    assert client.query("SELECT id, tag FROM t").result_rows == [(7, "bound")]


def test_an_empty_result_has_names_and_types(client: Any) -> None:
    found = client.query("SELECT id, tag, count() AS n FROM t WHERE id > {x:UInt64} GROUP BY id, tag", parameters={"x": 1})
    assert found.result_rows == []
    assert found.column_names == ("id", "tag", "n")
    assert [kind.name for kind in found.column_types] == ["UInt64", "LowCardinality(String)", "UInt64"]
    assert client.query("SHOW TABLES LIKE 'nothing'").column_names == ("name",)
    assert client.query("WITH 1 AS x SELECT x AS y WHERE 0").column_names == ("y",)


def test_commands_say_what_they_give(client: Any) -> None:
    assert client.command("SELECT 1") == 1
    assert client.command("EXISTS TABLE t") == 1
    assert client.command("SELECT 'a' WHERE 0") == ""
    assert int(client.command("INSERT INTO t (id) VALUES (1), (2)").summary["written_rows"]) == 2
    assert int(client.command("INSERT INTO t (id) SELECT number FROM numbers(5)").summary["written_rows"]) == 5
    assert client.ping()


def test_arrow_goes_both_ways(client: Any) -> None:
    arrow = pytest.importorskip("pyarrow")
    client.command("CREATE TABLE arrows (a Int64, b String) ENGINE = MergeTree ORDER BY a")
    client.insert_arrow("arrows", arrow.table({"a": [2, 1], "b": ["x", "y"]}))
    assert client.query_arrow("SELECT * FROM arrows ORDER BY a", use_strings=True).to_pydict() == {"a": [1, 2], "b": ["y", "x"]}


def test_raw_inserts_and_queries(client: Any) -> None:
    assert client.raw_insert("t", ["id", "tag"], b"1,a\n2,b\n", fmt="CSV").written_rows == 2
    assert client.raw_insert("t", ["id"], gzip.compress(b"3\n"), fmt="CSV", compression="gzip").written_rows == 1
    assert client.raw_query("SELECT id, tag FROM t ORDER BY id", fmt="JSONEachRow").splitlines()[0] == b'{"id":1,"tag":"a"}'


@pytest.mark.parametrize(
    ("query", "code", "name"),
    [
        ("SELECT * FROM nowhere", 60, "UNKNOWN_TABLE"),
        ("SELECT nothing", 47, "UNKNOWN_IDENTIFIER"),
        ("SELECT 1 +", 62, "SYNTAX_ERROR"),
        ("SELECT 1; SELECT 2", 62, "SYNTAX_ERROR"),
        ("SELECT throwIf(1)", 395, "FUNCTION_THROW_IF_VALUE_IS_NON_ZERO"),
        ("INSERT INTO t (id) VALUES ('x')", 6, "CANNOT_PARSE_TEXT"),
        ("INSERT INTO nowhere VALUES (1)", 60, "UNKNOWN_TABLE"),
    ],
)  # fmt: skip
def test_errors_are_database_errors_with_a_code(client: Any, query: str, code: int, name: str) -> None:
    with pytest.raises(DatabaseError) as raised:
        client.command(query)
    assert (raised.value.code, raised.value.name) in [(code, name), (53, "TYPE_MISMATCH")]
    assert client.command("SELECT 1") == 1


def test_rows_that_the_table_refuses_are_an_error_and_not_a_silent_loss(client: Any) -> None:
    client.command("CREATE TABLE picky (a Int32, CONSTRAINT positive CHECK a > 0) ENGINE = MergeTree ORDER BY a")
    with pytest.raises(DatabaseError, match="VIOLATED_CONSTRAINT|positive"):
        client.insert("picky", [[1], [-1]], column_names=["a"])
    client.command("CREATE TABLE parted (a Int32) ENGINE = MergeTree PARTITION BY a ORDER BY a")
    with pytest.raises(DatabaseError, match="TOO_MANY_PARTS|partitions"):
        client.insert("parted", [[number] for number in range(200)], column_names=["a"])
    assert (client.command("SELECT count() FROM picky"), client.command("SELECT count() FROM parted")) == (0, 0)


def test_the_settings_of_an_insert_are_its_own(client: Any) -> None:
    client.command("CREATE TABLE plain (a Int32, b String) ENGINE = MergeTree ORDER BY a")
    client.command("INSERT INTO plain (a, b) SETTINGS input_format_allow_errors_num = 1 FORMAT CSV\n1,'it''s'\noops\n3,c\n")
    assert client.query("SELECT a FROM plain ORDER BY a").result_rows == [(1,), (3,)]


def test_an_insert_into_nothing_fails_however_large_it_is(client: Any) -> None:
    with pytest.raises(DatabaseError) as raised:
        client.raw_insert("nowhere", ["a"], b"1\n" * 20_000_000, fmt="CSV")
    assert raised.value.code == 60


def test_rows_stream(client: Any) -> None:
    with client.query_row_block_stream("SELECT number, toString(number) FROM numbers(300000)") as blocks:
        sizes = [len(block) for block in blocks]
    assert sum(sizes) == 300_000
    assert len(sizes) > 1


def test_an_error_in_the_middle_of_a_stream_is_an_error(client: Any) -> None:
    seen = 0
    with pytest.raises(StreamFailureError, match="Value passed to 'throwIf'"):
        with client.query_row_block_stream(FAILS_LATE) as blocks:
            for block in blocks:
                seen += len(block)
    assert seen <= 5
    assert client.command("SELECT 1") == 1


def test_what_a_session_sets_stays_and_what_a_request_sets_does_not(client: Any) -> None:
    client.command("CREATE TEMPORARY TABLE mine (a Int8)")
    client.command("INSERT INTO mine VALUES (4)")
    assert client.query("SELECT a FROM mine").result_rows == [(4,)]
    client.command("SET max_threads = 3")
    asked = "SELECT getSetting('max_threads')"
    assert client.query(asked).result_rows == [(3,)]
    assert client.query(asked, settings={"max_threads": 5}).result_rows == [(5,)]
    assert client.query(asked).result_rows == [(3,)]
    with pytest.raises(DatabaseError):
        client.command("SELECT 1", settings={"max_threads": "many"})
    assert client.query(asked).result_rows == [(3,)]


def test_external_tables_are_refused_in_plain_words(client: Any) -> None:
    from clickhouse_connect.driver.external import ExternalData

    data = ExternalData(file_name="x.csv", data=b"1\n", fmt="CSV", structure="a Int8")
    with pytest.raises(DatabaseError, match="External tables are not implemented by the embedded server"):
        client.query("SELECT * FROM x", external_data=data)


# Plain HTTP


def test_the_parts_of_a_request(clickhouse: ClickHouseServer, database: str) -> None:
    """Query in the body or in the URL or half in each, format in the query or beside it, data behind the query or alone."""
    assert ask(clickhouse, "SELECT 1, 'a\tb'")[2] == b"1\ta\\tb\n"
    assert ask(clickhouse, "", "GET", query="SELECT 1")[2] == b"1\n"
    assert ask(clickhouse, "1 + 1", query="SELECT")[2] == b"2\n"
    assert ask(clickhouse, "SELECT 1 AS a", default_format="JSONEachRow")[2] == b'{"a":1}\n'
    assert ask(clickhouse, "SELECT 1 AS a FORMAT CSVWithNames", default_format="JSONEachRow")[2] == b'"a"\n1\n'
    assert ask(clickhouse, "SELECT 1;\n")[2] == b"1\n"
    assert ask(clickhouse, "INSERT INTO t (id, tag) FORMAT CSV\n1,a\n2,b\n", database=database)[0] == 200
    assert ask(clickhouse, "3\n4\n", database=database, query="INSERT INTO t (id) FORMAT TSV")[0] == 200
    assert ask(clickhouse, "(5), (6)", database=database, query="INSERT INTO t (id) VALUES")[0] == 200
    assert ask(clickhouse, gzip.compress(b"7\n"), headers={"Content-Encoding": "gzip"}, database=database,
               query="INSERT INTO t (id) FORMAT CSV")[0] == 200  # fmt: skip
    assert count(clickhouse, database) == 7
    assert ask(clickhouse, "", "GET")[2] == b"Ok.\n"


def test_answers_say_what_they_are(clickhouse: ClickHouseServer, database: str) -> None:
    _, headers, body = ask(clickhouse, "SELECT number FROM numbers(3) FORMAT JSON", query_id="mine")
    assert headers["X-ClickHouse-Query-Id"] == "mine"
    assert headers["X-ClickHouse-Format"] == "JSON"
    assert headers["Content-Type"] == "application/json; charset=UTF-8"
    assert json.loads(headers["X-ClickHouse-Summary"])["read_rows"] == "3"
    assert json.loads(body)["rows"] == 3
    _, headers, _ = ask(clickhouse, "INSERT INTO t (id) VALUES (1), (2)", database=database)
    assert json.loads(headers["X-ClickHouse-Summary"])["written_rows"] == "2"
    assert "X-ClickHouse-Format" not in headers


@pytest.mark.parametrize(
    ("query", "parameters", "status", "code"),
    [
        ("SELECT * FROM nowhere", {}, 404, 60),
        ("SELECT 1 +", {}, 400, 62),
        ("SELECT 1", {"no_such_setting": "1"}, 404, 115),
        ("SELECT 1", {"no such setting": "1"}, 404, 115),
        ("SELECT 1", {"database": "nowhere"}, 404, 81),
        ("SELECT {x:UInt8}", {}, 400, 456),
        ("SELECT {x:UInt8}", {"param_x": "a"}, 400, 457),
        ("SELECT throwIf(1)", {}, 500, 395),
        ("SELECT 1", {"compress": "1"}, 501, 48),
        ("SELECT 1 FORMAT Nonsense", {}, 404, 73),
        ("SELECT 1", {"session_id": "unknown", "session_check": "1"}, 404, 372),
    ],
)  # fmt: skip
def test_an_error_has_status_code_and_text(
    clickhouse: ClickHouseServer, query: str, parameters: dict[str, str], status: int, code: int
) -> None:
    found, headers, body = ask(clickhouse, query, **parameters)
    assert (found, headers["X-ClickHouse-Exception-Code"]) == (status, str(code))
    assert body.decode().startswith(f"Code: {code}. DB::Exception: ")
    assert "(version " in body.decode()


def test_an_unknown_encoding_is_refused(clickhouse: ClickHouseServer) -> None:
    status, _, body = ask(clickhouse, b"x", headers={"Content-Encoding": "br"})
    assert status == 501
    assert b"gzip always can" in body


@pytest.mark.parametrize("body", [b"id\n", gzip.compress(b"1\n" * 1000)[:-9]], ids=["not compressed", "cut short"])
def test_a_body_that_does_not_match_its_encoding_is_refused(clickhouse: ClickHouseServer, database: str, body: bytes) -> None:
    parameters = {"query": "INSERT INTO t (id) FORMAT CSV", "database": database}
    assert ask(clickhouse, body, headers={"Content-Encoding": "gzip"}, **parameters)[1]["X-ClickHouse-Exception-Code"] == "354"
    assert count(clickhouse, database) == 0


def test_get_changes_nothing(clickhouse: ClickHouseServer, database: str) -> None:
    for query in ("INSERT INTO t (id) VALUES (1)", "DROP TABLE t", "CREATE TABLE u (a Int8) ENGINE = Memory", "SET readonly = 0"):
        status, headers, _ = ask(clickhouse, "", "GET", query=query, database=database)
        assert (status, headers["X-ClickHouse-Exception-Code"]) == (403, "164"), query
    assert count(clickhouse, database) == 0


@pytest.mark.parametrize(
    "headers",
    [{"Host": "evil.example"}, {"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}, {"Origin": "null"}],
    ids=str,
)  # fmt: skip
def test_a_foreign_page_gets_nothing(clickhouse: ClickHouseServer, headers: dict[str, str]) -> None:
    assert ask(clickhouse, "SELECT 1", headers=headers)[0] == 403


def test_a_session_is_for_one_query_at_a_time(clickhouse: ClickHouseServer) -> None:
    with ThreadPoolExecutor(1) as thread:
        slow = thread.submit(ask, clickhouse, "SELECT sleep(1.01)", session_id="one")
        wait_until(lambda: ask(clickhouse, "SELECT count() FROM system.processes WHERE query = 'SELECT sleep(1.01)'")[2] == b"1\n", 10)
        assert ask(clickhouse, "SELECT 1", session_id="one")[1]["X-ClickHouse-Exception-Code"] == "373"
        assert slow.result()[0] == 200
    assert ask(clickhouse, "SELECT 1", session_id="one")[0] == 200
    assert ask(clickhouse, "SELECT 1", session_id="one", close_session="1")[0] == 200
    assert ask(clickhouse, "SELECT 1", session_id="one", session_check="1")[0] == 404


def test_a_slow_query_holds_up_nobody(clickhouse: ClickHouseServer) -> None:
    with ThreadPoolExecutor(4) as threads:
        started_s = time.monotonic()
        slow = [threads.submit(ask, clickhouse, "SELECT sleep(1.5)") for _ in range(4)]
        assert answers_ok(f"{clickhouse.url}/ping")
        assert ask(clickhouse, "SELECT 1")[0] == 200
        assert not any(query.done() for query in slow)
        assert [query.result()[0] for query in slow] == [200] * 4
    assert time.monotonic() - started_s < 4  # One after the other they would take six.


@pytest.mark.parametrize("chunked", [False, True], ids=["content-length", "chunked"])
def test_an_insert_that_breaks_off_leaves_nothing(clickhouse: ClickHouseServer, database: str, chunked: bool) -> None:
    query = urlencode({"query": "INSERT INTO t (id) FORMAT CSV", "database": database})
    length = "Transfer-Encoding: chunked" if chunked else "Content-Length: 100000000"
    lines = b"1\n" * 2_000_000

    def spooled() -> int:
        return sum(file.stat().st_size for file in clickhouse.folder.glob("insert-*"))

    with socket.create_connection(("127.0.0.1", clickhouse.port)) as connection:
        connection.sendall(f"POST /?{query} HTTP/1.1\r\nHost: localhost\r\n{length}\r\n\r\n".encode())
        connection.sendall(b"%x\r\n%b\r\n" % (len(lines), lines) if chunked else lines)
        wait_until(lambda: spooled() > 1_000_000, 10)
    wait_until(lambda: not list(clickhouse.folder.glob("insert-*")), 10)
    assert count(clickhouse, database) == 0


def test_a_large_insert_takes_little_memory(clickhouse: ClickHouseServer, database: str) -> None:
    """The engine holds a million rows at a time; the body is twenty times that."""
    ask(clickhouse, "CREATE TABLE big (a UInt32) ENGINE = MergeTree ORDER BY tuple()", database=database)
    line = b"1234567\n" * 250_000
    query = urlencode({"query": "INSERT INTO big FORMAT CSV", "database": database})
    before = peak_bytes(clickhouse)
    connection = http.client.HTTPConnection("127.0.0.1", clickhouse.port, timeout=60)
    connection.request("POST", f"/?{query}", (line for _ in range(100)), encode_chunked=True, headers={"Transfer-Encoding": "chunked"})
    assert connection.getresponse().status == 200
    connection.close()
    assert count(clickhouse, database, "big") == 25_000_000
    assert peak_bytes(clickhouse) - before < len(line) * 100 / 2


def peak_bytes(server: ClickHouseServer) -> int:
    status = Path(f"/proc/{server.pid}/status")
    if not status.exists():
        pytest.skip("needs /proc")
    return next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if line.startswith("VmHWM"))


# The process


def test_what_was_acknowledged_is_there_after_kill_and_after_stop(tmp_path: Path) -> None:
    server = ClickHouseServer(tmp_path)
    server.start()
    try:
        ask(server, "CREATE DATABASE d ENGINE = Atomic")
        ask(server, "CREATE TABLE d.t (id UInt64) ENGINE = MergeTree ORDER BY id")
        acknowledged: list[int] = []
        stopping = threading.Event()

        def insert() -> None:
            while not stopping.is_set():
                number = len(acknowledged)
                try:
                    status = ask(server, f"INSERT INTO d.t VALUES ({number})")[0]
                except (OSError, http.client.HTTPException):
                    return
                assert status == 200
                acknowledged.append(number)

        thread = threading.Thread(target=insert)
        thread.start()
        wait_until(lambda: len(acknowledged) >= 50, 20)
        server.kill()
        stopping.set()
        thread.join()
        port = server.port
        server.start()
        assert server.port == port
        found = [int(line) for line in ask(server, "SELECT id FROM d.t ORDER BY id")[2].split()]
        # The one under way may be there or not, but what was acknowledged is, once each.
        assert found in (acknowledged, [*acknowledged, len(acknowledged)])
        server.restart()
        assert ask(server, "SELECT count() FROM d.t")[2].strip() == str(len(found)).encode()
        # An unsettled name of a folder that is in use: a clear end instead of a second engine on the same files.
        other = ClickHouseServer(tmp_path / "other")
        (tmp_path / "other").mkdir()
        (tmp_path / "other" / "clickhouse").symlink_to(tmp_path / "clickhouse")
        with pytest.raises(StartError, match="clickhouse ended while starting"):
            other.start()
        assert ask(server, "SELECT 1")[2] == b"1\n"
    finally:
        server.stop()
    assert server.pid is None
