"""Await a condition instead of sleeping."""

import time
from collections.abc import Callable

POLL_S = 0.02


def wait_until(predicate: Callable[[], bool], timeout_s: float) -> None:
    """Return as soon as `predicate()` is true. Raises TimeoutError when it was not within `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while True:
        looked_s = time.monotonic()
        if predicate():
            return
        if time.monotonic() > deadline:
            raise TimeoutError(f"not true within {timeout_s} s: {predicate}")
        # A look that takes long, at a whole topic for example, is rare: it would take the processors from what is awaited.
        time.sleep(max(POLL_S, 2 * (time.monotonic() - looked_s)))
