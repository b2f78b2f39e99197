"""Credentials of a connector -> the request for an access token, and the token in its answer. Pure.

Forms (RFC 6749): client credentials, refresh token, password; assertions: a signed JWT (RFC 7523), a signed SAML 2.0 assertion (RFC 7522); Darwinbox's
v1token. What needs no endpoint, a fixed bearer token or HTTP Basic, is a Token already. What a token endpoint answers is trusted no more than any peer:
no text of it gets into an error but a code of RFC 6749's own form.
"""

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote_plus, urlencode, urlsplit

import orjson

from streams.connectors.contract import Answer, Request, Token
from streams.errors import ConfigurationError, ContractError

JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"
SAML_BEARER = "urn:ietf:params:oauth:grant-type:saml2-bearer"
FETCH_TIMEOUT_S = 10.0  # For the whole exchange with the token endpoint.
ANSWER_BYTES_MAX = 64 * 1024
ASSERTION_LIFE_S = 180
"""Of a signed assertion: Salesforce takes none that lives longer."""
CLOCK_SKEW_S = 60
"""A SAML assertion is good from this long before it was made: clocks differ."""
TOKEN = re.compile(r"[!-~]{1,16384}")
ERROR_CODE = re.compile(r"[a-z0-9_]{1,40}")  # RFC 6749, 5.2. What else may stand there could hold anything.
SAML = "urn:oasis:names:tc:SAML:2.0"
SIGNATURE = "http://www.w3.org/2000/09/xmldsig#"


def bearer(token: str) -> Token:
    """A token that never changes."""
    return Token(headers={"authorization": f"Bearer {token}"}, value=token)


def basic(user: str, password: str) -> Token:
    """HTTP Basic (RFC 7617) with every request, in place of a token."""
    header = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
    return Token(headers={"authorization": header}, value=header)


@dataclass(frozen=True, slots=True, kw_only=True)
class FormGrant:
    """A form that is posted to a token endpoint; a client's secret goes with it by HTTP Basic or in the form, none if there is no client."""

    url: str
    fields: Mapping[str, str] = field(repr=False)
    client_id: str = ""
    client_secret: str = field(default="", repr=False)
    secret_in_body: bool = False
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    def request(self, now_s: float) -> Request:
        headers, fields = {"accept": "application/json", **self.headers}, dict(self.fields)
        if self.client_id and self.secret_in_body:
            fields |= {"client_id": self.client_id, "client_secret": self.client_secret}
        elif self.client_id:
            headers["authorization"] = _client_basic(self.client_id, self.client_secret)
        return _form(self.url, headers, fields)

    def token(self, answer: Answer) -> Token:
        return oauth_token(answer)


def client_credentials(
    *, url: str, client_id: str, client_secret: str, scope: str = "", audience: str = "", secret_in_body: bool = False,
    headers: Mapping[str, str] | None = None,
) -> FormGrant:  # fmt: skip
    """RFC 6749, 4.4. All servers must take the secret by HTTP Basic (2.3.1); some take it in the form only."""
    fields = {"grant_type": "client_credentials", "scope": scope, "audience": audience}
    return FormGrant(
        url=url, fields=_given(fields), client_id=client_id, client_secret=client_secret, secret_in_body=secret_in_body, headers=headers or {}
    )


def refresh_token(*, url: str, client_id: str, client_secret: str, refresh_token: str, secret_in_body: bool = False) -> FormGrant:
    """RFC 6749, 6, for refresh tokens that do not end: one that the server replaces with each use cannot be kept in a settings file."""
    fields = {"grant_type": "refresh_token", "refresh_token": refresh_token}
    return FormGrant(url=url, fields=fields, client_id=client_id, client_secret=client_secret, secret_in_body=secret_in_body)


def password(
    *, url: str, client_id: str, client_secret: str, user: str, password: str, scope: str = "", headers: Mapping[str, str] | None = None
) -> FormGrant:
    """RFC 6749, 4.3, for systems that have nothing better."""
    fields = {"grant_type": "password", "username": user, "password": password, "scope": scope}
    return FormGrant(url=url, fields=_given(fields), client_id=client_id, client_secret=client_secret, headers=headers or {})


@dataclass(frozen=True, slots=True, kw_only=True)
class JwtBearer:
    """RFC 7523: an assertion that a private key signs, RS256."""

    url: str
    issuer: str
    subject: str
    audience: str
    private_key: str = field(repr=False)
    """RSA, PEM."""
    fields: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Of the form, beside grant_type and assertion."""
    claims: Mapping[str, Any] = field(default_factory=dict)
    """Of the assertion, beside iss, sub, aud, iat, exp and jti."""

    def request(self, now_s: float) -> Request:
        """Raises ConfigurationError for a key that is none."""
        from joserfc import jwk, jwt  # What it needs takes time to load, and few processes use it.

        issued_at = int(now_s)
        claims = {
            "iss": self.issuer, "sub": self.subject, "aud": self.audience, "iat": issued_at, "exp": issued_at + ASSERTION_LIFE_S,
            "jti": f"{self.issuer}-{now_s:.6f}", **self.claims,
        }  # fmt: skip
        try:
            assertion = jwt.encode({"alg": "RS256"}, claims, jwk.RSAKey.import_key(self.private_key), algorithms=["RS256"])
        except Exception as error:  # Each library below has its own.
            raise ConfigurationError(f"private_key is no RSA key in PEM form: {type(error).__name__}") from None
        return _form(self.url, {"accept": "application/json"}, {"grant_type": JWT_BEARER, "assertion": assertion, **self.fields})

    def token(self, answer: Answer) -> Token:
        return oauth_token(answer)


@dataclass(frozen=True, slots=True, kw_only=True)
class SamlBearer:
    """RFC 7522: a SAML 2.0 assertion with an enveloped signature, RSA and SHA-256, in the form that SuccessFactors takes."""

    url: str
    client_id: str
    """The API key: Issuer of the assertion, an attribute of it, and a field of the form."""
    user: str
    """The technical user: Subject of the assertion."""
    private_key: str = field(repr=False)
    """RSA, PEM."""
    certificate: str
    """X.509, PEM: what the system knows the key by."""
    audience: str
    recipient: str = ""
    """Empty: the URL."""
    fields: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Of the form, beside client_id, grant_type and assertion."""

    def request(self, now_s: float) -> Request:
        """Raises ConfigurationError for a key or a certificate that is none."""
        assertion = base64.b64encode(self.assertion(now_s)).decode()
        return _form(self.url, {"accept": "application/json"}, {
            **self.fields, "client_id": self.client_id, "grant_type": SAML_BEARER, "assertion": assertion,
        })  # fmt: skip

    def token(self, answer: Answer) -> Token:
        return oauth_token(answer)

    def assertion(self, now_s: float) -> bytes:
        """The signed assertion, as XML."""
        from lxml import etree  # What these two need takes time to load, and few processes use it.
        from signxml.algorithms import CanonicalizationMethod, DigestAlgorithm, SignatureConstructionMethod, SignatureMethod
        from signxml.signer import XMLSigner

        moment, start, end = (_instant(now_s + delta_s) for delta_s in (0, -CLOCK_SKEW_S, ASSERTION_LIFE_S))
        make = _SamlMaker(etree, f"{SAML}:assertion")
        assertion_id = f"_{int(now_s * 1_000_000):x}"
        root = make(None, "Assertion", ID=assertion_id, Version="2.0", IssueInstant=moment)
        make(root, "Issuer").text = self.client_id
        etree.SubElement(root, f"{{{SIGNATURE}}}Signature", Id="placeholder")  # The schema wants it here.
        subject = make(root, "Subject")
        make(subject, "NameID", Format="urn:oasis:names:tc:SAML:1.1:nameid-format:unspecified").text = self.user
        confirmation = make(subject, "SubjectConfirmation", Method=f"{SAML}:cm:bearer")
        make(confirmation, "SubjectConfirmationData", NotOnOrAfter=end, Recipient=self.recipient or self.url)
        conditions = make(root, "Conditions", NotBefore=start, NotOnOrAfter=end)
        make(make(conditions, "AudienceRestriction"), "Audience").text = self.audience
        statement = make(root, "AuthnStatement", AuthnInstant=moment, SessionIndex=assertion_id)
        make(make(statement, "AuthnContext"), "AuthnContextClassRef").text = f"{SAML}:ac:classes:unspecified"
        make(make(make(root, "AttributeStatement"), "Attribute", Name="api_key"), "AttributeValue").text = self.client_id
        signer = XMLSigner(
            method=SignatureConstructionMethod.enveloped, signature_algorithm=SignatureMethod.RSA_SHA256, digest_algorithm=DigestAlgorithm.SHA256,
            c14n_algorithm=CanonicalizationMethod.EXCLUSIVE_XML_CANONICALIZATION_1_0,
        )  # fmt: skip
        try:
            signed = signer.sign(root, key=self.private_key.encode(), cert=self.certificate, reference_uri=f"#{assertion_id}", id_attribute="ID")
        except Exception as error:  # Each library below has its own.
            raise ConfigurationError(f"private_key is no RSA key, or certificate no certificate, in PEM form: {type(error).__name__}") from None
        return bytes(etree.tostring(signed))


class _SamlMaker:
    """Elements of one namespace, below a parent."""

    def __init__(self, etree: Any, namespace: str) -> None:
        self._etree = etree
        self._namespace = namespace

    def __call__(self, parent: Any, name: str, **attributes: str) -> Any:
        tag = f"{{{self._namespace}}}{name}"
        if parent is None:
            return self._etree.Element(tag, attributes, nsmap={"saml2": self._namespace})
        return self._etree.SubElement(parent, tag, attributes)


@dataclass(frozen=True, slots=True, kw_only=True)
class DarwinboxToken:
    """Darwinbox's v1token: JSON in, a text or an object out; later requests carry it in the header TOKEN."""

    url: str
    client_id: str
    client_secret: str = field(repr=False)
    grant_type: str
    code: str = field(default="", repr=False)

    def request(self, now_s: float) -> Request:
        content = {"client_id": self.client_id, "client_secret": self.client_secret, "grant_type": self.grant_type, "code": self.code}
        headers = {"content-type": "application/json", "accept": "application/json"}
        return Request(
            method="POST", url=self.url, headers=headers, body=orjson.dumps(content), timeout_s=FETCH_TIMEOUT_S, bytes_max=ANSWER_BYTES_MAX
        )

    def token(self, answer: Answer) -> Token:
        """The token is the answer itself, as JSON or as it is, or one of its fields."""
        _check_status(answer)
        content = _content(answer)
        fields = content if isinstance(content, Mapping) else {}
        value = fields.get("access_token", fields.get("token")) if fields else content
        if value is None:
            value = answer.body.decode(errors="replace").strip()
        if not isinstance(value, str) or not TOKEN.fullmatch(value) or value[0] in "<[{":
            raise ContractError("TOKEN_MISSING", "the answer is neither a token of printable characters nor a JSON object with an access_token")
        return Token(headers={"token": value}, value=value, life_s=_life_s(fields.get("expires_in")), claims=fields)


def oauth_token(answer: Answer) -> Token:
    """The token of an answer of RFC 6749, 5.1; `instance_url`, where there is one, is its base URL. Raises ContractError for an answer that has none."""
    _check_status(answer)
    content = _content(answer)
    fields: Mapping[str, Any] = content if isinstance(content, Mapping) else {}
    value, kind, base_url = fields.get("access_token"), fields.get("token_type", "Bearer"), fields.get("instance_url", "")
    if not isinstance(value, str) or not TOKEN.fullmatch(value):
        raise ContractError("TOKEN_MISSING", "the answer is not a JSON object with an access_token of printable characters")
    if not isinstance(kind, str) or kind.lower() not in ("bearer", "bearertoken"):
        raise ContractError("TOKEN_TYPE", "the token_type is not Bearer")
    if not _is_base_url(base_url):
        raise ContractError("TOKEN_BASE_URL", "the instance_url is no http:// or https:// address")
    return Token(headers={"authorization": f"Bearer {value}"}, value=value, life_s=_life_s(fields.get("expires_in")), base_url=base_url, claims=fields)


def error_code(answer: Answer) -> str:
    """The code of an error answer (RFC 6749, 5.2); empty if it has none."""
    content = _content(answer) if answer.status != 200 else None
    code = content.get("error") if isinstance(content, Mapping) else None
    return code if isinstance(code, str) and ERROR_CODE.fullmatch(code) else ""


def _check_status(answer: Answer) -> None:
    if answer.status != 200:
        code = error_code(answer)
        raise ContractError("TOKEN_REFUSED", f"status {answer.status}" + (f", {code}" if code else ""))


def _content(answer: Answer) -> Any:
    """The answer's JSON; None if it is none."""
    try:
        return orjson.loads(answer.body)
    except ValueError:
        return None


def _life_s(value: object) -> float | None:
    try:
        seconds = float(value) if isinstance(value, int | float | str) else 0.0
    except ValueError:
        return None
    return seconds if seconds > 0 else None


def _is_base_url(value: object) -> bool:
    if not isinstance(value, str):
        return False
    try:
        split = urlsplit(value)
    except ValueError:
        return False
    return not value or (split.scheme in ("http", "https") and bool(split.hostname))


def _given(fields: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in fields.items() if value}


def _client_basic(client_id: str, client_secret: str) -> str:
    """RFC 6749, 2.3.1: both parts are form-encoded before they are joined."""
    return "Basic " + base64.b64encode(f"{quote_plus(client_id)}:{quote_plus(client_secret)}".encode()).decode()


def _form(url: str, headers: Mapping[str, str], fields: Mapping[str, str]) -> Request:
    return Request(
        method="POST", url=url, headers={**headers, "content-type": "application/x-www-form-urlencoded"}, body=urlencode(fields).encode(),
        timeout_s=FETCH_TIMEOUT_S, bytes_max=ANSWER_BYTES_MAX,
    )  # fmt: skip


def _instant(at_s: float) -> str:
    return datetime.fromtimestamp(int(at_s), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
