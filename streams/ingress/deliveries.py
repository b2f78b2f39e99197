"""GET /v1/deliveries and a destination's dead letters: attempts and what was given up, from ClickHouse; and another try for what was given up."""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson
from aiohttp import web

from schemas.contract import Problem
from streams.configuration import Token
from streams.deliveries import query
from streams.deliveries.query import Attempts, DeadLetters
from streams.destinations.model import Action, Job, Which
from streams.errors import ContractError
from streams.history import Query, Reader, instant_ms
from streams.ingress import commands, destinations, filters
from streams.ingress.authentication import authenticate, only_program, require_program, require_scope
from streams.ingress.commands import format_time
from streams.ingress.parts import CORRELATION_ID, PARTS
from streams.ingress.problems import ProblemError, invalid

READ, WRITE = "destinations:read", "destinations:write"
ATTEMPT_TEXTS = ("destination", "program", "member", "event", "kind", "outcome", "correlation")
DEAD_LETTER_TEXTS = ("program", "member", "reason")
IDS_MAX = 10_000
IDS_CHARACTERS_MAX = 500_000  # Of all ids of a replay together: it is one record of the log.
CLOCKS_APART_MS = 600_000
"""An event was appended to the log after it was decided and before it was given up, by the clocks of three machines."""


async def get_attempts(request: web.Request) -> web.Response:
    """A page of attempts, the newest first, without headers and bodies."""
    token = _allowed(request, READ)
    asked = filters.read(request.query, ATTEMPT_TEXTS, {"verdict": query.VERDICTS})
    outcome = asked.texts.get("outcome")
    if outcome is not None and not query.OUTCOME.fullmatch(outcome):
        words = ", ".join(query.CLASSES)
        asked.problems.append(Problem("VALUE_UNKNOWN", "outcome", f"must be a status, the name of a failure, TIMEOUT for example, or one of {words}"))
    program_id = _program(request, token, asked)
    wanted = Attempts(**asked.texts, **asked.times, programs=_programs(token, asked))  # type: ignore[arg-type]
    page, following = await _page(request, query.attempts(wanted, asked.limit + 1, asked.after), asked.limit, query.LISTED, "started_at_ms")
    await _record_read(request, token, program_id, wanted.member, "GET /v1/deliveries")
    return _json({"attempts": page, "next": following})


async def get_attempt(request: web.Request) -> web.Response:
    """One attempt, whole."""
    token = _allowed(request, READ)
    try:
        asked = query.attempt(request.match_info["attempt_id"], token.programs)
    except ValueError as error:
        raise ProblemError(404, "not-found") from error
    async with Reader(request.app[PARTS].settings) as reader:
        rows = [query.named(query.WHOLE, row) async for row in reader.rows(asked)]
    if not rows:
        raise ProblemError(404, "not-found")
    (found,) = rows
    await _record_read(request, token, found["program_id"], found["member_id"], "GET /v1/deliveries/{attempt_id}")
    return _json(_shown(found))


async def get_dead_letters(request: web.Request) -> web.Response:
    """A page of what a destination was not delivered, the last that was given up first."""
    token = _allowed(request, READ)
    asked = filters.read(request.query, DEAD_LETTER_TEXTS, {})
    program_id = _program(request, token, asked)
    wanted = DeadLetters(
        destination=request.match_info["name"], **asked.texts, **asked.times, programs=_programs(token, asked),  # type: ignore[arg-type]
    )  # fmt: skip
    page, following = await _page(request, query.dead_letters(wanted, asked.limit + 1, asked.after), asked.limit, query.DEAD_LETTERS, "ended_at_ms")
    await _record_read(request, token, program_id, wanted.member, "GET /v1/destinations/{name}/dead-letters")
    return _json({"dead_letters": page, "next": following})


async def redrive(request: web.Request) -> web.Response:
    """Make a replay of what was given up: of all, of a time or a reason, or of the events that are named."""
    token = _allowed(request, WRITE)
    parts, destination = request.app[PARTS], request.match_info["name"]
    wish = _wish(await request.read())
    parts.require_ready()
    if destination not in parts.control.destinations:
        raise ProblemError(404, "not-found")
    wanted = DeadLetters(destination=destination, reason=wish.reason, since_ms=wish.since_ms, until_ms=wish.until_ms, programs=token.programs)
    async with Reader(parts.settings) as reader:
        chosen = await _chosen(reader, wanted, wish)
    now_ms = int(parts.clock() * 1000)
    job = Job(
        job_id=f"redrive-{secrets.token_hex(8)}", destination=destination, action=Action.REPLAY, which=Which.FAILED,
        since_ms=max(0, chosen.first_ms - CLOCKS_APART_MS), until_ms=chosen.last_ms + CLOCKS_APART_MS, programs=token.programs,
        event_ids=chosen.event_ids, created_by=token.name, created_at_ms=now_ms,
    )  # fmt: skip
    async with destinations.told():
        await parts.control.put_job(job, changed_by=token.name)
    body = {
        "job_id": job.job_id, "destination": destination, "which": job.which.value, "since": format_time(job.since_ms),
        "until": format_time(job.until_ms), "dead_letters": chosen.count, "created_by": job.created_by, "created_at": format_time(now_ms),
    }  # fmt: skip
    return _json(body, 201)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wish:
    """What a redrive asks for: these events, or all that the rest says."""

    event_ids: tuple[str, ...] = ()
    reason: str | None = None
    since_ms: int | None = None
    until_ms: int | None = None

    @property
    def is_of_all(self) -> bool:
        return self == _Wish()


def _wish(body: bytes) -> _Wish:
    """Raises ProblemError."""
    try:
        given = commands.load_json(body)
    except ContractError as error:
        raise ProblemError(400, "malformed", error.detail) from error
    if not isinstance(given, dict):
        raise invalid(Problem("TYPE_INVALID", "", "must be an object"))
    problems = [Problem("FIELD_UNKNOWN", name[:64], "is not known here") for name in given if name not in ("event_ids", "all", "since", "until", "reason")]
    event_ids = given.get("event_ids")
    if ("event_ids" in given) == ("all" in given):
        problems.append(Problem("FIELD_REQUIRED", "event_ids", "either event_ids or all: true"))
    if "all" in given and given["all"] is not True:
        problems.append(Problem("VALUE_UNKNOWN", "all", "must be true"))
    if "event_ids" in given:
        problems += _problems_of_ids(event_ids)
        problems += [Problem("FIELD_UNKNOWN", name, "goes with all: true") for name in ("since", "until", "reason") if name in given]
    times: dict[str, int] = {}
    for name in filters.TIMES:
        try:
            times |= {f"{name}_ms": instant_ms(given[name])} if name in given else {}
        except (TypeError, ValueError):
            problems.append(Problem("TIME_INVALID", name, "must be RFC 3339 with an offset, or a day, between 1970 and 2100"))
    reason = given.get("reason")
    if "reason" in given and not (isinstance(reason, str) and 1 <= len(reason) <= filters.TEXT_CHARACTERS_MAX):
        problems.append(Problem("ID_INVALID", "reason", f"must be a text of 1 to {filters.TEXT_CHARACTERS_MAX} characters"))
    if problems:
        raise invalid(*problems)
    return _Wish(event_ids=tuple(dict.fromkeys(event_ids or ())), reason=reason, **times)


def _problems_of_ids(event_ids: Any) -> list[Problem]:
    if not isinstance(event_ids, list) or not 1 <= len(event_ids) <= filters.LIMIT_MAX:
        return [Problem("ITEMS_INVALID", "event_ids", f"must be a list of 1 to {filters.LIMIT_MAX} ids")]
    return [
        Problem("ID_INVALID", f"event_ids[{number}]", f"must be a text of 1 to {filters.TEXT_CHARACTERS_MAX} characters")
        for number, one in enumerate(event_ids) if not (isinstance(one, str) and 1 <= len(one) <= filters.TEXT_CHARACTERS_MAX)
    ]  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class _Chosen:
    """Dead letters: their ids, or none where it is all of them; the times of the first and of the last."""

    event_ids: frozenset[str]
    count: int
    first_ms: int
    last_ms: int


async def _chosen(reader: Reader, wanted: DeadLetters, wish: _Wish) -> _Chosen:
    """Raises ProblemError if there are none, some of those named are none, or there are more than one replay names."""
    if wish.is_of_all:
        count, first_ms, last_ms = [row async for row in reader.rows(query.span(wanted))][0]
        if not count:
            raise _nothing()
        return _Chosen(event_ids=frozenset(), count=count, first_ms=first_ms, last_ms=last_ms)
    asked = query.dead_letters(replace(wanted, event_ids=frozenset(wish.event_ids)), IDS_MAX + 1)
    found = [query.named(query.DEAD_LETTERS, row) async for row in reader.rows(asked)]
    event_ids = frozenset(row["event_id"] for row in found)
    if missing := [number for number, event_id in enumerate(wish.event_ids) if event_id not in event_ids]:
        raise invalid(*(Problem("VALUE_UNKNOWN", f"event_ids[{number}]", "is no dead letter of this destination") for number in missing))
    if not found:
        raise _nothing()
    if len(found) > IDS_MAX or sum(map(len, event_ids)) > IDS_CHARACTERS_MAX:
        raise invalid(Problem("ITEMS_INVALID", "since", "more than one replay can name: a shorter time, or all without time and reason"))
    return _Chosen(
        event_ids=event_ids, count=len(found), first_ms=min(row["recorded_at_ms"] for row in found), last_ms=max(row["ended_at_ms"] for row in found)
    )


def _nothing() -> ProblemError:
    return invalid(Problem("VALUE_UNKNOWN", "", "the destination has no such dead letters"))


def _allowed(request: web.Request, scope: str) -> Token:
    token = authenticate(request.app[PARTS].configuration.tokens, request.headers.get("Authorization"))
    require_scope(token, scope)
    return token


def _program(request: web.Request, token: Token, asked: filters.Asked) -> str | None:
    """The programme of a list that is about one. Raises ProblemError for what is wrong with the query string, and for one out of reach."""
    if asked.problems:
        raise invalid(*asked.problems)
    if "program" in asked.texts:
        require_program(token, asked.texts["program"])
    program_id = asked.texts.get("program") or only_program(token, request.app[PARTS].configuration.programs)
    if "member" in asked.texts and program_id is None:
        raise invalid(Problem("FIELD_REQUIRED", "program", "a number belongs to one programme: name it, ?program=..."))
    return program_id


def _programs(token: Token, asked: filters.Asked) -> frozenset[str]:
    return frozenset() if "program" in asked.texts else token.programs


async def _page(
    request: web.Request, asked: Query, limit: int, columns: Sequence[str], time: str
) -> tuple[list[dict[str, Any]], str | None]:
    """The rows of a question for one more than is shown, which tells whether there are more; and the next page's cursor."""
    async with Reader(request.app[PARTS].settings) as reader:
        rows = [row async for row in reader.rows(asked)]
    following = query.cursor_of(rows[limit - 1], columns, time).text if len(rows) > limit else None
    return [_shown(query.named(columns, row)) for row in rows[:limit]], following


async def _record_read(request: web.Request, token: Token, program_id: str | None, member_id: str | None, what: str) -> None:
    """What is about one member is recorded."""
    if program_id and member_id:
        await request.app[PARTS].accesses.record(token.name, program_id, member_id, what, request[CORRELATION_ID])


def _shown(row: Mapping[str, Any]) -> dict[str, Any]:
    """Times in milliseconds as texts."""
    return {
        name.removesuffix("_ms"): (None if value is None else format_time(value)) if name.endswith("_ms") else value for name, value in row.items()
    }  # fmt: skip


def _json(body: Mapping[str, Any], status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(body), status=status, content_type="application/json", headers={"Cache-Control": "no-store"})
