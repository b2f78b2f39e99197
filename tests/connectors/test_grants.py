"""What each grant asks a token endpoint for, checked by those who would check it, and what is made of the answers."""

import base64
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any
from urllib.parse import parse_qsl

import orjson
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jwk, jwt
from lxml import etree
from signxml.verifier import SignatureConfiguration, XMLVerifier

from streams.connectors import grants
from streams.connectors.contract import Answer, Grant, Request, Token
from streams.errors import ConfigurationError, ContractError

NOW_S = 1_795_318_690.25
URL = "https://api.example/oauth/token"
SAML2 = "{urn:oasis:names:tc:SAML:2.0:assertion}"


@cache
def key_pair() -> tuple[str, str]:
    """Private key and certificate, PEM."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "loyalty-sync")])
    begin = datetime.now(UTC) - timedelta(days=1)
    certificate = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1).not_valid_before(begin)
        .not_valid_after(begin + timedelta(days=365)).sign(key, hashes.SHA256())
    )  # fmt: skip
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return private.decode(), certificate.public_bytes(serialization.Encoding.PEM).decode()


def saml(**changed: Any) -> grants.SamlBearer:
    private_key, certificate = key_pair()
    given_values = {
        "url": URL, "client_id": "api-key", "user": "sfadmin", "private_key": private_key, "certificate": certificate, "audience": "www.successfactors.com",
        "fields": {"company_id": "ACME"},
    }  # fmt: skip
    return grants.SamlBearer(**given_values | changed)


def jwt_bearer(**changed: Any) -> grants.JwtBearer:
    given_values = {"url": URL, "issuer": "key", "subject": "sync@acme.example", "audience": "https://login.salesforce.com", "private_key": key_pair()[0]}
    return grants.JwtBearer(**given_values | changed)


DARWINBOX = grants.DarwinboxToken(url=URL, client_id="id", client_secret="hush", grant_type="authorization_code", code="hush-too")


def form(request: Request) -> dict[str, str]:
    assert (request.method, request.url, request.headers["content-type"]) == ("POST", URL, "application/x-www-form-urlencoded")
    assert request.body is not None
    return dict(parse_qsl(request.body.decode(), strict_parsing=True))


def answer(content: Any, status: int = 200) -> Answer:
    return Answer(status=status, body=content if isinstance(content, bytes) else orjson.dumps(content))


@pytest.mark.parametrize(("grant", "fields", "pair"), [
    (grants.client_credentials(url=URL, client_id="a b", client_secret="ü:%"), {"grant_type": "client_credentials"}, "a+b:%C3%BC%3A%25"),
    (grants.client_credentials(url=URL, client_id="id", client_secret="s", scope="x y", audience="z", secret_in_body=True),
     {"grant_type": "client_credentials", "scope": "x y", "audience": "z", "client_id": "id", "client_secret": "s"}, None),
    (grants.refresh_token(url=URL, client_id="id", client_secret="s", refresh_token="r"), {"grant_type": "refresh_token", "refresh_token": "r"}, "id:s"),
    (grants.password(url=URL, client_id="id", client_secret="s", user="u", password="p"), {"grant_type": "password", "username": "u", "password": "p"}, "id:s"),
], ids=["client credentials", "in the body", "refresh token", "password"])  # fmt: skip
def test_forms(grant: grants.FormGrant, fields: dict[str, str], pair: str | None) -> None:
    request = grant.request(NOW_S)
    assert form(request) == fields
    header = request.headers.get("authorization")
    assert header == (None if pair is None else "Basic " + base64.b64encode(pair.encode()).decode())


def test_headers_of_a_gateway_go_with_the_form() -> None:
    grant = grants.client_credentials(url=URL, client_id="id", client_secret="s", headers={"x-app-key": "k", "enterpriseid": "ACME"})
    headers = grant.request(NOW_S).headers
    assert (headers["x-app-key"], headers["enterpriseid"]) == ("k", "ACME")


def test_a_jwt_is_signed_and_says_who_for_whom_and_until_when() -> None:
    sent = form(jwt_bearer().request(NOW_S))
    assert sent["grant_type"] == grants.JWT_BEARER
    public = jwk.RSAKey.import_key(key_pair()[0])
    token = jwt.decode(sent["assertion"], public, algorithms=["RS256"])
    claims = token.claims
    assert (claims["iss"], claims["sub"], claims["aud"]) == ("key", "sync@acme.example", "https://login.salesforce.com")
    assert (claims["iat"], claims["exp"] - claims["iat"]) == (int(NOW_S), grants.ASSERTION_LIFE_S)
    assert jwt.decode(form(jwt_bearer().request(NOW_S + 1))["assertion"], public, algorithms=["RS256"]).claims["jti"] != claims["jti"]


def test_a_saml_assertion_is_signed_whole_with_sha256() -> None:
    sent = form(saml().request(NOW_S))
    assert {name: value for name, value in sent.items() if name != "assertion"} == {
        "company_id": "ACME", "client_id": "api-key", "grant_type": grants.SAML_BEARER,
    }  # fmt: skip
    raw = base64.b64decode(sent["assertion"], validate=True)
    result = XMLVerifier().verify(raw, x509_cert=key_pair()[1], id_attribute="ID", expect_config=SignatureConfiguration(require_x509=True))
    verified = None if isinstance(result, list) else result.signed_xml
    assert verified is not None and verified.tag == SAML2 + "Assertion"
    found = {element.tag.removeprefix(SAML2): (element.text or "", dict(element.attrib)) for element in verified.iter() if isinstance(element.tag, str)}
    assert found["Issuer"][0] == "api-key" and found["NameID"][0] == "sfadmin" and found["Audience"][0] == "www.successfactors.com"
    assert found["SubjectConfirmationData"][1] == {"NotOnOrAfter": "2026-11-22T03:41:10Z", "Recipient": URL}
    assert found["Conditions"][1] == {"NotBefore": "2026-11-22T03:37:10Z", "NotOnOrAfter": "2026-11-22T03:41:10Z"}
    assert found["AttributeValue"][0] == "api-key"
    root = etree.fromstring(raw)
    assert [etree.QName(child).localname for child in root][:3] == ["Issuer", "Signature", "Subject"], "in the order of the schema"
    methods = [element.get("Algorithm", "") for element in root.iter("{*}SignatureMethod", "{*}DigestMethod")]
    assert len(methods) == 2 and all(method.endswith("sha256") for method in methods)


def test_the_recipient_may_be_another_address() -> None:
    root = etree.fromstring(saml(recipient="https://api.example/odata/v2").assertion(NOW_S))
    assert [one.get("Recipient") for one in root.iter(SAML2 + "SubjectConfirmationData")] == ["https://api.example/odata/v2"]


@pytest.mark.parametrize("grant", [jwt_bearer(private_key="hush"), saml(private_key="hush"), saml(certificate="hush")], ids=["jwt", "saml", "certificate"])
def test_a_key_that_is_none_is_told_without_showing_it(grant: Grant) -> None:
    with pytest.raises(ConfigurationError, match="private_key") as caught:
        grant.request(NOW_S)
    assert "hush" not in str(caught.value)


def test_darwinbox_asks_in_json_and_takes_a_text_or_an_object() -> None:
    request = DARWINBOX.request(NOW_S)
    assert orjson.loads(request.body or b"") == {"client_id": "id", "client_secret": "hush", "grant_type": "authorization_code", "code": "hush-too"}
    good: list[Any] = ["t-1", b"t-1", b"t-1\n", {"access_token": "t-1"}, {"token": "t-1"}]
    for content in good:
        token = DARWINBOX.token(answer(content))
        assert (dict(token.headers), token.value, token.life_s) == ({"token": "t-1"}, "t-1", None)
    hostile: list[Any] = [b"", {}, {"status": 0, "message": "no"}, b"<html>", b"two words", 7, []]
    for content in hostile:
        with pytest.raises(ContractError):
            DARWINBOX.token(answer(content))


def test_an_oauth_answer_may_name_its_instance() -> None:
    token = grants.oauth_token(answer({
        "access_token": "00D!AQ", "scope": "api id", "instance_url": "https://acme.my.salesforce.com", "id": "https://login.salesforce.com/id/00D/005",
        "token_type": "Bearer",
    }))  # fmt: skip
    assert dict(token.headers) == {"authorization": "Bearer 00D!AQ"} and token.base_url == "https://acme.my.salesforce.com"
    assert token.claims["id"] == "https://login.salesforce.com/id/00D/005" and token.life_s is None
    assert grants.oauth_token(answer({"access_token": "a", "token_type": "Bearer", "expires_in": 86399})).life_s == 86399


@pytest.mark.parametrize(("content", "status", "detail"), [
    ({"error": "invalid_grant", "error_description": "hush"}, 400, "status 400, invalid_grant"),
    ({"error": "hush hush"}, 400, "status 400"),
    (b"hush", 503, "status 503"),
    ({"access_token": "a", "instance_url": "file:///hush"}, 200, "instance_url"),
    ({"access_token": "a", "instance_url": 7}, 200, "instance_url"),
    ({"access_token": "a", "instance_url": "https://[hush"}, 200, "instance_url"),
    ({"access_token": "a", "token_type": "mac"}, 200, "token_type"),
    ({"access_token": "hush hush"}, 200, "access_token"),
], ids=["code", "odd code", "text", "scheme", "type", "malformed", "mac", "space"])  # fmt: skip
def test_an_answer_without_a_token_is_told_without_its_text(content: Any, status: int, detail: str) -> None:
    with pytest.raises(ContractError) as caught:
        grants.oauth_token(answer(content, status))
    assert detail in caught.value.detail and "hush" not in str(caught.value)


@given(st.sampled_from([grants.oauth_token, DARWINBOX.token]), st.sampled_from([200, 400, 500]), st.binary() | st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["access_token", "token_type", "expires_in", "instance_url", "error"]), inner),
).map(orjson.dumps))  # fmt: skip
def test_any_answer_is_a_token_or_a_contract_error(read: Any, status: int, body: bytes) -> None:
    try:
        token = read(Answer(status=status, body=body))
    except ContractError:
        return
    assert isinstance(token, Token) and status == 200 and all(" " < letter < "\x7f" for letter in token.value)


def test_nothing_shows_a_secret() -> None:
    shown = repr([
        grants.client_credentials(url=URL, client_id="id", client_secret="hush"), jwt_bearer(), saml(), DARWINBOX, grants.bearer("hush"),
        grants.refresh_token(url=URL, client_id="i", client_secret="hush", refresh_token="hush"), grants.basic("u", "hush"),
        grants.password(url=URL, client_id="", client_secret="", user="", password="hush"),
    ])  # fmt: skip
    assert "hush" not in shown and "PRIVATE" not in shown and base64.b64encode(b"u:hush").decode() not in shown
