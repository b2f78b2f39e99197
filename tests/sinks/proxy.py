"""A proxy before ClickHouse that counts inserts, delays them, loses their answers, and answers them with any error a server could give."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import aiohttp
from aiohttp import web

from infra import ports


class Proxy:
    """`url` stands for the server."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.port = ports.choose()
        self.failing: tuple[int, str] | None = None
        """Status and text with which every insert is answered instead of being passed on."""
        self.inserts = 0
        self.delay_s = 0.0
        """Of every insert before it is passed on."""
        self.losing = 0
        """Of so many inserts that were passed on, the answers get lost."""
        self.unanswered = 0
        """Requests for which no server was there."""
        self._loop = asyncio.new_event_loop()
        self._started = threading.Event()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=lambda: self._loop.run_until_complete(self._serve()), daemon=True)

    @property
    def url(self) -> str:
        return f"http://{ports.HOST}:{self.port}"

    def start(self) -> None:
        self._thread.start()
        assert self._started.wait(10)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    async def _serve(self) -> None:
        async with aiohttp.ClientSession(auto_decompress=False) as self._session:
            app = web.Application(client_max_size=1 << 28)
            app.router.add_route("*", "/{path:.*}", self._pass)
            runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
            await runner.setup()
            await web.TCPSite(runner, ports.HOST, self.port).start()
            self._started.set()
            await self._stop.wait()
            await runner.cleanup()

    async def _pass(self, request: web.Request) -> web.Response:
        body = await request.read()
        is_insert = "INSERT" in request.query.get("query", "") or body[:10].upper().startswith(b"INSERT")
        if is_insert:
            self.inserts += 1
            if self.failing is not None:
                return _error(*self.failing)
            await asyncio.sleep(self.delay_s)
        hop = ("host", "content-length", "transfer-encoding")
        keep = {name: value for name, value in request.headers.items() if name.lower() not in hop}
        try:
            async with self._session.request(request.method, self.target + request.path_qs, data=body, headers=keep) as response:
                if is_insert and self.losing:
                    self.losing -= 1
                    return _bad_gateway()
                drop = ("content-length", "transfer-encoding", "connection")
                headers = {name: value for name, value in response.headers.items() if name.lower() not in drop}
                return web.Response(status=response.status, body=await response.read(), headers=headers)
        except aiohttp.ClientError:
            self.unanswered += 1
            return _bad_gateway()


def _bad_gateway() -> web.Response:
    return web.Response(status=502, text="Bad Gateway")


def _error(status: int, text: str) -> web.Response:
    code = text.removeprefix("Code: ").partition(".")[0]
    return web.Response(status=status, text=text, headers={"X-ClickHouse-Exception-Code": code})


@contextmanager
def proxy(target: str) -> Iterator[Proxy]:
    unit = Proxy(target)
    unit.start()
    try:
        yield unit
    finally:
        unit.stop()
