"""A service like Firebase Cloud Messaging: tokens for service accounts whose key it knows, messages to phones, phones that are gone.

    service = FcmFake()
    await service.start()
    phone = service.add_phone()
    service.uninstall(phone)
"""

import json
import uuid
from collections import defaultdict
from typing import Any

from aiohttp import web
from joserfc import jwk, jwt
from joserfc.errors import JoseError

from infra.fakes.server import FakeServer

JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"


class FcmFake(FakeServer):
    """One project. `messages` holds what each phone got."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0, **rest: Any) -> None:
        super().__init__(host, port, **rest)
        self.project_id, self.client_email = "fake-project", "loyalty@fake-project.example.com"
        self._key = jwk.RSAKey.generate_key(2048)
        self.private_key = self._key.as_pem(private=True).decode()
        self.phones: set[str] = set()
        self.messages: dict[str, list[dict[str, Any]]] = defaultdict(list)

    def add_routes(self, app: web.Application) -> None:
        app.router.add_post("/token", self._token)
        app.router.add_post(f"/v1/projects/{self.project_id}/messages:send", self.can_fail("write", self._send))

    @property
    def token_url(self) -> str:
        return f"{self.base_url}/token"

    def add_phone(self) -> str:
        phone = f"{uuid.uuid4().hex}:APA91b"
        self.phones.add(phone)
        return phone

    def uninstall(self, phone: str) -> None:
        self.phones.discard(phone)

    async def _token(self, request: web.Request) -> web.Response:
        self.requests["token"] += 1
        form = await request.post()
        try:
            claims = jwt.decode(str(form.get("assertion", "")), self._key, algorithms=["RS256"]).claims
        except (JoseError, ValueError):
            return web.json_response({"error": "invalid_grant", "error_description": "Invalid JWT Signature."}, status=400)
        wanted = (self.client_email, self.token_url, "https://www.googleapis.com/auth/firebase.messaging")
        if form.get("grant_type") != JWT_BEARER or (claims.get("iss"), claims.get("aud"), claims.get("scope")) != wanted:
            return web.json_response({"error": "invalid_grant"}, status=400)
        return web.json_response({"access_token": self.new_token(), "token_type": "Bearer", "expires_in": int(self.token_life_s)})

    async def _send(self, request: web.Request) -> web.Response:
        if not self.is_authorized(request):
            return _error(401, "UNAUTHENTICATED", "Request had invalid authentication credentials.")
        message = json.loads(await request.read()).get("message", {})
        phone = message.get("token")
        if not isinstance(phone, str) or ":" not in phone:
            return _error(400, "INVALID_ARGUMENT", "The registration token is not a valid FCM registration token", "INVALID_ARGUMENT")
        if phone not in self.phones:
            return _error(404, "NOT_FOUND", "Requested entity was not found.", "UNREGISTERED")
        self.messages[phone].append(message["data"])
        return web.json_response({"name": f"projects/{self.project_id}/messages/{uuid.uuid4().hex}"})


def _error(code: int, status: str, message: str, fcm_code: str = "") -> web.Response:
    details = [{"@type": "type.googleapis.com/google.firebase.fcm.v1.FcmError", "errorCode": fcm_code}] if fcm_code else []
    return web.json_response({"error": {"code": code, "status": status, "message": message, "details": details}}, status=code)
