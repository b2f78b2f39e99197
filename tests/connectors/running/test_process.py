"""`loyalty connectors run`: several processes share the feeds, and a kill -9 at any step loses nothing."""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import orjson
import pytest

from infra.fakes.workday import WorkdayFake
from schemas.records import Enrolment
from streams import kafka, topics
from streams.codec import open_codec
from streams.connectors import registry
from streams.connectors.contract import Source
from streams.connectors.running import progress
from streams.connectors.running.process import Process, feeds_of
from streams.settings import Settings
from tests.connectors.running.support import CONNECTOR, NumbersFake
from tests.connectors.support import STAFF
from tests.e2e.processes import Pipeline
from tests.ingress.support import CODEC, make_configuration, read_all

WAIT_S = 90
SOURCES = ("alpha", "beta", "gamma", "delta")


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():
            await asyncio.sleep(0.02)


@asynccontextmanager
async def running(settings: Settings, sources: dict[str, Source]) -> AsyncIterator[Process]:
    process, stop = Process(settings, replace(make_configuration(), sources=sources)), asyncio.Event()
    task = asyncio.create_task(process.run(stop))
    try:
        yield process
    finally:
        stop.set()
        await asyncio.wait_for(task, WAIT_S)


@pytest.fixture
def settings(make_settings: Callable[..., Settings]) -> Settings:
    settings = make_settings(redis_url="redis://unused", clickhouse_url="http://unused", kafka_partitions=4)
    kafka.ensure_topics(settings)
    return settings


async def test_processes_share_the_feeds(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "KINDS", (*registry.KINDS, "numbers"))
    monkeypatch.setitem(sys.modules, "streams.connectors.numbers", SimpleNamespace(CONNECTOR=CONNECTOR))
    numbers = NumbersFake()
    await numbers.start()
    options = {"base_url": numbers.base_url, "poll_every_s": 0.05}
    sources = {name: Source(name=name, kind="numbers", program_id="grand", options=options) for name in SOURCES}
    assert {name for source in sources.values() for name, _ in feeds_of(source)} == {(name, "numbers") for name in SOURCES}
    numbers.last = 5

    def known() -> dict[progress.Name, Any]:
        return progress.read(settings, open_codec(settings), range(settings.kafka_partitions))

    async with running(settings, sources) as first:
        await until(lambda: first.readiness() == "" and len(first._running) == len(SOURCES))
        async with running(settings, sources) as second:
            await until(lambda: bool(second._running) and len(first._running) + len(second._running) == len(SOURCES))
            assert not first._running.keys() & second._running.keys()
        await until(lambda: len(first._running) == len(SOURCES))
        numbers.last = 9
        async with asyncio.timeout(WAIT_S):
            while {record.cursor for record in (await asyncio.to_thread(known)).values()} != {b'{"after":9}'}:
                await asyncio.sleep(0.05)
    found = [CODEC.decode(message.value(), Enrolment).event_id for message in read_all(settings, topics.ENROLMENTS)]
    assert set(found) == {f"{name}:{number}" for name in SOURCES for number in range(1, 10)}
    await numbers.stop()


def configured(settings: Settings, tenant: WorkdayFake) -> Settings:
    """Settings with a file of one source, which asks often and little at a time."""
    file = Path(settings.home) / "loyalty.toml"
    file.write_text(f"""{STAFF}
[sources.workday]
kind = "workday"
program = "staff"
base_url = "{tenant.base_url}"
tenant = "{tenant.tenant}"
user_name = "{tenant.user_name}"
password = "{tenant.password}"
page_size = 2
poll_every_s = 1
""")
    return replace(settings, config_file=str(file))


@pytest.mark.parametrize("kills", [(4, 11)])
async def test_a_kill_at_any_step_loses_nothing(settings: Settings, kills: tuple[int, ...]) -> None:
    """The process is killed when the tenant has been asked so many times, and started again."""
    tenant = WorkdayFake()
    await tenant.start()
    settings = configured(settings, tenant)
    for number in range(50):
        tenant.hire(f"W-{number:03}")
    for asked in kills:
        process = Pipeline(settings, "connectors", "run")
        await until(lambda: tenant.requests["read"] >= asked)
        process.kill()
    process = Pipeline(settings, "connectors", "run")
    try:
        await until(lambda: bool(_cursor(settings).get("through_ms")))
        logged = process.log_file.read_text()
    finally:
        assert process.stop() == 0
        await tenant.stop()
    found = [CODEC.decode(message.value(), Enrolment).member_id for message in read_all(settings, topics.ENROLMENTS)]
    assert set(found) == set(tenant.workers)
    assert len(found) < 2 * len(tenant.workers), "it went on where it was, and did not begin anew"
    assert tenant.password not in logged


def _cursor(settings: Settings) -> Any:
    known = progress.read(settings, open_codec(settings), range(settings.kafka_partitions))
    record = known.get(("workday", "workers"))
    return orjson.loads(record.cursor) if record is not None else {}
