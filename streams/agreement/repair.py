"""Differences -> what mends them, published: originals of the log once more for ClickHouse and Redis, replays for destinations.

Nothing is written into a store from here. What nothing published can mend keeps the advice that its difference has.
"""

import asyncio
import secrets
import time
from collections import defaultdict
from dataclasses import replace
from typing import Any

from confluent_kafka import Message

from schemas.codec import Codec
from schemas.contract import member_key
from schemas.records import LoyaltyEvent, LoyaltyEventKind, RestatedStore, Restatement
from streams import kafka, topics
from streams.agreement.history import TABLES
from streams.agreement.judging import REPLAYED, RESTATED
from streams.agreement.log import Log
from streams.agreement.model import Difference, Store
from streams.configuration import Configuration
from streams.destinations.control import ControlLog
from streams.destinations.model import Job
from streams.errors import ContractError, UnavailableError
from streams.settings import Settings
from streams.topics import Topic

RECORDS_MAX = 100_000
"""Differences that one run mends; the next one goes on."""
EVENTS_MAX = 5_000  # Of one replay.
ACKNOWLEDGED_S = 30.0
START_S = 30.0

Place = tuple[bytes, int]
"""Key and number of a record; for Redis 0, the newest one."""


class Repair:
    """What a run is to mend. `add` its differences, then `send`."""

    def __init__(self, settings: Settings, configuration: Configuration, codec: Codec, run_id: str) -> None:
        self._settings = settings
        self._configuration = configuration
        self._codec = codec
        self._run_id = run_id
        self._log = Log(settings)
        self._wanted: dict[tuple[RestatedStore, str], set[Place]] = defaultdict(set)
        self._replays: dict[str, set[str]] = defaultdict(set)
        self._count = 0
        self.sent = 0
        """Records restated, and events whose replay was asked for."""

    def add(self, difference: Difference) -> None:
        """Note a difference, if something published mends it."""
        if self._count >= RECORDS_MAX:
            return
        key = member_key(difference.program_id, difference.member_id)
        if difference.repair == REPLAYED:
            self._replays[difference.store.partition(":")[2]].add(difference.record_id)
        elif difference.repair != RESTATED:
            return
        elif difference.store == Store.REDIS:
            self._wanted[RestatedStore.REDIS, topics.EVENTS.stream].add((key, 0))
        else:
            topic = next(table.topic for table in TABLES if table.store == difference.store)
            self._wanted[RestatedStore.CLICKHOUSE, topic.stream].add((key, difference.sequence or 0))
        self._count += 1

    def send(self) -> None:
        """Publish it all. Raises UnavailableError, ConfigurationError and ConflictError; what was sent may be sent again."""
        for (store, stream), places in self._wanted.items():
            self._restate(store, topics.BY_STREAM[stream], places)
        if self._replays:
            asyncio.run(self._replay())

    def _restate(self, store: RestatedStore, topic: Topic, places: set[Place]) -> None:
        number = next(table.number for table in TABLES if table.topic is topic)
        keys = {key for key, _ in places}
        found: dict[Place, Restatement] = {}
        erased: set[bytes] = set()

        def take(message: Message) -> None:
            key = message.key() or b""
            if key not in keys:
                return
            value = message.value() or b""
            try:
                record: Any = self._codec.decode(value, topic.record)
            except ContractError:
                return
            if isinstance(record, LoyaltyEvent) and record.kind is LoyaltyEventKind.MEMBER_ERASED:
                erased.add(key)
            place = (key, 0 if store is RestatedStore.REDIS else getattr(record, number))
            if place in places:
                found[place] = Restatement(
                    store=store, stream=topic.stream, partition=message.partition() or 0, offset=message.offset() or 0,
                    timestamp_ms=message.timestamp()[1], value=value, run_id=self._run_id,
                )  # fmt: skip

        name = topic.name(self._settings.topic_prefix)
        self._log.read(name, self._log.ranges(name), take)
        for place, restatement in found.items():
            if topic is topics.EVENTS and place[0] in erased:
                found[place] = replace(restatement, value=self._without_words(restatement.value))
        self._publish(found)

    def _without_words(self, value: bytes) -> bytes:
        """The event of an erased member without what its command's sender wrote: it is gone from the store, and must not come back."""
        event = self._codec.decode(value, LoyaltyEvent)
        return self._codec.encode(replace(event, cause=replace(event.cause, reason=None)))

    def _publish(self, found: dict[Place, Restatement]) -> None:
        producer = kafka.producer(self._settings)
        failures: list[str] = []
        for (key, _), restatement in found.items():
            producer.produce(
                topics.RESTATEMENTS.name(self._settings.topic_prefix), self._codec.encode(restatement), key,
                on_delivery=lambda error, _: failures.append(error.str()) if error is not None else None,
            )  # fmt: skip
            producer.poll(0)
        left = producer.flush(ACKNOWLEDGED_S)
        if failures or left:
            where = f"LOYALTY_KAFKA_BOOTSTRAP_SERVERS={self._settings.kafka_bootstrap_servers}"
            raise UnavailableError(f"{len(failures) + left} of {len(found)} restatements were not acknowledged at {where}: run it again")
        self.sent += len(found)

    async def _replay(self) -> None:
        control = ControlLog(self._settings, self._codec, self._configuration.destinations)
        control.start()
        try:
            await asyncio.wait_for(control.ready(), START_S)
            now_ms = time.time_ns() // 1_000_000
            for destination, event_ids in self._replays.items():
                ordered = sorted(event_ids)
                for first in range(0, len(ordered), EVENTS_MAX):
                    job = Job(
                        job_id=f"reconcile-{secrets.token_hex(6)}", destination=destination, until_ms=now_ms,
                        event_ids=frozenset(ordered[first : first + EVENTS_MAX]), created_by="loyalty reconcile", created_at_ms=now_ms,
                    )  # fmt: skip
                    await control.put_job(job, changed_by="loyalty reconcile")
                self.sent += len(ordered)
        except TimeoutError as error:
            raise UnavailableError(f"topic {topics.DELIVERY_CONTROL.stream} cannot be read within {START_S:.0f} s") from error
        finally:
            await control.close()
