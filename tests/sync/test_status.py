"""`loyalty sync` on real parts: what it shows, sets and refuses."""

import asyncio
import json
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from sinks import clickhouse
from streams import kafka, topics
from streams.cli import main
from streams.codec import open_codec
from streams.scheduling.cadence import Cadence
from streams.settings import Settings
from streams.sync import outbound
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


def test_what_an_open_transaction_has_written_waits_for_nobody(settings: Settings) -> None:
    topic = topics.SYNC_AUDIT.name(settings.topic_prefix)
    producer = kafka.producer(settings, transactional_id=f"{settings.topic_prefix}.test")
    producer.init_transactions(20)
    producer.begin_transaction()
    producer.produce(topic, b"a", b"a")
    assert producer.flush(20) == 0
    assert status(settings)["history/sync-audit"]["backlog"] == 0
    producer.commit_transaction(20)
    assert status(settings)["history/sync-audit"]["backlog"] == 2, "the record, and the mark of its transaction"


async def test_a_flush_of_the_history_is_a_run(settings: Settings) -> None:
    record = outbound.recorder(settings, open_codec(settings), "history/profiles", lambda: Cadence(every_s=900))
    await record(900_000, 900_100, 7)
    row = (await asyncio.to_thread(status, settings))["history/profiles"]
    assert (row["last"]["result"], row["last"]["rows"], row["last"]["scheduled_for"]) == ("DONE", 7, "1970-01-01T00:15:00.000Z")
    found = await asyncio.to_thread(loyalty, settings, "runs", "history/profiles", "--json")
    assert [run["run_id"] for run in json.loads(found.output)] == ["history/profiles@900000"]


def test_when_the_history_was_written_last(settings: Settings, make_settings: Callable[..., Settings]) -> None:
    other = make_settings(config_file=settings.config_file, redis_url="redis://unused")
    kafka.ensure_topics(other)
    clickhouse.migrate(other)
    hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    with closing(clickhouse.connect(other)) as client:
        columns = "table_name, topic, partition, first_offset, last_offset, records, row_count, refused, points, mirrored_at"
        topic = topics.EVENTS.name(other.topic_prefix)
        for number, minutes in ((0, 1), (1, 2)):
            at_s = int(hour.timestamp()) - minutes * 60
            client.command(f"INSERT INTO mirror_ranges ({columns}) VALUES ('t', '{topic}', {number}, 0, 9, 10, 10, 0, 0, {at_s})")
    found = status(other)
    expected = (hour - timedelta(minutes=1)).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    assert (found["history/events"]["last_write_at"], found["history/profiles"]["last_write_at"]) == (expected, None)
    assert expected[14:16] in loyalty(other, "status").output
    assert status(settings)["history/events"]["last_write_at"] is None, "ClickHouse does not answer"


@pytest.mark.parametrize(("arguments", "said"), [
    (("set", "transactions", "--every", "15m"), "transactions is realtime always: points are earned"),
    (("set", "balance", "--every", "15m"), "balance is realtime always"),
    (("set", "profile-changes", "--every", "15"), "every must be a time such as 90s"),
    (("set", "profile-changes", "--every", "15m", "--realtime"), "exclude each other"),
    (("set", "nothing", "--every", "15m"), "there is no stream and no job nothing"),
    (("set", "profile-changes"), "say how often"),
    (("run", "history/profiles"), "cannot be run by itself"),
])  # fmt: skip
def test_what_cannot_be_is_refused_with_the_reason(settings: Settings, arguments: tuple[str, ...], said: str) -> None:
    found = loyalty(settings, *arguments)
    assert found.exit_code == 2 and said in found.output


def test_before_the_pipeline_has_started_it_says_so(settings: Settings, make_settings: Callable[..., Settings]) -> None:
    other = make_settings(config_file=settings.config_file, redis_url="redis://unused", clickhouse_url="http://unused")
    found = loyalty(other, "status")
    assert found.exit_code == 1 and "start the pipeline first" in found.output
