"""Schedulers on a real broker: one leads, runs are recorded once, what fails is tried again, what is asked for is run."""

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from schemas.records import RunResult, RunTrigger, SyncRun
from streams import kafka
from streams.codec import open_codec
from streams.scheduling import jobs, scheduler
from streams.scheduling.cadence import Cadence
from streams.scheduling.job import Outcome, Run
from streams.scheduling.journal import FencedError, RunJournal
from streams.scheduling.runs import RunLog
from streams.settings import Settings
from streams.sync.control import SyncControlLog
from tests.ingress.support import make_configuration

WAIT_S = 90


class Counting:
    """A job that fails the first `failures` times."""

    def __init__(self, name: str, *, every_s: float = 1, after: tuple[str, ...] = (), failures: int = 0) -> None:
        self.name, self.after, self.default = name, after, Cadence(every_s=every_s)
        self.failures = failures
        self.runs: list[Run] = []

    async def run(self, run: Run) -> Outcome:
        self.runs.append(run)
        if len(self.runs) <= self.failures:
            raise RuntimeError("it is not ready")
        return Outcome(rows=len(self.runs), counts={"seen": 1})


@pytest.fixture
def settings(make_settings: Callable[..., Settings]) -> Settings:
    settings = make_settings(redis_url="redis://unused", clickhouse_url="http://unused")
    kafka.ensure_topics(settings)
    return settings


@asynccontextmanager
async def running(settings: Settings, *found: Counting) -> Any:
    one = scheduler.Scheduler(settings, make_configuration(), jobs.in_order({job.name: job for job in found}))
    stop = asyncio.Event()
    task = asyncio.create_task(one.run(stop))
    try:
        yield one
    finally:
        stop.set()
        await asyncio.wait_for(task, WAIT_S)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():
            await asyncio.sleep(0.02)


async def recorded(settings: Settings, job: str) -> list[SyncRun]:
    runs = RunLog(settings, open_codec(settings))
    runs.start()
    await runs.ready()
    await runs.close()
    return [run for run in runs.newest if run.job == job]


async def test_one_of_two_runs_each_instant_once_and_the_other_takes_over(settings: Settings) -> None:
    first, second = Counting("tally"), Counting("tally")
    async with AsyncExitStack() as stack:
        stopping = await stack.enter_async_context(AsyncExitStack())
        await stopping.enter_async_context(running(settings, first))
        await until(lambda: len(first.runs) >= 1)
        await stack.enter_async_context(running(settings, second))
        await until(lambda: len(first.runs) + len(second.runs) >= 3)  # Who leads may change when another one joins.
        await stopping.aclose()
        before = len(second.runs)
        await until(lambda: len(second.runs) >= before + 2)
    runs = await recorded(settings, "tally")
    instants = [run.scheduled_for_ms for run in runs]
    assert instants == sorted(set(instants)) and len(instants) == len(first.runs) + len(second.runs)
    assert {run.result for run in runs} == {RunResult.DONE}
    # Whoever goes on knows what the one before has done.
    assert all(run.previous is not None and run.previous.scheduled_for_ms < run.scheduled_for_ms for run in second.runs)


async def test_what_fails_is_tried_again_and_what_waits_for_it_comes_after(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler.plan, "RETRY_FIRST_S", 0)
    base, above = Counting("base", every_s=2, failures=1), Counting("above", every_s=2, after=("base",))
    async with running(settings, above, base):
        await until(lambda: len(above.runs) >= 1)
    failed, done, *_ = await recorded(settings, "base")
    assert (failed.result, failed.attempt, failed.detail) == (RunResult.FAILED, 1, "RuntimeError: it is not ready")
    assert (done.result, done.attempt, done.run_id) == (RunResult.DONE, 2, failed.run_id)
    assert above.runs[0].scheduled_for_ms == done.scheduled_for_ms and above.runs[0].started_at_ms >= done.ended_at_ms


async def test_what_an_operator_asks_for_is_run_once_beside_the_cadence(settings: Settings) -> None:
    rare = Counting("rare", every_s=86_400)
    control = SyncControlLog(settings, open_codec(settings), make_configuration())
    control.start()
    await control.ready()
    await control.request("rare", changed_by="ana")
    async with running(settings, rare):
        await until(lambda: len(rare.runs) >= 1)
        await until(lambda: "rare" not in _requests(control))
        await control.request("rare", changed_by="ben")
        await until(lambda: len(rare.runs) >= 2)
    await control.close()
    runs = await recorded(settings, "rare")
    assert [(run.trigger, run.requested_by) for run in runs] == [(RunTrigger.OPERATOR, "ana"), (RunTrigger.OPERATOR, "ben")]
    assert all(run.due_after_ms > run.ended_at_ms for run in runs)


async def test_a_leader_of_before_records_nothing(settings: Settings) -> None:
    codec = open_codec(settings)
    old, new = RunJournal(settings, codec), RunJournal(settings, codec)
    await old.open()
    record = SyncRun(
        run_id="tally@1", job="tally", trigger=RunTrigger.SCHEDULE, result=RunResult.DONE, detail="old", attempt=1, cadence="", requested_by="",
        scheduled_for_ms=1, started_at_ms=1, ended_at_ms=1, rows=0, counts={}, due_after_ms=0,
    )  # fmt: skip
    await new.open()
    await new.write(replace(record, detail="new"))
    with pytest.raises(FencedError):
        await old.write(record)
    assert [run.detail for run in await recorded(settings, "tally")] == ["new"]


def _requests(control: SyncControlLog) -> dict[str, Any]:
    return control.records(scheduler.SyncControlKind.REQUEST)
