"""What a partition remembers of its deliveries <-> records of the progress topic. Pure."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise

from schemas.records import DeliveryProgress, ProgressKind
from sinks.delivery.branch import Branch
from sinks.delivery.lane import Lane


def packed(offsets: Sequence[int]) -> tuple[int, ...]:
    """The first offset, then each one's distance to the one before: small numbers take one byte each."""
    return (*offsets[:1], *(after - before for before, after in pairwise(offsets)))


def unpacked(offsets: Iterable[int]) -> list[int]:
    return list(accumulate(offsets))


def feed_row(stream: str, position: int) -> DeliveryProgress:
    return DeliveryProgress(kind=ProgressKind.FEED, topic=stream, position=position)


def channel_row(branch: Branch) -> DeliveryProgress:
    """How far a branch has come, with all that is in its lanes but for those that are parked."""
    offsets = sorted([*branch.unfinished, *(offset for lane in branch.lanes.values() if not lane.is_parked for offset in lane.offsets)])
    counts = dict(branch.counts)
    if branch.end is not None:
        counts["end"] = branch.end
    return DeliveryProgress(
        kind=ProgressKind.CHANNEL, topic=branch.channel.stream, destination=branch.channel.destination, channel=branch.channel.channel_id,
        position=-1 if branch.follows else branch.position, offsets=packed(offsets), counts=counts, is_done=branch.is_done,
    )  # fmt: skip


def lane_row(lane: Lane, segment: int) -> DeliveryProgress | None:
    """One segment of a parked lane; None: it is no more. The first one says how its first event fares."""
    offsets = lane.segment(segment)
    if not offsets:
        return None
    row = replace(no_lane_row(lane, segment), offsets=packed(offsets))
    if segment != lane.segments()[0]:
        return row
    return replace(
        row, attempts=lane.attempts, failing_since_ms=lane.failing_since_ms, due_at_ms=lane.due_ms, is_blocked=lane.is_blocked, detail=lane.detail[:200]
    )


def no_lane_row(lane: Lane, segment: int) -> DeliveryProgress:
    """What stands for a segment that is no more, for its key."""
    channel = lane.branch.channel
    return DeliveryProgress(
        kind=ProgressKind.LANE, topic=channel.stream, destination=channel.destination, channel=channel.channel_id, member=lane.key, segment=segment
    )


def chain_row(stream: str, destination: str, number: int, record_hash: str) -> DeliveryProgress:
    return DeliveryProgress(kind=ProgressKind.CHAIN, topic=stream, destination=destination, chain_number=number, record_hash=record_hash)


def done_row(stream: str, job_id: str, destination: str, counts: dict[str, int]) -> DeliveryProgress:
    """A job that is no replay is done here."""
    return DeliveryProgress(
        kind=ProgressKind.CHANNEL, topic=stream, destination=destination, channel=f"{destination}#{job_id}", counts=counts, is_done=True
    )


def following_row(stream: str, channel: str) -> DeliveryProgress:
    """What stands for the row of a channel of which only lanes are remembered."""
    return DeliveryProgress(kind=ProgressKind.CHANNEL, topic=stream, channel=channel, position=-1)


@dataclass(slots=True)
class Remembered:
    """The rows of one channel."""

    row: DeliveryProgress | None = None
    lanes: dict[str, list[DeliveryProgress]] = field(default_factory=lambda: defaultdict(list))


@dataclass(slots=True)
class Memory:
    """All rows of one partition, by what they are about."""

    position: int | None = None
    channels: dict[str, Remembered] = field(default_factory=lambda: defaultdict(Remembered))
    chains: dict[str, tuple[int, str]] = field(default_factory=dict)

    @classmethod
    def of(cls, rows: Iterable[DeliveryProgress]) -> "Memory":
        memory = cls()
        for row in rows:
            match row.kind:
                case ProgressKind.FEED:
                    memory.position = row.position
                case ProgressKind.CHANNEL:
                    memory.channels[row.channel].row = row
                case ProgressKind.LANE:
                    memory.channels[row.channel].lanes[row.member].append(row)
                case ProgressKind.CHAIN:
                    memory.chains[row.destination] = (row.chain_number, row.record_hash)
        return memory


def restore_lanes(branch: Branch, remembered: Remembered) -> None:
    """The parked lanes of a branch, with offsets alone."""
    for member, rows in remembered.lanes.items():
        rows.sort(key=lambda row: row.segment)
        first = rows[0]
        lane = branch.lanes[member] = Lane(branch, member)
        lane.restore([(row.segment, unpacked(row.offsets)) for row in rows])
        lane.attempts, lane.failing_since_ms, lane.due_ms = first.attempts, first.failing_since_ms, first.due_at_ms
        lane.is_blocked, lane.detail = first.is_blocked, first.detail
        branch.waiting += len(lane)
        branch.parked += len(lane)
