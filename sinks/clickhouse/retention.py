"""settings -> how long ClickHouse keeps the rows of a table."""

import logging
from collections.abc import Mapping

from clickhouse_connect.driver.client import Client

from sinks.clickhouse.migrations import render
from streams.settings import Settings

log = logging.getLogger(__name__)

AUDIT_TIMES = {"sync_audit": "recorded_at", "delivery_audit": "ended_at", "delivery_notices": "occurred_at"}
"""The tables that LOYALTY_AUDIT_RETENTION_DAYS is about, and the time by which their rows are old."""
ATTEMPT_TIMES = {"delivery_attempts": "started_at"}
"""Those that LOYALTY_ATTEMPT_RETENTION_DAYS is about."""


def apply(client: Client, settings: Settings) -> None:
    """Give the tables the retention of the settings, where they have another one."""
    _set(client, AUDIT_TIMES, settings.audit_retention_days, settings.clickhouse_cluster)
    _set(client, ATTEMPT_TIMES, settings.attempt_retention_days, settings.clickhouse_cluster)


def _set(client: Client, times: Mapping[str, str], days: int, cluster: str) -> None:
    """ClickHouse removes what is older by itself, in the background."""
    for table, column in times.items():
        wanted = f"TTL toDateTime({column}) + toIntervalDay({days})" if days else ""
        definition = str(client.command(f"SELECT create_table_query FROM system.tables WHERE database = currentDatabase() AND name = '{table}'"))
        if (wanted not in definition) if days else (" TTL " in definition):
            # What is there already is judged by ClickHouse's next merges: rewriting all of it at once would take hours.
            statement = f"MODIFY {wanted}" if days else "REMOVE TTL"
            client.command(render(f"ALTER TABLE {table} {statement}", cluster), settings={"materialize_ttl_after_modify": 0})
            log.info("history.retention_set", extra={"table": table, "days": days})
