"""The measurements: each takes the rig and gives plain numbers."""

import itertools
import shutil
import signal
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, Producer, TopicPartition

from streams.engine.reader import CONFIG as READER_CONFIG
from tests.bench import peers, work
from tests.bench.rig import Others, Rig, Stalled, python, rate

SEED = 20261125
MEMBERS = 10_000
Commands = Callable[[Rig, str, Path], list[list[str]]]


def _engine(workers: int) -> Commands:
    return lambda rig, prefix, folder: [python("engine", rig.bootstrap, prefix, str(folder / f"w{n}"), f"w{n}") for n in range(workers)]


def _plain(module: str, mode: str) -> Commands:
    return lambda rig, prefix, folder: [python(module, rig.bootstrap, prefix, str(folder), mode)]


def _quix(guarantee: str, commit_interval_s: float = 5.0) -> Commands:
    return lambda rig, prefix, folder: [
        [str(peers.quix_python()), "-m", "tests.bench.subjects.quix", rig.bootstrap, prefix, str(folder), guarantee, str(commit_interval_s)]
    ]


def _streams(threads: int) -> Commands:
    return lambda rig, prefix, folder: [
        ["java", "-Xmx1g", "-cp", peers.kafka_streams_class_path(), "Balances", rig.bootstrap, prefix, str(folder), str(threads)]
    ]


SUBJECTS: dict[str, tuple[str, Commands, float, bool]] = {
    "engine": ("this engine, 1 worker", _engine(1), 1, True),
    "engine-2": ("this engine, 2 workers", _engine(2), 1, True),
    "engine-3": ("this engine, 3 workers", _engine(3), 1, True),
    "bare-txn": ("bare loop, one transaction per batch", _plain("bare", "txn"), 1, True),
    "bare": ("bare loop, no transactions", _plain("bare", "plain"), 1, True),
    "quix-eo": ("Quix Streams, exactly-once, commit every 5 s (its default)", _quix("exactly-once"), 1, False),
    "quix-eo-0.1s": ("Quix Streams, exactly-once, commit every 0.1 s", _quix("exactly-once", 0.1), 1, False),
    "quix-alo": ("Quix Streams, at-least-once, commit every 5 s", _quix("at-least-once"), 1, False),
    "streams-1": ("Kafka Streams, exactly_once_v2, 1 thread", _streams(1), 2, False),
    "streams-2": ("Kafka Streams, exactly_once_v2, 2 threads", _streams(2), 2, False),
    "faust-eo": ("Faust as it is, exactly_once", _plain("stock_faust", "exactly_once"), 0.02, True),
    "faust-alo": ("Faust as it is, at_least_once", _plain("stock_faust", "at_least_once"), 0.02, True),
}
"""Name -> what it is, its processes, its share of the events, and whether its changelog is made beforehand."""


def throughput(rig: Rig, name: str, events: int) -> dict[str, Any]:
    """One round of one subject: events a second, CPU per event, memory, outputs that are wrong. `error` when it cannot run or does not finish."""
    _, commands, share, changelog = SUBJECTS[name]
    count = max(1000, int(events * share))
    prefix = rig.topics(changelog=changelog)
    folder = rig.folder / prefix
    others = Others()
    try:
        folder.mkdir()
        rig.feed(prefix, work.movements(SEED, count, MEMBERS))
        with rig.run(*commands(rig, prefix, folder)) as subjects:
            outputs = rig.outputs(prefix, count, subjects)
            for subject in subjects:
                subject.sample()
            cpu_us = sum(subject.cpu_s for subject in subjects) / count * 1e6
            rss_mib = sum(subject.rss_mib for subject in subjects)
        return {"events_s": rate(outputs.times_ms), "events": count, "wrong": wrong(count, outputs.values), "cpu_us": cpu_us, "rss_mib": rss_mib,
                "others_cores": others.cores()}  # fmt: skip
    except (Stalled, peers.PeerUnavailable) as error:
        return {"error": str(error)[-400:]}
    finally:
        rig.drop(prefix)
        shutil.rmtree(folder, ignore_errors=True)


@lru_cache(maxsize=len(SUBJECTS))
def _right(count: int) -> Counter[bytes]:
    """What the outputs of `throughput` must be, byte by byte."""
    rows: dict[str, work.Row] = {}
    values: Counter[bytes] = Counter()
    for movement in work.movements(SEED, count, MEMBERS):
        member = movement["member_id"]
        rows[member], changed = work.decide(rows.get(member), movement)
        values[work.encode(work.CHANGED, changed)] += 1
    return values


def wrong(count: int, values: Iterable[bytes]) -> int:
    """How many outputs are missing, doubled or different from what `count` inputs should give."""
    found = Counter(values)
    right = _right(count)
    return max((found - right).total(), (right - found).total())


def latency(rig: Rig, name: str, per_second: int, duration_s: float) -> dict[str, Any]:
    """ms from handing an input to the producer until a read_committed consumer has its output, both in this process."""
    prefix = rig.topics()
    folder = rig.folder / prefix
    folder.mkdir()
    others = Others()
    sent: dict[str, float] = {}
    took: list[float] = []
    producer = Producer({"bootstrap.servers": rig.bootstrap, "partitioner": "murmur2_random", "linger.ms": 0})
    consumer = Consumer({"bootstrap.servers": rig.bootstrap, "group.id": f"{prefix}.observer", "isolation.level": "read_committed",
                         "enable.auto.commit": False, "auto.offset.reset": "earliest"})  # fmt: skip
    consumer.assign([TopicPartition(f"{prefix}.out", partition, 0) for partition in range(work.PARTITIONS)])

    def send(movement: work.Row) -> None:
        sent[movement["transaction_id"]] = time.perf_counter()
        producer.produce(f"{prefix}.in", work.encode(work.MOVEMENT, movement), movement["member_id"].encode())

    def send_all(count: int) -> None:
        """In a thread, at its rate, whatever comes back."""
        started_s = time.perf_counter()
        for number in range(count):
            left_s = started_s + number / per_second - time.perf_counter()
            if left_s > 0:
                time.sleep(left_s)  # The rate is what is measured: there is no condition to await.
            send(work.movement(1000 + number, number * 7919 % MEMBERS, "EARN", 1))
            producer.poll(0)

    def receive(until: Callable[[], bool], limit_s: float) -> None:
        limit_s += time.monotonic()
        while not until() and time.monotonic() < limit_s:
            first = consumer.poll(0.2)
            now_s = time.perf_counter()
            for message in (first, *consumer.consume(500, 0)) if first is not None else ():
                if message.error() is None:
                    took.append((now_s - sent.pop(work.decode(work.CHANGED, message.value())["transaction_id"])) * 1000)

    count = int(per_second * duration_s)
    try:
        with rig.run(*SUBJECTS[name][1](rig, prefix, folder)):
            for number in range(200):  # Warm, and every partition open.
                send(work.movement(number, number, "EARN", 1))
            receive(lambda: not sent, 60)
            took.clear()
            sender = threading.Thread(target=send_all, args=(count,))
            sender.start()
            receive(lambda: not sender.is_alive() and not sent, duration_s + 30)
            sender.join()
    finally:
        consumer.close()
        producer.flush(10)
        rig.drop(prefix)
        shutil.rmtree(folder, ignore_errors=True)
    if sent:
        return {"error": f"{len(sent)} of {count} outputs never came"}
    took.sort()
    return {"p50_ms": statistics.median(took), "p99_ms": took[min(len(took) - 1, len(took) * 99 // 100)], "max_ms": took[-1], "events": len(took),
            "others_cores": others.cores()}  # fmt: skip


def members(rig: Rig, count: int, events: int, *, recover: bool) -> dict[str, Any]:
    """Throughput with `count` members in the table, disk per member; with `recover`, how long starting again takes.

    All inputs are there before the start: making them while the engine runs would take its cores. The first outputs, one for each
    member, are not measured.
    """
    others = Others()
    prefix = rig.topics()
    folder = rig.folder / prefix
    folder.mkdir()
    command = SUBJECTS["engine"][1](rig, prefix, folder)[0]
    try:
        rig.feed(prefix, itertools.chain(work.one_each(count), work.movements(SEED, events, count, first=count)))
        with rig.run(command) as subjects:
            times_ms = rig.outputs(prefix, count + events, subjects).times_ms[count:]
            subjects[0].sample()
            cpu_us = subjects[0].cpu_s / (count + events) * 1e6
            found: dict[str, Any] = {"events_s": rate(times_ms), "cpu_us": cpu_us, "rss_mib": subjects[0].rss_mib}
        found["disk_bytes_per_member"] = _size(folder) / count
        if recover:
            found |= _recovery(rig, prefix, folder, command)
        found["others_cores"] = others.cores()
        return found
    except Stalled as error:
        return {"error": str(error)[-400:]}
    finally:
        rig.drop(prefix)
        shutil.rmtree(folder, ignore_errors=True)


def _recovery(rig: Rig, prefix: str, folder: Path, command: list[str]) -> dict[str, Any]:
    """Seconds from the start of the program until all partitions are open: warm, after kill -9, and cold; beside a bare read."""
    found: dict[str, Any] = {}
    found["warm_s"], found["warm_rss_mib"] = _opened(rig, command)
    with rig.run(command) as (subject,):
        subject.said()
        subject.end(signal.SIGKILL)
    found["warm_after_kill_s"], found["warm_after_kill_rss_mib"] = _opened(rig, command)
    shutil.rmtree(folder)
    folder.mkdir()
    found["cold_s"], found["cold_rss_mib"] = _opened(rig, command)
    started_s = time.monotonic()
    found["changelog_rows"] = _bare_read(rig, f"{prefix}.app-balances-changelog")
    found["bare_read_s"] = time.monotonic() - started_s
    return found


def _opened(rig: Rig, command: list[str]) -> tuple[float, int]:
    """Seconds from the start of the process until all partitions are open, and its resident memory in MiB then."""
    started_s = time.monotonic()
    with rig.run(command) as (subject,):
        said = subject.said()
        opened_s = time.monotonic() - started_s
        subject.sample()
        if said["partitions"] != work.PARTITIONS:
            raise Stalled(f"only {said['partitions']} partitions opened")
        return opened_s, subject.rss_mib


def _bare_read(rig: Rig, topic: str) -> int:
    """Read a changelog into a dict, as the quickest loader in Python would."""
    consumer = Consumer(READER_CONFIG | {"bootstrap.servers": rig.bootstrap, "group.id": "bare"})  # With the engine's own settings for speed.
    rows: dict[bytes, bytes] = {}
    count = ended = 0
    try:
        consumer.assign([TopicPartition(topic, partition, 0) for partition in range(work.PARTITIONS)])
        while ended < work.PARTITIONS:
            for message in consumer.consume(10_000, 0.2):
                if message.error() is not None:
                    ended += 1
                    continue
                rows[message.key()] = message.value()
                count += 1
    finally:
        consumer.close()
    return count


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
