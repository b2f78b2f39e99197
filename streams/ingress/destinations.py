"""/v1/destinations: where webhooks go, made and changed while the pipeline runs; whether they are sent to; their keys; how they fare.

A change is answered when it is in force in this process, which has read it back from the log. Secrets are never shown, but for one that was
made here, once.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import orjson
from aiohttp import web

from schemas.contract import Problem
from streams import signatures
from streams.configuration import Token
from streams.destinations import document
from streams.destinations.control import ConflictError
from streams.destinations.document import DocumentError, time_text
from streams.destinations.model import Destination, DestinationState, Scheme, Secret, State
from streams.errors import ConfigurationError, ContractError
from streams.ingress.authentication import authenticate, require_scope
from streams.ingress.commands import load_json
from streams.ingress.parts import PARTS, Parts
from streams.ingress.problems import ProblemError, invalid

READ, WRITE = "destinations:read", "destinations:write"
LIMIT, LIMIT_MAX = 50, 200
OPERATOR = "OPERATOR"
READ_ONLY = frozenset({"name", "version", "is_from_file", "changed_by", "changed_at", "state"})
"""What answers have beside the document: a client may send it back, and it changes nothing."""
OVERLAP_S, OVERLAP_MAX_S = 24 * 3600, 90 * 24 * 3600
TEST_TIMEOUT_MAX_S = 15.0  # Below the time in which a request is answered.
STATE_TRIES = 3
DETAIL_CHARACTERS_MAX = 512
JSON_TYPES = ("application/json", "application/octet-stream", "application/merge-patch+json")  # The second: no Content-Type at all.


def add_routes(app: web.Application) -> None:
    one = "/v1/destinations/{name}"
    app.router.add_get("/v1/destinations", get_page, allow_head=False)
    app.router.add_post("/v1/destinations", create)
    app.router.add_get(one, get_one, allow_head=False)
    app.router.add_put(one, put)
    app.router.add_patch(one, patch)
    app.router.add_delete(one, delete)
    for verb in STATES:
        app.router.add_post(f"{one}/{verb}", set_state)
    app.router.add_post(f"{one}/secrets", add_secret)
    app.router.add_delete(f"{one}/secrets/{{secret_id}}", remove_secret)
    app.router.add_post(f"{one}/test", send_test)
    app.router.add_get(f"{one}/status", get_status, allow_head=False)


STATES = {"pause": State.PAUSED, "resume": State.ACTIVE, "disable": State.DISABLED}
"""Last part of the path -> the state."""


async def get_page(request: web.Request) -> web.Response:
    """A page, in the order of the names."""
    parts, token = allowed(request, READ)
    limit, after = page_of(request)
    names = sorted(name for name, one in parts.control.destinations.items() if name > after and reaches(token, one))
    shown = [_shown(parts, parts.control.destinations[name]) for name in names[:limit]]
    return answer({"destinations": shown, "next": names[limit - 1] if len(names) > limit else None})


async def get_one(request: web.Request) -> web.Response:
    parts, token = allowed(request, READ)
    return _answer(parts, named(request, parts, token))


async def create(request: web.Request) -> web.Response:
    """Make a destination; one without a secret gets a fresh one."""
    parts, token = allowed(request, WRITE)
    given = await body_of(request)
    name = given.get("name")
    if not isinstance(name, str):
        raise invalid(Problem("FIELD_REQUIRED", "name", "must be given"))
    generated = None
    if given.get("secret") is None and not given.get("secrets"):
        generated = signatures.new_secret()
        given = {**given, "secret": generated}
    async with told():
        wanted = _read(parts, token, name, given, None)
        if name in parts.control.destinations or name in parts.control.unreadable:
            raise ConflictError(f"destination {name} exists")
        made = await parts.control.put_destination(wanted, changed_by=token.name)
    return _answer(parts, made, 201, {"secret": generated}, Location=f"/v1/destinations/{name}")


async def put(request: web.Request) -> web.Response:
    """Take the place of what is there. What the body hides stays as it is."""
    parts, token = allowed(request, WRITE)
    given = await body_of(request)
    return await _change(request, parts, token, given, named(request, parts, token))


async def patch(request: web.Request) -> web.Response:
    """A merge patch (RFC 7396): what is null goes back to its default."""
    parts, token = allowed(request, WRITE)
    given, current = await body_of(request), named(request, parts, token)
    return await _change(request, parts, token, _merged(document.shown(current), given), current)


async def delete(request: web.Request) -> web.Response:
    """End a destination. One whose secrets cannot be read here can be ended all the same, by who reaches all programmes."""
    parts, token = allowed(request, WRITE)
    name = request.match_info["name"]
    async with told():
        if name in parts.control.unreadable and not token.programs:
            version = parts.control.unreadable[name]
        else:
            version = named(request, parts, token).version
        _require_match(request, version)
        await parts.control.delete_destination(name, version, changed_by=token.name)
    return answer({"name": name, "deleted": True})


async def set_state(request: web.Request) -> web.Response:
    """Pause, resume or disable. Also one of the configuration file."""
    parts, token = allowed(request, WRITE)
    destination = named(request, parts, token)
    given = await body_of(request) if request.body_exists else {}
    detail = given.get("detail", "")
    problems = [Problem("FIELD_UNKNOWN", name[:64], "is not known here; known is detail") for name in given if name != "detail"]
    if not isinstance(detail, str) or len(detail) > DETAIL_CHARACTERS_MAX:
        problems.append(Problem("TYPE_INVALID", "detail", f"must be a text of {DETAIL_CHARACTERS_MAX} characters at most"))
    if problems:
        raise invalid(*problems)
    wanted = STATES[request.path.rpartition("/")[2]]
    async with told():
        await _put_state(parts, destination.name, wanted, detail, token.name)
    return _answer(parts, destination)


async def add_secret(request: web.Request) -> web.Response:
    """Sign with one more key at once; the others sign beside it until the overlap is over."""
    parts, token = allowed(request, WRITE)
    destination = named(request, parts, token)
    given = await body_of(request) if request.body_exists else {}
    problems = [Problem("FIELD_UNKNOWN", name[:64], "is not known here; known are secret, scheme and overlap_s") for name in given
                if name not in ("secret", "scheme", "overlap_s")]  # fmt: skip
    scheme, overlap_s, value = given.get("scheme") or Scheme.HMAC.value, given.get("overlap_s"), given.get("secret")
    overlap_s = OVERLAP_S if overlap_s is None else overlap_s
    if scheme not in list(Scheme):
        problems.append(Problem("VALUE_UNKNOWN", "scheme", f"must be one of {', '.join(Scheme)}"))
    if not (type(overlap_s) in (int, float) and 0 <= overlap_s <= OVERLAP_MAX_S):
        problems.append(Problem("NUMBER_INVALID", "overlap_s", f"must be a number from 0 to {OVERLAP_MAX_S}"))
    if value is not None and given.get("scheme") is not None:
        problems.append(Problem("FIELD_NOT_ALLOWED", "scheme", "must be left out where the secret is given, which says it itself"))
    if problems:
        raise invalid(*problems)
    generated = signatures.new_secret(scheme) if value is None else None
    now_ms = int(parts.clock() * 1000)
    ends_ms = now_ms + int(overlap_s * 1000)
    async with told():
        _require_match(request, destination.version)
        others = [_ending(one, ends_ms) for one in destination.secrets if one.expires_at_ms is None or one.expires_at_ms > now_ms]
        kept = [one for one in others if one.expires_at_ms is None or one.expires_at_ms > now_ms]
        known = document.to_document(replace(destination, secrets=tuple(kept)))
        wanted = {**known, "secrets": [*known["secrets"], {"secret": generated or value}]}
        changed = await parts.control.put_destination(_read(parts, token, destination.name, wanted, destination), changed_by=token.name)
    newest = next(one for one in changed.secrets if one.secret_id not in {secret.secret_id for secret in kept})
    return answer(document.shown_secret(newest) | {"secret": generated}, 201, {"ETag": _etag(changed)})


async def remove_secret(request: web.Request) -> web.Response:
    """End a key at once, for one that has leaked."""
    parts, token = allowed(request, WRITE)
    destination = named(request, parts, token)
    kept = tuple(one for one in destination.secrets if one.secret_id != request.match_info["secret_id"])
    if len(kept) == len(destination.secrets):
        raise ProblemError(404, "not-found", "the destination has no such secret")
    if not kept:
        raise invalid(Problem("FIELD_REQUIRED", "secrets", "the last one cannot be taken away: add another one before"))
    wanted = document.to_document(replace(destination, secrets=kept))
    return await _change(request, parts, token, wanted, destination)


async def send_test(request: web.Request) -> web.Response:
    """Sign and send an event of type loyalty.test now, once, and say what came of it. Nothing else waits for it, or goes on by it."""
    from sinks.delivery import attempt  # The ingress needs none of it otherwise.

    parts, token = allowed(request, WRITE)
    destination = named(request, parts, token)
    found = await attempt.send_test(parts.settings, replace(destination, timeout_s=min(destination.timeout_s, TEST_TIMEOUT_MAX_S)))
    return answer(found)


async def get_status(request: web.Request) -> web.Response:
    """How the destination fares, over all sinks."""
    parts, token = allowed(request, READ)
    destination = named(request, parts, token)
    standing, missing = await parts.standings.of(destination.name)
    return answer({"name": destination.name, "state": _state(parts, destination.name), **with_times(standing), **missing.shown()})


# What the handlers of destinations and of their jobs share.


def allowed(request: web.Request, scope: str) -> tuple[Parts, Token]:
    """Who asks. Raises ProblemError for who may not, UnavailableError as long as the log has not been read."""
    parts = request.app[PARTS]
    token = authenticate(parts.configuration.tokens, request.headers.get("Authorization"))
    require_scope(token, scope)
    parts.require_ready()
    return parts, token


def reaches(token: Token, destination: Destination) -> bool:
    """A token of some programmes reaches destinations that hear of these alone; notices of destinations are of no programme."""
    if not token.programs:
        return True
    return bool(destination.programs) and destination.programs <= token.programs and not destination.events & frozenset(document.NOTICE_KINDS)


def named(request: web.Request, parts: Parts, token: Token) -> Destination:
    """The destination of the path. Raises ProblemError."""
    name = request.match_info["name"]
    found = parts.control.destinations.get(name)
    if found is None and name in parts.control.unreadable and not token.programs:
        raise ProblemError(409, "stale", f"destination {name} cannot be read here: see the log, and LOYALTY_DESTINATION_KEYS")
    if found is None or not reaches(token, found):
        raise ProblemError(404, "not-found", "there is no such destination")
    return found


async def body_of(request: web.Request) -> dict[str, Any]:
    """The JSON object in the body. Raises ProblemError."""
    if request.content_type not in JSON_TYPES:
        raise ProblemError(415, "media-type", "send Content-Type: application/json")
    try:
        given = load_json(await request.read())
    except ContractError as error:
        raise ProblemError(400, "malformed", error.detail) from error
    if not isinstance(given, dict):
        raise invalid(Problem("TYPE_INVALID", "", "must be an object"))
    return given


def page_of(request: web.Request) -> tuple[int, str]:
    """`limit` and `after`. Raises ProblemError."""
    text, after = request.query.get("limit", str(LIMIT)), request.query.get("after", "")
    limit = int(text) if text.isascii() and text.isdigit() and len(text) <= 9 else 0
    if not 1 <= limit <= LIMIT_MAX:
        raise invalid(Problem("TYPE_INVALID", "limit", f"must be a whole number from 1 to {LIMIT_MAX}"))
    if len(after) > document.VALUE_CHARACTERS_MAX:
        raise invalid(Problem("ID_INVALID", "after", "must be `next` of the page before"))
    return limit, after


@asynccontextmanager
async def told() -> AsyncIterator[None]:
    """What a client is told of errors of documents and of the control log."""
    try:
        yield
    except DocumentError as error:
        raise invalid(*error.problems) from error
    except ConflictError as error:
        raise ProblemError(409, "stale", str(error)) from error
    except ConfigurationError as error:  # Who may change destinations is who can have it mended.
        raise ProblemError(503, "unavailable", str(error)) from error


def answer(body: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.Response(
        body=orjson.dumps(body), status=status, content_type="application/json", headers={"Cache-Control": "no-store", **(headers or {})}
    )


def with_times(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Times in milliseconds as texts."""
    return {
        name.removesuffix("_ms"): (None if value is None else time_text(value)) if name.endswith("_ms") else value for name, value in fields.items()
    }  # fmt: skip


# Of destinations alone.


def _read(parts: Parts, token: Token, name: str, given: Mapping[str, Any], current: Destination | None) -> Destination:
    """The destination that the body asks for, on the version that is there. Raises DocumentError, ProblemError."""
    wanted = document.read_destination(
        name, {field: value for field, value in given.items() if field not in READ_ONLY}, programs=parts.configuration.programs, current=current,
        now_ms=int(parts.clock() * 1000),
    )  # fmt: skip
    if not reaches(token, wanted):
        raise ProblemError(403, "forbidden", "the token does not reach all that the destination would hear of: name programmes that it reaches")
    return replace(wanted, version=0 if current is None else current.version)


async def _change(request: web.Request, parts: Parts, token: Token, given: Mapping[str, Any], current: Destination) -> web.Response:
    async with told():
        if current.version == 0:
            raise ConflictError(f"destination {current.name} is of the configuration file, where alone it can be changed")
        _require_match(request, current.version)
        if given.get("name", current.name) != current.name:
            raise invalid(Problem("FIELD_FIXED", "name", "cannot change: make another destination"))
        changed = await parts.control.put_destination(_read(parts, token, current.name, given, current), changed_by=token.name)
    return _answer(parts, changed)


async def _put_state(parts: Parts, name: str, wanted: State, detail: str, changed_by: str) -> None:
    """What an operator says counts: a sink that notes something at the same moment is overruled. Raises as ControlLog does."""
    for left in reversed(range(STATE_TRIES)):
        known = parts.control.states.get(name)
        state = DestinationState(name=name, state=wanted, reason=OPERATOR, detail=detail, version=0 if known is None else known.version)
        try:
            await parts.control.put_state(state, changed_by=changed_by)
            return
        except ConflictError:
            if not left:
                raise


def _require_match(request: web.Request, version: int) -> None:
    """Raise ConflictError if the request is about another version."""
    header = request.headers.get("If-Match")
    if header is None or header.strip() == "*":
        return
    tags = [tag.strip().removeprefix("W/").strip('"') for tag in header.split(",")]
    if str(version) not in tags:
        raise ConflictError(f"the destination has version {version}, not what If-Match says")


def _ending(secret: Secret, ends_ms: int) -> Secret:
    return replace(secret, expires_at_ms=ends_ms if secret.expires_at_ms is None else min(secret.expires_at_ms, ends_ms))


def _merged(target: Any, changes: Any) -> Any:
    """RFC 7396."""
    if not isinstance(changes, dict):
        return changes
    merged = dict(target) if isinstance(target, dict) else {}
    for name, value in changes.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = _merged(merged.get(name), value)
    return merged


def _answer(
    parts: Parts, destination: Destination, status: int = 200, further: Mapping[str, Any] | None = None, **headers: str
) -> web.Response:
    body = {**_shown(parts, destination), **(further or {})}
    return answer(body, status, {"ETag": _etag(destination), **headers})


def _etag(destination: Destination) -> str:
    return f'"{destination.version}"'


def _shown(parts: Parts, destination: Destination) -> dict[str, Any]:
    return document.shown(destination) | {"state": _state(parts, destination.name)}


def _state(parts: Parts, name: str) -> dict[str, Any]:
    state = parts.control.states.get(name) or DestinationState(name=name)
    return {
        "state": state.state.value, "reason": state.reason, "detail": state.detail,
        **with_times({"failing_since_ms": state.failing_since_ms, "changed_at_ms": state.changed_at_ms if state.version else None}),
        "changed_by": state.changed_by,
    }  # fmt: skip
