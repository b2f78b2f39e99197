"""The delivery-control topic <-> destinations, their states and jobs: what is in force now, for the sinks and the ingress alike.

The newest record of a key counts, by its version: of two with the same one, the first. Who writes waits until it has read its own record
again, and so knows whether another one was faster. The loser writes the winner's record once more: the broker's compaction keeps a key's
last record, and that must be the one in force.
"""

import asyncio
import json
import logging
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from confluent_kafka import Message

from schemas.codec import Codec
from schemas.records import ControlKind, DeliveryControl
from streams import kafka, topics
from streams.destinations import document, sealing
from streams.destinations.document import DocumentError
from streams.destinations.model import Destination, DestinationState, Job
from streams.errors import ConfigurationError, ContractError, LoyaltyError, UnavailableError
from streams.log_follower import LogFollower
from streams.settings import Settings

log = logging.getLogger(__name__)

WRITE_ID = "write_id"
"""Header by which a writer knows its own record."""
READ_TIMEOUT_S = 10.0  # Until what was written has been read again.

Value = Destination | DestinationState | Job


class ConflictError(LoyaltyError):
    """It is not what the writer took it for: somebody else was faster, or it belongs to the configuration file."""


@dataclass(frozen=True, slots=True)
class _Read:
    """A record as it was read. `value` is None for one that ends something, and for one that cannot be understood here."""

    record: DeliveryControl
    value: Value | None
    write_id: str


class ControlLog:
    """Follows the topic in a thread; everything else belongs to the event loop in which it is made.

    `destinations`, `states` and `jobs` are what is in force, by name; `unreadable` has the versions of destinations whose document cannot be
    read here: theirs is a setting to be mended, and nothing of theirs is to be forgotten.
    """

    def __init__(self, settings: Settings, codec: Codec, from_file: Mapping[str, Destination]) -> None:
        self.destinations: dict[str, Destination] = dict(from_file)
        self.states: dict[str, DestinationState] = {}
        self.jobs: dict[str, Job] = {}
        self.unreadable: dict[str, int] = {}
        self._from_file = dict(from_file)
        self._settings = settings
        self._codec = codec
        self._topic = topics.DELIVERY_CONTROL.name(settings.topic_prefix)
        self._newest: dict[str, DeliveryControl] = {}
        self._callbacks: list[Callable[[], None]] = []
        self._writes: dict[str, asyncio.Future[bool]] = {}
        self._follower = LogFollower(settings, topics.DELIVERY_CONTROL, self._read, self._take)

    def start(self) -> None:
        """Begin to read; `ready` says when all is read."""
        self._follower.start()

    async def ready(self) -> None:
        """Return once all that the topic held at the start is in force here."""
        await self._follower.ready()

    async def ready_unless(self, stopped: "asyncio.Task[bool]") -> bool:
        """Wait until it is ready, or `stopped` is done; whether it is ready."""
        ready = asyncio.create_task(self.ready())
        await asyncio.wait([ready, stopped], return_when=asyncio.FIRST_COMPLETED)
        if stopped.done():
            ready.cancel()
            return False
        ready.result()
        return True

    @property
    def is_ready(self) -> bool:
        return self._follower.is_ready

    async def close(self) -> None:
        await self._follower.close()
        for write in self._writes.values():
            write.cancel()

    def on_change(self, callback: Callable[[], None]) -> None:
        """Call back in the event loop whenever something has changed; several changes may be one call."""
        self._callbacks.append(callback)

    def is_from_file(self, name: str) -> bool:
        """Whether the configuration file has the destination: then nobody else may change it."""
        return name in self._from_file

    # Writers. `version` of what is given is that on which the change is based: 0 for something new. All of them return when the change is in
    # force here, and raise ConflictError, UnavailableError, ConfigurationError (LOYALTY_DESTINATION_KEYS), ContractError (too large).

    async def put_destination(self, destination: Destination, *, changed_by: str) -> Destination:
        """Make or change a destination; as it is now, with its new version."""
        name = destination.name
        if self.is_from_file(name):
            raise ConflictError(f"destination {name} is of the configuration file, where alone it can be changed")
        sealed = document.map_secrets(document.to_document(destination), lambda text: sealing.seal(self._settings.destination_keys, text))
        if destination.version == 0 and name in self.states:  # Of one that is no more.
            await self._end(ControlKind.STATE, name, self.states[name].version, changed_by)
        record = await self._write(ControlKind.DESTINATION, name, sealed, destination.version, changed_by)
        return replace(destination, version=record.version, changed_by=changed_by, changed_at_ms=record.changed_at_ms)

    async def delete_destination(self, name: str, version: int, *, changed_by: str) -> None:
        """End a destination, its state and its jobs."""
        if self.is_from_file(name):
            raise ConflictError(f"destination {name} is of the configuration file, where alone it can be taken away")
        await self._end(ControlKind.DESTINATION, name, version, changed_by)
        if name in self.states:
            await self._end(ControlKind.STATE, name, self.states[name].version, changed_by)
        for job in [job for job in self.jobs.values() if job.destination == name]:
            await self._end(ControlKind.JOB, job.job_id, job.version, changed_by)

    async def put_state(self, state: DestinationState, *, changed_by: str) -> DestinationState:
        """Set the state of a destination, also of one of the configuration file."""
        record = await self._write(ControlKind.STATE, state.name, document.state_document(state), state.version, changed_by)
        return replace(state, version=record.version, changed_by=changed_by, changed_at_ms=record.changed_at_ms)

    async def put_job(self, job: Job, *, changed_by: str) -> Job:
        """Make or change a job."""
        record = await self._write(ControlKind.JOB, job.job_id, document.job_document(job), job.version, changed_by)
        return replace(job, version=record.version)

    async def delete_job(self, job_id: str, version: int, *, changed_by: str) -> None:
        """End a job: what it has not done yet, nobody will."""
        await self._end(ControlKind.JOB, job_id, version, changed_by)

    async def _end(self, kind: ControlKind, name: str, version: int, changed_by: str) -> None:
        if version == 0:
            raise ConflictError(f"there is no {kind.value.lower()} {name}")
        await self._write(kind, name, None, version, changed_by)

    async def _write(
        self, kind: ControlKind, name: str, content: Mapping[str, object] | None, version: int, changed_by: str
    ) -> DeliveryControl:
        if not self.is_ready:
            raise UnavailableError(f"topic {self._topic} has not been read yet")
        key, thing = f"{kind.value}/{name}", f"{kind.value.lower()} {name}"
        newest = self._newest.get(key)
        in_force = newest.version if newest is not None and newest.document else 0
        if version != in_force:
            raise ConflictError(f"{thing} has version {in_force}, not {version}" if in_force and version else f"{thing} {'exists' if in_force else 'is gone'}")
        record = DeliveryControl(
            kind=kind, name=name, document="" if content is None else json.dumps(content), version=1 + (newest.version if newest else 0),
            changed_by=changed_by, changed_at_ms=time.time_ns() // 1_000_000,
        )  # fmt: skip
        is_mine = await self._append(key, record)
        if not is_mine:
            winner = self._newest[key]
            while not await self._append(key, self._newest[key]):
                pass  # It was not the newest any more.
            raise ConflictError(f"{thing} was changed by {winner.changed_by} at the same time")
        log.info(
            "destination.changed",
            extra={"kind": kind.value, "control_name": name, "version": record.version, "changed_by": changed_by, "ended": content is None},
        )
        return record

    async def _append(self, key: str, record: DeliveryControl) -> bool:
        """Write a record, wait until it has been read again, and say whether it is what counts."""
        value, write_id = self._codec.encode(record), secrets.token_hex(16)
        write: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._writes[write_id] = write
        try:
            await asyncio.to_thread(kafka.write_one, self._settings, topics.DELIVERY_CONTROL, key, value, {WRITE_ID: write_id.encode()})
            return await asyncio.wait_for(write, READ_TIMEOUT_S)
        except TimeoutError as error:
            raise UnavailableError(f"topic {self._topic} cannot be read: look whether the change is there before you repeat it") from error
        finally:
            del self._writes[write_id]

    def _take(self, batch: list[_Read]) -> None:
        """Put in force what was read, in the order of the log."""
        has_changed = False
        for read in batch:
            record = read.record
            key = f"{record.kind.value}/{record.name}"
            newest = self._newest.get(key)
            is_accepted = newest is None or record.version > newest.version
            if is_accepted:
                self._newest[key] = record
                self._apply(record, read.value)
                has_changed = True
            write = self._writes.get(read.write_id)
            if write is not None and not write.done():
                write.set_result(is_accepted or record == newest)
        if has_changed:
            for callback in self._callbacks:
                callback()

    def _apply(self, record: DeliveryControl, value: Value | None) -> None:
        name = record.name
        match record.kind:
            case ControlKind.DESTINATION:
                self.unreadable.pop(name, None)
                if value is None and record.document:
                    self.unreadable[name] = record.version
                if self.is_from_file(name):
                    advice = "The configuration file's is in force. Take one of them away."
                    log.warning("destination.named_twice", extra={"destination": name, "advice": advice})
                else:
                    _set(self.destinations, name, value)
            case ControlKind.STATE:
                _set(self.states, name, value)
            case ControlKind.JOB:
                _set(self.jobs, name, value)

    # What follows runs in the follower's thread.

    def _read(self, message: Message) -> _Read | None:
        """What a record says; None for one that says nothing."""
        if message.value() is None:
            return None
        headers: dict[str, Any] = dict(message.headers() or ())
        write_id: bytes = headers.get(WRITE_ID) or b""
        try:
            record = self._codec.decode(message.value(), DeliveryControl)
            if record.kind is ControlKind.UNKNOWN:
                raise ContractError("KIND_UNKNOWN", "of a newer version")
        except ContractError as error:
            log.warning("control.undecodable", extra={
                "partition": message.partition(), "offset": message.offset(), "reason": error.reason, "detail": error.detail,
            })  # fmt: skip
            return None
        return _Read(record, self._value(record), write_id.decode(errors="replace"))

    def _value(self, record: DeliveryControl) -> Value | None:
        """What the document says; None if it cannot be read, which the log says."""
        if not record.document:
            return None
        try:
            content = json.loads(record.document)
            if not isinstance(content, dict):
                raise ValueError("no object")
            match record.kind:
                case ControlKind.DESTINATION:
                    content = document.map_secrets(content, lambda text: sealing.unseal(self._settings.destination_keys, text))
                    destination = document.read_destination(record.name, content, programs=None)
                    return replace(destination, version=record.version, changed_by=record.changed_by, changed_at_ms=record.changed_at_ms)
                case ControlKind.STATE:
                    state = document.read_state(record.name, content)
                    return replace(state, version=record.version, changed_by=record.changed_by, changed_at_ms=record.changed_at_ms)
                case _:
                    return replace(document.read_job(record.name, content), version=record.version)
        except (ConfigurationError, DocumentError, ValueError) as error:
            log.error("control.unreadable", extra={"kind": record.kind.value, "control_name": record.name, "version": record.version, "reason": str(error)})
            return None


def _set(found: dict[str, Any], name: str, value: Value | None) -> None:
    if value is None:
        found.pop(name, None)
    else:
        found[name] = value
