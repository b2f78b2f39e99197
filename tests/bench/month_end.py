"""A month's end: very many members' points expire at one instant, while others go on buying. `python -m tests.bench.month_end`

Everybody's account and due row are put into the changelogs as if they had come about; one worker loads them. Live transactions then run
at a steady rate, before the instant and through it; their latency is from the broker's append to the answer's append.
"""

import json
import random
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from aiokafka.partitioner import murmur2
from confluent_kafka import Producer
from rich.console import Console
from rich.progress import Progress

from infra.kafka_server import KafkaServer
from schemas.codec import Codec
from schemas.contract import member_key
from schemas.records import Account, Due, Lot, MemberStatus, Transaction, TransactionKind
from schemas.registry import LocalRegistry
from streams import kafka, topics
from streams.agents.keep_accounts import due_key
from streams.settings import Settings
from streams.tables import CHANGELOG_CONFIG, app_id, changelog_name, changelogs
from tests.e2e.oracle import RULES_TOML
from tests.e2e.processes import Pipeline

PREFIX, PARTITIONS = "month-end", 8
POINTS = 1_200
CALM_S = 15.0  # Live traffic before the instant, to compare with.
LOAD_PER_S = 60_000  # Rows a worker loads, at the very least: the instant lies behind the load.


def prepare(settings: Settings, members: int, expires_at_ms: int, console: Console) -> None:
    """Accounts and due rows straight into the changelogs."""
    codec = Codec(LocalRegistry())
    template = Account(
        program_id="grand", member_id="", status=MemberStatus.ACTIVE, tier="MEMBER", available_points=POINTS, qualifying_points=0, event_sequence=2,
        entry_sequence=1, profile_version=1, enrolled_at_ms=1, clock_ms=1, due_at_ms=expires_at_ms,
        lots=(Lot(lot_id="stay", points=POINTS, remaining=POINTS, earned_at_ms=1, expires_at_ms=expires_at_ms),),
    )  # fmt: skip
    accounts, due = (changelog_name(app_id(settings), table) for table in ("accounts", "due"))
    producer = Producer(kafka.client_config(settings) | {"linger.ms": 50, "batch.num.messages": 10_000, "queue.buffering.max.messages": 200_000})
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task(f"{members:,} accounts", total=members)
        for number in range(members):
            name = f"M-{number}"
            key = member_key("grand", name)
            partition = (murmur2(key) & 0x7FFFFFFF) % PARTITIONS
            rows = ((accounts, key, replace(template, member_id=name)), (due, due_key(expires_at_ms, key), Due(program_id="grand", member_id=name)))
            for topic, row_key, row in rows:
                while True:
                    try:
                        producer.produce(topic, codec.encode(row), row_key, partition=partition)
                        break
                    except BufferError:
                        producer.poll(0.1)
            if number % 1000 == 0:
                producer.poll(0)
                progress.update(task, completed=number)
        assert producer.flush(60) == 0


class Traffic:
    """Live transactions at a steady rate, and how long each took."""

    def __init__(self, settings: Settings, members: int, per_s: float) -> None:
        self._settings, self._members, self._per_s = settings, members, per_s
        self._stop = threading.Event()
        self.answered: list[tuple[float, float]] = []
        """When an answer was appended, and the seconds from the command's append to that."""
        self.sent = 0
        self.expired = 0
        self.last_expired_s = 0.0
        self._threads = [threading.Thread(target=target, daemon=True) for target in (self._send, self._hear, self._count)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _send(self) -> None:
        dice, codec, producer = random.Random(1), Codec(LocalRegistry()), kafka.producer(self._settings)
        topic, started_s = topics.TRANSACTIONS.name(PREFIX), time.monotonic()
        while not self._stop.is_set():
            name = f"M-{dice.randrange(self._members)}"
            earn = Transaction(
                program_id="grand", member_id=name, transaction_id=f"live:{self.sent}", source_system="pos", occurred_at_ms=int(time.time() * 1000),
                kind=TransactionKind.EARN, points=dice.randrange(1, 100),
            )  # fmt: skip
            producer.produce(topic, codec.encode(earn), member_key("grand", name))
            producer.poll(0)
            self.sent += 1
            self._stop.wait(max(0.0, started_s + self.sent / self._per_s - time.monotonic()))
        producer.flush(10)

    def _hear(self) -> None:
        codec, consumer = Codec(LocalRegistry()), kafka.consumer(self._settings, "month-end-audits", fetch_wait_max_ms=10)
        consumer.subscribe([topics.SYNC_AUDIT.name(PREFIX)])
        while not self._stop.is_set():
            for message in consumer.consume(500, 0.2):
                audit = codec.decode(message.value(), topics.SYNC_AUDIT.record)
                appended_ms = message.timestamp()[1]
                self.answered.append((appended_ms / 1000, (appended_ms - audit.ingested_at_ms) / 1000))
        consumer.close()

    def _count(self) -> None:
        consumer = kafka.consumer(self._settings, "month-end-entries")
        consumer.subscribe([topics.LEDGER_ENTRIES.name(PREFIX)])
        # Entries are counted without decoding: each expiry has one with the account "expired" on the other side.
        while not self._stop.is_set():
            for message in consumer.consume(10_000, 0.2):
                if b"\x0eexpired" in (message.value() or b""):
                    self.expired += 1
                    self.last_expired_s = message.timestamp()[1] / 1000
        consumer.close()


def percentile(seconds: list[float], percent: float) -> float:
    ordered = sorted(seconds)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))] if ordered else float("nan")


def run(members: int, per_s: float, console: Console) -> dict[str, Any]:
    """The figures: latencies in ms before and during, and how long all expiries took in s."""
    with tempfile.TemporaryDirectory(prefix="month-end-") as folder:
        home = Path(folder)
        server = KafkaServer(home)
        server.settle_port()
        config_file = home / "loyalty.toml"
        config_file.write_text(RULES_TOML)
        settings = Settings(
            home=str(home), config_file=str(config_file), kafka_bootstrap_servers=server.bootstrap_servers, kafka_replication_factor=1,
            kafka_partitions=PARTITIONS, topic_prefix=PREFIX, voucher_key="voucher-key-of-the-bench", internal_token="internal-token-of-the-bench",
        )  # fmt: skip
        worker = None
        server.start()
        try:
            kafka.ensure_topics(settings, changelogs={name: CHANGELOG_CONFIG for name in changelogs(settings)})
            expires_at_ms = int((time.time() + 20 + CALM_S + members / 15_000 + 2 * members / LOAD_PER_S) * 1000)
            started_s = time.monotonic()
            prepare(settings, members, expires_at_ms, console)
            console.print(f"{members:,} accounts prepared in {time.monotonic() - started_s:.0f} s")
            started_s = time.monotonic()
            worker = Pipeline(settings, "worker").wait_ready(300)
            loaded_s = time.monotonic() - started_s
            left_s = expires_at_ms / 1000 - time.time()
            console.print(f"loaded by the worker in {loaded_s:.1f} s; the instant is in {left_s:.0f} s")
            assert left_s > 5, "the instant has passed before the worker was ready: raise the time for the load"
            traffic = Traffic(settings, members, per_s)
            traffic.start()
            with Progress(console=console, transient=True) as progress:
                task = progress.add_task("expiries", total=members)
                deadline_s = time.monotonic() + left_s + 900
                while traffic.expired < members and time.monotonic() < deadline_s:
                    time.sleep(0.5)
                    progress.update(task, completed=traffic.expired)
            instant_s, finished_s = expires_at_ms / 1000, traffic.last_expired_s
            time.sleep(3)
            traffic.stop()
        finally:
            if worker is not None:
                worker.kill()
            server.stop()
    before = [took for at, took in traffic.answered if instant_s - CALM_S < at < instant_s]
    during = [took for at, took in traffic.answered if instant_s <= at <= finished_s]
    wave_s = finished_s - instant_s
    return {
        "members": members, "live_per_s": per_s, "load_s": round(loaded_s, 1), "expired": traffic.expired, "wave_s": round(wave_s, 1),
        "expiries_per_s": round(traffic.expired / wave_s), "answered_before": len(before), "answered_during": len(during),
        "before_p50_ms": round(percentile(before, 50) * 1000, 1), "before_p99_ms": round(percentile(before, 99) * 1000, 1),
        "during_p50_ms": round(percentile(during, 50) * 1000, 1), "during_p99_ms": round(percentile(during, 99) * 1000, 1),
        "during_max_ms": round(max(during, default=float("nan")) * 1000, 1),
    }  # fmt: skip


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--members", default=1_000_000, show_default=True, help="Members whose points expire at one instant.")
@click.option("--rate", default=100.0, show_default=True, help="Live transactions per second.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def main(members: int, rate: float, as_json: bool) -> None:
    """Measure how live traffic fares while very many members' points expire."""
    found = run(members, rate, Console(stderr=True))
    click.echo(json.dumps(found) if as_json else "\n".join(f"{name:>16}  {value:,}" for name, value in found.items()))
    sys.exit(0 if found["expired"] == members else 1)


if __name__ == "__main__":
    main()
