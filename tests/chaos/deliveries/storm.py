"""One storm over deliveries from begin to end: events flow, the plan is carried out, all becomes calm, every request and record is recounted."""

import logging
import shutil
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from infra.processes import StartError
from schemas.codec import Codec
from schemas.contract import member_key
from schemas.registry import LocalRegistry
from streams import kafka, topics
from streams.errors import LoyaltyError
from tests.bench.delivery_records import records
from tests.chaos.deliveries import plan, verify, world
from tests.chaos.deliveries.operator import Operator
from tests.chaos.deliveries.plan import Disturbance, Kind
from tests.chaos.deliveries.verify import Recount, Seen, Window
from tests.chaos.findings import Findings
from tests.chaos.world import Part, StormFailed
from tests.sinks import examples

log = logging.getLogger(__name__)

ENDED, NOT_STOPPED = "processes that ended by themselves", "processes that did not stop as told"
FIRST_S = 60.0  # Until the first event is accepted.
STALL_S = 120.0  # Without an acceptance for this long after the storm, it has failed.
QUIET_S = 4.0  # Without a request for this long, replays have ended as well.
TICK_S = 0.1
PRODUCE_TIMEOUT_MS = 600_000
HOT_SHARE = 0.6  # Of the storm's time during which the hot member's destination does not take it.
BEFORE_S = 1.5
"""So long before a kill an acceptance may not be on record yet: what was in flight, and a transaction that was not finished."""
AFTER_BROKER_S = 5.0  # Until the first transaction after it is finished.
AFTER_PAUSE_S = 5.0  # A sink that was asleep learns that its partitions are another's.


@dataclass(frozen=True, slots=True)
class Request:
    """What is wanted. The same request gives the same events, scripts and plan."""

    seed: int
    events: int
    members: int
    seconds: float
    """Of the storm; the calm after it takes as long as it takes."""
    kinds: Mapping[Kind, int]
    sinks: int = 3
    keep: bool = False
    """Keep the folder also when nothing is wrong."""


@dataclass(slots=True)
class Hit:
    """A disturbance that was carried out."""

    disturbance: Disturbance
    began_ns: int
    ended_ns: int
    accepted: int
    """Events by then."""


@dataclass(slots=True)
class Report:
    """What came of it."""

    request: Request
    hits: list[Hit] = field(default_factory=list)
    findings: Findings = field(default_factory=Findings)
    recount: Recount = field(default_factory=Recount)
    audited: int = 0
    failure: str = ""
    """Why the storm did not come to its end; empty when it did."""
    storm_s: float = 0.0
    calm_s: float = 0.0
    """From the storm's end until all was accepted."""
    folder: Path | None = None

    @property
    def is_clean(self) -> bool:
        return not self.failure and not self.findings.total and bool(self.findings.counts)

    def by_kind(self) -> Counter[Kind]:
        return Counter(hit.disturbance.kind for hit in self.hits)

    def to_json(self) -> dict[str, Any]:
        request = self.request
        return {
            "seed": request.seed, "events": request.events, "members": request.members, "sinks": request.sinks, "destinations": len(plan.DESTINATIONS),
            "storm_s": round(self.storm_s, 1), "calm_s": round(self.calm_s, 1), "requests": self.recount.requests, "accepted": self.recount.accepted,
            "repeated": self.recount.by_cause(), "replayed": self.recount.replayed, "audited": self.audited, "clean": self.is_clean,
            "failure": self.failure, "folder": str(self.folder or ""), "hits": [asdict(hit) for hit in self.hits], **self.findings.to_json(),
        }  # fmt: skip


def run(request: Request, on_hit: Callable[[Hit], None] = lambda _: None) -> Report:
    """Always comes back with a report; what failed is in it. Raises StartError when the broker cannot start at all."""
    report = Report(request)
    home = Path(tempfile.mkdtemp(prefix=f"loyalty-deliveries-{request.seed}-"))
    try:
        with world.running(home, seed=request.seed, sinks=request.sinks) as running:
            storm = Storm(running, request, report, on_hit)
            try:
                storm.run()
                _verify(running, report, storm)
            except (StormFailed, StartError, LoyaltyError) as error:
                report.failure = f"{type(error).__name__}: {error}"
            report.findings.merge([storm.incidents])
            if not report.is_clean:
                (home / "log-tails.txt").write_text(running.log_tails())
    finally:
        if report.is_clean and not request.keep:
            shutil.rmtree(home, ignore_errors=True)
        else:
            report.folder = home
    return report


def event_id(member: str, sequence: int) -> str:
    return examples.event(sequence, member).event_id


def _verify(running: world.World, report: Report, storm: "Storm") -> None:
    running.control()  # Its log is whole then.
    with running.receiver_log.open() as file:
        requests = [Seen.of(line) for line in file]
    findings, destinations = report.findings, tuple(plan.DESTINATIONS)
    report.recount = verify.check_requests(requests, storm.wanted, destinations, storm.windows, findings, event_id=event_id)
    replayed = Counter((one.destination, event_id(one.member, one.sequence)) for one in requests if one.job and one.accepted)
    audits = [records(running.settings, topics.DELIVERY_AUDIT, partition) for partition in range(running.settings.kafka_partitions)]
    report.audited = verify.check_audits(audits, storm.wanted, destinations, replayed, findings, event_id=event_id)
    for partition in range(running.settings.kafka_partitions):
        verify.check_dead_letters(records(running.settings, topics.DEAD_LETTERS, partition), findings)


class Storm:
    """One storm over one world, which has started."""

    def __init__(self, running: world.World, request: Request, report: Report, on_hit: Callable[[Hit], None]) -> None:
        self._world = running
        self._request = request
        self._report = report
        self._on_hit = on_hit
        self._operator = Operator(running.settings)
        self._plan: Sequence[Disturbance] = plan.draw(request.seed, seconds=request.seconds, sinks=request.sinks, kinds=request.kinds)
        self._sinks = [threading.Lock() for _ in running.sinks]
        self._broker = threading.Lock()
        self._destinations = {name: threading.Lock() for name in plan.DESTINATIONS}
        self._down: set[str] = set()
        self._fed = threading.Event()
        self._failed: list[str] = []
        self.wanted: Counter[str] = Counter()
        """Member -> its events so far."""
        self.windows: list[Window] = []
        self.incidents = Findings()
        """What processes did that they should not have done."""
        self.incidents.looked_for(ENDED, NOT_STOPPED)

    def run(self) -> None:
        """The storm, and the calm after it: returns when all is accepted and stopped. Raises StormFailed and StartError."""
        feeder = threading.Thread(target=self._feed, daemon=True)
        with ThreadPoolExecutor(max(1, len(self._plan)), thread_name_prefix="storm") as threads:
            try:
                self._world.control(blocks_hot=True)
                for sink in self._world.sinks:
                    sink.start()
                self._operator.start()
                feeder.start()
                self._wait(lambda: self._world.control()["accepted"] > 0, "the first acceptance", FIRST_S)
                started_s = time.monotonic()
                hits = [threads.submit(self._carry_out, disturbance, started_s) for disturbance in self._plan]
                self._watch(started_s, hits)
                self._report.storm_s = time.monotonic() - started_s
                self._calm()
                for sink in self._world.sinks:
                    self._end(sink)
            finally:
                self._operator.stop()
                self._fed.set()

    # Events.

    def _feed(self) -> None:
        """At an even rate, whatever comes back; the broker may be away meanwhile."""
        request, settings, codec = self._request, self._world.settings, Codec(LocalRegistry())
        producer = kafka.producer(settings, message_timeout_ms=PRODUCE_TIMEOUT_MS, reconnect_backoff_max_ms=500)
        name, started_s = topics.EVENTS.name(settings.topic_prefix), time.monotonic()
        for number, (member, sequence) in enumerate(plan.traffic(request.seed, request.events, request.members)):
            event = examples.event(sequence, member)
            producer.produce(name, codec.encode(event), member_key(event.program_id, member), on_delivery=self._produced)
            self.wanted[member] = sequence
            producer.poll(0)
            while not self._fed.is_set() and number / request.events > (time.monotonic() - started_s) / request.seconds:
                producer.poll(0.01)
        if producer.flush(PRODUCE_TIMEOUT_MS / 1000):
            self._failed.append("events are left in the producer")
        self._fed.set()

    def _produced(self, error: Any, _: Any) -> None:
        if error is not None:
            self._failed.append(str(error))

    # Waiting.

    def _tick(self) -> None:
        for sink, lock in zip(self._world.sinks, self._sinks, strict=True):
            if lock.acquire(blocking=False):
                try:
                    if sink.has_ended():
                        self._incident(sink, ENDED, "a running process", sink.exit_text)
                        sink.start()  # As whatever supervises it would.
                finally:
                    lock.release()
        if self._failed:
            raise StormFailed(f"the feeder has failed: {self._failed[0]}")

    def _wait(self, condition: Callable[[], bool], what: str, stall_s: float) -> None:
        """Return when the condition holds. Raises StormFailed when it does not, and nothing is accepted for `stall_s`."""
        seen, moved_s = -1, time.monotonic()
        while not condition():
            self._tick()
            now = self._world.control()["accepted"]
            if now != seen:
                seen, moved_s = now, time.monotonic()
            elif time.monotonic() - moved_s > stall_s:
                raise StormFailed(f"no event was accepted for {stall_s:.0f} s while waiting for {what}: {seen} of {self._goal} are")
            time.sleep(TICK_S)

    def _watch(self, started_s: float, hits: Sequence["Future[None]"]) -> None:
        """Until the plan is carried out and the events are fed."""
        is_hot = True
        while not self._fed.is_set() or not all(hit.done() for hit in hits):
            self._tick()
            if is_hot and time.monotonic() - started_s > self._request.seconds * HOT_SHARE:
                is_hot = False
                self._world.control(blocks_hot=False)
            time.sleep(TICK_S)
        for hit in hits:
            hit.result()

    @property
    def _goal(self) -> int:
        return self._request.events * len(plan.DESTINATIONS)

    def _calm(self) -> None:
        began_s = time.monotonic()
        self._world.control(down=[], blocks_hot=False)
        for sink in self._world.sinks:
            sink.start()
        self._wait(lambda: self._world.control()["accepted"] >= self._goal, "all of them", STALL_S)
        self._report.calm_s = time.monotonic() - began_s
        seen, moved_s = -1, time.monotonic()
        while time.monotonic() - moved_s < QUIET_S:
            self._tick()
            now = self._world.control()["requests"]
            if now != seen:
                seen, moved_s = now, time.monotonic()
            time.sleep(TICK_S)

    # Disturbing.

    def _carry_out(self, disturbance: Disturbance, started_s: float) -> None:
        if (left_s := started_s + disturbance.at_s - time.monotonic()) > 0:
            self._pass_time(left_s)
        lock = self._lock_of(disturbance)
        with lock:
            accepted = self._world.control()["accepted"]
            began_ns = time.monotonic_ns()
            self._act(disturbance)
            ended_ns = time.monotonic_ns()
        hit = Hit(disturbance, began_ns, ended_ns, accepted)
        self._explain(hit)
        self._report.hits.append(hit)
        self._on_hit(hit)

    def _lock_of(self, disturbance: Disturbance) -> threading.Lock:
        """Nothing is disturbed twice at once; different things are."""
        if disturbance.sink is not None:
            return self._sinks[disturbance.sink]
        return self._destinations[disturbance.destination] if disturbance.destination else self._broker

    def _act(self, disturbance: Disturbance) -> None:
        """Do it, and undo it after its length."""
        kind, length_s, name = disturbance.kind, disturbance.length_s, disturbance.destination
        sink = self._world.sinks[disturbance.sink or 0]
        match kind:
            case Kind.SINK_KILL:
                sink.kill()
                self._pass_time(length_s)
                sink.start()
            case Kind.SINK_TERM | Kind.SINK_AWAY:
                self._end(sink)
                self._pass_time(length_s)
                sink.start()
            case Kind.SINK_PAUSE:
                sink.pause()
                self._pass_time(length_s)
                sink.resume()
            case Kind.BROKER_KILL:
                self._world.kafka.kill()
                self._pass_time(length_s)
                self._world.kafka.start()
            case Kind.BROKER_RESTART:
                self._world.kafka.restart()
            case Kind.DESTINATION_PAUSE:
                self._operator.pause(name)
                self._pass_time(length_s)
                self._operator.resume(name)
            case Kind.DESTINATION_DOWN:
                self._set_down(name, True)
                self._pass_time(length_s)
                self._set_down(name, False)
            case Kind.REPLAY:
                self._operator.replay(name)

    def _set_down(self, name: str, is_down: bool) -> None:
        self._down = self._down | {name} if is_down else self._down - {name}
        self._world.control(down=sorted(self._down))

    def _pass_time(self, duration_s: float) -> None:
        """A time that the storm itself decides."""
        threading.Event().wait(duration_s)

    def _explain(self, hit: Hit) -> None:
        """When deliveries may have been accepted that were not on record, and are sent again. A stop as told is no excuse."""
        begin_ns, kind = hit.began_ns - int(BEFORE_S * 1e9), hit.disturbance.kind
        match kind:
            case Kind.SINK_KILL:
                self.windows.append(Window(begin_ns, hit.began_ns + int(1e9), kind.value))
            case Kind.SINK_PAUSE:
                self.windows.append(Window(begin_ns, hit.ended_ns + int(AFTER_PAUSE_S * 1e9), kind.value))
            case Kind.BROKER_KILL | Kind.BROKER_RESTART:
                self.windows.append(Window(begin_ns, hit.ended_ns + int(AFTER_BROKER_S * 1e9), kind.value))

    def _end(self, sink: Part) -> None:
        if complaint := sink.end():
            expected, _, found = complaint.partition(", not ")
            self._incident(sink, NOT_STOPPED, expected, found)

    def _incident(self, sink: Part, kind: str, expected: str, found: str) -> None:
        """A process did what no disturbance excuses. The storm goes on, for the recount may tell more, but it is not clean."""
        self.incidents.add(kind, sink.name, str(sink.log_file), expected, found)
