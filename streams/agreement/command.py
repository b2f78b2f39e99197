"""`loyalty reconcile` without a subcommand: all copies beside each other, for people and for programs."""

import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from streams.command_line import failures_told
from streams.errors import ConfigurationError
from streams.reconciliation.printing import EXIT_DIFFERENCES, EXIT_FAILED, progress, writer


def compare(
    program_id: str | None, member_id: str | None, *, repair: bool, as_json: bool, as_csv: bool, report: Path | None, wait_s: float
) -> None:
    """Compare, tell, and exit: 0 no difference but lag; 1 some; 2 something must be mended in options or settings; 3 a server failed."""
    from streams import configuration, settings
    from streams.agreement.comparison import Scope
    from streams.agreement.run import reconcile

    if as_json and as_csv:
        raise click.UsageError("--json and --csv exclude each other")
    if member_id and not program_id:
        raise click.UsageError("--member needs --program")
    console = Console(stderr=True)
    write = writer(as_json, as_csv, _line)
    with failures_told("reconcile", EXIT_FAILED):
        loaded = settings.load()
        scope = Scope(program_id=program_id or "", member_id=member_id or "")
        configured = configuration.load(loaded)
        if program_id and program_id not in configured.programs:
            raise ConfigurationError(f"--program {program_id} is none of LOYALTY_CONFIG_FILE; there are: {', '.join(sorted(configured.programs))}.")
        with progress(console) as step:
            summary = reconcile(
                loaded, configured, scope, repairs=repair, step=step, tell=lambda one: write(asdict(one)), wait_s=wait_s, report=report
            )
    _print_summary(console, summary, repair)
    if summary.not_compared:
        sys.exit(EXIT_FAILED)
    sys.exit(EXIT_DIFFERENCES if summary.differences else 0)


def _line(row: dict[str, Any]) -> str:
    """For people: where it differs, why, and what mends it."""
    who = f"{row['program_id']}/{row['member_id']}: " if row["member_id"] else ""
    what = f" {row['field']}" if row["field"] else ""
    values = f": {row['here']} here, {row['there']} there" if row["there"] is not None else ""
    at = f", number {row['sequence']}" if row["sequence"] is not None else ""
    record = f" ({row['record_id']})" if row["record_id"] else ""
    age = f", for {row['age_s']:,.1f} s" if row["age_s"] is not None else ""
    text = f"{who}{row['store']}{what}: {row['cause'].replace('_', ' ')}{at}{record}{values}{age}\n"
    text += (f"    {row['detail']}\n" if row["detail"] else "") + f"    repair: {row['repair']}"
    return "".join(character if character.isprintable() or character == "\n" else "?" for character in text)


def _print_summary(console: Console, summary: Any, repair: bool) -> None:
    for store, why in summary.not_compared.items():
        console.print(f"{store} was not compared: {why}", style="yellow")
    if not summary.found:
        console.print(f"All copies agree: {summary.members:,} members.", style="green")
        return
    table = Table(title=f"Differences: {summary.members:,} members compared", title_justify="left")
    table.add_column("store")
    table.add_column("cause")
    table.add_column("differences", justify="right")
    for (store, cause), count in sorted(summary.found.items()):
        table.add_row(store, cause.replace("_", " "), f"{count:,}")
    console.print(table)
    if repair:
        console.print(f"{summary.mended:,} records were published again; a second run says whether it has helped.")


OPTIONS: tuple[Callable[[Any], Any], ...] = (
    click.option("--program", "-p", "program_id", help="Only this programme."),
    click.option("--member", "-m", "member_id", help="Only this member of it."),
    click.option("--repair", is_flag=True, help="Publish again what a store lacks or has otherwise. Nothing is written into a store from here."),
    click.option("--json", "as_json", is_flag=True, help="A JSON object a line, one for each difference."),
    click.option("--csv", "as_csv", is_flag=True, help="The same as CSV."),
    click.option("--report", type=click.Path(path_type=Path, dir_okay=False), help="File for the report.  [default: in LOYALTY_HOME/reports]"),
    click.option("--wait", "wait_s", type=click.FloatRange(min=0), default=10.0, show_default=True, help="Seconds that sinks get to catch up."),
)  # fmt: skip
