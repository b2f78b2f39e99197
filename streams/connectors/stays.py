"""What becomes of a stay -> what it means for points. Shared by the property management systems and the booking engines. Pure.

    booked (booking engine)          EARN, pending                      NAME:BOOKING:booking
    cancelled before the stay        REVERSE of that                    NAME:RESERVATION:cancellation
    ended (PMS), no booking known    EARN of what was paid              NAME:RESERVATION:stay
    ended, a booking is known        ACTIVATE of the booking's points   NAME:RESERVATION:activation
                                     or, with booking_settlement = "replace": REVERSE of them and EARN of what was paid
    taken back after its end         REVERSE of what the end did        NAME:RESERVATION:stay-reversal

Ids are made of the reservation's: however often a check-out is told, it counts once. A stay that was taken back is not credited again by itself.
"""

from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from enum import StrEnum
from typing import Any

from schemas.contract import Command
from schemas.currencies import MINOR_UNIT_DIGITS
from schemas.records import Transaction, TransactionKind
from streams.connectors.contract import Option, Source
from streams.errors import ContractError
from streams.ingress import commands

OPTIONS = (
    Option(name="category", doc="Category of a stay's earn, for the programme's rules.", default="room"),
    Option(name="booking_source", doc="Name of the source whose bookings have earned pending points; empty: none have."),
    Option(name="booking_settlement", doc="What the end of a stay does with a booking's pending points.", default="activate", choices=("activate", "replace")),
)
RESERVATION_ID_CHARACTERS_MAX = 60


class Turn(StrEnum):
    """What has happened to a stay."""

    ENDED = "ENDED"
    TAKEN_BACK = "TAKEN_BACK"  # Check-in reverted, folio opened again, after the end.
    CANCELLED = "CANCELLED"  # Or the guest did not come.


@dataclass(frozen=True, slots=True, kw_only=True)
class Stay:
    reservation_id: str
    member_id: str
    turn: Turn
    occurred_at_ms: int
    had_ended: bool = False
    """CANCELLED: whether it had ended before, and so has earned."""
    amount_minor: int = 0
    currency: str = ""
    """ENDED: of the amount."""
    nights: int = 0
    property_id: str | None = None
    booking_id: str = ""
    """What the booking engine calls it; empty: it was booked elsewhere."""
    reason: str = ""


def booking_transaction(source_name: str, booking_id: str) -> str:
    return f"{source_name}:{booking_id}:booking"


def commands_of(stay: Stay, source: Source) -> tuple[Command, ...]:
    """In order. Raises ContractError."""
    if not 1 <= len(stay.reservation_id) <= RESERVATION_ID_CHARACTERS_MAX:
        raise ContractError("ID_INVALID", f"a reservation's id has 1 to {RESERVATION_ID_CHARACTERS_MAX} characters")
    options = source.options
    stay_id = f"{source.name}:{stay.reservation_id}:stay"
    booking = booking_transaction(options["booking_source"], stay.booking_id) if options["booking_source"] and stay.booking_id else ""
    is_activated = bool(booking) and options["booking_settlement"] == "activate"
    found: list[Transaction] = []
    if stay.turn is Turn.ENDED:
        if is_activated:
            activation_id = f"{source.name}:{stay.reservation_id}:activation"
            found.append(_transaction(stay, source, activation_id, TransactionKind.ACTIVATE, related_transaction_id=booking))
        else:
            if booking:
                found.append(_reversal(stay, source, f"{source.name}:{stay.reservation_id}:settlement", booking, "settled by the stay"))
            found.append(_transaction(
                stay, source, stay_id, TransactionKind.EARN, amount_minor=stay.amount_minor, currency=stay.currency, nights=stay.nights,
                category=options["category"],
            ))  # fmt: skip
    elif stay.turn is Turn.TAKEN_BACK or stay.had_ended:
        found.append(_reversal(stay, source, f"{stay_id}-reversal", booking if is_activated else stay_id, stay.reason))
    elif booking:
        found.append(_reversal(stay, source, f"{source.name}:{stay.reservation_id}:cancellation", booking, stay.reason))
    for command in found:
        commands.check(command)
    return tuple(found)


def _reversal(stay: Stay, source: Source, transaction_id: str, reversed_id: str, reason: str) -> Transaction:
    return _transaction(stay, source, transaction_id, TransactionKind.REVERSE, reverses_transaction_id=reversed_id, reason=reason or None)


def _transaction(stay: Stay, source: Source, transaction_id: str, kind: TransactionKind, **values: Any) -> Transaction:
    return Transaction(
        program_id=source.program_id, member_id=stay.member_id, transaction_id=transaction_id, source_system=source.name,
        occurred_at_ms=stay.occurred_at_ms, kind=kind, property_id=stay.property_id, **values,
    )  # fmt: skip


def minor_units(amount: Any, currency: str) -> int:
    """Of an amount in decimal notation; half a minor unit is rounded up. Raises ContractError."""
    digits = MINOR_UNIT_DIGITS.get(currency)
    if digits is None:
        raise ContractError("CURRENCY_UNKNOWN", "the amount's currency is not a code of ISO 4217")
    try:
        number = Decimal(amount.strip()) if type(amount) is str else amount
        if type(number) not in (int, Decimal) or not Decimal(number).is_finite():
            raise ContractError("TYPE_INVALID", "the amount must be a number")
        return int((Decimal(number) * 10**digits).quantize(Decimal(1), ROUND_HALF_UP))
    except ArithmeticError as error:
        raise ContractError("AMOUNT_INVALID", "the amount is no number, or too large") from error
