"""The one place that talks HTTP outwards: one request in, one answer or one named failure out. Never raises for what a peer does.

Each destination gets a transport of its own, with connections of its own: a peer that never answers takes only its own slots.
"""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC
from email.utils import parsedate_to_datetime
from enum import StrEnum

import aiohttp

BODY_BYTES_MAX = 64 * 1024  # An answer's body is read up to here; then the connection is closed.


class Failure(StrEnum):
    """Why there is no answer."""

    DNS = "DNS"
    CONNECT = "CONNECT"
    TLS = "TLS"
    TIMEOUT = "TIMEOUT"
    RESET = "RESET"
    PROTOCOL = "PROTOCOL"  # What came back is not HTTP, or the URL is none.


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What became of one request: a status, or a failure."""

    seconds: float
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    """By lower-case name."""
    body: bytes = b""
    """The first BODY_BYTES_MAX bytes, as they were sent: never decompressed."""
    failure: Failure | None = None
    detail: str = ""
    """Of a failure, for people."""

    @property
    def outcome(self) -> str:
        """The status or the failure's name, for logs and metrics."""
        return str(self.status) if self.failure is None else self.failure.value


class Transport:
    """Connections to one destination."""

    def __init__(self, *, concurrency_max: int, timeout_s: float, user_agent: str = "loyalty-sync") -> None:
        self._concurrency_max = concurrency_max
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._user_agent = user_agent
        self._session: aiohttp.ClientSession | None = None

    async def request(self, method: str, url: str, *, headers: Mapping[str, str] | None = None, body: bytes | None = None) -> Answer:
        """One exchange within the timeout, from the look-up of the name to the last byte of the body. Redirects are not followed."""
        began_s = time.monotonic()
        try:
            async with self._open_session().request(method, url, headers=headers, data=body, allow_redirects=False) as response:
                content = await self._read(response)
                return Answer(
                    seconds=time.monotonic() - began_s,
                    status=response.status,
                    headers={name.lower(): value for name, value in response.headers.items()},
                    body=content,
                )
        except Exception as error:
            return Answer(seconds=time.monotonic() - began_s, failure=_failure(error), detail=f"{type(error).__name__}: {error}"[:300])

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        """The body up to its bound. What is longer is not read: the connection is closed instead of used again."""
        chunks, size = [], 0
        async for chunk in response.content.iter_any():
            chunks.append(chunk[: BODY_BYTES_MAX - size])
            size += len(chunk)
            if size >= BODY_BYTES_MAX:
                response.close()
                break
        return b"".join(chunks)

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=self._concurrency_max, ttl_dns_cache=30),
                timeout=self._timeout,
                headers={"User-Agent": self._user_agent, "Accept-Encoding": "identity"},
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
            )
        return self._session


def retry_after_s(value: str, now_s: float) -> float | None:
    """The seconds that a Retry-After header asks for, in either of its forms; None if it is neither."""
    text = value.strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        moment = parsedate_to_datetime(text)
        return max(0.0, (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() - now_s)
    except (ValueError, TypeError, OverflowError):
        return None


def _failure(error: Exception) -> Failure:
    match error:
        case asyncio.TimeoutError():
            return Failure.TIMEOUT
        case aiohttp.ClientConnectorDNSError():
            return Failure.DNS
        case aiohttp.ClientSSLError():
            return Failure.TLS
        case aiohttp.ClientConnectorError():
            return Failure.CONNECT
        case aiohttp.InvalidURL():
            return Failure.PROTOCOL
        case aiohttp.ClientPayloadError() | aiohttp.ServerDisconnectedError() | aiohttp.ClientOSError() | ConnectionError():
            return Failure.RESET
        case _:
            return Failure.PROTOCOL
