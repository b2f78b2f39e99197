"""Mews -> stays. Its webhooks and its WebSocket only name what has changed: the reservation is read again, with its membership and its items.

A webhook holds many events; a service order that is added comes as one that is updated, too. Webhooks that are not taken are sent again after some
minutes, and then no more: a poll over what was updated finds the rest.
"""

import hashlib
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import aiohttp

from schemas.contract import Command
from schemas.records import ProfileChange
from streams.connectors import stays, values
from streams.connectors.contract import Cursor, Delivery, Found, Hint, Polling, Source, Tokens, Translation
from streams.connectors.mews import api
from streams.connectors.stays import Stay, Turn
from streams.errors import ContractError
from streams.ingress import commands

RESERVATION_EVENTS = frozenset({"ServiceOrderUpdated", "ServiceOrderAdded"})
RESERVATION = "Reservation"
EVENTS_MAX = 1000
PAGE_SIZE = 1000
OPEN_TIMEOUT_S = 30.0
HEARTBEAT_S = 30.0
_TURNS = {"Processed": Turn.ENDED, "Canceled": Turn.CANCELLED}


def translate(delivery: Delivery, source: Source) -> Translation:
    """A webhook -> a hint for each reservation in it."""
    content = values.load(delivery.body)
    if not isinstance(content, dict):
        raise ContractError("TYPE_INVALID", "the body must be an object")
    events = values.items(content, "Events")
    if len(events) > EVENTS_MAX:
        raise ContractError("TOO_MANY", f"a webhook has {EVENTS_MAX} events at most")
    wanted = {values.required(event, "Value.Id"): None for event in events if values.text(event, "Discriminator") in RESERVATION_EVENTS}
    if not wanted:
        return Translation(ignored="not about reservations")
    digest = hashlib.sha256(delivery.body).hexdigest()
    return Translation(hints=tuple(Hint(entity_id=one, kind=RESERVATION, delivery_id=digest) for one in wanted))


def read(source: Source, hint: Hint, body: bytes, received_at_ms: int) -> Polling:
    """The reservation as it is now, and the stay in it."""
    options = source.options
    answer = yield api.request(options, options["reservations_path"], {"ReservationIds": [hint.entity_id], "Limitation": {"Count": 1}})
    assert answer is not None, "an answer follows a request"
    reservation = values.at(api.content(answer), "Reservations.0")
    if reservation is None:
        return  # A service order that is no reservation.
    turn = _TURNS.get(values.required(reservation, "State"))
    account_id = values.text(reservation, "AccountId") or values.text(reservation, "CustomerId")
    if account_id is None:
        return
    answer = yield api.request(options, options["memberships_path"], {"AccountIds": [account_id], "Limitation": {"Count": 10}})
    assert answer is not None, "an answer follows a request"
    membership = _membership(api.content(answer), source)
    if membership is None:
        return
    membership_id, member_id = membership
    found: list[Command] = [*_learnt(source, member_id, membership_id, received_at_ms)]
    if turn is not None:
        amount, currency = Decimal(0), options["currency"]
        if turn is Turn.ENDED:
            answer = yield api.request(options, options["items_path"], {"ServiceOrderIds": [values.required(reservation, "Id")], "Limitation": {"Count": 1000}})
            assert answer is not None, "an answer follows a request"
            amount, currency = _total(api.content(answer), currency)
        found += stays.commands_of(_stay(reservation, turn, member_id, amount, currency, received_at_ms, source), source)
    yield Found(commands=tuple(found), source_time_ms=values.time_ms(reservation, "UpdatedUtc"))


def poll(source: Source, cursor: Cursor, now_ms: int) -> Polling:
    """Hints for all reservations that were updated since the last run, less an overlap. Cursor: {"since_ms": ...}."""
    options = source.options
    since_ms = cursor.get("since_ms", now_ms) - int(options["overlap_s"] * 1000)
    page: str | None = None
    while True:
        limitation: dict[str, Any] = {"Count": PAGE_SIZE} | ({"Cursor": page} if page else {})
        wanted = {"UpdatedUtc": {"StartUtc": commands.format_time(since_ms), "EndUtc": commands.format_time(now_ms)}, "Limitation": limitation}
        answer = yield api.request(options, options["reservations_path"], wanted)
        assert answer is not None, "an answer follows a request"
        content = api.content(answer)
        found = values.items(content, "Reservations")
        hints = tuple(
            Hint(entity_id=values.required(one, "Id"), kind=RESERVATION, delivery_id=f"updated {values.text(one, 'UpdatedUtc')}")
            for one in found if values.text(one, "State") in _TURNS
        )  # fmt: skip
        page = values.text(content, "Cursor") if len(found) == PAGE_SIZE else None
        yield Found(hints=hints, source_time_ms=now_ms, cursor=None if page else {"since_ms": now_ms})
        if page is None:
            return


async def listen(source: Source, cursor: Cursor, tokens: Tokens) -> AsyncIterator[Found]:
    """The WebSocket's events as hints. It has no memory: what it misses while it is down, the poll finds."""
    options = source.options
    headers = {"Cookie": f"ClientToken={options['client_token']}; AccessToken={options['access_token']}"}
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None, sock_connect=OPEN_TIMEOUT_S)) as session:
        async with session.ws_connect(options["websocket_url"].rstrip("/") + "/ws/connector", headers=headers, heartbeat=HEARTBEAT_S) as socket:
            async for message in socket:
                if message.type is aiohttp.WSMsgType.TEXT:
                    yield heard(message.data.encode())


def heard(body: bytes) -> Found:
    """What one message of the WebSocket means. What cannot be understood is left to the poll."""
    try:
        events = values.items(values.load(body), "Events")
        ids = {values.required(event, "Id"): None for event in events if values.text(event, "Type") == RESERVATION and values.text(event, "State") in _TURNS}
    except ContractError as error:
        return Found(alert=f"MESSAGE_UNKNOWN: a message of the WebSocket is not understood: {error.reason}")
    digest = hashlib.sha256(body).hexdigest()
    return Found(hints=tuple(Hint(entity_id=one, kind=RESERVATION, delivery_id=digest) for one in ids))


def _membership(content: Any, source: Source) -> tuple[str, str] | None:
    """Mews' id and the member's number of the first membership of our programme that is not over; None if there is none."""
    options = source.options
    for one in values.items(content, "LoyaltyMemberships"):
        programme = options["loyalty_program_id"]
        if programme and values.text(one, "LoyaltyProgramId") != programme:
            continue
        number = values.text(one, options["member_id_field"])
        if number and values.text(one, "State") not in ("Canceled", "Declined"):
            return values.required(one, "Id"), number
    return None


def _learnt(source: Source, member_id: str, membership_id: str, received_at_ms: int) -> tuple[Command, ...]:
    """The membership's id in Mews, which balances are pushed to."""
    kind = source.options["membership_id_type"]
    if not kind:
        return ()
    change = ProfileChange(
        program_id=source.program_id, member_id=member_id, event_id=f"{source.name}:{kind}:{membership_id}"[:128], source_system=source.name,
        occurred_at_ms=1, external_ids={kind: membership_id},
    )  # fmt: skip
    commands.check(change)
    return (change,)


def _total(content: Any, currency: str) -> tuple[Decimal, str]:
    """Sum of the gross values of items that are not cancelled, and their currency. Raises ContractError if they have several."""
    total = Decimal(0)
    currencies: dict[str, None] = {}
    for item in values.items(content, "OrderItems"):
        if values.text(item, "AccountingState") == "Canceled" or values.text(item, "CanceledUtc"):
            continue
        gross = values.at(item, "Amount.GrossValue")
        if type(gross) not in (int, Decimal):
            raise ContractError("TYPE_INVALID", "Amount.GrossValue must be a number")
        currencies[values.required(item, "Amount.Currency")] = None
        total += gross
    if len(currencies) > 1:
        raise ContractError("CURRENCIES_MIXED", "the items of a reservation have several currencies")
    return total, next(iter(currencies), currency)


def _stay(reservation: Any, turn: Turn, member_id: str, amount: Decimal, currency: str, received_at_ms: int, source: Source) -> Stay:
    ended_at_ms = values.time_ms(reservation, "ActualEndUtc") or values.time_ms(reservation, "EndUtc")
    cancelled_at_ms = values.time_ms(reservation, "CancelledUtc")
    at_ms = ended_at_ms if turn is Turn.ENDED else cancelled_at_ms
    nights = _nights(reservation, source.options["time_zone"])
    return Stay(
        reservation_id=values.required(reservation, "Id"), member_id=member_id, turn=turn, occurred_at_ms=at_ms or received_at_ms,
        amount_minor=stays.minor_units(amount, currency) if turn is Turn.ENDED else 0, currency=currency if turn is Turn.ENDED else "", nights=nights,
        property_id=values.text(reservation, "EnterpriseId"), booking_id=values.text(reservation, source.options["booking_id_field"]) or "",
        reason=values.text(reservation, "State") or "",
    )  # fmt: skip


def _nights(reservation: Any, time_zone: str) -> int:
    """Between the local days of its begin and its end."""
    days = []
    for path in ("StartUtc", "EndUtc"):
        at_ms = values.time_ms(reservation, path)
        if at_ms is None:
            return 0
        days.append(datetime.fromtimestamp(at_ms / 1000, ZoneInfo(time_zone)).date())
    return max(0, (days[1] - days[0]) // timedelta(days=1))
