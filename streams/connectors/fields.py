"""Typed access to a parsed JSON object. Pure."""

from typing import Any

from streams.errors import ContractError
from streams.ingress import commands


class Fields:
    """Raises ContractError naming the field."""

    def __init__(self, value: Any, place: str = "") -> None:
        if not isinstance(value, dict):
            raise ContractError("TYPE_INVALID", f"{place or 'the body'} must be an object")
        self._value = value
        self._place = place

    def text(self, name: str, *, required: bool = False) -> str | None:
        value = self._value.get(name)
        if value is None and not required:
            return None
        if type(value) is not str or (required and not value):
            raise ContractError("TYPE_INVALID", f"{self._named(name)} must be a text")
        return value

    def required_text(self, name: str) -> str:
        value = self.text(name, required=True)
        assert value is not None
        return value

    def whole(self, name: str) -> int | None:
        value = self._value.get(name)
        if value is not None and type(value) is not int:
            raise ContractError("TYPE_INVALID", f"{self._named(name)} must be a whole number")
        return value

    def time_ms(self, name: str) -> int | None:
        value = self.text(name)
        at_ms = None if value is None else commands.parse_time(value)
        if value is not None and at_ms is None:
            raise ContractError("TIME_INVALID", f"{self._named(name)} must be a time of RFC 3339 with its offset")
        return at_ms

    def texts_by_name(self, name: str) -> dict[str, str | None] | None:
        """An object of texts, or of nulls; None if there is none."""
        value = self._value.get(name)
        if value is None:
            return None
        if not isinstance(value, dict) or not all(inner is None or type(inner) is str for inner in value.values()):
            raise ContractError("TYPE_INVALID", f"{self._named(name)} must be an object of texts")
        return value

    def texts(self, name: str) -> tuple[str, ...] | None:
        """A list of texts; None if there is none."""
        value = self._value.get(name)
        if value is None:
            return None
        if not isinstance(value, list) or not all(type(inner) is str for inner in value):
            raise ContractError("TYPE_INVALID", f"{self._named(name)} must be a list of texts")
        return tuple(value)

    def object(self, name: str) -> "Fields":
        return Fields(self._value.get(name), self._named(name))

    def get(self, name: str) -> Any:
        return self._value.get(name)

    def _named(self, name: str) -> str:
        return f"{self._place}.{name}" if self._place else name
