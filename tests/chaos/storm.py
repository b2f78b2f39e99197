"""Carries a plan out against a world, and sees that the pipeline moves on after each disturbance."""

import multiprocessing
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess

from streams import topics
from tests.chaos.feeder import Gauge, feed
from tests.chaos.findings import Findings
from tests.chaos.plan import OF_HISTORY, Disturbance, Kind
from tests.chaos.watch import Watch
from tests.chaos.world import Part, StormFailed, World

ENDED, NOT_STOPPED = "processes that ended by themselves", "processes that did not stop as told"
INCIDENTS_MAX = 10  # A process that ends whenever it is started would go on for ever.
TICK_S = 0.1
STALL_S = 120.0  # Without progress for this long the storm has failed: every wait of the engine is shorter.
START_STALL_S = 180.0
WINDOW_MAX = 20_000  # Inputs sent and not answered: some seconds of work, so that there always is something to disturb.
CAUGHT_UP_EVERY_S = 1.0  # Looking at the ends of all topics costs the broker more than asking for offsets.


@dataclass(slots=True)
class Hit:
    """A disturbance that was carried out."""

    disturbance: Disturbance
    started_s: float
    """Since the begin of the storm."""
    answered: int
    resumed_s: float | None = None
    """From its begin until every partition (or the sink) had moved on after its end; None until then."""

    @property
    def text(self) -> str:
        number = self.disturbance.worker
        return self.disturbance.kind.value + ("" if number is None else f" ({number})")


@dataclass(slots=True)
class Progress:
    """What the screen shows."""

    inputs: int
    sent: int = 0
    answered: int = 0
    mirrored: int = 0
    running: int = 0
    phase: str = "starting"
    hits: list[Hit] = field(default_factory=list)


OnProgress = Callable[[Progress], None]


class Storm:
    """One storm over one world, which has started."""

    def __init__(self, world: World, plan: Sequence[Disturbance], *, seed: int, members: int, transactions: int, on_progress: OnProgress) -> None:
        self._world = world
        self._plan = plan
        self._watch = Watch(world.settings)
        context = multiprocessing.get_context("spawn")
        self._gauge = Gauge(context.Value("q", 0), context.Value("q", 0))
        self._spacing = (members + transactions) // (len(plan) + 1)
        self._window = min(WINDOW_MAX, max(500, 2 * self._spacing))
        self._feeder: BaseProcess = context.Process(target=feed, args=(world.settings, seed, members, transactions, self._gauge), daemon=True)
        self._running = set(range(len(world.workers)))
        self._on_progress = on_progress
        self.progress = Progress(inputs=members + transactions)
        self._started_s = 0.0
        self.incidents = Findings()
        """What processes did that they should not have done."""
        self.incidents.looked_for(ENDED, NOT_STOPPED)

    def run(self) -> float:
        """The storm, and the calm after it: returns when all is answered, mirrored and stopped. Seconds from first to last answer.

        Raises StormFailed.
        """
        self._started_s = time.monotonic()
        self._feeder.start()
        try:
            self.progress.phase = "storm"
            self._wait(lambda: self._watch.answered_total > 0, "the start", START_STALL_S)
            first_s = time.monotonic()
            for disturbance in self._plan:
                self._advance_to(disturbance.at_answered)
                self._disturb(disturbance)
            duration_s = self._calm() - first_s
            self._stop()
            return duration_s
        except Exception:
            self.progress.phase = "failed"
            raise
        finally:
            self._feeder.kill()
            self._feeder.join()
            self._watch.close()

    def _incident(self, part: Part, kind: str, expected: str, found: str) -> None:
        """A process did what no disturbance excuses. The storm goes on, for the recount may tell more, but it is not clean."""
        number = self.incidents.total + 1
        file = self._world.keep_log(part, number)
        after = self.progress.hits[-1].text if self.progress.hits else "the start"
        self.incidents.add(kind, part.name, f"{file}, after {after}", expected, found)
        if number >= INCIDENTS_MAX:
            raise StormFailed(f"{number} processes ended by themselves or did not stop as told")

    def _end(self, part: Part) -> None:
        if complaint := part.end():
            self._incident(part, NOT_STOPPED, complaint.partition(", not ")[0], complaint.partition(", not ")[2])

    # Waiting

    def _tick(self) -> None:
        if self._watch.update():
            self._gauge.allowed.value = min(self._watch.answered_total + self._window, self._bound())
        for part in self._world.parts:
            if part.has_ended():
                self._incident(part, ENDED, "a running process", part.exit_text)
                part.start()  # As whatever supervises it would.
        if self._feeder.exitcode:
            raise StormFailed(f"the feeder ended with exit code {self._feeder.exitcode}; what it says is above")
        progress = self.progress
        progress.sent, progress.answered, progress.mirrored = self._gauge.sent.value, self._watch.answered_total, self._watch.mirrored
        progress.running = len(self._running)
        self._on_progress(progress)

    def _bound(self) -> int:
        """So many inputs at most, or the stream would be over before the storm: up to the next disturbance, and enough for it to disturb."""
        number, inputs = len(self.progress.hits), self.progress.inputs
        return min(self._plan[number].at_answered + self._spacing, inputs) if number < len(self._plan) else inputs

    def _wait(self, condition: Callable[[], bool], after: str, stall_s: float = STALL_S) -> None:
        """Return when the condition holds. Raises StormFailed when it does not, and nothing moves for `stall_s`."""
        seen, moved_s = (0, 0), time.monotonic()
        while True:
            self._tick()
            if condition():
                return
            now = (self._watch.answered_total, self._watch.mirrored)
            if now != seen:
                seen, moved_s = now, time.monotonic()
            elif time.monotonic() - moved_s > stall_s:
                raise StormFailed(f"no progress for {stall_s:.0f} s after {after}: {self._watch.answered} of {self._watch.appended}"
                                  f" answered, {self._gauge.sent.value} sent of {self._gauge.allowed.value} allowed {self._watch.silence}")  # fmt: skip
            time.sleep(TICK_S)

    def _pass_time(self, duration_s: float) -> None:
        """A time that the storm itself decides: how long something is down."""
        until_s = time.monotonic() + duration_s
        while (left_s := until_s - time.monotonic()) > 0:
            self._tick()
            time.sleep(min(TICK_S, left_s))

    def _advance_to(self, answered: int) -> None:
        after = self.progress.hits[-1].text if self.progress.hits else "the start"
        self._wait(lambda: self._watch.answered_total >= answered, after)

    def _moved_on(self, before: dict[int, int]) -> bool:
        """Whether every partition has answered something since `before`, or gets nothing more to answer."""
        now, ends = self._watch.answered, self._watch.appended
        is_all = sum(ends.values()) >= self._bound()
        return all(now[p] > answered or (is_all and now[p] >= ends[p]) for p, answered in before.items())

    def _mirrored_more(self, before: int) -> Callable[[], bool]:
        """Whether the sink has committed something since, or everything there is."""
        looked_s = time.monotonic()

        def condition() -> bool:
            nonlocal looked_s
            if self._watch.mirrored > before:
                return True
            if time.monotonic() - looked_s < CAUGHT_UP_EVERY_S:
                return False
            looked_s = time.monotonic()
            return self._watch.is_mirrored((topics.SYNC_AUDIT,))

        return condition

    # Disturbing

    def _disturb(self, disturbance: Disturbance) -> None:
        hit = Hit(disturbance, time.monotonic() - self._started_s, self._watch.answered_total)
        self.progress.hits.append(hit)
        started_s = time.monotonic()
        self._act(disturbance)
        self._tick()
        if disturbance.kind in OF_HISTORY:
            self._wait(self._mirrored_more(self._watch.mirrored), hit.text)
        else:
            before = dict(self._watch.answered)
            self._wait(lambda: self._moved_on(before), hit.text)
        hit.resumed_s = time.monotonic() - started_s
        self._on_progress(self.progress)

    def _act(self, disturbance: Disturbance) -> None:
        """Do it, and undo it after its delay."""
        world, kind, down_s = self._world, disturbance.kind, disturbance.delay_s
        worker = None if disturbance.worker is None else world.workers[disturbance.worker]
        number = disturbance.worker
        match kind:
            case Kind.WORKER_KILL | Kind.WORKER_KILL_COLD | Kind.WORKER_TERM:
                assert worker is not None and number is not None
                self._end(worker) if kind is Kind.WORKER_TERM else worker.kill()
                if kind is Kind.WORKER_KILL_COLD:
                    world.lose_state(number)
                self._pass_time(down_s)
                worker.start()
            case Kind.WORKER_PAUSE:
                assert worker is not None
                worker.pause()
                self._pass_time(down_s)
                worker.resume()
            case Kind.WORKER_ADDED:
                assert worker is not None and number is not None
                worker.start()
                self._running.add(number)
            case Kind.WORKER_REMOVED:
                assert worker is not None and number is not None
                self._end(worker)
                self._running.discard(number)
            case Kind.BROKER_KILL | Kind.BROKER_AND_WORKER_KILL:
                world.kafka.kill()
                if worker is not None:
                    worker.kill()
                    worker.start()
                self._pass_time(down_s)
                world.kafka.start()
            case Kind.BROKER_RESTART:
                world.kafka.restart()
            case Kind.HISTORY_KILL:
                world.clickhouse.kill()
                self._pass_time(down_s)
                world.clickhouse.start()
            case Kind.HISTORY_PAUSE:
                world.clickhouse.pause()
                self._pass_time(down_s)
                world.clickhouse.resume()
            case Kind.SINK_KILL:
                world.sink.kill()
                self._pass_time(down_s)
                world.sink.start()

    # The end

    def _calm(self) -> float:
        """Start what is not running, and wait until everything sent is answered and mirrored. When the last answer came (monotonic)."""
        self.progress.phase = "calm"
        for number, worker in enumerate(self._world.workers):
            if number not in self._running:
                worker.start()
                self._running.add(number)
        total = self.progress.inputs
        self._wait(self._world.is_ready, "the end of the storm")
        self._wait(lambda: self._feeder.exitcode == 0 and self._watch.answered_total >= total, "the end of the storm")
        answered_s = time.monotonic()
        self.progress.phase = "mirroring"
        looked_s = 0.0

        def mirrored() -> bool:
            nonlocal looked_s
            if time.monotonic() - looked_s < CAUGHT_UP_EVERY_S:
                return False
            looked_s = time.monotonic()
            return self._watch.is_mirrored()

        self._wait(mirrored, "the end of the storm")
        return answered_s

    def _stop(self) -> None:
        """Stop the pipeline in an orderly way."""
        self.progress.phase = "stopping"
        for part in self._world.parts:
            self._end(part)
        self._on_progress(self.progress)
