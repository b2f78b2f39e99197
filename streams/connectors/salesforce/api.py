"""Salesforce's REST API: paths, queries, what its answers mean, how tokens are asked for. Pure."""

import re
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import quote, urlencode

import orjson

from streams.connectors import contract, grants, values
from streams.connectors.contract import Answer, Budget, Grant, Judgement, Options, Request, Token, Verdict
from streams.errors import ContractError

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,79}")
"""An object or a field, by its API name."""
RECORD_ID = re.compile(r"[A-Za-z0-9]{15}(?:[A-Za-z0-9]{3})?")
CODE = re.compile(r"[A-Z][A-Z0-9_]{0,79}")
LOCKED = "UNABLE_TO_LOCK_ROW"
LIMIT = "REQUEST_LIMIT_EXCEEDED"
UNNAMED = "UNKNOWN"
"""Code of an error that has none."""
_USAGE = re.compile(r"api-usage=(\d{1,12})/(\d{1,12})")
_TENANT = re.compile(r"/id/(00D[A-Za-z0-9]{12}(?:[A-Za-z0-9]{3})?)/")


def grant(options: Options) -> Grant:
    """JWT bearer where there is a private key, else client credentials, which want My Domain as the login_url."""
    login_url = options["login_url"].rstrip("/")
    url = f"{login_url}/services/oauth2/token"
    if options["private_key"]:
        return grants.JwtBearer(
            url=url, issuer=options["client_id"], subject=options["username"], audience=options["audience"] or login_url, private_key=options["private_key"]
        )
    return grants.client_credentials(url=url, client_id=options["client_id"], client_secret=options["client_secret"])


def tenant_id(token: Token) -> str:
    """The organization's id, which the token endpoint's answer names; empty if it does not."""
    found = _TENANT.search(str(token.claims.get("id", "")))
    return found[1] if found else ""


def client_name(options: Options, name: str) -> str:
    """What changes by our writes carry as their origin: the option, or else the name that both halves of the system share."""
    return str(options["client_name"] or name)


# Requests.


def request(options: Options, method: str, path: str, content: Any = None, *, client: str = "") -> Request:
    """`path` follows /services/data/VERSION. `client` marks what is changed as ours."""
    headers = {"accept": "application/json"}
    if client:
        headers["sforce-call-options"] = f"client={client}"
    if content is None:
        return Request(method=method, url=_path(options, path), headers=headers)
    return Request(method=method, url=_path(options, path), headers={**headers, "content-type": "application/json"}, body=orjson.dumps(content))


def query(options: Options, soql: str, *, with_deleted: bool = False) -> Request:
    return request(options, "GET", f"/{'queryAll' if with_deleted else 'query'}?{urlencode({'q': soql})}")


def next_page(options: Options, content: Any) -> Request | None:
    """The rest of a query's answer; None if that was all. Raises ContractError."""
    url = values.text(content, "nextRecordsUrl")
    if url is None:
        return None
    if not url.startswith("/services/data/"):
        raise ContractError("SALESFORCE_PAGE", "nextRecordsUrl is no path of the REST API")
    return Request(method="GET", url=url, headers={"accept": "application/json"})


def literal(value: str) -> str:
    """A text of SOQL."""
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def segment(value: str) -> str:
    """A part of a path."""
    return quote(value, safe="")


def _path(options: Options, path: str) -> str:
    return f"/services/data/{options['api_version']}{path}"


# Answers.


def judge(answer: Answer) -> Judgement:
    """Locks pass; a limit is one of the whole organization; a session that has ended asks for another."""
    codes = error_codes(answer) if answer.status >= 400 else ()
    if LIMIT in codes:
        return Judgement(verdict=Verdict.WAIT, detail=LIMIT, after_s=contract.retry_after_s(answer))
    if LOCKED in codes:
        return Judgement(verdict=Verdict.RETRY, detail=LOCKED, after_s=contract.retry_after_s(answer))
    if answer.status == 409:
        return Judgement(verdict=Verdict.PASS)
    return contract.judge(answer)


def budget(answer: Answer) -> Budget | None:
    """Of the organization, or of this application if more of that one is used."""
    found = [
        Budget(used=int(used), allowed=int(allowed))
        for used, allowed in _USAGE.findall(answer.headers.get("sforce-limit-info", answer.headers.get("Sforce-Limit-Info", ""))) if int(allowed)
    ]  # fmt: skip
    return max(found, key=lambda one: one.used / one.allowed, default=None)


def error_codes(answer: Answer) -> tuple[str, ...]:
    """Codes of an answer that is an error: an array of messages."""
    try:
        content = values.load(answer.body)
    except ContractError:
        return ()
    return tuple(_codes(content, "errorCode"))


def item_error(item: Any) -> tuple[str, str]:
    """(code, detail) of the first error of one record's result. Messages may hold values of the record: the detail names fields alone."""
    errors = values.at(item, "errors")
    code = next(_codes(errors, "statusCode"), UNNAMED)
    fields = values.at(errors, "0.fields")
    named = [name for name in fields if isinstance(name, str) and NAME.fullmatch(name)] if isinstance(fields, list) else []
    return code, f"{code}: {', '.join(named)}" if named else code


def _codes(content: Any, name: str) -> Iterator[str]:
    for one in content if isinstance(content, list) else ():
        code = values.at(one, name)
        if isinstance(code, str) and CODE.fullmatch(code):
            yield code


def content(answer: Answer) -> Any:
    """The JSON of a good answer. Raises ContractError with the codes of one that is not."""
    if answer.status != 200:
        raise ContractError("SALESFORCE_REFUSED", f"{answer.status}: {', '.join(error_codes(answer)) or 'no code'}"[:200])
    return values.load(answer.body)


def wrong_names(given: Sequence[str]) -> str:
    """What is wrong with names of objects or fields; empty: nothing."""
    wrong = [one for one in given if not NAME.fullmatch(one)]
    return f"must hold API names of letters, digits and '_', not {wrong[0]!r}" if wrong else ""


def wrong_version(given: str) -> str:
    return "" if re.fullmatch(r"v\d{2,3}\.\d", given) else "must look like v62.0"


def wrong_client(given: str) -> str:
    return "" if re.fullmatch(r"[A-Za-z0-9_-]{0,63}", given) else "has letters, digits, '_' and '-' alone"


def wrong_name_if_given(given: str) -> str:
    return wrong_names([given]) if given else ""
