"""The bench of enrolments in its short form: every member is enrolled, nobody is answered twice or never, and the live ones overtake the load."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from streams import kafka
from streams.tables import CHANGELOG_CONFIG, changelogs
from tests.bench.enrolments import measure
from tests.e2e.oracle import RULES_TOML
from tests.e2e.processes import pipeline


def test_live_traffic_overtakes_a_load_of_enrolments(make_settings: Any, tmp_path: Path) -> None:
    config_file = tmp_path / "loyalty.toml"
    config_file.write_text(RULES_TOML)
    settings = replace(make_settings(redis_url="redis://unused", clickhouse_url="http://unused"), config_file=str(config_file))
    kafka.ensure_topics(settings, changelogs={name: CHANGELOG_CONFIG for name in changelogs(settings)})
    with pipeline(settings, "worker") as worker:
        worker.wait_ready()
        found = measure(settings, members=4_000, live_per_s=50, statuses_per_s=10, calm_s=1, console=Console(quiet=True))
    assert found["enrolled"] == 4_000
    assert found["live_during"] > 0 and found["suspension_during"] > 0
    # In the order of time, one that came in the midst of the load would have waited for half of it, and most of them did.
    for kind in ("live", "suspension"):
        assert found[f"{kind}_during_p50_ms"] < found["enrolled_within_s"] * 1000 / 4, found
