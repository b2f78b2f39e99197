"""`loyalty export` and `loyalty erase`: one member's data in one document, and its erasure with a receipt. Asked of the ingress."""

import json
import sys
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import quote, urlencode

import click
from rich.console import Console
from rich.table import Table

from streams import settings as settings_module
from streams.errors import ConfigurationError, LoyaltyError
from streams.member_view import EXIT_CONFIGURATION, TOKEN_VARIABLE, ingress_url, token_of_the_stack
from streams.personal_data import receipt
from streams.personal_data.places import REMAINS
from streams.settings import PREFIX

ANSWER_TIMEOUT_S = 60.0
WAIT_S = 60
AGAIN_S = 0.5
DECISION_WAIT_S = 20

Document = dict[str, Any]

PROGRAM = click.option("--program", "-p", help="Programme; may be left out when the token reaches exactly one.")
URL = click.option("--url", help=f"The ingress.  [default: {PREFIX}INGRESS_HOST and {PREFIX}INGRESS_PORT]")


class RefusedError(LoyaltyError):
    """The ingress does not do it. The message says why, and what to change."""


@click.command()
@click.argument("member_id")
@PROGRAM
@click.option("--format", "form", type=click.Choice(["json", "zip"]), default="json", help="One document, or an archive with one file a section.")
@click.option("--output", "-o", type=click.Path(path_type=Path, dir_okay=False), help="File to write; JSON goes to standard output without it.")
@URL
@click.option("--token", help=f"API token with the scope members:export.  [default: {TOKEN_VARIABLE}]")
def export(member_id: str, program: str | None, form: str, output: Path | None, url: str | None, token: str | None) -> None:
    """Export everything that is held of MEMBER_ID, and of the numbers that were merged into it."""
    if form == "zip" and output is None:
        raise click.UsageError("--format zip needs --output")
    try:
        document = Ingress(url, token).export(member_id, program)
        if output is None:
            click.echo(json.dumps(document, indent=2, ensure_ascii=False))
        elif form == "zip":
            write_zip(document, output)
        else:
            output.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    except (LoyaltyError, OSError) as error:
        _fail("export", error)
    if output is not None:
        click.echo(f"{output}: everything that is held of {member_id}.", err=True)


@click.command()
@click.argument("member_id")
@PROGRAM
@click.option("--reason", required=True, help="Number of the request, privacy:2026-118. No words: they could be about the person.")
@click.option("--actor", help="Who decided it.  [default: the token's name]")
@click.option("--yes", is_flag=True, help="Do not ask. There is no way back.")
@click.option("--wait", "wait_s", type=click.IntRange(min=0), default=WAIT_S, show_default=True, help="Seconds to wait until every store is done.")
@click.option("--json", "as_json", is_flag=True, help="The receipt as JSON.")
@URL
@click.option("--token", help=f"API token with the scopes member-operations:write and members:export.  [default: {TOKEN_VARIABLE}]")
def erase(
    member_id: str, program: str | None, reason: str, actor: str | None, yes: bool, wait_s: int, as_json: bool, url: str | None, token: str | None
) -> None:
    """Erase the personal data of MEMBER_ID, and of the numbers that were merged into it. Prints a receipt; exit code 1 if a store is not done."""
    try:
        ingress = Ingress(url, token)
        before = ingress.export(member_id, program)
        numbers = [number["member_id"] for number in before["numbers"]]
        if into := (before["numbers"][0]["account"] or {}).get("merged_into"):
            click.echo(f"{member_id} was merged into {into}, which is not erased with it: erase {into} for the whole person.", err=True)
        if not yes:
            click.confirm(f"Erase {', '.join(numbers)} of {before['program_id']}? There is no way back.", abort=True, err=True)
        answer = ingress.erase(member_id, before["program_id"], reason, actor)
        after = _when_finished(ingress, member_id, before, wait_s)
    except (LoyaltyError, OSError) as error:
        _fail("erase", error)
    found = told(before, answer, after)
    if as_json:
        click.echo(json.dumps(found, indent=2))
    else:
        _show(found)
    sys.exit(0 if found["is_finished"] else 1)


def _when_finished(ingress: "Ingress", member_id: str, before: Document, wait_s: int) -> Document:
    """The export once every store is done, or the last one within the time. What has nothing left is an export without a number's data."""
    deadline_s = time.monotonic() + wait_s
    with Console(stderr=True).status("Waiting until every store is done ...") as status:
        while True:
            try:
                after = ingress.export(member_id, before["program_id"])
            except NotHeldError:
                return before | {"numbers": []}
            if receipt.is_finished(after) or time.monotonic() >= deadline_s:
                return after
            status.update(f"Waiting for {', '.join(store.name for store in receipt.stores(after) if not store.is_done)} ...")
            time.sleep(AGAIN_S)


def told(before: Document, answer: Mapping[str, Any], after: Document) -> dict[str, Any]:
    """The receipt, as JSON. `answer` is the ingress's to the erasure."""
    return {
        "program_id": before["program_id"],
        "numbers": [number["member_id"] for number in before["numbers"]],
        "event_id": answer["event_id"],
        "status": answer["status"],
        "looked_at": after["exported_at"],
        "is_finished": receipt.is_finished(after),
        "stores": [{"store": store.name, "is_done": store.is_done, "detail": store.detail} for store in receipt.stores(after)],
        "scheduled": receipt.SCHEDULED,
        "remains": REMAINS,
    }


def _show(found: Mapping[str, Any]) -> None:
    table = Table(title=f"Erasure of {', '.join(found['numbers'])}, {found['looked_at']}", title_justify="left", title_style="bold")
    for column in ("store", "state", "what"):
        table.add_column(column, overflow="fold")
    for store in found["stores"]:
        table.add_row(store["store"], "[green]done[/]" if store["is_done"] else "[yellow]not yet[/]", store["detail"])
    for name, detail in found["scheduled"].items():
        table.add_row(name, "[cyan]by itself[/]", detail)
    for name, detail in found["remains"].items():
        table.add_row(name, "[dim]remains[/]", detail)
    Console().print(table)


def write_zip(document: Document, path: Path) -> None:
    """The export as an archive: readme.json, then for each number a folder with one file of JSON lines a section. Raises OSError."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("readme.json", json.dumps({name: document[name] for name in document if name != "numbers"}, indent=2, ensure_ascii=False))
        for place, number in enumerate(document["numbers"]):
            sections = {name: number[name] for name in ("account", "waiting", "vouchers", "outcomes", "cache")} | number["history"]
            for name, content in sections.items():
                rows = content if isinstance(content, list) else [] if content is None else [content]
                lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
                archive.writestr(f"{place}/{name}.jsonl", lines)  # Not by the member's number, which may have a slash.


def _fail(command: str, error: Exception) -> NoReturn:
    for line in str(error).splitlines():
        click.echo(f"loyalty {command}: {line}", err=True)
    sys.exit(EXIT_CONFIGURATION if isinstance(error, ConfigurationError) else 1)


class NotHeldError(RefusedError):
    """Nothing is held under the number."""


class Ingress:
    """Its two routes. Raises ConfigurationError when no token is given, RefusedError for what the ingress refuses or does not answer."""

    def __init__(self, url: str | None, token: str | None) -> None:
        settings = settings_module.load()
        self._url = (url or ingress_url(settings)).rstrip("/")
        self._token = token or settings.api_token or token_of_the_stack(settings, self._url)

    def export(self, member_id: str, program: str | None) -> Document:
        query = f"?{urlencode({'program': program})}" if program else ""
        document = self._ask("GET", f"/v1/members/{quote(member_id, safe='')}/export{query}", {})
        if document.get("complete") is not True:
            raise RefusedError(f"the answer of {self._url} broke off; the log of the ingress says why")
        return document

    def erase(self, member_id: str, program: str, reason: str, actor: str | None) -> Document:
        query = {"program": program, "reason": reason} | ({"actor": actor} if actor else {})
        path = f"/v1/members/{quote(member_id, safe='')}?{urlencode(query)}"
        try:
            return self._ask("DELETE", path, {"Prefer": f"wait={DECISION_WAIT_S}"})
        except ErasedBeforeError:
            return {"event_id": None, "status": "erased before"}

    def _ask(self, method: str, path: str, headers: Mapping[str, str]) -> Document:
        request = urllib.request.Request(self._url + path, method=method, headers={"Authorization": f"Bearer {self._token}"} | dict(headers))
        try:
            with urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect()).open(request, timeout=ANSWER_TIMEOUT_S) as response:
                found: Document = json.loads(response.read())
                return found
        except urllib.error.HTTPError as error:
            raise _refusal(error, self._url) from error
        except (OSError, HTTPException, ValueError) as error:
            advice = f"Is `loyalty up` running? --url, or {PREFIX}INGRESS_HOST and {PREFIX}INGRESS_PORT, name another place."
            raise RefusedError(f"No whole answer from {self._url}: {type(error).__name__}: {error}. {advice}") from error


class ErasedBeforeError(RefusedError):
    """The member was erased by another command."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Would take the token to wherever it is told to go."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _refusal(error: urllib.error.HTTPError, url: str) -> RefusedError:
    """Why not, in the ingress's words."""
    try:
        problem = json.loads(error.read())
        kind, title = str(problem["type"]).removeprefix("urn:loyalty:"), str(problem.get("detail") or problem["title"])
        broken = [f"{one['field']}: {one['detail']}" for one in problem.get("errors", ())]
    except (ValueError, KeyError, TypeError, OSError, HTTPException):
        return RefusedError(f"{url} answers {error.code} without saying why: is --url that of an ingress?")
    if kind == "not-a-member":
        return NotHeldError("Nothing is held under this number in the programme: --program names another.")
    if kind == "refused:MEMBER_ERASED":
        return ErasedBeforeError(title)
    if kind == "unauthenticated":
        return RefusedError(f"{url} does not know the token: set {TOKEN_VARIABLE}, or give --token.")
    if kind == "forbidden":
        return RefusedError(f"{url}: {title}. Give another token, or change its scopes and programs in the configuration file of the ingress.")
    return RefusedError("\n".join(broken) or f"{url} answers {error.code}: {title}")
