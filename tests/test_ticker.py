"""When a partition has a tick: every second, and sooner while it is behind, but never two in the log at once."""

from typing import Any

import pytest

from schemas.codec import Codec
from schemas.records import Tick
from schemas.registry import LocalRegistry
from streams import topics
from streams.settings import Settings
from streams.ticker import CATCHING_UP_MAX, LOST_AFTER_S, TICK_EVERY_S, Ticker

CODEC = Codec(LocalRegistry())


class Scripted:
    """Partitions as a worker would see them, and a producer that keeps what it is given."""

    def __init__(self, owned: int) -> None:
        self.owned = set(range(owned))
        self.handled = dict.fromkeys(range(owned), 0)
        self.behind: set[int] = set()
        self.rows: dict[int, int] = {}
        self.sent: list[tuple[str, bytes, int]] = []
        self.ticker = Ticker(
            self, Settings(), CODEC, owned=lambda: self.owned, handled=self.handled.__getitem__, behind=self.behind.__contains__,  # type: ignore[arg-type]
            rows_estimate=lambda partition: self.rows.get(partition, 0),
        )  # fmt: skip

    def produce(self, topic: str, value: bytes, *, partition: int, on_delivery: Any) -> None:
        self.sent.append((topic, value, partition))


def test_every_owned_partition_has_a_tick_a_second() -> None:
    world = Scripted(3)
    assert world.ticker.due(10.0) == [0, 1, 2]
    assert world.ticker.due(10.0 + TICK_EVERY_S / 2) == []
    for partition in world.owned:
        world.handled[partition] += 1
    assert world.ticker.due(10.0 + TICK_EVERY_S - 0.01) == []
    assert world.ticker.due(10.0 + TICK_EVERY_S) == [0, 1, 2]


def test_a_tick_that_is_not_handled_has_no_follower_until_it_counts_as_lost() -> None:
    world = Scripted(1)
    assert world.ticker.due(10.0) == [0]
    assert world.ticker.due(10.0 + LOST_AFTER_S) == []
    assert world.ticker.due(10.1 + LOST_AFTER_S) == [0]


def test_a_partition_that_is_behind_has_the_next_one_after_a_rest_as_long_as_the_last_one_took() -> None:
    world = Scripted(1)
    world.behind.add(0)
    assert world.ticker.due(10.0) == [0]
    assert world.ticker.due(10.2) == [], "not handled yet"
    world.handled[0] += 1
    assert world.ticker.due(10.3) == [], "it took 0.3 s"
    assert world.ticker.due(10.59) == []
    assert world.ticker.due(10.61) == [0]


def test_few_partitions_catch_up_at_once_and_the_longest_waiting_first() -> None:
    world = Scripted(CATCHING_UP_MAX + 2)
    world.behind |= world.owned
    world.ticker.due(10.0)
    for partition in world.owned:
        world.handled[partition] += 1
    world.ticker.due(10.1)
    first = world.ticker.due(10.21)
    assert first == list(range(CATCHING_UP_MAX))
    assert world.ticker.due(10.22) == [], "those two are under way"
    for partition in first:
        world.handled[partition] += 1
    assert world.ticker.due(10.23) == [2, 3]


def test_a_partition_that_was_given_up_is_forgotten() -> None:
    world = Scripted(2)
    world.ticker.due(10.0)
    world.owned.discard(1)
    assert world.ticker.due(20.0) == [0]
    world.owned.add(1)
    assert 1 in world.ticker.due(20.1)


@pytest.mark.parametrize(("rows", "looks"), [(0, 50), (1_000_000, 50), (20_000_000, 200), (10**9, 1_000)])
def test_a_tick_looks_at_more_answers_where_there_are_more(rows: int, looks: int) -> None:
    world = Scripted(1)
    world.rows[0] = rows
    world.ticker._send(0)
    ((topic, value, partition),) = world.sent
    tick = CODEC.decode(value, Tick)
    assert (topic, partition, tick.outcomes_max) == (topics.TICKS.name("loyalty"), 0, looks)


async def test_a_broker_that_is_away_is_no_reason_to_stop(caplog: pytest.LogCaptureFixture) -> None:
    world = Scripted(1)

    def fail(*_: Any, **__: Any) -> None:
        raise BufferError("the queue is full")

    world.produce = fail  # type: ignore[method-assign]
    world.ticker._send(0)
    world.ticker._send(0)
    assert [record.message for record in caplog.records] == ["ticks.failing"], "said once"
