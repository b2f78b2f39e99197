"""Platform events -> transactions and profile changes, by configured fields. Pure.

The options transaction_fields and profile_fields say which field of the event holds what of the command. Names are those of the command's JSON,
with `amount` (a decimal of the currency) for `amount_minor`, `attributes.NAME` and `external_ids.TYPE`; a value that begins with "=" is always the
same, as kind = "=EARN". An event without a member's number means nothing.
"""

import dataclasses
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from schemas.contract import ID_CHARACTERS_MAX, Command
from schemas.records import ProfileChange, Transaction
from streams import topics
from streams.connectors import stays, values
from streams.connectors.contract import Options, Source
from streams.connectors.salesforce import api, members
from streams.errors import ContractError
from streams.ingress import commands
from streams.ingress.commands import Defaults
from streams.topics import Topic

WHOLE = frozenset({"points", "nights", "amount_minor", "source_version"})
FLAGS = frozenset({"pending"})
TIMES = frozenset({"occurred_at", "expires_at", "available_from", "status_from"})
OWN_IDS = frozenset({"transaction_id", "event_id", "reverses_transaction_id", "related_transaction_id"})
"""What Salesforce numbers: our ids begin with the source's name."""
NESTED = ("attributes.", "external_ids.")
CONSTANT = "="
_NOT_MAPPED = frozenset({"program_id", "source_system", "line_items", "attributes", "external_ids"})
TRANSACTION_VALUES = frozenset({field.name.removesuffix("_ms") for field in dataclasses.fields(Transaction)}) - _NOT_MAPPED | {"amount"}
PROFILE_VALUES = frozenset({field.name.removesuffix("_ms") for field in dataclasses.fields(ProfileChange)}) - _NOT_MAPPED


def wrong_fields(known: frozenset[str], given: Mapping[str, str]) -> str:
    """What is wrong with a map of a command's values; empty: nothing."""
    wrong = sorted(name for name in given if name not in known and not (name.startswith(NESTED) and known is PROFILE_VALUES))
    if wrong:
        return f"names {wrong[0]!r}, but values are {', '.join(sorted(known))}"
    return api.wrong_names([place for place in given.values() if not place.startswith(CONSTANT)])


def unmapped(options: Options) -> str:
    """What the options leave open, so that events would be passed over; empty: nothing."""
    for topics_of, field_map, needed in (
        ("transaction_topics", "transaction_fields", ("member_id", "kind")), ("profile_topics", "profile_fields", ("member_id",)),
    ):  # fmt: skip
        missing = [name for name in needed if name not in options[field_map]]
        if options[topics_of] and missing:
            return f"{topics_of} are given, but {field_map} does not say where {' and '.join(missing)} can be found"
    return ""


def commands_of(topic: str, payload: Mapping[str, Any], event_id: str, source: Source, received_at_ms: int) -> tuple[Command, ...]:
    """The commands in one event of a topic. Raises ContractError."""
    options, fields = source.options, members.flat(payload)
    problem = unmapped(options)
    if problem:
        raise ContractError("OPTION_MISSING", problem)
    occurred_at_ms = values.time_ms(fields, "CreatedDate") or received_at_ms
    found: list[Command] = []
    for inbound, topics_of, field_map in (
        (topics.TRANSACTIONS, options["transaction_topics"], options["transaction_fields"]),
        (topics.PROFILE_CHANGES, options["profile_topics"], options["profile_fields"]),
    ):  # fmt: skip
        content = _content(fields, field_map, source) if topic in topics_of else {}
        if content.get("member_id"):
            found.append(_command(inbound, content, f"{source.name}:{event_id}"[:ID_CHARACTERS_MAX], source, occurred_at_ms))
    return tuple(found)


def _command(topic: Topic, content: dict[str, Any], command_id: str, source: Source, occurred_at_ms: int) -> Command:
    amount = content.pop("amount", None)
    if amount is not None:
        content["amount_minor"] = stays.minor_units(amount, content.get("currency") or "")
    defaults = Defaults(source_system=source.name, occurred_at_ms=occurred_at_ms, program_id=source.program_id, command_id=command_id)
    return commands.parse(topic, content, defaults)


def _content(fields: members.Fields, field_map: Mapping[str, str], source: Source) -> dict[str, Any]:
    """The JSON of a command. What has no value is not said."""
    content: dict[str, Any] = {}
    for name, place in field_map.items():
        value = place.removeprefix(CONSTANT) if place.startswith(CONSTANT) else fields.get(place)
        if value is None or value == "":
            continue
        parent, dot, inner = name.partition(".")
        if dot and name.startswith(NESTED):
            content.setdefault(parent, {})[inner] = members.text({place: value}, place)
        else:
            content[name] = _value(name, place, value, source)
    return content


def _value(name: str, place: str, value: Any, source: Source) -> Any:
    if name in WHOLE:
        return _whole(place, value)
    if name in FLAGS:
        return value if isinstance(value, bool) else members.text({place: value}, place) == "true"
    if name == "amount":
        return Decimal(str(value)) if isinstance(value, float) else value
    if name in TIMES:
        at_ms = values.time_ms({"time": value}, "time")
        return None if at_ms is None else commands.format_time(at_ms)
    text = members.text({place: value}, place)
    if name == "segments":
        return [one.strip() for one in (text or "").split(";") if one.strip()]
    if name == "status":
        return source.options["status_map"].get(text, text)
    return f"{source.name}:{text}" if name in OWN_IDS and text else text


def _whole(place: str, value: Any) -> int:
    """Salesforce's numbers have decimals even where they are none."""
    try:
        number = Decimal(str(value)) if not isinstance(value, bool) else Decimal("NaN")
        if number == number.to_integral_value():
            return int(number)
    except ArithmeticError as error:
        raise ContractError("TYPE_INVALID", f"{place} must be a whole number") from error
    raise ContractError("TYPE_INVALID", f"{place} must be a whole number")
