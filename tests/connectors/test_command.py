"""`loyalty connectors`, as people and programs call it."""

import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from streams import kafka
from streams.connectors.command import connectors
from streams.connectors.registry import KINDS
from streams.settings import PREFIX, Settings
from tests.connectors.support import STAFF

CONFIGURATION = STAFF + """
[sources.workday]
kind = "workday"
program = "staff"
base_url = "https://hr.example.com"
tenant = "acme"
user_name = "ISU_LOYALTY"
password = "fake-password-of-hr"
[destinations.workday]
kind = "workday"
base_url = "https://hr.example.com"
tenant = "acme"
user_name = "ISU_LOYALTY"
password = "fake-password-of-hr"
"""


def call(*arguments: str, settings: Settings | None = None) -> Result:
    environment = {} if settings is None else {f"{PREFIX}{field.name.upper()}": str(getattr(settings, field.name)) for field in fields(settings)}
    return CliRunner().invoke(connectors, arguments, env=environment)


@pytest.fixture(scope="module")
def settings(make_settings: Callable[..., Settings], tmp_path_factory: pytest.TempPathFactory) -> Settings:
    file: Path = tmp_path_factory.mktemp("connectors") / "loyalty.toml"
    file.write_text(CONFIGURATION)
    settings = make_settings(redis_url="redis://unused", clickhouse_url="http://unused", config_file=str(file), sink_urls="http://127.0.0.1:9")
    kafka.ensure_topics(settings)
    return settings


def test_kinds_are_listed_with_their_options() -> None:
    rows = [json.loads(line) for line in call("kinds", "--json").output.splitlines()]
    assert [row["kind"] for row in rows] == list(KINDS)
    options = [json.loads(line) for line in call("kinds", "workday", "--json").output.splitlines()]
    assert {("sources", "page_size"), ("destinations", "custom_object")} <= {(option["half"], option["name"]) for option in options}
    assert call("kinds").exit_code == 0 and "Workday" in call("kinds").output
    assert call("kinds", "abacus").exit_code == 2


def test_both_halves_are_listed(settings: Settings) -> None:
    result = call("--json", settings=settings)
    assert result.exit_code == 0, result.output
    rows: list[Any] = [json.loads(line) for line in result.output.splitlines()]
    assert [(row["name"], row["direction"], row["way"], row["state"]) for row in rows] == [
        ("workday", "in", "poll", "never"), ("workday", "out", "writes", "unknown"),
    ]  # fmt: skip
    table = call("list", settings=settings)
    assert table.exit_code == 0 and "never" in table.output and "unknown" in table.output


def test_one_is_shown_whole_but_for_its_secrets(settings: Settings) -> None:
    result = call("show", "workday", settings=settings)
    assert result.exit_code == 0 and "fake-password-of-hr" not in result.output
    found = json.loads(result.output)
    assert found["source"]["options"]["user_name"] == "ISU_LOYALTY" and found["source"]["cursors"] == {} and len(found["ways"]) == 2
    missing = call("show", "nobody", settings=settings)
    assert missing.exit_code == 1 and "it has workday" in missing.output


def test_without_a_configuration_it_says_what_to_set() -> None:
    assert call(settings=Settings()).exit_code == 2
