"""The outbound edge against real servers: where it must not go, what a hostile peer cannot do, and what a good one keeps."""

import asyncio
import base64
import gzip
import hashlib
import hmac
import inspect
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohappyeyeballs
import aiohttp
import psutil
import pytest
import trustme

from infra.fakes.receiver import HANG, RESET, Behaviour, Receiver, redirect
from sinks import transport as transport_module
from sinks.addresses import Allowed, parse_allowed
from sinks.transport import BODY_BYTES_MAX, Answer, Failure, Transport
from tests.sinks import ssrf

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
NOTHING = Allowed()
LOCAL = parse_allowed("127.0.0.1")
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Server:
    """A listener that remembers its connections and all that they sent."""

    handler: Handler
    port: int = 0
    peers: list[Any] = field(default_factory=list)
    received: bytes = b""
    open: int = 0
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.peers.append(writer.get_extra_info("peername"))
        self.open += 1
        try:
            await self.handler(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.transport.abort()
            self.open -= 1
            async with self.changed:
                self.changed.notify_all()

    async def wait_for(self, predicate: Callable[["Server"], bool]) -> None:
        async with asyncio.timeout(10), self.changed:
            await self.changed.wait_for(lambda: predicate(self))

    async def read_request(self, reader: asyncio.StreamReader) -> bytes:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next((int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), 0)
        request = head + await reader.readexactly(length)
        self.received += request
        return request


@asynccontextmanager
async def serving(handler: Handler | None = None, *, answer: bytes = OK, host: str = "127.0.0.1", **options: Any) -> AsyncIterator[Server]:
    """A server at a free port; without a handler it gives every request the same answer, on connections that stay open."""

    async def same(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await server.read_request(reader)
            writer.write(answer)
            if b"Connection: close" in answer:
                return await writer.drain()

    server = Server(handler or same)
    listener = await asyncio.start_server(server.serve, host, **{"port": 0, **options})
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listener.close()


@asynccontextmanager
async def transport_of(allowed: Allowed = LOCAL, **options: Any) -> AsyncIterator[Transport]:
    transport = Transport(allowed, **options)
    try:
        yield transport
    finally:
        await transport.close()


async def post(transport: Transport, url: str, *, headers: dict[str, str] | None = None, body: bytes = b"{}", timeout_s: float = 10.0) -> Answer:
    """Within a second more than the timeout, whatever happens."""
    async with asyncio.timeout(timeout_s + 1):
        return await transport.request("POST", url, headers=headers, body=body, timeout_s=timeout_s)


def signed(body: bytes) -> dict[str, str]:
    """Headers that the receiver takes for genuine."""
    key, now = base64.b64decode(SECRET.split("_")[1]), str(int(time.time()))
    digest = hmac.new(key, b".".join([b"id", now.encode(), body]), hashlib.sha256).digest()
    return {"webhook-id": "id", "webhook-timestamp": now, "webhook-signature": "v1," + base64.b64encode(digest).decode()}


def answering(*rounds: list[str]) -> tuple[Callable[[str], Awaitable[list[str]]], list[str]]:
    """A resolver that gives these addresses, one list for each look-up, the last one from then on; and the names it was asked for."""
    asked: list[str] = []

    async def resolve(host: str) -> list[str]:
        asked.append(host)
        return rounds[min(len(asked), len(rounds)) - 1]

    return resolve, asked


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver(SECRET) as running:
        yield running


# Where it must not go.


async def test_no_name_leads_to_an_address_that_is_not_public() -> None:
    for text in ssrf.BLOCKED_ADDRESSES:
        for addresses in ([text], ["8.8.8.8", text], [text, "2606:4700:4700::1111"]):
            resolve, _ = answering(addresses)
            async with transport_of(NOTHING, resolver=resolve) as transport:
                answer = await post(transport, "http://crm.example/hooks")
            assert answer.failure is Failure.BLOCKED_ADDRESS and text in answer.detail, addresses


async def test_no_form_of_a_host_leads_to_this_machine_or_its_networks() -> None:
    """Nothing is connected to: there is a listener that would see it."""
    async with serving(host="127.0.0.1") as trap, transport_of(NOTHING, resolver=ssrf.resolve) as transport:
        outcomes = {host: (await post(transport, f"http://{host}:{trap.port}/")).outcome for host in ssrf.BLOCKED_HOSTS}
        meaningless = {(await post(transport, f"http://{host}:{trap.port}/")).outcome for host in ssrf.MEANINGLESS_HOSTS}
    assert {host: outcome for host, outcome in outcomes.items() if outcome != "BLOCKED_ADDRESS"} == {}
    assert meaningless <= {"BLOCKED_ADDRESS", "DNS", "PROTOCOL"}
    assert trap.peers == []


async def test_the_operating_system_is_asked_for_names_and_all_that_it_says_is_judged() -> None:
    async with serving() as server:
        async with transport_of(NOTHING) as transport:
            assert (await post(transport, f"http://localhost:{server.port}/")).failure is Failure.BLOCKED_ADDRESS
        async with transport_of(parse_allowed("localhost")) as transport:
            assert (await post(transport, f"http://LOCALHOST:{server.port}/")).status == 200
            assert (await post(transport, f"http://127.0.0.1:{server.port}/")).failure is Failure.BLOCKED_ADDRESS, "the name is allowed, not the address"


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700:4700::1111", "64:ff9b::808:808"])
async def test_public_addresses_are_connected_to(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    """NAT64, too. The connection itself is refused here, so that nothing leaves this machine."""
    attempts = []

    async def refuse(addr_infos: Any, **_: Any) -> socket.socket:
        attempts.extend(sockaddr[:2] for *_, sockaddr in addr_infos)
        raise ConnectionRefusedError

    monkeypatch.setattr(aiohappyeyeballs, "start_connection", refuse)
    resolve, _ = answering([address])
    async with transport_of(NOTHING, resolver=resolve) as transport:
        assert (await post(transport, "http://crm.example/")).failure is Failure.CONNECT
        assert (await post(transport, f"http://{f'[{address}]' if ':' in address else address}/")).failure is Failure.CONNECT
    assert len(attempts) == 2 and len(set(attempts)) == 1


async def test_what_was_judged_is_what_is_connected_to() -> None:
    """Rebinding: 127.0.0.2 stands for the public internet; the second look-up would lead inside, and there is none."""
    resolve, asked = answering(["127.0.0.2"], ["127.0.0.1"])
    async with serving(host="127.0.0.2") as outside, serving(host="127.0.0.1", port=outside.port) as inside:
        async with transport_of(parse_allowed("127.0.0.2"), resolver=resolve) as transport:
            answer = await post(transport, f"http://rebind.example:{outside.port}/")
    assert (answer.status, answer.peer_address, asked, inside.peers) == (200, "127.0.0.2", ["rebind.example"], [])


async def test_a_name_that_later_leads_inside_is_blocked_from_then_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport_module, "DNS_TTL_S", 0)
    resolve, asked = answering(["127.0.0.2"], ["127.0.0.2", "127.0.0.1"])
    closing = OK.replace(b"OK\r\n", b"OK\r\nConnection: close\r\n")
    async with serving(host="127.0.0.2", answer=closing) as outside, serving(host="127.0.0.1", port=outside.port) as inside:
        async with transport_of(parse_allowed("127.0.0.2"), resolver=resolve) as transport:
            outcomes = [(await post(transport, f"http://rebind.example:{outside.port}/")).outcome for _ in range(3)]
    assert outcomes == ["200", "BLOCKED_ADDRESS", "BLOCKED_ADDRESS"] and inside.peers == []
    assert len(asked) == 2, "what failed is not looked up again at once"


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_the_peer_of_the_socket_is_judged_before_a_byte_is_sent(monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    """Pins the hook into aiohttp, too: something below connects elsewhere than it was told, and not even TLS begins."""
    received = asyncio.get_running_loop().create_future()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.set_result(await reader.read())

    async def elsewhere(addr_infos: Any, **_: Any) -> socket.socket:
        assert [sockaddr[0] for *_, sockaddr in addr_infos] == ["8.8.8.8"]
        sock = socket.socket()
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", inside.port))
        return sock

    resolve, _ = answering(["8.8.8.8"])
    async with serving(listen) as inside, transport_of(NOTHING, resolver=resolve) as transport:
        monkeypatch.setattr(aiohappyeyeballs, "start_connection", elsewhere)
        answer = await post(transport, f"{scheme}://crm.example/")
        assert answer.failure is Failure.BLOCKED_ADDRESS and "127.0.0.1" in answer.detail
        assert await asyncio.wait_for(received, 10) == b""


def test_the_hooks_into_aiohttp_are_where_they_were() -> None:
    connector = aiohttp.TCPConnector
    assert list(inspect.signature(connector._wrap_create_connection).parameters) == ["self", "args", "addr_infos", "req", "timeout", "client_error", "kwargs"]
    assert list(inspect.signature(connector._wrap_existing_connection).parameters) == ["self", "args", "req", "timeout", "client_error", "kwargs"]
    assert "self._wrap_create_connection(" in inspect.getsource(connector._create_direct_connection)
    assert "self._factory," in inspect.getsource(connector._create_direct_connection)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_to_the_inside_is_an_answer_and_not_followed(receiver: Receiver, status: int) -> None:
    async with serving() as inside, transport_of() as transport:
        receiver.script(redirect(f"http://127.0.0.1:{inside.port}/", status))
        answer = await post(transport, receiver.url, headers=signed(b"{}"))
    assert answer.status == status and inside.peers == []


async def test_no_proxy_of_the_environment_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving() as proxy, serving() as server, transport_of() as transport:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        assert (await post(transport, f"http://127.0.0.1:{server.port}/")).status == 200
        assert proxy.peers == []


# What a hostile peer cannot do.


@pytest.mark.parametrize("behaviour", [HANG, Behaviour(drip_bytes=10_000), Behaviour(delay_s=60)], ids=["hang", "drip", "delay"])
async def test_the_deadline_is_for_the_whole_exchange(receiver: Receiver, behaviour: Behaviour) -> None:
    receiver.always(behaviour)
    async with transport_of() as transport:
        answer = await post(transport, receiver.url, headers=signed(b"{}"), timeout_s=0.5)
    assert answer.failure is Failure.TIMEOUT and "0.5 s" in answer.detail


async def test_headers_that_never_end_do_not_outlive_the_deadline() -> None:
    async def interim(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while not writer.is_closing():
            writer.write(b"HTTP/1.1 103 Early Hints\r\n\r\n")
            await asyncio.sleep(0.01)

    async with serving(interim) as server, transport_of() as transport:
        assert (await post(transport, f"http://127.0.0.1:{server.port}/", timeout_s=0.5)).failure is Failure.TIMEOUT


async def test_ten_gigabytes_are_read_up_to_the_bound_and_take_no_memory(receiver: Receiver) -> None:
    receiver.always(Behaviour(body_bytes=10 << 30))
    async with transport_of() as transport:
        assert len((await post(transport, receiver.url, headers=signed(b"{}"))).body) == BODY_BYTES_MAX
        before = psutil.Process().memory_info().rss
        answers = await asyncio.gather(*(post(transport, receiver.url, headers=signed(b"{}")) for _ in range(20)))
        assert psutil.Process().memory_info().rss - before < 10 << 20
    assert [(one.status, len(one.body)) for one in answers] == [(200, BODY_BYTES_MAX)] * 20


async def test_an_endless_chunked_body_is_read_up_to_the_bound() -> None:
    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            writer.write(b"400\r\n" + b"x" * 1024 + b"\r\n")
            await writer.drain()

    async with serving(endless) as server, transport_of() as transport:
        assert (await post(transport, f"http://127.0.0.1:{server.port}/")).body == b"x" * BODY_BYTES_MAX
        await server.wait_for(lambda one: one.open == 0)


async def test_a_compressed_body_stays_compressed() -> None:
    bomb = gzip.compress(bytes(10 << 20))
    answer = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%s" % (len(bomb), bomb)
    async with serving(answer=answer) as server, transport_of() as transport:
        assert (await post(transport, f"http://127.0.0.1:{server.port}/")).body == bomb
        assert b"accept-encoding: identity" in server.received.lower()


async def test_a_peer_that_reads_nothing_keeps_no_connection_open() -> None:
    """Closed politely, the connection would wait for its bytes to be taken, for as long as the peer likes."""
    body, gone = bytes(64 << 20), asyncio.Event()
    taken = 0

    async def read_when_it_is_over(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal taken
        await gone.wait()
        while data := await reader.read(1 << 20):
            taken += len(data)

    async with serving(read_when_it_is_over, limit=1024) as server, transport_of() as transport:
        assert (await post(transport, f"http://127.0.0.1:{server.port}/", body=body, timeout_s=0.5)).failure is Failure.TIMEOUT
        gone.set()
        await server.wait_for(lambda one: one.open == 0)
    assert taken < len(body)


@pytest.mark.parametrize(("sent", "failure"), [
    (b"220 mail.example ESMTP\r\n\r\n", Failure.PROTOCOL),
    (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n", Failure.PROTOCOL),
    (b"HTTP/1.1 200 OK\r\n" + b"".join(b"X-%d: x\r\n" % n for n in range(10_000)) + b"\r\n", Failure.PROTOCOL),
    (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", Failure.PROTOCOL),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nless", Failure.RESET),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", Failure.PROTOCOL),
    (b"HTTP/1.1 200", Failure.RESET),
    (b"", Failure.RESET),
], ids=["smtp", "long header", "many headers", "negative length", "short body", "bad chunk", "half a line", "nothing"])  # fmt: skip
async def test_what_is_not_http_is_a_failure_and_raises_nothing(sent: bytes, failure: Failure) -> None:
    async def send(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.read_request(reader)
        writer.write(sent)
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    async with serving(send) as server, transport_of() as transport:
        assert (await post(transport, f"http://127.0.0.1:{server.port}/")).failure is failure


async def test_a_reset_and_a_port_that_nobody_listens_at(receiver: Receiver) -> None:
    receiver.always(RESET)
    async with transport_of() as transport:
        assert (await post(transport, receiver.url, headers=signed(b"{}"))).failure is Failure.RESET
        await receiver.go_down()
        assert (await post(transport, receiver.url)).failure is Failure.CONNECT


@pytest.mark.parametrize("url", [
    "", "crm.example", "ftp://crm.example/", "http://", "http://crm.example:99999/", "http://[::1/", "file:///etc/passwd", "http://134744072/",
])  # fmt: skip
async def test_what_is_no_url_is_a_failure(url: str) -> None:
    async with transport_of() as transport:
        assert (await post(transport, url)).failure is Failure.PROTOCOL


async def test_no_detail_tells_a_secret() -> None:
    """Not of the URL, not of a header, and not what a peer says that echoes it."""
    async with serving(answer=b"hush hush\r\n\r\n") as server, serving(answer=b"HTTP/1.1 200 OK\r\nhush\0\r\n\r\n") as other, transport_of() as transport:
        answers = [
            await post(transport, f"http://127.0.0.1:{other.port}/"),
            await post(transport, f"http://127.0.0.1:{server.port}/hooks?token=hush"),
            await post(transport, "http://user:hush@127.0.0.1:1/hush"),
            await post(transport, "hush://127.0.0.1/hush"),
            await post(transport, "http://10.0.0.1/hush"),
            await post(transport, f"http://127.0.0.1:{server.port}/", headers={"authorization": "hush\r\nx: hush"}),
        ]
    assert all(one.failure and one.detail and "hush" not in one.detail for one in answers), answers


# Names.


async def test_a_name_is_looked_up_once_for_all_and_kept() -> None:
    resolve, asked = answering(["127.0.0.1"])
    closing = OK.replace(b"OK\r\n", b"OK\r\nConnection: close\r\n")
    async with serving(answer=closing) as server, transport_of(resolver=resolve) as transport:
        url = f"http://crm.example:{server.port}/"
        await asyncio.gather(*(post(transport, url) for _ in range(5)))
        assert (await post(transport, url)).status == 200
    assert asked == ["crm.example"] and len(server.peers) == 6


async def test_a_name_that_is_not_found_is_not_looked_up_again_at_once() -> None:
    asked = []

    async def resolve(host: str) -> list[str]:
        asked.append(host)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    async with transport_of(resolver=resolve) as transport:
        answers = [await post(transport, "http://crm.example/") for _ in range(3)]
    assert [one.failure for one in answers] == [Failure.DNS] * 3 and asked == ["crm.example"]


async def test_a_name_without_an_answer_delays_no_other() -> None:
    async def resolve(host: str) -> list[str]:
        await asyncio.sleep(3600 if host == "silent.example" else 0)
        return ["127.0.0.1"]

    async with serving() as server, transport_of(resolver=resolve) as transport:
        silent = [asyncio.create_task(post(transport, f"http://silent.example:{server.port}/", timeout_s=0.5)) for _ in range(50)]
        assert (await post(transport, f"http://crm.example:{server.port}/")).status == 200
        assert {one.failure for one in await asyncio.gather(*silent)} == {Failure.TIMEOUT}


# What a good peer keeps.


async def test_an_answer_has_status_headers_body_and_peer() -> None:
    slow = b"HTTP/1.1 429 Slow\r\nRetry-After: 7\r\nContent-Length: 2\r\n\r\nno"
    async with serving(answer=slow) as server, transport_of(user_agent="loyalty-test") as transport:
        answer = await post(transport, f"http://127.0.0.1:{server.port}/hooks?a=1", headers={"webhook-id": "id"}, body=b"body")
    assert (answer.status, answer.outcome, answer.body, answer.peer_address) == (429, "429", b"no", "127.0.0.1")
    assert answer.headers["retry-after"] == answer.headers["Retry-After"] == "7"
    head, _, body = server.received.partition(b"\r\n\r\n")
    assert head.startswith(b"POST /hooks?a=1 HTTP/1.1\r\n") and body == b"body"
    assert b"user-agent: loyalty-test" in head.lower() and b"webhook-id: id" in head.lower() and b"cookie" not in head.lower()


async def test_cookies_are_not_kept() -> None:
    async with serving(answer=b"HTTP/1.1 200 OK\r\nSet-Cookie: a=1\r\nContent-Length: 0\r\n\r\n") as server, transport_of() as transport:
        for _ in range(2):
            await post(transport, f"http://127.0.0.1:{server.port}/")
        assert b"cookie" not in server.received.lower()


@pytest.mark.parametrize("answer", [
    OK, b"HTTP/1.1 204 No Content\r\n\r\n", b"HTTP/1.1 500 No\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
], ids=["200", "204", "500"])  # fmt: skip
async def test_a_connection_is_used_again(answer: bytes) -> None:
    async with serving(answer=answer) as server, transport_of() as transport:
        answers = [await post(transport, f"http://127.0.0.1:{server.port}/{n}", body=bytes(50_000)) for n in range(10)]
    assert len(server.peers) == 1 and {one.peer_address for one in answers} == {"127.0.0.1"}


async def test_many_destinations_do_not_keep_all_their_connections() -> None:
    """The ones that have been idle longest are cut."""
    async with serving() as first, serving() as second, serving() as third, transport_of(idle_connections_max=2) as transport:
        for server in (first, second, first, third):
            assert (await post(transport, f"http://127.0.0.1:{server.port}/")).status == 200
        await second.wait_for(lambda one: one.open == 0)
        assert (await post(transport, f"http://127.0.0.1:{first.port}/")).status == 200
        assert (await post(transport, f"http://127.0.0.1:{second.port}/")).status == 200
    assert [len(one.peers) for one in (first, second, third)] == [1, 2, 1]


async def test_a_request_that_is_cancelled_leaves_nothing_behind() -> None:
    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.read_request(reader)
        reached.set()
        await reader.read()

    reached = asyncio.Event()
    async with serving(hang) as server, transport_of() as transport:
        task = asyncio.create_task(post(transport, f"http://127.0.0.1:{server.port}/"))
        await asyncio.wait_for(reached.wait(), 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await server.wait_for(lambda one: one.open == 0)


async def test_after_its_end_there_are_no_requests() -> None:
    async with serving() as server, transport_of() as transport:
        url = f"http://127.0.0.1:{server.port}/"
        assert (await post(transport, url)).status == 200
        await transport.close()
        assert (await post(transport, url)).failure is Failure.PROTOCOL
        await server.wait_for(lambda one: one.open == 0)


async def test_tls_is_verified_by_the_name_of_the_url(monkeypatch: pytest.MonkeyPatch) -> None:
    authority, context = trustme.CA(), ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("crm.example").configure_cert(context)
    resolve, _ = answering(["127.0.0.1"])
    async with serving(ssl=context) as server, transport_of(resolver=resolve) as transport:
        stranger = await post(transport, f"https://crm.example:{server.port}/")
        assert stranger.failure is Failure.TLS and "certificate verify failed" in stranger.detail
        trusting = ssl.create_default_context()
        authority.configure_trust(trusting)
        monkeypatch.setattr("aiohttp.connector._SSL_CONTEXT_VERIFIED", trusting)
        for _ in range(2):
            answer = await post(transport, f"https://crm.example:{server.port}/")
            assert (answer.status, answer.peer_address) == (200, "127.0.0.1")
        other = await post(transport, f"https://other.example:{server.port}/")
        assert other.failure is Failure.TLS and "Hostname mismatch" in other.detail
    assert len(server.peers) == 1, "those whose certificate was refused never came to be"
