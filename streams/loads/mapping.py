"""A TOML file -> what the columns of an input mean. Without one, columns are named like the fields of the record."""

import codecs
import string
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from schemas.contract import STATUSES_SETTABLE, Command
from schemas.records import (
    Enrolment,
    MemberOperation,
    MemberOperationKind,
    MemberStatus,
    OfferActivation,
    ProfileChange,
    Transaction,
    TransactionKind,
)
from streams.errors import ConfigurationError
from streams.loads.sources import Layout
from streams.toml_lines import join
from streams.toml_reader import TomlReader

KEYS = ("id", "columns", "constants", "times", "kinds", "statuses", "separator", "empty", "csv")
IN_THE_INPUT = ("_file", "_line", "_reason")
"""Columns of a file of rejected rows, which is an input again: they are skipped."""

TIMES = frozenset({"occurred_at", "expires_at", "available_from", "status_from", "valid_until"})
"""Given as texts or times; each has a field of the record in milliseconds beside it."""
MAPS = ("attributes", "external_ids")
COMMON = ("member_id", "id", "occurred_at", "occurred_at_ms", "program_id", "source_system")
FIELDS: Mapping[type[Command], tuple[str, ...]] = {
    Transaction: (
        *COMMON, "transaction_id", "kind", "points", "amount", "amount_minor", "currency", "category", "nights", "property_id", "line_items",
        "reverses_transaction_id", "reward_code", "reason", "actor", "related_transaction_id", "to_member_id", "voucher_code", "expires_at",
        "expires_at_ms", "available_from", "available_from_ms", "pending",
    ),
    Enrolment: (*COMMON, "event_id", "attributes", "segments", "source_version", "external_ids", "actor"),
    ProfileChange: (
        *COMMON, "event_id", "attributes", "segments", "source_version", "external_ids", "actor", "status", "status_reason", "status_from",
        "status_from_ms", "status_from_date",
    ),
    OfferActivation: (*COMMON, "event_id", "offer_id"),
    MemberOperation: (*COMMON, "event_id", "kind", "target_member_id", "tier", "valid_until", "valid_until_ms", "reason", "actor"),
}  # fmt: skip
STREAMS: Mapping[str, type[Command]] = {
    "transactions": Transaction, "enrolments": Enrolment, "profile-changes": ProfileChange, "offer-activations": OfferActivation,
    "member-operations": MemberOperation,
}  # fmt: skip

Template = tuple[tuple[str, str], ...]
"""A text, and the column that follows it or an empty name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadMapping:
    """What the columns of an input mean."""

    record: type[Command]
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Column -> fields. Empty: every column that is named like a field is that field."""
    constants: Mapping[str, Any] = field(default_factory=dict)
    """Field -> what it is where no column says it."""
    id_template: Template = ()
    time_format: str = ""
    """As in strptime; unix_s or unix_ms; empty: RFC 3339."""
    time_zone: str = ""
    """Of times that do not name one; empty: such a row is rejected."""
    fold: int | None = None
    """Which of two equal local times is meant when clocks go back, 0 or 1; None: such a row is rejected."""
    kinds: Mapping[str, TransactionKind | MemberOperationKind] = field(default_factory=dict)
    """The source's word for a kind -> ours. Empty: it uses ours."""
    statuses: Mapping[str, MemberStatus] = field(default_factory=dict)
    separator: str = ";"
    """Between the segments in one text."""
    empty_clears: bool = False
    """Profile changes: an empty value clears the attribute or the external id. Otherwise it says nothing."""
    decimal_mark: str = "."
    layout: Layout = Layout()

    @property
    def named(self) -> list[str]:
        """All columns that an input must have."""
        return list(dict.fromkeys([*(column for _, column in self.id_template if column), *self.columns]))


def is_field(record: type[Command], name: str) -> bool:
    """Whether the record has such a field, for a column or a constant."""
    first, dot, rest = name.partition(".")
    return first in FIELDS[record] and (not dot or bool(rest) and first in MAPS)


def read(path: Path | None, stream: str) -> LoadMapping:
    """The mapping in a file, for a stream. Raises ConfigurationError with every problem and its line."""
    record = STREAMS[stream]
    if path is None:
        return LoadMapping(record=record)
    try:
        text = path.read_bytes().decode()
        document = tomllib.loads(text)
    except OSError as error:
        raise ConfigurationError(f"--mapping {path} cannot be read: {error}.") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigurationError(f"--mapping {path} is not valid TOML in UTF-8: {error}.") from error
    return parse(document, record, file=path.name, text=text)


def parse(document: Mapping[str, Any], record: type[Command], *, file: str = "", text: str = "") -> LoadMapping:
    """The mapping in a parsed table. Raises ConfigurationError with every problem and its place."""
    reader = TomlReader(file=file, text=text)
    reader.check_keys("", document, KEYS)
    columns = _columns(reader, document, record)
    constants = _constants(reader, document, record)
    id_template = _template(reader, document)
    time_format, time_zone, fold = _times(reader, document)
    layout, decimal_mark = _csv(reader, document)
    separator = reader.value("", document, "separator", str, ";")
    if not separator:
        reader.problem("separator", "must not be empty")
    empty = reader.value("", document, "empty", str, "unchanged")
    if empty not in ("unchanged", "clears"):
        reader.problem("empty", f"must be unchanged or clears, not {empty!r}")
    mapping = LoadMapping(
        record=record, columns=columns, constants=constants, id_template=id_template, time_format=time_format, time_zone=time_zone, fold=fold,
        kinds=_words(reader, document, "kinds", [kind for kind in kind_of(record) if kind.value != "UNKNOWN"]),
        statuses=_words(reader, document, "statuses", list(STATUSES_SETTABLE)),
        separator=separator, empty_clears=empty == "clears", decimal_mark=decimal_mark, layout=layout,
    )  # fmt: skip
    reader.raise_problems()
    return mapping


def _table(reader: TomlReader, document: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    table: Mapping[str, Any] = reader.value("", document, key, dict, {})
    return table


def _columns(reader: TomlReader, document: Mapping[str, Any], record: type[Command]) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    by_field: dict[str, str] = {}
    for column, given in _table(reader, document, "columns").items():
        names = [given] if isinstance(given, str) else given
        if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
            reader.problem(join("columns", column), "must be the name of a field, or a list of such names")
            continue
        for name in names:
            if not is_field(record, name):
                reader.problem(join("columns", column), f"names {name!r}, which is no field of {record.__name__}: {', '.join(FIELDS[record])}")
            elif name in by_field:
                reader.problem(join("columns", column), f"says {name!r}, which {by_field[name]!r} says already")
            by_field[name] = column
        found[column] = tuple(names)
    return found


def _constants(reader: TomlReader, document: Mapping[str, Any], record: type[Command]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in _table(reader, document, "constants").items():
        if not is_field(record, name) or name in ("id", "transaction_id", "event_id"):
            reader.problem(join("constants", name), f"is no field of {record.__name__} that all rows can have in common")
        found[name] = value
    return found


def kind_of(record: type[Command]) -> type[TransactionKind] | type[MemberOperationKind]:
    """The enum of the record's field `kind`."""
    return MemberOperationKind if record is MemberOperation else TransactionKind


def _template(reader: TomlReader, document: Mapping[str, Any]) -> Template:
    text = reader.value("", document, "id", str, "")
    try:
        parts = tuple((literal, column) for literal, column, _, _ in string.Formatter().parse(text))
    except ValueError as error:
        reader.problem("id", f"is not a text with columns in braces such as pms:{{folio}}: {error}")
        return ()
    if text and not any(column for _, column in parts):
        reader.problem("id", "must name a column in braces, for example pms:{folio}: rows need ids of their own")
    return tuple((literal, column or "") for literal, column in parts)


def _times(reader: TomlReader, document: Mapping[str, Any]) -> tuple[str, str, int | None]:
    table = _table(reader, document, "times")
    reader.check_keys("times", table, ("format", "time_zone", "twice"))
    zone = reader.value("times", table, "time_zone", str, "")
    try:
        ZoneInfo(zone or "UTC")
    except (OSError, ValueError, KeyError):
        reader.problem("times.time_zone", f"must be a name such as Europe/Berlin, not {zone!r}")
    twice = reader.value("times", table, "twice", str, "reject")
    if twice not in ("reject", "first", "second"):
        reader.problem("times.twice", f"must be reject, first or second, not {twice!r}")
    return reader.value("times", table, "format", str, ""), zone, {"first": 0, "second": 1}.get(twice)


def _csv(reader: TomlReader, document: Mapping[str, Any]) -> tuple[Layout, str]:
    table = _table(reader, document, "csv")
    reader.check_keys("csv", table, ("delimiter", "encoding", "decimal_mark"))
    delimiter = reader.value("csv", table, "delimiter", str, ",")
    if len(delimiter) != 1 or delimiter in '"\r\n':
        reader.problem("csv.delimiter", "must be one character")
    encoding = reader.value("csv", table, "encoding", str, "UTF-8")
    try:
        if "\n".encode(codecs.lookup(encoding).name) != b"\n":
            reader.problem("csv.encoding", f"{encoding} has line ends of more than one byte: export it in UTF-8")
    except (LookupError, ValueError):
        reader.problem("csv.encoding", f"must be an encoding such as UTF-8 or windows-1252, not {encoding!r}")
    mark = reader.value("csv", table, "decimal_mark", str, ".")
    if mark not in (".", ","):
        reader.problem("csv.decimal_mark", "must be '.' or ','")
    return Layout(delimiter=delimiter, encoding=encoding), mark


def _words(reader: TomlReader, document: Mapping[str, Any], key: str, known: list[Any]) -> dict[str, Any]:
    """The source's words for the symbols of an enum."""
    by_name = {symbol.value: symbol for symbol in known}
    found = {}
    for word, name in _table(reader, document, key).items():
        if isinstance(name, str) and name in by_name:
            found[word] = by_name[name]
        else:
            reader.problem(join(key, word), f"must be one of {', '.join(by_name)}, not {name!r}")
    return found
