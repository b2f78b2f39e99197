"""The systems around the pipeline, as far as they send or ask: each speaks to it from outside, as the real ones would."""

import asyncio
import json
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import aiohttp
import orjson
from confluent_kafka import KafkaError, Message

from infra.demo.checks import CheckFailed, poll
from infra.fakes.apaleo import ApaleoFake
from schemas.codec import Codec
from schemas.contract import Command, command_id, member_key
from schemas.registry import LocalRegistry
from streams import kafka, signatures, topics
from streams.settings import Settings

FLUSH_S = 30  # For the broker to acknowledge what was produced.
ANSWER_S = 30  # For any other answer.
NOT_YET = "urn:loyalty:not-yet"
WAIT_S = 5  # What the app grants the pipeline to decide on a redemption, with a guest who looks at the screen.

TOPIC_OF = {topic.record: topic for topic in topics.INBOUND}


class Sent:
    """When each command left its sender: monotonic time of the first attempt, by the command's id."""

    def __init__(self) -> None:
        self.at_s: dict[str, float] = {}
        self.repeats = 0

    def note(self, command: str) -> None:
        if command in self.at_s:
            self.repeats += 1
        else:
            self.at_s[command] = time.monotonic()


def name_of(command: Command) -> str:
    """programme/member."""
    return member_key(command.program_id, command.member_id).decode()


class Upstream:
    """A system of the hotel group that writes commands straight into the topics."""

    def __init__(self, settings: Settings, sent: Sent) -> None:
        self._prefix = settings.topic_prefix
        self._sent = sent
        self._codec = Codec(LocalRegistry())
        self._producer = kafka.producer(settings)
        self._problems: list[str] = []
        self.count = 0

    async def connect(self) -> None:
        """Know the brokers and topics before the first command, as a system that has been running does."""
        await asyncio.to_thread(self._producer.list_topics, timeout=ANSWER_S)

    def send(self, command: Command) -> None:
        topic = TOPIC_OF[type(command)].name(self._prefix)
        self._sent.note(command_id(command))
        value = self._codec.encode(command)
        self._producer.produce(topic, key=name_of(command).encode(), value=value, on_delivery=self._delivered)
        self._producer.poll(0)
        self.count += 1

    async def stream(self, commands: Iterable[Command], per_s: float) -> None:
        """Send at an even pace. Raises CheckFailed if the broker does not take all of them."""
        start_s = time.monotonic()
        for number, command in enumerate(commands):
            await asyncio.sleep(max(0.0, start_s + number / per_s - time.monotonic()))
            self.send(command)
        await self.flush()

    async def flush(self) -> None:
        """Return when the broker has acknowledged everything. Raises CheckFailed."""
        left = await asyncio.to_thread(self._producer.flush, FLUSH_S)
        if left or self._problems:
            seen = self._problems[:3] or f"{left} without an answer"
            raise CheckFailed("Kafka takes what upstream sends", expected="all acknowledged", seen=seen)

    def close(self) -> None:
        self._producer.purge()
        self._producer.close()

    def _delivered(self, error: KafkaError | None, _: Message) -> None:
        if error is not None:
            self._problems.append(str(error))


@dataclass(frozen=True, slots=True)
class Answer:
    """What the REST API said."""

    status: int
    body: dict[str, Any]
    took_s: float


class Api:
    """The mobile app's own use of the REST API."""

    def __init__(self, session: aiohttp.ClientSession, url: str, token: str, sent: Sent, heard: Callable[[str], int]) -> None:
        """`heard`: the sequence of the last event of a member that the app knows of. It never reads an older account."""
        self._session = session
        self._url = url
        self._headers = {"Authorization": f"Bearer {token}"}
        self._sent = sent
        self._heard = heard

    async def transact(self, member: str, transaction_id: str, **fields: Any) -> Answer:
        """POST a transaction, and wait for the decision."""
        return await self._post("transactions", member, transaction_id, {"transaction_id": transaction_id} | fields)

    async def activate_offer(self, member: str, event_id: str, offer_id: str) -> Answer:
        return await self._post("offer-activations", member, event_id, {"event_id": event_id, "offer_id": offer_id})

    async def operate(self, member: str, event_id: str, **fields: Any) -> Answer:
        """POST an operation on the membership as a whole, for example a merge."""
        return await self._post("member-operations", member, event_id, {"event_id": event_id, "source_system": "crm"} | fields)

    async def change_profile(self, member: str, event_id: str, **fields: Any) -> Answer:
        """POST a change of the profile or of the status."""
        return await self._post("profile-changes", member, event_id, {"event_id": event_id} | fields)

    async def manage(self, method: str, path: str, body: dict[str, Any] | None = None) -> Answer:
        """What an operator asks of /v1/destinations or /v1/deliveries."""
        started_s = time.monotonic()
        async with self._session.request(method, f"{self._url}/v1/{path}", json=body, headers=self._headers) as response:
            content = await response.read()
            return Answer(response.status, json.loads(content) if content else {}, time.monotonic() - started_s)

    async def balance(self, member: str) -> dict[str, Any]:
        """GET the newest balance, as the cache has it; or the problem that was answered instead."""
        return await self._get(member, "/balance")

    async def account(self, member: str) -> dict[str, Any]:
        """GET the whole account, from the worker that owns it. Raises CheckFailed if there is no such answer."""
        body = await poll(
            f"GET /v1/members/... of {member}", lambda: self._get(member, "", min_sequence=self._heard(member)),
            lambda answer: answer.get("type") != NOT_YET, expected=f"sequence {self._heard(member)}",
        )  # fmt: skip
        if body.get("source") != "owner":
            raise CheckFailed(f"GET /v1/members/... of {member}", expected="the account, from its owner", seen=body)
        return body

    async def _post(self, stream: str, member: str, command: str, fields: dict[str, Any]) -> Answer:
        program_id, _, member_id = member.partition("/")
        body = {"program_id": program_id, "member_id": member_id, "source_system": "mobile-app"} | fields
        self._sent.note(command)
        headers = self._headers | {"Prefer": f"wait={WAIT_S}"}
        started_s = time.monotonic()
        async with self._session.post(f"{self._url}/v1/{stream}", json=body, headers=headers) as response:
            return Answer(response.status, orjson.loads(await response.read()), time.monotonic() - started_s)

    async def _get(self, member: str, suffix: str, min_sequence: int = 0) -> dict[str, Any]:
        program_id, _, member_id = member.partition("/")
        url = f"{self._url}/v1/members/{member_id}{suffix}"
        async with self._session.get(url, params={"program": program_id, "min_sequence": min_sequence}, headers=self._headers) as response:
            body: dict[str, Any] = orjson.loads(await response.read())
            return body


class HrSystem:
    """An HR system that posts signed webhooks (Standard Webhooks)."""

    def __init__(self, session: aiohttp.ClientSession, url: str, secret: str, sent: Sent) -> None:
        self._session = session
        self._url = f"{url}/v1/webhooks/hr"
        self._key = signatures.decode_secret(secret)
        self._sent = sent

    async def deactivate(self, employee_id: str) -> str:
        """Somebody has left. The id of the command that follows. Raises CheckFailed."""
        now = datetime.now(UTC)
        return await self._post("worker.deactivated", now, {"employee_id": employee_id, "last_day": f"{now:%Y-%m-%d}", "reason": "TERMINATION"})

    async def update(self, employee_id: str, at: datetime, **attributes: str) -> str:
        """Somebody's record has changed, at a time that may be past. The id of the command that follows. Raises CheckFailed."""
        return await self._post("worker.updated", at, {"employee_id": employee_id, "attributes": attributes})

    async def reactivate(self, employee_id: str, at: datetime) -> str:
        """Somebody has come back. The id of the command that follows. Raises CheckFailed."""
        return await self._post("worker.reactivated", at, {"employee_id": employee_id})

    async def _post(self, kind: str, at: datetime, data: Mapping[str, object]) -> str:
        body = orjson.dumps({"type": kind, "timestamp": at.isoformat(timespec="milliseconds"), "data": data})
        webhook_id = f"msg_{uuid.uuid4().hex}"
        headers = signatures.headers(self._key, webhook_id, int(time.time()), body) | {"Content-Type": "application/json"}
        self._sent.note(f"hr:{webhook_id}")
        async with self._session.post(self._url, data=body, headers=headers) as response:
            if response.status != 202:
                raise CheckFailed("HR's webhook is taken", expected=202, seen=f"{response.status} {await response.text()}")
        return f"hr:{webhook_id}"


class HotelDesk:
    """The desk of a hotel, whose PMS tells subscribers what happens, and nothing more than that something did."""

    def __init__(self, pms: ApaleoFake, sent: Sent) -> None:
        self.pms = pms
        self._sent = sent

    async def check_out(self, reservation_id: str) -> str:
        """The guest pays and leaves. The id of the command that follows."""
        self._sent.note(stay_of(reservation_id))
        await self.pms.check_out(reservation_id)
        return stay_of(reservation_id)

    async def tell_again(self, reservation_id: str) -> None:
        """The PMS tells of a check-out that it has told of before: once as a new webhook, and that one twice."""
        self._sent.note(stay_of(reservation_id))
        webhook = await self.pms.tell("checked-out", reservation_id)
        for subscription in self.pms.subscriptions:
            self._sent.note(stay_of(reservation_id))
            await self.pms.send(subscription.endpoint_url, webhook)


def stay_of(reservation_id: str) -> str:
    """What the pipeline calls the earn of a stay."""
    return f"apaleo:{reservation_id}:stay"


class Analyst:
    """Somebody with a SQL client and ClickHouse's URL."""

    def __init__(self, session: aiohttp.ClientSession, settings: Settings) -> None:
        self._session = session
        self._url = settings.clickhouse_url
        self._headers = {
            "X-ClickHouse-User": settings.clickhouse_username,
            "X-ClickHouse-Key": settings.clickhouse_password,
            "X-ClickHouse-Database": settings.clickhouse_database,
        }

    async def ask(self, sql: str) -> list[dict[str, Any]]:
        """The rows of a query. Raises CheckFailed with ClickHouse's own words."""
        parameters = {"default_format": "JSONEachRow", "output_format_json_quote_64bit_integers": "0"}
        async with self._session.post(self._url, params=parameters, data=sql.encode(), headers=self._headers) as response:
            text = await response.text()
        if response.status != 200:
            raise CheckFailed("ClickHouse answers", expected="rows", seen=text.strip())
        return [orjson.loads(line) for line in text.splitlines()]

    async def number(self, sql: str) -> int:
        """The only value of a query."""
        (row,) = await self.ask(sql)
        (value,) = row.values()
        return int(value)


def open_session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=ANSWER_S))
