"""outbound topics -> history in ClickHouse: ledger entries, loyalty events, profile versions, audits, deliveries, dead letters.

Each topic has its own table, consumer group and pace. Rows go in by large inserts, offsets are committed after them, and the order of
each table identifies its records: what is read again replaces itself, so that under FINAL replays change nothing.

An erasure takes its member's older profile versions out of the table, and out of every part in use, before its offset is committed; so it
does with the reasons that senders gave for what they did.
"""

from sinks.clickhouse.connection import connect
from sinks.clickhouse.history import History
from sinks.clickhouse.mirror import ROWS_MAX, migrate, run
from sinks.clickhouse.tables import TABLES, Table

__all__ = ["ROWS_MAX", "TABLES", "History", "Table", "connect", "migrate", "run"]
