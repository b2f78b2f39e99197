"""GET /v1/members/...: one member's account, with the sequence of the last event that made it so."""

import logging
from collections.abc import Mapping
from typing import Any

import orjson
from aiohttp import web

from schemas.contract import ADDRESS, Problem
from schemas.records import Account, AttributeOrigin, Lot
from streams.as_of import query
from streams.as_of.query import Moment
from streams.configuration import Token
from streams.domain.identities import is_address, parts_of
from streams.domain.origins import by_name
from streams.domain.program import Program
from streams.domain.tiers import outlook, qualifying_at
from streams.errors import UnavailableError
from streams.history import Reader, instant_ms
from streams.ingress.commands import format_time
from streams.ingress.parts import CORRELATION_ID, PARTS
from streams.ingress.problems import ProblemError, invalid
from streams.ingress.subject import asked_for

log = logging.getLogger(__name__)

SCOPE = "members:read"
MOMENT_NAMES = ("as_of", "recorded_as_of")
SEQUENCE_DIGITS_MAX = 18
ADDED_POINTS = ("pending_points", "held_points", "debt_points")
"""A cache that an older version has filled does not have them."""


async def get_balance(request: web.Request) -> web.Response:
    """The newest balance, from Redis or, if that does not have it or is older than `min_sequence`, from its owner; or, with `as_of` or
    `recorded_as_of`, that of a moment, from ClickHouse."""
    accounts = request.app[PARTS].accounts
    _, program_id, member_id = await _named(request)
    if (moment := _moment(request)) is not None:
        return await _as_of(request, program_id, member_id, moment)
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


async def _as_of(request: web.Request, program_id: str, member_id: str, moment: Moment) -> web.Response:
    async with Reader(request.app[PARTS].settings) as history:
        until = [row async for row in history.rows(query.mirrored())]
        found = [query.named(row) async for row in history.rows(query.balances(moment, program=program_id, member=member_id))]
    if not found:
        raise ProblemError(404, "not-a-member")
    row = found[0]
    return _json(program_id, member_id, {
        "as_of": _time(moment.effective_ms), "recorded_as_of": _time(moment.recorded_ms), "status": row["status"], "tier": row["tier"],
        **{name: row[name] for name in query.POINTS}, "entries": row["entries"], "last_entry_sequence": row["last_entry_sequence"],
        "last_recorded_at": format_time(row["last_recorded_at_ms"]) if row["entries"] else None, "mirrored_until": format_time(until[0][0]),
        "source": "history",
    })  # fmt: skip


def _moment(request: web.Request) -> Moment | None:
    times: dict[str, int | None] = dict.fromkeys(MOMENT_NAMES)
    for name in MOMENT_NAMES:
        if name in request.query:
            try:
                times[name] = instant_ms(request.query[name])
            except ValueError as error:
                raise invalid(Problem("TIME_INVALID", name, "must be RFC 3339 with an offset, or a day, between 1970 and 2100")) from error
    if not any(name in request.query for name in MOMENT_NAMES):
        return None
    return Moment(effective_ms=times["as_of"], recorded_ms=times["recorded_as_of"])


async def get_member(request: web.Request) -> web.Response:
    """The whole account from its owner; when that does not answer, what Redis has of it."""
    accounts = request.app[PARTS].accounts
    token, program_id, member_id = await _named(request)
    least = _min_sequence(request)
    try:
        account = await accounts.from_owner(program_id, member_id)
    except UnavailableError as error:
        cached = await accounts.from_cache(program_id, member_id)
        if cached is None or cached["sequence"] < least:
            raise
        log.warning("owner.unavailable", extra={"reason": str(error)})
        return _json(program_id, member_id, _from_cache(cached))
    parts = request.app[PARTS]
    known = _known(account, least)
    await parts.accesses.record(token.name, program_id, member_id, "GET /v1/members/{member_id}", request[CORRELATION_ID])
    return _json(program_id, member_id, _whole(known, parts.configuration.programs[program_id], int(parts.clock() * 1000)))


def _known(account: Account | None, least: int) -> Account:
    if account is None:
        raise ProblemError(404, "not-a-member")
    if account.event_sequence < least:
        # Never an older balance than the client has seen: its event is decided, and about to arrive.
        raise ProblemError(503, "not-yet", headers={"Retry-After": "1"}, sequence=account.event_sequence)
    return account


async def _named(request: web.Request) -> tuple[Token, str, str]:
    """The token, the programme and the member that are asked for; of an address, whom its external id leads to."""
    token, program_id, member_id = asked_for(request, SCOPE)
    if not is_address(member_id):
        return token, program_id, member_id
    if not ADDRESS.fullmatch(member_id):
        raise invalid(Problem("ADDRESS_INVALID", "member_id", "an address has the form @type:value"))
    found = await request.app[PARTS].accounts.resolve(program_id, *parts_of(member_id))
    if found is None:
        raise ProblemError(404, "not-a-member")
    return token, program_id, found


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
        "pending_points": account.pending_points,
        "held_points": account.held_points,
        "debt_points": account.debt_points,
        "qualifying_points": account.qualifying_points,
        "source": "owner",
    }


def _whole(account: Account, program: Program, now_ms: int) -> dict[str, Any]:
    return _balance(account) | {
        "status_reason": account.status_reason,
        "scheduled_status": _scheduled(account),
        "merged_into": account.merged_into,
        "pool_member_id": account.pool_member_id,
        "tier_progress": _tier_progress(account, program, now_ms),
        "expiring": _expiring(account.lots),
        "lots": [
            {
                "lot_id": lot.lot_id,
                "remaining": lot.remaining,
                "held": lot.held,
                "pending": lot.pending,
                "parked": lot.parked,
                "earned_at": format_time(lot.earned_at_ms),
                "expires_at": _time(lot.expires_at_ms),
                "available_from": _time(lot.available_from_ms),
            }
            for lot in account.lots
        ],
        "holds": [
            {
                "hold_id": hold.hold_id,
                "points": sum(part.points for part in hold.parts),
                "placed_at": format_time(hold.placed_at_ms),
                "expires_at": _time(hold.expires_at_ms),
            }
            for hold in account.holds
        ],
        "vouchers": [
            {"voucher_code": one.voucher_code, "reward_code": one.reward_code, "expires_at": _time(one.expires_at_ms)}
            for one in account.vouchers
        ],
        "offers": [
            {"offer_id": use.offer_id, "uses": use.uses, "points": use.points, "asked": use.asked} for use in account.offer_uses
        ],
        "attributes": dict(account.attributes),
        "segments": list(account.segments),
        "external_ids": dict(account.external_ids),
        "origins": {name: _origin(origin) for name, origin in sorted(by_name(account).items())},
        "active_offers": list(account.active_offers),
        "profile_version": account.profile_version,
        "enrolled_at": format_time(account.enrolled_at_ms),
    }


def _origin(origin: AttributeOrigin) -> dict[str, Any]:
    return {
        "source_system": origin.source_system,
        "source_version": origin.source_version,
        "event_id": origin.event_id,
        "occurred_at": format_time(origin.occurred_at_ms),
    }


def _time(at_ms: int | None) -> str | None:
    return None if at_ms is None else format_time(at_ms)


def _scheduled(account: Account) -> dict[str, Any] | None:
    if account.scheduled_status is None:
        return None
    return {"status": account.scheduled_status.value, "at": _time(account.scheduled_at_ms), "reason": account.scheduled_reason}


def _expiring(lots: tuple[Lot, ...]) -> dict[str, Any] | None:
    """The points that expire next, all that share the instant; held ones are not among them, as their hold decides first."""
    ends_ms = [lot.expires_at_ms for lot in lots if lot.expires_at_ms is not None and lot.remaining > 0]
    if not ends_ms:
        return None
    next_ms = min(ends_ms)
    return {"points": sum(lot.remaining for lot in lots if lot.expires_at_ms == next_ms), "expires_at": format_time(next_ms)}


def _tier_progress(account: Account, program: Program, now_ms: int) -> dict[str, Any]:
    points = qualifying_at(program, account, now_ms)
    tiers, ahead = program.tiers, outlook(program, account)
    names = [tier.name for tier in tiers]
    if account.tier in names:
        above = tiers[names.index(account.tier) + 1 :]
    else:  # The programme has dropped or renamed the member's tier since.
        above = tuple(tier for tier in tiers if tier.threshold_points > points)
    return {
        "name": account.tier,
        "valid_until": _time(account.tier_valid_until_ms),
        "qualifying_points": points,
        "next_tier": above[0].name if above else None,
        # A tier that was taken away before its time, or not given yet, may lie below the points.
        "points_to_next": max(0, above[0].threshold_points - points) if above else None,
        "projected_tier": ahead.projected_tier,
        "points_to_keep": ahead.points_to_keep,
    }


def _from_cache(cached: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "sequence": cached["sequence"],
        "status": cached["status"],
        "tier": cached["tier"],
        "available_points": cached["available_points"],
        **{name: cached[name] for name in ADDED_POINTS if name in cached},
        "qualifying_points": cached["qualifying_points"],
        "recorded_at": format_time(cached["recorded_at_ms"]),
        "source": "cache",
    }


def _json(program_id: str, member_id: str, fields: dict[str, Any]) -> web.Response:
    body = {"program_id": program_id, "member_id": member_id} | fields
    return web.Response(body=orjson.dumps(body), content_type="application/json", headers={"Cache-Control": "no-store"})
