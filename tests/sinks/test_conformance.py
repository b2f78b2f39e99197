"""What every sink promises, tomorrow's included: a dead back end is waited for, poison is a dead letter, a replay changes nothing."""

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import redis
from clickhouse_connect.driver.exceptions import ClickHouseError
from confluent_kafka import TopicPartition

from infra.fakes.darwinbox import DarwinboxFake
from infra.fakes.receiver import Receiver
from schemas.records import DeadLetterStage
from sinks import SINKS, clickhouse, main, redis_cache
from sinks.base import Health
from streams import kafka as kafka_clients
from streams import topics
from streams.configuration import Configuration
from streams.connectors.darwinbox import CONNECTOR as DARWINBOX
from streams.destinations.control import ControlLog
from streams.destinations.model import Job
from streams.settings import Settings
from tests.sinks.broker import codec, dead_letters, fill, read_all, running, until_committed
from tests.sinks.connectors.support import target_of
from tests.sinks.delivery.support import LOOPBACK, destination
from tests.sinks.examples import SECRET, event

pytestmark = pytest.mark.stack

MEMBERS = 20


class Harness(ABC):
    """One sink and its back end."""

    group = ""
    """Its commits say what is finished; empty: something else does."""

    def __init__(self, settings: Settings, back_end: Any) -> None:
        self.settings = settings
        self.back_end = back_end

    @property
    def configuration(self) -> Configuration:
        return Configuration(programs={}, sources={}, destinations={}, tokens=())

    async def stop_back_end(self) -> None:
        await asyncio.to_thread(self.back_end.kill)

    async def start_back_end(self) -> None:
        await asyncio.to_thread(self.back_end.start)

    @abstractmethod
    async def arrived(self) -> dict[str, int]:
        """Newest sequence at the destination, by member."""

    @abstractmethod
    async def state(self) -> Any:
        """Everything that a replay could have changed."""

    async def until_finished(self) -> None:
        """Return when the sink is done with all of the events topic, and has written that down."""
        await until_committed(self.settings, self.group)

    async def replay(self, run: Callable[[asyncio.Event], Any]) -> None:
        """Have the sink take everything again, as an operator does."""
        await asyncio.to_thread(_rewind, self)
        async with running(run):
            await self.until_finished()


class Webhooks(Harness):
    @property
    def configuration(self) -> Configuration:
        return Configuration(programs={}, sources={}, destinations={"crm": destination(self.back_end)}, tokens=())

    async def stop_back_end(self) -> None:
        await self.back_end.go_down()

    async def start_back_end(self) -> None:
        await self.back_end.come_back()

    async def arrived(self) -> dict[str, int]:
        return {one.member: one.sequence for one in self.back_end.accepted}

    async def state(self) -> Any:
        return {one.webhook_id: one.body for one in self.back_end.accepted}

    async def until_finished(self) -> None:
        async with asyncio.timeout(20):
            while {one.event_id for _, one in await asyncio.to_thread(read_all, self.settings, topics.DELIVERY_AUDIT)} != set(await self.state()):
                await asyncio.sleep(0.1)

    async def replay(self, run: Callable[[asyncio.Event], Any]) -> None:
        before = set(await self.state())
        control = ControlLog(self.settings, codec(), self.configuration.destinations)
        control.start()
        await control.ready()
        await control.put_job(Job(job_id="again", destination="crm", until_ms=time.time_ns() // 1_000_000 + 1, rate_max_per_s=None), changed_by="test")
        await control.close()
        async with running(run):
            await self.back_end.wait_for(lambda r: {one.webhook_id for one in r.accepted if "loyalty-replay" in one.headers} == before, timeout_s=20)


class RedisCache(Harness):
    group = "sink-redis"

    async def arrived(self) -> dict[str, int]:
        try:
            return {key: int(stored[b"sequence"]) for key, stored in (await self.state()).items()}
        except redis.RedisError:
            return {}

    async def state(self) -> Any:
        client = redis_cache.connect(self.settings)
        try:
            prefix = f"{self.settings.topic_prefix}:balance:"
            return {key.decode().removeprefix(prefix): await client.hgetall(key) async for key in client.scan_iter(f"{prefix}*")}
        finally:
            await client.aclose()


class ClickHouse(Harness):
    group = "sink-clickhouse-events"

    async def arrived(self) -> dict[str, int]:
        try:
            rows = await self._query("SELECT concat(program_id, '/', member_id), last_sequence FROM balances")
        except (ClickHouseError, OSError):
            return {}
        return dict(rows)

    async def state(self) -> Any:
        return await self._query("SELECT * EXCEPT mirrored_at FROM loyalty_events FINAL ORDER BY member_id, sequence")

    async def _query(self, sql: str) -> Any:
        def ask() -> Any:
            client = clickhouse.connect(self.settings)
            try:
                return client.query(sql).result_rows
            finally:
                client.close()

        return await asyncio.to_thread(ask)


class Connectors(Harness):
    """One connected system, which knows all members."""

    @property
    def configuration(self) -> Configuration:
        tenant = self.back_end
        target = target_of(
            tenant.base_url, DARWINBOX, "darwinbox", client_id=tenant.client_id, client_secret=tenant.client_secret, code=tenant.code,
            sequence_attribute="sequence",
        )  # fmt: skip
        return Configuration(programs={}, sources={}, destinations={}, tokens=(), targets={"darwinbox": target})

    async def stop_back_end(self) -> None:
        await self.back_end.stop()

    async def start_back_end(self) -> None:
        await self.back_end.start()

    async def arrived(self) -> dict[str, int]:
        return {f"grand/{member}": int(fields["sequence"]) for member, fields in self.back_end.values.items()}

    async def state(self) -> Any:
        """All that each field has ever been."""
        return {place: list(values) for place, values in self.back_end.history.items()}

    async def until_finished(self) -> None:
        last = max((await self.arrived()).values())
        wanted = {one.event_id for one in events(*range(1, last + 1))}
        async with asyncio.timeout(20):
            while {one.event_id for _, one in await asyncio.to_thread(read_all, self.settings, topics.DELIVERY_AUDIT)} != wanted:
                await asyncio.sleep(0.1)

    async def replay(self, run: Callable[[asyncio.Event], Any]) -> None:
        """A state is never written twice, so there is nothing to ask for: a process that starts reads on, and writes nothing again."""
        async with running(run):
            newer = events(4)
            await asyncio.to_thread(fill, self.settings, topics.EVENTS, newer[:1])
            async with asyncio.timeout(30):
                while (await self.arrived())["grand/m-0"] != 4:
                    await asyncio.sleep(0.05)
        for (member, _), values in self.back_end.history.items():
            if member == "m-0":
                values.pop()


@pytest.fixture(params=list(SINKS))
async def harness(request: pytest.FixtureRequest, kafka: Any, make_settings: Callable[..., Settings]) -> AsyncIterator[Harness]:
    overrides: dict[str, Any] = {"redis_url": "redis://127.0.0.1:1", "clickhouse_url": "http://127.0.0.1:1", "http_port": 0}
    if request.param == "webhooks":
        async with Receiver(SECRET) as receiver:
            yield Webhooks(make_settings(**overrides, delivery_allowed_addresses=LOOPBACK), receiver)
        return
    if request.param == "connectors":
        tenant = DarwinboxFake()
        for member in range(MEMBERS):
            tenant.hire(f"m-{member}")
        await tenant.start()
        yield Connectors(make_settings(**overrides), tenant)
        await tenant.stop()
        return
    name, server = ("redis_url", "valkey") if request.param == "redis" else ("clickhouse_url", "clickhouse")
    del overrides[name]
    made = {"redis": RedisCache, "clickhouse": ClickHouse}[request.param](make_settings(**overrides), request.getfixturevalue(server))
    yield made
    await made.start_back_end()  # Whatever a failed test left behind.


def run(harness: Harness, request: pytest.FixtureRequest) -> Callable[[asyncio.Event], Any]:
    name = request.node.callspec.params["harness"]
    return lambda stop: main.run_sink(name, harness.settings, harness.configuration, stop)


async def until_arrived(harness: Harness, sequence: int, timeout_s: float = 30.0) -> None:
    async with asyncio.timeout(timeout_s):
        while await harness.arrived() != {f"grand/m-{member}": sequence for member in range(MEMBERS)}:
            await asyncio.sleep(0.05)


def events(*sequences: int) -> list[Any]:
    return [event(sequence, f"m-{member}") for sequence in sequences for member in range(MEMBERS)]


async def test_a_dead_back_end_is_waited_for_and_nothing_is_lost(harness: Harness, request: pytest.FixtureRequest) -> None:
    await asyncio.to_thread(kafka_clients.ensure_topics, harness.settings)
    await asyncio.to_thread(fill, harness.settings, topics.EVENTS, events(1, 2))
    async with running(run(harness, request)):
        await until_arrived(harness, 2)
        await harness.stop_back_end()
        await asyncio.to_thread(fill, harness.settings, topics.EVENTS, events(3, 4, 5))
        await asyncio.sleep(1.0)  # Long enough for every sink to have tried.
        assert await harness.arrived() in ({}, {f"grand/m-{member}": 2 for member in range(MEMBERS)})
        await harness.start_back_end()
        await until_arrived(harness, 5)
        await harness.until_finished()
    assert await asyncio.to_thread(dead_letters, harness.settings) == []


async def test_neither_a_stop_nor_a_start_needs_a_live_back_end(harness: Harness, request: pytest.FixtureRequest) -> None:
    await asyncio.to_thread(kafka_clients.ensure_topics, harness.settings)
    await asyncio.to_thread(fill, harness.settings, topics.EVENTS, events(1))
    stop = asyncio.Event()
    task = asyncio.create_task(run(harness, request)(stop))
    await until_arrived(harness, 1)
    await harness.stop_back_end()
    await asyncio.to_thread(fill, harness.settings, topics.EVENTS, events(2))
    await asyncio.sleep(0.5)  # It has taken the events and failed.
    stop.set()
    async with asyncio.timeout(5):
        await task
    async with running(run(harness, request)):
        await asyncio.sleep(0.5)  # It has found nobody.
        await harness.start_back_end()
        await until_arrived(harness, 2)


async def test_poison_is_a_dead_letter_the_next_record_is_processed_and_a_replay_changes_nothing(
    harness: Harness, request: pytest.FixtureRequest
) -> None:
    await asyncio.to_thread(kafka_clients.ensure_topics, harness.settings)
    await asyncio.to_thread(fill, harness.settings, topics.EVENTS, [b"poison", *events(1), b"\x00\x00\x00\x00\x01more", *events(2, 3)])
    async with running(run(harness, request)):
        await until_arrived(harness, 3)
        await harness.until_finished()
    before = await harness.state()
    await harness.replay(run(harness, request))
    assert await harness.state() == before
    letters = {letter.dead_letter_id: letter for letter in await asyncio.to_thread(dead_letters, harness.settings)}
    assert sorted((letter.stage, letter.reason, letter.value) for letter in letters.values()) == [
        (DeadLetterStage.DECODE, "NOT_WIRE_FORMAT", b"poison"),
        (DeadLetterStage.DECODE, "SCHEMA_UNKNOWN", b"\x00\x00\x00\x00\x01more"),
    ]


def _rewind(harness: Harness) -> None:
    """Commit the start of the topic."""
    consumer = kafka_clients.consumer(harness.settings, harness.group)
    name = topics.EVENTS.name(harness.settings.topic_prefix)
    consumer.commit(offsets=[TopicPartition(name, number, 0) for number in range(harness.settings.kafka_partitions)], asynchronous=False)
    consumer.close()


async def test_readiness_says_what_is_missing() -> None:
    health = Health()
    assert health.readiness() == ""
    health.set("a", lambda: "")
    health.set("b", lambda: "b sleeps")
    assert health.readiness() == "b sleeps"
    health.set("b", lambda: "")
    assert health.readiness() == ""


@pytest.mark.parametrize("name", SINKS)
async def test_no_broker_is_waited_for(
    name: str, make_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(main, "ANSWER_S", 0.2)
    nothing = {"kafka_bootstrap_servers": "127.0.0.1:1", "redis_url": "redis://127.0.0.1:1", "clickhouse_url": "http://127.0.0.1:1"}
    settings = make_settings(**nothing, http_port=0)
    configuration = Configuration(programs={}, sources={}, destinations={}, tokens=())
    async with running(lambda stop: main.run_sink(name, settings, configuration, stop)):
        await asyncio.sleep(0.2)
