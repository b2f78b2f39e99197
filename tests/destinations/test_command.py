"""`loyalty destinations` against a running ingress on a real broker: what it asks for happens, and what it prints says so."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from click.testing import CliRunner, Result

from streams import signatures
from streams.cli import main
from streams.configuration import Token
from streams.destinations import sealing
from streams.destinations.model import Action, State
from streams.observability import serve
from tests.ingress.support import INTERNAL_TOKEN, NOBODY, Looped, Service, make_configuration
from tests.sinks.examples import SECRET

pytestmark = pytest.mark.stack

TOKEN = "token-of-the-command-line"
URL = "https://crm.example.com/hooks"
LANE = {"member": "grand/M-1", "channel": "crm", "waiting": 1200, "attempts": 7, "failing_since_ms": 1000, "due_at_ms": None, "is_blocked": True,
        "event_id": "grand-M-1-4", "detail": "status\x1b[2J 503"}  # fmt: skip
STANDING = {"waiting": 1200, "oldest_ms": 5000, "in_flight": 1, "concurrency": 8, "breaker": "open", "parked_members": 1, "blocked_members": 0,
            "behind_records": 10, "last_failure": "status 503", "failing_since_ms": 1000}  # fmt: skip

Run = Callable[..., Result]


@pytest.fixture(scope="module")
def sink() -> Iterator[tuple[str, dict[str, Any]]]:
    """URL of a sink's internal port, and what it answers to the last part of a path."""
    looped, answers = Looped(), {}

    async def answer(request: web.Request) -> web.Response:
        found = answers.get(request.path.rpartition("/")[2], answers.get("else"))
        return web.Response(status=503) if found is None else web.json_response(found)

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    runner = looped.run(serve(app, "127.0.0.1", 0))
    yield f"http://127.0.0.1:{runner.addresses[0][1]}", answers
    looped.run(runner.cleanup())
    looped.close()


@pytest.fixture(scope="module")
def service(kafka: Any, valkey: Any, make_settings: Any, sink: tuple[str, dict[str, Any]]) -> Iterator[Service]:
    settings = make_settings(clickhouse_url=NOBODY, internal_token=INTERNAL_TOKEN, sink_urls=sink[0], destination_keys=sealing.new_key())
    token = Token(name="cli", sha256=sha256(TOKEN.encode()).hexdigest(), scopes=frozenset({"destinations:read", "destinations:write"}))
    made = Service(settings, replace(make_configuration(), tokens=(token,)))
    made.wait_ready()
    yield made
    made.stop()


@pytest.fixture
def run(service: Service, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    monkeypatch.setenv("LOYALTY_HOME", str(tmp_path))

    def invoke(command: str, *arguments: str, token: str = TOKEN, **options: Any) -> Result:
        environment = {"COLUMNS": "250"}
        return CliRunner(env=environment).invoke(main, ["destinations", command, "--ingress", service.url, "--token", token, *arguments], **options)

    return invoke


def succeed(result: Result) -> str:
    assert result.exit_code == 0, result.output
    return " ".join(result.stdout.split())


def test_a_destination_is_made_by_options_shown_changed_and_ended(run: Run, service: Service) -> None:
    options = ("--url", URL, "--event", "tier_changed", "--program", "grand", "--filter", "account.tier=GOLD", "--filter", "account.tier=STAR",
               "--set", "timeout_s=3", "--set", "on_dead_letter=BLOCK")  # fmt: skip
    text = succeed(run("create", "crm", *options))
    made = service.parts.control.destinations["crm"]
    assert f"Destination crm is made. Its signing key, shown this once: {made.secrets[0].value}" in text
    assert (made.url, made.events, made.programs, made.timeout_s, made.on_dead_letter) == (URL, {"TIER_CHANGED"}, {"grand"}, 3.0, "BLOCK")
    assert made.filters == {"account.tier": frozenset({"GOLD", "STAR"})}
    assert f"crm ACTIVE {URL} grand TIER_CHANGED" in succeed(run("list"))
    assert "Destination crm has version 2." in succeed(run("update", "crm", "--set", "timeout_s=null", "--set", "headers={\"x-a\": \"hunter2\"}"))
    changed = service.parts.control.destinations["crm"]
    assert (changed.timeout_s, changed.headers, changed.events) == (15.0, {"x-a": "hunter2"}, {"TIER_CHANGED"})
    shown = run("show", "crm", "--json")
    assert json.loads(shown.stdout)["version"] == 2 and "hunter2" not in shown.output
    assert run("delete", "crm", input="n\n").exit_code == 1 and "crm" in service.parts.control.destinations
    assert succeed(run("delete", "crm", "--yes")) == "Destination crm is no more."
    assert "crm" not in service.parts.control.destinations


def test_when_batches_go_out_is_an_option(run: Run, service: Service) -> None:
    night = ("--cadence", "0 2 * * *", "--time-zone", "Europe/Berlin", "--cadence-window", "01:00-05:00", "--coalesce")
    succeed(run("create", "nightly", "--url", URL, *night))
    assert str(service.parts.control.destinations["nightly"].cadence) == "cron 0 2 * * * Europe/Berlin, 01:00-05:00"
    succeed(run("update", "nightly", "--cadence", "15m", "--cadence-window", "", "--time-zone", "UTC"))
    changed = service.parts.control.destinations["nightly"]
    assert str(changed.cadence) == "every 15m" and changed.coalesce
    refused = run("update", "nightly", "--cadence", "realtime")
    assert refused.exit_code == 1 and "coalesce" in refused.output
    succeed(run("update", "nightly", "--cadence", "realtime", "--no-coalesce"))
    assert service.parts.control.destinations["nightly"].cadence is None
    assert run("update", "nightly", "--cadence", "soon").exit_code == 2


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("d.json", json.dumps({"url": URL, "secret": SECRET, "start_at": "2026-11-01"})),
        ("d.toml", f'url = "{URL}"\nsecret = "{SECRET}"\nstart_at = 2026-11-01\n'),
    ],
    ids=["json", "toml"],
)
def test_or_by_a_file(run: Run, service: Service, tmp_path: Path, name: str, text: str) -> None:
    file = tmp_path / name
    file.write_text(text)
    made_name = name.replace(".", "-")
    told = json.loads(run("create", made_name, "--file", str(file), "--set", "timeout_s=2", "--json").stdout)
    assert (told["secret"], told["start_at"], told["timeout_s"]) == (None, "2026-11-01T00:00:00.000Z", 2.0)
    assert service.parts.control.destinations[made_name].secrets[0].value == SECRET


def test_what_is_wrong_is_told_with_its_field(run: Run, tmp_path: Path) -> None:
    refused = run("create", "bad", "--url", "ftp://x", "--set", "timeout_s=0")
    assert refused.exit_code == 1
    assert "loyalty destinations: url: must be" in refused.stderr and "loyalty destinations: timeout_s: must be" in refused.stderr
    (tmp_path / "x.toml").write_text("url = ")
    for arguments in (("create", "bad", "--set", "timeout_s"), ("create", "bad", "--file", str(tmp_path / "x.toml")), ("update", "bad")):
        assert run(*arguments).exit_code == 2
    assert "set LOYALTY_API_TOKEN" in run("list", token="another").stderr
    assert "no such destination" in run("pause", "nowhere").stderr


def test_states_secrets_and_tests(run: Run, service: Service, tmp_path: Path) -> None:
    (tmp_path / "key").write_text(f"{SECRET}\n")
    succeed(run("create", "rotated", "--url", "http://127.0.0.1:9/", "--secret-file", str(tmp_path / "key")))
    for verb, state in (("pause", State.PAUSED), ("resume", State.ACTIVE), ("disable", State.DISABLED)):
        assert "Destination rotated is" in succeed(run(verb, "rotated", "--detail", "why"))
        assert (service.parts.control.states["rotated"].state, service.parts.control.states["rotated"].detail) == (state, "why")
    text = succeed(run("rotate-secret", "rotated", "--scheme", "v1a", "--overlap-s", "60"))
    old, new = service.parts.control.destinations["rotated"].secrets
    assert new.value in text and signatures.public_key(new.value) in text and old.expires_at_ms is not None
    assert "not sign with" in succeed(run("remove-secret", "rotated", old.secret_id))
    shown = succeed(run("show", "rotated"))
    assert "rotated DISABLED why" in shown and new.secret_id in shown and "v1a" in shown and new.value not in shown
    tried = run("test", "rotated")
    assert tried.exit_code == 1 and tried.stdout.strip(), "nobody listens there, and it is no public address"


def test_how_it_fares_is_shown_and_whose_part_is_missing(run: Run, service: Service, sink: tuple[str, dict[str, Any]]) -> None:
    url, answers = sink
    succeed(run("create", "fares", "--url", URL))
    answers.clear()
    assert f"No sink answers at {url}" in succeed(run("show", "fares"))
    answers["destinations"] = {"partitions": {"events": [0]}, "destinations": {"fares": STANDING}}
    text = succeed(run("show", "fares"))
    for words in ("breaker open; 1,200 events wait, 1 of 8 under way, 10 records behind", "the oldest waits since 1970-01-01 00:00:05 UTC",
                  "1 members wait behind a failure", "nothing gets through since 1970-01-01 00:00:01 UTC: status 503", "owns these partitions: 1"):  # fmt: skip
        assert words in text


def test_a_replay_is_made_followed_listed_and_cancelled(run: Run, service: Service, sink: tuple[str, dict[str, Any]]) -> None:
    answers = sink[1]
    answers.clear()
    succeed(run("create", "replayed", "--url", URL))
    options = ("--since", "2026-11-24", "--which", "missing", "--event", "tier_changed", "-m", "grand/M-1", "-m", "grand/M-2", "--rate", "5", "--dry-run")
    job_id = json.loads(run("replay", "replayed", *options, "--json").stdout)["job_id"]
    job = service.parts.control.jobs[job_id]
    assert (job.which, job.events, job.members, job.rate_max_per_s, job.is_dry_run) == ("MISSING", {"TIER_CHANGED"}, {"grand/M-1", "grand/M-2"}, 5.0, True)
    assert f"{job_id} " in succeed(run("replays", "replayed"))
    assert "missing, counted only waiting" in succeed(run("replays", "replayed", job_id))
    assert succeed(run("cancel", "replayed", job_id)) == f"Replay {job_id} ends."
    assert service.parts.control.jobs[job_id].is_cancelled
    answers["else"] = {"partitions": [0, 1], "counts": {"matched": 1200, "passed_over": 1}, "done_partitions": [0, 1], "running_partitions": []}
    followed = run("replay", "replayed", "--since", "2026-11-24", "--follow")
    assert "is done: 1,200 matched, 1 passed over." in succeed(followed)
    assert run("replay", "replayed", "--since", "yesterday").exit_code == 2


def test_members_that_wait_are_listed_tried_and_passed_over(run: Run, service: Service, sink: tuple[str, dict[str, Any]]) -> None:
    answers = sink[1]
    answers.clear()
    succeed(run("create", "waits", "--url", URL))
    answers["lanes"] = {"lanes": [LANE]}
    text = succeed(run("lanes", "waits"))
    assert "grand/M-1 crm 1,200 7 1970-01-01 00:00:01 UTC waits for an operator grand-M-1-4 status?[2J 503" in text, "a terminal is not obeyed"
    job = service.parts.control.jobs[json.loads(run("retry", "waits", "grand/M-1", "--json").stdout)["job_id"]]
    assert (job.action, job.members) == (Action.RETRY, {"grand/M-1"})
    assert run("skip", "waits", "--all", input="n\n").exit_code == 1
    job = service.parts.control.jobs[json.loads(run("skip", "waits", "--all", "--yes", "--json").stdout)["job_id"]]
    assert (job.action, job.members) == (Action.SKIP, frozenset())
    assert run("skip", "waits").exit_code == run("skip", "waits", "grand/M-1", "--all").exit_code == 2


def test_a_new_key_seals() -> None:
    key = CliRunner().invoke(main, ["destinations", "new-key"]).output.strip()
    assert sealing.unseal(key, sealing.seal(key, "x")) == "x"
