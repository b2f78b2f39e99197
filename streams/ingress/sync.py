"""GET /v1/sync: how often streams and jobs go, how their runs went, and what waits; what `loyalty sync status --json` says."""

import asyncio
from collections.abc import AsyncIterator

import orjson
from aiohttp import web

from streams.errors import UnavailableError
from streams.ingress.authentication import authenticate, require_scope
from streams.ingress.parts import PARTS
from streams.scheduling import jobs
from streams.scheduling.runs import RunLog
from streams.sync import status

SCOPE = "operations:read"
READY_TIMEOUT_S = 10.0  # For the runs to be read, the first time that somebody asks.


class _Runs:
    """The topic of runs, followed from the first question on."""

    def __init__(self, run_log: RunLog) -> None:
        self._run_log = run_log
        self._is_read = False

    async def read(self) -> RunLog:
        """Raises UnavailableError."""
        if not self._is_read:
            self._is_read = True
            self._run_log.start()
        try:
            await asyncio.wait_for(self._run_log.ready(), READY_TIMEOUT_S)
        except TimeoutError as error:
            raise UnavailableError("the topic of runs has not been read yet") from error
        return self._run_log

    async def close(self) -> None:
        await self._run_log.close()


RUNS = web.AppKey("runs", _Runs)


def add_routes(app: web.Application) -> None:
    app.cleanup_ctx.append(_open)
    app.router.add_get("/v1/sync", get_sync, allow_head=False)


async def _open(app: web.Application) -> AsyncIterator[None]:
    parts = app[PARTS]
    app[RUNS] = runs = _Runs(RunLog(parts.settings, parts.codec))
    yield
    await runs.close()


async def get_sync(request: web.Request) -> web.Response:
    """Every stream and job of the deployment. Raises UnavailableError."""
    parts = request.app[PARTS]
    token = authenticate(parts.configuration.tokens, request.headers.get("Authorization"))
    require_scope(token, SCOPE)
    parts.require_ready()
    sources = status.Sources(
        settings=parts.settings, configuration=parts.configuration, codec=parts.codec, jobs=jobs.load(parts.settings, parts.configuration),
        control=parts.sync, run_log=await request.app[RUNS].read(),
    )  # fmt: skip
    rows = await status.rows(sources, int(parts.clock() * 1000))
    return web.Response(body=orjson.dumps(rows), content_type="application/json", headers={"Cache-Control": "no-store"})
