"""Darwinbox -> workers: its employee API is asked for what was modified since the last time, once for each dataset.

A tenant has datasets with keys of their own; active and inactive people may be in separate ones, and fields are the tenant's own: which one holds
what is configured. The cursor is when the last run began, `{"since_ms": ...}`; an overlap is read again, and digests in `seen` keep it from being told again.
"""

from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import orjson

from schemas.contract import Command
from streams.connectors import worker_json
from streams.connectors.contract import Answer, Cursor, Delivery, Found, Options, Parked, Polling, Request, Source, Translation
from streams.connectors.fields import Fields
from streams.connectors.workers import Told, Worker, commands_of, read_day
from streams.errors import ContractError
from streams.ingress import commands

TIME = "%d-%m-%Y %H:%M:%S"
DAYS = ("%d-%m-%Y", "%Y-%m-%d", "%d/%m/%Y", "%d %b %Y")
FIELD_MAP = {"given_name": "first_name", "family_name": "last_name", "email": "company_email_id"}
LEAVERS_MAX = 500


def translate(delivery: Delivery, source: Source) -> Translation:
    """What is pushed: the form of the import API's deactivations, or the JSON that all HR systems may send. Raises ContractError.

        {"employees": [{"employee_id": "E1", "deactivate_type": "Resigned", "deactivate_reason": "..", "date_of_exit": "21-11-2026"}]}
    """
    content = commands.load_json(delivery.body)
    if not isinstance(content, dict) or "employees" not in content:
        return worker_json.translate(delivery, source)
    leavers = content["employees"]
    if not isinstance(leavers, list) or not 1 <= len(leavers) <= LEAVERS_MAX:
        raise ContractError("TYPE_INVALID", f"employees must be a list of 1 to {LEAVERS_MAX}")
    found: list[Command] = []
    for one in leavers:
        fields = Fields(one, "an employee")
        at_ms = delivery.received_at_ms
        found += commands_of(Worker(
            employee_id=_text(fields, source.options["employee_id_field"]) or "", version=at_ms, occurred_at_ms=at_ms, is_active=False,
            last_day=read_day(_text(fields, "date_of_exit"), DAYS), reason=_text(fields, "deactivate_type") or _text(fields, "deactivate_reason") or "",
        ), source)  # fmt: skip
    return Translation(commands=tuple(found))


def poll(source: Source, cursor: Cursor, now_ms: int) -> Polling:
    """One run over the datasets. Records that cannot be understood are parked; a refusal of the API stops the run."""
    options = source.options
    since_ms = cursor.get("since_ms")
    told = Told(cursor.get("seen") or {})
    for dataset, is_active in ((options["dataset_key"], None), (options["inactive_dataset_key"], False)):
        if not dataset:
            continue
        answer = yield request(options, dataset, since_ms)
        assert answer is not None, "an answer follows a request"
        found: list[Command] = []
        parked: list[Parked] = []
        for record in records(answer, options):
            try:
                worker = worker_of(record, source, now_ms, is_active)
                found += told.news(worker.employee_id, commands_of(worker, source))
            except ContractError as error:
                parked.append(Parked(value=orjson.dumps(record), reason=error.reason, detail=error.detail))
        yield Found(commands=tuple(found), parked=tuple(parked), source_time_ms=now_ms)
    yield Found(cursor={"since_ms": now_ms, "seen": told.kept}, source_time_ms=now_ms)


def request(options: Options, dataset: str, since_ms: int | None) -> Request:
    """What was modified since; without a time: since `first_since`."""
    zone = ZoneInfo(options["time_zone"])
    since = options["first_since"] if since_ms is None else datetime.fromtimestamp(since_ms / 1000 - options["overlap_s"], zone).strftime(TIME)
    body = {"datasetKey": dataset, "last_modified": since} | ({"api_key": options["api_key"]} if options["api_key"] else {})
    return Request(method="POST", url="/masterapi/employee", headers={"content-type": "application/json"}, body=orjson.dumps(body), timeout_s=60.0)


def records(answer: Answer, options: Options) -> list[Any]:
    """The employees of an answer. Raises ContractError if it is none."""
    content = Fields(commands.load_json(answer.body), "the answer")
    if str(content.get("status")) != "1":
        message = str(content.get("message") or "")
        if any(empty in message.lower() for empty in options["empty_messages"]):
            return []
        raise ContractError("DARWINBOX_REFUSED", f"status {content.get('status')}: {message}"[:200])
    found = content.get("employee_data")
    if found is None:
        return []
    if not isinstance(found, list):
        raise ContractError("TYPE_INVALID", "employee_data must be a list")
    return found


def worker_of(record: Any, source: Source, now_ms: int, is_active: bool | None) -> Worker:
    """`is_active` is what the dataset says of all its people; None: their own fields do."""
    options = source.options
    fields = Fields(record, "an employee")
    modified_at_ms = _time_ms(_text(fields, options["modified_field"]), options)
    if is_active is None:
        word = _text(fields, options["status_field"])
        is_active = True if word is None else word.lower() in options["active_values"]
    at_ms = now_ms if modified_at_ms is None else modified_at_ms
    return Worker(
        employee_id=_text(fields, options["employee_id_field"]) or "", version=at_ms, occurred_at_ms=at_ms, is_active=is_active,
        hired_on=read_day(_text(fields, options["hired_field"]), DAYS), last_day=read_day(_text(fields, options["last_day_field"]), DAYS),
        time_zone=_text(fields, options["time_zone_field"]) or "", reason=_text(fields, options["reason_field"]) or "",
        attributes={name: _text(fields, place) for name, place in (options["field_map"] or FIELD_MAP).items() if place in record},
    )  # fmt: skip


def _text(fields: Fields, name: str) -> str | None:
    """A field's value as a text; numbers are taken as they are written. None if there is none, or no field of that name is configured."""
    value = fields.get(name) if name else None
    if value is None or type(value) is str:
        return (value or "").strip() or None
    if type(value) is int:
        return str(value)
    raise ContractError("TYPE_INVALID", f"{name} must be a text")


def _time_ms(text: str | None, options: Options) -> int | None:
    if text is None:
        return None
    try:
        moment = datetime.strptime(text, TIME).replace(tzinfo=ZoneInfo(options["time_zone"]))
        return int((moment - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds()) * 1000
    except (ValueError, OverflowError) as error:
        raise ContractError("TIME_INVALID", f"{options['modified_field']} must look like 21-11-2026 17:00:00") from error
