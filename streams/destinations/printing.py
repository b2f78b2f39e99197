"""What the commands of `loyalty destinations` share: options, paths, and how failures are told."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, TypeVar
from urllib.parse import quote

import click
from rich.console import Console
from rich.text import Text

from streams import command_line
from streams.api import Fields
from streams.command_line import clean
from streams.member_view import TOKEN_VARIABLE
from streams.settings import PREFIX

C = TypeVar("C", bound=Callable[..., Any])

READ, WRITE = "destinations:read", "destinations:write"
JSON = click.option("--json", "as_json", is_flag=True, help="JSON instead of text.")
_INGRESS = click.option("--ingress", help=f"URL of the ingress.  [default: {PREFIX}INGRESS_HOST and {PREFIX}INGRESS_PORT]")


def asks(scope: str) -> Callable[[C], C]:
    """The options of a command that asks the ingress, and needs a token with this scope."""
    token = click.option("--token", help=f"API token with the scope {scope}.  [default: {TOKEN_VARIABLE}]")
    return lambda command: _INGRESS(token(command))


def failures_told() -> AbstractContextManager[None]:
    """As of every command."""
    return command_line.failures_told("destinations")


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
