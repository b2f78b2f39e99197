"""Processes that are killed and stopped while they write: no field of the system ever goes back, and all arrive at the newest."""

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from infra.fakes.server import Misbehaviour
from schemas.records import LoyaltyEvent
from sinks.connectors.lease import START_S
from sinks.delivery.journal import Journal
from streams import kafka, topics
from streams.settings import Settings
from tests.conftest import MakeSettings
from tests.sinks.broker import codec, fill
from tests.sinks.connectors.support import Points, process, results, target_of, until
from tests.sinks.examples import event

pytestmark = pytest.mark.usefixtures("kafka")
Spawn = Callable[[], subprocess.Popen[bytes]]


@pytest.fixture
async def system() -> AsyncIterator[Points]:
    one = Points()
    await one.start()
    yield one
    one.gate.set()
    one.token_gate.set()
    await one.stop()


@pytest.fixture
def settings(make_settings: MakeSettings) -> Settings:
    return make_settings(kafka_partitions=2)


@pytest.fixture
def spawn(settings: Settings, system: Points) -> Iterator[Spawn]:
    children: list[subprocess.Popen[bytes]] = []

    def start() -> subprocess.Popen[bytes]:
        child = subprocess.Popen(
            [sys.executable, "-m", "tests.sinks.connectors.child", system.base_url], env={**os.environ, **settings.environment()}, stderr=subprocess.DEVNULL
        )
        children.append(child)
        return child

    yield start
    for child in children:
        child.kill()
        child.wait()


def rises(values: list[int]) -> bool:
    return values == sorted(values)


async def test_what_a_killed_process_had_under_way_is_waited_for(settings: Settings, system: Points, spawn: Spawn) -> None:
    """Its request is still in the system when the next process takes over: a newer state of that member waits until it is over, others do not."""
    system.gate.clear()
    child = spawn()
    fill_when_ready(settings, [event(1, "m-1")])
    await until(lambda: system.waiting == 1, 60)
    child.kill()
    child.wait()
    async with process(settings, target_of(system.base_url, timeout_s=1.0)) as run:
        await until(lambda: len(run.partitions) == 2 and all(partition.is_open for partition in run.partitions.values()), 60)
        system.is_gated = False
        fill(settings, topics.EVENTS, [event(2, "m-1"), *(event(1, f"m-{number}") for number in range(2, 8))])
        await until(lambda: all(system.sequences(f"m-{number}") == [1] for number in range(2, 8)))
        assert system.sequences("m-1") == []
        system.gate.set()
        await until(lambda: system.sequences("m-1") == [1, 2], 60)
        await until(lambda: not any(partition.hand for partition in run.partitions.values()))
    assert results(settings)["grand-m-1-2"] == ["DELIVERED"]


async def test_a_process_that_was_stopped_too_long_sends_nothing_that_it_had_announced(settings: Settings, system: Points, spawn: Spawn) -> None:
    """It is stopped between the announcement and the request. When it wakes, another one has its partitions, and has written what is newer."""
    child = spawn()
    fill_when_ready(settings, [event(1, "m-1")])
    await until(lambda: system.sequences("m-1") == [1], 60)
    system.token_gate.clear()
    system.expire_tokens()
    fill(settings, topics.EVENTS, [event(2, "m-1")])
    await until(lambda: system.tokens_waiting == 1)
    child.send_signal(signal.SIGSTOP)
    system.token_gate.set()
    async with process(settings, target_of(system.base_url, timeout_s=1.0)) as run:
        fill(settings, topics.EVENTS, [event(3, "m-1")])
        await until(lambda: system.sequences("m-1") == [1, 3], 90)
        calls = len(system.calls)
        issued = system.tokens_issued
        child.send_signal(signal.SIGCONT)
        fill(settings, topics.EVENTS, [event(1, "m-2")])
        await until(lambda: system.sequences("m-2") == [1] and len(run.partitions) < 2, 60)
        await until(lambda: len(system.calls) > calls and system.tokens_issued >= issued)
    assert system.sequences("m-1") == [1, 3]


async def test_a_machine_that_slept_sends_nothing_that_it_had_announced(
    settings: Settings, system: Points, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """While it sleeps, time-outs stand still, and another process takes over and writes what is newer. The clock of the lease goes on."""
    slept_s, real = 0.0, time.clock_gettime
    monkeypatch.setattr(time, "clock_gettime", lambda which: real(which) + slept_s)
    async with process(settings, target_of(system.base_url)) as run:
        fill(settings, topics.EVENTS, [event(1, "m-1")])
        await until(lambda: system.sequences("m-1") == [1] and not any(one.hand for one in run.partitions.values()))
        system.token_gate.clear()
        system.expire_tokens()
        fill(settings, topics.EVENTS, [event(2, "m-1")])
        await until(lambda: system.tokens_waiting == 1)
        number = next(number for number, one in run.partitions.items() if one.hand)
        other = Journal(settings, codec(), topics.EVENTS, number, progress=topics.CONNECTOR_PROGRESS, owner="points")
        rows = await asyncio.to_thread(other.open)
        assert [row.intended_sequence for row in rows if row.member] == [2], "it is announced, and whoever takes over knows"
        system.put("m-1", {"sequence": 3})
        slept_s = START_S + 1.0
        system.token_gate.set()
        await until(lambda: "connector.journal_lost" in caplog.text)
        assert system.sequences("m-1") == [1, 3]
        await asyncio.to_thread(other.close)


async def test_a_storm_of_kills_loses_nothing_and_turns_nothing_back(settings: Settings, system: Points, spawn: Spawn) -> None:
    chance = random.Random(7)
    system.fail_at_random(7, 0.15, Misbehaviour(status=503), Misbehaviour(drops=True), Misbehaviour(status=429, headers={"Retry-After": "1"}))
    newest: dict[str, int] = dict.fromkeys((f"m-{number}" for number in range(30)), 0)

    async def traffic(count: int) -> None:
        for _ in range(count):
            member = chance.choice(list(newest))
            newest[member] += 1
            fill(settings, topics.EVENTS, [event(newest[member], member)])
            await asyncio.sleep(0.005)

    child = spawn()
    fill_when_ready(settings, [])
    for _ in range(3):
        calls = len(system.calls)
        await traffic(100)
        await until(lambda: len(system.calls) > calls + chance.randrange(3), 90)
        child.kill()
        child.wait()
        child = spawn()
    await traffic(50)
    system.behave()
    wanted = {member: sequence for member, sequence in newest.items() if sequence}
    await until(lambda: all(system.sequences(member)[-1:] == [sequence] for member, sequence in wanted.items()), 120)
    assert all(rises(system.sequences(member)) for member in wanted)
    child.kill()
    child.wait()
    async with process(settings, target_of(system.base_url, timeout_s=1.0)) as run:
        await until(lambda: len(run.partitions) == 2 and all(one.is_open and not one.hand for one in run.partitions.values()), 90)
    ends = results(settings)
    assert ends.keys() == {f"grand-{member}-{number}" for member, last in wanted.items() for number in range(1, last + 1)}
    assert all(len(set(how)) == len(how) == 1 for how in ends.values()), "every event has one end on record"


def fill_when_ready(settings: Settings, records: list[LoyaltyEvent]) -> None:
    """Before any process has made the topics."""
    kafka.ensure_topics(settings)
    fill(settings, topics.EVENTS, records)
