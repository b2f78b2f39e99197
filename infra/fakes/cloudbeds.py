"""A property management system like Cloudbeds: getReservation, subscriptions to unsigned webhooks, two of them for one change.

    pms = CloudbedsFake()
    await pms.start()
    pms.add_reservation("2326925352181", member_id="M-1", total="260.00")
    await pms.set_status("2326925352181", "checked_out")
"""

import hashlib
import json
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
from aiohttp import web

from infra.fakes.server import FakeServer

ANSWER_WITHIN_S = 10.0


class CloudbedsFake(FakeServer):
    """One property. `subscriptions` holds the addresses that hear of everything."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0, **rest: Any) -> None:
        super().__init__(host, port, **rest)
        self.api_key = "fake-api-key"
        self.property_id = 320754
        self.reservations: dict[str, dict[str, Any]] = {}
        self.subscriptions: dict[str, str] = {}
        self.answers: list[int] = []
        """Statuses of webhooks' answers; 0: none came."""

    def add_routes(self, app: web.Application) -> None:
        app.router.add_get("/api/v1.3/getReservation", self.can_fail("read", self._reservation))
        app.router.add_post("/api/v1.3/postWebhook", self._subscribe)

    def is_authorized(self, request: web.Request) -> bool:
        return request.headers.get("Authorization") == f"Bearer {self.api_key}" or super().is_authorized(request)

    # The property's side.

    def add_reservation(self, reservation_id: str, *, member_id: str | None = None, total: str = "260.00", nights: int = 2) -> None:
        today = datetime.now(UTC).date()
        custom = [{"customFieldName": "Loyalty number", "customFieldValue": member_id}] if member_id else []
        self.reservations[reservation_id] = {
            "propertyID": str(self.property_id), "reservationID": reservation_id, "status": "checked_in", "guestName": "Ada Example",
            "startDate": (today - timedelta(days=nights)).isoformat(), "endDate": today.isoformat(), "total": float(total),
            "balanceDetailed": {"subTotal": total, "taxesFees": "0.00", "grandTotal": total, "paid": total},
            "guestList": {"77": {"guestID": "77", "guestFirstName": "Ada", "guestLastName": "Example", "customFields": custom}},
            "thirdPartyIdentifier": "", "dateModified": _now(),
        }  # fmt: skip

    async def set_status(self, reservation_id: str, status: str) -> None:
        """The desk's doing. Everybody hears of it, twice."""
        reservation = self.reservations[reservation_id]
        previous = reservation["status"]
        reservation |= {"status": status, "dateModified": _now()}
        event = {
            "version": "1.0", "event": "reservation/status_changed", "timestamp": time.time(), "propertyID": self.property_id,
            "propertyID_str": str(self.property_id), "reservationID": reservation_id, "status": status, "previousStatus": previous,
            "actor": {"type": "user", "id": "12"}, "subReservations": [],
        }  # fmt: skip
        for _ in range(2):
            await self.send(event)

    async def send(self, event: Any) -> None:
        timeout = aiohttp.ClientTimeout(total=ANSWER_WITHIN_S)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            for url in self.subscriptions.values():
                try:
                    async with session.post(url, json=event, allow_redirects=False) as response:
                        self.answers.append(response.status)
                except (aiohttp.ClientError, OSError, TimeoutError):
                    self.answers.append(0)

    # The platform's side.

    def subscribe(self, endpoint_url: str, event: str = "reservation/status_changed") -> str:
        """The subscription's id, the same for the same address and event."""
        subscription_id = hashlib.sha256(f"{event} {endpoint_url}".encode()).hexdigest()[:16]
        self.subscriptions[subscription_id] = endpoint_url
        return subscription_id

    async def _subscribe(self, request: web.Request) -> web.Response:
        if not self.is_authorized(request):
            return web.Response(status=401)
        form = await request.post()
        subscription_id = self.subscribe(str(form["endpointUrl"]), f"{form['object']}/{form['action']}")
        return web.json_response({"success": True, "data": {"subscriptionID": subscription_id}})

    async def _reservation(self, request: web.Request) -> web.Response:
        if not self.is_authorized(request):
            return web.Response(status=401)
        reservation = self.reservations.get(request.query.get("reservationID", ""))
        if reservation is None or request.query.get("propertyID", str(self.property_id)) != str(self.property_id):
            return web.json_response({"success": False, "message": "Reservation not found"})
        return web.Response(text=json.dumps({"success": True, "data": reservation}), content_type="application/json")


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S")
