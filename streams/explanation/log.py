"""The log -> what the history does not have yet: records behind the mirror, commands that wait, the row of a changelog that first had an event.

Bounded in records and in time: a log that is long is read from where it still helps. Blocks; for a thread of its own.
"""

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import pyarrow as pa
from aiokafka.partitioner import murmur2
from confluent_kafka import IsolationLevel, KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]

from schemas.codec import Codec
from schemas.columns import ColumnDecoder
from schemas.contract import ADDRESS_MARK, Command, command_id, member_key
from schemas.records import Account, DeadLetter
from sinks.clickhouse.tables import TABLES, Fields, Table
from streams import kafka, topics
from streams.domain.identities import parts_of
from streams.domain.identity import address, pseudonym
from streams.errors import ContractError, UnavailableError
from streams.ingress.commands import format_time
from streams.kafka import Place
from streams.settings import Settings
from streams.tables import app_id, changelog_name
from streams.topics import Topic

Row = dict[str, Any]
Range = tuple[int, int]
"""First offset, and the one behind the last."""

RECORDS_MAX = 20_000  # Of a topic and partition: the newest of those that the mirror lacks.
CHANGELOG_ROWS_MAX = 20_000  # From the time of a decision on.
READ_S = 6.0  # Of one reading, all partitions together.
ASK_TIMEOUT_S = 4.0
CONSUMED_MAX = 5_000
LETTERS_MAX = 20

MIRRORED = {name: next(table for table in TABLES if table.name == name) for name in (
    "sync_audit", "ledger_entries", "loyalty_events", "delivery_attempts", "delivery_audit",
)}  # fmt: skip
DELIVERED = ("delivery_attempts", "delivery_audit")
"""Tables whose records follow from those of the others."""
IDENTIFIERS: Mapping[str, tuple[str, ...]] = {
    "sync_audit": ("command_id", "correlation_id", "voucher_code"), "ledger_entries": ("transaction_id", "entry_id"),
    "loyalty_events": ("event_id", "command_id", "hold_id", "voucher_code"), "delivery_attempts": ("webhook_id",), "delivery_audit": ("event_id",),
}  # fmt: skip
"""Columns that an id may be in."""
COMMAND = {"sync_audit": "command_id", "ledger_entries": "transaction_id", "loyalty_events": "command_id", "delivery_audit": "command_id"}
"""Column with the command that a row is about."""
WHOLE = frozenset({"request_headers", "request_body", "response_headers", "response_body"})
"""Columns that are not shown: what was sent and answered, whole."""


@dataclass(slots=True)
class Behind:
    """What the log has and the mirror has not."""

    ranges: dict[Place, Range] = field(default_factory=dict)
    cut: dict[Place, int] = field(default_factory=dict)
    """Places of which more is missing than is read, and how many records that is."""


class Log:
    """Methods raise UnavailableError."""

    def __init__(self, settings: Settings, codec: Codec) -> None:
        self._settings = settings
        self._codec = codec
        self._prefix = settings.topic_prefix
        self._decoders = {name: ColumnDecoder(codec, table.topic.record) for name, table in MIRRORED.items()}
        self._tables = {table.topic.name(self._prefix): table for table in MIRRORED.values()}

    def behind(self, *, has_history: bool) -> Behind:
        """Of the mirrored topics what their sinks have not written; without a history the newest records of each."""
        groups = {f"sink-clickhouse-{table.topic.stream}": [table.topic] for table in MIRRORED.values()}
        return self._unread(groups if has_history else {}, [table.topic for table in MIRRORED.values()])

    def partition_of(self, key: bytes) -> int:
        return int((murmur2(key) & 0x7FFFFFFF) % self._settings.kafka_partitions)

    def rows(self, behind: Behind, names: Iterable[str], keys: Collection[bytes], needles: Collection[str]) -> dict[str, list[Row]]:
        """Table -> rows as the history will have them, with `appended_at`, of records under one of the keys, or with one of the texts in them."""
        wanted = {MIRRORED[name].topic.name(self._prefix) for name in names}
        sought = [needle.encode() for needle in needles]
        messages: dict[str, list[Message]] = {}

        def take(message: Message) -> None:
            value = message.value() or b""
            if message.key() in keys or any(needle in value for needle in sought):
                messages.setdefault(message.topic() or "", []).append(message)

        self._read({place: bounds for place, bounds in behind.ranges.items() if place[0] in wanted}, take)
        return {self._tables[topic].name: list(self._decoded(self._tables[topic], found)) for topic, found in messages.items()}

    def _decoded(self, table: Table, messages: Sequence[Message]) -> Iterator[Row]:
        decoded = self._decoders[table.name].decode([message.value() for message in messages])
        for number, row in zip(decoded.places, pa.table(table.columns(Fields(decoded.fields))).to_pylist(), strict=True):
            message = messages[number]
            shown = {name: _plain(value) for name, value in row.items() if name not in WHOLE}
            yield shown | {
                "source_partition": message.partition(), "source_offset": message.offset(), "appended_at": format_time(message.timestamp()[1]),
            }  # fmt: skip

    # Commands that are not decided.

    def waiting(self, identifier: str) -> list[Row]:
        """Commands of which this is the id, the member or the request, that the worker has not read, or that wait for a schedule: `place`,
        `stream`, `program_id`, `member_id`, `command_id`, `source_system`, `correlation_id`, `at`, `waits_for`."""
        schedules = self._schedules()
        by_group = {"worker": list(topics.INBOUND)} | {group: [topic] for group, topic in schedules}
        unread = self._unread(by_group, [*topics.INBOUND, *topics.SCHEDULED])
        scheduled = {topic.name(self._prefix): topic for topic in topics.SCHEDULED}
        inbound = {topic.name(self._prefix): topic for topic in topics.INBOUND} | scheduled
        found: list[Message] = []

        def take(message: Message) -> None:
            if identifier.encode() in (message.value() or b"") or _header(message, "correlation_id") == identifier:
                found.append(message)

        self._read(unread.ranges, take)
        rows = [row for message in found for row in self._command(message, inbound[message.topic() or ""], identifier)]
        committed = self._committed({group: [topic] for group, topic in schedules}) if any(row["schedule"] for row in rows) else {}
        return [row for row in rows if not row["schedule"] or not self._is_flushed(row, committed)]

    def _command(self, message: Message, topic: Topic, identifier: str) -> Iterator[Row]:
        try:
            command: Command = self._codec.decode(message.value(), topic.record)
        except ContractError:
            return  # The worker will make a dead letter of it.
        correlation_id = _header(message, "correlation_id")
        if identifier not in (command_id(command), command.member_id, correlation_id):
            return
        is_scheduled = topic in topics.SCHEDULED
        stream = topic.stream.removeprefix(topics.SCHEDULED_PREFIX)
        schedule = (_header(message, "sync") or stream) if is_scheduled else ""
        waits_for = f"the schedule {schedule}: `loyalty sync status` shows when it goes on" if is_scheduled else "the worker, which has not read it yet"
        yield {
            "stream": stream, "program_id": command.program_id, "member_id": self.shown(command.program_id, command.member_id),
            "command_id": command_id(command), "source_system": command.source_system, "correlation_id": correlation_id,
            "place": _place(message.topic(), message.partition(), message.offset()), "topic": message.topic(), "partition": message.partition(),
            "offset": message.offset(), "at": format_time(message.timestamp()[1]), "schedule": schedule, "waits_for": waits_for,
        }  # fmt: skip

    def shown(self, program_id: str, member_id: str) -> str:
        """A member's number as it is; of an external id its pseudonym, as the audit has it."""
        if not member_id.startswith(ADDRESS_MARK):
            return member_id
        kind, value = parts_of(member_id)
        return address(kind, pseudonym(self._settings.voucher_key.encode(), program_id, kind, value))

    def _is_flushed(self, row: Row, committed: Mapping[str, Mapping[Place, int]]) -> bool:
        group = f"sync-{row['schedule'].replace('/', '.')}"
        reached = committed.get(group) or committed.get(f"sync-{row['stream']}") or {}
        return bool(row["offset"] < reached.get((row["topic"], row["partition"]), 0))

    def _schedules(self) -> list[tuple[str, Topic]]:
        """Consumer groups of schedules, with the topic in which each finds what waits."""
        streams = {topic.stream.removeprefix(topics.SCHEDULED_PREFIX): topic for topic in topics.SCHEDULED}
        admin = kafka.admin(self._settings, timeout_s=ASK_TIMEOUT_S)  # Kept until the future is done.
        try:
            listed = admin.list_consumer_groups(request_timeout=ASK_TIMEOUT_S).result().valid
        except KafkaException as error:
            raise self._unavailable(error) from error
        begin = f"{self._prefix}.sync-"
        names = [one.group_id.removeprefix(f"{self._prefix}.") for one in listed if one.group_id.startswith(begin)]
        return [(name, topic) for name in names for stream, topic in streams.items() if name.removeprefix("sync-").partition(".")[0] == stream]

    # The changelog.

    def account_rows(self, wanted: Sequence[tuple[str, str, int, int]]) -> list[Row | None]:
        """For each (programme, member, sequence of an event, time of its decision in ms): the first row of the accounts' changelog from that
        time on that has the event: `topic`, `partition`, `offset`, `event_sequence`, `entry_sequence`, `at`. Compaction may have left a later
        row than that of the unit: then its event_sequence is higher. None: not within the bounds."""
        topic = changelog_name(app_id(self._settings), "accounts")
        found: list[Row | None] = []
        consumer = self._consumer()
        try:
            for program_id, member_id, sequence, recorded_at_ms in wanted:
                key = member_key(program_id, member_id)
                number = self.partition_of(key)
                begin = consumer.offsets_for_times([TopicPartition(topic, number, recorded_at_ms)], timeout=ASK_TIMEOUT_S)[0].offset
                found.append(self._account_row(consumer, TopicPartition(topic, number, begin), key, sequence) if begin >= 0 else None)
        except KafkaException as error:
            raise self._unavailable(error) from error
        finally:
            consumer.close()
        return found

    def _account_row(self, consumer: Any, begin: TopicPartition, key: bytes, sequence: int) -> Row | None:
        consumer.assign([begin])
        deadline_s, rows = time.monotonic() + READ_S, 0
        while rows < CHANGELOG_ROWS_MAX and time.monotonic() < deadline_s:
            for message in consumer.consume(500, 0.2):
                if (error := message.error()) is not None:
                    if error.code() == KafkaError._PARTITION_EOF:
                        return None
                    raise KafkaException(error)
                rows += 1
                if message.key() != key or message.value() is None:
                    continue
                account = self._codec.decode(message.value(), Account)
                if account.event_sequence >= sequence:
                    return {
                        "topic": message.topic(), "partition": message.partition(), "offset": message.offset(), "member_id": account.member_id,
                        "event_sequence": account.event_sequence, "entry_sequence": account.entry_sequence, "at": format_time(message.timestamp()[1]),
                    }  # fmt: skip
        return None

    def given_up(self, identifier: str) -> list[Row]:
        """The newest dead letters with this text in their record: `stage`, `reason`, `detail`, `processor`, `place` and `at`."""
        found: list[Row] = []

        def take(message: Message) -> None:
            if identifier.encode() in (message.value() or b""):
                letter = self._codec.decode(message.value(), DeadLetter)
                found.append({
                    "stage": letter.stage.value, "reason": letter.reason, "detail": letter.detail, "processor": letter.processor,
                    "place": _place(letter.topic, letter.partition, letter.offset), "at": format_time(letter.failed_at_ms),
                })  # fmt: skip

        self._read(self._unread({}, [topics.DEAD_LETTERS]).ranges, take)
        return found[-LETTERS_MAX:]

    # Reading.

    def _unread(self, groups: Mapping[str, Sequence[Topic]], wanted: Sequence[Topic]) -> Behind:
        """What is behind the places of these groups; of a topic of several groups behind the first, of one without a group the newest."""
        admin = kafka.admin(self._settings, timeout_s=ASK_TIMEOUT_S)
        committed = self._committed(groups)
        places = self._places(wanted)
        lows, highs = (self._ends(admin, places, spec) for spec in (OffsetSpec.earliest(), OffsetSpec.latest()))  # type: ignore[no-untyped-call]
        behind = Behind()
        for place, high in highs.items():
            low = lows.get(place, 0)
            reached = [ends[place] for ends in committed.values() if place in ends]
            begin = max(low, min(reached, default=low))
            if high - begin > RECORDS_MAX:
                if reached:
                    behind.cut[place] = high - begin
                begin = high - RECORDS_MAX
            if begin < high:
                behind.ranges[place] = (begin, high)
        return behind

    @staticmethod
    def _ends(admin: AdminClient, places: Sequence[TopicPartition], spec: Any) -> dict[Place, int]:
        """What does not exist, or has no leader just now, is missing."""
        asked = admin.list_offsets(
            dict.fromkeys(places, spec), isolation_level=IsolationLevel.READ_COMMITTED, request_timeout=ASK_TIMEOUT_S
        )  # fmt: skip
        return {(place.topic, place.partition): future.result().offset for place, future in asked.items() if future.exception() is None}

    def _committed(self, groups: Mapping[str, Sequence[Topic]]) -> dict[str, dict[Place, int]]:
        """Group -> how far it has come; 0 where it has not begun."""
        return {group: kafka.group_offsets(self._settings, group, self._places(read), timeout_s=ASK_TIMEOUT_S) for group, read in groups.items()}

    def _places(self, wanted: Sequence[Topic]) -> list[TopicPartition]:
        return [TopicPartition(topic.name(self._prefix), number) for topic in wanted for number in range(self._settings.kafka_partitions)]

    def _read(self, ranges: Mapping[Place, Range], take: Callable[[Message], None]) -> None:
        left = dict(ranges)
        if not left:
            return
        consumer = self._consumer()
        try:
            consumer.assign([TopicPartition(*place, low) for place, (low, _) in left.items()])
            deadline_s = time.monotonic() + READ_S
            while left:
                for message in consumer.consume(CONSUMED_MAX, 0.2):
                    place, error = (message.topic(), message.partition()), message.error()
                    if error is not None and error.code() != KafkaError._PARTITION_EOF:
                        raise KafkaException(error)
                    if place not in left:
                        continue
                    high = left[place][1]
                    if error is None and message.offset() < high:
                        take(message)
                    # Marks of transactions have offsets, too: the end of a partition is told by itself.
                    if message.offset() + (error is None) >= high:
                        del left[place]
                if left and time.monotonic() > deadline_s:
                    raise UnavailableError(f"the log behind the history could not be read to its end within {READ_S:.0f} s")
        except KafkaException as error:
            raise self._unavailable(error) from error
        finally:
            consumer.close()

    def _consumer(self) -> Any:
        return kafka.consumer(self._settings, "explanation", enable_partition_eof=True, fetch_wait_max_ms=20)

    def _unavailable(self, error: KafkaException) -> UnavailableError:
        return UnavailableError(f"Kafka at LOYALTY_KAFKA_BOOTSTRAP_SERVERS={self._settings.kafka_bootstrap_servers}: {error.args[0].str()}")


def _place(topic: str | None, partition: int | None, offset: int | None) -> str:
    return f"{topic}[{partition}]@{offset}"


def _header(message: Message, name: str) -> str | None:
    headers: Any = message.headers() or ()
    found = [value for key, value in headers if key == name and value is not None]
    return bytes(found[-1]).decode(errors="replace") if found else None


def _plain(value: Any) -> Any:
    """As ClickHouse writes it in JSON."""
    match value:
        case datetime():
            return value.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        case dict():
            return [_plain(one) for one in value.values()]
        case list():
            return [_plain(one) for one in value]
    return value
