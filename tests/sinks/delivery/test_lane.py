"""A lane keeps its order and writes itself down in segments: what it was is what it becomes again."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sinks.delivery.lane import COMPACT, SEGMENT, Lane


def lane(*offsets: int, parked: bool = False) -> Lane:
    made = Lane(None, "grand/m-1")  # type: ignore[arg-type]
    for offset in offsets:
        made.append(offset, None)
    if parked:
        made.park()
    return made


class Disk:
    """What a journal would hold of a lane."""

    def __init__(self) -> None:
        self.segments: dict[int, list[int]] = {}

    def write(self, one: Lane) -> None:
        for number in one.dirty:
            offsets = one.segment(number)
            if offsets:
                self.segments[number] = offsets
            else:
                self.segments.pop(number, None)
        one.dirty.clear()

    def read(self) -> Lane:
        made = lane()
        if self.segments:
            made.restore(sorted(self.segments.items()))
        return made


def test_a_lane_is_first_in_first_out() -> None:
    one = lane(3, 5, 9)
    assert one.first(2) == [3, 5]
    one.pop(2)
    assert list(one.offsets) == [9] and len(one) == 1


def test_records_that_are_finished_are_not_kept() -> None:
    one: Any = Lane(None, "m")  # type: ignore[arg-type]
    one.append(1, "first")
    one.append(2, "second")
    assert one.head(2) == ["first", "second"]
    one.pop()
    assert one.records == {2: "second"} and one.head() == ["second"]


def test_a_batch_ends_where_records_are_not_in_memory() -> None:
    one: Any = lane(1, 2, 3)
    one.records = {1: "a", 3: "c"}
    assert one.head(3) == ["a"]
    one.records = {}
    assert one.head(3) is None


def test_what_is_finished_takes_its_failures_with_it() -> None:
    one = lane(1, 2, parked=True)
    one.attempts, one.failing_since_ms, one.detail, one.is_blocked = 4, 77, "status 500", True
    one.pop()
    assert (one.attempts, one.failing_since_ms, one.detail, one.is_blocked) == (0, None, "", False)


def test_a_lane_that_is_not_parked_writes_nothing() -> None:
    one = lane(1, 2)
    one.append(3, None)
    one.pop()
    one.touch()
    assert one.dirty == set()


def test_a_long_lane_rewrites_its_ends_only() -> None:
    one = lane(*range(5 * SEGMENT), parked=True)
    one.dirty.clear()
    one.append(10_000, None)
    assert one.dirty == {5}
    one.dirty.clear()
    one.pop()
    assert one.dirty == {0}


@pytest.mark.parametrize("count", [1, SEGMENT, SEGMENT + 1, 2 * SEGMENT, COMPACT + SEGMENT + 7])
def test_what_is_emptied_is_forgotten(count: int) -> None:
    disk, one = Disk(), lane(*range(count), parked=True)
    disk.write(one)
    for _ in range(count):
        one.pop()
        disk.write(one)
    assert disk.segments == {}


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(1, 700)),
        st.tuples(st.just("pop"), st.integers(1, 900)),
        st.tuples(st.just("write"), st.just(0)),
        st.tuples(st.just("restart"), st.just(0)),
        st.tuples(st.just("discard"), st.integers(1, 50)),
    ),
    max_size=30,
)


@settings(max_examples=200, deadline=None)
@given(STEPS)
def test_a_restart_finds_what_was_written(steps: list[tuple[str, int]]) -> None:
    disk, one, offset = Disk(), lane(parked=True), 0
    expected: list[int] = []
    for what, number in steps:
        if what == "append":
            for _ in range(number):
                offset += 3
                one.append(offset, None)
                expected.append(offset)
        elif what == "pop":
            count = min(number, len(one))
            one.pop(count) if count else None
            del expected[:count]
        elif what == "discard":
            gone = expected[::number]
            assert one.discard(gone) == len(gone)
            expected = [left for left in expected if left not in set(gone)]
        else:
            disk.write(one)
            if what == "restart":
                one = disk.read()
                if not len(one):
                    one.park()
        assert list(one.offsets) == expected
    disk.write(one)
    assert list(disk.read().offsets) == expected


def test_what_follows_an_event_that_is_gone_begins_anew() -> None:
    lane = Lane(None, "grand/m-1")  # type: ignore[arg-type]
    for offset in range(3):
        lane.append(offset, None)
    lane.park()
    lane.attempts, lane.failing_since_ms, lane.is_blocked = 7, 1, True
    assert lane.discard([2]) == 1 and (lane.attempts, lane.failing_since_ms, lane.is_blocked) == (7, 1, True)
    assert lane.discard([0]) == 1 and (lane.attempts, lane.failing_since_ms, lane.is_blocked) == (0, None, False)
