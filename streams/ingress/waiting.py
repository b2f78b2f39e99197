"""GET /v1/waiting: for whom commands wait, because nobody is enrolled under their number or has their external id."""

from typing import Any

import orjson
from aiohttp import web

from schemas.contract import ID_CHARACTERS_MAX, Problem
from streams.ingress.authentication import authenticate, only_program, require_program, require_scope
from streams.ingress.commands import format_time
from streams.ingress.parts import PARTS
from streams.ingress.problems import invalid

SCOPE = "operations:read"
LIMIT, LIMIT_MAX = 50, 100


async def get_waiting(request: web.Request) -> web.Response:
    """A page, in the order of the members' names; never what the commands say."""
    parts = request.app[PARTS]
    token = authenticate(parts.configuration.tokens, request.headers.get("Authorization"))
    require_scope(token, SCOPE)
    program_id = request.query.get("program") or only_program(token, parts.configuration.programs)
    if program_id is None:
        raise invalid(Problem("FIELD_REQUIRED", "program", "name the programme: ?program=..."))
    require_program(token, program_id)
    if program_id not in parts.configuration.programs:
        raise invalid(Problem("PROGRAM_UNKNOWN", "program", "is not a programme of this deployment"))
    limit, after = _limit(request), request.query.get("after", "")
    if len(after) > ID_CHARACTERS_MAX:
        raise invalid(Problem("ID_INVALID", "after", f"must have {ID_CHARACTERS_MAX} characters at most"))
    # One more than is shown: it tells whether there are more.
    found = await parts.accounts.waiting(program_id, limit + 1, after)
    rows = found.rows[:limit]
    body = {
        "program_id": program_id,
        "waiting": [_row(row) for row in rows],
        "next": rows[-1]["member_id"] if len(found.rows) > limit else None,
        "partitions_missing": sorted(set(range(parts.settings.kafka_partitions)) - found.partitions),
    }
    return web.Response(body=orjson.dumps(body), content_type="application/json", headers={"Cache-Control": "no-store"})


def _limit(request: web.Request) -> int:
    text = request.query.get("limit", str(LIMIT))
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and 1 <= int(text) <= LIMIT_MAX):
        raise invalid(Problem("TYPE_INVALID", "limit", f"must be a whole number from 1 to {LIMIT_MAX}"))
    return int(text)


def _row(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "member_id": row["member_id"],
        "commands": row["commands"],
        "first_ingested_at": format_time(row["first_ingested_at_ms"]),
        "last_ingested_at": format_time(row["last_ingested_at_ms"]),
        "streams": row["streams"],
        "source_systems": row["source_systems"],
    }
