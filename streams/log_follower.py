"""A small topic, whole and then as it grows -> batches in the event loop: for what is configured or remembered in a topic.

Outside any consumer group, committed records only. A broker that is away is waited for.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition

from schemas.codec import Codec
from streams import kafka
from streams.errors import ContractError
from streams.settings import Settings
from streams.topics import Topic

log = logging.getLogger(__name__)

T = TypeVar("T")

BATCH_RECORDS = 1000
POLL_S = 0.1
RECONNECT_S = 0.2
REPORT_S = 10.0
ASK_TIMEOUT_S = 10.0


def reads(codec: Codec, record: type[T]) -> Callable[[Message], T | None]:
    """What a follower reads whose records say it by themselves. One that cannot be read says nothing, and the log names it."""

    def read(message: Message) -> T | None:
        try:
            return codec.decode(message.value(), record)
        except ContractError as error:
            log.warning("follower.unreadable", extra={
                "topic": message.topic(), "partition": message.partition(), "offset": message.offset(), "reason": error.reason,
            })  # fmt: skip
            return None

    return read


class LogFollower(Generic[T]):
    """Reads in a thread; `take` gets what the records of each partition say, in their order, in the loop in which the follower is made."""

    def __init__(self, settings: Settings, topic: Topic, read: Callable[[Message], T | None], take: Callable[[list[T]], None]) -> None:
        """`read` says, in the thread, what a record means; None for one that says nothing. Neither may raise."""
        self._settings = settings
        self._topic = topic.name(settings.topic_prefix)
        self._read = read
        self._take = take
        self._loop = asyncio.get_running_loop()
        self._ready = asyncio.Event()
        self._positions: dict[int, int] = {}
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"follower-{topic.stream}", daemon=True)

    def start(self) -> None:
        """Begin to read. The topic must exist."""
        self._thread.start()

    async def ready(self) -> None:
        """Return once all that the topic held at the start was taken."""
        await self._ready.wait()

    @property
    def is_ready(self) -> bool:
        return self._ready.is_set()

    async def close(self) -> None:
        self._closing.set()
        if self._thread.is_alive():
            await asyncio.to_thread(self._thread.join)

    # What follows runs in the thread.

    def _run(self) -> None:
        said = ""
        while not self._closing.is_set():
            consumer = None
            try:
                consumer = kafka.consumer(self._settings, "log-follower", enable_partition_eof=True, fetch_wait_max_ms=20)
                self._follow(consumer)
            except (KafkaException, RuntimeError) as error:
                if said != str(error):
                    said = str(error)
                    # Before the first record there may be no topic yet: whoever is to make it starts beside this.
                    level = logging.WARNING if self._positions else logging.INFO
                    log.log(level, "follower.interrupted", extra={"topic": self._topic, "reason": said})
                self._closing.wait(RECONNECT_S)
            finally:
                if consumer is not None:
                    consumer.close()

    def _follow(self, consumer: Consumer) -> None:
        partitions = range(self._settings.kafka_partitions)
        for number in partitions:  # Of a partition without a leader, a consumer would not say so for long.
            consumer.get_watermark_offsets(TopicPartition(self._topic, number), timeout=ASK_TIMEOUT_S)
        consumer.assign([TopicPartition(self._topic, number, self._positions.get(number, OFFSET_BEGINNING)) for number in partitions])
        unended, reported_s = set(partitions), 0.0
        while not self._closing.is_set():
            first = consumer.poll(POLL_S)
            if first is None:
                continue
            batch = []
            for message in (first, *consumer.consume(BATCH_RECORDS, timeout=0)):
                error, partition, offset = message.error(), message.partition(), message.offset()
                if error is None and partition is not None and offset is not None:
                    self._positions[partition] = offset + 1
                    if (said := self._read(message)) is not None:
                        batch.append(said)
                elif error is not None and error.code() == KafkaError._PARTITION_EOF and partition is not None:
                    unended.discard(partition)
                elif error is not None and error.fatal():
                    raise KafkaException(error)
                elif error is not None and time.monotonic() - reported_s > REPORT_S:
                    reported_s = time.monotonic()
                    log.warning("follower.error", extra={"topic": self._topic, "reason": error.str()})
            self._hand_over(batch, not unended)

    def _hand_over(self, batch: list[T], at_end: bool) -> None:
        try:
            if batch:
                self._loop.call_soon_threadsafe(self._take, batch)
            if at_end:
                self._loop.call_soon_threadsafe(self._ready.set)
        except RuntimeError:  # The loop is closed: nobody reads any more.
            self._closing.set()
