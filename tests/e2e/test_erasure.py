"""A member is erased, and every store is searched for the bytes: files of RocksDB, Kafka, ClickHouse and Valkey, tables, keys and answers."""

import json
import os
import secrets
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import clickhouse_connect
import pytest
import redis
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource

from infra.clickhouse_service import ClickHouseServer
from infra.kafka_server import KafkaServer
from schemas.records import MemberStatus
from streams import topics
from streams.settings import Settings
from streams.tables import changelogs
from tests.e2e.processes import Pipeline, free_port
from tests.waiting import wait_until

TOKEN = "token-of-the-erasure-test"
RULES = f"""
[programs.grand.earn]
points_per_unit = {{ EUR = 10 }}
[[programs.grand.tiers]]
name = "MEMBER"
[tokens.test]
token = "{TOKEN}"
scopes = ["transactions:write", "enrolments:write", "profile-changes:write", "member-operations:write", "members:read", "members:export"]
"""
TIMEOUT_S = 60

# Where the bytes of each secret may be after the erasure, and were before it: in the topics that keep what came in, until their retention.
# Senders' reasons are in what was sent out as well, and external ids travel to where they are looked up.
STAYS = {
    "name": {"enrolments"},
    "segment": {"enrolments"},
    "card": {"enrolments", "relays"},
    "email": {"profile-changes"},
    "old_email": {"profile-changes"},
    "tag": {"profile-changes"},
    "suspended_because": {"profile-changes", "events"},
    "scheduled_because": {"profile-changes", "events"},
    "waited": {"profile-changes"},
    "waits": {"profile-changes"},
    "merged_name": {"enrolments"},
}
# Compressed blocks show a text whole where no four of its characters came before. No id and no hash has these.
LETTERS = "GHJKLMNPQRSTUVWXYZghjkmnpqrstuvwxyz"
# Done by the broker alone, so that the test need not wait for days.
AT_ONCE = {
    "min.compaction.lag.ms": "0", "max.compaction.lag.ms": "1", "segment.ms": "100", "min.cleanable.dirty.ratio": "0.001",
    "delete.retention.ms": "100", "file.delete.delay.ms": "100",
}  # fmt: skip
CLEANER = {"log.cleaner.backoff.ms": "100"}  # Of 15 seconds between two looks.


@dataclass
class World:
    settings: Settings
    kafka: Any
    valkey: Any
    clickhouse: Any
    secrets: dict[str, str] = field(default_factory=lambda: {name: "".join(secrets.choice(LETTERS) for _ in range(24)) for name in STAYS})

    def sql(self, query: str) -> list[Any]:
        url = urlsplit(self.settings.clickhouse_url)
        client = clickhouse_connect.get_client(host=url.hostname, port=url.port, database=self.settings.clickhouse_database)
        try:
            return list(client.query(query).result_rows) if query.startswith("SELECT") else [client.command(query)]
        finally:
            client.close()

    def found(self, *folders: Path) -> dict[str, set[Path]]:
        """Name of a secret -> files that have its bytes."""
        found: dict[str, set[Path]] = {name: set() for name in self.secrets}
        for path in (Path(place) / name for folder in folders for place, _, names in os.walk(folder) for name in names):
            try:
                content = path.read_bytes()
            except FileNotFoundError:  # Deleted a moment ago.
                continue
            for name, secret in self.secrets.items():
                if secret.encode() in content:
                    found[name].add(path)
        return found

    def in_topics(self) -> dict[str, set[str]]:
        """Name of a secret -> topics that have its bytes in files of the broker, by the name of the stream or the changelog."""
        prefix = f"{self.settings.topic_prefix}."
        return {
            name: {path.parent.name.rpartition("-")[0].removeprefix(prefix).removesuffix(".v1") for path in paths}
            for name, paths in self.found(self.kafka.folder / "data").items()
        }

    def names_in(self, text: str) -> set[str]:
        return {name for name, secret in self.secrets.items() if secret in text}

    def history_text(self) -> str:
        """All rows of all tables."""
        names = [name for (name,) in self.sql("SELECT name FROM system.tables WHERE database = currentDatabase() AND engine LIKE '%MergeTree'")]
        assert {"loyalty_events", "member_profile_history", "sync_audit", "ledger_entries"} <= set(names)
        return "".join(str(self.sql(f"SELECT * FROM {name}")) for name in names)

    def in_history_files(self) -> dict[str, set[Path]]:
        """`found` in ClickHouse's files, without those that it would delete when its cleaner next wakes, in up to five minutes: dropping what is
        not there wakes nobody, but deletes at once what the cleaner would.
        """
        for table in ("loyalty_events", "member_profile_history"):
            self.sql(f"ALTER TABLE {table} DROP PARTITION ID '190001'")
        return self.found(self.clickhouse.folder)

    def cache_text(self) -> str:
        """All keys and values."""
        client = redis.Redis.from_url(self.settings.redis_url, decode_responses=True)
        keys = list(client.scan_iter(f"{self.settings.topic_prefix}:*", count=1000))
        assert keys
        client.save()
        return "".join(f"{key} {client.hgetall(key)}" for key in keys)

    def ledger(self) -> list[Any]:
        return self.sql(
            "SELECT program_id, member_id, count(), sum(points_delta), argMax(balance_after, entry_sequence), argMax(entry_hash, entry_sequence)"
            " FROM ledger_entries FINAL GROUP BY program_id, member_id ORDER BY member_id"
        )

    def proofs(self) -> list[Any]:
        return [self.sql(f"SELECT * FROM {view} ORDER BY ALL") for view in ("reconciliation", "zero_sum", "hash_chain")]


@pytest.fixture
def kafka(tmp_path_factory: pytest.TempPathFactory, kafka_jars: list[Path]) -> Iterator[KafkaServer]:
    """A broker of its own, for the same reason: its cleaner has these topics and no others."""
    server = KafkaServer(tmp_path_factory.mktemp("broker"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def clickhouse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseServer]:
    """A server of its own: one that has the tables of hundreds of other tests removes old parts when it comes to it."""
    server = ClickHouseServer(tmp_path_factory.mktemp("history"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def world(make_settings: Callable[..., Settings], kafka: Any, valkey: Any, clickhouse: Any, tmp_path: Path) -> World:
    config = tmp_path / "loyalty.toml"
    config.write_text(RULES)
    own = {"clickhouse_url": clickhouse.url, "kafka_bootstrap_servers": kafka.bootstrap_servers}
    return World(make_settings(config_file=str(config), ingress_port=free_port(), **own), kafka, valkey, clickhouse)


@pytest.fixture
def processes() -> Iterator[list[Pipeline]]:
    started: list[Pipeline] = []
    yield started
    for process in started:
        if process.process.poll() is None:
            process.kill()


class Api:
    def __init__(self, settings: Settings, http: aiohttp.ClientSession) -> None:
        self._url = f"http://127.0.0.1:{settings.ingress_port}/v1"
        self._http = http

    async def post(self, stream: str, body: dict[str, Any], status: str = "applied") -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {TOKEN}", "Prefer": "wait=20"}
        async with self._http.post(f"{self._url}/{stream}", json=body, headers=headers) as response:
            answer: dict[str, Any] = await response.json()
        assert answer["status"] == status, answer
        return answer

    async def text(self, path: str, method: str = "GET") -> tuple[int, str]:
        async with self._http.request(method, f"{self._url}/members/{path}", headers={"Authorization": f"Bearer {TOKEN}"}) as response:
            return response.status, await response.text()


async def tell_the_story(api: Api, secret: dict[str, str]) -> None:
    """G-1 with a profile that was changed, a suspension, a status to come, what waited for the enrolment; G-0 is merged into G-1; G-9 only waits."""
    early = {"member_id": "G-1", "event_id": "crm:early", "attributes": {"nickname": secret["waited"]}}
    await api.post("profile-changes", early, "waiting_for_enrolment")
    await api.post("profile-changes", early | {"member_id": "G-9", "attributes": {"nickname": secret["waits"]}}, "waiting_for_enrolment")
    enrolment = {
        "member_id": "G-1", "event_id": "crm:1", "attributes": {"given_name": secret["name"]}, "segments": [secret["segment"]],
        "external_ids": {"card": secret["card"]},
    }  # fmt: skip
    await api.post("enrolments", enrolment)
    await api.post("enrolments", {"member_id": "G-0", "event_id": "crm:0", "attributes": {"given_name": secret["merged_name"]}})
    await api.post("enrolments", {"member_id": "G-2", "event_id": "crm:2", "attributes": {"given_name": "Robin"}})
    for member_id, points in (("G-1", 500), ("G-0", 70), ("G-2", 30)):
        await api.post("transactions", {"member_id": member_id, "transaction_id": f"pms:{member_id}", "kind": "EARN", "points": points})
    change = {"member_id": "G-1"}
    await api.post("profile-changes", change | {"event_id": "crm:3", "attributes": {"email": secret["old_email"]}, "segments": [secret["tag"]]})
    await api.post("profile-changes", change | {"event_id": "crm:4", "attributes": {"email": secret["email"]}})
    await api.post("profile-changes", change | {"event_id": "hr:1", "status": "SUSPENDED", "status_reason": secret["suspended_because"]})
    await api.post("profile-changes", change | {"event_id": "hr:2", "status": "ACTIVE"})
    later = {"event_id": "hr:3", "status": "SUSPENDED", "status_from": "2099-01-01T00:00:00Z", "status_reason": secret["scheduled_because"]}
    await api.post("profile-changes", change | later)
    merge = {"member_id": "G-0", "event_id": "crm:5", "kind": "MERGE", "target_member_id": "G-1", "reason": "the same guest", "actor": "desk"}
    await api.post("member-operations", merge)


def erased(settings: Settings, member_id: str) -> dict[str, Any]:
    """The receipt of `loyalty erase`."""
    arguments = ["erase", member_id, "--program", "grand", "--reason", "privacy:2026-118", "--actor", "desk", "--yes", "--json", "--token", TOKEN]
    done = subprocess.run(
        [sys.executable, "-m", "streams.cli", *arguments], env=settings.environment(), capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    receipt: dict[str, Any] = json.loads(done.stdout)
    return receipt


def comes_to(look: Callable[[], Any], expected: Any, timeout_s: float) -> None:
    """Wait until it is as expected; if it never is, show how it is."""
    try:
        wait_until(lambda: look() == expected, timeout_s)
    except TimeoutError:
        assert look() == expected


def compact_at_once(settings: Settings, names: list[str]) -> None:
    admin = AdminClient({"bootstrap.servers": settings.kafka_bootstrap_servers})
    wanted = {(ConfigResource.Type.TOPIC, name): AT_ONCE for name in names} | {(ConfigResource.Type.BROKER, "1"): CLEANER}
    resources = [
        ConfigResource(kind, of, incremental_configs=[ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET) for name, value in values.items()])
        for (kind, of), values in wanted.items()
    ]  # fmt: skip
    for future in admin.incremental_alter_configs(resources).values():
        future.result(30)


async def test_nothing_of_a_member_is_left_anywhere_but_in_what_came_in(world: World, processes: list[Pipeline]) -> None:
    settings, secret = world.settings, world.secrets
    worker = Pipeline(settings, "worker")
    settings = replace(settings, worker_urls=worker.url)
    processes += [worker, Pipeline(settings, "ingress"), Pipeline(settings, "sink", "redis"), Pipeline(settings, "sink", "clickhouse")]
    for process in processes:
        if process.name != "ingress":
            process.wait_ready()
    async with aiohttp.ClientSession() as http:
        api = Api(settings, http)
        wait_until(lambda: _serves(settings), TIMEOUT_S)
        await tell_the_story(api, secret)
        wait_until(lambda: ("G-1", "MEMBER_MERGED") in world.sql("SELECT member_id, kind FROM loyalty_events"), TIMEOUT_S)
        wait_until(lambda: ("G-0", "MERGE") in world.sql("SELECT member_id, operation FROM member_profile_history"), TIMEOUT_S)
        comes_to(lambda: [(member_id, count) for _, member_id, count, *_ in world.ledger()], [("G-0", 2), ("G-1", 2), ("G-2", 1)], TIMEOUT_S)
        ledger, proofs = world.ledger(), world.proofs()

        # Before: everybody has it.
        status, export = await api.text("G-1/export")
        assert (status, world.names_in(export)) == (200, set(STAYS) - {"waits"}), "an export holds all that is held"
        assert world.names_in((await api.text("G-9/export"))[1]) == {"waits"}
        for name, streams in world.in_topics().items():
            assert streams >= STAYS[name], name
            assert name == "waits" or "profiles" in streams or name.endswith("_because"), name
        current = {"name", "card", "email", "tag", "scheduled_because", "merged_name"}
        # More than one look: a file may be written anew while they are read.
        comes_to(lambda: {name for name, paths in world.found(Path(settings.home) / "worker").items() if paths} & current, current, TIMEOUT_S)
        assert world.names_in(world.history_text()) >= {"name", "email", "old_email", "segment", "suspended_because", "merged_name"}
        for table in ("loyalty_events", "member_profile_history"):
            world.sql(f"ALTER TABLE {table} MODIFY SETTING old_parts_lifetime = 1")  # Of eight minutes.

        receipt = erased(settings, "G-1")
        assert (sorted(receipt["numbers"]), receipt["status"], receipt["is_finished"]) == (["G-0", "G-1"], "applied", True)
        assert erased(settings, "G-9")["is_finished"]
        assert erased(settings, "G-1")["status"] == "applied", "the same request again is the same erasure"

        # What can be asked has nothing.
        assert world.names_in(world.history_text()) == set()
        assert world.names_in(world.cache_text()) == set()
        for path in ("G-1", "G-0", "G-1/balance", "G-1/export", "G-0/export"):
            status, answer = await api.text(path)
            assert (status, world.names_in(answer)) == (200, set()), path
        assert (await api.text("G-9/export"))[0] == 404
        assert json.loads((await api.text("G-1"))[1])["status"] == MemberStatus.ERASED
        assert json.loads((await api.text("G-2"))[1])["attributes"] == {"given_name": "Robin"}, "others are as they were"

        # The ledger is what it was: sums, balances, hashes.
        assert world.ledger() == ledger
        assert world.proofs() == proofs
        erasures = "SELECT member_id, result, reason FROM sync_audit FINAL WHERE command_id LIKE 'erasure:%' AND NOT replayed ORDER BY ALL"
        wait_until(lambda: len(world.sql(erasures)) == 3, TIMEOUT_S)

    # Files, and those of the servers.
    nothing: dict[str, set[Path]] = {name: set() for name in secret}
    assert world.found(Path(settings.home)) == nothing, "RocksDB, its log, and the log lines of all processes"
    assert world.found(world.valkey.folder) == nothing
    comes_to(world.in_history_files, nothing, TIMEOUT_S)

    # The broker compacts by itself, in days: here at once. An owner lets the segments of quiet topics end.
    compacted = [*changelogs(settings), topics.PROFILES.name(settings.topic_prefix)]
    compact_at_once(settings, compacted)
    worker.stop()
    processes.append(Pipeline(settings, "worker", name="worker-again").wait_ready())
    comes_to(world.in_topics, STAYS, 120)
    assert world.found(Path(settings.home)) == nothing


def _serves(settings: Settings) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{settings.ingress_port}/readyz", timeout=2) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False
