"""A stream, opened again and again: what it says goes into the log, then its cursor, and only then is the next thing taken from it."""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import AsyncIterator

import aiohttp

from streams.connectors.contract import Found, Stream, Token, Tokens
from streams.connectors.running.feed import Feed
from streams.errors import LoyaltyError

log = logging.getLogger(__name__)

STANDS_AFTER_S = 5.0
"""A connection that has lasted so long stands, also if nothing was said on it."""
NOTE_EVERY_S = 30.0
"""How often it is noted that a connection still stands."""
ENDED = "the connection has ended"


class NoTokens:
    """Of a source whose requests carry what authorizes them themselves."""

    async def get(self) -> Token:
        return Token(headers={}, value="")

    def refuse(self, token: Token) -> bool:
        return False


async def run(feed: Feed, stream: Stream) -> None:
    """Run until it is cancelled. Nothing that comes, and no error of the connector, ends it."""
    tokens: Tokens = feed.exchange.tokens or NoTokens()
    failures = 0
    while True:
        began_s = time.monotonic()
        feed.progress.begin()
        error = ENDED
        try:
            await _follow(feed, stream.open(feed.source, feed.progress.cursor, tokens))
        except Exception as raised:
            error = _told(feed, raised)
        failures = 1 if time.monotonic() - began_s > STANDS_AFTER_S else failures + 1
        await feed.failed(error)
        await asyncio.sleep(feed.schedule.delay_s(failures, random.random()))


async def _follow(feed: Feed, said: AsyncIterator[Found]) -> None:
    noted_s = -NOTE_EVERY_S
    began_s = time.monotonic()
    coming: asyncio.Task[Found] | None = None
    try:
        while True:
            coming = coming or asyncio.ensure_future(_next(said))
            await asyncio.wait((coming,), timeout=STANDS_AFTER_S)
            if coming.done():
                found, coming = coming.result(), None
                await feed.take(found)
            now_s = time.monotonic()
            if now_s - noted_s > NOTE_EVERY_S and (coming is None or now_s - began_s > STANDS_AFTER_S):
                noted_s = now_s
                await feed.progress.succeeded()
    except StopAsyncIteration:
        return
    finally:
        if coming is not None:
            coming.cancel()
            await asyncio.gather(coming, return_exceptions=True)
        close = getattr(said, "aclose", None)
        if close is not None:
            with contextlib.suppress(Exception):
                await close()


async def _next(said: AsyncIterator[Found]) -> Found:
    return await anext(said)


def _told(feed: Feed, raised: Exception) -> str:
    """In words that hold no secret: an address may."""
    if isinstance(raised, aiohttp.ClientResponseError):
        return f"status {raised.status}"
    if isinstance(raised, LoyaltyError | OSError | TimeoutError | aiohttp.ClientError):
        return str(raised) or type(raised).__name__
    log.exception("source.stream_raised", extra={"source": feed.source.name, "feed": feed.progress.record.feed})
    return f"{type(raised).__name__}: see the log of this process"
