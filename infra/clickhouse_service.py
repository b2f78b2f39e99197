"""The embedded ClickHouse (`infra.clickhouse_server`) as one process of the stack."""

import sys
from pathlib import Path
from typing import ClassVar

from infra import ports
from infra.http_probe import answers_ok
from infra.service import Service


class ClickHouseServer(Service):
    """`url` is valid once started. The same `home` gives the same databases."""

    stop_timeout_s: ClassVar[float] = 20  # The server itself gives its queries 12.

    def __init__(self, home: Path, *, port: int = 0) -> None:
        super().__init__("clickhouse", home, port=port)

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    def prepare(self) -> None:
        (self.folder / "data").mkdir(exist_ok=True)

    def command(self) -> list[str]:
        arguments = ["--path", str(self.folder / "data"), "--host", ports.HOST, "--port", str(self.port)]
        return [sys.executable, "-m", "infra.clickhouse_server", *arguments]

    def is_ready(self) -> bool:
        return answers_ok(f"{self.url}/ping")
