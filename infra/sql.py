"""`loyalty sql`: a query over ClickHouse's HTTP interface, as a table for people or in any of ClickHouse's formats for programs."""

import json
import shutil
import ssl
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from http.client import HTTPException, HTTPResponse
from typing import Any
from urllib.parse import urlencode, urlsplit

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from streams import settings as settings_module
from streams.errors import ConfigurationError
from streams.settings import PREFIX, Settings

TIMEOUT_S = 300
TABLE_ROWS_MAX = 1000  # More than a person reads; asked for by name, every other format gives all rows.
TABLE_FORMAT = "JSONCompactEachRowWithNamesAndTypes"
FORMATS = {"csv": "CSVWithNames", "tsv": "TabSeparatedWithNames", "json": "JSON", "jsonl": "JSONEachRow", "vertical": "Vertical"}
LOOPBACK_HOSTS = ("127.0.0.1", "localhost", "::1")
EXIT_CONFIGURATION = 2


@click.command()
@click.argument("query")
@click.option("--format", "-f", "output", help="table, csv, tsv, json, jsonl, vertical or any format of ClickHouse."
              "  [default: table on a terminal, else tsv]")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
@click.option("--database", "-d", help=f"Instead of {PREFIX}CLICKHOUSE_DATABASE.")
@click.option("--timeout-s", default=TIMEOUT_S, show_default=True, type=click.IntRange(min=1), help="For each wait for the server.")
def sql(query: str, output: str | None, as_json: bool, database: str | None, timeout_s: int) -> None:
    """Run QUERY on the history in ClickHouse; `-` reads it from standard input."""
    text = click.get_text_stream("stdin").read() if query == "-" else query
    wanted = output or ("json" if as_json else "table" if sys.stdout.isatty() else "tsv")
    try:
        settings = settings_module.load()
    except ConfigurationError as error:
        for problem in error.problems:
            click.echo(f"loyalty sql: {problem}", err=True)
        sys.exit(EXIT_CONFIGURATION)
    response_format = TABLE_FORMAT if wanted == "table" else FORMATS.get(wanted, wanted)
    try:
        with _ask(settings, text, response_format, database or settings.clickhouse_database, timeout_s) as response:
            # A FORMAT in the query itself wins, and then there is no table to draw.
            if wanted == "table" and response.headers.get("X-ClickHouse-Format") == TABLE_FORMAT:
                _show_table(response)
            else:
                shutil.copyfileobj(response, sys.stdout.buffer)
                sys.stdout.buffer.flush()
    except urllib.error.HTTPError as error:
        _fail(error.read().decode(errors="replace").strip() or f"{settings.clickhouse_url} answered {error.code}")
    except BrokenPipeError:  # `| head` has seen enough.
        sys.stderr.close()
    except (OSError, HTTPException) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        if isinstance(error, HTTPException):
            _fail(f"The result broke off: {reason!r}")
        _fail(f"No ClickHouse answers at {PREFIX}CLICKHOUSE_URL={settings.clickhouse_url}: {reason}. Is `loyalty up` running?")


def _fail(message: str) -> None:
    click.echo(f"loyalty sql: {message}", err=True)
    sys.exit(1)


def _ask(settings: Settings, query: str, response_format: str, database: str, timeout_s: int) -> HTTPResponse:
    """Send the query; the answer is read by the caller. Raises URLError, and HTTPError with ClickHouse's text."""
    # For a table, errors come before the first row: half a table helps nobody.
    parameters = {"default_format": response_format, "wait_end_of_query": int(response_format == TABLE_FORMAT)}
    request = urllib.request.Request(
        f"{settings.clickhouse_url.rstrip('/')}/?{urlencode(parameters)}",
        data=query.encode(),
        headers={
            "Content-Type": "text/plain; charset=UTF-8",
            "X-ClickHouse-User": settings.clickhouse_username,
            "X-ClickHouse-Key": settings.clickhouse_password,
            "X-ClickHouse-Database": database,
        },
    )
    local = urlsplit(settings.clickhouse_url).hostname in LOOPBACK_HOSTS
    handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({})] if local else []
    if settings.clickhouse_url.startswith("https:"):
        handlers.append(urllib.request.HTTPSHandler(context=ssl.create_default_context(cafile=settings.clickhouse_ca_file or None)))
    response: HTTPResponse = urllib.request.build_opener(*handlers).open(request, timeout=timeout_s)
    return response


def _show_table(response: HTTPResponse) -> None:
    lines = _lines(response)
    names, types = next(lines, []), next(lines, [])
    table = Table()
    for name, kind in zip(names, types, strict=True):
        table.add_column(Text(str(name)), justify="right" if _is_number(str(kind)) else "left")
    shown = total = 0
    for row in lines:
        total += 1
        if shown < TABLE_ROWS_MAX:
            table.add_row(*map(_cell, row))
            shown += 1
    console = Console()
    if names:
        console.print(table)
    more = f", the first {shown} shown: --format has all" if total > shown else ""
    console.print(f"{total} row{'s' * (total != 1)}{more}", style="dim")


def _lines(response: HTTPResponse) -> Iterator[Sequence[Any]]:
    for line in response:
        yield json.loads(line)


def _is_number(kind: str) -> bool:
    for wrapper in ("Nullable(", "LowCardinality("):
        kind = kind.removeprefix(wrapper)
    return kind.startswith(("Int", "UInt", "Float", "Decimal"))


def _cell(value: Any) -> Text:
    if value is None:
        return Text("NULL", style="dim")
    if isinstance(value, str):
        return Text(value)
    return Text(json.dumps(value, ensure_ascii=False))
