"""The counter of an offer's budget: in one partition for all members, so that it is exact."""

from dataclasses import replace

from schemas.records import Budget, Relay, RelayKind
from streams.domain.program import Program


def answer(budget: Budget | None, relay: Relay, program: Program) -> tuple[Budget, Relay]:
    """The counter after a BUDGET_ASK, and the answer to it. First come, first served; what is granted stays reserved."""
    before = budget or Budget(reserved_points=0, grants=0, denials=0)
    offer = program.offers.get(relay.offer_id or "")
    limit = offer.budget_points if offer is not None else 0
    granted = limit is None or before.reserved_points + relay.points <= limit
    if granted:
        after = replace(before, reserved_points=before.reserved_points + relay.points, grants=before.grants + 1)
    else:
        after = replace(before, denials=before.denials + 1)
    reply = replace(
        relay, member_id=relay.from_member_id, from_member_id=relay.member_id, kind=RelayKind.BUDGET_ANSWER, granted=granted,
        relay_id=f"{relay.relay_id}:answer",
    )  # fmt: skip
    return after, reply
