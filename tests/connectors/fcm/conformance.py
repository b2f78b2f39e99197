"""Firebase Cloud Messaging, as the conformance suites see it: a phone is told the sequence, and keeps nothing."""

from collections.abc import Mapping
from typing import Any

from tests.connectors.conformance.outbound import Outbound

_PHONES: dict[tuple[int, str], str] = {}
"""Of (port of the fake, member)."""


def _add(fake: Any, member_id: str) -> Mapping[str, str]:
    _PHONES[fake.port, member_id] = fake.add_phone()
    return {}


def _attributes(fake: Any, member_id: str) -> Mapping[str, str]:
    phone = _PHONES.get((fake.port, member_id))
    return {"push_token.phone": phone} if phone is not None else {}


OUTBOUND = Outbound(
    kind="fcm", program_id="grand", add=_add, attributes=_attributes, per_sequence=1,
    values=lambda fake, member_id: [int(message["sequence"]) for message in fake.messages[_PHONES[fake.port, member_id]]],
    strangers=lambda fake, members: fake.messages.keys() - _PHONES.values(),
)  # fmt: skip
