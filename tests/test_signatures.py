"""Signatures: the published vectors, both schemes together, rotation, and a verifier that nothing makes raise another error than its own."""

import base64
import hashlib
import hmac
import json
import random
import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams import signatures
from streams.signatures import SecretError, SignatureError, Signer, Verifier

VECTORS = json.loads((Path(__file__).parent / "standard_webhooks_vectors.json").read_text())
"""Of the specification's own libraries and of the documentation of those who use it; each says where it is from."""
NOW_S = 1_772_366_400
BODY = b'{"type":"loyalty.test"}'
HMAC_SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
ED25519_SECRET = next(one["secret"] for one in VECTORS if one["secret"].startswith("whsk_"))
OTHER_SECRETS = ("whsec_" + base64.b64encode(b"o" * 32).decode(), "whsk_" + base64.b64encode(b"o" * 32).decode())
BOTH = (HMAC_SECRET, ED25519_SECRET)
KEYS = (HMAC_SECRET, signatures.public_key(ED25519_SECRET))


def names(vector: dict[str, str]) -> str:
    return vector["n"]


# Vectors.


@pytest.mark.parametrize("vector", [one for one in VECTORS if one["secret"].startswith("whsec_")], ids=names)
def test_published_vectors_of_v1(vector: dict[str, str]) -> None:
    key = base64.b64decode(vector["secret"].removeprefix("whsec_"))  # One of them is shorter than we allow.
    body, stamp = vector["payload"].encode(), vector["timestamp"]
    assert signatures.sign(key, vector["id"], int(stamp), body) == vector["signature"]
    received = {"webhook-id": vector["id"], "webhook-timestamp": str(stamp), "webhook-signature": vector["signature"]}
    assert signatures.verify(key, received, body, now_s=int(stamp)) == vector["id"]
    by_hand = hmac.new(key, b".".join([vector["id"].encode(), str(stamp).encode(), body]), hashlib.sha256).digest()
    assert vector["signature"] == "v1," + base64.b64encode(by_hand).decode()


@pytest.mark.parametrize("vector", [one for one in VECTORS if one["secret"].startswith("whsk_")], ids=names)
def test_published_vectors_of_v1a(vector: dict[str, str]) -> None:
    body, stamp = vector["payload"].encode(), int(vector["timestamp"])
    sent = Signer([vector["secret"]]).headers(vector["id"], stamp, body)
    assert sent["webhook-signature"] == vector["signature"]
    assert signatures.public_key(vector["secret"]) == vector["public"]
    assert Verifier([vector["public"]]).verify(sent, body, now_s=stamp) == vector["id"]


def test_vectors_are_of_both_schemes() -> None:
    assert {one["secret"].partition("_")[0] for one in VECTORS} == {"whsec", "whsk"}


# Keys.


@pytest.mark.parametrize("scheme", [signatures.HMAC, signatures.ED25519])
def test_new_secrets_are_good_and_differ(scheme: str) -> None:
    one, other = signatures.new_secret(scheme), signatures.new_secret(scheme)
    assert one != other
    signatures.check_secret(one)
    sent = Signer([one]).headers("msg_1", NOW_S, BODY)
    assert sent["webhook-signature"].startswith(scheme + ",")
    assert Verifier([one]).verify(sent, BODY, now_s=NOW_S) == "msg_1"
    with pytest.raises(SignatureError):
        Verifier([other]).verify(sent, BODY, now_s=NOW_S)


def test_there_is_no_third_scheme() -> None:
    with pytest.raises(ValueError, match="v1 or v1a"):
        signatures.new_secret("v2")


def test_a_seed_alone_is_the_same_key_as_with_its_public_half() -> None:
    raw = base64.b64decode(ED25519_SECRET.removeprefix("whsk_"))
    seed = "whsk_" + base64.b64encode(raw[:32]).decode()
    assert signatures.public_key(seed) == signatures.public_key(ED25519_SECRET) == "whpk_" + base64.b64encode(raw[32:]).decode()
    assert Signer([seed]).headers("msg_1", NOW_S, BODY) == Signer([ED25519_SECRET]).headers("msg_1", NOW_S, BODY)


def encoded(prefix: str, size: int) -> str:
    return prefix + base64.b64encode(b"k" * size).decode()


@pytest.mark.parametrize("secret", [
    "", "secret", "whsec_", "whsec_!", "whsec_é", "whsk_", "whsk_=", "WHSEC_" + HMAC_SECRET[6:], " " + HMAC_SECRET, HMAC_SECRET + "\n",
    encoded("whsec_", 23), encoded("whsec_", 65), encoded("whsk_", 31), encoded("whsk_", 33), encoded("whsk_", 64), encoded("whpk_", 32),
], ids=ascii)  # fmt: skip
def test_what_cannot_sign(secret: str) -> None:
    with pytest.raises(SecretError) as caught:
        signatures.check_secret(secret)
    with pytest.raises(SecretError):
        Signer([HMAC_SECRET, secret])
    held = secret.partition("_")[2][:12]
    assert not held or held not in str(caught.value), "the message never holds the secret"


@pytest.mark.parametrize("key", ["", "whpk_", "whpk_!", encoded("whpk_", 31), encoded("whpk_", 64), encoded("whsk_", 64)], ids=ascii)
def test_what_cannot_verify(key: str) -> None:
    with pytest.raises(SecretError):
        Verifier([key])


def test_at_least_one_key() -> None:
    with pytest.raises(SecretError):
        Signer([])
    with pytest.raises(SecretError):
        Verifier([])


# Signing and verifying.


def test_both_schemes_go_out_together_and_either_is_enough() -> None:
    sent = Signer(BOTH).headers("msg_1", NOW_S, BODY)
    assert [entry.partition(",")[0] for entry in sent["webhook-signature"].split(" ")] == ["v1", "v1a"]
    for keys in ([KEYS[0]], [KEYS[1]], KEYS, [OTHER_SECRETS[0], KEYS[1]], [KEYS[0], OTHER_SECRETS[1]]):
        assert Verifier(keys).verify(sent, BODY, now_s=NOW_S) == "msg_1"
    with pytest.raises(SignatureError):
        Verifier(OTHER_SECRETS).verify(sent, BODY, now_s=NOW_S)


@pytest.mark.parametrize("place", [0, 1], ids=["v1", "v1a"])
def test_while_secrets_rotate_the_old_and_the_new_one_are_accepted(place: int) -> None:
    old, new = BOTH[place], OTHER_SECRETS[place]
    overlap = Signer([new, old]).headers("msg_1", NOW_S, BODY)
    for keys in ([old], [new], [old, new]):
        assert Verifier(keys).verify(overlap, BODY, now_s=NOW_S) == "msg_1"
    after = Signer([new]).headers("msg_1", NOW_S, BODY)
    assert Verifier([old, new]).verify(after, BODY, now_s=NOW_S) == "msg_1"
    with pytest.raises(SignatureError):
        Verifier([old]).verify(after, BODY, now_s=NOW_S)


def test_one_secret_signs_as_the_plain_functions_do() -> None:
    key = signatures.decode_secret(HMAC_SECRET)
    assert Signer([HMAC_SECRET]).headers("msg_1", NOW_S, BODY) == signatures.headers(key, "msg_1", NOW_S, BODY)


def test_an_id_with_a_stop_would_make_the_content_ambiguous() -> None:
    with pytest.raises(ValueError, match="must not contain"):
        Signer(BOTH).headers("msg.1", NOW_S, BODY)
    with pytest.raises(ValueError, match="must not contain"):
        signatures.headers(signatures.decode_secret(HMAC_SECRET), "msg.1", NOW_S, BODY)


GENUINE = Signer(BOTH).headers("msg_1", NOW_S, BODY)
V1, V1A = GENUINE["webhook-signature"].split(" ")


@pytest.mark.parametrize("keys", [KEYS, KEYS[:1], KEYS[1:]], ids=["both", "v1", "v1a"])
@pytest.mark.parametrize(("change", "reason"), [
    ({"webhook-id": "msg_2"}, "SIGNATURE_MISMATCH"),
    ({"webhook-id": ""}, "HEADER_MISSING"),
    ({"webhook-timestamp": str(NOW_S - 1)}, "SIGNATURE_MISMATCH"),
    ({"webhook-timestamp": f"0{NOW_S}"}, "SIGNATURE_MISMATCH"),
    ({"webhook-timestamp": str(NOW_S - 301)}, "TIMESTAMP_STALE"),
    ({"webhook-timestamp": str(NOW_S + 301)}, "TIMESTAMP_AHEAD"),
    ({"webhook-timestamp": "1e9"}, "TIMESTAMP_INVALID"),
    ({"webhook-timestamp": "²"}, "TIMESTAMP_INVALID"),
    ({"webhook-signature": V1.replace("v1,", "v1a,")}, "SIGNATURE_MISMATCH"),
    ({"webhook-signature": V1A.replace("v1a,", "v1,")}, "SIGNATURE_MISMATCH"),
    ({"webhook-signature": V1.replace("v1,", "")}, "SIGNATURE_MISMATCH"),
    ({"webhook-signature": f"{V1[:-1]} {V1A[:-1]}"}, "SIGNATURE_MISMATCH"),
    ({"webhook-signature": f"{V1},{V1A}"}, "SIGNATURE_MISMATCH"),
    ({"webhook-signature": "v1a," + "A" * 88}, "SIGNATURE_MISMATCH"),
    ({"webhook-signature": "v1a, v1, v1a,\udcff v1,\udcff"}, "SIGNATURE_MISMATCH"),
    ({"webhook-signature": "v1,x " * 16 + f"{V1} {V1A}"}, "SIGNATURE_MISMATCH"),
], ids=ascii)  # fmt: skip
def test_what_is_not_genuine(keys: tuple[str, ...], change: dict[str, str], reason: str) -> None:
    assert Verifier(keys).verify(GENUINE, BODY, now_s=NOW_S) == "msg_1"
    with pytest.raises(SignatureError) as caught:
        Verifier(keys).verify(GENUINE | change, BODY, now_s=NOW_S)
    assert caught.value.reason == reason


@pytest.mark.parametrize("keys", [KEYS[:1], KEYS[1:]], ids=["v1", "v1a"])
def test_not_one_bit_of_the_body_may_differ(keys: tuple[str, ...]) -> None:
    verifier = Verifier(keys)
    for bit in range(8 * len(BODY)):
        changed = bytearray(BODY)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(SignatureError):
            verifier.verify(GENUINE, bytes(changed), now_s=NOW_S)


# Hostile headers.

FUZZED = 100_000
BITS = (
    "", "v1", "v1,", "v1a,", "v1a", "v2,", ",", " ", "  ", ".", "=", "====", "A" * 44, "A" * 86 + "==", "A" * 88, "\x00", "\r\n", "\udcff", "\ud800", "é",
    "٣", "１", "-1", "1e9", "1_0", "+1", "0", "9" * 12, "9" * 13, "9" * 5000, str(NOW_S), f" {NOW_S}", f"{NOW_S}.0", "msg_1", "x" * 3000, V1, V1A,
)  # fmt: skip


def mutated(text: str, chance: random.Random) -> str:
    """A header's value with some of it cut, doubled, changed or replaced."""
    for _ in range(chance.randint(1, 3)):
        at, to = sorted((chance.randint(0, len(text)), chance.randint(0, len(text))))
        inserted = chance.choice((chance.choice(BITS), chance.choice(string.printable), chr(chance.randrange(0x11_0000)), text[at:to]))
        text = text[:at] + inserted + text[chance.choice((at, at + 1, to)) :]
    return text


def test_hostile_headers_raise_its_own_error_alone() -> None:
    """Seeded: what fails once fails always. Some of what is changed is still genuine, and most is not."""
    chance = random.Random(20260301)
    verifier, reasons = Verifier((*KEYS, *OTHER_SECRETS)), dict.fromkeys(("GENUINE", "HEADER_MISSING"), 0)
    for _ in range(FUZZED):
        received = dict(GENUINE)
        for name in chance.sample(sorted(received), chance.randint(1, 3)):
            if chance.random() < 0.05:
                del received[name]
            else:
                received[name] = chance.choice(BITS) if chance.random() < 0.2 else mutated(received[name], chance)
        try:
            assert verifier.verify(received, BODY, now_s=NOW_S) == received["webhook-id"] == "msg_1"
            assert received["webhook-timestamp"] == str(NOW_S) and (V1 in received["webhook-signature"] or V1A in received["webhook-signature"])
            reason = "GENUINE"
        except SignatureError as error:
            reason = error.reason
        reasons[reason] = reasons.get(reason, 0) + 1
    assert reasons.keys() == {"GENUINE", "HEADER_MISSING", "TIMESTAMP_INVALID", "TIMESTAMP_STALE", "TIMESTAMP_AHEAD", "SIGNATURE_MISMATCH"}
    assert min(reasons.values()) > FUZZED / 1000, reasons  # Each way out was taken often, the good one as well.


ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=60) | st.sampled_from(BITS)


ANY_STAMP = ANY_TEXT | st.integers(NOW_S - 400, NOW_S + 400).map(str)


@given(message_id=ANY_TEXT, stamp=ANY_STAMP, entries=st.lists(ANY_TEXT, max_size=20), body=st.binary(max_size=20))
def test_any_header_raises_its_own_error_or_none(message_id: str, stamp: str, entries: list[str], body: bytes) -> None:
    received = {"webhook-id": message_id, "webhook-timestamp": stamp, "webhook-signature": " ".join(entries)}
    with pytest.raises(SignatureError):
        Verifier(KEYS).verify(received, body, now_s=NOW_S)


@given(message_id=st.text(st.characters(exclude_characters="."), min_size=1, max_size=40), body=st.binary(max_size=200), at=st.integers(-300, 300))
def test_what_is_signed_is_genuine(message_id: str, body: bytes, at: int) -> None:
    sent = Signer(BOTH).headers(message_id, NOW_S + at, body)
    for keys in ([KEYS[0]], [KEYS[1]]):
        assert Verifier(keys).verify(sent, body, now_s=NOW_S) == message_id
