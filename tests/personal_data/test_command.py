"""`loyalty export` and `loyalty erase` against an ingress that answers as it is told."""

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
from tests.personal_data.test_receipt import ACCOUNT, NUMBER, export

ANSWER = {"status": "applied", "event_id": "erasure:privacy:1", "merged_into": None, "numbers": {}}
ERASE = ("erase", "m-1", "--reason", "privacy:1")
BEFORE = export(account=ACCOUNT | {"status": "ACTIVE", "attributes": {"given_name": "Ada"}})


class StubIngress(ThreadingHTTPServer):
    """Gives the exports one after the other, the last one again and again."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.exports: list[Any] = [BEFORE, export()]
        self.answer: tuple[int, Any] = (200, ANSWER)
        self.asked: list[tuple[str, str, dict[str, list[str]]]] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: StubIngress

    def do_GET(self) -> None:
        exports = self.server.exports
        found = exports.pop(0) if len(exports) > 1 else exports[0]
        self._answer(*(found if isinstance(found, tuple) else (200, found)))

    def do_DELETE(self) -> None:
        self._answer(*self.server.answer)

    def _answer(self, status: int, body: Any) -> None:
        url = urlsplit(self.path)
        self.server.asked.append((self.command, url.path, parse_qs(url.query)))
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Nothing to standard error."""


@pytest.fixture
def ingress() -> Iterator[StubIngress]:
    server = StubIngress()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def run(ingress: StubIngress) -> Callable[..., Result]:
    def invoke(*arguments: str, **options: Any) -> Result:
        return CliRunner().invoke(main, [*arguments, "--url", ingress.url, "--token", "a-token"], **options)

    return invoke


def problem(status: int, kind: str, **more: Any) -> tuple[int, Any]:
    return status, {"type": f"urn:loyalty:{kind}", "title": "a title", "status": status} | more


def test_an_erasure_waits_until_every_store_is_done(run: Callable[..., Result], ingress: StubIngress) -> None:
    ingress.exports.insert(1, export(rows_to_forget=2))
    result = run(*ERASE, "--actor", "desk", "--yes", "--json")
    assert result.exit_code == 0, result.output
    receipt = json.loads(result.stdout)
    assert (receipt["status"], receipt["is_finished"], receipt["numbers"]) == ("applied", True, ["m-1"])
    assert {"ledger", "inbound topics", "dead letters"} <= receipt["remains"].keys()
    assert [(method, path) for method, path, _ in ingress.asked] == [
        ("GET", "/v1/members/m-1/export"), ("DELETE", "/v1/members/m-1"), ("GET", "/v1/members/m-1/export"), ("GET", "/v1/members/m-1/export"),
    ]  # fmt: skip
    assert ingress.asked[1][2] == {"program": ["grand"], "reason": ["privacy:1"], "actor": ["desk"]}
    assert "Ada" not in result.output


def test_it_asks_first(run: Callable[..., Result], ingress: StubIngress) -> None:
    ingress.exports.insert(0, export(account=ACCOUNT | {"merged_into": "m-2"}))
    result = run(*ERASE, input="n\n")
    assert result.exit_code == 1 and [method for method, *_ in ingress.asked] == ["GET"]
    assert "Erase m-1 of grand? There is no way back." in result.stderr
    assert "m-1 was merged into m-2, which is not erased with it" in result.stderr


def test_a_store_that_is_not_done_in_time_shows(run: Callable[..., Result], ingress: StubIngress) -> None:
    ingress.exports[1:] = [export(rows_to_forget=2)]
    result = run(*ERASE, "--yes", "--wait", "0")
    assert result.exit_code == 1
    assert "2 rows wait" in result.stdout and "not yet" in result.stdout and "done" in result.stdout


def test_who_was_erased_before_gets_a_receipt_as_well(run: Callable[..., Result], ingress: StubIngress) -> None:
    ingress.answer = problem(422, "refused:MEMBER_ERASED")
    result = run(*ERASE, "--yes", "--json")
    assert (result.exit_code, json.loads(result.stdout)["status"]) == (0, "erased before")


def test_of_what_only_waited_nothing_is_left(run: Callable[..., Result], ingress: StubIngress) -> None:
    ingress.exports = [export(account=None, waiting=[{}]), problem(404, "not-a-member")]
    result = run(*ERASE, "--yes", "--json")
    assert (result.exit_code, json.loads(result.stdout)["is_finished"]) == (0, True)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (problem(404, "not-a-member"), "Nothing is held under this number"),
        (problem(401, "unauthenticated"), "does not know the token: set LOYALTY_API_TOKEN"),
        (problem(403, "forbidden", detail="the token lacks the scope members:export"), "lacks the scope members:export. Give another token"),
        (problem(422, "invalid", errors=[{"field": "program", "detail": "name the programme"}]), "program: name the programme"),
        (problem(503, "unavailable", detail="no worker owns the member"), "answers 503: no worker owns the member"),
        ((500, b"<html>"), "answers 500 without saying why"),
        ((200, {"numbers": []}), "broke off"),
        ((200, b'{"numbers": ['), "No whole answer from"),
    ],
    ids=str,
)
def test_errors_name_what_to_change(run: Callable[..., Result], ingress: StubIngress, answer: Any, says: str) -> None:
    ingress.exports = [answer]
    result = run("export", "m-1")
    assert result.exit_code == 1 and says in result.stderr and result.stdout == ""
    assert run(*ERASE, "--yes").exit_code == 1 and all(method == "GET" for method, *_ in ingress.asked), "nothing was erased"


def test_an_export_as_text_as_a_file_and_as_an_archive(run: Callable[..., Result], ingress: StubIngress, tmp_path: Path) -> None:
    assert json.loads(run("export", "m-1", "--program", "grand").stdout) == BEFORE
    assert ingress.asked[0][2] == {"program": ["grand"]}
    assert run("export", "m-1", "-o", str(tmp_path / "one.json")).stdout == ""
    assert json.loads((tmp_path / "one.json").read_text())["numbers"][0]["member_id"] == NUMBER["member_id"]
    assert run("export", "m-1", "--format", "zip").exit_code == 2
    assert run("export", "m-1", "--format", "zip", "-o", str(tmp_path / "one.zip")).exit_code == 0 and (tmp_path / "one.zip").exists()
    assert run("export", "m-1", "-o", str(tmp_path / "no" / "such.json")).exit_code == 1
