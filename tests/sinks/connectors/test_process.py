"""`loyalty sink connectors` as a process is made: from a configuration file to the system, and what it shows of itself."""

import asyncio
from pathlib import Path

import aiohttp
import pytest

from infra.fakes.darwinbox import DarwinboxFake
from sinks.main import run_sink
from streams import configuration, topics
from streams.settings import Settings
from tests.conftest import MakeSettings
from tests.e2e.processes import free_port
from tests.sinks.broker import fill, running
from tests.sinks.connectors.support import until
from tests.sinks.examples import event

pytestmark = pytest.mark.usefixtures("kafka")

CONFIGURATION = """
[programs.staff]
tiers = [{{ name = "STAFF", threshold_points = 0 }}]
[destinations.hr]
kind = "darwinbox"
base_url = "{fake.base_url}"
client_id = "{fake.client_id}"
client_secret = "{fake.client_secret}"
code = "{fake.code}"
"""


async def test_from_a_file_to_the_system(make_settings: MakeSettings, tmp_path: Path) -> None:
    fake = DarwinboxFake()
    await fake.start()
    fake.hire("E1")
    file = tmp_path / "loyalty.toml"
    file.write_text(CONFIGURATION.format(fake=fake))
    settings: Settings = make_settings(kafka_partitions=2, config_file=str(file), internal_token="internal", http_port=free_port())
    url = f"http://127.0.0.1:{settings.http_port}"
    configured = configuration.load(settings)
    try:
        async with running(lambda stop: run_sink("connectors", settings, configured, stop)), aiohttp.ClientSession() as session:
            async def status(path: str) -> int:
                async with session.get(url + path) as response:
                    return response.status

            async with asyncio.timeout(60):
                while True:
                    try:
                        if await status("/readyz") == 200:
                            break
                    except aiohttp.ClientError:
                        pass
                    await asyncio.sleep(0.05)
            fill(settings, topics.EVENTS, [event(1, "E1", "staff"), event(2, "E1", "staff", points=250), event(1, "E2", "staff")])
            await until(lambda: fake.history["E1", "loyalty_points"][-1:] == ["250"])
            assert await status("/internal/destinations") == 401
            headers = {"Authorization": "Bearer internal"}
            async with asyncio.timeout(30):
                while True:
                    async with session.get(f"{url}/internal/destinations/hr/lanes", headers=headers) as response:
                        lanes = (await response.json())["lanes"]
                    if lanes:
                        break
                    await asyncio.sleep(0.05)
            assert [(lane["member"], lane["is_blocked"]) for lane in lanes] == [("staff/E2", True)]
            async with session.get(f"{url}/internal/destinations", headers=headers) as response:
                shown = (await response.json())["destinations"]["hr"]
            assert (shown["kind"], shown["blocked_members"], shown["breaker"], shown["partitions"]) == ("darwinbox", 1, "closed", [0, 1])
            async with session.get(f"{url}/metrics") as response:
                metrics = await response.text()
            assert 'loyalty_sink_records_total{sink="connector-hr",verdict="DELIVERED"}' in metrics
    finally:
        await fake.stop()
