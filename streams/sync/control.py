"""The sync-control topic <-> cadences set at run time, runs asked for, and streams that still have to be drained.

The newest record of a key counts. Keys are kind and name, so that one key's records are in one partition, in order; of two operators at
once the later one has the last word.
"""

import asyncio
import json
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from schemas.codec import Codec
from schemas.records import SyncControl, SyncControlKind
from streams import kafka, topics
from streams.configuration import Configuration
from streams.log_follower import LogFollower, reads
from streams.scheduling import cadence
from streams.scheduling.cadence import REALTIME, Cadence
from streams.settings import Settings
from streams.sync import names

log = logging.getLogger(__name__)


class SyncControlLog:
    """What is in force now. All methods belong to the event loop in which it is made."""

    def __init__(self, settings: Settings, codec: Codec, configuration: Configuration) -> None:
        self._settings = settings
        self._codec = codec
        self._configuration = configuration
        self._newest: dict[tuple[SyncControlKind, str], SyncControl] = {}
        self._callbacks: list[Callable[[], None]] = []
        self._cadences: dict[tuple[str, Cadence], Cadence] = {}
        """As they were read since the last change: they are asked for with every command."""
        self._documents: dict[str, dict[str, Any]] = {}
        """Of DRAINED, likewise."""
        self._follower = LogFollower(settings, topics.SYNC_CONTROL, reads(codec, SyncControl), self._take)

    def start(self) -> None:
        """Begin to read; `ready` says when all is read."""
        self._follower.start()

    async def ready(self) -> None:
        await self._follower.ready()

    @property
    def is_ready(self) -> bool:
        return self._follower.is_ready

    async def close(self) -> None:
        await self._follower.close()

    def on_change(self, callback: Callable[[], None]) -> None:
        """Call back whenever something has changed; several changes may be one call."""
        self._callbacks.append(callback)

    # What is in force.

    def record(self, kind: SyncControlKind, name: str) -> SyncControl | None:
        """The newest word, unless it has ended what was said before."""
        found = self._newest.get((kind, name))
        return found if found is not None and found.document else None

    def records(self, kind: SyncControlKind) -> dict[str, SyncControl]:
        """All of a kind, by name."""
        return {name: record for (one, name), record in self._newest.items() if one is kind and record.document}

    def cadence(self, name: str, default: Cadence = REALTIME) -> Cadence:
        """How often a stream or job goes: as was said at run time, else as the configuration file says, else `default`."""
        found = self._cadences.get((name, default))
        if found is None:
            found = self._cadences[name, default] = self._read_cadence(name, default)
        return found

    def _read_cadence(self, name: str, default: Cadence) -> Cadence:
        record = self.record(SyncControlKind.CADENCE, name)
        if record is not None:
            try:
                return cadence.make(**json.loads(record.document))
            except (ValueError, TypeError) as error:
                log.warning("sync.cadence_unreadable", extra={"stream": name, "version": record.version, "reason": str(error)})
        return cadence.make(**self._configuration.sync.get(name, {}), default=default)

    def since_ms(self, name: str) -> int:
        """When the cadence was set at run time, or reset; 0: never."""
        record = self._newest.get((SyncControlKind.CADENCE, name))
        return record.changed_at_ms if record is not None else 0

    def inbound_names(self) -> list[str]:
        """The inbound streams that may wait, and their parts by source that somebody has named or that have waited."""
        named = {name for _, name in self._newest} | set(self._configuration.sync)
        return sorted({*names.INBOUND, *filter(names.is_inbound, named)})

    def schedule_of(self, stream: str, source_system: str) -> str:
        """Which schedule counts for commands of a source: the source's own if it has one, else the stream's."""
        own = f"{stream}/{source_system}"
        return own if self._is_named(own) else stream

    def _is_named(self, name: str) -> bool:
        """Whether the configuration file or an operator has a cadence for it."""
        return name in self._configuration.sync or self.record(SyncControlKind.CADENCE, name) is not None

    def is_drained(self, name: str) -> bool:
        """Whether a schedule has had nothing left that waits since it is off, or has never been on."""
        return self._drained(name).get("drained", True) is True

    def read_to(self, name: str) -> dict[int, int] | None:
        """Of the topic where a schedule's commands wait: partition -> the offset before which all have gone on. None: none has ever waited."""
        found = self._drained(name)
        return {int(number): offset for number, offset in found.get("read_to", {}).items()} if found else None

    def _drained(self, name: str) -> dict[str, Any]:
        found = self._documents.get(name)
        if found is None:
            record = self.record(SyncControlKind.DRAINED, name)
            found = self._documents[name] = json.loads(record.document) if record is not None else {}
        return found

    # Writers: they return when the broker has it. All raise UnavailableError.

    async def set_cadence(self, name: str, table: Mapping[str, Any], *, changed_by: str) -> None:
        """`table` has the keys of the configuration file's."""
        await self._write(SyncControlKind.CADENCE, name, dict(table), changed_by)

    async def reset_cadence(self, name: str, *, changed_by: str) -> None:
        """Back to what the configuration file says."""
        await self._write(SyncControlKind.CADENCE, name, None, changed_by)

    async def request(self, name: str, *, changed_by: str) -> int:
        """Ask for a run now; its number."""
        return await self._write(SyncControlKind.REQUEST, name, {}, changed_by)

    async def end_request(self, name: str, *, changed_by: str) -> None:
        await self._write(SyncControlKind.REQUEST, name, None, changed_by)

    async def set_drained(self, name: str, read_to: Mapping[int, int] | None, *, changed_by: str) -> None:
        """`read_to`: how far what waited has gone on, by partition; None: something may wait from now on."""
        content = {"drained": read_to is not None, "read_to": {str(number): offset for number, offset in (read_to or {}).items()}}
        await self._write(SyncControlKind.DRAINED, name, content, changed_by)

    async def _write(self, kind: SyncControlKind, name: str, content: Mapping[str, Any] | None, changed_by: str) -> int:
        newest = self._newest.get((kind, name))
        record = SyncControl(
            kind=kind, name=name, document="" if content is None else json.dumps(content), version=1 + (newest.version if newest else 0),
            changed_by=changed_by, changed_at_ms=time.time_ns() // 1_000_000,
        )  # fmt: skip
        await asyncio.to_thread(kafka.write_one, self._settings, topics.SYNC_CONTROL, f"{kind.value}/{name}", self._codec.encode(record))
        log.info("sync.changed", extra={"kind": kind.value, "control_name": name, "version": record.version, "changed_by": changed_by})
        return record.version

    def _take(self, batch: list[SyncControl]) -> None:
        for record in batch:
            self._newest[record.kind, record.name] = record
        self._cadences.clear()
        self._documents.clear()
        for callback in self._callbacks:
            callback()
