"""One process of the webhooks sink: the feed's partitions, an outlet per destination, and what operators and metrics see of them.

Belongs to the event loop; the feed's thread calls `assign`, `revoke` and `lost`.
"""

import asyncio
import logging
import socket
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Protocol

from schemas.codec import Codec
from schemas.records import DeliveryResult, NoticeKind
from sinks.delivery import channels, evidence
from sinks.delivery.attempt import Exchange
from sinks.delivery.branch import Branch
from sinks.delivery.channels import Channel
from sinks.delivery.evidence import Attempted
from sinks.delivery.history import DeliveryHistory
from sinks.delivery.limits import Pace
from sinks.delivery.log_reader import LogReader
from sinks.delivery.outlet import Budget, Outlet
from sinks.delivery.partition import Partition
from sinks.delivery.records import Outgoing, Undecodable
from sinks.delivery.standing import Meters, Standing, lane_shown
from sinks.transport import Transport
from streams import metrics, topics
from streams.destinations.model import Destination, DestinationState, Job, State
from streams.errors import LoyaltyError
from streams.settings import Settings
from streams.topics import Topic

log = logging.getLogger(__name__)

STREAMS = {topic.stream: topic for topic in (topics.EVENTS, topics.DELIVERY_NOTICES)}
DRAIN_S = 5.0
"""How long a partition that is given up waits for attempts under way. What is not done by then is delivered again by whoever has it next."""
REVOKE_S = 2 * DRAIN_S + 5.0
TICK_S = 1.0
FAILING_AFTER_S = 60.0
FAILING_FAILURES = 3
FAILING_FRESH_MS = 3600_000
"""A destination that was not tried for so long is not known to fail."""
LANES_SHOWN_MAX = 500
SINK = "sink"
"""Who changes a state when it is nobody's decision."""


class Control(Protocol):
    """What is known of destinations: streams/destinations/control.py."""

    @property
    def destinations(self) -> Mapping[str, Destination]: ...

    @property
    def states(self) -> Mapping[str, DestinationState]: ...

    @property
    def jobs(self) -> Mapping[str, Job]: ...

    @property
    def unreadable(self) -> Collection[str]:
        """Destinations whose secrets cannot be unsealed here."""

    def on_change(self, listener: Callable[[], None]) -> None:
        """`listener` is called in the event loop after every change."""

    async def put_state(self, state: DestinationState, *, changed_by: str) -> object: ...


class Hub:
    """`start`, and `stop`. The feed hands it partitions and records."""

    def __init__(self, settings: Settings, codec: Codec, control: Control, log_reader: LogReader, transport: Transport) -> None:
        self.settings = settings
        self.codec = codec
        self.log = log_reader
        self.loop = asyncio.get_running_loop()
        self.history = DeliveryHistory(settings)
        self.partitions: dict[tuple[str, int], Partition] = {}
        self._control = control
        self._transport = transport
        self._budget = Budget(settings.delivery_attempts_max)
        self._outlets: dict[str, Outlet] = {}
        self._channels: dict[str, list[Channel]] = {}
        self._paces: dict[str, tuple[Pace, float | None, float]] = {}
        self._told: set[str] = set()  # Destinations that were said to be failing.
        self._busy: set[str] = set()  # Destinations whose gauges are not zero.
        self._meters: dict[str, Meters] = {}
        self._changing = False
        self._is_stopped = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._ticker: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Once the control topic has been read."""
        self._apply()
        self._control.on_change(self._changed)
        self._ticker = self.loop.create_task(self._tick_forever())

    async def stop(self) -> None:
        """After the feeds: nothing is handed over any more."""
        self._is_stopped = True
        if self._ticker is not None:
            self._ticker.cancel()
        for partition in list(self.partitions.values()):
            await partition.abandon()
        for outlet in self._outlets.values():
            await outlet.close()
        for task in self._tasks:
            task.cancel()
        await self.history.close()

    # What partitions ask.

    @property
    def jobs(self) -> dict[str, Job]:
        return dict(self._control.jobs)

    def name(self, topic: Topic) -> str:
        return topic.name(self.settings.topic_prefix)

    def channels(self, topic: Topic) -> Sequence[Channel]:
        return self._channels.get(topic.stream, ())

    def outlet(self, destination: str) -> Outlet:
        return self._outlets[destination]

    def has_destination(self, name: str) -> bool:
        return name in self._control.destinations

    def is_unreadable(self, name: str) -> bool:
        """Whether there is such a destination, but its secrets cannot be unsealed here."""
        return name in self._control.unreadable

    async def pace(self, job: Job) -> None:
        """Wait for the replay's turn: its rate is all processes' together."""
        share = self._share()
        pace, rate, of = self._paces.get(job.job_id, (None, None, 0.0))
        if pace is None or (rate, of) != (job.rate_max_per_s, share):
            pace = Pace(None if job.rate_max_per_s is None else max(job.rate_max_per_s * share, 1e-3))
            self._paces[job.job_id] = (pace, job.rate_max_per_s, share)
        while (wait_s := pace.free_at_s(now_s := time.monotonic()) - now_s) > 0:
            await asyncio.sleep(min(wait_s, TICK_S))
        pace.began(now_s)

    def disable(self, name: str, reason: str, detail: str) -> None:
        """Nothing is sent to it any more, here at once, elsewhere as soon as the others hear of it."""
        outlet = self._outlets.get(name)
        if outlet is None or outlet.is_paused:
            return
        log.error("delivery.disabled", extra={"destination": name, "reason": reason, "detail": detail})
        self._pause(name, True)
        self._put_state(name, State.DISABLED, reason, detail)
        self._tell(NoticeKind.DESTINATION_DISABLED, name, reason, detail)

    def count_attempt(self, attempted: Attempted) -> None:
        meters = self._meters_of(attempted.destination)
        result = attempted.result
        status = result.receipt.status
        meters.attempt(result.receipt.verdict.value, result.outcome if status is None else f"{status // 100}xx")
        meters.seconds.observe(result.seconds)
        if log.isEnabledFor(logging.DEBUG) or status == 410:
            first = attempted.records[0]
            log.log(logging.ERROR if status == 410 else logging.DEBUG, "delivery.attempted", extra={
                "destination": attempted.destination, "channel": attempted.channel, "event_id": first.event_id, "attempt": attempted.attempt,
                "verdict": result.receipt.verdict.value, "outcome": result.outcome, "detail": result.receipt.detail,
                "duration_ms": round(result.seconds * 1000, 1), "correlation_id": first.correlation_id,
            })  # fmt: skip

    def count_end(self, destination: str, record: Outgoing, result: DeliveryResult, *, is_replay: bool) -> None:
        metrics.SINK_RECORDS.labels(evidence.PROCESSOR, result.value).inc()
        if result is DeliveryResult.DELIVERED and not is_replay:
            self._meters_of(destination).latency.observe(max(0.0, time.time() - record.timestamp_ms / 1000))

    # What the feed brings.

    def assign(self, stream: str, number: int) -> int:
        partition = Partition(self, STREAMS[stream], number)
        self.loop.call_soon_threadsafe(self.partitions.__setitem__, (stream, number), partition)
        return partition.open()

    def received(self, stream: str, number: int, records: list[Outgoing], poison: list[Undecodable], next_offset: int) -> None:
        partition = self.partitions.get((stream, number))
        if partition is not None:
            partition.received(records, poison, next_offset)

    def revoke(self, revoked: Iterable[tuple[str, int]]) -> None:
        self._release(revoked, DRAIN_S)

    def lost(self, lost: Iterable[tuple[str, int]]) -> None:
        self._release(lost, None)

    def _release(self, released: Iterable[tuple[str, int]], drain_s: float | None) -> None:
        if self._is_stopped:
            return
        giving_up = self._give_up(list(released), drain_s)
        try:
            asyncio.run_coroutine_threadsafe(giving_up, self.loop).result(REVOKE_S)
        except (TimeoutError, RuntimeError):  # The loop hangs, or has closed: whoever takes over fences what is left of us.
            giving_up.close()
            log.error("delivery.release_failed", extra={"partitions": [list(one) for one in released]})

    async def _give_up(self, released: Sequence[tuple[str, int]], drain_s: float | None) -> None:
        gone = [partition for key in released if (partition := self.partitions.pop(key, None)) is not None]
        await asyncio.gather(*(partition.abandon() if drain_s is None else partition.stop(drain_s) for partition in gone))

    # What operators want.

    def _changed(self) -> None:
        """Coalesced: a thousand changes in one go are one."""
        if not self._changing:
            self._changing = True
            self.loop.call_soon(self._apply)

    def _apply(self) -> None:
        self._changing = False
        destinations = self._control.destinations
        found: dict[str, list[Channel]] = defaultdict(list)
        for destination in destinations.values():
            self._set_outlet(destination)
            for channel in channels.of_destination(destination):
                found[channel.stream].append(channel)
        for job in self._control.jobs.values():
            owner = destinations.get(job.destination)
            channel_or_none = None if owner is None else channels.of_job(job, owner)
            if channel_or_none is not None:
                found[channel_or_none.stream].append(channel_or_none)
        self._channels = found
        for name in destinations:
            state = self._control.states.get(name)
            if self._pause(name, state is not None and state.state is not State.ACTIVE) and state is not None:
                self._tell_of(state)
            if state is not None and state.failing_since_ms is not None and self._outlets[name].condition.failing_since_ms is None:
                self._told.add(name)
                # The process before saw an outage that this one does not know of yet.
                self._outlets[name].back_since_ms = time.time_ns() // 1_000_000
        for partition in self.partitions.values():
            partition.reconcile()
        for name in [name for name in self._outlets if name not in destinations]:
            self._forget_outlet(name)

    def _set_outlet(self, destination: Destination) -> None:
        outlet = self._outlets.get(destination.name)
        if outlet is None:
            self._outlets[destination.name] = Outlet(
                destination, Exchange(destination, self._transport).send, self._budget, share=self._share, breaker_changed=self._breaker_changed,
            )  # fmt: skip
        elif outlet.destination != destination:
            outlet.update(destination, Exchange(destination, self._transport).send)

    def _forget_outlet(self, name: str) -> None:
        outlet = self._outlets.pop(name)
        self._spawn(outlet.close())
        self._told.discard(name)
        meters = self._meters.pop(name, None)
        if meters is not None:
            meters.remove()

    def _pause(self, name: str, paused: bool) -> bool:
        """Whether that is a change."""
        outlet = self._outlets[name]
        if outlet.is_paused == paused:
            return False
        outlet.pause(paused)
        for branch in self._branches(name):
            if paused:
                branch.unload()
            else:
                branch.partition.catch_up(branch)
        metrics.DELIVERY_PAUSED.labels(name).set(paused)
        log.warning("delivery.paused" if paused else "delivery.resumed", extra={"destination": name})
        return True

    def _tell_of(self, state: DestinationState) -> None:
        """What an operator has decided: one process tells it."""
        if (topics.DELIVERY_NOTICES.stream, 0) in self.partitions:
            kind = NoticeKind.DESTINATION_ENABLED if state.state is State.ACTIVE else NoticeKind.DESTINATION_DISABLED
            self._tell(kind, state.name, state.reason or state.state.value, state.detail)

    def _breaker_changed(self, outlet: Outlet) -> None:
        name = outlet.destination.name
        metrics.DELIVERY_DOWN.labels(name).set(outlet.breaker.is_open)
        for branch in self._branches(name):
            branch.partition.catch_up(branch)

    def _branches(self, name: str) -> list[Branch]:
        return [branch for partition in self.partitions.values() for branch in partition.branches.values() if branch.channel.destination == name]

    # From time to time.

    async def _tick_forever(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            try:
                for partition in list(self.partitions.values()):
                    partition.tick()
                self._judge()
                self._measure()
            except Exception:
                log.exception("delivery.tick_failed")

    def _judge(self) -> None:
        """Who fails, who is well again, who has failed for too long."""
        now_ms = time.time_ns() // 1_000_000
        for name, outlet in self._outlets.items():
            condition = outlet.condition
            if outlet.is_paused:
                continue
            since_ms = condition.failing_since_ms
            if since_ms is None:
                if name in self._told and outlet.breaker.latency_s:
                    self._told.discard(name)
                    self._put_state(name, State.ACTIVE, "RECOVERED", "")
                    self._tell(NoticeKind.DESTINATION_RECOVERED, name, "RECOVERED", "deliveries get through again")
                continue
            known = self._control.states.get(name)
            since_ms = min(since_ms, known.failing_since_ms) if known is not None and known.failing_since_ms is not None else since_ms
            if condition.failures < FAILING_FAILURES or condition.last_failure_ms < now_ms - FAILING_FRESH_MS:
                continue
            failing_s = (now_ms - since_ms) / 1000
            if failing_s >= FAILING_AFTER_S and name not in self._told:
                self._told.add(name)
                self._put_state(name, State.ACTIVE, "FAILING", condition.last_failure, failing_since_ms=since_ms)
                self._tell(NoticeKind.DESTINATION_FAILING, name, "FAILING", condition.last_failure)
            limit_s = outlet.destination.disable_after_s
            if limit_s is not None and failing_s >= limit_s:
                self.disable(name, "FAILING", f"nothing got through for {failing_s / 3600:.0f} h; last: {condition.last_failure}")

    def _put_state(self, name: str, state: State, reason: str, detail: str, *, failing_since_ms: int | None = None) -> None:
        self._spawn(self._write_state(name, state, reason, detail, failing_since_ms))

    async def _write_state(self, name: str, state: State, reason: str, detail: str, failing_since_ms: int | None) -> None:
        """Several processes may say the same at once: one of them is enough."""
        known = self._control.states.get(name)
        wanted = DestinationState(
            name=name, state=state, reason=reason, detail=detail, failing_since_ms=failing_since_ms, version=0 if known is None else known.version,
        )  # fmt: skip
        if known is not None and (known.state is not State.ACTIVE and state is State.ACTIVE):
            return  # What an operator says counts more.
        try:
            await self._control.put_state(wanted, changed_by=SINK)
        except LoyaltyError as error:
            log.warning("delivery.state_not_written", extra={"destination": name, "state": state.value, "error": str(error)})

    def _tell(self, kind: NoticeKind, name: str, reason: str, detail: str) -> None:
        notice = evidence.notice(kind, name, reason, detail, time.time_ns() // 1_000_000)
        partition = next((one for one in self.partitions.values() if one.is_open), None)
        if partition is not None:
            partition.tell(notice)

    def _share(self) -> float:
        """The part of all work that is this process's."""
        owned = sum(stream == topics.EVENTS.stream for stream, _ in self.partitions)
        return max(owned, 1) / self.settings.kafka_partitions

    def _spawn(self, work: Any) -> None:
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # What it shows.

    def status(self) -> dict[str, Any]:
        """Every destination as this process sees it."""
        found = {name: Standing() for name in self._outlets}
        now_ms = time.time_ns() // 1_000_000
        for partition in self.partitions.values():
            for branch in partition.branches.values():
                standing = found.get(branch.channel.destination)
                if standing is not None and not branch.is_idle and not branch.channel.is_replay:
                    standing.add(branch, now_ms)
        owned: dict[str, list[int]] = {stream: [] for stream in STREAMS}
        for stream, number in sorted(self.partitions):
            owned[stream].append(number)
        return {
            "instance": f"{socket.gethostname()}:{self.settings.http_port}",
            "partitions": owned,
            "destinations": {name: standing.shown(self._outlets[name]) for name, standing in found.items()},
        }

    def lanes(self, name: str, limit: int, after: str) -> list[dict[str, Any]]:
        """Members of a destination that wait behind a failure, by their names."""
        waiting = sorted(
            (lane for branch in self._branches(name) for lane in branch.lanes.values() if lane.is_parked and (lane.key > after or not after)),
            key=lambda lane: lane.key,
        )[:limit]  # fmt: skip
        return [lane_shown(lane) for lane in waiting]

    def progress(self, job_id: str) -> dict[str, Any]:
        """How far a job has come in the partitions of this process."""
        counts: dict[str, int] = defaultdict(int)
        shown: dict[str, list[int]] = {"partitions": [], "done_partitions": [], "running_partitions": []}
        for (stream, number), partition in sorted(self.partitions.items()):
            if stream != topics.EVENTS.stream:
                continue
            shown["partitions"].append(number)
            own = partition.job(job_id)
            if own is None:
                continue
            is_done, done_counts = own
            shown["done_partitions" if is_done else "running_partitions"].append(number)
            for what, count in done_counts.items():
                counts[what] += count
        return {**shown, "counts": dict(counts)}

    def _measure(self) -> None:
        standings: dict[str, Standing] = {}
        now_ms = time.time_ns() // 1_000_000
        for partition in self.partitions.values():
            for branch in partition.branches.values():
                if not branch.is_idle and not branch.channel.is_replay:
                    standings.setdefault(branch.channel.destination, Standing()).add(branch, now_ms)
        for name in self._busy | standings.keys():
            outlet = self._outlets.get(name)
            if outlet is not None:
                self._meters_of(name).show(standings.get(name) or Standing(), outlet.in_flight, outlet.limit.limit, now_ms)
        self._busy = set(standings)

    def _meters_of(self, name: str) -> "Meters":
        meters = self._meters.get(name)
        if meters is None:
            meters = self._meters[name] = Meters(name)
        return meters
