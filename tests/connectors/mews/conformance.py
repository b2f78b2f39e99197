"""Mews, as the conformance suites see it."""

from collections.abc import Collection, Mapping
from typing import Any

from tests.connectors.conformance.outbound import Outbound


def _add(fake: Any, member_id: str) -> Mapping[str, str]:
    account_id = fake.add_member(member_id)
    return {"mews_membership": fake.memberships[account_id]["Id"]}


def _membership(fake: Any, member_id: str) -> str:
    return str(next(one["Id"] for one in fake.memberships.values() if one["MembershipNumber"] == member_id))


def _strangers(fake: Any, members: Collection[str]) -> Collection[str]:
    known = {one["Id"] for one in fake.memberships.values()}
    return [record for record in fake.values if record not in known]


OUTBOUND = Outbound(
    kind="mews", program_id="grand", add=_add,
    values=lambda fake, member_id: fake.history[_membership(fake, member_id), "Points"],
    strangers=_strangers,
    refuse=lambda fake, member_id: fake.values.pop(_membership(fake, member_id)),
)  # fmt: skip
