"""One partition's transactional producer and its state: takes it over, loads its tables, commits its units. Every call blocks; run in a thread.

Taking over fences the previous owner: `init_transactions` with the partition's own transactional id makes the broker refuse whatever
that owner still sends, and settles what it left open. Only then are the committed offsets and the changelog read.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import orjson
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer
from confluent_kafka import TopicPartition as KafkaTopicPartition

from streams.engine import metrics
from streams.engine.reader import CONFIG as READER_CONFIG
from streams.engine.reader import SourceReader, Unreadable
from streams.engine.records import Outgoing, TopicPartition
from streams.engine.state import PartitionState, StateFolder

log = logging.getLogger(__name__)

RECOVERY_ROWS_MAX = 5_000  # Rows asked for at once while loading a changelog.
RECOVERY_POLL_S = 0.05  # A consumer waits this long for that many rows: the last poll of a load always does.
RETRY_BACKOFF_MS, RETRY_BACKOFF_MAX_MS = 10, 20  # Librdkafka's 100 made one commit in ten take 100 ms at 250 records a second; the markers take 5.
# After a broker restart, send_offsets_to_transaction can wait for a coordinator that librdkafka has discarded, past any time-out, until
# some connection changes its state (librdkafka issues 5456 and 5511). Closing an idle connection is such a change; a new one takes 5 ms.
IDLE_MS = 5_000
QUEUE_MESSAGES_MAX = 1_000_000  # Above any unit: a full queue inside a transaction would only mean polling.


UNLOGGED_ROWS_MIN = 50_000  # From here on RocksDB's own log only costs: what a crash cuts short is loaded anew.
FORGET_HEADER = "forget"  # Of a changelog row: whoever keeps a copy of the table forgets what it held before, on its disk as well.
FORGET_HEADERS = {FORGET_HEADER: b""}
END_SEGMENTS_EVERY_S = 24 * 3600.0
HANGING_KEY = b"aborted"  # Of records that are only there to be aborted; a compacted topic wants a key.
ASK_AGAIN_S = 0.2  # A broker that just came back may still be putting its parts together.
INT64_MAX = 2**63 - 1
TARGET = attrgetter("topic", "partition")
PROGRESS_S = 2.0  # Between two lines about a load.

RowCheck = Callable[[str, Iterable[bytes]], None]


def is_to_forget(row: Any) -> bool:
    """Whether a changelog's message says that no older version of its row may be left on a disk."""
    headers = row.headers()
    return bool(headers) and any(name == FORGET_HEADER for name, _ in headers)


class Fenced(Exception):
    """Another worker took the partition over. Nothing of ours was written."""


class Aborted(Exception):
    """The transaction did not commit, and cannot any more. Whatever it held must be done again from committed state."""


@dataclass(frozen=True, slots=True)
class Opened:
    """What taking over a partition found."""

    positions: dict[TopicPartition, int]
    state: PartitionState
    reader: SourceReader
    """Not started yet."""


@dataclass(frozen=True, slots=True)
class Changelog:
    """A table's topic, as the broker describes it."""

    topic: str
    topic_id: str


class Progress:
    """Tells how far the load of one partition is, by metrics and, when it lasts, by log lines."""

    def __init__(self, partition: int, wanted: dict[str, int]) -> None:
        self.wanted = wanted
        """Table -> changelog records to read, about: compaction leaves holes."""
        self._partition = partition
        self._read: Counter[str] = Counter()
        self._left = dict(wanted)
        self._started_s = self._said_s = time.monotonic()
        self._gauge = metrics.RECOVERY_REMAINING.labels(partition)
        self._gauge.set(sum(self._left.values()))

    def advance(self, next_offsets: Mapping[str, int], bounds: Mapping[str, tuple[int, int]], read: Mapping[str, int]) -> None:
        for table, count in read.items():
            self._read[table] += count
            metrics.RECOVERED_ROWS.labels(table).inc(count)
        for table, offset in next_offsets.items():
            self._left[table] = max(0, bounds[table][1] - offset)
        left = sum(self._left.values())
        self._gauge.set(left)
        now_s = time.monotonic()
        if now_s - self._said_s >= PROGRESS_S:
            self._said_s = now_s
            done, wanted = self._read.total(), sum(self.wanted.values())
            percent = round(100 * (wanted - left) / wanted) if wanted else 100
            rate = round(done / (now_s - self._started_s))
            log.info("engine.tables_loading", extra={"partition": self._partition, "percent": percent, "rows": done, "rows_per_s": rate})

    def finish(self, state: PartitionState) -> None:
        self._gauge.set(0)
        duration_ms = round((time.monotonic() - self._started_s) * 1000)
        extra = {"partition": self._partition, "read": dict(self._read), "rows": state.rows_estimate(), "duration_ms": duration_ms}
        log.info("engine.tables_loaded", extra=extra)


class PartitionProducer:
    """The right to write one partition's results. Not thread-safe: one call at a time."""

    def __init__(
        self, client: Mapping[str, Any], group_id: str, partition: int, *, transaction_timeout_s: float, compacted: Collection[str] = ()
    ) -> None:
        """`compacted` are the topics beside the changelogs of which a reader sees the last record of each key alone, in the end."""
        self._client = dict(client)
        self._group_id = group_id
        self._partition = partition
        self._timeout_s = transaction_timeout_s
        self._producer: Producer | None = None
        self._group: Any = None
        self._ended: set[TopicPartition] = set()
        """Where nothing of an earlier owner hangs."""
        self._compacted = {(topic, partition) for topic in compacted}
        self._end_segments_at_s = 0.0
        """Monotonic clock."""
        self._changelog_ends: dict[str, int] = {}
        """Changelog topic -> offset after the last row that a committed unit wrote. Committed with the source offsets, as their metadata:
        whoever takes over knows how far the rows go that those offsets stand for."""

    def open(
        self, sources: Sequence[str], changelogs: Mapping[str, Changelog], folder: StateFolder, check: RowCheck, first: Collection[str] = (),
        bulk: Collection[str] = (),
    ) -> Opened:
        """Fence the previous owner, then read where to go on, and bring the state up to the changelogs' ends. Maps tables to changelogs.

        `first` are the sources to be read to their end before the others, `bulk` those that never keep the others waiting.

        `check(table, rows)` raises Unreadable for rows that this program cannot read. Raises Unreadable when going on would lose records or
        rows, KafkaException when the broker does not answer in time, StateFailed when the disk fails.
        """
        self._producer = Producer(
            self._client
            | {
                "transactional.id": f"{self._group_id}-{self._partition}",
                "transaction.timeout.ms": int(self._timeout_s * 1000),
                "linger.ms": 0,  # A unit is produced in one go and flushed by its commit: waiting for more would only add latency.
                "queue.buffering.max.messages": QUEUE_MESSAGES_MAX,
                "batch.num.messages": 10_000,
                # The broker is still writing the last transaction's markers when the next one begins, and says "try again".
                "retry.backoff.ms": RETRY_BACKOFF_MS,
                "retry.backoff.max.ms": RETRY_BACKOFF_MAX_MS,
                "connections.max.idle.ms": IDLE_MS,
            }
        )
        self._producer.init_transactions(self._timeout_s)
        as_of_s = time.time()
        deadline_s = time.monotonic() + self._timeout_s
        reader = Consumer(self._client | READER_CONFIG | {"group.id": self._group_id})
        try:
            # aiokafka holds the group membership. Metadata of a consumer that never joins has no generation; the broker
            # accepts it, and the transactional id does the fencing.
            self._group = reader.consumer_group_metadata()
            self._end_what_hangs(set(), sources)  # Or the offsets might be kept back.
            positions, is_new = self._positions(reader, sources)
            for changelog in changelogs.values():
                self._wait_for_rows(reader, changelog.topic)
            self._compacted |= {(changelog.topic, self._partition) for changelog in changelogs.values()}
            self._end_what_hangs(self._compacted)
            self._end_segments_at_s = time.monotonic() + END_SEGMENTS_EVERY_S
            bounds = {table: self._bounds(reader, changelog.topic) for table, changelog in changelogs.items()}
            state = folder.open(self._partition)
            try:
                if self._is_others_copy(state, changelogs, bounds):
                    if not is_new:
                        raise Unreadable(
                            f"{folder.path_of(self._partition)} holds rows that its changelogs do not: one of"
                            f" {', '.join(changelog.topic for changelog in changelogs.values())} was created anew or lost records. Restore"
                            " it. To go on with what the changelogs hold, remove that folder; what only it holds is lost then."
                        )
                    state.close()
                    state = folder.open_empty(self._partition)
                elif self._ahead(state, changelogs) is not None:
                    # It has rows of a transaction that was reported as committed and was not: the broker lost its markers. See _end_what_hangs.
                    log.warning("engine.state_dropped", extra={"partition": self._partition, "reason": "ahead of the committed offsets"})
                    state.close()
                    state = folder.open_empty(self._partition)
                state.set_topic_ids({table: changelog.topic_id for table, changelog in changelogs.items()})
                self._load(reader, changelogs, bounds, state, check, as_of_s)
                while (ahead := self._ahead(state, changelogs)) is not None:
                    positions = self._later_positions(reader, sources, ahead, deadline_s)
            except BaseException:
                state.close()
                raise
            return Opened(positions, state, SourceReader(reader, self._group_id, first, bulk))
        except BaseException:
            reader.close()
            raise

    def _end_what_hangs(self, places: set[TopicPartition], sources: Sequence[str] = ()) -> None:
        """Abort what earlier owners may have left open in these places, and among the group's offsets, by a transaction that is aborted.

        init_transactions should have done that. But a broker that loads a transaction before it knows who leads the partitions takes them
        for deleted and leaves its markers out (Kafka 4.3, TransactionMarkerChannelManager). The records then hang, neither committed nor
        aborted, until the next marker of the same transactional id decides about them: with a commit, they would appear beside their
        repetition. So the first marker of a new owner is an abort. Readers see nothing of it. Raises Fenced or Aborted.
        """
        producer = self._producer
        assert producer is not None
        deadline, errors = time.monotonic() + self._timeout_s, []
        self._try(producer.begin_transaction, deadline)
        for topic, partition in places:
            self._produce(
                producer, topic, partition, HANGING_KEY, b"", deadline, on_delivery=lambda error, _: errors.append(error) if error else None
            )
        self._flush(producer, deadline)
        if errors:
            raise self._verdict(KafkaException(errors[0]))
        # The offset is never committed, so it may be any.
        offsets = [KafkaTopicPartition(topic, self._partition, 0) for topic in sources]
        if offsets:
            self._try(lambda: producer.send_offsets_to_transaction(offsets, self._group, self._timeout_s), deadline)
        self._try(lambda: producer.abort_transaction(self._timeout_s), deadline)
        self._ended |= places

    def _bounds(self, reader: Consumer, topic: str) -> tuple[int, int]:
        low, high = reader.get_watermark_offsets(KafkaTopicPartition(topic, self._partition), timeout=self._timeout_s)
        return low, high

    def _wait_for_rows(self, reader: Consumer, topic: str) -> None:
        """Return when a changelog ends no earlier than the committed offsets say. Raises Unreadable when it never does.

        To be asked before anything is written there, even to be aborted: that would move the end.
        """
        deadline_s = time.monotonic() + self._timeout_s
        while True:
            _, high = self._bounds(reader, topic)
            if high >= self._changelog_ends.get(topic, 0):
                return
            if time.monotonic() > deadline_s:
                raise Unreadable(
                    f"{topic}[{self._partition}] ends at offset {high}, but rows up to {self._changelog_ends[topic]} belong to what group"
                    f" {self._group_id} has processed: it lost records, or was created anew. Restore it. To rebuild the state from the"
                    " source topics, set the group's offsets back to their beginning (kafka-consumer-groups.sh --reset-offsets)."
                )
            log.warning("engine.changelog_short", extra={"topic": topic, "partition": self._partition, "end": high})
            time.sleep(ASK_AGAIN_S)

    def _positions(self, reader: Consumer, sources: Iterable[str]) -> tuple[dict[TopicPartition, int], bool]:
        """Offsets to go on from, and whether the group has never committed any."""
        positions: dict[TopicPartition, int] = {}
        committed = reader.committed([KafkaTopicPartition(topic, self._partition) for topic in sources], timeout=self._timeout_s)
        for tp in committed:
            low, high = self._bounds(reader, tp.topic)
            if tp.offset >= 0 and not low <= tp.offset <= high:
                raise Unreadable(
                    f"{tp.topic}[{tp.partition}] was processed up to offset {tp.offset}, but the log holds {low} to {high}: records expired"
                    " unread, or the topic was created anew. Raise retention.ms to more than the longest stop. To go on without the missing"
                    f" records, set the offsets of group {self._group_id} by hand (kafka-consumer-groups.sh --reset-offsets)."
                )
            positions[tp.topic, tp.partition] = tp.offset if tp.offset >= 0 else low
            for topic, end in orjson.loads(tp.metadata or "{}").items():
                self._changelog_ends[topic] = max(end, self._changelog_ends.get(topic, 0))
        return positions, all(tp.offset < 0 for tp in committed)

    def _ahead(self, state: PartitionState, changelogs: Mapping[str, Changelog]) -> str | None:
        """A changelog with rows that the committed offsets do not stand for yet: with them, records would be handled a second time."""
        for table, changelog in changelogs.items():
            if (state.next_offset(table) or 0) > self._changelog_ends.get(changelog.topic, INT64_MAX):
                return changelog.topic
        return None

    def _later_positions(self, reader: Consumer, sources: Iterable[str], ahead: str, deadline_s: float) -> dict[TopicPartition, int]:
        """The committed offsets once more: they came in one transaction with the rows. Raises Unreadable when they stay behind."""
        if time.monotonic() > deadline_s:
            raise Unreadable(
                f"{ahead}[{self._partition}] holds rows past offset {self._changelog_ends[ahead]}, where the rows end that belong to what group"
                f" {self._group_id} has processed: its offsets were lost or set back, or another program writes that topic. Set the offsets to"
                " where they were. To process records again on purpose, reset the offsets of all source topics with"
                " kafka-consumer-groups.sh --reset-offsets."
            )
        log.warning("engine.offsets_behind", extra={"topic": ahead, "partition": self._partition, "end": self._changelog_ends[ahead]})
        time.sleep(ASK_AGAIN_S)
        return self._positions(reader, sources)[0]

    def _is_others_copy(self, state: PartitionState, changelogs: Mapping[str, Changelog], bounds: Mapping[str, tuple[int, int]]) -> bool:
        """Whether the state was filled from other changelogs than these, or from records that these do not hold any more."""
        for table, changelog in changelogs.items():
            if state.topic_id(table) not in (None, changelog.topic_id) or (state.next_offset(table) or 0) > bounds[table][1]:
                return True
        return False

    def _load(
        self,
        reader: Consumer,
        changelogs: Mapping[str, Changelog],
        bounds: Mapping[str, tuple[int, int]],
        state: PartitionState,
        check: RowCheck,
        as_of_s: float,
    ) -> None:
        """Read what the state misses. A bare consumer, all tables at once: Faust's own recovery takes its slow path once per row."""
        tables = {changelog.topic: table for table, changelog in changelogs.items()}
        starts: dict[str, int] = {}
        for topic, table in tables.items():
            low, high = bounds[table]
            start = max(low, state.next_offset(table) or 0)
            if start < high:
                starts[topic] = start
        is_fresh = all(state.next_offset(table) is None for table in changelogs)
        progress = Progress(self._partition, {tables[topic]: bounds[tables[topic]][1] - start for topic, start in starts.items()})
        reader.assign([KafkaTopicPartition(topic, self._partition, start) for topic, start in starts.items()])
        deadline, unread = time.monotonic() + self._timeout_s, set(starts)
        logged = sum(progress.wanted.values()) < UNLOGGED_ROWS_MIN  # A tail may well be written as a unit would be.
        while unread:
            messages = reader.consume(RECOVERY_ROWS_MAX, timeout=RECOVERY_POLL_S)
            rows: dict[str, dict[bytes, bytes | None]] = {}
            forget: dict[str, set[bytes]] = {}
            read: dict[str, int] = dict.fromkeys(changelogs, 0)
            next_offsets: dict[str, int] = {}
            for message in messages:
                error, topic = message.error(), message.topic()
                table = tables[topic]
                if error is None:
                    rows.setdefault(table, {})[message.key()] = message.value()
                    if is_to_forget(message):
                        forget.setdefault(table, set()).add(message.key())
                    read[table] += 1
                    next_offsets[table] = message.offset() + 1
                    continue
                if error.code() != KafkaError._PARTITION_EOF:
                    raise KafkaException(error)
                if message.offset() < bounds[table][1]:
                    raise KafkaException(KafkaError(KafkaError._PARTITION_EOF, f"{topic} ended at {message.offset()}, not at {bounds[table][1]}"))
                unread.discard(topic)
            for table, changed in rows.items():
                check(table, (row for row in changed.values() if row is not None))
            if next_offsets:
                state.apply(rows, next_offsets, as_of_s if is_fresh else None, logged=logged, forget=forget)
                progress.advance(next_offsets, bounds, read)
                deadline = time.monotonic() + self._timeout_s
            elif time.monotonic() > deadline:
                raise KafkaException(KafkaError(KafkaError._TIMED_OUT, f"no row of {sorted(unread)} for {self._timeout_s} s"))
        if not logged:
            state.flush()
        state.apply({}, {}, as_of_s)  # Only now: a load that breaks off leaves a state as old as it was.
        reader.unassign()
        progress.finish(state)

    def commit(
        self,
        rows: Mapping[str, Mapping[bytes, bytes | None]],
        outgoing: Sequence[Outgoing],
        ends: Mapping[TopicPartition, int],
        forget: Mapping[str, Collection[bytes]] | None = None,
    ) -> dict[str, int]:
        """Write changelog rows, outbound records and source offsets in one transaction. `rows` maps changelog topics to rows, `forget` to
        keys of those rows that tell every copy of the table to forget what they held before.

        Returns the next offset of each changelog that was written. Raises Fenced or Aborted; then nothing of it is visible, or will be.
        Raises Unreadable when the broker never accepts one of the records.
        """
        producer, own = self._producer, self._partition
        assert producer is not None, "open() comes first"
        deadline = time.monotonic() + self._timeout_s
        next_offsets: dict[str, int] = {}
        places = {(topic, own) for topic in rows} | {(topic, own if to is None else to) for topic, to in set(map(TARGET, outgoing))}
        if (now_s := time.monotonic()) >= self._end_segments_at_s:
            # A broker compacts no segment that it still appends to, and ends one only when a record comes: a quiet topic would keep what was
            # overwritten for ever. A record that is aborted will do, and no reader sees it.
            self._end_segments_at_s = now_s + END_SEGMENTS_EVERY_S
            self._ended -= self._compacted
            places = places | self._compacted
        if new := places - self._ended:
            self._end_what_hangs(new)

        def delivered(error: KafkaError | None, message: Any) -> None:
            if error is None:
                next_offsets[message.topic()] = message.offset() + 1

        self._try(producer.begin_transaction, deadline)
        for topic, changed in rows.items():
            last, marked = len(changed), forget.get(topic, ()) if forget else ()
            for number, (key, value) in enumerate(changed.items(), 1):
                # Records of one partition are appended in order: the last one's report tells where the changelog ends.
                headers = FORGET_HEADERS if key in marked else None
                self._produce(producer, topic, own, key, value, deadline, headers, on_delivery=delivered if number == last else None)
        for topic, key, value, said, to in outgoing:
            self._produce(producer, topic, own if to is None else to, key, value, deadline, said)
        self._flush(producer, deadline)
        metadata = orjson.dumps(self._changelog_ends | next_offsets).decode()
        offsets = [KafkaTopicPartition(topic, partition, offset, metadata) for (topic, partition), offset in ends.items()]
        self._try(lambda: producer.send_offsets_to_transaction(offsets, self._group, self._timeout_s), deadline)
        self._try(lambda: producer.commit_transaction(self._timeout_s), deadline)
        self._changelog_ends |= next_offsets
        return next_offsets

    def _produce(
        self, producer: Producer, topic: str, partition: int, key: bytes | None, value: bytes | None, deadline: float,
        headers: Mapping[str, bytes] | None = None, on_delivery: Any = None,
    ) -> None:  # fmt: skip
        while True:
            try:
                if headers or on_delivery:
                    producer.produce(topic, value, key, partition, on_delivery, headers=list(headers.items()) if headers else None)
                else:
                    producer.produce(topic, value, key, partition)  # Arguments by name, or more of them, cost as much again.
                return
            except BufferError:  # The queue holds bytes of slow brokers: let it drain, within the transaction's time.
                producer.poll(0.05)
                if time.monotonic() > deadline:
                    raise Aborted("the producer's queue stayed full") from None
            except KafkaException as error:
                raise self._verdict(error) from error

    def _flush(self, producer: Producer, deadline: float) -> None:
        try:
            left = producer.flush(max(0.0, deadline - time.monotonic()))
        except KafkaException as error:
            raise self._verdict(error) from error
        if left:
            raise Aborted("the broker did not take all records in time")

    def _try(self, call: Callable[[], Any], deadline: float) -> None:
        """Run one step of the transaction until it succeeds, cannot succeed, or the time is up."""
        while True:
            try:
                call()
                return
            except KafkaException as error:
                if not error.args[0].retriable() or time.monotonic() > deadline:
                    raise self._verdict(error) from error

    def _verdict(self, error: KafkaException) -> Exception:
        kafka_error = error.args[0]
        # _FATAL is what later calls say of a producer that was fenced in the background. Opening anew at once would fence the new owner.
        fenced = (KafkaError._FENCED, KafkaError._FATAL, KafkaError.INVALID_PRODUCER_EPOCH, KafkaError.PRODUCER_FENCED)
        if kafka_error.code() in fenced:
            return Fenced(str(kafka_error))
        if kafka_error.code() == KafkaError.MSG_SIZE_TOO_LARGE:
            return Unreadable(
                f"the broker refuses a record of partition {self._partition} for its size: {kafka_error.str()}. Give every topic of the"
                " pipeline a max.message.bytes above the engine's record_bytes_max."
            )
        return Aborted(str(kafka_error))

    def close(self) -> None:
        """Give the producer up. An open transaction is aborted if the broker answers soon; if not, the next owner settles it."""
        producer, self._producer = self._producer, None
        if producer is None:
            return
        try:
            producer.abort_transaction(1.0)
        except KafkaException:
            pass  # No transaction is open, or the next owner's init_transactions aborts it.
        producer.purge()
