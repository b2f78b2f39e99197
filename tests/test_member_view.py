"""`loyalty member`: a recorded answer becomes text that says what it says, and errors name what to change."""

import io
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from sinks import clickhouse
from streams import member_view
from streams.cli import main
from streams.errors import UnavailableError
from streams.settings import Settings
from tests.ingress.support import OPENAPI, validator

NOBODY = "http://127.0.0.1:9"
RESPONSE = OPENAPI["paths"]["/v1/members/{member_id}"]["get"]["responses"]["200"]["content"]["application/json"]
ACCOUNT: dict[str, Any] = RESPONSE["example"]
ENTRIES = [
    {
        "entry_sequence": 12, "occurred_at": "2026-11-22 10:35:00.000", "kind": "HOLD", "account": "available", "points_delta": -800,
        "balance_after": 1250, "transaction_id": "shop:order:501", "reason": None,
    },
    {
        "entry_sequence": 11, "occurred_at": "2026-11-22 10:05:00.000", "kind": "EARN", "account": "available", "points_delta": 2050,
        "balance_after": 2050, "transaction_id": "pms:stay:88123", "reason": "stay",
    },
]  # fmt: skip

Run = Callable[..., Result]


def text_of(account: Any, entries: Any = ()) -> str:
    console = Console(file=io.StringIO(), width=160)
    for part in member_view.render(account, entries):
        console.print(part)
    written = console.file.getvalue()  # type: ignore[attr-defined]
    return "\n".join(" ".join(line.split()) for line in written.splitlines())


def test_the_whole_account() -> None:
    text = text_of(ACCOUNT, ENTRIES)
    for fact in (
        "M-000123 of grand, Ada",
        "ACTIVE; member since 2026-01-05",
        "will be SUSPENDED from 2026-12-31 23:00 UTC: the contract ends",
        "available 1,250 can be spent",
        "pending 420 not to be spent yet",
        "held 800 set aside by holds",
        "debt 0 owed",
        "next expiry: 300 points on 2027-01-31 23:00 UTC",
        "tier: GOLD, valid until 2027-12-31 23:00 UTC",
        "11,800 qualifying points, 18,200 more to PLATINUM",
        "campaign:winter:M-000123 300 800 2026-11-22 10:05 UTC 2027-01-31 23:00 UTC",
        "pms:stay:88123 950 0 2026-11-22 10:05 UTC never",
        "pms:booking:88124 420 0 until 2026-12-24 11:00 UTC 2026-11-22 11:00 UTC never",
        "shop:order:501 800 2026-11-22 10:35 UTC 2026-11-22 11:05 UTC",
        "7KQ2-M9XA-WD4F SPA-DAY 2027-11-22 00:00 UTC",
        "double-points 2 500 active",
        "segments: corporate",
        "12 2026-11-22 10:35 UTC HOLD available -800 1,250 shop:order:501",
        "11 2026-11-22 10:05 UTC EARN available +2,050 2,050 pms:stay:88123 stay",
    ):
        assert fact in text, f"{fact!r} is not in\n{text}"
    assert (text.count("━"), text.count("─")) == (11, 19)  # 11,800 of 30,000, in 30 parts.


def test_an_account_with_nothing() -> None:
    nothing: dict[str, Any] = {
        "status": "SUSPENDED", "status_reason": "lost card", "scheduled_status": None, "expiring": None, "lots": [], "holds": [], "vouchers": [],
        "offers": [], "attributes": {}, "segments": [], "debt_points": 30,
        "tier_progress": {"name": "TOP", "valid_until": None, "qualifying_points": 5, "next_tier": None, "points_to_next": None,
                          "projected_tier": "TOP", "points_to_keep": None},
    }  # fmt: skip
    account = ACCOUNT | nothing
    validator(RESPONSE["schema"]).validate(account)
    text = text_of(account)
    assert "SUSPENDED, lost card;" in text and "debt 30" in text
    assert "tier: TOP, without an end" in text and "5 qualifying points; there is no tier above" in text
    assert not any(line.startswith(("lots", "holds", "vouchers", "offers", "next expiry", "segments")) for line in text.splitlines())
    assert "no entries in the ledger's history yet" in text


@pytest.mark.parametrize(("points", "missing", "filled"), [(0, 100, 0), (100, 0, 30), (0, 0, 0), (-5, 5, 0), (-5, 105, 0)])
def test_the_bar_of_the_tier(points: int, missing: int, filled: int) -> None:
    progress = {"name": "A", "valid_until": None, "qualifying_points": points, "next_tier": "B", "points_to_next": missing}
    assert text_of(ACCOUNT | {"tier_progress": progress}).count("━") == filled


def test_members_who_are_elsewhere() -> None:
    text = text_of(ACCOUNT | {"status": "MERGED", "merged_into": "M-9", "pool_member_id": "M-8"})
    assert "MERGED;" in text and "merged into M-9, where the points are" in text and "in a pool: M-8 receives" in text


def test_what_the_cache_has() -> None:
    example = OPENAPI["paths"]["/v1/members/{member_id}/balance"]["get"]["responses"]["200"]["content"]["application/json"]["example"]
    old = {name: value for name, value in example.items() if name not in ("pending_points", "held_points", "debt_points")}
    for account in (example, old):
        text = text_of(account, "No ClickHouse answers at X: refused.")
        assert "available 1,250" in text and "tier: GOLD, 11,800 qualifying points" in text
        assert "does not answer: this is all that the cache has" in text
        assert "The ledger's entries are not shown. No ClickHouse answers at X: refused." in text
        assert ("pending 420" in text) == (account is example)


def test_nothing_of_others_reaches_the_terminal_as_a_command() -> None:
    hostile = "\x1b]0;x\x07[red]y"
    account = ACCOUNT | {
        "attributes": {"given_name": hostile}, "status_reason": hostile, "segments": [hostile], "external_ids": {"card": hostile},
        "origins": {"external_ids.card": {"source_system": hostile, "source_version": 1, "event_id": hostile, "occurred_at": "2026-11-22T03:40:00Z"}},
    }  # fmt: skip
    text = text_of(account, [ENTRIES[0] | {"reason": hostile}])
    assert "\x1b" not in text and "\x07" not in text and text.count("?]0;x?[red]y") == 7


class Ingress(BaseHTTPRequestHandler):
    """Answers what the test has put into `answers`, and remembers what it was asked."""

    answers: dict[str, tuple[int, bytes]] = {}
    asked: list[tuple[str, str | None]] = []

    def do_GET(self) -> None:
        self.asked.append((self.path, self.headers["Authorization"]))
        status, body = self.answers["/v1/members"]
        self.send_response(status)
        if status == 302:
            self.send_header("Location", NOBODY)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Not to the terminal of the tests."""


@pytest.fixture
def ingress() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Ingress)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    Ingress.asked.clear()
    Ingress.answers["/v1/members"] = (200, json.dumps(ACCOUNT).encode())
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("LOYALTY_HOME", str(tmp_path))
    monkeypatch.setenv("LOYALTY_CLICKHOUSE_URL", NOBODY)
    monkeypatch.setenv("COLUMNS", "160")

    def call(*arguments: str) -> Result:
        return CliRunner().invoke(main, ["member", *arguments])

    return call


def test_json_passes_through(run: Run, ingress: str) -> None:
    done = run("M/ü 1", "--program", "grand", "--json", "--url", ingress, "--token", "given-token")
    assert (done.exit_code, json.loads(done.stdout)) == (0, ACCOUNT)
    assert Ingress.asked == [("/v1/members/M%2F%C3%BC%201?program=grand", "Bearer given-token")]


def test_without_a_clickhouse_the_rest_is_shown(run: Run, ingress: str) -> None:
    done = run("M-000123", "--url", ingress, "--token", "given-token")
    assert done.exit_code == 0, done.stderr
    assert "M-000123 of grand" in done.stdout and "shop:order:501" in done.stdout
    assert "The ledger's entries are not shown. No ClickHouse answers at LOYALTY_CLICKHOUSE_URL=http://127.0.0.1:9" in done.stdout


def test_a_running_stack_is_found(run: Run, ingress: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    port = ingress.rpartition(":")[2]
    (tmp_path / "stack.env").write_text(f"LOYALTY_INGRESS_PORT={port}\n")
    (tmp_path / "loyalty.toml").write_text('[tokens.explorer]\ntoken = "token-of-the-stack"\n')
    assert run("M-1", "--json").exit_code == 0
    monkeypatch.setenv("LOYALTY_API_TOKEN", "token-of-the-environment")
    assert run("M-1", "--json").exit_code == 0
    assert run("M-1", "--json", "--token", "given-token").exit_code == 0
    assert [token for _, token in Ingress.asked] == ["Bearer token-of-the-stack", "Bearer token-of-the-environment", "Bearer given-token"]


def test_the_token_of_this_machine_is_for_this_machine(run: Run, tmp_path: Path) -> None:
    (tmp_path / "loyalty.toml").write_text('[tokens.explorer]\ntoken = "token-of-the-stack"\n')
    done = run("M-1", "--url", "http://loyalty.example.org")
    assert done.exit_code == 2 and "set LOYALTY_API_TOKEN, or give --token" in done.stderr


def test_no_token(run: Run, ingress: str) -> None:
    done = run("M-1", "--url", ingress)
    assert done.exit_code == 2 and "set LOYALTY_API_TOKEN, or give --token" in done.stderr and "loyalty.toml" in done.stderr
    assert Ingress.asked == []


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (401, {"type": "urn:loyalty:unauthenticated", "title": "t"}, "does not know the token: set LOYALTY_API_TOKEN, or give --token."),
        (403, {"type": "urn:loyalty:forbidden", "title": "t", "detail": "the token lacks the scope members:read"}, "the scope members:read. Give another"),
        (404, {"type": "urn:loyalty:not-a-member", "title": "t"}, "There is no member 'M-1' in the programme: --program names another."),
        (404, {"type": "urn:loyalty:not-found", "title": "There is nothing at this path."}, "answers 404: There is nothing at this path."),
        (
            422,
            {"type": "urn:loyalty:invalid", "title": "t", "errors": [{"field": "program", "detail": "name the programme: ?program=..."}]},
            "--program: name the programme: --program ...",
        ),
        (503, {"type": "urn:loyalty:unavailable", "title": "The service cannot do this right now."}, "answers 503: The service cannot"),
        (500, "<html>", "answers 500 without saying why: is --url that of an ingress?"),
        (302, "", "answers 302 without saying why"),
        (200, "<html>", "No ingress answers at"),
        (200, {"status": "ok"}, "answers with something else than an account"),
    ],
)
def test_errors_name_what_to_change(run: Run, ingress: str, status: int, body: Any, message: str) -> None:
    Ingress.answers["/v1/members"] = (status, body.encode() if isinstance(body, str) else json.dumps(body).encode())
    done = run("M-1", "--url", ingress, "--token", "given-token")
    assert done.exit_code == 1 and done.stdout == ""
    assert message in done.stderr and done.stderr.startswith("loyalty member: ")


@pytest.mark.parametrize("url", [NOBODY, "nonsense", "http://["])
def test_no_ingress(run: Run, url: str) -> None:
    done = run("M-1", "--url", url, "--token", "given-token")
    assert done.exit_code == 1 and f"No ingress answers at {url}" in done.stderr and "LOYALTY_INGRESS_PORT" in done.stderr


@pytest.mark.parametrize(
    ("fields", "url"),
    [
        ({}, "http://127.0.0.1:8080"),
        ({"ingress_host": "0.0.0.0", "ingress_port": 80}, "http://127.0.0.1:80"),
        ({"ingress_host": "::1"}, "http://[::1]:8080"),
        ({"ingress_host": "loyalty.example.org", "ingress_tls_certificate_file": "c"}, "https://loyalty.example.org:8080"),
    ],
)
def test_where_the_ingress_is(fields: dict[str, Any], url: str) -> None:
    assert member_view.ingress_url(Settings(**fields)) == url


@pytest.mark.stack
def test_the_ledger_of_the_history(make_settings: Callable[..., Settings]) -> None:
    settings = make_settings(kafka_bootstrap_servers="127.0.0.1:1", redis_url="redis://127.0.0.1:1")
    with pytest.raises(UnavailableError, match="answers 404: Code: 81"):
        member_view.last_entries(settings, "grand", "m")
    clickhouse.migrate(settings)
    client = clickhouse.connect(settings)
    member_id = "m\\t'é"
    columns = ["program_id", "member_id", "entry_sequence", "transaction_id", "kind", "points_delta", "balance_after", "reason", "recorded_at", "occurred_at"]
    rows = [["grand", member_id, n, f"t-{n}", "EARN", 10, 10 * n, None, 1_795_318_800_000, 1_795_318_800_000] for n in range(1, 13)]
    client.insert("ledger_entries", [*rows, *rows, ["grand", "m\t'é", 99, "other", "EARN", 1, 1, None, 1, 1]], column_names=columns)
    client.close()
    entries = member_view.last_entries(settings, "grand", member_id)
    assert [entry["entry_sequence"] for entry in entries] == list(range(12, 2, -1))
    assert entries[0] == {
        "entry_sequence": 12, "occurred_at": "2026-11-22 03:40:00.000", "kind": "EARN", "account": "available", "points_delta": 10,
        "balance_after": 120, "transaction_id": "t-12", "reason": None,
    }  # fmt: skip
    assert "12 2026-11-22 03:40 UTC EARN available +10 120 t-12" in text_of(ACCOUNT, entries)
    assert member_view.last_entries(settings, "grand", "nobody") == []
