"""Cloudbeds -> stays. A webhook is not signed and has no id, and a booking makes two or three: each is a hint, and the reservation is read again.

    {"version": "1.0", "event": "reservation/status_changed", "timestamp": 1784141201.429757, "propertyID": 320754, "reservationID": "2326925352181",
     "status": "checked_out", "previousStatus": "checked_in", "actor": {"type": "user", "id": ".."}}
"""

from typing import Any
from urllib.parse import quote, urlencode

from streams.connectors import stays, values
from streams.connectors.contract import Delivery, Found, Hint, Polling, Request, Source, Translation
from streams.connectors.stays import Stay, Turn
from streams.errors import ContractError

STATUS_CHANGED = "reservation/status_changed"
EVENTS = (STATUS_CHANGED, "reservation/created", "reservation/deleted", "reservation/dates_changed", "reservation/accommodation_changed")
_TURNS = {"checked_out": Turn.ENDED, "canceled": Turn.CANCELLED, "no_show": Turn.CANCELLED}
TAKEN_BACK = "taken back"


def translate(delivery: Delivery, source: Source) -> Translation:
    content = values.load(delivery.body)
    if not isinstance(content, dict):
        raise ContractError("TYPE_INVALID", "the body must be an object")
    event = values.required(content, "event")
    if event not in EVENTS:
        return Translation(ignored="not about reservations")
    reservation_id = values.text(content, "reservationID") or values.required(content, "reservationId")
    property_id = values.text(content, "propertyID_str") or values.text(content, "propertyID") or values.text(content, "propertyId") or ""
    was_out = values.text(content, "previousStatus") == "checked_out"
    kind = TAKEN_BACK if was_out and values.text(content, "status") != "checked_out" else event
    told_at = content.get("timestamp")
    return Translation(hints=(Hint(entity_id=f"{property_id}/{reservation_id}", kind=kind, delivery_id=f"{event} {told_at}"[:128]),))


def read(source: Source, hint: Hint, body: bytes, received_at_ms: int) -> Polling:
    """The reservation as it is now, and the stay in it."""
    property_id, _, reservation_id = hint.entity_id.partition("/")
    query = urlencode({"reservationID": reservation_id} | ({"propertyID": property_id} if property_id else {}), quote_via=quote)
    answer = yield Request(method="GET", url=f"/api/{source.options['api_version']}/getReservation?{query}", headers={"accept": "application/json"})
    assert answer is not None, "an answer follows a request"
    content = values.load(answer.body) if answer.status == 200 else None
    if values.at(content, "success") is not True:
        raise ContractError("CLOUDBEDS_REFUSED", f"{answer.status}: {str(values.at(content, 'message') or '')[:200]}")
    stay = stay_of(values.at(content, "data"), hint.kind, property_id, received_at_ms, source)
    if stay is not None:
        yield Found(commands=stays.commands_of(stay, source), source_time_ms=values.time_ms(content, "data.dateModified", source.options["time_zone"]))


def stay_of(reservation: Any, kind: str, property_id: str, received_at_ms: int, source: Source) -> Stay | None:
    """None: nothing that counts has happened, or not to a member."""
    options = source.options
    status = values.required(reservation, "status")
    turn = _TURNS.get(status)
    if turn is None and kind == TAKEN_BACK:
        turn = Turn.TAKEN_BACK
    member_id = _member_id(reservation, source)
    if turn is None or member_id is None:
        return None
    ended = turn is Turn.ENDED
    currency = (values.text(reservation, options["currency_path"]) if options["currency_path"] else None) or options["currency"]
    return Stay(
        reservation_id=values.required(reservation, "reservationID"), member_id=member_id, turn=turn, had_ended=kind == TAKEN_BACK,
        occurred_at_ms=values.time_ms(reservation, "dateModified", options["time_zone"]) or received_at_ms,
        amount_minor=stays.minor_units(values.at(reservation, options["amount_path"]), currency) if ended else 0, currency=currency if ended else "",
        nights=values.nights(reservation, "startDate", "endDate") if ended else 0, property_id=property_id or None,
        booking_id=values.text(reservation, options["booking_id_path"]) or "", reason=status,
    )  # fmt: skip


def _member_id(reservation: Any, source: Source) -> str | None:
    """From the configured place, or a custom field of the reservation or of one of its guests."""
    path, name = source.options["member_id_path"], source.options["member_custom_field"]
    found = values.text(reservation, path) if path else None
    guests = values.at(reservation, "guestList")
    for holder in (reservation, *(guests.values() if isinstance(guests, dict) else ())):
        for one in values.items(holder, "customFields"):
            if found is None and values.text(one, "customFieldName") == name:
                found = values.text(one, "customFieldValue")
    return found
