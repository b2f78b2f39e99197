"""A sink as a process shows itself, waits for what is missing and names what only people can mend."""

import asyncio
import importlib
import json
from collections.abc import Callable
from dataclasses import replace

import aiohttp
import pytest

from infra import ports
from infra.fakes.receiver import Receiver
from sinks import SINKS, clickhouse, main
from sinks.clickhouse import migrations
from streams import kafka as kafka_clients
from streams import topics
from streams.configuration import Configuration
from streams.errors import ConfigurationError
from streams.settings import Settings
from tests.sinks.broker import fill, running
from tests.sinks.delivery.support import LOOPBACK, destination
from tests.sinks.examples import SECRET, event

pytestmark = pytest.mark.stack

NOTHING = Configuration(programs={}, sources={}, destinations={}, tokens=())
NO_OTHERS = {"redis_url": "redis://127.0.0.1:1", "clickhouse_url": "http://127.0.0.1:1"}


async def get(settings: Settings, path: str, token: str = "") -> tuple[int, str]:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    async with aiohttp.ClientSession(headers=headers) as session, session.get(f"http://127.0.0.1:{settings.http_port}{path}") as response:
        return response.status, await response.text()


async def until_ready(settings: Settings, timeout_s: float = 20.0) -> None:
    async with asyncio.timeout(timeout_s):
        while True:
            try:
                if (await get(settings, "/readyz"))[0] == 200:
                    return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.05)


async def test_a_name_that_is_no_sink() -> None:
    with pytest.raises(ConfigurationError, match="webhooks, redis, clickhouse"):
        await main.run_sink("kinesis", Settings(), NOTHING, asyncio.Event())


async def test_a_process_shows_health_readiness_metrics_and_its_destinations(make_settings: Callable[..., Settings]) -> None:
    settings = make_settings(**NO_OTHERS, delivery_allowed_addresses=LOOPBACK, http_port=ports.choose())
    async with Receiver(SECRET) as receiver:
        configuration = Configuration(programs={}, sources={}, destinations={"shown": destination(receiver, "shown")}, tokens=())
        async with running(lambda stop: main.run_sink("webhooks", settings, configuration, stop)):
            await until_ready(settings)
            assert (await get(settings, "/healthz"))[0] == 200
            await asyncio.to_thread(fill, settings, topics.EVENTS, [event(1)])
            delivered = 'loyalty_deliveries_total{destination="shown",status="2xx",verdict="DELIVERED"} 1.0'
            async with asyncio.timeout(20):
                while delivered not in (await get(settings, "/metrics"))[1]:
                    await asyncio.sleep(0.05)
            assert (await get(settings, "/internal/destinations"))[0] == 401
            status, text = await get(settings, "/internal/destinations", settings.internal_token)
            assert status == 200 and list(json.loads(text)["destinations"]) == ["shown"]


async def test_readiness_is_false_without_a_broker(make_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(main, "ANSWER_S", 0.5)
    settings = make_settings(**NO_OTHERS, kafka_bootstrap_servers="127.0.0.1:1", http_port=ports.choose())
    async with running(lambda stop: main.run_sink("redis", settings, NOTHING, stop)):
        await asyncio.sleep(0.1)
        status, text = await get(settings, "/readyz")
        assert status == 503 and "Kafka" in text
        assert (await get(settings, "/healthz"))[0] == 200


async def test_webhooks_without_destinations_idle(make_settings: Callable[..., Settings]) -> None:
    settings = make_settings(**NO_OTHERS, http_port=ports.choose())
    async with running(lambda stop: main.run_sink("webhooks", settings, NOTHING, stop)):
        await until_ready(settings)


async def test_a_changed_migration_ends_the_process_with_its_name(
    make_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = make_settings(redis_url="redis://127.0.0.1:1", http_port=0)
    await asyncio.to_thread(clickhouse.migrate, settings)
    changed = [replace(one, sql=one.sql + "-- edited") for one in migrations.load()]
    monkeypatch.setattr("sinks.clickhouse.migrations.load", lambda: changed)
    with pytest.raises(ConfigurationError, match="0001_history"):
        await main.run_sink("clickhouse", settings, NOTHING, asyncio.Event())


async def test_topics_of_another_partition_count_end_the_process(make_settings: Callable[..., Settings]) -> None:
    settings = make_settings(**NO_OTHERS, http_port=0)
    await asyncio.to_thread(kafka_clients.ensure_topics, settings)
    other = replace(settings, kafka_partitions=7)
    with pytest.raises(ConfigurationError, match="7"):
        await main.run_sink("redis", other, NOTHING, asyncio.Event())


def test_every_sink_can_be_imported() -> None:
    for module in SINKS.values():
        assert callable(importlib.import_module(module).run)
