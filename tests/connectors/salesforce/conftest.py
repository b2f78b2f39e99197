"""A running organization, and connections to it."""

from collections.abc import AsyncIterator

import pytest

from infra.fakes.salesforce import SalesforceFake
from sinks.transport import Transport
from streams.connectors.exchange import connect


@pytest.fixture
async def org() -> AsyncIterator[SalesforceFake]:
    """With small pages, and a bus that does not keep silent for long."""
    fake = SalesforceFake(page_size=2, keep_alive_s=0.05)
    await fake.start()
    yield fake
    await fake.stop()


@pytest.fixture
async def transport() -> AsyncIterator[Transport]:
    one = connect()
    yield one
    await one.close()
