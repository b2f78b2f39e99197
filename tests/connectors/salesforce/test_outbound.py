"""Members' states -> records: requests to the letter, results one by one, and a real organization over HTTP."""

from dataclasses import replace
from typing import Any
from urllib.parse import unquote

import orjson
import pytest

from infra.fakes.salesforce import SalesforceFake
from infra.fakes.server import Misbehaviour
from schemas.records import LoyaltyEventKind
from sinks.transport import Transport
from streams.connectors.contract import Answer, Budget, MemberState, Outcome, Target, Written
from streams.connectors.exchange import Exchange, Unanswered
from streams.connectors.salesforce import CONNECTOR, outbound
from tests.connectors.salesforce.cases import RECORD_ID, recorded, target
from tests.connectors.support import NOW_MS, state_of, write_fake, written

UPSERTS: dict[str, Any] = {"update_only": False}
SAMPLE_MAP = {"available_points": "Loyalty_Points__c", "sequence": "Loyalty_Seq__c"}


async def write(org: SalesforceFake, to: Target, *states: MemberState) -> list[Written]:
    return list(await write_fake(org, outbound.write(to, states, NOW_MS), {"Authorization": f"Bearer {org.new_token()}"}))


def outcomes(found: Any) -> list[tuple[Outcome, str]]:
    return [(one.outcome, one.reason) for one in found]


def answer(status: int, name: str) -> Answer:
    return Answer(status=status, body=recorded(name))


def test_a_collection_is_upserted_by_the_members_number() -> None:
    states = [state_of("M-1", 7, 10), state_of("M-2", 3, -1)]
    (request,), found = written(outbound.write(target(**UPSERTS, field_map=SAMPLE_MAP), states, NOW_MS), [answer(200, "collection_answer.json")])
    assert (request.method, request.url) == ("PATCH", "/services/data/v62.0/composite/sobjects/Contact/Loyalty_Id__c")
    assert orjson.loads(request.body or b"") == orjson.loads(recorded("collection_request.json"))
    assert request.headers["sforce-call-options"] == "client=salesforce", "so that the change that follows is known as ours"
    assert found == [
        Written(outcome=Outcome.DONE, remote_id=RECORD_ID),
        Written(outcome=Outcome.PARK, reason="FIELD_CUSTOM_VALIDATION_EXCEPTION", detail="FIELD_CUSTOM_VALIDATION_EXCEPTION: Loyalty_Points__c"),
    ]


def test_one_record_is_updated_and_never_created() -> None:
    (request,), found = written(outbound.write(target(), [state_of("M/000 123")], NOW_MS), [answer(200, "upsert_one_updated.json")])
    assert (request.method, request.url) == ("PATCH", "/services/data/v62.0/sobjects/Contact/Loyalty_Id__c/M%2F000%20123?updateOnly=true")
    assert orjson.loads(request.body or b"") == orjson.loads(recorded("upsert_one_request.json"))
    assert found == [Written(outcome=Outcome.DONE, remote_id=RECORD_ID)]


@pytest.mark.parametrize(("status", "body", "expected"), [
    (201, b'{"id":"0035f00000AbCdEAAV","success":true,"errors":[],"created":true}', (Outcome.DONE, "")), (204, b"", (Outcome.DONE, "")),
    (200, b"<html>", (Outcome.RETRY, "")), (300, recorded("upsert_one_several.json"), (Outcome.PARK, "RECORDS_SEVERAL")),
    (404, recorded("not_found.json"), (Outcome.PARK, "RECORD_UNKNOWN")),
    (400, b'[{"message":"x","errorCode":"STRING_TOO_LONG","fields":["Loyalty_Tier__c"]}]', (Outcome.PARK, "STRING_TOO_LONG")),
    (403, b"<html>", (Outcome.PARK, "STATUS_403")),
])  # fmt: skip
def test_what_the_answer_for_one_record_means(status: int, body: bytes, expected: tuple[Outcome, str]) -> None:
    _, found = written(outbound.write(target(), [state_of("M-1")], NOW_MS), [Answer(status=status, body=body)])
    assert outcomes(found) == [expected]


def test_members_without_a_record_may_be_left_alone() -> None:
    _, found = written(outbound.write(target(unknown_members="skip"), [state_of("M-1")], NOW_MS), [answer(404, "not_found.json")])
    assert outcomes(found) == [(Outcome.SKIP, "RECORD_UNKNOWN")]


@pytest.mark.parametrize("body", [b"<html>", b"{}", b"[]", b"[1]", b'[{"success":true},{"success":true}]'])
def test_an_answer_that_cannot_be_matched_is_asked_for_again_or_parked(body: bytes) -> None:
    _, found = written(outbound.write(target(**UPSERTS), [state_of("M-1")], NOW_MS), [Answer(status=200, body=body)])
    assert [one.outcome for one in found] == [Outcome.PARK if body == b"[1]" else Outcome.RETRY]


def test_results_that_pass_by_themselves_are_asked_for_again() -> None:
    body = orjson.dumps([
        {"success": False, "errors": [{"statusCode": "UNABLE_TO_LOCK_ROW", "message": "x", "fields": []}]},
        {"success": False, "errors": [{"statusCode": "a b", "message": "Ada's", "fields": ["Ada's", 5]}]},
        {"success": True, "id": 5, "errors": [{"statusCode": "OPERATION_ENQUEUED"}]},
    ])  # fmt: skip
    states = [state_of(f"M-{number}") for number in range(3)]
    _, found = written(outbound.write(target(**UPSERTS), states, NOW_MS), [Answer(status=200, body=body)])
    assert [(one.outcome, one.detail) for one in found] == [(Outcome.RETRY, "UNABLE_TO_LOCK_ROW"), (Outcome.PARK, "UNKNOWN"), (Outcome.DONE, "")]


def test_every_value_can_be_shown() -> None:
    fields = outbound.fields_of(state_of("M-1"), {name: name for name in outbound.VALUES})
    assert fields == {
        "available_points": 1250, "qualifying_points": 1250, "pending_points": 0, "held_points": 0, "debt_points": 0, "tier": "GOLD",
        "tier_valid_until_ms": None, "status": "ACTIVE", "sequence": 418, "recorded_at_ms": NOW_MS, "event_id": "staff/M-1:418", "member_id": "M-1",
        "program_id": "staff",
    }  # fmt: skip
    assert "'points'" in outbound.unknown_values({"points": "Loyalty_Points__c"})
    assert outbound.unknown_values({"tier": "no name"}) and not outbound.unknown_values({"tier": "Loyalty_Tier__c"})


def test_numbers_are_asked_for_in_queries_that_an_address_has_room_for() -> None:
    states = [state_of(f"{'m' * 120}'{number}") for number in range(200)]
    empty = Answer(status=200, body=b'{"records":[],"done":true}')
    requests, found = written(outbound.write(target(), states, NOW_MS), [empty] * 5)
    assert max(len(one.url) for one in requests) < 8000
    asked = "".join(unquote(one.url) for one in requests)
    assert all(asked.count(f"\\'{number}'") == 1 for number in range(200)), "each one once"
    assert outcomes(found) == [(Outcome.PARK, "RECORD_UNKNOWN")] * 200


# A real organization.


async def test_in_master_mode_nothing_is_created(org: SalesforceFake) -> None:
    for number in (1, 2, 3, 4):
        await org.create(LastName="Example", Loyalty_Id__c=f"M-{number}")
    await org.create(LastName="Twin", Loyalty_Id__c="M-4")
    found = await write(org, target(), *(state_of(f"M-{number}") for number in range(5)))
    assert outcomes(found) == [(Outcome.PARK, "RECORD_UNKNOWN"), *[(Outcome.DONE, "")] * 3, (Outcome.PARK, "RECORDS_SEVERAL")]
    assert len(org.contacts) == 5 and org.values.keys() == {"M-1", "M-2", "M-3"}
    assert org.values["M-2"] == {"Loyalty_Points__c": 1250, "Loyalty_Tier__c": "GOLD", "Loyalty_Seq__c": 418}
    assert outcomes(await write(org, target(), state_of("M-9"))) == [(Outcome.PARK, "RECORD_UNKNOWN")]
    assert len(org.contacts) == 5


async def test_else_who_is_not_there_is_created(org: SalesforceFake) -> None:
    assert outcomes(await write(org, target(**UPSERTS), state_of("M-1"), state_of("M-2"))) == [(Outcome.DONE, "")] * 2
    assert {one["Loyalty_Id__c"] for one in org.contacts.values()} == {"M-1", "M-2"}
    await write(org, target(**UPSERTS), state_of("M-1", 419, 1300))
    assert org.history["M-1", "Loyalty_Points__c"] == [1250, 1300]


@pytest.mark.parametrize("options", [{}, UPSERTS])
async def test_each_member_is_judged_by_itself(org: SalesforceFake, options: dict[str, Any]) -> None:
    for number in (1, 2, 3):
        await org.create(LastName="Example", Loyalty_Id__c=f"M-{number}")
    org.locked["M-1"], org.refused["M-2"] = 1, "FIELD_INTEGRITY_EXCEPTION"
    states = [state_of(f"M-{number}") for number in (1, 2, 3)]
    found = await write(org, target(**options), *states)
    assert outcomes(found) == [(Outcome.RETRY, ""), (Outcome.PARK, "FIELD_INTEGRITY_EXCEPTION"), (Outcome.DONE, "")]
    assert outcomes(await write(org, target(**options), states[0])) == [(Outcome.DONE, "")]


async def test_a_call_that_is_refused_as_a_whole_is_made_one_by_one(org: SalesforceFake) -> None:
    org.misbehaviours.append(Misbehaviour(status=400, body=b'[{"message":"x","errorCode":"JSON_PARSER_ERROR"}]'))
    org.refused["M-2"] = "STRING_TOO_LONG"
    found = await write(org, target(**UPSERTS), state_of("M-1"), state_of("M-2"))
    assert outcomes(found) == [(Outcome.DONE, ""), (Outcome.PARK, "STRING_TOO_LONG")]
    org.misbehaviours.append(Misbehaviour(status=400, body=b'[{"message":"x","errorCode":"INVALID_FIELD"}]'))
    found = await write(org, target(), state_of("M-1"), state_of("M-2"))
    assert outcomes(found) == [(Outcome.PARK, "INVALID_FIELD")] * 2, "who is there cannot be known"


async def test_a_change_of_tier_is_told_by_a_platform_event(org: SalesforceFake) -> None:
    risen = replace(state_of("M-1"), kinds=frozenset({LoyaltyEventKind.TIER_CHANGED, LoyaltyEventKind.BALANCE_CHANGED}))
    telling = target(**UPSERTS, tier_event="Loyalty_Tier__e")
    assert outcomes(await write(org, telling, risen, state_of("M-2"))) == [(Outcome.DONE, "")] * 2
    assert org.published == [("Loyalty_Tier__e", {"Member__c": "M-1", "Tier__c": "GOLD", "Sequence__c": 418, "Event_Id__c": "staff/M-1:418"})]
    org.locked["M-1"] = 1
    assert outcomes(await write(org, telling, replace(risen, sequence=419), state_of("M-2"))) == [(Outcome.RETRY, ""), (Outcome.DONE, "")]
    assert len(org.published) == 1, "nothing is told of what was not written"
    assert outcomes(await write(org, target(**UPSERTS, tier_event="Loyalty_Tier"), risen)) == [(Outcome.PARK, "NOT_FOUND")]


@pytest.mark.parametrize(("status", "body", "outcome"), [
    (201, recorded("event_enqueued.json"), Outcome.DONE), (201, b"<html>", Outcome.RETRY),
    (201, b'{"success":false,"errors":[{"statusCode":"LIMIT"}]}', Outcome.PARK), (403, b"", Outcome.PARK),
])  # fmt: skip
def test_what_the_answer_to_a_platform_event_means(status: int, body: bytes, outcome: Outcome) -> None:
    risen = replace(state_of("M-1"), kinds=frozenset({LoyaltyEventKind.TIER_CHANGED}))
    answers = [answer(200, "upsert_one_updated.json"), Answer(status=status, body=body)]
    _, found = written(outbound.write(target(tier_event="Loyalty_Tier__e"), [risen], NOW_MS), answers)
    assert [one.outcome for one in found] == [outcome]


async def led(exchange: Exchange, to: Target, *states: MemberState) -> list[tuple[Outcome, str]]:
    """A conversation by the machinery's own exchange."""
    writing = outbound.write(to, states, NOW_MS)
    request = next(writing)
    try:
        while True:
            request = writing.send(await exchange.ask(request))
    except StopIteration as end:
        return outcomes(end.value)


async def test_with_tokens_limits_and_a_connection_that_is_cut(org: SalesforceFake, transport: Transport) -> None:
    """JWT bearer, the instance that the token names, a budget, a limit that pauses all."""
    to = target(**{**org.options, **UPSERTS})
    exchange = Exchange(CONNECTOR, to.options, transport)
    assert await led(exchange, to, state_of("M-1", 1, 10)) == [(Outcome.DONE, "")]
    assert exchange.budget == Budget(used=1, allowed=100_000)
    org.misbehaviours.append(Misbehaviour(drops=True))
    with pytest.raises(Unanswered):
        await led(exchange, to, state_of("M-1", 2, 20))
    assert org.values["M-1"]["Loyalty_Points__c"] == 20, "it was done, and nobody knows: it is written again"
    assert await led(exchange, to, state_of("M-1", 2, 20)) == [(Outcome.DONE, "")]
    org.calls_max = org.calls_used
    with pytest.raises(Unanswered) as limit:
        await led(exchange, to, state_of("M-1", 3, 30))
    assert (limit.value.verdict.value, limit.value.detail) == ("WAIT", "REQUEST_LIMIT_EXCEEDED")


@pytest.mark.parametrize("wrong", [{"username": "somebody@example.com"}, {"audience": "https://test.salesforce.com"}, {"private_key": ""}])
async def test_a_stranger_gets_no_token(org: SalesforceFake, transport: Transport, wrong: dict[str, Any]) -> None:
    to = target(**{**org.options, "client_secret": "wrong", **wrong})
    with pytest.raises(Unanswered, match="invalid_grant"):
        await led(Exchange(CONNECTOR, to.options, transport), to, state_of("M-1"))


async def test_client_credentials_do_as_well(org: SalesforceFake, transport: Transport) -> None:
    to = target(**{**org.options, "private_key": "", "client_secret": org.consumer_secret})
    assert await led(Exchange(CONNECTOR, to.options, transport), to, state_of("M-1")) == [(Outcome.PARK, "RECORD_UNKNOWN")]
