"""States -> OData upserts: what is asked, what each record's code means, who is left out; and the fake over real HTTP, with a signed assertion."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.fakes.server import Misbehaviour
from infra.fakes.successfactors import SuccessFactorsFake
from streams.connectors.contract import Answer, Outcome, Target, Written
from streams.connectors.exchange import Exchange, connect
from streams.connectors.successfactors import CONNECTOR, outbound
from streams.errors import ContractError
from tests.connectors.support import NOW_MS, state_of, target_of, written
from tests.connectors.test_grants import key_pair

PAYLOADS = Path(__file__).parent / "payloads"


def target(**options: Any) -> Target:
    return target_of(CONNECTOR, base_url="https://api55.example.com", **options)


ALL = target(known_users_only=False)


def answer(content: Any, status: int = 200) -> Answer:
    return Answer(status=status, body=(PAYLOADS / content).read_bytes() if isinstance(content, str) else orjson.dumps(content))


def said(*codes: int) -> Answer:
    return answer({"d": [{"key": f"cust_LoyaltyBalance/externalCode={index}", "index": index, "httpCode": code} for index, code in enumerate(codes)]})


def test_a_call_holds_the_newest_of_many_and_deletes_nothing_beside_it() -> None:
    request = outbound.request(ALL.options, [state_of("10042"), state_of("O'Hara", sequence=7, points=-3)])
    assert (request.method, request.url) == ("POST", "/odata/v2/upsert?$format=json&purgeType=incremental")
    assert orjson.loads(request.body or b"") == [
        {"__metadata": {"uri": "cust_LoyaltyBalance('10042')", "type": "SFOData.cust_LoyaltyBalance"}, "externalCode": "10042", "cust_points": 1250,
         "cust_tier": "GOLD", "cust_sequence": 418},
        {"__metadata": {"uri": "cust_LoyaltyBalance('O''Hara')", "type": "SFOData.cust_LoyaltyBalance"}, "externalCode": "O'Hara", "cust_points": -3,
         "cust_tier": "GOLD", "cust_sequence": 7},
    ]  # fmt: skip


def test_fields_of_users_may_take_the_place_of_an_object() -> None:
    options = {"entity": "User", "key_field": "userId", "points_field": "custom07", "tier_field": "", "sequence_field": "", "numbers_as_texts": True}
    request = outbound.request(target(**options).options, [state_of("10042")])
    assert orjson.loads(request.body or b"") == [
        {"__metadata": {"uri": "User('10042')", "type": "SFOData.User"}, "userId": "10042", "custom07": "1250"},
    ]  # fmt: skip


def test_who_is_a_user_is_asked_first_and_nobody_else_is_written() -> None:
    states = [state_of("10042"), state_of("O'Hara"), state_of("guest")]
    requests, outcomes = written(outbound.write(target(), states, NOW_MS), [
        answer({"d": {"results": [{"userId": "10042"}, {"userId": "o'hara"}]}}), said(200, 200),
    ])  # fmt: skip
    assert unquote(requests[0].url).endswith("$filter=userId eq '10042' or userId eq 'O''Hara' or userId eq 'guest'")
    assert [record["externalCode"] for record in orjson.loads(requests[1].body or b"")] == ["10042", "O'Hara"]
    assert [one.outcome for one in outcomes] == [Outcome.DONE, Outcome.DONE, Outcome.SKIP] and outcomes[2].reason == "USER_UNKNOWN"


def test_many_are_asked_for_in_several_questions() -> None:
    states = [state_of(f"E{number}") for number in range(150)]
    nobody = answer({"d": {"results": []}})
    requests, outcomes = written(outbound.write(target(), states, NOW_MS), [nobody, nobody])
    assert len(requests) == 2 and {one.outcome for one in outcomes} == {Outcome.SKIP}


@pytest.mark.parametrize(("given_answer", "expected"), [
    ("upsert_ok.json", Written(outcome=Outcome.DONE, remote_id="User/userId=10042")),
    ("upsert_error.json", Written(outcome=Outcome.PARK, reason="RECORD_500", detail="the record has code 500")),
    (said(409), Written(outcome=Outcome.RETRY, reason="RECORD_409", detail="the record has code 409")),
    (said(400), Written(outcome=Outcome.PARK, reason="RECORD_400", detail="the record has code 400")),
], ids=["ok", "error", "lock", "validation"])  # fmt: skip
def test_what_the_code_of_a_record_means(given_answer: Any, expected: Written) -> None:
    _, outcomes = written(outbound.write(ALL, [state_of("10042")], NOW_MS), [given_answer if isinstance(given_answer, Answer) else answer(given_answer)])
    assert outcomes == [expected]


def test_records_are_judged_alone_by_their_index() -> None:
    content = {"d": [{"index": 2, "httpCode": 200}, {"index": 0, "httpCode": 500}, {"index": 1, "httpCode": 503}]}
    _, outcomes = written(outbound.write(ALL, [state_of(name) for name in "abc"], NOW_MS), [answer(content)])
    assert [one.outcome for one in outcomes] == [Outcome.PARK, Outcome.RETRY, Outcome.DONE]


def test_a_call_that_is_refused_as_a_whole_is_made_for_each_alone() -> None:
    states = [state_of(name) for name in "ab"]
    requests, outcomes = written(outbound.write(ALL, states, NOW_MS), [answer("request_error.json", 400), said(200), answer("request_error.json", 400)])
    assert len(requests) == 3
    assert outcomes[0].outcome is Outcome.DONE
    assert outcomes[1] == Written(outcome=Outcome.PARK, reason="STATUS_400", detail="status 400, COE_PROPERTY_NOT_FOUND")


@pytest.mark.parametrize("content", [{}, {"d": []}, {"d": [{"index": 0, "httpCode": "200"}]}, {"d": [{"index": 1, "httpCode": 200}]}, [], "x"])
def test_an_answer_that_does_not_say_what_became_of_each_is_none(content: Any) -> None:
    with pytest.raises(ContractError):
        written(outbound.write(ALL, [state_of("10042")], NOW_MS), [Answer(status=200, body=orjson.dumps(content))])


@given(st.binary() | st.recursive(
    st.none() | st.integers(-999, 999) | st.text(max_size=5), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["d", "results", "index", "httpCode", "key", "userId", "error", "code"]), inner),
).map(orjson.dumps), st.sampled_from([200, 400, 404]))  # fmt: skip
def test_any_answer_is_judged_or_a_contract_error(body: bytes, status: int) -> None:
    for options in (ALL, target()):
        writing = outbound.write(options, [state_of("10042")], NOW_MS)
        next(writing)
        try:
            for _ in range(3):
                writing.send(Answer(status=status, body=body))
        except StopIteration as end:
            assert len(end.value) == 1 and isinstance(end.value[0], Written)
        except ContractError:
            pass


# The fake, and the token that a signed assertion gets.


@pytest.fixture
async def tenant() -> AsyncIterator[SuccessFactorsFake]:
    one = SuccessFactorsFake(certificate=key_pair()[1])
    await one.start()
    yield one
    await one.stop()


async def test_a_signed_assertion_gets_a_token_and_records_fail_alone(tenant: SuccessFactorsFake) -> None:
    private_key, certificate = key_pair()
    here = target_of(CONNECTOR, base_url=tenant.base_url, company_id="ACME", client_id=tenant.client_id, user=tenant.user, private_key=private_key,
                     certificate=certificate)  # fmt: skip
    for name in ("E1", "E2"):
        tenant.hire(name)
    tenant.codes["E2"].append(409)
    tenant.misbehaviours.append(Misbehaviour(delay_s=0.01))
    transport = connect()
    exchange = Exchange(CONNECTOR, here.options, transport)
    writing = outbound.write(here, [state_of("E1"), state_of("E2"), state_of("guest")], NOW_MS)
    try:
        request = next(writing)
        while True:
            request = writing.send(await exchange.ask(request))
    except StopIteration as end:
        assert [one.outcome for one in end.value] == [Outcome.DONE, Outcome.RETRY, Outcome.SKIP]
    finally:
        await transport.close()
    assert tenant.values == {"E1": {"cust_points": 1250, "cust_tier": "GOLD", "cust_sequence": 418}} and tenant.created == []


async def test_an_assertion_of_another_key_gets_none(tenant: SuccessFactorsFake) -> None:
    key_pair.cache_clear()
    private_key, certificate = key_pair()
    here = target_of(CONNECTOR, base_url=tenant.base_url, company_id="ACME", client_id=tenant.client_id, user=tenant.user, private_key=private_key,
                     certificate=certificate)  # fmt: skip
    transport = connect()
    with pytest.raises(Exception, match="token endpoint: status 401, invalid_grant"):
        await Exchange(CONNECTOR, here.options, transport).ready()
    await transport.close()
