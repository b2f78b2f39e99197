"""A gateway like Oracle Hospitality's: a queue of business events that empties when it is asked, their stream by offset, reservations, memberships.

    opera = OhipFake()
    await opera.start()
    opera.add_reservation("42212", member_id="M-1", amount="260.00")
    await opera.set_status("42212", "CheckedOut")
"""

import asyncio
import json
from base64 import b64encode
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from aiohttp import web

from infra.fakes.server import FakeServer

PROTOCOL = "graphql-transport-ws"
QUEUE_ANSWER_MAX = 20


class OhipFake(FakeServer):
    """One hotel. `values` and `history` hold memberships by profile, `events` all that ever happened."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0, **rest: Any) -> None:
        super().__init__(host, port, **rest)
        self.client_id, self.client_secret, self.app_key = "LOYALTY", "fake-client-secret", "fake-app-key"
        self.external_system, self.chain_code, self.hotel_id = "LOYALTY", "CHAIN", "HOTEL1"
        self.reservations: dict[str, dict[str, Any]] = {}
        self.profiles: set[str] = set()
        self.events: list[dict[str, Any]] = []
        self.queue: list[dict[str, Any]] = []
        self.sockets: set[web.WebSocketResponse] = set()
        self._changed = asyncio.Condition()

    def add_routes(self, app: web.Application) -> None:
        app.router.add_post("/oauth/v1/tokens", self._token)
        app.router.add_get("/int/v1/externalSystem/{code}/businessEvents", self.can_fail("read", self._dequeue))
        app.router.add_get("/rsv/v1/hotels/{hotel}/reservations/{id}", self.can_fail("read", self._reservation))
        app.router.add_get("/rsv/v1/hotels/{hotel}/reservations", self.can_fail("read", self._departures))
        app.router.add_put("/crm/v1/profiles/{profile}/memberships/{membership}", self.can_fail("write", self._membership))
        app.router.add_get("/subscriptions", self._stream)

    # The hotel's side.

    def add_reservation(self, reservation_id: str, *, member_id: str | None = None, amount: str = "260.00", currency: str = "USD", nights: int = 2) -> None:
        today = datetime.now(UTC).date()
        memberships = [{"membershipId": member_id, "membershipType": "LOYALTY"}] if member_id else []
        self.reservations[reservation_id] = {
            "reservationIdList": [{"id": reservation_id, "type": "Reservation"}], "hotelId": self.hotel_id, "reservationStatus": "InHouse",
            "roomStay": {
                "arrivalDate": (today - timedelta(days=nights)).isoformat(), "departureDate": today.isoformat(),
                "total": {"amountAfterTax": Decimal(amount), "currencyCode": currency},
            },
            "reservationMemberships": {"reservationMembership": memberships}, "externalReferences": [],
        }  # fmt: skip

    async def set_status(self, reservation_id: str, status: str) -> None:
        """The desk's doing: an event in the queue and on the stream."""
        reservation = self.reservations[reservation_id]
        old, reservation["reservationStatus"] = reservation["reservationStatus"], status
        await self.tell("Reservation", "UPDATE RESERVATION", reservation_id, ("RESERVATION STATUS", _spaced(old), _spaced(status)))

    async def tell(self, module: str, action: str, key: str, *details: tuple[str, str, str]) -> None:
        number = 1_971_000 + len(self.events)
        event = {"number": number, "module": module, "action": action, "key": key, "details": details, "at": datetime.now(UTC)}
        self.events.append(event)
        self.queue.append(event)
        async with self._changed:
            self._changed.notify_all()

    # The gateway's side.

    async def _token(self, request: web.Request) -> web.Response:
        self.requests["token"] += 1
        basic = "Basic " + b64encode(f"{self.client_id}:{self.client_secret}".encode()).decode()
        if (request.headers.get("Authorization"), request.headers.get("x-app-key")) != (basic, self.app_key):
            return web.json_response({"error": "invalid_client"}, status=401)
        return web.json_response({"access_token": self.new_token(), "token_type": "Bearer", "expires_in": int(self.token_life_s)})

    def _refusal(self, request: web.Request) -> web.Response | None:
        if request.headers.get("x-app-key") != self.app_key or not self.is_authorized(request):
            return web.json_response({"title": "Unauthorized"}, status=401)
        return None

    async def _dequeue(self, request: web.Request) -> web.Response:
        if (refusal := self._refusal(request)) is not None:
            return refusal
        if request.match_info["code"] != self.external_system:
            return web.json_response({"title": "External system not found"}, status=404)
        limit = min(int(request.query.get("limit", QUEUE_ANSWER_MAX)), QUEUE_ANSWER_MAX)
        shown, self.queue = self.queue[:limit], self.queue[limit:]
        if not shown:
            return web.Response(status=204)
        return web.json_response({"businessEventData": [self._queued(event) for event in shown]})

    def _queued(self, event: dict[str, Any]) -> dict[str, Any]:
        header = {
            "moduleName": event["module"], "actionType": event["action"], "actionId": str(event["number"] - 1_000_000), "primaryKey": event["key"],
            "publisherId": "18371", "createdDateTime": event["at"].strftime("%Y-%m-%d %H:%M:%S.0"), "hotelId": self.hotel_id,
        }  # fmt: skip
        details = [{"dataElement": name, "oldValue": old, "newValue": new} for name, old, new in event["details"]]
        return {"businessEvent": {"header": header, "details": details}, "businessEventId": {"id": str(event["number"])}}

    async def _reservation(self, request: web.Request) -> web.Response:
        if (refusal := self._refusal(request)) is not None:
            return refusal
        found = self.reservations.get(request.match_info["id"])
        if found is None or request.match_info["hotel"] != self.hotel_id:
            return web.json_response({"title": "Reservation not found"}, status=404)
        return _json({"reservations": {"reservation": [found]}})

    async def _departures(self, request: web.Request) -> web.Response:
        if (refusal := self._refusal(request)) is not None:
            return refusal
        first, last = request.query["departureStartDate"], request.query["departureEndDate"]
        found = [one for one in self.reservations.values() if first <= one["roomStay"]["departureDate"] <= last]
        start, limit = int(request.query["offset"]), int(request.query["limit"])
        return _json({"reservations": {"reservationInfo": found[start : start + limit]}})

    async def _membership(self, request: web.Request) -> web.Response:
        if (refusal := self._refusal(request)) is not None:
            return refusal
        profile = request.match_info["profile"]
        if profile not in self.profiles:
            return web.json_response({"title": "Profile not found"}, status=404)
        self.put(profile, (await request.json())["profileMembership"])
        return web.json_response({"links": []})

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse(protocols=(PROTOCOL,))
        await socket.prepare(request)
        self.sockets.add(socket)
        sending: asyncio.Task[None] | None = None
        try:
            async for message in socket:
                content = json.loads(message.data)
                if content["type"] == "connection_init":
                    token = str(content["payload"].get("Authorization", "")).removeprefix("Bearer ")
                    if not self.is_good(token) or content["payload"].get("x-app-key") != self.app_key:
                        await socket.close(code=4403, message=b"Forbidden")
                        break
                    await socket.send_json({"type": "connection_ack"})
                elif content["type"] == "subscribe":
                    wanted = content["payload"]["variables"]["input"]
                    sending = asyncio.create_task(self._send(socket, content["id"], wanted))
                elif content["type"] == "ping":
                    await socket.send_json({"type": "pong"})
        finally:
            self.sockets.discard(socket)
            if sending is not None:
                sending.cancel()
        return socket

    async def _send(self, socket: web.WebSocketResponse, subscription_id: str, wanted: dict[str, Any]) -> None:
        position = int(wanted["offset"]) + 1 if "offset" in wanted else len(self.events)
        while True:
            for offset in range(position, len(self.events)):
                data = {"newEvent": self._streamed(self.events[offset], offset)}
                await socket.send_json({"id": subscription_id, "type": "next", "payload": {"data": data}})
            position = len(self.events)
            async with self._changed:
                await self._changed.wait_for(lambda: len(self.events) > position)

    def _streamed(self, event: dict[str, Any], offset: int) -> dict[str, Any]:
        return {
            "metadata": {"offset": str(offset), "uniqueEventId": f"event-{event['number']}"}, "moduleName": event["module"].upper(),
            "eventName": event["action"],
            "primaryKey": event["key"], "timestamp": event["at"].isoformat(), "hotelId": self.hotel_id, "publisherId": "18371", "actionInstanceId": "1",
            "detail": [{"elementName": name, "oldValue": old, "newValue": new, "elementSequence": 1} for name, old, new in event["details"]],
        }  # fmt: skip

    async def cut(self) -> None:
        """All connections of the stream end."""
        for socket in list(self.sockets):
            await socket.close(code=1001)

    async def stop(self) -> None:
        await self.cut()
        await super().stop()


def _spaced(status: str) -> str:
    """CheckedOut -> CHECKED OUT: events and reservations do not write it the same way."""
    return "".join(f" {letter}" if letter.isupper() and place else letter for place, letter in enumerate(status)).upper()


def _json(value: Any) -> web.Response:
    return web.Response(text=json.dumps(value, default=float), content_type="application/json")
