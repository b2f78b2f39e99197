"""One running ingress for all tests of this folder, with real Kafka and Valkey behind it."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.ingress.support import INTERNAL_TOKEN, NOBODY, Decider, Looped, Service, StubOwner, make_configuration


@pytest.fixture(scope="session")
def owners() -> Iterator[list[StubOwner]]:
    """Two workers. Each test uses members of its own."""
    looped = Looped()
    found = [StubOwner(looped.run) for _ in range(2)]
    yield found
    for owner in found:
        owner.stop()
    looped.close()


@pytest.fixture(scope="session")
def service(kafka: Any, valkey: Any, make_settings: Any, owners: list[StubOwner]) -> Iterator[Service]:
    worker_urls = ",".join(owner.url for owner in owners)
    settings = make_settings(clickhouse_url=NOBODY, kafka_partitions=4, worker_urls=worker_urls, internal_token=INTERNAL_TOKEN)
    running = Service(settings, make_configuration())
    running.wait_ready()
    yield running
    running.stop()


@pytest.fixture(scope="session")
def decider(service: Service) -> Iterator[Decider]:
    running = Decider(service.settings)
    yield running
    running.stop()
