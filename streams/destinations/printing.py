"""What the commands of `loyalty destinations` share: options, tables, and how failures are told."""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar
from urllib.parse import quote

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from streams.api import Fields
from streams.errors import ConfigurationError, LoyaltyError
from streams.history import instant_ms
from streams.member_view import EXIT_CONFIGURATION, TOKEN_VARIABLE
from streams.settings import PREFIX

C = TypeVar("C", bound=Callable[..., Any])

READ, WRITE = "destinations:read", "destinations:write"
JSON = click.option("--json", "as_json", is_flag=True, help="JSON instead of text.")
_INGRESS = click.option("--ingress", help=f"URL of the ingress.  [default: {PREFIX}INGRESS_HOST and {PREFIX}INGRESS_PORT]")


def asks(scope: str) -> Callable[[C], C]:
    """The options of a command that asks the ingress, and needs a token with this scope."""
    token = click.option("--token", help=f"API token with the scope {scope}.  [default: {TOKEN_VARIABLE}]")
    return lambda command: _INGRESS(token(command))


class Time(click.ParamType):
    """RFC 3339, or a day, as the ingress takes it."""

    name = "time"

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> str:
        try:
            instant_ms(value)
        except ValueError as error:
            self.fail(f"{value!r} is no time like 2026-11-25T12:00:00Z, nor a date like 2026-11-25: {error}", parameter, context)
        return str(value)


@contextmanager
def failures_told() -> Iterator[None]:
    """Exit code 2 for a configuration that must be mended, 1 for any other failure; standard error says what it is."""
    try:
        yield
    except LoyaltyError as error:
        for line in str(error).splitlines():
            click.echo(f"loyalty destinations: {line}", err=True)
        sys.exit(EXIT_CONFIGURATION if isinstance(error, ConfigurationError) else 1)


def print_table(rows: Sequence[Fields], as_json: bool, columns: Sequence[str], cells: Callable[[Fields], Sequence[str | Text]], nothing: str) -> None:
    """JSON lines, or a table. A column whose name ends with '>' is aligned to the right."""
    if as_json:
        for row in rows:
            click.echo(json.dumps(row, ensure_ascii=False))
        return
    table = Table(box=None, header_style="dim", pad_edge=False)
    for name in columns:
        table.add_column(name.rstrip(">"), justify="right" if name.endswith(">") else "left", overflow="fold")
    for row in rows:
        table.add_row(*(cell if isinstance(cell, Text) else Text(clean(cell)) for cell in cells(row)))
    Console().print(table if rows else Text(nothing, "dim"))


def print_missing(found: Fields) -> None:
    """Say whose part the numbers lack."""
    for url in found["unreachable"]:
        Console().print(Text(f"No sink answers at {clean(url)}, and its part is not in this: see LOYALTY_SINK_URLS of the ingress.", "yellow"))
    if found["partitions_missing"]:
        missing = ", ".join(map(str, found["partitions_missing"]))
        Console().print(Text(f"No sink that answered owns these partitions: {missing}", "yellow"))


def path(name: str, *parts: str) -> str:
    """Path of a destination, or of a part of it, in the REST API."""
    return "/".join(("/v1/destinations", *(quote(part, safe="") for part in (name, *parts))))


def time_of(text: str | None) -> str:
    """2026-11-25 12:05:42 UTC."""
    return f"{text[:10]} {text[11:19]} UTC" if text else ""


def clean(text: str) -> str:
    """Texts come from other systems, and a terminal obeys control characters."""
    return "".join(character if character.isprintable() else "?" for character in text)
