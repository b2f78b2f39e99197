"""Rows of a table in the order of their keys: what a handler sees is what is committed, with its own writes over it."""

import json
import random
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiokafka.partitioner import murmur2

from streams.engine import Input, Unit
from streams.engine.state import PartitionState, StateFailed, StateFolder
from streams.engine.unit import NO_UNIT, Rows
from tests.engine import log
from tests.engine.counting import PARTITIONS, JsonCodec, topic_names
from tests.engine.test_exactly_once import processed, running
from tests.engine.test_unit import FakeTable, unit
from tests.waiting import wait_until

TABLE: Any = FakeTable()
Found = list[tuple[bytes, Any]]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[StateFolder]:
    folder = StateFolder(tmp_path, "worker", memory_bytes=16 << 20, stale_after_s=3600)
    yield folder
    folder.release()


@pytest.fixture
def state(folder: StateFolder) -> Iterator[PartitionState]:
    state = folder.open(0)
    yield state
    state.close()


def commit(state: PartitionState, rows: dict[bytes, Any], table: str = "rows") -> None:
    state.apply({table: {key: None if value is None else json.dumps(value).encode() for key, value in rows.items()}}, {}, None)


def scanned(state: PartitionState, staged: dict[bytes, Any], start: bytes, end: bytes | None, limit: int) -> Found:
    """What a handler finds that has written `staged` before."""
    found: list[Found] = []

    def handle(one: Input, u: Unit) -> None:
        for key, value in staged.items():
            u.write(TABLE, key, value)
        found.append(u.scan(TABLE, start, end, limit))

    work = unit([b"1"])
    work.decode()
    work.handle(handle, Rows(state, JsonCodec()))
    assert work.outgoing == [], "no dead letter"
    return found[0]


def test_committed_rows_come_in_the_order_of_their_keys_and_of_one_table_only(state: PartitionState) -> None:
    commit(state, {b"b": 2, b"": 0, b"c": 3, b"a": 1, b"\xff\xff": 9})
    for other in ("row", "rows2", "rowt"):
        commit(state, {b"a": "another table's", b"\0": "another table's"}, other)
    everything = [(b"", 0), (b"a", 1), (b"b", 2), (b"c", 3), (b"\xff\xff", 9)]
    assert scanned(state, {}, b"", None, 100) == everything
    assert scanned(state, {}, b"a", b"c", 100) == everything[1:3]
    assert scanned(state, {}, b"a\0", None, 2) == everything[2:4]
    assert scanned(state, {}, b"c", b"a", 100) == scanned(state, {}, b"", b"", 100) == scanned(state, {}, b"", None, 0) == []
    assert [key for key, _ in state.scan("rows", b"", None)] == [key for key, _ in everything]


def test_staged_rows_appear_and_staged_deletions_hide(state: PartitionState) -> None:
    commit(state, {b"a": 1, b"c": 3, b"e": 5, b"g": 7})
    staged = {b"h": 80, b"c": 30, b"e": None, b"b": 20, b"0": 0, b"f": None}
    assert scanned(state, staged, b"a", None, 100) == [(b"a", 1), (b"b", 20), (b"c", 30), (b"g", 7), (b"h", 80)]
    assert scanned(state, staged, b"a", b"g", 100) == [(b"a", 1), (b"b", 20), (b"c", 30)]
    assert scanned(state, staged, b"d", None, 1) == [(b"g", 7)], "what is deleted does not count"
    assert scanned(state, staged, b"0", None, 3) == [(b"0", 0), (b"a", 1), (b"b", 20)]
    assert scanned(state, {b"a": None, b"c": None, b"e": None, b"g": None}, b"", None, 5) == []


def test_a_scan_sees_all_that_the_unit_has_staged_and_nothing_that_was_undone(state: PartitionState) -> None:
    """Each record leaves a row, and finds those before it; the one that fails leaves none."""
    found: list[list[bytes]] = []

    def handle(one: Input, u: Unit) -> None:
        u.write(TABLE, b"%03d" % (one.record * 7 % 10), one.record)
        found.append([key for key, _ in u.scan(TABLE, b"", None, 100)])
        if one.record == 3:
            raise KeyError("bug")

    commit(state, {b"x": 1})
    work = unit([b"1", b"2", b"3", b"4", b"5"])
    work.decode()
    work.handle(handle, Rows(state, JsonCodec()))
    assert found == [
        [b"007", b"x"], [b"004", b"007", b"x"], [b"001", b"004", b"007", b"x"], [b"001", b"004", b"007", b"x"],  # Twice.
        [b"004", b"007", b"008", b"x"], [b"004", b"005", b"007", b"008", b"x"],
    ]  # fmt: skip
    first = list(found)
    found.clear()
    work.start_anew()
    work.handle(handle, Rows(state, JsonCodec()), careful=True)
    assert found == first


def test_what_a_scan_finds_does_not_depend_on_where_units_are_cut(folder: StateFolder) -> None:
    """Against a plain dict, with writes, deletions, failing records and scans by chance."""
    dice = random.Random(20261125)
    steps = [
        ([(b"%d" % dice.randrange(60), dice.choice((None, dice.randrange(1000)))) for _ in range(dice.randrange(4))],
         b"%d" % dice.randrange(60), dice.choice((None, b"%d" % dice.randrange(60))), dice.randrange(1, 12), dice.random() < 0.1)
        for _ in range(400)
    ]  # fmt: skip
    model: dict[bytes, Any] = {}
    expected: list[Found] = []
    for writes, start, end, limit, fails in steps:
        after = {key: value for key, value in (model | dict(writes)).items() if value is not None}
        found = sorted(item for item in after.items() if start <= item[0] and (end is None or item[0] < end))[:limit]
        expected += [found] * (2 if fails else 1)
        model = model if fails else after
    for partition, unit_records in enumerate((1, 7, 400)):
        state, got = folder.open(partition), []
        rows = Rows(state, JsonCodec())

        def handle(one: Input, u: Unit, got: list[Found] = got) -> None:
            writes, start, end, limit, fails = steps[one.record]
            for key, value in writes:
                u.write(TABLE, key, value)
            got.append(u.scan(TABLE, start, end, limit))
            if fails:
                raise KeyError("bug")

        for first in range(0, len(steps), unit_records):
            work = unit([b"%d" % number for number in range(first, min(first + unit_records, len(steps)))])
            work.decode()
            work.handle(handle, rows)
            state.apply(work.rows(), {}, None)
            work.remember()
        state.close()
        assert got == expected, f"units of {unit_records} records"


def test_a_scan_takes_what_is_decoded_already_and_leaves_the_cache_as_it_is(state: PartitionState) -> None:
    commit(state, {b"%04d" % n: n for n in range(100)})
    rows = Rows(state, JsonCodec())
    hot = {"in": "use"}
    rows.put("rows", b"0007", hot)
    found: list[Found] = []
    work = unit([b"1"])
    work.decode()
    work.handle(lambda one, u: found.append(u.scan(TABLE, b"", None, 100)), rows)
    assert found[0][7][1] is hot and found[0][8] == (b"0008", 8)
    assert len(rows) == 1


def test_rows_deleted_at_the_head_of_a_table_are_not_stepped_over(state: PartitionState) -> None:
    """300,000 of them take 25 ms, a seek 10 µs: a thousand seeks take less than one walk."""
    count = 300_000
    for start in range(0, count, 10_000):
        commit(state, {b"%09d" % n: n for n in range(start, start + 10_000)})
        commit(state, {b"%09d" % n: None for n in range(start, start + 10_000)})
    commit(state, {b"%09d" % count: "alive"})
    started_s = time.perf_counter()
    assert next(state.scan("rows", b"", None))[1] == b'"alive"'
    walk_s, started_s = time.perf_counter() - started_s, time.perf_counter()
    for _ in range(100):
        assert next(state.scan("rows", b"%09d" % count, None))[1] == b'"alive"'
        assert list(state.scan("rows", b"", b"0")) == [], "nor those behind the end"
    assert (time.perf_counter() - started_s) / 100 < max(walk_s / 5, 0.001)


def test_a_scan_that_was_left_holds_no_database_open(folder: StateFolder) -> None:
    state = folder.open(0)
    commit(state, {b"a": 1, b"b": 2})
    assert scanned(state, {}, b"", None, 1) == [(b"a", 1)]
    state.close()
    with pytest.raises(StateFailed, match="closed"):
        next(state.scan("rows", b"", None))
    folder.open(0).close()


def test_a_scan_that_meets_a_corrupt_block_does_not_end_as_if_there_were_no_more_rows(folder: StateFolder) -> None:
    state = folder.open(0)
    commit(state, {b"%09d" % n: secrets.token_hex(50) for n in range(5000)})
    state.flush()
    state.close()
    (path,) = folder.path_of(0).glob("*.sst")
    data = bytearray(path.read_bytes())
    data[len(data) // 2:len(data) // 2 + 100] = bytes(100)
    path.write_bytes(data)
    state = folder.open(0)
    try:
        with pytest.raises(StateFailed, match="Corruption"):
            list(state.scan("rows", b"", None))
        work = unit([b"1"])
        work.decode()
        with pytest.raises(StateFailed) as raised:
            work.handle(lambda one, u: u.scan(TABLE, b"", None, 5000), Rows(state, JsonCodec()))
    finally:
        state.close()
    assert not raised.value.may_pass
    folder.open_empty(0).close()  # Nothing holds it, not even the error.


def test_outside_a_handler_there_is_nothing_to_scan() -> None:
    with pytest.raises(RuntimeError, match="inside a handler only"):
        NO_UNIT.scan(TABLE, b"", None, 1)


def test_a_scan_finds_the_same_after_a_restart_and_after_a_rebuild_from_the_changelog(kafka, tmp_path: Path) -> None:
    bootstrap, prefix = kafka.bootstrap_servers, f"engine-{secrets.token_hex(4)}"
    names = topic_names(prefix)
    log.create(bootstrap, names.values(), PARTITIONS)
    keys = [key for key in (b"k%03d" % n for n in range(400)) if (murmur2(key) & 0x7FFFFFFF) % PARTITIONS == 0][:60]
    sent = 0

    def produce(keys: list[bytes], **more: Any) -> None:
        nonlocal sent
        log.produce(bootstrap, [(names["a"], key, json.dumps({"i": sent + n, **more}).encode()) for n, key in enumerate(keys)])
        sent += len(keys)
        wait_until(lambda: processed(bootstrap, prefix) >= sent, timeout_s=60)

    def scan() -> Any:
        produce(keys[30:31], scan=[keys[2].decode(), 1000])
        last = max((json.loads(row.value or b"") for row in log.read(bootstrap, names["out"])), key=lambda value: value["i"])
        return [key for key, _ in last["rows"]]

    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    with running(bootstrap, prefix, data_dir=home) as worker:
        produce(keys)
        produce(keys[:20] + keys[40:41], delete=True)
        kept = [key.decode() for key in keys[20:40] + keys[41:]]
        assert scan() == kept
        worker.stop()
    for data_dir, is_warm in ((home, True), (elsewhere, False)):
        with running(bootstrap, prefix, data_dir=data_dir) as worker:
            assert scan() == kept
            worker.stop()
            assert (worker.recovered == 0) is is_warm
    shutil.rmtree(elsewhere)
