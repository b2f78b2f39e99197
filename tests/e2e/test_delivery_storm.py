"""The short storm over deliveries: sinks die, a destination is paused, another is down, a replay runs; every request is recounted."""

from pathlib import Path

from tests.chaos.deliveries.plan import Kind
from tests.chaos.deliveries.storm import Request, run

SEED, EVENTS, MEMBERS, SECONDS = 20261127, 2_000, 50, 20.0
KINDS = {Kind.SINK_KILL: 3, Kind.SINK_TERM: 1, Kind.DESTINATION_PAUSE: 1, Kind.DESTINATION_DOWN: 1, Kind.REPLAY: 1}


def test_a_storm_loses_nothing_and_turns_nothing_round(kafka_jars: list[Path]) -> None:
    """The jars are asked for by the fixture, so that a first download is announced."""
    report = run(Request(seed=SEED, events=EVENTS, members=MEMBERS, seconds=SECONDS, kinds=KINDS, sinks=2))
    print(f"{report.storm_s:.1f} s of storm, {report.calm_s:.1f} s after it, {report.recount}")
    assert report.failure == "", report.folder
    assert dict(report.by_kind()) == KINDS
    assert report.findings.counts == dict.fromkeys(report.findings.counts, 0), "\n".join(map(str, [*report.findings.samples, report.folder]))
    assert report.is_clean
    assert report.recount.accepted == 3 * EVENTS
    assert report.recount.replayed > 0
