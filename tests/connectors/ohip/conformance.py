"""OPERA, as the conformance suites see it."""

from collections.abc import Mapping
from typing import Any

from streams.connectors.ohip import CONNECTOR
from tests.connectors.conformance.outbound import Outbound

_DEFAULTS = {option.name: option.default for option in CONNECTOR.target_options}


def _add(fake: Any, member_id: str) -> Mapping[str, str]:
    fake.profiles.add(f"P-{member_id}")
    return {_DEFAULTS["profile_id_type"]: f"P-{member_id}"}


OUTBOUND = Outbound(
    kind="ohip", program_id="grand", add=_add,
    values=lambda fake, member_id: fake.history[f"P-{member_id}", _DEFAULTS["points_field"]],
    strangers=lambda fake, members: fake.values.keys() - {f"P-{member_id}" for member_id in members},
    refuse=lambda fake, member_id: fake.profiles.discard(f"P-{member_id}"),
)  # fmt: skip
