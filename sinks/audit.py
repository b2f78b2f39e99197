"""deliveries that ended -> the delivery-audit topic: one record each, chained per destination and partition, acknowledged before the commit.

A record stands in the partition of its event. Who takes a partition over reads the topic backwards for the last record of its destination,
and the chain goes on from there; a delivery that is repeated after a crash has its own record. Kafka out of reach is waited for.

Two processes that both believe to own a partition, which takes one that hung for longer than its session, could write one number twice:
`loyalty audit verify` then says DOUBLED, and both records are true.
"""

import asyncio
import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from schemas.codec import Codec
from schemas.contract import member_key
from schemas.records import DeliveryAudit, DeliveryResult, LoyaltyEvent
from sinks.base import Item, Receipt, Verdict
from sinks.schedule import Schedule
from streams import kafka, topics
from streams.domain.audit_chain import chained
from streams.errors import ContractError, UnavailableError
from streams.settings import Settings

log = logging.getLogger(__name__)

POLL_S = 0.1
CLOSE_S = 5.0
READ_FIRST, READ_FACTOR = 200, 10
"""Offsets that are read back at first, and how many times more when the destination is not among them."""
READ_AT_ONCE = 1_000
SILENCE_S = 15.0
DESTINATION = "destination"
"""Header with the record's destination: a search decodes only what it looks for."""


@dataclass(frozen=True, slots=True)
class Head:
    """The last record of a chain."""

    number: int = 0
    record_hash: str = ""


@dataclass(slots=True)
class _Waiting:
    record: DeliveryAudit
    """Not chained yet."""
    done: "asyncio.Future[None]"


@dataclass(slots=True)
class _Chain:
    head: Head | None = None
    """None: to be read from the topic."""
    pending: deque[_Waiting] = field(default_factory=deque)
    doubtful: list[tuple[_Waiting, DeliveryAudit]] = field(default_factory=list)
    """Sent without an acknowledgement: whether they arrived, the topic says."""
    writer: "asyncio.Task[None] | None" = None
    gone: bool = False


class DeliveryLog:
    """The way of one process into the delivery-audit topic. Connects when the first record is written. Belongs to one event loop."""

    def __init__(self, settings: Settings, codec: Codec, *, schedule: Schedule = Schedule()) -> None:
        self._settings = settings
        self._codec = codec
        self._schedule = schedule
        self._topic = topics.DELIVERY_AUDIT.name(settings.topic_prefix)
        self._loop = asyncio.get_running_loop()
        self._chains: dict[tuple[str, int], _Chain] = {}
        self._leaving: dict[tuple[str, int], asyncio.Task[None]] = {}
        """Writers of partitions that were another's since: when they come back, what was under way must have arrived."""
        self._producer: Producer | None = None
        self._thread: threading.Thread | None = None
        self._closing = threading.Event()
        self._broken = threading.Event()

    @property
    def waiting(self) -> int:
        """Records that are not acknowledged yet and were not sent either."""
        return sum(len(chain.pending) for chain in self._chains.values())

    def begin(self, destination: str, partition: int) -> None:
        """The chain is new: nobody but this process has ever written it, and there is nothing to look for."""
        self._chains[destination, partition] = _Chain(Head())

    async def write(self, record: DeliveryAudit, partition: int) -> None:
        """Return when the broker has the record as the next link of its chain, or when the partition is another's. Who no longer waits, by
        being cancelled, takes nothing back."""
        chain = self._chains.setdefault((record.destination, partition), _Chain())
        waiting = _Waiting(record, self._loop.create_future())
        chain.pending.append(waiting)
        if chain.writer is None or chain.writer.done():
            chain.writer = self._loop.create_task(self._write(chain, record.destination, partition))
        await waiting.done

    def forget(self, destination: str, partitions: Iterable[int]) -> None:
        """These partitions are another's now. What waits is not written: whoever has them delivers and records it again."""
        for partition in partitions:
            chain = self._chains.pop((destination, partition), None)
            if chain is not None:
                chain.gone = True
                if chain.writer is not None:
                    self._leaving[destination, partition] = chain.writer
                _settle(chain.pending)
                chain.pending.clear()

    async def close(self) -> None:
        """Wait a moment for what is under way, then stop."""
        writers = [chain.writer for chain in self._chains.values() if chain.writer is not None] + list(self._leaving.values())
        if writers:
            await asyncio.wait(writers, timeout=CLOSE_S)
        for writer in writers:
            writer.cancel()
        await asyncio.gather(*writers, return_exceptions=True)
        self._closing.set()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)
        if self._producer is not None:
            self._producer.purge()  # It would go on looking for its broker.

    # One chain at a time, in batches: the next one waits until all of the last are acknowledged, so that no gap can arise.

    async def _write(self, chain: _Chain, destination: str, partition: int) -> None:
        attempt = 0
        if (before := self._leaving.pop((destination, partition), None)) is not None:
            await asyncio.wait((before,))
        while (chain.pending or chain.doubtful) and not chain.gone:
            if chain.head is None:
                try:
                    chain.head = await asyncio.to_thread(last_of, self._settings, self._codec, destination, partition)
                except (KafkaException, UnavailableError) as error:
                    attempt += 1
                    if attempt == 1:
                        log.warning("delivery_audit.waits_for_kafka", extra={"destination": destination, "partition": partition, "error": str(error)})
                    await asyncio.sleep(self._schedule.delay_s(attempt, random.random()))
                    continue
                _resolve_doubts(chain, chain.head)
            if chain.gone:
                break
            batch = self._chain_up(chain, chain.head)
            if not batch:
                continue
            results = await asyncio.gather(*(self._send(record, partition) for _, record in batch), return_exceptions=True)
            if any(isinstance(result, BaseException) for result in results):
                chain.doubtful, chain.head = batch, None
                log.warning("delivery_audit.not_acknowledged", extra={"destination": destination, "partition": partition, "records": len(batch)})
                attempt += 1
                await asyncio.sleep(self._schedule.delay_s(attempt, random.random()))
                continue
            attempt = 0
            chain.head = Head(batch[-1][1].chain_number, batch[-1][1].record_hash)
            _settle(waiting for waiting, _ in batch)
        _settle(waiting for waiting, _ in chain.doubtful)  # Of a chain that is gone.

    def _chain_up(self, chain: _Chain, head: Head) -> list[tuple[_Waiting, DeliveryAudit]]:
        batch = []
        number, previous = head.number, head.record_hash
        while chain.pending:
            waiting = chain.pending.popleft()
            record = chained(waiting.record, number + 1, previous)
            number, previous = record.chain_number, record.record_hash
            batch.append((waiting, record))
        return batch

    def _send(self, record: DeliveryAudit, partition: int) -> "asyncio.Future[None]":
        future: asyncio.Future[None] = self._loop.create_future()
        try:
            self._opened().produce(
                self._topic, partition=partition, key=member_key(record.program_id, record.member_id), value=self._codec.encode(record),
                headers=[(DESTINATION, record.destination.encode())], on_delivery=_delivered_to(self._loop, future, self._broken),
            )  # fmt: skip
        except (KafkaException, BufferError) as error:
            future.set_exception(error)
        return future

    def _opened(self) -> Producer:
        if self._producer is None:
            self._producer = self._new_producer()
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name="delivery-audit", daemon=True)
            self._thread.start()
        return self._producer

    def _new_producer(self) -> Producer:
        # It tries for ever: what is given up halfway could still arrive, after its number was used again.
        return kafka.producer(self._settings, message_timeout_ms=0)

    def _serve(self) -> None:
        """In the log's own thread."""
        while not self._closing.is_set():
            producer = self._producer
            assert producer is not None  # It starts after its producer.
            producer.poll(POLL_S)
            if self._broken.is_set():
                # An idempotent producer that lost its sequence takes nothing more: a new one gets a new id and goes on.
                log.error("delivery_audit.renewed")
                self._broken.clear()
                self._producer = self._new_producer()
                producer.purge()
                producer.flush(POLL_S)


class Deliveries:
    """What one destination's runner tells of its items."""

    def __init__(self, delivery_log: DeliveryLog, destination: str, *, clock: Callable[[], float] = time.time) -> None:
        self._log = delivery_log
        self._destination = destination
        self._clock = clock

    async def ended(self, item: Item[LoyaltyEvent], receipt: Receipt) -> None:
        """Record how the delivery ended; returns when the broker has it."""
        await self._log.write(record_of(self._destination, item, receipt, int(self._clock() * 1000)), item.partition)

    def revoked(self, partitions: frozenset[int]) -> None:
        self._log.forget(self._destination, partitions)


def record_of(destination: str, item: Item[LoyaltyEvent], receipt: Receipt, ended_at_ms: int) -> DeliveryAudit:
    """The record of a delivery that ended, not chained yet. Pure."""
    event = item.record
    delivered = receipt.verdict is Verdict.DELIVERED
    return DeliveryAudit(
        delivery_id=f"{destination}/{event.event_id}",
        destination=destination,
        event_id=event.event_id,
        program_id=event.program_id,
        member_id=event.member_id,
        sequence=event.sequence,
        kind=event.kind.value,
        result=DeliveryResult.DELIVERED if delivered else DeliveryResult.DEAD_LETTERED,
        reason=None if delivered else receipt.reason or receipt.verdict.value,
        status=receipt.status,
        attempts=item.attempt,
        command_id=event.cause.command_id,
        source_system=event.cause.source_system,
        changed_attributes=event.changed_attributes,
        occurred_at_ms=event.occurred_at_ms,
        ingested_at_ms=event.ingested_at_ms,
        recorded_at_ms=event.recorded_at_ms,
        ended_at_ms=ended_at_ms,
        correlation_id=event.correlation_id,
        chain_number=0,
        previous_hash="",
        record_hash="",
    )


def last_of(settings: Settings, codec: Codec, destination: str, partition: int) -> Head:
    """The last record of the destination's chain in this partition of the topic; Head() if there is none. Reads backwards in growing steps,
    to the topic's beginning if need be. Raises KafkaException and UnavailableError.
    """
    name = topics.DELIVERY_AUDIT.name(settings.topic_prefix)
    consumer = kafka.consumer(settings, "delivery-audit-heads", enable_partition_eof=True)
    try:
        low, end = consumer.get_watermark_offsets(TopicPartition(name, partition), timeout=SILENCE_S)
        step = READ_FIRST
        while end > low:
            begin = max(low, end - step)
            found = _last_between(consumer, codec, destination, TopicPartition(name, partition, begin), end)
            if found is not None:
                return found
            end, step = begin, step * READ_FACTOR
        return Head()
    finally:
        consumer.close()


def _last_between(consumer: Consumer, codec: Codec, destination: str, begin: TopicPartition, end: int) -> Head | None:
    consumer.assign([begin])
    found: Head | None = None
    position, heard_s = begin.offset, time.monotonic()
    while position < end:
        for message in consumer.consume(min(READ_AT_ONCE, end - position), POLL_S):
            heard_s = time.monotonic()
            offset = message.offset() or 0
            if (error := message.error()) is not None:
                if error.code() != KafkaError._PARTITION_EOF:
                    raise KafkaException(error)
                position = max(position, offset)
                continue
            position = offset + 1
            if offset < end and (head := _head_of(codec, message, destination)) is not None:
                found = head
        if time.monotonic() - heard_s > SILENCE_S:
            raise UnavailableError(f"{begin.topic} partition {begin.partition} gives no records at offset {position}")
    return found


def _head_of(codec: Codec, message: Message, destination: str) -> Head | None:
    headers = dict(cast(Any, message.headers() or ()))
    if headers.get(DESTINATION) != destination.encode():
        return None
    try:
        record = codec.decode(message.value(), DeliveryAudit)
    except ContractError:  # Not ours, or spoilt: the chain goes on from the one before, and the verifier names this one.
        return None
    return Head(record.chain_number, record.record_hash)


def _delivered_to(
    loop: asyncio.AbstractEventLoop, future: "asyncio.Future[None]", broken: threading.Event
) -> Callable[[KafkaError | None, Message], None]:
    """The producer's callback, which runs in its thread."""

    def delivered(error: KafkaError | None, _: Message) -> None:
        if error is not None and error.fatal():
            broken.set()
        try:
            loop.call_soon_threadsafe(partial(_acknowledge, future, None if error is None else KafkaException(error)))
        except RuntimeError:  # The loop has closed: nobody waits any more.
            pass

    return delivered


def _acknowledge(future: "asyncio.Future[None]", error: KafkaException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)


def _resolve_doubts(chain: _Chain, head: Head) -> None:
    """What was sent and has arrived is done; the rest waits again, before all others."""
    arrived = next((place + 1 for place, (_, record) in enumerate(chain.doubtful) if record.record_hash == head.record_hash), 0)
    _settle(waiting for waiting, _ in chain.doubtful[:arrived])
    chain.pending.extendleft(waiting for waiting, _ in reversed(chain.doubtful[arrived:]))
    chain.doubtful = []


def _settle(waiting: Iterable[_Waiting]) -> None:
    for one in waiting:
        if not one.done.done():
            one.done.set_result(None)
