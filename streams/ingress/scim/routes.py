"""/scim/v2: every write is a command on its ordinary topic, answered by the worker's decision on it."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from typing import Any

import orjson
from aiohttp import web
from pydantic import ValidationError
from scim2_models import (
    AuthenticationScheme, Bulk, ChangePassword, Context, ETag, Error, Filter, InvalidSyntaxException,
    InvalidValueException, ListResponse, MutabilityException, NotFoundException, Patch, PatchOp, PreconditionFailedException, ResourceType,
    SCIMException, Schema, ScimFilter, ScimPolicy, SearchRequest, ServiceProviderConfig, Sort,
    TooManyException, UniquenessException,
)  # fmt: skip

from schemas.contract import ADDRESS_MARK, EXTERNAL_ID_CHARACTERS_MAX, EXTERNAL_IDS_PREFIX, ID_CHARACTERS_MAX
from schemas.records import Account, CommandResult, Enrolment, MemberStatus, ProfileChange
from streams.configuration import Scim, Token
from streams.domain.refusals import Refusal
from streams.errors import ContractError, UnavailableError
from streams.ingress import commands, rest
from streams.ingress.authentication import authenticate, only_program, require_scope
from streams.ingress.parts import CORRELATION_ID, PARTS
from streams.ingress.problems import ProblemError
from streams.ingress.scim import history
from streams.ingress.scim.resources import (
    ENTERPRISE, Enterprise, LoyaltyUser, changes, equalities, masters_elsewhere, member_id, parts_by_path, read, show, version,
)  # fmt: skip

BASE = "/scim/v2"
CONTENT_TYPE = "application/scim+json"
DECISION_TIMEOUT_S = 8.0
ASK_AGAIN_S = 0.01
PAGE_MAX = 200
START_MAX = 2**53  # What every JSON can say, and far behind the last user.
SCANNED_MAX = 20_000  # Users that one filter may look at: each takes about 0.1 ms of this process.
WRITES_REMEMBERED_MAX = 1000
GONE = (MemberStatus.LEFT, MemberStatus.ERASED, MemberStatus.MERGED)
TOLERANT = ScimPolicy(
    unknown=ScimPolicy.Unknown.ignore,
    # Entra sends both: the value to remove beside the path, and a filter for the address that is to be made.
    remove_value_as_filter=ScimPolicy.RemoveValue.apply, unmatched_path_filter=ScimPolicy.UnmatchedPathFilter.create,
)  # fmt: skip
_TRESPASS = re.compile(r"(\S+) is mastered by ([^;]+)")

User = LoyaltyUser
Handler = Callable[[web.Request], Awaitable[web.Response]]
WRITES: web.AppKey[dict[tuple[str, str], int]] = web.AppKey("scim_writes", dict)
"""(programme, member) -> profile version of the newest writes of this process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """Who asks."""

    token: Token
    program_id: str
    settings: Scim


def add_routes(app: web.Application) -> None:
    """The paths of SCIM, which document themselves at /scim/v2/Schemas."""
    app[WRITES] = {}
    router = app.router
    router.add_get(f"{BASE}/Users", _scim(list_users), allow_head=False)
    router.add_post(f"{BASE}/Users", _scim(create))
    for path in ("/.search", "/Users/.search"):
        router.add_post(BASE + path, _scim(search_users))
    router.add_get(f"{BASE}/Users/{{id:[^/]+}}", _scim(get), allow_head=False)
    router.add_patch(f"{BASE}/Users/{{id:[^/]+}}", _scim(patch))
    router.add_put(f"{BASE}/Users/{{id:[^/]+}}", _scim(put))
    router.add_delete(f"{BASE}/Users/{{id:[^/]+}}", _scim(delete))
    router.add_get(f"{BASE}/ServiceProviderConfig", _scim(get_config), allow_head=False)
    for name, make in (("Schemas", _schemas), ("ResourceTypes", _resource_types)):
        router.add_get(f"{BASE}/{name}", _scim(_listing(make)), allow_head=False)
        router.add_get(f"{BASE}/{name}/{{id:[^/]+}}", _scim(_entry(make)), allow_head=False)
    allowed: dict[str, list[str]] = {}
    for route in router.routes():
        if route.resource is not None and route.resource.canonical.startswith(f"{BASE}/"):
            allowed.setdefault(route.resource.canonical, []).append(route.method)
    for path, methods in allowed.items():
        router.add_route("*", path, _scim(partial(_not_allowed, allow=", ".join(methods))))
    router.add_route("*", f"{BASE}/{{path:.*}}", _scim(_nothing))


async def _not_allowed(request: web.Request, allow: str) -> web.Response:
    raise ProblemError(405, "method-not-allowed", headers={"Allow": allow})


async def _nothing(request: web.Request) -> web.Response:
    raise NotFoundException(detail="there is nothing at this path")


def _scim(handler: Handler) -> Handler:
    """Errors in SCIM's form, whatever their origin."""

    async def answer(request: web.Request) -> web.Response:
        headers: Mapping[str, str] = {}
        try:
            return await handler(request)
        except SCIMException as error:
            found = error.to_error()
        except ValidationError as error:
            found = Error.from_validation_error(error.errors()[0])
        except (ProblemError, ContractError, UnavailableError, TimeoutError) as error:
            problem = rest.as_problem(error)
            headers = problem.headers
            detail = problem.detail or "; ".join(f"{one.field}: {one.detail}" for one in problem.errors) or str(problem.body("")["title"])
            invalid = problem.status == 422
            found = Error(status=400 if invalid else problem.status, scim_type="invalidValue" if invalid else None, detail=detail)
        return _json(found.model_dump(), found.status or 400, headers)

    return answer


async def get(request: web.Request) -> web.Response:
    client = _client(request)
    account = await _account(request, client)
    if _names(request.headers.get("If-None-Match"), account):
        return web.Response(status=304, headers={"ETag": version(account)})
    await _note_read(request, client, [account])
    return _user(request, client, account)


async def create(request: web.Request) -> web.Response:
    """201, also for who has left: a new enrolment begins the membership again. 409 for who is there."""
    client, parts = _client(request), request.app[PARTS]
    user = User.model_validate(_body(request, await request.read()), scim_ctx=Context.RESOURCE_CREATION_REQUEST, scim_policy=TOLERANT)
    _require_name(user)
    said = read(user, client.settings)
    number = _number(client, user)
    await _require_unique(request, client, said.external_ids, number)
    before = await parts.accounts.from_owner(client.program_id, number)
    if before is not None and before.status is not MemberStatus.LEFT:
        raise UniquenessException(detail="there is such a user")
    enrolment = Enrolment(
        **_common(request, client, number, before, await request.read()), attributes=said.attributes, external_ids=said.external_ids,
    )  # fmt: skip
    account = await _decide(request, client, enrolment)
    if said.active is False:
        common = _common(request, client, number, account, b"inactive")
        account = await _decide(request, client, ProfileChange(**common, status=MemberStatus.SUSPENDED))
    return _user(request, client, account, 201)


async def patch(request: web.Request) -> web.Response:
    client = _client(request)
    account = await _account(request, client)
    _require_match(request, account)
    operations = PatchOp[User].model_validate(
        _body(request, await request.read()), scim_ctx=Context.RESOURCE_PATCH_REQUEST, scim_policy=TOLERANT
    )
    after = show(account, client.settings, "")
    operations.patch(after, scim_policy=TOLERANT)
    if after.active is None:
        raise MutabilityException(detail="Attribute 'active' is required: it can be changed, not removed")
    return await _change(request, client, account, after)


async def put(request: web.Request) -> web.Response:
    """What the body leaves out is cleared; `active` is as the settings say."""
    client = _client(request)
    account = await _account(request, client)
    _require_match(request, account)
    after = User.model_validate(_body(request, await request.read()), scim_ctx=Context.RESOURCE_REPLACEMENT_REQUEST, scim_policy=TOLERANT)
    if after.active is None and client.settings.absent_active == "suspend":
        after.active = False
    return await _change(request, client, account, after)


async def delete(request: web.Request) -> web.Response:
    client = _client(request)
    account = await _account(request, client)
    _require_match(request, account)
    await _decide(request, client, ProfileChange(**_common(request, client, account.member_id, account, b""), status=MemberStatus.LEFT))
    return web.Response(status=204)


async def list_users(request: web.Request) -> web.Response:
    """A page. A filter of one identifier is answered by the ledger itself, others by the history."""
    return await _page(request, SearchRequest[User].model_validate(dict(request.query), scim_ctx=Context.SEARCH_REQUEST))


async def search_users(request: web.Request) -> web.Response:
    """The same, asked for by a body: texts of a filter may be personal, and URLs are logged."""
    body = _body(request, await request.read())
    return await _page(request, SearchRequest[User].model_validate(body, scim_ctx=Context.SEARCH_REQUEST, scim_policy=TOLERANT))


async def _page(request: web.Request, asked: "SearchRequest[Any]") -> web.Response:
    client, parts = _client(request), request.app[PARTS]
    start, count = min(max(asked.start_index or 1, 1), START_MAX), min(max(PAGE_MAX if asked.count is None else asked.count, 0), PAGE_MAX)
    if asked.filter:
        total, accounts = 0, []
        found = ScimFilter[User](asked.filter)
        async for account in _candidates(request, client, found):
            if found.match(show(account, client.settings, _location(request, account.member_id)), strict=True):
                total += 1
                if start <= total < start + count:
                    accounts.append(account)
    else:
        await _wait_for_writes(request, client)
        total = await history.count(parts.settings, client.program_id)
        kind = client.settings.user_name_type
        rows = history.newest(parts.settings, client.program_id, equal={}, user_name_type=kind, skip=start - 1, members_max=count)
        accounts = [account async for account in rows] if count else []
    await _note_read(request, client, accounts)
    page = [show(account, client.settings, _location(request, account.member_id)) for account in accounts]
    answer = ListResponse[User](total_results=total, start_index=start, items_per_page=len(page), resources=page)
    return _json(answer.model_dump(scim_ctx=Context.RESOURCE_QUERY_RESPONSE, response_parameters=asked))


async def _note_read(request: web.Request, client: Client, accounts: Sequence[Account]) -> None:
    """Whose profiles the directory is shown. Raises UnavailableError when too much waits to be written."""
    record, what = request.app[PARTS].accesses.record, f"GET {BASE}/Users"
    reads = (record(client.token.name, client.program_id, account.member_id, what, request[CORRELATION_ID]) for account in accounts)
    await asyncio.gather(*reads)


async def _candidates(request: web.Request, client: Client, found: "ScimFilter[Any]") -> AsyncIterator[Account]:
    """Those whom a filter can mean, and perhaps others. Raises TooManyException where it leaves more than can be looked at."""
    parts, settings = request.app[PARTS], client.settings
    equal = equalities(found.ast, settings)
    for path in ("id", "externalId", "userName", f"{ENTERPRISE}:employeeNumber"):
        if path not in equal:
            continue
        for number in await _numbers(request, client, path, equal[path]):
            account = await parts.accounts.from_owner(client.program_id, number)
            if account is not None and account.status not in GONE and (path == "id" or found.match(show(account, settings, ""), strict=True)):
                yield account
                return
        if path in ("id", "externalId"):
            return
        break  # The others are compared without regard to case, and the ledger finds them only as they are written.
    else:
        await _wait_for_writes(request, client)
    by_path, seen = parts_by_path(settings), 0
    rows = history.newest(
        parts.settings, client.program_id, equal={by_path[path]: value for path, value in equal.items() if path in by_path},
        user_name_type=settings.user_name_type, members_max=SCANNED_MAX + 1,
    )  # fmt: skip
    async for account in rows:
        seen += 1
        if seen > SCANNED_MAX:
            raise TooManyException(detail=f"the filter leaves more than {SCANNED_MAX} users to look at: ask for one attribute with eq as well")
        if seen % 100 == 0:
            await asyncio.sleep(0)  # Other requests are served between.
        yield account


async def _numbers(request: web.Request, client: Client, path: str, value: str) -> list[str]:
    """Members who may have this identifier."""
    if path == "id":
        return [value] if 0 < len(value) <= ID_CHARACTERS_MAX else []
    if not 0 < len(value) <= EXTERNAL_ID_CHARACTERS_MAX:
        return []
    kind = parts_by_path(client.settings)[path].removeprefix(EXTERNAL_IDS_PREFIX)
    found = await request.app[PARTS].accounts.resolve(client.program_id, kind, value)
    numbers = [] if found is None else [found]
    return [*numbers, member_id(client.token.name, value)] if path == "userName" else numbers


async def _wait_for_writes(request: web.Request, client: Client) -> None:
    """A listing has what was written before it through this process."""
    writes = request.app[WRITES]
    awaited = {key: profile_version for key, profile_version in writes.items() if key[0] == client.program_id}
    if not awaited:
        return
    versions = {number: profile_version for (_, number), profile_version in awaited.items()}
    await history.wait_for(request.app[PARTS].settings, client.program_id, versions)
    for key, profile_version in awaited.items():
        if writes.get(key) == profile_version:  # Not one that was written meanwhile.
            del writes[key]


async def get_config(request: web.Request) -> web.Response:
    _client(request)
    config = ServiceProviderConfig(
        patch=Patch(supported=True), bulk=Bulk(supported=False, max_operations=0, max_payload_size=0),
        filter=Filter(supported=True, max_results=PAGE_MAX), change_password=ChangePassword(supported=False), sort=Sort(supported=False),
        etag=ETag(supported=True),
        authentication_schemes=[
            AuthenticationScheme(
                type=AuthenticationScheme.Type.oauthbearertoken, name="Bearer token",
                description="A token of LOYALTY_CONFIG_FILE with the scope scim",
            )
        ],
    )  # fmt: skip
    return _json(config.model_dump(scim_ctx=Context.RESOURCE_QUERY_RESPONSE))


def _schemas(request: web.Request, client: Client) -> list[Any]:
    """What another system masters is readOnly."""
    masters = masters_elsewhere(request.app[PARTS].configuration.programs[client.program_id].mastering, client.token.name, client.settings)
    shown = []
    for model, name in ((User, "User"), (Enterprise, "EnterpriseUser")):
        schema = model.to_schema().model_dump(scim_ctx=Context.RESOURCE_QUERY_RESPONSE) | {"name": name}
        for attribute in schema["attributes"]:
            names = [attribute["name"], f"{schema['id']}:{attribute['name']}"]
            inner = [(one, f"{attribute['name']}.{one['name']}") for one in attribute.get("subAttributes", ())]
            for one, path in [(attribute, path) for path in names] + inner:
                if path in masters:
                    one["mutability"] = "readOnly"
            # Every user has it. A body without it is taken all the same: a setting says what that means.
            attribute["required"] = attribute["required"] or attribute["name"] == "active"
        shown.append(Schema.model_validate(schema))
    return shown


def _resource_types(request: web.Request, client: Client) -> list[Any]:
    return [ResourceType.from_resource(User)]


def _listing(make: Callable[[web.Request, Client], list[Any]]) -> Handler:
    async def answer(request: web.Request) -> web.Response:
        shown = [one.model_dump(scim_ctx=Context.RESOURCE_QUERY_RESPONSE) for one in make(request, _client(request))]
        schemas = ["urn:ietf:params:scim:api:messages:2.0:ListResponse"]
        return _json({"schemas": schemas, "totalResults": len(shown), "itemsPerPage": len(shown), "startIndex": 1, "Resources": shown})

    return answer


def _entry(make: Callable[[web.Request, Client], list[Any]]) -> Handler:
    async def answer(request: web.Request) -> web.Response:
        for one in make(request, _client(request)):
            if request.match_info["id"] in (str(one.id), one.name):
                return _json(one.model_dump(scim_ctx=Context.RESOURCE_QUERY_RESPONSE))
        raise NotFoundException(detail="there is nothing of this name")

    return answer


def _client(request: web.Request) -> Client:
    """Raises ProblemError: 401, 403."""
    configuration = request.app[PARTS].configuration
    token = authenticate(configuration.tokens, request.headers.get("Authorization"))
    require_scope(token, "scim")
    program_id = only_program(token, configuration.programs)
    if program_id is None:
        raise ProblemError(403, "forbidden", f"tokens.{token.name}.programs in LOYALTY_CONFIG_FILE must name exactly one programme for SCIM")
    return Client(token=token, program_id=program_id, settings=configuration.scim.get(token.name, Scim()))


async def _account(request: web.Request, client: Client) -> Account:
    account = await request.app[PARTS].accounts.from_owner(client.program_id, request.match_info["id"])
    if account is None or account.status in GONE:
        raise NotFoundException(detail="there is no such user")
    return account


def _body(request: web.Request, body: bytes) -> Any:
    if request.content_type not in (CONTENT_TYPE, "application/json", "application/octet-stream"):
        raise ProblemError(415, "media-type", f"send Content-Type: {CONTENT_TYPE}")
    try:
        payload = commands.load_json(body)
    except ContractError as error:
        raise InvalidSyntaxException(detail=error.detail) from error
    if not isinstance(payload, dict):
        raise InvalidSyntaxException(detail="the body must be an object")
    return payload


def _require_match(request: web.Request, account: Account) -> None:
    wanted = request.headers.get("If-Match")
    if wanted is not None and not _names(wanted, account):
        raise PreconditionFailedException(detail=f"the user is at {version(account)} by now")


def _names(header: str | None, account: Account) -> bool:
    """Whether an If-Match or If-None-Match means the version the account is at. Some clients leave out the mark of a weak one."""
    tags = [tag.strip().removeprefix("W/") for tag in (header or "").split(",")]
    return "*" in tags or version(account).removeprefix("W/") in tags


def _number(client: Client, user: Any) -> str:
    """The number of a new member, the same for the same user: a POST that is repeated makes nobody twice."""
    source = client.settings.number_from
    if source == "user_name":
        return member_id(client.token.name, user.user_name)
    enterprise = user[Enterprise] or Enterprise()
    path, number = ("externalId", user.external_id) if source == "external_id" else (f"{ENTERPRISE}:employeeNumber", enterprise.employee_number)
    if not number or number.startswith(ADDRESS_MARK):  # That would name somebody by an external id.
        raise InvalidValueException(detail=f"{path} must have a value that can be a member's number, and not begin with {ADDRESS_MARK}")
    return str(number)


def _require_name(user: Any) -> None:
    if not (user.user_name or "").strip():
        raise InvalidValueException(detail="userName must have a value")


async def _require_unique(request: web.Request, client: Client, external_ids: Mapping[str, str | None], number: str) -> None:
    """Raise UniquenessException for an external id that leads to somebody else who is there."""
    accounts = request.app[PARTS].accounts
    for kind, value in external_ids.items():
        holder = None if value is None else await accounts.resolve(client.program_id, kind, value)
        if holder is None or holder == number:
            continue
        other = await accounts.from_owner(client.program_id, holder)
        if other is not None and other.status not in GONE:
            raise UniquenessException(detail=f"{_path_of(client.settings, EXTERNAL_IDS_PREFIX + kind)} is that of another user")


def _common(request: web.Request, client: Client, number: str, before: Account | None, body: bytes) -> dict[str, Any]:
    """Fields of every command. The event's id is the same for the same request in the same state: sent again, it is not done again."""
    state = f"{request.method}\n{number}\n{before.event_sequence if before else 0}\n".encode()
    return {
        "program_id": client.program_id, "member_id": number, "event_id": "scim:" + sha256(state + body).hexdigest()[:32],
        "source_system": client.token.name, "occurred_at_ms": int(request.app[PARTS].clock() * 1000), "actor": client.token.name,
    }  # fmt: skip


async def _change(request: web.Request, client: Client, account: Account, after: Any) -> web.Response:
    """The difference as one command; none if there is none."""
    _require_name(after)
    before, said = read(show(account, client.settings, ""), client.settings), read(after, client.settings)
    status = None
    if said.active is not None and said.active != before.active:
        status = MemberStatus.ACTIVE if said.active else MemberStatus.SUSPENDED
    attributes, external_ids = changes(before.attributes, said.attributes), changes(before.external_ids, said.external_ids)
    await _require_unique(request, client, external_ids, account.member_id)
    if attributes or external_ids or status:
        common = _common(request, client, account.member_id, account, await request.read())
        change = ProfileChange(**common, attributes=attributes, external_ids=external_ids or None, status=status)
        account = await _decide(request, client, change)
    return _user(request, client, account)


async def _decide(request: web.Request, client: Client, command: Enrolment | ProfileChange) -> Account:
    """Send a command, wait for the worker's yes, and return the account after it. Raises SCIMException for a no, UnavailableError and
    TimeoutError when nothing comes in time."""
    parts = request.app[PARTS]
    parts.require_ready()
    commands.check(command)
    correlation_id = parts.decisions.new_id()
    decision = parts.decisions.expect(correlation_id)
    if decision is None:
        raise UnavailableError("too many requests wait for a decision")
    try:
        async with asyncio.timeout(DECISION_TIMEOUT_S):
            await parts.acknowledged(parts.send(command, correlation_id, at_once=True), client.token.name)
            audit = await decision
            if audit.result in (CommandResult.APPLIED, CommandResult.SUPERSEDED):
                return await _account_at(request, client, command.member_id, audit.sequence or 0)
    finally:
        parts.decisions.forget(correlation_id)
    match audit.result, audit.reason:
        case CommandResult.REFUSED, Refusal.ATTRIBUTE_MASTERED_EXTERNALLY:
            raise MutabilityException(detail=_mastered(client.settings, audit.detail or ""))
        case CommandResult.REFUSED, Refusal.MEMBER_ALREADY_ENROLLED:
            raise UniquenessException(detail="there is such a user")
        case CommandResult.REFUSED, reason:
            raise InvalidValueException(detail=f"{reason}: {audit.detail or 'the programme refuses this'}")
        case CommandResult.CONFLICT, _:
            raise UniquenessException(detail="another change came at the same time: read the user again")
    raise UnavailableError("the command waits")


def _mastered(settings: Scim, detail: str) -> str:
    """`Attribute 'name.familyName' is readOnly: family_name is mastered by salesforce`."""
    told = [f"Attribute {_path_of(settings, part)!r} is readOnly: {part} is mastered by {master}" for part, master in _TRESPASS.findall(detail)]
    return "; ".join(told) or detail


def _path_of(settings: Scim, part: str) -> str:
    return next((path for path, name in parts_by_path(settings).items() if name == part), part)


async def _account_at(request: web.Request, client: Client, number: str, sequence: int) -> Account:
    """The account once its owner has come to this event, whose version listings wait for.

    A decision can be read as soon as Kafka has it; the rows of the worker that made it follow a moment later.
    """
    accounts, writes = request.app[PARTS].accounts, request.app[WRITES]
    account = await accounts.from_owner(client.program_id, number)
    while account is None or account.event_sequence < sequence:
        await asyncio.sleep(ASK_AGAIN_S)
        account = await accounts.from_owner(client.program_id, number)
    writes[client.program_id, number] = account.profile_version
    while len(writes) > WRITES_REMEMBERED_MAX:
        del writes[next(iter(writes))]
    return account


def _user(request: web.Request, client: Client, account: Account, status: int = 200) -> web.Response:
    location = _location(request, account.member_id)
    asked = SearchRequest[User].model_validate({key: request.query[key] for key in ("attributes", "excludedAttributes") if key in request.query})
    body = show(account, client.settings, location).model_dump(
        scim_ctx=Context.RESOURCE_QUERY_RESPONSE, response_parameters=asked
    )
    return _json(body, status, {"ETag": version(account)} | ({"Location": location} if status == 201 else {}))


def _location(request: web.Request, number: str) -> str:
    return str(request.url.origin().joinpath(BASE.lstrip("/"), "Users", number))


def _json(body: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.Response(body=orjson.dumps(body), status=status, content_type=CONTENT_TYPE, headers=headers)
