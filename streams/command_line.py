"""What commands share: times as options, failures in words and exit codes, tables, who asks."""

import getpass
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from streams.errors import ConfigurationError, LoyaltyError

if TYPE_CHECKING:
    from rich.text import Text

EXIT_CONFIGURATION = 2


class Instant(click.ParamType):
    """A day, which is its midnight in UTC, or a time with its offset -> milliseconds since 1970."""

    name = "time"

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> int:
        from streams.history import instant_ms  # It needs HTTP's client, and `--help` does not.

        try:
            return instant_ms(value)
        except ValueError as error:
            self.fail(f"{value!r} is no time like 2026-11-25T12:00:00Z, nor a date like 2026-11-25: {error}", parameter, context)


class TimeText(click.ParamType):
    """The same, as it was written: the ingress reads it again."""

    name = Instant.name

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> str:
        Instant().convert(value, parameter, context)
        return str(value)


@contextmanager
def failures_told(command: str, exit_failed: int = 1) -> Iterator[None]:
    """Exit code 2 for a configuration that must be mended, `exit_failed` for any other failure; standard error says what it is."""
    try:
        yield
    except ConfigurationError as error:
        for problem in error.problems:
            click.echo(f"loyalty {command}: {problem}", err=True)
        sys.exit(EXIT_CONFIGURATION)
    except (LoyaltyError, OSError) as error:
        for line in str(error).splitlines():
            click.echo(f"loyalty {command}: {line}", err=True)
        sys.exit(exit_failed)


def print_table(
    rows: Sequence[Mapping[str, Any]], as_json: bool, columns: Sequence[str], cells: "Callable[[dict[str, Any]], Sequence[str | Text]]", nothing: str
) -> None:
    """JSON lines, or a table. A column whose name ends with '>' is aligned to the right."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    if as_json:
        for row in rows:
            click.echo(json.dumps(row, ensure_ascii=False))
        return
    table = Table(box=None, header_style="dim", pad_edge=False)
    for name in columns:
        table.add_column(name.rstrip(">"), justify="right" if name.endswith(">") else "left", overflow="fold")
    for row in rows:
        table.add_row(*(cell if isinstance(cell, Text) else Text(clean(cell)) for cell in cells(dict(row))))
    Console().print(table if rows else Text(nothing, "dim"))


def short_time(text: str | None, now_ms: int) -> str:
    """A time of RFC 3339 in UTC: that of today without its day, of another day without its year. Empty for None."""
    if not text:
        return ""
    today = datetime.fromtimestamp(now_ms / 1000, UTC).date().isoformat()
    return text[11:19] if text.startswith(today) else f"{text[5:10]} {text[11:16]}"


def clean(text: str) -> str:
    """Texts come from other systems, and a terminal obeys control characters."""
    return "".join(character if character.isprintable() else "?" for character in text)


def user() -> str:
    """Whose command it is, for the record."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # A container's user need not have a name.
        return "unknown"
