"""Between an attempt and its request: the Authorization header. A fixed token, or one of OAuth 2.0 client credentials (RFC 6749, 4.4).

A token is fetched once for all attempts that wait for it, kept until shortly before its end, and fetched anew in the background while it is in use.
A token endpoint is a peer like any other: it is asked by the same transport, within the same rules, and nothing that it answers is trusted.
"""

import asyncio
import base64
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import quote_plus, urlencode

import orjson

from sinks.transport import Answer, Transport, retry_after_s
from streams.destinations.model import Bearer, ClientCredentials

FETCH_TIMEOUT_S = 10.0  # For the whole exchange with the token endpoint.
LIFE_UNKNOWN_S = 300.0  # Of a token whose answer does not say, or not as a number above zero.
LIFE_MIN_S = 10.0  # What claims to live shorter is used for this long: else every attempt would fetch its own.
LIFE_MAX_S = 24 * 3600.0
MARGIN_S = 30.0  # A token is not used in the last seconds of its life: this many, or a tenth of it if that is less.
FRESH_S = 60.0  # A token this young that gets a 401 is not the reason.
BACK_OFF_S = 1.0  # After a first failure; doubles.
BACK_OFF_MAX_S = 60.0
TOKEN = re.compile(r"[!-~]{1,16384}")
ERROR_CODE = re.compile(r"[a-z0-9_]{1,40}")  # RFC 6749, 5.2. What else may stand there could hold anything.


class AuthorizationError(Exception):
    """There is no token to send with. The text is for people, and holds no secret."""


@dataclass(frozen=True, slots=True)
class _Token:
    header: str = field(repr=False)
    fetched_s: float
    renew_s: float
    """From here on it is fetched anew while it is still used. Monotonic, as the others."""
    end_s: float
    """From here on it is not used."""


class Authorizer:
    """The Authorization header of one destination."""

    def __init__(self, authorization: Bearer | ClientCredentials, transport: Transport, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._authorization = authorization
        self._transport = transport
        self._clock = clock
        self._token: _Token | None = None
        self._fetching: asyncio.Task[None] | None = None
        self._error = ""
        """Of the last fetch; empty if it went well."""
        self._failures = 0
        """In a row."""
        self._next_fetch_s = 0.0
        self._secret_in_body = False
        """Where the token endpoint wants the client's secret; found out by trying."""

    async def header(self) -> str:
        """The header's value. Waits for a token if there is none that is good. Raises AuthorizationError."""
        if isinstance(self._authorization, Bearer):
            return f"Bearer {self._authorization.token}"
        token = self._good_token()
        if token is not None:
            if self._clock() >= token.renew_s:
                self._start_fetch(self._authorization)
            return token.header
        fetching = self._start_fetch(self._authorization)
        if fetching is not None:
            await asyncio.shield(fetching)  # Others wait for it, too.
        token = self._good_token()
        if token is None:
            raise AuthorizationError(self._error or "the token was refused while it was fetched")
        return token.header

    def invalidate(self, refused: str) -> bool:
        """After a 401 to a request with the header `refused`: whether there is reason to try again, with another token.

        There is none if the token is fixed or has only just been fetched: then the 401 is the destination's word.
        """
        token = self._token
        if isinstance(self._authorization, Bearer):
            return False
        if token is None or token.header != refused:  # Another attempt has been here before.
            return True
        if self._clock() - token.fetched_s < FRESH_S:
            return False
        self._token = None
        return True

    def _good_token(self) -> _Token | None:
        return self._token if self._token is not None and self._clock() < self._token.end_s else None

    def _start_fetch(self, client: ClientCredentials) -> asyncio.Task[None] | None:
        """The fetch under way, or a new one; None: the last one failed, and the next one has to wait."""
        if self._fetching is None and self._clock() >= self._next_fetch_s:
            self._fetching = asyncio.create_task(self._fetch(client), name="token")
        return self._fetching

    async def _fetch(self, client: ClientCredentials) -> None:
        """One token, or one more failure. Raises nothing."""
        began_s = self._clock()
        wish_s = 0.0
        try:
            answer = await self._ask(client)
            wish_s = retry_after_s(answer.headers.get("retry-after", ""), time.time()) or 0.0
            token = _token(answer, began_s)
            if self._clock() >= token.end_s:
                raise AuthorizationError("token endpoint: its answers take longer than its tokens live")
            self._token = token
            self._error, self._failures = "", 0
        except AuthorizationError as error:
            self._error = str(error)
            self._failures += 1
            wait_s = max(BACK_OFF_S * 2 ** min(self._failures - 1, 10), wish_s)
            self._next_fetch_s = self._clock() + min(wait_s, BACK_OFF_MAX_S)
        finally:
            self._fetching = None

    async def _ask(self, client: ClientCredentials) -> Answer:
        """Basic authentication first (RFC 6749, 2.3.1: all servers must take it); where that is refused, the secret in the body."""
        answer = await self._post(client, secret_in_body=self._secret_in_body)
        if not self._secret_in_body and (answer.status == 401 or _error_code(answer) == "invalid_client"):
            other = await self._post(client, secret_in_body=True)
            if other.status == 200:
                self._secret_in_body = True
                return other
        return answer

    async def _post(self, client: ClientCredentials, *, secret_in_body: bool) -> Answer:
        headers = {"content-type": "application/x-www-form-urlencoded", "accept": "application/json"}
        form = {"grant_type": "client_credentials"}
        if client.scope:
            form["scope"] = client.scope
        if client.audience:
            form["audience"] = client.audience
        if secret_in_body:
            form |= {"client_id": client.client_id, "client_secret": client.client_secret}
        else:
            pair = f"{quote_plus(client.client_id)}:{quote_plus(client.client_secret)}"
            headers["authorization"] = "Basic " + base64.b64encode(pair.encode()).decode()
        return await self._transport.request("POST", client.token_url, headers=headers, body=urlencode(form).encode(), timeout_s=FETCH_TIMEOUT_S)


def _token(answer: Answer, asked_s: float) -> _Token:
    """Raises AuthorizationError for an answer that has none."""
    if answer.failure is not None:
        raise AuthorizationError(f"token endpoint: {answer.outcome}: {answer.detail}")
    if answer.status != 200:
        code = _error_code(answer)
        raise AuthorizationError(f"token endpoint: status {answer.status}" + (f", {code}" if code else ""))
    content = _content(answer)
    value, kind = content.get("access_token"), content.get("token_type", "Bearer")
    if not isinstance(value, str) or not TOKEN.fullmatch(value):
        raise AuthorizationError("token endpoint: the answer is not a JSON object with an access_token of printable characters")
    if not isinstance(kind, str) or kind.lower() != "bearer":
        raise AuthorizationError("token endpoint: the token_type is not Bearer")
    life_s = _life_s(content.get("expires_in"))
    margin_s = min(MARGIN_S, life_s / 10)
    return _Token(header=f"Bearer {value}", fetched_s=asked_s, renew_s=asked_s + life_s - 2 * margin_s, end_s=asked_s + life_s - margin_s)


def _life_s(value: object) -> float:
    try:
        seconds = float(value) if isinstance(value, int | float | str) else 0.0
    except ValueError:
        seconds = 0.0
    return min(max(seconds, LIFE_MIN_S), LIFE_MAX_S) if seconds > 0 else LIFE_UNKNOWN_S


def _error_code(answer: Answer) -> str:
    """The code of an error answer (RFC 6749, 5.2); empty if it has none."""
    code = _content(answer).get("error")
    return code if answer.status != 200 and isinstance(code, str) and ERROR_CODE.fullmatch(code) else ""


def _content(answer: Answer) -> Mapping[str, object]:
    """The answer's JSON object; empty if it is none."""
    try:
        content = orjson.loads(answer.body)
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}
