"""What a partition remembers of a connected system <-> records of the progress topic. Pure, but for the codec."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from schemas.codec import Codec
from schemas.contract import member_key
from schemas.records import ConnectorProgress, ConnectorProgressKind, LoyaltyEvent, LoyaltyEventKind
from sinks.connectors.members import Entry, event_of
from sinks.delivery.records import Outgoing

Link = tuple[int, str]
"""Number and hash of a chain's last record."""


def key_of(row: ConnectorProgress) -> bytes:
    """Key in the progress topic: `target|kind|member`."""
    return f"{row.target}|{row.kind.value}|{row.member}".encode()


def position_row(target: str, position: int) -> ConnectorProgress:
    return ConnectorProgress(kind=ConnectorProgressKind.POSITION, target=target, position=position)


def chain_row(target: str, link: Link) -> ConnectorProgress:
    number, record_hash = link
    return ConnectorProgress(kind=ConnectorProgressKind.CHAIN, target=target, chain_number=number, record_hash=record_hash)


def gone_row(target: str, member: str) -> ConnectorProgress:
    """What stands for a member of whom nothing is in hand any more, for its key."""
    return ConnectorProgress(kind=ConnectorProgressKind.MEMBER, target=target, member=member)


WIRE = "wire"
"""Among an event's bodies: as it is in the log. It is written with each announcement, and encoded once."""


def wire(record: Outgoing, codec: Codec) -> bytes:
    """Raises ContractError."""
    body = record.bodies.get(WIRE)
    if body is None:
        body = record.bodies[WIRE] = codec.encode(event_of(record))
    return body


def member_row(target: str, entry: Entry, codec: Codec, now_ms: int, now_s: float) -> ConnectorProgress:
    """`now_ms` and `now_s` are the same moment, by the clock and monotonic."""
    return ConnectorProgress(
        kind=ConnectorProgressKind.MEMBER, target=target, position=entry.newest.offset, member=entry.member, event=wire(entry.newest, codec),
        appended_at_ms=entry.newest.timestamp_ms, kinds=tuple(sorted(kind.value for kind in entry.kinds)),
        intended_sequence=entry.intended_sequence, intended_life_ms=int(entry.intended_life_s * 1000), attempts=entry.attempts,
        failing_since_ms=entry.failing_since_ms, due_at_ms=now_ms + int((entry.due_s - now_s) * 1000) if entry.due_s > now_s else None,
        is_parked=entry.is_parked, reason=entry.reason, detail=entry.detail[:200],
    )  # fmt: skip


def entry_of(row: ConnectorProgress, codec: Codec, now_ms: int, now_s: float) -> Entry:
    """The entry as it was, but that what may be under way still is waited for. Raises ContractError."""
    event = codec.decode(row.event or b"", LoyaltyEvent)
    newest = Outgoing(
        offset=row.position, key=member_key(event.program_id, event.member_id), record=event, timestamp_ms=row.appended_at_ms or event.recorded_at_ms
    )
    newest.bodies[WIRE] = row.event or b""
    wait_s = max(0.0, (row.due_at_ms - now_ms) / 1000) if row.due_at_ms is not None else 0.0
    return Entry(
        member=row.member, newest=newest, kinds={LoyaltyEventKind(kind) for kind in row.kinds if kind in LoyaltyEventKind.__members__},
        intended_sequence=row.intended_sequence, intended_life_s=row.intended_life_ms / 1000, attempts=row.attempts,
        failing_since_ms=row.failing_since_ms, due_s=now_s + max(wait_s, row.intended_life_ms / 1000), is_parked=row.is_parked, reason=row.reason,
        detail=row.detail,
    )  # fmt: skip


@dataclass(slots=True)
class Memory:
    """All rows of one partition and one target, by what they are about."""

    position: int | None = None
    members: dict[str, ConnectorProgress] = field(default_factory=dict)
    chains: dict[str, Link] = field(default_factory=dict)

    @classmethod
    def of(cls, rows: Iterable[ConnectorProgress]) -> "Memory":
        memory = cls()
        for row in rows:
            match row.kind:
                case ConnectorProgressKind.POSITION:
                    memory.position = row.position
                case ConnectorProgressKind.MEMBER:
                    memory.members[row.member] = row
                case ConnectorProgressKind.CHAIN:
                    memory.chains[row.target] = (row.chain_number, row.record_hash)
        return memory


def changed_rows(
    target: str, changed: Iterable[str], hand: Mapping[str, Entry], written: set[str], codec: Codec, now_ms: int, now_s: float
) -> dict[bytes, ConnectorProgress | None]:
    """The rows of members that have changed, by key; None takes a row away. `written` has those that have one, and is kept."""
    rows: dict[bytes, ConnectorProgress | None] = {}
    for member in changed:
        entry = hand.get(member)
        if entry is not None:
            rows[key_of(gone_row(target, member))] = member_row(target, entry, codec, now_ms, now_s)
            written.add(member)
        elif member in written:
            rows[key_of(gone_row(target, member))] = None
            written.discard(member)
    return rows
