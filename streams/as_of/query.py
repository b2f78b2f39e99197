"""A moment -> SQL over the ledger's history: the balances that it had. Pure.

Two times make a moment. `effective`: entries count by when what they are about happened, so that a late stay counts on its own day; an
expiry is of its date, and a reversal of when it was made. `recorded`: entries count by when they were written here, so that a report of last
month can be made again as it was, without what came late. Both instants are included.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from streams.history import TIME_MS_MAX, Conditions, Query, in_milliseconds

COLUMNS = (
    "program_id", "member_id", "status", "tier", "available_points", "pending_points", "held_points", "debt_points", "entries",
    "last_entry_sequence", "last_recorded_at_ms",
)  # fmt: skip
POINTS = COLUMNS[4:8]


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """In milliseconds since 1970; None: without a bound."""

    effective_ms: int | None = None
    recorded_ms: int | None = None

    @property
    def values(self) -> dict[str, str]:
        """For the parameters of the views."""
        times = {"effective": self.effective_ms, "recorded": self.recorded_ms}
        return {f"{name}_at": _text(TIME_MS_MAX if at_ms is None else at_ms) for name, at_ms in times.items()}


def balances(
    moment: Moment, *, program: str | None = None, member: str | None = None, programs: frozenset[str] = frozenset(), limit: int | None = None
) -> Query:  # fmt: skip
    """Rows of COLUMNS for each member who had joined by then, in the order of their ids; without entries all points are 0. `programs`: those
    that the asker reaches; empty: all."""
    of_members = Conditions()
    of_members.equal({"program_id": program, "member_id": member})
    of_members.among("program_id", programs)
    bounds = "effective = {effective_at:DateTime64(3, 'UTC')}, recorded = {recorded_at:DateTime64(3, 'UTC')}"
    sql = (
        f"SELECT {in_milliseconds(COLUMNS)} FROM (SELECT program_id, member_id, status, tier FROM standings_as_of({bounds}){of_members.where}) AS s"
        f" LEFT JOIN (SELECT * FROM balances_as_of({bounds}){of_members.where}) AS b USING (program_id, member_id)"
        f" ORDER BY program_id, member_id{'' if limit is None else f' LIMIT {limit}'}"
    )
    return Query(sql, moment.values | of_members.values)


def mirrored() -> Query:
    """The newest time of recording that the history has of anything that happened to an account, in milliseconds; 0 for none."""
    return Query("SELECT toUnixTimestamp64Milli(max(recorded_at)) FROM loyalty_events", {})


def named(row: Sequence[Any]) -> dict[str, Any]:
    """A row of `balances` by the names of its columns."""
    return dict(zip(COLUMNS, row, strict=True))


def _text(at_ms: int) -> str:
    """As ClickHouse reads a time of milliseconds."""
    seconds, milliseconds = divmod(at_ms, 1000)
    return f"{seconds}.{milliseconds:03}"
