"""Where deliveries are measured: a broker, and for each measurement topics of its own, a receiver, destinations and sinks as processes."""

import json
import resource
import secrets
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import psutil
from confluent_kafka.admin import AdminClient
from cryptography.fernet import Fernet

from infra import ports
from infra.kafka_server import KafkaServer
from infra.stack import PipelineService, Process
from streams import kafka, topics
from streams.settings import Settings
from tests.bench import delivery_feed, delivery_receiver
from tests.bench.delivery_feed import Feed, Mix
from tests.bench.rig import Stalled
from tests.sinks.examples import SECRET
from tests.waiting import wait_until

PARTITIONS = 4
STALL_S = 60.0  # Without a delivery for this long, the sinks are taken to have stopped.
POLL_S = 0.2
OPEN_FILES = 65_536
PROGRAM = """
[programs.{program}]
name = "{program}"
time_zone = "UTC"
[programs.{program}.earn]
points_per_unit = {{ EUR = 1 }}
[[programs.{program}.tiers]]
name = "MEMBER"
threshold_points = 0
"""
DESTINATION = """
[destinations.{name}]
url = "http://{host}:{port}/hooks/{name}"
secret = "{secret}"
programs = ["{program}"]
{options}
"""


class Arrival(NamedTuple):
    """One request, as the receiver's log has it."""

    path: str
    event_id: str
    at_ns: int
    status: int


@dataclass(slots=True)
class Usage:
    """What the sinks have taken so far."""

    cpu_s: float
    rss_mib: float


@dataclass(slots=True)
class Place:
    """One measurement's own."""

    settings: Settings
    home: Path
    mix: Mix
    receiver_port: int
    sinks: list[PipelineService] = field(default_factory=list)
    sent: int = 0
    """Events so far: the number of the next one."""

    @property
    def log_file(self) -> Path:
        return self.home / "receiver.log"

    def control(self, **wanted: Any) -> dict[str, int]:
        return delivery_receiver.control(self.receiver_port, **wanted)

    def start_sinks(self) -> None:
        """Returns when all say that they are ready, and they have shared all partitions."""
        for sink in self.sinks:
            sink.start()
        wait_until(lambda: self._is_shared(), timeout_s=STALL_S)

    def _is_shared(self) -> bool:
        shares = [self._partitions(sink) for sink in self.sinks]
        return all(shares) and sorted(sum(shares, [])) == list(range(self.settings.kafka_partitions))

    def _partitions(self, sink: PipelineService) -> list[int]:
        """Of the events."""
        request = urllib.request.Request(f"{sink.url}/internal/destinations", headers={"Authorization": f"Bearer {self.settings.internal_token}"})
        with urllib.request.urlopen(request, timeout=30) as response:
            found: list[int] = json.load(response)["partitions"].get(topics.EVENTS.stream, [])
            return found

    def fill(self, count: int, mix: Mix | None = None) -> None:
        """All at once; of others than the place's own when a mix is given."""
        if mix is not None:
            delivery_feed.fill(self.settings, mix, count)
        else:
            delivery_feed.fill(self.settings, self.mix, count, first=self.sent)
            self.sent += count

    def feed(self, per_second: float, duration_s: float) -> Feed:
        feed = delivery_feed.start(
            self.settings, self.mix, per_second=per_second, duration_s=duration_s, first=self.sent, log_file=self.home / f"sent-{self.sent}"
        )
        self.sent += feed.count
        return feed

    def wait_for(self, taken: int, *, within_s: float = float("inf")) -> bool:
        """Whether so many events were taken in time. Raises Stalled when a sink has ended, or none was taken for STALL_S."""
        seen, moved_s, end_s = -1, time.monotonic(), time.monotonic() + within_s
        while (now := self.control()["taken"]) < taken:
            if now != seen:
                seen, moved_s = now, time.monotonic()
            if time.monotonic() > end_s:
                return False
            self.check()
            if time.monotonic() - moved_s > STALL_S:
                raise Stalled(f"{now:,} of {taken:,} events were taken, and none for {STALL_S:.0f} s. {self.tails()}")
            time.sleep(POLL_S)
        return True

    def check(self) -> None:
        """Raises Stalled when a sink has ended."""
        for sink in self.sinks:
            if sink.pid is None:
                raise Stalled(f"{sink.name}: {sink.exit_text}. {self.tails()}")

    def tails(self) -> str:
        return " / ".join(sink.log_file.read_text(errors="replace")[-1500:] for sink in self.sinks)

    def arrivals(self) -> list[Arrival]:
        """Requests so far."""
        self.control()
        with self.log_file.open() as log:
            lines = (line.rstrip("\n").split("\t") for line in log)
            return [Arrival(path, event_id, int(at_ns), int(status)) for path, event_id, at_ns, status in lines]

    def usage(self) -> Usage:
        processes = [psutil.Process(sink.pid) for sink in self.sinks if sink.pid is not None]
        times = [process.cpu_times() for process in processes]
        return Usage(sum(t.user + t.system for t in times), sum(process.memory_info().rss for process in processes) / 2**20)


def configuration(destinations: int, port: int, options: str = "") -> str:
    """The file with one programme for each destination."""
    texts = []
    for number in range(destinations):
        program = delivery_feed.program(number)
        texts.append(PROGRAM.format(program=program))
        texts.append(DESTINATION.format(name=name(number), host=ports.HOST, port=port, secret=SECRET, program=program, options=options))
    return "".join(texts)


def name(number: int) -> str:
    """Of a destination."""
    return f"d{number:04d}"


def path(number: int) -> str:
    return f"/hooks/{name(number)}"


@dataclass(slots=True)
class DeliveryRig:
    """The broker that all measurements share, one after the other."""

    kafka: KafkaServer
    home: Path

    @contextmanager
    def place(self, destinations: int, *, sinks: int = 1, delay_ms: float = 0.0, members: int = 50, options: str = "") -> Iterator[Place]:
        """Sinks are not started yet. All processes are gone at the end."""
        prefix = f"bench-{secrets.token_hex(3)}"
        home = self.home / prefix
        home.mkdir()
        port = ports.choose()
        file = home / "loyalty.toml"
        file.write_text(configuration(destinations, port, options))
        settings = Settings(
            home=str(home), config_file=str(file), kafka_bootstrap_servers=self.kafka.bootstrap_servers, kafka_replication_factor=1,
            kafka_partitions=PARTITIONS, topic_prefix=prefix, internal_token=secrets.token_hex(16), voucher_key=secrets.token_hex(16),
            delivery_allowed_addresses="127.0.0.0/8", destination_keys=Fernet.generate_key().decode(), log_level="WARNING",
        )  # fmt: skip
        kafka.ensure_topics(settings)
        place = Place(settings, home, Mix(destinations, members), port)
        with ExitStack() as stack:
            stack.enter_context(_receiver(port, place.log_file, delay_ms))
            for number in range(sinks):
                process = Process(f"sink-{number}", (sys.executable, "-m", "streams.cli", "sink", "webhooks"), 0)
                sink = PipelineService(process, home, port=0, environment=settings.environment())
                stack.callback(sink.stop)
                place.sinks.append(sink)
            yield place
        self._drop(prefix)

    def _drop(self, prefix: str) -> None:
        """The broker's disk is bounded, and what nobody reads any more costs it open files."""
        admin = AdminClient({"bootstrap.servers": self.kafka.bootstrap_servers})
        names: Sequence[str] = [topic for topic in admin.list_topics(timeout=30).topics if topic.startswith(f"{prefix}.")]
        for future in admin.delete_topics(list(names)).values():
            future.result()


@contextmanager
def _receiver(port: int, log_file: Path, delay_ms: float) -> Iterator[None]:
    command = [sys.executable, "-m", "tests.bench.delivery_receiver", "--port", str(port), "--log", str(log_file), "--delay-ms", str(delay_ms)]
    process = subprocess.Popen(command)
    try:
        wait_until(lambda: ports.accepts(port), timeout_s=30)
        yield
    finally:
        process.kill()
        process.wait()
        ports.give_back(port)


@contextmanager
def delivery_rig() -> Iterator[DeliveryRig]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(OPEN_FILES, hard)), hard))
    with tempfile.TemporaryDirectory(prefix="loyalty-bench-", ignore_cleanup_errors=True) as folder:
        server = KafkaServer(Path(folder))
        server.start()
        try:
            yield DeliveryRig(server, Path(folder))
        finally:
            server.stop()
