"""CloudEvents 1.0 -> commands: the JSON of the REST API as `data`, signed by Standard Webhooks.

Structured mode (application/cloudevents+json) and binary mode (ce-* headers). The `type` names the command; an event without its own
transaction_id or event_id gets one from `source` and `id`, which together name a CloudEvent for ever. In binary mode the ce-* headers are
not part of what is signed, so there the signed webhook-id takes the place of both: nobody can send a caught delivery again under another
id.
"""

from collections.abc import Mapping
from hashlib import sha256
from typing import Any
from urllib.parse import unquote

from schemas.contract import ID_CHARACTERS_MAX, Problem
from streams import topics
from streams.connectors.contract import Delivery, Source, Translation
from streams.connectors.fields import Fields
from streams.errors import ContractError
from streams.ingress import commands
from streams.ingress.commands import Defaults, InvalidError
from streams.topics import Topic

STRUCTURED = "application/cloudevents+json"
SPECIFICATION = "1.0"
TYPES: Mapping[str, Topic] = {
    "loyalty.transaction.v1": topics.TRANSACTIONS,
    "loyalty.enrolment.v1": topics.ENROLMENTS,
    "loyalty.profile-change.v1": topics.PROFILE_CHANGES,
    "loyalty.offer-activation.v1": topics.OFFER_ACTIVATIONS,
    "loyalty.member-operation.v1": topics.MEMBER_OPERATIONS,
}


def translate(delivery: Delivery, source: Source) -> Translation:
    media_type = delivery.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type == STRUCTURED:
        event = Fields(commands.load_json(delivery.body))
        origin, event_id = event.required_text("source"), event.required_text("id")
        data = event.get("data")
    elif media_type in ("", "application/json") and "ce-specversion" in delivery.headers:
        event = Fields(_attributes(delivery.headers), "ce-* headers")
        for name in ("source", "id"):
            event.required_text(name)
        origin, event_id = source.name, delivery.delivery_id
        data = commands.load_json(delivery.body)
    else:
        raise ContractError("MEDIA_TYPE_UNKNOWN", f"send {STRUCTURED}, or application/json with ce-* headers")
    if event.required_text("specversion") != SPECIFICATION:
        raise ContractError("VERSION_UNKNOWN", f"specversion must be {SPECIFICATION}")
    topic = TYPES.get(event.required_text("type"))
    if topic is None:
        raise ContractError("TYPE_UNKNOWN", f"type must be one of {', '.join(TYPES)}")
    occurred_at_ms = event.time_ms("time")
    defaults = Defaults(
        source_system=source.name,
        program_id=source.program_id,
        command_id=_command_id(origin, event_id),
        occurred_at_ms=delivery.received_at_ms if occurred_at_ms is None else occurred_at_ms,
    )
    command = commands.parse(topic, data, defaults)
    if command.source_system != source.name:
        raise InvalidError(Problem("SOURCE_SYSTEM_TAKEN", "source_system", f"must be {source.name}, or left out"))
    return Translation(commands=(command,))


def _attributes(headers: Mapping[str, str]) -> dict[str, Any]:
    """The ce-* headers. Their values are percent-encoded (CloudEvents HTTP binding, 3.1.3.2)."""
    found: dict[str, Any] = {}
    for name in ("specversion", "type", "source", "id", "time"):
        value = headers.get(f"ce-{name}")
        if value is not None:
            found[name] = unquote(value)
    return found


def _command_id(origin: str, event_id: str) -> str:
    """source and id, as one id of the contract: a hash of both where they are too long for one."""
    whole = f"{origin}:{event_id}"
    return whole if len(whole) <= ID_CHARACTERS_MAX else "ce:" + sha256(f"{origin}\0{event_id}".encode()).hexdigest()
