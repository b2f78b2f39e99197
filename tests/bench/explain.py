"""How long an explanation takes in a long history. `python -m tests.bench.explain --entries N`

ClickHouse makes the history itself: N entries of the ledger with their audit records and events, their deliveries, and attempts to deliver; a
year of them, as many of each member as `--per-member` says. The log behind is a real broker with nothing new. Each id is asked for as
`loyalty explain` does it, sources opened and closed again; the ids are spread over the whole history, so that none is read twice.
"""

import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import Progress

from infra.clickhouse_service import ClickHouseServer
from infra.kafka_server import KafkaServer
from infra.valkey_server import ValkeyServer
from sinks.clickhouse import migrate
from sinks.clickhouse.connection import connect
from streams import kafka
from streams.explanation import sources
from streams.explanation.command import explained
from streams.settings import Settings
from streams.tables import CHANGELOG_CONFIG, changelogs

PREFIX, PARTITIONS = "explain", 8
GOAL_S, PATIENCE_S = 2.0, 120.0
ROWS = 500_000  # Of one insert: what the mirror's own inserts come to after some merges.
ATTEMPTS_OF = 12  # One of so many deliveries has its attempts still: those of a month.
YEAR_S = 365 * 86_400

# Numbers follow one another in time; a member's are far apart, as in life.
_COMMON = (
    "'grand' AS program_id, concat('M-', toString(number % {members:UInt64})) AS member_id, intDiv(number, {members:UInt64}) + 1 AS sequence_,"
    f" toDateTime64('2025-12-01 00:00:00', 3, 'UTC') + toIntervalSecond(intDiv(number * {YEAR_S}, {{entries:UInt64}})) AS recorded_at,"
    " recorded_at AS ingested_at, recorded_at AS occurred_at, concat('cor-', toString(number)) AS correlation_id,"
    " number % 8 AS source_partition, number AS source_offset"
)
TABLES = {
    "sync_audit": (
        "concat('loyalty.transactions.v1-0-', toString(number)) AS audit_id, 'transactions' AS stream, concat('pos:', toString(number)) AS command_id,"
        " lower(hex(sipHash64(number))) AS payload_hash, 'pos' AS source_system, 'APPLIED' AS result, sequence_ AS sequence,"
        " 'loyalty.transactions.v1' AS topic"
    ),
    "ledger_entries": (
        "sequence_ AS entry_sequence, concat('ent_', lower(hex(sipHash64(number)))) AS entry_id, concat('pos:', toString(number)) AS transaction_id,"
        " 'EARN' AS kind, 10 AS points_delta, 10 * sequence_ AS balance_after, 10 * sequence_ AS available_after, 'issued' AS counter_account,"
        " 'base' AS rule_id, 1 AS rule_version, 'pos' AS source_system, [(concat('pos:', toString(number)), 10, NULL)] AS lots,"
        " lower(hex(sipHash128(number))) AS entry_hash"
    ),
    "loyalty_events": (
        "sequence_ AS sequence, concat('evt_', lower(hex(sipHash64(number)))) AS event_id, 'BALANCE_CHANGED' AS kind, 'ACTIVE' AS status,"
        " 'MEMBER' AS tier, 10 * sequence_ AS available_points, 10 AS points_delta, concat('pos:', toString(number)) AS command_id,"
        " 'transactions' AS command_stream, 'pos' AS source_system"
    ),
    "delivery_audit": (
        "'crm' AS destination, sequence_ AS sequence, concat('evt_', lower(hex(sipHash64(number)))) AS event_id,"
        " concat('crm/', event_id) AS delivery_id, 'BALANCE_CHANGED' AS kind, 'DELIVERED' AS result, 1 AS attempts, 200 AS status,"
        " concat('pos:', toString(number)) AS command_id, recorded_at AS ended_at, 'pos' AS source_system"
    ),
    "delivery_attempts": (
        "'crm' AS destination, 'crm' AS channel, concat('evt_', lower(hex(sipHash64(number)))) AS webhook_id, [webhook_id] AS event_ids,"
        " concat('crm/', webhook_id) AS attempt_id, sequence_ AS sequence, 1 AS attempt, 'DELIVERED' AS verdict, '200' AS outcome,"
        " 'BALANCE_CHANGED' AS kind, now64(3, 'UTC') - toIntervalSecond(number % 2000000) AS started_at"
    ),
}
EXCEPT = {"delivery_attempts": ("recorded_at", "ingested_at", "occurred_at")}


class History:
    """The rows, made where they are."""

    def __init__(self, settings: Settings, entries: int, per_member: int) -> None:
        self._client = connect(settings)
        self.entries = entries
        self.members = max(1, entries // per_member)

    def fill(self, console: Console) -> None:
        parts = [(table, first) for table in TABLES for first in range(self._first(table), self.entries, ROWS)]
        with Progress(console=console, transient=True) as progress:
            task = progress.add_task(f"{self.entries:,} entries", total=len(parts))
            for table, first in parts:
                self._insert(table, first, min(ROWS, self.entries - first))
                progress.update(task, advance=1, description=table)

    def _first(self, table: str) -> int:
        return self.entries - self.entries // ATTEMPTS_OF if table == "delivery_attempts" else 0

    def _insert(self, table: str, first: int, rows: int) -> None:
        left_out = ("sequence_", *EXCEPT.get(table, ()))
        columns = self._client.query(f"DESCRIBE (SELECT * EXCEPT ({', '.join(left_out)}) FROM (SELECT {_COMMON}, {TABLES[table]} FROM numbers(1)))",
                                     parameters=self._values(0, 1)).result_rows  # fmt: skip
        names = ", ".join(row[0] for row in columns)
        self._client.command(
            f"INSERT INTO {table} ({names}) SELECT {names} FROM (SELECT {_COMMON}, {TABLES[table]} FROM numbers({{first:UInt64}}, {{rows:UInt64}}))",
            parameters=self._values(first, rows), settings={"max_partitions_per_insert_block": 100},
        )  # fmt: skip

    def _values(self, first: int, rows: int) -> dict[str, int]:
        return {"members": self.members, "entries": self.entries, "first": first, "rows": rows}

    def ids(self, column: str, table: str, wanted: int) -> list[str]:
        """Ids from all of the table."""
        sql = f"SELECT {column} FROM {table} WHERE cityHash64({column}) % greatest(1, intDiv((SELECT count() FROM {table}), 50)) = 0 LIMIT {wanted}"
        return [str(row[0]) for row in self._client.query(sql).result_rows]

    def sizes(self) -> dict[str, int]:
        return {table: int(self._client.query(f"SELECT count() FROM {table}").result_rows[0][0]) for table in TABLES}

    def close(self) -> None:
        self._client.close()


def timed(settings: Settings, ids: list[str], tell: Callable[[str], None]) -> dict[str, Any]:
    """p50 and the slowest of the explanations of these ids, in seconds."""
    taken_s = []
    for one in ids:
        started_s = time.perf_counter()
        found = asyncio.run(explained(settings, one, "grand", 5))
        taken_s.append(time.perf_counter() - started_s)
        assert found["ways"] and "history" not in found["not_reached"] and "log" not in found["not_reached"], found["not_reached"]
        tell(f"{one}: {taken_s[-1]:.3f} s")
    return {"explained": len(ids), "p50_s": round(statistics.median(taken_s), 3), "max_s": round(max(taken_s), 3)}


@click.command()
@click.option("--entries", default=10_000_000, show_default=True, help="Entries of the ledger.")
@click.option("--per-member", default=50, show_default=True, help="Entries of one member.")
@click.option("--repeat", default=20, show_default=True, help="Ids of each kind.")
def main(entries: int, per_member: int, repeat: int) -> None:
    """Fill a history and explain members, transactions, entries, events, webhooks and requests. Exit code 1 beyond the goal."""
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory(prefix="loyalty-bench-", ignore_cleanup_errors=True) as folder:
        services: list[Any] = [KafkaServer(Path(folder)), ClickHouseServer(Path(folder)), ValkeyServer(Path(folder))]
        for service in services:
            service.start()
        try:
            result = _measure(services, entries, per_member, repeat, console)
        finally:
            for service in services:
                service.stop()
    print(json.dumps(result, indent=2))
    sys.exit(0 if max(one["max_s"] for one in result["explanations"].values()) <= GOAL_S else 1)


def _measure(services: list[Any], entries: int, per_member: int, repeat: int, console: Console) -> dict[str, Any]:
    broker, clickhouse, valkey = services
    settings = Settings(
        kafka_bootstrap_servers=broker.bootstrap_servers, kafka_replication_factor=1, kafka_partitions=PARTITIONS, topic_prefix=PREFIX,
        clickhouse_url=clickhouse.url, redis_url=valkey.url, voucher_key="voucher-key-of-the-bench",
    )  # fmt: skip
    sources.ANSWER_S = PATIENCE_S  # What is slow is to be measured.
    kafka.ensure_topics(settings, changelogs={name: CHANGELOG_CONFIG for name in changelogs(settings)})
    migrate(settings)
    history = History(settings, entries, per_member)
    started_s = time.perf_counter()
    history.fill(console)
    filled_s = time.perf_counter() - started_s
    kinds = {
        "member": ("member_id", "ledger_entries"), "transaction": ("transaction_id", "ledger_entries"), "entry": ("entry_id", "ledger_entries"),
        "event": ("event_id", "loyalty_events"), "webhook": ("webhook_id", "delivery_attempts"), "request": ("correlation_id", "sync_audit"),
    }  # fmt: skip
    ids = {kind: history.ids(*place, repeat) for kind, place in kinds.items()}
    rows = history.sizes()
    history.close()
    explanations = {kind: timed(settings, found, lambda words: console.print(words, style="dim")) for kind, found in ids.items()}
    return {"rows": rows, "filled_s": round(filled_s), "goal_s": GOAL_S, "explanations": explanations}


if __name__ == "__main__":
    main()
