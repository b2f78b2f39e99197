"""A report's SQL over the history -> its rows in its table, replaced period by period, so that whoever reads sees the old ones or the new.

The rows of a period are made in a table beside it and then put in its place by one statement. A refresh that is killed leaves the old rows;
the next one makes all of that again. What came late is found by when it was mirrored, so a stay that is booked a year late changes its own month.

A report that is new, in its version or in its database, gets its name when all of its months are there: a table of that name is whole. Each
refresh has tables of its own, and takes those of others away when it begins. So of two at once, as when a scheduler that was paused goes on
beside the one that leads now, the older one fails; their rows never mix.
"""

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError

from sinks.clickhouse import connect
from sinks.clickhouse.migrations import on_cluster, render
from streams.analytics.catalogue import Grain, Report
from streams.errors import UnavailableError
from streams.settings import Settings

OVERLAP = timedelta(minutes=10)
"""Rows that were on their way when the last refresh began."""
PARTITIONS = {Grain.MONTH: "PARTITION BY toYYYYMM(period)", Grain.SNAPSHOT: "PARTITION BY toYYYYMMDD(period)", Grain.WHOLE: ""}
BESIDE = "_beside_"
"""Between the name of a report's table and what names one refresh."""


@dataclass(frozen=True, slots=True)
class Refreshed:
    rows: int
    periods: int


def refresh(settings: Settings, report: Report, *, until_ms: int, previous_ms: int | None) -> Refreshed:
    """Make the rows again that may have changed. `until_ms` is what a snapshot is as of; `previous_ms`, when the last refresh that went well began.

    Blocks for as long as it takes. Raises UnavailableError.
    """
    with connected(settings) as client:
        return _refresh(client, settings, report, _time(until_ms), None if previous_ms is None else _time(previous_ms))


@contextmanager
def connected(settings: Settings) -> Iterator[Client]:
    """A client of ClickHouse; what goes wrong while it is used is an UnavailableError."""
    try:
        with closing(connect(settings)) as client:
            yield client
    except ClickHouseError as error:
        said = str(error).strip().partition("\n")[0][:300]
        raise UnavailableError(f"ClickHouse at LOYALTY_CLICKHOUSE_URL={settings.clickhouse_url}: {said}") from error


def _refresh(client: Client, settings: Settings, report: Report, until: datetime, previous: datetime | None) -> Refreshed:
    cluster = settings.clickhouse_cluster
    of_others = "SELECT name FROM system.tables WHERE database = currentDatabase() AND startsWith(name, {prefix:String})"
    for (name,) in client.query(of_others, parameters={"prefix": report.table + BESIDE}).result_rows:
        client.command(f"DROP TABLE IF EXISTS {name} {on_cluster(cluster)}")
    is_known = bool(int(str(client.command(f"EXISTS TABLE {report.table}"))))
    beside = f"{report.table}{BESIDE}{uuid4().hex}"
    target = report.table if is_known else f"{beside}_whole"
    for name in {beside, target}:
        make_table(client, report, name, cluster)
    if report.grain is Grain.MONTH:
        found = months(client, report, until, previous if is_known else None, settings.report_recompute_days)
        periods = [(since, end, f"{since:%Y%m}") for since, end in found]
    else:
        periods = [(datetime(1900, 1, 1, tzinfo=UTC), until, f"{until:%Y%m%d}" if report.grain is Grain.SNAPSHOT else "tuple()")]
    rows = sum(_replace(client, report, target, beside, *period) for period in periods)
    if not is_known:
        client.command(f"RENAME TABLE {target} TO {report.table} {on_cluster(cluster)}")
    client.command(f"DROP TABLE {beside} {on_cluster(cluster)}")
    return Refreshed(rows, len(periods))


def make_table(client: Client, report: Report, name: str, cluster: str = "") -> None:
    """A table for rows of the report, with the columns that the SQL gives; harmless to repeat."""
    day = datetime(2026, 1, 1, tzinfo=UTC)
    described = client.query(f"DESCRIBE TABLE ({report.sql})", parameters=_values(day, day))
    columns = [f"`{row[0]}` {row[1]}" for row in described.result_rows] + ["`computed_at` DateTime64(3, 'UTC')"]
    statement = f"CREATE TABLE IF NOT EXISTS {name} ({', '.join(columns)}) ENGINE = MergeTree {PARTITIONS[report.grain]} ORDER BY tuple()"
    client.command(render(statement, cluster))


def months(client: Client, report: Report, until: datetime, previous: datetime | None, recompute_days: int) -> list[tuple[datetime, datetime]]:
    """First and next month of each one that is to be made again, the oldest first: those of the last days, and those in which something came late."""
    found: set[datetime] = set()
    if previous is not None:
        first, last = _month(until - timedelta(days=recompute_days)), _month(until)
        while first <= last:
            found.add(first)
            first = _next(first)
    where = "" if previous is None else " WHERE mirrored_at >= {mirrored:DateTime64(3, 'UTC')}"
    values = {} if previous is None else {"mirrored": previous - OVERLAP}
    for source in report.sources:
        rows = client.query(f"SELECT DISTINCT toStartOfMonth({report.by}) FROM {source}{where}", parameters=values).result_rows
        found |= {datetime(row[0].year, row[0].month, 1, tzinfo=UTC) for row in rows}
    return [(month, _next(month)) for month in sorted(found)]


def _replace(client: Client, report: Report, target: str, beside: str, since: datetime, until: datetime, partition: str) -> int:
    """Make the rows of one period and put them in the place of its old ones; how many they are.

    Without ON CLUSTER: the replica that has made the rows hands them on, while another one might not have all of them yet.
    """
    client.command(f"TRUNCATE TABLE {beside}")
    client.command(f"INSERT INTO {beside} SELECT *, now64(3, 'UTC') FROM ({report.sql})", parameters=_values(since, until))
    rows = int(str(client.command(f"SELECT count() FROM {beside}")))
    change = f"REPLACE PARTITION {partition} FROM {beside}" if rows else f"DROP PARTITION {partition}"  # Servers refuse to replace by nothing.
    client.command(f"ALTER TABLE {target} {change}")
    return rows


def _values(since: datetime, until: datetime) -> dict[str, Any]:
    return {"since": since, "until": until}


def _time(at_ms: int) -> datetime:
    return datetime.fromtimestamp(at_ms / 1000, UTC)


def _month(at: datetime) -> datetime:
    return datetime(at.year, at.month, 1, tzinfo=UTC)


def _next(month: datetime) -> datetime:
    return datetime(month.year + month.month // 12, month.month % 12 + 1, 1, tzinfo=UTC)


def stored(report: Report, *, program: str | None, since: datetime | None, until: datetime | None, columns: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """SQL and parameters for the stored rows, in the order of their keys; of snapshots the newest, unless times are given."""
    texts: list[str] = []
    values: dict[str, Any] = {}
    if program is not None and "program_id" in columns:
        texts.append("program_id = {program:String}")
        values["program"] = program
    for name, sign, at in (("since", ">=", since), ("until", "<", until)):
        if at is not None:
            texts.append(f"period {sign} {{{name}:Date}}")
            values[name] = at.date()
    if report.grain is Grain.SNAPSHOT and since is None and until is None:
        texts.append(f"period = (SELECT max(period) FROM {report.table})")
    where = f" WHERE {' AND '.join(texts)}" if texts else ""
    return f"SELECT {', '.join(f'`{name}`' for name in columns)} FROM {report.table}{where} ORDER BY {', '.join(report.keys)}", values
