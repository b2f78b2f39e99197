"""How a webhook proves itself that is not signed. Pure."""

import hmac

from streams.connectors.contract import Delivery, Source
from streams.signatures import SignatureError


def by_url_token(source: Source, delivery: Delivery) -> str:
    """`?token=SECRET` in the address that the system was given. There is no delivery id."""
    token, secret = delivery.query.get("token", ""), source.options["secret"]
    if not token:
        raise SignatureError("TOKEN_MISSING")
    if not secret or not hmac.compare_digest(token.encode(), secret.encode()):
        raise SignatureError("TOKEN_WRONG")
    return ""
