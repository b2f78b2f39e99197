"""One unit of work without a broker: what a handler reads is what it wrote, and a failing record leaves no trace."""

import json
from types import SimpleNamespace
from typing import Any

import pytest

from streams.engine import Input, Outgoing, Poison, Unit
from streams.engine.state import StateFailed
from streams.engine.unit import CACHED_ROWS_MAX, NO_UNIT, OUTGOING_MAX, Rows, RowsRefused
from tests.engine.counting import JsonCodec

TOPIC = ("in", 0)


class FakeTable:
    """What Unit asks of a table."""

    name = "rows"
    value_type = dict


class FakeRows:
    """What Unit asks of the committed rows."""

    def __init__(self, committed: dict[bytes, Any] | None = None) -> None:
        self.committed = committed or {}

    def get(self, table: str, key: bytes, value_type: type) -> Any:
        return self.committed.get(key)

    def put(self, table: str, key: bytes, value: Any) -> None:
        self.committed[key] = value


def unit(values: list[bytes], start: int = 0) -> Unit:
    app = SimpleNamespace(codec=JsonCodec(), source_types={"in": dict}, on_poison=as_dead_letter, config=SimpleNamespace(record_bytes_max=5_000, partitions=4))
    inputs = [Input("in", 0, start + i, 1000, b"k", value, ()) for i, value in enumerate(values)]
    return Unit(app, 0, 1, inputs, {TOPIC: start}, {TOPIC: start + len(values)})


def as_dead_letter(poison: Poison) -> Outgoing:
    return Outgoing("dead", poison.input.key, f"{poison.stage} {poison.reason} at {poison.input.offset}".encode())


def test_a_handler_reads_its_own_writes_and_the_last_row_wins() -> None:
    table, work = FakeTable(), unit([b"1", b"2", b"3"])
    work.decode()
    work.handle(lambda one, u: u.write(table, b"k", u.read(table, b"k") + one.record), FakeRows({b"k": 5}))
    assert work.rows() == {"rows": {b"k": b"11"}}


def test_a_failing_record_is_undone_and_the_others_stay() -> None:
    table, work = FakeTable(), unit([b"1", b"2", b"3"])

    def handle(one: Input, u: Unit) -> None:
        u.write(table, b"k", one.record)
        u.write(table, f"new-{one.record}".encode(), one.record)
        u.send("out", b"k", str(one.record).encode())
        if one.record == 2:
            raise KeyError("bug")

    work.decode()
    work.handle(handle, FakeRows())
    assert work.rows() == {"rows": {b"k": b"3", b"new-1": b"1", b"new-3": b"3"}}
    assert [(out.topic, out.value) for out in work.outgoing] == [("out", b"1"), ("dead", b"HANDLER KeyError at 1"), ("out", b"3")]


def test_an_undecodable_record_becomes_a_dead_letter_in_its_place() -> None:
    work = unit([b"1", b"{", b"3"])
    work.decode()
    work.handle(lambda one, u: u.send("out", b"k", b"%d" % one.record), FakeRows())
    assert [out.value for out in work.outgoing] == [b"1", b"DECODE JSONDecodeError at 1", b"3"]


def test_a_unit_that_becomes_too_large_is_cut_where_it_is_and_nothing_is_handled_twice() -> None:
    handled: list[int] = []

    def handle(one: Input, u: Unit) -> None:
        handled.append(one.offset)
        for _ in range(OUTGOING_MAX // 2):
            u.send("out", b"k", b"v")

    work: Unit | None = unit([b"1", b"{", b"3", b"4", b"5"], start=10)
    assert work is not None
    work.decode()
    spans = []
    while work is not None:
        rest = work.handle(handle, FakeRows())
        spans.append((work.starts[TOPIC], work.ends[TOPIC]))
        work = rest
    assert handled == [10, 12, 13, 14]
    assert spans == [(10, 13), (13, 15)]


def test_batches_join_only_without_a_gap() -> None:
    first, second, later = unit([b"1", b"2"]), unit([b"3"], start=2), unit([b"5"], start=4)
    first.extend(second)
    assert [one.offset for one in first.inputs] == [0, 1, 2]
    assert first.ends == {TOPIC: 3}
    with pytest.raises(ValueError, match="starts at 4, expected 3"):
        first.extend(later)


def test_a_deleted_row_is_a_tombstone() -> None:
    table, work = FakeTable(), unit([b"1"])
    work.decode()
    work.handle(lambda one, u: u.write(table, b"k", None), FakeRows({b"k": 1}))
    assert work.read(table, b"k") is None
    assert work.rows() == {"rows": {b"k": None}}


def test_tables_are_closed_outside_a_handler() -> None:
    with pytest.raises(RuntimeError, match="inside a handler only"):
        NO_UNIT.write(FakeTable(), b"k", json.dumps(1))
    with pytest.raises(RuntimeError, match="committed"):
        NO_UNIT.read(FakeTable(), b"k")


def test_a_failing_record_gets_a_second_try_before_it_is_a_dead_letter() -> None:
    tries: list[int] = []

    def handle(one: Input, u: Unit) -> None:
        tries.append(one.record)
        u.send("out", b"k", b"%d" % one.record)
        if len(tries) == 2:
            raise MemoryError

    work = unit([b"1", b"2", b"3"])
    work.decode()
    work.handle(handle, FakeRows())
    assert tries == [1, 2, 2, 3]
    assert [out.value for out in work.outgoing] == [b"1", b"2", b"3"]


def test_an_oversized_record_is_a_dead_letter_and_the_others_stay() -> None:
    work = unit([b"1", b"6000", b"3"])
    work.decode()
    work.handle(lambda one, u: u.send("out", b"k", b"x" * one.record), FakeRows())
    assert [out.value for out in work.outgoing] == [b"x", b"HANDLER OUTPUT_TOO_LARGE at 1", b"xxx"]


def test_a_record_may_go_to_another_partition_of_the_app_and_to_no_other() -> None:
    work = unit([b"3", b"4", b"-1"])
    work.decode()
    work.handle(lambda one, u: (u.send("out", b"k", b"mine"), u.send("out", b"k", b"v", {"h": b"1"}, partition=one.record)), FakeRows())  # type: ignore
    assert work.outgoing == [
        Outgoing("out", b"k", b"mine", None, None), Outgoing("out", b"k", b"v", {"h": b"1"}, 3),
        Outgoing("dead", b"k", b"HANDLER ValueError at 1"), Outgoing("dead", b"k", b"HANDLER ValueError at 2"),
    ]  # fmt: skip


@pytest.mark.parametrize(("bad", "reason"), [("x" * 6000, b"OUTPUT_TOO_LARGE"), (object(), b"TypeError")])
def test_a_row_that_cannot_be_written_is_traced_to_the_record_that_wrote_it(bad: Any, reason: bytes) -> None:
    table, work, rows = FakeTable(), unit([b"1", b"2", b"3"]), FakeRows()

    def handle(one: Input, u: Unit) -> None:
        u.write(table, f"k{one.record}".encode(), bad if one.record == 2 else one.record)

    work.decode()
    work.handle(handle, rows)
    with pytest.raises(RowsRefused):
        work.rows()
    work.start_anew()
    work.handle(handle, rows, careful=True)
    assert work.rows() == {"rows": {b"k1": b"1", b"k3": b"3"}}
    assert [out.value for out in work.outgoing] == [b"HANDLER " + reason + b" at 1"]


def test_a_dead_letter_that_is_too_large_leaves_out_what_the_log_still_has() -> None:
    work = unit([b"{" + b"x" * 6000])
    work._app.on_poison = lambda poison: Outgoing("dead", poison.input.key, (poison.input.value or b"") + poison.detail.encode())
    work.decode()
    work.handle(lambda one, u: None, FakeRows())
    (letter,) = work.outgoing
    assert letter.key is None and b"in[0] offset 0" in (letter.value or b"") and len(letter.value or b"") < 1000


def test_a_disk_failure_is_no_fault_of_the_record() -> None:
    def handle(one: Input, u: Unit) -> None:
        raise StateFailed("disk")

    work = unit([b"1"])
    work.decode()
    with pytest.raises(StateFailed):
        work.handle(handle, FakeRows())
    assert work.outgoing == []


def test_committed_rows_are_read_once_and_bounded() -> None:
    class State:
        reads = 0

        def get(self, table: str, key: bytes) -> bytes | None:
            self.reads += 1
            return None if key == b"none" else b'{"of": "%s"}' % key

    state = State()
    rows = Rows(state, JsonCodec())  # type: ignore[arg-type]
    for _ in range(2):
        assert rows.get("t", b"a", dict) == {"of": "a"}
        assert rows.get("t", b"none", dict) is None
    assert state.reads == 2
    rows.put("t", b"a", {"of": "new"})
    assert rows.get("t", b"a", dict) == {"of": "new"}
    for number in range(CACHED_ROWS_MAX * 2):
        rows.get("t", b"%d" % number, dict)
        assert rows.get("t", b"used again and again", dict) is not None
        assert len(rows) <= CACHED_ROWS_MAX
    before = state.reads
    assert rows.get("t", b"a", dict) == {"of": "a"}, "the state is asked again for what was pushed out"
    rows.get("t", b"used again and again", dict)
    assert state.reads == before + 1, "and not for what is in use"
