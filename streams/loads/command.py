"""`loyalty load ...`: the history of another system into the ledger, for people and for programs."""

import re
import signal
import sys
import time
from pathlib import Path
from threading import Event
from typing import Any, NoReturn

import click

from streams.command_line import failures_told, user
from streams.errors import ConfigurationError, LoyaltyError, UnavailableError

STREAMS = ("transactions", "enrolments", "profile-changes", "offer-activations", "member-operations")
EXIT_REJECTED, EXIT_FAILED, EXIT_STOPPED = 1, 3, 130
WINDOW_MAX = 2_000


class _Share(click.ParamType):
    """`10` or `2.5%`."""

    name = "N|N%"

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> Any:
        if re.fullmatch(r"\d{1,12}|\d{1,3}(\.\d{1,6})?%", str(value)):
            return str(value)
        self.fail("must be a number of rows, or a share such as 2.5%", param, context)

    @staticmethod
    def rows(value: str, of_rows: int) -> float:
        return of_rows * float(value[:-1]) / 100 if value.endswith("%") else float(value)


@click.command()
@click.argument("sources", metavar="[SOURCE]...", nargs=-1)
@click.option("--program", "-p", "program_id", help="The programme.")
@click.option("--source", "-s", "source_system", help="The system in which it happened, as its events name it.")
@click.option("--as", "stream", type=click.Choice(STREAMS), help="What the rows are.")
@click.option("--mapping", "mapping_file", type=click.Path(path_type=Path, dir_okay=False), help="TOML file that says what the columns mean.")
@click.option("--format", "input_format", type=click.Choice(["csv", "jsonl", "parquet", "avro"]), help="Of SOURCE.  [default: what its name ends with]")
@click.option("--sort", "sorts", is_flag=True, help="Send by time, not in the order of the input.")
@click.option("--dry-run", is_flag=True, help="Read and check all of it, and send nothing.")
@click.option("--max-rejects", type=_Share(), default="0", show_default=True, help="Send nothing if more rows than that are rejected.")
@click.option("--rejects", "rejects_file", type=click.Path(path_type=Path, dir_okay=False), help="Where rows that were not taken go, with the reasons.")
@click.option("--report", "report_file", type=click.Path(path_type=Path, dir_okay=False), help="Where the report goes, as JSON.")
@click.option("--live-p99-ms", default=250.0, show_default=True, type=click.FloatRange(min=1), help="Send less while live traffic waits longer.")
@click.option("--in-flight-max", default=WINDOW_MAX, show_default=True, type=click.IntRange(min=1), help="Most rows that are undecided at once.")
@click.option("--rate-max", type=click.FloatRange(min=0, min_open=True), help="Most rows a second.")
@click.option("--window", help="Send only at these times of the day: 01:00-05:00.")
@click.option("--time-zone", default="UTC", show_default=True, help="Of --window.")
@click.option("--at", help="Begin to send then, in RFC 3339: 2026-12-01T00:00:00+01:00.")
@click.option("--resume", "load_id", metavar="LOAD", help="Go on with a load that was stopped; its SOURCE is not needed.")
@click.option("--again", is_flag=True, help="Send a load that is over once more: the ledger gives the same answers, and posts nothing twice.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object at the end instead of text.")
def load(sources: tuple[str, ...], load_id: str | None, dry_run: bool, max_rejects: str, rejects_file: Path | None, report_file: Path | None,
         live_p99_ms: float, in_flight_max: int, rate_max: float | None, window: str | None, time_zone: str, at: str | None, again: bool,
         as_json: bool, **given: Any) -> None:  # fmt: skip
    """Load the history of another system: files, folders, http:// or https:// addresses, or - for the standard input.

    All of it is read and checked before anything is sent. A load that was stopped or killed goes on when the same command is given again.
    Exit code 0: all rows are in; 1: some were not taken, or there are too many rejects; 2: something must be mended; 3: a server failed;
    130: stopped.
    """
    from streams import settings
    from streams.codec import open_codec
    from streams.loads import store
    from streams.loads.screen import Screen

    screen = Screen(as_json)
    with failures_told("load", EXIT_FAILED):
        times, loaded = _times(window, time_zone, at), settings.load()
        run = _Run(loaded, open_codec(loaded), screen, report_file, rejects_file)
        if load_id is None:
            workspace = run.prepare(_order(sources, given), max_rejects, dry_run, again)
        elif sources:
            raise click.UsageError("--resume names a load: it takes no SOURCE")
        else:
            workspace = store.open_existing(run.settings, load_id)
        run.send(workspace, times, live_p99_ms, in_flight_max, rate_max)


class _Run:
    """One call of the command, until it exits."""

    def __init__(self, settings: Any, codec: Any, screen: Any, report_file: Path | None, rejects_file: Path | None) -> None:
        self.settings, self.codec = settings, codec
        self._screen, self._report_file, self._rejects_file = screen, report_file, rejects_file

    def prepare(self, order: Any, max_rejects: str, dry_run: bool, again: bool) -> Any:
        """Validate; the folder of a load that is to be sent."""
        from streams.loads import loading, store

        with self._screen.validating() as advance:
            validated = loading.validate(self.settings, order, self.codec, advance)
        load, workspace, rejected = validated.load, validated.workspace, validated.report.rejected_rows
        validated.rejects.close()
        self._screen.show_report(load, validated.report)
        is_too_much = rejected > _Share.rows(max_rejects, validated.report.rows)
        if dry_run or is_too_much or not load.rows:
            if rejected and self._rejects_file is not None:
                self._screen.told(f"Rejected rows are in {loading.write_rejects(workspace, load, self._rejects_file)}.")
            workspace.remove()
            why = f"more rows are rejected than --max-rejects {max_rejects} allows" if is_too_much and not dry_run else ""
            self._end(load, None, "checked" if dry_run else "nothing is sent", why, EXIT_REJECTED if rejected else 0)
        return store.keep(self.settings, workspace, load, again=again)

    def send(self, workspace: Any, times: Any, live_p99_ms: float, in_flight_max: int, rate_max: float | None) -> None:
        from schemas.records import RunResult
        from streams.loads import loading
        from streams.loads.throttle import Throttle

        load, progress = workspace.load(), workspace.progress()
        if progress.ended_at_ms:
            self._end(load, progress, "loaded before", "nothing is sent; --again sends it once more", 0)
        loading.check(self.settings, load, progress)
        stop = _stopped_by_signals()
        throttle = Throttle(bound_ms=live_p99_ms, window_max=in_flight_max, rate_max_per_s=rate_max, now_s=time.monotonic())
        started_at_ms, result, detail = int(time.time() * 1000), RunResult.FAILED, ""
        try:
            with self._screen.sending(load) as tell:
                is_done, progress = loading.send(self.settings, self.codec, workspace, load, throttle, times, stop, tell)
            result = RunResult.DONE if is_done else RunResult.STOPPED
        except UnavailableError as error:
            detail = str(error)
            raise UnavailableError(f"{error}. Nothing is lost: loyalty load --resume {load.load_id} goes on.") from error
        finally:
            try:
                loading.record_run(self.settings, self.codec, load, workspace.progress(), result, started_at_ms, user=user(), detail=detail)
            except LoyaltyError as error:
                self._screen.told(f"{error}.")
        is_short = bool(load.report["rejected_rows"] or progress.reasons)
        if is_short:
            self._screen.told(f"Rows that were not taken are in {loading.write_rejects(workspace, load, self._rejects_file)}.")
        if is_done:
            self._end(load, progress, "loaded", "", EXIT_REJECTED if is_short else 0)
        self._end(load, progress, "stopped", f"loyalty load --resume {load.load_id} goes on", EXIT_STOPPED)

    def _end(self, load: Any, progress: Any, state: str, why: str, code: int) -> NoReturn:
        from streams.loads.screen import summary

        self._screen.ended(summary(load, progress, state, why), self._report_file)
        sys.exit(code)


def _order(sources: tuple[str, ...], given: dict[str, Any]) -> Any:
    from streams.loads.loading import Order

    missing = [
        option for option, value in (("SOURCE", sources), ("--program", given["program_id"]), ("--source", given["source_system"]), ("--as", given["stream"]))
        if not value
    ]  # fmt: skip
    if missing:
        raise click.UsageError(f"{', '.join(missing)} must be given")
    return Order(
        sources=sources, program_id=given["program_id"], source_system=given["source_system"], stream=given["stream"],
        mapping_file=given["mapping_file"], format=given["input_format"] or "", sorts=given["sorts"],
    )  # fmt: skip


def _times(window: str | None, time_zone: str, at: str | None) -> Any:
    from zoneinfo import ZoneInfo

    from streams.loads.loading import Times
    from streams.scheduling.cadence import Cadence, window_of
    from streams.toml_reader import TomlReader

    reader = TomlReader()
    not_before_ms = reader.instant_ms("", {"--at": at}, "--at") or 0
    reader.raise_problems()
    try:
        minutes = window_of(window) if window is not None else None
    except ValueError as error:
        raise ConfigurationError(f"--window: {error}.") from error
    try:
        ZoneInfo(time_zone)
    except (OSError, ValueError, KeyError) as error:
        raise ConfigurationError(f"--time-zone must be a name such as Europe/Berlin, not {time_zone!r}.") from error
    return Times(not_before_ms=not_before_ms, cadence=Cadence(window=minutes, time_zone=time_zone))


def _stopped_by_signals() -> Event:
    """Set by the first Ctrl-C or SIGTERM; a second one ends the process at once, which loses nothing either."""
    stop = Event()

    def on_signal(number: int, _: Any) -> None:
        stop.set()
        signal.signal(number, signal.SIG_DFL)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, on_signal)
    return stop
