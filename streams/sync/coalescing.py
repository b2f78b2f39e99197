"""Commands that have waited -> records for their stream's own topic, in their order. Pure.

Profile changes of one member that come from one source, with nothing else of the member between them, travel as one record: the last of
them, with the others in its header `earlier`. The worker decides each of them as if it had come alone and tells the outcome once
(streams/domain/coalescing.py). Everything else travels as it is.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from schemas.codec import Codec
from schemas.records import ProfileChange, WaitingCommand, WaitingCommands
from streams import topics
from streams.errors import ContractError

TOGETHER_MAX = 100
TOGETHER_BYTES_MAX = 300_000
"""Of what travels together: well below Kafka's limit of 1 MB for a record."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A record as it waits."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    correlation_id: str | None


@dataclass(slots=True)
class Outgoing:
    """A record for the stream's own topic. `members`: what it stands for, its own last."""

    members: list[Waiting]
    value_bytes: int
    source_system: str | None = None
    """None: it stands for itself alone."""
    is_judged: bool = False
    """Whether `source_system` is known: nobody asks before another command of the member follows."""


def coalesced(waiting: Iterable[Waiting], codec: Codec, *, is_profile_changes: bool) -> list[Outgoing]:
    """In the order of the last record of each."""
    found: list[Outgoing] = []
    open_by_key: dict[bytes, Outgoing] = {}
    for one in waiting:
        key, size = one.key or b"", len(one.value or b"")
        alone = Outgoing([one], size)
        together = open_by_key.get(key) if is_profile_changes else None
        if together is not None:
            for other in (together, alone):
                _judge(other, codec)
            if (
                together.source_system is not None and together.source_system == alone.source_system
                and len(together.members) < TOGETHER_MAX and together.value_bytes + size <= TOGETHER_BYTES_MAX
            ):  # fmt: skip
                together.members.append(one)
                together.value_bytes += size
                continue
        open_by_key[key] = alone
        found.append(alone)
    return found


def _judge(outgoing: Outgoing, codec: Codec) -> None:
    if not outgoing.is_judged:
        outgoing.source_system, outgoing.is_judged = _source_of(outgoing.members[0], codec), True


def headers(outgoing: Outgoing, codec: Codec) -> list[tuple[str, bytes]]:
    """Of the record: the correlation id of its own command, and what comes before it."""
    *earlier, own = outgoing.members
    found = [("correlation_id", own.correlation_id.encode())] if own.correlation_id else []
    if earlier:
        found.append((topics.EARLIER, codec.encode(WaitingCommands(commands=tuple(map(_carried, earlier))))))
    return found


def _carried(one: Waiting) -> WaitingCommand:
    return WaitingCommand(
        topic=one.topic, partition=one.partition, offset=one.offset, ingested_at_ms=one.timestamp_ms, correlation_id=one.correlation_id,
        value=one.value or b"",
    )  # fmt: skip


def _source_of(one: Waiting, codec: Codec) -> str | None:
    """The source of a change that may travel with others: one of the profile alone, of a member who is named by their number."""
    try:
        change = codec.decode(one.value, ProfileChange)
    except ContractError:
        return None
    return change.source_system if change.status is None and not change.member_id.startswith("@") else None
