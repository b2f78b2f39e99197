"""`loyalty sync`: how often streams and jobs go, how their runs went, and what waits; and how to change that."""

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

from streams.command_line import failures_told, user
from streams.errors import ConfigurationError

if TYPE_CHECKING:
    from streams.sync.status import Sources

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

    async def change(parts: "Sources") -> str:
        try:
            wanted = cadence.make(**said)
        except ValueError as error:
            raise ConfigurationError(str(error)) from error
        _require_known(parts, name)
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

    async def change(parts: "Sources") -> None:
        _require_known(parts, name)
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

    async def ask(parts: "Sources") -> dict[str, Any] | None:
        _require_known(parts, name, runnable=True)
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


@asynccontextmanager
async def _opened() -> "AsyncIterator[Sources]":
    """What the commands work with. Raises ConfigurationError, UnavailableError."""
    from streams import configuration, kafka
    from streams import settings as settings_module
    from streams.codec import open_codec
    from streams.errors import UnavailableError
    from streams.scheduling import jobs
    from streams.scheduling.runs import RunLog
    from streams.sync.control import SyncControlLog
    from streams.sync.status import Sources

    settings = settings_module.load()
    configured, codec = configuration.load(settings), open_codec(settings)
    existing = await asyncio.to_thread(kafka.partition_counts, settings, timeout_s=ASK_TIMEOUT_S)
    if f"{settings.topic_prefix}.sync-control.v1" not in existing:
        raise UnavailableError("Kafka has no topic sync-control yet: start the pipeline first, `loyalty scheduler` among it")
    control, run_log = SyncControlLog(settings, codec, configured), RunLog(settings, codec)
    try:
        for follower in (control, run_log):
            follower.start()
        try:
            await asyncio.wait_for(asyncio.gather(control.ready(), run_log.ready()), ASK_TIMEOUT_S)
        except TimeoutError as error:
            raise UnavailableError(f"Kafka at LOYALTY_KAFKA_BOOTSTRAP_SERVERS={settings.kafka_bootstrap_servers} does not answer") from error
        yield Sources(
            settings=settings, configuration=configured, codec=codec, jobs=jobs.load(settings, configured), control=control, run_log=run_log
        )  # fmt: skip
    finally:
        await control.close()
        await run_log.close()


def _require_known(parts: "Sources", name: str, *, runnable: bool = False) -> None:
    """Raise ConfigurationError when there is no such stream or job."""
    from streams.sync import names

    runs_itself = names.is_inbound(name) or name in parts.jobs
    if runnable and not runs_itself and names.is_stream(name):
        raise ConfigurationError(f"{name} cannot be run by itself: what it holds goes out at its times")
    if not (runs_itself or names.is_stream(name)):
        known = ", ".join([*names.INBOUND, *names.OUTBOUND, *parts.jobs])
        raise ConfigurationError(f"there is no stream and no job {name}. There are {known}")


def _run(work: "Callable[[Sources], Awaitable[T]]") -> T:
    async def whole() -> T:
        async with _opened() as parts:
            return await work(parts)

    with failures_told("sync"):
        return asyncio.run(whole())
