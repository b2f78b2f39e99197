"""A grant -> access tokens, for all who send with them: webhooks' destinations, connectors, streams.

A token is fetched once for all that wait for it, kept until shortly before its end, and fetched anew in the background while it is in use. A token
endpoint is a peer like any other: it is asked by the same transport, within the same rules, and nothing that it answers is trusted.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sinks.transport import Transport
from streams.connectors.contract import Answer, Grant, Token
from streams.connectors.grants import error_code
from streams.errors import ConfigurationError, ContractError, UnavailableError
from streams.http_headers import retry_after_s

LIFE_UNKNOWN_S = 300.0  # Of a token whose answer does not say, or not as a number above zero.
LIFE_MIN_S = 10.0  # What claims to live shorter is used for this long: else every attempt would fetch its own.
LIFE_MAX_S = 24 * 3600.0
MARGIN_S = 30.0  # A token is not used in the last seconds of its life: this many, or a tenth of it if that is less.
FRESH_S = 60.0  # A token this young that gets a 401 is not the reason.
BACK_OFF_S = 1.0  # After a first failure; doubles.
BACK_OFF_MAX_S = 60.0


class TokenError(UnavailableError):
    """There is no token to send with. The text is for people, and holds no secret."""


@dataclass(frozen=True, slots=True)
class _Kept:
    token: Token
    fetched_s: float
    renew_s: float
    """From here on it is fetched anew while it is still used. Monotonic, as the others."""
    end_s: float
    """From here on it is not used."""

    @classmethod
    def of(cls, token: Token, asked_s: float) -> "_Kept":
        life_s = LIFE_UNKNOWN_S if token.life_s is None else min(max(token.life_s, LIFE_MIN_S), LIFE_MAX_S)
        margin_s = min(MARGIN_S, life_s / 10)
        return cls(token, fetched_s=asked_s, renew_s=asked_s + life_s - 2 * margin_s, end_s=asked_s + life_s - margin_s)


class TokenKeeper:
    """The token of one destination, source or target: what the contract calls Tokens."""

    def __init__(
        self, grant: Grant | Token, transport: Transport, *, otherwise: Sequence[Grant] = (), fresh_s: float = FRESH_S,
        clock: Callable[[], float] = time.monotonic, wall_s: Callable[[], float] = time.time,
    ) -> None:  # fmt: skip
        """`otherwise`: what is tried, in order, where the grant's client is refused; what is not refused is kept to.
        `fresh_s`: a token that is younger than this is not replaced when a system refuses it."""
        self._fixed = grant if isinstance(grant, Token) else None
        self._grants = [] if isinstance(grant, Token) else [grant, *otherwise]
        self._transport = transport
        self._fresh_s = fresh_s
        self._clock = clock
        self._wall_s = wall_s
        self._kept: _Kept | None = None
        self._fetching: asyncio.Task[None] | None = None
        self._error = ""
        """Of the last fetch; empty if it went well."""
        self._failures = 0
        """In a row."""
        self._next_fetch_s = 0.0

    async def get(self) -> Token:
        """Waits for a token if there is none that is good. Raises TokenError."""
        if self._fixed is not None:
            return self._fixed
        kept = self._good()
        if kept is not None:
            if self._clock() >= kept.renew_s:
                self._start_fetch()
            return kept.token
        fetching = self._start_fetch()
        if fetching is not None:
            await asyncio.shield(fetching)  # Others wait for it, too.
        kept = self._good()
        if kept is None:
            raise TokenError(self._error or "the token was refused while it was fetched")
        return kept.token

    def refuse(self, token: Token) -> bool:
        """After a 401 to a request with `token`: whether there is reason to try again, with another one.

        There is none if the token is fixed or has only just been fetched: then the 401 is the system's word.
        """
        if self._fixed is not None:
            return False
        kept = self._kept
        if kept is None or kept.token.value != token.value:  # Another one has been here before.
            return True
        if self._clock() - kept.fetched_s < self._fresh_s:
            return False
        self._kept = None
        return True

    def _good(self) -> _Kept | None:
        return self._kept if self._kept is not None and self._clock() < self._kept.end_s else None

    def _start_fetch(self) -> asyncio.Task[None] | None:
        """The fetch under way, or a new one; None: the last one failed, and the next one has to wait."""
        if self._fetching is None and self._clock() >= self._next_fetch_s:
            self._fetching = asyncio.create_task(self._fetch(), name="token")
        return self._fetching

    async def _fetch(self) -> None:
        """One token, or one more failure. Raises nothing."""
        began_s = self._clock()
        try:
            kept = _Kept.of(await self._ask(), began_s)
            if self._clock() >= kept.end_s:
                raise _Failure("its answers take longer than its tokens live")
            self._kept = kept
            self._error, self._failures = "", 0
        except _Failure as failure:
            self._error = f"token endpoint: {failure.detail}"
            self._failures += 1
            wait_s = max(BACK_OFF_S * 2 ** min(self._failures - 1, 10), failure.wish_s)
            self._next_fetch_s = self._clock() + min(wait_s, BACK_OFF_MAX_S)
        finally:
            self._fetching = None

    async def _ask(self) -> Token:
        """By the first grant whose client is not refused; from then on by that one. Raises _Failure."""
        first: _Failure | None = None
        for grant in list(self._grants):
            try:
                token = await self._ask_by(grant)
            except _Failure as failure:
                first = first or failure
                if not failure.is_client_refused:
                    break
            else:
                self._grants = self._grants[self._grants.index(grant) :]
                return token
        assert first is not None, "there is a grant"
        raise first

    async def _ask_by(self, grant: Grant) -> Token:
        """Raises _Failure."""
        try:
            request = grant.request(self._wall_s())
        except ConfigurationError as error:
            raise _Failure(str(error)) from None
        answer = await self._transport.request(
            request.method, request.url, headers=request.headers, body=request.body, timeout_s=request.timeout_s, bytes_max=request.bytes_max
        )
        if answer.status is None:
            raise _Failure(f"{answer.outcome}: {answer.detail}")
        told = Answer(status=answer.status, headers=answer.headers, body=answer.body)
        try:
            return grant.token(told)
        except ContractError as error:
            wish_s = retry_after_s(answer.headers.get("retry-after", ""), self._wall_s()) or 0.0
            is_refused = answer.status == 401 or error_code(told) == "invalid_client"
            raise _Failure(error.detail, wish_s, is_client_refused=is_refused) from None


class _Failure(Exception):
    """There is no token, and why."""

    def __init__(self, detail: str, wish_s: float = 0.0, *, is_client_refused: bool = False) -> None:
        super().__init__(detail)
        self.detail = detail
        self.wish_s = wish_s
        self.is_client_refused = is_client_refused
