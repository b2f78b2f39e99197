"""A receiver of webhooks: a real HTTP server that verifies signatures, remembers every attempt and misbehaves on demand."""

import asyncio
import json
import socket
import struct
import time
from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from streams import signatures

DRIP_INTERVAL_S = 0.05
CHUNK = b"x" * 65536


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """What the receiver does with one request. The plain answer is status 200."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    """Before the answer."""
    hang: bool = False
    """Take the request and never answer."""
    reset: bool = False
    """Cut the connection without an answer."""
    drip_bytes: int = 0
    """Send a body of this many bytes, one every DRIP_INTERVAL_S."""
    body_bytes: int = 0
    """Send a body of this size as fast as it goes."""

    @property
    def accepts(self) -> bool:
        return 200 <= self.status < 300 and not self.hang and not self.reset


OK = Behaviour()
HANG = Behaviour(hang=True)
RESET = Behaviour(reset=True)


def redirect(location: str, status: int = 302) -> Behaviour:
    return Behaviour(status=status, headers={"Location": location})


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """One attempt as the receiver saw it."""

    webhook_id: str
    member: str
    """program_id/member_id of the body."""
    sequence: int
    kind: str
    """The body's type, for example loyalty.balance.changed."""
    attempt: int
    """How often this webhook-id has come by now, from 1."""
    at_s: float
    """Monotonic time of its arrival."""
    verified: bool
    problem: str
    """Why it is not verified; empty if it is."""
    behaviour: Behaviour
    body: bytes
    headers: Mapping[str, str]
    method: str
    path: str

    @property
    def accepted(self) -> bool:
        """Whether it was answered with success."""
        return self.verified and self.behaviour.accepts

    @property
    def data(self) -> dict[str, Any]:
        """The event."""
        data: dict[str, Any] = json.loads(self.body)["data"]
        return data


class Receiver:
    """`start`, read `url`, look into `received`, `stop`. Deliveries that are not genuine get 401, whatever was scripted."""

    def __init__(self, secret: str, host: str = "127.0.0.1", port: int = 0) -> None:
        self.received: list[Received] = []
        """Every attempt, in the order of arrival."""
        self.host = host
        self.port = port
        self._key = signatures.decode_secret(secret)
        self._runner: web.AppRunner | None = None
        self._attempts: defaultdict[str, int] = defaultdict(int)
        self._for_all: deque[Behaviour] = deque()
        self._for_member: defaultdict[str, deque[Behaviour]] = defaultdict(deque)
        self._always = OK
        self._changed = asyncio.Event()
        self._hanging: set[asyncio.Event] = set()

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}/hooks/loyalty"

    async def __aenter__(self) -> "Receiver":
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen. The port that was found at the first start is kept."""
        app = web.Application(client_max_size=1 << 20)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self.host, self.port, reuse_address=True)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        for event in self._hanging:
            event.set()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def go_down(self) -> None:
        """Refuse connections, and cut those that are open."""
        await self.stop()

    async def come_back(self) -> None:
        """Listen again on the same port."""
        if self._runner is None:
            await self.start()

    # What to do.

    def script(self, *steps: Behaviour | int, member: str | None = None) -> None:
        """Answer the next requests (of this member, `program_id/member_id`, or of anybody) like this, one step each; then as always."""
        target = self._for_all if member is None else self._for_member[member]
        target.extend(_behaviour(step) for step in steps)

    def always(self, step: Behaviour | int = OK) -> None:
        """Answer like this whenever the script says nothing."""
        self._always = _behaviour(step)

    # What happened.

    @property
    def accepted(self) -> list[Received]:
        """Attempts that were answered with success."""
        return [one for one in self.received if one.accepted]

    @property
    def unverified(self) -> list[Received]:
        return [one for one in self.received if not one.verified]

    def sequences(self, member: str) -> list[int]:
        """Sequences accepted for one member, in the order of arrival."""
        return [one.sequence for one in self.received if one.member == member and one.accepted]

    def inversions(self) -> int:
        """How often an event was accepted for the first time after a later one of its member."""
        newest: defaultdict[str, int] = defaultdict(int)
        seen: set[str] = set()
        count = 0
        for one in self.received:
            if one.accepted and one.webhook_id not in seen:
                seen.add(one.webhook_id)
                count += one.sequence < newest[one.member]
                newest[one.member] = max(newest[one.member], one.sequence)
        return count

    async def wait_for(self, predicate: Callable[["Receiver"], bool], timeout_s: float = 10.0) -> None:
        """Return when the predicate holds, which is looked at after each request. Raises TimeoutError."""
        async with asyncio.timeout(timeout_s):
            while not predicate(self):
                self._changed.clear()
                await self._changed.wait()

    # One request.

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        one = self._remember(request, body)
        self._changed.set()
        if not one.verified:
            return web.json_response({"reason": one.problem}, status=401)
        how = one.behaviour
        if how.delay_s:
            await asyncio.sleep(how.delay_s)
        if how.reset:
            _reset(request)
            raise asyncio.CancelledError
        if how.hang:
            released = asyncio.Event()
            self._hanging.add(released)
            try:
                await released.wait()
            finally:
                self._hanging.discard(released)
            raise asyncio.CancelledError
        if how.drip_bytes or how.body_bytes:
            return await _send_slowly_or_much(request, how)
        return web.Response(status=how.status, headers=how.headers)

    def _remember(self, request: web.Request, body: bytes) -> Received:
        webhook_id = request.headers.get("webhook-id", "")
        problem = ""
        try:
            signatures.verify(self._key, request.headers, body, now_s=time.time())
        except signatures.SignatureError as error:
            problem = error.reason
        kind, member, sequence = _content_of(body)
        self._attempts[webhook_id] += 1
        one = Received(
            webhook_id=webhook_id, member=member, sequence=sequence, kind=kind, attempt=self._attempts[webhook_id],
            at_s=time.monotonic(), verified=not problem, problem=problem, behaviour=self._next_behaviour(member), body=body,
            headers={name.lower(): value for name, value in request.headers.items()}, method=request.method, path=request.path,
        )  # fmt: skip
        self.received.append(one)
        return one

    def _next_behaviour(self, member: str) -> Behaviour:
        for scripted in (self._for_member.get(member), self._for_all):
            if scripted:
                return scripted.popleft()
        return self._always


def _behaviour(step: Behaviour | int) -> Behaviour:
    return step if isinstance(step, Behaviour) else Behaviour(status=step)


def _content_of(body: bytes) -> tuple[str, str, int]:
    """Type, member and sequence of a body, as far as it has them: nothing about it is trusted yet."""
    try:
        envelope = json.loads(body)
        data = envelope["data"]
        return str(envelope["type"]), f"{data['program_id']}/{data['member_id']}", int(data["sequence"])
    except (ValueError, TypeError, KeyError):
        return "", "", 0


def _reset(request: web.Request) -> None:
    """Cut the connection with RST rather than a polite end."""
    transport = request.transport
    if transport is not None:
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()


async def _send_slowly_or_much(request: web.Request, how: Behaviour) -> web.StreamResponse:
    response = web.StreamResponse(status=how.status, headers=how.headers)
    response.content_length = how.drip_bytes or how.body_bytes
    await response.prepare(request)
    try:
        for _ in range(how.drip_bytes):
            await response.write(b"x")
            await asyncio.sleep(DRIP_INTERVAL_S)
        for start in range(0, how.body_bytes if not how.drip_bytes else 0, len(CHUNK)):
            await response.write(CHUNK[: how.body_bytes - start])
        await response.write_eof()
    except (ConnectionError, OSError):  # The caller has heard enough.
        pass
    return response
