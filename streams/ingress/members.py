"""GET /v1/members/...: one member's account, with the sequence of the last event that made it so."""

import logging
from collections.abc import Mapping
from typing import Any

import orjson
from aiohttp import web

from schemas.contract import ID_CHARACTERS_MAX, Problem
from schemas.records import Account
from streams.errors import UnavailableError
from streams.ingress.authentication import authenticate, only_program, require_program, require_scope
from streams.ingress.commands import format_time
from streams.ingress.parts import PARTS
from streams.ingress.problems import ProblemError, invalid

log = logging.getLogger(__name__)

SCOPE = "members:read"
SEQUENCE_DIGITS_MAX = 18


async def get_balance(request: web.Request) -> web.Response:
    """The newest balance, from Redis or, if that does not have it or is older than `min_sequence`, from its owner."""
    accounts = request.app[PARTS].accounts
    program_id, member_id = _member(request)
    least = _min_sequence(request)
    try:
        cached = await accounts.from_cache(program_id, member_id)
    except UnavailableError as error:
        log.warning("cache.unavailable", extra={"reason": str(error)})
        cached = None
    if cached is not None and cached["sequence"] >= least:
        return _json(program_id, member_id, _from_cache(cached))
    account = await accounts.from_owner(program_id, member_id)
    return _json(program_id, member_id, _balance(_known(account, least)))


async def get_member(request: web.Request) -> web.Response:
    """The whole account from its owner; when that does not answer, what Redis has of it."""
    accounts = request.app[PARTS].accounts
    program_id, member_id = _member(request)
    least = _min_sequence(request)
    try:
        account = await accounts.from_owner(program_id, member_id)
    except UnavailableError as error:
        cached = await accounts.from_cache(program_id, member_id)
        if cached is None or cached["sequence"] < least:
            raise
        log.warning("owner.unavailable", extra={"reason": str(error)})
        return _json(program_id, member_id, _from_cache(cached))
    return _json(program_id, member_id, _whole(_known(account, least)))


def _known(account: Account | None, least: int) -> Account:
    if account is None:
        raise ProblemError(404, "not-a-member")
    if account.event_sequence < least:
        # Never an older balance than the client has seen: its event is decided, and about to arrive.
        raise ProblemError(503, "not-yet", headers={"Retry-After": "1"}, sequence=account.event_sequence)
    return account


def _member(request: web.Request) -> tuple[str, str]:
    """The programme and the member that are asked for, if the token reaches them."""
    configuration = request.app[PARTS].configuration
    token = authenticate(configuration.tokens, request.headers.get("Authorization"))
    require_scope(token, SCOPE)
    program_id = request.query.get("program") or only_program(token, configuration.programs)
    if program_id is None:
        raise invalid(Problem("FIELD_REQUIRED", "program", "name the programme: ?program=..."))
    require_program(token, program_id)
    member_id = request.match_info["member_id"]
    if program_id not in configuration.programs:
        raise invalid(Problem("PROGRAM_UNKNOWN", "program", "is not a programme of this deployment"))
    if not (1 <= len(member_id) <= ID_CHARACTERS_MAX and member_id.isprintable()):
        raise invalid(Problem("ID_INVALID", "member_id", f"must have 1 to {ID_CHARACTERS_MAX} printable characters"))
    return program_id, member_id


def _min_sequence(request: web.Request) -> int:
    text = request.query.get("min_sequence", "0")
    if not (text.isascii() and text.isdigit() and len(text) <= SEQUENCE_DIGITS_MAX):
        raise invalid(Problem("TYPE_INVALID", "min_sequence", "must be a whole number from 0"))
    return int(text)


def _balance(account: Account) -> dict[str, Any]:
    return {
        "sequence": account.event_sequence,
        "status": account.status.value,
        "tier": account.tier,
        "available_points": account.available_points,
        "qualifying_points": account.qualifying_points,
        "source": "owner",
    }


def _whole(account: Account) -> dict[str, Any]:
    return _balance(account) | {
        "status_reason": account.status_reason,
        "attributes": dict(account.attributes),
        "segments": list(account.segments),
        "active_offers": list(account.active_offers),
        "profile_version": account.profile_version,
        "enrolled_at": format_time(account.enrolled_at_ms),
    }


def _from_cache(cached: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "sequence": cached["sequence"],
        "status": cached["status"],
        "tier": cached["tier"],
        "available_points": cached["available_points"],
        "qualifying_points": cached["qualifying_points"],
        "recorded_at": format_time(cached["recorded_at_ms"]),
        "source": "cache",
    }


def _json(program_id: str, member_id: str, fields: dict[str, Any]) -> web.Response:
    body = {"program_id": program_id, "member_id": member_id} | fields
    return web.Response(body=orjson.dumps(body), content_type="application/json", headers={"Cache-Control": "no-store"})
