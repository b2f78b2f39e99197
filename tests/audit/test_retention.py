"""LOYALTY_AUDIT_RETENTION_DAYS: ClickHouse takes the oldest records, and what is left still verifies."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from sinks import clickhouse
from sinks.clickhouse import TABLES, History
from streams import settings as settings_module
from streams.audit import history as audit_history
from streams.audit.query import Direction
from streams.audit.verification import Chain, Verifier
from streams.errors import ConfigurationError
from streams.settings import Settings
from tests.audit.chains import chain
from tests.sinks import examples
from tests.sinks.examples import item

DAY_MS = 24 * 3600 * 1000


def definitions(client: Any) -> list[str]:
    return [str(client.command(f"SHOW CREATE TABLE {table}")) for table in ("sync_audit", "delivery_audit")]


def verify(settings: Settings) -> Chain:
    async def read() -> list[Chain]:
        verifier = Verifier()
        async with audit_history.History(settings) as history:
            async for link in history.links(Direction.IN):
                verifier.add(link)
        return verifier.finish()

    (found,) = asyncio.run(read())
    return found


@pytest.mark.stack
def test_the_sink_sets_it_changes_it_and_takes_it_back(make_settings: Callable[..., Settings]) -> None:
    made = make_settings(kafka_bootstrap_servers="127.0.0.1:1", redis_url="redis://127.0.0.1:1")
    for days in (made.audit_retention_days, 30, 30, 0, 0, 3):
        clickhouse.migrate(replace(made, audit_retention_days=days))
        client = clickhouse.connect(made)
        for definition in definitions(client):
            assert (f"toIntervalDay({days})" in definition) if days else ("TTL" not in definition)
        client.close()


@pytest.mark.stack
def test_what_retention_leaves_is_whole(make_settings: Callable[..., Settings]) -> None:
    made = make_settings(kafka_bootstrap_servers="127.0.0.1:1", redis_url="redis://127.0.0.1:1", audit_retention_days=10)
    clickhouse.migrate(made)
    now_ms = time.time_ns() // 1_000_000
    # Two days apart, so that one month or two hold them, and the first five are too old.
    records = chain([examples.audit(number, recorded_at_ms=now_ms - (21 - 2 * number) * DAY_MS) for number in range(1, 11)])
    history = History(made, next(table for table in TABLES if table.name == "sync_audit"))
    history.write_now([item(record, offset=number) for number, record in enumerate(records)])
    history.close()
    client = clickhouse.connect(made)
    client.command("OPTIMIZE TABLE sync_audit FINAL")
    client.close()
    found = verify(made)
    assert (found.broken, found.beginning_is_gone, found.first_number, found.last_number) == (None, True, 6, 10)


@pytest.mark.parametrize("name", ["LOYALTY_AUDIT_RETENTION_DAYS", "LOYALTY_ATTEMPT_RETENTION_DAYS"])
@pytest.mark.parametrize("days", ["-1", "36501"])
def test_what_is_no_retention(name: str, days: str, tmp_path: Any) -> None:
    with pytest.raises(ConfigurationError, match=name):
        settings_module.load({name: days, "LOYALTY_HOME": str(tmp_path)})
