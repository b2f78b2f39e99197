"""What a request is told when it cannot be served: problem details of RFC 9457, one exception for all of them."""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from aiohttp import web

from schemas.contract import Problem

CONTENT_TYPE = "application/problem+json"
ERRORS_MAX = 50  # A body of 1 MiB can break thousands of rules; nobody reads more than these.
TYPE = "urn:loyalty:"

TITLES = {
    "malformed": "The request cannot be read.",
    "invalid": "The request breaks rules of the contract.",
    "unauthenticated": "The request does not prove who sends it.",
    "forbidden": "The token does not allow this.",
    "not-found": "There is nothing at this path.",
    "not-a-member": "The programme has no such member.",
    "method-not-allowed": "The path does not offer this method.",
    "too-large": "The request is too large.",
    "media-type": "The request is in a form that is not served.",
    "timeout": "The request took too long to arrive.",
    "conflict": "The id was used before with another payload.",
    "stale": "The destination is not what the request takes it for.",
    "refused": "The programme's rules refuse this.",
    "unavailable": "The service cannot do this right now. Send it again, with the same id.",
    "not-yet": "The member's account has not reached that sequence yet.",
    "internal": "The service failed on this request.",
}


class ProblemError(Exception):
    """Ends a request with a problem. `kind` is a key of TITLES and the last part of the problem's type."""

    def __init__(
        self,
        status: int,
        kind: str,
        detail: str = "",
        *,
        errors: Sequence[Problem] = (),
        headers: Mapping[str, str] | None = None,
        code: str = "",
        **members: Any,
    ) -> None:
        super().__init__(f"{status} {kind} {code} {detail}")
        self.status = status
        self.kind = kind
        self.detail = detail
        self.errors = tuple(errors)
        self.headers = dict(headers or {})
        self.code = code
        self.members = members

    def body(self, correlation_id: str) -> dict[str, Any]:
        """The problem as JSON."""
        body: dict[str, Any] = {
            "type": TYPE + self.kind + (f":{self.code}" if self.code else ""),
            "title": TITLES[self.kind],
            "status": self.status,
            "correlation_id": correlation_id,
        }
        if self.detail:
            body["detail"] = self.detail
        if self.errors:
            shown = self.errors[:ERRORS_MAX]
            body["errors"] = [{"field": e.field, "reason": e.reason, "detail": e.detail} for e in shown]
        return body | self.members

    def response(self, correlation_id: str) -> web.Response:
        return web.Response(
            body=orjson.dumps(self.body(correlation_id)), status=self.status, content_type=CONTENT_TYPE, headers=self.headers
        )


def invalid(*errors: Problem) -> ProblemError:
    """422 with the list of what is wrong."""
    return ProblemError(422, "invalid", errors=errors)


def unavailable(retry_after_s: int = 1) -> ProblemError:
    """503. Which part is down is in the log, for operators, and not in the answer."""
    return ProblemError(503, "unavailable", headers={"Retry-After": str(retry_after_s)})
