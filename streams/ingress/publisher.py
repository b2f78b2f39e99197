"""Records -> Kafka, awaited: a result is the broker's acknowledgement by all in-sync replicas, never less."""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from streams import kafka
from streams.errors import ContractError, UnavailableError
from streams.settings import Settings

log = logging.getLogger(__name__)

ACKNOWLEDGEMENT_TIMEOUT_S = 10.0  # Longer than the change of a partition's leader, shorter than a client's patience.
IN_FLIGHT_MAX = 20_000  # Records without acknowledgement; beyond it new ones are turned away at once.
POLL_S = 0.1
CLOSE_TIMEOUT_S = 15.0


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """Where the broker put a record."""

    topic: str
    partition: int
    offset: int


class Publisher:
    """One idempotent producer and the thread that serves its callbacks. Created and used in one event loop."""

    def __init__(
        self, settings: Settings, *, timeout_s: float = ACKNOWLEDGEMENT_TIMEOUT_S, in_flight_max: int = IN_FLIGHT_MAX
    ) -> None:
        self._settings = settings
        self._timeout_s = timeout_s
        self._in_flight_max = in_flight_max
        self._in_flight = 0
        self._loop = asyncio.get_running_loop()
        self._settled: deque[tuple[asyncio.Future[Acknowledgement], Acknowledgement | Exception]] = deque()
        self._woken = False
        self._broken = False
        self._closing = threading.Event()
        self._producer = self._new_producer()
        self._thread = threading.Thread(target=self._serve, name="publisher", daemon=True)
        self._thread.start()

    def _new_producer(self) -> Producer:
        return kafka.producer(
            self._settings, message_timeout_ms=int(self._timeout_s * 1000), queue_buffering_max_messages=self._in_flight_max * 2
        )

    def send(self, topic: str, key: bytes, value: bytes, headers: Mapping[str, bytes]) -> "asyncio.Future[Acknowledgement]":
        """Hand a record to the producer. Records of one partition keep the order of the calls.

        The future ends with the acknowledgement, with UnavailableError when there was none in time (the record may be in the topic
        all the same: send it again with its id), or with ContractError for a record that the broker will never take.
        """
        future: asyncio.Future[Acknowledgement] = self._loop.create_future()
        if self._in_flight >= self._in_flight_max:
            future.set_exception(UnavailableError("too many records wait for Kafka's acknowledgement"))
            return future
        try:
            self._producer.produce(
                topic, value=value, key=key, headers=list(headers.items()), on_delivery=partial(self._delivered, future)
            )
            self._in_flight += 1
        except BufferError:
            future.set_exception(UnavailableError("the producer's queue is full"))
        except KafkaException as error:
            future.set_exception(self._error(error.args[0]))
        return future

    async def close(self) -> None:
        """Wait for what is under way, then stop."""
        await asyncio.to_thread(self._producer.flush, CLOSE_TIMEOUT_S)
        self._closing.set()
        await asyncio.to_thread(self._thread.join)
        self._drain()
        del self._producer  # It would go on looking for its broker.

    def _error(self, error: KafkaError) -> Exception:
        if error.code() == KafkaError.MSG_SIZE_TOO_LARGE:
            return ContractError("RECORD_TOO_LARGE", "the record is larger than Kafka's limit for one message")
        if error.fatal():
            self._broken = True
        return UnavailableError(f"Kafka at LOYALTY_KAFKA_BOOTSTRAP_SERVERS={self._settings.kafka_bootstrap_servers}: {error.str()}")

    # What follows runs in the publisher's thread, but for _drain.

    def _serve(self) -> None:
        while not self._closing.is_set():
            self._producer.poll(POLL_S)
            if self._broken:
                # An idempotent producer that lost its sequence takes nothing more: a new one gets a new id and goes on.
                log.error("publisher.renewed")
                self._broken = False
                old, self._producer = self._producer, self._new_producer()
                old.purge()
                old.flush(POLL_S)

    def _delivered(self, future: "asyncio.Future[Acknowledgement]", error: KafkaError | None, message: Message) -> None:
        place: Any = (message.topic(), message.partition(), message.offset())
        self._settled.append((future, self._error(error) if error else Acknowledgement(*place)))
        if not self._woken:
            self._woken = True
            try:
                self._loop.call_soon_threadsafe(self._drain)
            except RuntimeError:  # The loop is closed: nobody waits any more.
                pass

    def _drain(self) -> None:
        """One wake-up of the loop settles all that has come since: cheaper than one per record."""
        self._woken = False
        while self._settled:
            future, result = self._settled.popleft()
            self._in_flight -= 1
            if future.done():  # Its request was given up.
                continue
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)
