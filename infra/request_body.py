"""A request to the ClickHouse interface -> its query, uncompressed, in chunks."""

import zlib
from collections.abc import Callable
from typing import Any

from aiohttp import BodyPartReader, web

from infra.clickhouse_errors import refusal
from infra.sql_statement import Insert, Undecided, insert

STATEMENT_BYTES_MAX = 64 << 20  # Of a statement without data. The engine's own max_query_size (256 KiB) comes first, unless raised.
INSERT_HEAD_BYTES_MAX = 1 << 20  # An INSERT that has not reached its data by then is taken for a statement without data.
CHUNK_BYTES = 1 << 20  # One hand-over between the event loop and a thread, both ways.


class _Decompressor:
    """Undoes `Content-Encoding`, chunk by chunk. A body may be several streams on end: clickhouse-connect sends one per block."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._current = make()
        self.is_complete = True
        """Whether the bytes so far end where a stream ends."""

    def feed(self, data: bytes) -> bytes:
        parts = []
        while data:
            parts.append(self._current.decompress(data))
            self.is_complete = self._current.eof
            data = b""
            if self.is_complete:
                data = self._current.unused_data
                self._current = self._make()
        return b"".join(parts)


def _decompressor(encoding: str) -> _Decompressor | None:
    """None for a body that is not compressed. Raises QueryError for an encoding that cannot be undone here."""
    try:
        if encoding in ("", "identity"):
            return None
        if encoding in ("gzip", "deflate"):
            return _Decompressor(lambda: zlib.decompressobj(zlib.MAX_WBITS | 32))  # Either header.
        if encoding == "lz4":
            import lz4.frame

            return _Decompressor(lz4.frame.LZ4FrameDecompressor)
        if encoding == "zstd":
            from backports import zstd

            return _Decompressor(zstd.ZstdDecompressor)
    except ImportError:
        pass
    raise refusal(48, "NOT_IMPLEMENTED", f"Content-Encoding {encoding!r} cannot be read here; gzip always can")


class Body:
    """The query of a request: the `query` parameter, a line break and the body, uncompressed, in chunks."""

    def __init__(self, start: bytes, request: web.Request) -> None:
        self._start = start
        self._stream = request.content
        self._decompressor = _decompressor(request.headers.get("Content-Encoding", "").lower())

    async def chunk(self) -> bytes:
        """The next bytes, about CHUNK_BYTES of them while there are as many; empty at the end."""
        parts, size = [self._start], len(self._start)
        self._start = b""
        while size < CHUNK_BYTES:
            data = await self._stream.readany()
            parts.append(self._decompressed(data) if self._decompressor else data)
            size += len(parts[-1])
            if not data:
                break
        return b"".join(parts)

    def _decompressed(self, data: bytes) -> bytes:
        assert self._decompressor
        try:
            out = self._decompressor.feed(data)
        except Exception as error:  # Every library has its own.
            raise refusal(354, "INFLATE_FAILED", f"The body does not match its Content-Encoding: {error}") from None
        if not data and not self._decompressor.is_complete:
            raise refusal(354, "INFLATE_FAILED", "The compressed body is cut short")
        return out

    async def head(self) -> tuple[bytes, Insert | Undecided]:
        """Bytes from the start, as many as it takes to know what they are."""
        data = b""
        while True:
            chunk = await self.chunk()
            data += chunk
            found = insert(data, complete=not chunk)
            if found is not Undecided.MORE_BYTES_NEEDED or len(data) > INSERT_HEAD_BYTES_MAX:
                return data, found

    async def rest(self, head: bytes) -> bytes:
        """All of it, `head` included. Raises QueryError beyond STATEMENT_BYTES_MAX."""
        parts, size = [head], len(head)
        while chunk := await self.chunk():
            parts.append(chunk)
            size += len(chunk)
            if size > STATEMENT_BYTES_MAX:
                raise refusal(223, "QUERY_IS_TOO_LARGE", f"A statement without data may have {STATEMENT_BYTES_MAX} bytes")
        return b"".join(parts)


async def read_form(request: web.Request, parameters: dict[str, str]) -> bytes:
    """The query of a multipart form; its other fields become parameters."""
    query = b""
    async for part in await request.multipart():
        if not isinstance(part, BodyPartReader) or part.name is None or part.filename:
            raise refusal(48, "NOT_IMPLEMENTED", "External tables are not implemented by the embedded server")
        value = await part.read()
        if part.name == "query":
            query = bytes(value)
        else:
            parameters[part.name] = bytes(value).decode()
    return query
