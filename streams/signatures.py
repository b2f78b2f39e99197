"""Standard Webhooks signatures, v1 (HMAC-SHA256) and v1a (ed25519): sign what goes out, verify what comes in. Pure: the time comes in.

Our own verifier because the published `standardwebhooks` package raises other errors than its own on hostile headers,
accepts secrets that are too short, knows no ed25519 and reads the clock itself.
"""

import base64
import binascii
import hmac
import secrets as randomness
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from hashlib import sha256

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

HMAC, ED25519 = "v1", "v1a"
SECRET_PREFIX = "whsec_"
PRIVATE_PREFIX, PUBLIC_PREFIX = "whsk_", "whpk_"
SECRET_BYTES_MIN, SECRET_BYTES_MAX = 24, 64
NEW_SECRET_BYTES = 32
SEED_BYTES = PUBLIC_BYTES = 32
TOLERANCE_S = 5 * 60  # The specification's freshness: an older or newer timestamp is a replay or a broken clock.
SIGNATURES_MAX = 16  # More entries than any rotation needs: a longer header is hostile.


class SecretError(ValueError):
    """A key is not what its prefix promises: whsec_, whsk_, whpk_. The message never holds the key."""


class SignatureError(Exception):
    """A delivery cannot be trusted; the only error that verifying raises. `reason` is a stable code."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


# Keys.


def decode_secret(secret: str) -> bytes:
    """The key in a secret of scheme v1: whsec_ and base64 of 24 to 64 bytes. Raises SecretError."""
    key = _decoded(secret, SECRET_PREFIX)
    if not SECRET_BYTES_MIN <= len(key) <= SECRET_BYTES_MAX:
        raise SecretError(f"a webhook secret has {SECRET_BYTES_MIN} to {SECRET_BYTES_MAX} bytes")
    return key


def decode_private_key(secret: str) -> Ed25519PrivateKey:
    """The key in a secret of scheme v1a: whsk_ and base64 of seed and public key, 64 bytes, or of the seed alone. Raises SecretError."""
    key = _decoded(secret, PRIVATE_PREFIX)
    if len(key) not in (SEED_BYTES, SEED_BYTES + PUBLIC_BYTES):
        raise SecretError(f"a secret {PRIVATE_PREFIX} has {SEED_BYTES} bytes, or {SEED_BYTES + PUBLIC_BYTES} with its public key")
    private_key = Ed25519PrivateKey.from_private_bytes(key[:SEED_BYTES])
    if key[SEED_BYTES:] not in (b"", private_key.public_key().public_bytes_raw()):
        raise SecretError(f"the second half of a secret {PRIVATE_PREFIX} is the public key of its first half")
    return private_key


def decode_public_key(key: str) -> Ed25519PublicKey:
    """The key in a whpk_ and base64 of 32 bytes. Raises SecretError."""
    raw = _decoded(key, PUBLIC_PREFIX)
    if len(raw) != PUBLIC_BYTES:
        raise SecretError(f"a public key {PUBLIC_PREFIX} has {PUBLIC_BYTES} bytes")
    return Ed25519PublicKey.from_public_bytes(raw)


def check_secret(secret: str) -> None:
    """Whether it can sign, by either scheme. Raises SecretError."""
    _signing(secret)


def new_secret(scheme: str = HMAC) -> str:
    """A fresh random secret: whsec_... for v1, whsk_... for v1a. Raises ValueError for another scheme."""
    if scheme == HMAC:
        return _encoded(SECRET_PREFIX, randomness.token_bytes(NEW_SECRET_BYTES))
    if scheme != ED25519:
        raise ValueError(f"the scheme of a signature is {HMAC} or {ED25519}, not {scheme!r}")
    key = Ed25519PrivateKey.generate()
    return _encoded(PRIVATE_PREFIX, key.private_bytes_raw() + key.public_key().public_bytes_raw())


def public_key(secret: str) -> str:
    """whpk_..., which receivers may have, of a secret whsk_... Raises SecretError."""
    return _encoded(PUBLIC_PREFIX, decode_private_key(secret).public_key().public_bytes_raw())


def _decoded(key: str, prefix: str) -> bytes:
    if not key.startswith(prefix):
        raise SecretError(f"a webhook secret starts with {prefix}")
    try:
        return base64.b64decode(key.removeprefix(prefix), validate=True)
    except (binascii.Error, ValueError) as error:
        raise SecretError(f"a webhook secret is base64 after {prefix}") from error


def _encoded(prefix: str, key: bytes) -> str:
    return prefix + base64.b64encode(key).decode()


# What goes out.


class Signer:
    """Signs with every secret it was made of, whatever their schemes: so receivers of the old and of the new one are content."""

    def __init__(self, secrets: Sequence[str]) -> None:
        """whsec_... and whsk_..., one at least. Raises SecretError."""
        if not secrets:
            raise SecretError("a delivery is signed with one secret at least")
        self._entries = [_signing(secret) for secret in secrets]

    def headers(self, message_id: str, timestamp_s: int, body: bytes) -> dict[str, str]:
        """The three headers of one attempt. Raises ValueError for an id with '.', which would make the signed content ambiguous."""
        content = _content(message_id, timestamp_s, body)
        return _headers(message_id, timestamp_s, " ".join([entry(content) for entry in self._entries]))


def sign(key: bytes, message_id: str, timestamp_s: int, body: bytes) -> str:
    """One entry of the webhook-signature header, scheme v1. Raises ValueError for an id with '.', which would make the content ambiguous."""
    return _hmac_entry(key, _content(message_id, timestamp_s, body))


def headers(key: bytes, message_id: str, timestamp_s: int, body: bytes) -> dict[str, str]:
    """The three headers of one attempt, scheme v1."""
    return _headers(message_id, timestamp_s, sign(key, message_id, timestamp_s, body))


def _signing(secret: str) -> Callable[[bytes], str]:
    """Signed content -> its entry of the header. Raises SecretError."""
    if secret.startswith(PRIVATE_PREFIX):
        return partial(_ed25519_entry, decode_private_key(secret))
    return partial(_hmac_entry, decode_secret(secret))


def _hmac_entry(key: bytes, content: bytes) -> str:
    return f"{HMAC},{base64.b64encode(hmac.digest(key, content, sha256)).decode()}"


def _ed25519_entry(key: Ed25519PrivateKey, content: bytes) -> str:
    return f"{ED25519},{base64.b64encode(key.sign(content)).decode()}"


def _content(message_id: str, timestamp_s: int, body: bytes) -> bytes:
    if "." in message_id:
        raise ValueError("a webhook-id must not contain '.'")
    return f"{message_id}.{timestamp_s}.".encode() + body


def _headers(message_id: str, timestamp_s: int, signatures: str) -> dict[str, str]:
    return {"webhook-id": message_id, "webhook-timestamp": str(timestamp_s), "webhook-signature": signatures}


# What comes in.


class Verifier:
    """Takes deliveries that one of its keys has signed, whatever their schemes."""

    def __init__(self, keys: Sequence[str]) -> None:
        """whsec_..., whpk_..., and whsk_..., of which the public half is used; one at least. Raises SecretError."""
        if not keys:
            raise SecretError("a delivery is verified with one key at least")
        self._hmac_keys: list[bytes] = []
        self._public_keys: list[Ed25519PublicKey] = []
        for key in keys:
            if key.startswith(PUBLIC_PREFIX):
                self._public_keys.append(decode_public_key(key))
            elif key.startswith(PRIVATE_PREFIX):
                self._public_keys.append(decode_private_key(key).public_key())
            else:
                self._hmac_keys.append(decode_secret(key))

    def verify(self, received: Mapping[str, str], body: bytes, *, now_s: float, tolerance_s: float = TOLERANCE_S) -> str:
        """As `verify` below, with all of its keys."""
        return _verify(self._hmac_keys, self._public_keys, received, body, now_s, tolerance_s)


def verify(key: bytes, received: Mapping[str, str], body: bytes, *, now_s: float, tolerance_s: float = TOLERANCE_S) -> str:
    """The webhook-id of a genuine, fresh delivery. `received` are the request's headers, with lower-case or case-blind names.

    Raises SignatureError, and nothing else whatever the headers hold: HEADER_MISSING, TIMESTAMP_INVALID, TIMESTAMP_STALE,
    TIMESTAMP_AHEAD, SIGNATURE_MISMATCH.
    """
    return _verify((key,), (), received, body, now_s, tolerance_s)


def _verify(
    hmac_keys: Iterable[bytes], public_keys: Sequence[Ed25519PublicKey], received: Mapping[str, str], body: bytes, now_s: float, tolerance_s: float
) -> str:
    message_id, stamp, signatures = (received.get(f"webhook-{name}", "") for name in ("id", "timestamp", "signature"))
    if not message_id or not stamp or not signatures:
        raise SignatureError("HEADER_MISSING")
    if not (stamp.isascii() and stamp.isdigit() and len(stamp) <= 12):
        raise SignatureError("TIMESTAMP_INVALID")
    timestamp_s = int(stamp)
    if timestamp_s < now_s - tolerance_s:
        raise SignatureError("TIMESTAMP_STALE")
    if timestamp_s > now_s + tolerance_s:
        raise SignatureError("TIMESTAMP_AHEAD")
    content = f"{message_id}.{stamp}.".encode(errors="surrogatepass") + body
    # As bytes: compare_digest refuses text that is not ASCII.
    entries = [entry.encode(errors="replace") for entry in signatures.split(" ", SIGNATURES_MAX)[:SIGNATURES_MAX]]
    # All entries are compared with all keys: how long it takes does not say which one is nearly right.
    matches = [hmac.compare_digest(_hmac_entry(key, content).encode(), entry) for key in hmac_keys for entry in entries]
    if any(matches) or any(_is_signed(key, entry, content) for key in public_keys for entry in entries):
        return message_id
    raise SignatureError("SIGNATURE_MISMATCH")


def _is_signed(key: Ed25519PublicKey, entry: bytes, content: bytes) -> bool:
    """Whether an entry is the signature of a key's owner. Nothing here is secret, so the time it takes may differ."""
    scheme, _, signature = entry.partition(b",")
    if scheme != ED25519.encode():
        return False
    try:
        key.verify(base64.b64decode(signature, validate=True), content)
    except (InvalidSignature, binascii.Error):
        return False
    return True
