"""How senders prove themselves."""

import json
from base64 import b64encode
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams import signatures
from streams.connectors.contract import Delivery, Source
from streams.connectors.proof import by_password, by_signature, by_url_token
from streams.signatures import SignatureError

RECEIVED_MS = 1_795_319_000_000  # 2026-11-22T03:43:20Z
NOW_S = RECEIVED_MS // 1000
KEY = b"0123456789abcdef0123456789abcdef"
HR = Source(name="hr", kind="hr", program_id="staff", options={"secret": "whsec_" + b64encode(KEY).decode()})
PMS = Source(name="apaleo", kind="apaleo", program_id="grand", options={"secret": "a-long-password"})
BODY = b'{"a":1}'


def delivery(headers: dict[str, str], body: bytes = BODY, **query: str) -> Delivery:
    return Delivery(body=body, headers=headers, query=query, received_at_ms=RECEIVED_MS)


def test_a_signed_delivery() -> None:
    assert by_signature(HR, delivery(signatures.headers(KEY, "msg_1", NOW_S, BODY))) == "msg_1"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"webhook-id": "msg_2"}, "SIGNATURE_MISMATCH"),
        ({"webhook-timestamp": str(NOW_S - 1)}, "SIGNATURE_MISMATCH"),
        ({"webhook-timestamp": str(NOW_S - 301)}, "TIMESTAMP_STALE"),
        ({"webhook-timestamp": str(NOW_S + 302)}, "TIMESTAMP_AHEAD"),
        ({"webhook-timestamp": "1e9"}, "TIMESTAMP_INVALID"),
        ({"webhook-signature": ""}, "HEADER_MISSING"),
        ({"webhook-signature": "v1,"}, "SIGNATURE_MISMATCH"),
        ({"webhook-signature": "v2,abc v1a,def"}, "SIGNATURE_MISMATCH"),
        ({"webhook-signature": "v1,\udcff"}, "SIGNATURE_MISMATCH"),
    ],
)
def test_a_delivery_that_is_not_genuine(change: dict[str, str], reason: str) -> None:
    with pytest.raises(SignatureError) as caught:
        by_signature(HR, delivery(signatures.headers(KEY, "msg_1", NOW_S, BODY) | change))
    assert caught.value.reason == reason


def test_not_one_byte_of_the_body_may_differ() -> None:
    headers = signatures.headers(KEY, "msg_1", NOW_S, BODY)
    with pytest.raises(SignatureError):
        by_signature(HR, delivery(headers, json.dumps(json.loads(BODY)).encode()))


def test_basic_authentication() -> None:
    for user in ("pms", "", "é"):
        header = "Basic " + b64encode(f"{user}:a-long-password".encode()).decode()
        assert by_password(PMS, delivery({"authorization": header})) == ""


@pytest.mark.parametrize(
    "header",
    [
        "", "Basic", "Basic ", "Bearer a-long-password", "a-long-password", "Basic a-long-password", "Basic =", "Basic \udcff", "Basic é",
        "Basic " + b64encode(b"a-long-password").decode(),
        "Basic " + b64encode(b"pms:").decode(),
        "Basic " + b64encode(b"pms:a-long-passwor").decode(),
        "Basic " + b64encode(b"pms:\xff").decode(),
        "Basic " + "A" * 10_000,
    ],
)  # fmt: skip
def test_basic_authentication_that_fails(header: str) -> None:
    with pytest.raises(SignatureError):
        by_password(PMS, delivery({"authorization": header}))


def test_a_token_in_the_address() -> None:
    assert by_url_token(PMS, delivery({}, token="a-long-password")) == ""
    for query in ({}, {"token": ""}, {"token": "a-long-passwor"}, {"token": "é"}):
        with pytest.raises(SignatureError):
            by_url_token(PMS, delivery({}, **query))


@pytest.mark.parametrize("headers", [{"authorization": "Basic " + b64encode(b"pms:").decode()}, {}])
def test_a_source_without_a_secret_lets_nobody_in(headers: dict[str, str]) -> None:
    source = replace(PMS, options={"secret": ""})
    for proof in (by_password, by_url_token):
        with pytest.raises(SignatureError):
            proof(source, delivery(headers, token=""))


headers = st.dictionaries(
    st.sampled_from(["webhook-id", "webhook-timestamp", "webhook-signature", "authorization"]),
    st.text(max_size=60) | st.binary(max_size=60).map(lambda raw: raw.decode(errors="surrogateescape")),
)


@given(headers=headers, token=st.text(max_size=20))
def test_hostile_headers_raise_only_signature_errors(headers: dict[str, str], token: str) -> None:
    for proof, source in ((by_signature, HR), (by_password, PMS), (by_url_token, PMS)):
        with pytest.raises(SignatureError):
            proof(source, delivery(headers, token=token))
