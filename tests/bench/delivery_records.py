"""One partition of a topic, whole, as a reader of committed transactions sees it."""

from collections.abc import Iterator
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from schemas.codec import Codec
from schemas.records import DeliveryAudit
from schemas.registry import LocalRegistry
from streams import kafka, topics
from streams.settings import Settings
from streams.topics import Topic

AT_ONCE = 5_000


def messages(settings: Settings, topic: Topic, partition: int) -> Iterator[Message]:
    """All of them, in their order."""
    consumer = Consumer(kafka.client_config(settings) | {
        "group.id": "recount", "enable.auto.commit": False, "enable.partition.eof": True, "isolation.level": "read_committed",
    })  # fmt: skip
    consumer.assign([TopicPartition(topic.name(settings.topic_prefix), partition, 0)])
    try:
        while True:
            for message in consumer.consume(AT_ONCE, 1.0):
                error = message.error()
                if error is None:
                    yield message
                elif error.code() == KafkaError._PARTITION_EOF:
                    return
                else:
                    raise KafkaException(error)
    finally:
        consumer.close()


def records(settings: Settings, topic: Topic, partition: int) -> Iterator[Any]:
    codec = Codec(LocalRegistry())
    return (codec.decode(message.value(), topic.record) for message in messages(settings, topic, partition))


def count(settings: Settings, topic: Topic) -> int:
    """Of all partitions."""
    return sum(1 for partition in range(settings.kafka_partitions) for _ in messages(settings, topic, partition))


def recorded_after_ms(settings: Settings) -> list[int]:
    """Sorted: how long after its end each delivery was handed to the broker to be on record. A kill -9 repeats what is not."""
    codec, found = Codec(LocalRegistry()), []
    for partition in range(settings.kafka_partitions):
        for message in messages(settings, topics.DELIVERY_AUDIT, partition):
            found.append(message.timestamp()[1] - codec.decode(message.value(), DeliveryAudit).ended_at_ms)
    return sorted(found)
