"""Records of reads -> the delivery-audit topic, each as the next link of its reader's chain, acknowledged by the broker. Kafka away is waited for.

A chain has one writer, and nobody goes on with what another one wrote. When it is not known whether a record arrived, the writer takes a new name:
the old chains end with what has arrived, and what was not acknowledged is written into new ones. Then a read may be on record twice, never not at all.
"""

import asyncio
import logging
import random
import secrets
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from zlib import crc32

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from schemas.codec import Codec
from schemas.contract import member_key
from schemas.records import DeliveryAudit
from sinks.schedule import Schedule
from streams import kafka, topics
from streams.domain.audit_chain import chained
from streams.settings import Settings

log = logging.getLogger(__name__)

POLL_S = 0.1
CLOSE_S = 5.0


@dataclass(slots=True)
class _Waiting:
    record: DeliveryAudit
    """Not chained yet; its destination is the reader's name alone."""
    done: "asyncio.Future[None]"


@dataclass(frozen=True, slots=True)
class _Head:
    """The last record of a chain."""

    number: int = 0
    record_hash: str = ""


class AccessLog:
    """The way of one process into the topic. Connects when the first record is written. Belongs to one event loop."""

    def __init__(self, settings: Settings, codec: Codec, *, schedule: Schedule = Schedule()) -> None:
        self._settings = settings
        self._codec = codec
        self._schedule = schedule
        self._topic = topics.DELIVERY_AUDIT.name(settings.topic_prefix)
        self._loop = asyncio.get_running_loop()
        self._name = secrets.token_hex(4)
        self._partition = crc32(self._name.encode()) % settings.kafka_partitions
        self._heads: dict[str, _Head] = {}
        self._pending: deque[_Waiting] = deque()
        self._writer: asyncio.Task[None] | None = None
        self._producer: Producer | None = None
        self._thread: threading.Thread | None = None
        self._closing = threading.Event()
        self._broken = threading.Event()

    @property
    def waiting(self) -> int:
        """Records that are not acknowledged yet and were not sent either."""
        return len(self._pending)

    async def write(self, record: DeliveryAudit) -> None:
        """Return when the broker has the record as the next link of the chain `<destination>@<writer>`. Who no longer waits, by being
        cancelled, takes nothing back. Raises ContractError for what no record can hold."""
        self._codec.encode(record)  # Later it would hold up the others.
        waiting = _Waiting(record, self._loop.create_future())
        self._pending.append(waiting)
        if self._writer is None or self._writer.done():
            self._writer = self._loop.create_task(self._write())
        await waiting.done

    async def close(self) -> None:
        """Wait a moment for what is under way, then stop."""
        if self._writer is not None:
            await asyncio.wait((self._writer,), timeout=CLOSE_S)
            self._writer.cancel()
            await asyncio.gather(self._writer, return_exceptions=True)
        self._closing.set()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)
        if self._producer is not None:
            self._producer.purge()  # It would go on looking for its broker.

    # In batches: the next one waits until all of the last are acknowledged, so that no gap can arise.

    async def _write(self) -> None:
        attempt = 0
        while self._pending:
            batch = list(self._pending)
            self._pending.clear()
            heads, records = self._chain_up(batch)
            results = await self._send(records)
            unknown = [waiting for waiting, arrived in zip(batch, results, strict=True) if not arrived]
            _settle(waiting for waiting, arrived in zip(batch, results, strict=True) if arrived)
            if not unknown:
                self._heads, attempt = heads, 0
                continue
            self._pending.extendleft(reversed(unknown))
            attempt += 1
            log.warning("access.not_acknowledged", extra={"partition": self._partition, "records": len(unknown), "attempt": attempt})
            await asyncio.sleep(self._schedule.delay_s(attempt, random.random()))
            self._begin_anew()

    def _chain_up(self, batch: Sequence[_Waiting]) -> tuple[dict[str, _Head], list[DeliveryAudit]]:
        """The chains' heads once the batch is written, and its records as links."""
        heads, records = dict(self._heads), []
        for waiting in batch:
            reader = f"{waiting.record.destination}@{self._name}"
            head = heads.get(reader, _Head())
            named = waiting.record.but(destination=reader, delivery_id=f"{reader}/{waiting.record.event_id}")
            record = chained(named, head.number + 1, head.record_hash)
            heads[reader] = _Head(record.chain_number, record.record_hash)
            records.append(record)
        return heads, records

    async def _send(self, records: Sequence[DeliveryAudit]) -> list[bool]:
        """Whether the broker has acknowledged each."""
        producer = self._opened()
        sent: list[asyncio.Future[bool]] = []
        for record in records:
            try:
                sent.append(self._produce(producer, record))
            except (KafkaException, BufferError):
                break  # One that came after it would leave a gap.
        arrived = await asyncio.gather(*sent)
        return [*arrived, *[False] * (len(records) - len(sent))]

    def _produce(self, producer: Producer, record: DeliveryAudit) -> "asyncio.Future[bool]":
        """Raises KafkaException and BufferError."""
        future: asyncio.Future[bool] = self._loop.create_future()
        producer.produce(
            self._topic, partition=self._partition, key=member_key(record.program_id, record.member_id), value=self._codec.encode(record),
            on_delivery=_acknowledged_to(self._loop, future, self._broken),
        )  # fmt: skip
        return future

    def _opened(self) -> Producer:
        if self._producer is None:
            self._producer = self._new_producer()
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name="access-log", daemon=True)
            self._thread.start()
        return self._producer

    def _new_producer(self) -> Producer:
        # It tries for ever, and what it must give up all the same leaves no gap: nothing after it is sent.
        return kafka.producer(self._settings, message_timeout_ms=0, enable_gapless_guarantee=True)

    def _begin_anew(self) -> None:
        """With other chains, and a producer that has lost nothing. The one before has nothing under way any more."""
        self._producer = self._new_producer()
        self._name = secrets.token_hex(4)
        self._heads = {}

    def _serve(self) -> None:
        """In the log's own thread."""
        while not self._closing.is_set():
            producer = self._producer
            assert producer is not None  # It starts after its producer.
            producer.poll(POLL_S)
            if self._broken.is_set():
                self._broken.clear()
                producer.purge()  # Nothing follows what failed. Whoever waits for the rest is told so.
                producer.flush(POLL_S)


def _acknowledged_to(
    loop: asyncio.AbstractEventLoop, future: "asyncio.Future[bool]", broken: threading.Event
) -> Callable[[KafkaError | None, Message], None]:
    """The producer's callback, which runs in its thread."""

    def delivered(error: KafkaError | None, _: Message) -> None:
        if error is not None:
            broken.set()
        try:
            loop.call_soon_threadsafe(partial(_tell, future, error is None))
        except RuntimeError:  # The loop has closed: nobody waits any more.
            pass

    return delivered


def _tell(future: "asyncio.Future[bool]", arrived: bool) -> None:
    if not future.done():
        future.set_result(arrived)


def _settle(waiting: Iterable[_Waiting]) -> None:
    for one in waiting:
        if not one.done.done():
            one.done.set_result(None)
