"""The nightly reconciliation of all copies, for the scheduler."""

import asyncio
import time
from dataclasses import dataclass

from streams import metrics
from streams.agreement.comparison import Scope
from streams.agreement.model import Cause
from streams.configuration import Configuration
from streams.errors import LoyaltyError
from streams.scheduling.cadence import Cadence
from streams.scheduling.job import Job, Outcome, Run
from streams.settings import Settings

NIGHTLY = "30 2 * * *"


@dataclass(frozen=True, slots=True)
class Agreement:
    """Compares and reports; it mends nothing by itself."""

    name: str = "reconcile"
    after: tuple[str, ...] = ()
    default: Cadence = Cadence(cron=NIGHTLY)

    async def run(self, run: Run) -> Outcome:
        from streams.agreement.run import reconcile  # It needs RocksDB and ClickHouse's client, of which a scheduler knows nothing else.

        summary = await asyncio.to_thread(
            reconcile, run.settings, run.configuration, Scope(), repairs=False, step=lambda name: lambda done, total: None, run_id=run.run_id
        )
        metrics.AGREEMENT_DIFFERENCES.clear()
        for (store, cause), count in summary.found.items():
            metrics.AGREEMENT_DIFFERENCES.labels(store, cause).set(count)
        metrics.AGREEMENT_DONE.set(time.time())
        if summary.not_compared:
            raise LoyaltyError("; ".join(f"{store} was not compared: {why}" for store, why in summary.not_compared.items()))
        counts = {f"{store} {cause}": count for (store, cause), count in summary.found.items() if cause != Cause.LAG}
        return Outcome(rows=summary.members, counts=counts, detail=f"{summary.differences} differences, {summary.waiting} wait")


def jobs(settings: Settings, configuration: Configuration) -> list[Job]:
    return [Agreement()]
