"""`loyalty explain`: the whole way of an event. Reads ClickHouse."""

import asyncio
import json
import sys
from typing import Any

import click
from rich.console import Console
from rich.text import Text

from streams import settings as settings_module
from streams.command_line import failures_told
from streams.explanation import query, way
from streams.history import Reader
from streams.ingress.commands import format_time

Row = dict[str, Any]


@click.command()
@click.argument("identifier", metavar="ID")
@click.option("--program", "-p", help="Programme; without it, all.")
@click.option("--limit", type=click.IntRange(1, query.COMMANDS_MAX), default=5, show_default=True, help="Commands at most, the newest first.")
@click.option("--json", "as_json", is_flag=True, help="JSON: one object, with the rows of the history.")
def explain(identifier: str, program: str | None, limit: int, as_json: bool) -> None:
    """Show the way of what ID names, step by step: a command, a transaction, an entry of the ledger, an event, a webhook, a request by its
    correlation id, or a member."""
    with failures_told("explain"):
        found = asyncio.run(_found(identifier, program, limit))
    if as_json:
        click.echo(json.dumps(found, ensure_ascii=False))
    else:
        _draw(found)
    if not found["ways"]:
        click.echo(f"loyalty explain: the history knows nothing of {identifier}.", err=True)
        sys.exit(1)


async def _found(identifier: str, program: str | None, limit: int) -> Row:
    async with Reader(settings_module.load()) as history:
        return await way.explain(history, identifier, program, limit)


def _draw(found: Row) -> None:
    console = Console()
    for one in found["ways"]:
        title = f"{one['command_id']} of {one['program_id']}/{one['member_id']}"
        console.print(Text.assemble((_clean(title), "bold"), f", {one['total_ms']:,} ms from its receipt to the last step"), soft_wrap=True)
        for step in one["steps"]:
            waited = f"+{step['after_ms']:,} ms"
            console.print(Text.assemble((f"  {step['at']} {waited:>14} ", "dim"), (f"{step['step']:<10}", "cyan"), _clean(_said(step))), soft_wrap=True)
    console.print(Text(f"The history has what was recorded until {format_time(found['mirrored_until_ms'])}; what is newer is not shown.", "dim"))


def _said(step: Row) -> str:
    """A step in a line."""
    row = step["row"]
    match step["step"]:
        case "received":
            by = "/".join(filter(None, (row["source_system"], row["actor"])))
            why = ", ".join(filter(None, (row["reason"], row["detail"])))
            place = f"{row['topic']}[{row['partition']}]@{row['offset']}"
            return f"{row['stream']} from {by} at {place}, hash {row['payload_hash']}: {row['result']} at {row['recorded_at']}{f' ({why})' if why else ''}"
        case "posted":
            rule = f"{row['rule_id']} of version {row['rule_version']}"
            moved = f"{row['points_delta']:+,} {row['account']} against {row['counter_account']}, {row['balance_after']:,} after"
            return f"entry {row['entry_sequence']} {row['kind']}: {moved}; {rule}; hash {row['entry_hash'][:16]}"
        case "told":
            return f"event {row['sequence']} {row['kind']}: {row['available_points']:,} available, {row['tier']}, {row['status']}; {row['event_id']}"
        case "attempted":
            again = f", again at {row['next_attempt_at']}" if row["next_attempt_at"] else ""
            return f"{row['channel']}, attempt {row['attempt']}: {row['outcome']} {row['verdict']} in {row['duration_us'] / 1000:,.1f} ms{again}"
        case _:
            why = f", {row['reason']}" if row["reason"] else ""
            return f"{row['destination']}: {row['result']} after {row['attempts']} attempts{why}"


def _clean(text: str) -> str:
    return "".join(one if one.isprintable() else "?" for one in text)
