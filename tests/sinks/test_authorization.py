"""Tokens from a real endpoint that misbehaves: fetched once, renewed in time, refused with sense, and never told to anybody."""

import asyncio
import base64
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote_plus

import pytest
from aiohttp import web

from sinks.addresses import Allowed, parse_allowed
from sinks.authorization import tokens_of
from sinks.transport import Transport
from streams.connectors import grants
from streams.connectors.tokens import BACK_OFF_MAX_S, FRESH_S, LIFE_MAX_S, LIFE_MIN_S, LIFE_UNKNOWN_S, TokenError, TokenKeeper
from streams.destinations.model import Bearer, ClientCredentials

CLIENT_ID, CLIENT_SECRET = "the client", "hush:/+ ü%"  # Of characters that have to be encoded.
Reply = Callable[[int], web.StreamResponse]


@dataclass
class Endpoint:
    """A token endpoint. Says what `reply` says to the n-th request, from 1; else a token that is good for an hour."""

    url: str = ""
    reply: Reply | None = None
    requests: list[dict[str, str]] = field(default_factory=list)
    """The form of each, and its Authorization header."""
    open: asyncio.Event = field(default_factory=asyncio.Event)
    """Until it is set, nothing is answered."""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        form = {name: values[0] for name, values in parse_qs((await request.read()).decode(), strict_parsing=True).items()}
        self.requests.append({**form, "authorization": request.headers.get("authorization", ""), "type": request.content_type})
        number = len(self.requests)
        await self.open.wait()
        return self.reply(number) if self.reply else token(number)


def token(number: int, **fields: Any) -> web.Response:
    content = {"access_token": f"token-{number}", "token_type": "Bearer", "expires_in": 3600, **fields}
    return web.json_response({name: value for name, value in content.items() if value is not None})


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
async def endpoint() -> AsyncIterator[Endpoint]:
    running = Endpoint()
    running.open.set()
    app = web.Application()
    app.router.add_post("/token", running.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    running.url = f"http://127.0.0.1:{runner.addresses[0][1]}/token"
    yield running
    running.open.set()
    await runner.cleanup()


@pytest.fixture
async def transport() -> AsyncIterator[Transport]:
    one = Transport(parse_allowed("127.0.0.1"))
    yield one
    await one.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def tokens(endpoint: Endpoint, transport: Transport, clock: Clock) -> TokenKeeper:
    return tokens_of(client(endpoint.url), transport, clock=clock)


def client(url: str, **fields: str) -> ClientCredentials:
    return ClientCredentials(token_url=url, client_id=CLIENT_ID, client_secret=CLIENT_SECRET, **fields)


async def header_of(tokens: TokenKeeper) -> str:
    return (await tokens.get()).headers["authorization"]


def is_another_worth(tokens: TokenKeeper, refused: str) -> bool:
    return tokens.refuse(grants.bearer(refused.removeprefix("Bearer ")))


async def problem(tokens: TokenKeeper) -> str:
    with pytest.raises(TokenError) as caught:
        await header_of(tokens)
    return str(caught.value)


async def test_a_fixed_token_is_always_the_same(transport: Transport) -> None:
    tokens = tokens_of(Bearer(token="fixed"), transport)
    assert await header_of(tokens) == "Bearer fixed"
    assert not is_another_worth(tokens, "Bearer fixed"), "a 401 is the destination's word"


async def test_what_is_asked_for(endpoint: Endpoint, transport: Transport) -> None:
    tokens = tokens_of(client(endpoint.url, scope="hooks write", audience="https://crm.example"), transport)
    assert await header_of(tokens) == "Bearer token-1"
    request = endpoint.requests[0]
    scheme, _, pair = request.pop("authorization").partition(" ")
    assert scheme == "Basic"
    assert [unquote_plus(part) for part in base64.b64decode(pair).decode().split(":")] == [CLIENT_ID, CLIENT_SECRET]
    assert request == {
        "grant_type": "client_credentials", "scope": "hooks write", "audience": "https://crm.example", "type": "application/x-www-form-urlencoded",
    }  # fmt: skip


@pytest.mark.parametrize("status", [401, 400])
async def test_a_server_that_wants_the_secret_in_the_body_gets_it_there(endpoint: Endpoint, tokens: TokenKeeper, clock: Clock, status: int) -> None:
    def reply(number: int) -> web.StreamResponse:
        in_body = "client_secret" in endpoint.requests[-1]
        return token(number) if in_body else web.json_response({"error": "invalid_client"}, status=status)

    endpoint.reply = reply
    assert await header_of(tokens) == "Bearer token-2"
    assert (endpoint.requests[1]["client_id"], endpoint.requests[1]["client_secret"]) == (CLIENT_ID, CLIENT_SECRET)
    assert endpoint.requests[1]["authorization"] == ""
    clock.now_s += 4000
    assert await header_of(tokens) == "Bearer token-3", "it is known by now"


async def test_a_secret_that_is_refused_in_both_places_is_an_error(endpoint: Endpoint, tokens: TokenKeeper) -> None:
    endpoint.reply = lambda number: web.json_response({"error": "invalid_client", "error_description": CLIENT_SECRET}, status=401)
    assert await problem(tokens) == "token endpoint: status 401, invalid_client"
    assert len(endpoint.requests) == 2


async def test_all_that_wait_share_one_fetch(endpoint: Endpoint, tokens: TokenKeeper) -> None:
    """And it goes on when the first of them gives up."""
    endpoint.open.clear()
    waiting = [asyncio.create_task(header_of(tokens)) for _ in range(20)]
    while not endpoint.requests:
        await asyncio.sleep(0)
    waiting[0].cancel()
    endpoint.open.set()
    headers = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(headers[0], asyncio.CancelledError) and headers[1:] == ["Bearer token-1"] * 19
    assert len(endpoint.requests) == 1


@pytest.mark.parametrize(("life_s", "margin_s"), [(3600, 30), (100, 10)])
async def test_a_token_is_kept_until_shortly_before_its_end(
    endpoint: Endpoint, tokens: TokenKeeper, clock: Clock, life_s: int, margin_s: int
) -> None:
    endpoint.reply = lambda number: token(number, expires_in=life_s)
    assert await header_of(tokens) == "Bearer token-1"
    clock.now_s += life_s - 2 * margin_s - 0.1
    assert await header_of(tokens) == "Bearer token-1" and len(endpoint.requests) == 1
    clock.now_s += margin_s + 0.1
    assert await header_of(tokens) == "Bearer token-2", "not used in its last seconds"


async def test_a_token_in_use_is_renewed_in_the_background(endpoint: Endpoint, tokens: TokenKeeper, clock: Clock) -> None:
    """Nobody waits for it, and nobody sees that it fails, as long as there is one that is good."""
    assert await header_of(tokens) == "Bearer token-1"
    endpoint.reply = lambda number: token(number) if number == 3 else web.Response(status=503)
    clock.now_s += 3600 - 45
    assert await header_of(tokens) == "Bearer token-1"
    async with asyncio.timeout(10):
        while len(endpoint.requests) < 2:
            await asyncio.sleep(0)
        assert await header_of(tokens) == "Bearer token-1"
        while await header_of(tokens) != "Bearer token-3":
            clock.now_s += 0.01
            await asyncio.sleep(0)
    assert len(endpoint.requests) == 3


async def test_after_a_401_there_is_another_token_and_only_one(endpoint: Endpoint, tokens: TokenKeeper, clock: Clock) -> None:
    first = await header_of(tokens)
    clock.now_s += FRESH_S
    assert is_another_worth(tokens, first)
    second = await header_of(tokens)
    assert is_another_worth(tokens, first), "an attempt that was under way with the first one has reason to try again, too"
    assert await header_of(tokens) == second == "Bearer token-2"
    assert not is_another_worth(tokens, second), "a fresh token that is refused is the destination's word"
    assert await header_of(tokens) == second and len(endpoint.requests) == 2
    clock.now_s += FRESH_S
    assert is_another_worth(tokens, second)
    assert await header_of(tokens) == "Bearer token-3"


async def test_failures_back_off(endpoint: Endpoint, tokens: TokenKeeper, clock: Clock) -> None:
    endpoint.reply = lambda number: web.Response(status=500)
    asked_at_s = []
    for _ in range(2000):
        before = len(endpoint.requests)
        assert await problem(tokens) == "token endpoint: status 500"
        if len(endpoint.requests) > before:
            asked_at_s.append(clock.now_s)
        clock.now_s += 0.25
    waits_s = [later - earlier for earlier, later in zip(asked_at_s, asked_at_s[1:])]
    assert waits_s[:8] == [1, 2, 4, 8, 16, 32, BACK_OFF_MAX_S, BACK_OFF_MAX_S]
    endpoint.reply = None
    clock.now_s += BACK_OFF_MAX_S
    assert (await header_of(tokens)).startswith("Bearer token-")


async def test_the_endpoint_may_ask_for_a_longer_pause(endpoint: Endpoint, tokens: TokenKeeper, clock: Clock) -> None:
    endpoint.reply = lambda number: web.Response(status=429, headers={"Retry-After": "30"})
    await problem(tokens)
    clock.now_s += 29
    assert await problem(tokens) == "token endpoint: status 429" and len(endpoint.requests) == 1
    clock.now_s += 1
    await problem(tokens)
    assert len(endpoint.requests) == 2


@pytest.mark.parametrize("reply", [
    lambda _: web.Response(text="hush"),
    lambda _: web.Response(text=""),
    lambda _: web.Response(body=b"\xff\xfe"),
    lambda _: web.Response(text='"hush"'),
    lambda _: web.Response(text="[" * 50_000),
    lambda _: web.Response(text='{"access_token": "hush", "x": "' + "x" * 1_000_000 + '"}'),
    lambda _: token(1, access_token=None),
    lambda _: token(1, access_token=""),
    lambda _: token(1, access_token=7),
    lambda _: token(1, access_token="hush\r\nx-other: hush"),
    lambda _: token(1, access_token="hüsh"),
    lambda _: token(1, access_token="hush" * 10_000),
    lambda _: token(1, token_type="mac hush"),
    lambda _: token(1, token_type=7),
    lambda _: web.Response(status=302, headers={"Location": "http://127.0.0.1:1/hush"}),
    lambda _: web.json_response({"error": "hush hush", "error_description": "hush"}, status=400),
    lambda _: web.json_response({"error": ["hush"]}, status=400),
], ids=[
    "text", "nothing", "bytes", "string", "deep", "huge", "no token", "empty", "number", "line break", "umlaut", "long", "mac", "type of a number", "redirect",
    "odd code", "code in a list",
])  # fmt: skip
async def test_a_hostile_answer_is_an_error_that_tells_nothing(endpoint: Endpoint, tokens: TokenKeeper, reply: Reply) -> None:
    endpoint.reply = reply
    text = await problem(tokens)
    assert text.startswith("token endpoint: ") and "hush" not in text and "hüsh" not in text


@pytest.mark.parametrize(("expires_in", "life_s"), [
    (None, LIFE_UNKNOWN_S), (-1, LIFE_UNKNOWN_S), (0, LIFE_UNKNOWN_S), ("soon", LIFE_UNKNOWN_S), ([], LIFE_UNKNOWN_S), ("nan", LIFE_UNKNOWN_S),
    (0.001, LIFE_MIN_S), ("600", 600), (600.5, 600.5), (1e300, LIFE_MAX_S), ("inf", LIFE_MAX_S),
], ids=["none", "negative", "zero", "word", "list", "nan", "tiny", "text", "fraction", "huge", "infinite"])  # fmt: skip
async def test_a_life_that_is_told_badly(endpoint: Endpoint, tokens: TokenKeeper, clock: Clock, expires_in: object, life_s: float) -> None:
    endpoint.reply = lambda number: token(number, expires_in=expires_in)
    assert await header_of(tokens) == "Bearer token-1"
    margin_s = min(30, life_s / 10)
    clock.now_s += life_s - 2 * margin_s - 0.1
    assert await header_of(tokens) == "Bearer token-1" and len(endpoint.requests) == 1
    clock.now_s += margin_s + 0.2
    assert await header_of(tokens) == "Bearer token-2"


async def test_a_type_that_is_missing_or_in_another_case_is_bearer(endpoint: Endpoint, tokens: TokenKeeper) -> None:
    endpoint.reply = lambda number: token(number, token_type="bEARER")
    assert await header_of(tokens) == "Bearer token-1"
    endpoint.reply = lambda number: token(number, token_type=None)
    assert is_another_worth(tokens, "Bearer token-0") and await header_of(tokens) == "Bearer token-1"


async def test_the_token_endpoint_must_be_allowed_as_any_other_peer(endpoint: Endpoint) -> None:
    strict = Transport(Allowed())
    text = await problem(tokens_of(client(endpoint.url), strict))
    assert "BLOCKED_ADDRESS" in text and endpoint.requests == []
    await strict.close()


async def test_nothing_shows_the_secrets(endpoint: Endpoint, tokens: TokenKeeper) -> None:
    header = await header_of(tokens)
    shown = repr(tokens) + repr(vars(tokens))
    assert header not in shown and CLIENT_SECRET not in shown
