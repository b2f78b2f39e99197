"""What every sink promises: one receipt per item, named by what the caller does next. A sink never raises for an item."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Generic, TypeVar

from aiohttp import web

from schemas.records import DeadLetterStage

R = TypeVar("R")


class Verdict(StrEnum):
    DELIVERED = "DELIVERED"
    RETRY = "RETRY"  # The destination may accept it later: the item keeps its place in its lane.
    REFUSED = "REFUSED"  # It never will: dead letter, and the lane goes on.
    SKIPPED = "SKIPPED"  # Not meant for this destination.


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """The answer of one attempt."""

    verdict: Verdict
    detail: str = ""
    """For people and the dead letter; no secrets and no personal data."""
    status: int | None = None
    """HTTP status, if there was one."""
    retry_after_s: float | None = None
    """RETRY: the destination's own wish; None leaves it to the schedule."""
    reason: str = ""
    """REFUSED: stable code for the dead letter; empty: REFUSED."""
    stage: DeadLetterStage = DeadLetterStage.DELIVERY
    """REFUSED: where it failed; DECODE by a sink that decodes its records itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Item(Generic[R]):
    """One decoded record on its way out, at its `attempt`-th attempt (from 1)."""

    record: R
    topic: str
    partition: int
    offset: int
    key: bytes
    value: bytes
    timestamp_ms: int
    headers: Mapping[str, bytes] = field(default_factory=dict)
    attempt: int = 1
    failing_since_ms: int | None = None
    """When the first of its failed attempts was, also before a restart."""
    follows: int | None = None
    """Offset behind the record that was read before it: what lies between, if anything, was no record. None: not known."""


def recorded_at_ms(item: Item[Any]) -> int:
    """When the item was recorded, as far as its record says; else when it was appended."""
    moment_ms: int = getattr(item.record, "recorded_at_ms", item.timestamp_ms)
    return moment_ms


class Health:
    """Whether all parts of a process are at work: one readiness per part, by its name."""

    def __init__(self) -> None:
        self.app: web.Application | None = None
        """The process's own HTTP service, for what a part shows of itself."""
        self._parts: dict[str, Callable[[], str]] = {}

    def set(self, part: str, readiness: Callable[[], str]) -> None:
        """`readiness` says why the part is not ready; empty when it is."""
        self._parts[part] = readiness

    def readiness(self) -> str:
        """Why the process is not ready: the first part's reason; empty when all are."""
        return next((reason for part in self._parts.values() if (reason := part())), "")


Deliver = Callable[[Item[R]], Awaitable[Receipt]]
"""One attempt. Must not raise; what it raises all the same counts as RETRY."""

Write = Callable[[Sequence[Item[R]]], Awaitable[Sequence[Receipt]]]
"""One attempt at a batch: a receipt per item, in their order. Must not raise; if it does, all of them count as RETRY."""
