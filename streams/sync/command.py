"""`loyalty sync`: how often streams and jobs go, how their runs went, and what waits; and how to change that."""

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import click

from streams.command_line import failures_told, user
from streams.errors import ConfigurationError

T = TypeVar("T")

ASK_TIMEOUT_S = 15.0
RUNS_SHOWN = 20


@click.group()
def sync() -> None:
    """Show and set how often streams and jobs go; run one now."""


@sync.command()
@click.option("--json", "as_json", is_flag=True, help="A JSON list instead of a table.")
def status(as_json: bool) -> None:
    """Every stream and job: how often, its last and next run, and what waits for it."""
    from streams.sync import status as module

    rows = _run(lambda parts: module.rows(parts, int(time.time() * 1000)))
    if as_json:
        click.echo(json.dumps(rows, indent=2))
    else:
        module.show(rows, int(time.time() * 1000))


@sync.command()
@click.argument("name", required=False)
@click.option("--limit", default=RUNS_SHOWN, show_default=True, type=click.IntRange(1, 10_000), help="The newest so many.")
@click.option("--json", "as_json", is_flag=True, help="A JSON list instead of a table.")
def runs(name: str | None, limit: int, as_json: bool) -> None:
    """Runs, newest first: of all, or of the stream or job NAME."""
    from streams.sync import status as module

    rows = _run(lambda parts: module.runs(parts, name, limit))
    if as_json:
        click.echo(json.dumps(rows, indent=2))
    else:
        module.show_runs(rows, int(time.time() * 1000))


@sync.command("set")
@click.argument("name")
@click.option("--realtime", is_flag=True, help="Nothing waits any more.")
@click.option("--every", metavar="TIME", help="90s, 15m, 2h or 1d.")
@click.option("--cron", metavar="LINE", help="Five fields: '0 2 * * *'.")
@click.option("--time-zone", metavar="ZONE", help="Of cron and window: Europe/Berlin.  [default: UTC]")
@click.option("--window", metavar="FROM-UNTIL", help="Runs begin only then: 22:00-05:00.")
@click.option("--rate", "rate_max_per_s", metavar="N", type=float, help="Records a second that a run sends.")
def set_cadence(name: str, realtime: bool, every: str | None, cron: str | None, time_zone: str | None, window: str | None,
                rate_max_per_s: float | None) -> None:  # fmt: skip
    """Set how often the stream or job NAME goes, from now on, over what the configuration file says."""
    from streams.scheduling import cadence
    from streams.sync import names

    table = {"realtime": realtime or None, "every": every, "cron": cron, "time_zone": time_zone, "window": window, "rate_max_per_s": rate_max_per_s}
    said: dict[str, Any] = {key: value for key, value in table.items() if value is not None}
    if not {"realtime", "every", "cron"} & said.keys():
        raise click.UsageError("say how often: --realtime, --every or --cron")

    async def change(parts: "_Parts") -> str:
        try:
            wanted = cadence.make(**said)
        except ValueError as error:
            raise ConfigurationError(str(error)) from error
        parts.require_known(name)
        reason = names.refusal(name, wanted)
        if reason:
            raise ConfigurationError(f"{name} {reason}")
        await parts.control.set_cadence(name, said, changed_by=user())
        return str(wanted)

    click.echo(f"{name}: {_run(change)}.")


@sync.command()
@click.argument("name")
def reset(name: str) -> None:
    """Back to what the configuration file says of the stream or job NAME."""

    async def change(parts: "_Parts") -> None:
        parts.require_known(name)
        await parts.control.reset_cadence(name, changed_by=user())

    _run(change)
    click.echo(f"{name}: as the configuration file says.")


@sync.command()
@click.argument("name")
@click.option("--wait", "wait_s", default=60, show_default=True, type=click.IntRange(min=0), help="Seconds to wait for its end; 0: do not wait.")
@click.option("--json", "as_json", is_flag=True, help="The run as one JSON object instead of a line.")
def run(name: str, wait_s: int, as_json: bool) -> None:
    """Run the stream or job NAME now, outside its window, too. Exit code 1 when the run fails."""
    from streams.sync import status as module

    async def ask(parts: "_Parts") -> dict[str, Any] | None:
        parts.require_known(name, runnable=True)
        await parts.control.request(name, changed_by=user())
        return await module.wait_for_request(parts, name, wait_s) if wait_s else None

    row = _run(ask)
    if row is None:
        click.echo(f"{name}: asked for.")
    elif as_json:
        click.echo(json.dumps(row, indent=2))
    else:
        click.echo(f"{name}: {row['result']}, {row['rows']} rows in {row['seconds']:.1f} s. {row['detail']}".rstrip())
    sys.exit(1 if row is not None and row["result"] == "FAILED" else 0)


class _Parts:
    """What the commands work with: settings, jobs, and the topics of control and runs, read."""

    def __init__(self) -> None:
        from streams import configuration, settings
        from streams.codec import open_codec
        from streams.scheduling import jobs
        from streams.scheduling.runs import RunLog
        from streams.sync.control import SyncControlLog

        self.settings = settings.load()
        self.configuration = configuration.load(self.settings)
        self.codec = open_codec(self.settings)
        self.jobs = jobs.load(self.settings, self.configuration)
        self.control = SyncControlLog(self.settings, self.codec, self.configuration)
        self.run_log = RunLog(self.settings, self.codec)

    async def open(self) -> None:
        """Raises UnavailableError."""
        from streams import kafka
        from streams.errors import UnavailableError

        existing = await asyncio.to_thread(kafka.partition_counts, self.settings, timeout_s=ASK_TIMEOUT_S)
        if f"{self.settings.topic_prefix}.sync-control.v1" not in existing:
            raise UnavailableError("Kafka has no topic sync-control yet: start the pipeline first, `loyalty scheduler` among it")
        self.control.start()
        try:
            await asyncio.wait_for(asyncio.gather(self.control.ready(), self.run_log.open()), ASK_TIMEOUT_S)
        except TimeoutError as error:
            raise UnavailableError(f"Kafka at LOYALTY_KAFKA_BOOTSTRAP_SERVERS={self.settings.kafka_bootstrap_servers} does not answer") from error

    async def close(self) -> None:
        await self.control.close()
        await self.run_log.close()

    def require_known(self, name: str, *, runnable: bool = False) -> None:
        """Raise ConfigurationError when there is no such stream or job."""
        from streams.sync import names

        runs_itself = names.is_inbound(name) or name in self.jobs
        if runnable and not runs_itself and names.is_stream(name):
            raise ConfigurationError(f"{name} has no runs: what it holds goes out at its times")
        if not (runs_itself or names.is_stream(name)):
            known = ", ".join([*names.INBOUND, *names.OUTBOUND, *self.jobs])
            raise ConfigurationError(f"there is no stream and no job {name}. There are {known}")


def _run(work: Callable[[_Parts], Awaitable[T]]) -> T:
    async def whole() -> T:
        parts = _Parts()
        try:
            await parts.open()
            return await work(parts)
        finally:
            await parts.close()

    with failures_told("sync"):
        return asyncio.run(whole())
