"""Standard Webhooks signatures, scheme v1 (HMAC-SHA256): sign what goes out, verify what comes in. Pure: the time comes in.

Our own verifier because the published `standardwebhooks` package raises other errors than its own on hostile headers,
accepts secrets that are too short and reads the clock itself.
"""

import base64
import binascii
import hmac
from collections.abc import Mapping
from hashlib import sha256

SECRET_PREFIX = "whsec_"
SECRET_BYTES_MIN, SECRET_BYTES_MAX = 24, 64
TOLERANCE_S = 5 * 60  # The specification's freshness: an older or newer timestamp is a replay or a broken clock.
SIGNATURES_MAX = 16  # More entries than any rotation needs: a longer header is hostile.


class SecretError(ValueError):
    """A secret is not `whsec_` and base64 of 24 to 64 bytes. The message never holds the secret."""


class SignatureError(Exception):
    """A delivery cannot be trusted; the only error that `verify` raises. `reason` is a stable code."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


def decode_secret(secret: str) -> bytes:
    """The key in a secret. Raises SecretError."""
    if not secret.startswith(SECRET_PREFIX):
        raise SecretError(f"a webhook secret starts with {SECRET_PREFIX}")
    try:
        key = base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
    except (binascii.Error, ValueError) as error:
        raise SecretError(f"a webhook secret is base64 after {SECRET_PREFIX}") from error
    if not SECRET_BYTES_MIN <= len(key) <= SECRET_BYTES_MAX:
        raise SecretError(f"a webhook secret has {SECRET_BYTES_MIN} to {SECRET_BYTES_MAX} bytes")
    return key


def sign(key: bytes, message_id: str, timestamp_s: int, body: bytes) -> str:
    """One entry of the webhook-signature header. Raises ValueError for an id with '.', which would make the content ambiguous."""
    if "." in message_id:
        raise ValueError("a webhook-id must not contain '.'")
    return "v1," + base64.b64encode(hmac.digest(key, f"{message_id}.{timestamp_s}.".encode() + body, sha256)).decode()


def headers(key: bytes, message_id: str, timestamp_s: int, body: bytes) -> dict[str, str]:
    """The three headers of one attempt."""
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp_s),
        "webhook-signature": sign(key, message_id, timestamp_s, body),
    }


def verify(key: bytes, received: Mapping[str, str], body: bytes, *, now_s: float, tolerance_s: float = TOLERANCE_S) -> str:
    """The webhook-id of a genuine, fresh delivery. `received` are the request's headers, with lower-case or case-blind names.

    Raises SignatureError, and nothing else whatever the headers hold: HEADER_MISSING, TIMESTAMP_INVALID, TIMESTAMP_STALE,
    TIMESTAMP_AHEAD, SIGNATURE_MISMATCH.
    """
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
    expected = b"v1," + base64.b64encode(hmac.digest(key, content, sha256))
    entries = signatures.split(" ")[:SIGNATURES_MAX]
    # All entries are compared, and as bytes: compare_digest refuses text that is not ASCII.
    matches = [hmac.compare_digest(expected, entry.encode(errors="replace")) for entry in entries]
    if not any(matches):
        raise SignatureError("SIGNATURE_MISMATCH")
    return message_id
