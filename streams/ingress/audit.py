"""GET /v1/audit: what became of sync events and deliveries, by what an auditor asks, page by page, from ClickHouse."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import orjson
from aiohttp import web

from schemas.contract import Problem
from streams.audit import query
from streams.audit.query import Direction, Filters
from streams.history import Cursor, Reader
from streams.ingress.authentication import authenticate, only_program, require_program, require_scope
from streams.ingress.commands import format_time
from streams.ingress.filters import read as read_filters
from streams.ingress.parts import CORRELATION_ID, PARTS
from streams.ingress.problems import invalid

SCOPE = "audit:read"
TEXTS = tuple(one.name for one in fields(Filters) if one.type == str | None)


async def get_audit(request: web.Request) -> web.Response:
    """A page, the newest first. A filter that is not known is an error: without it the answer would say more than was asked."""
    parts = request.app[PARTS]
    token = authenticate(parts.configuration.tokens, request.headers.get("Authorization"))
    require_scope(token, SCOPE)
    direction, filters, limit, after = _asked(request.query, token.programs)
    if filters.program is not None:
        require_program(token, filters.program)
    program_id = filters.program or only_program(token, parts.configuration.programs)
    if filters.member is not None and program_id is None:
        raise invalid(Problem("FIELD_REQUIRED", "program", "a number belongs to one programme: name it, ?program=..."))
    async with Reader(parts.settings) as history:
        # One more than is shown: it tells whether there are more.
        rows = [query.named(direction, row) async for row in history.rows(query.listing(direction, filters, limit + 1, after))]
    if filters.member is not None and program_id is not None:
        await parts.accesses.record(token.name, program_id, filters.member, "GET /v1/audit", request[CORRELATION_ID])
    body = {
        "direction": direction.value,
        "records": [_record(row) for row in rows[:limit]],
        "next": query.cursor_of(direction, rows[limit - 1]).text if len(rows) > limit else None,
    }
    return web.Response(body=orjson.dumps(body), content_type="application/json", headers={"Cache-Control": "no-store"})


def _asked(given: Mapping[str, str], programs: frozenset[str]) -> tuple[Direction, Filters, int, Cursor | None]:
    """What the query string says. Raises ProblemError with what is wrong with it."""
    asked = read_filters(given, TEXTS, {"direction": list(Direction)})
    if asked.problems:
        raise invalid(*asked.problems)
    direction = Direction(asked.texts.pop("direction", Direction.IN))
    filters = Filters(**asked.texts, **asked.times, programs=programs if "program" not in asked.texts else frozenset())  # type: ignore[arg-type]
    if problems := list(filters.problems(direction)):
        raise invalid(*problems)
    return direction, filters, asked.limit, asked.after


def _record(row: dict[str, Any]) -> dict[str, Any]:
    return {name.removesuffix("_ms"): format_time(value) if name.endswith("_ms") else value for name, value in row.items()}
