"""What the commands of `loyalty reconcile` share: exit codes, progress, and differences as JSON, CSV or lines for people."""

import csv
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

EXIT_DIFFERENCES, EXIT_FAILED = 1, 3


@contextmanager
def progress(console: Console) -> Iterator[Callable[[str], Callable[[int, int], None]]]:
    with Progress(
        TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn(), console=console, transient=True
    ) as bars:  # fmt: skip

        def step(name: str) -> Callable[[int, int], None]:
            task = bars.add_task(name, total=None)
            return lambda done, total: bars.update(task, completed=done, total=total or None)

        yield step


def writer(as_json: bool, as_csv: bool, line: Callable[[dict[str, Any]], str]) -> Callable[[dict[str, Any]], None]:
    """Writes one difference after the other; `line` is one for people."""
    if as_json:
        return lambda row: click.echo(json.dumps(row, ensure_ascii=False))
    if not as_csv:
        return lambda row: click.echo(line(row))
    out: list[Any] = []

    def write(row: dict[str, Any]) -> None:
        if not out:
            out.append(csv.DictWriter(click.get_text_stream("stdout"), list(row), lineterminator="\n"))
            out[0].writeheader()
        out[0].writerow(row)

    return write
