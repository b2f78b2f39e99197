"""What tests of sinks do with a real broker: fill topics, read them, look at commits, run a sink in the background."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from functools import cache
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from schemas.codec import Codec
from schemas.contract import member_key
from schemas.records import DeadLetter
from schemas.registry import LocalRegistry
from streams import kafka, topics
from streams.errors import ContractError
from streams.settings import Settings
from streams.topics import Topic


@cache
def codec() -> Codec:
    return Codec(LocalRegistry())


@cache
def _producer(bootstrap_servers: str) -> Producer:
    return kafka.producer(Settings(kafka_bootstrap_servers=bootstrap_servers))


def fill(settings: Settings, topic: Topic, records: Iterable[Any], *, key: bytes | None = None) -> None:
    """Append records, or bytes as they are, to a topic; returns when the broker has them."""
    producer = _producer(settings.kafka_bootstrap_servers)
    for record in records:
        raw = isinstance(record, bytes)
        own = b"grand/poison" if raw or not getattr(record, "member_id", None) else member_key(record.program_id, record.member_id)
        producer.produce(topic.name(settings.topic_prefix), key=key or own, value=record if raw else codec().encode(record))
        producer.poll(0)
    assert producer.flush(30) == 0


def read_all(settings: Settings, topic: Topic) -> list[Any]:
    """All records of a topic that can be decoded, with their keys as `(key, record)`."""
    consumer = Consumer(kafka.client_config(settings) | {"group.id": "reader", "enable.partition.eof": True, "enable.auto.commit": False})
    name = topic.name(settings.topic_prefix)
    consumer.assign([TopicPartition(name, number, 0) for number in range(settings.kafka_partitions)])
    found: list[Any] = []
    ended = 0
    deadline_s = time.monotonic() + 20
    while ended < settings.kafka_partitions and time.monotonic() < deadline_s:
        message = consumer.poll(1.0)
        if message is None:
            continue
        error = message.error()
        if error is None:
            with suppress(ContractError):  # A test's own poison.
                found.append((message.key(), codec().decode(message.value(), topic.record)))
        elif error.code() == KafkaError._PARTITION_EOF:
            ended += 1
    consumer.close()
    return found


def dead_letters(settings: Settings) -> list[DeadLetter]:
    return [letter for _, letter in read_all(settings, topics.DEAD_LETTERS)]


def left_to_commit(settings: Settings, group: str, topic: Topic) -> int:
    """Offsets between the group's commits and the ends of the log."""
    consumer = kafka.consumer(settings, group)
    name = topic.name(settings.topic_prefix)
    left = 0
    for tp in _commits(consumer, [TopicPartition(name, number) for number in range(settings.kafka_partitions)]):
        low, high = consumer.get_watermark_offsets(TopicPartition(name, tp.partition), timeout=10)
        left += high - (tp.offset if tp.offset >= 0 else low)
    consumer.close()
    return left


def _commits(consumer: Consumer, partitions: list[TopicPartition]) -> list[TopicPartition]:
    """The commits, also of a broker that has just started and does not know yet who coordinates."""
    deadline_s = time.monotonic() + 10
    while True:
        try:
            return consumer.committed(partitions, timeout=10)
        except KafkaException:
            if time.monotonic() > deadline_s:
                raise
            time.sleep(0.1)


async def until_committed(settings: Settings, group: str, topic: Topic = topics.EVENTS, timeout_s: float = 20.0) -> None:
    """Return when the group has committed everything in the topic. Raises TimeoutError."""
    async with asyncio.timeout(timeout_s):
        while await asyncio.to_thread(left_to_commit, settings, group, topic):
            await asyncio.sleep(0.1)


@asynccontextmanager
async def running(make: Callable[[asyncio.Event], Any]) -> AsyncIterator[asyncio.Event]:
    """Run `make(stop)` in the background. It must end by itself within 20 s of the end of the block, and must not have failed."""
    stop = asyncio.Event()
    task = asyncio.ensure_future(make(stop))
    try:
        yield stop
    finally:
        stop.set()
        async with asyncio.timeout(20):
            await task


async def until(predicate: Callable[[], bool], timeout_s: float = 15.0, *, task: "asyncio.Future[Any] | None" = None) -> None:
    """Return when the predicate holds. Raises TimeoutError, or what ended `task`."""
    async with asyncio.timeout(timeout_s):
        while not predicate():
            if task is not None and task.done():
                task.result()
            await asyncio.sleep(0.02)
