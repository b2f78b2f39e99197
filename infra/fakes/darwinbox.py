"""A tenant like Darwinbox's: employees by dataset and time of modification, updates of attributes, the token of its own header.

    tenant = DarwinboxFake()
    await tenant.start()
    tenant.hire("E1", first_name="Ada")
    tenant.deactivate("E1", last_day="21-11-2026")
"""

import time
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

from aiohttp import web

from infra.fakes.server import FakeServer

TIME = "%d-%m-%Y %H:%M:%S"


class DarwinboxFake(FakeServer):
    """One tenant with a dataset of active people and one of inactive people. `values` and `history` hold what was written to employees."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0, *, time_zone: str = "Asia/Kolkata", **rest: Any) -> None:
        super().__init__(host, port, **rest)
        self.client_id, self.client_secret, self.code = "LOYALTY", "fake-client-secret", "fake-code"
        self.dataset_key, self.inactive_dataset_key = "fake-dataset-active", "fake-dataset-inactive"
        self.zone = ZoneInfo(time_zone)
        self.employees: dict[str, dict[str, Any]] = {}
        self.modified_at_s: dict[str, int] = {}

    def add_routes(self, app: web.Application) -> None:
        app.router.add_post("/oauth/v1token", self._token)
        app.router.add_post("/masterapi/employee", self.can_fail("read", self._read))
        app.router.add_post("/importapi/update", self.can_fail("write", self._update))

    # HR's side.

    def hire(self, employee_id: str, **fields: str) -> None:
        self.employees[employee_id] = {
            "employee_id": employee_id, "first_name": "Ada", "last_name": "Example", "company_email_id": f"{employee_id.lower()}@example.com",
            "employee_status": "Active", "date_of_joining": "05-01-2026",
        } | fields  # fmt: skip
        self._modified(employee_id)

    def change(self, employee_id: str, **fields: str) -> None:
        self.employees[employee_id] |= fields
        self._modified(employee_id)

    def deactivate(self, employee_id: str, *, last_day: str, reason: str = "Resigned") -> None:
        self.change(employee_id, employee_status="Inactive", date_of_exit=last_day, separation_reason=reason)

    def reactivate(self, employee_id: str) -> None:
        for name in ("date_of_exit", "separation_reason"):
            self.employees[employee_id].pop(name, None)
        self.change(employee_id, employee_status="Active")

    def _modified(self, employee_id: str) -> None:
        # The API's times have whole seconds; two changes within one would have the same version.
        self.modified_at_s[employee_id] = now_s = max(int(time.time()), self.modified_at_s.get(employee_id, 0) + 1)
        self.employees[employee_id]["last_modified"] = datetime.fromtimestamp(now_s, self.zone).strftime(TIME)

    # The tenant's side.

    async def _token(self, request: web.Request) -> web.Response:
        self.requests["token"] += 1
        body = await request.json()
        if (body.get("client_id"), body.get("client_secret"), body.get("code")) != (self.client_id, self.client_secret, self.code):
            return web.json_response({"status": 0, "message": "Invalid credentials"}, status=401)
        return web.json_response({"access_token": self.new_token(), "expires_in": int(self.token_life_s)})

    def _is_known(self, request: web.Request) -> bool:
        return self.is_good(request.headers.get("TOKEN", ""))

    async def _read(self, request: web.Request) -> web.Response:
        if not self._is_known(request):
            return web.json_response({"status": 0, "message": "Unauthorized"}, status=401)
        body = await request.json()
        wanted_active = {self.dataset_key: True, self.inactive_dataset_key: False}.get(body.get("datasetKey"))
        if wanted_active is None:
            return web.json_response({"status": 0, "message": "Invalid dataset key"})
        since = datetime.strptime(body["last_modified"], TIME).replace(tzinfo=self.zone).astimezone(UTC).timestamp() if "last_modified" in body else 0.0
        found = [
            employee for employee_id, employee in sorted(self.employees.items())
            if (employee["employee_status"] == "Active") is wanted_active and self.modified_at_s[employee_id] >= since
            and employee_id in body.get("employee_ids", (employee_id,))
        ]  # fmt: skip
        if not found:
            return web.json_response({"status": 0, "message": "No records found"})
        return web.json_response({"status": 1, "message": "Successfully loaded all employees data", "employee_data": found})

    async def _update(self, request: web.Request) -> web.Response:
        if not self._is_known(request):
            return web.json_response({"status": 0, "message": "Unauthorized"}, status=401)
        employees = (await request.json())["employees"]
        if any(one["employee_id"] not in self.employees for one in employees):
            return web.json_response({"status": 0, "message": "Invalid employee id"})
        for one in employees:
            self.put(one["employee_id"], {name: value for name, value in one.items() if name != "employee_id"})
        return web.json_response({"status": 1, "message": "Successfully updated"})
