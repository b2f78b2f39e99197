"""`loyalty explain`: the whole way of an event, and a member as of now. Asks ClickHouse, the log, the workers, Redis and the sinks itself."""

import asyncio
import json
import sys
from typing import Any

import click
from rich.console import Console

from streams import configuration
from streams import settings as settings_module
from streams.codec import open_codec
from streams.command_line import failures_told
from streams.explanation import drawing, query, way
from streams.explanation.sources import opened
from streams.settings import Settings


@click.command()
@click.argument("identifier", metavar="ID")
@click.option("--program", "-p", help="Programme; without it, all.")
@click.option("--limit", type=click.IntRange(1, query.COMMANDS_MAX), default=5, show_default=True, help="Commands at most, the newest first.")
@click.option("--json", "as_json", is_flag=True, help="JSON: one object, with the rows of the history.")
def explain(identifier: str, program: str | None, limit: int, as_json: bool) -> None:
    """Show the way of what ID names, step by step: a command, a transaction, an entry of the ledger, an event, a webhook, a hold, a voucher, a
    request by its correlation id. Of a member, or of @type:value: the account as it is now, what waits for it, and its newest commands."""
    with failures_told("explain"):
        found = asyncio.run(explained(settings_module.load(), identifier, program, limit))
    if as_json:
        click.echo(json.dumps(found, ensure_ascii=False))
    else:
        console = Console()
        for part in drawing.parts(found):
            console.print(part, soft_wrap=True)
    if drawing.is_empty(found):
        missing = f" by what answers; {', '.join(sorted(found['not_reached']))} did not" if found["not_reached"] else ""
        click.echo(f"loyalty explain: nothing is known of {identifier}{missing}.", err=True)
        sys.exit(1)


async def explained(settings: Settings, identifier: str, program: str | None, limit: int) -> dict[str, Any]:
    """The document of streams.explanation.way. Raises ConfigurationError."""
    configured = configuration.load(settings) if settings.config_file else None
    from_file, programs = (configured.destinations, tuple(configured.programs)) if configured is not None else ({}, ())
    async with opened(settings, open_codec(settings), from_file, programs) as sources:
        return await way.explain(sources, identifier, (program,) if program else (), limit)
