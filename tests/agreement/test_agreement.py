"""Real processes on real parts: under traffic no copy is called wrong; each seeded corruption is found, named with its cause, and mended if a
publication can mend it. One world for all, and the tests of this file follow one another."""

import asyncio
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
import redis
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient
from prometheus_client import REGISTRY
from rocksdict import Options

from schemas.codec import Codec
from schemas.contract import Command, member_key
from schemas.records import Account, Enrolment, LedgerEntry, SyncAudit, Transaction, TransactionKind
from schemas.registry import LocalRegistry
from sinks.clickhouse import connect
from sinks.redis_cache import balance_key
from streams import configuration, kafka, topics
from streams.agreement.comparison import Scope
from streams.agreement.job import Agreement
from streams.agreement.model import Cause, Difference, Store
from streams.agreement.run import Summary, reconcile
from streams.configuration import new_webhook_secret
from streams.engine.state import PartitionState
from streams.ingress.commands import TOPIC_OF
from streams.scheduling.job import Run
from streams.settings import PREFIX, Settings
from streams.tables import app_id, changelog_name
from tests.e2e import oracle
from tests.e2e.processes import Pipeline, free_port
from tests.engine import log
from tests.waiting import wait_until

TIMEOUT_S = 60
MEMBERS = tuple(
    f"M-{what}" for what in (
        "WELL", "ROW", "CHANGED-LOG", "GONE-LOG", "LEDGER-GONE", "LEDGER-TWICE", "LEDGER-CHANGED", "EVENT-GONE", "EVENT-CHANGED", "PROFILE-GONE",
        "PROFILE-CHANGED", "REDIS-GONE", "REDIS-CHANGED", "JOURNAL-GAP", "LEDGER-DEAD",
    )
)  # fmt: skip
ENTRIES = 3
DESTINATION = "destination:app"


class Taker(BaseHTTPRequestHandler):
    """A destination that takes everything."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@dataclass(slots=True)
class World:
    settings: Settings
    processes: list[Pipeline] = field(default_factory=list)
    codec: Codec = field(default_factory=lambda: Codec(LocalRegistry()))
    sent: int = 0

    def send(self, *commands: Command, awaits: bool = True) -> None:
        producer = kafka.producer(self.settings)
        for command in commands:
            producer.produce(
                TOPIC_OF[type(command)].name(self.settings.topic_prefix), self.codec.encode(command), member_key(command.program_id, command.member_id)
            )
        assert producer.flush(30) == 0
        self.sent += len(commands)
        if awaits:
            wait_until(lambda: len(self.audits()) >= self.sent, TIMEOUT_S)

    def audits(self) -> list[SyncAudit]:
        found = [self.codec.decode(one.value, SyncAudit) for one in self.read(topics.SYNC_AUDIT.name(self.settings.topic_prefix))]
        return [audit for audit in found if audit.stream != topics.PROGRAMS.stream]

    def read(self, topic: str) -> list[Any]:
        return list(log.read(self.settings.kafka_bootstrap_servers, topic))

    def produce(self, topic: str, member: str, value: bytes | None) -> None:
        """Past every process: what a broken one might have written."""
        producer = kafka.producer(self.settings)
        producer.produce(topic, value, member_key("grand", member))
        assert producer.flush(30) == 0

    def account(self, member: str) -> Account:
        key = member_key("grand", member)
        return self.codec.decode([one.value for one in self.read(self.changelog) if one.key == key][-1], Account)

    @property
    def changelog(self) -> str:
        return changelog_name(app_id(self.settings), "accounts")

    def sql(self, statement: str) -> None:
        client = connect(self.settings)
        try:
            client.command(statement, settings={"mutations_sync": 2})
        finally:
            client.close()

    def compare(self, **options: Any) -> tuple[Summary, list[Difference]]:
        found: list[Difference] = []
        summary = reconcile(
            self.settings, configuration.load(self.settings), Scope(program_id="grand"), repairs=options.pop("repairs", False),
            step=lambda name: lambda done, total: None, tell=found.append, **options,
        )  # fmt: skip
        assert summary.not_compared == {}
        return summary, found

    def until(self, waits_for: Callable[[Difference], bool]) -> list[Difference]:
        """What is left when no such difference is found any more, or after a while."""
        left: list[Difference] = []

        def is_done() -> bool:
            left[:] = self.compare()[1]
            return not any(map(waits_for, left))

        with suppress(TimeoutError):
            wait_until(is_done, TIMEOUT_S)
        return left

    def start(self, *arguments: str) -> Pipeline:
        process = Pipeline(self.settings, *arguments)
        self.processes.append(process)
        if arguments == ("worker",):
            self.settings = replace(self.settings, worker_urls=process.url)
        return process


@pytest.fixture(scope="module")
def world(make_settings: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    server = ThreadingHTTPServer(("127.0.0.1", free_port()), Taker)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    config_file = tmp_path_factory.mktemp("agreement") / "loyalty.toml"
    config_file.write_text(
        oracle.RULES_TOML + f'[destinations.app]\nurl = "http://127.0.0.1:{server.server_port}/"\nsecret = "{new_webhook_secret()}"\n'
    )
    world = World(make_settings(config_file=str(config_file), delivery_allowed_addresses="127.0.0.1"))
    try:
        started = [world.start(*arguments) for arguments in (("worker",), ("sink", "clickhouse"), ("sink", "redis"), ("sink", "webhooks"))]
        for process in started:
            process.wait_ready()
        world.send(*(
            Enrolment(program_id="grand", member_id=name, event_id=f"crm:{name}", source_system="crm", occurred_at_ms=1, attributes={"given_name": name})
            for name in MEMBERS
        ))  # fmt: skip
        world.send(*(earn(name, number) for number in range(ENTRIES) for name in MEMBERS))
        yield world
    finally:
        for process in world.processes:
            if process.process.poll() is None:
                process.kill()
        server.shutdown()
        server.server_close()


def earn(member: str, number: int) -> Transaction:
    return Transaction(
        program_id="grand", member_id=member, transaction_id=f"pos:{member}:{number}", source_system="pos", occurred_at_ms=number + 1,
        kind=TransactionKind.EARN, points=100,
    )  # fmt: skip


def owned(world: World, url: str) -> set[int]:
    """Partitions whose accounts this worker shows."""
    found = set()
    for partition in range(world.settings.kafka_partitions):
        asked = Request(f"{url}/internal/accounts?partition={partition}&limit=1", headers={"Authorization": f"Bearer {world.settings.internal_token}"})
        with suppress(OSError), urlopen(asked, timeout=10):
            found.add(partition)
    return found


def test_under_traffic_and_while_partitions_move_nothing_is_called_wrong(world: World) -> None:
    stop = threading.Event()
    sent = []

    def traffic() -> None:
        number = 1000
        while not stop.is_set():
            world.send(*(earn(name, number) for name in MEMBERS[:1]), awaits=False)
            number += 1
            sent.append(number)

    def agrees() -> bool:
        before = len(sent)
        summary, found = world.compare(wait_s=20.0)
        assert len(sent) > before, "the traffic went on meanwhile"
        assert [one for one in found if one.cause is not Cause.LAG] == []
        return summary.members == len(MEMBERS)

    thread = threading.Thread(target=traffic)
    thread.start()
    try:
        wait_until(lambda: len(sent) > 20, TIMEOUT_S)
        first = world.settings.worker_urls
        second = world.start("worker")
        world.settings = replace(world.settings, worker_urls=f"{first},{second.url}")
        wait_until(lambda: agrees() and len(owned(world, second.url)) == 1, 2 * TIMEOUT_S)
        leaving = threading.Thread(target=second.stop)
        leaving.start()
        wait_until(lambda: agrees() and len(owned(world, first)) == 2, 2 * TIMEOUT_S)
        leaving.join()
        world.settings = replace(world.settings, worker_urls=first)
    finally:
        stop.set()
        thread.join()
    wait_until(lambda: len(world.audits()) >= world.sent, TIMEOUT_S)


def test_when_all_is_quiet_all_agree_and_the_command_says_so(world: World) -> None:
    assert world.until(lambda one: True) == []
    environment = {key: value for key, value in os.environ.items() if not key.startswith(PREFIX)} | world.settings.environment()
    command = [sys.executable, "-m", "streams.cli", "reconcile", "--program", "grand", "--member", "M-WELL", "--json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert "All copies agree: 1 members." in done.stderr


def corrupt_row(world: World) -> None:
    """A worker's local row of M-ROW, while the worker does not run: when it starts, it trusts its disk."""
    assert world.processes[0].stop() == 0
    # Of the folder that the worker claims first; the second one's may still hold the partition.
    path = next(path for path in sorted(Path(world.settings.home, "worker").rglob("partition-*.v1")) if _has_row(path))
    state = PartitionState(path, _options())
    account = world.account("M-ROW")
    state.apply({"accounts": {member_key("grand", "M-ROW"): world.codec.encode(replace(account, available_points=7))}}, {}, None)
    state.close()
    world.start("worker").wait_ready()


def _options() -> Options:
    return Options(raw_mode=True)


def _has_row(path: Path) -> bool:
    state = PartitionState(path, _options())
    try:
        return state.get("accounts", member_key("grand", "M-ROW")) is not None
    finally:
        state.close()


def corrupt(world: World) -> None:
    corrupt_row(world)
    account = world.account("M-CHANGED-LOG")
    world.produce(world.changelog, "M-CHANGED-LOG", world.codec.encode(replace(account, available_points=account.available_points + 1)))
    world.produce(world.changelog, "M-GONE-LOG", None)
    entries = topics.LEDGER_ENTRIES.name(world.settings.topic_prefix)
    last = [entry for one in world.read(entries) if (entry := world.codec.decode(one.value, LedgerEntry)).member_id == "M-JOURNAL-GAP"][-1]
    world.produce(entries, "M-JOURNAL-GAP", world.codec.encode(replace(last, entry_sequence=ENTRIES + 2, entry_id="ent_forged")))
    world.sql("DELETE FROM ledger_entries WHERE member_id = 'M-LEDGER-GONE' AND entry_sequence = 2")
    world.sql(
        f"INSERT INTO ledger_entries SELECT * REPLACE({ENTRIES + 1} AS entry_sequence) FROM"
        f" (SELECT * FROM ledger_entries FINAL WHERE member_id = 'M-LEDGER-TWICE' AND entry_sequence = {ENTRIES})"
    )
    world.sql(
        "INSERT INTO dead_letters (dead_letter_id, stage, reason, processor, topic, partition, offset, key)"
        f" SELECT 'dl-1', 'sink', 'ROW_INVALID', 'clickhouse', '{entries}', source_partition, source_offset, 'grand/M-LEDGER-DEAD'"
        " FROM ledger_entries FINAL WHERE member_id = 'M-LEDGER-DEAD' AND entry_sequence = 2"
    )
    world.sql("DELETE FROM ledger_entries WHERE member_id = 'M-LEDGER-DEAD' AND entry_sequence = 2")
    world.sql("ALTER TABLE ledger_entries UPDATE points_delta = 5 WHERE member_id = 'M-LEDGER-CHANGED' AND entry_sequence = 2")
    world.sql("DELETE FROM loyalty_events WHERE member_id = 'M-EVENT-GONE' AND sequence = 2")
    world.sql("ALTER TABLE loyalty_events UPDATE available_points = 5 WHERE member_id = 'M-EVENT-CHANGED' AND sequence = 3")
    world.sql("DELETE FROM member_profile_history WHERE member_id = 'M-PROFILE-GONE'")
    world.sql("ALTER TABLE member_profile_history UPDATE attributes = map('given_name', 'X') WHERE member_id = 'M-PROFILE-CHANGED'")
    cache = redis.Redis.from_url(world.settings.redis_url)
    cache.delete(balance_key(world.settings.topic_prefix, "grand", "M-REDIS-GONE"))
    cache.hset(balance_key(world.settings.topic_prefix, "grand", "M-REDIS-CHANGED"), "available_points", "999")
    cache.close()
    lose_audit(world)


def lose_audit(world: World) -> None:
    """The first records of what was delivered, in one partition."""
    name = topics.DELIVERY_AUDIT.name(world.settings.topic_prefix)
    first = world.read(name)[0]
    admin = AdminClient(kafka.client_config(world.settings))
    for future in admin.delete_records([TopicPartition(name, first.partition, first.offset + 1)]).values():
        future.result()


EXPECTED = {
    ("M-ROW", Store.TABLE, Cause.DRIFT, "available_points"),
    ("M-CHANGED-LOG", Store.CHANGELOG, Cause.DRIFT, "available_points"),
    ("M-GONE-LOG", Store.CHANGELOG, Cause.MISSING, ""),
    ("M-JOURNAL-GAP", Store.JOURNAL, Cause.MISSING, ""),
    ("M-LEDGER-GONE", Store.LEDGER_ROWS, Cause.MISSING, ""),
    ("M-LEDGER-TWICE", Store.LEDGER_ROWS, Cause.DOUBLED, ""),
    ("M-LEDGER-DEAD", Store.LEDGER_ROWS, Cause.DEAD_LETTER, ""),
    ("M-LEDGER-CHANGED", Store.LEDGER_ROWS, Cause.ALTERED, ""),
    ("M-EVENT-GONE", Store.EVENT_ROWS, Cause.MISSING, ""),
    ("M-EVENT-CHANGED", Store.EVENT_ROWS, Cause.ALTERED, ""),
    ("M-PROFILE-GONE", Store.PROFILE_ROWS, Cause.MISSING, ""),
    ("M-PROFILE-CHANGED", Store.PROFILE_ROWS, Cause.ALTERED, ""),
    ("M-REDIS-GONE", Store.REDIS, Cause.MISSING, ""),
    ("M-REDIS-CHANGED", Store.REDIS, Cause.DRIFT, "available_points"),
}
MENDED = {Store.LEDGER_ROWS, Store.EVENT_ROWS, Store.PROFILE_ROWS, Store.REDIS}


def named(found: list[Difference]) -> set[tuple[str, str, Cause, str]]:
    return {(one.member_id, one.store, one.cause, one.field) for one in found}


def test_each_corruption_is_found_named_and_mended_by_what_is_published(world: World) -> None:
    corrupt(world)
    summary, found = world.compare(repairs=True)
    assert EXPECTED - named(found) == set()
    unrecorded = [one for one in found if one.store == DESTINATION]
    assert {one.cause for one in unrecorded} == {Cause.MISSING} and all(one.sequence and one.record_id and one.member_id for one in unrecorded)
    # What follows from the same corruption, and nothing else: the forged entry is in ClickHouse, too, and an account that is gone has entries.
    others = {one for one in named(found) - EXPECTED if one[1] != DESTINATION}
    assert {one[0] for one in others} <= {"M-JOURNAL-GAP", "M-GONE-LOG", "M-CHANGED-LOG"}, others
    gone = next(one for one in found if one.member_id == "M-LEDGER-GONE")
    assert (gone.sequence, gone.record_id[:4], gone.repair) == (2, "ent_", "restatement")
    assert all(one.repair.startswith("operator: ") for one in found if one.store in (Store.TABLE, Store.CHANGELOG, Store.JOURNAL))
    assert summary.mended >= len([one for one in EXPECTED if one[1] in MENDED]) - 1

    left = world.until(lambda one: not one.repair.startswith("operator: "))
    assert {one.member_id for one in left} == {"M-ROW", "M-CHANGED-LOG", "M-GONE-LOG", "M-JOURNAL-GAP", "M-LEDGER-TWICE"}


def test_the_nightly_run_is_kept_in_clickhouse_in_a_report_and_in_metrics(world: World) -> None:
    began_s = time.time()
    outcome = asyncio.run(Agreement().run(Run(
        run_id="reconcile/test", job="reconcile", scheduled_for_ms=0, started_at_ms=0, cadence=Agreement().default, previous=None, stop=asyncio.Event(),
        settings=world.settings, configuration=configuration.load(world.settings), codec=world.codec,
    )))  # fmt: skip
    client = connect(world.settings)
    try:
        (row,) = client.query("SELECT members, differences FROM agreement_runs FINAL WHERE run_id = 'reconcile/test'").result_rows
        kept = client.query("SELECT count() FROM agreement_differences FINAL WHERE run_id = 'reconcile/test'").result_rows
    finally:
        client.close()
    differences = sum(outcome.counts.values())
    assert (row, outcome.rows) == ((len(MEMBERS), differences), len(MEMBERS))
    lines = Path(world.settings.home, "reports", "reconcile-test.jsonl").read_text().splitlines()
    assert [(len(lines) - 1,)] == kept
    assert json.loads(lines[-1])["summary"]["differences"] == differences
    counted = REGISTRY.get_sample_value("loyalty_agreement_differences", {"store": Store.TABLE, "cause": Cause.DRIFT})
    assert counted == outcome.counts[f"{Store.TABLE} {Cause.DRIFT}"] >= 1
    done_s = REGISTRY.get_sample_value("loyalty_agreement_done_timestamp_seconds")
    assert done_s is not None and done_s >= began_s
