"""`loyalty deliveries`: attempts to deliver, one of them whole, what was given up, and another try for that. Asked of the ingress."""

import json
from collections.abc import Callable, Iterator, Sequence
from urllib.parse import quote

import click
from rich.console import Console
from rich.text import Text

from streams.api import Api, Fields
from streams.command_line import TimeText, clean, failures_told, print_table
from streams.deliveries.query import VERDICTS
from streams.member_view import TOKEN_VARIABLE
from streams.settings import PREFIX

LIMIT = 50
FAILED_STYLE, DELIVERED_STYLE = "red", "green"
NOTHING = "Nothing fits."


PROGRAM = click.option("--program", "-p", help="Programme.")
MEMBER = click.option("--member", "-m", help="Member's number.")
MAXIMUM = click.option("--limit", type=click.IntRange(1, 1_000_000), default=LIMIT, show_default=True, help="Rows at most, the newest first.")
JSON = click.option("--json", "as_json", is_flag=True, help="JSON: one object a row.")
URL = click.option("--url", help=f"The ingress.  [default: {PREFIX}INGRESS_HOST and {PREFIX}INGRESS_PORT]")


def _token(scope: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    return click.option("--token", help=f"API token with the scope {scope}.  [default: {TOKEN_VARIABLE}]")


def _since_until(what: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    def add(command: Callable[..., None]) -> Callable[..., None]:
        command = click.option("--until", type=TimeText(), help=f"{what} before this time.")(command)
        return click.option("--since", type=TimeText(), help=f"{what} at this time or later: 2026-11-25 or 2026-11-25T12:00:00Z.")(command)

    return add


@click.group()
def deliveries() -> None:
    """Show what became of deliveries, attempt by attempt; and try again what was given up."""


@deliveries.command("list")
@click.option("--destination", "-d", help="Name of the destination.")
@PROGRAM
@MEMBER
@click.option("--event", help="Id of an event, delivered alone or in a batch.")
@click.option("--kind", help="Kind of the event; BATCH.")
@click.option("--outcome", help="A status; 2xx, 3xx, 4xx, 5xx; failure, or one of those by name: TIMEOUT, DNS ...")
@click.option("--verdict", type=click.Choice(VERDICTS, case_sensitive=False), help="What followed; FAILED: anything but DELIVERED.")
@click.option("--correlation", help="Correlation id of the request that caused the event.")
@_since_until("Begun")
@MAXIMUM
@JSON
@URL
@_token("destinations:read")
def list_attempts(limit: int, as_json: bool, url: str | None, token: str | None, **query: str | None) -> None:
    """List attempts, the newest first; those that failed are red."""
    with failures_told("deliveries list"):
        rows = list(Api(url, token).pages("/v1/deliveries", "attempts", query, limit))
    print_table(rows, as_json, ("started", "to", "what", "member", "attempt>", "outcome", "took>", "next", "attempt id"), _of_attempt, NOTHING)


@deliveries.command()
@click.argument("attempt_id")
@JSON
@URL
@_token("destinations:read")
def show(attempt_id: str, as_json: bool, url: str | None, token: str | None) -> None:
    """Show one attempt, ATTEMPT_ID, with headers and bodies of request and answer."""
    with failures_told("deliveries show"):
        found = Api(url, token).ask("GET", f"/v1/deliveries/{quote(attempt_id, safe='')}")
    if as_json:
        click.echo(json.dumps(found, ensure_ascii=False))
        return
    console = Console()
    for line in _whole(found):
        console.print(line, soft_wrap=True)


@deliveries.command("dead-letters")
@click.argument("destination")
@PROGRAM
@MEMBER
@click.option("--reason", help="Why it was given up.")
@_since_until("Given up")
@MAXIMUM
@JSON
@URL
@_token("destinations:read")
def dead_letters(destination: str, limit: int, as_json: bool, url: str | None, token: str | None, **query: str | None) -> None:
    """List what was given up for DESTINATION and not delivered since."""
    with failures_told("deliveries dead-letters"):
        rows = list(Api(url, token).pages(_path(destination), "dead_letters", query, limit))
    print_table(rows, as_json, ("ended", "what", "member", "result", "attempts>", "event"), _of_dead_letter, NOTHING)


@deliveries.command()
@click.argument("destination")
@click.argument("event_ids", nargs=-1)
@click.option("--all", "is_all", is_flag=True, help="All dead letters, or those of a time or a reason, instead of some by their ids.")
@click.option("--reason", help="With --all: only what was given up for this reason.")
@_since_until("With --all: given up")
@JSON
@URL
@_token("destinations:write")
def redrive(
    destination: str, event_ids: Sequence[str], is_all: bool, as_json: bool, url: str | None, token: str | None, **query: str | None
) -> None:  # fmt: skip
    """Try again to deliver to DESTINATION what was given up: EVENT_IDS, or --all. Makes a replay."""
    given = {name: value for name, value in query.items() if value is not None}
    if is_all == bool(event_ids) or (event_ids and given):
        raise click.UsageError("either ids of events, or --all, which alone takes --since, --until and --reason")
    with failures_told("deliveries redrive"):
        job = Api(url, token).ask("POST", f"{_path(destination)}/redrive", body={"all": True, **given} if is_all else {"event_ids": list(event_ids)})
    if as_json:
        click.echo(json.dumps(job))
    else:
        click.echo(f"Replay {job['job_id']} tries again {job['dead_letters']:,} dead letters of {destination}.")


def _path(destination: str) -> str:
    return f"/v1/destinations/{quote(destination, safe='')}/dead-letters"


def _of_attempt(row: Fields) -> Sequence[Text]:
    member = f"{row['program_id']}/{row['member_id']}" if row["member_id"] else f"{len(row['event_ids'])} events"
    outcome = f"{row['outcome']} {row['verdict']}"
    cells = (
        _time(row["started_at"]), row["channel"], row["kind"], member, str(row["attempt"]), outcome, f"{row['duration_us'] / 1000:,.1f} ms",
        _time(row["next_attempt_at"]), row["attempt_id"],
    )  # fmt: skip
    return _styled(cells, _style(row))


def _of_dead_letter(row: Fields) -> Sequence[Text]:
    result = " ".join(filter(None, (row["result"], row["reason"], None if row["status"] is None else str(row["status"]))))
    cells = (_time(row["ended_at"]), row["kind"], f"{row['program_id']}/{row['member_id']}", result, str(row["attempts"]), row["event_id"])
    return _styled(cells, FAILED_STYLE)


def _styled(cells: Sequence[str], style: str) -> Sequence[Text]:
    return [Text(clean(cell), style) for cell in cells]


def _whole(found: Fields) -> Iterator[Text]:
    """An attempt, line by line."""
    yield Text(clean(f"{found['outcome']} {found['verdict']}"), f"bold {_style(found)}").append(
        f", attempt {found['attempt']} of {clean(found['channel'])}, {_time(found['started_at'])}, {found['duration_us'] / 1000:,.1f} ms", "not bold default"
    )
    if found["detail"]:
        yield Text(clean(found["detail"]), FAILED_STYLE)
    if found["next_attempt_at"]:
        yield Text(f"tried again at {_time(found['next_attempt_at'])}")
    about = f" of {found['program_id']}/{found['member_id']}" if found["member_id"] else ""
    yield Text(clean(f"{found['kind']}{about}: {', '.join(found['event_ids'])}"), "dim")
    yield Text(clean(f"appended to the log {_time(found['appended_at'])}; correlation id {found['correlation_id'] or 'none'}"), "dim")
    peer = f" ({found['peer_address']})" if found["peer_address"] else ""
    for title, name in ((f"POST {found['url']}{peer}", "request"), ("answer", "response")):
        yield Text(f"\n{clean(title)}", "bold")
        yield from (Text.assemble((f"{clean(key)}: ", "cyan"), clean(value)) for key, value in found[f"{name}_headers"].items())
        yield from (Text(clean(line)) for line in ("", *found[f"{name}_body"].splitlines()))


def _style(row: Fields) -> str:
    return DELIVERED_STYLE if row["verdict"] == "DELIVERED" else FAILED_STYLE


def _time(text: str | None) -> str:
    """2026-11-25 12:05:42.310, UTC."""
    return text.replace("T", " ").removesuffix("Z") if text else ""
