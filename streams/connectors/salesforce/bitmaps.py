"""Bitmaps of a change event's header -> names of fields. Pure.

    "0x0006"     bits of the event's own fields, the lowest one first, in the order of its Avro schema
    "2-0x05"     bits of the fields of the compound field at place 2, for example Name.FirstName
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from streams.errors import ContractError

_BITMAP = re.compile(r"(?:(\d{1,4})-)?0x([0-9A-Fa-f]{1,1024})")
Schema = Mapping[str, Any]


def names(bitmaps: Sequence[str], schema: Schema, named: Mapping[str, Schema]) -> list[str]:
    """Fields that the bitmaps mark, `Parent.Field` where they are compound. `named`: all record types by their full names.
    Raises ContractError for a bitmap that does not fit the schema."""
    found: list[str] = []
    fields = schema["fields"]
    for bitmap in bitmaps:
        match = _BITMAP.fullmatch(bitmap) if isinstance(bitmap, str) else None
        if match is None:
            raise ContractError("BITMAP_INVALID", "a bitmap has the form 0x.. or PLACE-0x..")
        place, digits = match.groups()
        if place is None:
            found += [field["name"] for field in _marked(digits, fields)]
            continue
        parent = fields[int(place)] if int(place) < len(fields) else None
        inner = None if parent is None else record_type(parent["type"], named)
        if parent is None or inner is None:
            raise ContractError("BITMAP_INVALID", f"field {place} is not a compound one")
        found += [f"{parent['name']}.{field['name']}" for field in _marked(digits, inner["fields"])]
    return found


def record_type(avro: Any, named: Mapping[str, Schema]) -> Schema | None:
    """The record in a type, which may be a union or a name; None if there is none."""
    for one in avro if isinstance(avro, list) else (avro,):
        found = named.get(one) if isinstance(one, str) else one
        if isinstance(found, Mapping) and found.get("type") == "record":
            return found
    return None


def _marked(digits: str, fields: Sequence[Schema]) -> Iterator[Schema]:
    bits = int(digits, 16)
    if bits.bit_length() > len(fields):
        raise ContractError("BITMAP_INVALID", f"a bitmap marks field {bits.bit_length() - 1} of {len(fields)}")
    return (field for place, field in enumerate(fields) if bits >> place & 1)
