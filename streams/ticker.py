"""The worker's clock -> the ticks topic: for every partition that this worker owns, time comes as a record, like everything else.

A tick says no time: the broker's stamp on it does. Two workers may both tick a partition for a moment; ticks are idempotent.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable

from confluent_kafka import KafkaError, KafkaException, Producer

from schemas.codec import Codec
from schemas.records import Tick
from streams import topics
from streams.settings import Settings

log = logging.getLogger(__name__)

TICK_EVERY_S = 1.0
CATCH_UP_EVERY_S = 0.02  # While more is due than a tick has room for. Between two ticks, what else came is handled.
DUE_MEMBERS_MAX = 100  # Some 20 ms of work, which is what a command may have to wait for.
OUTCOMES_MIN, OUTCOMES_MAX = 50, 1_000
ROWS_PER_OUTCOME = 100_000  # A walk through all answers takes a day: whatever is too old is deleted a day later at most.


class Ticker:
    """Makes ticks until it is stopped."""

    def __init__(
        self,
        producer: Producer,
        settings: Settings,
        codec: Codec,
        *,
        owned: Callable[[], Iterable[int]],
        behind: Callable[[int], bool],
        rows_estimate: Callable[[int], int],
    ) -> None:
        """`behind(partition)`: the last tick had not enough room. `rows_estimate(partition)`: rows of its tables, about."""
        self._producer = producer
        self._topic = topics.TICKS.name(settings.topic_prefix)
        self._codec = codec
        self._owned, self._behind, self._rows_estimate = owned, behind, rows_estimate
        self._failing = False

    async def run(self) -> None:
        """Until it is cancelled. Never raises: without ticks what is due waits, and nothing else."""
        last_s: dict[int, float] = {}
        loop = asyncio.get_running_loop()
        while True:
            for partition in tuple(self._owned()):
                every_s = CATCH_UP_EVERY_S if self._behind(partition) else TICK_EVERY_S
                if loop.time() - last_s.get(partition, -TICK_EVERY_S) >= every_s:
                    last_s[partition] = loop.time()
                    self._send(partition)
            self._producer.poll(0)
            await asyncio.sleep(CATCH_UP_EVERY_S)

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
