"""One of several schedulers leads: the one that has partition 0 of the sync-control topic in their consumer group."""

import asyncio
import logging
import threading
from collections.abc import Callable

from confluent_kafka import Consumer, KafkaException, TopicPartition

from streams import kafka, topics
from streams.settings import Settings

log = logging.getLogger(__name__)

GROUP = "scheduler"
LEADS_BY = 0
SESSION_TIMEOUT_MS = 6_000  # After a kill, another one leads this soon.
POLL_S = 0.1
RECONNECT_S = 0.5


class Leadership:
    """Follows the group in a thread and calls back in the loop in which it is made."""

    def __init__(self, settings: Settings, on_change: Callable[[bool], None]) -> None:
        """`on_change(leads)`: only when that is another than before."""
        self._settings = settings
        self._on_change = on_change
        self._loop = asyncio.get_running_loop()
        self._has_joined = False
        self._leads = False
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="leadership", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def has_joined(self) -> bool:
        """Whether the group has answered: with the lead, or to stand by."""
        return self._has_joined

    async def close(self) -> None:
        """Leave the group, so that another one leads at once."""
        self._closing.set()
        if self._thread.is_alive():
            await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        while not self._closing.is_set():
            consumer = None
            try:
                consumer = kafka.consumer(self._settings, GROUP, session_timeout_ms=SESSION_TIMEOUT_MS, heartbeat_interval_ms=SESSION_TIMEOUT_MS // 6)
                topic = topics.SYNC_CONTROL.name(self._settings.topic_prefix)
                consumer.subscribe([topic], on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._revoked)
                while not self._closing.is_set():
                    consumer.poll(POLL_S)
            except (KafkaException, RuntimeError) as error:
                log.warning("scheduler.group_interrupted", extra={"reason": str(error)})
                self._closing.wait(RECONNECT_S)
            finally:
                self._tell(False)
                if consumer is not None:
                    consumer.close()

    def _assigned(self, consumer: Consumer, assigned: list[TopicPartition]) -> None:
        consumer.assign(assigned)
        if assigned:
            consumer.pause(assigned)  # What is in them, others follow; the group is all that is wanted here.
        self._has_joined = True
        self._tell(any(one.partition == LEADS_BY for one in assigned))

    def _revoked(self, consumer: Consumer, _: list[TopicPartition]) -> None:
        self._tell(False)
        consumer.unassign()

    def _tell(self, leads: bool) -> None:
        if leads == self._leads:
            return
        self._leads = leads
        try:
            self._loop.call_soon_threadsafe(self._on_change, leads)
        except RuntimeError:  # The loop is closed: nobody asks any more.
            pass
