"""Commands of a load in a file, encoded, in the order in which they are sent; rows are found by number. And rows sorted out by member.

What was checked is what is sent, whatever becomes of the source meanwhile; and memory does not grow with the input.
"""

import heapq
import struct
import tempfile
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import blake2b, sha256
from itertools import islice
from pathlib import Path
from typing import IO

ENTRY = struct.Struct("<HIIIQq")
"""Lengths of key, value and source; number of the file; line; effective time in ms."""
INDEXED_ROWS = 64
"""Every so many rows there is an offset, to find the others from."""
SORTED_ROWS = 200_000
"""Rows that are sorted in memory at once."""
BUFFER_BYTES = 1 << 20

BUCKETS = 256
BUCKET_BYTES = 16_384
SEEN = struct.Struct("<8s8s8sqQ")
"""Hashes of member, of id and of content; effective time in ms; row."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One command, and what it was made of."""

    part: int
    line: int
    occurred_at_ms: int
    key: bytes
    value: bytes
    """As it is in the topic."""
    source: bytes
    """The row as JSON, for the file of rejected rows."""


class Writer:
    """Entries -> a file, its index, and a hash over all that is sent."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("wb", BUFFER_BYTES)
        self._digest = sha256()
        self._index = array("Q")
        self._at = 0
        self.rows = 0

    def add(self, entry: Entry) -> None:
        if self.rows % INDEXED_ROWS == 0:
            self._index.append(self._at)
        head = ENTRY.pack(len(entry.key), len(entry.value), len(entry.source), entry.part, entry.line, entry.occurred_at_ms)
        sent = entry.key + entry.value
        self._file.write(head + sent + entry.source)
        self._digest.update(len(sent).to_bytes(4, "big") + sent)
        self._at += len(head) + len(sent) + len(entry.source)
        self.rows += 1

    def close(self) -> str:
        """The hash, 64 hex characters. The plan is on the disk then."""
        self._file.close()
        index_of(self._path).write_bytes(self._index.tobytes())
        return self._digest.hexdigest()


def index_of(path: Path) -> Path:
    return path.with_suffix(".index")


class Reader:
    """Entries of a plan, from a row on or one by one."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._index = array("Q")
        self._index.frombytes(index_of(path).read_bytes())
        self._single = path.open("rb")

    def close(self) -> None:
        self._single.close()

    def entries(self, first_row: int = 0) -> Iterator[tuple[int, Entry]]:
        """Row and entry, from that row on."""
        with self._path.open("rb", BUFFER_BYTES) as file:
            yield from self._from(file, first_row)

    def entry(self, row: int) -> Entry:
        """One row; costs reading 64 at most."""
        return next(self._from(self._single, row))[1]

    def _from(self, file: IO[bytes], first_row: int) -> Iterator[tuple[int, Entry]]:
        block = first_row // INDEXED_ROWS
        if block >= len(self._index):
            return
        file.seek(self._index[block])
        row = block * INDEXED_ROWS
        while head := file.read(ENTRY.size):
            key, value, source, part, line, occurred_at_ms = ENTRY.unpack(head)
            body = file.read(key + value + source)
            if row >= first_row:
                yield row, Entry(part, line, occurred_at_ms, body[:key], body[key : key + value], body[key + value :])
            row += 1


def rewritten(source: Path, target: Path, *, dropped: Callable[[int], bool], sorts: bool) -> tuple[str, int]:
    """The plan without some rows, and by effective time if it is to be sorted; equal times stay in their order. Its hash and its rows."""
    reader, writer = Reader(source), Writer(target)
    kept = (entry for row, entry in reader.entries() if not dropped(row))
    for entry in _by_time(kept) if sorts else kept:
        writer.add(entry)
    reader.close()
    return writer.close(), writer.rows


def _by_time(entries: Iterator[Entry]) -> Iterator[Entry]:
    """An external merge sort: runs on the disk, merged."""
    with tempfile.TemporaryDirectory(prefix="loyalty-load-sort-") as folder:
        runs: list[Path] = []
        while run := list(islice(entries, SORTED_ROWS)):
            run.sort(key=lambda entry: entry.occurred_at_ms)
            runs.append(Path(folder) / f"run-{len(runs)}")
            writer = Writer(runs[-1])
            for entry in run:
                writer.add(entry)
            writer.close()
        readers = [Reader(path) for path in runs]
        yield from heapq.merge(*((entry for _, entry in reader.entries()) for reader in readers), key=lambda entry: entry.occurred_at_ms)
        for reader in readers:
            reader.close()


class Marks:
    """A set of row numbers, one bit each."""

    def __init__(self) -> None:
        self._bits = bytearray()
        self.count = 0

    def add(self, row: int) -> None:
        place, bit = divmod(row, 8)
        if place >= len(self._bits):
            self._bits.extend(bytes(place + 1 - len(self._bits)))
        self.count += not self._bits[place] >> bit & 1
        self._bits[place] |= 1 << bit

    def __contains__(self, row: int) -> bool:
        place, bit = divmod(row, 8)
        return place < len(self._bits) and bool(self._bits[place] >> bit & 1)


@dataclass(slots=True, kw_only=True)
class Members:
    """What the rows say together, member by member."""

    members: int = 0
    rows_of_one_max: int = 0
    out_of_order: int = 0
    """Rows that are older than the one before of the same member."""
    repeated: Marks
    """Rows whose id came before with the same content."""
    conflicting: Marks
    """Rows whose id came before with other content."""


class Sorter:
    """Rows -> files by their members' hashes, each small enough to be looked through in memory."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._paths = [folder / f"{number:03}" for number in range(BUCKETS)]
        self._buffers = [bytearray() for _ in range(BUCKETS)]

    def add(self, row: int, key: bytes, identity: str, content: str, occurred_at_ms: int) -> None:
        member = blake2b(key, digest_size=8).digest()
        buffer = self._buffers[member[0]]
        buffer += SEEN.pack(member, blake2b(identity.encode(), digest_size=8).digest(), bytes.fromhex(content[:16]), occurred_at_ms, row)
        if len(buffer) >= BUCKET_BYTES:
            self._write(member[0])

    def _write(self, number: int) -> None:
        with self._paths[number].open("ab") as file:
            file.write(self._buffers[number])
        self._buffers[number].clear()

    def look_through(self) -> Members:
        found = Members(repeated=Marks(), conflicting=Marks())
        for number, path in enumerate(self._paths):
            self._write(number)
            contents: dict[bytes, bytes] = {}
            last: dict[bytes, tuple[int, int]] = {}
            for member, identity, content, occurred_at_ms, row in SEEN.iter_unpack(path.read_bytes()):
                first = contents.get(member + identity)
                if first is not None:
                    (found.repeated if first == content else found.conflicting).add(row)
                    continue
                contents[member + identity] = content
                before_ms, rows = last.get(member, (occurred_at_ms, 0))
                found.out_of_order += occurred_at_ms < before_ms
                last[member] = occurred_at_ms, rows + 1
            path.unlink()
            found.members += len(last)
            found.rows_of_one_max = max([found.rows_of_one_max, *(rows for _, rows in last.values())])
        return found
