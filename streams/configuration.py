"""LOYALTY_CONFIG_FILE (TOML) -> programs, sources, destinations and API tokens, checked whole.

Every problem is reported with its place in the file (`programs.grand.tiers[1].threshold_points`), not just the first one.
A secret is given as `secret = "..."` or `secret_file = "path"`.
"""

import secrets
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from schemas.contract import PROGRAM_ID
from schemas.currencies import MINOR_UNIT_DIGITS
from schemas.records import LoyaltyEventKind
from streams.domain.program import Offer, Program, Tier
from streams.errors import ConfigurationError
from streams.settings import Settings

SCOPES = (
    "transactions:write", "enrolments:write", "profile-changes:write", "offer-activations:write", "members:read",
)  # fmt: skip
SOURCE_KINDS = ("apaleo", "hr", "cloudevents")
EVENT_KINDS = tuple(kind.value for kind in LoyaltyEventKind if kind is not LoyaltyEventKind.UNKNOWN)


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A system that sends webhooks to `POST /v1/webhooks/<name>`."""

    name: str
    kind: str
    """Translator: apaleo, hr or cloudevents."""
    program_id: str
    secret: str = field(repr=False)
    """hr, cloudevents: Standard Webhooks secret (whsec_...). apaleo, which does not sign: password of HTTP basic authentication."""
    base_url: str = ""
    """apaleo: the API from which a reservation is read again."""
    identity_url: str = ""
    """apaleo: the OAuth 2.0 token endpoint."""
    client_id: str = ""
    client_secret: str = field(default="", repr=False)
    attributes: Mapping[str, str] = field(default_factory=dict)
    """Further options of the kind, for example apaleo's member_id_path."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """A receiver of signed webhooks."""

    name: str
    url: str
    secret: str = field(repr=False)
    """Standard Webhooks secret, whsec_ and base64."""
    programs: frozenset[str] = frozenset()
    """Programmes it hears of; empty: all."""
    events: frozenset[str] = frozenset()
    """Event kinds it hears of; empty: all."""
    timeout_s: float = 15.0
    concurrency_max: int = 16
    """Most deliveries under way at once; members wait for each other never, a member's events always."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """A bearer token of the REST API, known by its hash only."""

    name: str
    sha256: str
    scopes: frozenset[str]
    programs: frozenset[str] = frozenset()
    """Programmes it may touch; empty: all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    programs: Mapping[str, Program]
    sources: Mapping[str, Source]
    destinations: Mapping[str, Destination]
    tokens: tuple[Token, ...]


def load(settings: Settings) -> Configuration:
    """Raise ConfigurationError naming every problem and its place."""
    if not settings.config_file:
        raise ConfigurationError("LOYALTY_CONFIG_FILE is not set. infra/loyalty.example.toml shows what it holds.")
    path = Path(settings.config_file)
    try:
        document = tomllib.loads(path.read_text())
    except OSError as error:
        raise ConfigurationError(f"LOYALTY_CONFIG_FILE={path} cannot be read: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{path} is not valid TOML: {error}") from error
    return parse(document, voucher_key=settings.voucher_key.encode(), folder=path.parent)


def parse(document: Mapping[str, Any], *, voucher_key: bytes = b"", folder: Path = Path(".")) -> Configuration:
    """The configuration in a parsed TOML document. `folder` is where relative `..._file` paths start."""
    reader = _Reader(folder)
    for name in document.keys() - {"programs", "sources", "destinations", "tokens"}:
        reader.problem(name, "is not a table of this file: programs, sources, destinations or tokens")
    programs = {name: _program(reader, name, table, voucher_key) for name, table in reader.tables(document, "programs")}
    if not programs:
        reader.problem("programs", "needs one programme at least")
    sources = {name: _source(reader, name, table, programs) for name, table in reader.tables(document, "sources")}
    destinations = {name: _destination(reader, name, table, programs) for name, table in reader.tables(document, "destinations")}
    tokens = tuple(_token(reader, name, table, programs) for name, table in reader.tables(document, "tokens"))
    if reader.problems:
        raise ConfigurationError(*reader.problems)
    return Configuration(programs=programs, sources=sources, destinations=destinations, tokens=tokens)


def render_example(text: str) -> str:
    """A template with every `{{webhook-secret}}` and `{{token}}` replaced by a fresh random one."""
    for mark, make in (("{{webhook-secret}}", new_webhook_secret), ("{{token}}", lambda: secrets.token_urlsafe(24))):
        while mark in text:
            text = text.replace(mark, make(), 1)
    return text


def new_webhook_secret() -> str:
    """A fresh Standard Webhooks secret: whsec_ and 32 random bytes in base64."""
    import base64

    return "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()


class _Reader:
    """Typed access to TOML tables that collects problems instead of raising at the first."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.problems: list[str] = []

    def problem(self, place: str, what: str) -> None:
        self.problems.append(f"{place} {what}.")

    def tables(self, document: Mapping[str, Any], name: str) -> list[tuple[str, Mapping[str, Any]]]:
        section = document.get(name, {})
        if not isinstance(section, dict):
            self.problem(name, "must be a table of tables")
            return []
        found = []
        for key, table in section.items():
            if not isinstance(table, dict):
                self.problem(f"{name}.{key}", "must be a table")
            elif not PROGRAM_ID.fullmatch(key):
                self.problem(f"{name}.{key}", "must be named with a-z, 0-9 and '-'")
            else:
                found.append((key, table))
        return found

    def check_keys(self, place: str, table: Mapping[str, Any], allowed: set[str]) -> None:
        for key in table.keys() - allowed:
            self.problem(f"{place}.{key}", f"is not known here; known are {', '.join(sorted(allowed))}")

    def value(self, place: str, table: Mapping[str, Any], key: str, kind: type, default: Any = None, *, required: bool = False) -> Any:
        given = table.get(key)
        if given is None:
            if required:
                self.problem(f"{place}.{key}", "is required")
            return default
        if not isinstance(given, kind) or (kind is int and isinstance(given, bool)):
            self.problem(f"{place}.{key}", f"must be {_KIND_NAMES[kind]}, not {type(given).__name__}")
            return default
        return given

    def whole(self, place: str, table: Mapping[str, Any], key: str, default: int, minimum: int = 0) -> int:
        number: int = self.value(place, table, key, int, default)
        if number < minimum:
            self.problem(f"{place}.{key}", f"must be {minimum} or more, not {number}")
        return number

    def url(self, place: str, table: Mapping[str, Any], key: str, *, required: bool = True) -> str:
        value: str = self.value(place, table, key, str, "", required=required)
        if value and (urlsplit(value).scheme not in ("http", "https") or not urlsplit(value).netloc):
            self.problem(f"{place}.{key}", f"must be an http:// or https:// URL, not {value!r}")
        return value

    def secret(self, place: str, table: Mapping[str, Any], key: str, *, required: bool = True) -> str:
        file_name = self.value(place, table, f"{key}_file", str, "")
        if not file_name:
            return str(self.value(place, table, key, str, "", required=required))
        try:
            return (self.folder / file_name).read_text().strip()
        except OSError as error:
            self.problem(f"{place}.{key}_file", f"cannot be read: {error}")
            return ""

    def names(self, place: str, table: Mapping[str, Any], key: str, allowed: Mapping[str, Any] | tuple[str, ...]) -> frozenset[str]:
        given = self.value(place, table, key, list, [])
        for name in given:
            if name not in allowed:
                self.problem(f"{place}.{key}", f"names {name!r}, which is none of {', '.join(allowed)}")
        return frozenset(str(name) for name in given)


_KIND_NAMES = {str: "a text", int: "a whole number", list: "a list", dict: "a table", datetime: "a time with its zone", float: "a number"}


def _program(reader: _Reader, name: str, table: Mapping[str, Any], voucher_key: bytes) -> Program:
    place = f"programs.{name}"
    reader.check_keys(place, table, {"name", "earn", "tiers", "offers"})
    earn = reader.value(place, table, "earn", dict, {})
    reader.check_keys(f"{place}.earn", earn, {"points_per_unit", "points_per_night"})
    rates = reader.value(f"{place}.earn", earn, "points_per_unit", dict, {})
    for code in rates:
        if code not in MINOR_UNIT_DIGITS:
            reader.problem(f"{place}.earn.points_per_unit.{code}", "is not a currency code of ISO 4217")
        reader.whole(f"{place}.earn.points_per_unit", rates, code, 0, minimum=1)
    offers = {key: _offer(reader, f"{place}.offers.{key}", key, offer) for key, offer in reader.tables(table, "offers")}
    return Program(
        program_id=name,
        tiers=_tiers(reader, place, reader.value(place, table, "tiers", list, [])),
        points_per_unit={code: rate for code, rate in rates.items() if isinstance(rate, int)},
        points_per_night=reader.whole(f"{place}.earn", earn, "points_per_night", 0),
        offers=offers,
        voucher_key=voucher_key,
    )


def _tiers(reader: _Reader, place: str, given: list[Any]) -> tuple[Tier, ...]:
    tiers = []
    for number, table in enumerate(given):
        here = f"{place}.tiers[{number}]"
        if not isinstance(table, dict):
            reader.problem(here, "must be a table")
            continue
        reader.check_keys(here, table, {"name", "threshold_points", "earn_percent"})
        tiers.append(
            Tier(
                name=reader.value(here, table, "name", str, "", required=True),
                threshold_points=reader.whole(here, table, "threshold_points", 0),
                earn_percent=reader.whole(here, table, "earn_percent", 100, minimum=1),
            )
        )
    thresholds = [tier.threshold_points for tier in tiers]
    if not tiers or thresholds[0] != 0 or thresholds != sorted(set(thresholds)):
        reader.problem(f"{place}.tiers", "must start with threshold_points = 0 and rise from tier to tier")
    if len({tier.name for tier in tiers}) != len(tiers):
        reader.problem(f"{place}.tiers", "must have a different name each")
    return tuple(tiers)


def _offer(reader: _Reader, place: str, name: str, table: Mapping[str, Any]) -> Offer:
    reader.check_keys(place, table, {"bonus_percent", "starts_at", "ends_at", "categories"})
    starts, ends = (reader.value(place, table, key, datetime) for key in ("starts_at", "ends_at"))
    for key, moment in (("starts_at", starts), ("ends_at", ends)):
        if moment is not None and moment.tzinfo is None:
            reader.problem(f"{place}.{key}", "needs a time zone, for example 2026-12-01T00:00:00Z")
    if starts and ends and bool(starts.tzinfo) == bool(ends.tzinfo) and starts >= ends:
        reader.problem(f"{place}.ends_at", "must be after starts_at")
    return Offer(
        offer_id=name,
        bonus_percent=reader.whole(place, table, "bonus_percent", 0, minimum=1),
        starts_at_ms=int(starts.timestamp() * 1000) if starts else 0,
        ends_at_ms=int(ends.timestamp() * 1000) if ends else None,
        categories=frozenset(str(c) for c in reader.value(place, table, "categories", list, [])),
    )


def _source(reader: _Reader, name: str, table: Mapping[str, Any], programs: Mapping[str, Program]) -> Source:
    place = f"sources.{name}"
    reader.check_keys(
        place, table,
        {"kind", "program", "secret", "secret_file", "base_url", "identity_url", "client_id", "client_secret", "client_secret_file", "attributes"},
    )  # fmt: skip
    kind = reader.value(place, table, "kind", str, "", required=True)
    if kind and kind not in SOURCE_KINDS:
        reader.problem(f"{place}.kind", f"must be one of {', '.join(SOURCE_KINDS)}, not {kind!r}")
    apaleo = kind == "apaleo"
    secret = reader.secret(place, table, "secret")
    if secret and not apaleo:
        _check_webhook_secret(reader, place, secret)
    return Source(
        name=name,
        kind=kind,
        program_id=_program_name(reader, place, table, programs),
        secret=secret,
        base_url=reader.url(place, table, "base_url", required=apaleo),
        identity_url=reader.url(place, table, "identity_url", required=apaleo),
        client_id=reader.value(place, table, "client_id", str, "", required=apaleo),
        client_secret=reader.secret(place, table, "client_secret", required=apaleo),
        attributes=reader.value(place, table, "attributes", dict, {}),
    )


def _destination(reader: _Reader, name: str, table: Mapping[str, Any], programs: Mapping[str, Program]) -> Destination:
    place = f"destinations.{name}"
    reader.check_keys(place, table, {"url", "secret", "secret_file", "programs", "events", "timeout_s", "concurrency_max"})
    secret = reader.secret(place, table, "secret")
    if secret:
        _check_webhook_secret(reader, place, secret)
    return Destination(
        name=name,
        url=reader.url(place, table, "url"),
        secret=secret,
        programs=reader.names(place, table, "programs", programs),
        events=reader.names(place, table, "events", EVENT_KINDS),
        timeout_s=float(reader.whole(place, table, "timeout_s", 15, minimum=1)),
        concurrency_max=reader.whole(place, table, "concurrency_max", 16, minimum=1),
    )


def _token(reader: _Reader, name: str, table: Mapping[str, Any], programs: Mapping[str, Program]) -> Token:
    place = f"tokens.{name}"
    reader.check_keys(place, table, {"token", "token_file", "sha256", "scopes", "programs"})
    digest = reader.value(place, table, "sha256", str, "")
    plain = "" if digest else reader.secret(place, table, "token")
    if plain and len(plain) < 16:
        reader.problem(f"{place}.token", "must have 16 characters at least")
    return Token(
        name=name,
        sha256=digest or sha256(plain.encode()).hexdigest(),
        scopes=reader.names(place, table, "scopes", SCOPES),
        programs=reader.names(place, table, "programs", programs),
    )


def _program_name(reader: _Reader, place: str, table: Mapping[str, Any], programs: Mapping[str, Program]) -> str:
    name: str = reader.value(place, table, "program", str, "", required=True)
    if name and name not in programs:
        reader.problem(f"{place}.program", f"names {name!r}, which is none of {', '.join(programs)}")
    return name


def _check_webhook_secret(reader: _Reader, place: str, secret: str) -> None:
    from streams.signatures import SecretError, decode_secret

    try:
        decode_secret(secret)
    except SecretError as error:
        reader.problem(f"{place}.secret", str(error))
