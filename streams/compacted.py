"""A compacted topic -> its newest records, once. For commands and for who takes a partition over; streams/log_follower.py is for those who go on reading."""

import time
from collections.abc import Collection

from confluent_kafka import KafkaException, TopicPartition

from streams import kafka
from streams.errors import UnavailableError
from streams.settings import Settings
from streams.topics import Topic

READ_TIMEOUT_S = 30.0
ASK_TIMEOUT_S = 10.0
BATCH_RECORDS = 5_000


def read_newest(settings: Settings, topic: Topic, partitions: Collection[int], *, prefix: bytes = b"") -> dict[bytes, bytes]:
    """Key -> value of what is in force in some partitions, committed records only: keys that begin so, and were not deleted. Blocks.

    Raises UnavailableError.
    """
    found: dict[bytes, bytes] = {}
    name = topic.name(settings.topic_prefix)
    deadline_s = time.monotonic() + READ_TIMEOUT_S
    try:
        consumer = kafka.consumer(settings, f"{topic.stream}-reader", fetch_wait_max_ms=20)
        try:
            ends = {}
            for number in partitions:
                low, high = consumer.get_watermark_offsets(TopicPartition(name, number), timeout=ASK_TIMEOUT_S)
                if high > low:
                    ends[number] = high
            consumer.assign([TopicPartition(name, number, 0) for number in ends])
            while ends:
                for message in consumer.consume(BATCH_RECORDS, timeout=0.1):
                    key, value = message.key(), message.value()
                    if message.error() is None and key is not None and key.startswith(prefix):
                        if value is None:
                            found.pop(key, None)
                        else:
                            found[key] = value
                for at in consumer.position([TopicPartition(name, number) for number in ends]):
                    if at.offset >= ends[at.partition]:
                        del ends[at.partition]
                if ends and time.monotonic() > deadline_s:
                    raise UnavailableError(f"{name} could not be read to its end within {READ_TIMEOUT_S:.0f} s")
        finally:
            consumer.close()
    except KafkaException as error:
        raise UnavailableError(f"Kafka at LOYALTY_KAFKA_BOOTSTRAP_SERVERS={settings.kafka_bootstrap_servers}: {error}") from error
    return found
