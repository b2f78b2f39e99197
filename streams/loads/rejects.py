"""Rows that were not taken, with the reason: kept as JSON lines while a load runs, written at its end in the form of the input, to be mended.

The file is an input again: its columns _file, _line and _reason are skipped.
"""

import csv
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from streams.loads.mapping import IN_THE_INPUT
from streams.loads.sources import CSV, JSON_LINES, Layout, Part

RAW = "_raw"
"""Where a line that could not be read as a row stands."""


def as_json(row: Any) -> bytes:
    """A row as it was read; what JSON does not know becomes text."""
    return json.dumps(row, default=str).encode()


class Rejects:
    """Appends. What was appended after a point that is on record can be taken back."""

    def __init__(self, path: Path, *, keep_bytes: int = 0) -> None:
        self._path = path
        self._file = path.open("ab")
        self._file.truncate(keep_bytes)
        self._file.seek(keep_bytes)
        self.bytes = keep_bytes

    def add(self, part: int, line: int, reason: str, source: bytes) -> None:
        head = json.dumps([part, line, reason]).encode()
        self.bytes += self._file.write(head[:-1] + b"," + source + b"]\n")

    def sync(self) -> int:
        """All so far is on the disk; how many bytes that are."""
        self._file.flush()
        os.fsync(self._file.fileno())
        return self.bytes

    def close(self) -> None:
        self._file.close()

    def __iter__(self) -> Iterator[tuple[int, int, str, Any]]:
        self._file.flush()
        with self._path.open("rb") as file:
            for text in file:
                part, line, reason, source = json.loads(text)
                yield part, line, reason, source


def form_of(parts: list[Part]) -> str:
    """CSV if all of the input is, otherwise JSON lines."""
    return CSV if all(part.format == CSV for part in parts) else JSON_LINES


def write(rejects: Rejects, target: Path, names: list[str], form: str, layout: Layout) -> None:
    """All rejected rows into a file. `names`: of the input's files, by their numbers."""
    temporary = target.with_name(target.name + ".part")
    if form == CSV:
        _write_csv(rejects, temporary, names, layout)
    else:
        with temporary.open("wb") as file:
            for part, line, reason, source in rejects:
                values = source if isinstance(source, dict) else {RAW: source}
                file.write(as_json({"_file": names[part], "_line": line, "_reason": reason} | values) + b"\n")
    temporary.replace(target)


def _write_csv(rejects: Rejects, path: Path, names: list[str], layout: Layout) -> None:
    columns: dict[str, None] = {}
    for _, _, _, source in rejects:
        columns |= dict.fromkeys(source if isinstance(source, dict) else ())
    for name in IN_THE_INPUT:
        columns.pop(name, None)
    with path.open("w", encoding=layout.encoding, newline="") as file:
        writer = csv.writer(file, delimiter=layout.delimiter)
        writer.writerow([*IN_THE_INPUT, *columns])
        for part, line, reason, source in rejects:
            # Cells that do not fit the header stay as they are: somebody has to put them right.
            cells = [source.get(column, "") for column in columns] if isinstance(source, dict) else source if isinstance(source, list) else []
            writer.writerow([names[part], line, reason, *cells])
