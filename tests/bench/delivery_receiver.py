"""A receiver that costs little: HTTP/1.1 with keep-alive by hand, so that on a few cores it is not the receiver that is measured.

As a process of its own it is the benchmarks' receiver: one line of its log per request, `path TAB webhook-id TAB arrival TAB status`, where
the arrival is in nanoseconds of the machine's monotonic clock; 0 is the status of what is never answered. POST /control changes how it behaves.
"""

import asyncio
import json
import socket
import struct
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

import click

from infra import ports

REASONS = {200: b"OK", 400: b"Bad Request", 429: b"Too Many Requests", 500: b"Internal Server Error", 503: b"Service Unavailable"}
END_OF_HEAD = b"\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Request:
    """One request, whole."""

    path: str
    head: bytes
    """Request line and headers as they came."""
    body: bytes
    at_ns: int
    """When its last byte came, by the monotonic clock."""

    def header(self, name: bytes) -> str:
        """By its lower-case name; empty if it is not there."""
        begin = self.head.lower().find(b"\r\n" + name + b":")
        if begin < 0:
            return ""
        end = self.head.find(b"\r\n", begin + 2)
        return self.head[begin + len(name) + 3 : end if end >= 0 else None].decode("latin-1").strip()

    @property
    def headers(self) -> dict[str, str]:
        lines = self.head.decode("latin-1").split("\r\n")[1:]
        return {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


@dataclass(frozen=True, slots=True)
class Reply:
    """What the receiver does with a request."""

    status: int = 200
    delay_s: float = 0.0
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    hangs: bool = False
    """It is taken and never answered."""
    resets: bool = False
    """The connection is cut without an answer."""

    @property
    def accepts(self) -> bool:
        return 200 <= self.status < 300 and not self.hangs and not self.resets


OK = Reply()
HANG = Reply(hangs=True)
RESET = Reply(resets=True)
Decide = Callable[[Request], Reply]


class Connection(asyncio.Protocol):
    """One connection of a client that waits for each answer before its next request."""

    def __init__(self, decide: Decide) -> None:
        self._decide = decide
        self._transport: asyncio.Transport | None = None
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None

    def data_received(self, data: bytes) -> None:
        self._buffer = self._buffer + data if self._buffer else data
        end = self._buffer.find(END_OF_HEAD)
        if end < 0:
            return
        head = self._buffer[:end]
        lower = head.lower()
        at = lower.find(b"\r\ncontent-length:")
        length = int(lower[at + 17 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
        begin = end + len(END_OF_HEAD)
        if len(self._buffer) < begin + length:
            return
        body, self._buffer = self._buffer[begin : begin + length], self._buffer[begin + length :]
        path = head[: head.find(b"\r\n")].split(b" ")[1].decode("latin-1")
        reply = self._decide(Request(path, head, body, time.monotonic_ns()))
        if reply.hangs:
            return
        if reply.delay_s:
            asyncio.get_running_loop().call_later(reply.delay_s, self._answer, reply)
        else:
            self._answer(reply)

    def _answer(self, reply: Reply) -> None:
        transport = self._transport
        if transport is None:
            return
        if reply.resets:
            # RST rather than a polite end.
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            transport.abort()
        else:
            transport.write(_encoded(reply))


@lru_cache(maxsize=64)
def _encoded(reply: Reply) -> bytes:
    lines = [b"HTTP/1.1 %d %s" % (reply.status, REASONS.get(reply.status, b"-")), b"Content-Length: %d" % len(reply.body)]
    lines += [f"{name}: {value}".encode() for name, value in reply.headers]
    return b"\r\n".join(lines) + END_OF_HEAD + reply.body


async def serve(decide: Decide, port: int) -> None:
    """Answer on the loopback address until cancelled."""
    server = await asyncio.get_running_loop().create_server(lambda: Connection(decide), ports.HOST, port, backlog=4096)
    await server.serve_forever()


class Scripted:
    """How the benchmarks' receiver behaves now. All fields can be set by POST /control."""

    def __init__(self, log: IO[str]) -> None:
        self.delay_s = 0.0
        self.status = 200
        """For everything but what is named below."""
        self.holes: frozenset[str] = frozenset()
        """Paths that never answer."""
        self.failing: str = ""
        """503 for webhook-ids that begin like this; empty: none."""
        self.fails_first = False
        """503 for the first attempt of each webhook-id."""
        self._seen: set[str] = set()
        self._taken: set[str] = set()
        self._log = log

    def __call__(self, request: Request) -> Reply:
        if request.path.startswith("/control"):
            return self._control(request)
        webhook_id = request.header(b"webhook-id")
        reply = self._reply(request.path, webhook_id)
        if reply.accepts:
            self._taken.add(webhook_id)
        self._log.write(f"{request.path}\t{webhook_id}\t{request.at_ns}\t{0 if reply.hangs else reply.status}\n")
        return reply

    def _reply(self, path: str, webhook_id: str) -> Reply:
        if path in self.holes:
            return HANG
        status = self.status
        if self.failing and webhook_id.startswith(self.failing):
            status = 503
        if self.fails_first and webhook_id not in self._seen:
            self._seen.add(webhook_id)
            status = 503
        return Reply(status, self.delay_s)

    def _control(self, request: Request) -> Reply:
        wanted: dict[str, Any] = json.loads(request.body or b"{}")
        for name, value in wanted.items():
            setattr(self, name, frozenset(value) if name == "holes" else value)
        self._log.flush()
        return Reply(body=json.dumps({"taken": len(self._taken), "now_ns": time.monotonic_ns()}).encode())


def control(port: int, **wanted: Any) -> dict[str, int]:
    """Change how the receiver on this port behaves. Its log is whole up to now; `taken` webhook-ids, and `now_ns`."""
    request = urllib.request.Request(f"http://{ports.HOST}:{port}/control", data=json.dumps(wanted).encode(), method="POST")
    with urllib.request.urlopen(request, timeout=30) as response:
        answer: dict[str, int] = json.load(response)
        return answer


@click.command()
@click.option("--port", required=True, type=int)
@click.option("--log", "log_file", required=True, type=click.Path(path_type=Path))
@click.option("--delay-ms", default=0.0)
def main(port: int, log_file: Path, delay_ms: float) -> None:
    """Receive until killed."""
    with log_file.open("a", buffering=1 << 16) as log:
        scripted = Scripted(log)
        scripted.delay_s = delay_ms / 1000
        asyncio.run(serve(scripted, port))


if __name__ == "__main__":
    main()
