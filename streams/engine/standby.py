"""Changelogs of partitions that other workers own -> warm copies of their states on this worker's disk, so that a take-over reads little.

A copy holds committed rows alone, each batch of them written with its changelog offset, as an owner's state does. So it cannot be wrong,
only late: whoever opens it as an owner fences the last one first and reads the rest. Nothing that fails here disturbs an owned partition.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException
from confluent_kafka import TopicPartition as KafkaTopicPartition

from streams.engine import metrics
from streams.engine.partition import Changelog
from streams.engine.reader import CONFIG as READER_CONFIG
from streams.engine.state import NO_SPACE, PartitionState, StateFailed, StateFolder

log = logging.getLogger(__name__)

ROWS_MAX = 5_000  # Rows written at once.
POLL_S = 0.1  # A copy that is asked for is let go of within this.
RETRY_S = 2.0  # After a failure; a state that its last owner is still closing opens then.
CONFIRM_S = 30.0  # How often a copy that nothing is written to is confirmed to be up to date.
ASK_TIMEOUT_S = 10.0


@dataclass(slots=True)
class Copy:
    """One partition's state, and how far it follows."""

    state: PartitionState
    tables: dict[str, str]
    """Changelog topic -> table."""
    ends: dict[str, int] = field(default_factory=dict)
    """Changelog topic -> its end when it was last reached; none while rows are still to be read."""
    confirmed_s: float = 0.0


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
        self._retry_at_s: dict[int, float] = {}
        self._changed = threading.Condition()
        self._stopping = False
        self._thread: threading.Thread | None = None

    def follow(self, partitions: set[int]) -> None:
        """Keep copies of exactly these from now on."""
        with self._changed:
            self._wanted = set(partitions)
            if partitions and self._thread is None:
                self._thread = threading.Thread(target=self._run, name="standby", daemon=True)
                self._thread.start()
            self._changed.notify_all()
        metrics.STANDBY_PARTITIONS.set(len(partitions))

    async def let_go(self, partition: int) -> None:
        """Return when the partition's state is closed here."""
        with self._changed:
            self._wanted.discard(partition)
            self._changed.notify_all()
        await asyncio.to_thread(self._wait_until, lambda: partition not in self._copies)

    async def stop(self) -> None:
        """Close all copies."""
        with self._changed:
            self._wanted.clear()
            self._stopping = True
            self._changed.notify_all()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)

    def copies(self) -> set[int]:
        """Partitions of which a copy is open."""
        return set(self._copies)

    def _wait_until(self, condition: Callable[[], bool]) -> None:
        with self._changed:
            self._changed.wait_for(lambda: condition() or self._thread is None or not self._thread.is_alive())

    def _run(self) -> None:
        """In the thread. Never raises."""
        while not self._stopping:
            try:
                consumer = Consumer(self._client | READER_CONFIG | {"group.id": self._group_id})
                try:
                    self._follow(consumer)
                finally:
                    consumer.close()
            except Exception as error:  # The broker is away, or a changelog: the copies only get late.
                expected = isinstance(error, KafkaException | StateFailed | OSError)
                log.warning("engine.standby_failed", extra={"reason": f"{type(error).__name__}: {error}"}, exc_info=not expected)
                with self._changed:
                    self._changed.wait_for(lambda: self._stopping, RETRY_S)
            finally:
                for partition in list(self._copies):
                    self._close(partition)

    def _follow(self, consumer: Consumer) -> None:
        changelogs = self._changelogs()
        while not self._stopping:
            if self._open_and_close(consumer, changelogs):
                self._assign(consumer)
            if not self._copies:
                with self._changed:
                    self._changed.wait(RETRY_S)
                continue
            self._write(consumer.consume(ROWS_MAX, POLL_S))
            self._confirm(consumer)

    def _open_and_close(self, consumer: Consumer, changelogs: Mapping[str, Changelog]) -> bool:
        """Whether the copies changed."""
        with self._changed:
            wanted = set(self._wanted)
        gone = self._copies.keys() - wanted
        for partition in gone:
            self._close(partition)
        now_s = time.monotonic()
        opened = False
        for partition in sorted(wanted - self._copies.keys()):
            if self._retry_at_s.get(partition, 0.0) > now_s:
                continue
            try:
                copy = self._open(consumer, partition, changelogs)
            except StateFailed as error:  # Its last owner here may still be closing it; or the disk is full.
                self._later(partition, str(error))
                continue
            with self._changed:
                if partition not in self._wanted:  # It was asked for meanwhile.
                    copy.state.close()
                    continue
                self._copies[partition] = copy
            opened = True
            log.info("engine.standby_opened", extra={"partition": partition, "rows": copy.state.rows_estimate()})
        return opened or bool(gone)

    def _open(self, consumer: Consumer, partition: int, changelogs: Mapping[str, Changelog]) -> Copy:
        state = self._folder.open(partition)
        try:
            for table, changelog in changelogs.items():
                _, high = consumer.get_watermark_offsets(KafkaTopicPartition(changelog.topic, partition), timeout=ASK_TIMEOUT_S)
                if state.topic_id(table) not in (None, changelog.topic_id) or (state.next_offset(table) or 0) > high:
                    # Whoever opens it as an owner stops and says what to do: it may be the only copy of what the changelog lost.
                    raise StateFailed(f"it holds rows that {changelog.topic} does not")
            state.set_topic_ids({table: changelog.topic_id for table, changelog in changelogs.items()})
        except BaseException:
            state.close()
            raise
        return Copy(state, {changelog.topic: table for table, changelog in changelogs.items()})

    def _assign(self, consumer: Consumer) -> None:
        places = []
        for partition, copy in self._copies.items():
            copy.ends.clear()
            for topic, table in copy.tables.items():
                offset = copy.state.next_offset(table)
                places.append(KafkaTopicPartition(topic, partition, OFFSET_BEGINNING if offset is None else offset))
        consumer.assign(places)

    def _write(self, messages: list[Any]) -> None:
        rows: dict[int, dict[str, dict[bytes, bytes | None]]] = {}
        next_offsets: dict[int, dict[str, int]] = {}
        for message in messages:
            error, partition, topic = message.error(), message.partition(), message.topic()
            copy = self._copies.get(partition)
            if copy is None:
                continue
            if error is None:
                table = copy.tables[topic]
                rows.setdefault(partition, {}).setdefault(table, {})[message.key()] = message.value()
                next_offsets.setdefault(partition, {})[table] = message.offset() + 1
                copy.ends.pop(topic, None)
            elif error.code() == KafkaError._PARTITION_EOF:
                copy.ends[topic] = message.offset()
            else:
                raise KafkaException(error)
        for partition, changed in rows.items():
            try:
                self._copies[partition].state.apply(changed, next_offsets[partition], None)
                metrics.STANDBY_ROWS.inc(sum(map(len, changed.values())))
            except StateFailed as error:
                self._close(partition)
                if NO_SPACE not in str(error):
                    self._folder.open_empty(partition).close()
                self._later(partition, str(error))

    def _confirm(self, consumer: Consumer) -> None:
        """Note in the copies that have everything that they do: a copy that is not known to for long is not trusted any more."""
        now_s = time.monotonic()
        for partition, copy in self._copies.items():
            if now_s - copy.confirmed_s < CONFIRM_S or len(copy.ends) < len(copy.tables):
                continue
            as_of_s, lag = time.time(), 0
            for topic, end in copy.ends.items():
                _, high = consumer.get_watermark_offsets(KafkaTopicPartition(topic, partition), timeout=ASK_TIMEOUT_S)
                lag += max(0, high - end)
            metrics.STANDBY_LAG.labels(partition).set(lag)
            if lag == 0:
                copy.state.apply({}, {}, as_of_s)
            copy.confirmed_s = now_s

    def _later(self, partition: int, reason: str) -> None:
        self._retry_at_s[partition] = time.monotonic() + RETRY_S
        log.warning("engine.standby_failed", extra={"partition": partition, "reason": reason})

    def _close(self, partition: int) -> None:
        copy = self._copies[partition]
        copy.state.close()
        metrics.STANDBY_LAG.labels(partition).set(0)
        with self._changed:
            del self._copies[partition]
            self._changed.notify_all()
