"""Tokens, judgements, allowances, and what a text may do in a query."""

from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from joserfc import jwk, jwt

from infra.fakes.salesforce import key_pair
from streams.connectors import grants
from streams.connectors.contract import Answer, Budget, Verdict
from streams.connectors.salesforce import CONNECTOR, api
from streams.errors import ContractError
from tests.connectors.salesforce.cases import recorded, source
from tests.connectors.support import NOW_MS


def test_a_private_key_means_a_signed_assertion() -> None:
    private_key, public_key = key_pair()
    grant = CONNECTOR.grant(source(private_key=private_key, username="loyalty@example.com", login_url="https://test.salesforce.com/").options)
    request = grant.request(NOW_MS / 1000)  # type: ignore[union-attr]
    assert request.url == "https://test.salesforce.com/services/oauth2/token"
    form = parse_qs((request.body or b"").decode())
    assert form["grant_type"] == [grants.JWT_BEARER]
    claims = jwt.decode(form["assertion"][0], jwk.RSAKey.import_key(public_key), algorithms=["RS256"]).claims
    wanted = {"iss": "fake-consumer-key", "sub": "loyalty@example.com", "aud": "https://test.salesforce.com", "exp": NOW_MS // 1000 + 180}
    assert claims | wanted == claims


def test_without_one_it_is_client_credentials() -> None:
    request = api.grant(source(login_url="https://acme.my.salesforce.com").options).request(0)
    assert (request.body, "authorization" in request.headers) == (b"grant_type=client_credentials", True)


def test_a_recorded_token_says_where_it_is_good_and_for_whom() -> None:
    grant = api.grant(source().options)
    token = grant.token(Answer(status=200, body=recorded("token.json")))
    assert (token.base_url, api.tenant_id(token)) == ("https://acme.my.salesforce.com", "00D5f000000AbCdEAK")
    with pytest.raises(ContractError, match="invalid_grant"):
        grant.token(Answer(status=400, body=recorded("token_refused.json")))


def error(code: str) -> bytes:
    return b'[{"message":"x","errorCode":"' + code.encode() + b'","fields":[]}]'


@pytest.mark.parametrize(("status", "body", "verdict"), [
    (200, b"[]", Verdict.PASS), (201, b"{}", Verdict.PASS), (204, b"", Verdict.PASS), (300, b"[]", Verdict.PASS),
    (400, error("UNABLE_TO_LOCK_ROW"), Verdict.RETRY), (400, error("JSON_PARSER_ERROR"), Verdict.PASS), (400, b"<html>", Verdict.PASS),
    (401, error("INVALID_SESSION_ID"), Verdict.RENEW), (401, b"", Verdict.RENEW),
    (403, recorded("limit.json"), Verdict.WAIT), (403, error("API_DISABLED_FOR_ORG"), Verdict.PASS), (404, recorded("not_found.json"), Verdict.PASS),
    (409, b"[]", Verdict.PASS), (429, b"", Verdict.WAIT), (500, b"", Verdict.RETRY), (503, error("SERVER_UNAVAILABLE"), Verdict.RETRY),
])  # fmt: skip
def test_answers_are_judged_by_their_codes(status: int, body: bytes, verdict: Verdict) -> None:
    assert CONNECTOR.judge(Answer(status=status, body=body)).verdict is verdict


@pytest.mark.parametrize(("header", "budget"), [
    ("api-usage=18/5000", Budget(used=18, allowed=5000)),
    ("api-usage=25/5000; per-app-api-usage=17/250(appName=sample)", Budget(used=17, allowed=250)),
    ("api-usage=4900/5000; per-app-api-usage=17/250(appName=sample)", Budget(used=4900, allowed=5000)),
    ("api-usage=0/0", None), ("", None), ("nonsense", None),
])  # fmt: skip
def test_the_tighter_allowance_counts(header: str, budget: Budget | None) -> None:
    assert CONNECTOR.budget(Answer(status=200, headers={"Sforce-Limit-Info": header})) == budget
    assert CONNECTOR.budget(Answer(status=200, headers={"sforce-limit-info": header})) == budget


def test_a_text_stays_a_text_in_a_query() -> None:
    request = api.query(source().options, f"SELECT Id FROM Contact WHERE Name = {api.literal(chr(39) + ' OR ' + chr(92))}")
    assert parse_qs(urlsplit(request.url).query)["q"] == ["SELECT Id FROM Contact WHERE Name = '\\' OR \\\\'"]


def test_pages_are_followed_within_the_api_alone() -> None:
    assert api.next_page(source().options, {"done": True}) is None
    assert api.next_page(source().options, {"nextRecordsUrl": "/services/data/v62.0/query/01g-2000"}).url.endswith("01g-2000")  # type: ignore[union-attr]
    with pytest.raises(ContractError):
        api.next_page(source().options, {"nextRecordsUrl": "https://elsewhere.example.com/"})


@pytest.mark.parametrize(("name", "value", "is_wrong"), [
    ("object", "Contact", False), ("object", "Contact; DROP", True), ("member_id_field", "", True), ("segments_field", "", False),
    ("segments_field", "a b", True), ("field_map", {"email": "Email"}, False), ("field_map", {"email": "E-Mail"}, True),
    ("transaction_fields", {"transaction_id": "Order__c", "kind": "=EARN", "amount": "Amount__c"}, False), ("transaction_fields", {"email": "Email"}, True),
    ("api_version", "v62.0", False), ("api_version", "62", True), ("client_name", "", False), ("client_name", "a;b", True),
    ("transaction_fields", {"attributes.email": "Email"}, True), ("profile_fields", {"attributes.email": "Email"}, False),
])  # fmt: skip
def test_settings_that_can_do_nothing_are_refused(name: str, value: Any, is_wrong: bool) -> None:
    (option,) = (one for one in CONNECTOR.source_options if one.name == name)
    assert bool(option.wrong(value)) is is_wrong
