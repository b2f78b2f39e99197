"""Copies of all members on local disk, sorted out by member into files that fit into memory one by one: it stays the same however many there are.

What is read is put there as it is, compressed, and decoded when its bucket is looked at. Within a bucket it stands in the order in which it came.
"""

from collections.abc import Iterator
from pathlib import Path
from struct import Struct
from typing import NamedTuple
from zlib import crc32

from pyarrow import Codec

from streams.errors import LoyaltyError

RECORDS = 40_000
"""Of one bucket, or thereabouts: some 50 MB when its copies are beside each other."""
BUCKETS_MAX = 4_096
BUFFERS_BYTES = 64 << 20
BUFFER_BYTES_MIN, BUFFER_BYTES_MAX = 16 << 10, 256 << 10
HEAD = Struct("<BHiHqq")
"""Kind, lengths of key and value (-1: none), partition, offset, timestamp in ms."""
BLOCK = Struct("<II")
"""Bytes of a block of records, compressed and not."""


class Copy(NamedTuple):
    """One record or row of a member. Place and time are 0 where it has none."""

    kind: int
    key: bytes
    value: bytes | None
    partition: int
    offset: int
    timestamp_ms: int


class Buckets:
    """Add all, then go through the buckets. Methods raise LoyaltyError when the disk fails."""

    def __init__(self, folder: Path, records: int) -> None:
        """`records`: about how many there will be."""
        self.count = max(1, min(BUCKETS_MAX, -(-records // RECORDS)))
        self._paths = [folder / f"bucket-{number:04}" for number in range(self.count)]
        self._buffers = [bytearray() for _ in range(self.count)]
        self._full_bytes = max(BUFFER_BYTES_MIN, min(BUFFER_BYTES_MAX, BUFFERS_BYTES // self.count))
        self._codec = Codec("lz4")

    def add(self, kind: int, key: bytes, value: bytes | None, partition: int = 0, offset: int = 0, timestamp_ms: int = 0) -> None:
        number = crc32(key) % self.count
        buffer = self._buffers[number]
        buffer += HEAD.pack(kind, len(key), -1 if value is None else len(value), partition, offset, timestamp_ms)
        buffer += key
        if value is not None:
            buffer += value
        if len(buffer) >= self._full_bytes:
            self._write(number)

    def _write(self, number: int) -> None:
        buffer = self._buffers[number]
        if not buffer:
            return
        packed = self._codec.compress(bytes(buffer), asbytes=True)
        try:
            with self._paths[number].open("ab") as file:
                file.write(BLOCK.pack(len(packed), len(buffer)) + packed)
        except OSError as error:
            raise _failed(error) from error
        self._buffers[number] = bytearray()

    def copies(self, number: int) -> Iterator[Copy]:
        """Of one bucket, which is removed behind the last."""
        self._write(number)
        path = self._paths[number]
        if not path.exists():
            return
        try:
            with path.open("rb") as file:
                while head := file.read(BLOCK.size):
                    packed_bytes, block_bytes = BLOCK.unpack(head)
                    yield from _unpacked(self._codec.decompress(file.read(packed_bytes), block_bytes, asbytes=True))
            path.unlink()
        except OSError as error:
            raise _failed(error) from error


def _unpacked(block: bytes) -> Iterator[Copy]:
    place = 0
    while place < len(block):
        kind, key_bytes, value_bytes, partition, offset, timestamp_ms = HEAD.unpack_from(block, place)
        begin = place + HEAD.size
        middle = begin + key_bytes
        place = middle + max(0, value_bytes)
        yield Copy(kind, block[begin:middle], None if value_bytes < 0 else block[middle:place], partition, offset, timestamp_ms)


def _failed(error: OSError) -> LoyaltyError:
    return LoyaltyError(f"the disk for the comparison fails: {error}")
