"""Reads and writes topics for the engine's tests, sharing no code with the engine."""

from collections.abc import Iterable
from dataclasses import dataclass

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from tests.waiting import wait_until


@dataclass(frozen=True, slots=True)
class Row:
    partition: int
    offset: int
    key: bytes
    value: bytes | None


def create(bootstrap: str, names: Iterable[str], partitions: int, **config: str) -> None:
    """Create topics, and return when every partition of them answers."""
    names = list(names)
    admin = AdminClient({"bootstrap.servers": bootstrap})
    for future in admin.create_topics([NewTopic(name, partitions, 1, config=config) for name in names], operation_timeout=30).values():
        future.result()
    wait_until(lambda: all(_answers(bootstrap, name) for name in names), timeout_s=30)


def delete(bootstrap: str, topic: str) -> None:
    """Delete a topic, and return when the broker does not know it any more."""
    admin = AdminClient({"bootstrap.servers": bootstrap})  # Kept until the answer is there.
    admin.delete_topics([topic], operation_timeout=30)[topic].result(30)
    wait_until(lambda: not exists(bootstrap, topic), timeout_s=30)


def exists(bootstrap: str, topic: str) -> bool:
    return topic in AdminClient({"bootstrap.servers": bootstrap}).list_topics(timeout=30).topics


def _answers(bootstrap: str, topic: str) -> bool:
    try:
        return end_offsets(bootstrap, topic) >= 0
    except KafkaException:
        return False


def produce(bootstrap: str, records: Iterable[tuple[str, bytes, bytes]]) -> None:
    """Topic, key, value; returns when all are acknowledged."""
    producer = Producer({"bootstrap.servers": bootstrap, "partitioner": "murmur2_random", "linger.ms": 5, "enable.idempotence": True})
    for topic, key, value in records:
        while True:
            try:
                producer.produce(topic, key=key, value=value)
                break
            except BufferError:
                producer.poll(0.1)
        producer.poll(0)
    assert producer.flush(60) == 0


def read(bootstrap: str, topic: str) -> list[Row]:
    """All committed records of a topic, partition by partition in order."""
    consumer = Consumer(
        {"bootstrap.servers": bootstrap, "group.id": "reader", "isolation.level": "read_committed", "enable.partition.eof": True,
         "enable.auto.commit": False}
    )  # fmt: skip
    try:
        partitions = consumer.list_topics(topic, timeout=30).topics[topic].partitions
        consumer.assign([TopicPartition(topic, partition, 0) for partition in partitions])
        rows: list[Row] = []
        at_end: set[int] = set()
        while len(at_end) < len(partitions):
            for message in consumer.consume(5000, timeout=0.1):
                if message.error():
                    at_end.add(message.partition())
                else:
                    rows.append(Row(message.partition(), message.offset(), message.key(), message.value()))
        return sorted(rows, key=lambda row: (row.partition, row.offset))
    finally:
        consumer.close()


def end_offsets(bootstrap: str, topic: str) -> int:
    """Sum of the end offsets: grows with whatever is written, transaction markers included."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "reader"})
    try:
        partitions = consumer.list_topics(topic, timeout=30).topics[topic].partitions
        return sum(consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=30)[1] for partition in partitions)
    finally:
        consumer.close()
