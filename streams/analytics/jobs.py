"""Every report of the catalogue as a job of the scheduler: `report/<name>`."""

import asyncio
from dataclasses import dataclass

from streams.analytics import catalogue
from streams.analytics.catalogue import Report
from streams.configuration import Configuration
from streams.scheduling.cadence import Cadence
from streams.scheduling.job import Job, Outcome, Run
from streams.settings import Settings


@dataclass(frozen=True, slots=True)
class Refresh:
    """Makes a report's rows again."""

    report: Report

    @property
    def name(self) -> str:
        return self.report.job

    @property
    def after(self) -> tuple[str, ...]:
        return self.report.after

    @property
    def default(self) -> Cadence:
        return self.report.cadence

    async def run(self, run: Run) -> Outcome:
        from streams.analytics.refresh import refresh  # ClickHouse's client takes a second to load.

        previous_ms = None if run.previous is None else run.previous.started_at_ms
        done = await asyncio.to_thread(refresh, run.settings, self.report, until_ms=run.scheduled_for_ms, previous_ms=previous_ms)
        return Outcome(rows=done.rows, counts={"periods": done.periods}, detail=f"version {self.report.version}")


def jobs(settings: Settings, configuration: Configuration) -> list[Job]:
    return [Refresh(report) for report in catalogue.load().values()]
