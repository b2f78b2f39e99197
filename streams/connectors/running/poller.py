"""A poll, run again and again: its conversation is led over HTTP, what it finds goes into the log, then its cursor, and so on."""

import asyncio
import logging
import random
import time

from streams import metrics
from streams.connectors.contract import Answer, Poll, Request, Verdict
from streams.connectors.exchange import Unanswered
from streams.connectors.running.conversation import lead
from streams.connectors.running.feed import Feed
from streams.connectors.running.progress import now_ms
from streams.errors import ContractError

log = logging.getLogger(__name__)

ATTEMPTS_MAX = 4
"""Of one request; then the run is broken off, and begun anew later."""
WAIT_S = 60.0
"""How long nothing is asked of a system that is at its limit and does not say how long."""
WAIT_MAX_S = 15 * 60.0
FAILED_WAIT_MAX_S = 60.0
"""Longest wait between runs that fail."""


async def run(feed: Feed, poll: Poll) -> None:
    """Run until it is cancelled. Nothing that the system answers, and no error of the connector, ends it."""
    every_s: float = feed.source.options.get("poll_every_s", poll.every_s)
    failures = 0
    while True:
        began_s = time.monotonic()
        failures = 0 if await _run_once(feed, poll) else failures + 1
        metrics.SOURCE_POLL_SECONDS.labels(*feed.progress.name).observe(time.monotonic() - began_s)
        wait_s = began_s + every_s - time.monotonic()
        if failures:
            wait_s = min(feed.schedule.delay_s(failures, random.random()), FAILED_WAIT_MAX_S)
        await asyncio.sleep(max(0.0, wait_s))


async def _run_once(feed: Feed, poll: Poll) -> bool:
    """Whether the run has gone well."""
    feed.progress.begin()
    result, error = "done", ""
    try:
        await lead(poll.begin(feed.source, feed.progress.cursor, now_ms()), lambda request: _ask(feed, request), feed.take)
        await feed.progress.succeeded()
    except Unanswered as unanswered:
        result, error = "unanswered", unanswered.detail
    except ContractError as refused:
        result, error = "refused", f"{refused.reason}: {refused.detail}"
    except Exception:
        # An error of ours. What was found before it is in the log; the run begins anew where that ended.
        log.exception("source.poll_raised", extra={"source": feed.source.name, "feed": feed.progress.record.feed})
        result, error = "error", "the run has raised an error of its own: see the log of this process"
    metrics.SOURCE_POLLS.labels(*feed.progress.name, result).inc()
    if error:
        await feed.failed(error)
    return not error


async def _ask(feed: Feed, request: Request) -> Answer:
    """The answer. A limit of the system is waited for, however long; other failures are tried again a few times. Raises Unanswered."""
    attempt = 0
    while True:
        try:
            answer = await feed.exchange.ask(request)
        except Unanswered as error:
            if error.verdict is Verdict.WAIT:
                wait_s = min(WAIT_S if error.after_s is None else error.after_s, WAIT_MAX_S)
                await feed.failed(error.detail, waits_until_ms=now_ms() + int(wait_s * 1000))
            else:
                attempt += 1
                if attempt >= ATTEMPTS_MAX:
                    raise
                wait_s = feed.schedule.delay_s(attempt, random.random()) if error.after_s is None else min(error.after_s, WAIT_MAX_S)
            await asyncio.sleep(wait_s)
        else:
            return answer
