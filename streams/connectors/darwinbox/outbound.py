"""Members' states -> attributes of their employees: one call for many; where it is refused, one for each, so that one cannot hold up the others."""

from collections.abc import Sequence

import orjson

from streams.connectors.contract import Answer, MemberState, Outcome, Request, Target, Writing, Written
from streams.connectors.writes import together_or_alone
from streams.errors import ContractError
from streams.ingress import commands


def write(target: Target, states: Sequence[MemberState], now_ms: int) -> Writing:
    return (yield from together_or_alone(states, lambda some: request(target, some), _judged))


def request(target: Target, states: Sequence[MemberState]) -> Request:
    options = target.options
    employees = []
    for state in states:
        values = {
            options["points_attribute"]: str(state.account.available_points), options["tier_attribute"]: state.account.tier,
            options["sequence_attribute"]: str(state.sequence),
        }  # fmt: skip
        employees.append({options["employee_id_field"]: state.member_id} | {name: value for name, value in values.items() if name})
    body = {"employees": employees} | ({"api_key": options["api_key"]} if options["api_key"] else {})
    return Request(method="POST", url="/importapi/update", headers={"content-type": "application/json"}, body=orjson.dumps(body), timeout_s=60.0)


def _judged(answer: Answer) -> Written:
    if answer.status != 200:
        return Written(outcome=Outcome.PARK, reason=f"STATUS_{answer.status}", detail=f"the API answers {answer.status}")
    try:
        content = commands.load_json(answer.body)
    except ContractError:
        return Written(outcome=Outcome.RETRY, detail="the answer is not JSON")
    status = content.get("status") if isinstance(content, dict) else None
    if str(status) == "1":
        return Written(outcome=Outcome.DONE)
    return Written(outcome=Outcome.PARK, reason="DARWINBOX_REFUSED", detail=f"status {status}")
