"""All processes of a storm over deliveries, in a folder of their own, on free ports: broker, sinks, and one receiver for all destinations."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cryptography.fernet import Fernet

from infra import ports
from infra.kafka_server import KafkaServer
from infra.stack import Process
from streams import kafka
from streams.settings import Settings
from tests.bench import delivery_receiver
from tests.chaos.deliveries import plan
from tests.chaos.world import Part
from tests.e2e.oracle import RULES_TOML
from tests.sinks.examples import SECRET
from tests.waiting import wait_until

PARTITIONS = 4
PREFIX = "deliveries"
TIMEOUT_S = 2  # Short: a destination that hangs is one of many things that happen.
LOG_TAIL_LINES = 25
DESTINATION = """
[destinations.{name}]
url = "http://{host}:{port}/hooks/{name}"
secret = "{secret}"
timeout_s = {timeout_s}
"""


class World:
    """`start` brings up everything but the sinks; those are started, killed and stopped by whoever makes the storm."""

    def __init__(self, home: Path, *, seed: int, sinks: int, partitions: int = PARTITIONS) -> None:
        self.home = home
        self.seed = seed
        self.kafka = KafkaServer(home)
        self.kafka.settle_port()
        self.receiver_port = ports.choose()
        self.receiver_log = home / "receiver.log"
        self._receiver: subprocess.Popen[bytes] | None = None
        config_file = home / "loyalty.toml"
        config_file.write_text(RULES_TOML + "".join(
            DESTINATION.format(name=name, host=ports.HOST, port=self.receiver_port, secret=SECRET, timeout_s=TIMEOUT_S) for name in plan.DESTINATIONS
        ))  # fmt: skip
        self.settings = Settings(
            home=str(home), config_file=str(config_file), kafka_bootstrap_servers=self.kafka.bootstrap_servers, kafka_replication_factor=1,
            kafka_partitions=partitions, topic_prefix=PREFIX, internal_token="internal-token-of-the-storm", voucher_key="voucher-key-of-the-storm",
            delivery_allowed_addresses=f"{ports.HOST}/32", destination_keys=Fernet.generate_key().decode(),
        )  # fmt: skip
        self.sinks = [self._sink(f"sink-{number}") for number in range(sinks)]

    def _sink(self, name: str) -> Part:
        process = Process(name, (sys.executable, "-m", "streams.cli", "sink", "webhooks"), 0)
        return Part(process, self.home, port=0, environment=self.settings.environment())

    def start(self) -> None:
        """Raises StartError."""
        self.kafka.start()
        kafka.ensure_topics(self.settings)
        command = [sys.executable, "-m", "tests.chaos.deliveries.receiver", "--port", str(self.receiver_port), "--log", str(self.receiver_log),
                   "--seed", str(self.seed)]  # fmt: skip
        self._receiver = subprocess.Popen(command)
        wait_until(lambda: ports.accepts(self.receiver_port), timeout_s=30)

    def control(self, **wanted: Any) -> dict[str, int]:
        """How destinations behave now, and what they have accepted."""
        return delivery_receiver.control(self.receiver_port, **wanted)

    def log_tails(self) -> str:
        """The last lines of every log."""
        texts = []
        for file in sorted((self.home / "logs").glob("*.log")):
            lines = file.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:]
            texts.append(f"--- {file}\n" + "\n".join(lines))
        return "\n".join(texts)

    def kill_all(self) -> None:
        """Leave no process behind."""
        for service in (*self.sinks, self.kafka):
            service.kill()
        if self._receiver is not None:
            self._receiver.kill()
            self._receiver.wait()
        ports.give_back(self.receiver_port)


@contextmanager
def running(home: Path, *, seed: int, sinks: int, partitions: int = PARTITIONS) -> Iterator[World]:
    world = World(home, seed=seed, sinks=sinks, partitions=partitions)
    try:
        world.start()
        yield world
    finally:
        world.kill_all()
