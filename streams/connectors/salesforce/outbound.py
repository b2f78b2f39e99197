"""Members' states -> records of Salesforce, found by the member's number, up to 200 in a call.

    update_only (Salesforce is the master of people)   the records' ids are asked for, then updated: nothing is created
    else                                               upsert by external id: who is not there is created

Each record of a call has a result of its own inside a 200. The option tier_event publishes a platform event for each change of tier.
"""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from schemas.records import LoyaltyEventKind
from streams.connectors import values
from streams.connectors.contract import Answer, MemberState, Outcome, Request, Target, Writing, Written
from streams.connectors.salesforce import api
from streams.errors import ContractError

RECORDS_MAX = 200
QUERY_CHARACTERS_MAX = 6000
"""Of the numbers in one query, as they are in its address: Salesforce takes 16,384 bytes of address and headers."""


def write(target: Target, states: Sequence[MemberState], now_ms: int) -> Writing:
    options = target.options
    if not options["update_only"]:
        found = yield from _upsert(target, states)
    elif len(states) == 1:
        found = yield from _alone(target, states[0])
    else:
        found = yield from _update_known(target, states)
    if not options["tier_event"]:
        return found
    told = []
    for state, written in zip(states, found, strict=True):
        is_told = written.outcome is Outcome.DONE and LoyaltyEventKind.TIER_CHANGED in state.kinds
        told.append((yield from _publish(target, state, written)) if is_told else written)
    return told


# Values.

VALUES: Mapping[str, Callable[[MemberState], Any]] = {
    "available_points": lambda state: state.account.available_points,
    "qualifying_points": lambda state: state.account.qualifying_points,
    "pending_points": lambda state: state.account.pending_points,
    "held_points": lambda state: state.account.held_points,
    "debt_points": lambda state: state.account.debt_points,
    "tier": lambda state: state.account.tier,
    "tier_valid_until_ms": lambda state: state.account.tier_valid_until_ms,
    "status": lambda state: state.account.status.value,
    "sequence": lambda state: state.sequence,
    "recorded_at_ms": lambda state: state.recorded_at_ms,
    "event_id": lambda state: state.event_id,
    "member_id": lambda state: state.member_id,
    "program_id": lambda state: state.program_id,
}
"""What a field map may name."""


def fields_of(state: MemberState, field_map: Mapping[str, str]) -> dict[str, Any]:
    """The record's fields by the map: value -> field."""
    return {field: VALUES[name](state) for name, field in field_map.items()}


def unknown_values(field_map: Mapping[str, str]) -> str:
    """What is wrong with a field map; empty: nothing."""
    wrong = sorted(field_map.keys() - VALUES.keys())
    return f"names {wrong[0]!r}, but values are {', '.join(VALUES)}" if wrong else api.wrong_names(list(field_map.values()))


# Many records in a call.


def _upsert(target: Target, states: Sequence[MemberState]) -> Writing:
    options = target.options
    key = options["member_id_field"]
    records = [{key: state.member_id} for state in states]
    return (yield from _together(target, f"/composite/sobjects/{options['object']}/{key}", states, records))


def _update_known(target: Target, states: Sequence[MemberState]) -> Writing:
    """Ask which records there are, and update those."""
    ids: dict[str, list[str]] = {}
    for condition in _conditions(target.options["member_id_field"], states):
        refused = yield from _ask_for_ids(target, condition, ids)
        if refused is not None:
            return [refused] * len(states)
    known = [state for state in states if len(ids.get(state.member_id, ())) == 1]
    found: dict[str, Written] = {}
    if known:
        results = yield from _together(target, "/composite/sobjects", known, [{"id": ids[state.member_id][0]} for state in known])
        found = {state.member_id: written for state, written in zip(known, results, strict=True)}
    return [found.get(state.member_id) or (_several() if state.member_id in ids else _unknown(target)) for state in states]


def _ask_for_ids(target: Target, condition: str, ids: dict[str, list[str]]) -> Generator[Request, Answer, Written | None]:
    """Put the ids of the records that there are into `ids`, by the member's number; why not, if they cannot be had."""
    options = target.options
    key = options["member_id_field"]
    request: Request | None = api.query(options, f"SELECT Id, {key} FROM {options['object']} WHERE {condition}")
    while request is not None:
        answer = yield request
        if answer.status != 200:
            return _refused(answer)
        try:
            content = values.load(answer.body)
            for record in values.items(content, "records"):
                ids.setdefault(values.required(record, key), []).append(values.required(record, "Id"))
            request = api.next_page(options, content)
        except ContractError as error:
            return Written(outcome=Outcome.RETRY, detail=error.detail)
    return None


def _conditions(key: str, states: Sequence[MemberState]) -> Iterator[str]:
    """So many numbers in each that an address has room for them."""
    found: list[str] = []
    characters = 0
    for literal in (api.literal(state.member_id) for state in states):
        if found and characters + len(quote(literal)) > QUERY_CHARACTERS_MAX:
            yield f"{key} IN ({','.join(found)})"
            found, characters = [], 0
        found.append(literal)
        characters += len(quote(literal)) + 3
    yield f"{key} IN ({','.join(found)})"


def _together(target: Target, path: str, states: Sequence[MemberState], keys: Sequence[Mapping[str, str]]) -> Writing:
    """One call. Where it is refused as a whole, one for each, so that one member cannot hold up the others."""
    options = target.options
    records = [
        {"attributes": {"type": options["object"]}, **key, **fields_of(state, options["field_map"])} for state, key in zip(states, keys, strict=True)
    ]
    answer = yield _request(target, "PATCH", path, {"allOrNone": False, "records": records})
    if answer.status != 200:
        found: list[Written] = []
        for state in states:
            found += yield from _alone(target, state)
        return found
    try:
        results = values.items({"results": values.load(answer.body)}, "results")
    except ContractError as error:
        return [Written(outcome=Outcome.RETRY, detail=error.detail)] * len(states)
    if len(results) != len(states):
        return [Written(outcome=Outcome.RETRY, detail=f"{len(results)} results for {len(states)} records")] * len(states)
    return [_result(target, result) for result in results]


def _result(target: Target, result: Any) -> Written:
    """What one record's result means, inside a good answer."""
    record_id = values.at(result, "id")
    if values.at(result, "success") is True:
        return Written(outcome=Outcome.DONE, remote_id=record_id if isinstance(record_id, str) else "")
    code, detail = api.item_error(result)
    if code in target.options["retry_codes"]:
        return Written(outcome=Outcome.RETRY, detail=detail)
    return Written(outcome=Outcome.PARK, reason=code, detail=detail)


# One record.


def _alone(target: Target, state: MemberState) -> Writing:
    options = target.options
    key = options["member_id_field"]
    path = f"/sobjects/{options['object']}/{key}/{api.segment(state.member_id)}"
    fields = {field: value for field, value in fields_of(state, options["field_map"]).items() if field != key}
    answer = yield _request(target, "PATCH", path + ("?updateOnly=true" if options["update_only"] else ""), fields)
    if answer.status == 204:
        return [Written(outcome=Outcome.DONE)]
    if answer.status in (200, 201):
        try:
            return [_result(target, values.load(answer.body))]
        except ContractError as error:
            return [Written(outcome=Outcome.RETRY, detail=error.detail)]
    if answer.status == 300:
        return [_several()]
    if answer.status == 404 and options["update_only"]:
        return [_unknown(target)]
    return [_refused(answer)]


def _publish(target: Target, state: MemberState, written: Written) -> Generator[Request, Answer, Written]:
    """Tell of a change of tier. It is told again if the conversation is: it carries the sequence."""
    options = target.options
    answer = yield _request(target, "POST", f"/sobjects/{options['tier_event']}", fields_of(state, options["tier_event_fields"]))
    if answer.status != 201:
        return _refused(answer)
    try:
        result = values.load(answer.body)
    except ContractError as error:
        return Written(outcome=Outcome.RETRY, detail=error.detail)
    # A success names an "error": that it is in the queue.
    return written if values.at(result, "success") is True else _result(target, result)


def _request(target: Target, method: str, path: str, content: Any) -> Request:
    return api.request(target.options, method, path, content, client=api.client_name(target.options, target.name))


def _refused(answer: Answer) -> Written:
    code = next(iter(api.error_codes(answer)), f"STATUS_{answer.status}")
    return Written(outcome=Outcome.PARK, reason=code, detail=f"Salesforce answers {answer.status}")


def _several() -> Written:
    return Written(outcome=Outcome.PARK, reason="RECORDS_SEVERAL", detail="several records have the member's number; nothing was written")


def _unknown(target: Target) -> Written:
    outcome = Outcome.SKIP if target.options["unknown_members"] == "skip" else Outcome.PARK
    return Written(outcome=outcome, reason="RECORD_UNKNOWN", detail="no record has the member's number, and none is created")
