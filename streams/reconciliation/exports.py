"""An export of a source (CSV, JSON lines, or a connector's callable) -> rows, checked one by one. Every problem names its line."""

import importlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from schemas.codec import INT64_MAX, INT64_MIN
from schemas.contract import EXTERNAL_ID_CHARACTERS_MAX, ID_CHARACTERS_MAX, STATUSES_SETTABLE
from schemas.records import MemberStatus
from streams.domain.mastering import SEGMENTS, STATUS
from streams.errors import ConfigurationError
from streams.reconciliation.mapping import NAME, ExportMapping
from streams.rows import Problem, Record, csv_rows, json_rows

SUFFIXES = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
FORMATS = ("csv", "jsonl")
TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:?\d\d)")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
OTHER_ENCODINGS = (b"\xff\xfe", b"\xfe\xff")

Said = str | tuple[str, ...] | None
"""What a row says of a part: a text; tags, sorted; None: the source has nothing there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One member as the source has them."""

    line: int
    """Of the file, from 1; of a callable's rows, the number."""
    member_id: str = ""
    """Empty: known by the external id alone."""
    external_id: str = ""
    said: Mapping[str, Said] = field(default_factory=dict)
    """Part -> the source's word. A part that the row leaves out is not compared."""
    version: int | None = None


def rows(source: str, mapping: ExportMapping, wanted: str = "", advance: Callable[[int], None] = lambda _: None) -> Iterator[Row | Problem]:
    """The rows of a file or of a callable `module:attribute`, in their order. `wanted`: csv or jsonl, by default what the name ends with.

    `advance` is told how many bytes have been read, or of a callable how many rows. A column that is mapped and that no row has is a problem
    of the last line. Raises ConfigurationError for what is no export at all.
    """
    missing = set(mapping.columns)
    line = 0
    for one in _records(source, wanted, advance):
        if isinstance(one, Problem):
            yield one
            continue
        line, values = one
        missing -= values.keys()
        yield _row(line, values, mapping)
    for name in sorted(missing):
        yield Problem(max(line, 1), f"no column {name!r}, which is mapped, up to here" if line else f"no column {name!r}, which is mapped: there are no rows")


def _records(source: str, wanted: str, advance: Callable[[int], None]) -> Iterator[Record | Problem]:
    path = Path(source)
    if not path.exists() and NAME.fullmatch(source):
        yield from _called(source, advance)
        return
    kind = wanted or SUFFIXES.get(path.suffix.lower(), "")
    if not kind:
        raise ConfigurationError(f"{source} ends with none of {', '.join(SUFFIXES)}: say --format csv or --format jsonl.")
    try:
        with path.open("rb") as file:
            if file.read(2) in OTHER_ENCODINGS:
                raise ConfigurationError(f"{source} is in UTF-16: export it in UTF-8.")
            file.seek(0)
            yield from (csv_rows if kind == "csv" else json_rows)(file, advance)
    except OSError as error:
        raise ConfigurationError(f"{source} cannot be read: {error}.") from error


def _called(name: str, advance: Callable[[int], None]) -> Iterator[Record | Problem]:
    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(f"{name} is neither a file nor a callable that can be imported: {error}.") from error
    if not callable(found):
        raise ConfigurationError(f"{name} is not callable: it must return an iterator of rows, each a mapping of column to value.")
    for number, row in enumerate(found(), 1):
        yield (number, row) if isinstance(row, Mapping) else Problem(number, f"a row must be a mapping of column to value, not {type(row).__name__}")
        advance(number)


def _row(line: int, values: Mapping[str, Any], mapping: ExportMapping) -> Row | Problem:
    found: list[str] = []
    member_id = _identifier(values, mapping.member_id, ID_CHARACTERS_MAX, found)
    external_id = _identifier(values, mapping.external_id, EXTERNAL_ID_CHARACTERS_MAX, found)
    if not member_id and not external_id and not found:
        found.append(f"{' and '.join(repr(name) for name in (mapping.member_id, mapping.external_id) if name)} must say whose row it is")
    said: dict[str, Said] = {}
    for column, part in mapping.parts.items():
        if column in values:
            said[part] = _said(column, part, values[column], mapping, found)
    version = _version(values, mapping.version, found)
    if found:
        return Problem(line, "; ".join(found))
    return Row(line=line, member_id=member_id, external_id=external_id, said=said, version=version)


def _identifier(values: Mapping[str, Any], column: str, characters_max: int, found: list[str]) -> str:
    if not column:
        return ""
    text = _text(column, values.get(column), found)
    if text and not (len(text) <= characters_max and text.isprintable()):
        found.append(f"{column!r} must have 1 to {characters_max} printable characters")
    return text or ""


def _text(column: str, value: Any, found: list[str]) -> str | None:
    """An empty text is none: CSV cannot tell them apart."""
    if value is None or isinstance(value, str):
        return value or None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    found.append(f"{column!r} must be a text or a number, not {type(value).__name__}")
    return None


def _said(column: str, part: str, value: Any, mapping: ExportMapping, found: list[str]) -> Said:
    if part == SEGMENTS:
        if isinstance(value, list | tuple):
            if not all(isinstance(tag, str) and tag for tag in value):
                found.append(f"{column!r} must be a list of texts that are not empty")
                return ()
            return tuple(sorted(set(value)))
        tags = (_text(column, value, found) or "").split(mapping.separator)
        return tuple(sorted({tag.strip() for tag in tags} - {""}))
    text = _text(column, value, found)
    if part != STATUS:
        return text
    status = mapping.statuses.get(text or "")
    if status is None and not mapping.statuses and text in [one.value for one in STATUSES_SETTABLE]:
        status = MemberStatus(text)
    if status is None:
        known = mapping.statuses or [one.value for one in STATUSES_SETTABLE]
        found.append(f"{column!r} must be one of {', '.join(known)}, not {text!r}: --status says what a source's word means")
        return None
    return status.value


def _version(values: Mapping[str, Any], column: str, found: list[str]) -> int | None:
    """A whole number, or a time in milliseconds since 1970."""
    if not column:
        return None
    value = values.get(column)
    number: int | None = None
    if isinstance(value, int) and not isinstance(value, bool):
        number = value
    elif isinstance(value, str) and re.fullmatch(r"-?\d{1,19}", value):
        number = int(value)
    elif isinstance(value, str) and TIME.fullmatch(value):
        try:
            number = (datetime.fromisoformat(value.upper()) - EPOCH) // timedelta(milliseconds=1)
        except (ValueError, OverflowError):
            number = None
    if number is None or not INT64_MIN <= number <= INT64_MAX:
        found.append(f"{column!r} must be a whole number or a time with its zone such as 2026-12-01T00:00:00Z, not {value!r}")
        return None
    return number
