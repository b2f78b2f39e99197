"""What a receiver has accepted, in the order of arrival, each event once."""

import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson

from infra.demo.checks import TIMEOUT_S, CheckFailed
from infra.fakes.receiver import Receiver


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """The first genuine delivery of an event."""

    member: str
    """programme/member."""
    sequence: int
    kind: str
    command_id: str
    """What the sender called the command behind it."""
    at_s: float
    """Monotonic time."""
    event: Mapping[str, Any]

    @property
    def decided_s(self) -> float:
        """Monotonic time of the worker's decision: by its clock, which is this machine's."""
        moment: str = self.event["recorded_at"]
        return datetime.fromisoformat(moment).timestamp() + time.monotonic() - time.time()


class Inbox:
    """Reads along what a receiver gets. Only deliveries with a valid signature count: the receiver refuses all others."""

    def __init__(self, name: str, secret: str) -> None:
        self.name = name
        self.secret = secret
        self.receiver = Receiver(secret)
        self.arrivals: list[Arrival] = []
        self.repeated = 0
        """Deliveries of events that had been accepted before."""
        self._ids: set[str] = set()
        self._read = 0

    def read(self) -> None:
        """Take in what has come since the last call."""
        received = self.receiver.received
        for one in received[self._read :]:
            if not one.accepted:
                continue
            if one.webhook_id in self._ids:
                self.repeated += 1
                continue
            self._ids.add(one.webhook_id)
            event = orjson.loads(one.body)["data"]
            if "cause" not in event:  # A test.
                continue
            self.arrivals.append(
                Arrival(member=one.member, sequence=one.sequence, kind=event["kind"], command_id=event["cause"]["command_id"],
                        at_s=one.at_s, event=event)
            )  # fmt: skip
        self._read = len(received)

    async def collect(self, what: str, wanted: int, matches: Callable[[Arrival], bool], *, timeout_s: float = TIMEOUT_S) -> list[Arrival]:
        """The first `wanted` arrivals that match, once they are there. Raises CheckFailed."""
        found: list[Arrival] = []
        looked_at = 0

        def enough(_: Receiver) -> bool:
            nonlocal looked_at
            self.read()
            found.extend(filter(matches, self.arrivals[looked_at:]))
            looked_at = len(self.arrivals)
            return len(found) >= wanted

        try:
            await self.receiver.wait_for(enough, timeout_s)
        except TimeoutError:
            expected = f"{wanted} events within {timeout_s:.0f} s"
            raise CheckFailed(f"{self.name}: {what}", expected=expected, seen=f"{len(found)} events") from None
        return found[:wanted]

    async def hear(self, kind: str, command_id: str, member: str = "") -> Arrival:
        """The event of this kind that follows from a command, for this member or for any. Raises CheckFailed."""

        def matches(one: Arrival) -> bool:
            return one.kind == kind and one.command_id == command_id and member in ("", one.member)

        return (await self.collect(f"{kind} of {command_id}", 1, matches))[0]

    def faults(self, wanted: Mapping[str, int]) -> list[str]:
        """Members whose sequences are not exactly 1, 2, 3 up to the wanted one, in this order; a sentence for each."""
        self.read()
        heard: defaultdict[str, list[int]] = defaultdict(list)
        for one in self.arrivals:
            heard[one.member].append(one.sequence)
        return [
            f"{member}: {heard[member]} instead of 1 to {wanted.get(member, 0)}"
            for member in sorted(wanted.keys() | heard.keys())
            if heard[member] != list(range(1, wanted.get(member, 0) + 1))
        ]
