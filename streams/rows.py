"""Bytes of a CSV or JSON-lines file -> its rows with their lines. What is wrong with a line, or ends the reading, is a value, too."""

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Problem:
    """A row that cannot be used, or a file that is none."""

    line: int
    what: str
    is_fatal: bool = field(default=False, compare=False)
    """What follows in the file cannot be read, or cannot be trusted."""
    raw: Any = field(default=None, compare=False)
    """As far as it was read: the cells of CSV, the text of JSON."""

    def __str__(self) -> str:
        return f"line {self.line}: {self.what}."


Record = tuple[int, Mapping[str, Any]]
"""Line, from 1, and column -> value."""


class _Undecodable(Exception):
    def __init__(self, line: int) -> None:
        self.line = line
        super().__init__(line)


def _lines(file: Iterable[bytes], advance: Callable[[int], None], encoding: str) -> Iterator[tuple[int, str]]:
    read = 0
    for number, raw in enumerate(file, 1):
        read += len(raw)
        advance(read)
        try:
            text = raw.decode(encoding)
        except UnicodeDecodeError as error:
            raise _Undecodable(number) from error
        yield number, text.removeprefix("\ufeff") if number == 1 else text


def csv_rows(
    file: Iterable[bytes], advance: Callable[[int], None] = lambda _: None, *, encoding: str = "UTF-8", delimiter: str = ",",
    on_header: Callable[[list[str]], None] = lambda _: None,
) -> Iterator[Record | Problem]:  # fmt: skip
    """Rows of CSV with a header. `advance` is told how many bytes have been read; the encoding must have line ends of one byte."""
    reader = csv.reader((text for _, text in _lines(file, advance, encoding)), strict=True, delimiter=delimiter)
    header: list[str] | None = None
    try:
        for cells in reader:
            if not cells:
                continue
            if header is None:
                header = cells
                doubled = sorted({name for name in header if header.count(name) > 1})
                if doubled:
                    yield Problem(reader.line_num, f"the header has {', '.join(map(repr, doubled))} more than once", is_fatal=True)
                    return
                on_header(header)
            elif len(cells) != len(header):
                yield Problem(reader.line_num, f"has {len(cells)} cells, the header {len(header)}", raw=cells)
            else:
                yield reader.line_num, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        yield Problem(max(reader.line_num, 1), f"is not CSV: {error}", is_fatal=True)
    except _Undecodable as error:
        yield Problem(error.line, f"is not {encoding}", is_fatal=True)
    if header is None:
        yield Problem(1, "the header is missing: the file is empty", is_fatal=True)


def json_rows(
    file: Iterable[bytes], advance: Callable[[int], None] = lambda _: None, *, parse_float: Callable[[str], Any] = float
) -> Iterator[Record | Problem]:
    """Objects, one a line. An empty line is none."""
    try:
        for number, text in _lines(file, advance, "UTF-8"):
            if not text.strip():
                continue
            try:
                value = json.loads(text, parse_float=parse_float, object_pairs_hook=_each_once)
            except (ValueError, RecursionError) as error:
                yield Problem(number, f"is not JSON: {error}", raw=text)
                continue
            yield (number, value) if isinstance(value, dict) else Problem(number, "must be a JSON object", raw=text)
    except _Undecodable as error:
        yield Problem(error.line, "is not UTF-8", is_fatal=True)


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} is there more than once")
    return found
