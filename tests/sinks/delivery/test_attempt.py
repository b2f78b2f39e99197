"""One attempt against real receivers: what goes out, what an answer means, and what of it may be kept."""

import asyncio
import base64
import hashlib
import hmac
import json
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import psutil
import pytest
import trustme
from aiohttp import web

from infra.fakes.receiver import DRIP_INTERVAL_S, HANG, RESET, Behaviour, Receiver, redirect, too_many
from schemas.contract import member_key
from schemas.records import AttemptVerdict, DeliveryAttempt, LoyaltyEvent, LoyaltyEventKind
from sinks.addresses import parse_allowed
from sinks.authorization import tokens_of
from sinks.base import Receipt, Verdict
from sinks.delivery import attempt
from sinks.delivery.attempt import GONE, MASKED, REPLAY_HEADER, Exchange, Result, batch_id, judge, masked_request, masked_response, masked_url, send_test
from sinks.delivery.evidence import REQUEST_BODY_BYTES_MAX, RESPONSE_BODY_BYTES_MAX, Attempted, attempt_of
from sinks.delivery.outlet import Budget, Outlet
from sinks.delivery.records import Outgoing, Payload
from sinks.transport import BODY_BYTES_MAX, Answer, Failure, Transport
from streams import signatures
from streams.connectors.tokens import FRESH_S, TokenKeeper
from streams.destinations.model import Bearer, ClientCredentials, Destination, Scheme, Secret
from streams.settings import Settings
from tests.sinks.broker import codec
from tests.sinks.delivery.support import LOOPBACK, destination
from tests.sinks.examples import EVERY_KIND, MOMENT_MS, SECRET, delivery_notice, event

MOMENT_S = MOMENT_MS / 1000


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver(SECRET) as running:
        yield running


@pytest.fixture
async def transport() -> AsyncIterator[Transport]:
    one = Transport(parse_allowed(LOOPBACK))
    yield one
    await one.close()


def outgoing(record: Payload, offset: int = 0) -> Outgoing:
    key = member_key(record.program_id, record.member_id) if isinstance(record, LoyaltyEvent) else b"crm"
    return Outgoing(offset=offset, key=key, record=record, timestamp_ms=MOMENT_MS + offset)


async def send(exchange: Exchange, *records: Payload, is_batch: bool = False, job: str = "", timeout_s: float = 5.0) -> Result:
    return await exchange.send([outgoing(one, offset) for offset, one in enumerate(records)], is_batch=is_batch, job=job, timeout_s=timeout_s)


def hmac_entry(secret: str, message_id: str, timestamp: str, body: bytes) -> str:
    """Standard Webhooks v1 by its specification, without any of our code."""
    digest = hmac.new(base64.b64decode(secret.split("_", 1)[1]), b".".join([message_id.encode(), timestamp.encode(), body]), hashlib.sha256).digest()
    return "v1," + base64.b64encode(digest).decode()


# What goes out.


async def test_every_attempt_has_the_same_id_and_body_and_its_own_time(receiver: Receiver, transport: Transport) -> None:
    receiver.script(500)
    now_s = time.time()
    for at_s, verdict in ((now_s, Verdict.RETRY), (now_s + 7, Verdict.DELIVERED)):
        result = await send(Exchange(destination(receiver), transport, clock=lambda at_s=at_s: at_s), event(1))  # type: ignore[misc]
        assert (result.receipt.verdict, result.webhook_id, result.started_at_ms) == (verdict, "grand-m-1-1", int(at_s * 1000))
        assert (result.count, result.was_answered) == (1, True)
    first, second = receiver.received
    assert (first.webhook_id, first.body) == (second.webhook_id, second.body)
    assert int(second.headers["webhook-timestamp"]) - int(first.headers["webhook-timestamp"]) == 7
    for one in (first, second):
        assert one.headers["webhook-signature"] == hmac_entry(SECRET, one.webhook_id, one.headers["webhook-timestamp"], one.body)
        assert (one.method, one.headers["content-type"]) == ("POST", "application/json")
        assert one.headers["user-agent"].startswith("loyalty-sync") and REPLAY_HEADER not in one.headers


@pytest.mark.parametrize("kind", [kind.value for kind in EVERY_KIND])
async def test_every_kind_is_sent_and_genuine(receiver: Receiver, transport: Transport, kind: str) -> None:
    assert (await send(Exchange(destination(receiver), transport), EVERY_KIND[LoyaltyEventKind(kind)])).receipt.verdict is Verdict.DELIVERED
    assert receiver.received[0].verified and receiver.received[0].data["kind"] == kind


async def test_a_notice_is_sent_under_its_own_id(receiver: Receiver, transport: Transport) -> None:
    result = await send(Exchange(destination(receiver), transport), delivery_notice(3))
    assert result.receipt.verdict is Verdict.DELIVERED
    assert [(one.webhook_id, one.kind) for one in receiver.accepted] == [("crm-exhausted-3", "loyalty.delivery.exhausted")]


async def test_a_replay_says_so(receiver: Receiver, transport: Transport) -> None:
    exchange = Exchange(destination(receiver), transport)
    await send(exchange, event(1))
    await send(exchange, event(1), job="again-1")
    assert [one.headers.get(REPLAY_HEADER) for one in receiver.accepted] == [None, "again-1"]
    assert receiver.accepted[0].body == receiver.accepted[1].body


@pytest.mark.parametrize(("correlation_id", "sent"), [("c-1", "c-1"), (None, None), ("two\r\nlines: x", None), ("é", None), ("x" * 200, None)])
async def test_a_correlation_id_goes_along_if_a_header_can_hold_it(
    receiver: Receiver, transport: Transport, correlation_id: str | None, sent: str | None
) -> None:
    result = await send(Exchange(destination(receiver), transport), event(1, correlation_id=correlation_id))
    assert result.receipt.verdict is Verdict.DELIVERED
    assert receiver.accepted[0].headers.get("x-correlation-id") == sent


async def test_a_destinations_own_headers_are_on_every_attempt_and_no_record_has_them(receiver: Receiver, transport: Transport) -> None:
    exchange = Exchange(destination(receiver, headers={"x-api-key": "hush", "x-tenant": "north"}), transport)
    receiver.script(500)
    results = [await send(exchange, event(1)), await send(exchange, event(1))]
    assert [(one.headers["x-api-key"], one.headers["x-tenant"]) for one in receiver.received] == [("hush", "north")] * 2
    for result in results:
        shown = masked_request(result.headers)
        assert (shown["x-api-key"], shown["x-tenant"]) == (MASKED, MASKED)
        assert "hush" not in repr(result) and "hush" not in result.receipt.detail


@pytest.mark.parametrize(("url", "kept"), [
    ("https://crm.example.com/hooks?token=hush&tenant=north", f"https://crm.example.com/hooks?token={MASKED}&tenant={MASKED}"),
    ("https://crm.example.com/hooks?v2&empty=", "https://crm.example.com/hooks?v2&empty"),
    ("https://crm.example.com:8443/hooks/a%20b", "https://crm.example.com:8443/hooks/a%20b"),
])  # fmt: skip
def test_values_in_an_address_are_not_kept(url: str, kept: str) -> None:
    assert masked_url(url) == kept


# Signatures.


def secret(number: int, *, scheme: Scheme = Scheme.HMAC, created_at_s: float = 0, expires_at_s: float | None = None) -> Secret:
    value = signatures.new_secret(scheme.value)
    expires_at_ms = None if expires_at_s is None else int(expires_at_s * 1000)
    return Secret(secret_id=f"s{number}", value=value, created_at_ms=int(created_at_s * 1000), expires_at_ms=expires_at_ms)


def signers(result: Result, secrets: list[Secret]) -> list[str]:
    """Ids of the secrets with which the attempt is signed."""
    signed_at_s = float(result.headers["webhook-timestamp"])
    found = []
    for one in secrets:
        key = signatures.public_key(one.value) if one.scheme is Scheme.ED25519 else one.value
        try:
            signatures.Verifier([key]).verify(result.headers, result.body, now_s=signed_at_s)
            found.append(one.secret_id)
        except signatures.SignatureError:
            pass
    return found


async def test_all_secrets_that_have_not_expired_sign_and_the_youngest_if_all_have(receiver: Receiver, transport: Transport) -> None:
    receiver.trust([])
    secrets = [
        secret(1, created_at_s=1, expires_at_s=MOMENT_S + 10), secret(2, created_at_s=2, expires_at_s=MOMENT_S + 20),
        secret(3, scheme=Scheme.ED25519, created_at_s=3, expires_at_s=MOMENT_S + 30),
    ]  # fmt: skip
    now_s = MOMENT_S
    exchange = Exchange(destination(receiver, secrets=tuple(secrets)), transport, clock=lambda: now_s)
    seen = []
    for now_s in (MOMENT_S, MOMENT_S + 9.999, MOMENT_S + 10, MOMENT_S + 20, MOMENT_S + 30, MOMENT_S + 10**6):
        seen.append(signers(await send(exchange, event(1)), secrets))
    assert seen == [["s1", "s2", "s3"], ["s1", "s2", "s3"], ["s2", "s3"], ["s3"], ["s3"], ["s3"]]
    assert len(receiver.accepted) == len(seen), "a delivery is never unsigned and never held back"


async def test_another_secret_is_refused_by_the_receiver(receiver: Receiver, transport: Transport) -> None:
    result = await send(Exchange(destination(receiver, secrets=(secret(1),)), transport), event(1))
    assert (result.receipt.status, result.receipt.verdict) == (401, Verdict.RETRY)
    assert receiver.unverified and not receiver.accepted


# Batches.


async def test_a_batch_is_signed_as_one_and_has_the_bytes_of_each(receiver: Receiver, transport: Transport) -> None:
    exchange = Exchange(destination(receiver), transport)
    records = [event(number, correlation_id="c-1") for number in (1, 2, 3)]
    for one in records:
        await send(exchange, one)
    results = [await send(exchange, *records, is_batch=True) for _ in range(2)]
    batch, again = receiver.accepted[3:]
    assert [one.count for one in results] == [3, 3]
    assert batch.webhook_id == again.webhook_id == results[0].webhook_id == batch_id([outgoing(one) for one in records])
    assert batch.body == again.body and batch.verified and batch.kind == "loyalty.batch"
    assert all(alone.body in batch.body for alone in receiver.accepted[:3])
    assert json.loads(batch.body)["timestamp"] == "2026-03-01T12:00:00.002Z", "when the last of them was appended"
    assert "x-correlation-id" not in batch.headers


async def test_a_batch_of_one_is_a_batch(receiver: Receiver, transport: Transport) -> None:
    result = await send(Exchange(destination(receiver), transport), event(1), is_batch=True)
    assert result.webhook_id == batch_id([outgoing(event(1))])
    assert [(one.kind, one.webhook_id, len(one.data["events"])) for one in receiver.accepted] == [("loyalty.batch", result.webhook_id, 1)]


def test_a_batch_of_other_events_or_in_another_order_has_another_id() -> None:
    one, two, three = (outgoing(event(number)) for number in (1, 2, 3))
    ids = [batch_id(records) for records in ([one, two], [two, one], [one, two, three], [one], [one, three])]
    assert len(set(ids)) == len(ids)


async def test_a_batch_ends_before_what_cannot_be_rendered_which_is_then_refused(receiver: Receiver, transport: Transport) -> None:
    exchange = Exchange(destination(receiver), transport)
    broken = event(3, occurred_at_ms=10**17)
    first = await send(exchange, event(1), event(2), broken, event(4), is_batch=True)
    assert (first.receipt.verdict, first.count, first.webhook_id) == (Verdict.DELIVERED, 2, batch_id([outgoing(event(1)), outgoing(event(2))]))
    second = await send(exchange, broken, event(4), is_batch=True)
    assert (second.receipt.verdict, second.receipt.reason, second.count) == (Verdict.REFUSED, "NOT_RENDERABLE", 1)
    assert second.webhook_id == broken.event_id
    assert [[inner["data"]["sequence"] for inner in one.data["events"]] for one in receiver.received] == [[1, 2]]


# What cannot be sent.


@pytest.mark.parametrize(
    ("one", "reason"),
    [
        (event(1, event_id="a.b"), "NOT_RENDERABLE"),
        (event(1, occurred_at_ms=10**17), "NOT_RENDERABLE"),
        (event(1, kind=LoyaltyEventKind.UNKNOWN), "KIND_UNKNOWN"),
    ],
    ids=["id that makes the signed content ambiguous", "time beyond the year 9999", "kind of a later version"],
)  # fmt: skip
async def test_what_cannot_be_sent_is_refused_for_good_and_says_nothing_of_the_destination(
    receiver: Receiver, transport: Transport, one: LoyaltyEvent, reason: str
) -> None:
    result = await send(Exchange(destination(receiver), transport), one)
    assert (result.receipt.verdict, result.receipt.reason, result.outcome) == (Verdict.REFUSED, reason, reason)
    assert (result.was_answered, result.count, receiver.received) == (False, 1, [])


# What an answer means: the table of the module's docstring.

TAKEN = (200, 201, 202, 204, 206, 299)
NOT_FOLLOWED = (300, 301, 302, 303, 304, 307, 308)
WAITS = (408, 425, 429, 500, 501, 502, 503, 504, 599)
MENDED_LATER = (400, 401, 403, 404, 405, 409, 413, 415, 422, 451, 499)
STATUSES = [
    *((status, Verdict.DELIVERED, "") for status in TAKEN),
    *((status, Verdict.RETRY, "") for status in (*NOT_FOLLOWED, *WAITS, *MENDED_LATER)),
    (410, Verdict.RETRY, GONE),
]


@pytest.mark.parametrize(("status", "verdict", "reason"), STATUSES)
async def test_what_a_status_means(receiver: Receiver, transport: Transport, status: int, verdict: Verdict, reason: str) -> None:
    receiver.script(Behaviour(status=status, headers={"Location": receiver.url + "/elsewhere"} if status in NOT_FOLLOWED else {}))
    result = await send(Exchange(destination(receiver), transport), event(1))
    assert (result.receipt.verdict, result.receipt.status, result.receipt.reason) == (verdict, status, reason)
    assert (result.outcome, result.was_answered, result.receipt.retry_after_s) == (str(status), True, None)
    assert [(one.method, one.path) for one in receiver.received] == [("POST", "/hooks/loyalty")], "nothing was followed"


async def test_a_redirect_to_another_server_does_not_reach_it(receiver: Receiver, transport: Transport) -> None:
    async with Receiver(SECRET) as elsewhere:
        receiver.script(*(redirect(elsewhere.url, status) for status in (301, 302, 303, 307, 308)))
        results = [await send(Exchange(destination(receiver), transport), event(1)) for _ in range(5)]
        assert {one.receipt.verdict for one in results} == {Verdict.RETRY} and elsewhere.received == []


@pytest.mark.parametrize("status", MENDED_LATER)
async def test_a_status_that_the_destination_gives_up_on(receiver: Receiver, transport: Transport, status: int) -> None:
    receiver.always(status)
    others = frozenset(MENDED_LATER) - {status}
    receipts = [
        (await send(Exchange(destination(receiver, dead_letter_statuses=statuses), transport), event(1))).receipt
        for statuses in (frozenset({status}), others)
    ]
    assert [(one.verdict, one.reason) for one in receipts] == [(Verdict.REFUSED, f"STATUS_{status}"), (Verdict.RETRY, "")]


@pytest.mark.parametrize("status", [408, 425, 429, 503, 500, 404])
async def test_retry_after_in_both_forms(receiver: Receiver, transport: Transport, status: int) -> None:
    receiver.script(too_many(17, status), too_many(datetime(2026, 3, 1, 12, 1, 30, tzinfo=UTC), status))
    receiver.script(Behaviour(status=status, headers={"Retry-After": "soon"}))
    receiver.trust([])
    exchange = Exchange(destination(receiver), transport, clock=lambda: MOMENT_S)
    receipts = [(await send(exchange, event(1))).receipt for _ in range(3)]
    assert [(one.verdict, one.retry_after_s) for one in receipts] == [(Verdict.RETRY, 17), (Verdict.RETRY, 90), (Verdict.RETRY, None)]


@pytest.mark.parametrize("failure", [one.value for one in Failure])
def test_without_an_answer_it_is_tried_again(failure: str) -> None:
    answer = Answer(seconds=0.1, failure=Failure(failure), detail="why")
    assert judge(answer, frozenset(range(400, 500)), now_s=0) == Receipt(verdict=Verdict.RETRY, detail=f"{failure}: why")


# No answer, from real servers that give none.


@pytest.mark.parametrize(
    ("behaviour", "failure"),
    [(HANG, Failure.TIMEOUT), (RESET, Failure.RESET), (Behaviour(delay_s=30.0), Failure.TIMEOUT), (Behaviour(drip_bytes=600), Failure.TIMEOUT)],
    ids=["hangs", "resets", "answers late", "drips"],
)  # fmt: skip
async def test_a_receiver_that_does_not_answer(receiver: Receiver, transport: Transport, behaviour: Behaviour, failure: Failure) -> None:
    receiver.script(behaviour)
    timeout_s = 0.5
    async with asyncio.timeout(timeout_s + 1):  # A slow drip would take much longer: B12.
        result = await send(Exchange(destination(receiver), transport), event(1), timeout_s=timeout_s)
    assert timeout_s + 1 < 600 * DRIP_INTERVAL_S
    assert (result.receipt.verdict, result.outcome, result.was_answered) == (Verdict.RETRY, failure.value, False)
    assert result.receipt.detail.startswith(failure.value)


async def test_a_receiver_that_is_down_and_comes_back(receiver: Receiver, transport: Transport) -> None:
    exchange = Exchange(destination(receiver), transport)
    await receiver.go_down()
    result = await send(exchange, event(1))
    assert (result.receipt.verdict, result.outcome) == (Verdict.RETRY, "CONNECT")
    await receiver.come_back()
    assert (await send(exchange, event(1))).receipt.verdict is Verdict.DELIVERED


@asynccontextmanager
async def tls_server() -> AsyncIterator[str]:
    """Its certificate is of an authority that nobody trusts."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    runner = web.AppRunner(web.Application())
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    yield f"https://127.0.0.1:{runner.addresses[0][1]}/"
    await runner.cleanup()


async def test_a_name_that_does_not_exist_tls_that_nobody_trusts_and_addresses_of_our_own(receiver: Receiver, transport: Transport) -> None:
    strict = Transport(parse_allowed(""))
    async with tls_server() as untrusted:
        outcomes = [
            (await send(Exchange(destination(url), over), event(1))).outcome
            for url, over in (("http://no-such-host.invalid/", transport), (untrusted, transport), (receiver.url, strict))
        ]
    await strict.close()
    assert outcomes == ["DNS", "TLS", "BLOCKED_ADDRESS"] and receiver.received == []


async def test_a_peer_that_does_not_speak_http(transport: Transport) -> None:
    async def talk(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    result = await send(Exchange(destination(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"), transport), event(1))
    server.close()
    assert (result.receipt.verdict, result.outcome) == (Verdict.RETRY, "PROTOCOL")


async def test_a_huge_body_is_a_success_that_takes_no_memory(receiver: Receiver, transport: Transport) -> None:
    exchange = Exchange(destination(receiver), transport)
    receiver.always(Behaviour(body_bytes=10 << 30))
    await send(exchange, event(1))
    before = psutil.Process().memory_info().rss
    results = [await send(exchange, event(sequence)) for sequence in range(2, 12)]
    assert psutil.Process().memory_info().rss - before < 10 << 20
    assert {(one.receipt.verdict, len(one.answer.body if one.answer else b"")) for one in results} == {(Verdict.DELIVERED, BODY_BYTES_MAX)}


async def test_a_hostile_body_or_header_decides_nothing(receiver: Receiver, transport: Transport) -> None:
    """Status alone counts; a success with a Retry-After or a compressed bomb is a success."""
    receiver.script(Behaviour(headers={"Retry-After": "86400", "Content-Encoding": "gzip", "Set-Cookie": "session=hush"}, body_bytes=1000))
    receipt = (await send(Exchange(destination(receiver), transport), event(1))).receipt
    assert receipt == Receipt(verdict=Verdict.DELIVERED, status=200)


# Authorization.


class Service:
    """A token endpoint, and a receiver that takes the tokens in `good` alone."""

    def __init__(self) -> None:
        self.url = ""
        self.fetched = 0
        self.good: set[str] = set()
        self.seen: list[str] = []
        self.is_down = False
        self.late_s: list[float] = []
        """Of the next answers to deliveries."""

    async def token(self, _: web.Request) -> web.Response:
        if self.is_down:
            return web.Response(status=503)
        self.fetched += 1
        return web.json_response({"access_token": f"token-{self.fetched}", "token_type": "Bearer", "expires_in": 3600})

    async def hook(self, request: web.Request) -> web.Response:
        self.seen.append(request.headers.get("authorization", ""))
        if self.late_s:
            await asyncio.sleep(self.late_s.pop(0))
        return web.Response(status=204 if self.seen[-1].removeprefix("Bearer ") in self.good else 401)


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    one = Service()
    app = web.Application()
    app.router.add_post("/token", one.token)
    app.router.add_post("/hook", one.hook)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    one.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield one
    await runner.cleanup()


def with_tokens(service: Service) -> Destination:
    client = ClientCredentials(token_url=f"{service.url}/token", client_id="loyalty", client_secret="hush")
    return destination(f"{service.url}/hook", authorization=client)


def aged(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Keepers of tokens that are made from now on have a clock that the test sets forward."""
    ahead_s = 0.0

    def make(authorization: Any, transport: Transport) -> TokenKeeper:
        return tokens_of(authorization, transport, clock=lambda: time.monotonic() + ahead_s)

    def pass_time(by_s: float) -> None:
        nonlocal ahead_s
        ahead_s += by_s

    monkeypatch.setattr(attempt, "tokens_of", make)
    return pass_time


async def test_a_401_in_between_costs_a_fresh_token_and_no_attempt(service: Service, transport: Transport, monkeypatch: pytest.MonkeyPatch) -> None:
    pass_time = aged(monkeypatch)
    exchange = Exchange(with_tokens(service), transport)
    service.good = {"token-1"}
    assert (await send(exchange, event(1))).receipt.verdict is Verdict.DELIVERED
    service.good = {"token-2"}  # As after the authority was restarted.
    pass_time(FRESH_S)
    result = await send(exchange, event(2))
    assert result.receipt.verdict is Verdict.DELIVERED
    assert service.seen == ["Bearer token-1", "Bearer token-1", "Bearer token-2"]
    assert masked_request(result.headers)["authorization"] == MASKED


async def test_a_fresh_token_that_is_refused_is_the_destinations_word(service: Service, transport: Transport) -> None:
    result = await send(Exchange(with_tokens(service), transport), event(1))
    assert (result.receipt.verdict, result.receipt.status) == (Verdict.RETRY, 401)
    assert (service.fetched, len(service.seen)) == (1, 1)


async def test_without_a_token_nothing_is_sent_and_no_secret_is_told(service: Service, transport: Transport) -> None:
    service.is_down = True
    result = await send(Exchange(with_tokens(service), transport), event(1))
    assert (result.receipt.verdict, result.outcome, result.was_answered, service.seen) == (Verdict.RETRY, "AUTHORIZATION", False, [])
    assert "hush" not in result.receipt.detail


async def test_a_fixed_token_is_sent_and_a_401_to_it_is_not_asked_again(service: Service, transport: Transport) -> None:
    exchange = Exchange(destination(f"{service.url}/hook", authorization=Bearer(token="fixed")), transport)
    assert (await send(exchange, event(1))).receipt.status == 401
    service.good = {"fixed"}
    assert (await send(exchange, event(1))).receipt.verdict is Verdict.DELIVERED
    assert service.seen == ["Bearer fixed"] * 2


async def test_the_deadline_is_for_both_requests_together(service: Service, transport: Transport, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first one gets its 401 late, the second one no answer: it has only what is left."""
    pass_time = aged(monkeypatch)
    exchange = Exchange(with_tokens(service), transport)
    service.good = {"token-1"}
    assert (await send(exchange, event(1))).receipt.verdict is Verdict.DELIVERED
    pass_time(FRESH_S)
    service.good, service.late_s = set(), [0.3, 60.0]
    result = await send(exchange, event(2), timeout_s=1.5)
    assert (result.outcome, len(service.seen)) == ("TIMEOUT", 3)
    assert result.answer is not None and float(result.answer.detail.split()[-2]) <= 1.2


# What of it may be kept.


def test_headers_that_may_be_secret_are_masked() -> None:
    sent = {"content-type": "application/json", "webhook-id": "e-1", "webhook-timestamp": "1", "webhook-signature": "v1,x", "authorization": "Bearer hush",
            "x-correlation-id": "c-1", REPLAY_HEADER: "again", "x-tenant": "hush", "cookie": "hush"}  # fmt: skip
    assert {name for name, value in masked_request(sent).items() if value == MASKED} == {"authorization", "x-tenant", "cookie"}
    answered = {"Content-Type": "text/html", "Set-Cookie": "hush", "X-Auth-Token": "hush", "WWW-Authenticate": "Basic", "Authentication-Info": "hush",
                "X-API-Key": "hush", "Password-Hint": "hush", "Client-Secret": "hush", "Retry-After": "5", "X-Long": "x" * 10_000}  # fmt: skip
    shown = masked_response(answered)
    assert "hush" not in shown.values()
    assert (shown["content-type"], shown["retry-after"], len(shown["x-long"])) == ("text/html", "5", 500)
    assert len(masked_response({f"x-{number}": "v" for number in range(1000)})) == 50


async def test_a_trial_is_signed_and_told_without_secrets(receiver: Receiver) -> None:
    receiver.script(Behaviour(status=202, headers={"Set-Cookie": "session=hush"}), 503)
    settings = Settings(delivery_allowed_addresses=LOOPBACK)
    told = [await send_test(settings, destination(receiver, headers={"x-api-key": "hush"})) for _ in range(2)]
    assert [(one["delivered"], one["outcome"]) for one in told] == [(True, "202"), (False, "503")]
    assert [(one.kind, one.verified) for one in receiver.received] == [("loyalty.test", True)] * 2
    assert "hush" not in json.dumps(told) and told[0]["peer_address"] == "127.0.0.1"


def attempted(result: Result, *records: Payload, **fields: Any) -> Attempted:
    sent = [outgoing(one) for one in records]
    return Attempted(**{
        "destination": "crm", "channel": "crm", "url": "https://crm.example/hooks", "is_batch": False, "records": sent, "result": result, "attempt": 4,
        "is_given_up": False, "next_attempt_at_ms": None, **fields,
    })  # fmt: skip


async def test_the_record_of_an_attempt_has_all_that_helps_and_no_secret(receiver: Receiver, transport: Transport) -> None:
    receiver.script(Behaviour(status=503, headers={"Set-Cookie": "session=hush", "X-Request-Id": "r-1"}, body_bytes=BODY_BYTES_MAX))
    one = event(3, correlation_id="c-3")
    result = await send(Exchange(destination(receiver, headers={"x-api-key": "hush"}), transport), one)
    record = attempt_of(attempted(result, one, next_attempt_at_ms=MOMENT_MS + 5))
    assert codec().decode(codec().encode(record), DeliveryAttempt) == record
    assert "hush" not in repr(record) and SECRET not in repr(record)
    assert (record.attempt_id, record.event_ids) == (f"crm/grand-m-1-3/{result.started_at_ms}", ("grand-m-1-3",))
    assert (record.program_id, record.member_id, record.sequence, record.correlation_id) == ("grand", "m-1", 3, "c-3")
    assert (record.verdict, record.outcome, record.status, record.attempt) == (AttemptVerdict.RETRY, "503", 503, 4)
    assert (record.peer_address, record.appended_at_ms, record.next_attempt_at_ms) == ("127.0.0.1", MOMENT_MS, MOMENT_MS + 5)
    assert record.request_headers["webhook-signature"] == receiver.received[0].headers["webhook-signature"]
    assert record.request_body.encode() == receiver.received[0].body
    assert (record.response_headers["x-request-id"], len(record.response_body)) == ("r-1", RESPONSE_BODY_BYTES_MAX)


async def test_the_record_of_a_batch_names_its_events_and_no_member(receiver: Receiver, transport: Transport) -> None:
    records = [event(number, correlation_id="x" * 200) for number in range(1, 60)]
    result = await send(Exchange(destination(receiver), transport), *records, is_batch=True)
    record = attempt_of(attempted(result, *records, is_batch=True))
    assert (record.kind, record.program_id, record.member_id, record.sequence, record.verdict) == ("BATCH", "", "", 0, AttemptVerdict.DELIVERED)
    assert record.webhook_id == result.webhook_id and record.event_ids == tuple(one.event_id for one in records)
    assert len(record.request_body) == REQUEST_BODY_BYTES_MAX < len(result.body)


async def test_the_record_of_what_got_no_answer_and_is_given_up(receiver: Receiver, transport: Transport) -> None:
    await receiver.go_down()
    result = await send(Exchange(destination(receiver), transport), event(1))
    record = attempt_of(attempted(result, event(1), is_given_up=True))
    assert (record.verdict, record.outcome, record.status) == (AttemptVerdict.GIVEN_UP, "CONNECT", None)
    assert (record.response_headers, record.response_body, record.next_attempt_at_ms) == ({}, "", None)


# When it is tried again.

DOUBLING = [(1, 0.2), (2, 0.4), (3, 0.8), (8, 25.6), (9, 30.0), (100, 30.0), (10**6, 30.0)]


def delays(one: Destination, failures: int, retry_after_s: float | None = None) -> list[float]:
    """Delays at both ends of the jitter and in its middle."""
    found = []
    for jitter in (0.0, 0.5, 1.0):
        outlet = Outlet(one, _nobody, Budget(1), wall_ms=lambda: MOMENT_MS, random=lambda jitter=jitter: jitter)  # type: ignore[misc]
        found.append((outlet.retry_due_ms(failures, retry_after_s) - MOMENT_MS) / 1000)
    return found


async def _nobody(records: list[Outgoing], *, is_batch: bool, job: str, timeout_s: float) -> Result:
    raise AssertionError("nothing is sent here")


@pytest.mark.parametrize(("failures", "delay_s"), DOUBLING)
def test_delays_double_with_jitter_up_to_a_ceiling(failures: int, delay_s: float) -> None:
    assert delays(destination("http://crm.example/"), failures) == pytest.approx([delay_s * 0.8, delay_s, delay_s * 1.2], abs=0.002)


@pytest.mark.parametrize(("failures", "delay_s"), [(1, 5.0), (2, 60.0), (3, 600.0), (4, 600.0), (1000, 600.0)])
def test_a_destination_may_have_a_schedule_of_its_own(failures: int, delay_s: float) -> None:
    one = destination("http://crm.example/", retry_delays_s=(5.0, 60.0, 600.0))
    assert delays(one, failures) == pytest.approx([delay_s * 0.8, delay_s, delay_s * 1.2], abs=0.002)


@pytest.mark.parametrize(
    ("asked_s", "most_s", "waits_s"),
    [(7.0, 900.0, 7.0), (0.0, 900.0, 0.2), (10.0**9, 900.0, 900.0), (899.0, 900.0, 899.0), (100.0, 30.0, 30.0), (3600.0, 7200.0, 3600.0)],
)  # fmt: skip
def test_the_destinations_wish_wins_within_its_bounds(asked_s: float, most_s: float, waits_s: float) -> None:
    one = destination("http://crm.example/", retry_after_max_s=most_s, retry_delays_s=(5.0,))
    assert delays(one, 1, asked_s) == [waits_s] * 3
