"""The ingress as a service of its own thread, with what stands around it: a worker that owns accounts, a worker that decides."""

import asyncio
import re
import threading
import time
from base64 import b64encode
from collections.abc import Awaitable, Callable
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import yaml
from aiohttp import web
from confluent_kafka import Message, TopicPartition
from jsonschema import Draft202012Validator
from yarl import URL

from schemas.codec import Codec
from schemas.records import CommandResult, SyncAudit, Transaction
from schemas.registry import LocalRegistry
from streams import configuration, kafka, signatures, topics
from streams.configuration import Configuration
from streams.ingress import server
from streams.ingress.parts import PARTS
from streams.observability import serve
from streams.settings import Settings

T = TypeVar("T")

OPENAPI = yaml.safe_load(Path(server.OPENAPI).read_text())
CODEC = Codec(LocalRegistry())
KEY = b"0123456789abcdef0123456789abcdef"
NOBODY = "http://127.0.0.1:9"  # Spares the tests of this folder a ClickHouse that none of them needs.
PMS_PASSWORD = "a-long-pms-password"
TOKENS = {"all": "token-of-all-programmes", "pms": "token-of-the-grand-hotel", "reader": "token-that-only-reads", "exporter": "token-that-exports"}
TOKENS |= {"auditor": "token-of-an-auditor", "auditor-grand": "token-of-the-grand-hotels-auditor"}
TOKENS["operator"] = "token-that-looks-after-it"
INTERNAL_TOKEN = "token-between-processes"


def make_configuration(pms_url: str = NOBODY) -> Configuration:
    """Two programmes, one source of each kind, three tokens."""
    program = {"earn": {"points_per_unit": {"EUR": 10}}, "tiers": [{"name": "MEMBER", "threshold_points": 0}]}
    writes = [scope for scope in configuration.SCOPES if scope.endswith(":write")]
    signed = "whsec_" + b64encode(KEY).decode()
    return configuration.parse(
        {
            "programs": {"grand": program, "staff": program},
            "sources": {
                "apaleo": {
                    "kind": "apaleo", "program": "grand", "secret": PMS_PASSWORD, "base_url": pms_url,
                    "identity_url": f"{pms_url}/connect/token", "client_id": "LOYALTY", "client_secret": "fake-client-secret",
                },
                "hr": {"kind": "hr", "program": "staff", "secret": signed},
                "partner": {"kind": "cloudevents", "program": "grand", "secret": signed},
            },
            "tokens": {
                "all": {"token": TOKENS["all"], "scopes": [*writes, "members:read"], "source_systems": ["*"]},
                "pms": {"sha256": sha256(TOKENS["pms"].encode()).hexdigest(), "scopes": [*writes, "members:read"], "programs": ["grand"]},
                "reader": {"token": TOKENS["reader"], "scopes": ["members:read"]},
                "exporter": {"token": TOKENS["exporter"], "scopes": ["members:export"]},
                "auditor": {"token": TOKENS["auditor"], "scopes": ["audit:read"]},
                "auditor-grand": {"token": TOKENS["auditor-grand"], "scopes": ["audit:read"], "programs": ["grand"]},
                "operator": {"token": TOKENS["operator"], "scopes": ["operations:read"]},
            },
        }
    )  # fmt: skip


class Looped:
    """An event loop in a thread: the service does not share the loop of the test that asks it."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, work: Awaitable[T], timeout_s: float = 60) -> T:
        async def wrapped() -> T:
            return await work

        return asyncio.run_coroutine_threadsafe(wrapped(), self.loop).result(timeout_s)

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


class Answer:
    """What came back, and has been checked against openapi.yaml."""

    def __init__(self, status: int, headers: Any, body: bytes, json: Any) -> None:
        self.status = status
        self.headers = headers
        self.body = body
        self.json = json


class Service:
    """The running ingress. `request` validates every answer against openapi.yaml."""

    def __init__(self, settings: Settings, configuration: Configuration, **options: Any) -> None:
        self.settings = settings
        self._looped = Looped()
        self._app = server.make_app(settings, configuration, **options)
        self._runner = self._looped.run(serve(self._app, "127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    @property
    def parts(self) -> Any:
        return self._app[PARTS]

    def run(self, work: Awaitable[T]) -> T:
        """Run something in the service's loop."""
        return self._looped.run(work)

    def wait_ready(self) -> None:
        self._looped.run(asyncio.wait_for(asyncio.shield(self.parts.connected), 60))

    def routes(self) -> set[tuple[str, str]]:
        return {
            (route.method.lower(), route.resource.canonical)
            for route in self._app.router.routes()
            if route.resource is not None and route.method != "HEAD"
        }

    def stop(self) -> None:
        self._looped.run(self._runner.cleanup())
        self._looped.close()

    async def request(self, method: str, path: str, *, token: str | None = TOKENS["all"], headers: Any = None, **options: Any) -> Answer:
        sent = ({"Authorization": f"Bearer {token}"} if token else {}) | (headers or {})
        async with aiohttp.ClientSession() as session:
            url = URL(self.url + path, encoded=True)
            async with session.request(method, url, headers=sent, **options) as response:
                body = await response.read()
                json = await response.json(content_type=None) if "json" in response.content_type else None
                answer = Answer(response.status, response.headers, body, json)
        check_answer(method, path.partition("?")[0], answer)
        return answer

    async def post(self, stream: str, payload: Any, **options: Any) -> Answer:
        return await self.request("POST", f"/v1/{stream}", json=payload, **options)

    async def webhook(self, source: str, body: bytes, headers: Any) -> Answer:
        return await self.request("POST", f"/v1/webhooks/{source}", token=None, data=body, headers=headers)


def operation_of(method: str, path: str) -> dict[str, Any] | None:
    """The operation of openapi.yaml for a path as it is asked for; the most specific one wins."""
    for template in sorted(OPENAPI["paths"], key=lambda template: template.count("{")):
        if re.fullmatch(re.sub(r"\{[^}]+\}", "[^/]+", template), path):
            found: dict[str, Any] | None = OPENAPI["paths"][template].get(method.lower())
            return found
    return None


def resolve(value: Any) -> Any:
    while isinstance(value, dict) and "$ref" in value:
        node = OPENAPI
        for part in value["$ref"][2:].split("/"):
            node = node[part]
        value = node
    return value


def validator(schema: Any) -> Draft202012Validator:
    """A validator for a schema of openapi.yaml."""
    whole = {"allOf": [schema], "components": OPENAPI["components"]}
    return Draft202012Validator(whole, format_checker=Draft202012Validator.FORMAT_CHECKER)


def check_answer(method: str, path: str, answer: Answer) -> None:
    """Status, media type and body are among those that openapi.yaml names."""
    operation = operation_of(method, path)
    if operation is None:
        assert answer.status in (404, 405), f"{method} {path} is not in openapi.yaml and answers {answer.status}"
        validator({"$ref": "#/components/schemas/Problem"}).validate(answer.json)
        return
    response = resolve(operation["responses"].get(str(answer.status)))
    assert response is not None, f"{method} {path} answers {answer.status}, which openapi.yaml does not name: {answer.body[:500]!r}"
    media_type = answer.headers["Content-Type"].partition(";")[0]
    assert media_type in response["content"], f"{method} {path} {answer.status} is {media_type}"
    if answer.json is not None:
        validator(response["content"][media_type]["schema"]).validate(answer.json)


def signed_headers(body: bytes, delivery_id: str, content_type: str = "application/json", at_s: float | None = None) -> dict[str, str]:
    """A genuine delivery of the sources hr and partner."""
    headers = signatures.headers(KEY, delivery_id, int(time.time() if at_s is None else at_s), body)
    return headers | {"Content-Type": content_type}


def basic_headers(password: str = PMS_PASSWORD) -> dict[str, str]:
    return {"Authorization": "Basic " + b64encode(f"pms:{password}".encode()).decode(), "Content-Type": "application/json"}


def read_at(settings: Settings, topic: str, partition: int, offset: int) -> Message:
    """The record at a place that an answer named."""
    consumer = kafka.consumer(settings, "test-read-at")
    try:
        consumer.assign([TopicPartition(topic, partition, offset)])
        message = consumer.poll(20)
        assert message is not None and message.error() is None and message.offset() == offset, "the acknowledged record is not there"
        return message
    finally:
        consumer.close()


def read_all(settings: Settings, topic: topics.Topic) -> list[Message]:
    """All records that are in a topic now."""
    consumer = kafka.consumer(settings, "test-read-all")
    name = topic.name(settings.topic_prefix)
    found: list[Message] = []
    try:
        ends = {}
        for partition in range(settings.kafka_partitions):
            low, high = consumer.get_watermark_offsets(TopicPartition(name, partition), timeout=20)
            if high > low:
                ends[partition] = high
        if not ends:
            return found
        consumer.assign([TopicPartition(name, partition, 0) for partition in ends])
        deadline_s = time.monotonic() + 30
        while ends and time.monotonic() < deadline_s:
            for message in consumer.consume(1000, timeout=0.1):
                found.append(message)
                if message.offset() + 1 >= ends.get(message.partition(), 0):
                    ends.pop(message.partition(), None)
        assert not ends, f"{name} was not read to its end"
    finally:
        consumer.close()
    return found


class StubOwner:
    """A worker's internal port. `accounts` maps programme/member to what is answered: an Account, or a status."""

    def __init__(self, looped_run: Callable[[Awaitable[Any]], Any]) -> None:
        self.accounts: dict[str, Any] = {}
        self.pages: dict[str, Any] = {}
        """Of exports; what is not here is another worker's."""
        self.identities: dict[str, str | int] = {}
        """Programme/type/value -> the member, or a status."""
        self.waiting: Any = 503
        """What /internal/waiting answers: a page, or a status."""
        self.asked: list[str] = []
        self._run = looped_run
        app = web.Application()
        app.router.add_get("/internal/accounts/{program}/{member:[^/]+}", self._answer)
        app.router.add_get("/internal/export/{program}/{member:[^/]+}", self._page)
        app.router.add_get("/internal/identities/{program}/{kind}/{value:[^/]+}", self._identity)
        app.router.add_get("/internal/waiting", self._waiting)
        self._runner = looped_run(serve(app, "127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("Authorization") != f"Bearer {INTERNAL_TOKEN}":
            return web.Response(status=401)
        key = f"{request.match_info['program']}/{request.match_info['member']}"
        self.asked.append(key)
        answer = self.accounts.get(key, 404)
        if isinstance(answer, int):
            return web.Response(status=answer)
        return web.json_response(answer.to_avro()) if hasattr(answer, "to_avro") else web.Response(body=answer)

    async def _page(self, request: web.Request) -> web.StreamResponse:
        page = self.pages.get(f"{request.match_info['program']}/{request.match_info['member']}")
        return web.Response(status=421) if page is None else web.json_response(page)

    async def _identity(self, request: web.Request) -> web.StreamResponse:
        found = self.identities.get("/".join(request.match_info[name] for name in ("program", "kind", "value")), 421)
        return web.Response(status=found) if isinstance(found, int) else web.json_response({"member_id": found})

    async def _waiting(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(str(request.rel_url))
        return web.Response(status=self.waiting) if isinstance(self.waiting, int) else web.json_response(self.waiting)

    def stop(self) -> None:
        self._run(self._runner.cleanup())


class Decider:
    """Stands in for the worker: decides each transaction as its `category` says, in Kafka transactions."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stop = threading.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._ready.wait(30)

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        consumer = kafka.consumer(self._settings, "test-decider", fetch_wait_max_ms=10)
        name = topics.TRANSACTIONS.name(self._settings.topic_prefix)
        ends = [
            TopicPartition(name, n, consumer.get_watermark_offsets(TopicPartition(name, n), timeout=20)[1])
            for n in range(self._settings.kafka_partitions)
        ]
        consumer.assign(ends)
        producer = kafka.producer(self._settings, transactional_id=f"{self._settings.topic_prefix}-decider")
        producer.init_transactions(20)
        self._ready.set()
        while not self._stop.is_set():
            message = consumer.poll(0.05)
            if message is None or message.error() is not None:
                continue
            transaction = CODEC.decode(message.value(), Transaction)
            script, _, reason = (transaction.category or "").partition(":")
            if script == "ABORTED":  # What is aborted never happened, and must not reach who waits.
                self._write(producer, message, transaction, CommandResult.REFUSED, "NEVER", commit=False)
                script = "APPLIED"
            if script in CommandResult.__members__:
                self._write(producer, message, transaction, CommandResult(script), reason or None, commit=True)
        consumer.close()

    def _write(
        self, producer: Any, message: Message, transaction: Transaction, result: CommandResult, reason: str | None, *, commit: bool
    ) -> None:
        now_ms = int(time.time() * 1000)
        audit = SyncAudit(
            audit_id=f"{message.topic()}-{message.partition()}-{message.offset()}", program_id=transaction.program_id,
            member_id=transaction.member_id, stream="transactions", command_id=transaction.transaction_id, payload_hash="x",
            source_system=transaction.source_system, result=result, reason=reason, sequence=7, points_delta=transaction.points or 0,
            available_points=100, tier="MEMBER", voucher_code="CODE" if transaction.reward_code else None,
            occurred_at_ms=transaction.occurred_at_ms, ingested_at_ms=now_ms, recorded_at_ms=now_ms,
            correlation_id=dict(message.headers() or [])["correlation_id"].decode(),
            topic=message.topic(), partition=message.partition(), offset=message.offset(),
        )  # fmt: skip
        producer.begin_transaction()
        producer.produce(topics.SYNC_AUDIT.name(self._settings.topic_prefix), key=message.key(), value=CODEC.encode(audit))
        if commit:
            producer.commit_transaction(20)
        else:
            producer.flush(20)
            time.sleep(0.2)
            producer.abort_transaction(20)
