"""Records side by side are the sequence of their items, and wait in the order in which they came."""

import random
from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from sinks.base import Item
from sinks.records import UNKNOWN, Held, Records
from tests.sinks.examples import event, item

ITEMS = [replace(item(event(n + 1), offset=n, partition=n % 3, timestamp_ms=1_000 + n * 37 % 100), follows=n or None) for n in range(60)]


def test_columns_are_those_of_the_items() -> None:
    records = Records.of(ITEMS)
    assert list(records) == ITEMS and Records.of(records) is records
    assert records.partitions.tolist() == [one.partition for one in ITEMS]
    assert records.offsets.tolist() == [one.offset for one in ITEMS]
    assert records.follows.tolist() == [UNKNOWN, *range(1, 60)]
    assert records.timestamps_ms.tolist() == [one.timestamp_ms for one in ITEMS]
    assert records.recorded_at_ms.tolist() == [one.record.recorded_at_ms for one in ITEMS]
    assert Records.of([replace(ITEMS[0], record=None)]).recorded_at_ms.tolist() == [1_000]
    assert records.values == [one.value for one in ITEMS]


def test_parts_are_sequences_of_their_own() -> None:
    records = Records.of(ITEMS)
    assert list(records[10:20]) == ITEMS[10:20]
    assert list(records.take([1, 5, 40])) == [ITEMS[1], ITEMS[5], ITEMS[40]]
    assert list(Records.joined([records[50:], records[:5]])) == ITEMS[50:] + ITEMS[:5]
    assert not Records.joined([]) and not records.take([])


@settings(max_examples=100, deadline=None)
@given(st.randoms(use_true_random=False))
def test_what_waits_comes_in_order_and_once(rng: random.Random) -> None:
    held: Held[Any] = Held()
    wanted: list[Item[Any]] = []
    for _ in range(rng.randint(1, 12)):
        match rng.randint(0, 3):
            case 0 | 1:
                some = ITEMS[rng.randint(0, 59) :][: rng.randint(0, 9)]
                held.add(Records.of(some))
                wanted += some
            case 2:
                count, before_ms = rng.randint(1, 15), rng.choice([None, 1_030, 1_000])
                due = [one for one in wanted if before_ms is None or one.timestamp_ms < before_ms][:count]
                assert list(held.take(count, before_ms)) == due
                for one in due:
                    wanted.remove(one)
            case 3:
                gone = frozenset(rng.sample(range(3), rng.randint(0, 1)))
                held.drop(gone)
                wanted = [one for one in wanted if one.partition not in gone]
        assert len(held) == len(wanted)
    assert list(held.take(1_000)) == wanted
