"""OPERA Cloud -> stays. Its business events name a reservation, which is read again.

Two ways, of which one is to be chosen. The stream (GraphQL over a WebSocket, protocol graphql-transport-ws) goes on from an offset, so nothing is
missed. The queue is emptied by asking: what is asked for is gone from it, and what a crash loses between the answer and the log, the poll of departures
finds. Names of modules, elements and statuses are the property's: all are settings.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp

from streams.connectors import stays, values
from streams.connectors.contract import Cursor, Found, Hint, Parked, Polling, Source, Tokens
from streams.connectors.ohip import api
from streams.connectors.stays import Stay, Turn
from streams.errors import ContractError

RESERVATION, TAKEN_BACK = "reservation", "taken back"
EVENTS_MAX = 20
"""Most in one answer of the queue."""
PAGES_MAX = 500
PAGE_SIZE = 100
PROTOCOL = "graphql-transport-ws"
OPEN_TIMEOUT_S = 30.0
SILENCE_S = 60.0
"""After so long without a word the server is pinged, and after twice as long the connection counts as lost."""
QUERY = (
    "subscription events($input: NewEventInput!) { newEvent(input: $input) { metadata { offset uniqueEventId } moduleName eventName primaryKey timestamp "
    "hotelId publisherId actionInstanceId detail { elementName oldValue newValue scopeFrom scopeTo elementSequence elementType elementRole } } }"
)


def uses_queue(source: Source) -> bool:
    return not source.options["streaming_url"]


# The queue.


def dequeue(source: Source, cursor: Cursor, now_ms: int) -> Polling:
    """Empty the queue. Each answer is in the log before the next one is asked for."""
    options = source.options
    path = api.fill("/int/v1/externalSystem/{code}/businessEvents", code=options["external_system"]) + f"?limit={EVENTS_MAX}"
    for _ in range(PAGES_MAX):
        answer = yield api.request(options, "GET", path, options["hotel_id"])
        assert answer is not None, "an answer follows a request"
        try:
            events = values.items(api.content(answer), "businessEventData")
        except ContractError as error:
            if answer.status == 200:  # It is out of the queue: what it holds must not get lost.
                yield Found(parked=(Parked(value=answer.body, reason=error.reason, detail=error.detail),))
            raise
        if not events:
            return
        hints, parked = [], []
        for event in events:
            try:
                hint = _hint_of_queued(event, source)
                hints += [hint] if hint is not None else []
            except ContractError as error:
                parked.append(Parked(value=json.dumps(event, default=str).encode(), reason=error.reason, detail=error.detail))
        yield Found(hints=tuple(hints), parked=tuple(parked), source_time_ms=now_ms)


def _hint_of_queued(event: Any, source: Source) -> Hint | None:
    header = values.at(event, "businessEvent.header")
    details = [
        (values.text(one, "dataElement"), values.text(one, "oldValue"), values.text(one, "newValue")) for one in values.items(event, "businessEvent.details")
    ]
    event_id = values.text(event, "businessEventId.id") or values.required(header, "actionId")
    return _hint(values.required(header, "moduleName"), values.required(header, "primaryKey"), values.text(header, "hotelId"), event_id, details, source)


def _hint(module: str, key: str, hotel_id: str | None, event_id: str, details: list[tuple[str | None, str | None, str | None]], source: Source) -> Hint | None:
    """None: about something else."""
    options = source.options
    if module.lower() not in options["modules"]:
        return None
    was_taken_back = any(
        _word(old) in options["ended_values"] and new is not None and _word(new) not in options["ended_values"]
        for name, old, new in details if _word(name) in options["status_elements"]
    )  # fmt: skip
    return Hint(entity_id=f"{hotel_id or options['hotel_id']}/{key}", kind=TAKEN_BACK if was_taken_back else RESERVATION, delivery_id=event_id)


def departures(source: Source, cursor: Cursor, now_ms: int) -> Polling:
    """Hints for all who were to depart since yesterday of the last run: what was lost on its way out of the queue. Cursor: {"day": "2026-11-21"}."""
    options = source.options
    today = datetime.fromtimestamp(now_ms / 1000, UTC).date()
    first = datetime.strptime(cursor["day"], "%Y-%m-%d").date() if cursor.get("day") else today
    first -= timedelta(days=1)
    offset = 0
    for _ in range(PAGES_MAX):
        path = api.fill(
            options["departures_path"], hotel_id=options["hotel_id"], first=first.isoformat(), last=today.isoformat(), limit=str(PAGE_SIZE), offset=str(offset),
        )  # fmt: skip
        answer = yield api.request(options, "GET", path, options["hotel_id"])
        assert answer is not None, "an answer follows a request"
        found = values.items(api.content(answer), options["departures_list_path"])
        hints = tuple(
            Hint(entity_id=f"{options['hotel_id']}/{key}", kind=RESERVATION, delivery_id=f"departures {today} {key}"[:128])
            for one in found if (key := values.text(one, options["departures_id_path"])) is not None
        )  # fmt: skip
        is_last = len(found) < PAGE_SIZE
        yield Found(hints=hints, source_time_ms=now_ms, cursor={"day": today.isoformat()} if is_last else None)
        if is_last:
            return
        offset += PAGE_SIZE


# The stream.


async def subscribe(source: Source, cursor: Cursor, tokens: Tokens) -> AsyncIterator[Found]:
    """Events behind the cursor's offset, `{"offset": "1234"}`; without one, those that come from now on. Ends when the server ends it."""
    options = source.options
    token = await tokens.get()
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=OPEN_TIMEOUT_S)
    async with (
        aiohttp.ClientSession(timeout=timeout) as session,
        session.ws_connect(options["streaming_url"], protocols=(PROTOCOL,), headers={"x-app-key": options["app_key"]}, max_msg_size=4 * 1024 * 1024) as socket,
    ):
        await socket.send_json({"type": "connection_init", "payload": {"Authorization": f"Bearer {token.value}", "x-app-key": options["app_key"]}})
        was_pinged = False
        while True:
            try:
                async with asyncio.timeout(SILENCE_S):
                    message = await socket.receive()
            except TimeoutError:
                if was_pinged:
                    raise
                was_pinged = True
                await socket.send_json({"type": "ping"})
                continue
            was_pinged = False
            if message.type is not aiohttp.WSMsgType.TEXT:
                if socket.close_code in (4401, 4403):
                    tokens.refuse(token)
                    raise ContractError("OHIP_REFUSED", f"the stream closes with {socket.close_code}: the token is refused")
                return
            kind, found = heard(message.data.encode(), source)
            if kind == "connection_ack":
                await socket.send_json({"id": "events", "type": "subscribe", "payload": {"query": QUERY, "variables": {"input": _input(source, cursor)}}})
            elif kind == "ping":
                await socket.send_json({"type": "pong"})
            elif kind == "error":
                raise ContractError("OHIP_REFUSED", "the stream refuses the subscription")
            elif kind == "complete":
                return
            if found is not None:
                yield found


def heard(body: bytes, source: Source) -> tuple[str, Found | None]:
    """Type of a message of the stream, and what it holds. Raises ContractError for what is no message at all."""
    message = values.load(body)
    kind = values.required(message, "type")
    if kind != "next":
        return kind, None
    event = values.at(message, "payload.data.newEvent")
    try:
        offset = values.required(event, "metadata.offset")
    except ContractError as error:
        return kind, Found(parked=(Parked(value=body, reason=error.reason, detail=error.detail),))
    try:
        details = [(values.text(one, "elementName"), _said(one, "oldValue"), _said(one, "newValue")) for one in values.items(event, "detail")]
        hint = _hint(
            values.required(event, "moduleName"), values.required(event, "primaryKey"), values.text(event, "hotelId"),
            values.text(event, "metadata.uniqueEventId") or offset, details, source,
        )  # fmt: skip
    except ContractError as error:
        return kind, Found(parked=(Parked(value=body, reason=error.reason, detail=error.detail),), cursor={"offset": offset})
    return kind, Found(hints=() if hint is None else (hint,), cursor={"offset": offset})


def _said(detail: Any, name: str) -> str | None:
    """An empty text is a value: of what was created, the old one."""
    return values.text(detail, name) or ("" if values.at(detail, name) == "" else None)


def _input(source: Source, cursor: Cursor) -> Mapping[str, Any]:
    options = source.options
    found: dict[str, Any] = {"chainCode": options["chain_code"], "delta": True}
    if options["hotel_id"]:
        found["hotelCode"] = options["hotel_id"]
    return found | ({"offset": cursor["offset"]} if cursor.get("offset") else {"offsetType": "highest"})


# The reservation.


def read(source: Source, hint: Hint, body: bytes, received_at_ms: int) -> Polling:
    hotel_id, _, reservation_id = hint.entity_id.partition("/")
    answer = yield api.request(
        source.options, "GET", api.fill(source.options["reservation_path"], hotel_id=hotel_id, reservation_id=reservation_id), hotel_id
    )  # fmt: skip
    assert answer is not None, "an answer follows a request"
    stay = stay_of(api.content(answer), hint.kind, reservation_id, hotel_id, received_at_ms, source)
    if stay is not None:
        yield Found(commands=stays.commands_of(stay, source))


def stay_of(content: Any, kind: str, reservation_id: str, hotel_id: str, received_at_ms: int, source: Source) -> Stay | None:
    """None: nothing that counts has happened, or not to a member."""
    options = source.options
    reservation = values.at(content, options["reservation_root_path"])
    status = _word(values.required(reservation, options["status_path"]))
    member_id = values.text(reservation, options["member_id_path"])
    turn = Turn.ENDED if status in options["ended_values"] else Turn.CANCELLED if status in options["cancelled_values"] else None
    if turn is None and kind == TAKEN_BACK:
        turn = Turn.TAKEN_BACK
    if turn is None or member_id is None:
        return None
    ended = turn is Turn.ENDED
    currency = (values.text(reservation, options["currency_path"]) if options["currency_path"] else None) or options["currency"]
    return Stay(
        reservation_id=f"{hotel_id}-{reservation_id}", member_id=member_id, turn=turn, had_ended=kind == TAKEN_BACK,
        occurred_at_ms=(values.time_ms(reservation, options["ended_at_path"], options["time_zone"]) if options["ended_at_path"] else None) or received_at_ms,
        amount_minor=stays.minor_units(values.at(reservation, options["amount_path"]), currency) if ended else 0, currency=currency if ended else "",
        nights=values.nights(reservation, options["arrival_path"], options["departure_path"]) if ended else 0, property_id=hotel_id or None,
        booking_id=values.text(reservation, options["booking_id_path"]) or "", reason=status,
    )  # fmt: skip


def _word(text: str | None) -> str:
    """Statuses are written in several ways: CheckedOut, CHECKED OUT, checked_out."""
    return "".join(letter for letter in (text or "").lower() if letter.isalnum())
