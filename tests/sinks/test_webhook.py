"""What goes out, byte by byte, and what each answer of a receiver means. A real receiver, no Kafka."""

import asyncio
import base64
import hashlib
import hmac
import json
import os
import ssl
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import trustme
from aiohttp import web

from infra.fakes.receiver import DRIP_INTERVAL_S, HANG, RESET, Behaviour, Receiver, redirect
from schemas.records import LoyaltyEventKind
from sinks import webhook
from sinks.base import Receipt, Verdict
from sinks.transport import BODY_BYTES_MAX, Answer, Failure, Transport, retry_after_s
from sinks.webhook import Webhook
from streams import signatures
from streams.configuration import Destination
from tests.sinks.examples import EVERY_KIND, SECRET, event, item

GOLDEN = Path(__file__).parent / "golden" / "webhook.json"
VECTORS = [
    ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, '{"test": 2432232314}',
     "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="),
    ("whsec_plJ3nmyCDGBKInavdOK15jsl", "msg_loFOjxBNrRLzqYUf", 1731705121, '{"event_type":"ping","data":{"success":true}}',
     "v1,rAvfW3dJ/X/qxhsaXPOyyCGmRKsaKWcsNccKXlIktD0="),
]  # fmt: skip


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver(SECRET) as running:
        yield running


def destination(receiver: Receiver, **fields: Any) -> Destination:
    return Destination(**{"name": "test", "url": receiver.url, "secret": SECRET, "timeout_s": 5.0, "concurrency_max": 4, **fields})


async def attempt(target: Destination, sequence: int = 1, *, at_s: float | None = None) -> Receipt:
    unit = Webhook(target) if at_s is None else Webhook(target, clock=lambda: at_s)
    try:
        return await unit.deliver(item(event(sequence)))
    finally:
        await unit.close()


def independent_signature(secret: str, message_id: str, timestamp: str, body: bytes) -> str:
    """Standard Webhooks v1 by its specification, without any of our code."""
    key = base64.b64decode(secret.split("_", 1)[1])
    digest = hmac.new(key, b".".join([message_id.encode(), timestamp.encode(), body]), hashlib.sha256).digest()
    return "v1," + base64.b64encode(digest).decode()


# What goes out.


def test_every_kind_of_event_has_its_golden_body() -> None:
    """The bytes are a contract with every receiver: if this fails, they get something else than yesterday."""
    rendered = {kind.value: webhook.render(one).decode() for kind, one in EVERY_KIND.items()}
    if os.environ.get("WRITE_GOLDEN"):
        GOLDEN.write_text(json.dumps(rendered, indent=2, ensure_ascii=False) + "\n")
    assert rendered == json.loads(GOLDEN.read_text()), "if it is meant: WRITE_GOLDEN=1 and say so in the changelog"
    assert set(rendered) == {kind.value for kind in webhook.TYPES}


def test_the_body_holds_every_field_of_the_event() -> None:
    envelope = json.loads(webhook.render(event(3)))
    assert envelope["type"] == "loyalty.balance.changed"
    assert envelope["timestamp"] == "2026-03-01T12:00:00.003Z"
    assert {name.removesuffix("_ms") for name in event().to_avro()} == set(envelope["data"])
    assert envelope["data"]["account"] == {
        "available_points": 300, "qualifying_points": 300, "pending_points": 0, "held_points": 0, "debt_points": 0, "status": "ACTIVE",
        "tier": "MEMBER", "tier_valid_until": None,
    }  # fmt: skip


def test_times_are_texts_at_any_depth_and_what_is_empty_is_there() -> None:
    data = json.loads(webhook.render(EVERY_KIND[LoyaltyEventKind.BALANCE_CHANGED]))["data"]
    assert data["account"]["tier_valid_until"] == "2026-06-25T05:46:40.000Z"
    assert (data["expires_at"], data["effective_at"], data["movement"]) == ("2026-03-13T01:46:40.000Z", None, "HOLD")
    assert data["lots"] == [
        {"lot_id": "t-1", "points": 200, "expires_at": "2026-06-25T05:46:40.000Z"}, {"lot_id": "t-2", "points": 50, "expires_at": None},
    ]  # fmt: skip
    assert json.loads(webhook.render(event(1)))["data"]["lots"] == []


@pytest.mark.parametrize(("moment_ms", "text"), [
    (0, "1970-01-01T00:00:00.000Z"), (-1, "1969-12-31T23:59:59.999Z"), (1_772_366_400_999, "2026-03-01T12:00:00.999Z"),
])  # fmt: skip
def test_times_are_iso_8601_in_utc(moment_ms: int, text: str) -> None:
    assert webhook.iso(moment_ms) == text


async def test_a_delivery_is_signed_and_repeats_id_and_body_but_not_time(receiver: Receiver) -> None:
    receiver.script(500)
    unit = Webhook(destination(receiver), clock=iter([time.time(), 0, time.time() + 7, 0]).__next__)
    assert (await unit.deliver(item(event(1)))).verdict is Verdict.RETRY
    assert (await unit.deliver(item(event(1)))).verdict is Verdict.DELIVERED
    await unit.close()
    first, second = receiver.received
    assert [one.attempt for one in receiver.received] == [1, 2]
    assert first.verified and second.verified
    assert first.webhook_id == second.webhook_id == "grand-m-1-1"
    assert first.body == second.body
    assert int(second.headers["webhook-timestamp"]) - int(first.headers["webhook-timestamp"]) == 7
    for one in (first, second):
        signature = independent_signature(SECRET, one.webhook_id, one.headers["webhook-timestamp"], one.body)
        assert one.headers["webhook-signature"] == signature
        assert one.method == "POST" and one.headers["content-type"] == "application/json"
        assert one.headers["user-agent"].startswith("loyalty-sync")


@pytest.mark.parametrize(("secret", "message_id", "timestamp_s", "payload", "signature"), VECTORS)
def test_published_vectors(secret: str, message_id: str, timestamp_s: int, payload: str, signature: str) -> None:
    key = base64.b64decode(secret.removeprefix(signatures.SECRET_PREFIX))  # The second one's is shorter than we allow.
    assert signatures.sign(key, message_id, timestamp_s, payload.encode()) == signature
    assert independent_signature(secret, message_id, str(timestamp_s), payload.encode()) == signature


async def test_another_secret_is_refused_by_the_receiver(receiver: Receiver) -> None:
    other = "whsec_" + base64.b64encode(b"x" * 24).decode()
    assert (await attempt(destination(receiver, secret=other))).status == 401
    assert receiver.unverified and not receiver.accepted


@pytest.mark.parametrize(("one", "reason"), [
    (event(1, event_id="a.b"), "NOT_RENDERABLE"),
    (event(1, occurred_at_ms=10**17), "NOT_RENDERABLE"),
    (event(1, kind=type(event().kind).UNKNOWN), "KIND_UNKNOWN"),
])  # fmt: skip
async def test_what_cannot_be_sent_is_refused_for_good(receiver: Receiver, one: object, reason: str) -> None:
    unit = Webhook(destination(receiver))
    receipt = await unit.deliver(item(one))
    assert (receipt.verdict, receipt.reason) == (Verdict.REFUSED, reason)
    assert receiver.received == []


@pytest.mark.parametrize(("programs", "events", "wanted"), [
    ((), (), True), (("grand",), (), True), (("staff",), (), False), ((), ("BALANCE_CHANGED",), True),
    ((), ("TIER_CHANGED",), False), (("grand",), ("TIER_CHANGED", "BALANCE_CHANGED"), True), (("staff",), ("BALANCE_CHANGED",), False),
])  # fmt: skip
def test_destinations_hear_of_what_they_asked_for(programs: tuple[str, ...], events: tuple[str, ...], wanted: bool) -> None:
    target = Destination(name="x", url="http://x", secret=SECRET, programs=frozenset(programs), events=frozenset(events))
    assert webhook.wants(target, event()) is wanted


# What comes back.

STATUSES = [
    *((status, Verdict.DELIVERED) for status in (200, 201, 202, 204, 299)),
    *((status, Verdict.RETRY) for status in (300, 301, 302, 303, 304, 307, 308)),
    *((status, Verdict.RETRY) for status in (400, 401, 403, 404, 405, 409, 410, 413, 415, 422, 451)),
    *((status, Verdict.RETRY) for status in (408, 425, 429, 500, 501, 502, 503, 504, 599)),
]


@pytest.mark.parametrize(("status", "verdict"), STATUSES)
async def test_status_semantics(receiver: Receiver, status: int, verdict: Verdict) -> None:
    receiver.script(Behaviour(status=status, headers={"Location": receiver.url + "/elsewhere"} if 300 <= status < 400 else {}))
    receipt = await attempt(destination(receiver))
    assert (receipt.verdict, receipt.status) == (verdict, status)
    assert len(receiver.received) == 1  # Nothing was followed.
    assert (receipt.retry_after_s == webhook.GONE_RETRY_S) is (status == 410)


@pytest.mark.parametrize("status", [408, 425, 429, 500, 503, 404])
async def test_retry_after_in_seconds(receiver: Receiver, status: int) -> None:
    receiver.script(Behaviour(status=status, headers={"Retry-After": "17"}))
    assert (await attempt(destination(receiver))).retry_after_s == 17


async def test_retry_after_as_a_date(receiver: Receiver) -> None:
    receiver.script(Behaviour(status=503, headers={"Retry-After": "Sun, 01 Mar 2026 12:01:30 GMT"}))
    unit = Webhook(destination(receiver), clock=iter([time.time(), 1_772_366_400.0]).__next__)
    assert (await unit.deliver(item(event(1)))).retry_after_s == 90
    await unit.close()


@pytest.mark.parametrize(("value", "seconds"), [
    ("0", 0), (" 5 ", 5), ("999999999999999", 999999999), ("Sun, 01 Mar 2026 12:00:05 GMT", 5), ("Sun, 01 Mar 2026 11:00:00 GMT", 0),
    ("Sunday, 01-Mar-26 12:00:05 GMT", 5), ("", None), ("soon", None), ("-5", None), ("1.5", None), ("٣", None),
    ("Sun, 99 Mar 2026 12:00:05 GMT", None),
])  # fmt: skip
def test_retry_after(value: str, seconds: float | None) -> None:
    assert retry_after_s(value, 1_772_366_400.0) == seconds


async def test_a_redirect_is_not_followed(receiver: Receiver) -> None:
    receiver.script(redirect(receiver.url + "/elsewhere"))
    assert (await attempt(destination(receiver))).verdict is Verdict.RETRY
    assert [(one.method, one.path) for one in receiver.received] == [("POST", "/hooks/loyalty")]


FAILURES = [(HANG, Failure.TIMEOUT), (RESET, Failure.RESET), (Behaviour(delay_s=5.0), Failure.TIMEOUT)]


@pytest.mark.parametrize(("behaviour", "failure"), FAILURES)
async def test_no_answer_is_a_retry(receiver: Receiver, behaviour: Behaviour, failure: Failure) -> None:
    receiver.script(behaviour)
    receipt = await attempt(destination(receiver, timeout_s=0.3))
    assert receipt.verdict is Verdict.RETRY
    assert receipt.detail.startswith(failure.value)


async def test_a_slow_drip_releases_the_slot_in_time(receiver: Receiver) -> None:
    receiver.script(Behaviour(drip_bytes=200))
    began_s = time.monotonic()
    receipt = await attempt(destination(receiver, timeout_s=0.5))
    assert time.monotonic() - began_s < 1.5 < 200 * DRIP_INTERVAL_S
    assert receipt.verdict is Verdict.RETRY and receipt.detail.startswith("TIMEOUT")


async def test_a_huge_body_releases_the_slot_and_takes_no_memory(receiver: Receiver) -> None:
    receiver.always(Behaviour(body_bytes=1 << 30))
    unit = Webhook(destination(receiver, concurrency_max=1))
    assert (await unit.deliver(item(event(0)))).verdict is Verdict.DELIVERED
    before = psutil.Process().memory_info().rss
    began_s = time.monotonic()
    for sequence in range(1, 6):
        assert (await unit.deliver(item(event(sequence)))).verdict is Verdict.DELIVERED
    assert time.monotonic() - began_s < 2.0
    assert psutil.Process().memory_info().rss - before < 10 << 20
    await unit.close()


async def test_a_body_is_read_up_to_its_bound(receiver: Receiver) -> None:
    receiver.always(Behaviour(body_bytes=10 * BODY_BYTES_MAX))
    transport = Transport(concurrency_max=1, timeout_s=5)
    signed = signatures.headers(signatures.decode_secret(SECRET), "id", int(time.time()), b"{}")
    answer = await transport.request("POST", receiver.url, headers=signed, body=b"{}")
    assert answer.status == 200 and len(answer.body) == BODY_BYTES_MAX
    await transport.close()


async def test_a_receiver_that_is_down_refuses_and_comes_back_on_its_port(receiver: Receiver) -> None:
    await receiver.go_down()
    receipt = await attempt(destination(receiver))
    assert receipt.verdict is Verdict.RETRY and receipt.detail.startswith("CONNECT")
    await receiver.come_back()
    assert (await attempt(destination(receiver))).verdict is Verdict.DELIVERED


async def test_a_name_that_does_not_exist() -> None:
    answer = await _ask("http://no-such-host.invalid/")
    assert answer.failure is Failure.DNS


@pytest.mark.parametrize("url", ["http://", "nonsense", "http://[::1/", "http://127.0.0.1:99999/", "ftp://127.0.0.1/", "http://a b/"])
async def test_a_url_that_is_none(url: str) -> None:
    answer = await _ask(url)
    assert answer.failure is not None and answer.status is None


async def test_a_peer_that_does_not_speak_http() -> None:
    async def talk(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    answer = await _ask(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/")
    server.close()
    assert answer.failure is Failure.PROTOCOL


async def test_a_certificate_of_an_authority_that_nobody_trusts() -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    runner = web.AppRunner(web.Application())
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    answer = await _ask(f"https://127.0.0.1:{runner.addresses[0][1]}/")
    await runner.cleanup()
    assert answer.failure is Failure.TLS


async def test_compressed_answers_are_not_decompressed() -> None:
    async def bomb(_: web.Request) -> web.Response:
        return web.Response(body=b"not gzip at all", headers={"Content-Encoding": "gzip"})

    app = web.Application()
    app.router.add_get("/", bomb)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    answer = await _ask(f"http://127.0.0.1:{runner.addresses[0][1]}/")
    await runner.cleanup()
    assert (answer.status, answer.body) == (200, b"not gzip at all")


async def test_a_destination_that_hangs_takes_only_its_own_connections(receiver: Receiver) -> None:
    receiver.script(*[HANG] * 4, member="grand/m-1")
    hanging = Webhook(destination(receiver, timeout_s=5.0))
    healthy = Webhook(destination(receiver))
    stuck = [asyncio.create_task(hanging.deliver(item(event(n)))) for n in range(4)]
    await receiver.wait_for(lambda r: len(r.received) == 4)
    began_s = time.monotonic()
    assert (await healthy.deliver(item(event(1, "m-2")))).verdict is Verdict.DELIVERED
    assert time.monotonic() - began_s < 0.5
    await receiver.stop()
    assert all(receipt.verdict is Verdict.RETRY for receipt in await asyncio.gather(*stuck))
    await hanging.close()
    await healthy.close()


async def _ask(url: str) -> Answer:
    transport = Transport(concurrency_max=1, timeout_s=5)
    try:
        return await transport.request("GET", url)
    finally:
        await transport.close()
