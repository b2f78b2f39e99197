"""A system of numbers, each of which is a member: a connector, and its server."""

from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

from aiohttp import web

from infra.fakes.server import FakeServer
from schemas.records import Enrolment
from streams.connectors import values
from streams.connectors.contract import Budget, Connector, Cursor, Found, Hint, Option, Parked, Poll, Polling, Push, Request, Source, Stream, Tokens
from streams.connectors.proof import by_url_token
from streams.errors import ContractError

PAGE = 3


def enrolment(source: Source, number: int, **values: Any) -> Enrolment:
    return Enrolment(**{
        "program_id": source.program_id, "member_id": f"N-{number}", "event_id": f"{source.name}:{number}", "source_system": source.name,
        "occurred_at_ms": 1_795_318_800_000 + number,
    } | values)  # fmt: skip


def begin(source: Source, cursor: Cursor, now_ms: int) -> Polling:
    """Numbers behind the cursor's, page by page. One that is divisible by 100 breaks the contract, by 90 is parked, by 80 says too much, by 70 is a hint."""
    after = cursor.get("after", 0)
    while True:
        answer = yield Request(method="GET", url=f"/numbers?after={after}")
        assert answer is not None
        page = values.load(answer.body)
        if not isinstance(page, list):
            raise ContractError("TYPE_INVALID", "the page is no list")
        if not page:
            return
        after = page[-1]
        yield Found(
            commands=tuple(
                enrolment(source, n, member_id="" if n % 100 == 0 else f"N-{n}", attributes={"big": "x" * 1_100} if n % 80 == 0 else {})
                for n in page if n % 70 and n % 90
            ),
            hints=tuple(Hint(entity_id=str(n), kind="seventy", delivery_id=str(n)) for n in page if n % 70 == 0),
            parked=tuple(Parked(value=str(n).encode(), reason="NINETY", entity_id=str(n)) for n in page if n % 90 == 0),
            cursor={"after": after}, source_time_ms=now_ms - 1_000, alert="FIFTY: there it is" if 50 in page else "",
        )  # fmt: skip


def listen(source: Source, cursor: Cursor, tokens: Tokens) -> AsyncIterator[Found]:
    return source.options["listen"](source, cursor)


CONNECTOR = Connector(
    kind="numbers",
    title="Numbers",
    source_options=(
        Option(name="base_url", doc="Of the server.", is_url=True),
        Option(name="secret", doc="In the address.", is_secret=True),
        Option(name="password", doc="Of nothing.", is_secret=True),
    ),
    push=Push(authenticate=by_url_token, translate=lambda delivery, source: (_ for _ in ()).throw(ContractError("NEVER", "it is not pushed"))),
    polls={"numbers": Poll(begin=begin, every_s=0.05, is_wanted=lambda source: "listen" not in source.options)},
    streams={"spoken": Stream(open=listen, is_wanted=lambda source: "listen" in source.options)},
    budget=lambda answer: Budget(used=int(answer.headers["x-used"]), allowed=1000) if "x-used" in answer.headers else None,
)  # fmt: skip


class NumbersFake(FakeServer):
    """Knows the numbers from 1 to `last`."""

    def __init__(self) -> None:
        super().__init__()
        self.last = 0
        self.asked: list[int] = []
        """Behind which numbers."""

    def add_routes(self, app: web.Application) -> None:
        app.router.add_get("/numbers", self.can_fail("numbers", self._numbers))

    async def _numbers(self, request: web.Request) -> web.Response:
        after = int(parse_qs(urlsplit(str(request.rel_url)).query)["after"][0])
        self.asked.append(after)
        return web.json_response(list(range(after + 1, min(after + PAGE, self.last) + 1)), headers={"x-used": str(len(self.asked))})
