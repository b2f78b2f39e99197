"""The benchmark's work itself: the same for all subjects, so it had better be right."""

from typing import Any

import pytest

from tests.bench import work

KNOWN = {"points": 100, "sequence": 3, "recent_ids": ["pms:000000001"]}


@pytest.mark.parametrize(
    ("balance", "number", "kind", "points", "result", "after", "sequence"),
    [
        (None, 1, "EARN", 50, "APPLIED", 50, 1),
        (None, 1, "REDEEM", 1, "REFUSED", 0, 1),
        (KNOWN, 2, "REDEEM", 100, "APPLIED", 0, 4),
        (KNOWN, 2, "REDEEM", 101, "REFUSED", 100, 4),
        (KNOWN, 1, "EARN", 50, "REPLAYED", 100, 3),
    ],
)
def test_decide(balance: Any, number: int, kind: str, points: int, result: str, after: int, sequence: int) -> None:
    row, changed = work.decide(balance, work.movement(number, 7, kind, points))
    assert (changed["result"], changed["points_after"], changed["sequence"]) == (result, after, sequence)
    assert (row["points"], row["sequence"]) == (after, sequence)
    for schema, value in ((work.BALANCE, row), (work.CHANGED, changed)):
        assert work.decode(schema, work.encode(schema, value)) == value


def test_a_row_remembers_the_last_ids_only_and_is_never_changed_in_place() -> None:
    row, rows = None, []
    for number in range(work.RECENT_IDS + 3):
        row, _ = work.decide(row, work.movement(number, 7, "EARN", 1))
        rows.append(row)
    assert row is not None and row["recent_ids"] == [f"pms:{number:09d}" for number in range(3, work.RECENT_IDS + 3)]
    assert [row["points"] for row in rows] == list(range(1, work.RECENT_IDS + 4))


def test_inputs_are_the_same_for_a_seed_and_some_are_repeated() -> None:
    first, second = list(work.movements(1, 1000, 10)), list(work.movements(1, 1000, 10))
    assert first == second != list(work.movements(2, 1000, 10))
    assert 5 < 1000 - len({row["transaction_id"] for row in first}) < 50
