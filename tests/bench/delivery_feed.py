"""Events of many programmes and members, straight into the log: as a backlog, or at a fixed rate from a process of its own, whatever comes back."""

import multiprocessing
import multiprocessing.synchronize
import time
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

from confluent_kafka import Producer

from schemas.codec import Codec
from schemas.contract import member_key
from schemas.records import LoyaltyEvent
from schemas.registry import LocalRegistry
from streams import kafka, topics
from streams.settings import Settings
from tests.sinks import examples

FLUSH_S = 600  # A broker may be down for a while in between.
TICK_S = 0.001


@dataclass(frozen=True, slots=True)
class Mix:
    """Who the events are about: event `number` is of programme `number % programs`, so that each has its share."""

    programs: int
    members: int
    """Of each programme."""
    prefix: str = "e"
    """Of the event ids: `<prefix>-<number>`."""

    def event(self, number: int) -> LoyaltyEvent:
        turn = number // self.programs
        return examples.event(
            turn // self.members + 1, f"{self.prefix}-m{turn % self.members}", program(number % self.programs), event_id=f"{self.prefix}-{number}"
        )

    def encoded(self, codec: Codec, first: int, count: int) -> Iterator[tuple[bytes, bytes]]:
        """Keys and values."""
        for number in range(first, first + count):
            event = self.event(number)
            yield member_key(event.program_id, event.member_id), codec.encode(event)


def program(number: int) -> str:
    return f"p{number:04d}"


def number_of(event_id: str) -> int:
    return int(event_id.rpartition("-")[2])


def fill(settings: Settings, mix: Mix, count: int, *, first: int = 0) -> None:
    """A backlog, as fast as it goes; returns when the broker has all of it."""
    producer, name = kafka.producer(settings), topics.EVENTS.name(settings.topic_prefix)
    for key, value in list(mix.encoded(Codec(LocalRegistry()), first, count)):
        _produce(producer, name, key, value)
    assert producer.flush(FLUSH_S) == 0


def _produce(producer: Producer, topic: str, key: bytes, value: bytes) -> None:
    while True:
        try:
            producer.produce(topic, value, key)
            producer.poll(0)
            return
        except BufferError:
            producer.poll(0.1)


@dataclass(slots=True)
class Feed:
    """Events at a fixed rate, under way."""

    process: BaseProcess
    log_file: Path
    first: int
    count: int
    started_ns: int

    def wait(self) -> "array[int]":
        """The monotonic nanosecond at which each event was handed to the producer, in order. Latencies from there include the append itself."""
        self.process.join()
        assert self.process.exitcode == 0, "the feeder has failed"
        sent: "array[int]" = array("q")
        with self.log_file.open("rb") as file:
            sent.fromfile(file, self.count)
        return sent


def start(settings: Settings, mix: Mix, *, per_second: float, duration_s: float, first: int, log_file: Path) -> Feed:
    """Returns when the first event is about to be sent."""
    context = multiprocessing.get_context("spawn")
    count = int(per_second * duration_s)
    is_ready = context.Event()
    process = context.Process(target=_run, args=(settings, mix, per_second, first, count, log_file, is_ready), daemon=True)
    process.start()
    assert is_ready.wait(120), "the feeder does not start"
    return Feed(process, log_file, first, count, time.monotonic_ns())


def _run(settings: Settings, mix: Mix, per_second: float, first: int, count: int, log_file: Path, is_ready: multiprocessing.synchronize.Event) -> None:
    # Encoded beforehand: what the feeder spends while it feeds, the others do not have.
    records = list(mix.encoded(Codec(LocalRegistry()), first, count))
    producer = kafka.producer(settings, linger_ms=1, message_timeout_ms=FLUSH_S * 1000, reconnect_backoff_max_ms=500)
    name, sent = topics.EVENTS.name(settings.topic_prefix), array("q")
    producer.list_topics(name, timeout=30)
    is_ready.set()
    started_s = time.monotonic()
    while len(sent) < count:
        due = min(count, int((time.monotonic() - started_s) * per_second) + 1)
        while len(sent) < due:
            key, value = records[len(sent)]
            sent.append(time.monotonic_ns())
            _produce(producer, name, key, value)
        producer.poll(0)
        time.sleep(TICK_S)  # The rate is what is wanted: there is no condition to await.
    assert producer.flush(FLUSH_S) == 0
    with log_file.open("wb") as file:
        sent.tofile(file)
