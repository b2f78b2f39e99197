"""Changelogs of partitions that other workers own -> warm copies of their states on this worker's disk, so that a take-over reads little.

A copy holds committed rows alone, each batch of them written with its changelog offset, as an owner's state does. So it cannot be wrong,
only late: whoever opens it as an owner fences the last one first and reads the rest. Nothing that fails here disturbs an owned partition.

Which copies a worker keeps is for Faust's assignor to say: it alone knows all members, says it in the same round in which it says who owns
what, and gives a partition to a worker with a copy if that one has room. Computed here, from what one worker knows, it could do neither.
"""

import asyncio
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException
from confluent_kafka import TopicPartition as KafkaTopicPartition

from streams.engine import metrics
from streams.engine.partition import Changelog, is_to_forget
from streams.engine.reader import CONFIG as READER_CONFIG
from streams.engine.reader import Unreadable
from streams.engine.state import PartitionState, StateFailed, StateFolder

log = logging.getLogger(__name__)

ROWS_MAX = 5_000  # Rows written at once.
POLL_S = 0.1  # A copy that is asked for is let go of within this, and one call to the broker.
RETRY_S, RETRY_MAX_S = 1.0, 30.0  # After a failure, twice as long each time; a state that its last owner is still closing opens at the first.
CONFIRM_S = 30.0  # How often it is noted up to when a copy has everything: far less than the changelogs keep deletions.
ASK_TIMEOUT_S = 5.0
WORKER = -1  # Failures of no copy in particular are counted under this.


class NotACopy(Exception):
    """The state holds what its changelog does not."""


@dataclass(slots=True)
class Copy:
    """One partition's state, and how far it follows."""

    state: PartitionState
    tables: dict[str, str]
    """Changelog topic -> table."""
    places: dict[str, int]
    """Changelog topic -> offset before which the state has everything. Past the last row, where a transaction's end follows it."""
    lags: dict[str, int] = field(default_factory=dict)
    """Changelog topic -> records that were not read yet at the last fetch."""
    ends: dict[str, int] = field(default_factory=dict)
    """Changelog topic -> its end at `asked_s`; empty while nothing is to be confirmed."""
    asked_s: float = 0.0
    """Wall clock."""
    ask_at_s: float = 0.0
    """Monotonic clock."""

    def has_reached(self) -> bool:
        """Whether it has everything that the changelogs held at `asked_s`."""
        return bool(self.ends) and all(self.places[topic] >= end for topic, end in self.ends.items())


class Standbys:
    """The copies of one worker: one thread and one consumer for all of them. Methods are called in the event loop, and do not block it."""

    def __init__(self, client: Mapping[str, Any], group_id: str, folder: StateFolder, changelogs: Callable[[], dict[str, Changelog]]) -> None:
        """`changelogs()` maps tables to their changelogs, as the broker describes them; it may raise."""
        self._client = dict(client)
        self._group_id = group_id
        self._folder = folder
        self._changelogs = changelogs
        self._wanted: set[int] = set()
        self._copies: dict[int, Copy] = {}
        self._opening: int | None = None
        """The partition whose state is being opened: it is locked already, or may be at any moment."""
        self._failures: Counter[int] = Counter()
        self._retry_at_s: dict[int, float] = {}
        self._changed = threading.Condition()
        self._stopping = False
        self._thread: threading.Thread | None = None

    def follow(self, partitions: set[int]) -> None:
        """Keep copies of exactly these from now on."""
        with self._changed:
            self._wanted = set(partitions)
            if partitions and self._thread is None and not self._stopping:
                self._thread = threading.Thread(target=self._run, name="standby", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    async def let_go(self, partition: int) -> None:
        """Return when the partition's state is closed here."""
        with self._changed:
            self._wanted.discard(partition)
            self._changed.notify_all()
        await asyncio.to_thread(self._wait_until, lambda: partition not in self._copies and partition != self._opening)

    async def stop(self) -> None:
        """Close all copies, for good."""
        with self._changed:
            self._wanted.clear()
            self._stopping = True
            self._changed.notify_all()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)

    def wanted(self) -> set[int]:
        """Partitions of which a copy is kept, open or not."""
        return self._wanted | self._copies.keys()

    def copies(self) -> set[int]:
        """Partitions of which a copy is open."""
        return set(self._copies)

    def _wait_until(self, condition: Callable[[], bool]) -> None:
        with self._changed:
            self._changed.wait_for(lambda: condition() or self._thread is None or not self._thread.is_alive())

    # All below is in the thread.

    def _run(self) -> None:
        """Never raises."""
        while not self._stopping:
            failure: Exception | None = None
            try:
                consumer = Consumer(self._client | READER_CONFIG | {"group.id": self._group_id})
                try:
                    self._follow(consumer)
                finally:
                    self._close_all()  # Before anything is waited for: an owner may be waiting for one of them.
                    consumer.close()
            except Exception as error:  # The broker is away, or a changelog: the copies only get late.
                failure = error
            if failure is not None:
                delay_s = self._failed(WORKER, failure)
                with self._changed:
                    self._changed.wait_for(lambda: self._stopping, delay_s)

    def _follow(self, consumer: Consumer) -> None:
        while not self._stopping:
            if self._open_and_close(consumer):
                consumer.assign([KafkaTopicPartition(topic, number, place) for number, copy in self._copies.items() for topic, place in copy.places.items()])
            if not self._copies:
                with self._changed:
                    self._changed.wait(POLL_S if self._wanted else RETRY_S)
                continue
            self._write(consumer, consumer.consume(ROWS_MAX, POLL_S))
            self._ask(consumer)
            self._confirm()

    def _open_and_close(self, consumer: Consumer) -> bool:
        """Whether the copies changed. Opens one at a time: whoever waits for another waits for one opening at most."""
        with self._changed:
            gone = self._copies.keys() - self._wanted
            now_s = time.monotonic()
            due = (partition for partition in sorted(self._wanted - self._copies.keys()) if self._retry_at_s.get(partition, 0.0) <= now_s)
            partition = self._opening = next(due, None)
        for one in gone:
            self._close(one)
        if partition is None:
            return bool(gone)
        copy: Copy | None = None
        try:
            copy = self._open(consumer, partition)
        except (StateFailed, NotACopy, KafkaException) as error:  # Its last owner here may still be closing it; or the disk is full.
            self._failed(partition, error)
        finally:
            with self._changed:
                self._opening = None
                if copy is not None:
                    self._copies[partition] = copy
                self._changed.notify_all()
        if copy is not None:
            metrics.STANDBY_PARTITIONS.set(len(self._copies))
            log.info("engine.standby_opened", extra={"partition": partition, "rows": copy.state.rows_estimate()})
        return bool(gone) or copy is not None

    def _open(self, consumer: Consumer, partition: int) -> Copy:
        changelogs = self._changelogs()
        state = self._folder.open(partition)
        places: dict[str, int] = {}
        try:
            if state.age_s() is None:  # Nothing was read yet, so what is deleted from now on will be seen.
                state.apply({}, {}, time.time())
            self._check_topics(state, changelogs)
            for table, changelog in changelogs.items():
                low, high = consumer.get_watermark_offsets(KafkaTopicPartition(changelog.topic, partition), timeout=ASK_TIMEOUT_S)
                place = state.next_offset(table) or 0
                if place > high:
                    raise NotACopy(f"it holds rows that {changelog.topic} does not")
                places[changelog.topic] = max(low, place)
            state.set_topic_ids({table: changelog.topic_id for table, changelog in changelogs.items()})
        except BaseException as error:
            state.close()
            self._drop_damaged(partition, error)
            raise
        return Copy(state, {changelog.topic: table for table, changelog in changelogs.items()}, places)

    def _check_topics(self, state: PartitionState, changelogs: Mapping[str, Changelog]) -> None:
        """Raises NotACopy for one of another topic. It stays as it is: it may be all that is left of what the changelog lost, and whoever
        opens it as an owner stops and says what to do."""
        for table, changelog in changelogs.items():
            if state.topic_id(table) not in (None, changelog.topic_id):
                raise NotACopy(f"{changelog.topic} was created anew")

    def _write(self, consumer: Consumer, messages: list[Any]) -> None:
        rows: dict[int, dict[str, dict[bytes, bytes | None]]] = {}
        next_offsets: dict[int, dict[str, int]] = {}
        forget: dict[int, dict[str, set[bytes]]] = {}
        reached: dict[tuple[int, str], int] = {}
        failures: dict[int, Exception] = {}
        for message in messages:
            error, partition, topic = message.error(), message.partition(), message.topic()
            copy = self._copies.get(partition)
            if copy is None:  # It was given up a moment ago; or a broker is away, which passes.
                continue
            if error is None:
                table = copy.tables[topic]
                rows.setdefault(partition, {}).setdefault(table, {})[message.key()] = message.value()
                if is_to_forget(message):
                    forget.setdefault(partition, {}).setdefault(table, set()).add(message.key())
                next_offsets.setdefault(partition, {})[table] = reached[partition, topic] = message.offset() + 1
            elif error.code() == KafkaError._PARTITION_EOF:
                reached[partition, topic] = message.offset()
            else:
                failures[partition] = KafkaException(error)
        for partition, changed in rows.items():
            try:
                self._copies[partition].state.apply(changed, next_offsets[partition], None, forget=forget.get(partition))
                metrics.STANDBY_ROWS.inc(sum(map(len, changed.values())))
            except StateFailed as error:
                failures[partition] = error
        for partition, failure in failures.items():
            self._give_up(partition, failure)
        self._note_places(consumer, reached)

    def _note_places(self, consumer: Consumer, reached: Mapping[tuple[int, str], int]) -> None:
        for (partition, topic), place in reached.items():
            copy = self._copies.get(partition)
            if copy is None:
                continue
            _, high = consumer.get_watermark_offsets(KafkaTopicPartition(topic, partition), cached=True)  # As of the last fetch.
            copy.places[topic] = place
            copy.lags[topic] = max(0, high - place)
            metrics.STANDBY_LAG.labels(partition).set(sum(copy.lags.values()))

    def _ask(self, consumer: Consumer) -> None:
        """Ask where the changelogs of one copy end now, the one that waits longest for it, and whether they still are the same."""
        now_s = time.monotonic()
        due = [(copy.ask_at_s, partition) for partition, copy in self._copies.items() if not copy.ends and copy.ask_at_s <= now_s]
        if not due:
            return
        _, partition = min(due)
        copy, asked_s = self._copies[partition], time.time()
        try:
            self._check_topics(copy.state, self._changelogs())
            places = {topic: KafkaTopicPartition(topic, partition) for topic in copy.tables}
            ends = {topic: consumer.get_watermark_offsets(place, timeout=ASK_TIMEOUT_S)[1] for topic, place in places.items()}
        except (KafkaException, NotACopy, StateFailed) as error:
            self._give_up(partition, error)
            return
        copy.asked_s, copy.ends = asked_s, ends

    def _confirm(self) -> None:
        """Note in the copies that had everything when it was asked for that they did.

        Under load a changelog's end is never reached: that it was passed is enough. Not known for longer than the changelog keeps deletions,
        a copy may have missed one, whatever it has read since: it is opened again, which empties it.
        """
        for partition, copy in list(self._copies.items()):
            if not copy.has_reached():
                continue
            try:
                if (copy.state.age_s() or 0.0) > self._folder.stale_after_s:
                    self._close(partition)
                    continue
                copy.state.apply({}, {}, copy.asked_s)
            except StateFailed as error:
                self._give_up(partition, error)
                continue
            copy.ends, copy.ask_at_s = {}, time.monotonic() + CONFIRM_S
            del self._failures[partition], self._failures[WORKER]  # A Counter forgives what it does not hold.

    def _failed(self, of: int, error: Exception) -> float:
        """Count and tell a failure of a copy or of all; how long to wait."""
        self._failures[of] += 1
        delay_s = min(RETRY_MAX_S, RETRY_S * 2 ** min(self._failures[of] - 1, 10))
        self._retry_at_s[of] = time.monotonic() + delay_s
        metrics.STANDBY_FAILURES.inc()
        expected = isinstance(error, KafkaException | StateFailed | NotACopy | Unreadable | OSError)
        reason = f"{type(error).__name__}: {error}"
        log.warning(
            "engine.standby_failed",
            extra={"partition": None if of == WORKER else of, "reason": reason, "retry_after_s": delay_s},
            exc_info=None if expected else error,
        )
        return delay_s

    def _give_up(self, partition: int, error: Exception) -> None:
        self._close(partition, error)
        self._failed(partition, error)

    def _drop_damaged(self, partition: int, error: BaseException) -> None:
        """Empty a closed state that cannot be read or written. One that is sound, on a full disk or in another's hands, is kept."""
        if not isinstance(error, StateFailed) or error.may_pass:
            return
        try:
            self._folder.open_empty(partition).close()
        except StateFailed:
            log.warning("engine.state_dropped", extra={"partition": partition, "reason": str(error)}, exc_info=True)

    def _close_all(self) -> None:
        for partition in list(self._copies):
            self._close(partition)

    def _close(self, partition: int, error: Exception | None = None) -> None:
        copy = self._copies[partition]
        copy.state.close()
        if error is not None:
            self._drop_damaged(partition, error)  # While nobody else may open it.
        metrics.STANDBY_LAG.labels(partition).set(0)
        with self._changed:
            del self._copies[partition]
            self._changed.notify_all()
        metrics.STANDBY_PARTITIONS.set(len(self._copies))
