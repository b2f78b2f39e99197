"""GET /v1/members/{id}/export and DELETE /v1/members/{id}: everything that is held of a member, and its erasure."""

import asyncio
import re
from collections.abc import Mapping
from typing import Any

import orjson
from aiohttp import web

from schemas.contract import Problem
from streams import topics
from streams.errors import UnavailableError
from streams.ingress import rest
from streams.ingress.commands import format_time
from streams.ingress.parts import CORRELATION_ID, PARTS, Parts
from streams.ingress.problems import ProblemError, invalid
from streams.ingress.subject import asked_for
from streams.personal_data.export import Subject, document
from streams.personal_data.sources import Sources

EXPORT_SCOPE = "members:export"
ERASE_SCOPE = f"{topics.MEMBER_OPERATIONS.stream}:write"
REFERENCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/#-]{0,63}")
"""What an erasure says as its reason: the number of a request. Words could be about the person."""


async def export(request: web.Request) -> web.StreamResponse:
    """The document, sent as it is read. What fails before it begins is a problem; a document that breaks off ends the connection."""
    token, program_id, member_id = asked_for(request, EXPORT_SCOPE)
    parts = request.app[PARTS]
    async with Sources(parts.settings) as sources:
        subject, caches = await _subject(parts, sources, program_id, member_id)
        if not subject.exists:
            raise ProblemError(404, "not-a-member")
        await parts.accesses.record(token.name, program_id, member_id, "GET /v1/members/{member_id}/export", request[CORRELATION_ID])
        pieces = document(sources, subject, caches, format_time(int(parts.clock() * 1000)))
        first = await anext(pieces)
        response = web.StreamResponse(
            headers={
                "Content-Type": "application/json",
                "Cache-Control": "no-store",
                "Content-Disposition": 'attachment; filename="personal-data.json"',
            }
        )
        await response.prepare(request)
        await response.write(first)
        async for piece in pieces:
            await response.write(piece)
        await response.write_eof()
    return response


async def erase(request: web.Request) -> web.Response:
    """ERASE for the member and every number that was merged into it. The answer is that of the member's own command, and `numbers`."""
    token, program_id, member_id = asked_for(request, ERASE_SCOPE)
    parts = request.app[PARTS]
    reason = request.query.get("reason", "")
    if not REFERENCE.fullmatch(reason):
        detail = "must be the number of a request: letters, digits and . _ : / # -, 64 at most; words could be about the person"
        raise invalid(Problem("REASON_INVALID", "reason", detail))
    parts.require_ready()
    async with Sources(parts.settings) as sources:
        account = (await sources.held(program_id, member_id))["account"]
    merged = account["moved_from"] if account is not None else ()
    payload: dict[str, Any] = {"program_id": program_id, "kind": "ERASE", "reason": reason, "actor": request.query.get("actor") or token.name}
    payload["event_id"] = rest.idempotency_key(request) or f"erasure:{reason}"
    own, *others = await asyncio.gather(
        *(rest.send(request, topics.MEMBER_OPERATIONS, token, payload | {"member_id": number}) for number in (member_id, *merged)),
        return_exceptions=True,
    )
    numbers = {number: _outcome(answer) for number, answer in zip(merged, others, strict=True)}
    if isinstance(own, BaseException):
        raise own
    if failed := [number for number, outcome in numbers.items() if outcome == "unavailable"]:
        raise UnavailableError(f"the erasure of {len(failed)} merged numbers could not be sent")
    status, body, headers = own
    body = body | {"merged_into": account["merged_into"] if account is not None else None, "numbers": numbers}
    return web.Response(body=orjson.dumps(body), status=status, content_type="application/json", headers=headers)


def _outcome(answer: "rest.Reply | BaseException") -> str:
    """What became of one merged number's erasure: accepted, applied, erased before, or unavailable."""
    if isinstance(answer, ProblemError) and answer.code == "MEMBER_ERASED":
        return "erased before"
    if isinstance(answer, UnavailableError):
        return "unavailable"
    if isinstance(answer, BaseException):
        raise answer
    return str(answer[1]["status"])


async def _subject(
    parts: Parts, sources: Sources, program_id: str, member_id: str
) -> tuple[Subject, Mapping[str, Mapping[str, Any] | None]]:
    """Whose data it is, and what Redis has of the merged numbers. Raises UnavailableError."""
    page, tables, cache = await asyncio.gather(
        sources.held(program_id, member_id), sources.tables(), parts.accounts.from_cache(program_id, member_id)
    )
    subject = Subject(program_id=program_id, member_id=member_id, first_page=page, cache=cache, tables=tuple(tables))
    caches = await asyncio.gather(*(parts.accounts.from_cache(program_id, number) for number in subject.merged))
    return subject, dict(zip(subject.merged, caches, strict=True))
