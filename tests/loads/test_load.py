"""`loyalty load` beside a real broker and a real worker: what is sent, what is told, what a kill changes: nothing."""

import csv
import random
import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from schemas.codec import Codec
from schemas.records import Enrolment, SyncRun, Transaction
from schemas.registry import LocalRegistry
from streams import kafka
from streams.settings import Settings
from streams.tables import CHANGELOG_CONFIG, changelogs
from tests.e2e import oracle, traffic
from tests.e2e.processes import Pipeline
from tests.engine import log
from tests.loads.processes import WITHIN_S, load, row, start, write
from tests.waiting import wait_until

SEED, MEMBERS, ROWS = 20261201, 300, 20_000


@pytest.fixture
def settings(make_settings: Any, tmp_path: Path) -> Settings:
    config_file = tmp_path / "loyalty.toml"
    config_file.write_text(oracle.RULES_TOML)
    settings: Settings = make_settings(
        home=str(tmp_path), config_file=str(config_file), worker_instance_id="worker-1", redis_url="redis://unused", clickhouse_url="http://unused"
    )
    kafka.ensure_topics(settings, changelogs={name: CHANGELOG_CONFIG for name in changelogs(settings)})
    return settings


def has_decided(settings: Settings, wanted: int) -> bool:
    return decided(settings) >= wanted


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
            wanted = decided(settings) + dice.randrange(500, 4_000)
            process = start(settings, *arguments, "--live-p99-ms", "100000")
            wait_until(partial(has_decided, settings, wanted), timeout_s=WITHIN_S)
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
        assert worker.wait_ready()
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
    assert [(run.result.value, run.rows) for run in runs if run.job == f"load/{said['load_id']}"] == [("DONE", report["to_send"])]
