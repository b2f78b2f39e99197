"""Members' states -> loyalty memberships, up to a thousand in a call. Memberships are found by their ids in Mews; nobody is enrolled there by us."""

from collections.abc import Sequence
from typing import Any

from schemas.records import MemberStatus
from streams.connectors.contract import Answer, MemberState, Outcome, Request, Target, Writing, Written
from streams.connectors.mews import api
from streams.connectors.writes import of_some, together_or_alone

_STATES = {MemberStatus.ACTIVE: "Enrolled", MemberStatus.LEFT: "Canceled"}
"""Of a suspension Mews knows nothing: the state stays what it is."""


def write(target: Target, states: Sequence[MemberState], now_ms: int) -> Writing:
    kind = target.options["membership_id_type"]

    def left_out(state: MemberState) -> Written | None:
        return None if state.external_ids.get(kind) else Written(outcome=Outcome.SKIP, reason="NO_MEMBERSHIP", detail=f"the member has no external id {kind}")

    return (yield from of_some(states, left_out, lambda some: together_or_alone(some, lambda these: request(target, these), _judged)))


def request(target: Target, states: Sequence[MemberState]) -> Request:
    return api.request(target.options, "loyaltyMemberships/update", {"LoyaltyMembershipUpdates": [update(target, state) for state in states]})


def update(target: Target, state: MemberState) -> dict[str, Any]:
    """What is not wrapped stays as it is."""
    tier_id = target.options["tier_ids"].get(state.account.tier)
    status = _STATES.get(state.account.status)
    found: dict[str, Any] = {
        "LoyaltyMembershipId": state.external_ids[target.options["membership_id_type"]],
        "Points": {"Value": state.account.available_points},
    }
    if tier_id:
        found["LoyaltyTierId"] = {"Value": tier_id}
    if status:
        found["State"] = {"Value": status}
    return found


def _judged(answer: Answer) -> Written:
    if answer.status == 200:
        return Written(outcome=Outcome.DONE)
    return Written(outcome=Outcome.PARK, reason=f"STATUS_{answer.status}", detail=api.message(answer))
