"""What one channel still has to deliver to one member, in order. Pure data: it knows offsets, and those records that are in memory.

A lane whose first record failed is parked: it is written down as a whole, in segments, so that neither its length nor its age costs the
others anything.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from sinks.delivery.records import Outgoing

if TYPE_CHECKING:
    from sinks.delivery.branch import Branch

SEGMENT = 500
COMPACT = 1_000


class Lane:
    """One attempt at a time is under way for its first record, or for its first ones in a batch."""

    __slots__ = (
        "_first", "_number", "_offsets", "attempts", "branch", "busy", "detail", "dirty", "due_ms", "failing_since_ms", "is_asked", "is_blocked",
        "is_loading", "is_parked", "is_queued", "key", "records", "ticket",
    )  # fmt: skip

    def __init__(self, branch: "Branch", key: str) -> None:
        self.branch = branch
        self.key = key
        self._offsets: list[int] = []
        self._first = 0  # Index of the first one that is left.
        self._number = 0  # What came before the list's beginning since the lane was parked: it places the segments.
        self.records: dict[int, Outgoing] = {}
        self.attempts = 0
        """Attempts of the first record so far."""
        self.failing_since_ms: int | None = None
        self.due_ms: int | None = None
        """When the next attempt is due; None: at once."""
        self.detail = ""
        self.is_parked = False
        self.is_blocked = False
        """Its first record was given up, and an operator must say how to go on."""
        self.busy = False
        self.is_queued = False
        """It is in one of its outlet's queues."""
        self.is_asked = False
        """It waits because the destination asked for it: not released early."""
        self.is_loading = False
        self.ticket = 0
        """Its place in the outlet's heap of those that wait; 0: none."""
        self.dirty: set[int] = set()
        """Segments that are not written down as they are."""

    def __len__(self) -> int:
        return len(self._offsets) - self._first

    @property
    def offsets(self) -> Sequence[int]:
        """What is left, in order."""
        return self._offsets[self._first :]

    def first(self, count: int = 1) -> list[int]:
        return self._offsets[self._first : self._first + count]

    def head(self, count: int = 1) -> list[Outgoing] | None:
        """The first records, as many as are in memory up to `count`; None if the first one is not."""
        found = []
        for offset in self.first(count):
            record = self.records.get(offset)
            if record is None:
                break
            found.append(record)
        return found or None

    def append(self, offset: int, record: Outgoing | None) -> None:
        self._offsets.append(offset)
        if record is not None:
            self.records[offset] = record
        if self.is_parked:
            self.dirty.add((self._number + len(self._offsets) - 1) // SEGMENT)

    def pop(self, count: int = 1) -> None:
        """The first ones are finished."""
        for offset in self.first(count):
            self.records.pop(offset, None)
            if self.is_parked:
                self.dirty.add((self._number + self._first) // SEGMENT)
            self._first += 1
        self._begin_anew()
        if self._first == len(self._offsets):
            self._number, self._first = self._number + self._first, 0
            self._offsets.clear()
        elif self._first >= COMPACT:
            self._number += self._first
            del self._offsets[: self._first]
            self._first = 0
        if self.is_parked and len(self):
            self.touch()

    def _begin_anew(self) -> None:
        """Nothing is known yet of what is the first one now."""
        self.attempts, self.failing_since_ms, self.due_ms, self.detail, self.is_blocked, self.is_asked = 0, None, None, "", False, False

    def discard(self, gone: Iterable[int]) -> int:
        """These are no more; how many of them were here."""
        lost = set(gone)
        before, is_first_gone = len(self), not lost.isdisjoint(self.first())
        if self.is_parked:
            self.dirty.update(self.segments())
        self._offsets = [offset for offset in self.offsets if offset not in lost]
        self._number, self._first = self._number - self._number % SEGMENT, 0
        for offset in lost:
            self.records.pop(offset, None)
        if is_first_gone:
            self._begin_anew()
        if self.is_parked:
            self.dirty.update(self.segments())
        return before - len(self)

    def park(self) -> None:
        """From now on the lane is written down by itself."""
        if not self.is_parked:
            self.is_parked = True
            self._number = 0
            self._offsets = list(self.offsets)
            self._first = 0
            self.dirty.update(self.segments())

    def touch(self) -> None:
        """What is known of the first record has changed."""
        if self.is_parked:
            self.dirty.add((self._number + self._first) // SEGMENT)

    def segments(self) -> range:
        """Numbers of the segments that hold something."""
        if not len(self):
            return range(0)
        return range((self._number + self._first) // SEGMENT, (self._number + len(self._offsets) - 1) // SEGMENT + 1)

    def segment(self, number: int) -> list[int]:
        """The offsets of one segment; empty: it is no more."""
        begin = max(number * SEGMENT - self._number, self._first)
        end = max((number + 1) * SEGMENT - self._number, begin)
        return self._offsets[begin:end]

    def restore(self, segments: Sequence[tuple[int, Sequence[int]]]) -> None:
        """What was written down, by rising number."""
        number, offsets = segments[0]
        self._number = number * SEGMENT + (SEGMENT - len(offsets) if len(segments) > 1 else 0)
        self._offsets = [offset for _, part in segments for offset in part]
        self._first = 0
        self.is_parked = True

    def unload(self) -> None:
        """Forget the records, keep their offsets."""
        self.records.clear()
