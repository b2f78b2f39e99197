"""Oracle Hospitality's gateway: its headers, its paths with names to fill in, its answers. Pure."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import orjson

from streams.connectors import grants, values
from streams.connectors.contract import Answer, Grant, Options, Request
from streams.errors import ContractError

OUTSIDE_CHARACTERS_MAX = 200


def grant(options: Options) -> Grant:
    url = f"{options['base_url'].rstrip('/')}/oauth/v1/tokens"
    headers = {"x-app-key": options["app_key"]} | ({"enterpriseid": options["enterprise_id"]} if options["enterprise_id"] else {})
    client = {"url": url, "client_id": options["client_id"], "client_secret": options["client_secret"]}
    if options["user"]:
        return grants.password(**client, user=options["user"], password=options["password"], scope=options["scope"], headers=headers)
    return grants.client_credentials(**client, scope=options["scope"], headers=headers)


def request(options: Options, method: str, path: str, hotel_id: str, body: Mapping[str, Any] | None = None) -> Request:
    headers = {"x-app-key": options["app_key"], "accept": "application/json"} | ({"x-hotelid": hotel_id} if hotel_id else {})
    if body is not None:
        headers["content-type"] = "application/json"
    return Request(method=method, url=path, headers=headers, body=None if body is None else orjson.dumps(body))


def fill(template: str, **names: str) -> str:
    """A path with `{name}` replaced. What replaces is quoted: it comes from outside."""
    for name, value in names.items():
        template = template.replace("{" + name + "}", quote(value, safe=""))
    return template


def content(answer: Answer) -> Any:
    """The JSON of a good answer; None for one without content. Raises ContractError."""
    if answer.status == 204:
        return None
    if answer.status != 200:
        raise ContractError("OHIP_REFUSED", f"{answer.status}: {_title(answer)}")
    return values.load(answer.body)


def _title(answer: Answer) -> str:
    try:
        return str(values.at(values.load(answer.body), "title") or "")[:OUTSIDE_CHARACTERS_MAX]
    except ContractError:
        return ""
