"""What every process shows of itself: one wide JSON log line per thing that happens, /metrics, /healthz and /readyz.

Log with `log.info("event.name", extra={...})`: the message is a stable name, the fields go into `extra`.
"""

import json
import logging
import sys
import time
from collections.abc import Callable
from typing import Any

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonFormatter(logging.Formatter):
    """One JSON object a line: at, level, event, process, then the record's own fields."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        millis = f"{record.msecs:03.0f}" if record.msecs < 999.5 else "999"
        line: dict[str, Any] = {
            "at": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{millis}Z",
            "level": record.levelname,
            "event": record.getMessage(),
            "process": self._process,
        }
        line.update((key, value) for key, value in vars(record).items() if key not in _STANDARD)
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


def configure_logging(process: str, level: str) -> None:
    """Send every log line of this process to standard error as JSON. Libraries speak from WARNING on, unless DEBUG is asked for."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(process))
    logging.basicConfig(level=level if level == "DEBUG" else "WARNING", handlers=[handler], force=True)
    for name in ("streams", "schemas", "sinks", "infra"):
        logging.getLogger(name).setLevel(level)


Readiness = Callable[[], str]
"""Why the process is not ready, as a sentence; empty when it is."""


def add_routes(app: web.Application, readiness: Readiness) -> None:
    """Serve /metrics (Prometheus), /healthz (200 while the process runs) and /readyz (200 when ready, else 503 with the reason)."""

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def healthz(_: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def readyz(_: web.Request) -> web.Response:
        reason = readiness()
        return web.json_response({"status": "not ready", "reason": reason} if reason else {"status": "ready"}, status=503 if reason else 200)

    app.router.add_get("/metrics", metrics)
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)


async def serve(app: web.Application, host: str, port: int, ssl_context: Any = None) -> web.AppRunner:
    """Start `app` on host:port in the running loop; the caller awaits `cleanup()` of what is returned. Raises OSError for a port in use."""
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, host, port, ssl_context=ssl_context).start()
    return runner
