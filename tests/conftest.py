"""The real Kafka, Valkey and ClickHouse for all tests: started when first asked for, on free ports, gone at the end.

Whoever kills or pauses one starts or resumes it again: the others of the session use the same. Each test has topics, keys and
tables of its own through `make_settings`.
"""

import secrets
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from infra import jars
from infra.clickhouse_service import ClickHouseServer
from infra.kafka_server import KafkaServer
from infra.service import Service
from infra.valkey_server import ValkeyServer
from streams.settings import Settings

STACK_FIXTURES = {"kafka", "valkey", "clickhouse", "make_settings"}

MakeSettings = Callable[..., Settings]


LONG = (
    "chaos/test_storm.py", "domain/test_seeded_faults.py", "domain/test_machine.py", "e2e/test_delivery_storm.py", "e2e/test_kill_worker.py",
    "e2e/test_reconcile_source.py", "engine/test_exactly_once.py", "loads/test_load.py", "sinks/delivery/test_simulation.py",
    "agreement/test_agreement.py", "infra/test_kafka_server.py",
)  # fmt: skip
"""Files that take a minute and more: processes that share the tests begin with them, so that none is left alone with one at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if STACK_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.stack)
    items.sort(key=lambda item: not item.path.as_posix().endswith(LONG))


@pytest.fixture(scope="session")
def stack_home() -> Iterator[Path]:
    """Folder of the session's servers."""
    with tempfile.TemporaryDirectory(prefix="loyalty-tests-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def _running(service: Service) -> Iterator[Any]:
    service.start()
    yield service
    service.stop()


@pytest.fixture(scope="session")
def kafka_jars(request: pytest.FixtureRequest) -> list[Path]:
    """Kafka's class path. The first time on a machine it is downloaded, and the terminal says so."""
    if not jars.are_cached():
        reporter = request.config.pluginmanager.get_plugin("terminalreporter")
        capture = request.config.pluginmanager.get_plugin("capturemanager")
        if reporter and capture:
            with capture.global_and_fixture_disabled():
                reporter.write_line(f"\nDownloading Kafka {jars.KAFKA_VERSION} to {jars.cache_folder()}, once (45 MB) ...")
    return jars.class_path()


@pytest.fixture(scope="session")
def kafka(stack_home: Path, kafka_jars: list[Path]) -> Iterator[KafkaServer]:
    """`.bootstrap_servers`; `.kill()`, `.pause()`, `.resume()`, `.start()`, `.restart()` keep the address and the data."""
    yield from _running(KafkaServer(stack_home))


@pytest.fixture(scope="session")
def valkey(stack_home: Path) -> Iterator[ValkeyServer]:
    """`.url`, and the same methods."""
    yield from _running(ValkeyServer(stack_home))


@pytest.fixture(scope="session")
def clickhouse(stack_home: Path) -> Iterator[ClickHouseServer]:
    """`.url`, and the same methods."""
    yield from _running(ClickHouseServer(stack_home))


@pytest.fixture(scope="session")
def make_settings(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> MakeSettings:
    """`make_settings(**overrides)` -> Settings for the session's servers with names that nobody else has.

    A server whose address is among the overrides is not started for this call.
    """

    def make(**overrides: Any) -> Settings:
        name = f"t{secrets.token_hex(6)}"
        values: dict[str, Any] = {
            "home": str(tmp_path_factory.mktemp(name)),
            "kafka_replication_factor": 1,
            "kafka_partitions": 2,
            "topic_prefix": name,
            "clickhouse_database": name,
            "internal_token": "internal-token-of-the-tests",
            "voucher_key": "voucher-key-of-the-tests",
        }
        for setting, fixture in (("kafka_bootstrap_servers", "kafka"), ("redis_url", "valkey"), ("clickhouse_url", "clickhouse")):
            if setting not in overrides:
                server = request.getfixturevalue(fixture)
                values[setting] = server.bootstrap_servers if fixture == "kafka" else server.url
        return Settings(**(values | overrides))

    return make
