"""A tenant like SAP SuccessFactors': OAuth by SAML assertions, users and jobs, upserts whose records fail one by one in a 200, events by SOAP.

    tenant = SuccessFactorsFake(certificate=pem)
    await tenant.start()
    tenant.hire("10042")
    tenant.codes["10042"].append(409)
    tenant.leave("10042", last_day=date(2026, 11, 21))
    await tenant.push("http://127.0.0.1:8080/v1/webhooks/successfactors", "password", TERMINATION, "10042")
"""

import base64
import re
import time
import uuid
from collections import defaultdict, deque
from datetime import UTC, date, datetime, timedelta
from typing import Any

import aiohttp
import orjson
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from infra.fakes.server import FakeServer

UPSERT_MAX = 1000
PAGE_SIZE = 100
HIRE, TERMINATION = "AssignmentInformation.Hire", "AssignmentInformation.Termination"
NAME_ID = "{urn:oasis:names:tc:SAML:2.0:assertion}NameID"


class SuccessFactorsFake(FakeServer):
    """One tenant. `values` and `history` hold what was written, by the record's key."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0, *, certificate: str = "", **rest: Any) -> None:
        """`certificate`: of the OAuth client, PEM; empty: any assertion that names client and user is taken."""
        super().__init__(host, port, **rest)
        self.company_id, self.client_id, self.user = "ACME", "fake-api-key", "sfadmin"
        self.certificate = certificate
        self.private_key = ""
        """Of the certificate, PEM, if it was made here."""
        self.users: dict[str, dict[str, Any]] = {}
        self.codes: dict[str, deque[int]] = defaultdict(deque)
        """User -> codes of the next records about that user, in place of what would become of them."""
        self.fields = {"cust_LoyaltyBalance": {"cust_points", "cust_tier", "cust_sequence"}, "User": {"custom07"}}
        self.created: list[str] = []
        """Keys of records that are of no user."""

    def add_routes(self, app: web.Application) -> None:
        app.router.add_post("/oauth/token", self._token)
        app.router.add_get("/odata/v2/User", self.can_fail("read", self._users))
        app.router.add_get("/odata/v2/EmpJob", self.can_fail("read", self._jobs))
        app.router.add_post("/odata/v2/upsert", self.can_fail("write", self._upsert))

    def make_client_key(self) -> None:
        """A key and a certificate for the OAuth client: assertions must be signed by it from now on."""
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "loyalty")])
        now = datetime.now(UTC)
        certificate = (
            x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=365)).sign(key, hashes.SHA256())
        )  # fmt: skip
        self.private_key = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode()  # fmt: skip
        self.certificate = certificate.public_bytes(serialization.Encoding.PEM).decode()

    # HR's side.

    def hire(self, user_id: str, **fields: Any) -> None:
        self.users[user_id] = {"userId": user_id, "status": "t", "hired_on": date(2026, 1, 5), "modified_at_ms": _now_ms()} | fields

    def leave(self, user_id: str, *, last_day: date) -> None:
        is_over = last_day < datetime.now(UTC).date()
        self.users[user_id] |= {"last_day": last_day, "status": "f" if is_over else "t", "modified_at_ms": _now_ms()}

    async def push(self, endpoint_url: str, password: str, kind: str, user_id: str, *, repost: bool = False) -> int:
        """An event of Intelligent Services; the status that it is answered with."""
        user = self.users[user_id]
        day = user["last_day"] + timedelta(days=1) if kind == TERMINATION else user["hired_on"]
        published = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        body = (
            '<soapenv:Envelope xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/"><soapenv:Body>'
            '<ns3:ExternalEvent xmlns:ns3="http://notification.event.successfactors.com"><ns3:externalEventMeta>'
            f"<ns3:externalEventId>{uuid.uuid4()}</ns3:externalEventId><ns3:type>com.successfactors.Employment.{kind}</ns3:type>"
            f"<ns3:publishedAt>{published}</ns3:publishedAt><ns3:publishedBy>hradmin</ns3:publishedBy><ns3:effective>current</ns3:effective>"
            f"<ns3:repost>{str(repost).lower()}</ns3:repost></ns3:externalEventMeta><ns3:events><ns3:event><ns3:eventId>1</ns3:eventId>"
            f"<ns3:entityType>EmploymentInformation</ns3:entityType><ns3:effectiveStartDate>{day}</ns3:effectiveStartDate>"
            f"<ns3:publishedAt>{published}</ns3:publishedAt><ns3:entityKeys><entityKey><name>userId</name><value>{user_id}</value></entityKey>"
            "</ns3:entityKeys></ns3:event></ns3:events></ns3:ExternalEvent></soapenv:Body></soapenv:Envelope>"
        ).encode()
        headers = {
            "Content-Type": "text/xml; charset=utf-8", "Authorization": "Basic " + base64.b64encode(f"sf:{password}".encode()).decode(),
        }  # fmt: skip
        async with aiohttp.ClientSession() as session, session.post(endpoint_url, data=body, headers=headers) as response:
            return response.status

    # The tenant's side.

    async def _token(self, request: web.Request) -> web.Response:
        self.requests["token"] += 1
        form = await request.post()
        if (form.get("company_id"), form.get("client_id")) != (self.company_id, self.client_id) or not self._is_signed(str(form.get("assertion", ""))):
            return web.json_response({"error": "invalid_grant", "error_description": "Unable to authenticate the client"}, status=401)
        return web.json_response({"access_token": self.new_token(), "token_type": "Bearer", "expires_in": int(self.token_life_s)})

    def _is_signed(self, assertion: str) -> bool:
        from lxml import etree  # What these need takes time to load, and a story may do without this system.
        from signxml.exceptions import SignXMLException
        from signxml.verifier import XMLVerifier

        try:
            raw = base64.b64decode(assertion, validate=True)
            if self.certificate:
                verified = XMLVerifier().verify(raw, x509_cert=self.certificate, id_attribute="ID")
                root = verified[0].signed_xml if isinstance(verified, list) else verified.signed_xml
            else:
                root = etree.fromstring(raw)
        except (ValueError, etree.LxmlError, SignXMLException):
            return False
        return root is not None and root.findtext(f".//{NAME_ID}") == self.user

    async def _users(self, request: web.Request) -> web.Response:
        if not self.is_authorized(request):
            return _error(401, "LGN0022", "Authentication credentials are required")
        asked = {text.replace("''", "'").lower() for text in re.findall(r"userId eq '((?:[^']|'')*)'", request.query.get("$filter", ""))}
        found = [{"userId": user["userId"]} for name, user in self.users.items() if name.lower() in asked]
        return web.json_response({"d": {"results": found}})

    async def _jobs(self, request: web.Request) -> web.Response:
        if not self.is_authorized(request):
            return _error(401, "LGN0022", "Authentication credentials are required")
        wanted = request.query.get("$filter", "")
        since = re.search(r"lastModifiedDateTime ge datetimeoffset'([^']+)'", wanted)
        since_ms = 0 if since is None else int(datetime.fromisoformat(since[1]).timestamp() * 1000)
        named = re.search(r"userId eq '((?:[^']|'')*)'", wanted)
        found = [
            user for name, user in sorted(self.users.items())
            if user["modified_at_ms"] >= since_ms and (named is None or name == named[1].replace("''", "'"))
        ]  # fmt: skip
        start = int(request.query.get("$skiptoken", 0))
        answer: dict[str, Any] = {"results": [_job(user) for user in found[start : start + PAGE_SIZE]]}
        if start + PAGE_SIZE < len(found):
            answer["__next"] = str(request.url.update_query({"$skiptoken": str(start + PAGE_SIZE)}))
        return web.json_response({"d": answer})

    async def _upsert(self, request: web.Request) -> web.Response:
        if not self.is_authorized(request):
            return _error(401, "LGN0022", "Authentication credentials are required")
        records = orjson.loads(await request.read())
        if len(records) > UPSERT_MAX:
            return _error(400, "COE_TOO_MANY", f"An upsert takes {UPSERT_MAX} records")
        entities = {record["__metadata"]["uri"].partition("(")[0] for record in records}
        for record in records:
            entity = record["__metadata"]["uri"].partition("(")[0]
            unknown = record.keys() - {"__metadata", "externalCode", "userId"} - self.fields.get(entity, set())
            if entity not in self.fields or unknown or len(entities) > 1:
                return _error(400, "COE_PROPERTY_NOT_FOUND", f"[COE0021]Invalid property names: {', '.join(sorted(unknown))}.")
        return web.json_response({"d": [self._one(index, record) for index, record in enumerate(records)]})

    def _one(self, index: int, record: dict[str, Any]) -> dict[str, Any]:
        entity, key = record["__metadata"]["uri"].partition("(")[0], str(record.get("externalCode", record.get("userId")))
        code = self.codes[key].popleft() if self.codes[key] else 200
        if code == 200:
            fields = {name: value for name, value in record.items() if name in self.fields[entity]}
            self.put(key, fields)
            if key not in self.users:
                self.created.append(key)
        return {
            "key": f"{entity}/externalCode={key}", "status": "OK" if code == 200 else "ERROR", "editStatus": "UPSERTED" if code == 200 else None,
            "message": None if code == 200 else f"The record is not taken with the index {index}", "index": index, "httpCode": code, "inlineResults": None,
        }  # fmt: skip


def _job(user: dict[str, Any]) -> dict[str, Any]:
    last_day = user.get("last_day")
    return {
        "userId": user["userId"], "lastModifiedDateTime": f"/Date({user['modified_at_ms']}+0000)/",
        "emplStatusNav": {"externalCode": "A" if user["status"] == "t" else "T"},
        "userNav": {
            "status": user["status"], "firstName": user.get("firstName", "Ada"), "lastName": user.get("lastName", "Example"),
            "email": f"{user['userId']}@example.com",
        },
        "employmentNav": {
            "startDate": _date(user["hired_on"]), "endDate": None if last_day is None else _date(last_day), "lastDateWorked": None,
        },
    }  # fmt: skip


def _date(day: date) -> str:
    return f"/Date({int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) * 1000})/"


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _error(status: int, code: str, message: str) -> web.Response:
    return web.json_response({"error": {"code": code, "message": {"lang": "en-US", "value": message}}}, status=status)
