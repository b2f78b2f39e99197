"""Members' states -> memberships of OPERA's profiles, one call each. The path and the fields are settings: public specifications do not say them all."""

from collections.abc import Sequence
from typing import Any

from streams.connectors.contract import Answer, MemberState, Outcome, Request, Target, Writing, Written
from streams.connectors.ohip import api
from streams.connectors.writes import of_some
from streams.errors import ContractError


def write(target: Target, states: Sequence[MemberState], now_ms: int) -> Writing:
    kind = target.options["profile_id_type"]

    def left_out(state: MemberState) -> Written | None:
        return None if state.external_ids.get(kind) else Written(outcome=Outcome.SKIP, reason="NO_PROFILE", detail=f"the member has no external id {kind}")

    return (yield from of_some(states, left_out, lambda some: _one_by_one(target, some)))


def _one_by_one(target: Target, states: Sequence[MemberState]) -> Writing:
    found = []
    for state in states:
        answer = yield request(target, state)
        found.append(_judged(answer))
    return found


def request(target: Target, state: MemberState) -> Request:
    options = target.options
    path = api.fill(options["membership_path"], profile_id=state.external_ids[options["profile_id_type"]], membership_id=state.member_id)
    fields: dict[str, Any] = {options["member_id_field"]: state.member_id, options["points_field"]: state.account.available_points}
    if options["tier_field"]:
        fields[options["tier_field"]] = state.account.tier
    if options["membership_type"]:
        fields["membershipType"] = options["membership_type"]
    return api.request(options, "PUT", path, options["hotel_id"], {"profileMembership": fields})


def _judged(answer: Answer) -> Written:
    if 200 <= answer.status < 300:
        return Written(outcome=Outcome.DONE)
    try:
        api.content(answer)
    except ContractError as error:
        return Written(outcome=Outcome.PARK, reason=f"STATUS_{answer.status}", detail=error.detail)
    return Written(outcome=Outcome.PARK, reason=f"STATUS_{answer.status}")
