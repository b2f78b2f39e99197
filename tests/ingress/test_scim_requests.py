"""SCIM requests from one end to the other, over the domain itself: no Kafka, but every decision is the ledger's own."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
from aiohttp import web
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from yarl import URL

from schemas.contract import Command
from schemas.records import Account, MemberStatus, SyncAudit
from streams import configuration
from streams.configuration import Scim
from streams.domain.program import Program
from streams.errors import ConfigurationError, UnavailableError
from streams.ingress.parts import CORRELATION_ID, PARTS
from streams.ingress.scim import history, routes
from streams.ingress.scim.resources import ENTERPRISE
from streams.observability import serve
from tests.domain.shell import Shell
from tests.ingress.support import Looped

USER = "urn:ietf:params:scim:schemas:core:2.0:User"
PATCH_OP = "urn:ietf:params:scim:api:messages:2.0:PatchOp"
ERROR = "urn:ietf:params:scim:api:messages:2.0:Error"
TOKENS = {name: f"token-of-the-directory-{name}" for name in ("okta", "strict", "salesforce", "everywhere", "reader")}
EXTERNAL_ID_FILTER = 'externalId eq "21001"'
NOW_S = 1_795_318_800.0

CONFIGURATION = configuration.parse(
    {
        "programs": {
            "grand": {
                "earn": {"points_per_unit": {"EUR": 10}}, "tiers": [{"name": "MEMBER", "threshold_points": 0}],
                "mastering": {"family_name": "salesforce", "phone": "salesforce"},
            },
            "staff": {"earn": {"points_per_unit": {"EUR": 10}}, "tiers": [{"name": "MEMBER", "threshold_points": 0}]},
        },
        "tokens": {
            "okta": {"token": TOKENS["okta"], "scopes": ["scim"], "programs": ["staff"]},
            "strict": {"token": TOKENS["strict"], "scopes": ["scim"], "programs": ["staff"]},
            "salesforce": {"token": TOKENS["salesforce"], "scopes": ["scim"], "programs": ["grand"]},
            "everywhere": {"token": TOKENS["everywhere"], "scopes": ["scim"]},
            "reader": {"token": TOKENS["reader"], "scopes": ["members:read"]},
        },
        "scim": {"strict": {"absent_active": "suspend", "user_name_type": "login"}},
    }
)  # fmt: skip


class Ledger:
    """Stands where Parts stands. A command is decided at once, by the domain, and its decision reaches who waits."""

    def __init__(self) -> None:
        self.configuration = CONFIGURATION
        self.settings: Any = None
        self.decisions, self.accounts, self.accesses = self, self, self
        self.reads: list[tuple[str, str, str, str]] = []
        """Token, programme, member and what was read, of each read of personal data."""
        self.shells: dict[tuple[str, str], Shell] = {}
        self.commands: list[Command] = []
        self.silent = False
        """No decision comes."""
        self._waiting: dict[str, asyncio.Future[SyncAudit]] = {}
        self._ids = 0

    def clock(self) -> float:
        return NOW_S

    def require_ready(self) -> None:
        pass

    def new_id(self) -> str:
        self._ids += 1
        return f"correlation-{self._ids}"

    def expect(self, correlation_id: str) -> "asyncio.Future[SyncAudit]":
        self._waiting[correlation_id] = asyncio.get_running_loop().create_future()
        return self._waiting[correlation_id]

    def forget(self, correlation_id: str) -> None:
        self._waiting.pop(correlation_id, None)

    def send(self, command: Command, correlation_id: str, *, at_once: bool) -> str:
        assert at_once, "SCIM answers with what was decided: it cannot wait for a schedule"
        self.commands.append(command)
        program: Program = CONFIGURATION.programs[command.program_id]
        shell = self.shells.setdefault((command.program_id, command.member_id), Shell(program=program))
        audit = shell.send(command).audit
        assert audit is not None
        if not self.silent:
            self._waiting[correlation_id].set_result(audit)
        return correlation_id

    async def acknowledged(self, sent: str, source: str) -> dict[str, Any]:
        return {"correlation_id": sent, "source": source}

    async def from_owner(self, program_id: str, member_id: str) -> Account | None:
        shell = self.shells.get((program_id, member_id))
        return None if shell is None else shell.account

    async def record(self, token: str, program_id: str, member_id: str, what: str, correlation_id: str) -> None:
        assert correlation_id == "of-this-request"
        self.reads.append((token, program_id, member_id, what))

    async def resolve(self, program_id: str, kind: str, value: str) -> str | None:
        for account in self.all(program_id):
            if account.external_ids.get(kind) == value:
                return account.member_id
        return None

    def all(self, program_id: str) -> list[Account]:
        found = [shell.account for (program, _), shell in sorted(self.shells.items()) if program == program_id]
        return [account for account in found if account is not None]


class Answer:
    def __init__(self, status: int, headers: Mapping[str, str], body: Any) -> None:
        self.status, self.headers, self.body = status, headers, body

    @property
    def error(self) -> tuple[int, str | None, str]:
        """Status, scimType, detail; asserts the form of RFC 7644, section 3.12."""
        assert self.body["schemas"] == [ERROR] and self.body["status"] == str(self.status), self.body
        assert self.headers["Content-Type"].partition(";")[0] == "application/scim+json"
        return self.status, self.body.get("scimType"), self.body.get("detail", "")


@web.middleware
async def _numbered(request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> web.StreamResponse:
    request[CORRELATION_ID] = "of-this-request"
    return await handler(request)


class World:
    """A served SCIM with a ledger of its own."""

    def __init__(self, looped: Looped) -> None:
        self.ledger = Ledger()
        self.narrowed: list[dict[str, str]] = []
        """What the history was asked to narrow its rows by, each time."""
        self._looped = looped
        app = web.Application(middlewares=[_numbered])
        app[PARTS] = self.ledger  # type: ignore[assignment]
        routes.add_routes(app)
        self._runner = looped.run(serve(app, "127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/scim/v2"
        self._session = looped.run(self._open())

    async def _open(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession()

    def close(self) -> None:
        self._looped.run(self._session.close())
        self._looped.run(self._runner.cleanup())

    def ask(self, method: str, path: str, body: Any = None, token: str = "okta", headers: Mapping[str, str] | None = None) -> Answer:
        async def asked() -> Answer:
            sent = {"Authorization": f"Bearer {TOKENS[token]}", "Content-Type": "application/scim+json"} | dict(headers or {})
            data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
            async with self._session.request(method, URL(self.url + path, encoded=True), data=data, headers=sent) as response:
                raw = await response.read()
                return Answer(response.status, response.headers, json.loads(raw) if raw and "json" in response.content_type else None)

        return self._looped.run(asked())

    def enrol(self, user_name: str = "ada@example.com", token: str = "okta", **more: Any) -> dict[str, Any]:
        answer = self.ask("POST", "/Users", {"schemas": [USER, ENTERPRISE], "userName": user_name, **more}, token)
        assert answer.status == 201, answer.body
        found: dict[str, Any] = answer.body
        return found

    def patch(self, member_id: str, *operations: dict[str, Any], token: str = "okta", headers: Mapping[str, str] | None = None) -> Answer:
        return self.ask("PATCH", f"/Users/{member_id}", {"schemas": [PATCH_OP], "Operations": list(operations)}, token, headers)

    def find(self, filter_text: str, more: str = "", token: str = "okta") -> Answer:
        return self.ask("GET", f"/Users?filter={quote(filter_text)}{more}", token=token)

    def names(self, filter_text: str) -> list[str]:
        answer = self.find(filter_text)
        assert answer.status == 200, answer.body
        return [user["userName"] for user in answer.body.get("Resources", [])]


@pytest.fixture(scope="module")
def looped() -> Iterator[Looped]:
    found = Looped()
    yield found
    found.close()


@pytest.fixture
def world(looped: Looped, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """The history has at once what the ledger has."""
    running = World(looped)

    def present(program_id: str) -> list[Account]:
        return [one for one in running.ledger.all(program_id) if one.status in (MemberStatus.ACTIVE, MemberStatus.SUSPENDED)]

    async def count(settings: Any, program_id: str) -> int:
        return len(present(program_id))

    async def newest(
        settings: Any, program_id: str, *, equal: Mapping[str, str], user_name_type: str, skip: int = 0, members_max: int
    ) -> AsyncIterator[Account]:
        running.narrowed.append(dict(equal))
        found = present(program_id)
        for part, value in equal.items():
            kind = part.removeprefix("external_ids.")
            held = [(one, one.attributes.get(part) if kind == part else one.external_ids.get(kind)) for one in found]
            found = [one for one, text in held if (text or "").lower() == value.lower()]
        for account in found[skip : skip + members_max]:
            yield account

    async def wait_for(settings: Any, program_id: str, versions: Mapping[str, int]) -> None:
        pass

    monkeypatch.setattr(history, "count", count)
    monkeypatch.setattr(history, "newest", newest)
    monkeypatch.setattr(history, "wait_for", wait_for)
    yield running
    running.close()


# Writing


def test_a_user_is_made_read_and_deleted_and_comes_back(world: World) -> None:
    body = {
        "schemas": [USER, ENTERPRISE], "userName": "ada@example.com", "externalId": "21001", "active": True,
        "name": {"givenName": "Ada", "familyName": "Byron"}, "emails": [{"value": "ada@example.com", "primary": True}], ENTERPRISE: {"employeeNumber": "7"},
    }  # fmt: skip
    made = world.ask("POST", "/Users", body)
    assert made.status == 201
    number = made.body["id"]
    assert (made.headers["Location"], made.headers["ETag"]) == (made.body["meta"]["location"], made.body["meta"]["version"])
    read = world.ask("GET", f"/Users/{number}")
    assert (read.status, read.body) == (200, made.body)
    assert (read.body["name"], read.body[ENTERPRISE], read.body["externalId"]) == (body["name"], {"employeeNumber": "7"}, "21001")

    again = world.ask("POST", "/Users", body)
    assert again.error[:2] == (409, "uniqueness")

    assert world.ask("DELETE", f"/Users/{number}").status == 204
    for method in ("GET", "DELETE"):
        assert world.ask(method, f"/Users/{number}").error[0] == 404
    assert world.ask("PUT", f"/Users/{number}", body).error[0] == 404
    assert world.patch(number, {"op": "replace", "path": "active", "value": True}).error[0] == 404
    assert (world.names('userName eq "ada@example.com"'), world.names("userName pr")) == ([], [])

    back = world.ask("POST", "/Users", body)
    assert (back.status, back.body["id"], back.body["active"]) == (201, number, True)
    (account,) = world.ledger.all("staff")
    assert account.status is MemberStatus.ACTIVE


def test_who_is_shown_to_the_directory_is_recorded(world: World) -> None:
    first, second = (world.enrol(name)["id"] for name in ("ada@example.com", "robin@example.com"))
    assert world.ledger.reads == []
    etag = world.ask("GET", f"/Users/{first}").headers["ETag"]
    read = ("okta", "staff", first, "GET /scim/v2/Users")
    assert world.ledger.reads == [read]
    assert world.ask("GET", f"/Users/{first}", headers={"If-None-Match": etag}).status == 304
    assert world.ledger.reads == [read], "nothing was shown"
    world.find('userName eq "robin@example.com"')
    assert world.ledger.reads == [read, ("okta", "staff", second, "GET /scim/v2/Users")]


def test_a_user_who_is_made_inactive_is_suspended(world: World) -> None:
    assert world.enrol(active=False)["active"] is False
    (account,) = world.ledger.all("staff")
    assert account.status is MemberStatus.SUSPENDED


def test_two_users_cannot_have_one_external_id(world: World) -> None:
    world.enrol(externalId="21001")
    status, scim_type, detail = world.ask("POST", "/Users", {"schemas": [USER], "userName": "robin", "externalId": "21001"}).error
    assert (status, scim_type) == (409, "uniqueness") and "externalId" in detail
    other = world.enrol("robin")["id"]
    assert world.patch(other, {"op": "add", "path": "externalId", "value": "21001"}).error[:2] == (409, "uniqueness")
    body = {"schemas": [USER], "userName": "robin", "externalId": "21001"}
    assert world.ask("PUT", f"/Users/{other}", body).error[:2] == (409, "uniqueness")
    assert world.ask("DELETE", f"/Users/{world.find(EXTERNAL_ID_FILTER).body['Resources'][0]['id']}").status == 204
    assert world.ask("PUT", f"/Users/{other}", body).status == 200, "who has left keeps nobody from it"


@pytest.mark.parametrize(
    "operation",
    [
        {"op": "replace", "path": "active", "value": False},
        {"op": "Replace", "path": "active", "value": "False"},
        {"op": "replace", "value": {"active": False}},
        {"op": "Replace", "value": {"active": "false"}},
        {"op": "Add", "path": "active", "value": "False"},
    ],
    ids=str,
)
def test_every_form_of_a_deactivation_suspends_and_of_an_activation_ends_it(world: World, operation: dict[str, Any]) -> None:
    number = world.enrol()["id"]
    answer = world.patch(number, operation)
    assert (answer.status, answer.body["active"]) == (200, False), answer.body
    (account,) = world.ledger.all("staff")
    assert account.status is MemberStatus.SUSPENDED
    back = json.loads(json.dumps(operation).replace("false", "true").replace("False", "True").replace('"true"', '"True"'))
    assert world.patch(number, back).body["active"] is True
    (account,) = world.ledger.all("staff")
    assert account.status is MemberStatus.ACTIVE


def test_entra_without_a_path_and_with_dots_in_its_keys(world: World) -> None:
    number = world.enrol(name={"givenName": "Ada", "familyName": "Byron"})["id"]
    value = {"displayName": "x", "name.givenName": "y", f"{ENTERPRISE}:employeeNumber": "1"}
    answer = world.patch(number, {"op": "replace", "value": value})
    assert (answer.body["displayName"], answer.body["name"]) == ("x", {"givenName": "y", "familyName": "Byron"})
    assert answer.body[ENTERPRISE] == {"employeeNumber": "1"}


@pytest.mark.parametrize("op", ["Add", "Replace"])
def test_entra_makes_an_address_by_its_filter_and_takes_it_away_by_its_value(world: World, op: str) -> None:
    number = world.enrol()["id"]
    answer = world.patch(number, {"op": op, "path": 'emails[type eq "work"].value', "value": "ada@example.com"})
    assert (answer.status, [one["value"] for one in answer.body["emails"]]) == (200, ["ada@example.com"])
    answer = world.patch(number, {"op": "Remove", "path": "emails", "value": [{"value": "ada@example.com"}]})
    assert answer.status == 200 and "emails" not in answer.body


def test_an_address_is_given_back_as_it_was_sent(world: World) -> None:
    number = world.enrol()["id"]
    for sent in ({"value": "ada@example.com", "type": "home", "primary": True}, {"value": "ada@example.com", "type": "work", "primary": False}):
        assert world.patch(number, {"op": "replace", "path": "emails", "value": [sent]}).body["emails"] == [sent]
    (account,) = world.ledger.all("staff")
    assert account.attributes == {"email": "ada@example.com", "email.primary": "false"}


def test_several_addresses_one_is_kept(world: World) -> None:
    number = world.enrol(phoneNumbers=[{"value": "1", "type": "home"}, {"value": "2", "type": "mobile", "primary": True}])["id"]
    assert world.ask("GET", f"/Users/{number}").body["phoneNumbers"] == [{"value": "2", "type": "mobile", "primary": True}]
    answer = world.patch(number, {"op": "replace", "path": 'phoneNumbers[type eq "mobile"].value', "value": "3"})
    assert answer.body["phoneNumbers"] == [{"value": "3", "type": "mobile", "primary": True}]


def test_a_patch_says_nothing_of_what_it_does_not_name(world: World) -> None:
    number = world.enrol(externalId="21001", displayName="Ada", locale="en-GB")["id"]
    world.patch(number, {"op": "replace", "path": "displayName", "value": "A. Byron"}, {"op": "remove", "path": "locale"})
    command = world.ledger.commands[-1]
    assert (command.attributes, command.external_ids, command.status) == ({"display_name": "A. Byron", "locale": None}, None, None)  # type: ignore[union-attr]


def test_a_patch_that_changes_nothing_sends_nothing(world: World) -> None:
    number = world.enrol(displayName="Ada")["id"]
    sent = len(world.ledger.commands)
    assert world.patch(number, {"op": "replace", "path": "displayName", "value": "Ada"}).status == 200
    assert len(world.ledger.commands) == sent


@pytest.mark.parametrize(("token", "active"), [("okta", True), ("strict", False)])
def test_a_put_clears_what_it_leaves_out_and_a_setting_says_what_no_active_means(world: World, token: str, active: bool) -> None:
    made = world.enrol(token=token, displayName="Ada", locale="en-GB", emails=[{"value": "ada@example.com"}])
    answer = world.ask("PUT", f"/Users/{made['id']}", {"schemas": [USER], "userName": "ada@example.com", "displayName": "A"}, token)
    assert (answer.status, answer.body["active"], answer.body["displayName"]) == (200, active, "A")
    assert "locale" not in answer.body and "emails" not in answer.body
    command = world.ledger.commands[-1]
    assert command.attributes == {"display_name": "A", "locale": None, "email": None}  # type: ignore[union-attr]


@pytest.mark.parametrize(("source", "number"), [("external_id", "21001"), ("employee_number", "7")])
def test_a_number_can_be_the_directorys_own(world: World, monkeypatch: pytest.MonkeyPatch, source: str, number: str) -> None:
    monkeypatch.setattr(world.ledger, "configuration", replace(CONFIGURATION, scim={"okta": Scim(number_from=source)}))
    body = {"schemas": [USER, ENTERPRISE], "userName": "ada", "externalId": "21001", ENTERPRISE: {"employeeNumber": "7"}}
    assert world.ask("POST", "/Users", body).body["id"] == number
    assert world.ask("POST", "/Users", body | {"userName": "robin"}).error[:2] == (409, "uniqueness")
    assert world.ask("POST", "/Users", {"schemas": [USER], "userName": "robin"}).error[:2] == (400, "invalidValue")
    address = {"schemas": [USER, ENTERPRISE], "userName": "robin", "externalId": "@card:1", ENTERPRISE: {"employeeNumber": "@card:1"}}
    status, scim_type, detail = world.ask("POST", "/Users", address).error
    assert (status, scim_type) == (400, "invalidValue") and detail.endswith("not begin with @")


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ({"absent_active": "maybe"}, "scim.okta.absent_active must be one of unchanged, suspend, not 'maybe'"),
        ({"number_from": "id"}, "scim.okta.number_from must be one of user_name, external_id, employee_number, not 'id'"),
        ({"user_name_type": "User Name"}, "scim.okta.user_name_type must be a-z"),
        ({"employee_type": "scim_user_name"}, "scim.okta gives one type to two attributes"),
        ({"user_name": "x"}, "scim.okta.user_name"),
    ],
    ids=str,
)
def test_a_fault_of_the_settings_is_named(table: dict[str, str], told: str) -> None:
    token = {"token": TOKENS["okta"], "scopes": ["scim"]}
    with pytest.raises(ConfigurationError, match=re.escape(told)):
        configuration.parse({"programs": CONFIGURATION.rules, "tokens": {"okta": token}, "scim": {"okta": table}})
    with pytest.raises(ConfigurationError, match=r"needs a token of its name: \[tokens.entra\] with the scope scim"):
        configuration.parse({"programs": CONFIGURATION.rules, "tokens": {"okta": token}, "scim": {"entra": {}}})


def test_types_of_external_ids_are_the_tokens_own(world: World) -> None:
    world.enrol(token="strict")
    (account,) = world.ledger.all("staff")
    assert account.external_ids == {"login": "ada@example.com"}


# Whose word counts


@pytest.mark.parametrize("token", ["salesforce"])
def test_the_master_may_change_what_it_masters(world: World, token: str) -> None:
    number = world.enrol(token=token, name={"familyName": "Byron"})["id"]
    assert world.patch(number, {"op": "replace", "path": "name.familyName", "value": "King"}, token=token).status == 200


def test_what_another_system_masters_is_read_only(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    grand = {"programs": {"grand": CONFIGURATION.rules["grand"]}, "tokens": {"okta": {"token": TOKENS["okta"], "scopes": ["scim"]}}}
    monkeypatch.setattr(world.ledger, "configuration", configuration.parse(grand))
    number = world.enrol()["id"]
    status, scim_type, detail = world.patch(
        number, {"op": "replace", "path": "name.familyName", "value": "King"}, {"op": "replace", "path": "displayName", "value": "x"}
    ).error
    assert (status, scim_type, detail) == (
        400, "mutability", "Attribute 'name.familyName' is readOnly: family_name is mastered by salesforce",
    )  # fmt: skip
    assert "displayName" not in world.ask("GET", f"/Users/{number}").body
    shown = {one["name"]: one for one in world.ask("GET", f"/Schemas/{USER}").body["attributes"]}
    inner = {one["name"]: one["mutability"] for one in shown["name"]["subAttributes"]}
    assert (inner["familyName"], inner["givenName"]) == ("readOnly", "readWrite")
    assert (shown["phoneNumbers"]["mutability"], shown["emails"]["mutability"]) == ("readOnly", "readWrite")


# Versions


def test_a_write_to_an_older_version_fails(world: World) -> None:
    made = world.enrol()
    number, version = made["id"], made["meta"]["version"]
    operation = {"op": "replace", "path": "displayName", "value": "x"}
    changed = world.patch(number, operation, headers={"If-Match": version})
    assert changed.status == 200 and changed.headers["ETag"] != version
    for answer in (
        world.patch(number, operation, headers={"If-Match": version}),
        world.ask("PUT", f"/Users/{number}", {"schemas": [USER], "userName": "ada@example.com"}, headers={"If-Match": version}),
        world.ask("DELETE", f"/Users/{number}", headers={"If-Match": version}),
    ):
        assert answer.error[0] == 412
    assert world.ask("DELETE", f"/Users/{number}", headers={"If-Match": f'W/"99", {changed.headers["ETag"]}'}).status == 204


def test_what_did_not_change_is_not_sent_again(world: World) -> None:
    made = world.enrol()
    for header in (made["meta"]["version"], f'W/"99", {made["meta"]["version"]}', "*"):
        answer = world.ask("GET", f"/Users/{made['id']}", headers={"If-None-Match": header})
        assert (answer.status, answer.body, answer.headers["ETag"]) == (304, None, made["meta"]["version"])
    assert world.ask("GET", f"/Users/{made['id']}", headers={"If-None-Match": 'W/"99"'}).status == 200


# Finding


@pytest.fixture
def three(world: World) -> World:
    world.enrol("ada@example.com", externalId="1", displayName="Ada", emails=[{"value": "ada@example.com"}])
    world.enrol("robin@example.org", externalId="2", displayName="Robin")
    world.enrol("zoe@example.org", active=False)
    return world


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('userName eq "ada@example.com"', ["ada"]),
        ('USERNAME EQ "ADA@example.com"', ["ada"]),
        (f'{USER}:userName eq "ada@example.com"', ["ada"]),
        ('externalId eq "2"', ["robin"]),
        ('externalId eq "3"', []),
        ('emails.value eq "ada@example.com"', ["ada"]),
        ('emails eq "ada@example.com"', ["ada"]),
        ('emails[value eq "ada@example.com" and primary eq true]', ["ada"]),
        ('userName ne "ada@example.com"', ["robin", "zoe"]),
        ('userName co "example.org"', ["robin", "zoe"]),
        ('userName sw "ro"', ["robin"]),
        ('userName ew ".com"', ["ada"]),
        ("displayName pr", ["ada", "robin"]),
        ('displayName gt "B"', ["robin"]),
        ('displayName le "Ada"', ["ada"]),
        ("active eq true", ["ada", "robin"]),
        ("active eq false", ["zoe"]),
        ('active eq true and not (userName sw "ada")', ["robin"]),
        ('userName sw "ada" or userName sw "zoe"', ["ada", "zoe"]),
    ],
    ids=str,
)
def test_filters(three: World, text: str, found: list[str]) -> None:
    assert sorted(name.partition("@")[0] for name in three.names(text)) == found


@pytest.mark.parametrize(
    ("text", "narrowed"),
    [
        ('userName eq "ada@example.com"', []),
        ('userName eq "ADA@example.com" and active eq true', []),
        ('externalId eq "9"', []),
        ('userName eq "nobody"', [{"external_ids.scim_user_name": "nobody"}]),
        (f'{ENTERPRISE}:employeeNumber eq "7"', [{"external_ids.employee": "7"}]),
        ('emails[value eq "Ada@example.com"] and active eq true', [{"email": "Ada@example.com"}]),
        ('name.familyName eq "Byron" and displayName eq "Ada"', [{"family_name": "Byron", "display_name": "Ada"}]),
        ('displayName eq "Ada" or displayName eq "Robin"', [{}]),
        ('not (displayName eq "Ada")', [{}]),
    ],
    ids=str,
)
def test_a_filter_is_answered_by_the_ledger_or_narrows_what_the_history_gives(three: World, text: str, narrowed: list[dict[str, str]]) -> None:
    three.find(text)
    assert three.narrowed == narrowed


def test_a_filter_that_means_too_many_is_refused(three: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes, "SCANNED_MAX", 2)
    assert three.find('userName sw "ada"').error[:2] == (400, "tooMany")
    assert three.find('userName sw "ada" and displayName eq "ada"').body["totalResults"] == 1
    assert three.ask("GET", "/Users").body["totalResults"] == 3


def test_a_user_is_found_by_id(three: World) -> None:
    number = three.find('externalId eq "1"').body["Resources"][0]["id"]
    assert three.names(f'id eq "{number}"') == ["ada@example.com"]
    assert three.names('id eq "nobody"') == []


@pytest.mark.parametrize("text", ["userName", 'userName eq', "userName like \"a\"", '(userName eq "a"', 'noSuch eq "a"', 'userName eq "a" and', "[]"])
def test_a_filter_that_cannot_be_read_is_a_400(three: World, text: str) -> None:
    assert three.find(text).error[:2] == (400, "invalidFilter")


def test_pages(three: World) -> None:
    whole = three.ask("GET", "/Users").body
    assert (whole["totalResults"], whole["startIndex"], whole["itemsPerPage"]) == (3, 1, 3)
    ids = [user["id"] for user in whole["Resources"]]
    page = three.ask("GET", "/Users?startIndex=2&count=1").body
    assert (page["totalResults"], page["startIndex"], page["itemsPerPage"], [user["id"] for user in page["Resources"]]) == (3, 2, 1, [ids[1]])
    assert [user["id"] for user in three.ask("GET", "/Users?startIndex=0&count=2").body["Resources"]] == ids[:2]
    none = three.ask("GET", "/Users?count=0").body
    assert (none["totalResults"], none.get("Resources", [])) == (3, [])
    assert three.ask("GET", "/Users?startIndex=99").body["totalResults"] == 3
    for query in ("startIndex=x", "count=x", "count=1.5"):
        assert three.ask("GET", f"/Users?{query}").error[:2] == (400, "invalidValue")


@pytest.mark.parametrize("path", ["/.search", "/Users/.search"])
def test_a_search_by_a_body(three: World, path: str) -> None:
    body = {
        "schemas": ["urn:ietf:params:scim:api:messages:2.0:SearchRequest"], "filter": 'userName co "example.org"', "startIndex": 2, "count": 1,
        "attributes": ["userName"],
    }  # fmt: skip
    found = three.ask("POST", path, body).body
    assert (found["totalResults"], found["startIndex"], found["itemsPerPage"]) == (2, 2, 1)
    assert found["Resources"][0].keys() == {"schemas", "id", "userName"}


def test_attributes_are_chosen(three: World) -> None:
    (user,) = three.find('externalId eq "1"', "&attributes=userName").body["Resources"]
    assert user.keys() == {"schemas", "id", "userName"}
    (user,) = three.find('externalId eq "1"', "&excludedAttributes=emails,displayName").body["Resources"]
    assert "emails" not in user and "displayName" not in user and user["active"] is True
    found = three.ask("GET", f"/Users/{user['id']}?attributes=displayName").body
    assert found.keys() == {"schemas", "id", "displayName"}


# Errors


@pytest.mark.parametrize(
    ("method", "path", "body", "expected"),
    [
        ("POST", "/Users", b"{", (400, "invalidSyntax")),
        ("POST", "/Users", [], (400, "invalidSyntax")),
        ("POST", "/Users", {"schemas": [USER]}, (400, "invalidValue")),
        ("POST", "/Users", {"schemas": [USER], "userName": ""}, (400, "invalidValue")),
        ("POST", "/Users", {"schemas": [USER], "userName": "x" * 200}, (400, "invalidValue")),
        ("POST", "/Users", {"schemas": [USER], "userName": {"a": 1}}, (400, "invalidValue")),
        ("GET", "/Users/nobody", None, (404, None)),
        ("GET", "/Groups", None, (404, None)),
        ("POST", "/Bulk", {}, (404, None)),
        ("GET", "/Schemas/nothing", None, (404, None)),
    ],
    ids=str,
)
def test_errors_have_scims_form(world: World, method: str, path: str, body: Any, expected: tuple[int, str | None]) -> None:
    assert world.ask(method, path, body).error[:2] == expected


@pytest.mark.parametrize(
    ("method", "path", "allow"), [("PUT", "/Users", "GET, POST"), ("POST", "/Users/x", "GET, PATCH, PUT, DELETE"), ("DELETE", "/Schemas", "GET")]
)
def test_a_path_says_which_methods_it_has(world: World, method: str, path: str, allow: str) -> None:
    answer = world.ask(method, path, {})
    assert (answer.error[0], answer.headers["Allow"]) == (405, allow)


@pytest.mark.parametrize(
    ("operations", "scim_type"),
    [
        ([{"op": "remove"}], "noTarget"),
        ([{"op": "move", "path": "active", "value": True}], "invalidValue"),
        ([{"op": "replace", "path": "active", "value": "perhaps"}], "invalidValue"),
        ([{"op": "replace", "path": "emails[", "value": "x"}], "invalidPath"),
        ([{"op": "replace", "path": "id", "value": "x"}], "mutability"),
        ([{"op": "replace", "path": 'emails[value co "nothing"].value', "value": "x"}], "noTarget"),
    ],
    ids=str,
)
def test_a_patch_that_makes_no_sense_changes_nothing(world: World, operations: list[dict[str, Any]], scim_type: str) -> None:
    number = world.enrol(emails=[{"value": "ada@example.com", "type": "work"}])["id"]
    sent = len(world.ledger.commands)
    assert world.patch(number, {"op": "replace", "path": "displayName", "value": "x"}, *operations).error[:2] == (400, scim_type)
    assert len(world.ledger.commands) == sent


def test_a_user_name_and_active_cannot_be_taken_away(world: World) -> None:
    number = world.enrol()["id"]
    assert world.patch(number, {"op": "remove", "path": "active"}).error[:2] == (400, "mutability")
    assert world.patch(number, {"op": "replace", "path": "userName", "value": " "}).error[:2] == (400, "invalidValue")
    assert world.patch(number, {"op": "remove", "path": "userName"}).error[0] == 400
    assert world.ask("PUT", f"/Users/{number}", {"schemas": [USER], "displayName": "x"}).error[0] == 400
    assert world.ask("GET", f"/Users/{number}").body["userName"] == "ada@example.com"


def test_who_may_ask(world: World) -> None:
    assert world.ask("GET", "/Users", headers={"Authorization": "Bearer nobody-knows-this-token"}).error[0] == 401
    assert world.ask("GET", "/Users", token="reader").error[0] == 403
    status, _, detail = world.ask("GET", "/Users", token="everywhere").error
    assert status == 403 and "tokens.everywhere.programs" in detail
    assert world.ask("POST", "/Users", {"userName": "x"}, headers={"Content-Type": "text/plain"}).error[0] == 415


def test_no_decision_in_time_is_a_503_that_says_when_to_ask_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes, "DECISION_TIMEOUT_S", 0.05)
    world.ledger.silent = True
    answer = world.ask("POST", "/Users", {"schemas": [USER], "userName": "ada@example.com"})
    assert answer.error[0] == 503 and int(answer.headers["Retry-After"]) >= 1


def test_an_answer_waits_until_the_owner_has_what_was_decided(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kafka tells of a decision before the worker's own rows have it."""
    number = world.enrol(displayName="Ada")["id"]
    before = world.ledger.all("staff")[0]
    reads: list[int] = []

    async def behind(program_id: str, member_id: str) -> Account | None:
        reads.append(len(world.ledger.commands))
        account = world.ledger.all("staff")[0]
        return before if reads.count(len(world.ledger.commands)) <= 3 else account

    monkeypatch.setattr(world.ledger, "from_owner", behind)
    assert world.patch(number, {"op": "replace", "path": "displayName", "value": "A. Byron"}).body["displayName"] == "A. Byron"
    assert reads == [1, 2, 2, 2, 2]


def test_no_worker_is_a_503(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def nobody(program_id: str, member_id: str) -> None:
        raise UnavailableError("no worker")

    monkeypatch.setattr(world.ledger, "from_owner", nobody)
    assert world.ask("GET", "/Users/x").error[0] == 503


def test_a_repeated_request_after_a_lost_answer_is_one_change(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first one was decided, and its answer was lost: the user is there, once."""
    monkeypatch.setattr(routes, "DECISION_TIMEOUT_S", 0.05)
    world.ledger.silent = True
    body = {"schemas": [USER], "userName": "ada@example.com"}
    assert world.ask("POST", "/Users", body).status == 503
    world.ledger.silent = False
    assert world.ask("POST", "/Users", body).error[:2] == (409, "uniqueness")
    assert len(world.ledger.all("staff")) == 1


# Whatever is sent


@pytest.mark.parametrize(
    "path",
    [
        "/Users?filter=userName%20eq%20%22%FF%ED%A0%80%22", "/Users/%FF", "/Users/%00", "/Users/a%2Fb", "/Users/" + "x" * 3000, "/%FF",
        "/Users?startIndex=" + "9" * 23, "/Users?startIndex=-5&count=-7", "/Users?count=" + "9" * 23, "/Users?attributes=,,",
        "/Users?attributes=userName&excludedAttributes=active", "/Users?filter=" + "(" * 900, "/Users?filter=" + "not%20(" * 300,
    ],
    ids=lambda path: path[:40],
)
def test_no_url_breaks_the_server(world: World, path: str) -> None:
    world.enrol()
    assert world.ask("GET", path).status < 500


@pytest.mark.parametrize(
    "body",
    [
        b"\xff", b'{"a":' * 5_000, b"[" * 100_000, b'{"Operations":' + b"[" * 900 + b"]" * 900 + b"}",
        {"schemas": [PATCH_OP], "Operations": [{"op": "replace", "path": "not (" * 300, "value": 1}]},
        {"schemas": [PATCH_OP], "Operations": [{"op": "replace", "path": "displayName", "value": "x"}] * 500},
    ],
    ids=lambda body: repr(body)[:40],
)
def test_no_odd_body_breaks_the_server(world: World, body: Any) -> None:
    assert world.ask("PATCH", f"/Users/{world.enrol()['id']}", body).status < 500


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
NAMES = st.sampled_from(
    ["userName", "externalId", "name", "name.givenName", "displayName", "emails", "phoneNumbers", "active", "locale", "id", "meta", "schemas", "password",
     "emails.value", 'emails[type eq "work"].value', 'emails[type eq "work"]', ENTERPRISE, f"{ENTERPRISE}:employeeNumber", USER]
)  # fmt: skip
VALUES = JSON | st.lists(st.fixed_dictionaries({}, optional={"value": JSON, "type": JSON, "primary": JSON}), max_size=2)
USERS = st.dictionaries(NAMES | st.text(max_size=5), VALUES, max_size=5) | JSON
OPERATIONS = st.fixed_dictionaries(
    {}, optional={"op": st.sampled_from(["add", "Replace", "remove"]) | JSON, "path": NAMES | JSON, "value": VALUES | USERS}
)  # fmt: skip
PATCHES = st.fixed_dictionaries({"schemas": st.just([PATCH_OP]), "Operations": st.lists(OPERATIONS, max_size=3)}) | JSON
NO_SERVER_ERROR = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@NO_SERVER_ERROR
@given(body=USERS)
def test_no_body_of_a_post_or_put_breaks_the_server(world: World, body: Any) -> None:
    number = world.ledger.all("staff")[0].member_id if world.ledger.all("staff") else world.enrol()["id"]
    assert world.ask("POST", "/Users", body).status < 500
    assert world.ask("PUT", f"/Users/{number}", body).status < 500


@NO_SERVER_ERROR
@given(body=PATCHES)
def test_no_patch_breaks_the_server(world: World, body: Any) -> None:
    number = world.ledger.all("staff")[0].member_id if world.ledger.all("staff") else world.enrol()["id"]
    assert world.ask("PATCH", f"/Users/{number}", body).status < 500


@NO_SERVER_ERROR
@given(text=st.text(max_size=20) | st.builds("{} {} {}".format, NAMES, st.sampled_from(["eq", "co", "gt", "pr", "ne"]), JSON.map(json.dumps)))
def test_no_filter_breaks_the_server(world: World, text: str) -> None:
    if not world.ledger.all("staff"):
        world.enrol(emails=[{"value": "ada@example.com"}])
    assert world.find(text).status < 500
    assert world.ask("GET", f"/Users?attributes={quote(text)}").status < 500
    assert world.ask("GET", f"/Users/{quote(text, safe='') or 'x'}").status < 500
