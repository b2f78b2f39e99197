"""One storm from begin to end: world, traffic, disturbances, verdict, report."""

import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from infra.processes import StartError
from tests.chaos import plan as plans
from tests.chaos import study, verify, world
from tests.chaos.findings import Findings
from tests.chaos.plan import Kind
from tests.chaos.storm import Hit, OnProgress, Progress, Storm

INPUTS_PER_MEMBER = 100


@dataclass(frozen=True, slots=True)
class Request:
    """What is wanted. The same request gives the same inputs and the same plan."""

    seed: int
    inputs: int
    kinds: Mapping[Kind, int]
    workers: int = 3
    partitions: int = world.PARTITIONS
    members: int = 0
    """0: one for every INPUTS_PER_MEMBER inputs."""
    keep: bool = False
    """Keep the folder also when nothing is wrong."""


@dataclass(slots=True)
class Report:
    """What came of it."""

    request: Request
    hits: list[Hit] = field(default_factory=list)
    findings: Findings = field(default_factory=Findings)
    failure: str = ""
    """Why the storm did not come to its end; empty when it did."""
    duration_s: float = 0.0
    """From the first to the last answer."""
    verify_s: float = 0.0
    compared: int = 0
    markers_dropped: int = 0
    """World.markers_dropped: a fault of the broker that explains differences."""
    folder: Path | None = None
    """Logs, broker data, states and stories of members that differ; None when it was removed."""

    @property
    def is_clean(self) -> bool:
        return not self.failure and not self.findings.total and bool(self.findings.counts)

    @property
    def inputs_per_s(self) -> float:
        return self.request.inputs / self.duration_s if self.duration_s else 0.0

    def by_kind(self) -> dict[Kind, list[float]]:
        """Seconds until progress resumed, of each kind that was carried out."""
        times: dict[Kind, list[float]] = {}
        for hit in self.hits:
            times.setdefault(hit.disturbance.kind, [])
            if hit.resumed_s is not None:
                times[hit.disturbance.kind].append(hit.resumed_s)
        return times

    def to_json(self) -> dict[str, Any]:
        request = self.request
        return {
            "seed": request.seed, "inputs": request.inputs, "workers": request.workers, "partitions": request.partitions,
            "duration_s": round(self.duration_s, 1), "inputs_per_s": round(self.inputs_per_s), "verify_s": round(self.verify_s, 1),
            "compared": self.compared, "markers_dropped": self.markers_dropped,
            "clean": self.is_clean, "failure": self.failure, "folder": str(self.folder or ""),
            "resumed_s": {kind.value: {"count": len(times), "p50": round(median(times), 1), "max": round(max(times), 1)}
                          for kind, times in self.by_kind().items() if times},
            "disturbances": [asdict(hit) for hit in self.hits],
            **self.findings.to_json(),
        }  # fmt: skip


def run(request: Request, on_progress: OnProgress = lambda _: None, on_verified: Callable[[int], None] = lambda _: None) -> Report:
    """Always comes back with a report; what failed is in it. Raises StartError when the broker or ClickHouse cannot start at all."""
    report = Report(request)
    home = Path(tempfile.mkdtemp(prefix=f"loyalty-storm-{request.seed}-"))
    members = request.members or max(10, request.inputs // INPUTS_PER_MEMBER)
    plan = plans.draw(
        request.seed, inputs=request.inputs, workers=request.workers, kinds=request.kinds, session_timeout_s=world.SESSION_TIMEOUT_S
    )
    try:
        on_progress(Progress(inputs=request.inputs, phase="starting"))
        with world.running(home, workers=request.workers, partitions=request.partitions) as running:
            storm = Storm(running, plan, seed=request.seed, members=members, transactions=request.inputs - members, on_progress=on_progress)
            report.hits = storm.progress.hits
            try:
                report.duration_s = storm.run()
                _verify(running, report, on_verified)
                report.findings.merge([storm.incidents])
            except (world.StormFailed, StartError) as error:
                report.findings.merge([storm.incidents])
                report.failure = str(error)
            finally:
                report.markers_dropped = running.markers_dropped()
            if report.failure:
                (home / "log-tails.txt").write_text(running.log_tails())
    finally:
        if report.is_clean and not request.keep:
            shutil.rmtree(home, ignore_errors=True)
        else:
            report.folder = home
    return report


def _verify(running: world.World, report: Report, on_verified: Callable[[int], None]) -> None:
    started_s = time.monotonic()
    verdict = verify.verify(running.settings, running.state_folders(), inputs=report.request.inputs, on_partition=on_verified)
    report.findings, report.compared = verdict.findings, verdict.records
    if verdict.findings.total:
        study.write_stories(running.settings, verdict.findings, running.home / "stories")
    report.verify_s = time.monotonic() - started_s
