"""POST /v1/<stream>: JSON -> command -> topic, answered after the broker's acknowledgement or, on wish, after the decision."""

import asyncio
import re
from collections.abc import Sequence
from typing import Any

import orjson
from aiohttp import web

from schemas.contract import Command, Problem, command_id
from streams.configuration import Configuration, Token
from streams.errors import ContractError, UnavailableError
from streams.ingress import commands, decisions
from streams.ingress.authentication import authenticate, only_program, require_program, require_scope
from streams.ingress.commands import Defaults, InvalidError, id_field
from streams.ingress.parts import CORRELATION_ID, PARTS, Parts
from streams.ingress.problems import ProblemError, invalid
from streams.ingress.sender import Sent
from streams.topics import Topic

BULK_ITEMS_MAX = 500
WAIT_S_MAX = 30
IDEMPOTENCY_KEY = "Idempotency-Key"
_WAIT = re.compile(r"\s*wait\s*=\s*(\d{1,6})\s*", re.IGNORECASE | re.ASCII)

Answer = tuple[int, dict[str, Any]]


Reply = tuple[int, dict[str, Any], dict[str, str]]
"""Status, body and headers of an answer."""


async def send(request: web.Request, topic: Topic, token: Token, payload: Any) -> Reply:
    """One command on its own: to its topic, and the answer. It may come in a request that makes several: each has a correlation id.

    Raises ProblemError for a refusal or a conflict, ContractError, UnavailableError.
    """
    parts = request.app[PARTS]
    desk = _Desk(parts, topic, token, preferred_wait(request.headers.getall("Prefer", ())))
    one = desk.take(payload, None, parts.decisions.new_id())
    status, body = await desk.answer(one)
    return status, body, desk.applied([one])


def idempotency_key(request: web.Request) -> str | None:
    """The request's Idempotency-Key, without quotes."""
    return _idempotency_key(request.headers.get(IDEMPOTENCY_KEY))


async def post(request: web.Request, topic: Topic) -> web.Response:
    """One command, or a list of them."""
    parts = request.app[PARTS]
    token = authenticate(parts.configuration.tokens, request.headers.get("Authorization"))
    require_scope(token, f"{topic.stream}:write")
    if request.content_type not in ("application/json", "application/octet-stream"):  # The latter: no Content-Type at all.
        raise ProblemError(415, "media-type", "send Content-Type: application/json")
    wait_s = preferred_wait(request.headers.getall("Prefer", ()))
    payload = _json(await request.read())
    parts.require_ready()
    desk = _Desk(parts, topic, token, wait_s)
    key = _idempotency_key(request.headers.get(IDEMPOTENCY_KEY))
    if not isinstance(payload, list):
        one = desk.take(payload, key, request[CORRELATION_ID])
        status, body = await desk.answer(one)
        return _response(status, body, desk.applied([one]))
    if key is not None:
        raise invalid(Problem("IDEMPOTENCY_KEY_WITH_LIST", IDEMPOTENCY_KEY, "each command of a list has its own id"))
    if not 1 <= len(payload) <= BULK_ITEMS_MAX:
        raise invalid(Problem("ITEMS_INVALID", "", f"a list has 1 to {BULK_ITEMS_MAX} commands"))
    # All are sent before any answer is awaited: they keep their order and share the broker's round trip.
    taken = [desk.take_or_problem(item) for item in payload]
    answers = await asyncio.gather(*(desk.answer_or_problem(item) for item in taken))
    if all(status == 503 for status, _ in answers):
        raise UnavailableError(f"all {len(answers)} commands of a list failed")
    return _response(207, {"items": [{"code": status, "answer": body} for status, body in answers]}, desk.applied(taken))


def preferred_wait(headers: Sequence[str]) -> int:
    """Seconds that the Prefer headers ask to wait, at most WAIT_S_MAX; 0 when they do not. What cannot be read is ignored (RFC 7240)."""
    for header in headers:
        for preference in header.split(","):
            found = _WAIT.fullmatch(preference.split(";")[0])
            if found:
                return min(int(found[1]), WAIT_S_MAX)
    return 0


def may_speak_for(configuration: Configuration, token: Token, source_system: str) -> bool:
    """Whether a token's commands may come from this system."""
    if source_system == token.name or source_system in token.source_systems:
        return True
    is_somebodys = (
        source_system in configuration.sources
        or any(source_system == other.name for other in configuration.tokens)
        or any(source_system in program.mastering.values() for program in configuration.programs.values())
    )
    return "*" in token.source_systems and not is_somebodys


class _Desk:
    """Takes the commands of one request."""

    def __init__(self, parts: Parts, topic: Topic, token: Token, wait_s: int) -> None:
        self._parts = parts
        self._topic = topic
        self._token = token
        self._wait_s = wait_s
        self._until_s = asyncio.get_running_loop().time() + wait_s

    def take(self, payload: Any, key: str | None, correlation_id: str) -> "_Taken":
        """Check a command and send it. Raises ProblemError, ContractError."""
        command = commands.parse(self._topic, payload, self._defaults(key))
        if key is not None and command_id(command) != key:
            detail = f"differs from the header {IDEMPOTENCY_KEY}: leave one of them out"
            raise InvalidError(Problem("IDEMPOTENCY_KEY_MISMATCH", id_field(self._topic), detail))
        self._authorise(command)
        decision = self._parts.decisions.expect(correlation_id) if self._wait_s else None
        try:
            sent = self._parts.send(command, correlation_id)
            return _Taken(correlation_id, sent, None if sent.waits else decision)
        except BaseException:
            self._parts.decisions.forget(correlation_id)
            raise

    async def answer(self, taken: "_Taken") -> Answer:
        """Raises ProblemError for a refusal or a conflict, UnavailableError, ContractError."""
        try:
            about = await self._parts.acknowledged(taken.sent, self._token.name)
            if taken.decision is None:
                return 202, {"status": "scheduled" if taken.sent.waits else "accepted"} | about
            try:
                async with asyncio.timeout_at(self._until_s):
                    audit = await taken.decision
            except TimeoutError:
                return 202, {"status": "accepted"} | about | {"decision": "pending"}
            return decisions.answer(audit, about)
        finally:
            self._parts.decisions.forget(taken.correlation_id)

    def applied(self, taken: "Sequence[_Taken | Answer]") -> dict[str, str]:
        """The header that says that the wish to wait was followed."""
        waited = any(isinstance(one, _Taken) and one.decision is not None for one in taken)
        return {"Preference-Applied": f"wait={self._wait_s}"} if waited else {}

    def take_or_problem(self, payload: Any) -> "_Taken | Answer":
        correlation_id = self._parts.decisions.new_id()
        try:
            return self.take(payload, None, correlation_id)
        except (ProblemError, ContractError, UnavailableError) as error:
            return _problem(error, correlation_id)

    async def answer_or_problem(self, taken: "_Taken | Answer") -> Answer:
        if isinstance(taken, tuple):
            return taken
        try:
            return await self.answer(taken)
        except (ProblemError, ContractError, UnavailableError) as error:
            return _problem(error, taken.correlation_id)

    def _defaults(self, key: str | None) -> Defaults:
        return Defaults(
            source_system=self._token.name,
            occurred_at_ms=int(self._parts.clock() * 1000),
            program_id=only_program(self._token, self._parts.configuration.programs),
            command_id=key,
        )

    def _authorise(self, command: Command) -> None:
        configuration = self._parts.configuration
        require_program(self._token, command.program_id)
        if command.program_id not in configuration.programs:
            raise InvalidError(Problem("PROGRAM_UNKNOWN", "program_id", "is not a programme of this deployment"))
        # A system's name carries its source_version and its mastery: nobody else may speak in it.
        if not may_speak_for(configuration, self._token, command.source_system):
            detail = f"is not {self._token.name!r}, nor among source_systems of this token in LOYALTY_CONFIG_FILE: leave it out"
            raise InvalidError(Problem("SOURCE_SYSTEM_TAKEN", "source_system", detail))


class _Taken:
    """A command that was sent, and the decision that may be waited for."""

    __slots__ = ("correlation_id", "decision", "sent")

    def __init__(self, correlation_id: str, sent: Sent, decision: "asyncio.Future[Any] | None") -> None:
        self.correlation_id = correlation_id
        self.sent = sent
        self.decision = decision


def as_problem(error: Exception) -> ProblemError:
    """What a client is told of an error that it caused or has to live with."""
    if isinstance(error, ProblemError):
        return error
    if isinstance(error, InvalidError):
        return ProblemError(422, "invalid", errors=error.problems)
    if isinstance(error, ContractError):
        if error.reason == "RECORD_TOO_LARGE":
            return ProblemError(413, "too-large", error.detail)
        return ProblemError(422, "invalid", errors=[Problem(error.reason, "", error.detail)])
    return ProblemError(503, "unavailable", headers={"Retry-After": "1"})


def _problem(error: Exception, correlation_id: str) -> Answer:
    problem = as_problem(error)
    return problem.status, problem.body(correlation_id)


def _json(body: bytes) -> Any:
    try:
        return commands.load_json(body)
    except ContractError as error:
        raise ProblemError(400, "malformed", error.detail) from error


def _idempotency_key(header: str | None) -> str | None:
    """The key, with or without the quotes that the draft of the header asks for."""
    if header is None:
        return None
    key = header.strip()
    return key[1:-1] if len(key) >= 2 and key[0] == key[-1] == '"' else key


def _response(status: int, body: dict[str, Any], headers: dict[str, str]) -> web.Response:
    return web.Response(body=orjson.dumps(body), status=status, content_type="application/json", headers=headers)
