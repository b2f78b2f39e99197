"""One partition's transactional producer: takes it over, loads its tables, commits its units. Every call blocks; run in a thread.

Taking over fences the previous owner: `init_transactions` with the partition's own transactional id makes the broker refuse whatever
that owner still sends, and settles what it left open. Only then are the committed offsets and the changelog read.
"""

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer
from confluent_kafka import TopicPartition as KafkaTopicPartition

from streams.engine import metrics
from streams.engine.records import Outgoing, TopicPartition
from streams.engine.store import Rows

log = logging.getLogger(__name__)

RECOVERY_ROWS_MAX = 5_000  # Rows asked for at once while loading a changelog.
RECOVERY_POLL_S = 0.05  # A consumer waits this long for that many rows: the last poll of a load always does.
RETRY_BACKOFF_MS = 10  # Librdkafka's 100 made one commit in ten take 100 ms at 250 records a second; the markers take 5.
QUEUE_MESSAGES_MAX = 1_000_000  # Above any unit: a full queue inside a transaction would only mean polling.


class Fenced(Exception):
    """Another worker took the partition over. Nothing of ours was written."""


class Aborted(Exception):
    """The transaction did not commit, and cannot any more. Whatever it held must be done again from committed state."""


class Unreadable(Exception):
    """Starting would lose records or mix partitions. The message says what to do; the worker must stop."""


@dataclass(frozen=True, slots=True)
class Opened:
    """What taking over a partition found."""

    positions: dict[TopicPartition, int]
    tables: dict[str, Rows]


class PartitionProducer:
    """The right to write one partition's results. Not thread-safe: one call at a time."""

    def __init__(self, client: Mapping[str, Any], group_id: str, partition: int, *, transaction_timeout_s: float) -> None:
        self._client = dict(client)
        self._group_id = group_id
        self._partition = partition
        self._timeout_s = transaction_timeout_s
        self._producer: Producer | None = None
        self._group: Any = None

    def open(self, sources: Iterable[str], changelogs: Mapping[str, str]) -> Opened:
        """Fence the previous owner, then read where to go on and the tables' rows. `changelogs` maps table names to topics.

        Raises Unreadable when committed offsets are gone from the log, KafkaException when the broker does not answer in time.
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
            }
        )
        self._producer.init_transactions(self._timeout_s)
        reader = Consumer(
            self._client
            | {
                "group.id": self._group_id,
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                "enable.partition.eof": True,
                "auto.offset.reset": "error",
            }
        )
        try:
            # aiokafka holds the group membership. Metadata of a consumer that never joins has no generation; the broker
            # accepts it, and the transactional id does the fencing.
            self._group = reader.consumer_group_metadata()
            positions = self._positions(reader, sources)
            return Opened(positions, self._load(reader, changelogs))
        finally:
            reader.close()

    def _positions(self, reader: Consumer, sources: Iterable[str]) -> dict[TopicPartition, int]:
        positions: dict[TopicPartition, int] = {}
        committed = reader.committed([KafkaTopicPartition(topic, self._partition) for topic in sources], timeout=self._timeout_s)
        for tp in committed:
            low, high = reader.get_watermark_offsets(KafkaTopicPartition(tp.topic, tp.partition), timeout=self._timeout_s)
            if tp.offset >= 0 and not low <= tp.offset <= high:
                raise Unreadable(
                    f"{tp.topic}[{tp.partition}] was processed up to offset {tp.offset}, but the log holds {low} to {high}: records expired"
                    " unread, or the topic was created anew. Raise retention.ms to more than the longest stop. To go on without the missing"
                    f" records, set the offsets of group {self._group_id} by hand (kafka-consumer-groups.sh --reset-offsets)."
                )
            positions[tp.topic, tp.partition] = tp.offset if tp.offset >= 0 else low
        return positions

    def _load(self, reader: Consumer, changelogs: Mapping[str, str]) -> dict[str, Rows]:
        """Table -> all its rows of this partition. A bare consumer: Faust's own recovery takes its slow path once per row."""
        tables: dict[str, Rows] = {table: {} for table in changelogs}
        unread = {}
        for table, topic in changelogs.items():
            low, high = reader.get_watermark_offsets(KafkaTopicPartition(topic, self._partition), timeout=self._timeout_s)
            if low < high:
                unread[topic] = (table, low)
        reader.assign([KafkaTopicPartition(topic, self._partition, low) for topic, (_, low) in unread.items()])
        started = time.monotonic()
        deadline, read = started + self._timeout_s, dict.fromkeys(changelogs, 0)
        while unread:
            messages = reader.consume(RECOVERY_ROWS_MAX, timeout=RECOVERY_POLL_S)
            for message in messages:
                error = message.error()
                if error is not None:
                    if error.code() != KafkaError._PARTITION_EOF:
                        raise KafkaException(error)
                    unread.pop(message.topic(), None)
                    continue
                table, _ = unread[message.topic()]
                read[table] += 1
                key, value = message.key(), message.value()
                if value is None:
                    tables[table].pop(key, None)
                else:
                    tables[table][key] = value
            if messages:
                deadline = time.monotonic() + self._timeout_s
            elif time.monotonic() > deadline:
                raise KafkaException(KafkaError(KafkaError._TIMED_OUT, f"no row of {sorted(unread)} for {self._timeout_s} s"))
        reader.unassign()
        duration_ms = round((time.monotonic() - started) * 1000)
        for table, count in read.items():
            metrics.RECOVERED_ROWS.labels(table).inc(count)
        rows = {table: len(found) for table, found in tables.items()}
        log.info("engine.tables_loaded", extra={"partition": self._partition, "rows": rows, "read": read, "duration_ms": duration_ms})
        return tables

    def commit(self, outgoing: Iterable[Outgoing], ends: Mapping[TopicPartition, int]) -> None:
        """Write all of it and the source offsets in one transaction. Raises Fenced or Aborted; then nothing of it is visible, or will be."""
        producer = self._producer
        assert producer is not None, "open() comes first"
        deadline = time.monotonic() + self._timeout_s
        self._try(producer.begin_transaction, deadline)
        for out in outgoing:
            self._produce(producer, out, deadline)
        offsets = [KafkaTopicPartition(topic, partition, offset) for (topic, partition), offset in ends.items()]
        self._try(lambda: producer.send_offsets_to_transaction(offsets, self._group, self._timeout_s), deadline)
        self._try(lambda: producer.commit_transaction(self._timeout_s), deadline)

    def _produce(self, producer: Producer, out: Outgoing, deadline: float) -> None:
        headers = list(out.headers.items()) or None
        while True:
            try:
                producer.produce(out.topic, key=out.key, value=out.value, partition=self._partition, headers=headers)
                return
            except BufferError:  # The queue holds bytes of slow brokers: let it drain, within the transaction's time.
                producer.poll(0.05)
                if time.monotonic() > deadline:
                    raise Aborted("the producer's queue stayed full") from None
            except KafkaException as error:
                raise self._verdict(error) from error

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
        fenced = (KafkaError._FENCED, KafkaError.INVALID_PRODUCER_EPOCH, KafkaError.PRODUCER_FENCED)
        if kafka_error.code() in fenced:
            return Fenced(str(kafka_error))
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
