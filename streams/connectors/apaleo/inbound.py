"""Apaleo -> stays. Its webhooks are unsigned and only name a reservation or a folio, so each is a hint: the reservation is read again.

    {"topic": "Reservation", "type": "checked-out", "id": "ec5a1fe4-...", "propertyId": "MUC", "timestamp": 1692268510605,
     "data": {"entityId": "XPGMSXGF-1"}}

The fields of a reservation (id, status, checkOutTime, arrival, departure, property.id, totalGrossAmount) are those of Apaleo's booking
API. That API has no field for a loyalty membership of its own: the option `member_id_path` names the one that a hotel uses; its default is
not confirmed by Apaleo's documentation.
"""

from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from hashlib import sha256
from typing import Any
from urllib.parse import quote

from streams.connectors import contract, stays, values
from streams.connectors.contract import Answer, Delivery, Found, Hint, Judgement, Polling, Request, Source, Translation, Verdict
from streams.connectors.fields import Fields
from streams.connectors.stays import Stay, Turn
from streams.errors import ContractError
from streams.ingress import commands

CHECKED_OUT = "Reservation/checked-out"
CHECK_IN_REVERTED = "Reservation/check-in-reverted"
FOLIO_REOPENED = "Folio/reopened"
HINTS = (CHECKED_OUT, CHECK_IN_REVERTED, "Reservation/canceled", "Reservation/set-to-no-show", FOLIO_REOPENED)
STATUS_CHECKED_OUT = "CheckedOut"
ANSWER_TIMEOUT_S = 15.0
ANSWER_BYTES_MAX = 1024 * 1024


def translate(delivery: Delivery, source: Source) -> Translation:
    """A webhook -> the hint in it; health checks and other events are ignored, not refused: subscriptions name them in bulk."""
    event = Fields(commands.load_json(delivery.body))
    kind = f"{event.required_text('topic')}/{event.required_text('type')}"
    if kind.lower() == "system/healthcheck":
        return Translation(ignored="health check")
    known = {hint.lower(): hint for hint in HINTS}.get(kind.lower())
    if known is None or (known == FOLIO_REOPENED and not source.options["folio_reopened_reverses"]):
        return Translation(ignored="not about the end of a stay")
    entity_id = event.object("data").required_text("entityId")
    delivery_id = event.text("id") or sha256(delivery.body).hexdigest()
    return Translation(hints=(Hint(entity_id=entity_id, kind=known, delivery_id=delivery_id),))


def read(source: Source, hint: Hint, body: bytes, received_at_ms: int) -> Polling:
    """The reservation as it is now, and the stay in it."""
    source = replace(source, options={**source.options, **source.options["attributes"]})
    reservation_id = hint.entity_id
    if hint.kind == FOLIO_REOPENED:
        answer = yield _request("/finance/v1/folios/", hint.entity_id)
        reservation_id = values.text(_entity(answer), "reservation.id") or ""
        if not reservation_id:
            return  # A folio of a company, or of guests who do not stay.
    answer = yield _request("/booking/v1/reservations/", reservation_id)
    reservation = _entity(answer)
    stay = stay_of(reservation, hint.kind, received_at_ms, source)
    if stay is not None:
        yield Found(commands=stays.commands_of(stay, source), source_time_ms=values.time_ms(reservation, "modified"))


def stay_of(reservation: Mapping[str, Any], kind: str, hinted_at_ms: int, source: Source) -> Stay | None:
    """What a reservation, as it is now, means after a hint of `kind`; None: nothing. Raises ContractError for one that cannot be understood."""
    member_id = values.text(reservation, source.options["member_id_path"])
    if member_id is None:
        return None
    fields = Fields(reservation, "reservation")
    checked_out_at_ms = fields.time_ms("checkOutTime")
    stay: dict[str, Any] = {
        "reservation_id": fields.required_text("id"), "member_id": member_id, "property_id": values.text(reservation, "property.id"), "reason": kind,
        "booking_id": values.text(reservation, source.options["booking_id_path"]) or "", "occurred_at_ms": hinted_at_ms,
    }  # fmt: skip
    if fields.required_text("status") == STATUS_CHECKED_OUT:
        if kind == FOLIO_REOPENED:
            return Stay(**stay, turn=Turn.TAKEN_BACK)
        amount_minor, currency = _money(values.at(reservation, source.options["amount_path"]))
        ended_at_ms = hinted_at_ms if checked_out_at_ms is None else checked_out_at_ms
        nights = values.nights(reservation, "arrival", "departure")
        return Stay(**stay | {"occurred_at_ms": ended_at_ms}, turn=Turn.ENDED, amount_minor=amount_minor, currency=currency, nights=nights)
    if kind == CHECK_IN_REVERTED:
        return Stay(**stay, turn=Turn.TAKEN_BACK)
    if kind in (CHECKED_OUT, FOLIO_REOPENED):
        return None
    # A cancellation of a stay that never ended, which is nearly every one, had no earn and needs no reversal.
    return Stay(**stay, turn=Turn.CANCELLED, had_ended=checked_out_at_ms is not None)


def judged(answer: Answer) -> Judgement:
    if answer.status == 403 or (answer.status < 400 and answer.status != 200):
        # A matter of settings, not of this entity: it is read once somebody has mended them.
        return Judgement(verdict=Verdict.RETRY, detail=f"{answer.status}: check base_url, client_id and the scopes of the client")
    return contract.judge(answer)


def _request(path: str, entity_id: str) -> Request:
    url = path + quote(entity_id, safe="")
    return Request(method="GET", url=url, headers={"accept": "application/json"}, timeout_s=ANSWER_TIMEOUT_S, bytes_max=ANSWER_BYTES_MAX)


def _entity(answer: Answer | None) -> dict[str, Any]:
    assert answer is not None, "an answer follows a request"
    if answer.status in (404, 410):
        raise ContractError("ENTITY_UNKNOWN", "the source does not know the entity")
    if answer.status != 200:
        raise ContractError("READ_REFUSED", f"the source answers {answer.status}")
    entity = values.load(answer.body)
    if not isinstance(entity, dict):
        raise ContractError("TYPE_INVALID", "the reservation is not an object")
    return entity


def _money(value: Any) -> tuple[int, str]:
    """Minor units and currency of {"amount": 123.45, "currency": "EUR"}, in decimal arithmetic."""
    money = Fields(value, "the amount")
    amount, currency = money.get("amount"), money.required_text("currency")
    if type(amount) not in (int, Decimal):
        raise ContractError("TYPE_INVALID", "the amount must be a number")
    return stays.minor_units(amount, currency), currency
