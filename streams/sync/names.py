"""Names of streams and jobs -> whether they may have a cadence, and why not. Pure.

    profile-changes, profile-changes/salesforce     inbound: all sources, or one
    history/delivery-attempts                       outbound: into ClickHouse
    report/liability, reconcile                     jobs
"""

import re
from collections.abc import Mapping
from typing import Any

from streams import topics
from streams.scheduling import cadence
from streams.scheduling.cadence import REALTIME, Cadence
from streams.toml_lines import join
from streams.toml_reader import TomlReader
from streams.topics import Topic

NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,62}(/[A-Za-z0-9][A-Za-z0-9_.-]{0,127})?")
HISTORY = "history/"
SYNC = "sync/"
"""What the job of an inbound stream is called: sync/profile-changes."""

INBOUND: Mapping[str, Topic] = {topic.stream: topic for topic in (topics.ENROLMENTS, topics.PROFILE_CHANGES, topics.OFFER_ACTIVATIONS)}
"""Inbound streams that may wait."""
STAGING: Mapping[str, Topic] = {stream: topic for stream, topic in zip(INBOUND, topics.SCHEDULED, strict=True)}
"""Where they wait."""
OUTBOUND = tuple(HISTORY + topic.stream for topic in (
    topics.PROFILES, topics.SYNC_AUDIT, topics.DEAD_LETTERS, topics.DELIVERY_AUDIT, topics.DELIVERY_ATTEMPTS, topics.DELIVERY_NOTICES, topics.SYNC_RUNS,
))  # fmt: skip
"""Outbound streams that may wait."""
INBOUND_REALTIME = (topics.TRANSACTIONS.stream, topics.MEMBER_OPERATIONS.stream)
OUTBOUND_REALTIME = ("redis", *(HISTORY + topic.stream for topic in (topics.EVENTS, topics.LEDGER_ENTRIES)))

_POINTS, _STATE = "points are earned, spent and shown by it", "who is suspended must be so at once"
REALTIME_ONLY: Mapping[str, str] = {
    "transactions": _POINTS, "earn": _POINTS, "redeem": _POINTS, "balance": _POINTS, "tier": _POINTS, "redis": _POINTS, "events": _POINTS,
    "history/events": _POINTS, "history/ledger-entries": _POINTS, "ledger-entries": _POINTS,
    "member-operations": "merges, erasures and tiers wait for nothing", "statuses": _STATE, "status": _STATE, "suspension": _STATE, "suspensions": _STATE,
}  # fmt: skip
"""Streams that never wait, and why."""
_ANY_CADENCE = Cadence(every_s=86_400)  # Of a job, whose own default is not known here.


def refusal(name: str, wanted: Cadence) -> str:
    """Why a stream or job cannot have this cadence, as the end of a sentence that begins with its name; empty when it can."""
    stream = name.partition("/")[0]
    reason = REALTIME_ONLY.get(name) or (REALTIME_ONLY.get(stream) if stream != "history" else None)
    if reason is not None:
        return "" if wanted == REALTIME else f"is realtime always: {reason}"
    if stream == "history" and name not in OUTBOUND:
        return f"is no stream of the history that may wait; these may: {', '.join(OUTBOUND)}"
    if not is_stream(name) and wanted.is_realtime:
        return "is a job: it needs every or cron"
    return ""


def is_stream(name: str) -> bool:
    """Whether the name is that of an inbound or outbound stream; else it is that of a job, or nobody's."""
    return is_inbound(name) or name.startswith(HISTORY) or name in REALTIME_ONLY


def is_inbound(name: str) -> bool:
    """Whether the name is that of an inbound stream that may wait, of all sources or of one."""
    return name.partition("/")[0] in INBOUND


def stream_of(name: str) -> str:
    """`profile-changes/salesforce` -> `profile-changes`."""
    return name.partition("/")[0]


def sink_of(outbound: str) -> tuple[str, Topic]:
    """The consumer group and the topic of an outbound stream."""
    if outbound == "redis":
        return "sink-redis", topics.EVENTS
    stream = outbound.removeprefix(HISTORY)
    return f"sink-clickhouse-{stream}", topics.BY_STREAM[stream]


def of_job(job: str) -> str:
    """`sync/profile-changes` -> `profile-changes`: as operators and the configuration file say it."""
    return job.removeprefix(SYNC)


def check(reader: TomlReader, name: str, table: Mapping[str, Any]) -> None:
    """Tell the reader what is wrong with `[sync.<name>]`."""
    place = join("sync", name)
    before = len(reader.problems)
    wanted = cadence.read(reader, place, table, default=REALTIME if is_stream(name) else _ANY_CADENCE)
    reason = refusal(name, wanted)
    if reason and len(reader.problems) == before:
        reader.problem(place, reason)
