"""What people and programs see of a load: the report on the input, the progress, the end."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from streams.loads import store
from streams.loads.sending import Status
from streams.loads.store import Load
from streams.loads.validation import Report, rfc_3339

FILES_SHOWN = 5
WAITING_COMMANDS_MAX = 1_000
"""As the worker has it, whose module takes a second to load."""


class Screen:
    """What people see; with --json all of it goes to the standard error, and one object to the standard output."""

    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json
        self._errors = Console(stderr=True, highlight=False)
        self._out = self._errors if as_json else Console(highlight=False)

    def told(self, text: str) -> None:
        self._out.print(escape(text))

    @contextmanager
    def validating(self) -> Iterator[Callable[[int, int, int], None]]:
        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[rows]:,} rows"), TimeElapsedColumn())
        with Progress(*columns, console=self._errors, transient=True) as progress:
            task = progress.add_task("checks", total=None, rows=0)
            yield lambda read, total, rows: progress.update(task, completed=read, total=total, rows=rows)

    @contextmanager
    def sending(self, load: Load) -> Iterator[Callable[[Status], None]]:
        columns = (
            TextColumn("{task.description}"), BarColumn(bar_width=None), TaskProgressColumn(), MofNCompleteColumn(), TextColumn("{task.fields[pace]}"),
            TimeElapsedColumn(),
        )  # fmt: skip
        with Progress(*columns, console=self._errors, transient=True, expand=True) as progress:
            task = progress.add_task(f"load {load.load_id}", total=load.rows, pace="")
            yield lambda status: progress.update(task, completed=status.decided, pace=escape(_pace(status, load.rows)))

    def show_report(self, load: Load, report: Report) -> None:
        table = Table(title=f"{load.stream} of {load.program_id}, from {load.source_system}", show_header=False, title_justify="left")
        table.add_column(style="bold")
        table.add_column()
        rows = [
            ("files", ", ".join(report.files[:FILES_SHOWN]) + (f" and {len(report.files) - FILES_SHOWN:,} more" if len(report.files) > FILES_SHOWN else "")),
            ("rows", f"{report.rows:,}"), ("to send", f"{load.rows:,}"), ("rejected", f"{report.rejected_rows:,}"), ("members", f"{report.members:,}"),
            ("times", f"{rfc_3339(report.first_ms)} to {rfc_3339(report.last_ms)}" if report.first_ms is not None else "none"),
        ]  # fmt: skip
        rows += [(kind, f"{count:,} rows, {report.points[kind]:,} points given") for kind, count in sorted(report.kinds.items())]
        rows += [(currency, f"{minor:,} minor units") for currency, minor in sorted(report.amounts_minor.items())]
        for row in rows:
            table.add_row(*map(escape, row))
        self._out.print(table)
        for reason, rejected in sorted(report.rejected.items(), key=lambda item: -item[1].rows):
            self._out.print(f"[red]rejected[/red] {rejected.rows:,} times: {escape(reason)}")
            for example in rejected.examples:
                self._out.print(f"    {escape(example)}")
        for count, text in (
            (report.repeated, "rows are in the input more than once, with the same content: each is sent once"),
            (report.out_of_order, "rows are older than the one before of the same member: --sort sends them by time"),
            (report.future_rows, "rows are of the future"),
            (report.expired_rows * bool(report.spending_rows), "rows give points that have expired since: they expire as they arrive, and what rows"
             " that spend were to take of them is taken of others or refused. streams/loads/README.md says what to do"),
            (len(report.unused_columns), f"columns are not used: {', '.join(report.unused_columns)}"),
            (report.rows_of_one_member_max * (report.rows_of_one_member_max > WAITING_COMMANDS_MAX), "rows are of one member: enrol members first, for only"
             f" {WAITING_COMMANDS_MAX:,} can wait for an enrolment"),
        ):  # fmt: skip
            if count:
                self._out.print(f"[yellow]note[/yellow] {count:,} {escape(text)}")

    def ended(self, summary: dict[str, Any], report_file: Path | None) -> None:
        if report_file is not None:
            report_file.write_text(json.dumps(summary, indent=2) + "\n")
        if self._as_json:
            click.echo(json.dumps(summary))
            return
        results = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in sorted(summary["results"].items()) if count)
        text = f"{summary['state'].capitalize()}: load {summary['load_id']}" if summary["results"] else summary["state"].capitalize()
        took_s = summary["took_s"]
        pace = f"in {took_s:,} s, {summary['decided'] / took_s:,.0f} rows a second" if took_s and summary["state"] == "loaded" else ""
        parts = [results, pace, summary["detail"]]
        self._out.print(escape("; ".join([text, *filter(None, parts)]) + "."))
        for reason, count in sorted(summary["reasons"].items(), key=lambda item: -item[1]):
            self._out.print(f"    {count:,} {escape(reason)}")
        if summary["results"].get("waiting"):
            self._out.print("    Rows that wait are decided when their members enrol: loyalty waiting shows for whom.")


def _pace(status: Status, rows: int) -> str:
    if status.says:
        return str(status.says)
    left_s = (rows - status.decided) / status.rows_per_s if status.rows_per_s else None
    eta = f", {int(left_s) // 3600}:{int(left_s) // 60 % 60:02}:{int(left_s) % 60:02} left" if left_s is not None else ""
    live = f"live p99 {status.live_p99_ms:.0f} ms" if status.live_p99_ms is not None else "no live traffic"
    return f"{status.rows_per_s:,.0f}/s{eta}; {status.undecided:,} of {status.window:,} undecided; {live}"


def summary(load: Load, progress: store.Progress | None, state: str, why: str) -> dict[str, Any]:
    """What is said at the end."""
    return {
        "load_id": load.load_id, "state": state, "detail": why, "stream": load.stream, "program_id": load.program_id,
        "source_system": load.source_system, "report": load.report, "results": dict(progress.results) if progress else {},
        "reasons": dict(progress.reasons) if progress else {}, "decided": progress.decided_below + len(progress.decided_above) if progress else 0,
        "took_s": round((progress.saved_at_ms - progress.started_at_ms) / 1000, 1) if progress and progress.started_at_ms else None,
    }  # fmt: skip
