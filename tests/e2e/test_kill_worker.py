"""kill -9 of the worker in mid-stream: an independent recomputation of every balance finds nothing lost and nothing doubled."""

import random
import threading
from pathlib import Path
from typing import Any

import pytest

from streams import kafka
from streams.settings import Settings
from streams.tables import CHANGELOG_CONFIG, changelogs
from tests.e2e import oracle, traffic
from tests.e2e.processes import pipeline
from tests.engine import log
from tests.waiting import wait_until

SEED = 20261122
MEMBERS, TRANSACTIONS = 200, 12_000
KILLS = 3


@pytest.fixture
def settings(make_settings: Any, tmp_path: Path) -> Settings:
    config_file = tmp_path / "loyalty.toml"
    config_file.write_text(oracle.RULES_TOML)
    settings: Settings = make_settings(
        config_file=str(config_file), worker_instance_id="worker-1", worker_batch_records_max=200, redis_url="redis://unused", clickhouse_url="http://unused"
    )
    kafka.ensure_topics(settings, changelogs={name: CHANGELOG_CONFIG for name in changelogs(settings)})
    return settings


def audited(settings: Settings) -> int:
    """Upper bound of the commands decided so far, from the end offsets (transaction markers count)."""
    return log.end_offsets(settings.kafka_bootstrap_servers, f"{settings.topic_prefix}.sync-audit.v1")


def all_answered(settings: Settings, inputs: int) -> bool:
    if audited(settings) < inputs:
        return False
    lines = oracle.read(settings.kafka_bootstrap_servers, f"{settings.topic_prefix}.sync-audit.v1", "sync_audit")
    return len({line.value["audit_id"] for line in lines if line.value and not line.value["audit_id"].endswith("-released")}) >= inputs


def test_nothing_is_lost_or_doubled(settings: Settings) -> None:
    dice = random.Random(SEED)
    sent: list[int] = []
    feeder = threading.Thread(target=lambda: sent.append(traffic.send(settings, traffic.commands(SEED, MEMBERS, TRANSACTIONS))))
    feeder.start()
    for _ in range(KILLS):
        before = audited(settings)
        with pipeline(settings, "worker") as running:
            wanted = before + dice.randrange(1, TRANSACTIONS // (KILLS * 2))
            wait_until(lambda wanted=wanted: audited(settings) >= wanted, timeout_s=60)
            running.kill()
    feeder.join()
    with pipeline(settings, "worker") as running:
        wait_until(lambda: all_answered(settings, sent[0]), timeout_s=90)
        assert running.stop() == 0
    found = oracle.differences(settings.kafka_bootstrap_servers, settings.topic_prefix)
    assert found == dict.fromkeys(found, 0)
    assert log.read(settings.kafka_bootstrap_servers, f"{settings.topic_prefix}.dead-letters.v1") == []


def test_the_oracle_itself_sees_a_fault(settings: Settings) -> None:
    """A test of the test: an account row that is off by one point is found."""
    traffic.send(settings, traffic.commands(SEED, 10, 50))
    with pipeline(settings, "worker") as running:
        wait_until(lambda: all_answered(settings, 60), timeout_s=60)
        assert running.stop() == 0
    bootstrap, prefix = settings.kafka_bootstrap_servers, settings.topic_prefix
    assert set(oracle.differences(bootstrap, prefix).values()) == {0}
    extra = traffic.commands(SEED + 1, 10, 51)
    *_, last = extra
    traffic.send(settings, iter([last]))  # In the log, but never decided: the worker is gone.
    assert oracle.differences(bootstrap, prefix)["inputs without exactly one audit record"] == 1
