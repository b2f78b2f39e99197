"""SAP SuccessFactors -> workers: events of Intelligent Services as they are pushed, and a poll over jobs that finds what was missed.

Events come as SOAP, with namespaces that differ between tenants, so that all is found by local name. A termination is a command at once: seconds count.
What else has happened to somebody is a hint, and the person is read again. `repost` marks what is sent again: its ids are the same.
"""

import re
from collections.abc import Mapping
from datetime import date, datetime, timedelta
from typing import Any
from urllib.parse import quote, urlsplit

from schemas.contract import Command
from streams.connectors import values
from streams.connectors import xml_reader as xml
from streams.connectors.contract import Answer, Cursor, Delivery, Found, Hint, Parked, Polling, Reply, Request, Source, Translation
from streams.connectors.workers import Told, Worker, commands_of, moved, read_day
from streams.connectors.xml_reader import Element
from streams.errors import ContractError
from streams.ingress import commands

TERMINATION, HIRE, REHIRE = "termination", "hire", "rehire"
EVENTS_MAX = 500
PAGES_MAX = 10_000
EXPAND = "emplStatusNav/picklistLabels,userNav,employmentNav"
FIELD_MAP = {"given_name": "userNav.firstName", "family_name": "userNav.lastName", "email": "userNav.email"}
_DATE = re.compile(r"/Date\((-?\d{1,15})([+-]\d{4})?\)/")


# Pushed events.


def translate(delivery: Delivery, source: Source) -> Translation:
    """Terminations as commands, all else as hints: both in the order of the message. Raises ContractError."""
    root = xml.parse(delivery.body)
    event = next(xml.descendants(root, "ExternalEvent"), None)
    if event is None:
        raise ContractError("TYPE_UNKNOWN", "the message must hold an ExternalEvent")
    kind = (xml.text_at(event, "externalEventMeta/type") or "").rpartition(".")[2].lower()
    event_id = xml.text_at(event, "externalEventMeta/externalEventId")
    if not kind or not event_id:
        raise ContractError("FIELD_REQUIRED", "an ExternalEvent needs its type and its externalEventId")
    entries = list(xml.find_all(event, "events/event"))
    if len(entries) > EVENTS_MAX:
        raise ContractError("TOO_MANY", f"a message has {EVENTS_MAX} events at most")
    found: list[Command] = []
    hints: list[Hint] = []
    for entry in entries:
        employee_id = _key(entry, source.options["employee_key"])
        if kind == TERMINATION:
            found += commands_of(_leaver(entry, event, employee_id, delivery.received_at_ms, source), source)
        elif source.options["base_url"]:
            hints.append(Hint(entity_id=employee_id, kind=kind, delivery_id=event_id))
        elif kind in (HIRE, REHIRE):
            at_ms = _published_ms(entry, event, delivery.received_at_ms)
            day = read_day(xml.text_at(entry, "effectiveStartDate"))
            found += commands_of(Worker(employee_id=employee_id, version=at_ms, occurred_at_ms=at_ms, is_active=True, hired_on=day), source)
    if not found and not hints:
        return Translation(ignored=f"nothing follows from {kind}")
    return Translation(commands=tuple(found), hints=tuple(hints))


def _leaver(entry: Element, event: Element, employee_id: str, received_at_ms: int, source: Source) -> Worker:
    day = read_day(xml.text_at(entry, "effectiveStartDate"))
    at_ms = _published_ms(entry, event, received_at_ms)
    if day is not None and source.options["termination_day"] == "first_day_off":
        day = moved(day, -1)
    return Worker(
        employee_id=employee_id, version=at_ms, occurred_at_ms=at_ms, is_active=False, last_day=day, time_zone=source.options["time_zone"],
        reason="TERMINATION",
    )  # fmt: skip


def _key(entry: Element, name: str) -> str:
    for path in ("entityKeys/entityKey", "params/param"):
        for pair in xml.find_all(entry, path):
            if xml.text_at(pair, "name") == name and (found := xml.text_at(pair, "value")):
                return found
    raise ContractError("FIELD_REQUIRED", f"an event needs an entity key or a parameter {name}")


def _published_ms(entry: Element, event: Element, received_at_ms: int) -> int:
    text = xml.text_at(entry, "publishedAt") or xml.text_at(event, "externalEventMeta/publishedAt")
    if text is None:
        return received_at_ms
    at_ms = commands.parse_time(text if re.search(r"([Zz]|[+-]\d\d:\d\d)$", text) else f"{text}Z")
    if at_ms is None or at_ms <= 0:
        raise ContractError("TIME_INVALID", "publishedAt must be a time, for example 2026-11-22T03:40:00Z")
    return at_ms


def accepted(delivery: Delivery, source: Source) -> Reply:
    return _reply(delivery, 0, "Success")


def refused(delivery: Delivery, source: Source, status: int, reason: str, detail: str) -> Reply:
    """A status of 1 tells that the message is at fault; what only we are at fault for keeps its status, so that it comes again."""
    return _reply(delivery, 1, f"{reason}: {detail}"[:200], 200 if status < 500 else status)


def _reply(delivery: Delivery, result: int, text: str, status: int = 200) -> Reply:
    try:
        entity = next((found.text or "" for found in xml.descendants(xml.parse(delivery.body), "entityType")), "")
    except ContractError:
        entity = ""
    stamp = commands.format_time(delivery.received_at_ms)[:19]
    body = (
        '<?xml version="1.0" encoding="UTF-8"?><Envelope xmlns="http://schemas.xmlsoap.org/soap/envelope/"><Body>'
        '<ExternalEventResponse xmlns="com.successfactors.event.notification"><responsePayload>'
        f"<entityId>{xml.escape(entity)}</entityId><status>{result}</status><statusDate>{stamp}</statusDate>"
        f"<statusDetails>{xml.escape(text)}</statusDetails></responsePayload></ExternalEventResponse></Body></Envelope>"
    )
    return Reply(status=status, body=body.encode(), media_type="text/xml")


# Jobs.


def read(source: Source, hint: Hint, body: bytes, received_at_ms: int) -> Polling:
    """The person of a hint as they are now."""
    literal = quote(f"userId eq '{hint.entity_id.replace(chr(39), chr(39) * 2)}'")
    answer = yield _get(f"/odata/v2/EmpJob?$filter={literal}&$expand={EXPAND}&$format=json")
    assert answer is not None, "an answer follows a request"
    for record in _results(answer)[0]:
        yield Found(commands=commands_of(worker_of(record, source, received_at_ms), source))


def poll(source: Source, cursor: Cursor, now_ms: int) -> Polling:
    """Jobs that were modified since the last run, less an overlap. Cursor: {"since_ms": ..., "seen": {...}}, and `next` of a run under way."""
    since_ms, seen = cursor.get("since_ms"), dict(cursor.get("seen") or {})
    run = cursor.get("run") or {"through_ms": now_ms, "next": _first(source, since_ms), "told": {}}
    told = Told(seen, run["told"])
    path = run["next"]
    for _ in range(PAGES_MAX):
        answer = yield _get(path)
        assert answer is not None, "an answer follows a request"
        records, path = _results(answer)
        found: list[Command] = []
        parked: list[Parked] = []
        for record in records:
            try:
                worker = worker_of(record, source, run["through_ms"])
                found += told.news(worker.employee_id, commands_of(worker, source))
            except ContractError as error:
                parked.append(Parked(value=repr(values.at(record, "userId")).encode(), reason=error.reason, detail=error.detail))
        after: Mapping[str, Any] = (
            {"since_ms": since_ms, "seen": seen, "run": {"through_ms": run["through_ms"], "next": path, "told": told.kept}} if path
            else {"since_ms": run["through_ms"], "seen": told.kept}
        )  # fmt: skip
        yield Found(commands=tuple(found), parked=tuple(parked), cursor=after, source_time_ms=run["through_ms"])
        if not path:
            return


def _first(source: Source, since_ms: int | None) -> str:
    wanted = ""
    if since_ms is not None:
        since = commands.format_time(since_ms - int(source.options["overlap_s"] * 1000))
        wanted = "$filter=" + quote(f"lastModifiedDateTime ge datetimeoffset'{since}'") + "&"
    return f"/odata/v2/EmpJob?{wanted}$expand={EXPAND}&$format=json&paging=snapshot"


def _get(path: str) -> Request:
    return Request(method="GET", url=path, headers={"accept": "application/json"}, timeout_s=120.0)


def _results(answer: Answer) -> tuple[list[Any], str]:
    """Records of an answer, and the path of the next one; empty if it is the last. Raises ContractError."""
    if answer.status != 200:
        try:
            code = values.text(values.load(answer.body), "error.code") or ""
        except ContractError:
            code = ""
        raise ContractError("SUCCESSFACTORS_REFUSED", f"{answer.status} {code[:100]}".strip())
    content = values.load(answer.body)
    after = values.text(content, "d.__next") or ""
    split = urlsplit(after)
    return values.items(content, "d.results"), split.path + ("?" + split.query if split.query else "")


def worker_of(record: Any, source: Source, now_ms: int) -> Worker:
    """A job with its person and its employment. Raises ContractError."""
    options = source.options
    modified = values.at(record, "lastModifiedDateTime")
    at_ms = _date_ms(modified, "lastModifiedDateTime") or now_ms
    status = (values.text(record, "userNav.status") or values.text(record, "emplStatusNav.externalCode") or "").lower()
    return Worker(
        employee_id=values.required(record, options["employee_path"]), version=max(1, at_ms), occurred_at_ms=max(1, at_ms),
        is_active=status in options["active_values"] if status else None, hired_on=_day(record, "employmentNav.startDate"),
        last_day=_day(record, "employmentNav.lastDateWorked") or _day(record, "employmentNav.endDate"), time_zone=options["time_zone"],
        reason="TERMINATION" if values.at(record, "employmentNav.endDate") else "",
        attributes={name: values.text(record, path) for name, path in (options["field_map"] or FIELD_MAP).items()},
    )  # fmt: skip


def _date_ms(value: Any, name: str) -> int | None:
    """OData 2 writes times as /Date(1760000000000+0000)/."""
    if value is None:
        return None
    match = _DATE.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ContractError("TIME_INVALID", f"{name} must look like /Date(1760000000000)/")
    return int(match[1])


def _day(record: Any, path: str) -> date | None:
    """Days are midnights of UTC."""
    at_ms = _date_ms(values.at(record, path), path)
    try:
        return None if at_ms is None else (datetime(1970, 1, 1) + timedelta(milliseconds=at_ms)).date()
    except OverflowError as error:
        raise ContractError("TIME_INVALID", f"{path} is no day of the calendar") from error
