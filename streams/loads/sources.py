"""Files, folders, addresses, standard input -> rows, in CSV, JSON lines, Parquet or Avro. What cannot be read whole is a fatal problem."""

import gzip
import shutil
import sys
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from streams.errors import ConfigurationError, UnavailableError
from streams.rows import Problem, Record, csv_rows, json_rows

CSV, JSON_LINES, PARQUET, AVRO = "csv", "jsonl", "parquet", "avro"
FORMATS = (CSV, JSON_LINES, PARQUET, AVRO)
SUFFIXES = {".csv": CSV, ".jsonl": JSON_LINES, ".ndjson": JSON_LINES, ".parquet": PARQUET, ".avro": AVRO}
GZIP_SUFFIX, GZIP_MAGIC = ".gz", b"\x1f\x8b"
OTHER_ENCODINGS = (b"\xff\xfe", b"\xfe\xff")
STANDARD_INPUT = "-"
TIMEOUT_S = 60
PARQUET_ROWS = 2_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One file of the input."""

    name: str
    """As it is told to people."""
    path: Path
    format: str

    @property
    def size_bytes(self) -> int:
        return self.path.stat().st_size


def find(sources: Sequence[str], wanted: str, folder: Path) -> list[Part]:
    """The files of all sources, in their order; those of a folder by name. What is no file is put into `folder` first. `wanted`: a format.

    Raises ConfigurationError for what is no source, or of no known format, and UnavailableError for an address that does not answer.
    """
    found: list[Part] = []
    for source in sources:
        if source == STANDARD_INPUT:
            path = folder / "input-0"
            with path.open("wb") as file:
                shutil.copyfileobj(sys.stdin.buffer, file)
            found.append(Part(name="standard input", path=path, format=_format("", wanted, "standard input")))
        elif urlsplit(source).scheme in ("http", "https"):
            name = urlsplit(source).path.rpartition("/")[2]
            kind = _format(name, wanted, _shown(source))
            path = folder / f"input-{len(found)}"
            _download(source, path)
            found.append(Part(name=name or _shown(source), path=path, format=kind))
        elif (path := Path(source)).is_dir():
            files = sorted(file for file in path.rglob("*") if file.is_file() and not file.name.startswith(".") and (wanted or _by_name(file.name)))
            if not files:
                raise ConfigurationError(f"{source} has no file whose name ends with {', '.join(SUFFIXES)}, or that and {GZIP_SUFFIX}: give --format.")
            found += [Part(name=str(file.relative_to(path)), path=file, format=_format(file.name, wanted, str(file))) for file in files]
        elif path.is_file():
            found.append(Part(name=path.name, path=path, format=_format(path.name, wanted, source)))
        else:
            raise ConfigurationError(f"{source} is neither a file, a folder, an address beginning with http:// or https://, nor '-'.")
    return found


def _by_name(name: str) -> str:
    return SUFFIXES.get(Path(name.lower().removesuffix(GZIP_SUFFIX)).suffix, "")


def _format(name: str, wanted: str, shown: str) -> str:
    kind = wanted or _by_name(name)
    if not kind:
        raise ConfigurationError(f"What {shown} holds cannot be told by its name: give --format {', '.join(FORMATS[:-1])} or {FORMATS[-1]}.")
    return kind


def _shown(url: str) -> str:
    """Without user, password and query, where secrets are."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _download(url: str, path: Path) -> None:
    shown = _shown(url)
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as response, path.open("wb") as file:
            shutil.copyfileobj(response, file)
            promised = response.headers.get("Content-Length")
    except (urllib.error.URLError, OSError, ValueError) as error:
        raise UnavailableError(f"{shown} cannot be read: {error}") from error
    if promised is not None and int(promised) != path.stat().st_size:
        raise UnavailableError(f"{shown} broke off after {path.stat().st_size:,} of {int(promised):,} bytes")


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How CSV is written."""

    delimiter: str = ","
    encoding: str = "UTF-8"


def rows(
    part: Part, layout: Layout, *, advance: Callable[[int], None] = lambda _: None, on_header: Callable[[list[str]], None] = lambda _: None
) -> Iterator[Record | Problem]:
    """The rows of one file. `advance` is told how many of its bytes have been read, from time to time; `on_header` the columns of CSV.

    Parquet's and Avro's lines are numbers of rows. Numbers with decimals in JSON are Decimal.
    """
    line = 0
    try:
        with ExitStack() as stack:
            raw: IO[bytes] = stack.enter_context(part.path.open("rb"))
            file = stack.enter_context(gzip.GzipFile(fileobj=raw)) if raw.peek(2)[:2] == GZIP_MAGIC else raw  # type: ignore[attr-defined]
            for one in _read(part.format, file, layout, on_header):
                line = one.line if isinstance(one, Problem) else one[0]
                if line % 1_000 == 0:
                    advance(raw.tell())
                yield one
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        yield Problem(line + 1, f"breaks off or is damaged: {error}", is_fatal=True)
    except OSError as error:
        raise ConfigurationError(f"{part.name} cannot be read: {error}.") from error
    advance(part.size_bytes)


def _read(kind: str, file: Any, layout: Layout, on_header: Callable[[list[str]], None]) -> Iterator[Record | Problem]:
    if kind in (CSV, JSON_LINES):
        if file.peek(2)[:2] in OTHER_ENCODINGS:
            yield Problem(1, "is in UTF-16: export it in UTF-8", is_fatal=True)
        elif kind == CSV:
            yield from csv_rows(file, encoding=layout.encoding, delimiter=layout.delimiter, on_header=on_header)
        else:
            yield from json_rows(file, parse_float=Decimal)
    else:
        yield from _parquet(file) if kind == PARQUET else _avro(file)


def _parquet(file: Any) -> Iterator[Record | Problem]:
    import pyarrow  # A third of a second, for those who have such files.
    from pyarrow import parquet

    line = 0
    try:
        table = parquet.ParquetFile(file)
        names = table.schema_arrow.names
        if len(set(names)) < len(names):
            yield Problem(1, "has columns of the same name", is_fatal=True)
            return
        for batch in table.iter_batches(batch_size=PARQUET_ROWS):
            for values in batch.to_pylist():
                line += 1
                yield line, values
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
        if isinstance(error, EOFError | gzip.BadGzipFile):
            raise
        yield Problem(line + 1, f"is not Parquet, or is damaged: {error}", is_fatal=True)


def _avro(file: Any) -> Iterator[Record | Problem]:
    import fastavro

    line = 0
    try:
        for value in fastavro.reader(file):
            line += 1
            yield (line, value) if isinstance(value, dict) else Problem(line, "must be a record")
    except (EOFError, zlib.error):
        raise
    except Exception as error:  # Bytes that are none make fastavro raise errors of many types.
        yield Problem(line + 1, f"is not an Avro container file, or is damaged: {error}", is_fatal=True)
