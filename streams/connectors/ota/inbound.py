"""OTA_HotelResNotifRQ (OpenTravel 2003/05) -> pending points for bookings. What booking engines and channel managers send, answered in its form.

The status stands on the root or on the reservation: Commit, Reserved, Book and the like make a booking, Cancel ends it. A modification changes nothing:
what the stay is worth, its end says. Amounts may be whole numbers scaled by DecimalPlaces: "32550" with 2 is 325.50.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation

from schemas.contract import Command
from schemas.records import Transaction, TransactionKind
from streams.connectors import stays
from streams.connectors import xml_reader as xml
from streams.connectors.contract import Delivery, Reply, Source, Translation
from streams.connectors.xml_reader import Element
from streams.errors import ContractError
from streams.ingress import commands

NAMESPACE = "http://www.opentravel.org/OTA/2003/05"
REQUEST = "OTA_HotelResNotifRQ"
RESERVATIONS_MAX = 500
BOOKED = frozenset({"commit", "committed", "reserved", "book", "booked", "initiate", "new", "confirmed"})
MODIFIED = frozenset({"modify", "modified", "change"})
CANCELLED = frozenset({"cancel", "cancelled", "canceled"})
_ERROR_REQUIRED_FIELD, _ERROR_UNABLE = "321", "450"
"""Codes of OpenTravel's list ERR."""


def translate(delivery: Delivery, source: Source) -> Translation:
    root = _message(delivery.body)
    reservations = list(xml.descendants(root, "HotelReservation"))
    if len(reservations) > RESERVATIONS_MAX:
        raise ContractError("TOO_MANY", f"a message has {RESERVATIONS_MAX} reservations at most")
    found = [command for one in reservations for command in _of_reservation(one, root, delivery, source)]
    for command in found:
        commands.check(command)
    return Translation(commands=tuple(found)) if found else Translation(ignored="no booking of a member, or a modification of one")


def accepted(delivery: Delivery, source: Source) -> Reply:
    return _reply(delivery, "<Success/>")


def refused(delivery: Delivery, source: Source, status: int, reason: str, detail: str) -> Reply:
    """Errors stand in an answer of 200 where the message is at fault; what only we are at fault for keeps its status, so that it comes again."""
    code = _ERROR_UNABLE if status >= 500 else _ERROR_REQUIRED_FIELD
    kind = "12" if status >= 500 else "3"  # Of OpenTravel's list EWT: processing exception, biz rule.
    text = f"{reason}: {detail}"[:200]
    return _reply(delivery, f'<Errors><Error Type="{kind}" Code="{code}" ShortText={xml.quoteattr(text)}/></Errors>', status if status >= 500 else 200)


def _reply(delivery: Delivery, content: str, status: int = 200) -> Reply:
    try:
        token = xml.attribute(_message(delivery.body), "EchoToken")
    except ContractError:
        token = None
    echo = f" EchoToken={xml.quoteattr(token)}" if token else ""
    stamp = datetime.fromtimestamp(delivery.received_at_ms // 1000, UTC).isoformat().replace("+00:00", "Z")
    start = f'<?xml version="1.0" encoding="UTF-8"?><OTA_HotelResNotifRS xmlns="{NAMESPACE}"{echo} TimeStamp="{stamp}" Version="1.0">'
    text = f"{start}{content}</OTA_HotelResNotifRS>"
    return Reply(status=status, body=text.encode(), media_type="application/xml")


def _message(body: bytes) -> Element:
    """The request, in a SOAP envelope or without one. Raises ContractError."""
    root = xml.parse(body)
    found = next(xml.descendants(root, REQUEST), None)
    if found is None:
        raise ContractError("TYPE_UNKNOWN", f"the message must be an {REQUEST}")
    return found


def _of_reservation(reservation: Element, root: Element, delivery: Delivery, source: Source) -> Iterator[Command]:
    options = source.options
    status = (xml.attribute(reservation, "ResStatus") or xml.attribute(root, "ResStatus") or "").lower()
    member_id = _member_id(reservation, options["loyalty_program"])
    if member_id is None or status in MODIFIED:
        return
    if status not in BOOKED | CANCELLED:
        raise ContractError("VALUE_UNKNOWN", "ResStatus must be one of " + ", ".join(sorted(BOOKED | MODIFIED | CANCELLED)))
    booking_id = _booking_id(reservation, options["unique_id_type"])
    at_ms = _time_ms(reservation, root, delivery.received_at_ms)
    booking = stays.booking_transaction(source.name, booking_id)
    property_id = xml.text_at(reservation, "RoomStays/RoomStay/BasicPropertyInfo@HotelCode")
    if status in CANCELLED:
        yield Transaction(
            program_id=source.program_id, member_id=member_id, transaction_id=f"{source.name}:{booking_id}:cancellation", source_system=source.name,
            occurred_at_ms=at_ms, kind=TransactionKind.REVERSE, reverses_transaction_id=booking, reason="booking cancelled", property_id=property_id,
        )  # fmt: skip
        return
    amount_minor, currency = _total(reservation, options["currency"])
    yield Transaction(
        program_id=source.program_id, member_id=member_id, transaction_id=booking, source_system=source.name, occurred_at_ms=at_ms,
        kind=TransactionKind.EARN, amount_minor=amount_minor, currency=currency, nights=_nights(reservation), category=options["category"],
        property_id=property_id, pending=True,
    )  # fmt: skip


def _booking_id(reservation: Element, kind: str) -> str:
    for unique in xml.find_all(reservation, "UniqueID"):
        found = xml.attribute(unique, "ID")
        if found and xml.attribute(unique, "Type") == kind:
            return _short(found)
    found = xml.text_at(reservation, "ResGlobalInfo/HotelReservationIDs/HotelReservationID@ResID_Value")
    if found is None:
        raise ContractError("FIELD_REQUIRED", f"a reservation needs a UniqueID of type {kind}, or a ResID_Value")
    return _short(found)


def _short(text: str) -> str:
    if len(text) > stays.RESERVATION_ID_CHARACTERS_MAX:
        raise ContractError("ID_INVALID", f"a booking's id has {stays.RESERVATION_ID_CHARACTERS_MAX} characters at most")
    return text


def _member_id(reservation: Element, program: str) -> str | None:
    """Of the first loyalty membership of our programme; with no programme configured, of the first that there is."""
    for place in xml.descendants(reservation, "CustLoyalty"):
        if (not program or xml.attribute(place, "ProgramID") == program) and (found := xml.attribute(place, "MembershipID")):
            return found
    return None


def _total(reservation: Element, default_currency: str) -> tuple[int, str]:
    """The whole amount in minor units; of several rooms their sum."""
    totals = [total for path in ("ResGlobalInfo/Total",) for total in xml.find_all(reservation, path)]
    totals = totals or list(xml.find_all(reservation, "RoomStays/RoomStay/Total"))
    if not totals:
        raise ContractError("FIELD_REQUIRED", "a reservation needs a Total")
    currency = xml.attribute(totals[0], "CurrencyCode") or default_currency
    minor = 0
    for total in totals:
        text = xml.attribute(total, "AmountAfterTax") or xml.attribute(total, "AmountBeforeTax")
        if text is None or (xml.attribute(total, "CurrencyCode") or currency) != currency:
            raise ContractError("AMOUNT_INVALID", "every Total needs an amount, in one currency")
        minor += stays.minor_units(_scaled(text, xml.attribute(total, "DecimalPlaces")), currency)
    return minor, currency


def _scaled(text: str, places: str | None) -> Decimal:
    try:
        number = Decimal(text)
        if places is not None and "." not in text and number.is_finite():
            number = number.scaleb(-int(places)) if 0 <= int(places) <= 6 else Decimal("NaN")
    except (InvalidOperation, ValueError) as error:
        raise ContractError("AMOUNT_INVALID", "an amount must be a number") from error
    return number


def _nights(reservation: Element) -> int:
    span = next(xml.find_all(reservation, "RoomStays/RoomStay/TimeSpan"), None)
    span = span if span is not None else xml.find(reservation, "ResGlobalInfo/TimeSpan")
    start, end = (None, None) if span is None else (xml.attribute(span, "Start"), xml.attribute(span, "End"))
    if start is None or end is None:
        return 0
    try:
        return max(0, (datetime.fromisoformat(end[:10]) - datetime.fromisoformat(start[:10])).days)
    except ValueError as error:
        raise ContractError("TIME_INVALID", "Start and End must be days") from error


def _time_ms(reservation: Element, root: Element, received_at_ms: int) -> int:
    """When it was booked or changed: the reservation's own times, or else the message's; one without an offset is of UTC."""
    text = (
        xml.attribute(reservation, "LastModifyDateTime") or xml.attribute(reservation, "CreateDateTime") or xml.attribute(root, "TimeStamp")
    )  # fmt: skip
    if text is None:
        return received_at_ms
    try:
        moment = datetime.fromisoformat(text)
        return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)
    except (ValueError, OverflowError) as error:
        raise ContractError("TIME_INVALID", "times must look like 2026-11-22T03:40:00Z") from error
