"""A stream with a schedule, end to end: kill -9 of the scheduler in the flush, and back to real time amid it, lose, double and reorder nothing."""

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
from click.testing import CliRunner

from schemas.records import Account
from streams import kafka
from streams.cli import main
from streams.codec import open_codec
from streams.settings import Settings
from streams.tables import CHANGELOG_CONFIG, changelogs
from tests.e2e import oracle
from tests.e2e.processes import Pipeline, free_port, pipeline
from tests.engine import log
from tests.waiting import wait_until

TOKEN = "token-of-the-schedule-test"
CONFIGURATION = f"""
[sync.profile-changes]
every = "31d"
rate_max_per_s = 10
[tokens.crm]
token = "{TOKEN}"
programs = ["grand"]
scopes = ["enrolments:write", "profile-changes:write"]
"""
MEMBERS, CHANGES = 20, 200


@dataclass
class World:
    settings: Settings
    api: httpx2.Client
    stack: ExitStack

    def loyalty(self, *arguments: str) -> Any:
        found = CliRunner().invoke(main, ["sync", *arguments], env=self.settings.environment(), catch_exceptions=False)
        assert found.exit_code == 0, found.output
        return found.output

    def change(self, number: int, headers: dict[str, str] | None = None) -> dict[str, Any]:
        body = {"member_id": f"M-{number % MEMBERS}", "event_id": f"change-{number}", "attributes": {f"part_{number % 3}": f"v{number}", "last": str(number)}}
        answer = self.api.post("/v1/profile-changes", json=body, headers=headers or {})
        assert answer.status_code == 202, answer.text
        return dict(answer.json())

    def is_drained(self) -> bool:
        """Whether the scheduler has said that all that came to wait has gone on."""
        bootstrap, prefix = self.settings.kafka_bootstrap_servers, self.settings.topic_prefix
        said = [line.value for line in oracle.read(bootstrap, f"{prefix}.sync-control.v1", "sync_control") if line.value and line.value["kind"] == "DRAINED"]
        newest = json.loads(max(said, key=lambda value: value["version"])["document"])
        return newest["drained"] and sum(newest["read_to"].values()) == log.end_offsets(bootstrap, f"{prefix}.scheduled-profile-changes.v1")

    def audits(self) -> list[dict[str, Any]]:
        lines = oracle.read(self.settings.kafka_bootstrap_servers, f"{self.settings.topic_prefix}.sync-audit.v1", "sync_audit")
        return [line.value for line in lines if line.value and line.value["stream"] == "profile-changes"]

    def accounts(self) -> dict[str, Account]:
        codec, found = open_codec(self.settings), {}
        changelog = next(name for name, record in changelogs(self.settings).items() if record == Account.SCHEMA)
        for row in log.read(self.settings.kafka_bootstrap_servers, changelog):
            if row.value is not None:
                account = codec.decode(row.value, Account)
                found[account.member_id] = account
        return found


@pytest.fixture
def world(make_settings: Any, tmp_path: Path) -> Iterator[World]:
    config_file = tmp_path / "loyalty.toml"
    config_file.write_text(oracle.RULES_TOML + CONFIGURATION)
    port = free_port()
    settings: Settings = make_settings(
        config_file=str(config_file), kafka_partitions=2, ingress_port=port, redis_url="redis://unused", clickhouse_url="http://unused"
    )
    kafka.ensure_topics(settings, changelogs={name: CHANGELOG_CONFIG for name in changelogs(settings)})
    with ExitStack() as stack:
        stack.enter_context(pipeline(settings, "worker"))
        ingress = Pipeline(settings, "ingress", http_port=port)
        stack.callback(ingress.kill)
        api = stack.enter_context(httpx2.Client(base_url=f"http://127.0.0.1:{port}", headers={"Authorization": f"Bearer {TOKEN}"}, timeout=30))
        ingress.wait_ready()
        yield World(settings, api, stack)


def test_a_schedule_loses_doubles_and_reorders_nothing(world: World) -> None:
    for number in range(MEMBERS):
        assert world.api.post("/v1/enrolments", json={"member_id": f"M-{number}", "event_id": f"enrol-{number}"}).status_code == 202
    for number in range(CHANGES // 2):
        answer = world.change(number, {"Prefer": "wait=10"} if number == 0 else None)
        assert answer["status"] == "scheduled" and answer["decided_after"] > "2026" and "scheduled-profile-changes" in answer["topic"]
    first = world.stack.enter_context(pipeline(world.settings, "scheduler"))
    first.wait_ready()
    # Half of what there is goes on; the scheduler dies amid it.
    world.loyalty("run", "profile-changes", "--wait", "0")
    wait_until(lambda: len(world.audits()) > 0, timeout_s=60)
    first.kill()
    assert 0 < len(world.audits()) < CHANGES // 2
    for number in range(CHANGES // 2, CHANGES):
        assert world.change(number)["status"] == "scheduled"
    # Back to real time while nobody flushes: what comes goes on waiting behind what waits, until all of that has gone on.
    world.loyalty("set", "profile-changes", "--realtime")
    second = world.stack.enter_context(pipeline(world.settings, "scheduler"))
    sent = CHANGES
    while not second.is_ready():
        world.change(sent)
        sent += 1
    wait_until(world.is_drained, timeout_s=60)
    sent += MEMBERS
    assert {world.change(number)["status"] for number in range(sent - MEMBERS, sent)} == {"accepted"}
    wait_until(lambda: len({audit["command_id"] for audit in world.audits()}) == sent, timeout_s=60)
    assert Counter(Counter(audit["command_id"] for audit in world.audits()).values()) == {1: sent}, "each command has exactly one audit record"
    assert {audit["result"] for audit in world.audits()} == {"APPLIED"}
    expected: dict[str, dict[str, str]] = {}
    for number in range(sent):
        expected.setdefault(f"M-{number % MEMBERS}", {}).update({f"part_{number % 3}": f"v{number}", "last": str(number)})
    assert {member: dict(account.attributes) for member, account in world.accounts().items()} == expected
    # Many of them were told as one.
    events = oracle.read(world.settings.kafka_bootstrap_servers, f"{world.settings.topic_prefix}.events.v1", "loyalty_event")
    told = [line.value for line in events if line.value and line.value["kind"] == "PROFILE_CHANGED"]
    assert MEMBERS <= len(told) < sent
    status = {row["name"]: row for row in json.loads(world.loyalty("status", "--json"))}
    assert (status["profile-changes"]["mode"], status["profile-changes"]["backlog"], status["transactions"]["mode"]) == ("realtime", 0, "realtime")
    assert second.stop() == 0
