"""Between an attempt and its request: the Authorization header. A fixed token, or one of OAuth 2.0 client credentials (RFC 6749, 4.4)."""

import time
from collections.abc import Callable

from sinks.transport import Transport
from streams.connectors import grants
from streams.connectors.tokens import TokenKeeper
from streams.destinations.model import Bearer, ClientCredentials


def tokens_of(authorization: Bearer | ClientCredentials, transport: Transport, *, clock: Callable[[], float] = time.monotonic) -> TokenKeeper:
    """The tokens of one destination. Where the token endpoint wants the client's secret is found out by trying: by HTTP Basic, then in the body."""
    if isinstance(authorization, Bearer):
        return TokenKeeper(grants.bearer(authorization.token), transport, clock=clock)
    client = authorization
    by_header, in_body = (
        grants.client_credentials(
            url=client.token_url, client_id=client.client_id, client_secret=client.client_secret, scope=client.scope, audience=client.audience,
            secret_in_body=secret_in_body,
        ) for secret_in_body in (False, True)
    )  # fmt: skip
    return TokenKeeper(by_header, transport, otherwise=(in_body,), clock=clock)
