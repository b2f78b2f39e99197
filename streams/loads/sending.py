"""A plan -> its rows in the inbound topic, few enough undecided at once; sync-audit and dead letters -> what became of each.

A row's correlation id is `load-<load>-<row>`: its decision names the row. Rows of one member are sent in the order of the plan; those of
different members partition by partition, some thousands at a time, because a worker decides many rows of one partition together, and few of
each of many cost it a transaction each. After a kill the decisions are read on from where they were last on record, and rows without one are
sent again, in order; the ledger knows their ids.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from threading import Event

from aiokafka.partitioner import murmur2
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from schemas.codec import Codec
from schemas.records import CommandResult, DeadLetter, SyncAudit
from streams import kafka, topics
from streams.errors import ContractError, UnavailableError
from streams.loads import plan
from streams.loads.rejects import Rejects
from streams.loads.store import PLAN, Load, Progress, Workspace
from streams.loads.throttle import Throttle
from streams.settings import Settings

MARK = "load-"
RELEASED = "-released"
READ_RECORDS, READ_S = 1_000, 0.02
SAVE_S, TELL_S = 1.0, 0.25
SILENT_S = 15.0
"""Without a decision for so long, it is said."""
STOP_S = 10.0
"""How long decisions of what was sent are waited for before a stop."""
ADMIN_TIMEOUT_S = 10
ROWS_TOGETHER = 2_000
RATE_S = 20.0
NOT_TAKEN = (CommandResult.REFUSED, CommandResult.CONFLICT)
DEAD_LETTER = "dead_letter"
ANSWERS = (topics.SYNC_AUDIT, topics.DEAD_LETTERS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """How a load stands, for people."""

    decided: int
    undecided: int
    window: int
    rows_per_s: float
    live_p99_ms: float | None
    says: str
    """Why nothing happens; empty when something does."""


class Sender:
    """Sends one load. `may_send` says for a time in ms why nothing may be sent, or nothing."""

    def __init__(
        self, settings: Settings, codec: Codec, workspace: Workspace, load: Load, rejects: Rejects, throttle: Throttle, stop: Event,
        *, may_send: Callable[[int], str], tell: Callable[[Status], None],
    ) -> None:  # fmt: skip
        self._settings, self._codec, self._workspace, self._load = settings, codec, workspace, load
        self._rejects, self._throttle, self._stop, self._may_send, self._tell = rejects, throttle, stop, may_send, tell
        self.progress: Progress = workspace.progress()
        self._above = set(self.progress.decided_above)
        self._undecided: set[int] = set()
        self._mark = f"{MARK}{load.load_id}-"
        self._mark_bytes = self._mark.encode()
        self._topic = topics.BY_STREAM[load.stream].name(settings.topic_prefix)
        self._streams = {topic.name(settings.topic_prefix): topic.stream for topic in ANSWERS}
        self._plan = plan.Reader(workspace.path / PLAN)
        self._producer = kafka.producer(
            settings, message_timeout_ms=0, linger_ms=5, queue_buffering_max_messages=200_000  # Never given up: order would be lost.
        )  # fmt: skip
        self._failed: KafkaError | None = None
        self._heard_s = self._saved_s = self._told_s = time.monotonic()
        self._pace: deque[tuple[float, int]] = deque()

    def run(self) -> bool:
        """True: every row is decided. False: stopped before. Raises UnavailableError when Kafka takes no more; it can be gone on with."""
        consumer = kafka.consumer(self._settings, f"load-{self._load.load_id}", enable_partition_eof=True, fetch_wait_max_ms=10)
        try:
            self._assign(consumer)
            self._save()
            rows = self._rows()
            has_more = True
            while has_more or self._undecided:
                if self._stop.is_set():
                    return self._settle(consumer)
                now_s, held = time.monotonic(), self._may_send(int(time.time() * 1000))
                if has_more and not held:
                    has_more = self._send(rows, self._throttle.allowance(now_s, len(self._undecided)))
                self._read(consumer)
                self._say(held)
            self.progress.ended_at_ms = int(time.time() * 1000)
            self._save()
            return True
        except KafkaException as error:
            raise self._unavailable(error.args[0]) from error
        finally:
            consumer.close()
            self._plan.close()
            self._producer.purge()

    def _unavailable(self, error: KafkaError) -> UnavailableError:
        return UnavailableError(f"Kafka at LOYALTY_KAFKA_BOOTSTRAP_SERVERS={self._settings.kafka_bootstrap_servers}: {error.str()}")

    # Out.

    def _rows(self) -> Iterator[tuple[int, plan.Entry]]:
        """In the order in which they are sent."""
        entries = self._plan.entries(self.progress.decided_below)
        while together := list(islice(entries, ROWS_TOGETHER)):
            yield from sorted(together, key=lambda one: murmur2(one[1].key) % 2**31 % self._settings.kafka_partitions)

    def _send(self, rows: Iterator[tuple[int, plan.Entry]], count: int) -> bool:
        """The next rows. False: there are no more."""
        for sent in range(count):
            following = next(rows, None)
            if following is None:
                self._throttle.sent(sent)
                return False
            row, entry = following
            if row < self.progress.decided_below or row in self._above:
                continue  # A process before this one had sent it.
            self._undecided.add(row)
            headers: list[tuple[str, str | bytes | None]] = [("correlation_id", f"{self._mark}{row}".encode())]
            while True:
                try:
                    self._producer.produce(self._topic, entry.value, entry.key, headers=headers, on_delivery=self._delivered)
                    break
                except BufferError:
                    self._producer.poll(0.05)
        self._throttle.sent(count)
        return True

    def _delivered(self, error: KafkaError | None, _: Message) -> None:
        self._failed = error or self._failed

    def _settle(self, consumer: Consumer) -> bool:
        """Stop sending; hear of what was sent, but not for ever."""
        until_s = time.monotonic() + STOP_S
        while self._undecided and time.monotonic() < until_s:
            self._read(consumer)
            self._say("stops: waits for the decisions on what was sent")
        self._save()
        return False

    # In.

    def _assign(self, consumer: Consumer) -> None:
        """From where decisions were read to, and up to the end; a load that begins has none before the end."""
        places = [(name, partition) for name in self._streams for partition in range(self._settings.kafka_partitions)]
        if not self.progress.positions:
            for name, partition in places:
                _, end = consumer.get_watermark_offsets(TopicPartition(name, partition), timeout=ADMIN_TIMEOUT_S)
                self.progress.positions.setdefault(self._streams[name], {})[str(partition)] = end
            self.progress.started_at_ms = int(time.time() * 1000)
        consumer.assign([TopicPartition(name, partition, self.progress.positions[self._streams[name]][str(partition)]) for name, partition in places])
        unread = set(places)
        while unread and not self._stop.is_set():
            unread -= self._read(consumer, is_old=True)
            self._say("reads what was decided before")

    def _read(self, consumer: Consumer, *, is_old: bool = False) -> set[tuple[str, int]]:
        """Take what was decided meanwhile. The partitions that were read to their ends."""
        self._producer.poll(0)
        if self._failed is not None:
            raise KafkaException(self._failed)
        ended: set[tuple[str, int]] = set()
        for message in consumer.consume(READ_RECORDS, READ_S):
            name, partition, error = message.topic() or "", message.partition() or 0, message.error()
            if error is not None:
                if error.code() == KafkaError._PARTITION_EOF:
                    ended.add((name, partition))
                elif error.fatal():
                    raise KafkaException(error)
                continue
            self.progress.positions[self._streams[name]][str(partition)] = (message.offset() or 0) + 1
            try:
                if self._streams[name] == topics.SYNC_AUDIT.stream:
                    self._audited(message.value() or b"", is_old)
                else:
                    self._dead(message)
            except ContractError:
                continue  # Of another program: nothing of this load.
        if time.monotonic() - self._saved_s >= SAVE_S:
            self._save()
        return ended

    def _audited(self, value: bytes, is_old: bool) -> None:
        is_ours = self._mark_bytes in value
        if is_old and not is_ours:
            return
        audit = self._codec.decode(value, SyncAudit)
        correlation_id, is_released = audit.correlation_id or "", audit.audit_id.endswith(RELEASED)
        waited_ms = max(0, audit.recorded_at_ms - audit.ingested_at_ms)
        if not correlation_id.startswith(self._mark):
            if not correlation_id.startswith(MARK) and not is_released:
                self._throttle.note(time.monotonic(), waited_ms, is_live=True)
            return
        row = int(correlation_id.removeprefix(self._mark))
        reason = audit.reason or "" if audit.result in NOT_TAKEN else ""
        result = "replayed" if audit.replayed else audit.result.value.lower()
        if is_released:
            if not audit.replayed:
                self.progress.results[CommandResult.WAITING.value.lower()] -= 1
                self._count(row, result, reason, audit.detail or "")
        elif self._decide(row):
            if not is_old:
                self._throttle.note(time.monotonic(), waited_ms, is_live=False)
            self._count(row, result, reason, audit.detail or "")

    def _dead(self, message: Message) -> None:
        header = dict(message.headers() or []).get("correlation_id")
        correlation_id = header.decode(errors="replace") if isinstance(header, bytes) else ""
        if correlation_id.startswith(self._mark) and self._decide(row := int(correlation_id.removeprefix(self._mark))):
            letter = self._codec.decode(message.value(), DeadLetter)
            self._count(row, DEAD_LETTER, letter.reason, letter.detail)

    def _decide(self, row: int) -> bool:
        """Whether this is the first decision on the row."""
        progress, above = self.progress, self._above
        if row < progress.decided_below or row in above:
            return False
        self._heard_s = time.monotonic()
        self._undecided.discard(row)
        above.add(row)
        while progress.decided_below in above:
            above.discard(progress.decided_below)
            progress.decided_below += 1
        return True

    def _count(self, row: int, result: str, reason: str, detail: str) -> None:
        self.progress.results[result] += 1
        if reason:
            self.progress.reasons[reason] += 1
            entry = self._plan.entry(row)
            self._rejects.add(entry.part, entry.line, f"{reason}: {detail}" if detail else reason, entry.source)

    def _save(self) -> None:
        self._saved_s = time.monotonic()
        self.progress.rejects_bytes = self._rejects.sync()
        self.progress.decided_above = sorted(self._above)
        self.progress.saved_at_ms = int(time.time() * 1000)
        self._workspace.save(self.progress)

    def _say(self, held: str) -> None:
        now_s = time.monotonic()
        if now_s - self._told_s < TELL_S:
            return
        self._told_s = now_s
        decided = self.progress.decided_below + len(self._above)
        self._pace.append((now_s, decided))
        while self._pace[0][0] < now_s - RATE_S:
            self._pace.popleft()
        elapsed_s = now_s - self._pace[0][0]
        says = held
        if not says and self._undecided and now_s - self._heard_s > SILENT_S:
            says = f"no decision for {now_s - self._heard_s:.0f} s: does a worker run, and does Kafka answer?"
        self._tell(Status(
            decided=decided, undecided=len(self._undecided), window=self._throttle.window, says=says,
            rows_per_s=(decided - self._pace[0][1]) / elapsed_s if elapsed_s else 0.0, live_p99_ms=self._throttle.live_p99_ms(now_s),
        ))  # fmt: skip
