"""People as an HR system has them now -> the commands that make members of them. Shared by all HR connectors. Pure.

Who works is enrolled and active, who does not is suspended, who has a last day ahead is suspended when it is over. Every command's id is made of
what it says, so that a record that is read again does nothing.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import orjson

from schemas.contract import Command
from schemas.records import Enrolment, MemberStatus, ProfileChange
from streams.connectors.contract import Source
from streams.errors import ContractError
from streams.ingress import commands

ENDED = "employment ended"
EMPLOYEE_ID_CHARACTERS_MAX = 60  # Ids of commands hold it beside the source's name, a version and a digest.


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """One person. What is None is not said, and stays as it is."""

    employee_id: str
    """The member_id."""
    version: int
    """Of the record in its system, above 0; a greater one is newer."""
    occurred_at_ms: int
    is_active: bool | None = None
    hired_on: date | None = None
    last_day: date | None = None
    """The last one that they work; of somebody who works it may be ahead."""
    time_zone: str = ""
    """Where they work; empty: the member's own, or the programme's."""
    reason: str = ""
    attributes: Mapping[str, str | None] = field(default_factory=dict, repr=False)
    segments: tuple[str, ...] | None = None
    external_ids: Mapping[str, str | None] | None = None


def commands_of(worker: Worker, source: Source) -> tuple[Command, ...]:
    """What the record means: an enrolment of who works, and the profile with its status. Raises ContractError."""
    if not 1 <= len(worker.employee_id) <= EMPLOYEE_ID_CHARACTERS_MAX:
        raise ContractError("ID_INVALID", f"an employee's number has 1 to {EMPLOYEE_ID_CHARACTERS_MAX} characters")
    today = _today(worker)
    starts_later = worker.hired_on is not None and worker.hired_on > today
    if starts_later and not worker.is_active:
        return ()  # Hired, but not yet here: the record is read again on the day.
    found: list[Command] = []
    if worker.is_active:
        found.append(_enrolment(worker, source))
    change = ProfileChange(
        program_id=source.program_id, member_id=worker.employee_id, event_id="?", source_system=source.name, occurred_at_ms=worker.occurred_at_ms,
        source_version=worker.version, attributes=worker.attributes, segments=worker.segments, external_ids=worker.external_ids, **_status(worker, today),
    )  # fmt: skip
    if worker.attributes or worker.segments is not None or worker.external_ids or change.status is not None:
        found.append(_named(change, source))
    for command in found:
        commands.check(command)
    return tuple(found)


TOLD_MAX = 10_000
"""Workers that the cursor of a poll remembers."""


class Told:
    """What a poll's runs have told of whom: what is read again, because runs overlap, is not told again."""

    def __init__(self, before: Mapping[str, str], now: Mapping[str, str] | None = None) -> None:
        """Employee -> digest, of the run before and of the one under way, as `kept` gave them."""
        self._before = before
        self._now = dict(now or {})

    def news(self, employee_id: str, found: tuple[Command, ...]) -> tuple[Command, ...]:
        """The commands, if they say another thing than what was told last."""
        digest = digest_of(found)[:16]
        last = self._now.get(employee_id, self._before.get(employee_id))
        self._now[employee_id] = digest
        return () if digest == last else found

    @property
    def kept(self) -> dict[str, str]:
        """Of the run under way, for its cursor."""
        return dict(list(self._now.items())[-TOLD_MAX:])


def digest_of(found: tuple[Command, ...]) -> str:
    """Of what the commands say, whatever the version and the time at which it was read."""
    said = [{key: value for key, value in command.to_avro().items() if key not in ("event_id", "source_version", "occurred_at_ms")} for command in found]
    return _digest(said)


def _enrolment(worker: Worker, source: Source) -> Enrolment:
    """The same for ever for the same employment: who is enrolled already is not enrolled again. What it says of the profile comes behind it."""
    hired_on = worker.hired_on
    hired_at_ms = 1 if hired_on is None else max(1, int(datetime(hired_on.year, hired_on.month, hired_on.day, tzinfo=UTC).timestamp()) * 1000)
    day = "" if hired_on is None else f":{hired_on.isoformat()}"
    return Enrolment(
        program_id=source.program_id, member_id=worker.employee_id, event_id=f"{source.name}:{worker.employee_id}:hired{day}"[:128],
        source_system=source.name, occurred_at_ms=hired_at_ms, source_version=hired_at_ms,
    )  # fmt: skip


def _status(worker: Worker, today: date) -> dict[str, Any]:
    """Status, and from when it holds."""
    last_day = worker.last_day
    if last_day is not None and (last_day > today or (last_day == today and worker.is_active is not False)):
        return {"status": MemberStatus.SUSPENDED, "status_reason": worker.reason or ENDED, **_from(moved(last_day, 1), worker.time_zone)}
    if worker.is_active is None:
        return {}
    if worker.is_active:
        return {"status": MemberStatus.ACTIVE}
    return {"status": MemberStatus.SUSPENDED, "status_reason": worker.reason or ENDED}


def _from(day: date, time_zone: str) -> dict[str, Any]:
    if not time_zone:
        return {"status_from_date": day.isoformat()}
    try:
        zone = ZoneInfo(time_zone)
    except (KeyError, ValueError, OSError) as error:
        raise ContractError("VALUE_UNKNOWN", "the time zone must be a name of the IANA time zones, for example Asia/Kolkata") from error
    return {"status_from_ms": int(datetime(day.year, day.month, day.day, tzinfo=zone).timestamp()) * 1000}


def _today(worker: Worker) -> date:
    """The day of the record's own time, where the person works: not that of its arrival, so that a repetition means the same."""
    try:
        zone = ZoneInfo(worker.time_zone) if worker.time_zone else UTC
        return datetime.fromtimestamp(worker.occurred_at_ms / 1000, zone).date()
    except (KeyError, ValueError, OSError, OverflowError) as error:
        raise ContractError("VALUE_UNKNOWN", "the record's time zone or time is none") from error


def _named(change: ProfileChange, source: Source) -> ProfileChange:
    values = change.to_avro() | {"event_id": f"{source.name}:{change.member_id}:{change.source_version}:{_digest(change.to_avro())[:12]}"[:128]}
    return ProfileChange.from_avro(values)


def _digest(value: Any) -> str:
    return hashlib.sha256(orjson.dumps(value, option=orjson.OPT_SORT_KEYS)).hexdigest()


def moved(day: date, days: int) -> date:
    """So many days later, or earlier. Raises ContractError at the ends of the calendar."""
    try:
        return day + timedelta(days=days)
    except OverflowError as error:
        raise ContractError("TIME_INVALID", "a day is at the end of the calendar") from error


def read_day(text: str | None, formats: tuple[str, ...] = ("%Y-%m-%d",)) -> date | None:
    """A day in one of the forms; what follows the tenth character of an ISO time does not count. None if there is none. Raises ContractError."""
    if text is None or not text.strip():
        return None
    for form in formats:
        for candidate in (text.strip(), text.strip()[:10]):
            try:
                return datetime.strptime(candidate, form).date()
            except ValueError:
                continue
    raise ContractError("TIME_INVALID", f"a day must look like {' or '.join(formats)}")


def read_flag(text: str | None) -> bool | None:
    """1, true, yes, active -> True; 0, false, no, inactive -> False; None if nothing is said. Raises ContractError."""
    if text is None or not text.strip():
        return None
    word = text.strip().lower()
    if word in ("1", "true", "yes", "y", "active"):
        return True
    if word in ("0", "false", "no", "n", "inactive", "terminated"):
        return False
    raise ContractError("VALUE_UNKNOWN", "the active flag is neither yes nor no")
