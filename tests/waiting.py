"""Await a condition instead of sleeping."""

import time
from collections.abc import Callable

POLL_S = 0.02


def wait_until(predicate: Callable[[], bool], timeout_s: float) -> None:
    """Return as soon as `predicate()` is true. Raises TimeoutError when it was not within `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not predicate():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not true within {timeout_s} s: {predicate}")
        time.sleep(POLL_S)
