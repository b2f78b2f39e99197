"""`loyalty balance`: what members had at any moment. Reads ClickHouse."""

import asyncio
import csv
import json
import sys
from collections.abc import Sequence
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from streams import settings as settings_module
from streams.as_of import query
from streams.as_of.query import COLUMNS, POINTS, Moment
from streams.command_line import Instant, clean, failures_told
from streams.errors import LoyaltyError
from streams.history import Query, Reader
from streams.ingress.commands import format_time

SHOWN_MAX = 50  # Members in a table on a screen.
Row = dict[str, Any]


@click.command()
@click.argument("member_id", required=False)
@click.option("--all", "is_all", is_flag=True, help="Every member instead of one.")
@click.option("--program", "-p", help="Programme; needed for a number that several have.")
@click.option("--as-of", "effective_ms", type=Instant(), help="By what had happened until then, that instant included: 2026-11-25T12:00:00Z.  [default: all]")
@click.option("--recorded-as-of", "recorded_ms", type=Instant(), help="By what was known here until then: a report as it was.  [default: all]")
@click.option("--format", "form", type=click.Choice(["table", "csv", "json"]), default="table", show_default=True, help="json: an object a line.")
def balance(member_id: str | None, is_all: bool, program: str | None, effective_ms: int | None, recorded_ms: int | None, form: str) -> None:
    """Show what MEMBER_ID, or every member, had at a moment: available, pending, held and owed points, status and tier.

    \b
    loyalty balance M-1 --as-of 2026-11-25T12:00:00Z
    loyalty balance --all --as-of 2026-12-01 --recorded-as-of 2026-12-03 --format csv > month-end.csv
    """
    if is_all == (member_id is not None):
        raise click.UsageError("give a MEMBER_ID, or --all")
    moment = Moment(effective_ms=effective_ms, recorded_ms=recorded_ms)
    asked = query.balances(moment, program=program, member=member_id, limit=SHOWN_MAX + 1 if is_all and form == "table" else None)
    with failures_told("balance"):
        until_ms, found = asyncio.run(_show(asked, form))
        if form != "table" and not found and member_id is not None:
            raise LoyaltyError(f"{member_id} had not joined by then, or is not in the history.")
    if form == "table":
        _draw(found, moment)
    if recorded_ms is None or recorded_ms > until_ms:
        click.echo(f"The history has what was recorded until {format_time(until_ms)}." if until_ms else "The history is empty.", err=True)


async def _show(asked: Query, form: str) -> tuple[int, list[Row]]:
    """Print the rows as they come, or keep them for a table. Until when the history goes, and the rows: of those printed the last one."""
    kept: list[Row] = []
    async with Reader(settings_module.load()) as history:
        until_ms = int([row async for row in history.rows(query.mirrored())][0][0])
        writer = csv.writer(sys.stdout)
        if form == "csv":
            writer.writerow(_name(column) for column in COLUMNS)
        async for row in history.rows(asked):
            shown = _shown(query.named(row))
            if form == "csv":
                writer.writerow(shown.values())
            elif form == "json":
                click.echo(json.dumps(shown, ensure_ascii=False))
            kept = [*kept, shown] if form == "table" else [shown]
    return until_ms, kept


def _name(column: str) -> str:
    return column.removesuffix("_ms")


def _shown(row: Row) -> Row:
    """Times as RFC 3339; none where there are no entries."""
    return {
        _name(column): (format_time(value) if row["entries"] else None) if column.endswith("_ms") else value for column, value in row.items()
    }


def _draw(rows: Sequence[Row], moment: Moment) -> None:
    bounds = (("happened", moment.effective_ms), ("was recorded", moment.recorded_ms))
    words = [f"{what} until {format_time(at_ms)}" for what, at_ms in bounds if at_ms is not None]
    table = Table(title=f"Balances by what {' and '.join(words)}" if words else "Balances by all that the history has", title_justify="left")
    for name in ("member", "status", "tier", *(name.removesuffix("_points") for name in POINTS), "entries"):
        table.add_column(name, justify="left" if name in ("member", "status", "tier") else "right")
    for row in rows[:SHOWN_MAX]:
        cells = [f"{row['program_id']}/{row['member_id']}", row["status"], row["tier"], *(f"{row[name]:,}" for name in POINTS), str(row["entries"])]
        table.add_row(*(Text(clean(cell)) for cell in cells))
    console = Console()
    console.print(table)
    if not rows:
        console.print("Nobody had joined by then, or nobody of that name.")
    if len(rows) > SHOWN_MAX:
        console.print(f"These are the first {SHOWN_MAX}: --format csv or json has all.")
