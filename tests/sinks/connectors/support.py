"""A system that keeps members' points, the connector that writes to it, and one process of the connectors' sink in the test's own event loop."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import orjson
from aiohttp import web

from infra.fakes.server import FakeServer
from schemas.records import DeliveryAttempt, DeliveryAudit
from sinks.connectors.outlet import Timing
from sinks.connectors.process import Run
from sinks.schedule import Schedule
from streams import kafka, topics
from streams.connectors import grants
from streams.connectors.contract import TARGET_OPTIONS, Answer, Connector, MemberState, Option, Outcome, Request, Target, Write, Writing, Written
from streams.connectors.exchange import connect
from streams.destinations.model import DestinationState, Job, State
from streams.settings import Settings
from tests.sinks.broker import codec, read_all

SECRET = "hush-hush"
QUICK = Timing(linger_s=0.02, settle_s=0.2)
SOON = Schedule(first_s=0.05, longest_s=0.5)


class Points(FakeServer):
    """Keeps the sequence and the points of each member. What it says of a member is scripted: `refuses[member_id]` is its outcome, while it is there."""

    def add_routes(self, app: web.Application) -> None:
        self.refuses: dict[str, str] = {}
        self.confuses = ""
        """A member with whom no answer makes sense."""
        self.calls: list[list[tuple[str, int]]] = []
        """Of each call the members, with the sequence that was written."""
        self.gate, self.token_gate, self.is_gated = asyncio.Event(), asyncio.Event(), True
        self.gate.set()
        self.token_gate.set()
        self.waiting = self.tokens_waiting = 0
        """Requests that wait for the gate that was closed before them."""
        app.router.add_post("/token", self.give_token)
        app.router.add_post("/write", self.can_fail("write", self.write))

    async def give_token(self, request: web.Request) -> web.Response:
        assert SECRET in await request.text() or "authorization" in request.headers
        self.tokens_waiting += 1
        await self.token_gate.wait()
        self.tokens_waiting -= 1
        return web.json_response({"access_token": self.new_token(), "token_type": "Bearer", "expires_in": 3600})

    async def write(self, request: web.Request) -> web.Response:
        if not self.is_authorized(request):
            return web.Response(status=401)
        records = orjson.loads(await request.read())
        if not self.gate.is_set() and self.is_gated:
            self.waiting += 1
            await self.gate.wait()
            self.waiting -= 1
        self.calls.append([(record["id"], record["sequence"]) for record in records])
        if any(record["id"] == self.confuses for record in records):
            return web.Response(text="Internal error")
        said = []
        for record in records:
            refusal = self.refuses.get(record["id"], "")
            said.append(refusal or "ok")
            if not refusal:
                self.put(record["id"], {"sequence": record["sequence"], "points": record["points"]})
        return web.json_response(said)

    def sequences(self, member_id: str = "m-1") -> list[int]:
        """All that the member's field has been, in order."""
        return list(self.history[member_id, "sequence"])


OUTCOMES = {"ok": Outcome.DONE, "later": Outcome.RETRY, "never": Outcome.PARK, "unknown": Outcome.SKIP}


def write(target: Target, states: Sequence[MemberState], now_ms: int) -> Writing:
    records = [{"id": state.member_id, "sequence": state.sequence, "points": state.account.available_points} for state in states]
    answer: Answer = yield Request(method="POST", url="/write", body=orjson.dumps(records), timeout_s=5.0)
    return [Written(outcome=OUTCOMES[said], reason="" if said == "ok" else said.upper()) for said in orjson.loads(answer.body)]


CONNECTOR = Connector(
    kind="points", title="Points", target_options=(Option(name="base_url", doc="", is_url=True), Option(name="client_secret", doc="", is_secret=True)),
    write=Write(begin=write, states_max=50),
    grant=lambda options: grants.client_credentials(url=options["base_url"] + "/token", client_id="id", client_secret=options["client_secret"]),
)  # fmt: skip


def target_of(base_url: str, connector: Connector = CONNECTOR, name: str = "points", **options: Any) -> Target:
    """A target with the defaults of its options, but for those that are given."""
    declared = {option.name: option.default for option in (*connector.target_options, *TARGET_OPTIONS)}
    return Target(name=name, kind=connector.kind, options=declared | {"base_url": base_url, "client_secret": SECRET, **options})


class Desk:
    """What operators want, as the control log would have it."""

    def __init__(self) -> None:
        self.states: dict[str, DestinationState] = {}
        self.jobs: dict[str, Job] = {}
        self._listeners: list[Callable[[], None]] = []

    def on_change(self, listener: Callable[[], None]) -> None:
        self._listeners.append(listener)

    def set_state(self, name: str, state: State) -> None:
        self.states[name] = DestinationState(name=name, state=state)
        self._changed()

    def add(self, job: Job) -> None:
        self.jobs[job.job_id] = job
        self._changed()

    def _changed(self) -> None:
        for listener in self._listeners:
            listener()


@asynccontextmanager
async def process(
    settings: Settings, target: Target, connector: Connector = CONNECTOR, *, desk: Desk | None = None, timing: Timing = QUICK, accounts: Any = None,
    schedule: Schedule = SOON,
) -> AsyncIterator[Run]:  # fmt: skip
    """One process of the sink; it has given up its partitions in order at the end of the block."""
    await asyncio.to_thread(kafka.ensure_topics, settings)
    transport = connect()
    run = Run(settings, codec(), target, connector, transport, desk or Desk(), accounts, timing=timing, schedule=schedule)
    run.start()
    try:
        yield run
        assert not run.feed.failed.done(), run.feed.failed
    finally:
        await run.stop()
        await transport.close()


async def until(predicate: Callable[[], Any], timeout_s: float = 30.0) -> None:
    """Return when the predicate holds. Raises TimeoutError."""
    async with asyncio.timeout(timeout_s):
        while not predicate():
            await asyncio.sleep(0.02)


def audits(settings: Settings) -> list[DeliveryAudit]:
    return [record for _, record in read_all(settings, topics.DELIVERY_AUDIT)]


def attempts(settings: Settings) -> list[DeliveryAttempt]:
    return [record for _, record in read_all(settings, topics.DELIVERY_ATTEMPTS)]


def results(settings: Settings) -> dict[str, list[str]]:
    """Event id -> how it ended, as often as it did."""
    found: dict[str, list[str]] = {}
    for audit in audits(settings):
        found.setdefault(audit.event_id, []).append(audit.result.value)
    return found
