"""`loyalty load` beside a real broker and a real worker: what is sent, what is told, what a kill changes: nothing."""

import csv
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from schemas.codec import Codec
from schemas.records import Enrolment, SyncRun, Transaction
from schemas.registry import LocalRegistry
from streams import kafka
from streams.settings import PREFIX, Settings
from streams.tables import CHANGELOG_CONFIG, changelogs
from tests.e2e import oracle, traffic
from tests.e2e.processes import Pipeline
from tests.engine import log
from tests.waiting import wait_until

SEED, MEMBERS, ROWS = 20261201, 300, 20_000
WITHIN_S = 120


@pytest.fixture
def settings(make_settings: Any, tmp_path: Path) -> Settings:
    config_file = tmp_path / "loyalty.toml"
    config_file.write_text(oracle.RULES_TOML)
    settings: Settings = make_settings(
        home=str(tmp_path), config_file=str(config_file), worker_instance_id="worker-1", redis_url="redis://unused", clickhouse_url="http://unused"
    )
    kafka.ensure_topics(settings, changelogs={name: CHANGELOG_CONFIG for name in changelogs(settings)})
    return settings


def start(settings: Settings, *arguments: str) -> "subprocess.Popen[str]":
    environment = {key: value for key, value in os.environ.items() if not key.startswith(PREFIX)} | settings.environment()
    command = [sys.executable, "-m", "streams.cli", "load", *arguments, "--json"]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def load(settings: Settings, *arguments: str) -> tuple[int, dict[str, Any]]:
    """Exit code, and what it says at its end."""
    process = start(settings, *arguments)
    out, errors = process.communicate(timeout=WITHIN_S)
    assert out, errors
    return process.returncode, json.loads(out)


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    return path


def row(command: Transaction | Enrolment) -> dict[str, Any]:
    """As a file without a mapping has it."""
    said = {name: value for name, value in command.to_avro().items() if value not in (None, [], {}) and name not in ("program_id", "source_system")}
    return said


def decided(settings: Settings) -> int:
    return log.end_offsets(settings.kafka_bootstrap_servers, f"{settings.topic_prefix}.sync-audit.v1")


def test_kills_of_loader_and_worker_change_nothing(settings: Settings, tmp_path: Path) -> None:
    """Two loads: members, then their past. The loader of the second is killed twice, the worker once."""
    commands = list(traffic.commands(SEED, MEMBERS, ROWS))
    enrolments = write(tmp_path / "members.csv", [row(one) for one in commands if isinstance(one, Enrolment)])
    # What is in the input twice is the loader's to see; another content under an id that is known is the ledger's.
    history = write(tmp_path / "history.csv", [row(one) for one in commands if isinstance(one, Transaction)])
    arguments = (str(history), "--program", "grand", "--source", "pms", "--as", "transactions", "--max-rejects", "5%", "--in-flight-max", "500")
    dice = random.Random(SEED)
    worker = Pipeline(settings, "worker").wait_ready()
    try:
        code, said = load(settings, str(enrolments), "--program", "grand", "--source", "crm", "--as", "enrolments")
        assert (code, said["results"]) == (0, {"applied": MEMBERS}), said
        for number in range(2):
            before, wanted = decided(settings), dice.randrange(500, 4_000)
            process = start(settings, *arguments, "--live-p99-ms", "100000")
            wait_until(lambda before=before, wanted=wanted: decided(settings) >= before + wanted, timeout_s=WITHIN_S)
            if number:
                worker.kill()
                worker = Pipeline(settings, "worker")
            process.send_signal(signal.SIGKILL)
            process.communicate()
        code, said = load(settings, *arguments, "--live-p99-ms", "100000", "--rejects", str(tmp_path / "rejects.csv"))
        report, results = said["report"], said["results"]
        assert code == 1 and said["state"] == "loaded", said
        assert report["rows"] == ROWS == report["to_send"] + report["rejected_rows"] + report["repeated"]
        assert sum(results.values()) == report["to_send"] == said["decided"]
        # The same once more, in another home: the ledger knows every row.
        assert worker.wait_ready()
        there = Settings(**(_values(settings) | {"home": str(tmp_path / "elsewhere")}))
        code, again = load(there, *arguments, "--live-p99-ms", "100000", "--rejects", str(tmp_path / "again.csv"))
        assert again["results"] == {"replayed": report["to_send"]}
        assert again["reasons"] == said["reasons"]
        assert worker.stop() == 0
    finally:
        if worker.process.poll() is None:
            worker.kill()
    found = oracle.differences(settings.kafka_bootstrap_servers, settings.topic_prefix)
    assert found == dict.fromkeys(found, 0)
    assert log.read(settings.kafka_bootstrap_servers, f"{settings.topic_prefix}.dead-letters.v1") == []
    rejected = list(csv.DictReader((tmp_path / "rejects.csv").open()))
    assert len(rejected) == report["rejected_rows"] + sum(said["reasons"].values())
    assert {one["_reason"].partition(":")[0] for one in rejected} == {"ID_TWICE", *said["reasons"]}
    codec = Codec(LocalRegistry())
    runs = [codec.decode(record.value, SyncRun) for record in log.read(settings.kafka_bootstrap_servers, f"{settings.topic_prefix}.sync-runs.v1")]
    assert [(run.result.value, run.rows) for run in runs if run.job == f"load/{said['load_id']}"] == [("DONE", report["to_send"])] * 2


def _values(settings: Settings) -> dict[str, Any]:
    return {name: getattr(settings, name) for name in settings.__dataclass_fields__}
