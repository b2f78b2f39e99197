"""When a job is due next, by how it has fared."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.records import RunResult, RunTrigger, SyncRun
from streams.scheduling import plan
from streams.scheduling.cadence import REALTIME, Cadence
from streams.scheduling.plan import Due

MINUTE = 60_000
EVERY = Cadence(every_s=60)
DONE, FAILED, STOPPED = RunResult.DONE, RunResult.FAILED, RunResult.STOPPED
SCHEDULE, CATCH_UP = RunTrigger.SCHEDULE, RunTrigger.CATCH_UP


def a_run(result: RunResult, scheduled_for_ms: int, ended_ms: int, *, attempt: int = 1, trigger: RunTrigger = SCHEDULE) -> SyncRun:
    return SyncRun(
        run_id="job@1", job="job", trigger=trigger, result=result, detail="", attempt=attempt, cadence="", requested_by="",
        scheduled_for_ms=scheduled_for_ms, started_at_ms=max(scheduled_for_ms, ended_ms - 100), ended_at_ms=ended_ms, rows=0, counts={}, due_after_ms=0,
    )  # fmt: skip


@pytest.mark.parametrize(("planned", "now_ms", "expected"), [
    (None, 90_000, Due(at_ms=2 * MINUTE, scheduled_for_ms=2 * MINUTE)),
    (a_run(DONE, MINUTE, 61_000), 90_000, Due(at_ms=2 * MINUTE, scheduled_for_ms=2 * MINUTE)),
    # A late start is no catch-up as long as no other instant has come.
    (a_run(DONE, MINUTE, 61_000), 150_000, Due(at_ms=2 * MINUTE, scheduled_for_ms=2 * MINUTE)),
    # Several were missed: one of them is caught up, and after it the next one is that after its begin.
    (a_run(DONE, MINUTE, 61_000), 610_000, Due(at_ms=2 * MINUTE, scheduled_for_ms=2 * MINUTE, trigger=CATCH_UP)),
    (a_run(DONE, 2 * MINUTE, 611_000, trigger=CATCH_UP), 612_000, Due(at_ms=11 * MINUTE, scheduled_for_ms=11 * MINUTE)),
    # What fails is tried again after 5, 10, 20 ... seconds, until the next instant is there.
    (a_run(FAILED, MINUTE, 61_000), 62_000, Due(at_ms=66_000, scheduled_for_ms=MINUTE, attempt=2)),
    (a_run(FAILED, MINUTE, 80_000, attempt=3), 81_000, Due(at_ms=100_000, scheduled_for_ms=MINUTE, attempt=4)),
    (a_run(FAILED, MINUTE, 110_000, attempt=4), 111_000, Due(at_ms=2 * MINUTE, scheduled_for_ms=2 * MINUTE)),
    # What was stopped goes on at once.
    (a_run(STOPPED, MINUTE, 61_000), 90_000, Due(at_ms=61_000, scheduled_for_ms=MINUTE)),
])  # fmt: skip
def test_due(planned: SyncRun | None, now_ms: int, expected: Due) -> None:
    assert plan.due(EVERY, planned, since_ms=MINUTE if planned is None else 0, now_ms=now_ms) == expected


def test_realtime_is_never_due() -> None:
    assert plan.due(REALTIME, None, since_ms=0, now_ms=90_000) is None


def test_a_new_cadence_counts_from_when_it_was_set() -> None:
    yesterday = a_run(DONE, 0, 1_000)
    assert plan.due(EVERY, yesterday, since_ms=86_400_000, now_ms=86_401_000) == Due(at_ms=86_460_000, scheduled_for_ms=86_460_000)
    # What had failed under the old one is not tried again under the new one.
    assert plan.due(EVERY, a_run(FAILED, 0, 1_000), since_ms=86_400_000, now_ms=86_401_000) == Due(at_ms=86_460_000, scheduled_for_ms=86_460_000)


def test_what_was_missed_waits_for_the_window() -> None:
    nightly = Cadence(cron="0 2 * * *", window=(60, 300))
    noon_ms, day_ms = 12 * 3600_000, 86_400_000
    late = plan.due(nightly, a_run(DONE, 2 * 3600_000, 2 * 3600_000 + 5), since_ms=0, now_ms=day_ms + noon_ms)
    assert late == Due(at_ms=2 * day_ms + 2 * 3600_000, scheduled_for_ms=day_ms + 2 * 3600_000)


@given(st.sampled_from([DONE, FAILED, STOPPED]), st.integers(0, 10**7), st.integers(0, 10**6), st.integers(1, 30), st.integers(0, 10**7))
def test_what_is_due_depends_on_the_run_and_not_on_when_one_looks(result: RunResult, at_ms: int, took_ms: int, attempt: int, later_ms: int) -> None:
    run = a_run(result, at_ms, at_ms + took_ms, attempt=attempt)
    first = plan.due(EVERY, run, since_ms=0, now_ms=run.ended_at_ms)
    later = plan.due(EVERY, run, since_ms=0, now_ms=run.ended_at_ms + later_ms)
    assert first is not None and later is not None
    assert (first.at_ms, first.scheduled_for_ms, first.attempt) == (later.at_ms, later.scheduled_for_ms, later.attempt)
    assert first.scheduled_for_ms >= run.scheduled_for_ms
