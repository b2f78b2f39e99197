"""The mirror beside a bare loop that inserts the same rows, ready as Arrow batches, into the same table. `python -m tests.bench.mirror`

The mirror reads the topic, decodes, inserts, notes the ranges and commits; it counts from the end of its first insert to the commit of the
last offset. The loop has nothing to read and nothing to decode. Both take turns, batch sizes are the same, and the ratio is of the medians.

With --load a worker decides transactions at a steady rate while the sink mirrors all of its topics; the lag is the sink's own metric, from
the append of a record to ClickHouse's acknowledgement of its row. It is read when all of them are in the history.
"""

import asyncio
import json
import random
import re
import statistics
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pyarrow as pa
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from rich.console import Console
from rich.table import Table as Grid

from infra.clickhouse_service import ClickHouseServer
from infra.kafka_server import KafkaServer
from schemas.codec import Codec
from schemas.columns import ColumnDecoder
from schemas.contract import member_key
from schemas.records import Enrolment, Transaction, TransactionKind
from schemas.registry import LocalRegistry
from sinks import clickhouse
from sinks.base import Item, Receipt
from sinks.batches import run_batches
from sinks.clickhouse import ROWS_MAX, TABLES, History, Table
from sinks.clickhouse.tables import Fields
from streams import kafka
from streams.settings import Settings
from streams.tables import CHANGELOG_CONFIG, changelogs
from tests.bench.rig import Others
from tests.e2e.oracle import RULES_TOML
from tests.e2e.processes import Pipeline
from tests.sinks import examples
from tests.sinks.broker import left_to_commit
from tests.waiting import wait_until

PREFIX, PARTITIONS = "mirror", 8
MEASURED = ("ledger_entries", "loyalty_events")
GOAL_RATIO, GOAL_LAG_P99_S = 0.5, 5.0
MEMBERS = 5_000
STALL_S = 120.0
CODEC = Codec(LocalRegistry())


def records(table: str, count: int) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values as they are in life: many members, ids that are never the same."""
    dice = random.Random(count)
    for number in range(count):
        member, sequence, points = f"M-{number % MEMBERS:07}", number // MEMBERS + 1, dice.randrange(1, 5_000)
        if table == "ledger_entries":
            record: Any = examples.ledger_entry(
                sequence, member, transaction_id=f"pms:stay:{number}", points_delta=points, balance_after=points * sequence,
                lots=(examples.lot(number, points),), previous_hash=f"{dice.getrandbits(128):032x}", entry_hash=f"{dice.getrandbits(128):032x}",
            )  # fmt: skip
        else:
            record = examples.event(sequence, member, points=points, points_delta=points, lots=(examples.lot(number, points),))
        yield member_key("grand", member), CODEC.encode(record)


def fill(settings: Settings, table: Table, values: Sequence[tuple[bytes, bytes]]) -> None:
    producer: Producer = kafka.producer(settings)
    for key, value in values:
        while True:
            try:
                producer.produce(table.topic.name(settings.topic_prefix), value, key)
                break
            except BufferError:
                producer.poll(0.1)
        producer.poll(0)
    assert producer.flush(120) == 0


def ready_batches(table: Table, values: Sequence[tuple[bytes, bytes]]) -> list[Any]:
    """What the mirror would make of the records, made beforehand."""
    decoder, batches = ColumnDecoder(CODEC, table.topic.record), []
    for first in range(0, len(values), ROWS_MAX):
        some = [value for _, value in values[first : first + ROWS_MAX]]
        places = range(first, first + len(some))
        columns = table.columns(Fields(decoder.decode(some).fields))
        source = {
            "source_partition": pa.array([place % PARTITIONS for place in places], type=pa.uint16()),
            "source_offset": pa.array([place // PARTITIONS for place in places], type=pa.uint64()),
        }
        batches.append(pa.table(columns | source))
    return batches


def bare(settings: Settings, table: Table, batches: Sequence[Any]) -> float:
    """Rows per second."""
    client = clickhouse.connect(settings)
    client.command(f"TRUNCATE TABLE {table.name}")
    started_s = time.perf_counter()
    for batch in batches:
        client.insert_arrow(table.name, batch, settings={"async_insert": 0, "wait_end_of_query": 1})
    took_s = time.perf_counter() - started_s
    client.close()
    return float(sum(batch.num_rows for batch in batches) / took_s)


def committed(consumer: Consumer, partitions: list[TopicPartition]) -> int:
    """Records that the group has committed; 0 while a broker that has just made the group does not know who coordinates it."""
    try:
        return sum(max(0, one.offset) for one in consumer.committed(partitions, 10))
    except KafkaException:
        return 0


async def mirrored(settings: Settings, table: Table, count: int, group: str) -> float:
    """Rows per second, in a consumer group of its own that begins at the topic's begin."""
    client = clickhouse.connect(settings)
    client.command(f"TRUNCATE TABLE {table.name}")
    history, stop = History(settings, table, CODEC), asyncio.Event()
    began: list[tuple[float, int]] = []

    async def write(items: Sequence[Item[Any]]) -> list[Receipt]:
        receipts = await history.write(items)
        if not began:
            began.append((time.perf_counter(), len(items)))
        return receipts

    running = asyncio.create_task(run_batches(
        settings, sink=group, group=group, topic=table.topic, write=write, rows_max=ROWS_MAX, wait_max_s=1.0, stop=stop, codec=CODEC, decodes=False,
    ))  # fmt: skip
    consumer = kafka.consumer(settings, group)
    name = table.topic.name(settings.topic_prefix)
    partitions = [TopicPartition(name, number) for number in range(PARTITIONS)]
    deadline_s = time.perf_counter() + STALL_S
    while await asyncio.to_thread(committed, consumer, partitions) < count:
        assert time.perf_counter() < deadline_s and not running.done(), "the mirror has not come to the end of the topic"
        await asyncio.sleep(0.05)
    began_s, first = began[0]
    took_s = time.perf_counter() - began_s
    stop.set()
    await running
    history.close()
    consumer.close()
    rows = client.query(f"SELECT count() FROM {table.name}").result_rows[0][0]
    assert rows == count, f"{rows} rows of {count} records"
    client.close()
    return (count - first) / took_s


def compare(settings: Settings, rounds: int, rows: int, console: Console) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for table in TABLES:
        if table.name not in MEASURED:
            continue
        values = list(records(table.name, rows))
        fill(settings, table, values)
        batches = ready_batches(table, values)
        rates: dict[str, list[float]] = {"bare": [], "mirror": []}
        for number in range(rounds):
            rates["bare"].append(bare(settings, table, batches))
            rates["mirror"].append(asyncio.run(mirrored(settings, table, rows, f"bench-{table.name}-{number}")))
            console.print(f"{table.name}: bare {rates['bare'][-1]:,.0f}, mirror {rates['mirror'][-1]:,.0f} rows/s")
        medians = {name: statistics.median(some) for name, some in rates.items()}
        found[table.name] = {
            "rows": rows, "bare_rows_per_s": round(medians["bare"]), "mirror_rows_per_s": round(medians["mirror"]),
            "ratio": round(medians["mirror"] / medians["bare"], 2), "ratios": [round(m / b, 2) for b, m in zip(*rates.values(), strict=True)],
        }  # fmt: skip
    return found


def lag(settings: Settings, per_s: float, duration_s: float, console: Console) -> dict[str, Any]:
    """What the sink says of its lag, after transactions at a steady rate."""
    kafka.ensure_topics(settings, changelogs={name: CHANGELOG_CONFIG for name in changelogs(settings)})
    worker = Pipeline(settings, "worker").wait_ready(120)
    sink = Pipeline(settings, "sink", "clickhouse").wait_ready(120)
    try:
        producer, dice = kafka.producer(settings), random.Random(1)
        for number in range(MEMBERS):
            enrolment = Enrolment(
                program_id="grand", member_id=f"M-{number}", event_id=f"e-{number}", source_system="crm", occurred_at_ms=time.time_ns() // 1_000_000,
            )  # fmt: skip
            producer.produce("load.enrolments.v1", CODEC.encode(enrolment), member_key("grand", enrolment.member_id))
        producer.flush(30)
        started_s, sent = time.monotonic(), 0
        while (passed_s := time.monotonic() - started_s) < duration_s:
            while sent < passed_s * per_s:
                name = f"M-{dice.randrange(MEMBERS)}"
                earn = Transaction(
                    program_id="grand", member_id=name, transaction_id=f"live:{sent}", source_system="pos", occurred_at_ms=time.time_ns() // 1_000_000,
                    kind=TransactionKind.EARN, points=dice.randrange(1, 100),
                )  # fmt: skip
                producer.produce("load.transactions.v1", CODEC.encode(earn), member_key("grand", name))
                sent += 1
            producer.poll(0.005)
        producer.flush(30)
        wait_until(lambda: is_mirrored(settings, sent), STALL_S)
        with urllib.request.urlopen(f"{sink.url}/metrics", timeout=10) as response:
            found = lags(response.read().decode())
        console.print(f"{sent:,} transactions in {duration_s:.0f} s")
    finally:
        sink.kill()
        worker.kill()
    return {"transactions_per_s": round(sent / duration_s), "lag_p99_at_most_s": found}


def is_mirrored(settings: Settings, earns: int) -> bool:
    """Whether each has its entry in the history, and no topic has anything that is not there."""
    client = clickhouse.connect(settings)
    entries = client.query("SELECT count() FROM ledger_entries FINAL").result_rows[0][0]
    client.close()
    return entries == earns and not any(left_to_commit(settings, f"sink-clickhouse-{table.topic.stream}", table.topic) for table in TABLES)


def lags(text: str) -> dict[str, float]:
    """Table -> the bound below which 99 of 100 lags are, by the buckets of the metric."""
    counts: dict[str, list[tuple[float, float]]] = {}
    for bound, table, count in re.findall(r'loyalty_mirror_lag_seconds_bucket\{le="([^"]+)",table="([^"]+)"\} (\S+)', text):
        counts.setdefault(table, []).append((float(bound), float(count)))
    return {
        name: next(bound for bound, count in sorted(buckets) if count >= 0.99 * max(total for _, total in buckets))
        for name, buckets in counts.items() if any(count for _, count in buckets)
    }  # fmt: skip


@contextmanager
def servers(folder: Path) -> Iterator[Settings]:
    broker, server = KafkaServer(folder), ClickHouseServer(folder)
    broker.start()
    try:
        server.start()
        config_file = folder / "loyalty.toml"
        config_file.write_text(RULES_TOML)
        settings = Settings(
            home=str(folder), config_file=str(config_file), kafka_bootstrap_servers=broker.bootstrap_servers, kafka_replication_factor=1,
            kafka_partitions=PARTITIONS, topic_prefix=PREFIX, clickhouse_url=server.url, clickhouse_database=PREFIX, redis_url="redis://127.0.0.1:1",
            voucher_key="voucher-key-of-the-bench", internal_token="internal-token-of-the-bench",
        )  # fmt: skip
        kafka.ensure_topics(settings)
        clickhouse.migrate(settings)
        yield settings
    finally:
        server.stop()
        broker.stop()


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--quick", is_flag=True, help="A fifth of the rows, two rounds.")
@click.option("--load", "per_s", type=float, default=0.0, help="Also measure the lag at this many transactions a second.")
@click.option("--only-load", is_flag=True, help="Leave the comparison out.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def main(quick: bool, per_s: float, only_load: bool, as_json: bool) -> None:
    """Measure what the mirror does beside a bare loop of the same inserts."""
    console, others = Console(stderr=True), Others()
    with tempfile.TemporaryDirectory(prefix="mirror-", ignore_cleanup_errors=True) as folder, servers(Path(folder)) as settings:
        found = {} if only_load else compare(settings, 2 if quick else 3, 100_000 if quick else 500_000, console)
        load: dict[str, Any] = {}
        if per_s:
            load = lag(replace(settings, topic_prefix="load", clickhouse_database="load"), per_s, 20 if quick else 60, console)
    is_met = all(one["ratio"] >= GOAL_RATIO for one in found.values())
    is_met &= all(p99_s <= GOAL_LAG_P99_S for p99_s in load.get("lag_p99_at_most_s", {}).values())
    if as_json:
        click.echo(json.dumps({"tables": found, "load": load, "others_cores": others.cores(), "is_met": is_met}))
    else:
        grid = Grid("table", "bare rows/s", "mirror rows/s", "ratio", "of each round", title=f"others kept {others.cores()} cores busy")
        for name, one in found.items():
            grid.add_row(name, f"{one['bare_rows_per_s']:,}", f"{one['mirror_rows_per_s']:,}", f"{one['ratio']:.2f}", str(one["ratios"]))
        Console().print(grid)
        for name, p99_s in load.get("lag_p99_at_most_s", {}).items():
            click.echo(f"lag of {name}: p99 at most {p99_s} s at {load['transactions_per_s']} transactions/s")
    sys.exit(0 if is_met else 1)


if __name__ == "__main__":
    main()
