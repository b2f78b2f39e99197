"""The one place that talks HTTP outwards: one request in, one answer or one named failure out. Never raises for what a peer does.

All destinations share one pool of connections, which limits nothing: each destination bounds its own requests elsewhere. What a peer can do is bounded
here: a deadline for the whole exchange, a bound for the body, and every connection that is not fit for another request is cut, not closed politely.

Where a request may go is decided three times, see sinks/addresses.py: the URL's host, if it writes out an address; all addresses of its name, of which
one that is not allowed spoils the name; and the peer of the socket, once it is connected and before anything is sent. The addresses that were judged
are those that are connected to: a name is not looked up again in between.
"""

import asyncio
import functools
import heapq
import re
import resource
import socket
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import ip_address
from typing import Any

import aiohappyeyeballs
import aiohttp
from aiohttp.abc import AbstractResolver, AbstractStreamWriter, ResolveResult
from aiohttp.client_proto import ResponseHandler
from yarl import URL

from sinks.addresses import SETTING, Allowed, canonical_name, is_allowed, literal_address

BODY_BYTES_MAX = 64 * 1024  # An answer's body is read up to here, unless a request wants more; then the connection is cut.
KEEPALIVE_S = 30.0
DNS_TTL_S = 30
DNS_FAILURE_TTL_S = 5.0
DNS_THREADS = 64  # A look-up takes a thread until the name's server answers: those that never do must not take them all.
NAMES_MAX = 20_000  # Look-ups and URLs that are kept.

Resolve = Callable[[str], Awaitable[Sequence[str]]]
"""Host name -> all its addresses. Raises OSError if there are none."""


class Failure(StrEnum):
    """Why there is no answer."""

    DNS = "DNS"
    BLOCKED_ADDRESS = "BLOCKED_ADDRESS"  # The destination is not of the public internet, and the operator does not allow it.
    CONNECT = "CONNECT"
    TLS = "TLS"
    TIMEOUT = "TIMEOUT"
    RESET = "RESET"
    PROTOCOL = "PROTOCOL"  # What came back is not HTTP, or the URL is none.
    AUTHORIZATION = "AUTHORIZATION"  # There is no token to send it with.


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What became of one request: a status, or a failure."""

    seconds: float
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    """Of the answer; found by a name in any case."""
    body: bytes = b""
    """Its first bytes, as they were sent: never decompressed."""
    peer_address: str | None = None
    """The IP address that answered."""
    failure: Failure | None = None
    detail: str = ""
    """Of a failure, for people. Without the URL and the headers, which may be secret."""

    @property
    def outcome(self) -> str:
        """The status or the failure's name, for logs and metrics."""
        return str(self.status) if self.failure is None else self.failure.value


class Transport:
    """Connections to all destinations of this process. Belongs to one event loop."""

    def __init__(
        self, allowed: Allowed, *, user_agent: str = "loyalty-sync", resolver: Resolve | None = None, idle_connections_max: int | None = None
    ) -> None:
        """`idle_connections_max`: most that are kept open for a next request; None: half of the files that the process may open."""
        self._allowed = allowed
        self._user_agent = user_agent
        self._resolver = _Resolver(allowed, resolver)
        self._idle_connections_max = idle_connections_max or _open_files_max() // 2
        self._session: aiohttp.ClientSession | None = None
        self._target = functools.lru_cache(NAMES_MAX)(self._judge_url)

    async def request(
        self, method: str, url: str, *, headers: Mapping[str, str] | None = None, body: bytes | None = None, timeout_s: float,
        bytes_max: int = BODY_BYTES_MAX, before: Callable[[], None] | None = None,
    ) -> Answer:  # fmt: skip
        """One exchange within the timeout, from the look-up of the name to the last byte of the body, of which `bytes_max` are read at most.
        Redirects are not followed. `before` is called when the connection stands, right before the request is handed to it: if it raises, nothing
        of the request's body is sent."""
        began_s = time.monotonic()
        data = body if before is None else _Checked(body or b"", before)
        try:
            async with asyncio.timeout(timeout_s):
                response = await self._open_session().request(method, self._target(url), headers=headers, data=data, allow_redirects=False)
                try:
                    content = await _read(response.content, bytes_max)
                finally:
                    response.close()  # Cuts the connection, unless all is read: then it has gone back to the pool already.
        except Exception as error:
            failure, detail = _failure(error, timeout_s)
            return Answer(seconds=time.monotonic() - began_s, failure=failure, detail=detail[:300])
        assert isinstance(response, _Response)
        return Answer(
            seconds=time.monotonic() - began_s, status=response.status, headers=response.headers, body=content, peer_address=response.peer_address,
        )  # fmt: skip

    async def close(self) -> None:
        """For good: requests after it fail."""
        if self._session is not None:
            await self._session.close()
        self._resolver.close_threads()

    def _judge_url(self, text: str) -> URL:
        """Raises _BlockedAddress for a host that writes out an address that is not allowed, ValueError for what is no URL."""
        url = URL(text)
        address = literal_address(url.raw_host or "")
        if address is not None and not is_allowed(address, self._allowed.networks):
            raise _BlockedAddress(str(address))
        return url

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=_Connector(self._allowed, self._resolver, self._idle_connections_max),
                timeout=aiohttp.ClientTimeout(),  # The deadline is request's own.
                headers={"User-Agent": self._user_agent, "Accept-Encoding": "identity"},
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                trust_env=False,
                response_class=_Response,
            )
        return self._session


class _BlockedAddress(Exception):
    """The address, as text, is not allowed."""


class _Resolver(AbstractResolver):
    """Look-ups that give all addresses of a name or, if one of them is not allowed, none. The connector keeps what it gets for DNS_TTL_S."""

    def __init__(self, allowed: Allowed, resolve: Resolve | None) -> None:
        self._allowed = allowed
        self._resolve = resolve or self._ask_system
        self._threads = ThreadPoolExecutor(DNS_THREADS, thread_name_prefix="dns")
        self._failures: dict[str, tuple[float, Exception]] = {}
        """Name -> when that ends (monotonic), and what was raised."""

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC) -> list[ResolveResult]:
        until_s, failure = self._failures.get(host, (0.0, None))
        if failure is not None and time.monotonic() < until_s:
            raise failure.with_traceback(None)
        try:
            texts = await self._resolve(host)
            self._judge(host, texts)
        except (OSError, UnicodeError, _BlockedAddress) as error:
            if len(self._failures) >= NAMES_MAX:
                self._failures.clear()
            failure = error if isinstance(error, OSError | _BlockedAddress) else OSError(f"{host!r} is no host name")
            self._failures[host] = time.monotonic() + DNS_FAILURE_TTL_S, failure
            raise failure from None
        self._failures.pop(host, None)
        return [ResolveResult(hostname=host, host=text, port=port, family=_family(text), proto=0, flags=socket.AI_NUMERICHOST) for text in texts]

    async def close(self) -> None:
        self.close_threads()

    def close_threads(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _judge(self, host: str, texts: Sequence[str]) -> None:
        if not texts:
            raise OSError("the name has no addresses")
        if canonical_name(host) not in self._allowed.names:
            for text in texts:
                if not is_allowed(ip_address(text), self._allowed.networks):
                    raise _BlockedAddress(text)

    async def _ask_system(self, host: str) -> list[str]:
        found = await asyncio.get_running_loop().run_in_executor(self._threads, functools.partial(socket.getaddrinfo, host, None, type=socket.SOCK_STREAM))
        return list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))


class _Protocol(ResponseHandler):
    """One connection. Whenever it is closed it is cut: a peer that reads nothing, or never ends TLS, would keep a politely closed one open."""

    peer_address: str | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.peer_address = transport.get_extra_info("peername")[0]
        super().connection_made(transport)

    def close(self) -> None:
        self.abort()


class _Response(aiohttp.ClientResponse):
    """An answer that knows whose it is."""

    peer_address: str | None = None

    def start(self, connection: Any) -> Coroutine[Any, Any, aiohttp.ClientResponse]:
        self.peer_address = connection.protocol.peer_address  # Before the answer is read: with its end the connection goes back to the pool.
        return super().start(connection)


class _Checked(aiohttp.BytesPayload):
    """A body that is only sent if a last look allows it. aiohttp holds the head back until the body is written."""

    def __init__(self, body: bytes, before: Callable[[], None]) -> None:
        super().__init__(body)
        self._before = before

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        self._before()
        await super().write_with_length(writer, content_length)


class _Connector(aiohttp.TCPConnector):
    """Connects to addresses that are allowed, and keeps a bounded number of connections idle.

    aiohttp has no public hook between the connection and TLS: `_wrap_create_connection` and `_wrap_existing_connection`, and the pool `_conns`,
    are its own, so its version is pinned and a test watches them.
    """

    def __init__(self, allowed: Allowed, resolver: AbstractResolver, idle_max: int) -> None:
        super().__init__(limit=0, keepalive_timeout=KEEPALIVE_S, ttl_dns_cache=DNS_TTL_S, dns_cache_max_size=NAMES_MAX, resolver=resolver)
        make: Callable[..., ResponseHandler] = _Protocol
        self._factory = functools.partial(make, loop=self._loop)
        self._allowed = allowed
        self._idle_max = idle_max

    async def _wrap_create_connection(
        self, *args: Any, addr_infos: list[aiohappyeyeballs.AddrInfoType], req: aiohttp.ClientRequest, timeout: aiohttp.ClientTimeout,
        client_error: type[Exception] = aiohttp.ClientConnectorError, **kwargs: Any,
    ) -> tuple[asyncio.Transport, ResponseHandler]:  # fmt: skip
        """Connect to the first of the addresses that answers, look at who it is, and only then begin to talk."""
        self._cut_idle()
        host = req.url.raw_host or ""
        for *_, sockaddr in addr_infos:
            self._judge(host, sockaddr)
        try:
            sock = await aiohappyeyeballs.start_connection(addr_infos, happy_eyeballs_delay=self._happy_eyeballs_delay, loop=self._loop)
        except OSError as error:
            raise client_error(req.connection_key, error) from error
        try:
            self._judge(host, sock.getpeername())
        except BaseException:
            sock.close()
            raise
        return await self._wrap_existing_connection(*args, req=req, timeout=timeout, client_error=client_error, sock=sock, **kwargs)

    def _judge(self, host: str, sockaddr: Any) -> None:
        if not is_allowed(ip_address(sockaddr[0]), self._allowed.networks) and canonical_name(host) not in self._allowed.names:
            raise _BlockedAddress(str(sockaddr[0]))

    def _cut_idle(self) -> None:
        """Make room for a connection: of too many idle ones, those that have been idle longest go, a tenth at once."""
        if sum(map(len, self._conns.values())) < self._idle_max:
            return
        idle = ((since_s, protocol) for connections in self._conns.values() for protocol, since_s in connections)
        for _, protocol in heapq.nsmallest(max(1, self._idle_max // 10), idle, key=lambda one: one[0]):
            protocol.close()
        # The pool drops what is cut when it next looks at it; so that it is not counted again until then:
        for key, connections in list(self._conns.items()):
            alive = [one for one in connections if one[0].is_connected()]
            if len(alive) < len(connections):
                connections.clear()
                connections.extend(alive)
            if not alive:
                del self._conns[key]


async def _read(content: aiohttp.StreamReader, bytes_max: int) -> bytes:
    """The body up to its bound."""
    body = bytearray()
    while not content.at_eof():
        body += await content.readany()
        if len(body) >= bytes_max:
            return bytes(body[:bytes_max])
    return bytes(body)


def _open_files_max() -> int:
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1 << 16 if limit == resource.RLIM_INFINITY else limit


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _failure(error: Exception, timeout_s: float) -> tuple[Failure, str]:
    """What it was, and a detail that holds nothing of the request but the host's name: the texts of some errors have the URL or a header."""
    match error:
        case _BlockedAddress():
            return Failure.BLOCKED_ADDRESS, f"the address {error} is not of the public internet, and {SETTING} does not have it"
        case TimeoutError():
            return Failure.TIMEOUT, f"no complete answer within {timeout_s:g} s"
        case aiohttp.ClientConnectorDNSError():
            return Failure.DNS, str(error)
        case aiohttp.ClientSSLError():
            return Failure.TLS, str(error)
        case aiohttp.ClientConnectorError():
            return Failure.CONNECT, str(error)
        case aiohttp.ClientPayloadError() | aiohttp.ServerDisconnectedError() | aiohttp.ClientOSError() | ConnectionError():
            return Failure.RESET, f"{type(error).__name__}: the connection ended before the answer did"
        case aiohttp.ClientResponseError():
            return Failure.PROTOCOL, "not HTTP: " + re.split(r"[:'\"\n]", error.message)[0]  # What follows is the peer's.
        case _:
            return Failure.PROTOCOL, f"{type(error).__name__}: the URL, a header or the answer is not HTTP"
