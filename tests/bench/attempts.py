"""Very many attempts in ClickHouse: how long it takes to list the newest failures of a destination. `python -m tests.bench.attempts`

The table is filled by INSERT ... SELECT FROM numbers(): attempts of 30 days to 1,000 destinations, a few of which get most of them, and
bodies, headers and ids as they are in life. The lists are those of `GET /v1/deliveries?destination=...&verdict=FAILED&since=...&until=...`.
"""

import asyncio
import json
import random
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import click
from clickhouse_connect.driver.client import Client
from rich.console import Console
from rich.progress import Progress

from infra.clickhouse_service import ClickHouseServer
from sinks import clickhouse
from streams.deliveries import query
from streams.deliveries.query import FAILED, Attempts
from streams.history import Reader
from streams.settings import Settings
from tests.bench.month_end import percentile

DAYS = 30
DESTINATIONS = 1_000
MEMBERS = 1_000_000
PAGE = 50
GOAL_P95_MS = 200
HOUR_MS, DAY_MS = 3_600_000, 86_400_000
INSERT_ROWS = 500_000

# r is a number's dice. The square makes a few destinations busy; one attempt in ten fails, and of those one in twenty is the last.
FILL = """
INSERT INTO delivery_attempts
SELECT
    concat(destination, '/', webhook_id, '/', toString(toUnixTimestamp64Milli(started_at))) AS attempt_id,
    concat('destination-', toString(intDiv(pow(cityHash64(n, 1) % 1000000 / 1000000, 2) * {destinations:UInt32}, 1))) AS destination,
    destination AS channel,
    concat('grand-', member_id, '-', toString(sequence)) AS webhook_id,
    [webhook_id] AS event_ids,
    ['BALANCE_CHANGED', 'BALANCE_CHANGED', 'TIER_CHANGED', 'PROFILE_CHANGED', 'VOUCHER_ISSUED'][cityHash64(n, 2) % 5 + 1] AS kind,
    'grand' AS program_id,
    concat('M-', leftPad(toString(cityHash64(n, 3) % {members:UInt32}), 7, '0')) AS member_id,
    cityHash64(n, 4) % 400 + 1 AS sequence,
    if(is_failed, cityHash64(n, 5) % 12 + 1, 1) AS attempt,
    multiIf(NOT is_failed, 'DELIVERED', cityHash64(n, 6) % 20 = 0, 'GIVEN_UP', 'RETRY') AS verdict,
    if(is_failed, ['503', '500', '429', 'TIMEOUT', 'CONNECT', '404'][cityHash64(n, 7) % 6 + 1], '204') AS outcome,
    toUInt16OrNull(outcome) AS status,
    if(is_failed, concat('answers ', outcome), '') AS detail,
    if(verdict = 'RETRY', started_at + toIntervalSecond(30), NULL) AS next_attempt_at,
    concat('https://', destination, '.example.com/hooks/loyalty') AS url,
    concat('192.0.2.', toString(cityHash64(n, 8) % 250)) AS peer_address,
    map(
        'content-type', 'application/json', 'webhook-id', webhook_id, 'webhook-timestamp', toString(toUnixTimestamp(started_at)),
        'webhook-signature', concat('v1,', base64Encode(reinterpretAsFixedString(cityHash64(n, 9)))), 'user-agent', 'loyalty-sync'
    ) AS request_headers,
    concat(
        '{"data":{"account":{"available_points":', toString(cityHash64(n, 10) % 100000), ',"debt_points":0,"held_points":0,"pending_points":0,',
        '"qualifying_points":', toString(cityHash64(n, 11) % 100000), ',"status":"ACTIVE","tier":"GOLD","tier_valid_until":null},"cause":{',
        '"command_id":"pms:stay:', toString(cityHash64(n, 12)), '","reason":null,"source_system":"pms","stream":"transactions"},"event_id":"',
        webhook_id, '","kind":"', kind, '","lots":[{"expires_at":null,"lot_id":"', toString(cityHash64(n, 12)), '","points":120}],"member_id":"',
        member_id, '","points_delta":120,"program_id":"grand","sequence":', toString(sequence), '},"type":"loyalty.balance.changed"}'
    ) AS request_body,
    map('content-type', 'text/plain', 'date', toString(started_at)) AS response_headers,
    if(is_failed, 'upstream connect error or disconnect before headers', 'ok') AS response_body,
    started_at - toIntervalMillisecond(30) AS appended_at,
    fromUnixTimestamp64Milli({from_ms:Int64} + toInt64(n * {step_us:UInt64} / 1000), 'UTC') AS started_at,
    cityHash64(n, 13) % 40000 + 3000 AS duration_us,
    hex(cityHash64(n, 14)) AS correlation_id,
    cityHash64(member_id) % 8 AS source_partition,
    n AS source_offset,
    now64(3, 'UTC') AS mirrored_at
FROM (SELECT number AS n, cityHash64(number, 15) % 10 = 0 AS is_failed FROM numbers({first:UInt64}, {rows:UInt64}))
"""


def fill(client: Client, rows: int, from_ms: int, console: Console) -> float:
    """All attempts, in the order of time. Returns the seconds that it took."""
    started_s = time.monotonic()
    step_us = DAYS * DAY_MS * 1000 // rows
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("attempts", total=rows)
        for first in range(0, rows, INSERT_ROWS):
            values = {
                "destinations": DESTINATIONS, "members": MEMBERS, "from_ms": from_ms, "step_us": step_us, "first": first,
                "rows": min(INSERT_ROWS, rows - first),
            }  # fmt: skip
            client.command(FILL, parameters=values)
            progress.update(task, completed=first + INSERT_ROWS)
    return time.monotonic() - started_s


def in_range(dice: random.Random, from_ms: int, range_ms: int) -> Attempts:
    """A random destination's failures in a random range; busy ones are asked for as often as they are sent to."""
    since_ms = dice.randrange(from_ms, from_ms + DAYS * DAY_MS - range_ms)
    name = f"destination-{int(dice.random() ** 2 * DESTINATIONS)}"
    return Attempts(destination=name, verdict=FAILED, since_ms=since_ms, until_ms=since_ms + range_ms)


async def lists(settings: Settings, asked: Iterable[Attempts]) -> dict[str, Any]:
    """What the first page of each took, in milliseconds, and how many attempts it showed in the mean."""
    seconds, shown = [], 0
    async with Reader(settings) as reader:
        for one in asked:
            started_s = time.perf_counter()
            shown += len([row async for row in reader.rows(query.attempts(one, PAGE))])
            seconds.append(time.perf_counter() - started_s)
    return figures(seconds) | {"shown_mean": round(shown / len(seconds), 1)}


def figures(seconds: Sequence[float]) -> dict[str, float]:
    return {f"p{share}_ms": round(percentile(seconds, share) * 1000, 1) for share in (50, 95, 99)} | {"max_ms": round(max(seconds) * 1000, 1)}


def measure(settings: Settings, rows: int, queries: int, console: Console) -> dict[str, Any]:
    """The figures of a database of its own."""
    clickhouse.migrate(settings)
    client = clickhouse.connect(settings)
    from_ms = (time.time_ns() // 1_000_000 // DAY_MS - DAYS) * DAY_MS
    found: dict[str, Any] = {"rows": rows, "filled_s": round(fill(client, rows, from_ms, console), 1)}
    size = "SELECT count(), sum(bytes_on_disk), sum(secondary_indices_compressed_bytes) FROM system.parts WHERE active AND table = 'delivery_attempts'"
    parts, on_disk, indices = client.query(f"{size} AND database = currentDatabase()").result_rows[0]
    found |= {"parts": parts, "bytes_on_disk": on_disk, "bytes_of_skip_indices": indices, "bytes_per_attempt": round(on_disk / rows, 1)}
    dice = random.Random(rows)
    for name, asked in {
        "failed_in_hour": [in_range(dice, from_ms, HOUR_MS) for _ in range(queries)],
        "failed_in_day": [in_range(dice, from_ms, DAY_MS) for _ in range(queries)],
        "busiest_of_all_days": [Attempts(destination="destination-0", verdict=FAILED)] * (queries // 10),
        "of_a_member": [Attempts(member=f"M-{dice.randrange(MEMBERS):07}") for _ in range(queries // 10)],
    }.items():
        found[name] = asyncio.run(lists(settings, asked))
    day = client.query("SELECT min(partition_id) FROM system.parts WHERE active AND table = 'delivery_attempts'").result_rows[0][0]
    started_s = time.perf_counter()
    client.command(f"ALTER TABLE delivery_attempts DROP PARTITION ID '{day}'")
    found["drop_of_a_day_ms"] = round((time.perf_counter() - started_s) * 1000, 1)
    client.close()
    return found


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--rows", default=20_000_000, show_default=True, help="Attempts.")
@click.option("--queries", default=200, show_default=True, help="Lists of each range.")
def main(rows: int, queries: int) -> None:
    """Measure lists of failed attempts over very many attempts, and what it costs to drop a day of them. Prints JSON."""
    with tempfile.TemporaryDirectory(prefix="attempts-", ignore_cleanup_errors=True) as folder:
        server = ClickHouseServer(Path(folder))
        server.start()
        try:
            settings = Settings(home=folder, clickhouse_url=server.url, clickhouse_database="attempts", attempt_retention_days=0)
            found = measure(settings, rows, queries, Console(stderr=True))
        finally:
            server.stop()
    click.echo(json.dumps(found, indent=2))
    sys.exit(0 if found["failed_in_day"]["p95_ms"] <= GOAL_P95_MS else 1)


if __name__ == "__main__":
    main()
