"""Members' states -> an MDF object, or fields of users, by OData upserts: one call for many, each record judged by its own code. Pure.

HTTP says 200 even where records failed. An upsert makes what is not there: so it is asked first who is a user, and nothing is written of anybody else
(`known_users_only`). Where a call is refused as a whole, each member is tried alone, so that one cannot hold up the others.
"""

from collections.abc import Generator, Sequence
from typing import Any
from urllib.parse import quote

import orjson

from streams.connectors import values
from streams.connectors.contract import Answer, MemberState, Options, Outcome, Request, Target, Writing, Written
from streams.connectors.writes import of_some
from streams.errors import ContractError

USERS_MAX = 100
"""That one question names: an address is some kilobytes long at most."""
UNKNOWN = Written(outcome=Outcome.SKIP, reason="USER_UNKNOWN", detail="no user has the member's number")


def write(target: Target, states: Sequence[MemberState], now_ms: int) -> Writing:
    known: set[str] | None = None
    if target.options["known_users_only"]:
        known = set()
        for start in range(0, len(states), USERS_MAX):
            known |= yield from _users(target.options, states[start : start + USERS_MAX])

    def left_out(state: MemberState) -> Written | None:
        return UNKNOWN if known is not None and state.member_id.lower() not in known else None

    return (yield from of_some(states, left_out, lambda some: _upserts(target.options, some)))


def users_request(options: Options, states: Sequence[MemberState]) -> Request:
    """Which of these are users, active or not."""
    wanted = " or ".join(f"userId eq '{_literal(state.member_id)}'" for state in states)
    path = f"/odata/v2/User?$select=userId&$format=json&$top={len(states)}&$filter={quote(wanted, safe='')}"
    return Request(method="GET", url=path, headers={"accept": "application/json"})


def request(options: Options, states: Sequence[MemberState]) -> Request:
    entity, key = options["entity"], options["key_field"]
    records = []
    for state in states:
        account = state.account
        shown = {
            options["points_field"]: account.available_points, options["tier_field"]: account.tier, options["sequence_field"]: state.sequence,
        }  # fmt: skip
        as_texts = options["numbers_as_texts"]
        uri = f"{entity}('{_literal(state.member_id)}')"
        fields = {name: str(value) if as_texts else value for name, value in shown.items() if name}
        records.append({"__metadata": {"uri": uri, "type": f"SFOData.{entity}"}, key: state.member_id} | fields)
    return Request(
        method="POST", url="/odata/v2/upsert?$format=json&purgeType=incremental",
        headers={"accept": "application/json", "content-type": "application/json"}, body=orjson.dumps(records),
    )  # fmt: skip


def _users(options: Options, states: Sequence[MemberState]) -> Generator[Request, Answer, set[str]]:
    answer = yield users_request(options, states)
    if answer.status != 200:
        raise ContractError(f"STATUS_{answer.status}", f"who is a user is not told: {_message(answer)}")
    found = values.items(values.load(answer.body), "d.results")
    return {values.required(user, "userId").lower() for user in found}


def _upserts(options: Options, states: Sequence[MemberState]) -> Writing:
    answer = yield request(options, states)
    if answer.status == 200:
        return outcomes(answer, len(states), options)
    if len(states) == 1:
        return [Written(outcome=Outcome.PARK, reason=f"STATUS_{answer.status}", detail=_message(answer))]
    found: list[Written] = []
    for state in states:
        found += yield from _upserts(options, [state])
    return found


def outcomes(answer: Answer, count: int, options: Options) -> list[Written]:
    """What became of each record of an upsert. Raises ContractError for an answer that does not say."""
    said = values.items(values.load(answer.body), "d")
    by_index: dict[int, Any] = {}
    for place, one in enumerate(said):
        index = values.at(one, "index")
        by_index[index if type(index) is int else place] = one
    if not by_index.keys() >= set(range(count)):
        raise ContractError("OUTCOMES_MISSING", f"the answer to {count} records has {len(said)}")
    return [_outcome(by_index[index], options) for index in range(count)]


def _outcome(said: Any, options: Options) -> Written:
    code = values.at(said, "httpCode")
    if type(code) is not int:
        raise ContractError("TYPE_INVALID", "httpCode must be a number")
    if 200 <= code < 300:
        key = values.at(said, "key")
        return Written(outcome=Outcome.DONE, remote_id=key if isinstance(key, str) else "")
    outcome = Outcome.RETRY if str(code) in options["retry_codes"] else Outcome.PARK
    return Written(outcome=outcome, reason=f"RECORD_{code}", detail=f"the record has code {code}")


def _message(answer: Answer) -> str:
    """The code of an error answer: its text may hold values of a person."""
    try:
        code = values.text(values.load(answer.body), "error.code")
    except ContractError:
        code = None
    return f"status {answer.status}" + (f", {code[:80]}" if code else "")


def _literal(text: str) -> str:
    return text.replace("'", "''")
