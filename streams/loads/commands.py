"""A row of an input -> the command that it is, or every reason why it is none. Nothing is guessed: no time zone, no rounding, no 1e3."""

import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from math import isfinite
from typing import Any
from zoneinfo import ZoneInfo

from schemas.codec import INT64_MAX, INT64_MIN
from schemas.contract import STATUSES_SETTABLE, Command, problems
from schemas.currencies import MINOR_UNIT_DIGITS
from schemas.records import LineItem, MemberOperationKind, MemberStatus, ProfileChange, TransactionKind
from streams.loads.mapping import IN_THE_INPUT, MAPS, TIMES, LoadMapping, is_field, kind_of

RFC_3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d(:\d\d(\.\d{1,9})?)?([Zz]|[+-]\d\d:?\d\d)?", re.ASCII)
WHOLE = re.compile(r"[+-]?\d{1,19}(\.0*)?", re.ASCII)
NUMBER = re.compile(r"[+-]?\d{1,19}(\.\d{1,18})?", re.ASCII)
SHORTENED = re.compile(r"\d([.,]\d+)?[eE]\+?\d{1,3}", re.ASCII)
"""What a spreadsheet makes of a long number."""
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
UNIX = {"unix_s": 1000, "unix_ms": 1}
LINE_ITEM_FIELDS = frozenset(field.name for field in fields(LineItem))
SYMBOLS: Mapping[Any, list[str]] = {
    **{kinds: [kind.value for kind in kinds if kind.value != "UNKNOWN"] for kinds in (TransactionKind, MemberOperationKind)},
    MemberStatus: [status.value for status in STATUSES_SETTABLE],
}


@dataclass(frozen=True, slots=True)
class Reject:
    """One reason why a row is no command. `reason` is stable; `detail` is for people and may hold the row's values."""

    reason: str
    detail: str

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


class _Bad(Exception):
    def __init__(self, reason: str, detail: str) -> None:
        self.reject = Reject(reason, detail)


class Converter:
    """Rows of one mapping -> commands of one programme, as one source system says them."""

    def __init__(self, mapping: LoadMapping, program_id: str, source_system: str) -> None:
        self._mapping = mapping
        self._said = {"program_id": program_id, "source_system": source_system}
        self._record = mapping.record
        record_fields = {field.name: field for field in fields(mapping.record)}
        self._id_field = "transaction_id" if "transaction_id" in record_fields else "event_id"
        self._required = [name for name, one in record_fields.items() if one.default is MISSING and one.default_factory is MISSING]
        self._clearing = frozenset(MAPS if mapping.empty_clears and mapping.record is ProfileChange else ())
        self._zone = ZoneInfo(mapping.time_zone) if mapping.time_zone else None
        self._by_column: dict[str, tuple[str, ...]] = {}
        self.unused: set[str] = set()
        """Columns that the input has and that say nothing here."""
        self.missing = set(mapping.named)
        """Columns that are mapped, and that no row has had so far."""

    def __call__(self, row: Mapping[str, Any]) -> Command | list[Reject]:
        values: dict[str, Any] = dict(self._said)
        found: list[Reject] = []
        for column, value in row.items():
            names = self._by_column.get(column)
            if names is None:
                names = self._learn(column)
            for name in names:
                if value is not None and value != "" or name.partition(".")[0] in self._clearing:
                    self._set(values, column, name, value, found)
        for name, value in self._mapping.constants.items():
            if name not in values:
                self._set(values, f"constants.{name}", name, value, found)
        try:
            self._id(values, row)
            self._money(values)
        except _Bad as bad:
            found.append(bad.reject)
        if found:
            return found
        missing = [name for name in self._required if values.get(name) is None]
        if missing:
            return [Reject("FIELD_REQUIRED", f"no column says {name.removesuffix('_ms')}, or it is empty") for name in missing]
        command: Command = self._record(**values)
        return [Reject(one.reason, f"{one.field} {one.detail}") for one in problems(command)] or command

    def _learn(self, column: str) -> tuple[str, ...]:
        """What a column that was not seen before says."""
        mapping = self._mapping
        names = mapping.columns.get(column, ())
        if not mapping.columns and is_field(mapping.record, column):
            names = (column,)
        self._by_column[column] = names
        if column not in self.missing and not names and column not in IN_THE_INPUT:
            self.unused.add(column)
        self.missing.discard(column)
        return names

    def _set(self, values: dict[str, Any], column: str, name: str, value: Any, found: list[Reject]) -> None:
        try:
            if isinstance(value, str):
                value = _plain(value)
            first, _, rest = name.partition(".")
            if rest:
                # An empty value is here only where it is to clear.
                values.setdefault(first, {})[rest] = _text(value) if value not in ("", None) else None
            elif name in self._said:
                if _text(value) != self._said[name]:
                    raise _Bad("NOT_OF_THIS_LOAD", f"is {value!r}, but this load is of {self._said[name]!r}")
            elif name in TIMES:
                self._once(values, f"{name}_ms", self._time_ms(value))
            else:
                self._once(values, self._id_field if name == "id" else name, self._value(name, value))
        except _Bad as bad:
            found.append(Reject(bad.reject.reason, f"{column!r} {bad.reject.detail}"))

    def _once(self, values: dict[str, Any], name: str, value: Any) -> None:
        if name in values:
            raise _Bad("SAID_TWICE", f"says {name}, which another column says already")
        values[name] = value

    def _value(self, name: str, value: Any) -> Any:
        convert = _CONVERTERS.get(name)
        if convert is not None:
            return convert(value)
        match name:
            case "amount":
                return self._decimal(value)
            case "kind":
                return _symbol(kind_of(self._record), self._mapping.kinds, value)
            case "status":
                return _symbol(MemberStatus, self._mapping.statuses, value)
            case "segments":
                return self._segments(value)
            case "attributes" | "external_ids":
                return self._map(value)
        text = _text(value)
        if SHORTENED.fullmatch(text):
            raise _Bad("NUMBER_SHORTENED", f"is {text!r}, a number as spreadsheets shorten it: export the column as text")
        return text

    def _id(self, values: dict[str, Any], row: Mapping[str, Any]) -> None:
        template = self._mapping.id_template
        if not template:
            return
        parts = []
        for literal, column in template:
            parts.append(literal)
            if column:
                value = row.get(column)
                if value is None or value == "":
                    raise _Bad("ID_INCOMPLETE", f"{column!r} is empty, and the id is made of it")
                text = _text(_plain(value) if isinstance(value, str) else value)
                if SHORTENED.fullmatch(text):
                    raise _Bad("NUMBER_SHORTENED", f"{column!r} is {text!r}, a number as spreadsheets shorten it: export the column as text")
                parts.append(text)
        self._once(values, self._id_field, "".join(parts))

    def _money(self, values: dict[str, Any]) -> None:
        amount: Decimal | None = values.pop("amount", None)
        if amount is None:
            return
        currency = values.get("currency")
        digits = MINOR_UNIT_DIGITS.get(currency or "")
        if digits is None:
            raise _Bad("CURRENCY_REQUIRED", f"an amount needs the code of its currency, not {currency!r}")
        minor = amount.scaleb(digits)
        if minor != minor.to_integral_value():
            raise _Bad("AMOUNT_INEXACT", f"the amount {amount} has more decimals than {currency} has: {digits}")
        self._once(values, "amount_minor", int(minor))

    def _decimal(self, value: Any) -> Decimal:
        if isinstance(value, str) and self._mapping.decimal_mark == ",":
            if "." in value:
                raise _Bad("NUMBER_INVALID", f"must be a plain number with the decimal mark ',', not {value!r}")
            value = value.replace(",", ".")
        if isinstance(value, str) and NUMBER.fullmatch(value):
            return Decimal(value)
        if isinstance(value, Decimal) and value.is_finite() and abs(value) < 10**18:
            return value
        if isinstance(value, float) and abs(value) < 2**53:  # As the shortest text that is the same number: what its writer meant.
            return Decimal(repr(value))
        if isinstance(value, int) and not isinstance(value, bool):
            return Decimal(value)
        raise _Bad("NUMBER_INVALID", f"must be a plain number, not {value!r}")

    def _time_ms(self, value: Any) -> int:
        mapping = self._mapping
        if mapping.time_format in UNIX:
            return _whole(value) * UNIX[mapping.time_format]
        if isinstance(value, str):
            moment = self._parsed(value)
        elif isinstance(value, datetime):
            moment = value
        else:
            raise _Bad("TIME_INVALID", f"must be a time, not {value!r}")
        if moment.tzinfo is None:
            moment = self._local(moment)
        try:
            return (moment - EPOCH) // timedelta(milliseconds=1)
        except OverflowError as error:
            raise _Bad("TIME_INVALID", f"is no time that can be: {value!r}") from error

    def _parsed(self, text: str) -> datetime:
        try:
            if self._mapping.time_format:
                return datetime.strptime(text, self._mapping.time_format)
            if RFC_3339.fullmatch(text):
                return datetime.fromisoformat(text.upper())
        except ValueError as error:
            raise _Bad("TIME_INVALID", f"is no time: {error}") from error
        raise _Bad("TIME_INVALID", f"must be a time such as 2026-12-01T08:30:00Z, or in the format of [times], not {text!r}")

    def _local(self, moment: datetime) -> datetime:
        """A time without a zone, in the mapping's. One that clocks skip, or show twice, is none."""
        if self._zone is None:
            raise _Bad("TIME_WITHOUT_ZONE", f"{moment.isoformat(' ')} names no time zone, and [times] has no time_zone for it")
        first, second = (moment.replace(tzinfo=self._zone, fold=fold) for fold in (0, 1))
        if first.utcoffset() == second.utcoffset():
            return first
        if first.astimezone(UTC).astimezone(self._zone).replace(tzinfo=None) != moment:
            raise _Bad("TIME_SKIPPED", f"{moment.isoformat(' ')} is not in {self._mapping.time_zone}: clocks were put forward")
        if self._mapping.fold is None:
            raise _Bad("TIME_TWICE", f"{moment.isoformat(' ')} came twice in {self._mapping.time_zone}: [times] twice says which is meant")
        return second if self._mapping.fold else first

    def _segments(self, value: Any) -> tuple[str, ...]:
        tags = value if isinstance(value, list | tuple) else _text(value).split(self._mapping.separator)
        return tuple(sorted({_text(tag).strip() for tag in tags} - {""}))

    def _map(self, value: Any) -> dict[str, str | None]:
        pairs = dict(value) if isinstance(value, dict | list) and _is_pairs(value) else None
        if pairs is None:
            raise _Bad("MAP_INVALID", f"must be an object of names and texts, not {value!r}")
        clears = self._mapping.record is ProfileChange
        return {str(key): None if one is None else _text(one) for key, one in pairs.items() if clears or one is not None}


def _is_pairs(value: Any) -> bool:
    """A map, or Parquet's form of one."""
    return isinstance(value, dict) or all(isinstance(pair, tuple) and len(pair) == 2 for pair in value)


def _plain(text: str) -> str:
    if text[:1] == "=":
        raise _Bad("FORMULA", "begins with '=': a spreadsheet's formula is no value")
    return text


def _text(value: Any) -> str:
    """Whole numbers are texts without decimals, whatever type the file gives them."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:  # JSON can name half a character.
            raise _Bad("TEXT_INVALID", f"must be a text, not {value!r}") from error
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if _is_exact(value):
        return str(int(value))
    if isinstance(value, Decimal) and value.is_finite():
        return f"{value:f}"
    if isinstance(value, date):
        return value.isoformat()
    raise _Bad("TEXT_INVALID", f"must be a text, not {value!r}")


def _is_exact(value: Any) -> bool:
    """Whether a number that is no int is whole, and was certainly no other before it came to be this one."""
    return isinstance(value, float | Decimal) and isfinite(value) and -(2**53) < value < 2**53 and value == int(value)


def _whole(value: Any) -> int:
    number: int | None = None
    if isinstance(value, str):
        number = int(value.partition(".")[0]) if WHOLE.fullmatch(value) else None
    elif isinstance(value, int) and not isinstance(value, bool):
        number = value
    elif _is_exact(value):
        number = int(value)
    if number is None or not INT64_MIN <= number <= INT64_MAX:
        raise _Bad("NUMBER_INVALID", f"must be a whole number, not {value!r}")
    return number


def _boolean(value: Any) -> bool:
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    if isinstance(value, bool):
        return value
    raise _Bad("BOOLEAN_INVALID", f"must be true or false, not {value!r}")


def _line_items(value: Any) -> tuple[LineItem, ...]:
    items = value if isinstance(value, list | tuple) else [None]
    found = []
    for item in items:
        if not isinstance(item, dict) or not item.keys() <= LINE_ITEM_FIELDS or item.get("amount_minor") is None:
            raise _Bad("LINE_ITEM_INVALID", f"must be a list of objects with amount_minor, and sku, category, quantity, not {value!r}")
        texts = {name: None if item.get(name) is None else _text(item[name]) for name in ("sku", "category")}
        quantity = _whole(item["quantity"]) if item.get("quantity") is not None else 1
        if abs(quantity) >= 2**31:
            raise _Bad("LINE_ITEM_INVALID", f"has a quantity beyond the bounds: {quantity}")
        found.append(LineItem(amount_minor=_whole(item["amount_minor"]), quantity=quantity, **texts))
    return tuple(found)


def _symbol(kind: Any, words: Mapping[str, Any], value: Any) -> Any:
    text = _text(value)
    if words:
        if text in words:
            return words[text]
    elif text.upper() in SYMBOLS[kind]:
        return kind(text.upper())
    raise _Bad("WORD_UNKNOWN", f"must be one of {', '.join(words or SYMBOLS[kind])}, not {text!r}")


_CONVERTERS: Mapping[str, Callable[[Any], Any]] = {
    "points": _whole, "nights": _whole, "amount_minor": _whole, "source_version": _whole, "occurred_at_ms": _whole, "expires_at_ms": _whole,
    "available_from_ms": _whole, "status_from_ms": _whole, "valid_until_ms": _whole, "pending": _boolean, "line_items": _line_items,
}  # fmt: skip
