"""What a webhook's translator gets and gives. A translator is pure: bytes and headers in, commands or hints out."""

import base64
import binascii
import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from schemas.contract import Command
from streams import signatures
from streams.configuration import Source
from streams.errors import ContractError
from streams.ingress import commands
from streams.signatures import SignatureError

BASIC_CHARACTERS_MAX = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One authenticated webhook."""

    body: bytes
    """As it was sent, to the byte."""
    headers: Mapping[str, str]
    """Case-blind, or with lower-case names."""
    delivery_id: str
    """The signed webhook-id; empty for a source that does not sign."""
    received_at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Hint:
    """Something about an entity changed; what exactly, its own system knows."""

    entity_id: str
    kind: str
    delivery_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Translation:
    """What a delivery means. `ignored` says why nothing follows from it."""

    commands: tuple[Command, ...] = ()
    hints: tuple[Hint, ...] = ()
    ignored: str = ""


Authenticate = Callable[[Source, Mapping[str, str], bytes, float], str]
"""(source, headers, raw body, now in seconds) -> delivery id. Raises SignatureError and nothing else."""
Translate = Callable[[Delivery, Source], Translation]
"""Raises ContractError for a body that is not what the kind promises."""


def signed(source: Source, headers: Mapping[str, str], body: bytes, now_s: float) -> str:
    """Standard Webhooks: the id of a genuine, fresh delivery."""
    return signatures.verify(signatures.decode_secret(source.secret), headers, body, now_s=now_s)


def basic(source: Source, headers: Mapping[str, str], body: bytes, now_s: float) -> str:
    """HTTP basic authentication with the source's secret as the password, for systems that do not sign. There is no delivery id."""
    scheme, _, encoded = headers.get("authorization", "").strip().partition(" ")
    if scheme.lower() != "basic" or len(encoded) > BASIC_CHARACTERS_MAX:
        raise SignatureError("HEADER_MISSING")
    try:
        _, _, password = base64.b64decode(encoded.strip().encode(errors="replace"), validate=True).partition(b":")
    except (binascii.Error, ValueError) as error:
        raise SignatureError("HEADER_INVALID") from error
    if not source.secret or not hmac.compare_digest(password, source.secret.encode()):
        raise SignatureError("PASSWORD_WRONG")
    return ""


class Fields:
    """Typed access to a parsed JSON object. Raises ContractError naming the field."""

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

    def object(self, name: str) -> "Fields":
        return Fields(self._value.get(name), self._named(name))

    def get(self, name: str) -> Any:
        return self._value.get(name)

    def _named(self, name: str) -> str:
        return f"{self._place}.{name}" if self._place else name
