"""`loyalty scheduler`: jobs -> runs at their instants, by the one scheduler that leads; each run is on record in the sync-runs topic."""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace

from aiohttp import web

from schemas.records import RunResult, RunTrigger, SyncControlKind, SyncRun
from streams import kafka, metrics, observability
from streams.codec import open_codec
from streams.configuration import Configuration
from streams.errors import ConfigurationError, LoyaltyError, UnavailableError
from streams.scheduling import jobs as all_jobs
from streams.scheduling import plan
from streams.scheduling.cadence import Cadence
from streams.scheduling.job import Job, Outcome, Run
from streams.scheduling.journal import FencedError, RunJournal
from streams.scheduling.leadership import Leadership
from streams.scheduling.plan import Due
from streams.scheduling.runs import RunLog, Standing, tell
from streams.settings import Settings
from streams.sync import drain, names
from streams.sync.control import SyncControlLog
from streams.sync.flush import FlushJob

log = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0
LEAD_AGAIN_S = 1.0
RUNS_AT_ONCE_MAX = 4  # Reports and flushes are other servers' work; this process waits.
DETAIL_CHARACTERS_MAX = 2_000


def now_ms() -> int:
    return time.time_ns() // 1_000_000


async def run(settings: Settings, configuration: Configuration, stop: asyncio.Event) -> None:
    """Run until `stop` is set. Raises ConfigurationError, and OSError for an HTTP port in use."""
    jobs = all_jobs.load(settings, configuration)
    unknown = [name for name in configuration.sync if not names.is_stream(name) and name not in jobs]
    if unknown:
        raise ConfigurationError(*(f'LOYALTY_CONFIG_FILE: sync."{name}" names no stream and no job. Jobs are {", ".join(jobs)}.' for name in unknown))
    scheduler = Scheduler(settings, configuration, jobs)
    app = web.Application()
    observability.add_routes(app, scheduler.readiness)
    server = await observability.serve(app, settings.http_host, settings.http_port)
    try:
        if await kafka.wait_for_topics(settings, stop):
            await scheduler.run(stop)
    finally:
        await server.cleanup()


class Scheduler:
    """One process of several."""

    def __init__(self, settings: Settings, configuration: Configuration, jobs: Mapping[str, Job], *, clock_ms: Callable[[], int] = now_ms) -> None:
        self._settings = settings
        self._configuration = configuration
        self._codec = open_codec(settings)
        self._jobs = dict(jobs)
        self._clock_ms = clock_ms
        self._control = SyncControlLog(settings, self._codec, configuration)
        self._wake = asyncio.Event()
        self._leads = asyncio.Event()
        self._lost = asyncio.Event()
        self._leadership = Leadership(settings, self._lead)
        self._slots = asyncio.Semaphore(RUNS_AT_ONCE_MAX)
        self._running: dict[str, asyncio.Task[None]] = {}
        self._since_ms = 0
        """When this scheduler began to lead: jobs that never ran count from then on."""

    def readiness(self) -> str:
        if not self._leadership.has_joined:
            return f"The scheduler waits for Kafka at LOYALTY_KAFKA_BOOTSTRAP_SERVERS={self._settings.kafka_bootstrap_servers}."
        return ""

    async def run(self, stop: asyncio.Event) -> None:
        """Lead whenever it is this one's turn, until `stop` is set; then let the runs come to a point from which others go on."""
        self._control.on_change(self._wake.set)
        self._control.start()
        self._leadership.start()
        stopped = asyncio.create_task(stop.wait())
        try:
            while not stop.is_set():
                leading = asyncio.create_task(self._leads.wait())
                await asyncio.wait((stopped, leading), return_when=asyncio.FIRST_COMPLETED)
                leading.cancel()
                if not stop.is_set():
                    await self._lead_until(stop)
        finally:
            stopped.cancel()
            metrics.SCHEDULER_LEADS.set(0)
            await self._leadership.close()
            await self._control.close()

    def _lead(self, leads: bool) -> None:
        (self._leads.set if leads else self._leads.clear)()
        if not leads:
            self._lost.set()
            self._wake.set()

    async def _lead_until(self, stop: asyncio.Event) -> None:
        """One time of leading. Whatever goes wrong in it, it begins anew."""
        self._lost.clear()
        if not self._leads.is_set():
            return
        journal, runs = RunJournal(self._settings, self._codec), RunLog(self._settings, self._codec)
        end = asyncio.Event()
        watching = asyncio.create_task(_first_of(stop, self._lost, end))
        draining = None
        try:
            await self._control.ready()
            await journal.open()
            runs.start()
            await runs.ready()
            self._since_ms = self._clock_ms()
            metrics.SCHEDULER_LEADS.set(1)
            log.info("scheduler.leads", extra={"jobs": len(self._jobs)})
            draining = asyncio.create_task(drain.keep_drained(self._control, self._flush_job, end))
            await self._plan_until(end, journal, runs)
        except FencedError as error:
            self._leads.clear()
            log.warning("scheduler.fenced", extra={"reason": str(error)})
        except UnavailableError as error:
            log.warning("scheduler.interrupted", extra={"reason": str(error)})
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), LEAD_AGAIN_S)
        finally:
            end.set()
            metrics.SCHEDULER_LEADS.set(0)
            await asyncio.gather(*self._running.values(), *([draining] if draining else []), watching, return_exceptions=True)
            self._running.clear()
            await runs.close()
            log.info("scheduler.stands_by")

    async def _plan_until(self, end: asyncio.Event, journal: RunJournal, runs: RunLog) -> None:
        while not end.is_set():
            self._wake.clear()
            for task in [task for task in self._running.values() if task.done()]:
                task.result()  # Raises what kept a run from being recorded.
            self._running = {name: task for name, task in self._running.items() if not task.done()}
            for job in self._current_jobs():
                self._consider(job, journal, runs, end)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), LOOK_EVERY_S)

    def _current_jobs(self) -> list[Job]:
        return [*(self._flush_job(name) for name in self._control.inbound_names()), *(job for job in self._jobs.values() if not isinstance(job, FlushJob))]

    def _flush_job(self, name: str) -> FlushJob:
        """The job of an inbound stream: sources may get a schedule of their own while this runs."""
        job = self._jobs.get(names.SYNC + name)
        if not isinstance(job, FlushJob):
            job = self._jobs[names.SYNC + name] = FlushJob(name, self._settings, self._codec, self._control.inbound_names)
        return job

    def _consider(self, job: Job, journal: RunJournal, runs: RunLog, end: asyncio.Event) -> None:
        """Begin a run of the job, if one is due or asked for and none is under way."""
        if job.name in self._running:
            return
        name, standing = names.of_job(job.name), runs.standing(job.name)
        cadence = self._control.cadence(name, job.default)
        request = self._requested(name, job, standing)
        if request is not None:
            self._begin(job, cadence, *request, journal, runs, end)
            return
        planned = plan.due(cadence, standing.planned, since_ms=self._since(name, standing), now_ms=self._clock_ms())
        metrics.SCHEDULED_RUN_DUE.labels(job.name).set(planned.at_ms / 1000 if planned is not None else 0)
        if planned is not None and planned.at_ms <= self._clock_ms() and self._may_begin(job, planned, runs):
            self._begin(job, cadence, planned, "", journal, runs, end)

    def _since(self, name: str, standing: Standing) -> int:
        set_ms = self._control.since_ms(name)
        return set_ms or (0 if standing.planned is not None else self._since_ms)

    def _requested(self, name: str, job: Job, standing: Standing) -> tuple[Due, str] | None:
        """What an operator asked for and has not got yet."""
        request = self._control.record(SyncControlKind.REQUEST, name)
        if request is None:
            return None
        due = Due(at_ms=request.changed_at_ms, scheduled_for_ms=request.changed_at_ms, trigger=RunTrigger.OPERATOR)
        if standing.requested is not None and standing.requested.run_id == _run_id(job, due):
            return None
        return due, request.changed_by

    def _may_begin(self, job: Job, due: Due, runs: RunLog) -> bool:
        """Whether all that it waits for, and that was due at the same instant, has ended well."""
        for name in job.after:
            before = self._jobs[name]
            done = runs.standing(name).done
            is_same_instant = plan.is_due_at(self._control.cadence(names.of_job(name), before.default), due.scheduled_for_ms)
            if is_same_instant and (done is None or done.scheduled_for_ms < due.scheduled_for_ms):
                return False
        return True

    def _begin(self, job: Job, cadence: Cadence, due: Due, requested_by: str, journal: RunJournal, runs: RunLog, end: asyncio.Event) -> None:
        task = asyncio.create_task(self._run_one(job, cadence, due, requested_by, journal, runs, end))
        task.add_done_callback(lambda _: self._wake.set())
        self._running[job.name] = task

    async def _run_one(
        self, job: Job, cadence: Cadence, due: Due, requested_by: str, journal: RunJournal, runs: RunLog, end: asyncio.Event
    ) -> None:
        """Run it and record how that went. Raises UnavailableError when it cannot be recorded: it is then run again."""
        standing = runs.standing(job.name)
        async with self._slots:
            if end.is_set():
                return
            started_ms = self._clock_ms()
            told = Run(
                run_id=_run_id(job, due), job=job.name, scheduled_for_ms=due.scheduled_for_ms, started_at_ms=started_ms, cadence=cadence,
                previous=standing.done, stop=end, settings=self._settings, configuration=self._configuration, codec=self._codec,
            )  # fmt: skip
            outcome, result = Outcome(), RunResult.DONE
            try:
                outcome = await job.run(told)
                if end.is_set():
                    result = RunResult.STOPPED
            except Exception as error:
                result = RunResult.FAILED
                outcome = Outcome(detail=str(error) if isinstance(error, LoyaltyError) else f"{type(error).__name__}: {error}")
                log.warning("run.failed", extra={"job": job.name, "run_id": told.run_id, "attempt": due.attempt}, exc_info=not isinstance(error, LoyaltyError))
        record = SyncRun(
            run_id=told.run_id, job=job.name, trigger=due.trigger, result=result, detail=outcome.detail[:DETAIL_CHARACTERS_MAX], attempt=due.attempt,
            cadence=str(cadence), requested_by=requested_by, scheduled_for_ms=due.scheduled_for_ms, started_at_ms=started_ms,
            ended_at_ms=self._clock_ms(), rows=outcome.rows, counts=dict(outcome.counts), due_after_ms=0,
        )  # fmt: skip
        record = _with_next(record, cadence, standing, self._since(names.of_job(job.name), standing), self._clock_ms())
        await journal.write(record)
        standing.note(record)
        tell(record)
        if due.trigger is RunTrigger.OPERATOR:
            await self._control.end_request(names.of_job(job.name), changed_by="scheduler")


def _run_id(job: Job, due: Due) -> str:
    return f"{job.name}@{'operator-' if due.trigger is RunTrigger.OPERATOR else ''}{due.scheduled_for_ms}"


def _with_next(record: SyncRun, cadence: Cadence, standing: Standing, since_ms: int, now: int) -> SyncRun:
    """The record with when the job is due next."""
    planned = standing.planned if record.trigger is RunTrigger.OPERATOR else record
    following = plan.due(cadence, planned, since_ms=since_ms, now_ms=now)
    return replace(record, due_after_ms=following.at_ms if following is not None else 0)


async def _first_of(*events: asyncio.Event) -> None:
    """Set the last of the events as soon as one of the others is set."""
    waiting = [asyncio.create_task(event.wait()) for event in events]
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    for task in waiting:
        task.cancel()
    events[-1].set()
