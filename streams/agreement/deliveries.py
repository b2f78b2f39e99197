"""events, delivery-progress, delivery-audit -> for each destination: what it should have by now, and what is on record that it has.

An event is owed to a destination that wants it and is past it: by the progress of the deliveries, which is written in one transaction with
the audit. What is owed and has no audit record is a difference; what is not past is under way, and no error.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

from schemas.codec import Codec
from schemas.contract import member_key
from schemas.records import DeliveryAudit, DeliveryProgress, DeliveryResult, LoyaltyEvent
from sinks.delivery import channels
from sinks.delivery.channels import Channel
from sinks.delivery.progress import Memory, unpacked
from sinks.delivery.records import Outgoing
from streams import topics
from streams.agreement.model import Cause
from streams.destinations.control import ControlLog
from streams.destinations.model import Destination
from streams.settings import Settings

Owed = tuple[str, bytes, int]
"""Destination, member and sequence of an event."""
CAUSES = {DeliveryResult.DEAD_LETTERED: Cause.DEAD_LETTER, DeliveryResult.SKIPPED: Cause.SKIPPED, DeliveryResult.DROPPED: Cause.DROPPED}
OPERATOR = "OPERATOR"
"""Reason of an event that a person has passed over."""
START_S = 30.0


async def documents(settings: Settings, codec: Codec, from_file: Mapping[str, Destination]) -> dict[str, Destination]:
    """The destinations that there are. Raises TimeoutError."""
    control = ControlLog(settings, codec, from_file)
    control.start()
    try:
        await asyncio.wait_for(control.ready(), START_S)
        return dict(control.destinations)
    finally:
        await control.close()


@dataclass(slots=True)
class Progress:
    """How far each channel has come in one partition of the events."""

    position: int = 0
    """Of the feed."""
    channels: dict[str, int] = field(default_factory=dict)
    unfinished: dict[str, frozenset[int]] = field(default_factory=dict)

    def is_past(self, channel: Channel, offset: int) -> bool:
        position = self.channels.get(channel.channel_id, self.position if channel.follows else 0)
        return offset < (self.position if position < 0 else position) and offset not in self.unfinished.get(channel.channel_id, ())


@dataclass(slots=True)
class Taken:
    """What became of a member's events at a destination."""

    delivered: int = 0
    """Highest sequence."""
    ended: int = 0
    """Highest sequence that ended otherwise; what follows is of it."""
    cause: Cause = Cause.DROPPED
    reason: str = ""
    event_id: str = ""


class Deliveries:
    """What is read is given in this order: all progress; then, of some members after others, all events and all audit records."""

    def __init__(self, codec: Codec, destinations: Mapping[str, Destination]) -> None:
        self._codec = codec
        self._rows: dict[int, dict[bytes, DeliveryProgress]] = {}
        self._progress: dict[int, Progress] = {}
        stream = topics.EVENTS.stream
        self._channels = [
            # What it wanted before it was changed is not known.
            (channel, max(destination.start_at_ms, destination.changed_at_ms if destination.version > 1 else 0))
            for destination in destinations.values()
            for channel in channels.of_destination(destination) if channel.stream == stream
        ]  # fmt: skip
        self.names = tuple(destinations)
        self.owed: dict[Owed, tuple[str, int]] = {}
        """Events without a record of their end: event_id, and when it was appended, ms."""
        self.taken: dict[tuple[str, bytes], Taken] = {}
        """By destination and member."""
        self.underway: dict[str, tuple[int, int]] = {}
        """Destination -> how many events are under way, and when the oldest was appended, ms."""

    def add_progress(self, partition: int, key: bytes, value: bytes | None) -> None:
        rows = self._rows.setdefault(partition, {})
        rows.pop(key, None)
        if value is not None:
            rows[key] = self._codec.decode(value, DeliveryProgress)

    def progress_is_known(self) -> None:
        for partition, rows in self._rows.items():
            memory = Memory.of(row for row in rows.values() if row.topic == topics.EVENTS.stream)
            progress = self._progress[partition] = Progress(position=memory.position or 0)
            for name, remembered in memory.channels.items():
                if remembered.row is not None:
                    progress.channels[name] = remembered.row.position
                waiting = [row for lane in remembered.lanes.values() for row in lane] + ([remembered.row] if remembered.row is not None else [])
                progress.unfinished[name] = frozenset(offset for row in waiting for offset in unpacked(row.offsets))
        self._rows.clear()

    def next_members(self) -> None:
        """Forget what is owed to some members, and what they have."""
        self.owed, self.taken = {}, {}

    def add_event(self, partition: int, offset: int, key: bytes, timestamp_ms: int, event: LoyaltyEvent) -> None:
        if not self._channels:
            return
        progress = self._progress.get(partition)
        outgoing = Outgoing(offset=offset, key=key, record=event, timestamp_ms=timestamp_ms)
        for channel, since_ms in self._channels:
            if timestamp_ms < since_ms or not channel.wants(outgoing):
                continue
            if progress is not None and progress.is_past(channel, offset):
                self.owed[channel.destination, key, event.sequence] = event.event_id, timestamp_ms
            else:
                count, oldest_ms = self.underway.get(channel.destination, (0, timestamp_ms))
                self.underway[channel.destination] = count + 1, min(oldest_ms, timestamp_ms)

    def add_audit(self, audit: DeliveryAudit) -> None:
        key = member_key(audit.program_id, audit.member_id)
        self.owed.pop((audit.destination, key, audit.sequence), None)
        taken = self.taken.setdefault((audit.destination, key), Taken())
        if audit.result is DeliveryResult.DELIVERED or (audit.result is DeliveryResult.SKIPPED and audit.reason != OPERATOR):
            # A connected system that has no such member has all that it wants.
            taken.delivered = max(taken.delivered, audit.sequence)
        elif audit.result in CAUSES and audit.sequence >= taken.ended:
            taken.ended, taken.cause, taken.reason, taken.event_id = audit.sequence, CAUSES[audit.result], audit.reason or "", audit.event_id
