"""The process of the history: migrates the database, then mirrors every topic of TABLES, each in its own consumer group and pace."""

import asyncio
import logging
import random
from functools import partial

from clickhouse_connect.driver.exceptions import ClickHouseError

from schemas.records import RestatedStore
from sinks import restatements
from sinks.base import Health
from sinks.batches import run_batches
from sinks.clickhouse import migrations, retention
from sinks.clickhouse.connection import connect
from sinks.clickhouse.history import History
from sinks.clickhouse.tables import TABLES
from sinks.flushes import Flushes
from sinks.hold import Hold
from sinks.schedule import Schedule
from streams import topics
from streams.codec import open_codec
from streams.configuration import Configuration
from streams.errors import UnavailableError
from streams.settings import Settings
from streams.sync import names, outbound
from streams.sync.control import SyncControlLog

log = logging.getLogger(__name__)

ROWS_MAX = 10_000  # ClickHouse prefers few large inserts; this one takes some 50 ms.
WAIT_MAX_S = 1.0  # At low load analysts see a row after this, and each table gets one insert a second at most.


async def run(settings: Settings, configuration: Configuration, stop: asyncio.Event, health: Health) -> None:
    """Migrate the database, then mirror every topic of TABLES until `stop` is set. Raises ConfigurationError for a changed migration."""
    waiting = "clickhouse: has not answered yet"
    health.set("clickhouse", lambda: waiting)
    if not await _migrate_when_available(settings, stop):
        return
    waiting = ""
    codec = open_codec(settings)
    control = SyncControlLog(settings, codec, configuration)
    control.start()
    histories = [History(settings, table, codec) for table in TABLES]
    # Connections of their own: a client is for one thread at a time.
    restated = [History(settings, table, codec, follows_topic=False) for table in TABLES if table.topic.stream in restatements.RECORDS]
    try:
        async with asyncio.TaskGroup() as group:
            for history in histories:
                stream = history.table.topic.stream
                name = names.HISTORY + stream
                cadence = partial(control.cadence, name)
                may_wait = name in names.OUTBOUND
                # A record of runs that told of its own runs would never be quiet.
                has_runs = may_wait and history.table.topic is not topics.SYNC_RUNS
                group.create_task(
                    run_batches(
                        settings, sink=f"clickhouse-{stream}", group=f"sink-clickhouse-{stream}", topic=history.table.topic,
                        write=history.write, rows_max=ROWS_MAX, wait_max_s=WAIT_MAX_S, stop=stop, codec=codec, health=health, decodes=False,
                        hold=Hold(cadence) if may_wait else None,
                        flushes=Flushes(outbound.recorder(settings, codec, name, cadence)) if has_runs else None,
                    )
                )  # fmt: skip
            writes = {history.table.topic.stream: history.write for history in restated}
            group.create_task(restatements.run(settings, RestatedStore.CLICKHOUSE, writes, codec, stop, health))
    finally:
        for history in (*histories, *restated):
            history.close()
        await control.close()


async def _migrate_when_available(settings: Settings, stop: asyncio.Event) -> bool:
    """False if `stop` was set before ClickHouse answered."""
    schedule, attempt = Schedule(), 0
    while not stop.is_set():
        try:
            await asyncio.to_thread(migrate, settings)
            return True
        except UnavailableError as error:
            attempt += 1
            if attempt == 1:
                log.warning("history.waits_for_clickhouse", extra={"error": str(error)})
        try:
            await asyncio.wait_for(stop.wait(), schedule.delay_s(attempt, random.random()))
        except TimeoutError:
            pass
    return False


def migrate(settings: Settings) -> list[str]:
    """Create the database and apply what is missing; the names of what was applied. Raises UnavailableError and ConfigurationError."""
    try:
        client = connect(settings, database=None)
        try:
            cluster = settings.clickhouse_cluster
            client.command(f"CREATE DATABASE IF NOT EXISTS `{settings.clickhouse_database}` {migrations.on_cluster(cluster)}")
            client.database = settings.clickhouse_database
            applied = migrations.apply(client, migrations.load(), cluster)
            retention.apply(client, settings)
            return applied
        finally:
            client.close()
    except (ClickHouseError, OSError) as error:
        raise UnavailableError(f"LOYALTY_CLICKHOUSE_URL={settings.clickhouse_url} does not answer as it should: {error}") from error
