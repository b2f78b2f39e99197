"""The committed rows of one partition on local disk (RocksDB), with the changelog offsets that they stand for.

Only what a committed transaction wrote gets here, after it committed, and in one write with its offset: whatever kills the worker,
a state is right as of its offsets, and the changelog from there on holds the rest. It is a cache: without it the changelog gives all.
"""

import fcntl
import logging
import os
import shutil
import struct
import threading
import time
from collections.abc import Collection, Generator, Iterable, Mapping
from pathlib import Path
from typing import IO

from rocksdict import (
    BlockBasedOptions, Cache, DBCompressionType, DBRecoveryMode, Options, Rdict, ReadOptions, WriteBatch, WriteBufferManager, WriteOptions,
)  # fmt: skip

from streams.engine import metrics

log = logging.getLogger(__name__)

OFFSET = struct.Struct(">q")
ROW, OFFSETS, TOPIC_ID, AS_OF, FORGET = b"r", b"o", b"i", b"a", b"f"  # First byte of a key: what it holds.
MEMTABLE_BYTES = 16 << 20
NO_SPACE = "No space left"  # RocksDB's words, or rather the system's.
FORMAT = "1"  # Part of the folder's name: another format is another folder, filled from the changelog.
FORGET_AFTER_S = 1.0  # Marks that come together are dealt with together.
FORGET_PAUSE_FACTOR = 9  # Rewriting files takes a tenth of the time at most, however many rows are to be forgotten.
FORGET_RETRY_S = 60.0
FORGET_KEYS_MAX = 64  # More of one table: all between the first and the last, which costs less than one by one.


class StateFailed(Exception):
    """Local disk: full, unreadable, or not what was written. The changelog has all that it held."""

    @property
    def may_pass(self) -> bool:
        """Whether the state itself is sound: the disk is full, or whoever holds it still writes it."""
        return NO_SPACE in str(self) or "/LOCK:" in str(self)


class StateFolder:
    """This process's own folder of states, and the memory that they share.

    Two workers with the same `data_dir` and name each get one of their own; a worker that is started again gets the one it had.
    """

    def __init__(self, data_dir: Path, name: str, *, memory_bytes: int, stale_after_s: float) -> None:
        """`memory_bytes` bounds block cache and write buffers together. What was not written for `stale_after_s` is not trusted:
        the changelog may have compacted away that a row was deleted."""
        self._root = data_dir
        self._name = name
        self._lock: IO[str] | None = None
        self._claiming = threading.Lock()
        self.path = Path()
        self.stale_after_s = stale_after_s
        cache = Cache(memory_bytes)
        self._options = Options(raw_mode=True)
        self._options.create_if_missing(True)
        self._options.set_write_buffer_size(MEMTABLE_BYTES)
        self._options.set_write_buffer_manager(WriteBufferManager.new_write_buffer_manager_with_cache(memory_bytes // 2, False, cache))
        self._options.set_compression_type(DBCompressionType.lz4())
        self._options.set_max_background_jobs(2)
        self._options.set_keep_log_file_num(1)
        self._options.set_wal_recovery_mode(DBRecoveryMode.point_in_time())
        table = BlockBasedOptions()
        table.set_block_cache(cache)
        table.set_bloom_filter(10, False)
        table.set_cache_index_and_filter_blocks(True)  # Or they would grow beside the cache with the number of rows.
        table.set_pin_l0_filter_and_index_blocks_in_cache(True)
        self._options.set_block_based_table_factory(table)

    def _claim(self) -> None:
        """Take the first folder of this name that no living process holds."""
        number = 0
        while self._lock is None:
            self.path = self._root / f"{self._name}-{number}"
            try:
                self.path.mkdir(parents=True, exist_ok=True)
                lock = (self.path / "lock").open("w")
            except OSError as error:
                raise StateFailed(f"{self.path}: {error.strerror}") from error
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # The kernel lets go of it whatever ends the process.
                self._lock = lock
            except OSError:
                lock.close()
                number += 1
        self._remove_stale()

    def open(self, partition: int) -> "PartitionState":
        """The state of a partition; an empty one when there is none that can be used. Raises StateFailed when the disk cannot hold one."""
        path = self.path_of(partition)
        try:
            state = PartitionState(path, self._options)
            age_s = state.age_s()
            if age_s is None or age_s <= self.stale_after_s:
                return state
            state.close()
            reason = f"{age_s:.0f} s old; the changelog keeps deletions for {self.stale_after_s:.0f} s"
        except StateFailed as error:
            if error.may_pass:
                raise
            reason = str(error)
        log.warning("engine.state_dropped", extra={"partition": partition, "reason": reason})
        return self.open_empty(partition)

    def open_empty(self, partition: int) -> "PartitionState":
        """Forget the state of a partition, which must be closed, and begin a new one. Raises StateFailed."""
        path = self.path_of(partition)
        shutil.rmtree(path, ignore_errors=True)
        return PartitionState(path, self._options)

    def release(self) -> None:
        """Let another process have the folder."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def path_of(self, partition: int) -> Path:
        """Where the state of a partition is; claims the folder. Raises StateFailed."""
        with self._claiming:
            if self._lock is None:
                self._claim()
        return self.path / f"partition-{partition}.v{FORMAT}"

    def remove_left(self, keep: Collection[int]) -> None:
        """Remove the states of partitions that went to other workers long ago, but for those of `keep`, which are or may be open."""
        if self._lock is not None:
            self._remove_stale({self.path_of(partition).name for partition in keep})

    def _remove_stale(self, keep: Collection[str] = ()) -> None:
        """Partitions that went to other workers long ago only hold disk: they would be dropped when opened. What others have erased since
        is in them, too."""
        for path in self.path.glob("partition-*"):
            if path.name in keep:
                continue
            newest_s = max((entry.stat().st_mtime for entry in path.iterdir()), default=0.0)
            if time.time() - newest_s > self.stale_after_s:
                shutil.rmtree(path, ignore_errors=True)


class PartitionState:
    """Rows of all tables of one partition. Safe to read while another thread writes."""

    def __init__(self, path: Path, options: Options) -> None:
        self._path = path
        self._closed = False
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = Rdict(str(path), options)
        except Exception as error:  # rocksdict raises bare Exceptions, and so it is below.
            raise StateFailed(f"{path.name}: {error}") from error
        # Without a synced log: after a power failure the state is one of some time ago, and reads more of the changelog.
        self._logged = WriteOptions()
        self._unlogged = WriteOptions()
        self._unlogged.disable_wal = True  # An attribute, whatever its type stub says.
        self._marking = threading.Lock()
        self._marks = time.time_ns()
        """Number of the last mark. Marks of an earlier process have smaller ones."""
        self._forgetter: threading.Thread | None = None
        self._stop_forgetting = threading.Event()
        try:
            if self.rows_to_forget():
                with self._marking:
                    self._start_forgetting()
        except StateFailed:
            self._db.close()
            raise

    def get(self, table: str, key: bytes) -> bytes | None:
        """The committed row, or None. Raises StateFailed."""
        return self._read(_row_key(table, key))

    def scan(self, table: str, start: bytes, end: bytes | None) -> Generator[tuple[bytes, bytes], None, None]:
        """Committed rows of a table with start <= key < end in the order of their keys; None: up to the last. Raises StateFailed.

        Close it when it is not read to its end: until then the database stays open, whatever `close` does.
        """
        prefix = _row_key(table, b"")
        options = ReadOptions()
        # Behind the bound there may be any number of deleted rows to step over in search of the next.
        options.set_iterate_upper_bound(_after(table) if end is None else prefix + end)
        try:
            rows = self._db.iter(options)  # Not `items`, which ends at a corrupt block as if there were no more rows.
            rows.seek(prefix + start)
            while rows.valid():
                yield rows.key()[len(prefix):], rows.value()
                rows.next()
            rows.status()
        except Exception as error:
            raise StateFailed(f"{self._path.name}: {error}") from error
        finally:
            rows = None  # Or the error's traceback would hold the database.

    def apply(
        self,
        rows: Mapping[str, Mapping[bytes, bytes | None]],
        next_offsets: Mapping[str, int],
        as_of_s: float | None,
        *,
        logged: bool = True,
        forget: Mapping[str, Collection[bytes]] | None = None,
    ) -> None:
        """Write what was committed, with the changelog offset of each table to go on from, at once. None deletes a row.

        `as_of_s` is when the broker last confirmed that nobody else writes the partition; None while rows are still missing. Not `logged`,
        it is on disk after the next `flush` only: for bulk loading. What the rows in `forget` held before is gone from the disk soon
        after, too: files that still have it are written anew, in a thread beside. Raises StateFailed.
        """
        batch = WriteBatch(raw_mode=True)
        for table, changed in rows.items():
            prefix = _row_key(table, b"")
            for key, value in changed.items():
                if value is None:
                    batch.delete(prefix + key)
                else:
                    batch.put(prefix + key, value)
        for table, offset in next_offsets.items():
            batch.put(OFFSETS + table.encode(), OFFSET.pack(offset))
        if as_of_s is not None:
            batch.put(AS_OF, OFFSET.pack(int(as_of_s)))
        if not forget:
            self._write(batch, self._logged if logged else self._unlogged)
            return
        with self._marking:
            self._marks += 1
            for table, keys in forget.items():
                for key in keys:
                    batch.put(FORGET + _row_key(table, key), OFFSET.pack(self._marks))
            self._write(batch, self._logged if logged else self._unlogged)
            self._start_forgetting()

    def rows_to_forget(self) -> int:
        """How many rows wait for what they held before to be removed from the disk. Raises StateFailed."""
        return len(self._marked())

    def _marked(self) -> dict[bytes, bytes]:
        """The marks: table and key -> number."""
        options = ReadOptions()
        options.set_iterate_upper_bound(bytes([FORGET[0] + 1]))
        try:
            marks = self._db.iter(options)
            marks.seek(FORGET)
            found = {}
            while marks.valid():
                found[marks.key()[len(FORGET):]] = marks.value()
                marks.next()
            marks.status()
            return found
        except Exception as error:
            raise StateFailed(f"{self._path.name}: {error}") from error
        finally:
            marks = None  # As in `scan`.

    def _start_forgetting(self) -> None:
        """With `_marking` held."""
        if self._forgetter is None and not self._stop_forgetting.is_set():
            self._forgetter = threading.Thread(target=self._forget, name="forget", daemon=True)
            self._forgetter.start()

    def _forget(self) -> None:
        """In a thread, as long as there are marks."""
        delay_s = FORGET_AFTER_S
        while not self._stop_forgetting.wait(delay_s):
            started_s = time.monotonic()
            try:
                marks = self._marked()
                if marks:
                    self._rewrite(sorted(marks))
                with self._marking:
                    now = self._marked()
                    done = [key for key, number in marks.items() if now.get(key) == number]  # Not what was marked again meanwhile.
                    batch = WriteBatch(raw_mode=True)
                    for key in done:
                        batch.delete(FORGET + key)
                    self._write(batch, self._logged)
                    metrics.ROWS_FORGOTTEN.inc(len(done))
                    if len(now) == len(done):
                        self._forgetter = None
                        return
            except StateFailed as error:
                if self._stop_forgetting.is_set():
                    return
                log.warning("engine.rows_not_forgotten", extra={"state": self._path.name, "reason": str(error), "retry_after_s": FORGET_RETRY_S})
                delay_s = FORGET_RETRY_S
                continue
            delay_s = max(FORGET_AFTER_S, FORGET_PAUSE_FACTOR * (time.monotonic() - started_s))

    def _rewrite(self, keys: list[bytes]) -> None:
        """Write the files anew that may hold older versions of these rows: table and key, in order. Raises StateFailed.

        An older version is in RocksDB's log and in memory until the flush, and in files until a compaction meets it with the newer one.
        """
        ranges: list[tuple[bytes, bytes]] = []
        tables: dict[bytes, list[bytes]] = {}
        for key in keys:
            tables.setdefault(key.partition(b"\0")[0], []).append(key)
        for of_table in tables.values():
            ranges += [(key, key) for key in of_table] if len(of_table) <= FORGET_KEYS_MAX else [(of_table[0], of_table[-1])]
        self.flush()
        for first, last in ranges:
            if self._stop_forgetting.is_set():
                raise StateFailed(f"{self._path.name}: is being closed")
            try:
                self._db.compact_range(first, last)
            except Exception as error:
                raise StateFailed(f"{self._path.name}: {error}") from error
        log.info("engine.files_rewritten", extra={"state": self._path.name, "rows": len(keys), "ranges": len(ranges)})

    def flush(self) -> None:
        """Put everything into files. Raises StateFailed."""
        try:
            self._db.flush()
        except Exception as error:
            raise StateFailed(f"{self._path.name}: {error}") from error

    def next_offset(self, table: str) -> int | None:
        """Changelog offset from which rows are missing here; None: all of them are."""
        stored = self._read(OFFSETS + table.encode())
        return None if stored is None else int(OFFSET.unpack(stored)[0])

    def topic_id(self, table: str) -> str | None:
        """Id of the changelog that this is a copy of; None for one that was never filled."""
        stored = self._read(TOPIC_ID + table.encode())
        return None if stored is None else stored.decode()

    def set_topic_ids(self, topic_ids: Mapping[str, str]) -> None:
        """Remember whose copy this is. Raises StateFailed."""
        batch = WriteBatch(raw_mode=True)
        for table, topic_id in topic_ids.items():
            batch.put(TOPIC_ID + table.encode(), topic_id.encode())
        self._write(batch, self._logged)

    def age_s(self) -> float | None:
        """Seconds since it was last known to be equal to the changelog; None for one that was never filled."""
        stored = self._read(AS_OF)
        return None if stored is None else time.time() - OFFSET.unpack(stored)[0]

    def keys(self, table: str) -> Iterable[bytes]:
        """All keys of a table, in their order."""
        prefix = _row_key(table, b"")
        for key in self._db.keys(from_key=prefix):
            if not key.startswith(prefix):
                return
            yield key[len(prefix):]

    def rows_estimate(self) -> int:
        """Rows of all tables, about: RocksDB counts a row that was written twice twice until it compacts."""
        return int(self._db.property_int_value("rocksdb.estimate-num-keys") or 0)

    def size_bytes(self) -> int:
        """Disk and write buffers."""
        names = ("rocksdb.total-sst-files-size", "rocksdb.cur-size-all-mem-tables")
        return sum(int(self._db.property_int_value(name) or 0) for name in names)

    def close(self) -> None:
        """Write out what is in memory, and let another process open it. Harmless when it is closed."""
        if self._closed:
            return
        self._closed = True
        with self._marking:
            self._stop_forgetting.set()
            forgetter = self._forgetter
        if forgetter is not None:
            forgetter.join()  # At most as long as one range takes: the database cannot be closed under it.
        try:
            self._db.close()
        except Exception as error:  # It is only a cache.
            log.warning("engine.state_not_closed", extra={"path": os.fspath(self._path), "reason": str(error)})

    def _read(self, key: bytes) -> bytes | None:
        try:
            value: bytes | None = self._db.get(key)
        except Exception as error:
            raise StateFailed(f"{self._path.name}: {error}") from error
        return value

    def _write(self, batch: WriteBatch, options: WriteOptions) -> None:
        try:
            self._db.write(batch, options)
        except Exception as error:
            raise StateFailed(f"{self._path.name}: {error}") from error


def _row_key(table: str, key: bytes) -> bytes:
    return ROW + table.encode() + b"\0" + key


def _after(table: str) -> bytes:
    """Greater than every row of a table, and not greater than any of another that comes after it."""
    return ROW + table.encode() + b"\1"
