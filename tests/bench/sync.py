"""A flush of what has waited beside a bare loop: the same records read, sent on unchanged and committed in transactions of the same size.

`python -m tests.bench.sync`. Profile changes of members who changed once each, so that each travels alone, and of few members who changed often, so
that most travel together. Both take turns over the same topic, from its begin on, and the ratio is of the medians. Both count from the making of
their clients on, as each run of a schedule does.
"""

import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from confluent_kafka import Consumer, TopicPartition
from rich.console import Console
from rich.table import Table

from infra.kafka_server import KafkaServer
from schemas.codec import Codec
from schemas.contract import member_key
from schemas.records import ProfileChange
from schemas.registry import LocalRegistry
from streams import kafka
from streams.scheduling.cadence import REALTIME
from streams.settings import Settings
from streams.sync import names
from streams.sync.flush import CHUNK_RECORDS, FlushJob
from tests.bench.rig import Others

STREAM, PARTITIONS = "profile-changes", 8
MEMBERS = {"each alone": 0, "of few members": 500}
"""0: as many as there are changes."""
GOALS = {"each alone": 0.5, "of few members": 0.2}
TRANSACTION_S = 30.0
CODEC = Codec(LocalRegistry())


def fill(settings: Settings, changes: int, members: int) -> None:
    """What waits: changes in the order of their numbers."""
    producer, topic = kafka.producer(settings), names.STAGING[STREAM].name(settings.topic_prefix)
    for number in range(changes):
        member_id = f"M-{number % members if members else number:07}"
        change = ProfileChange(
            program_id="grand", member_id=member_id, event_id=f"crm:{number}", source_system="crm", occurred_at_ms=1_795_318_800_000 + number,
            attributes={"city": f"city {number % 97}", "phone": f"+49 30 {number:07}"},
        )  # fmt: skip
        while True:
            try:
                producer.produce(topic, CODEC.encode(change), member_key("grand", member_id), headers={"correlation_id": b"c" * 26})
                break
            except BufferError:
                producer.poll(0.1)
    assert producer.flush(120) == 0


def bare(settings: Settings, changes: int) -> float:
    """Seconds in which a loop of the client's own calls sends all of it on, from the making of its clients on."""
    started_s, sent, read_to = time.perf_counter(), 0, {}
    producer = kafka.producer(settings, transactional_id=f"{settings.topic_prefix}.bare")
    producer.init_transactions(TRANSACTION_S)
    consumer, topic = kafka.consumer(settings, "bare"), names.INBOUND[STREAM].name(settings.topic_prefix)
    staging = names.STAGING[STREAM].name(settings.topic_prefix)
    kafka.commits(consumer, staging, PARTITIONS)
    consumer.assign([TopicPartition(staging, number, 0) for number in range(PARTITIONS)])
    while sent < changes:
        messages = consumer.consume(CHUNK_RECORDS, timeout=0.2)
        producer.begin_transaction()
        for message in messages:
            place, offset = message.partition(), message.offset()
            assert message.error() is None and place is not None and offset is not None, message.error()
            producer.produce(topic, message.value(), message.key(), headers=message.headers())
            read_to[place] = offset + 1
        producer.send_offsets_to_transaction(
            [TopicPartition(staging, number, offset) for number, offset in read_to.items()], consumer.consumer_group_metadata(), TRANSACTION_S
        )
        producer.commit_transaction(TRANSACTION_S)
        sent += len(messages)
    took_s = time.perf_counter() - started_s
    consumer.close()
    return took_s


def flushed(settings: Settings, changes: int) -> tuple[float, int]:
    """Seconds of a flush from the begin on, and how many records it became."""
    job = FlushJob(STREAM, settings, CODEC, lambda: (STREAM,))
    _forget_progress(settings)
    started_s = time.perf_counter()
    outcome = asyncio.run(job.flush(asyncio.Event(), REALTIME))
    took_s = time.perf_counter() - started_s
    assert outcome.counts["commands"] == changes, outcome
    return took_s, outcome.rows


def _forget_progress(settings: Settings) -> None:
    consumer: Consumer = kafka.consumer(settings, f"sync-{STREAM}")
    staging = names.STAGING[STREAM].name(settings.topic_prefix)
    consumer.commit(offsets=[TopicPartition(staging, number, 0) for number in range(PARTITIONS)], asynchronous=False)
    consumer.close()


def compare(settings: Settings, rounds: int, changes: int, tell: Callable[[str], None]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for number, (name, members) in enumerate(MEMBERS.items()):
        own = replace(settings, topic_prefix=f"sync{number}")
        kafka.ensure_topics(own, (names.INBOUND[STREAM], names.STAGING[STREAM]))
        fill(own, changes, members)
        bare_s, flush_s, rows = [], [], 0
        for _ in range(rounds):
            bare_s.append(bare(own, changes))
            took_s, rows = flushed(own, changes)
            flush_s.append(took_s)
            tell(f"{name}: bare {changes / bare_s[-1]:,.0f}, flush {changes / flush_s[-1]:,.0f} changes/s")
        found[name] = {
            "changes": changes, "records": rows, "bare_per_s": round(changes / statistics.median(bare_s)),
            "flush_per_s": round(changes / statistics.median(flush_s)), "ratio": round(statistics.median(bare_s) / statistics.median(flush_s), 2),
            "ratios": [round(b / f, 2) for b, f in zip(bare_s, flush_s, strict=True)],
        }  # fmt: skip
    return found


@contextmanager
def broker(folder: Path) -> Iterator[Settings]:
    server = KafkaServer(folder)
    server.start()
    try:
        yield Settings(
            home=str(folder), kafka_bootstrap_servers=server.bootstrap_servers, kafka_replication_factor=1, kafka_partitions=PARTITIONS,
            clickhouse_url="http://unused", redis_url="redis://unused",
        )  # fmt: skip
    finally:
        server.stop()


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--quick", is_flag=True, help="A fifth of the changes, two rounds.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def main(quick: bool, as_json: bool) -> None:
    """Measure a flush of what has waited beside a bare loop of the same reads and writes."""
    console, others = Console(stderr=True), Others()
    with tempfile.TemporaryDirectory(prefix="sync-", ignore_cleanup_errors=True) as folder, broker(Path(folder)) as settings:
        found = compare(settings, 2 if quick else 3, 20_000 if quick else 100_000, console.print)
    is_met = all(one["ratio"] >= GOALS[name] for name, one in found.items())
    if as_json:
        click.echo(json.dumps({"flushes": found, "others_cores": others.cores(), "is_met": is_met}))
    else:
        table = Table("changes", "bare /s", "flush /s", "ratio", "of each round", "records sent", title=f"others kept {others.cores()} cores busy")
        for name, one in found.items():
            table.add_row(name, f"{one['bare_per_s']:,}", f"{one['flush_per_s']:,}", f"{one['ratio']:.2f}", str(one["ratios"]), f"{one['records']:,}")
        Console().print(table)
    sys.exit(0 if is_met else 1)


if __name__ == "__main__":
    main()
