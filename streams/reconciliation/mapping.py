"""Options of `loyalty reconcile source`, or a TOML file -> which column of an export says which part of a member."""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from schemas.contract import ATTRIBUTE_NAME, ATTRIBUTES_RESERVED, EXTERNAL_ID_TYPE, STATUSES_SETTABLE
from schemas.records import MemberStatus
from streams.domain.mastering import EXTERNAL_IDS, SEGMENTS, STATUS
from streams.errors import ConfigurationError
from streams.toml_lines import join
from streams.toml_reader import TomlReader

KEYS = ("id", "external_id", "version", "separator", "absent", "columns", "statuses")
SEPARATOR = ";"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportMapping:
    """What the columns of an export mean."""

    member_id: str = ""
    """Column with the member's id; empty: members are known by an external id alone."""
    external_id_type: str = ""
    external_id: str = ""
    """Column with an external id of that type."""
    version: str = ""
    """Column with the source's version of the row; empty: it has none."""
    parts: Mapping[str, str] = field(default_factory=dict)
    """Column -> part of the profile, named as in the mastering policy: an attribute, segments, status, external_ids.<type>."""
    statuses: Mapping[str, MemberStatus] = field(default_factory=dict)
    """The source's word for a status -> ours. Empty: it uses ours."""
    separator: str = SEPARATOR
    """Between the segments in one text."""
    absent: MemberStatus | None = None
    """What it says of a member that the export does not have them; None: nothing that an event could say."""

    @property
    def columns(self) -> list[str]:
        """All columns that the export must have."""
        return list(dict.fromkeys(name for name in (self.member_id, self.external_id, self.version, *self.parts) if name))


def read(path: Path | None, given: Mapping[str, Any]) -> ExportMapping:
    """The mapping in a TOML file, over which `given`, a table of the same form, prevails key by key; tables are joined.

    Raises ConfigurationError with every problem and its place.
    """
    document: dict[str, Any] = {}
    text = ""
    if path is not None:
        try:
            text = path.read_bytes().decode()
            document = tomllib.loads(text)
        except OSError as error:
            raise ConfigurationError(f"--mapping {path} cannot be read: {error}.") from error
        except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise ConfigurationError(f"--mapping {path} is not valid TOML in UTF-8: {error}.") from error
    for key, value in given.items():
        document[key] = {**document[key], **value} if isinstance(value, dict) and isinstance(document.get(key), dict) else value
    return parse(document, file=path.name if path is not None else "", text=text)


def parse(document: Mapping[str, Any], *, file: str = "", text: str = "") -> ExportMapping:
    """The mapping in a parsed table. Raises ConfigurationError with every problem and its place."""
    reader = TomlReader(file=file, text=text)
    reader.check_keys("", document, KEYS)
    member_id = reader.value("", document, "id", str, "")
    kind, external_id = _external_id(reader, document)
    if not member_id and not external_id:
        reader.problem("id", "or external_id (--id, --id-external) must name the column that tells whose row it is")
    parts = dict(_parts(reader, document))
    if kind and external_id in parts and parts[external_id] != EXTERNAL_IDS + kind:
        reader.problem(join("columns", external_id), f"is the external id of type {kind} already")
    version = reader.value("", document, "version", str, "")
    if not parts and not reader.problems:
        reader.problem("columns", "(--map) must name one column at least, and the part that it says")
    separator = reader.value("", document, "separator", str, SEPARATOR)
    if not separator:
        reader.problem("separator", "must not be empty")
    statuses = {}
    for word, name in _table(reader, document, "statuses"):
        status = _status(reader, join("statuses", word), name)
        if status is not None:
            statuses[word] = status
    absent = document.get("absent")
    found = None if absent is None else _status(reader, "absent", absent)
    if found is MemberStatus.ACTIVE:
        reader.problem("absent", "must be SUSPENDED or LEFT")
    reader.raise_problems()
    return ExportMapping(
        member_id=member_id, external_id_type=kind, external_id=external_id, version=version, parts=parts, statuses=statuses,
        separator=separator, absent=found,
    )  # fmt: skip


def _external_id(reader: TomlReader, document: Mapping[str, Any]) -> tuple[str, str]:
    """Type and column."""
    table = _table(reader, document, "external_id")
    if not table:
        return "", ""
    if len(table) > 1:
        reader.problem("external_id", "(--id-external) must have one type")
    kind, column = table[0]
    if not EXTERNAL_ID_TYPE.fullmatch(kind):
        reader.problem(join("external_id", kind), "must be named with a-z, 0-9 and '_', and start with a letter")
    if not isinstance(column, str) or not column:
        reader.problem(join("external_id", kind), "must name a column")
        return "", ""
    return kind, column


def _parts(reader: TomlReader, document: Mapping[str, Any]) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for column, part in _table(reader, document, "columns"):
        place = join("columns", column)
        if not isinstance(part, str) or not is_part(part):
            reader.problem(place, f"must be an attribute, segments, status or external_ids.<type>, not {part!r}")
        elif part in (earlier for _, earlier in found):
            reader.problem(place, f"is a second column for {part}")
        else:
            found.append((column, part))
    return found


def is_part(name: str) -> bool:
    """Whether a profile has a part of that name."""
    if name in (SEGMENTS, STATUS):
        return True
    if name.startswith(EXTERNAL_IDS):
        return EXTERNAL_ID_TYPE.fullmatch(name.removeprefix(EXTERNAL_IDS)) is not None
    return ATTRIBUTE_NAME.fullmatch(name) is not None and name not in ATTRIBUTES_RESERVED


def _table(reader: TomlReader, document: Mapping[str, Any], key: str) -> list[tuple[str, Any]]:
    return list(reader.value("", document, key, dict, {}).items())


def _status(reader: TomlReader, place: str, name: Any) -> MemberStatus | None:
    if name in [status.value for status in STATUSES_SETTABLE]:
        return MemberStatus(name)
    reader.problem(place, f"must be {', '.join(status.value for status in STATUSES_SETTABLE)}, not {name!r}")
    return None


def pairs(option: str, texts: tuple[str, ...]) -> dict[str, str]:
    """`left=right` of an option that can be given again and again. Raises ConfigurationError."""
    found: dict[str, str] = {}
    for text in texts:
        left, equals, right = text.rpartition("=")
        if not equals or not left or not right:
            raise ConfigurationError(f"{option} must have the form left=right, not {text!r}.")
        if left in found:
            raise ConfigurationError(f"{option} names {left!r} twice.")
        found[left] = right
    return found


NAME = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
"""A callable: module:attribute."""
