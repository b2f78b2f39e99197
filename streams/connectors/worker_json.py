"""JSON that any HR system can send which can call a URL -> profile changes: a business process's step, an integration centre's, a script's.

    {"event_id": "wd-1a2b", "type": "worker.deactivated", "employee_id": "21001", "effective_date": "2026-11-22", "time_zone": "Asia/Kolkata",
     "occurred_at": "2026-11-22T03:40:00Z", "reason": "TERMINATION"}

Types: worker.hired, worker.updated, worker.deactivated, worker.reactivated. The effective_date of a deactivation is the last day; one that is over
when the event happened means at once. `attributes`, `segments` and `external_ids` are optional, and so is `version`, which is occurred_at unless given.
"""

from typing import Any

from schemas.contract import ID_CHARACTERS_MAX
from streams.connectors.contract import Delivery, Source, Translation
from streams.connectors.fields import Fields
from streams.connectors.workers import Worker, commands_of, read_day
from streams.errors import ContractError
from streams.ingress import commands

HIRED, UPDATED, DEACTIVATED, REACTIVATED = "worker.hired", "worker.updated", "worker.deactivated", "worker.reactivated"
TYPES = (HIRED, UPDATED, DEACTIVATED, REACTIVATED)


def translate(delivery: Delivery, source: Source) -> Translation:
    """One event of one worker. Raises ContractError."""
    found = commands_of(worker_of(commands.load_json(delivery.body), delivery.received_at_ms), source)
    return Translation(commands=found) if found else Translation(ignored="it says nothing that is kept, or of somebody who begins later")


def worker_of(value: Any, received_at_ms: int) -> Worker:
    """The worker that an event tells of. Raises ContractError."""
    event = Fields(value)
    kind = event.required_text("type")
    if kind not in TYPES:
        # Refused rather than ignored: a deactivation under another name must not get lost in silence.
        raise ContractError("TYPE_UNKNOWN", f"type must be one of {', '.join(TYPES)}")
    if len(event.text("event_id") or "") > ID_CHARACTERS_MAX:
        raise ContractError("ID_INVALID", f"event_id has {ID_CHARACTERS_MAX} characters at most")
    occurred_at_ms = event.time_ms("occurred_at")
    version = event.whole("version")
    happened_at_ms = received_at_ms if occurred_at_ms is None else occurred_at_ms
    day = read_day(event.text("effective_date"))
    return Worker(
        employee_id=event.required_text("employee_id"), version=happened_at_ms if version is None else version, occurred_at_ms=happened_at_ms,
        is_active={HIRED: True, REACTIVATED: True, DEACTIVATED: False, UPDATED: None}[kind], hired_on=day if kind == HIRED else None,
        last_day=day if kind == DEACTIVATED else None, time_zone=event.text("time_zone") or "", reason=event.text("reason") or "",
        attributes=event.texts_by_name("attributes") or {}, segments=event.texts("segments"), external_ids=event.texts_by_name("external_ids"),
    )  # fmt: skip
