"""HR -> profile changes: people who join, change, leave and come back, pushed by any HR system that can call a URL.

    {"type": "worker.deactivated", "timestamp": "2026-11-22T03:40:00Z",
     "data": {"employee_id": "21001", "last_day": "2026-11-21", "time_zone": "Asia/Kolkata", "reason": "TERMINATION"}}

signed by Standard Webhooks. The employee_id is the member_id. Who has a last day ahead is suspended when it is over: the change says from
when, and the ledger keeps it until then. The event id is made of the signed webhook-id, which stays the same when a delivery is repeated.
The source version is data.version or, without one, the timestamp in milliseconds: an older event that arrives late is superseded. Give
versions always or never: they do not compare with timestamps.
"""

from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from typing import Any
from zoneinfo import ZoneInfo

from schemas.contract import Command
from schemas.records import Enrolment, MemberStatus, ProfileChange
from streams.connectors.contract import Delivery, Source, Translation
from streams.connectors.fields import Fields
from streams.errors import ContractError
from streams.ingress import commands

DEACTIVATED = "employment ended"


def translate(delivery: Delivery, source: Source) -> Translation:
    envelope = Fields(commands.load_json(delivery.body))
    kind = envelope.required_text("type")
    data = envelope.object("data")
    make = _MAKERS.get(kind)
    if make is None:
        # Refused rather than ignored: a deactivation under another name must not get lost in silence.
        raise ContractError("TYPE_UNKNOWN", f"type must be one of {', '.join(_MAKERS)}")
    occurred_at_ms = envelope.time_ms("timestamp")
    version = data.whole("version")
    common: dict[str, Any] = {
        "program_id": source.program_id,
        "member_id": data.required_text("employee_id"),
        "event_id": f"{source.name}:{delivery.delivery_id}",
        "source_system": source.name,
        "occurred_at_ms": delivery.received_at_ms if occurred_at_ms is None else occurred_at_ms,
        "source_version": occurred_at_ms if version is None else version,
    }
    return Translation(commands=(make(data, common),))


def _hired(data: Fields, common: dict[str, Any]) -> Command:
    attributes = {name: value for name, value in (data.texts_by_name("attributes") or {}).items() if value is not None}
    return Enrolment(**common, attributes=attributes, segments=data.texts("segments") or ())


def _updated(data: Fields, common: dict[str, Any]) -> Command:
    return ProfileChange(**common, attributes=data.texts_by_name("attributes") or {}, segments=data.texts("segments"))


def _deactivated(data: Fields, common: dict[str, Any]) -> Command:
    return ProfileChange(
        **common,
        status=MemberStatus.SUSPENDED,
        status_reason=data.text("reason") or DEACTIVATED,
        **_from(data, common["occurred_at_ms"]),
    )


def _reactivated(data: Fields, common: dict[str, Any]) -> Command:
    return ProfileChange(**common, status=MemberStatus.ACTIVE, status_reason=data.text("reason"))


_MAKERS: dict[str, Callable[[Fields, dict[str, Any]], Command]] = {
    "worker.hired": _hired,
    "worker.updated": _updated,
    "worker.deactivated": _deactivated,
    "worker.reactivated": _reactivated,
}


def _from(data: Fields, occurred_at_ms: int) -> dict[str, Any]:
    """From when the status holds: after a last day that was ahead when the event happened. Nothing without such a day: at once.

    By the event's own time, not by that of its arrival: repeated after the last day, a delivery still makes the same command. Without a time
    zone of its own the day is one of the member's: the ledger knows theirs.
    """
    last_day = data.text("last_day")
    if last_day is None:
        return {}
    day, zone = _day(last_day), _zone(data)
    try:
        if day <= datetime.fromtimestamp(occurred_at_ms / 1000, zone or UTC).date():
            return {}
        if zone is None:
            return {"status_from_date": (day + timedelta(days=1)).isoformat()}
        return {"status_from_ms": int(datetime.combine(day + timedelta(days=1), time.min, zone).timestamp()) * 1000}
    except (ValueError, OverflowError, OSError) as error:  # The ends of the calendar.
        raise _no_day() from error


def _day(text: str) -> date:
    try:
        return datetime.strptime(text, "%Y-%m-%d").date()
    except ValueError as error:
        raise _no_day() from error


def _no_day() -> ContractError:
    return ContractError("TIME_INVALID", "data.last_day must be a day, for example 2026-11-22")


def _zone(data: Fields) -> tzinfo | None:
    """Of the place where the person works: by UTC, a last day in Melbourne or Honolulu would end hours early or late. None: not said."""
    name = data.text("time_zone")
    try:
        return ZoneInfo(name) if name else None
    except (KeyError, ValueError, OSError) as error:
        raise ContractError("VALUE_UNKNOWN", "data.time_zone must be a name of the IANA time zones, for example Asia/Kolkata") from error
