"""`loyalty report`: the catalogue of reports with their freshness, and one report as a table, a file or a chart. Reads ClickHouse."""

import csv
import io
import json
from collections.abc import Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.markdown import Markdown
from rich.table import Table
from rich.text import Text

from streams import settings as settings_module
from streams.analytics import catalogue, charts
from streams.analytics.catalogue import Report
from streams.command_line import Instant, clean, failures_told
from streams.errors import ConfigurationError, LoyaltyError
from streams.history import EPOCH
from streams.settings import Settings

SHOWN_MAX = 200  # Rows on a screen.
PICTURES = (".png", ".svg", ".html", ".htm")
TABLES = "SELECT name FROM system.tables WHERE database = currentDatabase() AND startsWith(name, 'report_')"
Row = dict[str, Any]


@click.command()
@click.argument("name", required=False)
@click.option("--program", "-p", help="Only this programme.")
@click.option("--since", "since_ms", type=Instant(), help="Periods from this day on: 2026-11-01.")
@click.option("--until", "until_ms", type=Instant(), help="Periods before this day.")
@click.option("--format", "form", type=click.Choice(["table", "csv", "parquet", "json"]), default="table", show_default=True, help="json: an object a line.")
@click.option("--output", "-o", type=click.Path(path_type=Path, dir_okay=False), help="Write it to a file instead of the screen; parquet needs one.")
@click.option("--chart", "has_chart", is_flag=True, help="Draw it on the screen.")
@click.option("--picture", type=click.Path(path_type=Path, dir_okay=False), help="Draw it into a file: .png, .svg or .html.")
@click.option("--fresh", is_flag=True, help="Compute it now instead of showing the rows of the last refresh.")
@click.option("--about", is_flag=True, help="What the report asks, and how its numbers are to be read.")
def report(
    name: str | None, program: str | None, since_ms: int | None, until_ms: int | None, form: str, output: Path | None, has_chart: bool,
    picture: Path | None, fresh: bool, about: bool,
) -> None:  # fmt: skip
    """Show the report NAME, or without a name which reports there are and how old their rows are.

    \b
    loyalty report points-issued --since 2026-11-01 --chart
    loyalty report liability --format csv > liability.csv
    """
    if name is None:
        with failures_told("report"):
            _list(as_json=form == "json")
        return
    with failures_told("report"):
        found = catalogue.load().get(name)
        if found is None:
            raise ConfigurationError(f"There is no report {name!r}. There are: {', '.join(catalogue.load())}.")
        if about:
            Console().print(Markdown(catalogue.readme(name)))
            return
        if form == "parquet" and output is None:
            raise ConfigurationError("--format parquet needs --output FILE: it is no text.")
        if picture is not None and picture.suffix not in PICTURES:
            raise ConfigurationError(f"--picture must end with {', '.join(PICTURES)}, not {picture.name!r}.")
        since, until = (None if at_ms is None else datetime.fromtimestamp(at_ms / 1000, UTC) for at_ms in (since_ms, until_ms))
        rows, computed_at = _read(settings_module.load(), found, program, since, until, fresh=fresh)
        if picture is not None:
            charts.to_file(found, rows, picture)
            click.echo(f"{picture} is written.", err=True)
        if has_chart:
            console = Console()
            click.echo(charts.in_terminal(found, rows, columns=console.width, has_colour=console.is_terminal) if rows else "There is nothing to draw.")
        elif picture is None or output is not None or form != "table":
            _write(found, rows, form, output)
        _say_age(found, rows, computed_at)


def _read(
    settings: Settings, found: Report, program: str | None, since: datetime | None, until: datetime | None, *, fresh: bool
) -> tuple[list[Row], datetime | None]:  # fmt: skip
    """The rows, and when they were computed: None for now."""
    from streams.analytics import refresh  # ClickHouse's client takes a second to load.

    with refresh.connected(settings) as client:
        if fresh:
            values = {"since": since or EPOCH, "until": until or datetime.now(UTC)}
            of_program = " WHERE program_id = {program:String}" if program is not None and "program_id" in found.keys else ""
            sql = f"SELECT * FROM ({found.sql}){of_program} ORDER BY {', '.join(found.keys)}"
            answer = client.query(sql, parameters=values | ({"program": program} if of_program else {}))
            return [dict(zip(answer.column_names, row, strict=True)) for row in answer.result_rows], None
        if not int(str(client.command(f"EXISTS TABLE {found.table}"))):
            raise LoyaltyError(f"{found.name} was not computed yet: it is due by `loyalty sync status`, or use --fresh.")
        columns = [row[0] for row in client.query(f"DESCRIBE TABLE {found.table}").result_rows]
        sql, values = refresh.stored(found, program=program, since=since, until=until, columns=tuple(columns))
        answer = client.query(sql, parameters=values)
        rows = [dict(zip(columns, row, strict=True)) for row in answer.result_rows]
        times = [row.pop("computed_at") for row in rows]
        return rows, max(times, default=None)


def _write(found: Report, rows: Sequence[Row], form: str, output: Path | None) -> None:
    if form == "parquet":
        assert output is not None
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(list(rows)), output)
        return
    if form == "table":
        _draw(found, rows)
        return
    text = io.StringIO()
    if form == "csv" and rows:
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    elif form == "json":
        for row in rows:
            text.write(json.dumps({name: _plain(value) for name, value in row.items()}, ensure_ascii=False) + "\n")
    if output is None:
        click.echo(text.getvalue(), nl=False)
    else:
        output.write_text(text.getvalue())


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, date | datetime) else value


def _draw(found: Report, rows: Sequence[Row]) -> None:
    table = Table(title=found.title, title_justify="left")
    numbers = {name for row in rows[:1] for name, value in row.items() if isinstance(value, int | float)}
    for name in rows[0] if rows else found.keys:
        table.add_column(name, justify="right" if name in numbers else "left")
    for row in rows[:SHOWN_MAX]:
        table.add_row(*(Text(_cell(value)) for value in row.values()))
    console = Console()
    console.print(table)
    if len(rows) > SHOWN_MAX:
        console.print(f"{len(rows) - SHOWN_MAX:,} more rows: --format csv, json or parquet has all.")


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.3f}"
    return f"{value:,}" if isinstance(value, int) else clean(str(value))


def _say_age(found: Report, rows: Sequence[Row], computed_at: datetime | None) -> None:
    if computed_at is not None:
        age_s = (datetime.now(UTC) - (computed_at if computed_at.tzinfo else computed_at.replace(tzinfo=UTC))).total_seconds()
        click.echo(f"Version {found.version}, computed {computed_at:%Y-%m-%d %H:%M} UTC, {_duration(age_s)} ago. --fresh computes it now.", err=True)
    elif not rows:
        click.echo("No rows.", err=True)


def _duration(seconds: float) -> str:
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def _list(*, as_json: bool) -> None:
    from streams.analytics import refresh

    found = list(catalogue.load().values())
    computed: dict[str, tuple[int, datetime]] = {}
    with refresh.connected(settings_module.load()) as client:
        known = {row[0] for row in client.query(TABLES).result_rows}
        for one in found:
            if one.table in known:
                computed[one.name] = tuple(client.query(f"SELECT count(), max(computed_at) FROM {one.table}").result_rows[0])
    if as_json:
        for one in found:
            rows, at = computed.get(one.name, (None, None))
            click.echo(json.dumps({
                "name": one.name, "title": one.title, "version": one.version, "cadence": str(one.cadence), "rows": rows, "computed_at": _plain(at),
            }))  # fmt: skip
        return
    table = Table(title="Reports", title_justify="left", caption="loyalty report NAME; --about says what it asks. Cadences: loyalty sync status.")
    for name in ("report", "what it shows", "rows", "computed", "cadence"):
        table.add_column(name, justify="right" if name == "rows" else "left", no_wrap=name == "report")
    for one in found:
        rows, at = computed.get(one.name, (None, None))
        when = "not yet" if rows is None or at is None else f"{at:%Y-%m-%d %H:%M}" if rows else "has no rows"
        table.add_row(one.name, one.title, "" if rows is None else f"{rows:,}", when, str(one.cadence))
    Console().print(table)
