"""The sync-audit topic -> clients that wait: the worker's decision on a command, by the correlation id of its request."""

import asyncio
import logging
import threading
import time
import uuid
from typing import Any

from confluent_kafka import Consumer, KafkaException, TopicPartition

from schemas.codec import Codec
from schemas.records import CommandResult, SyncAudit
from streams import kafka, metrics, topics
from streams.errors import ContractError
from streams.ingress.problems import ProblemError
from streams.settings import Settings

log = logging.getLogger(__name__)

WAITERS_MAX = 10_000  # Requests held open at once; beyond it a client is answered as if it had not asked to wait.
MARK_CHARACTERS = 12
ID_CHARACTERS = 32
BATCH_RECORDS = 1000
POLL_S = 0.1
RECONNECT_S = 0.2
REPORT_S = 10.0
ADMIN_TIMEOUT_S = 10


class Decisions:
    """Reads the whole sync-audit topic from its end on, in a thread and outside any group, and wakes who waits.

    The ids of one process share a mark, so that the many records of other requests are told apart without decoding them.
    """

    def __init__(self, settings: Settings, codec: Codec) -> None:
        self._settings = settings
        self._codec = codec
        self._loop = asyncio.get_running_loop()
        self._mark = uuid.uuid4().hex[:MARK_CHARACTERS]
        self._mark_bytes = self._mark.encode()
        self._topic = topics.SYNC_AUDIT.name(settings.topic_prefix)
        self._waiters: dict[str, asyncio.Future[SyncAudit]] = {}
        self._positions: dict[int, int] = {}
        self._positioned = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="decisions", daemon=True)

    def new_id(self) -> str:
        """A correlation id that no request had before."""
        return self._mark + uuid.uuid4().hex[MARK_CHARACTERS:]

    async def start(self) -> None:
        """Return once the end of every partition is known: no decision on a command sent after that can be missed."""
        self._thread.start()
        while not self._positioned.is_set():
            await asyncio.sleep(0.01)

    async def close(self) -> None:
        self._closing.set()
        if self._thread.is_alive():
            await asyncio.to_thread(self._thread.join)

    def expect(self, correlation_id: str) -> "asyncio.Future[SyncAudit] | None":
        """A future for the decision; call it before the command is sent. None if too many wait already."""
        if len(self._waiters) >= WAITERS_MAX or not self._positioned.is_set():
            return None
        future: asyncio.Future[SyncAudit] = self._loop.create_future()
        self._waiters[correlation_id] = future
        metrics.INGRESS_WAITERS.set(len(self._waiters))
        return future

    def forget(self, correlation_id: str) -> None:
        self._waiters.pop(correlation_id, None)
        metrics.INGRESS_WAITERS.set(len(self._waiters))

    def _resolve(self, audits: list[SyncAudit]) -> None:
        for audit in audits:
            future = self._waiters.get(audit.correlation_id or "")
            if future is not None and not future.done():
                future.set_result(audit)

    # What follows runs in the thread.

    def _run(self) -> None:
        said = ""
        while not self._closing.is_set():
            consumer = None
            try:
                consumer = kafka.consumer(
                    self._settings, f"ingress-decisions-{self._mark}", fetch_wait_max_ms=20, auto_offset_reset="latest"
                )
                self._assign(consumer)
                self._read(consumer)
            except (KafkaException, RuntimeError) as error:
                if said != str(error):
                    said = str(error)
                    # Topics that were made a moment ago have no leaders yet: no reason to worry anybody at a start.
                    level = logging.WARNING if self._positioned.is_set() else logging.INFO
                    log.log(level, "decisions.interrupted", extra={"reason": said})
                self._closing.wait(RECONNECT_S)
            finally:
                if consumer is not None:
                    consumer.close()

    def _assign(self, consumer: Consumer) -> None:
        """The first time from the end of each partition, later from where reading broke off."""
        for partition in range(self._settings.kafka_partitions):
            if partition not in self._positions:
                self._positions[partition] = consumer.get_watermark_offsets(
                    TopicPartition(self._topic, partition), timeout=ADMIN_TIMEOUT_S
                )[1]
        consumer.assign([TopicPartition(self._topic, partition, offset) for partition, offset in self._positions.items()])
        self._positioned.set()

    def _read(self, consumer: Consumer) -> None:
        reported_s = 0.0
        while not self._closing.is_set():
            first = consumer.poll(POLL_S)
            if first is None:
                continue
            audits = []
            for message in (first, *consumer.consume(BATCH_RECORDS, timeout=0)):
                error = message.error()
                if error is not None:
                    if error.fatal():
                        raise KafkaException(error)
                    if time.monotonic() - reported_s > REPORT_S:
                        reported_s = time.monotonic()
                        log.warning("decisions.error", extra={"reason": error.str()})
                    continue
                partition, offset = message.partition(), message.offset()
                if partition is not None and offset is not None:
                    self._positions[partition] = offset + 1
                audit = self._match(message.value())
                if audit is not None:
                    audits.append(audit)
            if audits:
                try:
                    self._loop.call_soon_threadsafe(self._resolve, audits)
                except RuntimeError:  # The loop is closed: nobody waits any more.
                    return

    def _match(self, value: bytes | None) -> SyncAudit | None:
        """The decision in a record, if somebody waits for it."""
        at = value.find(self._mark_bytes) if value else -1
        while value and at >= 0:
            if value[at : at + ID_CHARACTERS].decode(errors="replace") in self._waiters:
                try:
                    return self._codec.decode(value, SyncAudit)
                except ContractError as error:
                    log.warning("decisions.undecodable", extra={"reason": error.reason, "detail": error.detail})
                    return None
            at = value.find(self._mark_bytes, at + 1)
        return None


def answer(audit: SyncAudit, command: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """Status and body for a decision. `command` is what every answer says of the command itself. Raises ProblemError for a no.

    A refusal is a 422, because the request was understood and cannot be followed; its type ends with the rule's code. A 409 is kept for
    an id that was used with another payload. Both are remembered: sent again, the same command gets the same answer.
    """
    numbers: dict[str, Any] = {
        "member_id": audit.member_id,
        "replayed": audit.replayed,
        "sequence": audit.sequence,
        "points_delta": audit.points_delta,
        "available_points": audit.available_points,
        "tier": audit.tier,
        "voucher_code": audit.voucher_code,
    }
    match audit.result:
        case CommandResult.APPLIED:
            return 200, {"status": "applied"} | command | numbers | ({"detail": audit.detail} if audit.detail else {})
        case CommandResult.SUPERSEDED:
            return 200, {"status": "superseded"} | command | numbers
        case CommandResult.WAITING:
            return 202, {"status": "waiting_for_enrolment"} | command
        case CommandResult.REFUSED:
            raise ProblemError(422, "refused", audit.detail or "", code=audit.reason or "", reason=audit.reason, **_without_correlation(command), **numbers)
        case CommandResult.CONFLICT:
            raise ProblemError(409, "conflict", **_without_correlation(command), replayed=audit.replayed)
    return 202, {"status": "accepted"} | command | {"decision": "pending"}


def _without_correlation(command: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in command.items() if name != "correlation_id"}
