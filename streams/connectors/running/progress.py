"""The source-progress topic <-> how far each feed has been read, and how it fares. The newest record of a feed counts.

A cursor is written only when all that comes before it is in the log, whoever writes it. So a process that has lost its lead without knowing can at
worst take a cursor back: then something is read again, and does nothing, because ids are the systems' own.
"""

import asyncio
import logging
import random
import time
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import orjson
from aiokafka.partitioner import murmur2

from schemas.codec import Codec
from schemas.records import SourceProgress
from sinks.schedule import Schedule
from streams import topics
from streams.compacted import read_newest
from streams.connectors.contract import Budget, Cursor, Found
from streams.errors import ContractError, UnavailableError
from streams.ingress.publisher import Publisher
from streams.settings import Settings

log = logging.getLogger(__name__)

TEXT_CHARACTERS_MAX = 500

Name = tuple[str, str]
"""Source and feed."""


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def key_of(name: Name) -> bytes:
    return "/".join(name).encode()


def partition_of(name: Name, partitions: int) -> int:
    """Who has this partition leads the feed."""
    return int((murmur2(key_of(name)) & 0x7FFFFFFF) % partitions)


def nothing(name: Name) -> SourceProgress:
    """Of a feed that was never read."""
    source, feed = name
    return SourceProgress(
        source=source, feed=feed, cursor=b"{}", saved_at_ms=0, begun_at_ms=0, succeeded_at_ms=0, failing_since_ms=0, last_error="", last_error_at_ms=0,
        waits_until_ms=0, alert="", alert_at_ms=0, source_time_ms=0, heard_at_ms=0, commands=0, hints=0, parked=0, budget_used=0, budget_allowed=0,
    )  # fmt: skip


def lag_ms(record: SourceProgress, at_ms: int) -> int:
    """How late it is heard what happens: the delay of the newest that was read, and all the time since, while nothing can be read."""
    late_ms = max(0, record.heard_at_ms - record.source_time_ms) if record.source_time_ms else 0
    return late_ms + (max(0, at_ms - record.failing_since_ms) if record.failing_since_ms else 0)


def read(settings: Settings, codec: Codec, partitions: Collection[int]) -> dict[Name, SourceProgress]:
    """All feeds of some partitions as they are now. Blocks. Raises UnavailableError."""
    found: dict[Name, SourceProgress] = {}
    for key, value in read_newest(settings, topics.SOURCE_PROGRESS, partitions).items():
        try:
            record = codec.decode(value, SourceProgress)
            found[record.source, record.feed] = record
        except ContractError as error:
            log.warning("source.progress_unreadable", extra={"key": key.decode(errors="replace"), "reason": error.reason})
    return found


class Progress:
    """Of one feed that this process leads."""

    def __init__(self, settings: Settings, codec: Codec, publisher: Publisher, record: SourceProgress, *, schedule: Schedule = Schedule()) -> None:
        self.record = record
        self._topic = topics.SOURCE_PROGRESS.name(settings.topic_prefix)
        self._codec = codec
        self._publisher = publisher
        self._schedule = schedule

    @property
    def cursor(self) -> Cursor:
        cursor: Mapping[str, Any] = orjson.loads(self.record.cursor)
        return cursor

    @property
    def name(self) -> Name:
        return self.record.source, self.record.feed

    def begin(self) -> None:
        """A run begins, or a connection."""
        self.record = replace(self.record, begun_at_ms=now_ms())

    async def heard(self, found: Found, budget: Budget | None) -> None:
        """All of it is in the log: from now on the feed goes on at its cursor, if it has one."""
        at_ms, record = now_ms(), self.record
        changes: dict[str, Any] = {
            "commands": record.commands + len(found.commands), "hints": record.hints + len(found.hints), "parked": record.parked + len(found.parked),
        }  # fmt: skip
        if found.source_time_ms is not None:
            changes |= {"source_time_ms": found.source_time_ms, "heard_at_ms": at_ms}
        if found.alert:
            changes |= {"alert": found.alert[:TEXT_CHARACTERS_MAX], "alert_at_ms": at_ms}
        if budget is not None:
            changes |= {"budget_used": budget.used, "budget_allowed": budget.allowed}
        if found.cursor is not None:
            changes["cursor"] = orjson.dumps(found.cursor)
        if found.cursor is not None:
            await self._save(replace(record, **changes))
        else:
            self.record = replace(record, **changes)

    async def succeeded(self) -> None:
        """A run has gone well, or a connection stands."""
        await self._save(replace(self.record, succeeded_at_ms=now_ms(), failing_since_ms=0, waits_until_ms=0))

    async def failed(self, error: str, *, waits_until_ms: int = 0) -> None:
        """It has not. `error`: for people, no secrets."""
        at_ms = now_ms()
        await self._save(replace(
            self.record, failing_since_ms=self.record.failing_since_ms or at_ms, last_error=error[:TEXT_CHARACTERS_MAX], last_error_at_ms=at_ms,
            waits_until_ms=waits_until_ms,
        ))  # fmt: skip

    async def _save(self, record: SourceProgress) -> None:
        """Return when the broker has it: a broker that is away is waited for. Raises ContractError for a cursor that is too large."""
        attempt = 0
        while True:
            record = replace(record, saved_at_ms=now_ms())
            try:
                await self._publisher.send(self._topic, key_of(self.name), self._codec.encode(record), {})
                self.record = record
                return
            except UnavailableError:
                attempt += 1
                await asyncio.sleep(self._schedule.delay_s(attempt, random.random()))
