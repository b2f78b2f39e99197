"""destinations and jobs -> channels: each an order of its own through the log, with what it wants of it. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from schemas.records import LoyaltyEventKind, NoticeKind
from sinks import payloads
from sinks.delivery.records import Outgoing
from streams import topics
from streams.destinations.model import BATCHABLE, Action, Destination, Job, Which
from streams.scheduling.cadence import REALTIME, Cadence

EVENT_KINDS = frozenset(kind.value for kind in LoyaltyEventKind if kind is not LoyaltyEventKind.UNKNOWN)
NOTICE_KINDS = frozenset(kind.value for kind in NoticeKind if kind is not NoticeKind.UNKNOWN)
ALL_EVENTS = EVENT_KINDS | {LoyaltyEventKind.UNKNOWN.value}
"""Also kinds that are newer than this process: it cannot send them, and must not pass over them in silence."""
KINDS = {topics.EVENTS.stream: EVENT_KINDS, topics.DELIVERY_NOTICES.stream: NOTICE_KINDS}
BATCH = "batch"


@dataclass(frozen=True, slots=True, kw_only=True)
class Channel:
    """One order through the log of one stream."""

    channel_id: str
    """The destination's name; with '#batch' or '#<job>' for what has an order of its own."""
    destination: str
    stream: str
    kinds: frozenset[str]
    programs: frozenset[str] = frozenset()
    filters: Mapping[str, frozenset[str]] = field(default_factory=dict)
    members: frozenset[str] = frozenset()
    event_ids: frozenset[str] = frozenset()
    start_at_ms: int = 0
    cadence: Cadence | None = None
    """When batches go out; None: it has none."""
    batch_events_max: int = 1
    coalesces: bool = False
    """Whether older events give way to newer ones that say as much."""
    job: Job | None = None

    @property
    def is_replay(self) -> bool:
        return self.job is not None

    @property
    def is_batch(self) -> bool:
        """Whether it goes out in batches, of one event at times."""
        return self.cadence is not None

    @property
    def job_id(self) -> str:
        return "" if self.job is None else self.job.job_id

    @property
    def follows(self) -> bool:
        """Whether it goes with the feed once it has caught up: batches and replays read the log at their own pace."""
        return self.job is None and self.cadence is None

    def wants(self, record: Outgoing) -> bool:
        """Whether the record is for this channel."""
        return record.record.kind.value in self.kinds and (not self.programs or record.program_id in self.programs) and self.passes(record)

    def passes(self, record: Outgoing) -> bool:
        """`wants`, of a record whose kind and programme are known to be wanted."""
        if self.members and record.lane not in self.members:
            return False
        if self.event_ids and record.event_id not in self.event_ids:
            return False
        return all(_matches(payloads.field_text(record.record, path), values) for path, values in self.filters.items())

    @property
    def keys(self) -> frozenset[bytes] | None:
        """Keys of the log's records that alone are wanted; None: any."""
        return frozenset(member.encode() for member in self.members) or None


def of_destination(destination: Destination) -> list[Channel]:
    """The channels of a destination, for as long as it lives."""
    return _channels(destination, destination.cadence)


def _channels(destination: Destination, cadence: Cadence | None) -> list[Channel]:
    found = []
    for stream, kinds in KINDS.items():
        wanted = kinds & destination.events if destination.events else (ALL_EVENTS if kinds is EVENT_KINDS else frozenset())
        batched = wanted & BATCHABLE if cadence is not None else frozenset()
        for channel_id, own, own_cadence, events_max in (
            (destination.name, wanted - batched, None, 1),
            (f"{destination.name}#{BATCH}", batched, cadence, destination.batch_events_max),
        ):
            if own:
                found.append(Channel(
                    channel_id=channel_id, destination=destination.name, stream=stream, kinds=own,
                    programs=destination.programs if stream == topics.EVENTS.stream else frozenset(),
                    filters=destination.filters if stream == topics.EVENTS.stream else {},
                    start_at_ms=destination.start_at_ms, cadence=own_cadence, batch_events_max=events_max,
                    coalesces=own_cadence is not None and destination.coalesce,
                ))  # fmt: skip
    return found


def of_retiring(channel_id: str, stream: str, destination: Destination) -> Channel | None:
    """A channel that the destination has no more, to send what is left of it; None if the destination wants nothing that can have been its."""
    found = _channels(destination, None if channel_id == destination.name else REALTIME)
    return next((channel for channel in found if (channel.channel_id, channel.stream) == (channel_id, stream)), None)


def of_job(job: Job, destination: Destination) -> Channel | None:
    """The channel of a replay: of what the destination would hear now, what the job chooses. None for other jobs."""
    if job.action is not Action.REPLAY:
        return None
    own = destination.events & EVENT_KINDS if destination.events else ALL_EVENTS
    programs = job.programs & destination.programs if job.programs and destination.programs else job.programs | destination.programs
    no_programme = bool(job.programs and destination.programs and not programs)
    return Channel(
        channel_id=f"{destination.name}#{job.job_id}", destination=destination.name, stream=topics.EVENTS.stream,
        kinds=frozenset() if no_programme else (job.events & own if job.events else own), programs=programs, filters=destination.filters,
        members=job.members, event_ids=job.event_ids, start_at_ms=job.since_ms, job=job,
    )  # fmt: skip


def asks_the_history(job: Job) -> bool:
    """Whether what is on record decides what the job sends."""
    return job.which is not Which.ALL


def _matches(text: str | list[str] | None, values: Iterable[str]) -> bool:
    if text is None:
        return False
    return any(one in values for one in text) if isinstance(text, list) else text in values
