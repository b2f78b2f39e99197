"""Rows of commands -> what they have to do with each other: reversals, lots, holds, vouchers. Pure."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

Row = dict[str, Any]

RELATED_MAX = 20  # Of one command.
NAMED = {"hold_id": "same hold", "voucher_code": "same voucher"}


def related(
    command_id: str, members: Sequence[str], posted: Iterable[Row], told: Iterable[Row], entries: Iterable[Row], events: Iterable[Row]
) -> list[Row]:
    """`relation`, `member_id`, `command_id`, `kinds`, `points` and `at` of other commands that moved the same points, or began or ended the same
    hold or voucher, in the order of time. `posted` and `told`: the command's own entries and events; `entries` and `events`: others'."""
    found: dict[tuple[str, str, str], Row] = {}
    own = list(told)
    for relation, other, row, points in (*_origins(posted), *_followers(command_id, entries), *_namesakes(own, events)):
        if other == command_id or row["member_id"] not in members:
            continue
        one = found.setdefault((relation, row["member_id"], other), {
            "relation": relation, "member_id": row["member_id"], "command_id": other, "kinds": [], "points": 0, "at": row["recorded_at"],
        })  # fmt: skip
        kind = row.get("movement") or row["kind"]
        one["kinds"] += [kind] * (kind not in one["kinds"])
        one["points"] += points
    return sorted(found.values(), key=lambda one: str(one["at"]))[:RELATED_MAX]


Related = tuple[str, str, Row, int]
"""Relation, the other command, a row that says so, points."""


def _origins(posted: Iterable[Row]) -> Iterator[Related]:
    """What the command itself took back, or spent."""
    for row in posted:
        if row["reverses_transaction_id"]:
            yield "reverses", row["reverses_transaction_id"], row, row["points_delta"]
        elif row["points_delta"] < 0:
            for lot_id, points, _ in row["lots"]:
                yield "points came from", lot_id, row, points


def _followers(command_id: str, entries: Iterable[Row]) -> Iterator[Related]:
    """What took the command back, or moved its points."""
    for row in entries:
        if row["reverses_transaction_id"] == command_id:
            yield "reversed by", row["transaction_id"], row, row["points_delta"]
        else:
            sign = -1 if row["points_delta"] < 0 else 1
            moved = sum(points for lot_id, points, _ in row["lots"] if lot_id == command_id)
            if moved:
                yield "points moved by", row["transaction_id"], row, sign * moved


def _namesakes(told: Sequence[Mapping[str, Any]], events: Iterable[Row]) -> Iterator[Related]:
    for name, relation in NAMED.items():
        names = {row[name] for row in told if row[name]}
        for row in events:
            if row[name] in names:
                yield relation, row["command_id"], row, row["points_delta"]
