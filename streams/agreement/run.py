"""One whole reconciliation: compare, mend, and leave a report in LOYALTY_HOME/reports and in ClickHouse."""

import logging
import secrets
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
from clickhouse_connect.driver.exceptions import ClickHouseError

from sinks.clickhouse.connection import connect
from streams.agreement.comparison import WAIT_S, Comparison, Scope
from streams.agreement.log import Advance
from streams.agreement.model import Cause, Difference
from streams.agreement.repair import Repair
from streams.configuration import Configuration
from streams.settings import Settings

log = logging.getLogger(__name__)

KEPT_MAX = 10_000
"""Differences of one run that ClickHouse keeps."""
RUN_COLUMNS = ("run_id", "program_id", "started_at", "ended_at", "members", "differences", "waiting", "mended", "not_compared")
COLUMNS = ("program_id", "member_id", "store", "cause", "field", "here", "there", "sequence", "record_id", "age_s", "detail", "repair")


@dataclass(slots=True, kw_only=True)
class Summary:
    """What a run has found."""

    run_id: str
    scope: Scope
    started_at_ms: int
    ended_at_ms: int = 0
    members: int = 0
    found: dict[tuple[str, str], int] = field(default_factory=dict)
    """Store and cause -> differences."""
    mended: int = 0
    not_compared: dict[str, str] = field(default_factory=dict)

    @property
    def differences(self) -> int:
        """Those that are more than lag."""
        return sum(count for (_, cause), count in self.found.items() if cause != Cause.LAG)

    @property
    def waiting(self) -> int:
        return sum(count for (_, cause), count in self.found.items() if cause == Cause.LAG)

    def document(self) -> dict[str, Any]:
        return {
            "run_id": self.run_id, "program_id": self.scope.program_id, "member_id": self.scope.member_id, "started_at_ms": self.started_at_ms,
            "ended_at_ms": self.ended_at_ms, "members": self.members, "differences": self.differences, "waiting": self.waiting,
            "mended": self.mended, "not_compared": self.not_compared,
            "found": [{"store": store, "cause": cause, "differences": count} for (store, cause), count in sorted(self.found.items())],
        }  # fmt: skip


def reconcile(
    settings: Settings, configuration: Configuration, scope: Scope, *, repairs: bool, step: Callable[[str], Advance],
    tell: Callable[[Difference], None] = lambda one: None, run_id: str = "", wait_s: float = WAIT_S, report: Path | None = None,
) -> Summary:  # fmt: skip
    """Compare, tell each difference, mend if it is to, report. Raises LoyaltyError and OSError."""
    started_at_ms = time.time_ns() // 1_000_000
    summary = Summary(run_id=run_id or f"reconcile/{_instant(started_at_ms)}/{secrets.token_hex(2)}", scope=scope, started_at_ms=started_at_ms)
    kept: list[Difference] = []
    report = report or Path(settings.home) / "reports" / f"{summary.run_id.replace('/', '-').replace(':', '')}.jsonl"
    report.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="loyalty-reconcile-") as folder, report.open("wb") as file:
        comparison = Comparison(settings, configuration, scope, Path(folder), wait_s=wait_s)
        repair = Repair(settings, configuration, comparison.codec, summary.run_id)
        try:
            for one in comparison.differences(step):
                tell(one)
                repair.add(one)
                file.write(orjson.dumps(asdict(one)) + b"\n")
                if len(kept) < KEPT_MAX:
                    kept.append(one)
        finally:
            comparison.close()
        if repairs:
            repair.send()
        summary.members, summary.found, summary.not_compared = comparison.members, dict(comparison.found), comparison.not_compared
        summary.mended, summary.ended_at_ms = repair.sent, time.time_ns() // 1_000_000
        file.write(orjson.dumps({"summary": summary.document()}) + b"\n")
    record(settings, summary, kept)
    return summary


def record(settings: Settings, summary: Summary, kept: list[Difference]) -> None:
    """Into ClickHouse, if it answers: the report has it all anyway."""
    started_at = datetime.fromtimestamp(summary.started_at_ms / 1000, UTC)
    try:
        client = connect(settings)
        try:
            row = [
                summary.run_id, summary.scope.program_id, started_at, datetime.fromtimestamp(summary.ended_at_ms / 1000, UTC), summary.members,
                summary.differences, summary.waiting, summary.mended, sorted(summary.not_compared),
            ]  # fmt: skip
            client.insert("agreement_runs", [row], column_names=RUN_COLUMNS)
            if kept:
                rows = [
                    [summary.run_id, number, *(_plain(getattr(one, name)) for name in COLUMNS), started_at] for number, one in enumerate(kept, 1)
                ]
                client.insert("agreement_differences", rows, column_names=["run_id", "number", *COLUMNS, "started_at"])
        finally:
            client.close()
    except (ClickHouseError, OSError) as error:
        log.warning("agreement.not_recorded", extra={"run_id": summary.run_id, "reason": str(error)[:300]})


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, str) else value


def _instant(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
