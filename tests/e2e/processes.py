"""Pipeline processes as a deployment runs them: `python -m streams.cli ...` with nothing but an environment."""

import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from streams.settings import PREFIX, Settings
from tests.waiting import wait_until


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Pipeline:
    """One process of the pipeline."""

    def __init__(self, settings: Settings, *arguments: str, name: str = "", http_port: int = 0) -> None:
        """`http_port`: 0 for one that is free; the ingress's own, for an ingress."""
        self.settings = replace(settings, http_port=http_port or free_port())
        self.name = name or "-".join(arguments)
        self.log_file = Path(settings.home) / f"{self.name}.log"
        environment = {key: value for key, value in os.environ.items() if not key.startswith(PREFIX)} | self.settings.environment()
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen([sys.executable, "-m", "streams.cli", *arguments], env=environment, stdout=log, stderr=log)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.settings.http_port}"

    def is_ready(self) -> bool:
        assert self.process.poll() is None, f"{self.name} ended:\n{self.log_file.read_text()[-3000:]}"
        try:
            with urllib.request.urlopen(f"{self.url}/readyz", timeout=2) as response:
                return bool(response.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def wait_ready(self, timeout_s: float = 60) -> "Pipeline":
        wait_until(self.is_ready, timeout_s=timeout_s)
        return self

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(30)

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


@contextmanager
def pipeline(settings: Settings, *arguments: str) -> Iterator[Pipeline]:
    process = Pipeline(settings, *arguments)
    try:
        yield process
    finally:
        if process.process.poll() is None:
            process.kill()
