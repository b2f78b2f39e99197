"""How far the pipeline is, asked of the broker: committed offsets are exactly the answered inputs, because they commit with the answers."""

import time
from collections.abc import Iterable
from typing import Any

from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from streams import kafka, topics
from streams.settings import Settings
from streams.tables import app_id

ASK_S = 2.0
TAIL_RECORDS = 64  # Looked at first for the last record of a partition; behind it there may be markers and aborted records only.
MIRRORED = (topics.EVENTS, topics.LEDGER_ENTRIES, topics.PROFILES, topics.SYNC_AUDIT, topics.DEAD_LETTERS)


class Watch:
    """Asks the broker. While it is down, what was known last stands."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._partitions = range(settings.kafka_partitions)
        self._sources = [TopicPartition(topic.name(settings.topic_prefix), p) for topic in topics.INBOUND for p in self._partitions]
        config = kafka.client_config(settings) | {"reconnect.backoff.max.ms": 500, "log_level": 0}
        self._config = config
        self._admin = AdminClient(config)
        self._workers = Consumer(config | {"group.id": app_id(settings), "enable.auto.commit": False})
        self._sinks = {topic.stream: self._sink(topic.stream) for topic in MIRRORED}
        self.answered = dict.fromkeys(self._partitions, 0)
        """Inputs answered, by partition."""
        self.appended = dict.fromkeys(self._partitions, 0)
        self.silence = ""
        """Why the broker gave no answer the last time; empty when it did."""
        self.mirrored = 0
        """Audit records in ClickHouse, about: transaction markers count."""

    def _sink(self, stream: str) -> Consumer:
        group = f"{self._settings.topic_prefix}.sink-clickhouse-{stream}"
        return Consumer(self._config | {"group.id": group, "enable.auto.commit": False, "isolation.level": "read_committed",
                                        "enable.partition.eof": True, "fetch.wait.max.ms": 10})  # fmt: skip

    @property
    def answered_total(self) -> int:
        return sum(self.answered.values())

    def update(self) -> bool:
        """Ask; False when the broker did not answer."""
        try:
            committed = self._workers.committed(self._sources, timeout=ASK_S)
            futures = self._admin.list_offsets({tp: OffsetSpec.latest() for tp in self._sources}, request_timeout=ASK_S)
            ends = {tp: future.result().offset for tp, future in futures.items()}
            mirrored = self._committed(topics.SYNC_AUDIT)
        except KafkaException as error:
            self.silence = str(error)
            # After a broker's death it may ask with the old epoch of a leader for ever (FENCED_LEADER_EPOCH); a new one learns the new epoch.
            self._admin = AdminClient(self._config)
            return False
        self.silence = ""
        self.answered = _by_partition(committed)
        self.appended = _by_partition([TopicPartition(tp.topic, tp.partition, offset) for tp, offset in ends.items()])
        self.mirrored = sum(mirrored.values())
        return True

    def _committed(self, topic: topics.Topic) -> dict[int, int]:
        name = topic.name(self._settings.topic_prefix)
        committed = self._sinks[topic.stream].committed([TopicPartition(name, p) for p in self._partitions], timeout=ASK_S)
        return {tp.partition: max(0, tp.offset) for tp in committed}

    def is_mirrored(self, wanted: Iterable[topics.Topic] = MIRRORED) -> bool:
        """Whether the sink has committed the last record of each of these topics. Costs a look at the end of every partition."""
        try:
            return all(self._is_mirrored(topic) for topic in wanted)
        except (KafkaException, TimeoutError):
            return False

    def _is_mirrored(self, topic: topics.Topic) -> bool:
        committed = self._committed(topic)
        name = topic.name(self._settings.topic_prefix)
        return all(committed[p] > last_offset(self._sinks[topic.stream], name, p) for p in self._partitions)

    def close(self) -> None:
        for consumer in (self._workers, *self._sinks.values()):
            consumer.close()


def _by_partition(offsets: Iterable[Any]) -> dict[int, int]:
    sums: dict[int, int] = {}
    for tp in offsets:
        sums[tp.partition] = sums.get(tp.partition, 0) + max(0, tp.offset)
    return sums


def last_offset(consumer: Consumer, topic: str, partition: int) -> int:
    """Offset of the last committed record; -1 when there is none. Raises KafkaException."""
    low, high = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=ASK_S)
    back = TAIL_RECORDS
    while low < high:
        start = max(low, high - back)
        found = _last_from(consumer, TopicPartition(topic, partition, start))
        if found >= 0 or start == low:
            return found
        back *= 16
    return -1


def _last_from(consumer: Consumer, start: TopicPartition) -> int:
    consumer.assign([start])
    deadline_s, last = time.monotonic() + ASK_S * 5, -1
    try:
        while time.monotonic() < deadline_s:
            for message in consumer.consume(5000, timeout=0.1):
                if message.error():
                    return last
                last = message.offset() or 0
        raise TimeoutError(f"{start.topic}[{start.partition}] could not be read to its end")
    finally:
        consumer.unassign()
