"""Bearer tokens: who asks, and what the token allows."""

import hmac
from collections.abc import Iterable
from hashlib import sha256

from streams.configuration import Token
from streams.ingress.problems import ProblemError

TOKEN_CHARACTERS_MAX = 4096
REALM = 'Bearer realm="loyalty"'


def authenticate(tokens: Iterable[Token], header: str | None) -> Token:
    """The token that an Authorization header shows. Raises ProblemError(401).

    Every known token is compared, in constant time, so that the time of the answer tells nothing about any of them.
    """
    scheme, _, shown = (header or "").strip().partition(" ")
    shown = shown.strip()
    if scheme.lower() != "bearer" or not shown or len(shown) > TOKEN_CHARACTERS_MAX:
        raise ProblemError(401, "unauthenticated", "send Authorization: Bearer <token>", headers={"WWW-Authenticate": REALM})
    digest = sha256(shown.encode(errors="replace")).hexdigest().encode()
    found = None
    for token in tokens:
        if hmac.compare_digest(digest, token.sha256.lower().encode()):
            found = token
    if found is None:
        challenge = f'{REALM}, error="invalid_token"'
        raise ProblemError(401, "unauthenticated", "the token is not known", headers={"WWW-Authenticate": challenge})
    return found


def require_scope(token: Token, scope: str) -> None:
    """Raise ProblemError(403) if the token does not have the scope."""
    if scope not in token.scopes:
        challenge = f'{REALM}, error="insufficient_scope", scope="{scope}"'
        raise ProblemError(403, "forbidden", f"the token lacks the scope {scope}", headers={"WWW-Authenticate": challenge})


def require_program(token: Token, program_id: str) -> None:
    """Raise ProblemError(403) if the token is restricted to other programmes."""
    if token.programs and program_id not in token.programs:
        raise ProblemError(403, "forbidden", "the token does not reach this programme")


def only_program(token: Token, programs: Iterable[str]) -> str | None:
    """The programme that is meant when none is named: the only one that the token reaches, if it is one."""
    reachable = token.programs or frozenset(programs)
    return next(iter(reachable)) if len(reachable) == 1 else None
