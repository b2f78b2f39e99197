"""What a job is, what it is told of its run, and what it says of it."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from schemas.codec import Codec
from schemas.records import SyncRun
from streams.configuration import Configuration
from streams.scheduling.cadence import Cadence
from streams.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run of a job. The same instant may be run again after a kill: a job's work must be such that this changes nothing."""

    run_id: str
    job: str
    scheduled_for_ms: int
    started_at_ms: int
    cadence: Cadence
    """With the window and the rate that the run must keep."""
    previous: SyncRun | None
    """The last one that went well."""
    stop: asyncio.Event
    """Set when the process ends: come to a point from which the next run goes on."""
    settings: Settings
    configuration: Configuration
    codec: Codec


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a run that went well has done. A run that fails raises instead."""

    rows: int = 0
    counts: Mapping[str, int] = field(default_factory=dict)
    detail: str = ""


class Job(Protocol):
    """Something that is done at times."""

    @property
    def name(self) -> str:
        """Unique, as in `[sync."report/liability"]`."""

    @property
    def after(self) -> tuple[str, ...]:
        """Jobs that, if due at the same instant, must have ended well before."""

    @property
    def default(self) -> Cadence:
        """When the configuration says nothing of it."""

    async def run(self, run: Run) -> Outcome:
        """Raises any exception for a run that failed; the scheduler tries again."""
