"""A process of the webhooks sink in the test's own event loop, on the real broker, with destinations that the test changes as it likes."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from infra.fakes.receiver import Receiver
from schemas.records import DeliveryAttempt, DeliveryAudit
from sinks.addresses import parse_allowed
from sinks.delivery.feed import Feed, Handlers
from sinks.delivery.hub import STREAMS, Hub
from sinks.delivery.log_reader import LogReader
from sinks.transport import Transport
from streams import kafka, topics
from streams.destinations.model import Destination, DestinationState, Job, Secret, State
from streams.settings import Settings
from tests.sinks.broker import codec, read_all
from tests.sinks.examples import SECRET

LOOPBACK = "127.0.0.0/8"


def destination(receiver: Receiver | str, name: str = "crm", **fields: Any) -> Destination:
    url = receiver if isinstance(receiver, str) else receiver.url
    return Destination(**{"name": name, "url": url, "secrets": (Secret(secret_id="s1", value=SECRET),), "timeout_s": 2.0, **fields})


class Desk:
    """Destinations, states and jobs, as the control log would have them: changed by the test, seen at once."""

    def __init__(self, *destinations: Destination) -> None:
        self.destinations = {one.name: one for one in destinations}
        self.states: dict[str, DestinationState] = {}
        self.jobs: dict[str, Job] = {}
        self.unreadable: set[str] = set()
        self._listeners: list[Callable[[], None]] = []

    def on_change(self, listener: Callable[[], None]) -> None:
        self._listeners.append(listener)

    def changed(self) -> None:
        for listener in self._listeners:
            listener()

    def put(self, one: Destination) -> None:
        self.destinations[one.name] = one
        self.changed()

    def remove(self, name: str) -> None:
        del self.destinations[name]
        self.changed()

    def set_state(self, name: str, state: State) -> None:
        self.states[name] = DestinationState(name=name, state=state)
        self.changed()

    def add(self, job: Job) -> None:
        self.jobs[job.job_id] = job
        self.changed()

    def cancel(self, job_id: str) -> None:
        self.jobs[job_id] = replace(self.jobs[job_id], is_cancelled=True)
        self.changed()

    async def put_state(self, state: DestinationState, *, changed_by: str) -> None:
        self.states[state.name] = replace(state, changed_by=changed_by, version=state.version + 1)
        self.changed()


@asynccontextmanager
async def sink(settings: Settings, desk: Desk) -> AsyncIterator[Hub]:
    """One process; killed without a word if the block raises."""
    await asyncio.to_thread(kafka.ensure_topics, settings)
    log_reader, transport = LogReader(settings, codec()), Transport(parse_allowed(LOOPBACK))
    hub = Hub(settings, codec(), desk, log_reader, transport)  # type: ignore[arg-type]
    hub.start()
    handlers = Handlers(assign=hub.assign, received=hub.received, revoke=hub.revoke, lost=hub.lost)
    feeds = [Feed(settings, codec(), (topic,), f"sink-webhooks-{topic.stream}", handlers) for topic in STREAMS.values()]
    for feed in feeds:
        feed.start()
    try:
        yield hub
        assert not any(feed.failed.done() for feed in feeds), feeds
    finally:
        await asyncio.gather(*(feed.close() for feed in feeds))
        await hub.stop()
        await transport.close()
        await log_reader.close()


async def until(predicate: Callable[[], Any], timeout_s: float = 20.0) -> None:
    """Return when the predicate holds. Raises TimeoutError."""
    async with asyncio.timeout(timeout_s):
        while not predicate():
            await asyncio.sleep(0.02)


def audit(settings: Settings) -> list[DeliveryAudit]:
    return [record for _, record in read_all(settings, topics.DELIVERY_AUDIT)]


def attempts(settings: Settings) -> list[DeliveryAttempt]:
    return [record for _, record in read_all(settings, topics.DELIVERY_ATTEMPTS)]


def sequences(receiver: Receiver, members: Iterable[str]) -> dict[str, list[int]]:
    """What each member's first acceptances were, in order of arrival."""
    found: dict[str, list[int]] = {member: [] for member in members}
    seen: set[str] = set()
    for one in receiver.received:
        if one.accepted and one.webhook_id not in seen:
            seen.add(one.webhook_id)
            found[one.member].append(one.sequence)
    return found
