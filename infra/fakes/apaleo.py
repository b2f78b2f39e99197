"""A PMS like Apaleo, as a real HTTP server: token endpoint, reservations, subscriptions, thin webhooks, and misbehaviour on demand.

    pms = ApaleoFake()
    await pms.start()
    pms.add_reservation("XPGMSXGF-1", member_id="M-1", amount="260.00")
    await pms.subscribe(f"http://pms:{password}@127.0.0.1:8080/v1/webhooks/apaleo")
    await pms.check_out("XPGMSXGF-1")
"""

import asyncio
import json
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import aiohttp
from aiohttp import web

from infra.fakes.server import FakeServer

RETRY_DELAYS_S = (0.2, 0.5, 1.0, 2.0)  # A real PMS takes minutes; the order of things is the same.
ANSWER_TIMEOUT_S = 10.0


@dataclass(slots=True)
class Subscription:
    endpoint_url: str
    events: Sequence[str]
    subscription_id: str = field(default_factory=lambda: uuid.uuid4().hex[:12])

    def wants(self, event: dict[str, Any]) -> bool:
        name = f"{event['topic']}/{event['type']}".lower()
        return any(pattern in (name, event["topic"].lower() + "/*") for pattern in self.events)


class ApaleoFake(FakeServer):
    """One hotel account. `requests` counts what was asked of the API: "token", "reservation"."""

    def __init__(
        self, host: str = "127.0.0.1", port: int = 0, *, client_id: str = "LOYALTY", client_secret: str = "fake-client-secret",
        property_id: str = "MUC", **rest: Any,
    ) -> None:  # fmt: skip
        super().__init__(host, port, **rest)
        self.client_id = client_id
        self.client_secret = client_secret
        self.property_id = property_id
        self.reservations: dict[str, dict[str, Any]] = {}
        self.subscriptions: list[Subscription] = []
        self._session: aiohttp.ClientSession | None = None

    def add_routes(self, app: web.Application) -> None:
        app.router.add_post("/connect/token", self._token)
        app.router.add_get("/booking/v1/reservations/{id}", self.can_fail("reservation", self._reservation))
        app.router.add_post("/v1/subscriptions", self._subscribe)

    async def start(self) -> None:
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=ANSWER_TIMEOUT_S))
        await super().start()

    async def stop(self) -> None:
        if self._session is not None:
            await self._session.close()
        await super().stop()

    @property
    def identity_url(self) -> str:
        return f"{self.base_url}/connect/token"

    # The hotel's side: what people at the desk do.

    def add_reservation(
        self, reservation_id: str, *, member_id: str | None = None, amount: str = "260.00", currency: str = "EUR", nights: int = 2
    ) -> dict[str, Any]:
        """Somebody is in the house, and leaves today."""
        departure = datetime.now(UTC).replace(hour=10, minute=0, second=0, microsecond=0)
        guest = {"firstName": "Ada", "lastName": "Example"} | ({"loyaltyMemberId": member_id} if member_id else {})
        self.reservations[reservation_id] = {
            "id": reservation_id,
            "bookingId": reservation_id.partition("-")[0],
            "status": "InHouse",
            "property": {"id": self.property_id, "code": self.property_id, "name": "Example Hotel"},
            "ratePlan": {"id": f"{self.property_id}-FLEX", "isSubjectToCityTax": False},
            "unitGroup": {"id": f"{self.property_id}-DBL", "code": "DBL", "type": "BedRoom"},
            "totalGrossAmount": {"amount": Decimal(amount), "currency": currency},
            "arrival": _iso(departure - timedelta(days=nights, hours=-5)),
            "departure": _iso(departure),
            "checkInTime": _iso(departure - timedelta(days=nights, hours=-6)),
            "created": _iso(departure - timedelta(days=30)),
            "modified": _iso(departure - timedelta(days=nights)),
            "adults": 1,
            "channelCode": "Direct",
            "primaryGuest": guest,
        }
        return self.reservations[reservation_id]

    def modify_reservation(self, reservation_id: str, **fields: Any) -> None:
        """Change a reservation without telling anybody. A field set to None is removed."""
        reservation = self.reservations[reservation_id]
        for name, value in fields.items():
            if value is None:
                reservation.pop(name, None)
            else:
                reservation[name] = value
        reservation["modified"] = _iso(datetime.now(UTC))

    async def check_out(self, reservation_id: str) -> dict[str, Any]:
        """The guest leaves; all subscribers hear of it. Returns the webhook."""
        self.modify_reservation(reservation_id, status="CheckedOut", checkOutTime=_iso(datetime.now(UTC)))
        return await self.tell("checked-out", reservation_id)

    async def revert_check_in(self, reservation_id: str) -> dict[str, Any]:
        """The desk takes the stay back."""
        self.modify_reservation(reservation_id, status="Confirmed", checkInTime=None, checkOutTime=None)
        return await self.tell("check-in-reverted", reservation_id)

    async def cancel(self, reservation_id: str) -> dict[str, Any]:
        self.modify_reservation(reservation_id, status="Canceled", cancellationTime=_iso(datetime.now(UTC)))
        return await self.tell("canceled", reservation_id)

    async def tell(self, kind: str, reservation_id: str) -> dict[str, Any]:
        """Send an event to all who subscribed to it. Raises RuntimeError when one of them takes none of the attempts."""
        event = self.event("Reservation", kind) | {"data": {"entityId": reservation_id}}
        for subscription in self.subscriptions:
            if subscription.wants(event):
                await self.send(subscription.endpoint_url, event)
        return event

    # The platform's side.

    def event(self, topic: str, kind: str) -> dict[str, Any]:
        return {
            "topic": topic,
            "type": kind,
            "id": str(uuid.uuid4()),
            "accountId": "DEMO",
            "propertyId": self.property_id,
            "timestamp": int(time.time() * 1000),
        }

    async def subscribe(self, endpoint_url: str, events: Sequence[str] = ("reservation/*",)) -> Subscription:
        """Raises RuntimeError unless the endpoint answers the health check with 2xx. `endpoint_url` carries user and password."""
        status = await self._post(endpoint_url, self.event("system", "healthcheck"))
        if not 200 <= status < 300:
            raise RuntimeError(f"the endpoint answers the health check with {status}")
        subscription = Subscription(endpoint_url, events)
        self.subscriptions.append(subscription)
        return subscription

    async def send(self, endpoint_url: str, event: dict[str, Any]) -> None:
        """Send one event, again and again until it is taken."""
        answers = []
        for delay_s in (0.0, *RETRY_DELAYS_S):
            await asyncio.sleep(delay_s)
            status = await self._post(endpoint_url, event)
            if 200 <= status < 300:
                return
            answers.append(status)
        raise RuntimeError(f"the endpoint took none of {len(answers)} attempts: {answers}")

    async def _post(self, endpoint_url: str, event: dict[str, Any]) -> int:
        """The status; 0 if there was no answer. The user and password in the URL go as basic authentication."""
        assert self._session is not None, "start() was not called"
        try:
            async with self._session.post(endpoint_url, json=event, allow_redirects=False) as response:
                return response.status
        except (aiohttp.ClientError, OSError, TimeoutError):
            return 0

    async def _token(self, request: web.Request) -> web.Response:
        self.requests["token"] += 1
        form = await request.post()
        if form.get("grant_type") != "client_credentials":
            return web.json_response({"error": "unsupported_grant_type"}, status=400)
        if (form.get("client_id"), form.get("client_secret")) != (self.client_id, self.client_secret):
            return web.json_response({"error": "invalid_client"}, status=400)
        return web.json_response({"access_token": self.new_token(), "expires_in": int(self.token_life_s), "token_type": "Bearer"})

    async def _reservation(self, request: web.Request) -> web.Response:
        if not self.is_authorized(request):
            return web.Response(status=401)
        reservation = self.reservations.get(request.match_info["id"])
        if reservation is None:
            return web.json_response({"messages": ["The reservation was not found."]}, status=404)
        return web.Response(text=_dumps(reservation), content_type="application/json")

    async def _subscribe(self, request: web.Request) -> web.Response:
        if not self.is_authorized(request):
            return web.Response(status=401)
        wanted = await request.json()
        try:
            subscription = await self.subscribe(wanted["endpointUrl"], wanted.get("events", ["reservation/*"]))
        except RuntimeError as error:
            return web.json_response({"messages": [str(error)]}, status=422)
        return web.json_response({"id": subscription.subscription_id}, status=201)


def _iso(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _dumps(value: Any) -> str:
    """JSON with decimals as they were given: 260.00 and not 260.0."""
    marks: dict[str, str] = {}

    def mark(number: Any) -> str:
        if not isinstance(number, Decimal):
            raise TypeError(f"{type(number).__name__} has no JSON form")
        name = f"decimal-{uuid.uuid4().hex}"
        marks[f'"{name}"'] = str(number)
        return name

    text = json.dumps(value, default=mark)
    for name, number in marks.items():
        text = text.replace(name, number)
    return text
