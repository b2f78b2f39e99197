"""What commands have to do with each other, by their rows alone."""

from typing import Any

import pytest

from streams.explanation.related import related

Row = dict[str, Any]


def entry(transaction_id: str, points: int, *lots: tuple[str, int], reverses: str | None = None, member_id: str = "m-1", kind: str = "EARN") -> Row:
    return {
        "member_id": member_id, "transaction_id": transaction_id, "reverses_transaction_id": reverses, "kind": kind, "points_delta": points,
        "lots": [[lot_id, moved, None] for lot_id, moved in lots], "recorded_at": f"2026-03-01T12:00:00.{len(transaction_id):03}Z",
    }  # fmt: skip


def event(command_id: str, kind: str, **names: Any) -> Row:
    return {
        "member_id": "m-1", "command_id": command_id, "kind": kind, "movement": None, "points_delta": 0, "hold_id": None, "voucher_code": None,
        "recorded_at": "2026-03-01T12:00:00.000Z",
    } | names  # fmt: skip


def said(command_id: str, entries: list[Row], events: list[Row] | None = None) -> list[tuple[Any, ...]]:
    posted = [row for row in entries if row["transaction_id"] == command_id]
    told = [row for row in events or () if row["command_id"] == command_id]
    found = related(command_id, ["m-1"], posted, told, entries, events or [])
    return [(one["relation"], one["command_id"], one["kinds"], one["points"]) for one in found]


EARN, SPEND = entry("stay", 100, ("stay", 100)), entry("spend", -70, ("stay", 60), ("older", 10), kind="REDEEM")
UNDO = entry("undo-it", -40, ("stay", 40), reverses="stay", kind="REVERSAL")
EXPIRY = entry("due:1767225600000", -5, ("stay", 5), kind="EXPIRY")


@pytest.mark.parametrize(
    ("command_id", "expected"),
    [
        ("stay", [("points moved by", "spend", ["REDEEM"], -60), ("reversed by", "undo-it", ["REVERSAL"], -40),
                  ("points moved by", "due:1767225600000", ["EXPIRY"], -5)]),
        ("spend", [("points came from", "stay", ["REDEEM"], 60), ("points came from", "older", ["REDEEM"], 10)]),
        ("undo-it", [("reverses", "stay", ["REVERSAL"], -40)]),
        ("due:1767225600000", [("points came from", "stay", ["EXPIRY"], 5)]),
    ],
)  # fmt: skip
def test_reversals_and_lots(command_id: str, expected: list[Any]) -> None:
    assert said(command_id, [EARN, SPEND, UNDO, EXPIRY]) == expected


def test_holds_and_vouchers() -> None:
    hold = event("hold-1", "BALANCE_CHANGED", movement="HOLD", hold_id="hold-1", points_delta=-50)
    capture = event("take-1", "BALANCE_CHANGED", movement="CAPTURE", hold_id="hold-1", voucher_code="V-1")
    used, other = event("use-1", "VOUCHER_REDEEMED", voucher_code="V-1"), event("use-2", "VOUCHER_REDEEMED", voucher_code="V-2")
    every = [hold, capture, used, other]
    assert said("hold-1", [], every) == [("same hold", "take-1", ["CAPTURE"], 0)]
    assert said("take-1", [], every) == [("same hold", "hold-1", ["HOLD"], -50), ("same voucher", "use-1", ["VOUCHER_REDEEMED"], 0)]
    assert said("use-2", [], every) == []


def test_another_member_with_the_same_ids_has_nothing_to_do_with_it() -> None:
    assert said("stay", [EARN, entry("theirs", -9, ("stay", 9), member_id="m-2")]) == []
