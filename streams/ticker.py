"""The worker's clock -> the ticks topic: for every partition that this worker owns, time comes as a record, like everything else.

A tick says no time: the broker's stamp on it does. Two workers may both tick a partition for a moment; ticks are idempotent.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from confluent_kafka import KafkaError, KafkaException, Producer

from schemas.codec import Codec
from schemas.records import Tick
from streams import topics
from streams.settings import Settings

log = logging.getLogger(__name__)

TICK_EVERY_S = 1.0
LOOK_EVERY_S = 0.01
DUE_MEMBERS_MAX = 50  # Some 15 ms of work, which is what a command may have to wait for.
# While more is due than a tick has room for, the next one follows when the last one is handled: never two in the log, where they would stand
# before what else comes. Few partitions catch up at once, and as long as a tick took, nothing follows it: the rest of the time is the traffic's.
CATCHING_UP_MAX = 2
LOST_AFTER_S = 5.0  # A tick that was not seen so long is on another worker's side of a rebalance.
OUTCOMES_MIN, OUTCOMES_MAX = 50, 1_000
ROWS_PER_OUTCOME = 100_000  # A walk through all answers takes a day: whatever is too old is deleted a day later at most.


@dataclass(slots=True)
class Pace:
    """One partition's ticks."""

    sent_s: float
    seen: int
    """Ticks that were handled when the last one was sent."""
    rest_until_s: float = 0.0
    under_way: bool = True


class Ticker:
    """Makes ticks until it is stopped."""

    def __init__(
        self,
        producer: Producer,
        settings: Settings,
        codec: Codec,
        *,
        owned: Callable[[], Iterable[int]],
        handled: Callable[[int], int],
        behind: Callable[[int], bool],
        rows_estimate: Callable[[int], int],
    ) -> None:
        """`handled(partition)`: how many ticks were handled; `behind(partition)`: the last one had not enough room; `rows_estimate(partition)`:
        rows of its tables, about."""
        self._producer = producer
        self._topic = topics.TICKS.name(settings.topic_prefix)
        self._codec = codec
        self._owned, self._handled, self._behind, self._rows_estimate = owned, handled, behind, rows_estimate
        self._paces: dict[int, Pace] = {}
        self._failing = False

    async def run(self) -> None:
        """Until it is cancelled. Never raises: without ticks what is due waits, and nothing else."""
        loop = asyncio.get_running_loop()
        while True:
            for partition in self.due(loop.time()):
                self._send(partition)
            self._producer.poll(0)
            await asyncio.sleep(LOOK_EVERY_S)

    def due(self, now_s: float) -> list[int]:
        """Partitions that are to have a tick now; the caller sends it."""
        owned = set(self._owned())
        self._paces = {partition: pace for partition, pace in self._paces.items() if partition in owned}
        for partition, pace in self._paces.items():
            if pace.under_way and (self._handled(partition) != pace.seen or now_s - pace.sent_s > LOST_AFTER_S):
                pace.under_way = False
                pace.rest_until_s = now_s + min(TICK_EVERY_S, now_s - pace.sent_s)
        catching_up = sum(pace.under_way and self._behind(partition) for partition, pace in self._paces.items())
        due = []
        # Who has waited longest is first.
        for partition in sorted(owned, key=lambda one: self._paces[one].sent_s if one in self._paces else 0.0):
            pace = self._paces.get(partition)
            if pace is not None:
                if pace.under_way:
                    continue
                if now_s - pace.sent_s < TICK_EVERY_S:
                    if not self._behind(partition) or catching_up >= CATCHING_UP_MAX or now_s < pace.rest_until_s:
                        continue
                    catching_up += 1
            self._paces[partition] = Pace(now_s, self._handled(partition))
            due.append(partition)
        return due

    def _send(self, partition: int) -> None:
        try:
            rows = self._rows_estimate(partition)
            outcomes_max = min(OUTCOMES_MAX, max(OUTCOMES_MIN, rows // ROWS_PER_OUTCOME))
            tick = Tick(partition=partition, due_members_max=DUE_MEMBERS_MAX, outcomes_max=outcomes_max)
            self._producer.produce(self._topic, self._codec.encode(tick), partition=partition, on_delivery=self._delivered)
        except (KafkaException, BufferError, KeyError) as error:  # KeyError: the partition was given up just now.
            self._report(str(error))

    def _delivered(self, error: KafkaError | None, _: object) -> None:
        if error is None:
            self._failing = False
        else:
            self._report(error.str())

    def _report(self, reason: str) -> None:
        if not self._failing:
            self._failing = True
            log.warning("ticks.failing", extra={"reason": reason})
