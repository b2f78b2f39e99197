"""What a partition's runner must not forget -> one transaction at a time, in which results go out and progress is kept.

Whoever opens a journal fences whoever had it: the broker refuses from then on what the other still sends. Only then is the progress read, so
what is read is all there is.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, Producer, TopicPartition

from schemas.codec import Codec
from schemas.records import DeliveryProgress
from streams import kafka, topics
from streams.errors import ConfigurationError, LoyaltyError
from streams.publishing import FENCED_CODES, REFUSED_CODES
from streams.settings import Settings
from streams.topics import Topic

log = logging.getLogger(__name__)

OPEN_S = 15.0  # How long each step of an opening waits for the broker.
STEP_S = 1.0  # A step of a transaction is asked for again after this; it bounds how late the close is noticed.
TRANSACTION_TIMEOUT_MS = 30_000  # What a process that was killed leaves open ends by this if nobody takes its partition over.
RETRY_BACKOFF_MS, RETRY_BACKOFF_MAX_MS = 10, 20  # The broker still writes the last transaction's marks when the next one begins: 5 ms.
RETRY_FIRST_S, RETRY_MAX_S = 0.1, 5.0
RECORD_BYTES_MAX = 64 * 1024 * 1024  # Beyond what any topic allows: the topic's max.message.bytes decides, not the client's default.
READ_RECORDS_MAX = 5_000
POLL_S = 0.05
ANY_PARTITION = -1
HANGING_KEY = b"aborted"  # Of records that are only there to be aborted; a compacted topic wants a key.


class Fenced(LoyaltyError):
    """The right to write is another's, or was lost by a pause that was too long. Nothing further of this journal gets into the log. Whether the
    writes of the commit that was under way did is known to the log alone."""


class Doubtful(LoyaltyError):
    """Whether the writes are in the log is not known: all of them are, or none. A journal that is opened anew reads which."""


@dataclass(frozen=True, slots=True)
class Write:
    """One record of a transaction."""

    topic_name: str
    """Full name on the broker."""
    partition: int | None
    """None: by the key, as all producers of the project do it."""
    key: bytes
    value: bytes | None
    """None deletes the key from a compacted topic."""
    headers: Sequence[tuple[str, bytes]] = field(default=())


def key_of(record: DeliveryProgress) -> bytes:
    """Key in the progress topic: `stream|kind|channel|member|segment`; of a chain the destination stands for the channel.

    Only a member may hold a bar, so no two records share a key by chance.
    """
    return f"{record.topic}|{record.kind.value}|{record.channel or record.destination}|{record.member}|{record.segment}".encode()


class Journal:
    """The durable state of one partition of one topic. `open`, then one `commit` at a time, then `close`; after an exception of `commit` a new
    journal must be opened."""

    def __init__(
        self, settings: Settings, codec: Codec, topic: Topic, partition: int, *, progress: Topic = topics.DELIVERY_PROGRESS, owner: str = ""
    ) -> None:
        """Its state is in `progress`, under keys that begin with `owner` and a bar; without one, with the topic's stream."""
        self._settings = settings
        self._codec = codec
        self._topic = topic
        self._partition = partition
        self._progress = progress
        self._progress_name = progress.name(settings.topic_prefix)
        self._owner = owner or topic.stream
        self._role = "connector" if owner else "delivery"
        self._producer: Producer | None = None
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=f"journal-{self._owner}-{partition}")
        self._closing = threading.Event()
        self._settled: set[tuple[str, int | bytes]] = set()
        """Topics and partitions, or keys of a partition that the broker's client chooses: nothing of an earlier owner hangs there."""

    @property
    def transactional_id(self) -> str:
        return f"{self._settings.topic_prefix}.{self._role}.{self._owner}.{self._partition}"

    def open(self) -> list[Any]:
        """Take the partition over and read its state: the newest record of each key of this owner; keys that were deleted are left out.

        Blocks for as long as the reading takes. Raises KafkaException when the broker does not answer in time and Fenced when another opens
        the same journal: both may be tried again with a new one. Raises ConfigurationError when the broker does not let this user, and
        ContractError for a record of progress that this program cannot read.
        """
        self._producer = kafka.producer(
            self._settings,
            transactional_id=self.transactional_id,
            transaction_timeout_ms=TRANSACTION_TIMEOUT_MS,
            linger_ms=0,  # All of a transaction is produced in one go and flushed: waiting for more would only take time.
            message_max_bytes=RECORD_BYTES_MAX,
            retry_backoff_ms=RETRY_BACKOFF_MS,
            retry_backoff_max_ms=RETRY_BACKOFF_MAX_MS,
            delivery_report_only_error=True,
        )
        deadline_s = time.monotonic() + OPEN_S
        try:
            self._step(lambda: self._own().init_transactions(STEP_S), deadline_s)
            self._settle([Write(self._progress_name, self._partition, HANGING_KEY, None)], deadline_s)
            return self._read(self._end())
        except KafkaException as error:
            raise self._verdict(error) from error

    async def commit(self, writes: Sequence[Write]) -> None:
        """Write all in one transaction; returns when it is committed and every reader of committed records will see it.

        While the broker does not answer, or answers that the transaction must be aborted, the same writes are tried again with back-off, for
        ever: an attempt is only repeated when it is certain that nothing of the one before is or will be visible. Raises

        - Fenced: another has opened this journal, or the broker gave the transaction up because an outage lasted longer than its time.
          Nothing of these writes is visible, unless the answer to the very commit was lost before.
        - Doubtful: the answer to the commit was lost and cannot be had any more, or the journal was closed before it came.
        - ConfigurationError: the broker never accepts one of the records, for its size or for want of a right. Nothing is visible.

        After any of them this journal is of no more use. A caller that is cancelled does not stop the transaction.
        """
        await asyncio.get_running_loop().run_in_executor(self._executor, self._commit, writes)

    def close(self) -> None:
        """Give the journal up. Returns at once; a commit under way ends as Doubtful within a second or two if the broker does not answer."""
        if not self._closing.is_set():
            self._closing.set()
            self._executor.submit(self._give_up)
            self._executor.shutdown(wait=False)

    # The journal's thread.

    def _commit(self, writes: Sequence[Write]) -> None:
        wait_s = RETRY_FIRST_S
        while True:
            try:
                self._settle(writes)
                self._write(writes)
                break
            except KafkaException as error:
                verdict = self._verdict(error)
                if verdict is not error:
                    raise verdict from error
                log.warning("delivery.commit_aborted", extra={
                    "topic": self._topic.name(self._settings.topic_prefix), "partition": self._partition, "error": str(error), "retry_after_s": wait_s,
                })  # fmt: skip
            self._abort()
            if self._closing.wait(wait_s):
                raise Doubtful(f"{self.transactional_id} was closed before its commit")
            wait_s = min(RETRY_MAX_S, wait_s * 2)
        # From here on the broker may have committed. Asking again only asks for the same; an abort could come too late.
        try:
            self._step(lambda: self._own().commit_transaction(STEP_S))
        except KafkaException as error:
            if error.args[0].code() in FENCED_CODES:
                raise self._verdict(error) from error
            raise Doubtful(f"{self.transactional_id}: nobody knows whether the transaction was committed: {error.args[0].str()}") from error

    def _settle(self, writes: Sequence[Write], deadline_s: float | None = None) -> None:
        """Abort what earlier owners may have left open where these writes go, by a transaction that is aborted; once for each place.

        init_transactions should have done that, but a broker that has just started may leave its marks out of some partitions (see
        streams/engine/partition.py): the first mark of a new owner must not be that of a commit. Readers see nothing of it.
        """
        places = {_place_of(write): write for write in writes}
        new = {place: write for place, write in places.items() if place not in self._settled}
        if new:
            self._write(
                [Write(write.topic_name, write.partition, HANGING_KEY if write.partition is not None else write.key, b"") for write in new.values()],
                deadline_s,
            )
            self._abort(deadline_s)
            self._settled |= new.keys()

    def _write(self, writes: Sequence[Write], deadline_s: float | None = None) -> None:
        """Begin a transaction and bring the writes to the broker. Raises KafkaException, and ConfigurationError."""
        producer, refused = self._own(), list[tuple[KafkaError, str]]()
        self._step(producer.begin_transaction, deadline_s)
        for write in writes:
            self._produce(producer, write, refused, deadline_s)
        while not refused and _flush(producer):
            self._check_time(deadline_s)
        for error, topic_name in refused:
            if error.code() == KafkaError.MSG_SIZE_TOO_LARGE:
                self._abort(deadline_s)
                raise ConfigurationError(f"The broker refuses a record of {topic_name} for its size: {error.str()}. Raise the topic's max.message.bytes.")
        if refused:
            raise KafkaException(refused[0][0])

    def _produce(self, producer: Producer, write: Write, refused: list[tuple[KafkaError, str]], deadline_s: float | None) -> None:
        """Give a record to the client. What happens to it goes into `refused`, now or when the client is polled."""

        def on_delivery(error: KafkaError | None, _: Message) -> None:
            if error is not None:
                refused.append((error, write.topic_name))

        partition = ANY_PARTITION if write.partition is None else write.partition
        while True:
            try:
                return producer.produce(write.topic_name, write.value, write.key, partition, on_delivery=on_delivery, headers=list(write.headers))
            except BufferError:  # The queue is full: some of it must reach the broker first.
                producer.poll(POLL_S)
                self._check_time(deadline_s)
            except KafkaException as error:
                return refused.append((error.args[0], write.topic_name))

    def _abort(self, deadline_s: float | None = None) -> None:
        """Make sure that nothing of the open transaction will ever be visible. Raises Fenced, Doubtful, and KafkaException past the deadline."""
        try:
            self._step(lambda: self._own().abort_transaction(STEP_S), deadline_s)
        except KafkaException as error:
            verdict = self._verdict(error)
            if verdict is error and deadline_s is None:
                verdict = Doubtful(f"{self.transactional_id}: the transaction cannot be aborted: {error.args[0].str()}")
            raise verdict from error

    def _step(self, step: Callable[[], object], deadline_s: float | None = None) -> None:
        """One step of a transaction, again while the broker asks for it or does not answer. Raises KafkaException, and Doubtful at the close."""
        while True:
            try:
                step()
                return
            except KafkaException as error:
                if not error.args[0].retriable():
                    raise
                self._check_time(deadline_s, error)

    def _check_time(self, deadline_s: float | None, error: KafkaException | None = None) -> None:
        if self._closing.is_set():
            raise Doubtful(f"{self.transactional_id} was closed while the broker did not answer")
        if deadline_s is not None and time.monotonic() > deadline_s:
            raise error or KafkaException(KafkaError(KafkaError._TIMED_OUT, f"{self.transactional_id}: the broker does not take the records"))

    def _verdict(self, error: KafkaException) -> Exception:
        """What the error means for the journal; the error itself if trying again may help."""
        kafka_error = error.args[0]
        if kafka_error.code() in REFUSED_CODES:
            return ConfigurationError(
                f"The broker does not let this user write with the transactional id {self.transactional_id}: {kafka_error.str()}. Allow the user of"
                " LOYALTY_KAFKA_SASL_USERNAME to write to the topics of deliveries, and transactional ids with that prefix."
            )
        if kafka_error.code() in FENCED_CODES or kafka_error.fatal():
            return Fenced(f"{self.transactional_id}: {kafka_error.str()}")
        return error

    def _give_up(self) -> None:
        producer, self._producer = self._producer, None
        if producer is None:
            return
        producer.purge()
        try:
            producer.abort_transaction(STEP_S)
        except KafkaException:
            pass  # None is open, or the next owner's init_transactions aborts it.

    def _own(self) -> Producer:
        assert self._producer is not None, "open() comes first"
        return self._producer

    # Reading the state.

    def _end(self) -> int:
        """Where the progress ends, what is not committed yet included: an earlier end would be that of another's open transaction."""
        consumer = kafka.consumer(self._settings, "delivery-journal", isolation_level="read_uncommitted")
        try:
            return consumer.get_watermark_offsets(TopicPartition(self._progress_name, self._partition), timeout=OPEN_S)[1]
        finally:
            consumer.close()

    def _read(self, end: int) -> list[Any]:
        newest: dict[bytes, bytes] = {}
        own = f"{self._owner}|".encode()
        consumer = kafka.consumer(self._settings, "delivery-journal", enable_partition_eof=True)
        deadline_s, position = time.monotonic() + OPEN_S, 0
        try:
            consumer.assign([TopicPartition(self._progress_name, self._partition, 0)])
            while position < end:
                before = position
                for message in consumer.consume(READ_RECORDS_MAX, POLL_S):
                    error, key, value, offset = message.error(), message.key(), message.value(), message.offset()
                    if offset is None or (error is not None and error.code() != KafkaError._PARTITION_EOF):
                        continue  # The client tries again by itself, for as long as we wait.
                    position = max(position, offset + 1 if error is None else offset)
                    if error is not None or key is None or not key.startswith(own):
                        continue
                    if value is None:
                        newest.pop(key, None)
                    else:
                        newest[key] = value
                if position > before:
                    deadline_s = time.monotonic() + OPEN_S
                elif time.monotonic() > deadline_s:
                    # Perhaps a transaction of the other stream's owner is still open before the end.
                    detail = f"{self._progress_name} {self._partition} is read up to {position} of {end} and does not go on"
                    raise KafkaException(KafkaError(KafkaError._TIMED_OUT, detail))
        finally:
            consumer.close()
        return [self._codec.decode(value, self._progress.record) for value in newest.values()]


def _flush(producer: Producer) -> int:
    """Records that the broker has not answered for yet, after STEP_S at most. Raises KafkaException."""
    try:
        return producer.flush(STEP_S)
    except SystemError as error:  # What the client makes of a fatal error that it has to raise when a callback runs as well.
        if isinstance(error.__cause__, KafkaException):
            raise error.__cause__ from None
        raise


def _place_of(write: Write) -> tuple[str, int | bytes]:
    return write.topic_name, write.key if write.partition is None else write.partition
