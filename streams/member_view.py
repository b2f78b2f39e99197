"""`loyalty member`: one account as a person reads it, asked of the ingress, with the last entries of its ledger from ClickHouse."""

import json
import ssl
import sys
import tomllib
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from http.client import HTTPException
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import quote, urlencode, urlsplit

import click
from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from streams import settings as settings_module
from streams.errors import ConfigurationError, LoyaltyError, UnavailableError
from streams.settings import PREFIX, Settings

TIMEOUT_S = 10.0
ENTRIES_MAX = 10  # Of the ledger: what a person wants to see first. `loyalty sql` has all.
BAR_CHARACTERS = 30
EXIT_CONFIGURATION = 2
TOKEN_VARIABLE = f"{PREFIX}API_TOKEN"
TOKEN_NAME = "explorer"  # Of the configuration that `loyalty up` makes.
LOOPBACK_HOSTS = ("127.0.0.1", "localhost", "::1")
ANY_HOSTS = ("0.0.0.0", "::", "")

LEDGER = f"""
SELECT entry_sequence, toString(occurred_at) AS occurred_at, kind, account, points_delta, balance_after, transaction_id, reason
FROM ledger_entries FINAL
WHERE program_id = {{program_id:String}} AND member_id = {{member_id:String}}
ORDER BY entry_sequence DESC
LIMIT {ENTRIES_MAX}
FORMAT JSONEachRow
"""

STATUS_STYLES = {"ACTIVE": "bold green", "SUSPENDED": "bold yellow", "MERGED": "bold cyan", "ERASED": "bold red", "LEFT": "bold magenta"}

Fields = Mapping[str, Any]


class AnswerError(LoyaltyError):
    """The ingress does not give the account. The message says why, and what to change."""


@click.command()
@click.argument("member_id")
@click.option("--program", "-p", help="Programme; may be left out when the token reaches exactly one.")
@click.option("--json", "as_json", is_flag=True, help="The ingress's answer as it is.")
@click.option("--url", help=f"The ingress.  [default: {PREFIX}INGRESS_HOST and {PREFIX}INGRESS_PORT]")
@click.option("--token", help=f"API token with the scope members:read.  [default: {TOKEN_VARIABLE}; of a `loyalty up`: its token {TOKEN_NAME}]")
def member(member_id: str, program: str | None, as_json: bool, url: str | None, token: str | None) -> None:
    """Show the account of MEMBER_ID: points, lots, holds, vouchers, tier, and the last entries of its ledger."""
    try:
        settings = settings_module.load()
        token = token or settings.api_token
        address = (url or ingress_url(settings)).rstrip("/")
        body = ask(address, member_id, program, token or token_of_the_stack(settings, address))
    except ConfigurationError as error:
        _fail(error, EXIT_CONFIGURATION)
    except LoyaltyError as error:
        _fail(error, 1)
    if as_json:
        click.echo(body)
        return
    account = json.loads(body)
    try:
        entries: Sequence[Fields] | str = last_entries(settings, account["program_id"], account["member_id"])
    except UnavailableError as error:
        entries = str(error)
    console = Console()
    for part in render(account, entries):
        console.print(part)


def _fail(error: Exception, code: int) -> NoReturn:
    for line in str(error).splitlines():
        click.echo(f"loyalty member: {line}", err=True)
    sys.exit(code)


def ingress_url(settings: Settings) -> str:
    """Where the ingress of these settings is reached from this machine."""
    host = "127.0.0.1" if settings.ingress_host in ANY_HOSTS else settings.ingress_host
    scheme = "https" if settings.ingress_tls_certificate_file else "http"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{settings.ingress_port}"


def token_of_the_stack(settings: Settings, url: str) -> str:
    """The token that `loyalty up` has made for whoever looks around. Raises ConfigurationError if there is none, or it is not for this URL."""
    missing = f"No token: set {TOKEN_VARIABLE}, or give --token, with one that has the scope members:read."
    try:
        host = urlsplit(url).hostname
    except ValueError as error:
        raise ConfigurationError(f"{url} is no URL.") from error
    if host not in (*LOOPBACK_HOSTS, settings.ingress_host):
        raise ConfigurationError(missing)  # A secret of this machine is not for others.
    path = Path(settings.config_file or Path(settings.home) / "loyalty.toml")
    try:
        token = tomllib.loads(path.read_text())["tokens"][TOKEN_NAME]["token"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(f"{missing} ({path} has no plain tokens.{TOKEN_NAME}.token.)") from error
    return str(token)


def ask(url: str, member_id: str, program: str | None, token: str) -> str:
    """The ingress's answer, JSON. Raises AnswerError saying what to change."""
    query = f"?{urlencode({'program': program})}" if program else ""
    try:
        request = urllib.request.Request(f"{url}/v1/members/{quote(member_id, safe='')}{query}", headers={"Authorization": f"Bearer {token}"})
        body = _open(request).decode()
        found = json.loads(body)
    except urllib.error.HTTPError as error:
        raise AnswerError(_refusal(error, url, member_id)) from error
    except (OSError, HTTPException, ValueError) as error:
        advice = f"Is `loyalty up` running? --url, or {PREFIX}INGRESS_HOST and {PREFIX}INGRESS_PORT, name another place."
        raise AnswerError(f"No ingress answers at {url}: {_reason(error)}. {advice}") from error
    if not (isinstance(found, dict) and "program_id" in found and "member_id" in found):
        raise AnswerError(f"{url} answers with something else than an account: is --url that of an ingress?")
    return body


def _refusal(error: urllib.error.HTTPError, url: str, member_id: str) -> str:
    """Why there is no account, in words of this command."""
    try:
        problem = json.loads(error.read())
        kind = str(problem["type"]).removeprefix("urn:loyalty:")
        title = str(problem.get("detail") or problem["title"])
    except (ValueError, KeyError, TypeError, AttributeError, OSError, HTTPException):
        return f"{url} answers {error.code} without saying why: is --url that of an ingress?"
    if kind == "unauthenticated":
        return f"{url} does not know the token: set {TOKEN_VARIABLE}, or give --token."
    if kind == "forbidden":
        return f"{url}: {title}. Give another token, or change its scopes and programs in the configuration file of the ingress."
    if kind == "not-a-member":
        return f"There is no member {member_id!r} in the programme: --program names another."
    if kind == "invalid":
        names = {"program": "--program", "member_id": "MEMBER_ID"}
        found = [one for one in problem.get("errors", ()) if isinstance(one, dict)]
        broken = [f"{names.get(one.get('field', ''), one.get('field'))}: {one.get('detail')}" for one in found]
        return "\n".join(line.replace("?program=...", "--program ...") for line in broken) or title
    return f"{url} answers {error.code}: {title}"


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Would take the token to wherever it is told to go."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _open(request: urllib.request.Request, ca_file: str = "") -> bytes:
    """The answer's body. Raises OSError (HTTPError among them), HTTPException."""
    local = urlsplit(request.full_url).hostname in LOOPBACK_HOSTS
    handlers: list[urllib.request.BaseHandler] = [_NoRedirect(), *([urllib.request.ProxyHandler({})] if local else [])]
    if request.full_url.startswith("https:"):
        handlers.append(urllib.request.HTTPSHandler(context=ssl.create_default_context(cafile=ca_file or None)))
    with urllib.request.build_opener(*handlers).open(request, timeout=TIMEOUT_S) as response:
        body: bytes = response.read()
    return body


def _reason(error: Exception) -> str:
    return str(error.reason if isinstance(error, urllib.error.URLError) else error) or type(error).__name__


def last_entries(settings: Settings, program_id: str, member_id: str) -> list[Fields]:
    """The newest entries of the member's ledger, newest first. Raises UnavailableError, in one line."""
    values = {"program_id": program_id, "member_id": member_id}
    parameters = {
        "output_format_json_quote_64bit_integers": "0",
        **{f"param_{name}": value.replace("\\", "\\\\") for name, value in values.items()},  # Read as a field of TSV.
    }
    request = urllib.request.Request(
        f"{settings.clickhouse_url.rstrip('/')}/?{urlencode(parameters)}",
        data=LEDGER.encode(),
        headers={
            "Content-Type": "text/plain; charset=UTF-8",
            "X-ClickHouse-User": settings.clickhouse_username,
            "X-ClickHouse-Key": settings.clickhouse_password,
            "X-ClickHouse-Database": settings.clickhouse_database,
        },
    )
    try:
        return [json.loads(line) for line in _open(request, settings.clickhouse_ca_file).splitlines()]
    except urllib.error.HTTPError as error:
        said = error.read().decode(errors="replace").strip().partition("\n")[0]
        raise UnavailableError(f"ClickHouse at {PREFIX}CLICKHOUSE_URL={settings.clickhouse_url} answers {error.code}: {said[:300]}") from error
    except (OSError, HTTPException, ValueError) as error:
        raise UnavailableError(f"No ClickHouse answers at {PREFIX}CLICKHOUSE_URL={settings.clickhouse_url}: {_reason(error)}.") from error


def render(account: Fields, entries: Sequence[Fields] | str) -> Iterator[RenderableType]:
    """What is shown of the ingress's answer, part by part. `entries`: of the ledger, newest first; or a line that says why there are none."""
    yield from _head(account)
    yield Text()
    yield _points(account)
    expiring = account.get("expiring")
    if expiring:
        yield Text.assemble("next expiry: ", (_number(expiring["points"]), "bold"), f" points on {_time(expiring['expires_at'])}")
    yield from _tier(account)
    if account.get("source") == "cache":
        yield Text("The worker that owns the account does not answer: this is all that the cache has.", "yellow")
    yield from _tables(account)
    yield from _profile(account)
    yield from _ledger(entries)


def _head(account: Fields) -> Iterator[Text]:
    attributes = account.get("attributes") or {}
    name = " ".join(_clean(attributes[key]) for key in ("given_name", "family_name") if attributes.get(key))
    status = account["status"]
    who = Text.assemble((_clean(account["member_id"]), "bold"), f" of {_clean(account['program_id'])}")
    if name:
        who.append(f", {name}")
    yield who
    reason = account.get("status_reason")
    line = Text.assemble((status, STATUS_STYLES.get(status, "bold")), f", {_clean(reason)}" if reason else "")
    if account.get("enrolled_at"):
        line.append(f"; member since {account['enrolled_at'][:10]}")
    yield line
    scheduled = account.get("scheduled_status")
    if scheduled:
        why = f": {_clean(scheduled['reason'])}" if scheduled["reason"] else ""
        yield Text(f"will be {scheduled['status']} from {_time(scheduled['at'])}{why}", "yellow")
    if account.get("merged_into"):
        yield Text(f"merged into {_clean(account['merged_into'])}, where the points are", "cyan")
    if account.get("pool_member_id"):
        yield Text(f"in a pool: {_clean(account['pool_member_id'])} receives what this member earns")
    if account.get("segments"):
        yield Text(f"segments: {', '.join(map(_clean, account['segments']))}", "dim")


def _profile(account: Fields) -> Iterator[RenderableType]:
    """Each part of the profile, and where it came from."""
    values = dict(account.get("attributes") or {}) | {f"external_ids.{kind}": value for kind, value in (account.get("external_ids") or {}).items()}
    values |= {"segments": ", ".join(account.get("segments") or ()), "status": account["status"]}
    rows = [
        (
            name, values.get(name, ""), origin["source_system"], "" if origin["source_version"] is None else str(origin["source_version"]),
            origin["event_id"], _time(origin["occurred_at"]),
        )
        for name, origin in (account.get("origins") or {}).items()
    ]  # fmt: skip
    yield from _table("profile, and who had the last word", ("part", "value", "source", "version>", "event", "occurred"), rows)


def _points(account: Fields) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column(justify="right")
    table.add_column(style="dim")
    rows = (
        ("available", "available_points", "bold green", "can be spent"),
        ("pending", "pending_points", "", "not to be spent yet"),
        ("held", "held_points", "", "set aside by holds"),
        ("debt", "debt_points", "red", "owed: the next points pay it"),
    )
    for name, key, style, meaning in rows:
        if key in account:
            table.add_row(name, Text(_number(account[key]), style if account[key] else ""), meaning)
    return table


def _tier(account: Fields) -> Iterator[Text]:
    tier = account.get("tier_progress")
    if not tier:
        yield Text.assemble("tier: ", (_clean(account["tier"]), "bold"), f", {_number(account['qualifying_points'])} qualifying points")
        return
    until = f"valid until {_time(tier['valid_until'])}" if tier["valid_until"] else "without an end"
    yield Text.assemble("tier: ", (_clean(tier["name"]), "bold"), f", {until}")
    if tier.get("points_to_keep"):
        keep, projected = _number(tier["points_to_keep"]), _clean(tier["projected_tier"])
        yield Text(f"{keep} more qualifying points in the deciding period keep it; otherwise {projected} follows")
    points, missing = tier["qualifying_points"], tier["points_to_next"]
    if tier["next_tier"] is None:
        yield Text(f"{_number(points)} qualifying points; there is no tier above")
        return
    whole = points + missing
    filled = BAR_CHARACTERS * min(max(points, 0), whole) // whole if whole > 0 else 0
    yield Text.assemble(
        ("━" * filled, "green"), ("─" * (BAR_CHARACTERS - filled), "dim"),
        f" {_number(points)} qualifying points, {_number(missing)} more to {_clean(tier['next_tier'])}",
    )  # fmt: skip


def _tables(account: Fields) -> Iterator[RenderableType]:
    lots = [
        (lot["lot_id"], _number(lot["remaining"]), _number(lot["held"]), _pending(lot), _time(lot["earned_at"]), _time(lot["expires_at"]))
        for lot in account.get("lots", ())
    ]
    yield from _table("lots, in the order in which they are spent", ("lot", "points>", "held>", "pending", "earned", "expires"), lots)
    holds = [
        (hold["hold_id"], _number(hold["points"]), _time(hold["placed_at"]), _time(hold["expires_at"])) for hold in account.get("holds", ())
    ]
    yield from _table("holds", ("hold", "points>", "placed", "let go"), holds)
    vouchers = [(one["voucher_code"], one["reward_code"], _time(one["expires_at"])) for one in account.get("vouchers", ())]
    yield from _table("vouchers", ("voucher", "reward", "expires"), vouchers)
    offers = [
        (one["offer_id"], _number(one["uses"]), _number(one["points"]), "its budget was asked" if one["asked"] else "active")
        for one in account.get("offers", ())
    ]
    yield from _table("offers", ("offer", "uses>", "points>", ""), offers)


def _pending(lot: Fields) -> str:
    if not lot["pending"]:
        return ""
    if lot.get("parked"):
        return "until the suspension ends"
    return f"until {_time(lot['available_from'])}" if lot["available_from"] else "until it is activated"


def _ledger(entries: Sequence[Fields] | str) -> Iterator[RenderableType]:
    if isinstance(entries, str):
        yield Text(f"\nThe ledger's entries are not shown. {_clean(entries)}", "yellow")
        return
    rows = [
        (
            str(entry["entry_sequence"]), _time(entry["occurred_at"]), entry["kind"], entry["account"], f"{entry['points_delta']:+,}",
            _number(entry["balance_after"]), entry["transaction_id"], entry["reason"] or "",
        )
        for entry in entries
    ]  # fmt: skip
    columns = ("#>", "occurred", "kind", "account", "points>", "after>", "transaction", "reason")
    yield from _table("last entries of the ledger", columns, rows) if rows else (Text("\nno entries in the ledger's history yet", "dim"),)


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[RenderableType]:
    """Nothing without rows. A column whose name ends with '>' is aligned to the right."""
    if not rows:
        return
    table = Table(title=title, title_justify="left", title_style="bold", box=None, header_style="dim", pad_edge=False)
    for name in columns:
        table.add_column(name.rstrip(">"), justify="right" if name.endswith(">") else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(_clean(cell)) for cell in row))
    yield Padding(table, (1, 0, 0, 0))


def _number(value: int) -> str:
    return f"{value:,}"


def _time(text: str | None) -> str:
    """To the minute; the ingress and ClickHouse both speak UTC."""
    return f"{text[:10]} {text[11:16]} UTC" if text else "never"


def _clean(text: Any) -> str:
    """Texts come from other systems, and a terminal obeys control characters."""
    return "".join(character if character.isprintable() else "?" for character in str(text))
