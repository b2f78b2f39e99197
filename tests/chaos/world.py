"""All processes of a storm, in a folder of their own, on free ports: broker, ClickHouse, workers, and the sink between them."""

import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from infra.clickhouse_service import ClickHouseServer
from infra.kafka_server import KafkaServer
from infra.service import Service
from infra.stack import PipelineService, Process
from streams import kafka
from streams.settings import Settings
from streams.tables import CHANGELOG_CONFIG, app_id, changelogs
from tests.e2e.oracle import RULES_TOML

PARTITIONS = 6
SESSION_TIMEOUT_S = 3  # Short, or a storm would mostly wait for it. The broker allows 1.
TRANSACTION_TIMEOUT_S = 6  # What was open when a broker died stands until then.
STOP_S = 30
PREFIX = "storm"
INFANCY_S = STOP_S + 15.0  # Time to import, on a busy machine, and the time that the stop took.
LOG_TAIL_LINES = 25
INCIDENT_LINES = 300
DROPPED_MARKERS = "Couldn't find leader endpoint for partitions"


class StormFailed(Exception):
    """The pipeline stands still, or its processes end again and again: there is no end of the storm to wait for."""


class Part(PipelineService):
    """A process of the pipeline that is started without waiting until it is ready: storms do not wait either."""

    stop_timeout_s = STOP_S
    _born_s = 0.0

    def is_ready(self) -> bool:
        return True

    def is_really_ready(self) -> bool:
        """What /readyz says."""
        return super().is_ready()

    def start(self, aborted: threading.Event | None = None) -> None:
        super().start(aborted)
        self._born_s = time.monotonic()

    def end(self) -> str:
        """SIGTERM; what is wrong with how it left, empty when it did in time and without a complaint. Gone it is in any case."""
        child = self._child
        if child is None:
            return ""
        orderly = self.stop()
        # Until it has imported what it needs it knows nothing of signals, and SIGTERM just ends it.
        is_infant = time.monotonic() - self._born_s < INFANCY_S
        if orderly and child.exit_code in ((0, -signal.SIGTERM) if is_infant else (0,)):
            return ""
        return f"exit code 0 within {STOP_S} s, not {child.exit_text}"

    def has_ended(self) -> bool:
        """Whether it ended by itself: what was killed or stopped on purpose is forgotten by then."""
        return self._child is not None and self._child.exit_code is not None

    def kill(self) -> None:
        """SIGKILL; on purpose, so `check` does not mind."""
        super().kill()
        self._child = None


class World:
    """`start` brings up everything; parts may then be killed, paused and started again."""

    def __init__(self, home: Path, *, workers: int, partitions: int = PARTITIONS) -> None:
        self.home = home
        self.kafka = KafkaServer(home)
        self.clickhouse = ClickHouseServer(home)
        for server in (self.kafka, self.clickhouse):
            server.settle_port()  # Settings name the addresses before the first start.
        config_file = home / "loyalty.toml"
        config_file.write_text(RULES_TOML)
        self.settings = Settings(
            home=str(home), config_file=str(config_file), kafka_bootstrap_servers=self.kafka.bootstrap_servers, kafka_replication_factor=1,
            kafka_partitions=partitions, topic_prefix=PREFIX, clickhouse_url=self.clickhouse.url, clickhouse_database=PREFIX,
            redis_url="redis://unused", internal_token="internal-token-of-the-storm", voucher_key="voucher-key-of-the-storm",
            worker_session_timeout_s=SESSION_TIMEOUT_S, transaction_timeout_s=TRANSACTION_TIMEOUT_S,
        )  # fmt: skip
        self.workers = [self._part(f"worker-{number}", "worker") for number in range(workers)]
        self.sink = self._part("sink-clickhouse", "sink", "clickhouse")

    def _part(self, name: str, *arguments: str) -> Part:
        variables = self.settings.environment() | {"LOYALTY_WORKER_DATA_DIR": str(self.home / "state" / name)}
        return Part(Process(name, (sys.executable, "-m", "streams.cli", *arguments), 0), self.home, port=0, environment=variables)

    def start(self) -> None:
        """Raises StartError."""
        self.kafka.start()
        self.clickhouse.start()
        kafka.ensure_topics(self.settings, changelogs={name: CHANGELOG_CONFIG for name in changelogs(self.settings)})
        for part in self.parts:
            part.start()

    @property
    def parts(self) -> list[Part]:
        """The processes of the pipeline."""
        return [*self.workers, self.sink]

    def keep_log(self, part: Part, number: int) -> Path:
        """Set aside the end of a process's log as it is now: others follow it in the same file."""
        file = self.home / "incidents" / f"{number}-{part.name}.log"
        file.parent.mkdir(exist_ok=True)
        lines = part.log_file.read_text(errors="replace").splitlines()[-INCIDENT_LINES:]
        file.write_text("\n".join(lines) + "\n")
        return file

    def is_ready(self) -> bool:
        """Whether every part says so."""
        return all(part.is_really_ready() for part in self.parts)

    def state_folders(self) -> list[Path]:
        """The folders in which workers keep their partitions' states, of every process that there was."""
        return sorted((self.home / "state").glob(f"worker-*/{app_id(self.settings)}/*"))

    def markers_dropped(self) -> int:
        """How often the broker gave up transaction markers for partitions without a leader (KAFKA-20734): what it then aborted becomes
        visible with the producer's next commit, and no client can help it. Differences of such a storm are not the pipeline's."""
        return sum(DROPPED_MARKERS in line for line in self.kafka.log_file.open(errors="replace"))

    def lose_state(self, worker: int) -> None:
        shutil.rmtree(self.home / "state" / self.workers[worker].name, ignore_errors=True)

    def log_tails(self) -> str:
        """The last lines of every log."""
        texts = []
        for file in sorted((self.home / "logs").glob("*.log")):
            lines = file.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:]
            texts.append(f"--- {file}\n" + "\n".join(lines))
        return "\n".join(texts)

    def kill_all(self) -> None:
        """Leave no process behind."""
        services: list[Service] = [*self.parts, self.clickhouse, self.kafka]
        for service in services:
            service.kill()


@contextmanager
def running(home: Path, *, workers: int, partitions: int = PARTITIONS) -> Iterator[World]:
    world = World(home, workers=workers, partitions=partitions)
    try:
        world.start()
        yield world
        world.clickhouse.stop()
        world.kafka.stop()
    finally:
        world.kill_all()
