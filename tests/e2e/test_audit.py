"""A command by REST leaves its audit in Kafka and ClickHouse; both verify; one altered row is named; who read the account is there, too."""

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sinks import clickhouse as history_sink
from streams.settings import PREFIX, Settings
from tests.e2e.processes import Pipeline, free_port, pipeline
from tests.waiting import wait_until

pytestmark = pytest.mark.stack

TOKEN = "token-of-the-end-to-end-test"
CONFIGURATION = f"""
[programs.grand]
tiers = [{{ name = "MEMBER", threshold_points = 0 }}]

[programs.grand.earn.points_per_unit]
EUR = 10

[tokens.test]
token = "{TOKEN}"
scopes = ["transactions:write", "enrolments:write", "profile-changes:write", "members:read", "audit:read"]
source_systems = ["*"]
"""


def request(url: str, payload: dict[str, Any] | None = None) -> Any:
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json", "Prefer": "wait=15"}
    body = None if payload is None else json.dumps(payload).encode()
    with urllib.request.urlopen(urllib.request.Request(url, data=body, headers=headers), timeout=40) as response:
        return json.loads(response.read())


def audit(settings: Settings, *arguments: str) -> tuple[int, Any]:
    """`loyalty audit ...`: its exit code, and what it prints as JSON, one object or lines of them."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(PREFIX)} | settings.environment()
    done = subprocess.run(
        [sys.executable, "-m", "streams.cli", "audit", *arguments, "--json"], env=environment, capture_output=True, text=True, timeout=90, check=False
    )  # fmt: skip
    assert done.returncode in (0, 1) and not done.stderr.count("Traceback"), done.stderr
    return done.returncode, json.loads(done.stdout) if arguments[:1] == ("verify",) else [json.loads(line) for line in done.stdout.splitlines()]


def test_from_the_command_to_the_altered_row(make_settings: Callable[..., Settings], kafka: Any, valkey: Any, clickhouse: Any, tmp_path: Path) -> None:
    file = tmp_path / "loyalty.toml"
    file.write_text(CONFIGURATION)
    port, worker_port = free_port(), free_port()
    settings = make_settings(config_file=str(file), ingress_port=port, worker_urls=f"http://127.0.0.1:{worker_port}")
    url = f"http://127.0.0.1:{port}"
    worker_settings = replace(settings, http_port=worker_port)
    worker = Pipeline(worker_settings, "worker", http_port=worker_port)
    ingress = Pipeline(settings, "ingress", http_port=port)
    try:
        with pipeline(settings, "sink", "clickhouse") as sink:
            for process in (worker, ingress, sink):
                process.wait_ready()
            common = {"program_id": "grand", "member_id": "m-1", "occurred_at": "2026-03-01T12:00:00Z"}
            request(f"{url}/v1/enrolments", common | {"event_id": "e-1", "source_system": "crm", "attributes": {"email": "ada@example.com"}})
            request(f"{url}/v1/profile-changes", common | {
                "event_id": "e-2", "source_system": "crm", "occurred_at": "2026-03-02T12:00:00Z", "attributes": {"email": "robin@example.com"},
            })  # fmt: skip
            assert request(f"{url}/v1/members/m-1")["attributes"] == {"email": "robin@example.com"}

            wait_until(lambda: len(request(f"{url}/v1/audit?program=grand&stream=profile-changes")["records"]) == 1, timeout_s=30)
            (record,) = request(f"{url}/v1/audit?program=grand&stream=profile-changes&attribute=email")["records"]
            assert [change["attribute"] for change in record["changes"]] == ["email"]
            assert "example.com" not in json.dumps(record)
            wait_until(lambda: len(request(f"{url}/v1/audit?direction=out&kind=MEMBER_READ")["records"]) == 1, timeout_s=30)
            code, rows = audit(settings, "report", "member-accesses", "--member", "m-1")
            assert code == 0 and [row["reader"].split("@")[0] for row in rows] == ["api:test"]

            code, told = audit(settings, "verify")
            assert code == 0 and told["whole"] is True and {"clickhouse", "topic"} <= told.keys()
            assert sum(chain["records"] for chain in told["topic"]) >= 3

            client = history_sink.connect(settings)
            client.command("ALTER TABLE sync_audit UPDATE source_system = 'pms' WHERE command_id = 'e-2'", settings={"mutations_sync": 2})
            client.close()
            code, told = audit(settings, "verify", "--from-clickhouse")
            (broken,) = (chain for chain in told["clickhouse"] if chain["broken"])
            assert (code, broken["broken"]["fault"]) == (1, "CHANGED")
            assert broken["broken"]["place"].endswith(f"source_offset {record['source_offset']}")
            assert audit(settings, "verify", "--from-topic")[0] == 0
    finally:
        for process in (worker, ingress):
            process.kill()
