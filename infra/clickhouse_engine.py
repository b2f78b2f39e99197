"""The embedded ClickHouse engine: its connections, sessions and threads. Knows queries and settings, nothing of HTTP.

A connection costs a third of a millisecond, so every request gets one of its own and leaves nothing behind in it. Only a request with a
session finds what an earlier one has left there.
"""

import asyncio
import functools
import json
import re
import time
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import chdb
from chdb._exceptions import ChdbError

from infra.clickhouse_errors import QueryError, refusal
from infra.sql_statement import Statement

QUERIES_MAX = 16  # Run at once; each takes a thread. More wait their turn.
SESSIONS_MAX = 1000  # Idle ones beyond this are closed, oldest first. One takes about 150 KB.
SESSION_GRACE_S = 0.25  # How long a second query of a session waits for the first one to end.
SESSION_TIMEOUT_S = 60  # ClickHouse's default, and
SESSION_TIMEOUT_S_MAX = 3600  # its largest.

# Parameters that belong to the interface and not to the engine, or that only concern what this server does not do.
INTERFACE_PARAMETERS = frozenset({
    "query", "database", "default_format", "session_id", "session_timeout", "session_check", "close_session", "query_id", "quota_key",
    "user", "password", "role", "compress", "decompress", "wait_end_of_query", "buffer_size", "client_protocol_version", "stacktrace",
    "enable_http_compression", "http_zlib_compression_level", "send_progress_in_http_headers", "http_headers_progress_interval_ms",
    "cancel_http_readonly_queries_on_client_close", "add_http_cors_header",
})  # fmt: skip

_IDENTIFIER = re.compile(r"[A-Za-z_]\w*")
_connect: Callable[[str], Any] = chdb.connect


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete result and what it took."""

    content: Any
    """Bytes, or a view on the engine's own memory, which lasts as long as `owner`."""
    owner: Any = None
    read_rows: int = 0
    read_bytes: int = 0
    written_rows: int = 0
    written_bytes: int = 0
    elapsed_s: float = 0.0

    @property
    def summary(self) -> str:
        counts = {
            "read_rows": self.read_rows, "read_bytes": self.read_bytes, "written_rows": self.written_rows,
            "written_bytes": self.written_bytes, "total_rows_to_read": self.read_rows, "result_rows": 0, "result_bytes": 0,
            "elapsed_ns": int(self.elapsed_s * 1e9),
        }  # fmt: skip
        return json.dumps({name: str(count) for name, count in counts.items()})


@dataclass
class _Session:
    """A connection that outlives a request: temporary tables, SET and USE last as long as it does."""

    connection: Any
    timeout_s: float
    applied: tuple[str, dict[str, str]] = ("", {})
    """Database and settings of the last request, still in force: most requests of a session bring the same again."""
    before: tuple[str, dict[str, str | None]] = ("", {})
    """What was in force before them."""
    busy: bool = False
    free: asyncio.Event = field(default_factory=asyncio.Event)
    """Set while it is not busy."""
    used_at_s: float = field(default_factory=time.monotonic)


class Engine:
    """The one engine of this process, its connections and the threads its queries run in."""

    def __init__(self, path: str) -> None:
        """Raises RuntimeError when another process has the folder open."""
        self._path = path
        self._threads = ThreadPoolExecutor(QUERIES_MAX, thread_name_prefix="query")
        self._places = asyncio.Semaphore(QUERIES_MAX)
        self._sessions: dict[str, _Session] = {}
        self._anchor = _connect(path)  # The engine runs as long as one connection is open.
        self.version, self.timezone = self._anchor.query("SELECT version(), timezone()", "TSV").bytes().decode().strip().split("\t")

    async def run(self, call: Callable[..., Any], *arguments: Any) -> Any:
        """`call` in a thread, with the engine's errors as QueryError."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, functools.partial(call, *arguments))
        except (ChdbError, RuntimeError) as error:
            raise QueryError(str(error)) from None

    @asynccontextmanager
    async def connection(self, parameters: Mapping[str, str], *, readonly: bool, alters_session: bool) -> AsyncIterator[Any]:
        """A connection with the request's session, database and settings, for one query. `alters_session`: it is a SET or USE."""
        async with self._places:
            settings = _settings(parameters)
            database = parameters.get("database", "")
            session_id = parameters.get("session_id", "")
            if session_id and (readonly or "readonly" in settings):
                # It cannot be taken back from a connection, and a session's must go on to work.
                raise refusal(164, "READONLY", "The embedded server has no read-only queries in sessions: use POST, without readonly")
            if session_id:
                async with self._session(session_id, parameters) as session:
                    # What SET and USE change must not be undone with the settings of a request.
                    await self.run(_prepare, session, *(("", {}) if alters_session else (database, settings)))
                    yield session.connection
                return
            connection = await self.run(_connect, self._path)
            try:
                if readonly:
                    settings |= {"readonly": "2"}
                await self.run(_apply, connection, database, settings)
                yield connection
            finally:
                await self.run(connection.close)

    @asynccontextmanager
    async def _session(self, session_id: str, parameters: Mapping[str, str]) -> AsyncIterator[_Session]:
        session = self._sessions.get(session_id)
        if session is not None and session.busy:
            # A client has the end of an answer a moment before the session is free again, and may be that quick.
            with suppress(TimeoutError):
                await asyncio.wait_for(session.free.wait(), SESSION_GRACE_S)
            session = self._sessions.get(session_id)
        if session is None:
            if parameters.get("session_check") == "1":
                raise refusal(372, "SESSION_NOT_FOUND", "Session not found")
            # The place is taken before the connection is there: two first requests at once must not open two.
            session = self._sessions[session_id] = _Session(connection=None, timeout_s=SESSION_TIMEOUT_S)
        if session.busy:
            raise refusal(373, "SESSION_IS_LOCKED", f"Session {session_id} is locked by a concurrent client")
        session.busy = True
        session.free.clear()
        try:
            session.timeout_s = _timeout_s(parameters)
            if session.connection is None:
                session.connection = await self.run(_connect, self._path)
            yield session
        finally:
            session.busy = False
            session.used_at_s = time.monotonic()
            try:
                if session.connection is None or parameters.get("close_session") == "1":
                    await self._close_session(session_id)
            finally:
                session.free.set()

    async def sweep(self) -> None:
        """Close sessions that were idle for too long, or that are too many."""
        now_s = time.monotonic()
        idle = sorted((s for s in self._sessions.items() if not s[1].busy), key=lambda s: s[1].used_at_s)
        surplus = len(self._sessions) - SESSIONS_MAX
        over = [name for number, (name, s) in enumerate(idle) if number < surplus or now_s - s.used_at_s > s.timeout_s]
        for name in over:
            if name in self._sessions and not self._sessions[name].busy:  # Others ran while the one before was closed.
                await self._close_session(name)

    async def _close_session(self, session_id: str) -> None:
        session = self._sessions.pop(session_id, None)
        if session and session.connection is not None:
            await self.run(session.connection.close)

    def close(self) -> None:
        """Close every connection; the engine writes out what it holds and unlocks the folder."""
        for session in self._sessions.values():
            if session.connection is not None:
                session.connection.close()
        self._anchor.close()
        self._threads.shutdown()


def _timeout_s(parameters: Mapping[str, str]) -> float:
    asked = parameters.get("session_timeout") or str(SESSION_TIMEOUT_S)
    if not asked.isdecimal():
        raise refusal(36, "BAD_ARGUMENTS", f"Invalid session timeout: {_quoted(asked)}")
    return min(int(asked), SESSION_TIMEOUT_S_MAX)


def _settings(parameters: Mapping[str, str]) -> dict[str, str]:
    settings = {k: v for k, v in parameters.items() if k not in INTERFACE_PARAMETERS and not k.startswith("param_")}
    for name in settings:
        if not _IDENTIFIER.fullmatch(name):
            raise refusal(115, "UNKNOWN_SETTING", f"Unknown setting {_quoted(name)}")
    return settings


def _apply(connection: Any, database: str, settings: Mapping[str, str]) -> None:
    if database:
        connection.query("USE `" + database.replace("\\", "\\\\").replace("`", "\\`") + "`", "TSV")
    # readonly comes last: after it, nothing else can be set.
    assignments = sorted(settings.items(), key=lambda item: item[0] == "readonly")
    if assignments:
        connection.query("SET " + ", ".join(f"{name} = {_quoted(value)}" for name, value in assignments), "TSV")


def _prepare(session: _Session, database: str, settings: dict[str, str]) -> None:
    """Put the request's database and settings in force instead of the last one's."""
    if session.applied == (database, settings):
        return
    if session.applied != ("", {}):
        _restore(session.connection, session.before)
        session.applied = ("", {})
    if database or settings:
        session.before = _remember(session.connection, settings)
        try:
            _apply(session.connection, database, settings)
        except Exception:
            _restore(session.connection, session.before)
            raise
        session.applied = (database, settings)


def _remember(connection: Any, settings: Mapping[str, str]) -> tuple[str, dict[str, str | None]]:
    """Database and settings as they are now; None for a setting at its default. Names that are no settings are left out."""
    database = json.loads(connection.query("SELECT currentDatabase() AS name", "JSONEachRow").bytes())["name"]
    if not settings:
        return database, {}
    names = ", ".join(map(_quoted, settings))
    rows = connection.query(f"SELECT name, value, changed FROM system.settings WHERE name IN ({names})", "JSONEachRow").bytes()
    return database, {row["name"]: row["value"] if row["changed"] else None for row in map(json.loads, rows.splitlines())}


def _restore(connection: Any, before: tuple[str, dict[str, str | None]]) -> None:
    database, settings = before
    _apply(connection, database, {name: value for name, value in settings.items() if value is not None})
    defaults = [name for name, value in settings.items() if value is None]
    if defaults:
        connection.query("SET " + ", ".join(f"{name} = DEFAULT" for name in defaults), "TSV")


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def complete(connection: Any, sql: bytes, output_format: str, bound: Mapping[str, str]) -> Answer:
    """Run a query to its end."""
    result = connection.query(sql, output_format, params=dict(bound))
    return Answer(
        content=result.get_memview().view() if result.size() else b"", owner=result,
        read_rows=result.storage_rows_read(), read_bytes=result.storage_bytes_read(),
        written_rows=result.rows_written(), written_bytes=result.bytes_written(), elapsed_s=result.elapsed(),
    )  # fmt: skip


def native_header(connection: Any, statement: Statement, bound: Mapping[str, str]) -> bytes:
    """The block with names and types but no rows that the server sends for an empty result, and the engine does not."""
    sql = statement.sql
    if statement.is_select:
        sql = b"DESCRIBE (" + sql + b"\n)"
        rows = connection.query(sql, "JSONCompactEachRow", params=dict(bound)).bytes().splitlines()
        columns = [tuple(json.loads(row)[:2]) for row in rows]
    else:
        names, types = connection.query(sql, "JSONCompactEachRowWithNamesAndTypes", params=dict(bound)).bytes().splitlines()[:2]
        columns = list(zip(json.loads(names), json.loads(types), strict=True))
    texts = b"".join(_leb128(len(text.encode())) + text.encode() for column in columns for text in column)
    return _leb128(len(columns)) + _leb128(0) + texts


def _leb128(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes(out) + bytes([number])
