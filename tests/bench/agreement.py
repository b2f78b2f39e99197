"""A reconciliation of very many members, beside a bare read of the same records. `python -m tests.bench.agreement --members N`

Accounts, entries, events and profiles are put into their topics, ClickHouse and Redis as if they had come about; a worker loads the accounts.
The bare loop reads and decodes the same records of the same topics and does nothing with them.
"""

import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import redis
from aiokafka.partitioner import murmur2
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from rich.console import Console
from rich.progress import Progress

from infra.clickhouse_service import ClickHouseServer
from infra.kafka_server import KafkaServer
from infra.valkey_server import ValkeyServer
from schemas.codec import Codec
from schemas.contract import member_key
from schemas.records import (
    Account, AccountSnapshot, Cause, EntryKind, LedgerEntry, LoyaltyEvent, LoyaltyEventKind, MemberProfile, MemberStatus, ProfileOperation,
)  # fmt: skip
from schemas.registry import LocalRegistry
from sinks.base import Item
from sinks.clickhouse import TABLES, History, migrate
from sinks.redis_cache import arguments, balance_key
from streams import configuration, kafka, topics
from streams.agreement import folds
from streams.agreement.comparison import Comparison, Scope
from streams.agreement.log import Log
from streams.settings import Settings
from streams.tables import CHANGELOG_CONFIG, app_id, changelog_name, changelogs
from tests.e2e.oracle import RULES_TOML
from tests.e2e.processes import Pipeline
from tests.waiting import wait_until

PREFIX, PARTITIONS, POINTS, ROWS = "agreement", 8, 100, 50_000
COMMIT_S = 120.0
STREAMS = (topics.LEDGER_ENTRIES, topics.EVENTS, topics.PROFILES)


def copies(number: int) -> tuple[Account, LedgerEntry, LoyaltyEvent, MemberProfile]:
    """A member with one entry, one event and one version, as the worker would have written them."""
    name, at_ms = f"M-{number}", 1_767_260_000_000
    times: dict[str, Any] = {"occurred_at_ms": at_ms, "ingested_at_ms": at_ms, "recorded_at_ms": at_ms}
    whose: dict[str, Any] = {"program_id": "grand", "member_id": name}
    entry = LedgerEntry(
        **whose, **times, entry_id=f"ent_{number}", entry_sequence=1, transaction_id=f"pos:{number}", kind=EntryKind.EARN, points_delta=POINTS,
        balance_after=POINTS, available_after=POINTS, counter_account="issued", rule_id="base", rule_version=1, source_system="pos", entry_hash="",
    )  # fmt: skip
    entry = replace(entry, entry_hash=folds.hash_of(entry))
    held: dict[str, Any] = {"status": MemberStatus.ACTIVE, "tier": "MEMBER", "available_points": POINTS, "qualifying_points": POINTS}
    event = LoyaltyEvent(
        **whose, **times, event_id=f"evt_{number}", sequence=1, kind=LoyaltyEventKind.BALANCE_CHANGED, points_delta=POINTS,
        account=AccountSnapshot(**held), cause=Cause(command_id=entry.transaction_id, stream="transactions", source_system="pos"),
    )  # fmt: skip
    profile = MemberProfile(
        **whose, version=1, operation=ProfileOperation.ENROL, attributes={"given_name": name}, segments=(), status=MemberStatus.ACTIVE, tier="MEMBER",
        changed=(), source_system="crm", valid_from_ms=at_ms, ingested_at_ms=at_ms, recorded_at_ms=at_ms,
    )  # fmt: skip
    account = Account(
        **whose, **held, event_sequence=1, entry_sequence=1, profile_version=1, entry_hash=entry.entry_hash, attributes=profile.attributes,
        enrolled_at_ms=1, clock_ms=1,
    )  # fmt: skip
    return account, entry, event, profile


class Rig:
    """All stores, filled."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.codec = Codec(LocalRegistry())
        self._producer = Producer(
            kafka.client_config(settings) | {"linger.ms": 50, "batch.num.messages": 10_000, "queue.buffering.max.messages": 500_000}
        )
        self._redis = redis.Redis.from_url(settings.redis_url)
        self._offsets = {topic.stream: [0] * PARTITIONS for topic in STREAMS}

    def fill(self, members: int, console: Console) -> None:
        changelog = changelog_name(app_id(self.settings), "accounts")
        histories = {table.topic.stream: History(self.settings, table) for table in TABLES if table.topic in STREAMS}
        with Progress(console=console, transient=True) as progress:
            task = progress.add_task(f"{members:,} members", total=members)
            for first in range(0, members, ROWS):
                items: dict[str, list[Item[Any]]] = {topic.stream: [] for topic in STREAMS}
                pipeline = self._redis.pipeline(transaction=False)
                for number in range(first, min(members, first + ROWS)):
                    account, entry, event, profile = copies(number)
                    key = member_key("grand", account.member_id)
                    partition = (murmur2(key) & 0x7FFFFFFF) % PARTITIONS
                    self._produce(changelog, partition, key, self.codec.encode(account))
                    for topic, record in zip(STREAMS, (entry, event, profile), strict=True):
                        items[topic.stream].append(self._append(topic, partition, key, record))
                    pipeline.hset(balance_key(PREFIX, "grand", account.member_id), items=arguments(event))
                pipeline.execute()
                for stream, history in histories.items():
                    assert {receipt.verdict for receipt in history.write_now(items[stream])} == {"DELIVERED"}
                progress.update(task, completed=min(members, first + ROWS))
        assert self._producer.flush(120) == 0
        for history in histories.values():
            history.close()
        self._redis.close()
        self._commit()

    def _append(self, topic: topics.Topic, partition: int, key: bytes, record: Any) -> Item[Any]:
        value, offset = self.codec.encode(record), self._offsets[topic.stream][partition]
        self._offsets[topic.stream][partition] += 1
        self._produce(topic.name(PREFIX), partition, key, value)
        return Item(record=record, topic=topic.name(PREFIX), partition=partition, offset=offset, key=key, value=value, timestamp_ms=1)

    def _produce(self, topic: str, partition: int, key: bytes, value: bytes) -> None:
        while True:
            try:
                self._producer.produce(topic, value, key, partition)
                return
            except BufferError:
                self._producer.poll(0.2)

    def _commit(self) -> None:
        """As the sinks do, behind what they have written."""
        for group, stream in [(f"sink-clickhouse-{topic.stream}", topic.stream) for topic in STREAMS] + [("sink-redis", topics.EVENTS.stream)]:
            consumer: Consumer = kafka.consumer(self.settings, group)
            name = topics.BY_STREAM[stream].name(PREFIX)
            ends = [TopicPartition(name, number, end) for number, end in enumerate(self._offsets[stream])]
            wait_until(lambda consumer=consumer, ends=ends: _is_committed(consumer, ends), COMMIT_S)  # type: ignore[misc]
            consumer.close()

    def read_bare(self) -> float:
        """Seconds to read and decode all records."""
        log, started_s = Log(self.settings), time.perf_counter()
        for name, record in [(changelog_name(app_id(self.settings), "accounts"), Account), *((topic.name(PREFIX), topic.record) for topic in STREAMS)]:
            log.read(name, log.ranges(name), lambda message, record=record: self.codec.decode(message.value(), record))  # type: ignore[misc]
        return time.perf_counter() - started_s


def _is_committed(consumer: Consumer, ends: list[TopicPartition]) -> bool:
    """False while the broker still prepares for the group."""
    try:
        consumer.commit(offsets=ends, asynchronous=False)
    except KafkaException as error:
        if not error.args[0].retriable():
            raise
        return False
    return True


def steps(taken_s: dict[str, float]) -> Any:
    """How long each step of the run took: until the next one begins."""
    started: list[tuple[str, float]] = []

    def step(name: str) -> Any:
        now_s = time.perf_counter()
        if started:
            taken_s[started[-1][0]] = round(now_s - started[-1][1], 1)
        started.append((name, now_s))
        return lambda done, total: None

    return step


@click.command()
@click.option("--members", default=1_000_000, show_default=True)
def main(members: int) -> None:
    """Fill all stores, compare them, and print members per second, memory, and the ratio to the bare read."""
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory(prefix="loyalty-bench-") as folder:
        home = Path(folder)
        (home / "bench.toml").write_text(RULES_TOML)
        services = [KafkaServer(home), ClickHouseServer(home), ValkeyServer(home)]
        for service in services:
            service.start()
        try:
            result = _measure(home, services, members, console)
        finally:
            for service in services:
                service.stop()
    print(json.dumps(result, indent=2))


def _measure(home: Path, services: list[Any], members: int, console: Console) -> dict[str, Any]:
    broker, clickhouse, valkey = services
    settings = Settings(
        home=str(home), config_file=str(home / "bench.toml"), kafka_bootstrap_servers=broker.bootstrap_servers, kafka_replication_factor=1,
        kafka_partitions=PARTITIONS, topic_prefix=PREFIX, clickhouse_url=clickhouse.url, redis_url=valkey.url, internal_token="token-of-the-bench",
        voucher_key="voucher-key-of-the-bench",
    )  # fmt: skip
    kafka.ensure_topics(settings, changelogs={name: CHANGELOG_CONFIG for name in changelogs(settings)})
    migrate(settings)
    rig = Rig(settings)
    rig.fill(members, console)
    worker = Pipeline(settings, "worker").wait_ready(600)
    try:
        bare_s, taken_s = rig.read_bare(), dict[str, float]()
        comparison = Comparison(replace(settings, worker_urls=worker.url), configuration.load(settings), Scope(), home)
        Path("/proc/self/clear_refs").write_text("5")  # The peak from here on; what filling has left is in it.
        before_mib = _peak_mib()
        started_s = time.perf_counter()
        found = _count(comparison.differences(steps(taken_s)))
        run_s = time.perf_counter() - started_s
        comparison.close()
    finally:
        worker.kill()
    assert comparison.not_compared == {} and comparison.members == members, comparison.not_compared
    return {
        "members": members, "differences": found, "run_s": round(run_s, 1), "members_per_s": round(members / run_s),
        "memory_before_mib": before_mib, "memory_mib": _peak_mib(), "bare_read_s": round(bare_s, 1),
        "bare_to_run": round(bare_s / run_s, 3), "steps_s": taken_s,
    }  # fmt: skip


def _peak_mib() -> int:
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) // 1024


def _count(found: Iterator[Any]) -> int:
    return sum(1 for _ in found)


if __name__ == "__main__":
    main()
