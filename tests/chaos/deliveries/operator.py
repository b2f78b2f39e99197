"""What an operator does while a storm rages: destinations are paused and resumed, deliveries replayed, through the control topic."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TypeVar

from schemas.codec import Codec
from schemas.registry import LocalRegistry
from streams import configuration
from streams.destinations.control import ControlLog
from streams.destinations.model import DestinationState, Job, State
from streams.errors import LoyaltyError
from streams.settings import Settings

NAME = "storm"
ASK_S = 120.0  # The broker may be away.
AGAIN_S = 0.5
Found = TypeVar("Found")


class Operator:
    """Methods may be called from any thread between `start` and `stop`, and return when the topic has what they say. An outage is sat out."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True, name="operator")
        self._control: ControlLog | None = None

    def start(self) -> None:
        self._thread.start()
        self._ask(self._open)

    def stop(self) -> None:
        if self._thread.is_alive():
            self._ask(self._close)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
        self._loop.close()

    def pause(self, destination: str) -> None:
        self._set_state(destination, State.PAUSED)

    def resume(self, destination: str) -> None:
        self._set_state(destination, State.ACTIVE)

    def replay(self, destination: str) -> None:
        """All that was appended so far, beside what goes on."""
        now_ms = time.time_ns() // 1_000_000
        job = Job(job_id=f"storm-{destination}-{now_ms}", destination=destination, until_ms=now_ms, rate_max_per_s=None, created_by=NAME, created_at_ms=now_ms)

        async def put(control: ControlLog) -> None:
            if job.job_id not in control.jobs:  # An earlier try of ours may have arrived without an answer.
                await control.put_job(job, changed_by=NAME)

        self._insist(put)

    def _set_state(self, destination: str, state: State) -> None:
        def put(control: ControlLog) -> Awaitable[object]:
            known = control.states.get(destination) or DestinationState(name=destination)
            return control.put_state(replace(known, state=state, reason="OPERATOR"), changed_by=NAME)

        self._insist(put)

    def _insist(self, what: Callable[[ControlLog], Awaitable[object]]) -> None:
        """Again and again, until the broker answers, and nobody else was quicker."""
        end_s = time.monotonic() + ASK_S
        while True:
            try:
                control = self._control
                assert control is not None
                self._ask(lambda: what(control))
                return
            except LoyaltyError:
                if time.monotonic() > end_s:
                    raise
                time.sleep(AGAIN_S)

    def _ask(self, what: Callable[[], Awaitable[Found]]) -> Found:
        async def ask() -> Found:
            return await what()

        return asyncio.run_coroutine_threadsafe(ask(), self._loop).result(ASK_S)

    async def _open(self) -> None:
        destinations = configuration.load(self._settings).destinations
        self._control = ControlLog(self._settings, Codec(LocalRegistry()), destinations)
        self._control.start()
        await self._control.ready()

    async def _close(self) -> None:
        if self._control is not None:
            await self._control.close()
