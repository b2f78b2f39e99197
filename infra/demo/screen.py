"""What people see: plain lines, each with the time it took in front, and tables at the end. On a terminal, what is going on too."""

import textwrap
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.status import Status
from rich.table import Table
from rich.text import Text

from infra.demo.checks import Check, CheckFailed, Series, Step, duration
from infra.service import State
from infra.stack import Progress, ServiceStatus

WIDTH = 110  # Where there is no terminal that has one.
PROSE_WIDTH = 100
DOWNLOAD_LINE_S = 5  # Without a terminal a download shows itself this often.
INDENT = 4
MEASURE_CHARACTERS = 8
MARKS = {"holds": ("✓", "ok", "green"), "fails": ("✗", "FAILED", "bold red"), "note": ("-", "-", "yellow")}
"""For terminals that have the characters, for others, and the style."""


class Screen:
    """Methods may be called from any thread."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._plain = console.options.ascii_only
        self._status: Status | None = None
        self._doing = ""
        self._lock = threading.Lock()
        self._download_line_s = 0.0

    def open(self, home: Path) -> None:
        self._console.print(Text("The story of a hotel check-out", style="bold"))
        self._prose(
            "Kafka, Valkey, ClickHouse and the pipeline's processes run on this machine, for this demo alone; the mobile app, the"
            " CRM, the hotel's PMS and HR are stand-ins that speak real HTTP. Each line with a mark was checked against what"
            " arrived. The time in front of it is from the sender's call to that moment;"
            " for what happens by itself, from when it was due.",
            indent=0,
        )
        self._prose(f"Logs: {shown(home / 'logs')}", indent=0)

    @contextmanager
    def step(self, step: Step, why: str) -> Iterator[None]:
        """The heading, and on a terminal a sign of life until the step is over."""
        self._console.print()
        self._console.print(Text(f"{step.number:2}  {step.title}", style="bold"))
        self._prose(why)
        if not self._console.is_terminal:
            yield
            return
        with self._console.status(Text(step.title, style="dim"), spinner="line" if self._plain else "dots") as status:
            self._status, self._doing = status, step.title
            try:
                yield
            finally:
                self._status = None

    def check(self, check: Check) -> None:
        if self._status is not None:
            self._status.update(Text(self._doing, style="dim"))  # In place of a download that is over.
        self._line("holds", check.claim, check.took_s)

    def progress(self, progress: Progress) -> None:
        """Of the stack's start, as far as it is not a check."""
        if progress.event == "downloading":
            self._show_download(f"{progress.service}: downloading {progress.detail}, once on this machine")
        elif progress.event == "leftover":
            self._line("note", f"{progress.service}: {progress.detail}")

    def rows(self, rows: Sequence[Mapping[str, Any]], title: str = "") -> None:
        """A table of texts and numbers."""
        if title:
            self._console.print(Text(" " * INDENT + title, style="bold"), soft_wrap=True)
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
        for name, value in rows[0].items():
            table.add_column(name.replace("_", " "), justify="right" if isinstance(value, int) else "left", overflow="fold")
        for row in rows:
            table.add_row(*(f"{value:,}" if isinstance(value, int) else str(value) for value in row.values()))
        with self._console.capture() as capture:
            self._console.print(Padding(table, (0, 0, 0, INDENT), expand=False))
        for line in capture.get().splitlines():
            self._console.print(Text.from_ansi(line.rstrip()), soft_wrap=True)
        self._console.print()

    def output(self, command: str, output: str) -> None:
        """A command and what it says."""
        self._console.print(Text(f"{' ' * INDENT}$ {command}", style="bold"), soft_wrap=True)
        for line in output.splitlines():
            self._console.print(Text(" " * INDENT + line.rstrip()), soft_wrap=True)
        self._console.print()

    def failed(self, error: CheckFailed, services: Sequence[ServiceStatus]) -> None:
        """A check does not hold. `services` as they are at that moment."""
        self._line("fails", error.claim)
        for name, text in (("expected", error.expected), ("seen", error.seen)):
            self._prose(f"{name}: {text}", indent=2 * INDENT, style="")
        for service in services:
            if service.state not in (State.READY, State.WAITING):
                self._prose(f"{service.name}: {service.state}, see {shown(service.log_file)}", indent=2 * INDENT, style="")

    def complain(self, problem: str) -> None:
        """The last words of a demo that ends early."""
        for line in problem.splitlines():
            self._console.print(Text(f"loyalty demo: {line}", style="red"), soft_wrap=True)

    def summary(self, steps: Sequence[Step], series: Sequence[Series], traffic: Mapping[str, int], took_s: float) -> None:
        self._console.print()
        latencies = [
            {
                "from the sender's call to the mobile app": one.situation, "events": len(one.seconds),
                "half within (p50)": duration(one.p50_s), "99 % (p99)": duration(one.p99_s), "all": duration(max(one.seconds)),
            }
            for one in series
        ]  # fmt: skip
        self.rows(latencies, "How fast")
        checks = sum(len(step.checks) for step in steps)
        self.rows([{"step": step.title, "what was seen": step.proof} for step in steps], f"What was proven: {checks} checks hold")
        self._prose(
            f"{traffic['commands']:,} commands went in, {traffic['repeated_commands']} of them repetitions."
            f" {traffic['events_mobile_app']:,} events arrived at the mobile app and {traffic['events_crm']:,} at the CRM,"
            f" {traffic['ledger_entries']:,} entries are in the ledger. It took {duration(took_s)}, and everything is stopped again.",
            style="",
        )

    def farewell(self, command: str, home: Path) -> None:
        """Where to go from here."""
        self._console.print()
        ways = (
            (f"{command} up", "the same stack, to stay and to explore: REST API, SQL, topics"),
            (f"{command} up --home {shown(home)}", "... with the data of this demo (the next demo removes them)"),
        )
        width = max(len(how) for how, _ in ways)
        for how, what in ways:
            self._console.print(Text.assemble(" " * INDENT, (how.ljust(width), "bold"), f"  {what}"), soft_wrap=True)

    def _line(self, mark: str, text: str, took_s: float | None = None) -> None:
        fancy, plain, style = MARKS[mark]
        measure = "" if took_s is None else duration(took_s)
        line = Text.assemble(" " * INDENT, (plain if self._plain else fancy, style), f" {measure:>{MEASURE_CHARACTERS}}  ", text)
        self._console.print(line, soft_wrap=True)

    def _prose(self, text: str, indent: int = INDENT, style: str = "dim") -> None:
        width = min(self._console.width, PROSE_WIDTH) - indent
        for line in text.splitlines():
            for part in textwrap.wrap(line, width, break_on_hyphens=False, break_long_words=False):
                self._console.print(Text(" " * indent + part, style=style), soft_wrap=True)

    def _show_download(self, text: str) -> None:
        status = self._status
        if status is not None:
            status.update(Text(text, style="dim"))
            return
        with self._lock:
            if time.monotonic() - self._download_line_s < DOWNLOAD_LINE_S:
                return
            self._download_line_s = time.monotonic()
        self._line("note", text)


def shown(path: Path) -> str:
    """A path as one would type it here."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
