"""How a webhook proves itself. Pure."""

import base64
import binascii
import hmac

from streams import signatures
from streams.connectors.contract import Delivery, Option, Source
from streams.signatures import SecretError, SignatureError

BASIC_CHARACTERS_MAX = 4096


def by_url_token(source: Source, delivery: Delivery) -> str:
    """`?token=SECRET` in the address that the system was given. There is no delivery id."""
    token, secret = delivery.query.get("token", ""), source.options["secret"]
    if not token:
        raise SignatureError("TOKEN_MISSING")
    if not secret or not hmac.compare_digest(token.encode(), secret.encode()):
        raise SignatureError("TOKEN_WRONG")
    return ""


def by_password(source: Source, delivery: Delivery) -> str:
    """HTTP basic authentication with the option `secret` as the password. There is no delivery id."""
    scheme, _, encoded = delivery.headers.get("authorization", "").strip().partition(" ")
    if scheme.lower() != "basic" or len(encoded) > BASIC_CHARACTERS_MAX:
        raise SignatureError("HEADER_MISSING")
    try:
        _, _, password = base64.b64decode(encoded.strip().encode(errors="replace"), validate=True).partition(b":")
    except (binascii.Error, ValueError) as error:
        raise SignatureError("HEADER_INVALID") from error
    secret = source.options["secret"]
    if not secret or not hmac.compare_digest(password, secret.encode()):
        raise SignatureError("PASSWORD_WRONG")
    return ""


def by_signature(source: Source, delivery: Delivery) -> str:
    """Standard Webhooks with the option `secret` (whsec_...): the id of a genuine, fresh delivery."""
    key = signatures.decode_secret(source.options["secret"])
    return signatures.verify(key, delivery.headers, delivery.body, now_s=delivery.received_at_ms / 1000)


def wrong_with_signing_secret(secret: str) -> str:
    """What is wrong with a secret of Standard Webhooks; empty: nothing."""
    try:
        signatures.decode_secret(secret)
    except SecretError as error:
        return str(error)
    return ""


SIGNING_SECRET = Option(
    name="secret", doc="Secret of Standard Webhooks, whsec_...", is_secret=True, is_required=True, wrong=wrong_with_signing_secret
)
"""What `by_signature` needs."""
