"""GET /v1/explanations/{id}: the whole way of an event, or a member as of now: the document of `loyalty explain --json`."""

import asyncio
import logging
from collections.abc import Collection
from typing import Any

import orjson
from aiohttp import web

from schemas.contract import ADDRESS_MARK, Problem
from streams.explanation import drawing, query, way
from streams.explanation.sources import Sources
from streams.history import Reader
from streams.ingress import filters
from streams.ingress.authentication import authenticate, require_program, require_scope
from streams.ingress.parts import CORRELATION_ID, PARTS, Parts
from streams.ingress.problems import ProblemError, invalid
from streams.personal_data.sources import Sources as Tables

log = logging.getLogger(__name__)

SCOPE = "audit:read"
LIMIT = 5
NOT_REACHED = "does not answer"
"""What an answer says of a source. Why is in the log, for operators."""


async def get_explanation(request: web.Request) -> web.Response:
    """The document, of the programmes that the token reaches. Each member in it is on record as read."""
    parts = request.app[PARTS]
    token = authenticate(parts.configuration.tokens, request.headers.get("Authorization"))
    require_scope(token, SCOPE)
    identifier, program, limit = _asked(request)
    if program is not None:
        require_program(token, program)
    found = await _explained(parts, identifier, (program,) if program is not None else token.programs, limit)
    if drawing.is_empty(found):
        if found["not_reached"]:  # It may be there.
            raise ProblemError(503, "unavailable", headers={"Retry-After": "1"})
        raise ProblemError(404, "not-found")
    await asyncio.gather(*(
        parts.accesses.record(token.name, program_id, member_id, "GET /v1/explanations/{id}", request[CORRELATION_ID])
        for program_id, member_id in sorted(_members(found))
    ))  # fmt: skip
    return web.Response(body=orjson.dumps(found), content_type="application/json", headers={"Cache-Control": "no-store"})


def _asked(request: web.Request) -> tuple[str, str | None, int]:
    """Raises ProblemError with what is wrong with the path or the query string."""
    identifier, given = request.match_info["id"], request.query
    problems = [Problem("FIELD_UNKNOWN", name[:64], "is not known; known are program, limit") for name in given if name not in ("program", "limit")]
    if len(identifier) > filters.TEXT_CHARACTERS_MAX:
        problems.append(Problem("ID_INVALID", "id", f"must have 1 to {filters.TEXT_CHARACTERS_MAX} characters"))
    limit = given.get("limit", str(LIMIT))
    if not (limit.isascii() and limit.isdigit() and len(limit) <= 9 and 1 <= int(limit) <= query.COMMANDS_MAX):
        problems.append(Problem("TYPE_INVALID", "limit", f"must be a whole number from 1 to {query.COMMANDS_MAX}"))
    if problems:
        raise invalid(*problems)
    return identifier, given.get("program"), int(limit)


async def _explained(parts: Parts, identifier: str, programs: Collection[str], limit: int) -> dict[str, Any]:
    async def destinations() -> Collection[str]:
        return parts.control.destinations

    async with Reader(parts.settings) as history, Tables(parts.settings) as tables:
        sources = Sources(
            parts.settings, parts.codec, history=history, tables=tables, accounts=parts.accounts, standings=parts.standings,
            destinations=destinations, programs=parts.configuration.programs,
        )  # fmt: skip
        found = await way.explain(sources, identifier, programs, limit)
    if found["not_reached"]:
        log.warning("explanation.incomplete", extra={"not_reached": dict(found["not_reached"])})
    return found | {"not_reached": dict.fromkeys(found["not_reached"], NOT_REACHED)}


def _members(found: dict[str, Any]) -> set[tuple[str, str]]:
    """Whose data the document has."""
    whole = {(one["program_id"], name) for one in found["ways"] for name in one["members"]}
    whole |= {(one["program_id"], one["member_id"]) for one in (*found["members"], *found["waiting"])}
    return {(program_id, name) for program_id, name in whole if name and not name.startswith(ADDRESS_MARK)}
