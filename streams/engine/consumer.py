"""Faust's consumer, for the group's membership alone: which partitions are ours. Records are read by streams/engine/reader.py."""

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import aiokafka
import faust
from faust.transport.consumer import Fetcher
from faust.transport.drivers import aiokafka as driver
from faust.types import TP

from streams.engine.reader import Unreadable

if TYPE_CHECKING:
    from streams.engine.app import App

log = logging.getLogger(__name__)

TEND_EVERY_S = 0.1  # How often failed partitions are looked at; a bound of what a reset takes beyond its back-off.


class ConsumerThread(driver.AIOKafkaConsumerThread):
    """Faust's consumer thread. It joins the group, sends heartbeats and fetches nothing."""

    mundane_level = "debug"

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        consumer = self._ensure_consumer()
        consumer.pause(*(aiokafka.TopicPartition(tp.topic, tp.partition) for tp in assigned))
        await super().on_partitions_assigned(assigned, generation_id)

    async def show_life(self) -> None:
        """The group expels a member whose program does not fetch any more; ours does, but not here."""
        with self._ensure_consumer()._fetcher._subscriptions.fetch_context():
            pass


class Consumer(driver.Consumer):
    """Group membership is Faust's and aiokafka's; reading, positions and commits are the engine's."""

    mundane_level = "debug"

    app: "App"

    def _new_consumer_thread(self) -> ConsumerThread:
        return ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    async def commit(self, *args: Any, **kwargs: Any) -> bool:
        """Nothing to do: offsets are committed in the units' transactions."""
        return True

    def ack(self, message: Any) -> bool:
        message.acked = True
        self._unacked_messages.discard(message)
        return True

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Faust's livelock warning looks at acknowledged offsets, which we do not use; our own lag metric tells."""

    async def perform_seek(self) -> None:
        """Nothing to do: the partitions' readers start where their owners say."""

    async def _drain_messages(self, fetcher: Fetcher) -> None:
        """Faust's fetch loop: here it only looks after the partitions, for ever."""
        try:
            while not (self.should_stop or fetcher.should_stop):
                await self._thread.call_thread(self._thread.show_life)  # type: ignore[attr-defined]
                try:
                    await self.app.partitions.tend()
                except Unreadable as error:
                    log.critical("engine.stopped", extra={"reason": str(error)})
                    await self.app.crash(error)
                    return
                except Exception:  # A bug in the engine: the next round tries again.
                    log.error("engine.tend_failed", exc_info=True)
                await self.sleep(TEND_EVERY_S)
        except self.consumer_stopped_errors:
            if not self.transport.app.should_stop:
                raise
        except asyncio.CancelledError:
            # Faust takes a cancellation during a rebalance for a crash of the app, also when it is the app that stops.
            if not (fetcher.should_stop or self.transport.app.should_stop):
                raise


class Transport(driver.Transport):
    """Faust's aiokafka transport with the consumer above."""

    Consumer = Consumer


class UnitSchema(faust.Schema):  # type: ignore[misc]
    """The message's value already is the Unit."""

    def compile(self, app: Any, *, on_key_decode_error: Any = None, on_value_decode_error: Any = None, default_propagate: bool = False) -> Any:
        create_event = app.create_event

        async def decode(message: Any, *, propagate: bool = False) -> Any:
            return create_event(None, message.value, message.headers, message)

        return decode
