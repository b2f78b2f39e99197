"""Workday -> workers. Two queries a run: by the time of entry, and by the time at which changes take effect.

A run reads what came since the last one began, less an overlap: transactions that were open at its end are read by the next one. The cursor is
where the last run began, and the page of a run under way:

    {"through_ms": 1795319460000, "run": {"from_ms": ..., "through_ms": ..., "query": "effective", "page": 3}, "seen": {"21001": "3f9c..."}}

`seen` holds digests of what the last run told, so that the overlap does not tell it again.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from schemas.contract import Command
from streams.connectors import xml_reader as xml
from streams.connectors.contract import Cursor, Found, Parked, Polling, Source
from streams.connectors.workday import service
from streams.connectors.workday.service import NAMESPACE, FaultError
from streams.connectors.workers import Told, Worker, commands_of, read_day, read_flag
from streams.connectors.xml_reader import Element
from streams.errors import ContractError
from streams.ingress.commands import format_time

ENTRY, EFFECTIVE = "entry", "effective"
QUERIES = (ENTRY, EFFECTIVE)
PAGES_MAX = 100_000
STATUS = "Worker_Data/Employment_Data/Worker_Status_Data"
FIELD_MAP = {
    "given_name": "Worker_Data/Personal_Data/Name_Data/Legal_Name_Data/Name_Detail_Data/First_Name",
    "family_name": "Worker_Data/Personal_Data/Name_Data/Legal_Name_Data/Name_Detail_Data/Last_Name",
    "email": "Worker_Data/Personal_Data/Contact_Data/Email_Address_Data/Email_Address",
}
_RANGE = {ENTRY: ("Updated_From", "Updated_Through"), EFFECTIVE: ("Effective_From", "Effective_Through")}


def poll(source: Source, cursor: Cursor, now_ms: int) -> Polling:
    """One run: both queries, page by page. What one worker's record is wrong about is parked; a fault of the service stops the run."""
    last_ms, run, seen = cursor.get("through_ms"), dict(cursor.get("run") or {}), dict(cursor.get("seen") or {})
    if not run:
        from_ms = None if last_ms is None else last_ms - int(source.options["overlap_s"] * 1000)
        run = {"from_ms": from_ms, "through_ms": now_ms, "query": ENTRY, "page": 1}
    told = Told(seen, run.pop("told", {}))
    for query in QUERIES[QUERIES.index(run["query"]):]:
        if query == EFFECTIVE and run["from_ms"] is None:
            continue  # The first run has read everybody.
        page = run["page"] if query == run["query"] else 1
        while page <= PAGES_MAX:
            answer = yield service.request(source.options, "Human_Resources", get_workers(source, run, query, page))
            assert answer is not None, "an answer follows a request"
            try:
                response = service.response(answer, "Get_Workers_Response")
            except FaultError as error:
                yield Found(parked=(Parked(value=answer.body, reason=error.reason, detail=error.detail),), alert=f"{error.reason}: {error.detail}")
                raise
            commands, parked = _read(response, source, run["through_ms"], query, told)
            pages = int(xml.text_at(response, "Response_Results/Total_Pages") or 1)
            page += 1
            at = {"query": query, "page": page} if page <= pages else {"query": EFFECTIVE, "page": 1}
            is_last = page > pages and (query == EFFECTIVE or run["from_ms"] is None)
            yield Found(
                commands=commands, parked=parked, source_time_ms=run["through_ms"],
                cursor={"through_ms": run["through_ms"], "seen": told.kept} if is_last
                else {"through_ms": last_ms, "seen": seen, "run": run | at | {"told": told.kept}},
            )  # fmt: skip
            if page > pages:
                break


def get_workers(source: Source, run: Mapping[str, Any], query: str, page: int) -> str:
    """The element of one request."""
    options = source.options
    from_ms, through_ms = run["from_ms"], run["through_ms"]
    read_at = format_time(through_ms)
    effective_ms = through_ms + int(timedelta(hours=options["look_ahead_hours"]) / timedelta(milliseconds=1)) if query == EFFECTIVE else through_ms
    effective_at = format_time(effective_ms)
    criteria = ""
    if from_ms is not None:
        first, last = _RANGE[query]
        criteria = (
            f"<bsvc:Request_Criteria><bsvc:Transaction_Log_Criteria_Data><bsvc:Transaction_Date_Range_Data><bsvc:{first}>{format_time(from_ms)}</bsvc:{first}>"
            f"<bsvc:{last}>{effective_at}</bsvc:{last}></bsvc:Transaction_Date_Range_Data></bsvc:Transaction_Log_Criteria_Data></bsvc:Request_Criteria>"
        )
    groups = "".join(f"<bsvc:Include_{name}>1</bsvc:Include_{name}>" for name in ("Reference", "Personal_Information", "Employment_Information"))
    return (
        f'<bsvc:Get_Workers_Request xmlns:bsvc="{NAMESPACE}" bsvc:version="{xml.escape(options["version"])}">{criteria}<bsvc:Response_Filter>'
        f"<bsvc:As_Of_Effective_Date>{effective_at}</bsvc:As_Of_Effective_Date><bsvc:As_Of_Entry_DateTime>{read_at}</bsvc:As_Of_Entry_DateTime>"
        f"<bsvc:Page>{page}</bsvc:Page><bsvc:Count>{options['page_size']}</bsvc:Count></bsvc:Response_Filter>"
        f"<bsvc:Response_Group>{groups}</bsvc:Response_Group></bsvc:Get_Workers_Request>"
    )


def _read(response: Element, source: Source, through_ms: int, query: str, told: Told) -> tuple[tuple[Command, ...], tuple[Parked, ...]]:
    """Commands of a page's workers, and what is parked of it."""
    found: list[Command] = []
    parked: list[Parked] = []
    for element in xml.find_all(response, "Response_Data/Worker"):
        employee_id = xml.text_at(element, source.options["employee_id_path"]) or _reference(element, "Employee_ID") or ""
        if not employee_id:
            continue  # A contingent worker, or another one without such a number.
        try:
            found += told.news(employee_id, commands_of(_worker(element, employee_id, source, through_ms, query), source))
        except ContractError as error:
            parked.append(Parked(value=_bytes(element), reason=error.reason, detail=error.detail, entity_id=employee_id))
    return tuple(found), tuple(parked)


def _worker(element: Element, employee_id: str, source: Source, through_ms: int, query: str) -> Worker:
    options = source.options
    status = xml.find(element, STATUS)
    at: Callable[[str], str | None] = lambda name: None if status is None else xml.text_at(status, name)
    last_day = read_day(at("Termination_Last_Day_of_Work") or at("Termination_Date"))
    attributes = {name: xml.text_at(element, path) for name, path in (options["field_map"] or FIELD_MAP).items()}
    worker = Worker(
        employee_id=employee_id, version=through_ms, occurred_at_ms=through_ms, is_active=read_flag(at("Active")), hired_on=read_day(at("Hire_Date")),
        last_day=last_day, time_zone=xml.text_at(element, options["time_zone_path"]) or "" if options["time_zone_path"] else "",
        reason="TERMINATION" if last_day is not None else "", attributes=attributes,
        external_ids={"workday": wid} if (wid := _reference(element, "WID")) else None,
    )  # fmt: skip
    if query == EFFECTIVE and last_day is not None:
        # As of a day ahead the flag may be down already; the last day says when.
        today = datetime.fromtimestamp(through_ms / 1000, UTC).date()
        worker = replace(worker, is_active=last_day >= today)
    return worker


def _reference(element: Element, kind: str) -> str | None:
    ids: Iterator[Element] = xml.find_all(element, "Worker_Reference/ID")
    return next(((found.text or "").strip() or None for found in ids if xml.attribute(found, "type") == kind), None)


def _bytes(element: Element) -> bytes:
    from xml.etree.ElementTree import tostring

    return tostring(element)
