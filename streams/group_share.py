"""Which of several processes does what: each has some partitions of a topic in one consumer group, and leads whatever they stand for.

Nothing is read here: what is in the topic, others follow. The group is all that is wanted.
"""

import asyncio
import logging
import threading
from collections.abc import Callable

from confluent_kafka import Consumer, KafkaException, TopicPartition

from streams import kafka
from streams.settings import Settings
from streams.topics import Topic

log = logging.getLogger(__name__)

SESSION_TIMEOUT_MS = 6_000  # After a kill, another one leads this soon.
POLL_S = 0.1
RECONNECT_S = 0.5


class GroupShare:
    """Follows the group in a thread and calls back in the loop in which it is made."""

    def __init__(self, settings: Settings, group: str, topic: Topic, on_change: Callable[[frozenset[int]], None]) -> None:
        """`on_change(partitions)`: those that this process has now; only when they are others than before."""
        self._settings = settings
        self._group = group
        self._topic = topic.name(settings.topic_prefix)
        self._on_change = on_change
        self._loop = asyncio.get_running_loop()
        self._has_joined = False
        self._partitions: frozenset[int] = frozenset()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"group-{group}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def has_joined(self) -> bool:
        """Whether the group has answered: with partitions, or to stand by."""
        return self._has_joined

    async def close(self) -> None:
        """Leave the group, so that others have the partitions at once."""
        self._closing.set()
        if self._thread.is_alive():
            await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        while not self._closing.is_set():
            consumer = None
            try:
                consumer = kafka.consumer(
                    self._settings, self._group, session_timeout_ms=SESSION_TIMEOUT_MS, heartbeat_interval_ms=SESSION_TIMEOUT_MS // 6
                )
                consumer.subscribe([self._topic], on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._revoked)
                while not self._closing.is_set():
                    consumer.poll(POLL_S)
            except (KafkaException, RuntimeError) as error:
                log.warning("group.interrupted", extra={"group": self._group, "reason": str(error)})
                self._closing.wait(RECONNECT_S)
            finally:
                self._tell(frozenset())
                if consumer is not None:
                    consumer.close()

    def _assigned(self, consumer: Consumer, assigned: list[TopicPartition]) -> None:
        consumer.assign(assigned)
        if assigned:
            consumer.pause(assigned)
        self._has_joined = True
        self._tell(frozenset(one.partition for one in assigned))

    def _revoked(self, consumer: Consumer, _: list[TopicPartition]) -> None:
        self._tell(frozenset())
        consumer.unassign()

    def _tell(self, partitions: frozenset[int]) -> None:
        if partitions == self._partitions:
            return
        self._partitions = partitions
        try:
            self._loop.call_soon_threadsafe(self._on_change, partitions)
        except RuntimeError:  # The loop is closed: nobody asks any more.
            pass
