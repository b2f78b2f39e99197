"""PUT and DELETE /v1/members/{id}/devices/{device}: phones that may be told that there is news. Each is an attribute of the profile.

    PUT /v1/members/M-1/devices/phone  {"push_token": "f9dJ...:APA91b..."}
"""

import re
import uuid
from typing import Any

import orjson
from aiohttp import web

from schemas.contract import ATTRIBUTE_CHARACTERS_MAX, Problem
from streams import topics
from streams.errors import ContractError
from streams.ingress import commands, rest
from streams.ingress.parts import PARTS
from streams.ingress.problems import ProblemError, invalid
from streams.ingress.subject import asked_for

SCOPE = f"{topics.PROFILE_CHANGES.stream}:write"
PREFIX = "push_token."
"""How the attributes' names begin: streams/connectors/fcm reads them."""
DEVICE = re.compile(r"[a-z0-9_.]{1,40}")
PUSH_TOKEN = re.compile(r"[!-~]{1,%d}" % ATTRIBUTE_CHARACTERS_MAX)


def add_routes(app: web.Application) -> None:
    path = "/v1/members/{member_id:[^/]+}/devices/{device_id:[^/]+}"
    app.router.add_put(path, put)
    app.router.add_delete(path, delete)


async def put(request: web.Request) -> web.Response:
    """Register the phone, or its new token."""
    if request.content_type not in ("application/json", "application/octet-stream"):  # The latter: no Content-Type at all.
        raise ProblemError(415, "media-type", "send Content-Type: application/json")
    try:
        body = commands.load_json(await request.read())
    except ContractError as error:
        raise ProblemError(400, "malformed", error.detail) from error
    token = body.get("push_token") if isinstance(body, dict) else None
    if not isinstance(token, str) or not PUSH_TOKEN.fullmatch(token):
        detail = f"must be a text of 1 to {ATTRIBUTE_CHARACTERS_MAX} visible ASCII characters"
        raise invalid(Problem("VALUE_INVALID", "push_token", detail))
    return await _change(request, token)


async def delete(request: web.Request) -> web.Response:
    """Forget the phone."""
    return await _change(request, None)


async def _change(request: web.Request, push_token: str | None) -> web.Response:
    """The change of the attribute, as one of POST /v1/profile-changes would be: the id is the Idempotency-Key, or a new one."""
    token, program_id, member_id = asked_for(request, SCOPE)
    device_id = request.match_info["device_id"]
    if not DEVICE.fullmatch(device_id):
        raise invalid(Problem("ID_INVALID", "device_id", "must have 1 to 40 characters of a-z, 0-9, '_' and '.'"))
    request.app[PARTS].require_ready()
    payload: dict[str, Any] = {
        "program_id": program_id, "member_id": member_id, "event_id": rest.idempotency_key(request) or f"device:{uuid.uuid4()}",
        "attributes": {f"{PREFIX}{device_id}": push_token},
    }  # fmt: skip
    status, answer, headers = await rest.send(request, topics.PROFILE_CHANGES, token, payload)
    return web.Response(body=orjson.dumps(answer), status=status, content_type="application/json", headers=headers)
