"""One unit of work without a broker: what a handler reads is what it wrote, and a failing record leaves no trace."""

import json
from types import SimpleNamespace
from typing import Any

import pytest

from streams.engine import Input, Outgoing, Poison, Unit
from streams.engine.recovery import NO_UNIT
from streams.engine.unit import OUTGOING_MAX
from tests.engine.counting import JsonCodec

TOPIC = ("in", 0)


class FakeTable:
    """What Unit asks of a table."""

    name = "rows"

    def __init__(self, committed: dict[bytes, Any]) -> None:
        self._committed = committed

    def committed(self, partition: int, key: bytes) -> Any:
        return self._committed.get(key)


def unit(values: list[bytes], start: int = 0) -> Unit:
    app = SimpleNamespace(codec=JsonCodec(), source_types={"in": dict}, on_poison=as_dead_letter)
    inputs = [Input("in", 0, start + i, 1000, b"k", value, ()) for i, value in enumerate(values)]
    return Unit(app, 0, 1, inputs, {TOPIC: start}, {TOPIC: start + len(values)})


def as_dead_letter(poison: Poison) -> Outgoing:
    return Outgoing("dead", poison.input.key, f"{poison.stage} {poison.reason} at {poison.input.offset}".encode())


def test_a_handler_reads_its_own_writes_and_the_last_row_wins() -> None:
    table, work = FakeTable({b"k": 5}), unit([b"1", b"2", b"3"])
    work.decode()
    work.handle(lambda one, u: u.write(table, b"k", u.read(table, b"k") + one.record))
    assert work.rows() == {"rows": {b"k": b"11"}}


def test_a_failing_record_is_undone_and_the_others_stay() -> None:
    table, work = FakeTable({}), unit([b"1", b"2", b"3"])

    def handle(one: Input, u: Unit) -> None:
        u.write(table, b"k", one.record)
        u.write(table, f"new-{one.record}".encode(), one.record)
        u.send("out", b"k", str(one.record).encode())
        if one.record == 2:
            raise KeyError("bug")

    work.decode()
    work.handle(handle)
    assert work.rows() == {"rows": {b"k": b"3", b"new-1": b"1", b"new-3": b"3"}}
    assert [(out.topic, out.value) for out in work.outgoing] == [("out", b"1"), ("dead", b"HANDLER KeyError at 1"), ("out", b"3")]


def test_an_undecodable_record_becomes_a_dead_letter_in_its_place() -> None:
    work = unit([b"1", b"{", b"3"])
    work.decode()
    work.handle(lambda one, u: u.send("out", b"k", b"%d" % one.record))
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
        rest = work.handle(handle)
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
    table, work = FakeTable({b"k": 1}), unit([b"1"])
    work.decode()
    work.handle(lambda one, u: u.write(table, b"k", None))
    assert work.read(table, b"k") is None
    assert work.rows() == {"rows": {b"k": None}}


def test_tables_are_closed_outside_a_handler() -> None:
    with pytest.raises(RuntimeError, match="inside a handler only"):
        NO_UNIT.write(FakeTable({}), b"k", json.dumps(1))
    with pytest.raises(RuntimeError, match="committed"):
        NO_UNIT.read(FakeTable({}), b"k")
