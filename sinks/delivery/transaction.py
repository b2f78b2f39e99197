"""What has happened in a partition -> the records of one transaction."""

import asyncio
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from schemas.codec import Codec
from schemas.contract import member_key
from schemas.records import DeadLetter, DeliveryNotice, DeliveryProgress, DeliveryResult
from sinks.delivery import evidence, progress
from sinks.delivery.evidence import Attempted, Dropped, Ended
from sinks.delivery.journal import Write, key_of
from streams import topics
from streams.domain.audit_chain import chained
from streams.topics import Topic

DESTINATION = "destination"
"""Header of audit records: a search decodes only what it looks for."""
Link = tuple[int, str]
"""Number and hash of a chain's last record."""


@dataclass(slots=True)
class Gathered:
    """What one transaction writes."""

    rows: dict[bytes, DeliveryProgress | None] = field(default_factory=dict)
    ends: list[Ended | Dropped] = field(default_factory=list)
    attempts: list[Attempted] = field(default_factory=list)
    notices: list[DeliveryNotice] = field(default_factory=list)
    letters: list[DeadLetter] = field(default_factory=list)

    @property
    def ended(self) -> int:
        """Deliveries that are over by it; what was superseded was none."""
        return sum(isinstance(one, Ended) and one.result is not DeliveryResult.SUPERSEDED for one in self.ends)

    def __len__(self) -> int:
        return len(self.rows) + len(self.ends) + len(self.attempts) + len(self.notices) + len(self.letters)


SLICE_MIN = 16
"""Records that are encoded in one go at least: a millisecond or two. A thread would hold the interpreter's lock for longer, at each turn of the loop."""
ENCODED_IN_S = 0.2
"""Slices grow so that all of a transaction is encoded in about this time, however long a turn of a busy loop takes: else what is gathered while
one transaction is encoded would make the next one larger, without end."""


async def encoded(
    gathered: Gathered, before: Mapping[str, Link], prefix: str, codec: Codec, topic: Topic, number: int
) -> tuple[list[Write], dict[str, Link]]:
    """The records of one transaction of a partition, and the new ends of the audit chains; `before` has their old ones."""
    chains: dict[str, Link] = {}
    return await in_slices(_writes(gathered, before, chains, prefix, codec, topic, number), len(gathered)), chains


async def in_slices(records: Iterator[Write], count: int) -> list[Write]:
    """All of about `count` records, encoded as they are taken, with turns of the loop in between."""
    writes: list[Write] = []
    loop = asyncio.get_running_loop()
    began_s = turn_began_s = loop.time()
    left = SLICE_MIN
    for write in records:
        writes.append(write)
        left -= 1
        if not left:
            await asyncio.sleep(0)
            now_s = loop.time()
            turns = (began_s + ENCODED_IN_S - now_s) / (now_s - turn_began_s) if now_s > turn_began_s else math.inf
            turn_began_s, left = now_s, max(SLICE_MIN, math.ceil((count - len(writes)) / max(1.0, turns)))
    return writes


def audit_writes(
    ends: Iterable[Ended | Dropped], before: Mapping[str, Link], chains: dict[str, Link], prefix: str, codec: Codec, number: int
) -> Iterator[Write]:
    """The audit records of ends in a partition, chained to those `before`; `chains` gets the new ends of the chains."""
    for ended in ends:
        count, record_hash = chains.get(ended.destination) or before.get(ended.destination, (0, ""))
        record = chained(evidence.audit_of(ended), count + 1, record_hash)
        chains[ended.destination] = (count + 1, record.record_hash)
        key = member_key(record.program_id, record.member_id)
        yield Write(topics.DELIVERY_AUDIT.name(prefix), number, key, codec.encode(record), [(DESTINATION, ended.destination.encode())])


def _writes(
    gathered: Gathered, before: Mapping[str, Link], chains: dict[str, Link], prefix: str, codec: Codec, topic: Topic, number: int
) -> Iterator[Write]:
    encode, stream = codec.encode, topic.stream
    attempts = topics.DELIVERY_ATTEMPTS.name(prefix)
    yield from audit_writes(gathered.ends, before, chains, prefix, codec, number)
    for destination, (count, record_hash) in chains.items():
        row = progress.chain_row(stream, destination, count, record_hash)
        gathered.rows[key_of(row)] = row
    for attempted in gathered.attempts:
        attempt = evidence.attempt_of(attempted)
        yield Write(attempts, number, member_key(attempt.program_id, attempt.member_id), encode(attempt), [])
    for notice in gathered.notices:
        yield Write(topics.DELIVERY_NOTICES.name(prefix), None, notice.destination.encode(), encode(notice), [])
    for letter in gathered.letters:
        yield Write(topics.DEAD_LETTERS.name(prefix), number, letter.key or b"", encode(letter), [])
    for key, one in gathered.rows.items():
        yield Write(topics.DELIVERY_PROGRESS.name(prefix), number, key, None if one is None else encode(one), [])
