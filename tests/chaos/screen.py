"""What people see of a storm: progress while it lasts, a table at the end."""

from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.table import Table
from rich.text import Text

from tests.chaos.run import Report
from tests.chaos.storm import Hit, Progress

HITS_SHOWN = 12
REFRESH_PER_S = 4


class Screen:
    """Redrawn in place on a terminal; one line per disturbance elsewhere."""

    def __init__(self, console: Console, partitions: int) -> None:
        self._console = console
        self._bars = Bars(TextColumn("{task.description:10}"), BarColumn(40), MofNCompleteColumn(), TimeElapsedColumn(), console=console)
        self._sent, self._answered = (self._bars.add_task(name, total=None) for name in ("sent", "answered"))
        self._verified = self._bars.add_task("verified", total=partitions, visible=False)
        self._state = Progress(inputs=0)
        self._printed = 0
        self._phase = ""

    @contextmanager
    def shown(self) -> Iterator[None]:
        if not self._console.is_terminal:
            yield
            return
        with Live(get_renderable=self._draw, console=self._console, refresh_per_second=REFRESH_PER_S):
            yield

    def update(self, progress: Progress) -> None:
        self._state = progress
        self._bars.update(self._sent, total=progress.inputs, completed=progress.sent)
        self._bars.update(self._answered, total=progress.inputs, completed=progress.answered)
        if self._console.is_terminal:
            return
        if progress.phase != self._phase:
            self._phase = progress.phase
            self._console.print(f"{progress.phase}: {progress.answered} of {progress.inputs} answered")
        for hit in progress.hits[self._printed:]:
            if hit.resumed_s is None:
                break
            self._printed += 1
            self._console.print(_line(hit), soft_wrap=True)

    def verified(self, partitions: int) -> None:
        self._state.phase = "verifying"
        self._bars.update(self._verified, completed=partitions, visible=True)

    def _draw(self) -> RenderableType:
        state = self._state
        lines = [_line(hit) for hit in state.hits[-HITS_SHOWN:]]
        return Group(Text(f"{state.phase}, {state.running} workers, {len(state.hits)} disturbances", "bold"), self._bars, *lines)


def _line(hit: Hit) -> Text:
    after = "..." if hit.resumed_s is None else f"moves on after {hit.resumed_s:.1f} s"
    return Text.assemble((f"{hit.started_s:7.1f} s ", "dim"), f"{hit.answered:>9} answered  {hit.text}  ", (after, "dim"))


def show(console: Console, report: Report) -> None:
    """The table at the end."""
    table = Table(title="Disturbances", title_justify="left")
    for column in ("what", "times", "moves on after, p50", "max"):
        table.add_column(column, justify="left" if column == "what" else "right")
    for kind, times in sorted(report.by_kind().items()):
        table.add_row(kind.value, str(len(times)), f"{median(times):.1f} s" if times else "never", f"{max(times):.1f} s" if times else "never")
    console.print(table)
    console.print(
        f"{report.request.inputs} inputs in {report.duration_s:.0f} s, {report.inputs_per_s:.0f}/s with all disturbances;"
        f" {report.compared} records and rows compared in {report.verify_s:.0f} s"
    )
    differences = Table(title="Differences", title_justify="left")
    differences.add_column("what")
    differences.add_column("number", justify="right")
    for name, number in report.findings.counts.items():
        differences.add_row(name, Text(str(number), "bold red" if number else "green"))
    if report.findings.counts:
        console.print(differences)
    for sample in report.findings.samples:
        console.print(Text(str(sample)), soft_wrap=True)
    if report.markers_dropped:
        said = f"The broker dropped transaction markers {report.markers_dropped} times (KAFKA-20734): aborted records may have become visible."
        console.print(Text(said, "bold yellow"), soft_wrap=True)
    if report.failure:
        console.print(Text(report.failure, "bold red"), soft_wrap=True)
    if report.folder:
        console.print(f"Logs, broker data, states and the stories of members that differ: {report.folder}", soft_wrap=True)
    console.print(Text("clean" if report.is_clean else "NOT CLEAN", "bold green" if report.is_clean else "bold red"), f"seed {report.request.seed}")
