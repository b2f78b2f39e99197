"""`loyalty audit`: what came in and what went out, whether the audit is whole, and an auditor's reports. Reads ClickHouse and Kafka."""

import asyncio
import csv
import io
import json
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from streams import settings as settings_module
from streams.audit import log, query
from streams.audit.history import History
from streams.audit.query import Direction, Filters
from streams.audit.verification import Anchors, Chain, Verifier
from streams.codec import open_codec
from streams.command_line import Instant
from streams.errors import ConfigurationError, LoyaltyError
from streams.settings import Settings

T = TypeVar("T")
Row = dict[str, Any]

LIMIT = 50
EXIT_BROKEN, EXIT_CONFIGURATION = 1, 2
TICK = 500  # Records between two looks at the progress bar.
FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What a spreadsheet takes for the beginning of a formula, which may send data elsewhere."""


JSON = click.option("--json", "as_json", is_flag=True, help="JSON lines: one object a record.")
CSV = click.option("--csv", "as_csv", is_flag=True, help="CSV with a line of names.")
PROGRAM = click.option("--program", "-p", help="Programme.")
MEMBER = click.option("--member", "-m", help="Member's number.")
SINCE = click.option("--since", "since_ms", type=Instant(), help="Recorded at this time or later: 2026-11-25 or 2026-11-25T12:00:00Z.")
UNTIL = click.option("--until", "until_ms", type=Instant(), help="Recorded before this time.")
MAXIMUM = click.option("--limit", type=click.IntRange(1, 10_000_000), default=LIMIT, show_default=True, help="Records at most, the newest first.")


@click.group(invoke_without_command=True)
@click.option("--direction", type=click.Choice(["in", "out"]), default="in", show_default=True, help="Events received, or deliveries.")
@PROGRAM
@MEMBER
@click.option("--source", help="Source system.")
@click.option("--actor", help="Who caused it (in).")
@click.option("--stream", help="Inbound stream, for example profile-changes (in).")
@click.option("--destination", help="Where it went (out).")
@click.option("--kind", help="Kind of the event, or MEMBER_READ (out).")
@click.option("--result", help="APPLIED, REFUSED, DELIVERED ...", callback=lambda *given: given[2] and given[2].upper())
@click.option("--reason", help="Code of the rule, for example ATTRIBUTE_MASTERED_EXTERNALLY.")
@click.option("--attribute", help="An attribute that was changed, or whose change was refused.")
@click.option("--command", help="Id of the command.")
@click.option("--correlation", help="Correlation id: one request through all topics and out.")
@SINCE
@UNTIL
@MAXIMUM
@JSON
@CSV
@click.pass_context
def audit(context: click.Context, /, direction: str, limit: int, as_json: bool, as_csv: bool, **given: Any) -> None:
    """Show what became of every sync event: what it changed, when, from which source."""
    if context.invoked_subcommand is not None:
        if any(value is not None for value in given.values()):
            raise click.UsageError(f"options of the list stand before {context.invoked_subcommand}: leave them out, or put them after it")
        return
    filters, wanted = Filters(**given), Direction(direction)
    if problems := list(filters.problems(wanted)):
        raise click.UsageError("; ".join(f"--{problem.field} {problem.detail}" for problem in problems))

    async def rows(history: History) -> AsyncIterator[Row]:
        async for row in history.rows(query.listing(wanted, filters, limit)):
            yield query.named(wanted, row)

    _show(rows, as_json, as_csv, lambda found: _drawn(wanted, found), _told)


@audit.command()
@click.argument("name", type=click.Choice(list(query.REPORTS)))
@PROGRAM
@MEMBER
@SINCE
@UNTIL
@MAXIMUM
@JSON
@CSV
def report(name: str, limit: int, as_json: bool, as_csv: bool, **given: Any) -> None:
    """One of the auditor's reports: the views of the same name in ClickHouse."""
    try:
        asked = query.report(name, Filters(**given), limit)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    _show(lambda history: history.objects(asked), as_json, as_csv, lambda found: _plain_table(name, found))


@audit.command()
@click.option("--partition", type=click.IntRange(min=0), help="Only this one of the topics' partitions.")
@click.option("--from-topic", is_flag=True, help="Only what Kafka holds.")
@click.option("--from-clickhouse", is_flag=True, help="Only what ClickHouse holds.")
@click.option(
    "--anchors", type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="What an earlier `verify --json` has printed: its last records must still be there. Keep it where nobody who can change the audit can.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of a table.")
def verify(partition: int | None, from_topic: bool, from_clickhouse: bool, anchors: Path | None, as_json: bool) -> None:
    """Recompute every hash, and name the first broken link of each chain. Exit code 1 if one is broken.

    Without an option both stores are verified, and the last record of each chain in ClickHouse must be in Kafka's, too.
    """
    found = _guarded(lambda settings: _verify(settings, partition, from_topic, from_clickhouse, _noted(anchors)))
    broken = [chain for chains in found.values() for chain in chains if chain.broken is not None]
    if as_json:
        click.echo(json.dumps({"whole": not broken, **{store: [_as_json(chain) for chain in chains] for store, chains in found.items()}}, indent=2))
    else:
        _show_chains(found)
    sys.exit(EXIT_BROKEN if broken else 0)


# Verification.


async def _verify(
    settings: Settings, partition: int | None, from_topic: bool, from_clickhouse: bool, anchors: Anchors
) -> dict[str, list[Chain]]:
    """Store -> its chains. ClickHouse comes first: what it holds, Kafka held before."""
    found: dict[str, list[Chain]] = {}
    if partition is not None:
        anchors = {name: noted for name, noted in anchors.items() if name.split("/")[1] == str(partition)}
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        if from_clickhouse or not from_topic:
            found["clickhouse"] = await _verify_history(settings, partition, anchors, progress)
        if from_topic or not from_clickhouse:
            heads = {chain.name: {chain.last_number: chain.last_hash} for chain in found.get("clickhouse", ()) if chain.records and not chain.broken}
            both = {name: {**heads.get(name, {}), **anchors.get(name, {})} for name in heads.keys() | anchors.keys()}
            found["topic"] = await asyncio.to_thread(_verify_topics, settings, partition, both, progress)
    return found


async def _verify_history(settings: Settings, partition: int | None, anchors: Anchors, progress: Progress) -> list[Chain]:
    verifier = Verifier(anchors)
    async with History(settings) as history:
        for direction in Direction:
            task = progress.add_task(f"ClickHouse {query.TABLE[direction]}", total=None)
            async for row in history.rows(query.count(direction, partition)):
                progress.update(task, total=row[0])
            done = 0
            async for link in history.links(direction, partition):
                verifier.add(link)
                done += 1
                if done % TICK == 0:
                    progress.update(task, completed=done)
            progress.update(task, completed=done, total=done)
    return verifier.finish()


def _verify_topics(settings: Settings, partition: int | None, anchors: Anchors, progress: Progress) -> list[Chain]:
    verifier = Verifier(anchors)
    for part in log.parts(settings, partition):
        task = progress.add_task(f"Kafka {part.topic.stream} {part.number}", total=part.end - part.first)
        for link in log.links(settings, open_codec(settings), [part], lambda done, task=task: progress.update(task, completed=done)):  # type: ignore[misc]
            verifier.add(link)
    return verifier.finish()


def _noted(file: Path | None) -> Anchors:
    """Chain -> its last record, of an earlier report. The topic's say more than ClickHouse's, which come later."""
    if file is None:
        return {}
    try:
        told = json.loads(file.read_text())
        return {
            chain["chain"]: {int(chain["last_number"]): str(chain["last_hash"])}
            for store in ("clickhouse", "topic")
            for chain in told.get(store, ())
            if chain["last_number"]
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigurationError(f"--anchors: {file} is not what `loyalty audit verify --json` prints: {error}") from error


def _as_json(chain: Chain) -> Row:
    broken = chain.broken
    return {
        "chain": chain.name, "records": chain.records, "unchained": chain.unchained, "first_number": chain.first_number,
        "last_number": chain.last_number, "last_hash": chain.last_hash, "beginning_is_gone": chain.beginning_is_gone,
        "broken": None if broken is None else {
            "fault": broken.fault.value, "number": broken.number, "place": broken.place, "detail": broken.detail,
        },
    }  # fmt: skip


def _show_chains(found: dict[str, list[Chain]]) -> None:
    console = Console()
    table = Table(box=None, header_style="dim", pad_edge=False)
    for name in ("store", "chain", "records", "from", "to", "state"):
        table.add_column(name, justify="right" if name in ("records", "from", "to") else "left", overflow="fold")
    for store, chains in found.items():
        for chain in chains:
            table.add_row(
                store, chain.name, f"{chain.records:,}", str(chain.first_number), str(chain.last_number),
                Text("whole", "green") if chain.broken is None else Text(chain.broken.fault.value, "bold red"),
            )  # fmt: skip
    console.print(table)
    chains = [chain for chains in found.values() for chain in chains]
    for store, own in found.items():
        for chain in own:
            if chain.broken is not None:
                where = f"{store}, {chain.name}, number {chain.broken.number}, at {chain.broken.place}"
                console.print(Text(f"{chain.broken.fault.value}: {where}: {chain.broken.detail}", "red"))
            if chain.unchained:
                console.print(Text(f"{store}, {chain.name}: {chain.unchained:,} records from before there were chains prove nothing.", "yellow"))
    if any(chain.beginning_is_gone for chain in chains):
        console.print(Text("A chain that does not begin at 1 has lost its beginning to retention.", "dim"))
    if not any(chain.broken for chain in chains):
        console.print(Text(f"Whole: {sum(chain.records for chain in chains):,} records in {len(chains)} chains.", "green"))


# Lists and reports.


def _show(
    rows: Callable[[History], AsyncIterator[Row]], as_json: bool, as_csv: bool, drawn: Callable[[Sequence[Row]], Table],
    told: Callable[[Row], Row] = dict,
) -> None:  # fmt: skip
    """Print rows as they come, or as a table. `told` gives a row's cells for CSV and JSON."""
    if as_json and as_csv:
        raise click.UsageError("--json and --csv exclude each other")

    async def shown(settings: Settings) -> list[Row]:
        kept: list[Row] = []
        writer: Any = None
        async with History(settings) as history, aclosing(rows(history)) as found:  # type: ignore[type-var]
            async for row in found:
                if as_json:
                    click.echo(json.dumps(told(row), ensure_ascii=False))
                elif as_csv:
                    cells = {name: cell(value) for name, value in told(row).items()}
                    if writer is None:
                        writer = csv.writer(_Out())
                        writer.writerow(cells)
                    writer.writerow(cells.values())
                else:
                    kept.append(row)
        return kept

    kept = _guarded(shown)
    if not as_json and not as_csv:
        console = Console()
        console.print(drawn(kept) if kept else Text("Nothing fits.", "dim"))


class _Out(io.TextIOBase):
    """Standard output, as the csv module wants it."""

    def write(self, text: str) -> int:
        click.echo(text, nl=False)
        return len(text)


def cell(value: Any) -> Any:
    """A value for CSV: lists as one text, and texts that a spreadsheet would take for a formula behind an apostrophe."""
    if isinstance(value, list):
        value = "; ".join(_change(one) if isinstance(one, dict) else str(one) for one in value)
    if isinstance(value, str) and value.startswith(FORMULA):
        return f"'{value}"
    return value


def _change(change: Row) -> str:
    words = ["" if text is None else text for text in (change["before"], change["after"])]
    return f"{change['attribute']}: {words[0]} -> {words[1]}"


def _told(row: Row) -> Row:
    """A record with its times as texts."""
    return {
        name.removesuffix("_ms"): time_of(value) if name.endswith("_ms") else value
        for name, value in row.items()
    }  # fmt: skip


def time_of(at_ms: int) -> str:
    """2026-11-25T12:00:00.000Z."""
    return datetime.fromtimestamp(at_ms // 1000, UTC).replace(microsecond=at_ms % 1000 * 1000).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _drawn(direction: Direction, rows: Iterable[Row]) -> Table:
    table = Table(box=None, header_style="dim", pad_edge=False)
    incoming = ("recorded", "member", "what", "from", "result", "changes")
    for name in incoming if direction is Direction.IN else ("ended", "member", "what", "to", "result", "attributes"):
        table.add_column(name, overflow="fold")
    for row in rows:
        result = row["result"] + (f" {row['reason']}" if row["reason"] else "")
        if direction is Direction.IN:
            what, whom = f"{row['stream']} {row['command_id']}", row["source_system"] + (f" {row['actor']}" if row["actor"] else "")
            said = "; ".join(filter(None, (row["detail"], *map(_change, row["changes"]))))
            result += " (repeated)" if row["replayed"] else ""
        else:
            what, whom = f"{row['kind']} {row['event_id']}", row["destination"]
            said = ", ".join(row["changed_attributes"])
        moment = time_of(row[f"{query.RECORDED[direction]}_ms"])
        cells = (f"{moment[:10]} {moment[11:23]}", f"{row['program_id']}/{row['member_id']}", what, whom, result, said)
        table.add_row(*(Text(_clean(text)) for text in cells))
    return table


def _plain_table(title: str, rows: Sequence[Row]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, header_style="dim", pad_edge=False)
    for name in rows[0]:
        table.add_column(name, overflow="fold")
    for row in rows:
        values = ("" if value is None else cell(value) if isinstance(value, list) else value for value in row.values())
        table.add_row(*(Text(_clean(str(value))) for value in values))
    return table


def _clean(text: str) -> str:
    """Texts come from other systems, and a terminal obeys control characters."""
    return "".join(character if character.isprintable() else "?" for character in text)


def _guarded(work: Callable[[Settings], Coroutine[Any, Any, T]]) -> T:
    """Run it; exit code 2 for a configuration that must be mended, 1 for what does not answer."""
    try:
        return asyncio.run(work(settings_module.load()))
    except ConfigurationError as error:
        _fail(error.problems, EXIT_CONFIGURATION)
    except LoyaltyError as error:
        _fail([str(error)], 1)


def _fail(problems: Iterable[str], code: int) -> NoReturn:
    for problem in problems:
        click.echo(f"loyalty audit: {problem}", err=True)
    sys.exit(code)
