"""GET /v1/connectors: how the connected systems fare, both halves. The same rows as of `loyalty connectors`."""

import orjson
from aiohttp import web

from streams.configuration import Token
from streams.connectors import overview
from streams.connectors.overview import Row
from streams.ingress.authentication import authenticate, require_scope
from streams.ingress.parts import PARTS

SCOPE = "operations:read"


async def get_connectors(request: web.Request) -> web.Response:
    """A token of some programmes sees the sources of these alone, and the destinations that hear of one of them."""
    parts = request.app[PARTS]
    token = authenticate(parts.configuration.tokens, request.headers.get("Authorization"))
    require_scope(token, SCOPE)
    parts.require_ready()
    rows = await overview.collect(parts.settings, parts.configuration, parts.codec, parts.standings)
    body = {"connectors": [row for row in rows if _is_seen(row, token)]}
    return web.Response(body=orjson.dumps(body), content_type="application/json", headers={"Cache-Control": "no-store"})


def _is_seen(row: Row, token: Token) -> bool:
    if not token.programs:
        return True
    if row["direction"] == overview.IN:
        return row["program_id"] in token.programs
    return not row["programs"] or bool(token.programs & set(row["programs"]))
