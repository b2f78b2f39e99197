"""Parsed JSON -> values at configured places. Pure."""

import json
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

from streams.errors import ContractError

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def load(body: bytes) -> Any:
    """JSON with exact decimals. Raises ContractError(NOT_JSON)."""
    try:
        return json.loads(body, parse_float=Decimal, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise ContractError("NOT_JSON", f"the answer is not JSON: {error}"[:200]) from error


def at(value: Any, path: str) -> Any:
    """The value at a path of names, and of numbers for places in lists, joined by dots. None if there is none."""
    for name in path.split(".") if path else ():
        if isinstance(value, Mapping):
            value = value.get(name)
        elif isinstance(value, list) and name.isascii() and name.isdigit() and len(name) < 6:
            value = value[int(name)] if int(name) < len(value) else None
        else:
            return None
    return value


def text(value: Any, path: str) -> str | None:
    """A text, stripped; whole numbers as they are written. None if there is none, or it is empty. Raises ContractError for anything else."""
    found = at(value, path)
    if found is None:
        return None
    if type(found) is int:
        return str(found)
    if type(found) is not str:
        raise ContractError("TYPE_INVALID", f"{path} must be a text")
    return found.strip() or None


def required(value: Any, path: str) -> str:
    found = text(value, path)
    if found is None:
        raise ContractError("FIELD_REQUIRED", f"{path} must be given")
    return found


def items(value: Any, path: str) -> list[Any]:
    """A list; empty if there is none. Raises ContractError for anything else."""
    found = at(value, path)
    if found is None:
        return []
    if not isinstance(found, list):
        raise ContractError("TYPE_INVALID", f"{path} must be a list")
    return found


def time_ms(value: Any, path: str, zone: str = "UTC") -> int | None:
    """Milliseconds of an ISO 8601 time; without an offset it is one of the zone. None if there is none. Raises ContractError."""
    found = text(value, path)
    if found is None:
        return None
    try:
        moment = datetime.fromisoformat(found)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=ZoneInfo(zone))
        return (moment - _EPOCH) // timedelta(milliseconds=1)
    except (ValueError, OverflowError, KeyError) as error:
        raise ContractError("TIME_INVALID", f"{path} must be a time, for example 2026-11-22T03:40:00Z") from error


def nights(value: Any, first_path: str, last_path: str) -> int:
    """Nights between two days, or the days of two local times: by the hour, a late check-out would not count its last night."""
    days = []
    for path in (first_path, last_path):
        try:
            days.append(date.fromisoformat(required(value, path)[:10]))
        except ValueError as error:
            raise ContractError("TIME_INVALID", f"{path} must begin with a day, for example 2026-11-22") from error
    return max(0, (days[1] - days[0]).days)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a number of JSON")
