"""ClickHouse's own HTTP interface over the embedded engine: what speaks to a ClickHouse server speaks to this, unchanged.

    python -m infra.clickhouse_server --path FOLDER --port 8123

One process per folder: the engine locks it. The data of an INSERT go through a file, so a body of any size needs little memory, and
its answer means that the rows are in the table's files: `kill -9` does not lose them. Queries run in threads, several
at once; /ping is answered by the event loop and so never waits for them.

It differs from the server on purpose or by need in this: no users (any name and password will do, which is why it only
answers requests that come from this machine and are not a foreign web page's), answers are never compressed (they do not leave the
machine), no external tables and no `compress=1` block format (both refused with a clear error).
"""

import asyncio
import functools
import logging
import os
import secrets
import signal
import tempfile
import uuid
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import click
from aiohttp import web

from infra.clickhouse_engine import Answer, Engine, complete, native_header
from infra.clickhouse_errors import QueryError, refusal
from infra.request_body import CHUNK_BYTES, Body, read_form
from infra.sql_statement import Insert, Statement
from infra.sql_statement import statement as parse
from streams.observability import configure_logging

log = logging.getLogger(__name__)

SWEEP_INTERVAL_S = 5
SPOOL_PREFIX = "insert-"
LOGGED_CHARACTERS_MAX = 500  # Of an error: some quote the whole query.
STOP_GRACE_S = 10  # How long a stopping server waits for the queries under way.

LOOPBACK_HOSTS = frozenset({"127.0.0.1", "localhost", "::1"})

# Formats whose blocks can be sent one after the other. All others have a frame around the rows and are sent when complete.
STREAMABLE_FORMATS = frozenset({"Native", "TabSeparated", "TSV", "CSV", "JSONEachRow", "RowBinary"})

CONTENT_TYPES = {
    "TabSeparated": "text/tab-separated-values; charset=UTF-8",
    "TSV": "text/tab-separated-values; charset=UTF-8",
    "CSV": "text/csv; charset=UTF-8; header=absent",
    "CSVWithNames": "text/csv; charset=UTF-8; header=present",
    "JSON": "application/json; charset=UTF-8",
    "JSONCompact": "application/json; charset=UTF-8",
    "JSONEachRow": "application/x-ndjson; charset=UTF-8",
}  # fmt: skip

_TEXT = "text/plain; charset=UTF-8"


class _Exchange:
    """A request, and what every answer to it says."""

    def __init__(self, request: web.Request, timezone: str) -> None:
        self.request = request
        self.parameters = dict(request.query)
        """Those of a form are added when it is read."""
        self.query_id = self.parameters.get("query_id") or str(uuid.uuid4())
        self.headers = {"X-ClickHouse-Query-Id": self.query_id, "X-ClickHouse-Timezone": timezone}
        if database := request.headers.get("X-ClickHouse-Database"):
            self.parameters.setdefault("database", database)

    @property
    def bound(self) -> dict[str, str]:
        """Values for the {name:Type} of the query."""
        return {name.removeprefix("param_"): value for name, value in self.parameters.items() if name.startswith("param_")}

    @property
    def default_format(self) -> str:
        return self.parameters.get("default_format") or self.request.headers.get("X-ClickHouse-Format") or "TabSeparated"

    def is_on(self, name: str) -> bool:
        return self.parameters.get(name, "0") not in ("0", "false")


class Interface:
    """The HTTP side: requests -> engine -> answers."""

    def __init__(self, engine: Engine, spool: Path) -> None:
        """`spool`: folder for the data of inserts on their way. Beside the engine's own: the system's for temporary files may be memory."""
        self._engine = engine
        self._spool = spool

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/ping", self._ok),
            web.get("/replicas_status", self._ok),
            web.get("/", self._query),
            web.post("/", self._query),
        ]  # fmt: skip

    async def _ok(self, _: web.Request) -> web.StreamResponse:
        return web.Response(text="Ok.\n")

    async def _query(self, request: web.Request) -> web.StreamResponse:
        exchange = _Exchange(request, self._engine.timezone)
        if request.method == "GET" and not exchange.parameters:
            return web.Response(text="Ok.\n")
        try:
            return await self._answer(exchange)
        except QueryError as error:
            log.info("query.failed", extra={"query_id": exchange.query_id, "code": error.code, "error": error.text[:LOGGED_CHARACTERS_MAX]})
            return self._failure(error, exchange)
        except ConnectionError:
            log.info("query.client_left", extra={"query_id": exchange.query_id})
            return web.Response(status=499)  # Nobody reads it.

    def _failure(self, failure: QueryError, exchange: _Exchange) -> web.Response:
        code = {"X-ClickHouse-Exception-Code": str(failure.code), "Content-Type": _TEXT}
        body = (self._with_version(failure) + "\n").encode()
        response = web.Response(body=body, status=failure.status, headers={**exchange.headers, **code})
        response.force_close()  # What is left of the request's body is not read: the connection cannot be used again.
        return response

    def _with_version(self, failure: QueryError) -> str:
        return failure.text if "(version " in failure.text else f"{failure.text} (version {self._engine.version})"

    async def _answer(self, exchange: _Exchange) -> web.StreamResponse:
        parameters, request = exchange.parameters, exchange.request
        for name in ("compress", "decompress"):
            if exchange.is_on(name):
                raise refusal(48, "NOT_IMPLEMENTED", f"{name}=1 is not implemented by the embedded server: turn it off in the client")
        start = parameters.get("query", "").encode()
        if request.content_type == "multipart/form-data":
            start = await read_form(request, parameters) or start
        body = Body(start + b"\n" if start else b"", request)
        head, found = await body.head()
        # The engine binds parameters in statements only, not in streams.
        streamed = found if isinstance(found, Insert) and not exchange.bound else None
        sql = b"" if streamed else await body.rest(head)
        statement = None if isinstance(found, Insert) else parse(sql)
        access = self._engine.connection(
            parameters,
            # A page that a browser is led to can make it send a GET, so a GET must never change anything. So says ClickHouse, too.
            readonly=request.method != "POST",
            alters_session=statement is not None and statement.keyword in ("SET", "USE"),
        )
        async with access as connection:
            if statement:
                return await self._statement(exchange, connection, statement)
            if streamed:
                answer = await self._insert(connection, streamed, head, body)
            else:
                answer = await self._engine.run(complete, connection, sql, "TSV", exchange.bound)
            return web.Response(body=b"", headers={**exchange.headers, "X-ClickHouse-Summary": answer.summary, "Content-Type": _TEXT})

    async def _insert(self, connection: Any, insert: Insert, head: bytes, body: Body) -> Answer:
        """Take the data into a file, then insert the file. One that breaks off is not inserted at all.

        The engine's own streaming insert is no choice: when the table refuses the rows, it says that all went well.
        """
        with tempfile.NamedTemporaryFile(prefix=SPOOL_PREFIX, dir=self._spool) as file:
            data = head[insert.data_start :]
            while data:
                await self._engine.run(file.write, data)
                data = await body.chunk()
            await self._engine.run(file.flush)
            return cast(Answer, await self._engine.run(complete, connection, insert.from_file(file.name), "TSV", {}))

    async def _statement(self, exchange: _Exchange, connection: Any, statement: Statement) -> web.StreamResponse:
        output_format = statement.output_format or exchange.default_format
        headers = {**exchange.headers, "Content-Type": _TEXT}
        if statement.has_result:
            headers["X-ClickHouse-Format"] = output_format
            headers["Content-Type"] = CONTENT_TYPES.get(output_format, "application/octet-stream")
        streamable = statement.is_select and output_format in STREAMABLE_FORMATS and not statement.has_totals
        if streamable and not exchange.is_on("wait_end_of_query"):
            return await self._stream(exchange, connection, statement, output_format, headers)
        answer = await self._engine.run(complete, connection, statement.sql, output_format, exchange.bound)
        content = answer.content
        if not len(content) and statement.has_result and output_format == "Native":
            content = await self._engine.run(native_header, connection, statement, exchange.bound)
        response = web.StreamResponse(headers={**headers, "X-ClickHouse-Summary": answer.summary})
        response.content_length = len(content)
        await response.prepare(exchange.request)
        for start in range(0, len(content), CHUNK_BYTES):
            # A copy: the transport may hold on to it for longer than the engine's memory lasts.
            await response.write(bytes(content[start : start + CHUNK_BYTES]))
        await response.write_eof()
        return response

    async def _stream(
        self, exchange: _Exchange, connection: Any, statement: Statement, output_format: str, headers: Mapping[str, str]
    ) -> web.StreamResponse:
        """Send the result block by block. An error after the first block ends the answer with ClickHouse's own mark of it."""
        send = functools.partial(connection.send_query, params=dict(exchange.bound))
        stream = await self._engine.run(send, statement.sql, output_format)
        try:
            block = await self._engine.run(stream.fetch)
            if block is None:  # The only one that can have no rows is not sent.
                await self._engine.run(stream.close)  # Else the connection would answer nothing more.
                native = output_format == "Native"
                content = await self._engine.run(native_header, connection, statement, exchange.bound) if native else b""
                return web.Response(body=content, headers=headers)
            tag = secrets.token_hex(8)
            response = web.StreamResponse(headers={**headers, "X-ClickHouse-Exception-Tag": tag})
            response.enable_chunked_encoding()
            await response.prepare(exchange.request)
            try:
                while block is not None:
                    await response.write(block.bytes())
                    block = await self._engine.run(stream.fetch)
            except QueryError as error:
                text = self._with_version(error)
                mark = f"__exception__\r\n{tag}\r\n{text}\n{len(text.encode()) + 1} {tag}\r\n__exception__\r\n"
                await response.write(mark.encode())
                if exchange.request.transport is not None:
                    # The chunks get no end: a client that knows nothing of the mark must not take this for success.
                    exchange.request.transport.close()
                return response
            await response.write_eof()
            return response
        finally:
            await self._engine.run(stream.close)


# The process


def _from_this_machine_only(host: str) -> Any:
    """Refuse what a foreign web page makes a browser send: SQL reads files, and there is no password."""

    def local(name: str | None) -> bool:
        return name in LOOPBACK_HOSTS

    @web.middleware
    async def check(request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> web.StreamResponse:
        if host in LOOPBACK_HOSTS:
            origin = request.headers.get("Origin")
            named = request.headers.get("Host")
            foreign = request.headers.get("Sec-Fetch-Site") == "cross-site" or (origin and not local(urlsplit(origin).hostname))
            if foreign or (named and not local(urlsplit(f"//{named}").hostname)):
                return web.Response(text="This server answers programs on this machine only.\n", status=403)
        return await handler(request)

    return check


async def serve(path: str, host: str, port: int) -> None:
    """Serve `path` until SIGTERM or SIGINT. Raises OSError for a port in use and RuntimeError for a folder in use."""
    engine = Engine(path)
    spool = Path(path).resolve().parent
    for leftover in spool.glob(f"{SPOOL_PREFIX}*"):  # Of a server that was killed. Its engine's lock is ours now.
        leftover.unlink()
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    app = web.Application(middlewares=[_from_this_machine_only(host)])
    app.add_routes(Interface(engine, spool).routes())
    # Bodies are uncompressed here, because the web server knows fewer encodings than ClickHouse's clients send.
    runner = web.AppRunner(app, access_log=None, auto_decompress=False, shutdown_timeout=STOP_GRACE_S)
    await runner.setup()
    await web.TCPSite(runner, host, port).start()
    log.info("clickhouse.started", extra={"path": path, "port": port, "version": engine.version})
    while not stopping.is_set():
        try:
            await asyncio.wait_for(stopping.wait(), SWEEP_INTERVAL_S)
        except TimeoutError:
            await engine.sweep()
    killer = asyncio.get_running_loop().call_later(STOP_GRACE_S + 2, _give_up)
    await runner.cleanup()
    await asyncio.to_thread(engine.close)
    killer.cancel()
    log.info("clickhouse.stopped")


def _give_up() -> None:
    """A query that cannot be stopped must not keep the process: what was acknowledged is safe without a clean end."""
    log.warning("clickhouse.stopped_with_queries_under_way")
    os._exit(1)


@click.command()
@click.option("--path", required=True, help="Folder of the data; created when absent.")
@click.option("--port", type=int, required=True)
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--log-level", default="WARNING", show_default=True)
def main(path: str, port: int, host: str, log_level: str) -> None:
    """Serve ClickHouse's HTTP interface over the embedded engine."""
    configure_logging("clickhouse", log_level)
    asyncio.run(serve(path, host, port))


if __name__ == "__main__":
    main()
