"""Files as they come: what is read of each, and what each that is broken is told."""

import gzip
import http.server
import io
import json
import threading
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import fastavro
import pyarrow
import pytest
from pyarrow import parquet

from streams.errors import ConfigurationError, UnavailableError
from streams.loads import sources
from streams.loads.sources import Layout
from streams.rows import Problem

ROWS = [{"id": "t-1", "points": "5"}, {"id": "t-2", "points": "7"}]
CSV = b"id,points\nt-1,5\nt-2,7\n"
SCHEMA = {
    "type": "record", "name": "Row",
    "fields": [{"name": "id", "type": "string"}, {"name": "points", "type": ["null", "string"]}],
}  # fmt: skip


def avro(codec: str = "null") -> bytes:
    out = io.BytesIO()
    fastavro.writer(out, fastavro.parse_schema(SCHEMA), ROWS, codec=codec)
    return out.getvalue()


def parquet_bytes(names: tuple[str, ...] = ("id", "points")) -> bytes:
    out = io.BytesIO()
    columns = [pyarrow.array([row[name] for row in ROWS]) for name in ("id", "points")]
    parquet.write_table(pyarrow.table(columns, names=list(names)), out)
    return out.getvalue()


JSON_LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


def read(tmp_path: Path, name: str, content: bytes, layout: Layout = Layout()) -> list[Any]:
    (tmp_path / name).write_bytes(content)
    (part,) = sources.find([str(tmp_path / name)], "", tmp_path)
    return list(sources.rows(part, layout))


def named(value: object) -> str | None:
    """A test's name has no contents: compressed ones have the time in them, and the workers of one run must agree on the names."""
    return "" if isinstance(value, bytes) else None


@pytest.mark.parametrize(
    ("name", "content", "first_line"),
    [
        ("a.csv", CSV, 2), ("a.CSV", b"\xef\xbb\xbf" + CSV.replace(b"\n", b"\r\n"), 2), ("a.csv.gz", gzip.compress(CSV), 2),
        ("a.jsonl", JSON_LINES, 1), ("a.ndjson.gz", gzip.compress(JSON_LINES), 1), ("compressed-though-its-name-is.jsonl", gzip.compress(JSON_LINES), 1),
        ("a.parquet", parquet_bytes(), 1), ("a.parquet.gz", gzip.compress(parquet_bytes()), 1), ("a.avro", avro(), 1), ("a.avro", avro("deflate"), 1),
        ("a.avro.gz", gzip.compress(avro()), 1),
    ],
    ids=named,
)  # fmt: skip
def test_every_format_says_the_same(tmp_path: Path, name: str, content: bytes, first_line: int) -> None:
    assert read(tmp_path, name, content) == [(first_line, ROWS[0]), (first_line + 1, ROWS[1])]


def test_another_encoding_and_delimiter(tmp_path: Path) -> None:
    content = "name;total\nMüller;12,50\n".encode("windows-1252")
    assert read(tmp_path, "a.csv", content, Layout(delimiter=";", encoding="windows-1252")) == [(2, {"name": "Müller", "total": "12,50"})]


@pytest.mark.parametrize(
    ("name", "content", "line", "what"),
    [
        ("a.csv", b"", 1, "the header is missing"),
        ("a.csv", b"id,points,id\n1,2,3\n", 1, "the header has 'id' more than once"),
        ("a.csv", CSV + b"M\xfcller,1\n", 4, "is not UTF-8"),
        ("a.csv", CSV + b'"broken,1\n', 4, "is not CSV"),
        ("a.csv", b"\xff\xfe" + "id\n1\n".encode("utf-16-le"), 1, "UTF-16"),
        ("a.jsonl", JSON_LINES + b'{"id":"\xff"}\n', 3, "is not UTF-8"),
        ("a.csv.gz", gzip.compress(CSV * 5_000)[:-200], None, "breaks off or is damaged"),
        ("a.csv.gz", gzip.compress(CSV)[:-8] + bytes(8), None, "breaks off or is damaged"),
        ("a.parquet", b"PAR1 no more", 1, "is not Parquet"),
        ("a.parquet", parquet_bytes()[:-20], 1, "is not Parquet"),
        ("a.parquet", parquet_bytes(("id", "id")), 1, "columns of the same name"),
        ("a.avro", b"Obj\x01nonsense", 1, "is not an Avro container"),
        ("a.avro", avro()[:-6], None, "damaged"),
    ],
    ids=named,
)  # fmt: skip
def test_what_cannot_be_read_whole_is_fatal(tmp_path: Path, name: str, content: bytes, line: int | None, what: str) -> None:
    *_, last = read(tmp_path, name, content)
    assert isinstance(last, Problem) and last.is_fatal and what in last.what, last
    assert line is None or last.line == line


@pytest.mark.parametrize(
    ("name", "content", "problem", "raw"),
    [
        ("a.csv", b"id,points\nt-1\nt-2,7\n", Problem(2, "has 1 cells, the header 2"), ["t-1"]),
        ("a.csv", b"id,points\nt-1,5,9\nt-2,7\n", Problem(2, "has 3 cells, the header 2"), ["t-1", "5", "9"]),
        ("a.jsonl", b'[1]\n{"id":"t-2","points":"7"}\n', Problem(1, "must be a JSON object"), "[1]\n"),
        ("a.jsonl", b'{"id":1,"id":2}\n{"id":"t-2","points":"7"}\n', Problem(1, "is not JSON: 'id' is there more than once"), '{"id":1,"id":2}\n'),
    ],
)
def test_a_row_that_is_none_leaves_the_others(tmp_path: Path, name: str, content: bytes, problem: Problem, raw: Any) -> None:
    first, second = read(tmp_path, name, content)
    assert (first, first.raw, first.is_fatal) == (problem, raw, False)
    assert second[1] == ROWS[1]


def test_json_keeps_decimals_and_survives_depth(tmp_path: Path) -> None:
    first, second = read(tmp_path, "a.jsonl", b'{"total":12.30}\n' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"\n")
    assert first == (1, {"total": Decimal("12.30")}) and str(first[1]["total"]) == "12.30"
    assert isinstance(second, Problem) and not second.is_fatal


def test_a_folder_is_its_files_by_name(tmp_path: Path) -> None:
    for name in ("2024/b.csv", "2024/a.jsonl", "2023/z.csv.gz", ".hidden.csv", "notes.txt"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(CSV)
    parts = sources.find([str(tmp_path / "in")], "", tmp_path)
    assert [(part.name, part.format) for part in parts] == [("2023/z.csv.gz", "csv"), ("2024/a.jsonl", "jsonl"), ("2024/b.csv", "csv")]


@pytest.fixture
def server() -> Iterator[str]:
    """Serves CSV under /whole.csv, and breaks off under /short.csv."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path.startswith("/none"):
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(CSV) + 10 * self.path.startswith("/short")))
            self.end_headers()
            self.wfile.write(CSV)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{listening.server_address[1]}"
        listening.shutdown()
        thread.join()


def test_an_address(tmp_path: Path, server: str) -> None:
    (part,) = sources.find([f"{server}/whole.csv?signature=secret"], "", tmp_path)
    assert (part.name, list(sources.rows(part, Layout()))) == ("whole.csv", [(2, ROWS[0]), (3, ROWS[1])])


@pytest.mark.parametrize(("path", "why"), [("/short.csv?signature=secret", "broke off after 22 of 32 bytes"), ("/none.csv?signature=secret", "404")])
def test_an_address_that_fails_tells_no_secret(tmp_path: Path, server: str, path: str, why: str) -> None:
    with pytest.raises(UnavailableError, match=why) as raised:
        sources.find([server + path], "", tmp_path)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("source", "why"), [("nowhere.csv", "is neither a file"), ("plain", "give --format csv, jsonl, parquet or avro"), ("empty", "has no file whose name")]
)
def test_what_is_no_source(tmp_path: Path, source: str, why: str) -> None:
    (tmp_path / "plain").write_bytes(CSV)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigurationError, match=why):
        sources.find([str(tmp_path / source)], "", tmp_path)
