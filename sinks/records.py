"""records of a topic side by side: what batches are made of. An item is made of one only when somebody asks for it.

An object for every record costs a sink of large batches more than all that it does with them.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast, overload

import numpy as np
from confluent_kafka import Message
from numpy.typing import NDArray

from sinks.base import Item, recorded_at_ms

R = TypeVar("R")

Numbers = NDArray[np.int64]
UNKNOWN = -1


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Records(Sequence[Item[R]], Generic[R]):
    """As a sequence, the items of the records; beside it, what all of them have, as columns in the same order."""

    partitions: Numbers
    offsets: Numbers
    follows: Numbers
    """Offset behind the record that was read before; UNKNOWN: not known."""
    timestamps_ms: Numbers
    recorded_at_ms: Numbers
    """When each was recorded, as far as its record says; else when it was appended."""
    values: list[bytes]
    sources: list[Any]
    """Items, or messages to make them of."""

    @classmethod
    def of(cls, items: Sequence[Item[R]]) -> "Records[R]":
        if isinstance(items, Records):
            return items
        return cls(
            partitions=_numbers([item.partition for item in items]),
            offsets=_numbers([item.offset for item in items]),
            follows=_numbers([UNKNOWN if item.follows is None else item.follows for item in items]),
            timestamps_ms=_numbers([item.timestamp_ms for item in items]),
            recorded_at_ms=_numbers([recorded_at_ms(item) for item in items]),
            values=[item.value for item in items],
            sources=list(items),
        )

    @classmethod
    def read(cls, messages: Sequence[Message]) -> "Records[None]":
        """Encoded records, as a consumer returned them."""
        some = cast(Sequence[Any], messages)  # The client's types do not say that a record has a partition, an offset and a time.
        timestamps_ms = _numbers([message.timestamp()[1] for message in some])
        return Records(
            partitions=_numbers([message.partition() for message in some]),
            offsets=_numbers([message.offset() for message in some]),
            follows=np.full(len(some), UNKNOWN, dtype=np.int64),
            timestamps_ms=timestamps_ms,
            recorded_at_ms=timestamps_ms,
            values=[message.value() or b"" for message in some],
            sources=list(some),
        )

    @classmethod
    def joined(cls, parts: Sequence["Records[R]"]) -> "Records[R]":
        if len(parts) == 1:
            return parts[0]
        parts = parts or (cls.of(()),)
        return cls(
            **{name: np.concatenate([getattr(part, name) for part in parts]) for name in _COLUMNS},
            values=[value for part in parts for value in part.values],
            sources=[source for part in parts for source in part.sources],
        )

    def __len__(self) -> int:
        return len(self.values)

    @overload
    def __getitem__(self, place: int) -> Item[R]: ...

    @overload
    def __getitem__(self, place: slice) -> "Records[R]": ...

    def __getitem__(self, place: int | slice) -> "Item[R] | Records[R]":
        if isinstance(place, slice):
            return Records(**{name: getattr(self, name)[place] for name in (*_COLUMNS, "values", "sources")})
        source = self.sources[place]
        return cast(Item[R], source) if isinstance(source, Item) else cast(Item[R], self.item(place, None))

    def __iter__(self) -> Iterator[Item[R]]:
        return (self[place] for place in range(len(self)))

    def item(self, place: int, record: Any, failing_since_ms: int | None = None) -> Item[Any]:
        """The item of a message, with what it was decoded to."""
        message, follows = self.sources[place], int(self.follows[place])
        return Item(
            record=record, topic=message.topic(), partition=int(self.partitions[place]), offset=int(self.offsets[place]), key=message.key() or b"",
            value=self.values[place], timestamp_ms=int(self.timestamps_ms[place]), failing_since_ms=failing_since_ms,
            headers={str(name): content or b"" for name, content in message.headers() or ()}, follows=None if follows == UNKNOWN else follows,
        )  # fmt: skip

    def take(self, places: Sequence[int] | Numbers) -> "Records[R]":
        """Those at these places, which rise."""
        if len(places) == len(self):
            return self
        where = _numbers(places)
        listed = where.tolist()
        return Records(
            **{name: getattr(self, name)[where] for name in _COLUMNS},
            values=[self.values[place] for place in listed],
            sources=[self.sources[place] for place in listed],
        )

    def with_follows(self, follows: Numbers) -> "Records[R]":
        columns = {name: getattr(self, name) for name in (*_COLUMNS, "values", "sources")}
        return Records(**columns | {"follows": follows})


_COLUMNS = ("partitions", "offsets", "follows", "timestamps_ms", "recorded_at_ms")


class Held(Generic[R]):
    """Records that wait to be written, in the order in which they came."""

    def __init__(self) -> None:
        self._parts: deque[Records[R]] = deque()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, records: Records[R]) -> None:
        if records:
            self._parts.append(records)
            self._count += len(records)

    def take(self, count_max: int, before_ms: int | None = None) -> Records[R]:
        """The first ones, of those that were appended before that time; None: of all."""
        if before_ms is not None:
            return self._take_due(count_max, before_ms)
        taken: list[Records[R]] = []
        wanted = count_max
        while self._parts and wanted:
            part = self._parts.popleft()
            if len(part) > wanted:
                self._parts.appendleft(part[wanted:])
                part = part[:wanted]
            taken.append(part)
            wanted -= len(part)
        self._count -= count_max - wanted
        return Records.joined(taken)

    def drop(self, partitions: frozenset[int]) -> None:
        """Forget what is of these partitions."""
        held = Records.joined(self._parts)
        self._hold(held.take(np.flatnonzero(~np.isin(held.partitions, list(partitions)))))

    def _take_due(self, count_max: int, before_ms: int) -> Records[R]:
        held = Records.joined(self._parts)
        due = np.flatnonzero(held.timestamps_ms < before_ms)[:count_max]
        self._hold(held.take(np.delete(np.arange(len(held)), due)))
        return held.take(due)

    def _hold(self, records: Records[R]) -> None:
        self._parts.clear()
        self._count = 0
        self.add(records)


def _numbers(numbers: Sequence[int] | Numbers) -> Numbers:
    return np.asarray(numbers, dtype=np.int64)
