"""SuccessFactors, as the conformance suites see it."""

from collections.abc import Mapping
from typing import Any

from tests.connectors.conformance.outbound import Outbound


def _add(fake: Any, member_id: str) -> Mapping[str, str]:
    fake.hire(member_id)
    return {}


OUTBOUND = Outbound(
    kind="successfactors", program_id="staff", add=_add,
    values=lambda fake, member_id: fake.history[member_id, "cust_points"],
    strangers=lambda fake, members: fake.created,
    refuse=lambda fake, member_id: fake.codes[member_id].append(400),
)  # fmt: skip
