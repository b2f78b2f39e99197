"""Control, runs, topics and the history -> what `loyalty sync` and `GET /v1/sync` show."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from confluent_kafka import IsolationLevel, KafkaException, TopicPartition
from confluent_kafka.admin import OffsetSpec  # type: ignore[attr-defined]
from rich.console import Console
from rich.table import Table

from schemas.codec import Codec
from schemas.records import SyncControlKind, SyncRun
from streams import kafka
from streams.command_line import short_time
from streams.configuration import Configuration
from streams.errors import UnavailableError
from streams.history import Query, Reader
from streams.scheduling import plan
from streams.scheduling.cadence import Cadence, window_text
from streams.scheduling.job import Job
from streams.scheduling.runs import RunLog, Standing
from streams.settings import Settings
from streams.sync import names
from streams.sync.control import SyncControlLog
from streams.sync.flush import BACKLOG_RECORDS_MAX, FlushJob

ASK_TIMEOUT_S = 10.0
LOOK_EVERY_S = 0.1
WRITTEN = "SELECT topic, toUnixTimestamp64Milli(max(mirrored_at)) FROM mirror_ranges GROUP BY topic"
STYLES = {"DONE": "green", "FAILED": "red", "STOPPED": "yellow"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """What is read for it. `control` and `run_log` follow their topics, and are ready."""

    settings: Settings
    configuration: Configuration
    codec: Codec
    jobs: Mapping[str, Job]
    control: SyncControlLog
    run_log: RunLog


async def rows(parts: Sources, now_ms: int) -> list[dict[str, Any]]:
    """Every stream and job; times are RFC 3339, or None: when the history was written last is not known while ClickHouse does not answer.

    Raises UnavailableError.
    """
    found = []
    for name in [*names.INBOUND_REALTIME, *parts.control.inbound_names()]:
        is_scheduled = name not in names.INBOUND_REALTIME
        backlog = await FlushJob(name, parts.settings, parts.codec, parts.control.inbound_names).backlog() if is_scheduled else None
        row = _row(parts, name, "inbound", names.SYNC + name, Cadence(), now_ms)
        if not parts.control.is_drained(name) and row["mode"] == "realtime":
            row["mode"] = "draining"
        if backlog is not None:
            row |= {"backlog": backlog.records, "oldest_at": _time(backlog.oldest_ms), "lag_s": _seconds(backlog.oldest_ms, now_ms)}
        found.append(row)
    outbound = [*names.OUTBOUND_REALTIME, *names.OUTBOUND]
    unwritten, written_ms = await asyncio.gather(asyncio.to_thread(_unwritten, parts, outbound), _written_ms(parts.settings))
    for name in outbound:
        row = _row(parts, name, "outbound", name, Cadence(), now_ms) | {"backlog": unwritten[name]}
        if name.startswith(names.HISTORY):
            row["last_write_at"] = _time(written_ms.get(names.sink_of(name)[1].name(parts.settings.topic_prefix)))
        found.append(row)
    for name, job in parts.jobs.items():
        found.append(_row(parts, names.of_job(name), "job", name, job.default, now_ms))
    return found


def _row(parts: Sources, name: str, kind: str, job: str, default: Cadence, now_ms: int) -> dict[str, Any]:
    cadence = parts.control.cadence(name, default)
    standing: Standing = parts.run_log.standings.get(job, Standing())
    since_ms = parts.control.since_ms(name) or (0 if standing.planned else now_ms)
    if name.startswith(names.HISTORY):
        next_ms = None if cadence.is_realtime else cadence.next_ms(now_ms)
    else:
        following = plan.due(cadence, standing.planned, since_ms=since_ms, now_ms=now_ms)
        next_ms = following.at_ms if following is not None else None
    mode = "realtime" if cadence.is_realtime else "every" if cadence.every_s is not None else "cron"
    return {
        "name": name, "kind": kind, "mode": mode, "cadence": str(cadence), "window": window_text(cadence.window) if cadence.window is not None else None,
        "rate_max_per_s": cadence.rate_max_per_s,
        "set_by": record.changed_by if (record := parts.control.record(SyncControlKind.CADENCE, name)) else "file" if name in parts.configuration.sync else "",
        "last": run_row(standing.last) if standing.last is not None else None,
        "next_at": _time(next_ms), "last_write_at": None,
        "backlog": None, "oldest_at": None, "lag_s": None,
    }  # fmt: skip


async def runs(parts: Sources, name: str | None, limit: int) -> list[dict[str, Any]]:
    """Newest first."""
    found = [run for run in parts.run_log.newest if name is None or names.of_job(run.job) == name or run.job == name]
    return [run_row(run) for run in sorted(found, key=lambda run: run.ended_at_ms, reverse=True)[:limit]]


async def wait_for_request(parts: Sources, name: str, wait_s: float) -> dict[str, Any] | None:
    """The run that an operator asked for just now; None when it has not ended in time."""
    job = name if name in parts.jobs else names.SYNC + name
    asked_ms = None
    async with asyncio.timeout(wait_s) as limit:
        try:
            while True:
                request = parts.control.record(SyncControlKind.REQUEST, name)
                asked_ms = request.changed_at_ms if request is not None else asked_ms
                run = parts.run_log.standing(job).requested
                if asked_ms is not None and run is not None and run.scheduled_for_ms == asked_ms:
                    return run_row(run)
                await asyncio.sleep(LOOK_EVERY_S)
        except TimeoutError:
            if not limit.expired():
                raise
    return None


def run_row(run: SyncRun) -> dict[str, Any]:
    return {
        "run_id": run.run_id, "job": run.job, "trigger": run.trigger.value, "result": run.result.value, "attempt": run.attempt, "cadence": run.cadence,
        "requested_by": run.requested_by, "scheduled_for": _time(run.scheduled_for_ms), "started_at": _time(run.started_at_ms),
        "ended_at": _time(run.ended_at_ms), "seconds": (run.ended_at_ms - run.started_at_ms) / 1000, "rows": run.rows, "counts": dict(run.counts),
        "next_at": _time(run.due_after_ms), "detail": run.detail,
    }  # fmt: skip


def show(found: list[dict[str, Any]], now_ms: int) -> None:
    """A table for people."""
    table = Table(title=f"Streams and jobs at {datetime.fromtimestamp(now_ms / 1000, UTC):%Y-%m-%d %H:%M:%S} UTC", title_justify="left")
    for column in ("name", "how often", "last run", "rows", "next run", "waits"):
        is_number = column in ("rows", "waits")
        table.add_column(column, justify="right" if is_number else "left", no_wrap=column == "name" or is_number, min_width=8 if column != "rows" else 4)
    kind = None
    for row in found:
        if kind not in (None, row["kind"]):
            table.add_section()
        kind, last = row["kind"], row["last"]
        ran = short_time(row["last_write_at"], now_ms)
        if last:
            ran = f"{short_time(last['ended_at'], now_ms)} [{STYLES.get(last['result'], 'dim')}]{last['result']}[/]"
        how = row["cadence"] if row["mode"] != "draining" else f"{row['cadence']} [yellow](draining)[/]"
        waits = "" if row["backlog"] is None else f"{row['backlog']:,}{'+' if row['backlog'] >= BACKLOG_RECORDS_MAX else ''}"
        oldest = "" if row["lag_s"] is None else f", {_duration(row['lag_s'])}"
        table.add_row(row["name"], how, ran, f"{last['rows']:,}" if last else "", short_time(row["next_at"], now_ms), waits + oldest)
    Console().print(table)


def show_runs(found: list[dict[str, Any]], now_ms: int) -> None:
    """A table for people."""
    table = Table(title="Runs", title_justify="left")
    for column in ("ended", "job", "why", "due", "result", "rows", "seconds", "detail"):
        table.add_column(column, justify="right" if column in ("rows", "seconds") else "left", no_wrap=column == "job")
    for row in found:
        counts = ", ".join(f"{name} {count:,}" for name, count in row["counts"].items() if count)
        attempt = f" (attempt {row['attempt']})" if row["attempt"] > 1 else ""
        why = row["trigger"].lower() + (f" {row['requested_by']}" if row["requested_by"] else "") + attempt
        result = f"[{STYLES.get(row['result'], 'dim')}]{row['result']}[/]"
        detail = "; ".join(part for part in (row["detail"], counts) if part)
        ended, due = short_time(row["ended_at"], now_ms), short_time(row["scheduled_for"], now_ms)
        table.add_row(ended, row["job"], why, due, result, f"{row['rows']:,}", f"{row['seconds']:.1f}", detail)
    Console().print(table)


async def _written_ms(settings: Settings) -> dict[str, int]:
    """Full name of a topic -> when ClickHouse took the newest records of it, in ms since 1970; empty while ClickHouse does not answer."""
    try:
        async with asyncio.timeout(ASK_TIMEOUT_S), Reader(settings) as history:
            return {topic: at_ms async for topic, at_ms in history.rows(Query(WRITTEN, {}))}
    except (UnavailableError, TimeoutError):
        return {}


def _unwritten(parts: Sources, outbound: Sequence[str]) -> dict[str, int]:
    """Records of outbound streams that their sinks have not written yet. Raises UnavailableError."""
    admin = kafka.admin(parts.settings, timeout_s=ASK_TIMEOUT_S)
    prefix, numbers = parts.settings.topic_prefix, range(parts.settings.kafka_partitions)
    wanted, read = {}, {}
    for name in outbound:
        group, topic = names.sink_of(name)
        wanted[name] = [TopicPartition(topic.name(prefix), number) for number in numbers]
        read[name] = kafka.group_offsets(parts.settings, group, wanted[name], timeout_s=ASK_TIMEOUT_S)
    every = {place for places in wanted.values() for place in places}
    # What an open transaction has written cannot be read yet, so no sink is behind by it.
    committed = IsolationLevel.READ_COMMITTED
    try:
        firsts, ends = (
            {
                place: future.result().offset
                for place, future in admin.list_offsets(dict.fromkeys(every, spec), isolation_level=committed, request_timeout=ASK_TIMEOUT_S).items()
            }
            for spec in (OffsetSpec.earliest(), OffsetSpec.latest())  # type: ignore[no-untyped-call]
        )
    except KafkaException as error:
        raise UnavailableError(f"Kafka at LOYALTY_KAFKA_BOOTSTRAP_SERVERS={parts.settings.kafka_bootstrap_servers}: {error}") from error
    return {
        name: sum(max(0, ends[place] - max(firsts[place], read[name][place.topic, place.partition])) for place in places)
        for name, places in wanted.items()
    }


def _time(at_ms: int | None) -> str | None:
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z") if at_ms else None


def _seconds(since_ms: int | None, now_ms: int) -> float | None:
    return None if since_ms is None else max(0, now_ms - since_ms) / 1000


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
