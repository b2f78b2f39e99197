"""`loyalty waiting`: pages become one table, and errors name what to change."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from click.testing import CliRunner, Result

from streams.cli import main
from tests.ingress.support import OPENAPI, validator

RESPONSE = OPENAPI["paths"]["/v1/waiting"]["get"]["responses"]["200"]["content"]["application/json"]
PAGE: dict[str, Any] = RESPONSE["example"]
ROW: dict[str, Any] = PAGE["waiting"][0]

Run = Callable[..., Result]


class Ingress:
    """Answers with `answers`, one after the other; the last one again and again."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, Any]] = [(200, PAGE)]
        self.asked: list[dict[str, list[str]]] = []
        self.tokens: list[str | None] = []
        ingress = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                ingress.asked.append(parse_qs(urlsplit(self.path).query))
                ingress.tokens.append(self.headers.get("Authorization"))
                status, body = ingress.answers.pop(0) if len(ingress.answers) > 1 else ingress.answers[0]
                self.send_response(status)
                self.end_headers()
                self.wfile.write(body if isinstance(body, bytes) else json.dumps(body).encode())

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def ingress() -> Iterator[Ingress]:
    running = Ingress()
    yield running
    running.server.shutdown()
    running.server.server_close()


@pytest.fixture
def run(ingress: Ingress, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    monkeypatch.setenv("LOYALTY_HOME", str(tmp_path))
    monkeypatch.delenv("LOYALTY_API_TOKEN", raising=False)

    def invoke(*options: str, url: str = ingress.url, token: str | None = "t") -> Result:
        return CliRunner(env={"COLUMNS": "200"}).invoke(main, ["waiting", "--url", url, *(["--token", token] if token else []), *options])

    return invoke


def rows(*names: str) -> list[dict[str, Any]]:
    return [ROW | {"member_id": name} for name in names]


def test_the_table_says_for_whom_how_many_and_since_when(run: Run, ingress: Ingress) -> None:
    validator(RESPONSE["schema"]).validate(PAGE)
    result = run("--program", "grand")
    text = " ".join(result.output.split())
    assert result.exit_code == 0
    assert "for whom commands wait in grand" in text
    assert f"{ROW['member_id']} 2 2026-11-22 10:05:00 UTC 2026-11-22 10:07:30 UTC transactions 2 pms 2" in text
    assert "No worker" not in text and "There are more" not in text
    assert (ingress.asked, ingress.tokens) == ([{"program": ["grand"], "limit": ["100"]}], ["Bearer t"])


def test_pages_are_followed_up_to_the_limit(run: Run, ingress: Ingress) -> None:
    first = PAGE | {"waiting": rows(*(f"M-{number:03}" for number in range(100))), "next": "M-099", "partitions_missing": [3]}
    second = PAGE | {"waiting": rows("M-100", "M-101"), "next": "M-101", "partitions_missing": [1]}
    ingress.answers = [(200, first), (200, second)]
    result = run("--limit", "102", "--json")
    found = json.loads(result.output)
    assert [len(found["waiting"]), found["next"], found["partitions_missing"]] == [102, "M-101", [1, 3]]
    assert ingress.asked == [{"limit": ["100"]}, {"limit": ["2"], "after": ["M-099"]}]


def test_what_is_not_shown_is_said(run: Run, ingress: Ingress) -> None:
    ingress.answers = [(200, PAGE | {"next": "M-1", "partitions_missing": [0, 3]})]
    text = " ".join(run("--limit", "1").output.split())
    assert "There are more: --limit shows them." in text
    assert "No worker answers for these partitions, and what waits there is not shown: 0, 3" in text


def test_nothing_waits(run: Run, ingress: Ingress) -> None:
    ingress.answers = [(200, PAGE | {"waiting": []})]
    assert run().output == "Nothing waits.\n"
    ingress.answers = [(200, PAGE | {"waiting": [], "partitions_missing": [0]})]
    assert "Nothing waits" not in run().output, "nobody knows"


def test_a_terminal_is_not_obeyed_by_names(run: Run, ingress: Ingress) -> None:
    ingress.answers = [(200, PAGE | {"waiting": rows("M-\x1b[2J")})]
    assert "M-?[2J" in run().output


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (401, {"type": "urn:loyalty:unauthenticated", "title": "x"}, "does not know the token: set LOYALTY_API_TOKEN, or give --token."),
        (403, {"type": "urn:loyalty:forbidden", "title": "x", "detail": "the token lacks the scope operations:read"}, "lacks the scope operations:read. Give"),
        (422, {"type": "urn:loyalty:invalid", "title": "x", "errors": [{"field": "program", "detail": "name the programme: ?program=..."}]},
         "--program: name the programme: --program ..."),
        (503, {"type": "urn:loyalty:unavailable", "title": "later"}, "answers 503: later"),
        (500, b"<html>", "answers 500 without saying why"),
        (200, {"status": "ok"}, "something else than what waits"),
        (200, b"[]", "No ingress answers at"),
        (302, b"", "answers 302 without saying why"),
    ],
)  # fmt: skip
def test_why_not(run: Run, ingress: Ingress, status: int, body: Any, said: str) -> None:
    ingress.answers = [(status, body)]
    result = run()
    assert result.exit_code == 1
    assert result.stderr.startswith("loyalty waiting: ") and said in result.stderr


def test_nobody_listens(run: Run) -> None:
    result = run(url="http://127.0.0.1:9")
    assert result.exit_code == 1
    assert "Is `loyalty up` running?" in result.stderr


def test_without_a_token(run: Run) -> None:
    result = run(token=None)
    assert result.exit_code == 2
    assert "set LOYALTY_API_TOKEN" in result.stderr
