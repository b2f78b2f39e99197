"""What fake systems have in common: a real HTTP server on a loopback port, tokens that end, misbehaviour on demand, a memory of what was written."""

import asyncio
import random
import secrets
import time
from collections import Counter, defaultdict, deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Misbehaviour:
    """How one request goes wrong."""

    status: int = 0
    """Answer with this status; 0: see the others."""
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    hangs: bool = False
    """Never answer."""
    delay_s: float = 0.0
    """Answer late."""
    drops: bool = False
    """Do as asked, then cut the connection in place of an answer."""
    refuses_token: bool = False
    """Behave as if the token had ended."""


class FakeServer:
    """One system. Subclasses add routes in `add_routes`, naming what may go wrong by `self.can_fail(kind, handler)`."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0, *, token_life_s: float = 3600.0) -> None:
        self.host = host
        self.port = port
        self.token_life_s = token_life_s
        self.requests: Counter[str] = Counter()
        """By kind."""
        self.misbehaviours: deque[Misbehaviour] = deque()
        """Used up one by one, by requests of any kind but "token"."""
        self.misbehaves: Callable[[str], Misbehaviour | None] = lambda kind: None
        """Asked when the queue is empty."""
        self.tokens: dict[str, float] = {}
        self.tokens_issued = 0
        self.values: dict[str, dict[str, Any]] = {}
        """Record -> its fields, as they are now."""
        self.history: dict[tuple[str, str], list[Any]] = defaultdict(list)
        """(record, field) -> all values that it was given, in order."""
        self._runner: web.AppRunner | None = None
        self._stopping = asyncio.Event()

    def add_routes(self, app: web.Application) -> None:
        raise NotImplementedError

    async def start(self) -> None:
        app = web.Application(client_max_size=64 * 1024 * 1024)
        self.add_routes(app)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, self.host, self.port).start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        self._stopping.set()
        if self._runner is not None:
            await self._runner.cleanup()

    @property
    def base_url(self) -> str:
        return f"http://{self.host}:{self.port}"

    # Misbehaviour.

    def fail_at_random(self, seed: int, share: float, *misbehaviours: Misbehaviour) -> None:
        """From now on this share of all requests goes wrong in one of these ways, the same for the same seed."""
        chance = random.Random(seed)
        self.misbehaves = lambda kind: chance.choice(misbehaviours) if chance.random() < share else None

    def behave(self) -> None:
        self.misbehaviours.clear()
        self.misbehaves = lambda kind: None

    def can_fail(self, kind: str, handler: Handler) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            self.requests[kind] += 1
            wrong = self.misbehaviours.popleft() if self.misbehaviours else self.misbehaves(kind)
            if wrong is None:
                return await handler(request)
            if wrong.hangs:
                await self._stopping.wait()
            if wrong.delay_s:
                await asyncio.sleep(wrong.delay_s)
            if wrong.refuses_token:
                self.expire_tokens()
            if wrong.status:
                return web.Response(status=wrong.status, headers=dict(wrong.headers), body=wrong.body)
            answer = await handler(request)
            if wrong.drops:
                assert request.transport is not None, "the connection is open"
                request.transport.abort()
            return answer

        return handle

    # Tokens.

    def new_token(self) -> str:
        token = secrets.token_urlsafe(16)
        self.tokens[token] = time.monotonic() + self.token_life_s
        self.tokens_issued += 1
        return token

    def is_good(self, token: str) -> bool:
        return self.tokens.get(token, 0.0) > time.monotonic()

    def is_authorized(self, request: web.Request) -> bool:
        return self.is_good(request.headers.get("Authorization", "").removeprefix("Bearer "))

    def expire_tokens(self) -> None:
        """All tokens end now, whatever was promised."""
        self.tokens.clear()

    # What was written.

    def put(self, record: str, values: Mapping[str, Any]) -> bool:
        """Set fields; whether the record is new."""
        is_new = record not in self.values
        self.values.setdefault(record, {}).update(values)
        for name, value in values.items():
            self.history[record, name].append(value)
        return is_new
