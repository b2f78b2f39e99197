"""`loyalty sync` on real parts: what it shows, sets and refuses."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from streams import kafka
from streams.cli import main
from streams.settings import Settings
from tests.sync.test_flush import a_change, put

CONFIGURATION = """
[programs.grand]
[[programs.grand.tiers]]
name = "MEMBER"
threshold_points = 0
[sync.profile-changes]
every = "15m"
window = "01:00-05:00"
rate_max_per_s = 200
"""


@pytest.fixture(scope="module")
def settings(make_settings: Callable[..., Settings], tmp_path_factory: pytest.TempPathFactory) -> Settings:
    config_file: Path = tmp_path_factory.mktemp("status") / "loyalty.toml"
    config_file.write_text(CONFIGURATION)
    settings = make_settings(config_file=str(config_file), redis_url="redis://unused", clickhouse_url="http://unused")
    kafka.ensure_topics(settings)
    return settings


def loyalty(settings: Settings, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["sync", *arguments], env=settings.environment(), catch_exceptions=False)


def status(settings: Settings) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in json.loads(loyalty(settings, "status", "--json").output)}


def test_what_waits_is_shown_and_a_change_counts_until_it_is_reset(settings: Settings) -> None:
    put(settings, "profile-changes", [a_change("M-1", "a"), a_change("M-2", "b")])
    row = status(settings)["profile-changes"]
    assert (row["mode"], row["window"], row["rate_max_per_s"], row["set_by"]) == ("every", "01:00-05:00", 200, "file")
    assert (row["backlog"], row["last"]) == (2, None)
    assert row["lag_s"] >= 0 and row["next_at"][11:16] >= "01:00"
    assert loyalty(settings, "set", "profile-changes", "--cron", "0 2 * * *", "--time-zone", "Europe/Berlin", "--rate", "5").exit_code == 0
    row = status(settings)["profile-changes"]
    assert (row["mode"], row["cadence"], row["window"]) == ("cron", "cron 0 2 * * * Europe/Berlin, 5/s", None) and row["set_by"] != "file"
    assert loyalty(settings, "reset", "profile-changes").exit_code == 0
    assert status(settings)["profile-changes"]["set_by"] == "file"
    shown = loyalty(settings, "status").output
    assert "profile-changes" in shown and "history/delivery" in shown and "transactions" in shown


@pytest.mark.parametrize(("arguments", "said"), [
    (("set", "transactions", "--every", "15m"), "transactions is realtime always: points are earned"),
    (("set", "balance", "--every", "15m"), "balance is realtime always"),
    (("set", "profile-changes", "--every", "15"), "every must be a time such as 90s"),
    (("set", "profile-changes", "--every", "15m", "--realtime"), "exclude each other"),
    (("set", "nothing", "--every", "15m"), "there is no stream and no job nothing"),
    (("set", "profile-changes"), "say how often"),
    (("run", "history/profiles"), "has no runs"),
])  # fmt: skip
def test_what_cannot_be_is_refused_with_the_reason(settings: Settings, arguments: tuple[str, ...], said: str) -> None:
    found = loyalty(settings, *arguments)
    assert found.exit_code == 2 and said in found.output


def test_before_the_pipeline_has_started_it_says_so(settings: Settings, make_settings: Callable[..., Settings]) -> None:
    other = make_settings(config_file=settings.config_file, redis_url="redis://unused", clickhouse_url="http://unused")
    found = loyalty(other, "status")
    assert found.exit_code == 1 and "start the pipeline first" in found.output
