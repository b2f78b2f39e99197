"""Chains for tests, and what somebody might do to a record."""

from dataclasses import fields, replace
from enum import Enum
from typing import Any

from schemas.records import AttributeChange, DeliveryAudit, SyncAudit
from streams.domain.audit_chain import Record, chained
from tests.sinks import examples


def chain(records: list[Record]) -> list[Record]:
    """The records as links of one chain."""
    found: list[Record] = []
    for number, record in enumerate(records, start=1):
        found.append(chained(record, number, found[-1].record_hash if found else ""))
    return found


def sync_audits(count: int) -> list[SyncAudit]:
    return chain([
        examples.audit(number, actor="u-7", reason="R", tier="GOLD", voucher_code="V", correlation_id="c", detail="d", source_version=3)
        for number in range(1, count + 1)
    ])  # fmt: skip


def delivery_audits(count: int, destination: str = "crm") -> list[DeliveryAudit]:
    return chain([
        examples.delivery_audit(number, destination=destination, reason="R", correlation_id="c") for number in range(1, count + 1)
    ])  # fmt: skip


def names(record: type) -> list[str]:
    return [one.name for one in fields(record)]


def altered(record: Record, name: str, bit: int = 0) -> Record:
    """The record with one bit of one field, or one entry of a list, turned over."""
    return record.but(**{name: _altered(getattr(record, name), bit)})


def _altered(value: Any, bit: int) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, Enum):
        return next(other for other in type(value) if other is not value)
    if isinstance(value, int):
        return value ^ (1 << bit)
    if isinstance(value, str):
        return chr(ord(value[0]) ^ (1 << bit % 7)) + value[1:] if value else "x"
    if isinstance(value, AttributeChange):
        return replace(value, after=_altered(value.after or "", bit))
    if isinstance(value, tuple):
        return (_altered(value[0], bit), *value[1:])
    raise AssertionError(f"no example has a value here: {value!r}")
