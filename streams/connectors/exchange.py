"""One request of a conversation -> the answer that its judge passes: with a token, renewed once after a refusal, and a name for whatever went wrong.

Shared by all that ask connected systems: polls and re-reads (inbound), writes (outbound). Addresses stand in the operator's own file, so any may be
asked; a token goes only to the hosts that the configuration or the token endpoint names, wherever an answer may point.
"""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from sinks.addresses import EVERYWHERE
from sinks.transport import Answer as Received
from sinks.transport import Failure, Transport
from streams.connectors.contract import Answer, Budget, Connector, Judgement, Options, Request, Token, Verdict
from streams.connectors.tokens import TokenError, TokenKeeper
from streams.errors import LoyaltyError

log = logging.getLogger(__name__)

FRESH_S = 1.0
"""Of a token; how often a refused one may be replaced. Whoever asks again waits longer."""

WITHOUT_A_WORD = frozenset({None, 408, 502, 504})
"""Statuses that say nothing of what becomes of the request; None: nothing came back."""
NOT_SENT = frozenset({Failure.DNS, Failure.BLOCKED_ADDRESS, Failure.CONNECT, Failure.TLS})


class Unanswered(LoyaltyError):
    """There is no answer for the conversation: it is to be begun again later, or the whole connection is to rest."""

    def __init__(self, verdict: Verdict, detail: str, after_s: float | None = None, *, may_still_act: bool = False) -> None:
        super().__init__(detail)
        self.verdict = verdict
        """RETRY or WAIT."""
        self.detail = detail
        """For people; no secrets, no personal data."""
        self.after_s = after_s
        """The system's own wish."""
        self.may_still_act = may_still_act
        """The system, or a gateway before it, may have the request and do what it asks for yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """One request and what came of it, for records and metrics."""

    request: Request
    url: str
    headers: Mapping[str, str] = field(repr=False)
    """As sent, secrets included."""
    received: Received
    judgement: Judgement
    started_at_ms: int


class Exchange:
    """Requests of one source or one target, with tokens of its own."""

    def __init__(
        self, connector: Connector, options: Options, transport: Transport, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        grant = connector.grant(options)
        self.tokens = None if grant is None else TokenKeeper(grant, transport, fresh_s=FRESH_S, clock=clock)
        self.budget: Budget | None = None
        """What the last answer that tells of it says of the allowance."""
        self._connector = connector
        self._base_url = str(options.get("base_url", ""))
        self._transport = transport
        self._origins = {
            _origin(str(options[option.name]))
            for option in (*connector.source_options, *connector.target_options) if option.is_url and options.get(option.name)
        }  # fmt: skip

    async def ready(self) -> None:
        """There is a token to ask with, if one is needed. Raises Unanswered."""
        await self._token()

    async def ask(
        self, request: Request, *, before: Callable[[], None] | None = None, heard: Callable[[Heard], None] = lambda heard: None
    ) -> Answer:
        """The answer, which the connector's judge has passed. Raises Unanswered. `before` is called right before each request is sent, and may
        raise to prevent that; `heard` is told of each, those that are asked again included, and must not raise."""
        for is_last in (False, True):
            held = await self._token()
            told = await self._send(request, held, before)
            heard(told)
            received, judgement = told.received, told.judgement
            match judgement.verdict:
                case Verdict.PASS:
                    return _answer(received)
                case Verdict.RENEW:
                    if is_last or held is None or self.tokens is None or not self.tokens.refuse(held):
                        raise Unanswered(Verdict.RETRY, f"not authorized: {judgement.detail or received.outcome}", judgement.after_s)
                case _:
                    may_still_act = received.status in WITHOUT_A_WORD and received.failure not in NOT_SENT
                    raise Unanswered(judgement.verdict, judgement.detail or f"status {received.status}", judgement.after_s, may_still_act=may_still_act)
        raise AssertionError("the loop has returned or raised")

    async def _token(self) -> Token | None:
        try:
            return None if self.tokens is None else await self.tokens.get()
        except TokenError as error:
            raise Unanswered(Verdict.RETRY, str(error)) from None

    async def _send(self, request: Request, token: Token | None, before: Callable[[], None] | None) -> Heard:
        url = self._absolute(request.url, token)
        headers = dict(request.headers)
        if token is not None and _origin(url) in self._origins | {_origin(token.base_url)}:
            headers |= token.headers
        started_at_ms = time.time_ns() // 1_000_000
        received = await self._transport.request(
            request.method, url, headers=headers, body=request.body, timeout_s=request.timeout_s, bytes_max=request.bytes_max + 1,
            before=before,
        )  # fmt: skip
        if received.status is None:
            judgement = Judgement(verdict=Verdict.RETRY, detail=f"{received.outcome}: {received.detail}")
        elif len(received.body) > request.bytes_max:
            judgement = Judgement(verdict=Verdict.RETRY, detail=f"status {received.status}, and more than {request.bytes_max} bytes")
        else:
            judgement = self._judge(_answer(received))
        return Heard(request=request, url=url, headers=headers, received=received, judgement=judgement, started_at_ms=started_at_ms)

    def _judge(self, answer: Answer) -> Judgement:
        try:
            self.budget = self._connector.budget(answer) or self.budget
            return self._connector.judge(answer)
        except Exception:
            log.exception("connector.judge_raised", extra={"kind": self._connector.kind, "status": answer.status})
            return Judgement(verdict=Verdict.RETRY, detail=f"status {answer.status}, and an answer that cannot be judged: the log has the error")

    def _absolute(self, url: str, token: Token | None) -> str:
        if not url.startswith("/"):
            return url
        base_url = (token.base_url if token is not None else "") or self._base_url
        return base_url.rstrip("/") + url


def _answer(received: Received) -> Answer:
    return Answer(status=received.status or 0, headers=received.headers, body=received.body)


def connect() -> Transport:
    """Connections to the systems of the operator's file, wherever they are."""
    return Transport(EVERYWHERE)


def _origin(url: str) -> str:
    """scheme://host:port in small letters; of a malformed address one that equals no other."""
    try:
        split = urlsplit(url)
        port = split.port or {"http": 80, "https": 443}.get(split.scheme, 0)
    except ValueError:
        return f"malformed {url}"
    return f"{split.scheme}://{(split.hostname or '').lower()}:{port}"
