"""THE MAP: every topic, its key, its record, who writes it and who reads it.

Every topic has the same number of partitions and, where its doc names no other, the key `program_id/member_id`: all that concerns one
member meets in one partition, in order. Names get the prefix of the settings: `loyalty.transactions.v1`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from schemas.records import (
    ConnectorProgress,
    DeadLetter,
    DeliveryAttempt,
    DeliveryAudit,
    DeliveryControl,
    DeliveryNotice,
    DeliveryProgress,
    Enrolment,
    LedgerEntry,
    LoyaltyEvent,
    MemberOperation,
    MemberProfile,
    OfferActivation,
    ProfileChange,
    ProgramVersion,
    ReceivedWebhook,
    Relay,
    Restatement,
    SourceProgress,
    SyncAudit,
    SyncControl,
    SyncRun,
    Tick,
    Transaction,
)

DAY_MS = 24 * 3600 * 1000


class Direction(StrEnum):
    IN = "in"
    OUT = "out"
    INTERNAL = "internal"


@dataclass(frozen=True, slots=True, kw_only=True)
class Topic:
    """One topic. `stream` is its short name, used in REST paths, audit records, metrics and settings."""

    stream: str
    record: type
    direction: Direction
    doc: str
    writers: str
    readers: str
    version: int = 1
    config: Mapping[str, str] = field(default_factory=dict)

    def name(self, prefix: str) -> str:
        """Full name on the broker."""
        return f"{prefix}.{self.stream}.v{self.version}"


def _inbound(stream: str, record: type, doc: str) -> Topic:
    # The broker's clock stamps what comes in: it is the pipeline's ingestion time, and no upstream clock can falsify it.
    config = {"message.timestamp.type": "LogAppendTime", "retention.ms": str(30 * DAY_MS)}
    return Topic(stream=stream, record=record, direction=Direction.IN, doc=doc, writers="ingress, upstream producers", readers="worker", config=config)


def _outbound(stream: str, record: type, doc: str, readers: str, **config: str) -> Topic:
    config = {name.replace("_", "."): value for name, value in config.items()}
    return Topic(stream=stream, record=record, direction=Direction.OUT, doc=doc, writers="worker", readers=readers, config=config)


def _internal(stream: str, record: type, doc: str, *, writers: str, **config: str) -> Topic:
    # The broker's clock here, too: what passes between partitions, the time and the rules are inputs like any other.
    config = {"message.timestamp.type": "LogAppendTime"} | {name.replace("_", "."): value for name, value in config.items()}
    return Topic(stream=stream, record=record, direction=Direction.INTERNAL, doc=doc, writers=writers, readers="worker", config=config)


ENROLMENTS = _inbound("enrolments", Enrolment, "Members join.")
TRANSACTIONS = _inbound("transactions", Transaction, "Points are earned, held, redeemed, reversed, adjusted, transferred; vouchers are redeemed.")
PROFILE_CHANGES = _inbound("profile-changes", ProfileChange, "Profiles and statuses change.")
OFFER_ACTIVATIONS = _inbound("offer-activations", OfferActivation, "Members opt in to offers.")
MEMBER_OPERATIONS = _inbound("member-operations", MemberOperation, "Memberships are merged, erased, pooled, given a tier.")

EVENTS = _outbound(
    "events", LoyaltyEvent, "What happened to accounts: for webhooks, caches and history.",
    "sinks: webhooks, connectors, redis, clickhouse", retention_ms=str(30 * DAY_MS),
)
LEDGER_ENTRIES = _outbound(
    "ledger-entries", LedgerEntry, "Every posting of points.", "sink: clickhouse", retention_ms=str(90 * DAY_MS),
)
PROFILES = _outbound(
    "profiles", MemberProfile, "Profile versions, whole; the only outbound topic with personal data.", "sink: clickhouse",
    cleanup_policy="compact",
    # Each version can be read for a week. What an erasure has ended is gone from the brokers' disks within ten days: a segment takes records
    # for a day, ends with the engine's record of the next day at the latest, and is compacted when all of it is a week old.
    min_compaction_lag_ms=str(7 * DAY_MS), max_compaction_lag_ms=str(7 * DAY_MS), segment_ms=str(DAY_MS),
)
SYNC_AUDIT = _outbound(
    "sync-audit", SyncAudit, "What became of every inbound event.", "sink: clickhouse; ingress, for waiting clients",
    retention_ms=str(90 * DAY_MS),
)
DELIVERY_AUDIT = Topic(
    stream="delivery-audit", record=DeliveryAudit, direction=Direction.OUT, doc="What became of every event that went out.",
    writers="sinks: webhooks, connectors", readers="sink: clickhouse", config={"retention.ms": str(90 * DAY_MS)},
)  # fmt: skip
DELIVERY_ATTEMPTS = Topic(
    stream="delivery-attempts", record=DeliveryAttempt, direction=Direction.OUT, doc="Every attempt to deliver, whole; secrets are masked.",
    writers="sinks: webhooks, connectors", readers="sink: clickhouse", config={"retention.ms": str(7 * DAY_MS)},
)  # fmt: skip
DELIVERY_NOTICES = Topic(
    stream="delivery-notices", record=DeliveryNotice, direction=Direction.OUT,
    doc="What happens to destinations themselves; key: the destination.", writers="sink: webhooks", readers="sink: webhooks",
    config={"retention.ms": str(30 * DAY_MS)},
)  # fmt: skip
DELIVERY_CONTROL = Topic(
    stream="delivery-control", record=DeliveryControl, direction=Direction.INTERNAL,
    doc="Destinations, their states and replays; key: kind and name.", writers="ingress, loyalty destinations, loyalty connectors, sink: webhooks",
    readers="sinks: webhooks, connectors; ingress", config={"cleanup.policy": "compact"},
)  # fmt: skip
DELIVERY_PROGRESS = Topic(
    stream="delivery-progress", record=DeliveryProgress, direction=Direction.INTERNAL,
    doc="How far deliveries have come, in the partition of what is delivered; key: channel and lane.", writers="sink: webhooks",
    readers="sink: webhooks", config={"cleanup.policy": "compact", "segment.ms": str(DAY_MS), "min.cleanable.dirty.ratio": "0.1"},
)  # fmt: skip
CONNECTOR_PROGRESS = Topic(
    stream="connector-progress", record=ConnectorProgress, direction=Direction.INTERNAL,
    doc="How far writes to connected systems have come, in the partition of the events; key: target, kind and member.", writers="sink: connectors",
    readers="sink: connectors; loyalty connectors", config={"cleanup.policy": "compact", "segment.ms": str(DAY_MS), "min.cleanable.dirty.ratio": "0.1"},
)  # fmt: skip
DEAD_LETTERS = _outbound(
    "dead-letters", DeadLetter, "What could not be processed, with the reason.", "operators", retention_ms=str(90 * DAY_MS),
)

RELAYS = _internal(
    "relays", Relay, "From one member's partition to another's: transfers, merges, budgets, external ids.", writers="worker", retention_ms=str(30 * DAY_MS),
)
TICKS = _internal("ticks", Tick, "The time; key: none, one partition each.", writers="worker", retention_ms=str(DAY_MS))
PROGRAMS = _internal(
    "programs", ProgramVersion, "Rules of the programmes, the same in every partition; key: the programme.",
    writers="loyalty program apply", retention_ms="-1",
)

WEBHOOK_INBOX = Topic(
    stream="webhook-inbox", record=ReceivedWebhook, direction=Direction.INTERNAL,
    doc="Webhooks that only hint at a change; key: source and entity.", writers="ingress", readers="ingress: reads the entity again",
    config={"retention.ms": str(7 * DAY_MS)},
)  # fmt: skip
SOURCE_PROGRESS = Topic(
    stream="source-progress", record=SourceProgress, direction=Direction.INTERNAL,
    doc="How far feeds of connected systems have been read; key: source and feed.", writers="loyalty connectors run",
    readers="loyalty connectors; ingress", config={"cleanup.policy": "compact", "segment.ms": str(DAY_MS), "min.cleanable.dirty.ratio": "0.1"},
)  # fmt: skip


SCHEDULED_PREFIX = "scheduled-"
EARLIER = "earlier"
"""Header of a record that has waited: what travels with it and comes before it, as WaitingCommands in wire format."""


def _scheduled(topic: Topic) -> Topic:
    # Longer than the slowest cadence, so that nothing is gone before its time.
    config = {"message.timestamp.type": "LogAppendTime", "retention.ms": str(90 * DAY_MS)}
    return Topic(
        stream=SCHEDULED_PREFIX + topic.stream, record=topic.record, direction=Direction.IN,
        doc=f"What waits for the schedule of {topic.stream}; header sync: whose schedule.", writers="ingress, upstream producers", readers="scheduler",
        config=config,
    )  # fmt: skip


SCHEDULED = tuple(map(_scheduled, (ENROLMENTS, PROFILE_CHANGES, OFFER_ACTIVATIONS)))
SYNC_CONTROL = Topic(
    stream="sync-control", record=SyncControl, direction=Direction.INTERNAL,
    doc="How often streams and jobs run, and what is asked of them; key: kind and name.", writers="loyalty sync, scheduler",
    readers="scheduler, ingress, sinks", config={"cleanup.policy": "compact"},
)  # fmt: skip
SYNC_RUNS = Topic(
    stream="sync-runs", record=SyncRun, direction=Direction.OUT, doc="Every run of a scheduled stream, a report, a reconciliation, a load; key: the job.",
    writers="scheduler, loyalty load, sink: clickhouse", readers="scheduler, ingress; sink: clickhouse", config={"retention.ms": str(90 * DAY_MS)},
)  # fmt: skip
RESTATEMENTS = Topic(
    stream="restatements", record=Restatement, direction=Direction.INTERNAL,
    doc="Records of the log that a store lacks or has otherwise, said again for it.", writers="loyalty reconcile --repair",
    # What an erasure ends must not outlive it here: the log keeps a profile's earlier versions as long.
    readers="sinks: redis, clickhouse", config={"retention.ms": str(7 * DAY_MS), "segment.ms": str(DAY_MS)},
)  # fmt: skip

INBOUND = (ENROLMENTS, TRANSACTIONS, PROFILE_CHANGES, OFFER_ACTIVATIONS, MEMBER_OPERATIONS)
"""Commands of clients."""
OUTBOUND = (EVENTS, LEDGER_ENTRIES, PROFILES, SYNC_AUDIT, DEAD_LETTERS)
SOURCES = (*INBOUND, RELAYS, TICKS, PROGRAMS)
"""All that the worker reads."""
DELIVERY = (DELIVERY_AUDIT, DELIVERY_ATTEMPTS, DELIVERY_NOTICES, DELIVERY_CONTROL, DELIVERY_PROGRESS, CONNECTOR_PROGRESS)
SYNC = (*SCHEDULED, SYNC_CONTROL, SYNC_RUNS)
ALL = (*INBOUND, *OUTBOUND, *DELIVERY, *SYNC, RELAYS, TICKS, PROGRAMS, WEBHOOK_INBOX, SOURCE_PROGRESS, RESTATEMENTS)
BY_STREAM = {topic.stream: topic for topic in ALL}
