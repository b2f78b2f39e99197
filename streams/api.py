"""The REST API of the ingress as the command line asks it: one request, and what to change when it is refused."""

import json
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from http.client import HTTPException
from typing import Any
from urllib.parse import urlencode

from streams import settings as settings_module
from streams.errors import LoyaltyError
from streams.member_view import TOKEN_VARIABLE, ingress_url, token_of_the_stack
from streams.settings import PREFIX

TIMEOUT_S = 60.0
PAGE = 200  # The most that the ingress's lists give at once.

Fields = dict[str, Any]


class RefusedError(LoyaltyError):
    """The ingress does not do it, or does not answer. The message says why, and what to change."""


class Api:
    """An ingress and a token. Raises ConfigurationError when no token is given, RefusedError for what is refused or not answered."""

    def __init__(self, url: str | None, token: str | None) -> None:
        settings = settings_module.load()
        self._url = (url or ingress_url(settings)).rstrip("/")
        self._token = token or settings.api_token or token_of_the_stack(settings, self._url)

    def ask(self, method: str, path: str, query: Mapping[str, Any] | None = None, body: Any = None) -> Fields:
        """The answer, JSON. What is None in `query` is left out."""
        given = {name: value for name, value in (query or {}).items() if value is not None}
        request = urllib.request.Request(
            f"{self._url}{path}{f'?{urlencode(given)}' if given else ''}", method=method,
            headers={"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"},
            data=None if body is None else json.dumps(body).encode(),
        )  # fmt: skip
        try:
            with urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect()).open(request, timeout=TIMEOUT_S) as response:
                found: Fields = json.loads(response.read())
                return found
        except urllib.error.HTTPError as error:
            raise RefusedError(_refusal(error, self._url)) from error
        except (OSError, HTTPException, ValueError) as error:
            advice = f"Is `loyalty up` running? --url, or {PREFIX}INGRESS_HOST and {PREFIX}INGRESS_PORT, name another place."
            raise RefusedError(f"No whole answer from {self._url}: {type(error).__name__}: {error}. {advice}") from error

    def pages(self, path: str, name: str, query: Mapping[str, Any], limit: int) -> Iterator[Fields]:
        """The first `limit` rows of a list, page by page; `name` is the field of a page that has them."""
        after, left = None, limit
        while left:
            page = self.ask("GET", path, {**query, "limit": min(PAGE, left), "after": after})
            yield from page[name]
            left -= len(page[name])
            after = page["next"]
            if after is None:
                return


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Would take the token to wherever it is told to go."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _refusal(error: urllib.error.HTTPError, url: str) -> str:
    """Why not, in the ingress's words."""
    try:
        problem = json.loads(error.read())
        kind, title = str(problem["type"]).removeprefix("urn:loyalty:"), str(problem.get("detail") or problem["title"])
        broken = [": ".join(filter(None, (one["field"], one["detail"]))) for one in problem.get("errors", ())]
    except (ValueError, KeyError, TypeError, OSError, HTTPException):
        return f"{url} answers {error.code} without saying why: is --url that of an ingress?"
    if kind == "unauthenticated":
        return f"{url} does not know the token: set {TOKEN_VARIABLE}, or give --token."
    if kind == "forbidden":
        return f"{url}: {title}. Give another token, or change its scopes and programs in the configuration file of the ingress."
    return "\n".join(broken) or f"{url} answers {error.code}: {title}"
