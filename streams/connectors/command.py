"""`loyalty connectors`: how the connected systems fare, what can be connected, and the process that polls and listens."""

import asyncio
import json
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from sinks.connectors.command import COMMANDS
from streams.command_line import failures_told, print_table, short_time
from streams.errors import LoyaltyError

if TYPE_CHECKING:
    from rich.text import Text

    from streams.configuration import Configuration
    from streams.settings import Settings

JSON = click.option("--json", "as_json", is_flag=True, help="JSON instead of text.")
COLUMNS = ("name", "way", "state", "last success", "lag>", "budget>", "last error", "alert")
STYLES = {"well": "green", "listens": "green", "fails": "red", "waits": "yellow", "paused": "yellow"}

Row = dict[str, Any]


@click.group(invoke_without_command=True)
@JSON
@click.pass_context
def connectors(context: click.Context, as_json: bool) -> None:
    """Connected systems: how they fare. Without a command: all of them."""
    if context.invoked_subcommand is None:
        _list(as_json)


for _command in COMMANDS:
    connectors.add_command(_command)


@connectors.command("list")
@JSON
def list_all(as_json: bool) -> None:
    """Show each way in and out: state, last success, lag, budget, last error. One JSON object a line with --json."""
    _list(as_json)


@connectors.command()
@click.argument("name")
def show(name: str) -> None:
    """Show one system whole, as JSON: options of both halves, secrets hidden, and the cursors of its feeds."""
    from streams import configuration, settings
    from streams.codec import open_codec
    from streams.connectors import overview
    from streams.connectors.running import progress

    with failures_told("connectors show"):
        loaded = settings.load()
        configured = configuration.load(loaded)
        names = sorted({*configured.sources, *configured.targets})
        if name not in names:
            raise LoyaltyError(f"LOYALTY_CONFIG_FILE has no connected system {name!r}; it has {', '.join(names) or 'none'}")
        known = progress.read(loaded, open_codec(loaded), range(loaded.kafka_partitions))
        rows = asyncio.run(_rows(loaded, configured))
    click.echo(json.dumps(overview.details(name, configured, known, rows), indent=2, ensure_ascii=False))


@connectors.command()
@click.argument("kind", required=False)
@JSON
def kinds(kind: str | None, as_json: bool) -> None:
    """List what can be connected; with a KIND, its options."""
    from streams.connectors import overview

    rows = [row for row in overview.kinds() if kind in (None, row["kind"])]
    if kind is not None and not rows:
        raise click.UsageError(f"{kind!r} is none of {', '.join(row['kind'] for row in overview.kinds())}")
    if kind is None:
        print_table(rows, as_json, ("kind", "system", "in", "out"), _kind_cells, "Nothing can be connected.")
        return
    options = [
        option | {"half": half} for half, name in (("sources", "source_options"), ("destinations", "destination_options")) for option in rows[0][name]
    ]
    print_table(options, as_json, ("half", "option", "type", "default", "what"), _option_cells, "It has no options.")


@connectors.command()
def run() -> None:
    """Poll and listen to all sources that want it. Several may run: each feed is led by one of them."""
    from streams.cli import run_process
    from streams.connectors.running import process

    run_process("connectors", process.run)


def _list(as_json: bool) -> None:
    from streams import configuration, settings

    with failures_told("connectors"):
        loaded = settings.load()
        rows = asyncio.run(_rows(loaded, configuration.load(loaded)))
    print_table(rows, as_json, COLUMNS, _cells, "LOYALTY_CONFIG_FILE has neither sources nor connected destinations.")


async def _rows(settings: "Settings", configuration: "Configuration") -> list[Row]:
    from streams.codec import open_codec
    from streams.connectors import overview
    from streams.ingress.standings import Standings

    standings = Standings(settings)
    try:
        return await overview.collect(settings, configuration, open_codec(settings), standings)
    finally:
        await standings.close()


def _cells(row: Row) -> "Sequence[str | Text]":
    from rich.text import Text

    way = f"{row['direction']}: {row['way']} {row['feed']}".rstrip()
    budget = row.get("budget")
    name = row["name"] if row["name"] == row["kind"] else f"{row['name']} ({row['kind']})"
    return (
        name, way, Text(row["state"], STYLES.get(row["state"], "")), short_time(row.get("succeeded_at"), _now_ms()),
        "" if row.get("lag_s") is None else f"{row['lag_s']:.1f} s", f"{budget['used']}/{budget['allowed']}" if budget else "",
        _at(row, "last_error"), _at(row, "alert"),
    )  # fmt: skip


def _at(row: Row, name: str) -> str:
    return f"{row[name]} ({short_time(row[name + '_at'], _now_ms())})" if row.get(name) else ""


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _kind_cells(row: Row) -> Sequence[str]:
    return row["kind"], row["title"], ", ".join(row["ways_in"]), "writes" if row["writes"] else ""


def _option_cells(row: Row) -> Sequence[str]:
    default = "required" if row["required"] else json.dumps(row["default"], ensure_ascii=False) if row["default"] not in ("", [], {}) else ""
    what = row["doc"] + (f" One of {', '.join(row['choices'])}." if row["choices"] else "") + (" Secret." if row["secret"] else "")
    return row["half"], row["name"], row["type"], default, what
