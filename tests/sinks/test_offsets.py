"""What may be committed, and what a restart knows."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sinks.offsets import METADATA_CHARACTERS_MAX, MINUTE_MS, Offsets, Progress, decode, encode


def test_nothing_is_committed_before_anything_was_read() -> None:
    assert Offsets().commit() is None


def test_the_lowest_unfinished_record_bounds_the_commit() -> None:
    unit = Offsets()
    assert [unit.add(offset) for offset in (10, 11, 13, 14)] == [True] * 4
    unit.finish(11)
    unit.finish(14)
    assert unit.commit() == (10, encode(10, 15, {10: None, 13: None}))
    unit.finish(10)
    assert unit.commit() == (13, encode(13, 15, {13: None}, 1))  # 12 is no record.
    unit.finish(13)
    assert unit.commit() == (15, "")


def test_marks_of_transactions_are_committed_but_are_no_records() -> None:
    unit = Offsets()
    unit.add(3)
    unit.reached(5)
    assert unit.follows == 4
    unit.finish(3)
    assert unit.commit() == (5, encode(5, 5, {}, 1))
    unit.add_all(np.array([5, 8]))
    unit.finish(5)
    assert unit.commit() == (8, encode(8, 8, {}, 2))
    unit.finish(8)
    assert unit.commit() == (9, "")
    progress = decode(8, encode(8, 9, {8: MINUTE_MS}, 2))
    assert progress == Progress(9, {8: MINUTE_MS}, 2)


def test_a_restart_skips_what_was_finished_and_remembers_since_when_the_rest_fails() -> None:
    before = Offsets()
    for offset in range(10):
        before.add(offset)
    before.failed(2, 7 * MINUTE_MS + 5)
    for offset in (0, 1, 3, 4, 6, 7, 8):
        before.finish(offset)
    committed, metadata = before.commit() or (0, "")
    assert committed == 2
    after = Offsets(decode(committed, metadata))
    assert [offset for offset in range(2, 12) if after.add(offset)] == [2, 5, 9, 10, 11]
    assert after.failing_since_ms(2) == 7 * MINUTE_MS
    assert after.failing_since_ms(5) is None


def test_a_restart_that_read_only_a_part_forgets_nothing() -> None:
    first = Offsets(decode(5, encode(5, 100, {5: None, 50: MINUTE_MS})))
    assert [offset for offset in range(5, 20) if first.add(offset)] == [5]
    first.finish(5)
    committed, metadata = first.commit() or (0, "")
    assert committed == 20
    second = Offsets(decode(committed, metadata))
    assert [offset for offset in range(20, 102) if second.add(offset)] == [50, 100, 101]
    assert second.failing_since_ms(50) == MINUTE_MS


def test_a_record_under_way_that_is_read_again_needs_no_second_work() -> None:
    unit = Offsets()
    assert unit.add(1) and not unit.add(1)


def test_a_log_that_lost_its_end_is_read_from_there() -> None:
    unit = Offsets(decode(0, encode(0, 50, {0: None})))
    assert [offset for offset in range(60) if unit.add(offset)] == [0, *range(50, 60)]
    for offset in range(60):
        unit.finish(offset)
    assert unit.commit() == (60, "")
    assert [unit.add(offset) for offset in (40, 41, 42)] == [True] * 3  # Other records than those of before.
    unit.finish(40)
    assert unit.commit() == (41, encode(41, 43, {41: None, 42: None}))


def test_nothing_is_said_of_records_of_which_all_behind_the_commit_are_under_way() -> None:
    unit = Offsets()
    unit.add_all(np.arange(5, 2_000))
    assert unit.commit() == (5, "")
    unit.finish(5, 6, 7)
    assert unit.commit() == (8, "")
    unit.failed(9, 7 * MINUTE_MS)
    assert unit.commit() == (8, encode(8, 2_000, dict.fromkeys(range(8, 2_000)) | {9: 7 * MINUTE_MS}))


def test_metadata_is_bounded_and_then_forgets_only_what_is_finished() -> None:
    rng = random.Random(3)
    unfinished = {offset: (offset * MINUTE_MS if offset % 3 else None) for offset in sorted(rng.sample(range(10**6), 20_000))}
    text = encode(0, 10**6, unfinished)
    assert len(text) <= METADATA_CHARACTERS_MAX + 50
    progress = decode(0, text)
    assert not any(progress.is_finished(offset) for offset in unfinished)
    assert progress.is_finished(next(offset for offset in range(10**6) if offset not in unfinished))


@pytest.mark.parametrize("metadata", ["", None, "x", "2;5;", "1;", "1;zz!;", "1;5;1,,2", "1;5;-", '{"offset": 1}', "1;5;1:?"])
def test_foreign_metadata_says_nothing(metadata: str | None) -> None:
    assert decode(3, metadata) == Progress()


def test_a_partition_without_a_commit_has_no_progress() -> None:
    assert decode(-1001, "1;a;") == Progress()


@settings(max_examples=200, deadline=None)
@given(st.sets(st.integers(0, 300)), st.randoms(use_true_random=False))
def test_unfinished_records_are_read_again_and_finished_ones_are_not(log: set[int], rng: random.Random) -> None:
    """A log with gaps, read by a consumer that is killed and restarted: everything finishes at least once; what was committed once."""
    offsets = sorted(log)
    finished: list[int] = []
    committed, metadata = 0, ""
    for _ in range(rng.randint(1, 4)):
        unit = Offsets(decode(committed, metadata))
        at_commit = set(finished)
        todo = [offset for offset in offsets if offset >= committed and unit.add(offset)]
        assert not set(todo) & at_commit
        assert set(todo) | at_commit == set(offsets)
        for offset in rng.sample(todo, rng.randint(0, len(todo))):
            unit.finish(offset)
            finished.append(offset)
        said = unit.commit()
        if said is not None:
            committed, metadata = said
    assert len(finished) == len(set(finished))


@settings(max_examples=100, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(0, 30), st.sets(st.integers(0, 40), max_size=6), st.none() | st.integers(0, 30))
def test_many_are_added_as_one_after_the_other(rng: random.Random, next_offset: int, unfinished: set[int], committed: int | None) -> None:
    """Also when the log went back, and when a restart knows of some of them."""
    known = Progress(next_offset, {offset: rng.choice([None, MINUTE_MS]) for offset in sorted(unfinished) if offset < next_offset})
    one, many = Offsets(known, committed), Offsets(known, committed)
    offset = rng.randint(0, 20)
    for _ in range(rng.randint(1, 6)):
        if rng.random() < 0.2:
            offset = rng.randint(0, offset)
        offsets = [offset := offset + rng.choice([1, 1, 1, 3]) for _ in range(rng.randint(1, 8))]
        follows, needed = zip(*[(-1 if one.follows is None else one.follows, one.add(offset)) for offset in offsets], strict=True)
        found_needed, found_follows = many.add_all(np.array(offsets))
        assert (found_needed.tolist(), found_follows.tolist()) == (list(needed), list(follows))
        done = rng.sample(offsets, rng.randint(0, len(offsets)))
        many.finish(*done)
        for each in done:
            one.finish(each)
        assert one.commit() == many.commit()
