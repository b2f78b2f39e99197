"""The short storm: a few of everything over the real pipeline, and not one difference afterwards."""

from pathlib import Path

from tests.chaos.plan import Kind
from tests.chaos.run import Request, run

SEED, INPUTS = 20261561, 15_000  # A seed whose disturbances are mended at once: the test is to be short.
KINDS = {
    Kind.WORKER_KILL: 1, Kind.WORKER_KILL_COLD: 1, Kind.WORKER_TERM: 1, Kind.WORKER_PAUSE: 1, Kind.BROKER_KILL: 1, Kind.HISTORY_KILL: 1,
}  # fmt: skip


def test_a_storm_loses_and_doubles_nothing(kafka_jars: list[Path]) -> None:
    """The jars are asked for by the fixture, so that a first download is announced."""
    report = run(Request(seed=SEED, inputs=INPUTS, kinds=KINDS, workers=2, partitions=4))
    print(*(f"{hit.started_s:.1f} s {hit.text}: {hit.resumed_s} s" for hit in report.hits), sep="\n")
    print(f"{report.duration_s:.1f} s of storm, {report.verify_s:.1f} s of verification")
    assert report.failure == ""
    assert {kind: len(times) for kind, times in report.by_kind().items()} == KINDS
    assert report.findings.counts == dict.fromkeys(report.findings.counts, 0), "\n".join(map(str, [*report.findings.samples, report.folder]))
    assert report.is_clean
    assert report.compared > 3 * INPUTS
