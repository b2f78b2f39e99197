"""An event loop whose time passes at once, and a partition that only takes notes: what outlets and branches need to be tried in hours of seconds."""

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any

from sinks.base import Receipt, Verdict
from sinks.delivery.attempt import Result
from sinks.delivery.branch import Branch
from sinks.delivery.channels import of_destination, of_job
from sinks.delivery.evidence import Attempted
from sinks.delivery.lane import Lane
from sinks.delivery.outlet import Budget, Outlet
from sinks.delivery.records import Outgoing
from streams.destinations.model import Destination, Job
from tests.sinks.examples import event

EPOCH_MS = 1_772_366_400_000


class _Selector(selectors.DefaultSelector):  # type: ignore[misc,valid-type]
    """Sleeps without sleeping."""

    skipped_s = 0.0

    def select(self, timeout: float | None = None) -> Any:
        if timeout:
            self.skipped_s += timeout
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)

    def time(self) -> float:
        return 1_000.0 + self._virtual.skipped_s

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:  # type: ignore[override]
        """At once: threads would go by another clock."""
        future = self.create_future()
        future.set_result(func(*args))
        return future


def run(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(work())


def now_s() -> float:
    return asyncio.get_running_loop().time()


def now_ms() -> int:
    return EPOCH_MS + int(now_s() * 1000)


class Notes:
    """A partition that remembers what branches tell it."""

    def __init__(self) -> None:
        self.position = 0
        self.attempts: list[Attempted] = []
        self.delivered: list[str] = []
        self.given_up_events: list[tuple[str, str]] = []
        self.is_gone = False
        self.kept: dict[int, Outgoing] = {}

    def now_ms(self) -> int:
        return now_ms()

    def branch_changed(self, branch: Branch) -> None: ...

    def lane_changed(self, lane: Lane) -> None: ...

    def catch_up(self, branch: Branch) -> None: ...

    def attempted(self, attempted: Attempted) -> None:
        self.attempts.append(attempted)

    def ended(self, branch: Branch, record: Outgoing, result: Any, **_: Any) -> None:
        if result.value == "DELIVERED":
            self.delivered.append(record.event_id)

    def given_up(self, branch: Branch, record: Outgoing, kind: Any, receipt: Receipt) -> None:
        self.given_up_events.append((record.event_id, receipt.reason))

    def dropped(self, *_: Any) -> None:
        raise AssertionError("nothing is dropped here")

    def gone(self, branch: Branch) -> None:
        self.is_gone = True

    def begin_again(self) -> None:
        raise AssertionError("an error in settle")

    def load(self, lane: Lane) -> None:
        """The log has all."""
        asyncio.get_running_loop().call_soon(lambda: lane.branch.loaded(lane, {offset: self.kept[offset] for offset in lane.first(100)}))


class Receiver:
    """What a destination does, and what it saw."""

    def __init__(self, answer: Callable[[str, int], tuple[float, int]]) -> None:
        """`answer`: event id and attempt -> seconds until it answers, and the status; seconds beyond the time-out are a time-out."""
        self.answer = answer
        self.begun: list[tuple[float, str]] = []
        self.ended: list[tuple[float, str, int]] = []
        self.in_flight = 0
        self.in_flight_max = 0
        self.timeouts_s: list[float] = []
        self._seen: dict[str, int] = {}

    async def send(self, records: list[Outgoing], *, is_batch: bool, job: str, timeout_s: float) -> Result:
        event_id, began_s = records[0].event_id, now_s()
        self._seen[event_id] = self._seen.get(event_id, 0) + 1
        self.begun.append((began_s, event_id))
        self.timeouts_s.append(timeout_s)
        self.in_flight += 1
        self.in_flight_max = max(self.in_flight_max, self.in_flight)
        try:
            wait_s, status = self.answer(event_id, self._seen[event_id])
            await asyncio.sleep(min(wait_s, timeout_s))
        finally:
            self.in_flight -= 1
        if wait_s >= timeout_s:
            status = 0
        self.ended.append((now_s(), event_id, status))
        ok = 200 <= status < 300
        receipt = Receipt(verdict=Verdict.DELIVERED if ok else Verdict.RETRY, status=status or None, detail=f"status {status}")
        return Result(
            receipt=receipt, outcome=str(status) if status else "TIMEOUT", webhook_id=event_id, started_at_ms=now_ms(), seconds=now_s() - began_s,
            count=len(records), was_answered=bool(status),
        )  # fmt: skip


class Stage:
    """One destination, its outlet, and its branch in one partition."""

    def __init__(self, destination: Destination, receiver: Receiver, budget: Budget | None = None, job: Job | None = None) -> None:
        self.notes = Notes()
        self.receiver = receiver
        self.outlet = Outlet(destination, receiver.send, budget or Budget(10_000), monotonic_s=now_s, wall_ms=now_ms, random=lambda: 0.5)
        channel = of_destination(destination)[0] if job is None else of_job(job, destination)
        assert channel is not None
        self.branch = Branch(self.notes, channel, self.outlet, position=0, follows=True)  # type: ignore[arg-type]
        self._offset = 0

    def take(self, member: str, sequence: int) -> None:
        """The feed brings an event."""
        made = event(sequence, member)
        record = Outgoing(offset=self._offset, key=f"grand/{member}".encode(), record=made, timestamp_ms=now_ms())
        self.notes.kept[self._offset] = record
        self._offset += 1
        self.branch.take(record)

    @property
    def is_drained(self) -> bool:
        return not self.branch.lanes and not self.outlet.in_flight
