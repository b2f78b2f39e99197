"""The plan of a load: rows by number, sorted, without some; and what is found of rows that are sorted out by member."""

import random
from pathlib import Path

import pytest

from streams.loads import plan
from streams.loads.plan import Entry, Marks, Reader, Sorter, Writer


def entry(number: int, at_ms: int = 0) -> Entry:
    return Entry(number % 3, number, at_ms, f"grand/M-{number % 7}".encode(), f"value {number}".encode() * (number % 4), b"{}" * (number % 5))


def write(path: Path, entries: list[Entry]) -> str:
    writer = Writer(path)
    for one in entries:
        writer.add(one)
    return writer.close()


@pytest.mark.parametrize("count", [0, 1, 63, 64, 65, 1_000])
def test_rows_are_found_by_number(tmp_path: Path, count: int) -> None:
    entries = [entry(number) for number in range(count)]
    write(tmp_path / "plan.bin", entries)
    reader = Reader(tmp_path / "plan.bin")
    assert [one for _, one in reader.entries()] == entries
    for row in random.Random(count).sample(range(count), min(count, 40)):
        assert reader.entry(row) == entries[row]
        assert list(reader.entries(row))[:2] == list(enumerate(entries))[row : row + 2]
    assert list(reader.entries(count)) == []
    reader.close()


def test_the_hash_is_of_what_is_sent_and_of_its_order(tmp_path: Path) -> None:
    first, second = entry(1), entry(2)
    digest = write(tmp_path / "a.bin", [first, second])
    assert digest == write(tmp_path / "b.bin", [first, Entry(9, 9, 9, second.key, second.value, b"elsewhere")])
    assert digest != write(tmp_path / "c.bin", [second, first])


def test_sorting_is_stable_and_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "SORTED_ROWS", 50)
    dice = random.Random(1)
    entries = [entry(number, dice.randrange(20)) for number in range(1_000)]
    write(tmp_path / "draft.bin", entries)
    digest, rows = plan.rewritten(tmp_path / "draft.bin", tmp_path / "plan.bin", dropped=lambda row: row % 10 == 0, sorts=True)
    expected = sorted((one for number, one in enumerate(entries) if number % 10), key=lambda one: one.occurred_at_ms)
    assert ([one for _, one in Reader(tmp_path / "plan.bin").entries()], rows) == (expected, 900)
    assert digest == write(tmp_path / "expected.bin", expected)


def test_marks() -> None:
    marks, dice = Marks(), random.Random(2)
    numbers = [dice.randrange(5_000) for _ in range(500)]
    for number in numbers:
        marks.add(number)
    assert [number for number in range(6_000) if number in marks] == sorted(set(numbers))
    assert marks.count == len(set(numbers))


def test_what_all_rows_of_a_member_say_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compared with the plain way, over small buffers."""
    monkeypatch.setattr(plan, "BUCKET_BYTES", 100)
    dice, sorter = random.Random(3), Sorter(tmp_path / "members")
    seen: dict[tuple[str, str], str] = {}
    newest: dict[str, int] = {}
    rows: dict[str, int] = {}
    repeated: set[int] = set()
    conflicting: set[int] = set()
    out_of_order = 0
    for row in range(5_000):
        member, identity, content = f"M-{dice.randrange(300)}", f"t-{dice.randrange(40)}", f"{dice.randrange(3):032x}"[::-1]
        at_ms = dice.randrange(1_000_000)
        sorter.add(row, member.encode(), identity, content, at_ms)
        if (member, identity) in seen:
            (repeated if seen[member, identity] == content else conflicting).add(row)
            continue
        seen[member, identity] = content
        out_of_order += at_ms < newest.get(member, 0)
        newest[member] = at_ms
        rows[member] = rows.get(member, 0) + 1
    found = sorter.look_through()
    assert ({row for row in range(5_000) if row in found.repeated}, {row for row in range(5_000) if row in found.conflicting}) == (repeated, conflicting)
    assert (found.members, found.out_of_order, found.rows_of_one_max) == (len(rows), out_of_order, max(rows.values()))
    assert list((tmp_path / "members").iterdir()) == []
