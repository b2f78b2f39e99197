"""A cadence and how a job has fared -> when it is due next, and why. Pure: the same after a restart, whoever leads.

One instant, one run that goes well. What fails is tried again with back-off as long as the next instant has not come. Of instants that
were missed, because no scheduler ran or a run took longer than the interval, one is caught up, and what was due in between is not.
"""

from dataclasses import dataclass

from schemas.records import RunResult, RunTrigger, SyncRun
from streams.scheduling.cadence import Cadence

RETRY_FIRST_S, RETRY_MAX_S = 5, 600


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """The next run of a job."""

    at_ms: int
    """When it may begin."""
    scheduled_for_ms: int
    """Its instant."""
    attempt: int = 1
    trigger: RunTrigger = RunTrigger.SCHEDULE


def retry_delay_ms(attempt: int) -> int:
    """After the attempt of that number, from 1, has failed."""
    return 1000 * min(RETRY_MAX_S, RETRY_FIRST_S << min(attempt - 1, 20))


def due(cadence: Cadence, planned: SyncRun | None, *, since_ms: int, now_ms: int) -> Due | None:
    """`planned`: the newest run of the cadence; `since_ms`: from when on the cadence counts. None: it is realtime, and never due."""
    if cadence.is_realtime:
        return None
    base_ms = since_ms
    if planned is not None:
        again = _again(cadence, planned, since_ms)
        if again is not None:
            return again
        is_late = planned.trigger is RunTrigger.CATCH_UP
        base_ms = max(since_ms, planned.scheduled_for_ms, planned.started_at_ms if is_late else 0)
    instant_ms = cadence.next_ms(base_ms)
    has_missed_more = instant_ms <= now_ms and cadence.next_ms(instant_ms) <= now_ms
    at_ms = instant_ms if instant_ms > now_ms or cadence.is_open(now_ms) else cadence.next_ms(now_ms)
    return Due(at_ms=at_ms, scheduled_for_ms=instant_ms, trigger=RunTrigger.CATCH_UP if has_missed_more else RunTrigger.SCHEDULE)


def _again(cadence: Cadence, run: SyncRun, since_ms: int) -> Due | None:
    """The same run once more, if it did not go well and its time has not passed."""
    if run.result not in (RunResult.FAILED, RunResult.STOPPED) or since_ms > run.started_at_ms:
        return None
    if run.result is RunResult.STOPPED:
        return Due(at_ms=run.ended_at_ms, scheduled_for_ms=run.scheduled_for_ms, attempt=run.attempt, trigger=run.trigger)
    at_ms = run.ended_at_ms + retry_delay_ms(run.attempt)
    if at_ms >= cadence.next_ms(max(run.scheduled_for_ms, run.started_at_ms)) or not cadence.is_open(at_ms):
        return None
    return Due(at_ms=at_ms, scheduled_for_ms=run.scheduled_for_ms, attempt=run.attempt + 1, trigger=run.trigger)


def is_due_at(cadence: Cadence, instant_ms: int) -> bool:
    """Whether that time is one of its instants."""
    return not cadence.is_realtime and cadence.next_ms(instant_ms - 1) == instant_ms
