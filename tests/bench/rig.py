"""A broker of the benchmark's own, topics for each round, inputs, the processes under test, and the clock: the broker's append times."""

import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import psutil
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from infra.kafka_server import KafkaServer
from tests.bench import work
from tests.engine import log

ROOT = Path(__file__).parents[2]
WARM_UP_PERCENT = 10  # Of the outputs: start-up, first rebalance, first fetches and compilers.
STALL_S = 60  # Without an output for this long, a subject is taken to have stopped.


class Stalled(Exception):
    """A subject did not come to the end of its inputs."""


@dataclass(slots=True)
class Subject:
    """A running process under test."""

    process: subprocess.Popen[str]
    errors: IO[str]
    cpu_s: float = 0.0
    rss_mib: int = 0

    def sample(self) -> None:
        """CPU time so far and largest resident memory, of the process and its children."""
        try:
            parent = psutil.Process(self.process.pid)
            family = [parent, *parent.children(recursive=True)]
            times = [process.cpu_times() for process in family]
            self.cpu_s = sum(t.user + t.system for t in times)
            self.rss_mib = max(self.rss_mib, sum(process.memory_info().rss for process in family) >> 20)
        except psutil.Error:
            pass  # It has ended.

    def said(self) -> dict[str, float]:
        """The next JSON line that it prints."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise Stalled(self.tail() or "ended without a word")
        value: dict[str, float] = json.loads(line)
        return value

    def tail(self) -> str:
        self.errors.seek(0)
        return self.errors.read()[-2000:]

    def end(self, how: int = signal.SIGTERM) -> None:
        if self.process.poll() is None:
            self.process.send_signal(how)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(20)
        if self.process.stdout is not None:
            self.process.stdout.close()
        self.errors.close()


@dataclass(frozen=True, slots=True)
class Outputs:
    """What a subject produced, and, sorted, when the broker appended each. Two plain lists: a million tuples would keep the observer busy."""

    times_ms: list[int]
    values: list[bytes]


class Others:
    """Watches how much of the machine programs outside the benchmark take: they disturb it, and a page must not hide that."""

    def __init__(self) -> None:
        self._started_s = time.monotonic()
        self._busy_s, self._own_s = _busy_s(), _own_s()

    def cores(self) -> float:
        """Cores that others kept busy on average since this was made. Call it when the processes under test have ended."""
        spent_s = (_busy_s() - self._busy_s) - (_own_s() - self._own_s)
        return max(0.0, round(spent_s / (time.monotonic() - self._started_s), 2))


def _busy_s() -> float:
    """Of all cores; time that a hypervisor gave to other machines counts as busy."""
    times = psutil.cpu_times()
    return sum(getattr(times, name, 0.0) for name in ("user", "nice", "system", "irq", "softirq", "steal"))


def _own_s() -> float:
    """Of this process, the broker, and all processes under test that have ended."""
    driver = psutil.Process()
    total_s = sum(driver.cpu_times()[:4])  # user, system, and those of ended children
    for child in driver.children(recursive=True):
        try:
            total_s += sum(child.cpu_times()[:2])
        except psutil.Error:
            pass  # It has just ended.
    return total_s


@dataclass(slots=True)
class Rig:
    """Where everything runs."""

    bootstrap: str
    folder: Path
    prefixes: list[str] = field(default_factory=list)

    def topics(self, *, changelog: bool = True) -> str:
        """Fresh topics; their prefix. The outputs carry the time at which the broker appended them."""
        prefix = f"bench-{secrets.token_hex(3)}"
        names = [f"{prefix}.in", f"{prefix}.dead", *([f"{prefix}.app-balances-changelog"] if changelog else [])]
        log.create(self.bootstrap, names, work.PARTITIONS)
        log.create(self.bootstrap, [f"{prefix}.out"], work.PARTITIONS, **{"message.timestamp.type": "LogAppendTime"})
        self.prefixes.append(prefix)
        return prefix

    def drop(self, prefix: str) -> None:
        """Delete what a round made: the broker's disk is bounded."""
        admin = AdminClient({"bootstrap.servers": self.bootstrap})
        names = [name for name in admin.list_topics(timeout=30).topics if name.startswith(prefix) or f"{prefix}." in name]
        for future in admin.delete_topics(names).values():
            future.result()

    def feed(self, prefix: str, movements: Iterable[work.Row]) -> int:
        """Append inputs; how many."""
        producer = Producer({"bootstrap.servers": self.bootstrap, "partitioner": "murmur2_random", "linger.ms": 20, "batch.num.messages": 10_000,
                             "queue.buffering.max.messages": 2_000_000})  # fmt: skip
        count = 0
        for movement in movements:
            producer.produce(f"{prefix}.in", work.encode(work.MOVEMENT, movement), movement["member_id"].encode())
            count += 1
            if count % 10_000 == 0:
                producer.poll(0)
        assert producer.flush(120) == 0
        return count

    @contextmanager
    def run(self, *commands: list[str], environment: dict[str, str] | None = None) -> Iterator[list[Subject]]:
        """Processes under test, ended at the end whatever happens."""
        subjects: list[Subject] = []
        env = os.environ | {"PYTHONPATH": str(ROOT)} | (environment or {})
        try:
            for command in commands:
                errors = tempfile.TemporaryFile("w+")
                process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=env, cwd=self.folder)
                subjects.append(Subject(process, errors))
            yield subjects
        finally:
            for subject in subjects:
                subject.end()

    def outputs(self, prefix: str, count: int, subjects: list[Subject]) -> Outputs:
        """The outputs, once there are at least `count`. Raises Stalled."""
        consumer = Consumer({"bootstrap.servers": self.bootstrap, "group.id": f"{prefix}.observer", "isolation.level": "read_committed",
                             "enable.auto.commit": False, "auto.offset.reset": "earliest"})  # fmt: skip
        found = Outputs([], [])
        try:
            consumer.assign([TopicPartition(f"{prefix}.out", partition, 0) for partition in range(work.PARTITIONS)])
            last_s = time.monotonic()
            while len(found.values) < count:
                messages = [message for message in consumer.consume(20_000, 0.5) if message.error() is None]
                if messages:
                    last_s = time.monotonic()
                    found.times_ms.extend(message.timestamp()[1] for message in messages)
                    found.values.extend(message.value() for message in messages)
                for subject in subjects:
                    subject.sample()
                ended = [subject for subject in subjects if subject.process.poll() is not None]
                if ended or time.monotonic() - last_s > STALL_S:
                    tail = " / ".join(subject.tail() for subject in ended)
                    raise Stalled(f"{len(found.values):,} of {count:,} outputs. {tail}".strip())
        finally:
            consumer.close()
        found.times_ms.sort()
        return found


def rate(times_ms: list[int]) -> float:
    """Records a second, without the warm-up."""
    first = len(times_ms) * WARM_UP_PERCENT // 100
    return (len(times_ms) - first) / max(0.001, (times_ms[-1] - times_ms[first]) / 1000)


def python(module: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", f"tests.bench.subjects.{module}", *arguments]


@contextmanager
def rig() -> Iterator[Rig]:
    with tempfile.TemporaryDirectory(prefix="loyalty-bench-", ignore_cleanup_errors=True) as folder:
        kafka = KafkaServer(Path(folder))
        kafka.start()
        try:
            yield Rig(kafka.bootstrap_servers, Path(folder))
        finally:
            kafka.stop()
