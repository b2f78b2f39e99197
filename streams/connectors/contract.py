"""What a connector declares, and what passes between it and the machinery. Pure, but for the clock by which a date in Retry-After is read.

A connector is settings and translators. HTTP, tokens, retries, rates, order, cursors, dead letters and the audit are the machinery's:
streams/ingress/ for what systems send by themselves, streams/connectors/running/ for polls and streams, sinks/connectors/ for what goes out.

Whatever needs several requests is a conversation, a generator: it yields a Request and is sent the Answer to it. Only answers that the judge passes
get there; time-outs, refused tokens, limits and errors of servers are the machinery's, which asks again, or breaks the conversation off and begins
it anew. So a conversation can be tested with a list of answers, and must not mind being begun again.
"""

import time
from collections.abc import AsyncIterator, Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from schemas.contract import Command
from schemas.records import AccountSnapshot, LoyaltyEventKind
from streams import http_headers

ANSWER_BYTES_MAX = 16 * 1024 * 1024

Options = Mapping[str, Any]
"""Values of a connector's own settings by name: checked, with defaults filled in, secrets read from their files."""
Cursor = Mapping[str, Any]
"""How far a feed has been read, in the connector's own words; JSON. Empty: nothing was read yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One setting of `[sources.NAME]` or `[destinations.NAME]`."""

    name: str
    doc: str
    """One line, for the page and for error messages."""
    type: type = str
    """str, int, float, bool, list (of texts) or dict (name -> text)."""
    default: Any = ""
    is_required: bool = False
    is_secret: bool = False
    """May be given as `NAME_file`; never shown."""
    is_url: bool = False
    choices: tuple[str, ...] = ()
    wrong: Callable[[Any], str] = lambda value: ""
    """What is wrong with a value, as the end of a sentence that begins with the option's name; empty: nothing. Never holds the value of a secret."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A system that commands come from: `[sources.NAME]`. Its name is the source_system of what it says."""

    name: str
    kind: str
    program_id: str
    options: Options = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A system that hears how its members are: `[destinations.NAME]` with a kind."""

    name: str
    kind: str
    programs: frozenset[str] = frozenset()
    """Programmes it hears of; empty: all."""
    options: Options = field(default_factory=dict, repr=False)


# HTTP.


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request. A URL that begins with '/' follows the token's own base URL (Salesforce's instance_url), or else the option base_url."""

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """By lower-case name. What authorizes is added by the machinery."""
    body: bytes | None = field(default=None, repr=False)
    timeout_s: float = 30.0
    bytes_max: int = ANSWER_BYTES_MAX
    """Most that is read of the answer; one that is longer counts as none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One answer: any status that the judge passes."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    """Found by a name in any case, or by its lower-case name."""
    body: bytes = b""


class Verdict(StrEnum):
    """What the machinery does with an answer."""

    PASS = "PASS"  # The conversation gets it.
    RETRY = "RETRY"  # Soon again: locks, overload, a gateway's page.
    WAIT = "WAIT"  # Nothing is asked for a while: a limit of the whole connection.
    RENEW = "RENEW"  # With another token, once.


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    verdict: Verdict
    detail: str = ""
    """For people; no secrets, no personal data."""
    after_s: float | None = None
    """RETRY, WAIT: the system's own wish. None: the schedule's."""


Judge = Callable[[Answer], Judgement]


def judge(answer: Answer) -> Judgement:
    """What a status means where a system has no ways of its own."""
    status = answer.status
    if status == 401:
        return Judgement(verdict=Verdict.RENEW, detail="401")
    if status == 429:
        return Judgement(verdict=Verdict.WAIT, detail="429", after_s=retry_after_s(answer))
    if status in (408, 409, 425) or status >= 500:
        return Judgement(verdict=Verdict.RETRY, detail=str(status), after_s=retry_after_s(answer))
    return Judgement(verdict=Verdict.PASS)


def retry_after_s(answer: Answer) -> float | None:
    """Retry-After in seconds from now on; None if there is none."""
    return http_headers.retry_after_s(answer.headers.get("retry-after", answer.headers.get("Retry-After", "")), time.time())


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """How much of a system's allowance of calls is used."""

    used: int
    allowed: int


# Inbound.


@dataclass(frozen=True, slots=True, kw_only=True)
class Hint:
    """Something about an entity changed; what exactly, its own system knows. Hints about one entity are followed in order."""

    entity_id: str
    kind: str
    delivery_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One webhook as it came."""

    body: bytes = field(repr=False)
    """As it was sent, to the byte."""
    headers: Mapping[str, str] = field(repr=False)
    """Case-blind, or with lower-case names."""
    query: Mapping[str, str] = field(default_factory=dict, repr=False)
    received_at_ms: int
    delivery_id: str = ""
    """What its proof says; empty for a source that does not sign."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Translation:
    """What a delivery means. `ignored` says why nothing follows from it."""

    commands: tuple[Command, ...] = ()
    hints: tuple[Hint, ...] = ()
    ignored: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """An answer in the system's own form."""

    status: int
    body: bytes = b""
    media_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Push:
    """How a system's webhooks to `POST /v1/webhooks/<name>` are proved, understood and answered."""

    authenticate: Callable[[Source, Delivery], str]
    """The delivery's id, or empty. Raises SignatureError and nothing else."""
    translate: Callable[[Delivery, Source], Translation]
    """Raises ContractError for a body that is not what the kind promises."""
    accepted: Callable[[Delivery, Source], Reply] | None = None
    """The answer when all of it is in the log, or is ignored; None: JSON of ours."""
    refused: Callable[[Delivery, Source, int, str, str], Reply] | None = None
    """(..., status, reason, detail): the answer to what cannot be taken, for good (4xx) or for now (5xx); None: a problem of RFC 9457."""
    challenge: Mapping[str, str] = field(default_factory=dict)
    """Headers of the answer to what is not proved."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parked:
    """Something that cannot be understood, for a dead letter."""

    value: bytes = field(repr=False)
    reason: str
    """Stable code."""
    detail: str = ""
    entity_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What follows from what was read. All of it is in the log before the cursor is, and the cursor before anything further is read."""

    commands: tuple[Command, ...] = ()
    """In order. Their ids are made of the system's own, so that what is read again does nothing."""
    hints: tuple[Hint, ...] = ()
    parked: tuple[Parked, ...] = ()
    cursor: Cursor | None = None
    """Where to go on from now on; None: as before."""
    source_time_ms: int | None = None
    """When the newest of it happened in the system; for its lag."""
    alert: str = ""
    """Something an operator must hear of: stable code, a colon, a sentence."""


Polling = Generator["Request | Found", "Answer | None", None]
"""Yields requests, and is sent their answers; yields what it found, and is sent None when that is in the log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Poll:
    """One feed that is asked again and again. `begin(source, cursor, now_ms)`; ContractError raised by it stops the run."""

    begin: Callable[[Source, Cursor, int], Polling]
    every_s: float = 60.0
    """Unless the option `poll_every_s` says otherwise."""
    is_wanted: Callable[[Source], bool] = lambda source: True


class Tokens(Protocol):
    """Access tokens of one source or target."""

    async def get(self) -> "Token": ...

    def refuse(self, token: "Token") -> bool:
        """The system does not take it; whether another one is worth asking for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """What a token endpoint gave."""

    headers: Mapping[str, str] = field(repr=False)
    """They authorize a request."""
    value: str = field(repr=False)
    life_s: float | None = None
    base_url: str = ""
    """Where the token is good, if its endpoint says so."""
    claims: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """All that the endpoint answered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """One feed that a system keeps sending on a connection of its own. `open(source, cursor, tokens)` may raise StreamEnded or anything else: it is
    opened again, after a while, with the last cursor that is in the log."""

    open: Callable[[Source, Cursor, Tokens], AsyncIterator[Found]]
    is_wanted: Callable[[Source], bool] = lambda source: True


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """How a hint's entity is read again. `begin(source, hint, body, received_at_ms)`: the body is that of the webhook."""

    begin: Callable[[Source, Hint, bytes, int], Polling]


# Outbound.


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberState:
    """How a member is, as of `sequence`: absolute values, so that only the newest counts."""

    program_id: str
    member_id: str
    sequence: int
    event_id: str
    account: AccountSnapshot
    kinds: frozenset[LoyaltyEventKind]
    """What has happened since the state that the system had before."""
    recorded_at_ms: int
    external_ids: Mapping[str, str] = field(default_factory=dict)
    """By type. Empty unless the connector asks for the profile."""
    attributes: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Of the profile. Empty unless the connector asks for it."""


class Outcome(StrEnum):
    DONE = "DONE"
    RETRY = "RETRY"  # This member soon again; the others of the call are judged by themselves.
    PARK = "PARK"  # A person must look: dead letter. A newer state of the member is tried all the same.
    SKIP = "SKIP"  # The system does not have the member, or does not want it.


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What became of one member's state."""

    outcome: Outcome
    reason: str = ""
    """PARK, SKIP: stable code."""
    detail: str = ""
    """For people; no secrets, no personal data."""
    remote_id: str = ""
    """The system's own id of the record, if it said so."""
    commands: tuple[Command, ...] = ()
    """What the answer tells of the member: a token of a phone that is gone. They go where those of a source go."""


Writing = Generator[Request, Answer, Sequence[Written]]
"""Yields requests, is sent their answers, returns one Written per state, in their order."""


ACCOUNT_KINDS = frozenset({
    LoyaltyEventKind.MEMBER_ENROLLED, LoyaltyEventKind.BALANCE_CHANGED, LoyaltyEventKind.TIER_CHANGED, LoyaltyEventKind.TIER_RETAINED,
    LoyaltyEventKind.ACCOUNT_SUSPENDED, LoyaltyEventKind.ACCOUNT_REACTIVATED, LoyaltyEventKind.MEMBER_LEFT, LoyaltyEventKind.MEMBER_MERGED,
    LoyaltyEventKind.POOL_CHANGED,
})  # fmt: skip
"""Events that change points, tier or status: what other systems show of an account."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """How states go out: many members in one conversation, each member once."""

    begin: Callable[[Target, Sequence[MemberState], int], Writing]
    """(target, states, now_ms)"""
    states_max: int = 200
    """Most in one conversation, unless the option `batch_members_max` says fewer."""
    kinds: frozenset[LoyaltyEventKind] = ACCOUNT_KINDS
    """Events that change what the system shows; empty: all."""
    wants_profile: bool = False


class Grant(Protocol):
    """How a token is asked for. Pure: streams/connectors/grants.py has those that there are."""

    def request(self, now_s: float) -> Request: ...

    def token(self, answer: Answer) -> Token:
        """Raises ContractError for an answer that has none."""


def _at_least(least: float) -> Callable[[Any], str]:
    return lambda value: "" if least <= value < 1e9 else f"must be a number from {least:g} on"


TARGET_OPTIONS = (
    Option(name="batch_members_max", doc="Most members in one conversation; 0: what the connector takes.", type=int, default=0, wrong=_at_least(1)),
    Option(name="concurrency_max", doc="Most conversations at once, in one process.", type=int, default=4, wrong=_at_least(1)),
    Option(name="rate_max_per_s", doc="Most requests a second, over all processes; 0: any number.", type=float, default=0.0, wrong=_at_least(0.001)),
    Option(name="timeout_s", doc="Longest that one request may take, in seconds, if the connector does not ask for less.", type=float, default=60.0,
           wrong=_at_least(0.1)),
    Option(name="give_up_after_s", doc="A member that fails on its own for so long is parked.", type=float, default=259_200.0, wrong=_at_least(0)),
)  # fmt: skip
"""Of every target, beside those that its connector declares; and `programs`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Connector:
    """One kind of connected system. What it cannot do is None, or empty."""

    kind: str
    title: str
    source_options: tuple[Option, ...] = ()
    push: Push | None = None
    read: Read | None = None
    polls: Mapping[str, Poll] = field(default_factory=dict)
    """By the feed's name."""
    streams: Mapping[str, Stream] = field(default_factory=dict)
    target_options: tuple[Option, ...] = ()
    write: Write | None = None
    grant: Callable[[Options], Grant | Token | None] = lambda options: None
    """How tokens are asked for; a Token is one that never changes; None: requests carry what authorizes them themselves."""
    judge: Judge = judge
    budget: Callable[[Answer], Budget | None] = lambda answer: None
    """What an answer says of the allowance."""

    @property
    def is_source(self) -> bool:
        """Whether anything can come in."""
        return bool(self.push or self.polls or self.streams)
