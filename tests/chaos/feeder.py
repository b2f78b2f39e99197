"""Seeded traffic from a process of its own: as fast as the pipeline answers, never further ahead than it is told."""

import os
import time
from dataclasses import dataclass
from multiprocessing.sharedctypes import Synchronized
from typing import Any

from schemas.codec import Codec
from schemas.contract import member_key
from schemas.records import Enrolment
from schemas.registry import LocalRegistry
from streams import kafka, topics
from streams.settings import Settings
from tests.e2e import traffic

POLL_S = 0.01
FLUSH_S = 120
RECONNECT_MS = 500  # The broker comes back on the same address; librdkafka would wait up to 10 s before it looks.


@dataclass(slots=True)
class Gauge:
    """What conductor and feeder tell each other."""

    allowed: "Synchronized[int]"
    """Inputs that may have been sent by now."""
    sent: "Synchronized[int]"


def feed(settings: Settings, seed: int, members: int, transactions: int, gauge: Gauge) -> None:
    """Send all of it. Exits with an error when a record was not acknowledged, and quietly when the parent is gone."""
    codec, parent, failed = Codec(LocalRegistry()), os.getppid(), []
    names = {record: topic.name(settings.topic_prefix) for topic in topics.INBOUND for record in (topic.record,)}
    producer = kafka.producer(settings, linger_ms=10, reconnect_backoff_max_ms=RECONNECT_MS)

    def delivered(error: Any, _: Any) -> None:
        if error is not None:
            failed.append(error)

    count = allowed = 0
    for command in traffic.commands(seed, members, transactions):
        while count >= allowed and count >= (allowed := gauge.allowed.value):
            producer.poll(0)
            gauge.sent.value = count
            if os.getppid() != parent:
                return
            time.sleep(POLL_S)
        value = codec.encode(command)
        topic, key = names[Enrolment if isinstance(command, Enrolment) else type(command)], member_key(command.program_id, command.member_id)
        while True:
            try:
                producer.produce(topic, value, key, on_delivery=delivered)
                break
            except BufferError:
                producer.poll(0.1)
        count += 1
        if count % 100 == 0:
            producer.poll(0)
            gauge.sent.value = count
    left = producer.flush(FLUSH_S)
    gauge.sent.value = count
    if left or failed:
        raise RuntimeError(f"{left + len(failed)} inputs were not acknowledged: {failed[:1]}")
