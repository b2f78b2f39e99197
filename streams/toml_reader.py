"""A parsed TOML table -> typed values; every problem is collected with its place and, when the text is known, its line."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from schemas.contract import PROGRAM_ID
from streams.errors import ConfigurationError
from streams.toml_lines import Lines, join

E = TypeVar("E", bound=StrEnum)

RFC_3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,6})?([Zz]|[+-]\d\d:\d\d)?")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong at one place of a file."""

    place: str
    what: str
    file: str = ""
    line: int | None = None
    """From 1; None when the text is not known."""

    def __str__(self) -> str:
        where = f"{self.file}{f' line {self.line}' if self.line else ''}: " if self.file else ""
        return f"{where}{self.place} {self.what}."


class FileError(ConfigurationError):
    """Values of a file are missing or malformed. `found` has the problems with their places."""

    def __init__(self, *found: Problem) -> None:
        self.found = found
        super().__init__(*map(str, found))


class TomlReader:
    """Typed access to tables that collects problems instead of raising at the first.

    `folder` is where relative `..._file` paths start; `file` and `text`, what problems are located in.
    """

    def __init__(self, folder: Path = Path("."), *, file: str = "", text: str = "") -> None:
        self.folder = folder
        self.problems: list[Problem] = []
        self._file = file
        self._text = text
        self._lines: Lines | None = None

    def problem(self, place: str, what: str) -> None:
        if self._text and self._lines is None:
            self._lines = Lines(self._text)
        line = self._lines.line_of(place) if self._lines else None
        self.problems.append(Problem(place, what, self._file, line))

    def raise_problems(self) -> None:
        """Raise FileError if there are any. In the order of the file, when that is known."""
        if self.problems:
            raise FileError(*sorted(self.problems, key=lambda problem: problem.line or 0))

    def tables(self, document: Mapping[str, Any], name: str, *, place: str = "", named: re.Pattern[str] = PROGRAM_ID, naming: str = "a-z, 0-9 and '-'"
               ) -> list[tuple[str, Mapping[str, Any]]]:  # fmt: skip
        """The tables of the table `name`, each with its key, which must look like `named`. `place`: where `document` is."""
        found: list[tuple[str, Mapping[str, Any]]] = []
        here = join(place, name)
        section = document.get(name, {})
        if not isinstance(section, dict):
            self.problem(here, "must be a table of tables")
            return found
        for key, table in section.items():
            if not isinstance(table, dict):
                self.problem(join(here, key), "must be a table")
            elif not named.fullmatch(key):
                self.problem(join(here, key), f"must be named with {naming}, 63 characters at most")
            else:
                found.append((key, table))
        return found

    def elements(self, place: str, table: Mapping[str, Any], key: str) -> list[tuple[str, Mapping[str, Any]]]:
        """The tables of an array of tables, each with its place."""
        found: list[tuple[str, Mapping[str, Any]]] = []
        for number, element in enumerate(self.value(place, table, key, list, [])):
            here = f"{join(place, key)}[{number}]"
            if isinstance(element, dict):
                found.append((here, element))
            else:
                self.problem(here, "must be a table")
        return found

    def check_keys(self, place: str, table: Mapping[str, Any], allowed: Collection[str]) -> None:
        for key in table:
            if key not in allowed:
                self.problem(join(place, key), f"is not known here; known are {', '.join(sorted(allowed))}")

    def value(self, place: str, table: Mapping[str, Any], key: str, kind: type, default: Any = None, *, required: bool = False) -> Any:
        given = table.get(key)
        if given is None:
            if required:
                self.problem(join(place, key), "is required")
            return default
        if not isinstance(given, kind) or (kind is int and isinstance(given, bool)):
            self.problem(join(place, key), f"must be {_KIND_NAMES[kind]}, not {_KIND_NAMES.get(type(given), type(given).__name__)}")
            return default
        return given

    def whole(self, place: str, table: Mapping[str, Any], key: str, default: int, minimum: int = 0, maximum: int | None = None) -> int:
        number: int | None = self.value(place, table, key, int)
        if number is None:
            return default
        if number < minimum:
            self.problem(join(place, key), f"must be {minimum} or more, not {number}")
        if maximum is not None and number > maximum:
            self.problem(join(place, key), f"must be {maximum} or less, not {number}")
        return number

    def optional(self, place: str, table: Mapping[str, Any], key: str, minimum: int = 1, maximum: int | None = None) -> int | None:
        """A whole number that has no default."""
        return self.whole(place, table, key, minimum, minimum, maximum) if table.get(key) is not None else None

    def choice(self, place: str, table: Mapping[str, Any], key: str, options: type[E], default: E, *, required: bool = False) -> E:
        """A member of an enum, by its value."""
        given = self.value(place, table, key, str, None, required=required)
        if given is None:
            return default
        try:
            return options(given)
        except ValueError:
            self.problem(join(place, key), f"must be one of {', '.join(options)}, not {given!r}")
            return default

    def texts(self, place: str, table: Mapping[str, Any], key: str) -> frozenset[str]:
        """A list of names, each once."""
        given = self.value(place, table, key, list, [])
        for number, name in enumerate(given):
            if not isinstance(name, str) or not name:
                self.problem(f"{join(place, key)}[{number}]", "must be a text that is not empty")
            elif name in given[:number]:
                self.problem(f"{join(place, key)}[{number}]", f"names {name!r} a second time")
        return frozenset(str(name) for name in given)

    def instant_ms(self, place: str, table: Mapping[str, Any], key: str) -> int | None:
        """Milliseconds of a time with its zone: a time of TOML, or RFC 3339 in a text as JSON has it."""
        given = table.get(key)
        if isinstance(given, str):
            if not RFC_3339.fullmatch(given):
                self.problem(join(place, key), f"must be a time with its zone such as 2026-12-01T00:00:00Z, not {given!r}")
                return None
            try:
                given = datetime.fromisoformat(given.upper())
            except ValueError as error:
                self.problem(join(place, key), f"is not a time: {error}")
                return None
            table = {key: given}
        moment: datetime | None = self.value(place, table, key, datetime)
        if moment is None:
            return None
        if moment.tzinfo is None:
            self.problem(join(place, key), "needs a time zone, for example 2026-12-01T00:00:00Z")
            return None
        return (moment - EPOCH) // timedelta(milliseconds=1)

    def url(self, place: str, table: Mapping[str, Any], key: str, *, required: bool = True) -> str:
        value: str = self.value(place, table, key, str, "", required=required)
        if value and (urlsplit(value).scheme not in ("http", "https") or not urlsplit(value).netloc):
            self.problem(join(place, key), f"must be an http:// or https:// URL, not {value!r}")
        return value

    def secret(self, place: str, table: Mapping[str, Any], key: str, *, required: bool = True) -> str:
        file_name: str = self.value(place, table, f"{key}_file", str, "")
        if not file_name:
            return str(self.value(place, table, key, str, "", required=required))
        try:
            return (self.folder / file_name).read_text().strip()
        except OSError as error:
            self.problem(f"{place}.{key}_file", f"cannot be read: {error}")
            return ""

    def names(self, place: str, table: Mapping[str, Any], key: str, allowed: Collection[str]) -> frozenset[str]:
        """A list of names that must be among the allowed ones."""
        given = self.value(place, table, key, list, [])
        for name in given:
            self.check_name(join(place, key), name, allowed)
        return frozenset(str(name) for name in given)

    def check_name(self, place: str, name: Any, allowed: Collection[str]) -> None:
        if name not in list(allowed):  # A name that is a list or a table has no hash.
            self.problem(place, f"names {name!r}, which is none of {', '.join(allowed)}" if allowed else f"names {name!r}, but there are none")


_KIND_NAMES: dict[type, str] = {
    str: "a text", int: "a whole number", list: "a list", dict: "a table", datetime: "a time with its zone", float: "a number",
    bool: "true or false",
}  # fmt: skip
