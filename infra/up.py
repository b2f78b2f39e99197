"""`loyalty up`: the embedded stack and the pipeline in the foreground, until Ctrl-C or SIGTERM."""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import click
from rich.console import Console, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from infra.jars import JarsError
from infra.processes import StartAborted
from infra.stack import HomeInUse, Progress, ServiceStatus, Stack, write_private
from streams import configuration
from streams.errors import ConfigurationError, LoyaltyError
from streams.settings import PREFIX

EXIT_CONFIGURATION = 2
EXIT_INTERRUPTED = 130
PARTITIONS = 4
WITH_FAKES_FILE = "with-fakes.toml"
REFRESH_PER_S = 8

STYLES = {"ready": "green", "failed": "red", "died": "red", "restarting": "yellow", "stopped": "dim", "downloading": "cyan"}


@click.command()
@click.option("--home", envvar=f"{PREFIX}HOME", default=".loyalty", show_default=True, type=click.Path(path_type=Path, file_okay=False),
              help="Folder for data, logs and addresses. Kept from start to start.")  # fmt: skip
@click.option("--config", "config_file", envvar=f"{PREFIX}CONFIG_FILE", type=click.Path(path_type=Path, dir_okay=False),
              help="Programmes, sources, tokens and so on. Default: loyalty.toml in the home folder, made from the example.")  # fmt: skip
@click.option("--partitions", envvar=f"{PREFIX}KAFKA_PARTITIONS", default=PARTITIONS, show_default=True, type=click.IntRange(min=1),
              help="Of every topic. Fixed once the topics are there.")  # fmt: skip
@click.option("--only-servers", is_flag=True, help="Kafka, Valkey and ClickHouse without the pipeline.")
@click.option("--with-fakes", is_flag=True, help="Start fake HR systems, PMS and CRM, too, and a configuration that connects all of them.")
def up(home: Path, config_file: Path | None, partitions: int, only_servers: bool, with_fakes: bool) -> None:
    """Start the embedded stack and the pipeline; stop them with Ctrl-C."""
    if with_fakes and config_file is not None:
        raise click.UsageError("--with-fakes brings a configuration of its own: leave --config away")
    console = Console()
    view = _View(console)
    with _fakes(home, console) if with_fakes else nullcontext(config_file) as configured:
        _run(console, view, home, configured, partitions, only_servers)


@contextmanager
def _fakes(home: Path, console: Console) -> Iterator[Path]:
    """Fake systems, and the file that connects them: made anew at each start, because their keys are."""
    from infra.fakes.registry import EXAMPLE_FILE, Fakes

    fakes = Fakes()
    try:
        fakes.start()
        file = home / WITH_FAKES_FILE
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(file, fakes.render(configuration.render_example(EXAMPLE_FILE.read_text())))
        table = Table(title="Fake systems", title_justify="left")
        for column in ("kind", "address"):
            table.add_column(column)
        for kind, fake in fakes.running.items():
            table.add_row(kind, fake.base_url)
        console.print(table)
        yield file
    except ConfigurationError as error:
        _complain(error)
        sys.exit(EXIT_CONFIGURATION)
    finally:
        fakes.stop()


def _run(console: Console, view: "_View", home: Path, config_file: Path | None, partitions: int, only_servers: bool) -> None:
    stack = Stack(
        home, config_file=config_file, pipeline=not only_servers, partitions=partitions, restart=True, on_progress=view.update,
        environment={name: value for name, value in os.environ.items() if name.startswith(PREFIX)},
    )  # fmt: skip
    stopped = threading.Event()
    with _signals(stack, stopped):
        try:
            with view.shown():
                stack.start()
            if not stopped.is_set():
                _introduce(console, stack)
                stopped.wait()
        except StartAborted:
            sys.exit(EXIT_INTERRUPTED)
        except (ConfigurationError, HomeInUse) as error:
            _complain(error)
            sys.exit(EXIT_CONFIGURATION)
        except (JarsError, LoyaltyError, OSError) as error:
            _complain(error)
            sys.exit(1)
        finally:
            with view.shown():
                stack.stop()


@contextmanager
def _signals(stack: Stack, stopped: threading.Event) -> Iterator[None]:
    """The first SIGINT, SIGTERM or SIGHUP asks for an orderly end, the second for an end at once.

    A handler may find the main thread in the middle of anything, with any lock held. So it only writes to a pipe, and a thread does
    what is to be done.
    """
    reader, writer = os.pipe()

    def act() -> None:
        while os.read(reader, 1):
            if stopped.is_set():
                stack.kill_all()
            stopped.set()
            stack.abort()

    def handle(_number: int, _frame: FrameType | None) -> None:
        os.write(writer, b"x")

    thread = threading.Thread(target=act, name="signals", daemon=True)
    thread.start()
    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(writer)
        thread.join()
        os.close(reader)


def _complain(error: Exception) -> None:
    for line in str(error).splitlines():
        click.echo(f"loyalty up: {line}", err=True)


@dataclass
class _Line:
    event: str = "waiting"
    detail: str = ""
    since_s: float = field(default_factory=time.monotonic)
    elapsed_s: float | None = None


class _View:
    """What is going on, one line per service: redrawn in place on a terminal, one line per event elsewhere."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._lines: dict[str, _Line] = {}
        self._lock = threading.Lock()
        self._live = False

    def update(self, progress: Progress) -> None:
        """From any thread."""
        with self._lock:
            before = self._lines.get(progress.service)
            repeated = before is not None and before.event == progress.event
            since_s = before.since_s if before and repeated else time.monotonic()
            self._lines[progress.service] = _Line(progress.event, progress.detail, since_s, progress.elapsed_s or None)
            if not self._live and not repeated:
                took = f" after {progress.elapsed_s:.1f} s" if progress.elapsed_s else ""
                detail = f": {progress.detail}" if progress.detail else ""
                at = time.strftime("%H:%M:%S")
                line = Text.assemble((at, "dim"), f" {progress.service} ", (progress.event, STYLES.get(progress.event, "")), took, detail)
                self._console.print(line, soft_wrap=True)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Draw while the block runs."""
        with self._lock:
            self._lines.clear()
        if not self._console.is_terminal:
            yield
            return
        with Live(get_renderable=self._draw, console=self._console, refresh_per_second=REFRESH_PER_S):
            self._live = True
            try:
                yield
            finally:
                self._live = False

    def _draw(self) -> RenderableType:
        table = Table.grid(padding=(0, 2))
        with self._lock:
            for name, line in self._lines.items():
                settled = line.event in ("ready", "stopped", "failed", "leftover")
                seconds = line.elapsed_s if line.elapsed_s is not None else time.monotonic() - line.since_s
                shown = "" if settled and line.elapsed_s is None else f"{seconds:5.1f} s"
                table.add_row(name, Text(line.event, STYLES.get(line.event, "")), shown, Text(line.detail.partition("\n")[0]))
        return table


def _introduce(console: Console, stack: Stack) -> None:
    """Addresses and what to do next."""
    table = Table(title="Running", title_justify="left")
    for column in ("service", "address", "process", "note"):
        table.add_column(column)
    for service in stack.services:
        table.add_row(service.name, service.url, str(service.pid), service.note)
    console.print(table)
    names = {service.name: service for service in stack.services}
    for what, how in _next_steps(stack, names):
        console.print(Text.assemble(f"{what}: ", (how, "bold")), soft_wrap=True)


def _next_steps(stack: Stack, services: dict[str, ServiceStatus]) -> Iterator[tuple[str, str]]:
    # A command started in the same place finds the addresses by itself; from elsewhere it must be told where they are.
    told = "" if stack.home == (Path.cwd() / ".loyalty").resolve() else f"{PREFIX}HOME={stack.home} "
    if "ingress" in services:
        yield "REST API", f"{services['ingress'].url}/docs"
        yield "programmes, destinations and tokens", stack.settings.config_file
    if "sink-clickhouse" in services:  # It makes the tables.
        yield "history", f"{told}loyalty sql 'SHOW TABLES'"
    yield "topics", f"{told}loyalty topics"
    yield "logs", f"{stack.home}/logs"
    yield "stop", "Ctrl-C"
