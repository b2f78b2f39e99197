"""The mirror as a process, over a real broker: killed, before a ClickHouse that is slow, forgets or is gone, it loses and doubles nothing."""

import asyncio
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from clickhouse_connect.driver.client import Client
from confluent_kafka.admin import AdminClient

from infra.clickhouse_service import ClickHouseServer
from schemas.records import Enrolment, LedgerEntry, Transaction, TransactionKind
from sinks import clickhouse, main
from streams import kafka as kafka_clients
from streams import topics
from streams.configuration import Configuration
from streams.settings import Settings
from streams.tables import CHANGELOG_CONFIG, changelogs
from tests.e2e.oracle import RULES_TOML
from tests.e2e.processes import Pipeline, pipeline
from tests.sinks import examples
from tests.sinks.broker import fill, left_to_commit, read_all, running, until, until_committed
from tests.sinks.proxy import proxy
from tests.waiting import wait_until

pytestmark = pytest.mark.stack

MEMBERS, TIMEOUT_S = 50, 60
GROUP = "sink-clickhouse-"
MIRRORED = (topics.LEDGER_ENTRIES, topics.EVENTS)
# Sums over number times content change with any row that is missing, doubled or swapped.
FIGURES = (
    "SELECT count(), uniqExact(member_id), sum(points_delta), sum(toInt64(entry_sequence) * balance_after) FROM ledger_entries FINAL",
    "SELECT count(), uniqExact(member_id), sum(points_delta), sum(toInt64(sequence) * available_points) FROM loyalty_events FINAL",
    "SELECT count(), sum(points_sum), min(gapless), min(balanced) FROM reconciliation",
    "SELECT count() FROM mirror_gaps WHERE kind = 'GAP'",
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseServer]:
    """One of its own, because it is stopped."""
    own = ClickHouseServer(tmp_path_factory.mktemp("history"))
    own.start()
    yield own
    own.stop()


@pytest.fixture
def settings(make_settings: Callable[..., Settings], server: ClickHouseServer, tmp_path: Path) -> Settings:
    config_file = tmp_path / "loyalty.toml"
    config_file.write_text(RULES_TOML)
    made = make_settings(clickhouse_url=server.url, redis_url="redis://127.0.0.1:1", attempt_retention_days=0, config_file=str(config_file))
    kafka_clients.ensure_topics(made, changelogs={name: CHANGELOG_CONFIG for name in changelogs(made)})
    clickhouse.migrate(made)
    return made


@pytest.fixture
def client(settings: Settings) -> Iterator[Client]:
    connected = clickhouse.connect(settings)
    yield connected
    connected.close()


class World:
    """Entries and events of members, appended part by part, and the figures that must follow from them."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._dice = random.Random(8)
        self.entries: list[LedgerEntry] = []
        self.events: list[Any] = []

    def append(self, count: int) -> None:
        """So many more of each."""
        numbers = range(len(self.entries), len(self.entries) + count)
        points = [self._dice.randrange(1, 1_000) for _ in numbers]
        balances = dict.fromkeys(range(MEMBERS), 0) | {number % MEMBERS: self.entries[number].balance_after for number in self._newest()}
        entries, events = [], []
        for number, delta in zip(numbers, points, strict=True):
            member, sequence = f"m-{number % MEMBERS}", number // MEMBERS + 1
            balances[number % MEMBERS] += delta
            balance = balances[number % MEMBERS]
            own = {"points_delta": delta, "balance_after": balance, "available_after": balance}
            entries.append(examples.ledger_entry(sequence, member, transaction_id=f"t-{number}", **own))
            events.append(examples.event(sequence, member, points=balance, points_delta=delta))
        fill(self._settings, topics.LEDGER_ENTRIES, entries)
        fill(self._settings, topics.EVENTS, events)
        self.entries += entries
        self.events += events

    def figures(self) -> list[tuple[Any, ...]]:
        entries, events = self.entries, self.events
        total = sum(one.points_delta for one in entries)
        return [
            (len(entries), MEMBERS, total, sum(one.entry_sequence * one.balance_after for one in entries)),
            (len(events), MEMBERS, total, sum(one.sequence * one.account.available_points for one in events)),
            (MEMBERS, total, 1, 1), (0,),
        ]  # fmt: skip

    def _newest(self) -> Sequence[int]:
        return range(max(0, len(self.entries) - MEMBERS), len(self.entries))


def figures(client: Client) -> list[tuple[Any, ...]]:
    return [tuple(client.query(figure).result_rows[0]) for figure in FIGURES]


def is_mirrored(settings: Settings) -> bool:
    return not any(left_to_commit(settings, GROUP + topic.stream, topic) for topic in MIRRORED)


def test_a_mirror_that_is_killed_at_any_moment_loses_and_doubles_nothing(settings: Settings, client: Client) -> None:
    """Each of its inserts, those of the ranges among them, may be the last that it began: known to ClickHouse or not, answered or not."""
    world, dice = World(settings), random.Random()
    with proxy(settings.clickhouse_url) as between:
        between.delay_s = 0.05
        through = replace(settings, clickhouse_url=between.url)
        for number in range(3):
            world.append(2_000)
            began, moment = between.inserts, dice.randint(1, 2 * len(MIRRORED))
            killed = Pipeline(through, "sink", "clickhouse", name=f"mirror-{number}")
            try:
                wait_until(lambda: between.inserts >= began + moment, TIMEOUT_S)  # noqa: B023
            finally:
                killed.kill()
        world.append(2_000)
        with pipeline(through, "sink", "clickhouse"):
            wait_until(lambda: is_mirrored(settings), TIMEOUT_S)
    assert figures(client) == world.figures()


async def test_a_server_that_is_slow_forgets_and_restarts_loses_and_doubles_nothing(
    settings: Settings, client: Client, server: ClickHouseServer
) -> None:
    """And a topic that is read again as a whole changes no figure."""
    world, nothing = World(settings), Configuration(programs={}, sources={}, destinations={}, tokens=())
    with proxy(settings.clickhouse_url) as between:
        through = replace(settings, clickhouse_url=between.url, http_port=0)
        async with running(lambda stop: main.run_sink("clickhouse", through, nothing, stop)):
            between.delay_s = 0.3
            await asyncio.to_thread(world.append, 1_000)
            await until(lambda: between.inserts >= 2, TIMEOUT_S)
            between.losing = 3
            await asyncio.to_thread(world.append, 1_000)
            await until(lambda: between.losing == 0, TIMEOUT_S)
            await asyncio.to_thread(server.kill)
            between.delay_s = 0.0
            await asyncio.to_thread(world.append, 1_000)
            await until(lambda: between.unanswered >= 3, TIMEOUT_S)
            await asyncio.to_thread(server.start)
            for topic in MIRRORED:
                await until_committed(settings, GROUP + topic.stream, topic, TIMEOUT_S)
        assert await asyncio.to_thread(figures, client) == world.figures()
        admin = AdminClient({"bootstrap.servers": settings.kafka_bootstrap_servers})
        for future in admin.delete_consumer_groups([f"{settings.topic_prefix}.{GROUP}{topic.stream}" for topic in MIRRORED]).values():
            await asyncio.to_thread(future.result, TIMEOUT_S)
        again = between.inserts
        async with running(lambda stop: main.run_sink("clickhouse", through, nothing, stop)):
            for topic in MIRRORED:
                await until_committed(settings, GROUP + topic.stream, topic, TIMEOUT_S)
        assert between.inserts >= again + 2 * len(MIRRORED)
    assert await asyncio.to_thread(figures, client) == world.figures()


def test_the_ledger_decides_while_clickhouse_hangs(settings: Settings, client: Client, server: ClickHouseServer) -> None:
    now_ms, count = time.time_ns() // 1_000_000, 200
    common = {"program_id": "grand", "source_system": "pms", "occurred_at_ms": now_ms}

    def earns(part: int) -> list[Transaction]:
        kind = TransactionKind.EARN
        return [
            Transaction(member_id=f"m-{n % MEMBERS}", transaction_id=f"t-{part}-{n}", kind=kind, points=n + 1, **common) for n in range(count)
        ]  # fmt: skip

    with pipeline(settings, "worker") as worker:
        with pipeline(settings, "sink", "clickhouse") as sink:
            worker.wait_ready()
            sink.wait_ready()
            fill(settings, topics.ENROLMENTS, [Enrolment(member_id=f"m-{n}", event_id=f"e-{n}", **common) for n in range(MEMBERS)])
            fill(settings, topics.TRANSACTIONS, earns(1))
            wait_until(lambda: client.query("SELECT count() FROM ledger_entries FINAL").result_rows == [(count,)], TIMEOUT_S)
            server.pause()
            try:
                fill(settings, topics.TRANSACTIONS, earns(2))
                wait_until(lambda: len(read_all(settings, topics.LEDGER_ENTRIES)) == 2 * count, TIMEOUT_S)
                assert left_to_commit(settings, GROUP + topics.LEDGER_ENTRIES.stream, topics.LEDGER_ENTRIES) >= count
            finally:
                server.resume()
            wait_until(lambda: is_mirrored(settings), TIMEOUT_S)
        # Another one goes on behind the marks of transactions, which are no gaps.
        fill(settings, topics.TRANSACTIONS, earns(3))
        with pipeline(settings, "sink", "clickhouse"):
            wait_until(lambda: client.query("SELECT count() FROM ledger_entries FINAL").result_rows == [(3 * count,)], TIMEOUT_S)
            wait_until(lambda: is_mirrored(settings), TIMEOUT_S)
    total = 3 * count * (count + 1) // 2
    assert client.query("SELECT count(), sum(points_delta) FROM ledger_entries FINAL").result_rows == [(3 * count, total)]
    assert figures(client)[2:] == [(MEMBERS, total, 1, 1), (0,)]
