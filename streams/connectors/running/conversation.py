"""A conversation, led to its end: requests are asked, what is found is taken."""

from collections.abc import Awaitable, Callable

from streams.connectors.contract import Answer, Found, Polling, Request


async def lead(polling: Polling, ask: Callable[[Request], Awaitable[Answer]], take: Callable[[Found], Awaitable[object]]) -> None:
    """Return when the conversation is over. Raises whatever it, `ask` and `take` raise: then it is broken off."""
    try:
        step = next(polling)
        while True:
            if isinstance(step, Request):
                answer: Answer | None = await ask(step)
            else:
                await take(step)
                answer = None
            step = polling.send(answer)
    except StopIteration:
        return
    finally:
        polling.close()
