"""`loyalty destinations`: where webhooks go, made and changed while the pipeline runs. Asked of the ingress."""

import json
import tomllib
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from streams.api import Api, Fields
from streams.destinations import replay_command
from streams.command_line import clean, print_table
from streams.destinations.printing import JSON, READ, WRITE, asks, failures_told, path, print_missing, time_of
from streams.scheduling.cadence import of_text

ALL = 1_000_000
STATE_STYLES = {"ACTIVE": "green", "PAUSED": "yellow", "DISABLED": "bold red"}
BREAKER_STYLES = {"closed": "green", "half-open": "yellow", "open": "bold red"}
FILE = click.Path(path_type=Path, dir_okay=False, exists=True)


@click.group()
def destinations() -> None:
    """Make, change, pause and test destinations of webhooks; send events again; look after members that wait."""


for _command in replay_command.COMMANDS:
    destinations.add_command(_command)


def _describes(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say what a destination is."""
    for option in reversed((
        click.option("--file", "file", type=FILE, help="JSON or TOML with the fields of the destination; what is given beside it counts more."),
        click.option("--url", help="Where its webhooks go."),
        click.option("--event", "events", multiple=True, help="A kind that it hears of; may be repeated.  [default: all events]"),
        click.option("--program", "-p", "programs", multiple=True, help="A programme that it hears of; may be repeated.  [default: all]"),
        click.option("--filter", "filters", multiple=True, metavar="FIELD=VALUE", help="A value that lets an event pass: account.tier=GOLD; may be repeated."),
        click.option("--cadence", help="When events that are not urgent go out, in batches: 15m, '0 2 * * *', or realtime.  [default: realtime]"),
        click.option("--cadence-window", metavar="FROM-UNTIL", help="Times of the day between which batches begin: 22:00-05:00."),
        click.option("--time-zone", help="Of cadence and window: Europe/Berlin.  [default: UTC]"),
        click.option("--coalesce/--no-coalesce", default=None, help="Of a member's profile changes send only the newest, if it says all that older ones say."),
        click.option("--set", "settings", multiple=True, metavar="FIELD=JSON", help="Any other field: timeout_s=3, on_dead_letter=BLOCK; may be repeated."),
    )):  # fmt: skip
        command = option(command)
    return command


@destinations.command("list")
@JSON
@asks(READ)
def list_all(as_json: bool, ingress: str | None, token: str | None) -> None:
    """List all destinations, and whether they are sent to."""
    with failures_told():
        rows = list(Api(ingress, token).pages("/v1/destinations", "destinations", {}, ALL))
    print_table(rows, as_json, ("name", "state", "to", "programmes", "hears of", "changed", "by"), _row, "There are no destinations.")


@destinations.command()
@click.argument("name")
@JSON
@asks(READ)
def show(name: str, as_json: bool, ingress: str | None, token: str | None) -> None:
    """Show the destination NAME, its keys, and how it fares."""
    with failures_told():
        api = Api(ingress, token)
        found, status = api.ask("GET", path(name)), api.ask("GET", path(name, "status"))
    if as_json:
        click.echo(json.dumps(found | {"status": status}, ensure_ascii=False))
        return
    _print_destination(found)
    _print_status(status)


@destinations.command()
@click.argument("name")
@_describes
@click.option("--secret-file", type=FILE, help="File with its signing key, whsec_... or whsk_...  [default: one is made]")
@JSON
@asks(WRITE)
def create(name: str, as_json: bool, ingress: str | None, token: str | None, **given: Any) -> None:
    """Make the destination NAME. A signing key that is made with it is printed, this once."""
    body = _document(**given) | {"name": name}
    with failures_told():
        made = Api(ingress, token).ask("POST", "/v1/destinations", body=body)
    _print_made(made, as_json, f"Destination {name} is made.")


@destinations.command()
@click.argument("name")
@_describes
@JSON
@asks(WRITE)
def update(name: str, as_json: bool, ingress: str | None, token: str | None, **given: Any) -> None:
    """Change fields of the destination NAME; a field that is set to null goes back to its default. The rest stays."""
    body = _document(**given)
    if not body:
        raise click.UsageError("nothing to change: give --file or an option that says what it is")
    with failures_told():
        changed = Api(ingress, token).ask("PATCH", path(name), body=body)
    _print_made(changed, as_json, f"Destination {name} has version {changed['version']}.")


@destinations.command()
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@JSON
@asks(WRITE)
def delete(name: str, yes: bool, as_json: bool, ingress: str | None, token: str | None) -> None:
    """End the destination NAME, its state and its replays. What waits for it is not sent any more."""
    if not yes:
        click.confirm(f"End destination {name}? What waits for it is not sent any more.", abort=True, err=True)
    with failures_told():
        answer = Api(ingress, token).ask("DELETE", path(name))
    click.echo(json.dumps(answer) if as_json else f"Destination {name} is no more.")


def _state_command(verb: str, told: str, doc: str) -> click.Command:
    @click.command(verb, help=doc)
    @click.argument("name")
    @click.option("--detail", help="A word why, for people.")
    @JSON
    @asks(WRITE)
    def change(name: str, detail: str | None, as_json: bool, ingress: str | None, token: str | None) -> None:
        with failures_told():
            found = Api(ingress, token).ask("POST", path(name, verb), body={} if detail is None else {"detail": detail})
        click.echo(json.dumps(found, ensure_ascii=False) if as_json else f"Destination {name} {told}.")

    return change


for _verb, _told, _doc in (
    ("pause", "is paused: events are kept", "Send nothing to NAME for now. Events are kept, for as long as the log keeps them."),
    ("resume", "is sent to again", "Send to NAME again, also to one that was disabled: what was kept comes first, in order."),
    ("disable", "is disabled: events are kept", "Send nothing to NAME until somebody has looked."),
):
    destinations.add_command(_state_command(_verb, _told, _doc))


@destinations.command()
@click.argument("name")
@JSON
@asks(WRITE)
def test(name: str, as_json: bool, ingress: str | None, token: str | None) -> None:
    """Send a signed test event to NAME now, and show what comes back. Exit code 1 if it was not taken."""
    with failures_told():
        found = Api(ingress, token).ask("POST", path(name, "test"))
    if as_json:
        click.echo(json.dumps(found, ensure_ascii=False))
    else:
        style = "bold green" if found["delivered"] else "bold red"
        console = Console()
        console.print(Text(clean(found["outcome"]), style).append(f" in {found['duration_ms']:,.1f} ms  {clean(found['detail'])}", "not bold default"))
        console.print(Text("\n".join(map(clean, found.get("response_body", "").splitlines())), "dim"))
    raise SystemExit(0 if found["delivered"] else 1)


@destinations.command("rotate-secret")
@click.argument("name")
@click.option("--scheme", type=click.Choice(["v1", "v1a"]), help="v1: HMAC-SHA256; v1a: ed25519.  [default: v1]")
@click.option("--overlap-s", type=click.FloatRange(min=0), help="Seconds for which the others go on to sign.  [default: a day]")
@click.option("--secret-file", type=FILE, help="File with the new key.  [default: one is made]")
@JSON
@asks(WRITE)
def rotate_secret(
    name: str, scheme: str | None, overlap_s: float | None, secret_file: Path | None, as_json: bool, ingress: str | None, token: str | None
) -> None:  # fmt: skip
    """Begin to sign for NAME with another key, beside the old one for a while. A key that is made is printed, this once."""
    body = {"scheme": scheme, "overlap_s": overlap_s, "secret": None if secret_file is None else secret_file.read_text().strip()}
    with failures_told():
        made = Api(ingress, token).ask("POST", path(name, "secrets"), body={key: value for key, value in body.items() if value is not None})
    _print_made(made, as_json, f"Destination {name} signs with {made['secret_id']} as well.")
    if made["public_key"] and not as_json:
        click.echo(f"Receivers verify with {made['public_key']}")


@destinations.command("remove-secret")
@click.argument("name")
@click.argument("secret_id")
@JSON
@asks(WRITE)
def remove_secret(name: str, secret_id: str, as_json: bool, ingress: str | None, token: str | None) -> None:
    """Stop at once to sign for NAME with the key SECRET_ID."""
    with failures_told():
        found = Api(ingress, token).ask("DELETE", path(name, "secrets", secret_id))
    click.echo(json.dumps(found, ensure_ascii=False) if as_json else f"Destination {name} does not sign with {secret_id} any more.")


@destinations.command("new-key")
def new_key() -> None:
    """Print a fresh key for LOYALTY_DESTINATION_KEYS."""
    from streams.destinations import sealing

    click.echo(sealing.new_key())


def _document(
    file: Path | None, url: str | None, events: Sequence[str], programs: Sequence[str], filters: Sequence[str], settings: Sequence[str],
    cadence: str | None, cadence_window: str | None, time_zone: str | None, coalesce: bool | None, secret_file: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """What the options say. Raises UsageError."""
    found = {} if file is None else _read(file)
    if url is not None:
        found["url"] = url
    if events:
        found["events"] = [event.upper() for event in events]
    if programs:
        found["programs"] = list(programs)
    if secret_file is not None:
        found["secret"] = secret_file.read_text().strip()
    if filters:
        wanted: dict[str, list[str]] = {}
        for field, value in map(_pair, filters):
            wanted.setdefault(field, []).append(value)
        found["filters"] = wanted
    if cadence is not None:
        try:
            wanted_cadence = of_text(cadence)
        except ValueError as error:
            raise click.UsageError(f"--cadence {cadence}: {error}") from error
        found |= {"cadence_s": wanted_cadence.every_s, "cadence_cron": wanted_cadence.cron or None}
    found |= {
        name: value for name, value in (("cadence_window", cadence_window), ("cadence_time_zone", time_zone), ("coalesce", coalesce)) if value is not None
    }  # fmt: skip
    for field, text in map(_pair, settings):
        try:
            found[field] = json.loads(text)
        except ValueError:  # A word need not be quoted.
            found[field] = text
    return found


def _read(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text()) if file.suffix == ".json" else tomllib.loads(file.read_text())
    except ValueError as error:  # Of JSON, TOML and UTF-8 alike.
        raise click.UsageError(f"{file} is neither JSON (.json) nor TOML: {error}") from error
    if not isinstance(found, dict):
        raise click.UsageError(f"{file} holds no fields")
    times_as_texts: dict[str, Any] = json.loads(json.dumps(found, default=lambda value: value.isoformat() if isinstance(value, datetime | date) else None))
    return times_as_texts


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise click.UsageError(f"{text!r} is not NAME=VALUE")
    return name, value


def _print_made(made: Fields, as_json: bool, told: str) -> None:
    if as_json:
        click.echo(json.dumps(made, ensure_ascii=False))
        return
    click.echo(told)
    if made.get("secret"):
        click.echo(f"Its signing key, shown this once: {made['secret']}")


def _row(row: Fields) -> Sequence[str | Text]:
    return (
        row["name"], _state_text(row["state"]), row["url"], ", ".join(row["programs"]) or "all", ", ".join(row["events"]) or "all events",
        "in the configuration file" if row["is_from_file"] else time_of(row["changed_at"]), row["changed_by"],
    )  # fmt: skip


def _state_text(state: Mapping[str, Any]) -> Text:
    words = " ".join(filter(None, (state["state"], "" if state["reason"] == "OPERATOR" else state["reason"])))
    return Text(clean(words), STATE_STYLES.get(state["state"], ""))


def _print_destination(found: Fields) -> None:
    console = Console()
    state = found["state"]
    console.print(Text(clean(found["name"]), "bold").append("  ").append_text(_state_text(state)).append(f"  {clean(state['detail'])}", "not bold default"))
    table = Table.grid(padding=(0, 2))
    hidden = {"name", "state", "secrets", "is_from_file"}
    for name, value in found.items():
        if name not in hidden and value not in (None, "", [], {}):
            table.add_row(Text(name, "dim"), Text(clean(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))))
    console.print(table)
    print_table(
        found["secrets"], False, ("\nkey", "\nscheme", "\nsince", "\nuntil", "\npublic key"),
        lambda one: (one["secret_id"], one["scheme"], time_of(one["created_at"]), time_of(one["expires_at"]) or "for ever", one["public_key"] or ""),
        "",
    )  # fmt: skip


def _print_status(status: Fields) -> None:
    console = Console()
    breaker = Text(status["breaker"], BREAKER_STYLES.get(status["breaker"], ""))
    console.print(Text("\nbreaker ").append_text(breaker).append(
        f"; {status['waiting']:,} events wait, {status['in_flight']:,} of {status['concurrency']:,} under way, {status['behind_records']:,} records behind"
    ))  # fmt: skip
    if status["oldest"]:
        console.print(f"the oldest waits since {time_of(status['oldest'])}")
    if status["parked_members"] or status["blocked_members"]:
        console.print(Text(f"{status['parked_members']:,} members wait behind a failure, {status['blocked_members']:,} for an operator", "yellow"))
    if status["failing_since"]:
        console.print(Text(clean(f"nothing gets through since {time_of(status['failing_since'])}: {status['last_failure']}"), "red"))
    print_missing(status)
