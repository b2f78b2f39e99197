"""What decides about its own turns has: a call at a time, of which only the earliest counts, and tasks that end with it. Belongs to the event loop."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any


class Alarm:
    """Calls at the earliest of the times that it was set to, once."""

    def __init__(self, call: Callable[[], None], *, monotonic_s: Callable[[], float] = time.monotonic) -> None:
        self._call = call
        self._monotonic_s = monotonic_s
        self._timer: asyncio.TimerHandle | None = None
        self._due_s = 0.0

    def set(self, due_s: float) -> None:
        if self._timer is not None:
            if self._due_s <= due_s:
                return
            self._timer.cancel()
        self._due_s = due_s
        self._timer = asyncio.get_running_loop().call_later(max(0.0, due_s - self._monotonic_s()), self._ring)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _ring(self) -> None:
        self._timer = None
        self._call()


class Tasks:
    """Tasks that nobody waits for, until all are cancelled."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def begin(self, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def cancel(self) -> None:
        """Return when all have ended."""
        tasks = set(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
