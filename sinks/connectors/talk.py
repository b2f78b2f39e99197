"""One conversation with a system: what is to be written is announced in the log, then asked for, request by request."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

from sinks.connectors.lease import Lease
from sinks.connectors.members import Entry, state_of
from streams.connectors.contract import MemberState, Request, Verdict, Written
from streams.connectors.exchange import Exchange, Heard, Unanswered
from streams.errors import ContractError, LoyaltyError

if TYPE_CHECKING:
    from sinks.connectors.partition import Partition
    from sinks.connectors.process import Run

Offer: TypeAlias = "tuple[Partition, Entry]"


class Talk:
    """Its entries are begun already, and ended by whoever calls `hold`."""

    def __init__(
        self, run: "Run", exchange: Exchange, batch: Sequence[Offer], *, turn: Callable[[], Awaitable[None]], timeout_max_s: float
    ) -> None:
        self.heard: list[Heard] = []
        """All requests so far."""
        self.was_begun = False
        """What went wrong, if anything did, is the system's doing."""
        self._run = run
        self._exchange = exchange
        self._batch = batch
        self._turn = turn
        self._timeout_max_s = timeout_max_s
        self._lease: Lease | None = None

    @property
    def status(self) -> int | None:
        """Of the last answer."""
        return self.heard[-1].received.status if self.heard else None

    @property
    def was_held_back(self) -> bool:
        """The last request was not sent: it was too late for it."""
        return self._lease is not None and self._lease.is_over

    async def hold(self) -> Sequence[Written]:
        """What became of each member, in order. Raises Unanswered, and whatever the translator raises."""
        states = await self._run.with_profiles([state_of(entry) for _, entry in self._batch])
        conversation = self._run.write.begin(self._run.target, states, time.time_ns() // 1_000_000)
        try:
            request = next(conversation)
            self.was_begun = True
            await self._exchange.ready()
            while True:
                request = conversation.send(await self._exchange.ask(await self._announced(request), before=self._check, heard=self.heard.append))
        except StopIteration as end:
            return _checked(end.value, states)
        finally:
            conversation.close()

    async def _announced(self, request: Request) -> Request:
        """The request, when it may be sent: its states are announced, not too long ago, and the pace allows it. Raises Unanswered."""
        await self._turn()
        request = replace(request, timeout_s=min(request.timeout_s, self._timeout_max_s))
        if self._lease is None or not self._lease.allows(request.timeout_s):
            self._lease = await self._announce(request.timeout_s)
        return request

    async def _announce(self, timeout_s: float) -> Lease:
        lease = Lease(timeout_s)  # Before the commit: whoever takes over after it comes later still.
        for partition, entry in self._batch:
            entry.intended_life_s = lease.life_s
            partition.changed(entry)
        try:
            await asyncio.gather(*(partition.commit() for partition in dict.fromkeys(partition for partition, _ in self._batch)))
        except LoyaltyError as error:
            self.was_begun = False
            raise Unanswered(Verdict.RETRY, f"not announced: {error}") from error
        return lease

    def _check(self) -> None:
        assert self._lease is not None, "it was announced"
        self._lease.check()


def _checked(written: object, states: Sequence[MemberState]) -> Sequence[Written]:
    if not isinstance(written, Sequence) or len(written) != len(states) or not all(isinstance(one, Written) for one in written):
        raise ContractError("OUTCOMES_MISSING", f"the conversation about {len(states)} members did not say what became of each")
    return written
