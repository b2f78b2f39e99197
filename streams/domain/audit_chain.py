"""Audit records -> a chain: each has the hash of the one before, so that one that was changed, added or left out later shows.

The hash is over the record's fields as JSON, in the order of HASHED; it does not depend on Avro, so that a copy in ClickHouse can be checked
as well as the topic.
"""

from collections.abc import Sequence
from hashlib import sha256
from operator import attrgetter
from typing import TypeVar

import orjson

from schemas.records import DeliveryAudit, SyncAudit

Record = TypeVar("Record", SyncAudit, DeliveryAudit)

# Frozen: a field that is added later does not belong to the hash, or records from before would not verify any more.
SYNC_AUDIT_FIELDS = (
    "audit_id", "program_id", "member_id", "stream", "command_id", "payload_hash", "source_system", "actor", "result", "reason", "replayed",
    "changes", "sequence", "points_delta", "available_points", "tier", "voucher_code", "occurred_at_ms", "ingested_at_ms", "recorded_at_ms",
    "correlation_id", "topic", "partition", "offset", "detail", "source_version",
)  # fmt: skip
DELIVERY_AUDIT_FIELDS = (
    "delivery_id", "destination", "event_id", "program_id", "member_id", "sequence", "kind", "result", "reason", "status", "attempts",
    "command_id", "source_system", "changed_attributes", "occurred_at_ms", "ingested_at_ms", "recorded_at_ms", "ended_at_ms", "correlation_id",
)  # fmt: skip
HASHED: dict[type, tuple[str, ...]] = {SyncAudit: SYNC_AUDIT_FIELDS, DeliveryAudit: DELIVERY_AUDIT_FIELDS}
_VALUES = {record: attrgetter(*names) for record, names in HASHED.items()}


def chained(record: Record, number: int, previous_hash: str) -> Record:
    """The record as link `number`, from 1, of a chain."""
    return record.but(chain_number=number, previous_hash=previous_hash, record_hash=hash_of(record, number, previous_hash))


def hash_of(record: SyncAudit | DeliveryAudit, number: int, previous_hash: str) -> str:
    """What record_hash must be for this number and predecessor: SHA-256 in hex."""
    return hash_of_values(_VALUES[type(record)](record), number, previous_hash)


def hash_of_values(values: Sequence[object], number: int, previous_hash: str) -> str:
    """`hash_of` for the values of HASHED's fields, in their order; changes as records or as (attribute, before, after)."""
    return sha256(orjson.dumps([number, previous_hash, *values], default=_plain, option=orjson.OPT_PASSTHROUGH_DATACLASS)).hexdigest()


def _plain(value: object) -> object:
    """A change as a list of its three texts."""
    return [value.attribute, value.before, value.after]  # type: ignore[attr-defined]
