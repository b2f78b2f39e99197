"""GET /v1/audit: what became of sync events and deliveries, by what an auditor asks, page by page, from ClickHouse."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import orjson
from aiohttp import web

from schemas.contract import ID_CHARACTERS_MAX, Problem
from streams.audit import query
from streams.audit.history import History
from streams.audit.query import Cursor, Direction, Filters
from streams.ingress.authentication import authenticate, only_program, require_program, require_scope
from streams.ingress.commands import format_time
from streams.ingress.parts import CORRELATION_ID, PARTS
from streams.ingress.problems import invalid

SCOPE = "audit:read"
LIMIT, LIMIT_MAX = 50, 200
TEXTS = tuple(one.name for one in fields(Filters) if one.type == str | None)
TIMES = ("since", "until")
PARAMETERS = (*TEXTS, *TIMES, "direction", "limit", "after")
TEXT_CHARACTERS_MAX = 2 * ID_CHARACTERS_MAX


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
    async with History(parts.settings) as history:
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
    """What the query string says. Raises ProblemError with all that is wrong with it."""
    problems = [Problem("FIELD_UNKNOWN", name[:64], f"is not a filter; known are {', '.join(PARAMETERS)}") for name in given if name not in PARAMETERS]
    texts = {name: given[name] for name in TEXTS if name in given}
    problems += [
        Problem("ID_INVALID", name, f"must have 1 to {TEXT_CHARACTERS_MAX} characters")
        for name, text in texts.items() if not 1 <= len(text) <= TEXT_CHARACTERS_MAX
    ]  # fmt: skip
    times: dict[str, int] = {}
    for name in TIMES:
        if name in given:
            try:
                times[f"{name}_ms"] = query.instant_ms(given[name])
            except ValueError:
                problems.append(Problem("TIME_INVALID", name, "must be RFC 3339 with an offset, or a day, between 1970 and 2100"))
    direction = Direction.IN
    if "direction" in given:
        if given["direction"] in list(Direction):
            direction = Direction(given["direction"])
        else:
            problems.append(Problem("VALUE_UNKNOWN", "direction", "must be one of in, out"))
    text = given.get("limit", str(LIMIT))
    limit = int(text) if text.isascii() and text.isdigit() and len(text) <= 9 else 0
    if not 1 <= limit <= LIMIT_MAX:
        problems.append(Problem("TYPE_INVALID", "limit", f"must be a whole number from 1 to {LIMIT_MAX}"))
    after = None
    if "after" in given:
        try:
            after = Cursor.parse(given["after"])
        except ValueError:
            problems.append(Problem("ID_INVALID", "after", "must be `next` of the page before"))
    filters = Filters(**texts, **times, programs=programs if "program" not in texts else frozenset())  # type: ignore[arg-type]
    problems += filters.problems(direction)
    if problems:
        raise invalid(*problems)
    return direction, filters, limit, after


def _record(row: dict[str, Any]) -> dict[str, Any]:
    return {name.removesuffix("_ms"): format_time(value) if name.endswith("_ms") else value for name, value in row.items()}
