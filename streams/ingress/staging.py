"""Whether a command waits for a schedule, so that no command overtakes an earlier one of its member that still waits.

While a stream goes back to real time, a member's commands follow the earlier ones into the topic where those wait, until the scheduler has
said that it has read past them. That holds for what this process has sent, and for all that waited when it started; what two processes
take in at once has no order.
"""

from collections import Counter
from functools import partial

from confluent_kafka import KafkaException, TopicPartition

from streams import kafka
from streams.errors import UnavailableError
from streams.ingress.publisher import Acknowledgement
from streams.settings import Settings
from streams.sync import names
from streams.sync.control import SyncControlLog

ASK_TIMEOUT_S = 10.0

Place = tuple[int, int]
"""Partition and offset."""


class Staging:
    """Belongs to the event loop, but for `read_ends`."""

    def __init__(self, settings: Settings, control: SyncControlLog) -> None:
        self._settings = settings
        self._control = control
        self._ends: dict[str, dict[int, int]] = {stream: {} for stream in names.INBOUND}
        """Stream -> partition -> the offset before which commands have waited, as far as is known here without their keys."""
        self._under_way: Counter[tuple[str, bytes]] = Counter()
        self._places: dict[tuple[str, bytes], Place] = {}
        """Schedule and key -> where its last command waits, while the schedule is on its way back to real time."""
        control.on_change(self._forget_what_was_read)

    def read_ends(self) -> None:
        """Take note of what waits already. Blocks. Raises UnavailableError."""
        consumer = kafka.consumer(self._settings, "ingress-staging")
        try:
            for stream, topic in names.STAGING.items():
                name = topic.name(self._settings.topic_prefix)
                for number in range(self._settings.kafka_partitions):
                    self._ends[stream][number] = consumer.get_watermark_offsets(TopicPartition(name, number), timeout=ASK_TIMEOUT_S)[1]
        except KafkaException as error:
            raise UnavailableError(f"Kafka at LOYALTY_KAFKA_BOOTSTRAP_SERVERS={self._settings.kafka_bootstrap_servers}: {error}") from error
        finally:
            consumer.close()

    def schedule_of(self, stream: str, source_system: str, key: bytes) -> str:
        """Whose schedule a command waits for: that of its source, if it has one, else its stream's; empty: it does not wait."""
        name = self._control.schedule_of(stream, source_system)
        if not self._control.cadence(name).is_realtime:
            return name
        return next((one for one in (f"{stream}/{source_system}", stream) if self._is_behind(one, key)), "")

    def sent(self, schedule: str, key: bytes) -> "partial[None]":
        """A command of this key is on its way to wait; call what is returned with its place when it has one, or with None."""
        self._under_way[schedule, key] += 1
        return partial(self._arrived, schedule, key)

    def _arrived(self, schedule: str, key: bytes, at: Acknowledgement | None) -> None:
        self._under_way[schedule, key] -= 1
        if not self._under_way[schedule, key]:
            del self._under_way[schedule, key]
        if at is None:
            return
        if self._control.cadence(schedule).is_realtime:
            self._places[schedule, key] = (at.partition, at.offset)
        else:
            ends = self._ends[names.stream_of(schedule)]
            ends[at.partition] = max(ends.get(at.partition, 0), at.offset + 1)

    def _is_behind(self, schedule: str, key: bytes) -> bool:
        """Whether something of this key may still wait for a schedule that is off."""
        read_to = self._control.read_to(schedule)
        if read_to is None or not self._control.cadence(schedule).is_realtime:
            return False
        if not self._control.is_drained(schedule) or self._under_way[schedule, key]:
            return True
        place = self._places.get((schedule, key))
        if place is not None:
            return place[1] >= read_to.get(place[0], 0)
        return any(end > read_to.get(number, 0) for number, end in self._ends[names.stream_of(schedule)].items())

    def _forget_what_was_read(self) -> None:
        for (schedule, key), (partition, offset) in list(self._places.items()):
            read_to = self._control.read_to(schedule) or {}
            if offset < read_to.get(partition, 0):
                del self._places[schedule, key]
            elif not self._control.cadence(schedule).is_realtime:
                del self._places[schedule, key]
                ends = self._ends[names.stream_of(schedule)]
                ends[partition] = max(ends.get(partition, 0), offset + 1)
