"""`loyalty ...`: one command line over everything. Commands are imported when they are called: `--help` needs no heavy package."""

import asyncio
import faulthandler
import importlib
import json
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import click

from streams.command_line import EXIT_CONFIGURATION, failures_told, user
from streams.errors import ConfigurationError

# Command -> (module, attribute, one line of help). The embedded stack's commands live in infra/, beside what they start.
ELSEWHERE = {
    "up": ("infra.up", "up", "Start the embedded stack and the pipeline; stop them with Ctrl-C."),
    "sql": ("infra.sql", "sql", "Query the history in ClickHouse."),
    "report": ("streams.analytics.command", "report", "Analysts' reports: as tables, files and charts, with their freshness."),
    "balance": ("streams.as_of.command", "balance", "What members had at any moment, by what had happened or what was known."),
    "explain": ("streams.explanation.command", "explain", "The whole way of an event, a webhook, a transaction, a request, or of a member's last."),
    "member": ("streams.member_view", "member", "Show a member's account, and the last entries of its ledger."),
    "reconcile": ("streams.reconciliation.command", "reconcile", "Compare all copies, or a source's export; say why they differ, and mend it."),
    "load": ("streams.loads.command", "load", "Load the history of another system, beside live traffic."),
    "export": ("streams.personal_data.command", "export", "Everything that is held of a member, in one document."),
    "erase": ("streams.personal_data.command", "erase", "Erase a member's personal data everywhere, and say what remains."),
    "audit": ("streams.audit.command", "audit", "Show, verify and report what became of every sync event."),
    "destinations": ("streams.destinations.command", "destinations", "Make, change, pause and test destinations of webhooks; send events again."),
    "deliveries": ("streams.deliveries.command", "deliveries", "Show attempts to deliver webhooks and what was given up, and try that again."),
    "connectors": ("streams.connectors.command", "connectors", "Show how connected systems fare and what can be connected; poll and listen to them."),
    "sync": ("streams.sync.command", "sync", "Show and set how often streams and jobs go; run one now."),
    "waiting": ("streams.waiting_view", "waiting", "Show for whom commands wait: nobody is enrolled, or has the external id."),
    "demo": ("infra.demo", "demo", "Tell the story of a hotel check-out on real parts, and check every step."),
}

APPLY_IN_S = 60


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


def run_process(process: str, start: Callable[..., Awaitable[None]]) -> None:
    """Run one pipeline process until SIGTERM or Ctrl-C. Exit code 2 for a configuration that must be mended, 1 for any other failure."""
    from streams import configuration, observability, settings

    async def serve() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        await start(loaded, configured, stop)

    faulthandler.enable()  # RocksDB and librdkafka are not Python: if one of them takes the process down, the log says from where.
    with failures_told(process):
        loaded = settings.load()
        observability.configure_logging(process, loaded.log_level)
        configured = configuration.load(loaded)
        asyncio.run(serve())


@main.command()
def worker() -> None:
    """Keep the accounts: read commands, decide, write the ledger and its events."""
    from streams import worker as module

    run_process("worker", module.run)


@main.command()
def ingress() -> None:
    """Serve the REST API and receive webhooks."""
    from streams.ingress import server

    run_process("ingress", server.run)


@main.command()
def scheduler() -> None:
    """Run what happens at times: scheduled streams, reports, reconciliations. Of several, one leads."""
    from streams.scheduling import scheduler as module

    run_process("scheduler", module.run)


@main.command()
@click.argument("name", type=click.Choice(["webhooks", "redis", "clickhouse", "connectors"]))
def sink(name: str) -> None:
    """Bring results to the outside: webhooks, redis, clickhouse or connectors."""
    from sinks.main import run_sink

    async def start(settings: object, configuration: object, stop: asyncio.Event) -> None:
        await run_sink(name, settings, configuration, stop)  # type: ignore[arg-type]

    run_process(f"sink-{name}", start)


@main.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of a table.")
def topics(as_json: bool) -> None:
    """Show the map: every topic, its record, its schema id, who writes it and who reads it."""
    from schemas.registry import LocalRegistry
    from streams import settings, topics

    prefix, registry = settings.load().topic_prefix, LocalRegistry()
    rows = [
        {"topic": topic.name(prefix), "record": topic.record.SCHEMA, "schema_id": registry.id_of(topic.record.SCHEMA),
         "direction": topic.direction.value, "writers": topic.writers, "readers": topic.readers, "doc": topic.doc}
        for topic in topics.ALL
    ]  # fmt: skip
    _show(rows, as_json, "Topics. Key: program_id/member_id. Values: Confluent wire format.")


@main.group()
def program() -> None:
    """Check, publish and list the rules of the programmes."""


@program.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text.")
def check(file: Path, as_json: bool) -> None:
    """Validate a configuration file, FILE, without a server. Exit code 2 when there is something to mend."""
    from streams import configuration
    from streams.toml_reader import FileError

    programs: list[str] = []
    problems: list[dict[str, Any]] = []
    with failures_told("program check"):
        try:
            programs = list(configuration.read(file).programs)
        except ConfigurationError as error:
            if not as_json:
                raise
            if isinstance(error, FileError):
                problems = [{"line": problem.line, "place": problem.place, "problem": problem.what} for problem in error.found]
            else:
                problems = [{"line": None, "place": "", "problem": problem} for problem in error.problems]
    if as_json:
        click.echo(json.dumps({"file": str(file), "programs": programs, "problems": problems}, indent=2))
        sys.exit(EXIT_CONFIGURATION if problems else 0)
    click.echo(f"{file} is right: {', '.join(programs)}.")


@program.command()
@click.option("--in", "in_s", type=click.IntRange(min=1), help="Seconds until the new rules take effect.  [default: 60]")
@click.option("--at", help="When they do, in RFC 3339: 2026-12-01T00:00:00+01:00.")
@click.option("--json", "as_json", is_flag=True, help="A JSON list of what was published instead of a table.")
def apply(in_s: int | None, at: str | None, as_json: bool) -> None:
    """Publish the rules in LOYALTY_CONFIG_FILE of each programme that has changed, as its next version."""
    import time

    from streams import configuration, publishing, settings
    from streams.toml_reader import TomlReader

    if in_s is not None and at is not None:
        raise click.UsageError("--in and --at exclude each other")
    with failures_told("program apply"):
        loaded = settings.load()
        configured = configuration.load(loaded)
        effective_from_ms = time.time_ns() // 1_000_000 + (in_s or APPLY_IN_S) * 1000
        if at is not None:
            reader = TomlReader()
            effective_from_ms = reader.instant_ms("", {"--at": at}, "--at") or 0
            reader.raise_problems()
        published = publishing.apply(loaded, configured, effective_from_ms=effective_from_ms, actor=user())
    rows = [
        {"program": record.program_id, "version": record.version, "effective_from": publishing.rfc_3339(record.effective_from_ms),
         "published_by": record.published_by}
        for record in published
    ]  # fmt: skip
    if not rows and not as_json:
        click.echo("Nothing has changed.")
        return
    _show(rows, as_json, "Published")


@program.command("list")
@click.option("--json", "as_json", is_flag=True, help="A JSON list instead of a table.")
def list_versions(as_json: bool) -> None:
    """Show the published versions of all programmes, and whether the newest one is what LOYALTY_CONFIG_FILE says."""
    from streams import configuration, publishing, settings

    with failures_told("program list"):
        loaded = settings.load()
        rules = configuration.load(loaded).rules if loaded.config_file else {}
        published = publishing.read_published(loaded)
    rows: list[dict[str, Any]] = []
    for program_id in sorted(published.keys() | rules.keys()):
        versions = published.get(program_id, [])
        for record in versions:
            compared = record is versions[-1] and program_id in rules
            rows.append({
                "program": program_id, "version": record.version, "effective_from": publishing.rfc_3339(record.effective_from_ms),
                "published_by": record.published_by, "differs_from_file": publishing.differs(record, rules[program_id]) if compared else None,
            })  # fmt: skip
        if not versions:
            rows.append({"program": program_id, "version": None, "effective_from": None, "published_by": None, "differs_from_file": True})
    if not rows and not as_json:
        click.echo("Nothing is published.")
        return
    _show(rows, as_json, "Versions of the programmes. The first one is in force for all that was before it, too.")


def _show(rows: list[dict[str, Any]], as_json: bool, title: str) -> None:
    """A table for people, or the same as JSON."""
    from rich.console import Console
    from rich.table import Table

    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    table = Table(title=title)
    for column in rows[0]:
        table.add_column(column)
    words = {None: "", True: "yes", False: "no"}
    for row in rows:
        table.add_row(*(words[value] if value is None or isinstance(value, bool) else str(value) for value in row.values()))
    Console().print(table)


if __name__ == "__main__":
    main()
