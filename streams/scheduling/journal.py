"""Runs -> the sync-runs topic, by the scheduler that leads and by no other.

All leaders write with one transactional id: whoever begins to lead fences the one before, and a scheduler that was paused and does not
know yet that it leads no more cannot record a run.
"""

import asyncio
import logging

from confluent_kafka import KafkaException, Producer

from schemas.codec import Codec
from schemas.records import SyncRun
from streams import kafka, topics
from streams.errors import UnavailableError
from streams.settings import Settings

log = logging.getLogger(__name__)

TRANSACTION_TIMEOUT_S = 15.0


class FencedError(UnavailableError):
    """Another scheduler leads now."""


class RunJournal:
    """One leader's. `open` before all else."""

    def __init__(self, settings: Settings, codec: Codec) -> None:
        self._settings = settings
        self._codec = codec
        self._producer: Producer | None = None
        self._lock = asyncio.Lock()

    async def open(self) -> None:
        """Fence whoever led before. Raises UnavailableError."""
        self._producer = kafka.producer(
            self._settings, transactional_id=f"{self._settings.topic_prefix}.scheduler", transaction_timeout_ms=int(TRANSACTION_TIMEOUT_S * 1000)
        )
        try:
            await asyncio.to_thread(self._producer.init_transactions, TRANSACTION_TIMEOUT_S)
        except KafkaException as error:
            raise self._error(error) from error

    async def write(self, run: SyncRun) -> None:
        """Return when it is committed. Raises FencedError, UnavailableError."""
        async with self._lock:
            try:
                await asyncio.to_thread(self._write, run)
            except KafkaException as error:
                raise self._error(error) from error

    def _write(self, run: SyncRun) -> None:
        assert self._producer is not None, "the journal is open"
        self._producer.begin_transaction()
        topic = topics.SYNC_RUNS.name(self._settings.topic_prefix)
        self._producer.produce(topic, key=run.job.encode(), value=self._codec.encode(run))
        try:
            self._producer.commit_transaction(TRANSACTION_TIMEOUT_S)
        except KafkaException as error:
            if error.args[0].txn_requires_abort():
                self._producer.abort_transaction(TRANSACTION_TIMEOUT_S)
            raise

    def _error(self, error: KafkaException) -> UnavailableError:
        reason = error.args[0]
        if reason.fatal():
            return FencedError(f"another scheduler leads: {reason.str()}")
        return UnavailableError(f"Kafka at LOYALTY_KAFKA_BOOTSTRAP_SERVERS={self._settings.kafka_bootstrap_servers}: {reason.str()}")
