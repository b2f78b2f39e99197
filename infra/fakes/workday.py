"""A tenant like Workday's: Get_Workers by entry and by effective time, in pages; Edit_Worker_Additional_Data; OAuth 2.0 or a UsernameToken.

    tenant = WorkdayFake()
    await tenant.start()
    tenant.hire("21001", given_name="Ada", family_name="Example")
    tenant.terminate("21001", last_day=date(2026, 11, 22))
"""

import time
import uuid
from base64 import b64encode
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any

from aiohttp import web

from infra.fakes.server import FakeServer
from streams.connectors import xml_reader as xml
from streams.connectors.xml_reader import Element, escape

NAMESPACE = "urn:com.workday/bsvc"


@dataclass(slots=True)
class Worker:
    employee_id: str
    given_name: str
    family_name: str
    email: str
    hired_on: date
    wid: str = field(default_factory=lambda: uuid.uuid4().hex)
    last_day: date | None = None
    changes: list[tuple[int, date]] = field(default_factory=list)
    """(entered at, effective on)"""


class WorkdayFake(FakeServer):
    """One tenant. `values` and `history` hold the custom objects of workers."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0, *, tenant: str = "acme", **rest: Any) -> None:
        super().__init__(host, port, **rest)
        self.tenant = tenant
        self.user_name, self.password = "ISU_LOYALTY", "fake-password"
        self.client_id, self.client_secret, self.refresh_token = "LOYALTY", "fake-client-secret", "fake-refresh-token"
        self.workers: dict[str, Worker] = {}

    def add_routes(self, app: web.Application) -> None:
        app.router.add_post(f"/ccx/oauth2/{self.tenant}/token", self._token)
        app.router.add_post(f"/ccx/service/{self.tenant}/Human_Resources/{{version}}", self.can_fail("read", self._get_workers))
        app.router.add_post(f"/ccx/service/{self.tenant}/Staffing/{{version}}", self.can_fail("write", self._edit))

    # HR's side.

    def hire(self, employee_id: str, *, given_name: str = "Ada", family_name: str = "Example", hired_on: date = date(2026, 1, 5)) -> Worker:
        worker = Worker(employee_id, given_name, family_name, f"{employee_id}@example.com", hired_on)
        self.workers[employee_id] = worker
        self._entered(worker, hired_on)
        return worker

    def change(self, employee_id: str, **fields: str) -> None:
        worker = self.workers[employee_id]
        for name, value in fields.items():
            setattr(worker, name, value)
        self._entered(worker, datetime.now(UTC).date())

    def terminate(self, employee_id: str, *, last_day: date) -> None:
        self.workers[employee_id].last_day = last_day
        self._entered(self.workers[employee_id], last_day)

    def rescind(self, employee_id: str) -> None:
        """The termination is taken back."""
        self.workers[employee_id].last_day = None
        self._entered(self.workers[employee_id], datetime.now(UTC).date())

    def _entered(self, worker: Worker, effective_on: date) -> None:
        worker.changes.append((int(time.time() * 1000), effective_on))

    # The tenant's side.

    async def _token(self, request: web.Request) -> web.Response:
        self.requests["token"] += 1
        form = await request.post()
        basic = "Basic " + b64encode(f"{self.client_id}:{self.client_secret}".encode()).decode()
        if request.headers.get("Authorization") != basic:
            return web.json_response({"error": "invalid_client"}, status=401)
        if form.get("grant_type") == "refresh_token" and form.get("refresh_token") != self.refresh_token:
            return web.json_response({"error": "invalid_grant"}, status=400)
        return web.json_response({"access_token": self.new_token(), "token_type": "Bearer", "expires_in": int(self.token_life_s)})

    async def _body(self, request: web.Request) -> Element | web.Response:
        """The operation's element, or the answer to who may not ask."""
        envelope = xml.parse(await request.read())
        user = xml.text_at(envelope, "Header/Security/UsernameToken/Username")
        password = xml.text_at(envelope, "Header/Security/UsernameToken/Password")
        if (user, password) != (f"{self.user_name}@{self.tenant}", self.password) and not self.is_authorized(request):
            if user is None:
                return web.Response(status=401)
            return _fault("SOAP-ENV:Client.authenticationError", "invalid username or password")
        body = xml.find(envelope, "Body")
        assert body is not None and len(body) == 1, "one operation"
        return body[0]

    async def _get_workers(self, request: web.Request) -> web.Response:
        body = await self._body(request)
        if isinstance(body, web.Response):
            return body
        ranges = xml.find(body, "Request_Criteria/Transaction_Log_Criteria_Data/Transaction_Date_Range_Data")
        as_of = _moment(xml.text_at(body, "Response_Filter/As_Of_Effective_Date") or "")
        page = int(xml.text_at(body, "Response_Filter/Page") or 1)
        count = int(xml.text_at(body, "Response_Filter/Count") or 100)
        wanted = [worker for _, worker in sorted(self.workers.items()) if ranges is None or _is_within(worker, ranges)]
        pages = max(1, -(-len(wanted) // count))
        if page > pages:
            return _fault("SOAP-ENV:Client.validationError", "Validation error occurred. The page does not exist.", "/ns0:Get_Workers_Request/Response_Filter")
        shown = wanted[(page - 1) * count : page * count]
        workers = "".join(_shown(worker, as_of.date()) for worker in shown)
        return _answer(
            f'<wd:Get_Workers_Response xmlns:wd="{NAMESPACE}" wd:version="v45.2"><wd:Response_Results><wd:Total_Results>{len(wanted)}</wd:Total_Results>'
            f"<wd:Total_Pages>{pages}</wd:Total_Pages><wd:Page_Results>{len(shown)}</wd:Page_Results><wd:Page>{page}</wd:Page></wd:Response_Results>"
            f"<wd:Response_Data>{workers}</wd:Response_Data></wd:Get_Workers_Response>"
        )

    async def _edit(self, request: web.Request) -> web.Response:
        body = await self._body(request)
        if isinstance(body, web.Response):
            return body
        data = xml.find(body, "Worker_Custom_Object_Data")
        employee_id = None if data is None else xml.text_at(data, "Worker_Reference/ID")
        if data is None or employee_id not in self.workers:
            return _fault("SOAP-ENV:Client.validationError", "Validation error occurred. Invalid ID value.", "/Worker_Reference/ID")
        objects = xml.find(data, "Business_Object_Additional_Data")
        assert objects is not None, "there is an object"
        for one in objects:
            self.put(employee_id, {xml.local_name(part.tag): part.text for part in one})
        return _answer(f'<wd:Edit_Worker_Additional_Data_Response xmlns:wd="{NAMESPACE}" wd:version="v45.2"/>')


def _is_within(worker: Worker, ranges: Element) -> bool:
    updated, effective = xml.text_at(ranges, "Updated_From"), xml.text_at(ranges, "Effective_From")
    first = _moment(updated or effective or "")
    last = _moment(xml.text_at(ranges, "Updated_Through" if updated else "Effective_Through") or "")
    if updated:
        return any(first.timestamp() * 1000 <= entered_at_ms <= last.timestamp() * 1000 for entered_at_ms, _ in worker.changes)
    return any(first.date() <= effective_on <= last.date() for _, effective_on in worker.changes)


def _shown(worker: Worker, day: date) -> str:
    is_active = worker.hired_on <= day and (worker.last_day is None or day <= worker.last_day)
    ended = "" if worker.last_day is None else (
        f"<wd:Terminated>{int(day > worker.last_day)}</wd:Terminated><wd:Termination_Date>{worker.last_day}</wd:Termination_Date>"
        f"<wd:Termination_Last_Day_of_Work>{worker.last_day}</wd:Termination_Last_Day_of_Work>"
    )  # fmt: skip
    return (
        f'<wd:Worker><wd:Worker_Reference><wd:ID wd:type="WID">{worker.wid}</wd:ID><wd:ID wd:type="Employee_ID">{escape(worker.employee_id)}</wd:ID>'
        f"</wd:Worker_Reference><wd:Worker_Data><wd:Worker_ID>{escape(worker.employee_id)}</wd:Worker_ID><wd:Personal_Data><wd:Name_Data><wd:Legal_Name_Data>"
        f"<wd:Name_Detail_Data><wd:First_Name>{escape(worker.given_name)}</wd:First_Name><wd:Last_Name>{escape(worker.family_name)}</wd:Last_Name>"
        f"</wd:Name_Detail_Data></wd:Legal_Name_Data></wd:Name_Data><wd:Contact_Data><wd:Email_Address_Data><wd:Email_Address>{escape(worker.email)}"
        f"</wd:Email_Address></wd:Email_Address_Data></wd:Contact_Data></wd:Personal_Data><wd:Employment_Data><wd:Worker_Status_Data>"
        f"<wd:Active>{int(is_active)}</wd:Active><wd:Hire_Date>{worker.hired_on}</wd:Hire_Date>{ended}</wd:Worker_Status_Data></wd:Employment_Data>"
        f"</wd:Worker_Data></wd:Worker>"
    )


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _answer(body: str, status: int = 200) -> web.Response:
    text = (
        '<?xml version="1.0" encoding="UTF-8"?><env:Envelope xmlns:env="http://schemas.xmlsoap.org/soap/envelope/">'
        f"<env:Body>{body}</env:Body></env:Envelope>"
    )
    return web.Response(status=status, body=text.encode(), content_type="text/xml")


def _fault(code: str, text: str, path: str = "") -> web.Response:
    detail = (
        f'<detail><wd:Validation_Fault xmlns:wd="{NAMESPACE}"><wd:Validation_Error><wd:Message>{escape(text)}</wd:Message>'
        f"<wd:Xpath>{path}</wd:Xpath></wd:Validation_Error></wd:Validation_Fault></detail>"
    ) if path else ""  # fmt: skip
    return _answer(
        f'<SOAP-ENV:Fault xmlns:SOAP-ENV="http://schemas.xmlsoap.org/soap/envelope/"><faultcode>{code}</faultcode><faultstring>{escape(text)}</faultstring>'
        f"{detail}</SOAP-ENV:Fault>", 500,
    )  # fmt: skip
