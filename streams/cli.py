"""`loyalty ...`: one command line over everything. Commands are imported when they are called: `--help` needs no heavy package."""

import asyncio
import faulthandler
import importlib
import json
import signal
import sys
from collections.abc import Awaitable, Callable

import click

from streams.errors import ConfigurationError, LoyaltyError

# Command -> (module, attribute, one line of help). The embedded stack's commands live in infra/, beside what they start.
ELSEWHERE = {
    "up": ("infra.up", "up", "Start the embedded stack and the pipeline; stop them with Ctrl-C."),
    "sql": ("infra.sql", "sql", "Query the history in ClickHouse."),
    "member": ("streams.member_view", "member", "Show a member's account, and the last entries of its ledger."),
    "demo": ("infra.demo", "demo", "Tell the story of a hotel check-out on real parts, and check every step."),
}

EXIT_CONFIGURATION = 2


class _Commands(click.Group):
    """Knows the commands of other modules by name, and imports each only when it is used."""

    def list_commands(self, context: click.Context) -> list[str]:
        return sorted([*super().list_commands(context), *ELSEWHERE])

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in ELSEWHERE:
            return super().get_command(context, name)
        module, attribute, _ = ELSEWHERE[name]
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        rows = [(name, line) for name, (_, _, line) in ELSEWHERE.items()]
        rows += [(name, command.get_short_help_str(80)) for name, command in self.commands.items()]
        with formatter.section("Commands"):
            formatter.write_dl(sorted(rows))


@click.group(cls=_Commands)
@click.version_option(package_name="loyalty-sync")
def main() -> None:
    """Real-time loyalty sync: events in, an exact points ledger, signed results out."""


def _run(process: str, start: Callable[..., Awaitable[None]]) -> None:
    """Run one pipeline process until SIGTERM or Ctrl-C. Exit code 2 for a configuration that must be mended, 1 for any other failure."""
    from streams import configuration, observability, settings

    async def serve() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        await start(loaded, configured, stop)

    faulthandler.enable()  # RocksDB and librdkafka are not Python: if one of them takes the process down, the log says from where.
    try:
        loaded = settings.load()
        observability.configure_logging(process, loaded.log_level)
        configured = configuration.load(loaded)
        asyncio.run(serve())
    except ConfigurationError as error:
        for problem in error.problems:
            click.echo(f"loyalty {process}: {problem}", err=True)
        sys.exit(EXIT_CONFIGURATION)
    except (LoyaltyError, OSError) as error:
        click.echo(f"loyalty {process}: {error}", err=True)
        sys.exit(1)


@main.command()
def worker() -> None:
    """Keep the accounts: read commands, decide, write the ledger and its events."""
    from streams import worker as module

    _run("worker", module.run)


@main.command()
def ingress() -> None:
    """Serve the REST API and receive webhooks."""
    from streams.ingress import server

    _run("ingress", server.run)


@main.command()
@click.argument("name", type=click.Choice(["webhooks", "redis", "clickhouse"]))
def sink(name: str) -> None:
    """Bring results to the outside: webhooks, redis or clickhouse."""
    from sinks.main import run_sink

    async def start(settings: object, configuration: object, stop: asyncio.Event) -> None:
        await run_sink(name, settings, configuration, stop)  # type: ignore[arg-type]

    _run(f"sink-{name}", start)


@main.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of a table.")
def topics(as_json: bool) -> None:
    """Show the map: every topic, its record, its schema id, who writes it and who reads it."""
    from rich.console import Console
    from rich.table import Table

    from schemas.registry import LocalRegistry
    from streams import settings, topics

    prefix, registry = settings.load().topic_prefix, LocalRegistry()
    rows = [
        {"topic": topic.name(prefix), "record": topic.record.SCHEMA, "schema_id": registry.id_of(topic.record.SCHEMA),
         "direction": topic.direction.value, "writers": topic.writers, "readers": topic.readers, "doc": topic.doc}
        for topic in topics.ALL
    ]  # fmt: skip
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    table = Table(title="Topics. Key: program_id/member_id. Values: Confluent wire format.")
    for column in rows[0]:
        table.add_column(column)
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    Console().print(table)


if __name__ == "__main__":
    main()
