"""topic -> items in the event loop, and their offsets back to the broker: what every sink reads with.

One thread polls the consumer, so that a busy event loop never costs the group membership; it decodes, pauses when too much is
outstanding, and commits what is finished. Everything else belongs to the event loop.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from schemas.codec import Codec
from sinks import offsets
from sinks.base import Item
from sinks.offsets import Offsets
from sinks.records import Records
from streams import kafka, metrics
from streams.errors import ContractError
from streams.settings import Settings
from streams.topics import Topic

log = logging.getLogger(__name__)

R = TypeVar("R")

POLL_S = 0.1  # Bounds how late a pause, a commit or the stop is noticed.
POLL_RECORDS_MAX = 500
FULL_WAIT_S = 0.005
PATIENCE_S = 1.0  # A sink that is full for this long is waited for without polling; the group allows minutes.
COMMIT_S = 0.5  # What finished since the last commit is delivered again after a kill.
VERIFY_S = 5.0  # A commit that the broker did not take is said again after this.
CLOSE_S = 15.0  # How long a stop waits for the group's leave. A broker that hangs notices the absence by itself.
SESSION_TIMEOUT_MS = 6_000  # After a kill, another process takes the partitions over this soon.
SILENCE_S = 10.0  # A log this quiet is asked whether its broker still answers.
ANSWER_S = 3.0
COMMITTED_S = 10.0  # How long an assignment waits for the commits of whoever had the partitions before.
FETCH_KBYTES_MAX = 16 * 1024  # Read ahead per consumer; librdkafka would take 64 MiB, and a process may have several.
UNANSWERED = (KafkaError._TIMED_OUT, KafkaError._TRANSPORT, KafkaError._WAIT_COORD, KafkaError.COORDINATOR_NOT_AVAILABLE)


@dataclass(frozen=True, slots=True)
class Poison:
    """A record that cannot be decoded, and why."""

    item: Item[None]
    error: ContractError


@dataclass(frozen=True, slots=True, kw_only=True)
class Handlers(Generic[R]):
    """What the event loop does with what comes in. None of them may block or raise."""

    received: Callable[[Sequence[Item[R]], list[Poison]], None]
    revoked: Callable[[frozenset[int]], None]
    """Partitions that are another's now: their items are forgotten."""
    outstanding: Callable[[], int]
    """Items received and not finished. Read from the polling thread."""


class Intake(Generic[R]):
    """Reads one topic in one consumer group. `finish` each item; the lowest unfinished one bounds what is committed."""

    def __init__(
        self, settings: Settings, handlers: Handlers[R], *, sink: str, group: str, topic: Topic, codec: Codec, outstanding_max: int,
        decodes: bool = True,
    ) -> None:  # fmt: skip
        """Without `decodes` items have no record and come as Records, and nothing is poison: whoever handles them decodes their values."""
        self._settings = settings
        self._handlers = handlers
        self._sink = sink
        self._group = group
        self._topic = topic
        self._topic_name = topic.name(settings.topic_prefix)
        self._codec = codec
        self._outstanding_max = outstanding_max
        self._decodes = decodes
        self._loop = asyncio.get_running_loop()
        self.failed: asyncio.Future[None] = self._loop.create_future()
        """Gets the exception if the polling thread ends by one, which is a bug."""
        self._closed: asyncio.Future[None] = self._loop.create_future()
        self._thread = threading.Thread(target=self._run, name=f"intake-{sink}", daemon=True)
        self._lock = threading.Lock()  # Guards _partitions and what they hold.
        self._partitions: dict[int, Offsets] = {}
        self._said: dict[int, tuple[int, str]] = {}  # Offset and metadata that were sent to the broker last.
        self._verified: dict[int, tuple[int, str]] = {}  # ... that it has shown to know.
        # Their difference is on its way from the thread, which counts the first, to the loop, which counts the second.
        self._handed_over = 0
        self._received = 0
        self._holding = threading.Event()
        self._stopping = threading.Event()
        self._paused = False
        self._assigned = False
        self._reachable = True
        self._heard_s = time.monotonic()
        self._full_since_s: float | None = None
        self._complaints: set[str] = set()
        self._terse = False  # Commits hold no metadata.

    # The event loop's side.

    def start(self) -> None:
        self._thread.start()

    def hold(self) -> None:
        """Hand nothing further over, but stay in the group: what is under way may finish and commit."""
        self._holding.set()

    async def close(self) -> None:
        """Commit what is finished and leave the group."""
        self._holding.set()
        self._stopping.set()
        if self._thread.is_alive():
            await asyncio.wait((self._closed,), timeout=CLOSE_S)

    def finish(self, *items: Item[Any]) -> None:
        """The items need no more work. Harmless for those whose partition is another's now."""
        with self._lock:
            for item in items:
                partition = self._partitions.get(item.partition)
                if partition is not None:
                    partition.finish(item.offset)

    def finish_all(self, records: Records[Any]) -> None:
        """`finish` of many."""
        with self._lock:
            for number in np.unique(records.partitions).tolist():
                if number in self._partitions:
                    self._partitions[number].finish(*records.offsets[records.partitions == number].tolist())

    def note_failing(self, item: Item[Any]) -> None:
        """Remember over restarts since when the item's attempts fail."""
        with self._lock:
            partition = self._partitions.get(item.partition)
            if partition is not None and item.failing_since_ms is not None:
                partition.failed(item.offset, item.failing_since_ms)

    def readiness(self) -> str:
        """Why nothing is read at present; empty if all is well."""
        if not self._reachable:
            return f"{self._sink}: no Kafka broker answers at {self._settings.kafka_bootstrap_servers}"
        if not self._assigned:
            return f"{self._sink}: waits for its partitions of {self._topic_name}"
        if self._closed.done() or not self._thread.is_alive():  # The thread says that it is done a moment before it ends.
            return f"{self._sink}: does not poll any more"
        return ""

    # The polling thread's side.

    def _run(self) -> None:
        try:
            consumer = kafka.consumer(
                self._settings,
                self._group,
                enable_partition_eof=True,
                partition_assignment_strategy="cooperative-sticky",  # A rebalance takes only what moves.
                session_timeout_ms=SESSION_TIMEOUT_MS,
                heartbeat_interval_ms=SESSION_TIMEOUT_MS // 6,
                queued_max_messages_kbytes=FETCH_KBYTES_MAX,
                fetch_queue_backoff_ms=20,  # Of a second by default, during which a sink that is faster would wait.
            )
            try:
                consumer.subscribe([self._topic_name], on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost)
                self._poll_until_stopped(consumer)
            finally:
                consumer.close()  # Revokes the partitions, and so commits.
        except BaseException as error:
            log.exception("sink.intake_failed", extra={"sink": self._sink})
            self._in_loop(_set_exception, self.failed, error)
        finally:
            self._in_loop(_set_result, self._closed)

    def _poll_until_stopped(self, consumer: Consumer) -> None:
        commit_due_s = verify_due_s = 0.0
        while not self._stopping.is_set():
            if self._may_poll(consumer):
                self._poll(consumer)
            else:
                self._stopping.wait(FULL_WAIT_S)
            now_s = time.monotonic()
            if now_s - self._heard_s > SILENCE_S:
                self._check_broker(consumer)
            if now_s >= verify_due_s:
                verify_due_s = now_s + VERIFY_S
                self._verify_commits(consumer)
            if now_s >= commit_due_s:
                commit_due_s = now_s + COMMIT_S
                self._commit(consumer)
                self._measure_lag(consumer)

    def _poll(self, consumer: Consumer) -> None:
        try:
            first = consumer.poll(POLL_S)
            # poll() returns as soon as there is something, consume() only when it has all it was asked for.
            more = min(POLL_RECORDS_MAX, self._outstanding_max - self._held()) - 1
            messages = [] if first is None else [first, *(consumer.consume(more, 0) if more > 0 else ())]
        except KafkaException as error:
            self._complain("poll", error)
            self._stopping.wait(1.0)
            return
        if messages:
            self._heard_s = time.monotonic()
            self._complaints.discard("poll")
            self._note_answer()
            self._hand_over(messages)

    def _may_poll(self, consumer: Consumer) -> bool:
        """Whether to poll now. Above the bound it is put off; when that lasts, the partitions are paused and polling goes on without
        records, or the group would move the partitions elsewhere. (A pause throws away what was read ahead, so it is not the first choice.)
        """
        held, now_s = self._held(), time.monotonic()
        if not self._holding.is_set() and held < self._outstanding_max:
            self._full_since_s = None
            if self._paused and held <= self._outstanding_max // 2:
                self._paused = False
                consumer.resume(consumer.assignment())
            return True
        if self._full_since_s is None:
            self._full_since_s = now_s
        if not self._paused and now_s - self._full_since_s >= PATIENCE_S:
            self._paused = True
            consumer.pause(consumer.assignment())
        return self._paused

    def _held(self) -> int:
        """Records in memory, those on their way to the loop included."""
        return self._handlers.outstanding() + self._handed_over - self._received

    def _hand_over(self, messages: list[Message]) -> None:
        taken: list[Records[Any]] = []
        run: list[Message] = []
        for message in messages:
            error = message.error()
            if error is None:
                run.append(message)
            elif error.code() != KafkaError._PARTITION_EOF:
                self._complain("read", error)
            else:
                taken.append(self._take_in(run))
                run = []
                self._reach_end(message)
        taken.append(self._take_in(run))
        records: Sequence[Item[Any]] = Records.joined([some for some in taken if some])
        poison: list[Poison] = []
        if self._decodes:
            records, poison = self._decoded(Records.of(records))
        if records or poison:
            self._handed_over += len(records) + len(poison)
            self._in_loop(self._receive, records, poison)

    def _reach_end(self, mark: Message) -> None:
        number, offset = mark.partition(), mark.offset()
        with self._lock:
            if number in self._partitions and offset is not None:
                self._partitions[number].reached(offset)

    def _take_in(self, messages: list[Message]) -> Records[None]:
        """Those of the records that need work."""
        records = Records.read(messages)
        is_needed, follows = np.zeros(len(records), dtype=bool), records.follows.copy()
        with self._lock:
            for number in np.unique(records.partitions).tolist():
                if number in self._partitions:
                    own = records.partitions == number
                    is_needed[own], follows[own] = self._partitions[number].add_all(records.offsets[own])
        return records.with_follows(follows).take(np.flatnonzero(is_needed))

    def _decoded(self, records: Records[None]) -> tuple[list[Item[R]], list[Poison]]:
        with self._lock:
            since_ms = [
                self._partitions[number].failing_since_ms(offset)
                for number, offset in zip(records.partitions.tolist(), records.offsets.tolist(), strict=True)
            ]
        items: list[Item[R]] = []
        poison: list[Poison] = []
        for place, message in enumerate(records.sources):
            try:
                items.append(records.item(place, self._codec.decode(message.value(), self._topic.record), since_ms[place]))
            except ContractError as error:
                poison.append(Poison(records.item(place, None, since_ms[place]), error))
        return items, poison

    def _receive(self, items: Sequence[Item[R]], poison: list[Poison]) -> None:
        """In the loop: from here on the items count as the handlers' own."""
        if not self._holding.is_set():
            self._handlers.received(items, poison)
        self._received += len(items) + len(poison)

    def _on_assign(self, consumer: Consumer, assigned: list[TopicPartition]) -> None:
        known = self._read_commits(consumer, assigned) if assigned else []
        before = {tp.partition: self._progress(consumer, tp) for tp in known if not tp.error}
        with self._lock:
            for tp in assigned:
                self._partitions[tp.partition] = before.get(tp.partition, Offsets())
        consumer.incremental_assign(assigned)
        if self._paused:
            consumer.pause(assigned)
        self._assigned = self._reachable = True
        self._heard_s = time.monotonic()
        numbers = sorted(tp.partition for tp in assigned)
        log.info("sink.assigned", extra={"sink": self._sink, "topic": self._topic_name, "partitions": numbers})

    def _read_commits(self, consumer: Consumer, assigned: list[TopicPartition]) -> list[TopicPartition]:
        """The commits of whoever had the partitions before. A coordinator that moves answers with errors for a while."""
        deadline_s = time.monotonic() + COMMITTED_S
        while True:
            try:
                return consumer.committed(assigned, timeout=COMMITTED_S)
            except KafkaException as error:
                if time.monotonic() > deadline_s or self._stopping.wait(0.2):
                    # Without the commits' metadata some records are delivered once more, that is all.
                    self._complain("read commits", error)
                    return []

    def _progress(self, consumer: Consumer, committed: TopicPartition) -> Offsets:
        """What a commit says; reading begins at it, or where the log does if it was cut off beyond it."""
        progress = offsets.decode(committed.offset, committed.metadata)
        if committed.offset < 0:
            return Offsets(progress)
        try:
            begin = consumer.get_watermark_offsets(TopicPartition(self._topic_name, committed.partition), timeout=ANSWER_S)[0]
        except KafkaException as error:
            self._complain("read the log's begin", error)
            return Offsets(progress)
        return Offsets(progress, begin if begin > committed.offset else committed.offset - progress.marks)

    def _on_revoke(self, consumer: Consumer, revoked: list[TopicPartition]) -> None:
        self._commit(consumer, wait=True)
        self._forget(revoked)

    def _on_lost(self, _: Consumer, lost: list[TopicPartition]) -> None:
        # They are another's already: a commit would be refused.
        self._forget(lost)

    def _forget(self, revoked: list[TopicPartition]) -> None:
        numbers = frozenset(tp.partition for tp in revoked)
        with self._lock:
            for number in numbers:
                self._partitions.pop(number, None)
        for number in numbers:
            self._said.pop(number, None)
            self._verified.pop(number, None)
            _remove_label(self._sink, self._topic_name, str(number))
        self._in_loop(self._handlers.revoked, numbers)
        if numbers:
            log.info("sink.revoked", extra={"sink": self._sink, "topic": self._topic_name, "partitions": sorted(numbers)})

    def _commit(self, consumer: Consumer, *, wait: bool = False) -> None:
        """Commit what is finished and was not committed yet. A failure is harmless: the next commit says the same and more.

        Waiting for the answer of a broker that hangs would stop the polling for a minute, so only a revocation does: whoever gets the
        partitions next reads the commits at once.
        """
        with self._lock:
            wanted = {number: said for number, partition in self._partitions.items() if (said := partition.commit()) is not None}
        last = self._verified if wait else self._said
        changed = {number: said for number, said in wanted.items() if last.get(number) != said}
        if not changed:
            return
        self._said |= changed
        try:
            if wait:
                consumer.commit(offsets=self._to_commit(changed), asynchronous=False)
            else:
                consumer.commit(offsets=self._to_commit(changed), asynchronous=True)
        except KafkaException as error:
            self._complain("commit", error)

    def _to_commit(self, said: Mapping[int, tuple[int, str]]) -> list[TopicPartition]:
        name, terse = self._topic_name, self._terse
        return [TopicPartition(name, number, offset, "" if terse else metadata) for number, (offset, metadata) in said.items()]

    def _verify_commits(self, consumer: Consumer) -> None:
        """What was said without waiting for an answer is said again, and waited for, unless the broker shows that it knows it."""
        doubtful = {number: said for number, said in self._said.items() if self._verified.get(number) != said}
        if not doubtful:
            return
        wanted = {tp.partition: tp for tp in self._to_commit(doubtful)}
        try:
            known = consumer.committed([TopicPartition(self._topic_name, number) for number in doubtful], timeout=ANSWER_S)
            stored = {tp.partition: (tp.offset, tp.metadata or "") for tp in known if not tp.error}
            missing = [tp for number, tp in wanted.items() if stored.get(number) != (tp.offset, tp.metadata or "")]
            if missing:
                consumer.commit(offsets=missing, asynchronous=False)  # The broker has just answered: this is no long wait.
        except KafkaException as error:
            self._judge_commit_error(error)
            return
        self._verified |= doubtful
        self._complaints.discard("commit")
        self._note_answer()

    def _judge_commit_error(self, error: KafkaException) -> None:
        self._complain("commit", error)
        code = error.args[0].code()
        if code in UNANSWERED:
            self._note_silence(error)
        elif code == KafkaError.OFFSET_METADATA_TOO_LARGE:
            # This broker allows less than the default. Offsets alone are enough: a restart then delivers some records once more.
            self._terse = True

    def _measure_lag(self, consumer: Consumer) -> None:
        with self._lock:
            read = {number: (partition.next_offset, len(partition)) for number, partition in self._partitions.items()}
        for number, (next_offset, unfinished) in read.items():
            high = consumer.get_watermark_offsets(TopicPartition(self._topic_name, number), cached=True)[1]
            unread = max(0, high - next_offset) if next_offset else max(0, high)
            metrics.SINK_LAG.labels(self._sink, self._topic_name, str(number)).set(unread + unfinished)

    def _check_broker(self, consumer: Consumer) -> None:
        self._heard_s = time.monotonic()
        try:
            consumer.list_topics(self._topic_name, timeout=ANSWER_S)
        except KafkaException as error:
            self._note_silence(error)
        else:
            self._note_answer()

    def _note_silence(self, error: KafkaException) -> None:
        if self._reachable:
            log.warning("sink.kafka_unreachable", extra={"sink": self._sink, "error": str(error)})
        self._reachable = False

    def _note_answer(self) -> None:
        if not self._reachable:
            log.warning("sink.kafka_reachable", extra={"sink": self._sink})
        self._reachable = True

    def _complain(self, what: str, error: KafkaError | KafkaException) -> None:
        """Log the first failure of a kind; the next ones of a row say nothing new."""
        if what not in self._complaints:
            self._complaints.add(what)
            log.warning(f"sink.{what.replace(' ', '_')}_failed", extra={"sink": self._sink, "topic": self._topic_name, "error": str(error)})

    def _in_loop(self, callback: Callable[..., object], *args: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(callback, *args)
        except RuntimeError:  # The loop has closed: nobody waits any more.
            pass


def _set_exception(future: asyncio.Future[None], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)


def _set_result(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _remove_label(*labels: str) -> None:
    try:
        metrics.SINK_LAG.remove(*labels)
    except KeyError:
        pass
