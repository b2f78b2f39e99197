"""loyalty events -> connected systems, the newest state of each member: the process of `loyalty sink connectors`.

Each target has a consumer group of its own, `connector-NAME`, so that several processes share its members, and no target waits for another.
Belongs to the event loop; the feed's thread calls `assign`, `revoke` and `lost`.
"""

import asyncio
import logging
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any, Protocol

from aiohttp import web

from schemas.codec import Codec
from schemas.records import DeliveryResult, LoyaltyEvent
from sinks.base import Health
from sinks.connectors.outlet import Outlet, Timing
from sinks.connectors.partition import Partition
from sinks.delivery.feed import Feed, Handlers
from sinks.delivery.records import Outgoing, Undecodable
from sinks.delivery.standing import LANES_LOOKED_AT, Meters, Standing
from sinks.schedule import Schedule
from sinks.transport import Transport
from sinks.turns import Tasks
from streams import metrics, topics
from streams.codec import open_codec
from streams.configuration import Configuration
from streams.connectors.contract import Connector, MemberState, Outcome, Target, Verdict, Write
from streams.connectors.exchange import Exchange, Unanswered, connect
from streams.connectors.registry import CONNECTORS
from streams.destinations.control import ControlLog
from streams.destinations.model import Action, DestinationState, Job, State
from streams.errors import UnavailableError
from streams.ingress.accounts import Accounts
from streams.internal_access import refusal
from streams.settings import Settings

log = logging.getLogger(__name__)

SINK = "connectors"
DRAIN_S = 5.0
"""How long a partition that is given up waits for writes under way. Whoever has it next waits out what was not answered by then."""
REVOKE_S = 2 * DRAIN_S + 5.0
TICK_S = 1.0
LANES_SHOWN_MAX = 500
RUNS = web.AppKey("runs", dict[str, "Run"])


class Control(Protocol):
    """What operators want: streams/destinations/control.py."""

    @property
    def states(self) -> Mapping[str, DestinationState]: ...

    @property
    def jobs(self) -> Mapping[str, Job]: ...

    def on_change(self, listener: Callable[[], None]) -> None:
        """`listener` is called in the event loop after every change."""


class Run:
    """One target in this process. `start`, and `stop`."""

    def __init__(
        self, settings: Settings, codec: Codec, target: Target, connector: Connector, transport: Transport, control: Control, accounts: Accounts | None, *,
        timing: Timing = Timing(), schedule: Schedule | None = None,
    ) -> None:  # fmt: skip
        """`accounts` is asked for profiles, if the connector wants them."""
        assert connector.write is not None, "the configuration has checked it"
        self.settings = settings
        self.codec = codec
        self.target = target
        self.write: Write = connector.write
        self.loop = asyncio.get_running_loop()
        self.processor = f"connector-{target.name}"
        self.partitions: dict[int, Partition] = {}
        schedule = schedule or Schedule(first_s=0.5, longest_s=300.0, give_up_after_s=float(target.options["give_up_after_s"]))
        exchange = Exchange(connector, target.options, transport)
        self.outlet = Outlet(self, exchange, schedule=schedule, timing=timing, share=self._share)
        self._accounts = accounts
        self._control = control
        self._meters = Meters(target.name)
        handlers = Handlers(assign=self._assign, received=self._received, revoke=self._revoke, lost=self._lost)
        self.feed = Feed(settings, codec, (topics.EVENTS,), f"connector-{target.name}", handlers, sink=self.processor)
        self._ticker: asyncio.Task[None] | None = None
        self._tasks = Tasks()
        self._is_stopped = False

    def start(self) -> None:
        """Once the control topic has been read."""
        self._apply()
        self._control.on_change(self._apply)
        self._ticker = self.loop.create_task(self._tick_forever())
        self.feed.start()

    async def stop(self) -> None:
        await self.feed.close()
        self._is_stopped = True
        if self._ticker is not None:
            self._ticker.cancel()
        for partition in list(self.partitions.values()):
            await partition.abandon()
        await self.outlet.close()
        await self._tasks.cancel()
        self._meters.remove()

    # What partitions and the outlet ask.

    def wants(self, event: LoyaltyEvent) -> bool:
        """Whether the system shows what the event is about."""
        return (not self.target.programs or event.program_id in self.target.programs) and (not self.write.kinds or event.kind in self.write.kinds)

    async def with_profiles(self, states: list[MemberState]) -> list[MemberState]:
        """The states, with what the owners of the accounts know of the members, if the connector wants that. Raises Unanswered."""
        if not self.write.wants_profile or self._accounts is None:
            return states
        try:
            accounts = await asyncio.gather(*(self._accounts.from_owner(state.program_id, state.member_id) for state in states))
        except UnavailableError as error:
            raise Unanswered(Verdict.RETRY, f"profiles: {error}") from error
        return [
            state if account is None else replace(state, external_ids=account.external_ids, attributes=account.attributes)
            for state, account in zip(states, accounts, strict=True)
        ]  # fmt: skip

    def count_end(self, record: Outgoing, result: DeliveryResult) -> None:
        metrics.SINK_RECORDS.labels(self.processor, result.value).inc()
        if result is DeliveryResult.DELIVERED:
            self._meters.latency.observe(max(0.0, time.time() - record.timestamp_ms / 1000))

    def count_write(self, outcome: Outcome) -> None:
        self._meters.attempt(outcome.value, outcome.value)

    def breaker_changed(self, is_down: bool) -> None:
        metrics.DELIVERY_DOWN.labels(self.target.name).set(is_down)
        log.warning("connector.down" if is_down else "connector.up", extra={"destination": self.target.name})

    def act(self, partition: Partition) -> None:
        """What operators want of members that were parked before they wanted it."""
        for job in list(self._control.jobs.values()):
            if job.destination == self.target.name and job.action is Action.RETRY and job.job_id not in partition.acts and not job.is_cancelled:
                partition.acts.add(job.job_id)
                matched = partition.redrive(job.members, job.created_at_ms)
                log.info("connector.redriven", extra={"destination": self.target.name, "partition": partition.number, "members": matched})

    def open_again(self, partition: Partition, after_s: float) -> None:
        """What the process knows of a partition is of no use any more: it is opened as if it were new."""
        self._tasks.begin(self._open_again(partition, after_s))

    async def _open_again(self, partition: Partition, after_s: float) -> None:
        await partition.abandon()
        if self.partitions.get(partition.number) is partition:
            del self.partitions[partition.number]
            await asyncio.sleep(after_s)
            self.feed.open_again((topics.EVENTS.stream, partition.number))

    # What the feed brings.

    def _assign(self, stream: str, number: int) -> int:
        partition = Partition(self, number)
        self.loop.call_soon_threadsafe(self.partitions.__setitem__, number, partition)
        return partition.open()

    def _received(self, stream: str, number: int, records: list[Outgoing], poison: list[Undecodable], next_offset: int) -> None:
        partition = self.partitions.get(number)
        if partition is not None:
            partition.received(records, poison, next_offset)

    def _revoke(self, revoked: Iterable[tuple[str, int]]) -> None:
        self._release(revoked, DRAIN_S)

    def _lost(self, lost: Iterable[tuple[str, int]]) -> None:
        self._release(lost, None)

    def _release(self, released: Iterable[tuple[str, int]], drain_s: float | None) -> None:
        if self._is_stopped:
            return
        giving_up = self._give_up([number for _, number in released], drain_s)
        try:
            asyncio.run_coroutine_threadsafe(giving_up, self.loop).result(REVOKE_S)
        except (TimeoutError, RuntimeError):  # The loop hangs, or has closed: whoever takes over fences what is left of us.
            giving_up.close()
            log.error("connector.release_failed", extra={"destination": self.target.name})

    async def _give_up(self, numbers: Sequence[int], drain_s: float | None) -> None:
        gone = [partition for number in numbers if (partition := self.partitions.pop(number, None)) is not None]
        await asyncio.gather(*(partition.abandon() if drain_s is None else partition.stop(drain_s) for partition in gone))

    # What operators want, and see.

    def _apply(self) -> None:
        state = self._control.states.get(self.target.name)
        is_paused = state is not None and state.state is not State.ACTIVE
        if is_paused != self.outlet.is_paused:
            log.warning("connector.paused" if is_paused else "connector.resumed", extra={"destination": self.target.name})
            metrics.DELIVERY_PAUSED.labels(self.target.name).set(is_paused)
            self.outlet.pause(is_paused)
        for partition in list(self.partitions.values()):
            if partition.is_open:
                self.act(partition)

    async def _tick_forever(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            try:
                self.outlet.pump()
                self._meters.show(self._standing(), self.outlet.in_flight, self.outlet.limit.limit, time.time_ns() // 1_000_000)
                budget = self.outlet.exchange.budget
                if budget is not None:
                    metrics.CONNECTOR_BUDGET_USED.labels(self.target.name).set(budget.used)
                    metrics.CONNECTOR_BUDGET_ALLOWED.labels(self.target.name).set(budget.allowed)
            except Exception:
                log.exception("connector.tick_failed", extra={"destination": self.target.name})

    def _standing(self) -> Standing:
        standing = Standing()
        for partition in self.partitions.values():
            parked = sum(entry.is_parked for entry in partition.failing.values())
            standing.waiting += len(partition.hand) - parked
            standing.parked += len(partition.failing)
            standing.blocked += parked
            for entry in islice(partition.hand.values(), LANES_LOOKED_AT):  # The oldest ones come first.
                if not entry.is_parked:
                    standing.note(entry.newest.timestamp_ms)
        return standing

    def status(self) -> dict[str, Any]:
        """How the target fares in this process, in the form of a webhook's destination and with what only connectors have."""
        standing, outlet, now_s = self._standing(), self.outlet, time.monotonic()
        condition, budget = outlet.condition, outlet.exchange.budget
        return {
            "waiting": standing.waiting, "behind_records": 0, "oldest_ms": standing.oldest_ms, "in_flight": outlet.in_flight,
            "concurrency": outlet.limit.limit, "breaker": outlet.breaker.phase.value, "parked_members": standing.parked,
            "blocked_members": standing.blocked, "failing_since_ms": condition.failing_since_ms,
            "last_failure": condition.last_failure if condition.failing_since_ms is not None else "",
            "kind": self.target.kind, "is_paused": outlet.is_paused, "rests_s": round(max(0.0, outlet.rest_until_s - now_s), 1),
            "last_error": condition.last_failure, "last_error_at_ms": condition.last_failure_ms, "last_success_at_ms": condition.last_success_ms,
            "budget_used": None if budget is None else budget.used, "budget_allowed": None if budget is None else budget.allowed,
            "partitions": sorted(self.partitions),
        }  # fmt: skip

    def lanes(self, limit: int, after: str) -> list[dict[str, Any]]:
        """Members that wait behind a failure of their own, by their names."""
        found = sorted(
            (entry for partition in self.partitions.values() for entry in partition.failing.values()), key=lambda entry: entry.member
        )
        now_s, now_ms = time.monotonic(), time.time_ns() // 1_000_000
        return [
            {
                "member": entry.member, "channel": self.target.name, "waiting": 1, "attempts": entry.attempts, "failing_since_ms": entry.failing_since_ms,
                "due_at_ms": now_ms + int((entry.due_s - now_s) * 1000) if entry.due_s > now_s else None, "is_blocked": entry.is_parked,
                "event_id": entry.newest.event_id, "detail": ": ".join(part for part in (entry.reason, entry.detail) if part),
            }
            for entry in found if entry.member > after or not after
        ][:limit]  # fmt: skip

    def _share(self) -> float:
        """The part of all work that is this process's."""
        return max(len(self.partitions), 1) / self.settings.kafka_partitions


async def run(settings: Settings, configuration: Configuration, stop: asyncio.Event, health: Health) -> None:
    """Write to all targets of the configuration until `stop` is set."""
    codec = open_codec(settings)
    control = ControlLog(settings, codec, configuration.destinations)
    transport, accounts = connect(), Accounts(settings)
    health.set("control", lambda: f"{SINK}: reads what operators want")
    control.start()
    runs: list[Run] = []
    stopped = asyncio.create_task(stop.wait())
    try:
        if not await control.ready_unless(stopped):
            return
        health.set("control", lambda: "")
        for target in configuration.targets.values():
            one = Run(settings, codec, target, CONNECTORS[target.kind], transport, control, accounts)
            runs.append(one)
            health.set(one.processor, one.feed.readiness)
            one.start()
        if health.app is not None:
            health.app[RUNS].update({one.target.name: one for one in runs})
        failures: list[asyncio.Future[Any]] = [one.feed.failed for one in runs]
        await asyncio.wait([stopped, *failures], return_when=asyncio.FIRST_COMPLETED)
        for failure in failures:
            if failure.done():
                failure.result()
    finally:
        stopped.cancel()
        await asyncio.gather(*(one.stop() for one in runs))
        await transport.close()
        await accounts.close()
        await control.close()


def add_routes(app: web.Application, settings: Settings) -> None:
    """Serve /internal/destinations and .../{name}/lanes in the form of the webhooks' sink: 401 without the internal token."""
    runs: dict[str, Run] = {}
    app[RUNS] = runs

    def answer(request: web.Request, look: Callable[[], Any]) -> web.Response:
        if (refused := refusal(request, settings)) is not None:
            return refused
        return web.json_response(look())

    async def status(request: web.Request) -> web.Response:
        instance = f"{socket.gethostname()}:{settings.http_port}"
        return answer(request, lambda: {"instance": instance, "partitions": {}, "destinations": {name: one.status() for name, one in runs.items()}})

    async def lanes(request: web.Request) -> web.Response:
        one, text = runs.get(request.match_info["name"]), request.query.get("limit", str(LANES_SHOWN_MAX))
        limit = min(int(text), LANES_SHOWN_MAX) if text.isascii() and text.isdigit() and len(text) < 9 else LANES_SHOWN_MAX
        return answer(request, lambda: {"lanes": [] if one is None else one.lanes(limit, request.query.get("after", ""))})

    app.router.add_get("/internal/destinations", status)
    app.router.add_get("/internal/destinations/{name}/lanes", lanes)
