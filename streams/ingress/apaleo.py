"""Apaleo (PMS) -> a stay's earn. Its webhooks are unsigned and only name a reservation, so each is a hint: the reservation is read again.

    {"topic": "Reservation", "type": "checked-out", "id": "ec5a1fe4-...", "propertyId": "MUC", "timestamp": 1692268510605,
     "data": {"entityId": "XPGMSXGF-1"}}

The fields of a reservation (id, status, checkOutTime, arrival, departure, property.id, totalGrossAmount) are those of Apaleo's booking
API. That API has no field for a loyalty membership of its own: `member_id_path` in the source's attributes names the one that a hotel
uses; its default is not confirmed by Apaleo's documentation.
"""

import json
from collections.abc import Mapping
from datetime import date
from decimal import ROUND_HALF_UP, Decimal
from hashlib import sha256
from typing import Any

from schemas.currencies import MINOR_UNIT_DIGITS
from schemas.records import Transaction, TransactionKind
from streams.configuration import Source
from streams.errors import ContractError
from streams.ingress import commands
from streams.ingress.delivery import Delivery, Fields, Hint, Translation

ATTRIBUTE_DEFAULTS = {
    "member_id_path": "primaryGuest.loyaltyMemberId",
    "amount_path": "totalGrossAmount",
    "category": "room",
}
CHECKED_OUT = "Reservation/checked-out"
CHECK_IN_REVERTED = "Reservation/check-in-reverted"
HINTS = (CHECKED_OUT, CHECK_IN_REVERTED, "Reservation/canceled", "Reservation/set-to-no-show")
STATUS_CHECKED_OUT = "CheckedOut"


def translate(delivery: Delivery, source: Source) -> Translation:
    """A webhook -> the hint in it; health checks and other events are ignored, not refused: subscriptions name them in bulk."""
    event = Fields(commands.load_json(delivery.body))
    kind = f"{event.required_text('topic')}/{event.required_text('type')}"
    if kind.lower() == "system/healthcheck":
        return Translation(ignored="health check")
    known = {hint.lower(): hint for hint in HINTS}.get(kind.lower())
    if known is None:
        return Translation(ignored="not about the end of a stay")
    entity_id = event.object("data").required_text("entityId")
    delivery_id = event.text("id") or sha256(delivery.body).hexdigest()
    return Translation(hints=(Hint(entity_id=entity_id, kind=known, delivery_id=delivery_id),))


def load_reservation(body: bytes) -> dict[str, Any]:
    """Parse a reservation; decimals stay exact. Raises ContractError."""
    try:
        reservation = json.loads(body, parse_float=Decimal, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise ContractError("NOT_JSON", f"the reservation is not JSON: {error}"[:200]) from error
    if not isinstance(reservation, dict):
        raise ContractError("TYPE_INVALID", "the reservation is not an object")
    return reservation


def to_transaction(reservation: Mapping[str, Any], kind: str, hinted_at_ms: int, source: Source) -> Transaction | None:
    """What a reservation, as it is now, means for points after a hint of `kind`; None: nothing.

    The id of a stay's earn is made of the reservation's: however often a check-out is told, it is credited once. A stay that was taken
    back is not credited again by itself. Raises ContractError for a reservation that cannot be understood.
    """
    member_id = _at(reservation, _attribute(source, "member_id_path"))
    if member_id is None or member_id == "":
        return None
    if type(member_id) is not str:
        raise ContractError("TYPE_INVALID", f"{_attribute(source, 'member_id_path')} must be a text")
    fields = Fields(reservation, "reservation")
    reservation_id = fields.required_text("id")
    stay_id = f"{source.name}:{reservation_id}:stay"
    common: dict[str, Any] = {
        "program_id": source.program_id,
        "member_id": member_id,
        "source_system": source.name,
        "property_id": _property(reservation),
    }
    checked_out_at_ms = fields.time_ms("checkOutTime")
    if fields.required_text("status") == STATUS_CHECKED_OUT:
        amount_minor, currency = _money(_at(reservation, _attribute(source, "amount_path")))
        command = Transaction(
            **common,
            transaction_id=stay_id,
            occurred_at_ms=hinted_at_ms if checked_out_at_ms is None else checked_out_at_ms,
            kind=TransactionKind.EARN,
            amount_minor=amount_minor,
            currency=currency,
            nights=_nights(fields),
            category=_attribute(source, "category"),
        )
    elif kind == CHECK_IN_REVERTED or (kind != CHECKED_OUT and checked_out_at_ms is not None):
        # A cancellation of a stay that never ended, which is nearly every one, had no earn and needs no reversal.
        command = Transaction(
            **common,
            transaction_id=f"{stay_id}-reversal",
            occurred_at_ms=hinted_at_ms,
            kind=TransactionKind.REVERSE,
            reverses_transaction_id=stay_id,
            reason=kind,
        )
    else:
        return None
    commands.check(command)
    return command


def _attribute(source: Source, name: str) -> str:
    return str(source.attributes.get(name, ATTRIBUTE_DEFAULTS[name]))


def _at(value: Any, path: str) -> Any:
    """The value at a path of names and dots; None if there is none."""
    for name in path.split("."):
        if not isinstance(value, Mapping):
            return None
        value = value.get(name)
    return value


def _money(value: Any) -> tuple[int, str]:
    """Minor units and currency of {"amount": 123.45, "currency": "EUR"}, in decimal arithmetic; half a minor unit is rounded up."""
    money = Fields(value, "the amount")
    amount, currency = money.get("amount"), money.required_text("currency")
    digits = MINOR_UNIT_DIGITS.get(currency)
    if digits is None:
        raise ContractError("CURRENCY_UNKNOWN", "the amount's currency is not a code of ISO 4217")
    if type(amount) not in (int, Decimal):
        raise ContractError("TYPE_INVALID", "the amount must be a number")
    try:
        return int((Decimal(amount) * 10**digits).quantize(Decimal(1), ROUND_HALF_UP)), currency
    except ArithmeticError as error:
        raise ContractError("AMOUNT_INVALID", "the amount is too large") from error


def _nights(fields: Fields) -> int:
    """Nights between the local days of arrival and departure: by the hour, a late check-out would not count its last night."""
    days = []
    for name in ("arrival", "departure"):
        fields.time_ms(name)  # Raises unless it is a time.
        days.append(date.fromisoformat(fields.required_text(name)[:10]))
    return max(0, (days[1] - days[0]).days)


def _property(reservation: Mapping[str, Any]) -> str | None:
    property_id = _at(reservation, "property.id")
    return property_id if type(property_id) is str else None


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is not a number of JSON")
