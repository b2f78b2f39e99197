"""Topics from one place to another, every committed record, in the order of each partition."""

import time
from collections.abc import Callable, Mapping
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, TopicPartition

from streams import kafka
from streams.errors import UnavailableError
from streams.settings import Settings

RECORDS_MAX = 10_000  # Read at once.
TIMEOUT_S = 30.0  # Without a record.

Range = tuple[int, int]
"""First offset, and the one behind the last."""
Advance = Callable[[int, int], None]
"""(done, total) of a step; total 0: not known."""


class Log:
    """Methods raise UnavailableError."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def ranges(self, topic: str) -> dict[int, Range]:
        """Partition -> what it holds now."""
        with_consumer = self._consumer()
        try:
            return {
                number: with_consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=TIMEOUT_S)
                for number in range(self._settings.kafka_partitions)
            }
        except KafkaException as error:
            raise self._unavailable(topic, error) from error
        finally:
            with_consumer.close()

    def committed(self, group: str, topic: str) -> dict[int, int]:
        """Partition -> offset up to which a group has come; 0 where it has not begun."""
        places = [TopicPartition(topic, number) for number in range(self._settings.kafka_partitions)]
        return {number: offset for (_, number), offset in kafka.group_offsets(self._settings, group, places, timeout_s=TIMEOUT_S).items()}

    def read(
        self, topic: str, ranges: Mapping[int, Range], take: Callable[[Message], None], advance: Advance = lambda done, total: None
    ) -> None:
        """Every record of the ranges, tombstones included, is taken once."""
        left = {number: bounds for number, bounds in ranges.items() if bounds[0] < bounds[1]}
        total = sum(high - low for low, high in left.values())
        places = {number: low for number, (low, _) in left.items()}
        consumer = self._consumer()
        try:
            consumer.assign([TopicPartition(topic, number, low) for number, (low, _) in left.items()])
            heard_s = time.monotonic()
            while left:
                for message in consumer.consume(RECORDS_MAX, 0.2):
                    number, error = message.partition(), message.error()
                    if error is not None and error.code() != KafkaError._PARTITION_EOF:
                        raise KafkaException(error)
                    heard_s = time.monotonic()
                    if number not in left:
                        continue
                    if error is None and message.offset() < left[number][1]:
                        take(message)
                    # An end of a transaction has an offset, too: the end of a partition is told by itself.
                    places[number] = message.offset() + (error is None)
                    if places[number] >= left[number][1]:
                        del left[number]
                advance(total - sum(high - max(low, places[number]) for number, (low, high) in left.items()), total)
                if time.monotonic() - heard_s > TIMEOUT_S:
                    raise UnavailableError(f"no record of {topic} for {TIMEOUT_S:.0f} s")
        except KafkaException as error:
            raise self._unavailable(topic, error) from error
        finally:
            consumer.close()

    def _consumer(self) -> Any:
        return kafka.consumer(self._settings, "agreement", enable_partition_eof=True, auto_offset_reset="error", queued_max_messages_kbytes=65536)

    def _unavailable(self, topic: str, error: KafkaException) -> UnavailableError:
        where = f"LOYALTY_KAFKA_BOOTSTRAP_SERVERS={self._settings.kafka_bootstrap_servers}"
        return UnavailableError(f"{topic} cannot be read at {where}: {error.args[0].str()}")


def reached(ranges: Mapping[int, Range], places: Mapping[int, int]) -> dict[int, Range]:
    """The ranges up to these places, where they end before."""
    return {number: (low, max(low, min(high, places.get(number, 0)))) for number, (low, high) in ranges.items()}
