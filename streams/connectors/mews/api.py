"""Mews Connector API: every call is a POST with the credentials in its body. Pure."""

from collections.abc import Mapping
from typing import Any

import orjson

from streams.connectors import values
from streams.connectors.contract import Answer, Options, Request
from streams.errors import ContractError


def request(options: Options, path: str, body: Mapping[str, Any]) -> Request:
    """`path` is that of the operation, as reservations/getAll/2023-06-06; paths are case-sensitive."""
    credentials = {"ClientToken": options["client_token"], "AccessToken": options["access_token"], "Client": options["client_name"]}
    return Request(
        method="POST", url=f"/api/connector/v1/{path}", headers={"content-type": "application/json"}, body=orjson.dumps({**credentials, **body}),
    )  # fmt: skip


def content(answer: Answer) -> Any:
    """The JSON of a good answer. Raises ContractError with the API's own message."""
    found = values.load(answer.body) if answer.status == 200 else None
    if answer.status != 200:
        raise ContractError("MEWS_REFUSED", f"{answer.status}: {message(answer)}")
    return found


def message(answer: Answer) -> str:
    try:
        return str(values.at(values.load(answer.body), "Message") or "")[:200]
    except ContractError:
        return ""
