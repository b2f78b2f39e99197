"""records that are given up -> the dead-letters topic, whole and with the reason. Returns only when the broker has them."""

import asyncio
import logging
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from schemas.codec import Codec
from schemas.records import DeadLetter, DeadLetterStage
from sinks.base import Item, Receipt
from sinks.schedule import Schedule
from streams import kafka, metrics, topics
from streams.errors import ContractError
from streams.settings import Settings

log = logging.getLogger(__name__)

FLUSH_S = 10.0  # How long one try waits for the broker.
DETAIL_CHARACTERS_MAX = 500


@dataclass(frozen=True, slots=True)
class GivenUp:
    """One record and why it is given up."""

    item: Item[Any]
    stage: DeadLetterStage
    reason: str
    detail: str

    @classmethod
    def undecodable(cls, item: Item[Any], error: ContractError) -> "GivenUp":
        return cls(item, DeadLetterStage.DECODE, error.reason, error.detail)

    @classmethod
    def refused(cls, item: Item[Any], receipt: Receipt) -> "GivenUp":
        return cls(item, receipt.stage, receipt.reason or receipt.verdict.value, receipt.detail)


class DeadLetters:
    """The way of one processor into the dead-letters topic. Connects when the first record is given up."""

    def __init__(self, settings: Settings, codec: Codec, *, processor: str, schedule: Schedule = Schedule()) -> None:
        self._settings = settings
        self._codec = codec
        self._processor = processor
        self._schedule = schedule
        self._topic = topics.DEAD_LETTERS.name(settings.topic_prefix)
        self._producer: Producer | None = None
        self._lock = asyncio.Lock()

    async def send(self, given_up: Sequence[GivenUp]) -> None:
        """Return when the broker has acknowledged all of them. Tries for ever: a record is never skipped. Cancel it to stop."""
        left = [(one, self._letter(one)) for one in given_up if not self._is_dead_letter(one)]
        attempt = 0
        while left:
            async with self._lock:
                left = await asyncio.to_thread(self._produce, left)
            if left:
                attempt += 1
                if attempt == 1:
                    log.error("sink.dead_letters_wait", extra={"sink": self._processor, "topic": self._topic, "records": len(left)})
                await asyncio.sleep(self._schedule.delay_s(attempt, random.random()))
        for one in given_up:
            metrics.DEAD_LETTERS.labels(self._processor, one.stage.value, one.reason).inc()
            log.error("sink.given_up", extra={
                "sink": self._processor, "topic": one.item.topic, "partition": one.item.partition, "offset": one.item.offset,
                "stage": one.stage.value, "reason": one.reason, "detail": one.detail[:DETAIL_CHARACTERS_MAX],
            })  # fmt: skip

    def _is_dead_letter(self, one: GivenUp) -> bool:
        # It is in that topic already. A letter about a letter would be read again, refused again and grow for ever.
        return one.item.topic == self._topic

    def _letter(self, one: GivenUp) -> DeadLetter:
        item = one.item
        return DeadLetter(
            dead_letter_id=f"{self._processor}-{item.topic}-{item.partition}-{item.offset}",
            stage=one.stage,
            reason=one.reason,
            detail=one.detail[:DETAIL_CHARACTERS_MAX],
            processor=self._processor,
            topic=item.topic,
            partition=item.partition,
            offset=item.offset,
            key=item.key,
            value=item.value,
            headers=item.headers,
            ingested_at_ms=getattr(item.record, "ingested_at_ms", item.timestamp_ms),
            failed_at_ms=time.time_ns() // 1_000_000,
        )

    def _produce(self, letters: list[tuple[GivenUp, DeadLetter]]) -> list[tuple[GivenUp, DeadLetter]]:
        """One try, in a thread: what the broker has not acknowledged."""
        failed: dict[int, tuple[GivenUp, DeadLetter]] = dict(enumerate(letters))
        try:
            if self._producer is None:
                # Shorter than the five minutes of the default: our own loop tries again, and says so.
                self._producer = kafka.producer(self._settings, message_timeout_ms=int(FLUSH_S * 1000))
            for number, (_, letter) in enumerate(letters):
                self._produce_one(self._producer, number, letter, failed)
            self._producer.flush(FLUSH_S + 5)
        except (KafkaException, BufferError) as error:
            self._producer = None  # It may have failed for good; what it still sends has the same dead_letter_id.
            log.debug("sink.dead_letters_failed", extra={"sink": self._processor, "error": str(error)})
        return list(failed.values())

    def _produce_one(self, producer: Producer, number: int, letter: DeadLetter, failed: dict[int, tuple[GivenUp, DeadLetter]]) -> None:
        def delivered(error: KafkaError | None, _: Message) -> None:
            if error is None:
                failed.pop(number, None)

        try:
            producer.produce(self._topic, key=letter.key, value=self._codec.encode(letter), on_delivery=delivered)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.MSG_SIZE_TOO_LARGE:
                raise
            # The record filled a message by itself. Its place in the log still says where the value is.
            detail = f"value of {len(letter.value or b'')} bytes left out; {letter.detail}"[:DETAIL_CHARACTERS_MAX]
            small = replace(letter, value=None, headers={}, detail=detail)
            producer.produce(self._topic, key=letter.key, value=self._codec.encode(small), on_delivery=delivered)
