"""`loyalty reconcile ...`: what the stores hold beside each other, for people and for programs."""

import secrets
import sys
import tempfile
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from schemas.contract import STATUSES_SETTABLE
from streams.agreement.command import OPTIONS, compare
from streams.command_line import failures_told, user
from streams.reconciliation.printing import EXIT_DIFFERENCES, EXIT_FAILED, progress, writer

STATUSES = [status.value for status in STATUSES_SETTABLE]


def _with(options: Any) -> Any:
    def add(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return add


@click.group(invoke_without_command=True)
@_with(OPTIONS)
@click.pass_context
def reconcile(context: click.Context, program_id: str | None, member_id: str | None, **given: Any) -> None:
    """Compare all copies of every member's points and profile: tables, changelog, journal, ClickHouse, Redis, destinations.

    With a subcommand: another store beside ours. Exit code 0: no difference, but for what waits; 1: there are some; 2: something must be mended
    in the options or the settings; 3: a server failed, or a store could not be compared.
    """
    if context.invoked_subcommand is None:
        compare(program_id, member_id, **given)


@reconcile.command()
@click.argument("export", metavar="FILE")
@click.option("--program", "-p", "program_id", required=True, help="The programme.")
@click.option("--source", "-s", required=True, help="The source system whose export FILE is, as its events name it.")
@click.option("--format", "export_format", type=click.Choice(["csv", "jsonl"]), help="Of FILE.  [default: what its name ends with]")
@click.option("--mapping", "mapping_file", type=click.Path(path_type=Path, dir_okay=False), help="TOML file that says what the columns mean.")
@click.option("--map", "maps", multiple=True, metavar="COLUMN=PART", help="A column, and what it says: an attribute, segments, status, external_ids.TYPE.")
@click.option("--id", "id_column", help="Column with the member's id.")
@click.option("--id-external", "external", multiple=True, metavar="TYPE=COLUMN", help="Column with an external id, by which members are found.")
@click.option("--version", "version_column", help="Column with the row's version: whole numbers, or times.")
@click.option("--status", "statuses", multiple=True, metavar="WORD=STATUS", help="The source's word for a status: Terminated=SUSPENDED.")
@click.option("--separator", help="Between segments in one text.  [default: ;]")
@click.option("--absent", type=click.Choice(STATUSES[1:]), help="The status of who is not in FILE; without it that is only told, never repaired.")
@click.option("--all-attributes", is_flag=True, help="Compare all that is mapped, not only what the source masters.")
@click.option("--ignore-versions", is_flag=True, help="A version that differs while all values are the same is no difference.")
@click.option("--repair", is_flag=True, help="Send the events that repair what can be repaired. Without it, it is only told what would be sent.")
@click.option("--show", is_flag=True, help="Show values in full. They may be personal data.")
@click.option("--json", "as_json", is_flag=True, help="A JSON object a line, one for each difference.")
@click.option("--csv", "as_csv", is_flag=True, help="The same as CSV.")
def source(export: str, program_id: str, source: str, export_format: str | None, mapping_file: Path | None, repair: bool, show: bool, as_json: bool,
           as_csv: bool, all_attributes: bool, ignore_versions: bool, **given: Any) -> None:  # fmt: skip
    """Compare the members with FILE, an export of a source system: CSV, JSON lines, or a callable MODULE:ATTRIBUTE that returns rows.

    Exit code 0: no difference; 1: there are some; 2: something must be mended, in FILE, the options or the settings; 3: a server failed.
    """
    from streams import settings
    from streams.reconciliation import mapping
    from streams.reconciliation.comparison import Mask
    from streams.reconciliation.source import Comparison, Question

    if as_json and as_csv:
        raise click.UsageError("--json and --csv exclude each other")
    console = Console(stderr=True)
    with failures_told("reconcile", EXIT_FAILED), tempfile.TemporaryDirectory(prefix="loyalty-reconcile-") as folder:
        question = Question(
            program_id=program_id, source=source, export=export, export_format=export_format or "", mapping=mapping.read(mapping_file, _table(given)),
            all_attributes=all_attributes, ignore_versions=ignore_versions,
        )  # fmt: skip
        run = Comparison(settings.load(), question, Path(folder), sends=repair, correlation_id=f"reconcile:{user()}:{secrets.token_hex(4)}")
        try:
            with progress(console) as advance:
                run.load(advance)
                mask = Mask(run.policy.program, show)
                write = writer(as_json, as_csv, _line)
                for one in run.differences(advance("compare")):
                    write(_row(one, mask))
        finally:
            run.close()
    tally = run.tally
    if tally.unexplained:
        console.print(f"The audit was not asked, so that events which were refused or superseded are not named. {tally.unexplained}", style="yellow")
    _print_summary(console, tally, repair)
    sys.exit(EXIT_DIFFERENCES if tally.found else 0)


def _table(given: dict[str, Any]) -> dict[str, Any]:
    """The options as a table of the mapping's form."""
    from streams.reconciliation.mapping import pairs

    table = {
        "id": given["id_column"], "external_id": pairs("--id-external", given["external"]), "version": given["version_column"],
        "columns": pairs("--map", given["maps"]), "statuses": pairs("--status", given["statuses"]), "separator": given["separator"],
        "absent": given["absent"],
    }  # fmt: skip
    return {name: value for name, value in table.items() if value}


def _row(one: Any, mask: Any) -> dict[str, Any]:
    origin = one.origin
    return {
        "kind": one.kind.value, "member_id": one.member_id, "part": one.part, "ours": mask(one.part, one.ours), "theirs": mask(one.part, one.theirs),
        "line": one.line, "version_here": one.version_here, "version_there": one.version_there,
        "event_id": origin.event_id if origin is not None else None, "event_source": origin.source_system if origin is not None else None,
        "explanation": one.explanation, "repair": one.repair,
    }  # fmt: skip


def _line(row: dict[str, Any]) -> str:
    """For people: what differs, why, and what mends it."""
    who = row["member_id"] or "(not a member)"
    where = f", line {row['line']}" if row["line"] else ""
    what = row["kind"].replace("_", " ")
    if row["part"]:
        what = f"{row['part']}: {_value(row['ours'])} here, {_value(row['theirs'])} there"
    text = f"{who}{where}: {what}\n    {row['explanation']}\n    repair: {row['repair']}"
    return "".join(character if character.isprintable() or character == "\n" else "?" for character in text)


def _value(value: str | None) -> str:
    return "nothing" if value is None else repr(value)


def _print_summary(console: Console, tally: Any, repair: bool) -> None:
    compared = f"{tally.rows:,} rows compared, {tally.members:,} members in all"
    if not tally.found:
        console.print(f"No difference: {compared}.", style="green")
        return
    table = Table(title=f"Differences: {compared}", title_justify="left")
    table.add_column("kind")
    table.add_column("differences", justify="right")
    for kind, count in sorted(tally.found.items()):
        table.add_row(kind.replace("_", " "), f"{count:,}")
    console.print(table)
    if repair:
        console.print(f"{tally.sent:,} events were sent.")
    else:
        console.print(f"{tally.repairs:,} events would be sent by --repair.")
