"""The audit's topics, from their first record to their last -> links for the verifier."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from schemas.codec import Codec
from streams import kafka, topics
from streams.audit.verification import Link, chain_name, link_of
from streams.errors import ContractError, UnavailableError
from streams.settings import Settings
from streams.topics import Topic

TOPICS = (topics.SYNC_AUDIT, topics.DELIVERY_AUDIT)
TIMEOUT_S = 15.0
SILENCE_S = 30.0
READ_AT_ONCE = 1_000


@dataclass(frozen=True, slots=True)
class Part:
    """What is there of one partition: offsets from `first` to before `end`, some of them marks of transactions."""

    topic: Topic
    number: int
    first: int
    end: int


def parts(settings: Settings, partition: int | None = None) -> list[Part]:
    """The audit's partitions, or the one that is wanted, of each topic that exists. Raises UnavailableError."""
    counts = kafka.partition_counts(settings, timeout_s=TIMEOUT_S)
    consumer = kafka.consumer(settings, "audit")
    try:
        found = []
        for topic in TOPICS:
            name = topic.name(settings.topic_prefix)
            for number in range(counts.get(name, 0)):
                if partition in (None, number):
                    first, end = consumer.get_watermark_offsets(TopicPartition(name, number), timeout=TIMEOUT_S)
                    found.append(Part(topic, number, first, end))
        return found
    except KafkaException as error:
        raise _unavailable(settings, error) from error
    finally:
        consumer.close()


def links(settings: Settings, codec: Codec, wanted: Sequence[Part], advanced: Callable[[int], None] = lambda _: None) -> Iterator[Link]:
    """The records of these partitions, one partition after the other; `advanced` hears by how many offsets. Raises UnavailableError."""
    consumer = kafka.consumer(settings, "audit", enable_partition_eof=True)
    try:
        for part in wanted:
            if part.first < part.end:
                yield from _links(settings, consumer, codec, part, advanced)
    except KafkaException as error:
        raise _unavailable(settings, error) from error
    finally:
        consumer.close()


def _links(settings: Settings, consumer: Consumer, codec: Codec, part: Part, advanced: Callable[[int], None]) -> Iterator[Link]:
    consumer.assign([TopicPartition(part.topic.name(settings.topic_prefix), part.number, part.first)])
    position, heard_s = part.first, time.monotonic()
    while position < part.end:
        for message in consumer.consume(READ_AT_ONCE, 1.0):
            heard_s = time.monotonic()
            offset = message.offset() or 0
            if (error := message.error()) is not None:
                if error.code() != KafkaError._PARTITION_EOF:
                    raise KafkaException(error)
                position = max(position, offset)
            elif offset < part.end:
                yield _link(codec, part, message, offset)
                position = offset + 1
            else:
                position = part.end  # What was written meanwhile is for the next time.
        advanced(position - part.first)
        if time.monotonic() - heard_s > SILENCE_S:
            raise UnavailableError(f"partition {part.number} of {part.topic.stream} breaks off at offset {position}: Kafka gives no more records")


def _link(codec: Codec, part: Part, message: Message, offset: int) -> Link:
    place = f"{part.topic.stream} partition {part.number} offset {offset}"
    try:
        return link_of(codec.decode(message.value(), part.topic.record), part.number, place)
    except ContractError as error:
        chain = chain_name(None if part.topic is topics.SYNC_AUDIT else "?", part.number)
        return Link(chain=chain, place=place, number=0, previous_hash="", record_hash="", calculated_hash="", unreadable=str(error))


def _unavailable(settings: Settings, error: KafkaException) -> UnavailableError:
    return UnavailableError(f"Kafka at LOYALTY_KAFKA_BOOTSTRAP_SERVERS={settings.kafka_bootstrap_servers}: {error}")
