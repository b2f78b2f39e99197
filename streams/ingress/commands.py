"""JSON -> commands, strictly: driven by the Avro schemas, so that a field added there is known here.

The JSON of a command has the fields of its record, but for times: `occurred_at` (RFC 3339) stands for `occurred_at_ms`.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

from schemas import avsc, contract
from schemas.codec import INT64_MAX, INT64_MIN
from schemas.contract import Command, Problem
from streams import topics
from streams.errors import ContractError
from streams.topics import Topic

INT32_MIN, INT32_MAX = -(2**31), 2**31 - 1
PROBLEMS_MAX = 100  # Checking stops there: a hostile body of 1 MiB could break a rule 100,000 times.
_RFC_3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NAMES = {str: "a text", bool: "true or false", int: "a whole number", float: "a number with decimals", list: "a list", dict: "an object"}

TOPIC_OF: dict[type, Topic] = {topic.record: topic for topic in topics.INBOUND}


class InvalidError(ContractError):
    """A command breaks rules; carries all of them."""

    def __init__(self, *problems: Problem) -> None:
        self.problems = problems
        super().__init__(problems[0].reason, "; ".join(f"{p.field}: {p.detail}" for p in problems[:10]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """What a command gets that does not say it."""

    source_system: str
    occurred_at_ms: int
    program_id: str | None = None
    """None: the programme must be given."""
    command_id: str | None = None
    """None: transaction_id or event_id must be given."""


def load_json(body: bytes) -> Any:
    """Parse JSON. Raises ContractError(NOT_JSON). Numbers beyond 64 bits become floats, which no field accepts."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise ContractError("NOT_JSON", f"the body is not JSON in UTF-8: {error}"[:200]) from error


def id_field(topic: Topic) -> str:
    """Name of the field that holds the client's id of a command."""
    return "transaction_id" if topic is topics.TRANSACTIONS else "event_id"


def parse(topic: Topic, payload: Any, defaults: Defaults) -> Command:
    """The command in a parsed JSON value. Raises InvalidError with every broken rule: shape first, then the contract's."""
    if not isinstance(payload, dict):
        raise InvalidError(Problem("TYPE_INVALID", "", f"must be an object, not {_name(payload)}"))
    found: list[Problem] = []
    filled = {
        "source_system": defaults.source_system,
        "occurred_at_ms": defaults.occurred_at_ms,
        "program_id": defaults.program_id,
        id_field(topic): defaults.command_id,
    }
    values = _CHECKS[topic.stream](payload, "", found, {name: value for name, value in filled.items() if value is not None})
    if found:
        raise InvalidError(*found)
    command: Command = topic.record.from_avro(values)  # type: ignore[attr-defined]
    check(command)
    return command


def check(command: Command) -> None:
    """Raise InvalidError if the command breaks rules of the contract: the same that the worker applies."""
    problems = contract.problems(command)
    if problems:
        raise InvalidError(*(Problem(p.reason, p.field.removesuffix("_ms"), p.detail) for p in problems))


def parse_time(text: str) -> int | None:
    """Milliseconds since 1970 of an RFC 3339 time with its offset; None if it is none."""
    if not _RFC_3339.fullmatch(text):
        return None
    try:
        moment = datetime.fromisoformat(text.upper())
        return (moment - _EPOCH) // timedelta(milliseconds=1)
    except (ValueError, OverflowError):
        return None


def format_time(at_ms: int) -> str:
    """RFC 3339 in UTC with milliseconds."""
    return (_EPOCH + timedelta(milliseconds=at_ms)).isoformat(timespec="milliseconds").replace("+00:00", "Z")


# The checks are closures built once from the schemas: each takes (value, field, found) and returns the value that from_avro expects.

_Check = Callable[[Any, str, list[Problem]], Any]


def _record(schema: avsc.Schema) -> Callable[..., dict[str, Any]]:
    """Check an object. `filled` gives values to fields that the object leaves out."""
    checks: dict[str, tuple[str, _Check]] = {}
    defaults: dict[str, Any] = {}
    required: list[str] = []
    for field in schema["fields"]:
        name, avro = field["name"], field["type"]
        is_time = _is_time(avro)
        shown = name.removesuffix("_ms") if is_time else name
        checks[shown] = (name, _time if is_time else _check(avro))
        if "default" in field:
            defaults[name] = field["default"]
        else:
            required.append(name)

    def check_record(value: Any, place: str, found: list[Problem], filled: Mapping[str, Any] | None = None) -> dict[str, Any]:
        if not isinstance(value, dict):
            found.append(Problem("TYPE_INVALID", place, f"must be an object, not {_name(value)}"))
            return {}
        out = {**defaults, **(filled or {})}
        for key, inner in value.items():
            if len(found) >= PROBLEMS_MAX:
                break
            here = f"{place}.{key[:64]}" if place else key[:64]
            known = checks.get(key)
            if known is None:
                found.append(Problem("FIELD_UNKNOWN", here, f"is not a field here; known are {', '.join(checks)}"))
            elif inner is not None:  # A field that is null is a field that is absent.
                out[known[0]] = known[1](inner, here, found)
        for name in required:
            if name not in out:
                found.append(Problem("FIELD_REQUIRED", f"{place}.{name}" if place else name, "must be given"))
        return out

    return check_record


def _is_time(avro: Any) -> bool:
    """Whether the type is an instant, or one that may be absent."""
    one = avro[1] if isinstance(avro, list) else avro
    return isinstance(one, dict) and one.get("logicalType") == "timestamp-millis"


def _check(avro: Any) -> _Check:
    if isinstance(avro, list):
        inner = _check(avro[1])
        return lambda value, place, found: None if value is None else inner(value, place, found)
    kind = avro if isinstance(avro, str) else avro["type"]
    if kind == "record":
        return _record(avro)
    if kind == "array":
        return _array(_check(avro["items"]))
    if kind == "map":
        return _map(_check(avro["values"]))
    if kind == "enum":
        return _enum([symbol for symbol in avro["symbols"] if symbol != "UNKNOWN"])
    if kind in ("long", "int"):
        return _whole(*((INT64_MIN, INT64_MAX) if kind == "long" else (INT32_MIN, INT32_MAX)))
    if kind == "boolean":
        return _truth
    if kind != "string":
        raise ValueError(f"{kind} has no form in JSON yet")
    return _text


def _text(value: Any, place: str, found: list[Problem]) -> Any:
    if type(value) is not str:
        found.append(Problem("TYPE_INVALID", place, f"must be a text, not {_name(value)}"))
    return value


def _truth(value: Any, place: str, found: list[Problem]) -> Any:
    if type(value) is not bool:
        found.append(Problem("TYPE_INVALID", place, f"must be true or false, not {_name(value)}"))
    return value


def _whole(least: int, most: int) -> _Check:
    def check_whole(value: Any, place: str, found: list[Problem]) -> Any:
        if type(value) is not int:  # True is an int to isinstance.
            found.append(Problem("TYPE_INVALID", place, f"must be a whole number, not {_name(value)}"))
        elif not least <= value <= most:
            found.append(Problem("OUT_OF_RANGE", place, f"must be from {least} to {most}"))
        return value

    return check_whole


def _time(value: Any, place: str, found: list[Problem]) -> Any:
    at_ms = parse_time(value) if type(value) is str else None
    if at_ms is None:
        found.append(Problem("TIME_INVALID", place, "must be a time of RFC 3339 with its offset, for example 2026-11-22T03:40:00Z"))
    return at_ms


def _enum(symbols: list[str]) -> _Check:
    def check_enum(value: Any, place: str, found: list[Problem]) -> Any:
        if value not in symbols:
            found.append(Problem("VALUE_UNKNOWN", place, f"must be one of {', '.join(symbols)}"))
        return value

    return check_enum


def _array(inner: _Check) -> _Check:
    def check_array(value: Any, place: str, found: list[Problem]) -> Any:
        if type(value) is not list:
            found.append(Problem("TYPE_INVALID", place, f"must be a list, not {_name(value)}"))
            return []
        out = []
        for number, item in enumerate(value):
            if len(found) >= PROBLEMS_MAX:
                break
            out.append(inner(item, f"{place}[{number}]", found))
        return out

    return check_array


def _map(inner: _Check) -> _Check:
    def check_map(value: Any, place: str, found: list[Problem]) -> Any:
        if type(value) is not dict:
            found.append(Problem("TYPE_INVALID", place, f"must be an object, not {_name(value)}"))
            return {}
        out = {}
        for key, item in value.items():
            if len(found) >= PROBLEMS_MAX:
                break
            out[key] = inner(item, f"{place}.{key[:64]}", found)
        return out

    return check_map


def _name(value: Any) -> str:
    return "null" if value is None else _NAMES.get(type(value), "another type")


_CHECKS = {topic.stream: _record(avsc.expanded(avsc.load_all()[topic.record.__name__])) for topic in topics.INBOUND}
