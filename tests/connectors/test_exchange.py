"""One request over real HTTP: tokens, refusals, limits, answers that are none; and to whom a token goes."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from infra.fakes.server import FakeServer, Misbehaviour
from sinks.transport import Transport
from streams.connectors import grants
from streams.connectors.contract import Answer, Budget, Connector, Judgement, Option, Request, Verdict, judge
from streams.connectors.exchange import FRESH_S, Exchange, Heard, Unanswered, connect

SECRET = "hush"


class System(FakeServer):
    """Gives tokens and says what it was asked, and with what."""

    def add_routes(self, app: web.Application) -> None:
        self.names_itself = False
        self.authorizations: list[str] = []
        app.router.add_post("/token", self.give_token)
        app.router.add_route("*", "/thing", self.can_fail("thing", self.thing))

    async def give_token(self, request: web.Request) -> web.Response:
        content = {"access_token": self.new_token(), "token_type": "Bearer"} | ({"instance_url": self.base_url} if self.names_itself else {})
        return web.json_response(content)

    async def thing(self, request: web.Request) -> web.Response:
        self.authorizations.append(request.headers.get("Authorization", ""))
        if not self.is_authorized(request):
            return web.Response(status=401)
        return web.Response(text="x" * int(request.query.get("bytes", "5")), headers={"X-Used": "3/10"})


def budget(answer: Answer) -> Budget | None:
    used, _, allowed = answer.headers.get("X-Used", "").partition("/")
    return Budget(used=int(used), allowed=int(allowed)) if allowed else None


def connector(**changed: Any) -> Connector:
    given: dict[str, Any] = {
        "kind": "system", "title": "System", "source_options": (Option(name="base_url", doc="", is_url=True),), "budget": budget,
        "grant": lambda options: grants.client_credentials(url=options["token_url"], client_id="id", client_secret=SECRET),
    }  # fmt: skip
    return Connector(**given | changed)


@pytest.fixture
async def system() -> AsyncIterator[System]:
    one = System()
    await one.start()
    yield one
    await one.stop()


@pytest.fixture
async def transport() -> AsyncIterator[Transport]:
    one = connect()
    yield one
    await one.close()


def exchange(system: System, transport: Transport, **changed: Any) -> Exchange:
    return Exchange(connector(**changed), {"base_url": system.base_url, "token_url": f"{system.base_url}/token"}, transport)


async def unanswered(exchange: Exchange, request: Request, **options: Any) -> Unanswered:
    with pytest.raises(Unanswered) as caught:
        await exchange.ask(request, **options)
    assert SECRET not in caught.value.detail
    return caught.value


THING = Request(method="GET", url="/thing")


async def test_an_answer_comes_with_a_token_and_tells_the_budget(system: System, transport: Transport) -> None:
    asked = exchange(system, transport)
    answer = await asked.ask(THING)
    assert (answer.status, answer.body, answer.headers["x-used"]) == (200, b"xxxxx", "3/10")
    assert asked.budget == Budget(used=3, allowed=10) and system.tokens_issued == 1


async def test_a_relative_address_follows_the_tokens_own(system: System, transport: Transport) -> None:
    system.names_itself = True
    asked = Exchange(connector(), {"base_url": "", "token_url": f"{system.base_url}/token"}, transport)
    assert (await asked.ask(THING)).status == 200


async def test_a_token_that_ended_is_replaced_once(system: System, transport: Transport) -> None:
    now_s = 1000.0
    heard: list[Heard] = []
    options = {"base_url": system.base_url, "token_url": f"{system.base_url}/token"}
    asked = Exchange(connector(), options, transport, clock=lambda: now_s)
    await asked.ask(THING, heard=heard.append)
    system.expire_tokens()
    failure = await unanswered(asked, THING, heard=heard.append)
    assert failure.verdict is Verdict.RETRY and system.tokens_issued == 1, "a token that was only just fetched is not the reason"
    now_s += FRESH_S
    assert (await asked.ask(THING, heard=heard.append)).status == 200 and system.tokens_issued == 2
    assert [one.judgement.verdict for one in heard] == [Verdict.PASS, Verdict.RENEW, Verdict.RENEW, Verdict.PASS]


async def test_without_a_token_nothing_is_asked(system: System, transport: Transport) -> None:
    asked = Exchange(connector(), {"base_url": system.base_url, "token_url": f"{system.base_url}/nowhere"}, transport)
    failure = await unanswered(asked, THING)
    assert (failure.verdict, failure.detail) == (Verdict.RETRY, "token endpoint: status 404") and not system.authorizations


@pytest.mark.parametrize(("wrong", "verdict", "after_s", "may_still_act"), [
    (Misbehaviour(status=503), Verdict.RETRY, None, False),
    (Misbehaviour(status=504), Verdict.RETRY, None, True),
    (Misbehaviour(status=503, headers={"Retry-After": "7"}), Verdict.RETRY, 7.0, False),
    (Misbehaviour(status=429, headers={"Retry-After": "9"}), Verdict.WAIT, 9.0, False),
    (Misbehaviour(status=429, headers={"Retry-After": "Sun, 22 Nov 2020 03:40:30 GMT"}), Verdict.WAIT, 0.0, False),
    (Misbehaviour(drops=True), Verdict.RETRY, None, True),
], ids=["503", "504", "retry-after", "429", "date", "drop"])  # fmt: skip
async def test_what_is_no_answer_is_named(
    system: System, transport: Transport, wrong: Misbehaviour, verdict: Verdict, after_s: float | None, may_still_act: bool
) -> None:
    asked = exchange(system, transport)
    system.misbehaviours.append(wrong)
    failure = await unanswered(asked, Request(method="POST", url="/thing"))
    assert (failure.verdict, failure.after_s, failure.may_still_act) == (verdict, after_s, may_still_act) and failure.detail
    assert (await asked.ask(THING)).status == 200


async def test_an_answer_that_is_too_long_is_none(system: System, transport: Transport) -> None:
    asked = exchange(system, transport)
    assert len((await asked.ask(Request(method="GET", url="/thing?bytes=100", bytes_max=100))).body) == 100
    failure = await unanswered(asked, Request(method="GET", url="/thing?bytes=101", bytes_max=100))
    assert failure.detail == "status 200, and more than 100 bytes"


async def test_a_token_goes_to_no_other_host(system: System, transport: Transport) -> None:
    """An answer may name the address of its next page; one that is elsewhere gets no credentials."""
    other = System()
    await other.start()
    try:
        asked = exchange(system, transport)
        await asked.ask(Request(method="GET", url=f"{system.base_url}/thing"))
        await unanswered(asked, Request(method="GET", url=f"{other.base_url}/thing"))
        assert system.authorizations[0].startswith("Bearer ") and set(other.authorizations) == {""}
    finally:
        await other.stop()


async def test_a_judge_that_raises_is_an_answer_that_is_none(system: System, transport: Transport) -> None:
    def raises(answer: Answer) -> Judgement:
        raise KeyError(SECRET)

    failure = await unanswered(exchange(system, transport, judge=raises), THING)
    assert failure.verdict is Verdict.RETRY


async def test_fixed_tokens_and_none(system: System, transport: Transport) -> None:
    system.tokens["fixed"] = float("inf")
    assert (await exchange(system, transport, grant=lambda options: grants.bearer("fixed")).ask(THING)).status == 200
    passes = exchange(system, transport, grant=lambda options: None, judge=lambda answer: Judgement(verdict=Verdict.PASS))
    assert (await passes.ask(THING)).status == 401
    assert (await unanswered(exchange(system, transport, grant=lambda options: grants.basic("u", SECRET)), THING)).detail == "not authorized: 401"


def test_the_judge_without_ways_of_its_own() -> None:
    verdicts = {status: judge(Answer(status=status)).verdict for status in (200, 204, 300, 400, 401, 403, 404, 408, 409, 425, 429, 500, 503)}
    assert verdicts == {
        200: Verdict.PASS, 204: Verdict.PASS, 300: Verdict.PASS, 400: Verdict.PASS, 401: Verdict.RENEW, 403: Verdict.PASS, 404: Verdict.PASS,
        408: Verdict.RETRY, 409: Verdict.RETRY, 425: Verdict.RETRY, 429: Verdict.WAIT, 500: Verdict.RETRY, 503: Verdict.RETRY,
    }  # fmt: skip


async def test_a_request_may_be_held_back_at_the_last_moment(system: System, transport: Transport) -> None:
    """When the connection stands, before anything of its body is sent: nothing of it reaches the system."""
    asked = exchange(system, transport)
    await asked.ask(THING)

    def refuse() -> None:
        raise TimeoutError("too late")

    before = len(system.authorizations)
    await unanswered(asked, Request(method="POST", url="/thing", body=b"x" * 100), before=refuse)
    assert (await asked.ask(Request(method="POST", url="/thing", body=b"x"), before=lambda: None)).status == 200
    assert len(system.authorizations) == before + 1
