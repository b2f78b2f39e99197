"""finished records of one partition -> the offset to commit. Pure.

Only the offsets below the first unfinished record may be committed. What is finished above it (one member's delivery may be refused
for days while all others go on) is written into the commit's metadata, so that a restart does not deliver it again. The metadata is
a hint of bounded size: what does not fit is delivered once more, nothing is ever lost.

Metadata: `1;<next>;<delta>[:<minutes>],...[;<marks>]`, all numbers in base 36: every record below `next` is finished, but for the
listed ones, each given as the distance to the one before it (the first: to the committed offset), with the minute since 1970 in which its
first attempt failed. `marks`: so many offsets before the commit are no records, but marks of transactions.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

METADATA_CHARACTERS_MAX = 3800  # Brokers refuse more than 4096 bytes (offset.metadata.max.bytes).
MINUTE_MS = 60_000
_VERSION = "1"
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True, slots=True)
class Progress:
    """What a commit says: everything below `next_offset` is finished, but for `unfinished` (offset -> failing since, or None)."""

    next_offset: int = 0
    unfinished: Mapping[int, int | None] = field(default_factory=dict)
    marks: int = 0
    """Offsets right before the commit that were no records."""

    def is_finished(self, offset: int) -> bool:
        return offset < self.next_offset and offset not in self.unfinished


class Offsets:
    """Which records of one partition are under way. Offsets are added in the order of the log, which has gaps."""

    def __init__(self, before: Progress = Progress(), committed: int | None = None) -> None:
        """`committed`: offset behind the last record that whoever read before has finished, if it is known."""
        self._before = before
        self._read = committed
        self._unfinished: dict[int, int | None] = {}
        self._next = 0  # Where reading goes on; 0: nothing was read yet.
        self._finished = -1  # The highest offset that was finished.
        self._behind: dict[int, int] = {}  # Unfinished record -> what it follows, where that is not the offset before.

    def __len__(self) -> int:
        return len(self._unfinished)

    @property
    def next_offset(self) -> int:
        return self._next

    @property
    def follows(self) -> int | None:
        """Offset behind the last record that was read, by this reader or the one before; None: not known."""
        return self._read

    def add(self, offset: int) -> bool:
        """Note that a record was read; False if it needs no work: it is under way, or was finished before a restart."""
        if offset in self._unfinished:
            return False
        if offset < self._next:
            # The log went back: its broker lost the end of it. What is there now is new, whatever was known of these offsets.
            self._before = Progress()
        before, self._next, self._read = self._read, offset + 1, offset + 1
        if self._before.is_finished(offset):
            return False
        self._unfinished[offset] = self.failing_since_ms(offset)
        if before is not None and before < offset:
            self._behind[offset] = before
        return True

    def add_all(self, offsets: NDArray[np.int64]) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
        """`add` of records that were read in this order: which of them need work, and what each `follows`; -1: not known."""
        listed: list[int] = offsets.tolist()
        before = self.follows
        is_new = listed[0] >= max(self._next, self._before.next_offset) and self._unfinished.keys().isdisjoint(listed)
        if is_new and (np.diff(offsets) > 0).all():  # As almost always: nothing is known of them.
            self._unfinished |= dict.fromkeys(listed)
            self._next = self._read = listed[-1] + 1
            follow = np.concatenate(([-1 if before is None else before], offsets[:-1] + 1))
            marked = (follow >= 0) & (follow < offsets)
            self._behind |= zip(offsets[marked].tolist(), follow[marked].tolist(), strict=True)
            return np.ones(len(listed), dtype=bool), follow
        needed: list[bool] = []
        follows: list[int] = []
        for offset in listed:
            follows.append(-1 if self.follows is None else self.follows)
            needed.append(self.add(offset))
        return np.array(needed, dtype=bool), np.array(follows, dtype=np.int64)

    def reached(self, offset: int) -> None:
        """Note that nothing is left to read below `offset`: what lies between are marks of transactions."""
        self._next = max(self._next, offset)

    def failing_since_ms(self, offset: int) -> int | None:
        """When the record's first attempt failed, as far as is known."""
        return self._unfinished.get(offset, self._before.unfinished.get(offset))

    def failed(self, offset: int, since_ms: int) -> None:
        if offset in self._unfinished:
            self._unfinished[offset] = since_ms

    def finish(self, *offsets: int) -> None:
        """Harmless for an offset that is not under way."""
        for offset in offsets:
            self._unfinished.pop(offset, None)
            self._behind.pop(offset, None)
        self._finished = max((self._finished, *offsets))

    def commit(self) -> tuple[int, str] | None:
        """The offset to commit and its metadata; None before anything was read."""
        if self._next == 0:
            return None
        first = min(self._unfinished, default=self._next)
        behind = self._behind.get(first, first) if self._unfinished else self._read
        marks = 0 if behind is None else max(0, first - behind)
        if max(self._finished + 1, self._before.next_offset) <= first and first < self._next and not any(self._unfinished.values()):
            return first, encode(first, first, {}, marks)  # Nothing behind the commit is finished or failed: as in a sink that writes batches.
        # A restart may have read only a part of what the commit before it knew.
        known = {offset: since for offset, since in self._before.unfinished.items() if offset >= self._next}
        return first, encode(first, max(self._next, self._before.next_offset), dict(sorted({**self._unfinished, **known}.items())), marks)


def encode(committed: int, next_offset: int, unfinished: Mapping[int, int | None], marks: int = 0) -> str:
    """Metadata of a commit; empty if there is nothing to say. `unfinished` is in rising order."""
    end = f";{_base36(marks)}" if marks else ""
    if not unfinished:
        return "" if next_offset == committed and not marks else f"{_VERSION};{_base36(next_offset)};{end}"
    parts: list[str] = []
    size, last = 0, committed
    for offset, since_ms in unfinished.items():
        part = _base36(offset - last) + ("" if since_ms is None else ":" + _base36(since_ms // MINUTE_MS))
        size += len(part) + 1
        if size > METADATA_CHARACTERS_MAX:
            next_offset = offset  # From here on nothing is known: all of it is read again.
            break
        parts.append(part)
        last = offset
    return f"{_VERSION};{_base36(next_offset)};{','.join(parts)}{end}"


def decode(committed: int, metadata: str | None) -> Progress:
    """What a commit said. Metadata that others wrote, or another version, says nothing."""
    version, _, rest = (metadata or "").partition(";")
    if version != _VERSION or committed < 0:
        return Progress()
    horizon, _, rest = rest.partition(";")
    listed, _, marks = rest.partition(";")
    try:
        unfinished = dict(_entries(committed, listed.split(",") if listed else ()))
        return Progress(int(horizon, 36), unfinished, int(marks or "0", 36))
    except ValueError:
        return Progress()


def _entries(committed: int, parts: Iterable[str]) -> Iterable[tuple[int, int | None]]:
    offset = committed
    for part in parts:
        delta, _, minutes = part.partition(":")
        offset += int(delta, 36)
        yield offset, int(minutes, 36) * MINUTE_MS if minutes else None


def _base36(number: int) -> str:
    digits = ""
    while True:
        number, digit = divmod(number, 36)
        digits = _DIGITS[digit] + digits
        if not number:
            return digits
