"""`loyalty connectors parked, redrive, pause, resume`, against a process of the sink on a real broker."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from streams import cli, topics
from streams.destinations.control import ControlLog
from streams.settings import PREFIX, Settings
from tests.conftest import MakeSettings
from tests.sinks.broker import codec, fill
from tests.sinks.connectors.support import Points, process, target_of, until
from tests.sinks.examples import event

pytestmark = pytest.mark.usefixtures("kafka")

CONFIGURATION = """
[programs.grand]
name = "Grand"
tiers = [{ name = "MEMBER", threshold_points = 0 }]
[destinations.hr]
kind = "darwinbox"
base_url = "https://tenant.example"
"""


@pytest.fixture
async def system() -> AsyncIterator[Points]:
    one = Points()
    await one.start()
    yield one
    await one.stop()


@pytest.fixture
def settings(make_settings: MakeSettings, tmp_path: Path) -> Settings:
    file = tmp_path / "loyalty.toml"
    file.write_text(CONFIGURATION)
    return make_settings(kafka_partitions=2, config_file=str(file))


async def loyalty(settings: Settings, *arguments: str) -> Result:
    """One command in a thread; the process of the sink goes on meanwhile."""
    environment = {name: value for name, value in settings.environment().items() if name.startswith(PREFIX)}
    return await asyncio.to_thread(lambda: CliRunner(env=environment).invoke(cli.main, ["connectors", *arguments]))


async def test_a_person_sees_who_is_parked_and_tries_them_again(settings: Settings, system: Points) -> None:
    system.refuses = {"m-1": "never", "m-2": "never"}
    control: Any = ControlLog(settings, codec(), {})
    async with process(settings, target_of(system.base_url, name="hr"), desk=control) as run:
        control.start()
        await control.ready()
        fill(settings, topics.EVENTS, [event(1, "m-1"), event(4, "m-2"), event(1, "m-3")])
        await until(lambda: len(run.lanes(10, "")) == 2 and system.sequences("m-3") == [1])

        async def listed() -> list[dict[str, Any]]:
            found = await loyalty(settings, "parked", "hr", "--json")
            assert found.exit_code == 0, found.output
            return [json.loads(line) for line in found.stdout.splitlines()]

        async with asyncio.timeout(30):
            while len(rows := await listed()) < 2:
                pass
        assert [(row["member"], row["sequence"], row["state"], row["reason"]) for row in rows] == [
            ("grand/m-1", 1, "PARKED", "NEVER"), ("grand/m-2", 4, "PARKED", "NEVER"),
        ]  # fmt: skip
        assert "grand/m-2" in (await loyalty(settings, "parked", "hr")).stdout
        system.refuses = {}
        assert (await loyalty(settings, "redrive", "hr", "grand/m-2")).exit_code == 0
        await until(lambda: system.sequences("m-2") == [4])
        assert system.sequences("m-1") == []
        assert (await loyalty(settings, "pause", "hr")).exit_code == 0
        await until(lambda: run.outlet.is_paused)
        assert (await loyalty(settings, "redrive", "hr", "--all")).exit_code == 0
        fill(settings, topics.EVENTS, [event(2, "m-3")])
        await until(lambda: run.status()["waiting"] == 2)
        assert system.sequences("m-1") == [] and system.sequences("m-3") == [1]
        assert (await loyalty(settings, "resume", "hr")).exit_code == 0
        await until(lambda: system.sequences("m-1") == [1] and system.sequences("m-3") == [1, 2])
    await control.close()


@pytest.mark.parametrize(("arguments", "exit_code", "told"), [
    (("parked", "nobody"), 1, "has no [destinations.nobody] with a kind; it has hr"),
    (("pause", "nobody"), 1, "has no [destinations.nobody] with a kind; it has hr"),
    (("redrive", "hr"), 2, "either members, or --all"),
])  # fmt: skip
async def test_what_cannot_be_done_is_said(settings: Settings, arguments: tuple[str, ...], exit_code: int, told: str) -> None:
    result = await loyalty(settings, *arguments)
    assert result.exit_code == exit_code and told in result.stderr
