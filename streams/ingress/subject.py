"""Whom a request to /v1/members/{member_id}... is about."""

from aiohttp import web

from schemas.contract import ID_CHARACTERS_MAX, Problem
from streams.configuration import Token
from streams.ingress.authentication import authenticate, only_program, require_program, require_scope
from streams.ingress.parts import PARTS
from streams.ingress.problems import invalid


def asked_for(request: web.Request, scope: str) -> tuple[Token, str, str]:
    """The token, the programme and the member, if the token has the scope and reaches them. Raises ProblemError."""
    configuration = request.app[PARTS].configuration
    token = authenticate(configuration.tokens, request.headers.get("Authorization"))
    require_scope(token, scope)
    program_id = request.query.get("program") or only_program(token, configuration.programs)
    if program_id is None:
        raise invalid(Problem("FIELD_REQUIRED", "program", "name the programme: ?program=..."))
    require_program(token, program_id)
    if program_id not in configuration.programs:
        raise invalid(Problem("PROGRAM_UNKNOWN", "program", "is not a programme of this deployment"))
    member_id = request.match_info["member_id"]
    if not (1 <= len(member_id) <= ID_CHARACTERS_MAX and member_id.isprintable()):
        raise invalid(Problem("ID_INVALID", "member_id", f"must have 1 to {ID_CHARACTERS_MAX} printable characters"))
    return token, program_id, member_id
