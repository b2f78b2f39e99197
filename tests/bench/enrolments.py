"""A million enrolments through the topic, while others earn, redeem and are suspended. `python -m tests.bench.enrolments`

One worker. Live traffic runs at a steady rate, first alone, then beside the load; its latency is from the broker's append to the answer's
append. A suspension's is from the broker's append to the worker's decision, recorded_at - ingested_at: from then on the account is suspended.
"""

import json
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
from confluent_kafka import Producer
from rich.console import Console
from rich.progress import Progress

from infra.kafka_server import KafkaServer
from schemas.codec import Codec
from schemas.contract import Command, member_key
from schemas.records import Enrolment, MemberStatus, ProfileChange, SyncAudit, Transaction, TransactionKind
from schemas.registry import LocalRegistry
from streams import kafka, topics
from streams.settings import Settings
from streams.tables import CHANGELOG_CONFIG, changelogs
from tests.bench.month_end import percentile
from tests.e2e.oracle import RULES_TOML
from tests.e2e.processes import Pipeline
from tests.waiting import wait_until

PREFIX, PARTITIONS = "enrolments", 8
LIVE_MEMBERS = 2_000
REDEEMED_PERCENT = 25  # Of the live transactions; the others earn.
GOAL_SUSPENSION_P99_MS = 1_000
# What ids begin with tells what an answer is about without decoding it.
BULK, LIVE, STATUS = "bulk:", "live:", "hr:"
STALL_S = 120.0  # Without an answer for this long, the worker is taken to have stopped.


@dataclass(slots=True)
class Heard:
    """The answers so far."""

    live: list[tuple[float, float]] = field(default_factory=list)
    """When a transaction was appended, and the seconds from that to its answer's append."""
    statuses: list[tuple[float, float]] = field(default_factory=list)
    """When a change of a status was appended, and the seconds from that to its decision."""
    enrolled: int = 0
    last_enrolled_s: float = 0.0
    last_s: float = field(default_factory=time.monotonic)


class Traffic:
    """Live transactions and changes of statuses at steady rates, and all answers."""

    def __init__(self, settings: Settings, live_per_s: float, statuses_per_s: float) -> None:
        self._settings = settings
        self._codec = Codec(LocalRegistry())
        self._producer = kafka.producer(settings)
        self._stop, self._stop_hearing = threading.Event(), threading.Event()
        self.heard = Heard()
        self.sent = {LIVE: 0, STATUS: 0}
        self._hearing = threading.Thread(target=self._hear, daemon=True)
        self._sending = [
            threading.Thread(target=self._send, args=(LIVE, live_per_s, self._transaction), daemon=True),
            threading.Thread(target=self._send, args=(STATUS, statuses_per_s, self._status), daemon=True),
        ]

    def enrol(self) -> None:
        """The members of the live traffic. Returns when all are in."""
        self._hearing.start()
        for number in range(LIVE_MEMBERS):
            send(self._producer, self._settings, self._codec, enrolment(f"L-{number}", f"{BULK}L-{number}"))
        assert self._producer.flush(60) == 0
        wait_until(lambda: self.heard.enrolled >= LIVE_MEMBERS, timeout_s=120)
        self.heard.enrolled = 0

    def start(self) -> None:
        for thread in self._sending:
            thread.start()

    def stop(self) -> None:
        """Send no more, and hear the last answer."""
        self._stop.set()
        for thread in self._sending:
            thread.join()
        assert self._producer.flush(60) == 0
        try:
            wait_until(lambda: len(self.heard.live) == self.sent[LIVE] and len(self.heard.statuses) == self.sent[STATUS], timeout_s=STALL_S)
        finally:
            self._stop_hearing.set()
            self._hearing.join()

    def _send(self, kind: str, per_s: float, make: Callable[[random.Random, int], Command]) -> None:
        dice, started_s = random.Random(kind), time.monotonic()
        while per_s and not self._stop.is_set():
            send(self._producer, self._settings, self._codec, make(dice, self.sent[kind]))
            self.sent[kind] += 1
            self._stop.wait(max(0.0, started_s + self.sent[kind] / per_s - time.monotonic()))

    def _transaction(self, dice: random.Random, number: int) -> Transaction:
        redeemed = dice.randrange(100) < REDEEMED_PERCENT
        return Transaction(
            program_id="grand", member_id=f"L-{dice.randrange(LIVE_MEMBERS // 2)}", transaction_id=f"{LIVE}{number}", source_system="pos",
            occurred_at_ms=int(time.time() * 1000), kind=TransactionKind.REDEEM if redeemed else TransactionKind.EARN, points=dice.randrange(1, 100),
        )  # fmt: skip

    def _status(self, dice: random.Random, number: int) -> ProfileChange:
        """Each member of the second half is suspended, then comes back, and so on."""
        half = LIVE_MEMBERS // 2
        status = MemberStatus.ACTIVE if number // half % 2 else MemberStatus.SUSPENDED
        return ProfileChange(
            program_id="grand", member_id=f"L-{half + number % half}", event_id=f"{STATUS}{number}", source_system="hr",
            occurred_at_ms=int(time.time() * 1000), source_version=number + 1, status=status,
        )  # fmt: skip

    def _hear(self) -> None:
        heard, consumer = self.heard, kafka.consumer(self._settings, "enrolments-audits", fetch_wait_max_ms=10)
        consumer.subscribe([topics.SYNC_AUDIT.name(self._settings.topic_prefix)])
        bulk = BULK.encode()
        while not self._stop_hearing.is_set():
            for message in consumer.consume(2_000, 0.2):
                value, appended_ms = message.value() or b"", message.timestamp()[1]
                heard.last_s = time.monotonic()
                if bulk in value:
                    heard.enrolled += 1
                    heard.last_enrolled_s = appended_ms / 1000
                    continue
                audit = self._codec.decode(value, SyncAudit)
                if audit.command_id.startswith(LIVE):
                    heard.live.append((audit.ingested_at_ms / 1000, (appended_ms - audit.ingested_at_ms) / 1000))
                elif audit.command_id.startswith(STATUS):
                    heard.statuses.append((audit.ingested_at_ms / 1000, max(0, audit.recorded_at_ms - audit.ingested_at_ms) / 1000))
        consumer.close()


def enrolment(member_id: str, event_id: str) -> Enrolment:
    """With what a CRM knows of a guest."""
    return Enrolment(
        program_id="grand", member_id=member_id, event_id=event_id, source_system="crm", occurred_at_ms=1_790_000_000_000, source_version=1,
        attributes={"given_name": "Ada", "family_name": f"Guest {member_id}", "email": f"{member_id.lower()}@example.org", "locale": "en-GB"},
        segments=("newsletter", "spa"), external_ids={"salesforce": f"003{member_id}", "card": f"card-{member_id}"},
    )  # fmt: skip


def send(producer: Producer, settings: Settings, codec: Codec, command: Command) -> None:
    """Produce one command; wait while the queue is full."""
    topic = next(topic for topic in topics.INBOUND if topic.record is type(command)).name(settings.topic_prefix)
    value, key = codec.encode(command), member_key(command.program_id, command.member_id)
    while True:
        try:
            producer.produce(topic, value, key)
            producer.poll(0)
            return
        except BufferError:
            producer.poll(0.1)


def load(settings: Settings, members: int, progress: Callable[[int], None]) -> None:
    """All enrolments into the topic, as fast as it takes them."""
    codec, producer = Codec(LocalRegistry()), kafka.producer(settings, linger_ms=50, batch_num_messages=10_000, queue_buffering_max_messages=100_000)
    for number in range(members):
        send(producer, settings, codec, enrolment(f"B-{number}", f"{BULK}{number}"))
        if number % 1000 == 0:
            progress(number)
    assert producer.flush(120) == 0


def measure(settings: Settings, members: int, live_per_s: float, statuses_per_s: float, calm_s: float, console: Console) -> dict[str, Any]:
    """The figures, from an empty deployment whose worker runs: latencies in ms before the load and during it, and how long it took in s."""
    traffic = Traffic(settings, live_per_s, statuses_per_s)
    traffic.enrol()
    traffic.start()
    begin = threading.Event()
    begin.wait(calm_s)
    heard, load_from_s = traffic.heard, time.time()
    with Progress(console=console, transient=True) as progress:
        loading, enrolling = (progress.add_task(name, total=members) for name in ("into the topic", "enrolled"))
        loader = threading.Thread(target=load, args=(settings, members, lambda number: progress.update(loading, completed=number)), daemon=True)
        loader.start()
        loader.join()
        loaded_s = time.time()
        progress.update(loading, completed=members)
        while heard.enrolled < members and time.monotonic() - heard.last_s < STALL_S:
            begin.wait(0.2)
            progress.update(enrolling, completed=heard.enrolled)
    traffic.stop()
    took_s = heard.last_enrolled_s - load_from_s
    found: dict[str, Any] = {
        "members": members, "live_per_s": live_per_s, "statuses_per_s": statuses_per_s, "into_topic_s": round(loaded_s - load_from_s, 1),
        "enrolled": heard.enrolled, "enrolled_within_s": round(took_s, 1), "enrolled_per_s": round(heard.enrolled / took_s),
    }  # fmt: skip
    for name, answers in (("live", heard.live), ("suspension", heard.statuses)):
        phases = {
            "before": [took for at, took in answers if load_from_s - calm_s <= at < load_from_s],
            "during": [took for at, took in answers if load_from_s <= at <= heard.last_enrolled_s],
        }
        for phase, seconds in phases.items():
            found[f"{name}_{phase}"] = len(seconds)
            for label, value in (("p50", percentile(seconds, 50)), ("p99", percentile(seconds, 99)), ("max", max(seconds, default=float("nan")))):
                found[f"{name}_{phase}_{label}_ms"] = round(value * 1000, 1)
    return found


def run(members: int, live_per_s: float, statuses_per_s: float, calm_s: float, console: Console) -> dict[str, Any]:
    """`measure` on a broker and a worker of its own."""
    with tempfile.TemporaryDirectory(prefix="enrolments-", ignore_cleanup_errors=True) as folder:
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
            worker = Pipeline(settings, "worker").wait_ready(120)
            return measure(settings, members, live_per_s, statuses_per_s, calm_s, console)
        finally:
            if worker is not None:
                worker.kill()
            server.stop()


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--members", default=1_000_000, show_default=True, help="Members who are enrolled.")
@click.option("--rate", default=100.0, show_default=True, help="Live transactions per second, of other members.")
@click.option("--statuses", default=5.0, show_default=True, help="Suspensions and reactivations per second.")
@click.option("--calm-s", default=20.0, show_default=True, help="Seconds of live traffic before the load, to compare with.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def main(members: int, rate: float, statuses: float, calm_s: float, as_json: bool) -> None:
    """Measure how live traffic and suspensions fare while very many members are enrolled."""
    found = run(members, rate, statuses, calm_s, Console(stderr=True))
    click.echo(json.dumps(found) if as_json else "\n".join(f"{name:>26}  {value:,}" for name, value in found.items()))
    within = not found["suspension_during"] or found["suspension_during_p99_ms"] <= GOAL_SUSPENSION_P99_MS
    sys.exit(0 if found["enrolled"] == members and within else 1)


if __name__ == "__main__":
    main()
