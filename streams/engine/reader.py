"""One partition's source records, read by a librdkafka consumer of its own from the offsets that the partition's owner names.

Every call blocks; run in a thread. Group membership is Faust's; nothing is read here but what `start` said, and nothing is skipped:
a position that the log does not hold any more is an error.

Some topics may be read first: up to the end that they have at the start, and only then the others with them. Others may be bulk: of them
each batch has so many records as its reader asks for, however many are in the log, and what comes in the other topics overtakes them.
"""

import heapq
import threading
import time
from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException
from confluent_kafka import TopicPartition as KafkaTopicPartition

from streams.engine import metrics
from streams.engine.records import Input, TopicPartition

END_TIMEOUT_S = 10.0  # For the broker to say where a topic ends.
QUEUE_KIB = 8_192  # Fetched ahead for one partition; with 16 partitions, 128 MiB.
QUEUE_RECORDS_MIN = 20_000  # Librdkafka goes on fetching until it holds so many, or QUEUE_KIB.
HELD_MAX, HELD_MIN = 2_000, 200  # Bulk records held back: from the first number on no more are fetched, until fewer than the second are left.
HELD_WAIT_S = 0.02  # How long a read without room for bulk records waits for others: there is room again at any moment.

CONFIG: dict[str, Any] = {
    "enable.auto.commit": False,
    "isolation.level": "read_committed",
    "enable.partition.eof": True,
    "auto.offset.reset": "error",
    "queued.max.messages.kbytes": QUEUE_KIB,
    "queued.min.messages": QUEUE_RECORDS_MIN,
    "fetch.queue.backoff.ms": 5,  # A full queue is looked at again after this; by default a second.
    "fetch.error.backoff.ms": 50,
    "fetch.wait.max.ms": 100,  # The end of a log is reported after an empty fetch: with librdkafka's 500, every take-over took so much longer.
}


class Unreadable(Exception):
    """Going on would lose records or mix partitions. The message says what to do; the worker must stop."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Records of one partition, in the order to handle them, without a hole between `starts` and `ends`."""

    inputs: list[Input]
    starts: dict[TopicPartition, int]
    ends: dict[TopicPartition, int]


class SourceReader:
    """Reads the source topics of one partition."""

    def __init__(self, consumer: Consumer, group_id: str, first: Collection[str] = (), bulk: Collection[str] = ()) -> None:
        """`consumer` was made with CONFIG, and is closed here. `first` are topics to be read to their end at each start, `bulk` others that
        never keep the rest waiting."""
        self._consumer = consumer
        self._group_id = group_id
        self._lock = threading.Lock()
        self._first = frozenset(first)
        self._bulk = frozenset(bulk)
        self._held: dict[TopicPartition, deque[Input]] = {}
        """Bulk records that were fetched, and wait for their turn."""
        self._paused: set[TopicPartition] = set()
        """Of these no more are fetched now. A full queue of theirs would hide what comes in other topics."""
        self._next: dict[TopicPartition, int] = {}
        """Offset after the last record that was handed out."""
        self._ends: dict[TopicPartition, int] | None = None
        """Where those end that are read first, as long as they have not been read so far; None once all are read."""
        self._closed = False

    def start(self, positions: Mapping[TopicPartition, int]) -> None:
        """Read from these offsets on, whatever was read or fetched before. Raises KafkaException."""
        with self._lock:
            if not self._closed:
                self._resume(self._paused)
                self._held.clear()
                self._next = dict(positions)
                # Not the first end that is reported: while records keep coming, none ever may be.
                ends = {tp: self._end(tp) for tp in positions if tp[0] in self._first}
                self._ends = {tp: end for tp, end in ends.items() if positions[tp] < end} or None
                self._assign(self._ends or self._next)

    def read(self, records_max: int, timeout_s: float, bulk_max: int | None = None) -> Batch | None:
        """What has been fetched, as soon as there is something; None after `timeout_s`, or sooner. Of bulk topics `bulk_max` records at most.

        Raises Unreadable for records that expired unread, KafkaException for what may pass.
        """
        bulk_max = records_max if bulk_max is None else bulk_max
        with self._lock:
            deadline_s = time.monotonic() + (min(timeout_s, HELD_WAIT_S) if self._held and bulk_max <= 0 else timeout_s)
            by_topic: dict[TopicPartition, list[Input]] = {}
            while not by_topic:
                if self._closed:
                    return None
                if self._ends is not None and not self._ends:
                    self._ends = None
                    self._assign(self._next)
                first = self._consumer.poll(0.0 if self._held and bulk_max > 0 else max(0.0, deadline_s - time.monotonic()))
                if first is None and not (self._held and bulk_max > 0):
                    return None
                if first is not None:
                    self._sort((first, *self._consumer.consume(records_max - 1, 0)), by_topic)
                self._give_turns(by_topic, records_max, bulk_max)
            ends = {tp: inputs[-1].offset + 1 for tp, inputs in by_topic.items()}
            batch = Batch(_merged(by_topic), {tp: self._next[tp] for tp in by_topic}, ends)
            self._next.update(ends)
            if self._ends:
                self._ends = {tp: end for tp, end in self._ends.items() if self._next[tp] < end}
            for (topic, partition), end in ends.items():
                _, high = self._consumer.get_watermark_offsets(KafkaTopicPartition(topic, partition), cached=True)
                metrics.LAG.labels(topic, partition).set(max(0, high - end))
            return batch

    def close(self) -> None:
        """Harmless when it is closed."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._consumer.close()

    def _give_turns(self, by_topic: dict[TopicPartition, list[Input]], records_max: int, bulk_max: int) -> None:
        """Hold back what was fetched of the bulk topics, and put as much of what is held into the batch as it has room for."""
        for tp in [tp for tp in by_topic if tp[0] in self._bulk]:
            self._held.setdefault(tp, deque()).extend(by_topic.pop(tp))
        room = min(bulk_max, records_max - sum(map(len, by_topic.values())))
        for tp, held in list(self._held.items()):
            if room > 0:
                by_topic[tp] = [held.popleft() for _ in range(min(room, len(held)))]
                room -= len(by_topic[tp])
            if len(held) >= HELD_MAX and tp not in self._paused:
                self._consumer.pause([KafkaTopicPartition(*tp)])
                self._paused.add(tp)
            elif len(held) < HELD_MIN:
                self._resume({tp} & self._paused)
            if not held:
                del self._held[tp]

    def _resume(self, tps: Collection[TopicPartition]) -> None:
        if tps:
            self._consumer.resume([KafkaTopicPartition(*tp) for tp in tps])
            self._paused -= set(tps)

    def _end(self, tp: TopicPartition) -> int:
        """Offset up to which readers of committed records can read."""
        return int(self._consumer.get_watermark_offsets(KafkaTopicPartition(*tp), timeout=END_TIMEOUT_S)[1])

    def _assign(self, tps: Collection[TopicPartition]) -> None:
        """Fetch these, from where they were read to; what was fetched and not read is fetched again."""
        self._consumer.assign([KafkaTopicPartition(topic, partition, self._next[topic, partition]) for topic, partition in tps])

    def _sort(self, messages: tuple[Any, ...], by_topic: dict[TopicPartition, list[Input]]) -> None:
        for message in messages:
            error = message.error()
            if error is not None:
                if error.code() != KafkaError._PARTITION_EOF:
                    raise self._verdict(error)
                if self._ends:  # A marker may be its last entry, which is never read.
                    self._ends.pop((message.topic(), message.partition()), None)
                continue
            tp = (message.topic(), message.partition())
            inputs = by_topic.get(tp)
            if inputs is None:
                held = self._held.get(tp)
                expected = held[-1].offset + 1 if held else self._next[tp]
                if message.offset() < expected:
                    raise RuntimeError(f"{tp} was read from {message.offset()}, asked for from {expected}")
                inputs = by_topic[tp] = []
            inputs.append(
                Input(tp[0], tp[1], message.offset(), message.timestamp()[1], message.key(), message.value(), tuple(message.headers() or ()))
            )

    def _verdict(self, error: KafkaError) -> Exception:
        if error.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
            return Unreadable(
                f"{error.str()}: records expired before they were read. Raise retention.ms to more than the longest lag. To go on without"
                f" them, set the offsets of group {self._group_id} by hand (kafka-consumer-groups.sh --reset-offsets)."
            )
        return KafkaException(error)


def _merged(by_topic: Mapping[TopicPartition, list[Input]]) -> list[Input]:
    """Records of several topics are merged by the broker's time; within one topic the order of the log stays as it is."""
    if len(by_topic) == 1:
        return next(iter(by_topic.values()))
    return list(heapq.merge(*by_topic.values(), key=lambda one: one.timestamp_ms))
