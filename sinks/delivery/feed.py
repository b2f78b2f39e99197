"""topics -> records in the event loop, partition by partition: the one reader of a process in the group that shares the work.

One thread polls, so that a busy event loop never costs the group membership. It never waits for a destination. What is read is not committed here:
how far deliveries have come stands in the progress topic, and whoever opens a partition says where its feed begins.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, cast

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from schemas.codec import Codec
from sinks.delivery.records import Outgoing, Undecodable
from streams import kafka, metrics
from streams.errors import ContractError, LoyaltyError
from streams.settings import Settings
from streams.topics import Topic

log = logging.getLogger(__name__)

POLL_S = 0.05
POLL_RECORDS_MAX = 500
HELD_MAX = 5_000
"""Records on their way into the event loop; beyond it the thread waits for the loop."""
FULL_WAIT_S = 0.005
SESSION_TIMEOUT_MS = 6_000  # After a kill, another process takes the partitions over this soon.
CLOSE_S = 30.0
SILENCE_S = 10.0  # A log this quiet is asked whether its broker still answers.
ANSWER_S = 3.0
COMMIT_S = 1.0
LAG_S = 1.0
OPEN_AGAIN_S = 1.0
OPENED_TOGETHER = 8
SINK = "webhooks"

Place = tuple[str, int]
"""Stream and partition."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Handlers:
    """What is done with partitions and records. Only `assign` may raise."""

    assign: Callable[[str, int], int]
    """In a thread, blocking: open the partition; the offset at which to begin. What it raises is logged, and it is tried again."""
    received: Callable[[str, int, list[Outgoing], list[Undecodable], int], None]
    """In the event loop: records, what cannot be decoded, and the offset at which the feed goes on."""
    revoke: Callable[[Iterable[Place]], None]
    """In the feed's thread, blocking: another process gets these after it returns."""
    lost: Callable[[Iterable[Place]], None]
    """In one of the feed's threads, blocking: another process has these already, perhaps since before `assign` returned."""


class Feed:
    """`start`, and `close`. `failed` gets the exception if the thread ends by one, which is a bug."""

    def __init__(self, settings: Settings, codec: Codec, topics: Sequence[Topic], group: str, handlers: Handlers, *, sink: str = SINK) -> None:
        """`sink` is what it is called in metrics, and where it says why nothing is read."""
        self._sink = sink
        self._settings = settings
        self._codec = codec
        self._group = group
        self._handlers = handlers
        self._topics = {topic.name(settings.topic_prefix): topic for topic in topics}
        self._loop = asyncio.get_running_loop()
        self.failed: asyncio.Future[None] = self._loop.create_future()
        self._closed: asyncio.Future[None] = self._loop.create_future()
        self._thread = threading.Thread(target=self._run, name="feed", daemon=True)
        self._opening = ThreadPoolExecutor(OPENED_TOGETHER, thread_name_prefix="open")
        self._stopping = threading.Event()
        self._positions: dict[Place, int] = {}
        """Of partitions that are open."""
        self._assigned: set[Place] | None = None
        """Also those that are not open yet. None: the group has not said."""
        self._generations: dict[Place, int] = {}
        self._openings: dict[Place, Future[None]] = {}
        """The last one of each, so that no partition is opened twice at a time."""
        self._opened: list[tuple[Place, int, int]] = []
        """Place, generation, offset: found by an opening thread, not read from yet."""
        self._to_open_again: list[Place] = []
        self._lock = threading.Lock()  # Guards the four above.
        self._handed_over = 0
        self._received = 0
        self._reachable = True
        self._heard_s = time.monotonic()
        self._complaints: set[str] = set()

    def start(self) -> None:
        self._thread.start()

    async def close(self) -> None:
        """Give all partitions up, in order, and leave the group."""
        self._stopping.set()
        if self._thread.is_alive():
            await asyncio.wait((self._closed,), timeout=CLOSE_S)
        self._opening.shutdown(wait=False, cancel_futures=True)

    def open_again(self, place: Place) -> None:
        """In the loop: `assign` is asked again for a partition that is still this process's, and it is read from where that says."""
        with self._lock:
            self._to_open_again.append(place)

    def readiness(self) -> str:
        """Why nothing is read at present; empty if all is well."""
        if not self._reachable:
            return f"{self._sink}: no Kafka broker answers at {self._settings.kafka_bootstrap_servers}"
        if self._assigned is None:
            return f"{self._sink}: waits for its partitions of {', '.join(self._topics)}"
        if left := len(self._assigned - self._positions.keys()):
            return f"{self._sink}: opens {left} of its partitions of {', '.join(self._topics)}"
        if self._closed.done() or not self._thread.is_alive():
            return f"{self._sink}: does not poll any more"
        return ""

    # The thread.

    def _run(self) -> None:
        try:
            consumer = kafka.consumer(
                self._settings, self._group, enable_partition_eof=True, partition_assignment_strategy="cooperative-sticky",
                session_timeout_ms=SESSION_TIMEOUT_MS, heartbeat_interval_ms=SESSION_TIMEOUT_MS // 6, fetch_queue_backoff_ms=20,
                queued_max_messages_kbytes=16 * 1024, fetch_wait_max_ms=20,
            )  # fmt: skip
            try:
                consumer.subscribe(list(self._topics), on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost)
                self._poll_until_stopped(consumer)
            finally:
                consumer.close()  # Revokes the partitions, and so gives them up in order.
        except BaseException as error:
            log.exception("feed.failed")
            self._in_loop(_set_exception, self.failed, error)
        finally:
            self._in_loop(_set_result, self._closed)

    def _poll_until_stopped(self, consumer: Consumer) -> None:
        commit_due_s = lag_due_s = 0.0
        while not self._stopping.is_set():
            if self._handed_over - self._received >= HELD_MAX:
                self._stopping.wait(FULL_WAIT_S)
                continue
            self._begin_opened(consumer)
            messages = self._poll(consumer)
            now_s = time.monotonic()
            if messages:
                self._heard_s = now_s
                self._note_answer()
                self._hand_over(messages)
            elif now_s - self._heard_s > SILENCE_S:
                self._check_broker(consumer)
            if now_s >= commit_due_s:
                commit_due_s = now_s + COMMIT_S
                self._commit(consumer)
            if now_s >= lag_due_s:
                lag_due_s = now_s + LAG_S
                self._measure_lag(consumer)

    def _poll(self, consumer: Consumer) -> list[Message]:
        try:
            # poll() returns as soon as there is something, consume() only when it has all it was asked for.
            first = consumer.poll(POLL_S)
            return [] if first is None else [first, *consumer.consume(POLL_RECORDS_MAX - 1, 0)]
        except KafkaException as error:
            self._complain("poll", error)
            self._stopping.wait(1.0)
            return []

    def _hand_over(self, messages: list[Message]) -> None:
        found: dict[Place, tuple[list[Outgoing], list[Undecodable]]] = {}
        for message in messages:
            error, topic = message.error(), self._topics.get(message.topic() or "")
            number, offset = message.partition(), message.offset()
            if error is not None and error.code() != KafkaError._PARTITION_EOF:
                self._complain("read", error)
                continue
            if topic is None or number is None or offset is None:
                continue
            place = (topic.stream, number)
            position = self._positions.get(place)
            if position is None or offset < position:
                continue
            records, poison = found.setdefault(place, ([], []))
            if error is None:
                self._decode(message, topic, records, poison)
                self._positions[place] = offset + 1
            else:
                self._positions[place] = offset
        for place, (records, poison) in found.items():
            with self._lock:
                generation = self._generations.get(place, 0)
            self._handed_over += len(records) + len(poison)
            self._in_loop(self._receive, place, generation, records, poison, self._positions[place])

    def _decode(self, message: Message, topic: Topic, records: list[Outgoing], poison: list[Undecodable]) -> None:
        key, value, offset, timestamp_ms = message.key() or b"", message.value(), message.offset() or 0, message.timestamp()[1]
        try:
            records.append(Outgoing(offset=offset, key=key, record=self._codec.decode(value, topic.record), timestamp_ms=timestamp_ms))
        except ContractError as error:
            headers = {str(name): content or b"" for name, content in cast(Any, message.headers() or ())}
            poison.append(Undecodable(
                offset=offset, key=key, value=value or b"", headers=headers, timestamp_ms=timestamp_ms, reason=error.reason, detail=error.detail,
            ))  # fmt: skip

    def _receive(self, place: Place, generation: int, records: list[Outgoing], poison: list[Undecodable], next_offset: int) -> None:
        """In the loop. What was read before a partition was given up is nothing to whoever has it since."""
        try:
            if self._generations.get(place) == generation:
                self._handlers.received(*place, records, poison, next_offset)
        except Exception:
            log.exception("feed.receive_failed", extra={"stream": place[0], "partition": place[1]})
        finally:
            self._received += len(records) + len(poison)

    # Partitions that come and go.

    def _on_assign(self, consumer: Consumer, assigned: list[TopicPartition]) -> None:
        """They are opened in threads of their own: the group goes on, and what is open already is read meanwhile."""
        consumer.incremental_assign(assigned)
        consumer.pause(assigned)
        places = [self._place(tp) for tp in assigned]
        self._assigned = (self._assigned or set()) | set(places)
        # A partition's topics together: one's state is not whole for a reader while another's transaction of a process that was killed is open.
        for place in sorted(places, key=lambda place: (place[1], place[0])):
            self._begin_opening(place)
        self._reachable = True
        self._heard_s = time.monotonic()
        log.info("feed.assigned", extra={"partitions": [[tp.topic, tp.partition] for tp in assigned]})

    def _begin_opening(self, place: Place) -> None:
        with self._lock:
            generation = self._generations[place] = self._generations.get(place, 0) + 1
            self._openings[place] = self._opening.submit(self._open, place, generation, self._openings.get(place))

    def _open(self, place: Place, generation: int, before: "Future[None] | None", is_first: bool = True) -> None:
        """In a thread, once: it is open then, or another's, or it is tried again when the others have had their turn."""
        if before is not None:
            wait((before,))  # It began earlier and is of no use any more.
        if self._stopping.is_set() or self._generations.get(place) != generation:
            return
        offset: int | None = None
        try:
            offset = self._handlers.assign(*place)
        except (KafkaException, LoyaltyError) as error:
            if is_first:
                log.warning("feed.not_opened", extra={"stream": place[0], "partition": place[1], "error": str(error)})
        except Exception:
            log.exception("feed.open_failed", extra={"stream": place[0], "partition": place[1]})
        if offset is None:
            self._stopping.wait(OPEN_AGAIN_S)
        with self._lock:
            is_ours = self._generations.get(place) == generation
            if is_ours and offset is not None:
                self._opened.append((place, generation, offset))
            elif is_ours and not self._stopping.is_set():
                self._openings[place] = self._opening.submit(self._open, place, generation, None, False)
        if not is_ours:  # Whoever was told that it was given up may not have known of it then.
            self._handlers.lost([place])

    def _begin_opened(self, consumer: Consumer) -> None:
        with self._lock:
            opened, self._opened = self._opened, []
            again, self._to_open_again = self._to_open_again, []
        for place in again:
            if place in (self._assigned or ()):
                self._positions.pop(place, None)
                self._begin_opening(place)
        for place, generation, offset in opened:
            if self._generations.get(place) != generation:
                continue
            name = next(name for name, topic in self._topics.items() if topic.stream == place[0])
            self._positions[place] = offset
            try:
                consumer.seek(TopicPartition(name, place[1], offset))
                consumer.resume([TopicPartition(name, place[1])])
            except KafkaException as error:
                self._complain("begin", error)
                del self._positions[place]
                with self._lock:
                    self._opened.append((place, generation, offset))

    def _on_revoke(self, _: Consumer, revoked: list[TopicPartition]) -> None:
        self._forget(revoked)
        self._handlers.revoke([self._place(tp) for tp in revoked])

    def _on_lost(self, _: Consumer, lost: list[TopicPartition]) -> None:
        self._forget(lost)
        self._handlers.lost([self._place(tp) for tp in lost])

    def _forget(self, gone: list[TopicPartition]) -> None:
        for tp in gone:
            place = self._place(tp)
            with self._lock:
                self._generations[place] = self._generations.get(place, 0) + 1
            self._positions.pop(place, None)
            self._assigned = (self._assigned or set()) - {place}
            try:
                metrics.SINK_LAG.remove(self._sink, tp.topic, str(tp.partition))
            except KeyError:
                pass
        if gone:
            log.info("feed.revoked", extra={"partitions": [[tp.topic, tp.partition] for tp in gone]})

    def _place(self, tp: TopicPartition) -> Place:
        return self._topics[tp.topic].stream, tp.partition

    # What operators see.

    def _commit(self, consumer: Consumer) -> None:
        """So that tools which show a group's lag have something to show. Nothing here reads it."""
        names = {topic.stream: name for name, topic in self._topics.items()}
        positions = [TopicPartition(names[stream], number, offset) for (stream, number), offset in self._positions.items() if offset >= 0]
        if positions:
            try:
                consumer.commit(offsets=positions, asynchronous=True)
            except KafkaException as error:
                self._complain("commit", error)

    def _measure_lag(self, consumer: Consumer) -> None:
        for name, topic in self._topics.items():
            for (stream, number), position in list(self._positions.items()):
                if stream == topic.stream:
                    high = consumer.get_watermark_offsets(TopicPartition(name, number), cached=True)[1]
                    metrics.SINK_LAG.labels(self._sink, name, str(number)).set(max(0, high - position))

    def _check_broker(self, consumer: Consumer) -> None:
        self._heard_s = time.monotonic()
        try:
            consumer.list_topics(next(iter(self._topics)), timeout=ANSWER_S)
        except KafkaException as error:
            if self._reachable:
                log.warning("feed.kafka_unreachable", extra={"error": str(error)})
            self._reachable = False
        else:
            self._note_answer()

    def _note_answer(self) -> None:
        if not self._reachable:
            log.warning("feed.kafka_reachable")
        self._reachable = True

    def _complain(self, what: str, error: KafkaError | KafkaException) -> None:
        """Log the first failure of a kind; the next ones of a row say nothing new."""
        if what not in self._complaints:
            self._complaints.add(what)
            log.warning(f"feed.{what}_failed", extra={"error": str(error)})

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
