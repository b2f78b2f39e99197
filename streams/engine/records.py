"""What goes into a unit of work and what comes out of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

TopicPartition = tuple[str, int]


@dataclass(slots=True)
class Input:
    """One source record. `record` is the decoded value; None until it is decoded."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]
    record: Any = None
    failure: tuple[str, str] | None = None
    """Reason and detail if it cannot be decoded."""

    def header(self, name: str) -> str | None:
        """The first header of that name as text; None if there is none."""
        return next((value.decode("utf-8", "replace") for key, value in self.headers if key == name and value is not None), None)


class Outgoing(NamedTuple):
    """One record to produce. A tuple, because a unit makes thousands."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Mapping[str, bytes] | None = None
    partition: int | None = None
    """None: the partition of its unit."""


@dataclass(frozen=True, slots=True)
class Poison:
    """A source record that cannot be processed. `stage` is DECODE or HANDLER; `reason` is a stable code."""

    input: Input
    stage: str
    reason: str
    detail: str


class Codec(Protocol):
    """Bytes to values and back. `decode` may raise anything; a `reason` attribute on the error becomes the poison's reason."""

    header_bytes: int
    """Leading bytes of an encoded value that name the schema it was written with; 0 when there are none."""

    def encode(self, record: Any) -> bytes: ...

    def decode(self, data: bytes | None, record_type: type) -> Any: ...
