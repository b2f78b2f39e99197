"""LOYALTY_CONFIG_FILE (TOML) -> programs, sources, destinations and API tokens, checked whole.

Every problem is reported with its line and its place in the file (`loyalty.toml line 17: programs.grand.tiers[1].threshold_points`), not
just the first one.
A secret is given as `secret = "..."` or `secret_file = "path"`.
"""

import secrets
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from schemas.contract import EXTERNAL_ID_TYPE
from streams import programs as programme_rules
from streams.connectors import options
from streams.connectors.contract import TARGET_OPTIONS, Source, Target
from streams.connectors.registry import CONNECTORS
from streams.destinations import document as destination_document
from streams.destinations.document import DocumentError
from streams.destinations.model import Destination
from streams.domain.program import Program
from streams.errors import ConfigurationError
from streams.settings import Settings
from streams.sync import names as sync_names
from streams.toml_lines import join
from streams.toml_reader import TomlReader

SCOPES = (
    "transactions:write", "enrolments:write", "profile-changes:write", "offer-activations:write", "member-operations:write", "members:read",
    "members:export", "audit:read", "operations:read", "destinations:read", "destinations:write", "scim",
)  # fmt: skip
SCIM_CHOICES = {"number_from": ("user_name", "external_id", "employee_number"), "absent_active": ("unchanged", "suspend")}
POLL_EVERY_S_MIN = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """A bearer token of the REST API, known by its hash only."""

    name: str
    sha256: str
    scopes: frozenset[str]
    programs: frozenset[str] = frozenset()
    """Programmes it may touch; empty: all."""
    source_systems: frozenset[str] = frozenset()
    """Systems it may speak for beside the one of its own name; "*": all that are no other token's or source's, and master nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scim:
    """How SCIM's attributes are kept for the token of the same name."""

    user_name_type: str = "scim_user_name"
    """Type of the external id that holds userName."""
    external_id_type: str = "scim_external_id"
    """Type of the external id that holds externalId."""
    employee_type: str = "employee"
    """Type of the external id that holds the enterprise extension's employeeNumber."""
    number_from: str = "user_name"
    """What the number of a new member is: one made from userName, or external_id or employee_number as it is."""
    absent_active: str = "unchanged"
    """What a PUT without `active` means: unchanged, or suspend."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    programs: Mapping[str, Program]
    """As the file has them, each as version 1. What is in force is in the log: streams/publishing.py."""
    sources: Mapping[str, Source]
    destinations: Mapping[str, Destination]
    tokens: tuple[Token, ...]
    rules: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """The table of each programme as it was parsed, for the log."""
    scim: Mapping[str, Scim] = field(default_factory=dict)
    """By the name of the token; a token without one has the defaults."""
    sync: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """How often streams and jobs run, by name: the tables as they were parsed, for streams/sync/cadences.py."""
    targets: Mapping[str, Target] = field(default_factory=dict)
    """Destinations that are connected systems: those with a kind."""


def load(settings: Settings) -> Configuration:
    """Raise ConfigurationError naming every problem and its place."""
    if not settings.config_file:
        raise ConfigurationError("LOYALTY_CONFIG_FILE is not set. infra/loyalty.example.toml shows what it holds.")
    path = Path(settings.config_file)
    try:
        return read(path, voucher_key=settings.voucher_key.encode())
    except OSError as error:
        raise ConfigurationError(f"LOYALTY_CONFIG_FILE={path} cannot be read: {error}") from error


def read(path: Path, *, voucher_key: bytes = b"") -> Configuration:
    """The configuration in a file. Raises ConfigurationError as `load` does, and OSError when the file cannot be read."""
    try:
        text = path.read_bytes().decode()
        document = tomllib.loads(text)
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path} is not UTF-8: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{path} is not valid TOML: {error}") from error
    return parse(document, voucher_key=voucher_key, folder=path.parent, file=path.name, text=text)


def parse(document: Mapping[str, Any], *, voucher_key: bytes = b"", folder: Path = Path("."), file: str = "", text: str = "") -> Configuration:
    """The configuration in a parsed TOML document. Raises ConfigurationError naming every problem and its place.

    `folder` is where relative `..._file` paths start; `file` and `text` are what the document was parsed from, for the lines of problems.
    """
    reader = TomlReader(folder, file=file, text=text)
    for name in document:
        if name not in ("programs", "sources", "destinations", "tokens", "scim", "sync"):
            reader.problem(join("", name), "is not a table of this file: programs, sources, destinations, tokens, scim or sync")
    rules = dict(reader.tables(document, "programs"))
    programs = {name: programme_rules.read(reader, name, table, voucher_key=voucher_key) for name, table in rules.items()}
    if not document.get("programs"):
        reader.problem("programs", "needs one programme at least")
    sources = {name: _source(reader, name, table, programs) for name, table in reader.tables(document, "sources")}
    outgoing = dict(reader.tables(document, "destinations"))
    destinations = {name: _destination(reader, name, table, programs) for name, table in outgoing.items() if "kind" not in table}
    targets = {name: _target(reader, name, table, programs) for name, table in outgoing.items() if "kind" in table}
    tokens = tuple(_token(reader, name, table, programs) for name, table in reader.tables(document, "tokens"))
    scim = {name: _scim(reader, name, table, tokens) for name, table in reader.tables(document, "scim")}
    sync = dict(reader.tables(document, "sync", named=sync_names.NAME, naming="a-z, 0-9, '-', '_', '.' and '/'"))
    for name, table in sync.items():
        sync_names.check(reader, name, table)
    reader.raise_problems()
    return Configuration(
        programs=programs, sources=sources, destinations=destinations, tokens=tokens, rules=rules, scim=scim, sync=sync, targets=targets
    )


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


def _source(reader: TomlReader, name: str, table: Mapping[str, Any], programs: Mapping[str, Program]) -> Source:
    place = f"sources.{name}"
    program_id = _program_name(reader, place, table, programs)
    kind = reader.value(place, table, "kind", str, "", required=True)
    connector = CONNECTORS.get(kind)
    if connector is None or not connector.is_source:
        if kind:
            reader.problem(f"{place}.kind", f"must be one of {', '.join(one for one in CONNECTORS if CONNECTORS[one].is_source)}, not {kind!r}")
        return Source(name=name, kind=kind, program_id=program_id)
    read = options.read(reader, place, table, connector.source_options, others={"kind", "program", *(("poll_every_s",) if connector.polls else ())})
    poll_every_s = table.get("poll_every_s")
    if connector.polls and poll_every_s is not None:
        if type(poll_every_s) not in (int, float) or not POLL_EVERY_S_MIN <= poll_every_s < 1e9:
            reader.problem(f"{place}.poll_every_s", f"must be a number of seconds, {POLL_EVERY_S_MIN:g} or more")
        else:
            read["poll_every_s"] = float(poll_every_s)
    return Source(name=name, kind=kind, program_id=program_id, options=read)


def _destination(reader: TomlReader, name: str, table: Mapping[str, Any], programs: Mapping[str, Program]) -> Destination:
    """A table is the document of the REST API, but that secrets may be in files, and that times may be TOML's."""
    place = f"destinations.{name}"
    document = _opened(reader, place, table, ("secret",))
    if isinstance(table.get("secrets"), list):
        document["secrets"] = [_opened(reader, here, one, ("secret",)) for here, one in reader.elements(place, table, "secrets")]
    if isinstance(table.get("authorization"), Mapping):
        document["authorization"] = _opened(reader, f"{place}.authorization", table["authorization"], ("bearer", "client_secret"))
    try:
        return destination_document.read_destination(name, document, programs=programs, start_at=destination_document.BEGINNING)
    except DocumentError as error:
        for problem in error.problems:
            reader.problem(f"{place}.{problem.field}", problem.detail)
        return Destination(name=name, url="", secrets=())


def _target(reader: TomlReader, name: str, table: Mapping[str, Any], programs: Mapping[str, Program]) -> Target:
    place = f"destinations.{name}"
    kind = reader.value(place, table, "kind", str, "", required=True)
    connector = CONNECTORS.get(kind)
    if connector is None or connector.write is None:
        known = ", ".join(one for one in CONNECTORS if CONNECTORS[one].write is not None)
        reader.problem(f"{place}.kind", f"must be one of {known}, not {kind!r}; a destination of signed webhooks has none")
        return Target(name=name, kind=kind)
    heard = reader.value(place, table, "programs", list, [])
    for one in heard:
        if one not in programs:
            reader.problem(f"{place}.programs", f"names {one!r}, which is none of {', '.join(programs)}")
    read = options.read(reader, place, table, (*connector.target_options, *TARGET_OPTIONS), others={"kind", "programs"})
    return Target(name=name, kind=kind, programs=frozenset(map(str, heard)), options=read)


def _opened(reader: TomlReader, place: str, table: Mapping[str, Any], secret_names: tuple[str, ...]) -> dict[str, Any]:
    """The table as JSON has it: times as texts, and of these names what the file of `..._file` holds."""
    found = {key: value.isoformat() if isinstance(value, datetime | date) else value for key, value in table.items()}
    for name in secret_names:
        if found.pop(f"{name}_file", None) is not None:
            found[name] = reader.secret(place, table, name)
    return found


def _token(reader: TomlReader, name: str, table: Mapping[str, Any], programs: Mapping[str, Program]) -> Token:
    place = f"tokens.{name}"
    reader.check_keys(place, table, {"token", "token_file", "sha256", "scopes", "programs", "source_systems"})
    digest = reader.value(place, table, "sha256", str, "")
    plain = "" if digest else reader.secret(place, table, "token")
    if plain and len(plain) < 16:
        reader.problem(f"{place}.token", "must have 16 characters at least")
    return Token(
        name=name,
        sha256=digest or sha256(plain.encode()).hexdigest(),
        scopes=reader.names(place, table, "scopes", SCOPES),
        programs=reader.names(place, table, "programs", programs),
        source_systems=reader.texts(place, table, "source_systems"),
    )


def _scim(reader: TomlReader, name: str, table: Mapping[str, Any], tokens: tuple[Token, ...]) -> Scim:
    place = f"scim.{name}"
    reader.check_keys(place, table, {"user_name_type", "external_id_type", "employee_type", "number_from", "absent_active"})
    if not any(token.name == name and "scim" in token.scopes for token in tokens):
        reader.problem(place, f"needs a token of its name: [tokens.{name}] with the scope scim")
    defaults = Scim()
    types = {key: reader.value(place, table, key, str, getattr(defaults, key)) for key in ("user_name_type", "external_id_type", "employee_type")}
    for key, value in types.items():
        if not EXTERNAL_ID_TYPE.fullmatch(value):
            reader.problem(f"{place}.{key}", "must be a-z, 0-9 and '_', and start with a letter; 32 characters at most")
    if len(set(types.values())) < len(types):
        reader.problem(place, "gives one type to two attributes: user_name_type, external_id_type and employee_type must differ")
    chosen = {}
    for key, words in SCIM_CHOICES.items():
        chosen[key] = reader.value(place, table, key, str, getattr(defaults, key))
        if chosen[key] not in words:
            reader.problem(f"{place}.{key}", f"must be one of {', '.join(words)}, not {chosen[key]!r}")
    return Scim(**chosen, **types)


def _program_name(reader: TomlReader, place: str, table: Mapping[str, Any], programs: Mapping[str, Program]) -> str:
    name: str = reader.value(place, table, "program", str, "", required=True)
    if name and name not in programs:
        reader.problem(f"{place}.program", f"names {name!r}, which is none of {', '.join(programs)}")
    return name
