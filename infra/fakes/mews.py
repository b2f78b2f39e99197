"""A platform like Mews: reservations, memberships and items behind its Connector API, thin webhooks, a WebSocket, updates of memberships.

    platform = MewsFake()
    await platform.start()
    reservation_id = platform.add_reservation(member_id="M-1", amount="260.00")
    await platform.set_state(reservation_id, "Processed", endpoint_url="http://127.0.0.1:8080/v1/webhooks/mews?token=...")
"""

import json
import uuid
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import aiohttp
from aiohttp import web

from infra.fakes.server import FakeServer

UPDATES_MAX = 1000
ANSWER_WITHIN_S = 5.0
"""How long the platform waits for a webhook's answer."""


class MewsFake(FakeServer):
    """One property. `values` and `history` hold loyalty memberships, by their ids."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0, **rest: Any) -> None:
        super().__init__(host, port, **rest)
        self.client_token, self.access_token = "fake-client-token", "fake-access-token"
        self.enterprise_id = str(uuid.uuid4())
        self.reservations: dict[str, dict[str, Any]] = {}
        self.items: dict[str, list[dict[str, Any]]] = {}
        self.memberships: dict[str, dict[str, Any]] = {}
        """By the account's id."""
        self.sockets: list[web.WebSocketResponse] = []

    def add_routes(self, app: web.Application) -> None:
        base = "/api/connector/v1/"
        app.router.add_post(base + "reservations/getAll/2023-06-06", self.can_fail("read", self._reservations))
        app.router.add_post(base + "loyaltyMemberships/getAll", self.can_fail("read", self._memberships))
        app.router.add_post(base + "orderItems/getAll", self.can_fail("read", self._items))
        app.router.add_post(base + "loyaltyMemberships/update", self.can_fail("write", self._update))
        app.router.add_get("/ws/connector", self._socket)

    # The property's side.

    def add_member(self, member_id: str) -> str:
        """A customer with a membership; the account's id."""
        account_id, membership_id = str(uuid.uuid4()), str(uuid.uuid4())
        self.memberships[account_id] = {
            "Id": membership_id, "AccountId": account_id, "MembershipNumber": member_id, "LoyaltyProgramId": "fake-programme", "State": "Enrolled",
        }  # fmt: skip
        self.put(membership_id, {"State": "Enrolled"})
        return account_id

    def add_reservation(self, *, member_id: str | None = None, amount: str = "260.00", currency: str = "EUR", nights: int = 2) -> str:
        """Somebody is in the house. Returns the reservation's id."""
        known = {membership["MembershipNumber"]: account_id for account_id, membership in self.memberships.items()}
        account_id = known.get(member_id or "") or (self.add_member(member_id) if member_id else str(uuid.uuid4()))
        reservation_id = str(uuid.uuid4())
        end = datetime.now(UTC).replace(hour=10, minute=0, second=0, microsecond=0)
        self.reservations[reservation_id] = {
            "Id": reservation_id, "AccountId": account_id, "AccountType": "Customer", "Number": str(len(self.reservations) + 1), "State": "Started",
            "StartUtc": _iso(end - timedelta(days=nights, hours=-5)), "EndUtc": _iso(end), "UpdatedUtc": _iso(datetime.now(UTC)),
        }  # fmt: skip
        self.items[reservation_id] = [{"Id": str(uuid.uuid4()), "AccountingState": "Open", "Amount": {"Currency": currency, "GrossValue": Decimal(amount)}}]
        return reservation_id

    async def set_state(self, reservation_id: str, state: str, *, endpoint_url: str = "") -> int:
        """The desk's doing; the status that the webhook's endpoint answered, 0 if there is none."""
        self.reservations[reservation_id] |= {"State": state, "UpdatedUtc": _iso(datetime.now(UTC))}
        text = json.dumps({"Events": [{"Type": "Reservation", "Id": reservation_id, "State": state}]})
        for socket in self.sockets:
            await socket.send_str(text)
        return await self.send(endpoint_url, "ServiceOrderUpdated", reservation_id) if endpoint_url else 0

    async def send(self, endpoint_url: str, discriminator: str, *ids: str) -> int:
        body = {"EnterpriseId": self.enterprise_id, "IntegrationId": "fake", "Events": [{"Discriminator": discriminator, "Value": {"Id": one}} for one in ids]}
        try:
            timeout = aiohttp.ClientTimeout(total=ANSWER_WITHIN_S)
            async with aiohttp.ClientSession(timeout=timeout) as session, session.post(endpoint_url, json=body, allow_redirects=False) as response:
                return response.status
        except (aiohttp.ClientError, OSError, TimeoutError):
            return 0

    # The platform's side.

    async def _body(self, request: web.Request) -> dict[str, Any]:
        body: dict[str, Any] = await request.json()
        if (body.get("ClientToken"), body.get("AccessToken")) != (self.client_token, self.access_token):
            raise web.HTTPUnauthorized(text=json.dumps({"Message": "Invalid AccessToken.", "RequestId": "fake"}), content_type="application/json")
        return body

    async def _reservations(self, request: web.Request) -> web.Response:
        body = await self._body(request)
        found = list(self.reservations.values())
        if "ReservationIds" in body:
            found = [one for one in found if one["Id"] in body["ReservationIds"]]
        if "UpdatedUtc" in body:
            first, last = body["UpdatedUtc"]["StartUtc"], body["UpdatedUtc"]["EndUtc"]
            found = [one for one in found if first <= one["UpdatedUtc"] <= last]
        count, start = body["Limitation"]["Count"], int(body["Limitation"].get("Cursor") or 0)
        shown = found[start : start + count]
        return _json({"Reservations": shown, "Cursor": str(start + count) if len(shown) == count else None})

    async def _memberships(self, request: web.Request) -> web.Response:
        body = await self._body(request)
        return _json({"LoyaltyMemberships": [self.memberships[one] for one in body["AccountIds"] if one in self.memberships], "Cursor": None})

    async def _items(self, request: web.Request) -> web.Response:
        body = await self._body(request)
        return _json({"OrderItems": [item for one in body["ServiceOrderIds"] for item in self.items.get(one, ())], "Cursor": None})

    async def _update(self, request: web.Request) -> web.Response:
        updates = (await self._body(request))["LoyaltyMembershipUpdates"]
        if len(updates) > UPDATES_MAX:
            return _json({"Message": f"At most {UPDATES_MAX} updates are allowed.", "RequestId": "fake"}, 400)
        if any(one["LoyaltyMembershipId"] not in self.values for one in updates):
            return _json({"Message": "Invalid LoyaltyMembershipId.", "RequestId": "fake"}, 400)
        for one in updates:
            wrapped = {name: value["Value"] for name, value in one.items() if isinstance(value, dict)}
            self.put(one["LoyaltyMembershipId"], wrapped)
        return _json({"LoyaltyMemberships": []})

    async def _socket(self, request: web.Request) -> web.StreamResponse:
        if (request.cookies.get("ClientToken"), request.cookies.get("AccessToken")) != (self.client_token, self.access_token):
            return web.Response(status=401)
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        self.sockets.append(socket)
        try:
            async for _ in socket:
                pass
        finally:
            self.sockets.remove(socket)
        return socket

    async def stop(self) -> None:
        for socket in list(self.sockets):
            await socket.close()
        await super().stop()


def _iso(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _json(value: Any, status: int = 200) -> web.Response:
    return web.Response(text=json.dumps(value, default=lambda number: float(number)), status=status, content_type="application/json")
