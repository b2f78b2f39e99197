"""`loyalty waiting`: for whom commands wait, because nobody is enrolled under their number or has their external id. Asked of the ingress."""

import json
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.client import HTTPException
from typing import Any, NoReturn
from urllib.parse import urlencode

import click
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from streams import settings as settings_module
from streams.errors import ConfigurationError, LoyaltyError
from streams.member_view import EXIT_CONFIGURATION, TIMEOUT_S, TOKEN_NAME, TOKEN_VARIABLE, ingress_url, token_of_the_stack
from streams.settings import PREFIX

PAGE = 100

Fields = dict[str, Any]


class AnswerError(LoyaltyError):
    """The ingress does not say what waits. The message says why, and what to change."""


@click.command()
@click.option("--program", "-p", help="Programme; may be left out when the token reaches exactly one.")
@click.option("--limit", type=click.IntRange(1, 100_000), default=PAGE, show_default=True, help="Members at most.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of a table.")
@click.option("--url", help=f"The ingress.  [default: {PREFIX}INGRESS_HOST and {PREFIX}INGRESS_PORT]")
@click.option("--token", help=f"API token with the scope operations:read.  [default: {TOKEN_VARIABLE}; of a `loyalty up`: its token {TOKEN_NAME}]")
def waiting(program: str | None, limit: int, as_json: bool, url: str | None, token: str | None) -> None:
    """Show for whom commands wait, and since when. An external id is shown as a pseudonym, and what the commands say is not shown."""
    try:
        settings = settings_module.load()
        address = (url or ingress_url(settings)).rstrip("/")
        found = read(address, token or settings.api_token or token_of_the_stack(settings, address), program, limit)
    except ConfigurationError as error:
        _fail(error, EXIT_CONFIGURATION)
    except LoyaltyError as error:
        _fail(error, 1)
    if as_json:
        click.echo(json.dumps(found))
        return
    console = Console()
    for part in render(found):
        console.print(part)


def _fail(error: Exception, code: int) -> NoReturn:
    for line in str(error).splitlines():
        click.echo(f"loyalty waiting: {line}", err=True)
    sys.exit(code)


def read(url: str, token: str, program: str | None, limit: int) -> Fields:
    """The ingress's pages as one, up to `limit` members; `next` is None when there are no more. Raises AnswerError."""
    query: Fields = {"program": program} if program else {}
    whole: Fields = {}
    rows: list[Fields] = []
    while True:
        page = _ask(url, token, query | {"limit": min(PAGE, limit - len(rows))})
        rows += page["waiting"]
        missing = sorted({*whole.get("partitions_missing", ()), *page["partitions_missing"]})
        whole = page | {"waiting": rows, "partitions_missing": missing}
        if page["next"] is None or len(rows) >= limit:
            return whole
        query["after"] = page["next"]


def _ask(url: str, token: str, query: Fields) -> Fields:
    try:
        request = urllib.request.Request(f"{url}/v1/waiting?{urlencode(query)}", headers={"Authorization": f"Bearer {token}"})
        with urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect()).open(request, timeout=TIMEOUT_S) as response:
            found = json.loads(response.read())
        if not {"waiting", "next", "partitions_missing"} <= found.keys():
            raise AnswerError(f"{url} answers with something else than what waits: is --url that of an ingress?")
        return dict(found)
    except urllib.error.HTTPError as error:
        raise AnswerError(_refusal(error, url)) from error
    except (OSError, HTTPException, ValueError, AttributeError) as error:
        advice = f"Is `loyalty up` running? --url, or {PREFIX}INGRESS_HOST and {PREFIX}INGRESS_PORT, name another place."
        raise AnswerError(f"No ingress answers at {url}: {error or type(error).__name__}. {advice}") from error


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Would take the token to wherever it is told to go."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _refusal(error: urllib.error.HTTPError, url: str) -> str:
    """Why the ingress does not say it, in words of this command."""
    try:
        problem = json.loads(error.read())
        kind, title = str(problem["type"]).removeprefix("urn:loyalty:"), str(problem.get("detail") or problem["title"])
        broken = [f"--{one['field']}: {one['detail']}" for one in problem.get("errors", ())]
    except (ValueError, KeyError, TypeError, OSError, HTTPException):
        return f"{url} answers {error.code} without saying why: is --url that of an ingress?"
    if kind == "unauthenticated":
        return f"{url} does not know the token: set {TOKEN_VARIABLE}, or give --token."
    if kind == "forbidden":
        return f"{url}: {title}. Give another token, or change its scopes and programs in the configuration file of the ingress."
    return "\n".join(line.replace("?program=...", "--program ...") for line in broken) or f"{url} answers {error.code}: {title}"


def render(found: Fields) -> Iterator[RenderableType]:
    """What is shown of the ingress's answer, part by part."""
    rows = found["waiting"]
    if rows:
        table = Table(title=f"for whom commands wait in {_clean(found['program_id'])}", title_justify="left", title_style="bold", box=None,
                      header_style="dim", pad_edge=False)  # fmt: skip
        for name in ("member or external id", "commands", "first", "last", "by", "from"):
            table.add_column(name, justify="right" if name == "commands" else "left", overflow="fold")
        for row in rows:
            cells = (
                row["member_id"], f"{row['commands']:,}", _time(row["first_ingested_at"]), _time(row["last_ingested_at"]),
                _counts(row["streams"]), _counts(row["source_systems"]),
            )  # fmt: skip
            table.add_row(*(Text(_clean(cell)) for cell in cells))
        yield table
    elif not found["partitions_missing"]:
        yield Text("Nothing waits.", "green")
    if found["next"] is not None:
        yield Text("There are more: --limit shows them.", "dim")
    if found["partitions_missing"]:
        missing = ", ".join(map(str, found["partitions_missing"]))
        yield Text(f"No worker answers for these partitions, and what waits there is not shown: {missing}", "yellow")


def _counts(counts: Fields) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())


def _time(text: str) -> str:
    return f"{text[:10]} {text[11:19]} UTC"


def _clean(text: str) -> str:
    """Texts come from other systems, and a terminal obeys control characters."""
    return "".join(character if character.isprintable() else "?" for character in text)
