"""Publishing programmes on the real broker: the same versions in every partition, none twice, and only what accounts can bear."""

import json
import logging
import time
import tomllib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from confluent_kafka import KafkaException

from schemas.records import ProgramVersion
from streams import configuration, kafka, programs, publishing, topics
from streams.cli import main
from streams.configuration import Configuration
from streams.errors import ConfigurationError, UnavailableError
from streams.settings import Settings
from tests.e2e import oracle

RULES = """
[programs.grand]
time_zone = "Europe/Berlin"
[programs.grand.earn]
points_per_unit = { EUR = 10 }
[[programs.grand.tiers]]
name = "MEMBER"
[[programs.grand.tiers]]
name = "GOLD"
threshold_points = 10000
[programs.grand.offers.spring]
bonus_points = 200
ends_at = 2027-06-01T00:00:00+02:00
[programs.staff]
tiers = [{ name = "STAFF" }]
"""
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
IN_A_MINUTE_MS, IN_TWO_MINUTES_MS = 60_000, 120_000


def configured(text: str = RULES) -> Configuration:
    return configuration.parse(tomllib.loads(text))


def changed(old: str = "EUR = 10", new: str = "EUR = 12") -> Configuration:
    assert RULES.count(old) == 1
    return configured(RULES.replace(old, new))


def in_ms(milliseconds: int) -> int:
    return time.time_ns() // 1_000_000 + milliseconds


def partitions_of(settings: Settings) -> list[list[dict[str, Any]]]:
    """What a reader of each partition finds, decoded by another program."""
    lines = oracle.read(settings.kafka_bootstrap_servers, topics.PROGRAMS.name(settings.topic_prefix), "program_version")
    assert all(line.key == line.value["program_id"] for line in lines if line.value)
    found: list[list[dict[str, Any]]] = [[] for _ in range(settings.kafka_partitions)]
    for line in lines:
        assert line.value is not None
        found[line.partition].append(line.value | {"effective_from_ms": (line.value["effective_from_ms"] - EPOCH) // timedelta(milliseconds=1)})
    return found


def versions_of(settings: Settings) -> dict[str, list[int]]:
    return {name: [record.version for record in records] for name, records in publishing.read_published(settings).items()}


@pytest.fixture
def settings(make_settings: Any, tmp_path: Path) -> Settings:
    config_file = tmp_path / "loyalty.toml"
    config_file.write_text(RULES)
    made: Settings = make_settings(kafka_partitions=3, config_file=str(config_file), redis_url="redis://unused", clickhouse_url="http://unused")
    kafka.ensure_topics(made, (topics.PROGRAMS,))
    return made


def test_before_the_topic_is_there_nothing_is_published(make_settings: Any) -> None:
    assert publishing.read_published(make_settings(redis_url="redis://unused", clickhouse_url="http://unused")) == {}


def test_first_versions_are_in_every_partition(settings: Settings) -> None:
    publishing.ensure_published(settings, configured())
    partitions = partitions_of(settings)
    assert len(partitions) == 3 and partitions[0] == partitions[1] == partitions[2]
    assert [(value["program_id"], value["version"], value["effective_from_ms"]) for value in partitions[0]] == [("grand", 1, 1), ("staff", 1, 1)]
    published = publishing.read_published(settings)
    assert programs.from_record(published["grand"][0], b"") == replace(configured().programs["grand"], effective_from_ms=1)
    publishing.ensure_published(settings, configured())
    assert partitions_of(settings) == partitions, "the second start writes nothing"


def test_a_programme_that_is_new_in_the_file_is_published_beside_the_others(settings: Settings) -> None:
    publishing.ensure_published(settings, configured())
    publishing.ensure_published(settings, configured(RULES + '[programs.spa]\ntiers = [{ name = "ALL" }]\n'))
    assert versions_of(settings) == {"grand": [1], "staff": [1], "spa": [1]}


def test_workers_that_start_at_once_publish_one_version(settings: Settings) -> None:
    with ThreadPoolExecutor(4) as threads:
        starts = [threads.submit(publishing.ensure_published, settings, configured()) for _ in range(4)]
        for start in starts:
            start.result(60)
    for values in partitions_of(settings):
        assert sorted((value["program_id"], value["version"]) for value in values) == [("grand", 1), ("staff", 1)]


def test_who_publishes_later_fences_who_began_before(settings: Settings) -> None:
    """The one that was fenced between its reading and its writing writes nothing."""
    record = ProgramVersion(program_id="grand", version=1, effective_from_ms=1, rules="{}", published_by="late")

    def fenced_meanwhile(published: publishing.Published) -> list[ProgramVersion]:
        assert published == {}
        publishing.ensure_published(settings, configured())
        return [record]

    with pytest.raises(publishing.Fenced):
        publishing._publish(settings, fenced_meanwhile)
    assert [value["published_by"] for values in partitions_of(settings) for value in values] == ["worker"] * 6


def test_what_a_publisher_left_open_is_never_seen(settings: Settings) -> None:
    name = topics.PROGRAMS.name(settings.topic_prefix)
    dead = kafka.producer(settings, transactional_id=f"{settings.topic_prefix}.programs")
    dead.init_transactions(30)
    dead.begin_transaction()
    for partition in range(settings.kafka_partitions):
        dead.produce(name, key=b"grand", value=b"half of it", partition=partition)
    dead.flush(30)
    assert publishing.read_published(settings) == {}
    publishing.ensure_published(settings, configured())
    assert versions_of(settings) == {"grand": [1], "staff": [1]}
    with pytest.raises(KafkaException):
        dead.commit_transaction(30)


def test_publish_writes_what_it_is_given(settings: Settings) -> None:
    records = [ProgramVersion(program_id="grand", version=number, effective_from_ms=number, rules="{}", published_by="test") for number in (1, 2)]
    publishing.publish(settings, records)
    assert publishing.read_published(settings) == {"grand": records}
    assert partitions_of(settings)[2] == [record.to_avro() for record in records]


def test_rules_that_differ_from_the_file_are_told_and_stay(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    publishing.ensure_published(settings, configured())
    with caplog.at_level(logging.WARNING):
        # The same instant in another zone is no difference.
        publishing.ensure_published(settings, changed("2027-06-01T00:00:00+02:00", "2027-05-31T22:00:00Z"))
        assert caplog.records == []
        publishing.ensure_published(settings, changed())
    (record,) = caplog.records
    assert (record.message, record.__dict__["program_id"], record.__dict__["version"]) == ("programs.file_differs", "grand", 1)
    assert "loyalty program apply" in record.__dict__["advice"]
    assert versions_of(settings) == {"grand": [1], "staff": [1]}


def test_apply_publishes_the_next_version_of_what_has_changed(settings: Settings) -> None:
    publishing.ensure_published(settings, configured())
    assert publishing.apply(settings, configured(), effective_from_ms=0, actor="ada") == []
    at_ms = in_ms(IN_A_MINUTE_MS)
    (record,) = publishing.apply(settings, changed(), effective_from_ms=at_ms, actor="ada")
    assert (record.program_id, record.version, record.effective_from_ms, record.published_by) == ("grand", 2, at_ms, "ada")
    assert programs.from_record(record, b"").points_per_unit == {"EUR": 12}
    assert versions_of(settings) == {"grand": [1, 2], "staff": [1]}
    partitions = partitions_of(settings)
    assert partitions[0] == partitions[1] == partitions[2] and len(partitions[0]) == 3
    # Back to the first rules: a third version, later than the second.
    with pytest.raises(ConfigurationError, match="version 2 takes effect at .*; the next one must do so after it"):
        publishing.apply(settings, configured(), effective_from_ms=at_ms, actor="ada")
    publishing.apply(settings, configured(), effective_from_ms=in_ms(IN_TWO_MINUTES_MS), actor="ada")
    assert versions_of(settings)["grand"] == [1, 2, 3]


def test_apply_publishes_first_versions_and_makes_the_topic(make_settings: Any) -> None:
    settings = make_settings(redis_url="redis://unused", clickhouse_url="http://unused")
    records = publishing.apply(settings, configured(), effective_from_ms=0, actor="ada")
    assert [(record.program_id, record.version, record.effective_from_ms) for record in records] == [("grand", 1, 1), ("staff", 1, 1)]


@pytest.mark.parametrize(
    ("old", "new", "in_milliseconds", "reason"),
    [
        ("EUR = 10", "EUR = 12", 9_000, "must take effect 10 s after their publication at least"),
        ("EUR = 10", "EUR = 12", -60_000, "must take effect 10 s after their publication at least"),
        ('name = "GOLD"', 'name = "PLATINUM"', IN_A_MINUTE_MS, r"programs\.grand\.tiers has no 'GOLD' any more, but version 1 has"),
        ('time_zone = "Europe/Berlin"', "", IN_A_MINUTE_MS, r"programs\.grand\.time_zone is 'UTC', but 'Europe/Berlin' in version 1"),
    ],
    ids=["early", "past", "tier", "zone"],
)
def test_what_accounts_cannot_bear_is_refused(settings: Settings, old: str, new: str, in_milliseconds: int, reason: str) -> None:
    publishing.ensure_published(settings, configured())
    with pytest.raises(ConfigurationError, match=reason):
        publishing.apply(settings, changed(old, new), effective_from_ms=in_ms(in_milliseconds), actor="ada")
    assert versions_of(settings) == {"grand": [1], "staff": [1]}


def test_all_reasons_are_told_at_once(settings: Settings) -> None:
    publishing.ensure_published(settings, configured())
    text = RULES.replace('name = "GOLD"', 'name = "PLATINUM"').replace("Europe/Berlin", "Europe/Paris").replace('"STAFF"', '"CREW"')
    with pytest.raises(ConfigurationError) as caught:
        publishing.apply(settings, configured(text), effective_from_ms=5, actor="ada")
    assert len(caught.value.problems) == 4


def test_rules_too_large_for_the_broker_are_the_operators_business(settings: Settings) -> None:
    record = ProgramVersion(program_id="grand", version=1, effective_from_ms=1, rules="x" * 2_000_000, published_by="test")
    with pytest.raises(ConfigurationError, match="too large"):
        publishing.publish(settings, [record])
    assert publishing.read_published(settings) == {}


def test_a_broker_that_does_not_answer_is_said(make_settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publishing, "TIMEOUT_S", 1.0)
    nobody = make_settings(kafka_bootstrap_servers="127.0.0.1:9", redis_url="redis://unused", clickhouse_url="http://unused")
    with pytest.raises(UnavailableError, match="LOYALTY_KAFKA_BOOTSTRAP_SERVERS"):
        publishing.ensure_published(nobody, configured())
    with pytest.raises(UnavailableError, match="cannot be published"):
        publishing.publish(nobody, [])


# ---- the command line

Run = Callable[..., Result]


@pytest.fixture
def run(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Run:
    for name, value in settings.environment().items():
        monkeypatch.setenv(name, value)
    return lambda *arguments: CliRunner().invoke(main, ["program", *arguments])


def listed(run: Run) -> list[tuple[Any, ...]]:
    done = run("list", "--json")
    assert done.exit_code == 0, done.output
    return [(row["program"], row["version"], row["differs_from_file"]) for row in json.loads(done.stdout)]


def test_the_command_line_lists_applies_and_lists_again(run: Run, settings: Settings) -> None:
    assert listed(run) == [("grand", None, True), ("staff", None, True)]
    publishing.ensure_published(settings, configured())
    assert listed(run) == [("grand", 1, False), ("staff", 1, False)]
    assert run("apply").stdout == "Nothing has changed.\n"
    Path(settings.config_file).write_text(RULES.replace("EUR = 10", "EUR = 12"))
    assert listed(run) == [("grand", 1, True), ("staff", 1, False)]
    early = run("apply", "--in", "5")
    assert early.exit_code == 2 and "loyalty program apply: New rules must take effect 10 s after" in early.stderr
    applied = json.loads(run("apply", "--at", "2090-01-01T00:00:00+01:00", "--json").stdout)
    assert [(row["program"], row["version"], row["effective_from"]) for row in applied] == [("grand", 2, "2089-12-31T23:00:00Z")]
    assert listed(run) == [("grand", 1, None), ("grand", 2, False), ("staff", 1, False)]
    assert json.loads(run("apply", "--json").stdout) == []
    table = run("list")
    assert table.exit_code == 0 and "2089" in table.stdout and "differs" in table.stdout


def test_times_that_are_none_are_refused(run: Run) -> None:
    for arguments, said in ((["--at", "tomorrow"], "--at must be a time with its zone"), (["--at", "2090-01-01T00:00:00"], "--at needs a time zone"),
                            (["--at", "2090-01-01T00:00:00Z", "--in", "20"], "exclude each other"), (["--in", "0"], "--in")):  # fmt: skip
        done = run("apply", *arguments)
        assert done.exit_code == 2 and said in done.stderr, done.output


def test_check_tells_what_to_mend_and_where(tmp_path: Path) -> None:
    file = tmp_path / "my.toml"
    file.write_text(RULES)
    done = CliRunner().invoke(main, ["program", "check", str(file)])
    assert (done.exit_code, done.stdout) == (0, f"{file} is right: grand, staff.\n")
    file.write_text(RULES.replace("threshold_points = 10000", "threshold_points = 0"))
    line = 1 + file.read_text().splitlines().index("threshold_points = 0")
    done = CliRunner().invoke(main, ["program", "check", str(file)])
    assert done.exit_code == 2
    assert done.stderr.startswith(f"loyalty program check: my.toml line {line}: programs.grand.tiers[1].threshold_points must be more than")
    done = CliRunner().invoke(main, ["program", "check", "--json", str(file)])
    (problem,) = json.loads(done.stdout)["problems"]
    assert (done.exit_code, problem["line"], problem["place"]) == (2, line, "programs.grand.tiers[1].threshold_points")
    file.write_text("x = [")
    done = CliRunner().invoke(main, ["program", "check", "--json", str(file)])
    assert done.exit_code == 2 and "not valid TOML" in json.loads(done.stdout)["problems"][0]["problem"]
