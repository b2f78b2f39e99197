"""An organization like Salesforce's: token endpoint, REST API, queries, limits, locks, per-record results, platform events, and the bus of its changes.

    org = SalesforceFake()
    await org.start()
    record_id = await org.create(FirstName="Ada", LastName="Example", Loyalty_Id__c="M-1")
    await org.update(record_id, LastName="Okafor")
"""

import functools
import re
import time
import uuid
from base64 import b64encode
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote

import orjson
from aiohttp import web
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from joserfc import jwk, jwt

from infra.fakes.salesforce_pubsub import CONTACT_CHANGE_EVENT, PubSubFake, change_event
from infra.fakes.server import FakeServer, Handler, Misbehaviour

TOPIC = "/data/ContactChangeEvent"
OBJECT, KEY = "Contact", "Loyalty_Id__c"
RECORDS_MAX = 200
ADDRESS_BYTES_MAX = 16_384
ASSERTION_LIFE_MAX_S = 300
ORIGIN = "com/salesforce/api/rest/62.0"
_SOQL = re.compile(r"SELECT (?P<fields>[\w, ]+) FROM (?P<object>\w+) WHERE (?P<where>.+)")
_EQUAL = re.compile(r"(\w+) = '((?:[^'\\]|\\.)*)'")
_IN = re.compile(r"(\w+) IN \((.*)\)")
_LITERAL = re.compile(r"'((?:[^'\\]|\\.)*)'")
_SINCE = re.compile(r"(\w+) >= (\S+)")
_GIVEN = re.compile(r"(\w+) != null")


@functools.cache
def key_pair() -> tuple[str, str]:
    """(private key, public key) of the connected app, PEM. One for all: making one takes a while."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return private.decode(), public.decode()


class SalesforceFake(FakeServer):
    """One organization with contacts. `values` and `history` hold what was written to them by the API, by the member's number."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0, *, calls_max: int = 100_000, page_size: int = 2000, keep_alive_s: float = 270.0, **rest: Any):
        super().__init__(host, port, **rest)
        self.consumer_key, self.consumer_secret, self.username = "fake-consumer-key", "fake-consumer-secret", "loyalty@example.com"
        self.tenant_id = "00D5f000000AbCdEAK"
        self.calls_used, self.calls_max = 0, calls_max
        self.page_size = page_size
        self.contacts: dict[str, dict[str, Any]] = {}
        """By id; deleted ones are in the recycle bin."""
        self.locked: Counter[str] = Counter()
        """Member's number -> how many more writes find the record locked."""
        self.refused: dict[str, str] = {}
        """Member's number -> code of the error that the next write of the record gets."""
        self.published: list[tuple[str, dict[str, Any]]] = []
        """Platform events: (API name, fields)."""
        self.bus = PubSubFake(host, keep_alive_s=keep_alive_s, is_good=self.is_good)
        self.bus.add_topic(TOPIC)
        self.commit_number = 10_716_283_339_000
        self.enriches = False
        """Whether changes say the member's number, though it has not changed."""
        self.locators: dict[str, list[dict[str, Any]]] = {}

    def add_routes(self, app: web.Application) -> None:
        base = "/services/data/v62.0"
        app.router.add_post("/services/oauth2/token", self._token)
        app.router.add_patch(base + "/composite/sobjects", self._call("write", self._update_collection))
        app.router.add_patch(base + "/composite/sobjects/{object}/{field}", self._call("write", self._upsert_collection))
        app.router.add_patch(base + "/sobjects/{object}/{field}/{value}", self._call("write", self._upsert_one))
        app.router.add_post(base + "/sobjects/{object}", self._call("event", self._publish))
        for name in ("query", "queryAll"):
            app.router.add_get(f"{base}/{name}", self._call("read", self._query))
        app.router.add_get(base + "/query/{locator}", self._call("read", self._next_page))

    async def start(self) -> None:
        await super().start()
        await self.bus.start()

    async def stop(self) -> None:
        await self.bus.stop()
        await super().stop()

    @property
    def options(self) -> dict[str, str]:
        """What a source or destination must say to get here, by JWT bearer."""
        return {
            "login_url": self.base_url, "client_id": self.consumer_key, "username": self.username, "private_key": key_pair()[0],
        }  # fmt: skip

    def fail_at_random(self, seed: int, share: float, *misbehaviours: Misbehaviour) -> None:
        """The bus, too."""
        super().fail_at_random(seed, share, *misbehaviours)
        self.bus.fail_at_random(seed, share)

    def behave(self) -> None:
        super().behave()
        self.bus.failures.clear()
        self.bus.fails = lambda: None

    # People at work.

    async def create(self, *, origin: str = ORIGIN, **fields: Any) -> str:
        """A contact; its id."""
        record_id = f"0035f{len(self.contacts):010d}AAV"
        now = _now()
        self.contacts[record_id] = {"Id": record_id, "IsDeleted": False, "CreatedDate": now, "SystemModstamp": now} | fields
        await self.tell("CREATE", record_id, fields | {"CreatedDate": _ms(now)}, origin=origin)
        return record_id

    async def update(self, record_id: str, *, origin: str = ORIGIN, **fields: Any) -> None:
        self.change_silently(record_id, **fields)
        await self.tell("UPDATE", record_id, fields | {"LastModifiedDate": _ms(_now())}, origin=origin)

    async def delete(self, record_id: str) -> None:
        self.contacts[record_id] |= {"IsDeleted": True, "SystemModstamp": _now()}
        await self.tell("DELETE", record_id, {})

    async def undelete(self, record_id: str) -> None:
        self.contacts[record_id] |= {"IsDeleted": False, "SystemModstamp": _now()}
        record = {name: value for name, value in self.contacts[record_id].items() if name not in ("Id", "IsDeleted", "SystemModstamp", "CreatedDate")}
        await self.tell("UNDELETE", record_id, record)

    def change_silently(self, record_id: str, **fields: Any) -> None:
        """Without an event, as an outage of the bus would."""
        self.contacts[record_id] |= {**fields, "SystemModstamp": _now()}

    async def tell(
        self, kind: str, record_ids: str | list[str], fields: Mapping[str, Any], *, origin: str = ORIGIN, sequence: int = 1, transaction_key: str = "",
    ) -> dict[str, Any]:  # fmt: skip
        """A change event on the bus; its header."""
        self.commit_number += 728
        header: dict[str, Any] = {
            "entityName": OBJECT, "recordIds": [record_ids] if isinstance(record_ids, str) else record_ids, "changeType": kind, "changeOrigin": origin,
            "transactionKey": transaction_key or str(uuid.uuid4()), "sequenceNumber": sequence, "commitTimestamp": int(time.time() * 1000),
            "commitNumber": self.commit_number,
        }  # fmt: skip
        contact = self.contacts.get(header["recordIds"][0]) if self.enriches and kind in ("UPDATE", "DELETE") and header["recordIds"] else None
        enrichment = {KEY: contact[KEY]} if contact and contact.get(KEY) and KEY not in fields else {}
        await self.bus.publish(TOPIC, CONTACT_CHANGE_EVENT, change_event(CONTACT_CHANGE_EVENT, header, fields, enrichment))
        return header

    def contact_of(self, number: str) -> dict[str, Any]:
        return next(self._matching({KEY: number}))

    # The API.

    async def _token(self, request: web.Request) -> web.Response:
        self.requests["token"] += 1
        form = {name: str(value) for name, value in (await request.post()).items()}
        if form.get("grant_type") == "client_credentials":
            basic = b64encode(f"{self.consumer_key}:{self.consumer_secret}".encode()).decode()
            is_good = request.headers.get("Authorization") == f"Basic {basic}"
        else:
            is_good = self._is_assertion(form.get("assertion", ""))
        if not is_good:
            return web.json_response({"error": "invalid_grant", "error_description": "user hasn't approved this consumer"}, status=400)
        return web.json_response({
            "access_token": self.new_token(), "scope": "api id", "instance_url": self.base_url, "token_type": "Bearer",
            "id": f"https://login.salesforce.com/id/{self.tenant_id}/0055f000005mc66AAA",
        })  # fmt: skip

    def _is_assertion(self, assertion: str) -> bool:
        try:
            claims = jwt.decode(assertion, jwk.RSAKey.import_key(key_pair()[1]), algorithms=["RS256"]).claims
        except Exception:  # The library has many.
            return False
        life_s = claims.get("exp", 0) - time.time()
        return (claims.get("iss"), claims.get("sub"), claims.get("aud")) == (self.consumer_key, self.username, self.base_url) and 0 < life_s <= (
            ASSERTION_LIFE_MAX_S
        )

    def _call(self, kind: str, handler: Handler) -> Handler:
        """With what all calls have in common: the session, the limit and its header."""

        async def call(request: web.Request) -> web.StreamResponse:
            if not self.is_authorized(request):
                return _errors(401, "INVALID_SESSION_ID")
            if len(request.path_qs) > ADDRESS_BYTES_MAX:
                return web.Response(status=414)
            self.calls_used += 1
            answer = await handler(request) if self.calls_used <= self.calls_max else _errors(403, "REQUEST_LIMIT_EXCEEDED", "TotalRequests Limit exceeded.")
            answer.headers["Sforce-Limit-Info"] = f"api-usage={self.calls_used}/{self.calls_max}"
            return answer

        return self.can_fail(kind, call)

    async def _upsert_collection(self, request: web.Request) -> web.Response:
        return await self._collection(request, request.match_info["field"])

    async def _update_collection(self, request: web.Request) -> web.Response:
        return await self._collection(request, "id")

    async def _collection(self, request: web.Request, key: str) -> web.Response:
        body = orjson.loads(await request.read())
        if len(body["records"]) > RECORDS_MAX:
            return _errors(400, "LIMIT_EXCEEDED")
        results = []
        for record in body["records"]:
            fields = {name: value for name, value in record.items() if name not in ("attributes", key)}
            status, result = await self._write(request, key, str(record[key]), fields, may_create=key != "id")
            if status >= 300:
                code = "DUPLICATE_EXTERNAL_ID" if status == 300 else result[0]["errorCode"]
                result = {"success": False, "errors": [{"statusCode": code, "message": "asked for", "fields": []}]}
            results.append(result)
        return web.json_response(results)

    async def _upsert_one(self, request: web.Request) -> web.Response:
        value = unquote(request.match_info["value"])
        may_create = request.query.get("updateOnly") != "true"
        status, result = await self._write(request, request.match_info["field"], value, orjson.loads(await request.read()), may_create=may_create)
        return web.json_response(result, status=status)

    async def _write(self, request: web.Request, key: str, value: str, fields: dict[str, Any], *, may_create: bool) -> tuple[int, Any]:
        """(status, body) as of a call for one record."""
        found = list(self._matching({"Id" if key == "id" else key: value}))
        number = (found[0].get(KEY) or value) if found else value
        if self.locked[number] > 0:
            self.locked[number] -= 1
            return 400, _body("UNABLE_TO_LOCK_ROW", "unable to obtain exclusive access to this record")
        if number in self.refused:
            return 400, _body(self.refused.pop(number))
        if len(found) > 1:
            return 300, [f"/services/data/v62.0/sobjects/{OBJECT}/{one['Id']}" for one in found]
        if not found and not may_create:
            return 404, _body("NOT_FOUND", "The requested resource does not exist")
        client = re.search(r"client=([\w-]+)", request.headers.get("Sforce-Call-Options", ""))
        origin = ORIGIN + (f";client={client[1]}" if client else "")
        self.put(number, fields)
        if found:
            await self.update(found[0]["Id"], origin=origin, **fields)
            return 200, {"id": found[0]["Id"], "success": True, "errors": [], "created": False}
        return 201, {"id": await self.create(origin=origin, **{key: value}, **fields), "success": True, "errors": [], "created": True}

    async def _publish(self, request: web.Request) -> web.Response:
        name = request.match_info["object"]
        if not name.endswith("__e"):
            return _errors(404, "NOT_FOUND", "The requested resource does not exist")
        self.published.append((name, orjson.loads(await request.read())))
        queued = {"statusCode": "OPERATION_ENQUEUED", "message": str(uuid.uuid4()), "fields": []}
        return web.json_response({"id": f"e09{len(self.published):012d}AAA", "success": True, "errors": [queued]}, status=201)

    # Queries.

    async def _query(self, request: web.Request) -> web.Response:
        match = _SOQL.fullmatch(request.query.get("q", ""))
        if match is None or match["object"] != OBJECT:
            return _errors(400, "MALFORMED_QUERY")
        fields = match["fields"].split(", ")
        found = [record for record in self.contacts.values() if request.path.endswith("queryAll") or not record["IsDeleted"]]
        for condition in match["where"].split(" AND "):
            found = [record for record in found if _holds(condition, record)]
        return self._page([{"attributes": {"type": OBJECT}} | {name: record.get(name) for name in fields} for record in found], len(found))

    async def _next_page(self, request: web.Request) -> web.Response:
        rest = self.locators.get(request.match_info["locator"])
        return _errors(404, "INVALID_QUERY_LOCATOR") if rest is None else self._page(rest, len(rest))

    def _page(self, records: list[dict[str, Any]], size: int) -> web.Response:
        content: dict[str, Any] = {"totalSize": size, "done": len(records) <= self.page_size, "records": records[: self.page_size]}
        if not content["done"]:
            locator = f"01g{len(self.locators):012d}-{self.page_size}"
            self.locators[locator] = records[self.page_size :]
            content["nextRecordsUrl"] = f"/services/data/v62.0/query/{locator}"
        return web.json_response(content)

    def _matching(self, wanted: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        return (one for one in self.contacts.values() if not one["IsDeleted"] and all(one.get(name) == value for name, value in wanted.items()))


def _holds(condition: str, record: Mapping[str, Any]) -> bool:
    if match := _EQUAL.fullmatch(condition):
        return bool(record.get(match[1]) == _unescaped(match[2]))
    if match := _IN.fullmatch(condition):
        return record.get(match[1]) in [_unescaped(one) for one in _LITERAL.findall(match[2])]
    if match := _SINCE.fullmatch(condition):
        return datetime.fromisoformat(record[match[1]]) >= datetime.fromisoformat(match[2])
    match = _GIVEN.fullmatch(condition)
    assert match is not None, condition
    return record.get(match[1]) is not None


def _unescaped(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text)


def _body(code: str, message: str = "asked for") -> list[dict[str, Any]]:
    return [{"message": message, "errorCode": code, "fields": []}]


def _errors(status: int, code: str, message: str = "asked for") -> web.Response:
    return web.json_response(_body(code, message), status=status)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.000+0000")


def _ms(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp() * 1000)
