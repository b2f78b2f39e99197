"""A million transactions of the past are loaded from a file while others earn and redeem. `python -m tests.bench.loads`

One worker, and `loyalty load` as a process of its own. Live traffic runs at a steady rate, first alone, then beside the load. Its latency is
from the broker's append of a command to the worker's decision, recorded_at - ingested_at: what the load is to hold.
"""

import csv
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from infra.kafka_server import KafkaServer
from schemas.codec import Codec
from schemas.contract import member_key
from schemas.records import Enrolment, SyncAudit, Transaction, TransactionKind
from schemas.registry import LocalRegistry
from streams import kafka, topics
from streams.settings import PREFIX, Settings
from streams.tables import CHANGELOG_CONFIG, changelogs
from tests.bench.month_end import percentile
from tests.e2e.oracle import RULES_TOML
from tests.e2e.processes import Pipeline
from tests.loads.mappings import postings
from tests.waiting import wait_until

TOPIC_PREFIX, PARTITIONS = "loads", 8
MEMBERS, LIVE_MEMBERS = 20_000, 2_000
LIVE = "live:"
REDEEMED_PERCENT = 25
WARM_UP_S = 5.0
PAST_FROM, PAST_DAYS = datetime(2023, 1, 1, tzinfo=UTC), 1_000
MAPPING_TOML = postings("%d.%m.%Y %H:%M", "Asia/Kolkata", kinds='bonus = "EARN"')


def write_history(path: Path, rows: int) -> None:
    """As a PMS exports it: by time, members in any order."""
    dice = random.Random(8)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["folio", "guest", "posted", "type", "total", "points", "clerk"])
        for number in range(rows):
            posted = PAST_FROM + timedelta(minutes=PAST_DAYS * 1440 * number // rows)
            roll = dice.randrange(10)
            what = ("stay", f"{dice.randrange(1, 90_000) / 100:.2f}", "") if roll < 7 else ("bonus", "", dice.randrange(1, 400))
            if roll == 9:
                what = ("reward", "", dice.randrange(1, 500))
            writer.writerow([number, f"H-{dice.randrange(MEMBERS)}", posted.strftime("%d.%m.%Y %H:%M"), *what, f"clerk {dice.randrange(40)}"])


class Live:
    """Transactions at a steady rate, of members of their own, and how long each waited for its decision."""

    def __init__(self, settings: Settings, per_s: float) -> None:
        self._settings, self._per_s = settings, per_s
        self._codec, self._stop = Codec(LocalRegistry()), threading.Event()
        self.waited: list[tuple[float, float]] = []
        """When a command was appended, and the seconds to its decision."""
        self.sent = 0
        self._threads = [threading.Thread(target=target, daemon=True) for target in (self._send, self._hear)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _send(self) -> None:
        dice, producer, started_s = random.Random(1), kafka.producer(self._settings), time.monotonic()
        name = topics.TRANSACTIONS.name(TOPIC_PREFIX)
        while not self._stop.is_set():
            is_redeemed = dice.randrange(100) < REDEEMED_PERCENT
            member_id = f"L-{dice.randrange(LIVE_MEMBERS)}"
            command = Transaction(
                program_id="grand", member_id=member_id, transaction_id=f"{LIVE}{self.sent}", source_system="pos", points=dice.randrange(1, 100),
                occurred_at_ms=int(time.time() * 1000), kind=TransactionKind.REDEEM if is_redeemed else TransactionKind.EARN,
            )  # fmt: skip
            producer.produce(name, self._codec.encode(command), member_key("grand", member_id))
            producer.poll(0)
            self.sent += 1
            self._stop.wait(max(0.0, started_s + self.sent / self._per_s - time.monotonic()))
        producer.flush(10)

    def _hear(self) -> None:
        consumer = kafka.consumer(self._settings, "loads-live")
        consumer.subscribe([topics.SYNC_AUDIT.name(TOPIC_PREFIX)])
        mark = LIVE.encode()
        while not self._stop.is_set():
            for message in consumer.consume(2_000, 0.2):
                if mark in (message.value() or b""):
                    audit = self._codec.decode(message.value(), SyncAudit)
                    self.waited.append((audit.ingested_at_ms / 1000, max(0, audit.recorded_at_ms - audit.ingested_at_ms) / 1000))
        consumer.close()


def enrol(settings: Settings) -> None:
    """All members, by the topic; returns when they are in."""
    codec, producer, name = Codec(LocalRegistry()), kafka.producer(settings), topics.ENROLMENTS.name(TOPIC_PREFIX)
    members = [f"H-{number}" for number in range(MEMBERS)] + [f"L-{number}" for number in range(LIVE_MEMBERS)]
    for member_id in members:
        command = Enrolment(program_id="grand", member_id=member_id, event_id="crm:1", source_system="crm", occurred_at_ms=int(PAST_FROM.timestamp()) * 1000)
        producer.produce(name, codec.encode(command), member_key("grand", member_id))
        producer.poll(0)
    assert producer.flush(60) == 0
    consumer, heard = kafka.consumer(settings, "loads-enrolled"), [0]
    consumer.subscribe([topics.SYNC_AUDIT.name(TOPIC_PREFIX)])

    def is_done() -> bool:
        heard[0] += sum(message.error() is None for message in consumer.consume(10_000, 0.2))
        return heard[0] >= len(members)

    wait_until(is_done, timeout_s=300)
    consumer.close()


def load(settings: Settings, history: Path, live_p99_ms: float) -> dict[str, Any]:
    """The command as anybody calls it; what it says at its end."""
    mapping = history.with_name("mapping.toml")
    mapping.write_text(MAPPING_TOML)
    environment = {key: value for key, value in os.environ.items() if not key.startswith(PREFIX)} | settings.environment()
    command = [
        sys.executable, "-m", "streams.cli", "load", str(history), "--program", "grand", "--source", "pms", "--as", "transactions",
        "--mapping", str(mapping), "--live-p99-ms", str(live_p99_ms), "--json",
    ]  # fmt: skip
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=False)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def run(rows: int, per_s: float, live_p99_ms: float, calm_s: float, console: Console) -> dict[str, Any]:
    """The figures: rows a second, and latencies of live traffic in ms before and during."""
    with tempfile.TemporaryDirectory(prefix="loads-", ignore_cleanup_errors=True) as folder:
        home = Path(folder)
        server = KafkaServer(home)
        server.settle_port()
        (home / "loyalty.toml").write_text(RULES_TOML)
        settings = Settings(
            home=str(home), config_file=str(home / "loyalty.toml"), kafka_bootstrap_servers=server.bootstrap_servers, kafka_replication_factor=1,
            kafka_partitions=PARTITIONS, topic_prefix=TOPIC_PREFIX, voucher_key="voucher-key-of-the-bench", internal_token="internal-token-of-the-bench",
        )  # fmt: skip
        write_history(home / "history.csv", rows)
        worker = None
        server.start()
        try:
            kafka.ensure_topics(settings, changelogs={name: CHANGELOG_CONFIG for name in changelogs(settings)})
            worker = Pipeline(settings, "worker").wait_ready(120)
            enrol(settings)
            console.print(f"{MEMBERS + LIVE_MEMBERS:,} members are enrolled; live traffic alone for {calm_s:.0f} s")
            live = Live(settings, per_s)
            live.start()
            threading.Event().wait(WARM_UP_S + calm_s)
            from_s = time.time()
            said = load(settings, home / "history.csv", live_p99_ms)
            to_s = time.time()
            live.stop()
        finally:
            if worker is not None:
                worker.kill()
            server.stop()
    found: dict[str, Any] = {
        "rows": rows, "results": said["results"], "took_s": round(to_s - from_s, 1), "sending_s": said["took_s"],
        "rows_per_s": round(said["decided"] / said["took_s"]), "live_per_s": per_s, "live_bound_ms": live_p99_ms,
    }  # fmt: skip
    sending_from_s = to_s - said["took_s"]
    for phase, begin_s, end_s in (("before", from_s - calm_s, from_s), ("during", sending_from_s, to_s)):
        waited = [seconds for at_s, seconds in live.waited if begin_s <= at_s < end_s]
        found[f"live_{phase}"] = len(waited)
        for label, percent in (("p50", 50), ("p99", 99), ("max", 100)):
            found[f"live_{phase}_{label}_ms"] = round(percentile(waited, percent) * 1000, 1)
    return found


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--rows", default=1_000_000, show_default=True, help="Transactions in the file.")
@click.option("--rate", default=50.0, show_default=True, help="Live transactions per second, of other members.")
@click.option("--live-p99-ms", default=250.0, show_default=True, help="The bound that the load is given.")
@click.option("--calm-s", default=20.0, show_default=True, help="Seconds of live traffic before the load, to compare with.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def main(rows: int, rate: float, live_p99_ms: float, calm_s: float, as_json: bool) -> None:
    """Measure how many rows a second are loaded, and how live traffic fares meanwhile."""
    found = run(rows, rate, live_p99_ms, calm_s, Console(stderr=True))
    lines = [f"{name:>20}  {value if isinstance(value, dict) else f'{value:,}'}" for name, value in found.items()]
    click.echo(json.dumps(found) if as_json else "\n".join(lines))
    sys.exit(0 if sum(found["results"].values()) == rows and found["live_during_p99_ms"] <= live_p99_ms else 1)


if __name__ == "__main__":
    main()
