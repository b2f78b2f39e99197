"""Configuration, source-progress and the sinks' answers -> how the connected systems fare: the rows of `loyalty connectors` and GET /v1/connectors."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orjson

from schemas.codec import Codec
from schemas.records import SourceProgress
from streams.configuration import Configuration
from streams.connectors import ways
from streams.connectors.contract import Connector, Option, Options, Poll, Source, Target
from streams.connectors.registry import CONNECTORS
from streams.connectors.running.progress import Name, lag_ms, nothing, now_ms, read
from streams.ingress.commands import format_time
from streams.ingress.standings import Standings
from streams.settings import Settings

Row = dict[str, Any]

IN, OUT = "in", "out"
HIDDEN = "(set)"


async def collect(settings: Settings, configuration: Configuration, codec: Codec, standings: Standings) -> list[Row]:
    """A row for each way in and out. Raises UnavailableError when Kafka does not answer; of a sink that does not, the state is not known."""
    known = await asyncio.to_thread(read, settings, codec, range(settings.kafka_partitions))
    written = await standings.targets(configuration.targets) if configuration.targets else {}
    at_ms = now_ms()
    return sources(configuration.sources, known, at_ms) + targets(configuration.targets, written, at_ms)


def sources(configured: Mapping[str, Source], known: Mapping[Name, SourceProgress], at_ms: int) -> list[Row]:
    """A row for each way in: the webhooks of a source, and each of its polls and streams."""
    return [row for name in sorted(configured) for row in _ways(configured[name], known, at_ms)]


def _ways(source: Source, known: Mapping[Name, SourceProgress], at_ms: int) -> Iterator[Row]:
    connector = CONNECTORS[source.kind]
    if connector.push is not None and source.options.get("secret", HIDDEN):  # Without a secret, none is taken.
        yield _row(source, "webhooks", "", None, at_ms)
    for feed, one in ways.wanted(source):
        name = (source.name, feed)
        yield _row(source, "poll" if isinstance(one, Poll) else "stream", feed, known.get(name) or nothing(name), at_ms)


def _row(source: Source, way: str, feed: str, record: SourceProgress | None, at_ms: int) -> Row:
    row: Row = {"name": source.name, "kind": source.kind, "program_id": source.program_id, "direction": IN, "way": way, "feed": feed}
    if record is None:
        return row | {"state": "listens"}
    return row | {
        "state": state_of(record, at_ms),
        "begun_at": _time(record.begun_at_ms),
        "succeeded_at": _time(record.succeeded_at_ms),
        "failing_since": _time(record.failing_since_ms),
        "waits_until": _time(record.waits_until_ms),
        "last_error": record.last_error,
        "last_error_at": _time(record.last_error_at_ms),
        "alert": record.alert,
        "alert_at": _time(record.alert_at_ms),
        "lag_s": round(lag_ms(record, at_ms) / 1000, 3) if record.begun_at_ms else None,
        "newest_at": _time(record.source_time_ms),
        "commands": record.commands,
        "hints": record.hints,
        "parked": record.parked,
        "budget": {"used": record.budget_used, "allowed": record.budget_allowed} if record.budget_allowed else None,
    }


def targets(configured: Mapping[str, Target], standings: Mapping[str, Mapping[str, Any]], at_ms: int) -> list[Row]:
    """A row for each system that is written to."""
    return [_target_row(configured[name], standings.get(name), at_ms) for name in sorted(configured)]


def _target_row(target: Target, standing: Mapping[str, Any] | None, at_ms: int) -> Row:
    row: Row = {"name": target.name, "kind": target.kind, "programs": sorted(target.programs), "direction": OUT, "way": "writes", "feed": ""}
    if standing is None:
        return row | {"state": "unknown"}
    rests_s, oldest_ms, allowed = standing["rests_s"], standing["oldest_ms"], standing["budget_allowed"]
    failing = standing["failing_since_ms"] is not None
    state = "paused" if standing["is_paused"] else "waits" if rests_s else "fails" if failing else "well"
    return row | {
        "state": state,
        "succeeded_at": _time(standing["last_success_at_ms"]),
        "failing_since": _time(standing["failing_since_ms"]),
        "waits_until": _time(at_ms + int(rests_s * 1000)) if rests_s else None,
        "last_error": standing["last_error"],
        "last_error_at": _time(standing["last_error_at_ms"]),
        "lag_s": 0.0 if oldest_ms is None else round(max(0, at_ms - oldest_ms) / 1000, 3),
        "waiting": standing["waiting"],
        "parked": standing["parked_members"] + standing["blocked_members"],
        "budget": {"used": standing["budget_used"], "allowed": allowed} if allowed else None,
    }


def state_of(record: SourceProgress, at_ms: int) -> str:
    """never: nobody has led it yet. waits: the system is at a limit."""
    if record.waits_until_ms > at_ms:
        return "waits"
    if record.failing_since_ms:
        return "fails"
    return "well" if record.succeeded_at_ms else "begins" if record.begun_at_ms else "never"


def details(name: str, configuration: Configuration, known: Mapping[Name, SourceProgress], rows: Sequence[Row]) -> Row:
    """Both halves of one system whole, but for their secrets."""
    found: Row = {"name": name}
    source, target = configuration.sources.get(name), configuration.targets.get(name)
    if source is not None:
        found["source"] = {
            "kind": source.kind, "program_id": source.program_id, "options": shown(CONNECTORS[source.kind].source_options, source.options),
            "cursors": {feed: orjson.loads(record.cursor) for (one, feed), record in known.items() if one == name},
        }  # fmt: skip
    if target is not None:
        declared = CONNECTORS[target.kind].target_options
        found["destination"] = {"kind": target.kind, "programs": sorted(target.programs), "options": shown(declared, target.options)}
    return found | {"ways": [row for row in rows if row["name"] == name]}


def shown(declared: Sequence[Option], options: Options) -> Row:
    """Values of options; of secrets, whether there is one."""
    secrets = {option.name for option in declared if option.is_secret}
    return {name: (HIDDEN if value else "") if name in secrets else value for name, value in options.items()}


def kinds() -> list[Row]:
    """All that can be connected, with the options of both halves."""
    return [_kind(connector) for connector in CONNECTORS.values()]


def _kind(connector: Connector) -> Row:
    ways = [way for way, there in (("webhooks", connector.push), ("poll", connector.polls), ("stream", connector.streams)) if there]
    return {
        "kind": connector.kind, "title": connector.title, "ways_in": ways, "feeds": [*connector.polls, *connector.streams],
        "writes": connector.write is not None, "source_options": [_option(option) for option in connector.source_options],
        "destination_options": [_option(option) for option in connector.target_options],
    }  # fmt: skip


def _option(option: Option) -> Row:
    return {
        "name": option.name, "type": option.type.__name__, "default": None if option.is_required else option.default, "required": option.is_required,
        "secret": option.is_secret, "choices": list(option.choices), "doc": option.doc,
    }  # fmt: skip


def _time(at_ms: int | None) -> str | None:
    return format_time(at_ms) if at_ms else None
