"""Who owns which partition, now: opens them on assignment, runs their units, opens failed ones again, closes them on revocation."""

import asyncio
import logging
import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from confluent_kafka import KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient
from faust.types import TP
from faust.types.tuples import ConsumerMessage

from streams.engine import metrics
from streams.engine.partition import Aborted, Changelog, Fenced, Opened, PartitionProducer
from streams.engine.reader import SourceReader, Unreadable
from streams.engine.records import TopicPartition
from streams.engine.standby import Standbys
from streams.engine.state import PartitionState, StateFailed, StateFolder
from streams.engine.unit import NO_UNIT, Handler, Rows, RowsRefused, Unit

if TYPE_CHECKING:
    from streams.engine.app import App

log = logging.getLogger(__name__)

BACKOFF_FIRST_S, BACKOFF_MAX_S = 0.1, 5.0
GATHER_MAX_S = 0.025  # Adds to the latency of records that come while a transaction is under way, at most.
READ_WAIT_S = 0.2  # A reader asks this long for records; whoever closes it may wait as long.
UNDERWAY_MAX = 2  # Units between a reader and the queue of its partition. One that an agent lost shows when the next one does not follow.
BULK_RECORDS_MAX = 100  # Records of bulk topics in the units of all partitions at once: all share one interpreter, and others wait so long.
BULK_RECORDS_MIN = 5  # In one unit, however many partitions there are.
STUCK_FACTOR = 2  # A commit that takes this many transaction time-outs hangs: the broker has aborted its transaction long ago.
REASONS: dict[type[Exception], str] = {Fenced: "FENCED", Aborted: "ABORTED", StateFailed: "STATE_FAILED"}

Tables = dict[str, dict[bytes, bytes | None]]
"""Table name -> changed rows, encoded."""
LEFT_STATES_EVERY_S = 3600.0  # Between two looks for states of partitions that went elsewhere.


@dataclass(slots=True)
class Owned:
    """A partition that this worker owns. `epoch` is new whenever its state or position was set anew: older units are void.

    While one unit commits, what arrives for the partition gathers in `pending`: little load gives small units and short waits,
    much load large units.
    """

    producer: PartitionProducer
    reader: SourceReader
    rows: Rows
    epoch: int
    positions: dict[TopicPartition, int]
    pending: Unit | None = None
    underway: int = 0
    """Units that were read and are on their way through the agent."""
    room: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when there may be room for another unit."""
    runner: asyncio.Task[None] | None = None
    reading: asyncio.Task[None] | None = None
    reading_epoch: int = 0
    last_read: int = 0
    """Records of the last unit that was read."""
    bulk_read: int = 0
    """Records of bulk topics that were read since the last unit began."""
    commit_s: float = 0.0
    """How long the last transaction took."""

    def void(self) -> None:
        """Forget what was read and is not being handled, and read no more. A reading that is cut off may be waiting for Faust, which
        delivers nothing during a rebalance; what its thread still reads goes nowhere, and the reader is not touched before it is done."""
        self.pending = None
        if self.reading is not None:
            self.reading.cancel()
        self.room.set()

    def gather_s(self, records_max: int) -> float:
        """How long to let records gather before the next read. Each read costs Faust a message, and no record leaves sooner for it while
        a transaction is under way: so under a load of small units it waits; idle, or with full units, it does not."""
        if self.runner is None or self.runner.done() or self.last_read * 4 > records_max:
            return 0.0
        return min(GATHER_MAX_S, self.commit_s / 2)


@dataclass(slots=True)
class Failed:
    """A partition to be opened again, not before `retry_at_s` of the monotonic clock."""

    reason: str
    attempts: int
    retry_at_s: float


class Partitions:
    """The partitions of this worker. All methods run in the event loop; broker calls run in threads."""

    def __init__(self, app: "App") -> None:
        self._app = app
        self._owned: dict[int, Owned] = {}
        self._failed: dict[int, Failed] = {}
        self._opening: dict[int, asyncio.Task[tuple[PartitionProducer, Opened] | None]] = {}
        self._closing: dict[int, asyncio.Task[None]] = {}
        self._suspect: set[int] = set()
        """Partitions whose local state failed otherwise than by a full disk: it is not opened again."""
        self._epoch = 0
        self._left_states_at_s = time.monotonic() + LEFT_STATES_EVERY_S
        self._threads = ThreadPoolExecutor(4 * app.config.partitions + 4, thread_name_prefix="partition")
        self._admin: AdminClient | None = None
        self._admin_lock = threading.Lock()
        self._readable: set[tuple[str, bytes]] = set()
        self._folder = StateFolder(
            Path(app.config.data_dir) / app.config.app_id,
            app.config.instance_id or "worker",
            memory_bytes=app.config.state_memory_mib << 20,
            stale_after_s=app.config.deletions_kept_s,
        )
        self.standbys = Standbys(app.config.client, app.config.app_id, self._folder, self._check_topics)

    # Reading

    def owned(self) -> set[int]:
        """Partitions that can be read and written now."""
        return set(self._owned)

    def failed(self) -> dict[int, str]:
        """Partitions that are assigned but not open, with the reason."""
        return {partition: failed.reason for partition, failed in self._failed.items() if partition not in self._owned}

    def rows(self, partition: int) -> Rows:
        """The committed rows. Raises KeyError when this worker does not own the partition."""
        return self._owned[partition].rows

    # Units

    def start_reading(self) -> None:
        """Read every open partition, from where its last committed unit ended, if it is not being read."""
        for partition, owned in self._owned.items():
            if owned.reading is None or owned.reading.done() or owned.reading_epoch != owned.epoch:
                owned.reading_epoch = owned.epoch
                owned.reading = asyncio.create_task(self._read(partition, owned, owned.epoch, owned.reading))

    async def _read(self, partition: int, owned: Owned, epoch: int, before: "asyncio.Task[None] | None") -> None:
        """Bring what is in the log to the agent, unit by unit, until the partition is closed or set anew. Never raises.

        It reads no further than there is room: a slow handler or broker holds the reading of its own partition back, and no other's.
        """
        loop = asyncio.get_running_loop()
        if before is not None:
            await asyncio.wait([before])
        try:
            owned.underway = owned.bulk_read = 0
            await loop.run_in_executor(self._threads, owned.reader.start, dict(owned.positions))
            while self._is_current(partition, owned, epoch):
                room = self._app.config.batch_records_max - (len(owned.pending) if owned.pending is not None else 0)
                if room <= 0 or owned.underway >= UNDERWAY_MAX:
                    owned.room.clear()
                    await owned.room.wait()
                    continue
                if gather_s := owned.gather_s(self._app.config.batch_records_max):
                    owned.room.clear()
                    try:
                        await asyncio.wait_for(owned.room.wait(), gather_s)
                    except TimeoutError:
                        pass
                unit = await loop.run_in_executor(self._threads, self._next_unit, partition, owned, epoch, room)
                if unit is not None and self._current(unit) is owned:
                    owned.underway += 1
                    owned.last_read = len(unit)
                    owned.bulk_read += sum(one.topic in self._app.sources_bulk for one in unit.inputs)
                    await self._deliver(unit)
        except Unreadable as error:
            if self._is_current(partition, owned, epoch):
                log.critical("engine.stopped", extra={"reason": str(error)})
                await self._app.crash(error)
        except Exception as error:
            log.warning("engine.read_failed", extra={"partition": partition}, exc_info=True)
            if self._is_current(partition, owned, epoch):
                self._fail(partition, "READ_FAILED", f"{type(error).__name__}: {error}")

    def _is_current(self, partition: int, owned: Owned, epoch: int) -> bool:
        return self._owned.get(partition) is owned and owned.epoch == epoch

    def _next_unit(self, partition: int, owned: Owned, epoch: int, records_max: int) -> Unit | None:
        """In a thread: read and decode, beside the last unit's commit."""
        bulk_max = max(BULK_RECORDS_MIN, BULK_RECORDS_MAX // len(self._owned or (None,)))
        batch = owned.reader.read(records_max, READ_WAIT_S, bulk_max - owned.bulk_read)
        if batch is None:
            return None
        unit = Unit(self._app, partition, epoch, batch.inputs, batch.starts, batch.ends)
        unit.decode()
        return unit

    async def _deliver(self, unit: Unit) -> None:
        """To the agent, by Faust's way of a message: one for the whole unit."""
        (topic, partition), offset = next(iter(unit.starts.items()))
        first = unit.inputs[0]
        message = ConsumerMessage(
            topic, partition, offset, first.timestamp_ms / 1000, 0, None, None, unit, None, tp=TP(topic, partition),
            generation_id=self._app.consumer_generation_id,
        )  # fmt: skip
        await self._app.consumer.callback(message)

    async def process(self, unit: Unit, handle: Handler) -> None:
        """Queue one unit for its partition's next transaction. A unit from before a reset is dropped: it is read again."""
        owned = self._current(unit)
        if owned is None:
            return
        try:
            owned.underway -= 1
            owned.room.set()
            if owned.pending is None:
                owned.pending = unit
            else:
                owned.pending.extend(unit)
            if owned.runner is None or owned.runner.done():
                owned.runner = asyncio.create_task(self._run(owned, handle))
        except Exception as error:  # A unit before this one was lost, or a bug in the engine: nothing was written, so it is read again.
            log.error("engine.unit_failed", extra={"partition": unit.partition}, exc_info=True)
            self._fail(unit.partition, "UNIT_FAILED", f"{type(error).__name__}: {error}")

    def _current(self, unit: Unit) -> Owned | None:
        owned = self._owned.get(unit.partition)
        return owned if owned is not None and owned.epoch == unit.epoch else None

    async def _run(self, owned: Owned, handle: Handler) -> None:
        """Handle and commit what is pending until nothing is. Never raises."""
        while owned.pending is not None:
            unit, owned.pending = owned.pending, None
            owned.bulk_read = 0
            owned.room.set()
            if self._current(unit) is not owned:
                return
            if any(owned.positions[tp] != start for tp, start in unit.starts.items()):
                # A unit before this one was lost on its way to the agent. Committing past it would lose its records.
                self._fail(unit.partition, "OUT_OF_STEP", f"unit starts at {unit.starts}, expected {owned.positions}")
                return
            started_s = time.monotonic()
            try:
                rows, rest = await asyncio.get_running_loop().run_in_executor(self._threads, self._handle, owned, unit, handle)
                if rest is not None:
                    self._queue_first(owned, rest)
            except StateFailed as error:
                self._fail(unit.partition, "STATE_FAILED", str(error))
                return
            except Exception as error:  # A dead letter that cannot be made, for one. Nothing was written: the unit is read again.
                log.error("engine.unit_failed", extra={"partition": unit.partition}, exc_info=True)
                self._fail(unit.partition, "UNIT_FAILED", f"{type(error).__name__}: {error}")
                return
            await self._commit(owned, unit, rows, started_s)

    def _handle(self, owned: Owned, unit: Unit, handle: Handler) -> tuple[Tables, Unit | None]:
        """In a thread: what the unit changes, encoded, and what is left when it became too large."""
        self._app.unit = unit
        try:
            rest = unit.handle(handle, owned.rows)
            try:
                return unit.rows(), rest
            except RowsRefused as error:  # Once more, record by record, to find the one to blame.
                log.warning("engine.unit_split", extra={"partition": unit.partition, "reason": str(error)})
                unit.start_anew()
                later = unit.handle(handle, owned.rows, careful=True)
                if later is not None and rest is not None:
                    later.extend(rest)
                return unit.rows(), later or rest
        finally:
            self._app.unit = NO_UNIT

    def _queue_first(self, owned: Owned, rest: Unit) -> None:
        if owned.pending is not None:
            rest.extend(owned.pending)
        owned.pending = rest

    def _write(self, owned: Owned, unit: Unit, rows: Tables) -> None:
        """In a thread: one transaction, then the same rows on local disk."""
        as_of_s = time.time()
        topics = {name: self._app.tables[name].changelog_name for name in rows}
        forget = unit.to_forget()
        next_offsets = owned.producer.commit(
            {topics[name]: changed for name, changed in rows.items()}, unit.outgoing, unit.ends, {topics[name]: keys for name, keys in forget.items()}
        )
        owned.rows.state.apply(rows, {name: next_offsets[topics[name]] for name, changed in rows.items() if changed}, as_of_s, forget=forget)

    async def _commit(self, owned: Owned, unit: Unit, rows: Tables, started_s: float) -> None:
        partition = unit.partition
        try:
            writing = asyncio.get_running_loop().run_in_executor(self._threads, self._write, owned, unit, rows)
            # Not cancelled when it is late: the thread cannot be stopped. Whatever it still does is refused, once the partition is open anew.
            done, _ = await asyncio.wait([writing], timeout=STUCK_FACTOR * self._app.config.transaction_timeout_s)
            if not done:
                writing.add_done_callback(lambda late: late.exception())
                raise Aborted("the broker's client does not come back from a call")
            writing.result()
        except Unreadable as error:
            log.critical("engine.stopped", extra={"reason": str(error)})
            self._fail(partition, "REFUSED", str(error))
            await self._app.crash(error)
            return
        except Exception as error:
            metrics.UNITS.labels(partition, "aborted").inc()
            reason = next((name for kind, name in REASONS.items() if isinstance(error, kind)), "UNIT_FAILED")
            if reason == "UNIT_FAILED":
                log.error("engine.commit_failed", extra={"partition": partition}, exc_info=True)
            if self._owned.get(partition) is owned:
                self._fail(partition, reason, str(error))
            return
        unit.remember()
        owned.positions.update(unit.ends)
        metrics.STATE_ROWS.labels(partition).set(owned.rows.state.rows_estimate())
        metrics.STATE_BYTES.labels(partition).set(owned.rows.state.size_bytes())
        metrics.UNITS.labels(partition, "committed").inc()
        metrics.UNIT_RECORDS.observe(len(unit.inputs))
        owned.commit_s = duration_s = time.monotonic() - started_s
        owned.room.set()
        metrics.COMMIT_SECONDS.observe(duration_s)
        log.info(
            "engine.unit_committed",
            extra={"partition": partition, "records": len(unit), "rows": sum(map(len, rows.values())), "outgoing": len(unit.outgoing),
                   "duration_ms": round(duration_s * 1000, 1)},
        )  # fmt: skip
        if self._owned.get(partition) is owned:
            self._failed.pop(partition, None)

    # Ownership

    async def assign(self, partitions: set[int]) -> None:
        """Own exactly these from now on. Raises Unreadable; what cannot be opened for another reason is tried again later."""
        for partition in self._owned.keys() - partitions:
            await self._release(partition)
        for partition in self._failed.keys() - partitions:
            del self._failed[partition]
        missing = sorted(partitions - self._owned.keys() - self._opening.keys())
        for partition, opening in list(self._opening.items()):
            if partition not in partitions:
                await asyncio.wait([opening])
                self._discard(partition, self._opening.pop(partition))
        for partition, taken in zip(missing, await asyncio.gather(*(self._take_over(partition) for partition in missing)), strict=True):
            if taken is not None:
                self._install(partition, *taken)

    async def settle(self) -> None:
        """Finish the transactions under way and void the units that are not: called when partitions are revoked, and at the stop."""
        self._epoch += 1
        for owned in self._owned.values():
            owned.epoch = self._epoch
        for owned in self._owned.values():
            owned.void()
        running = [owned.runner for owned in self._owned.values() if owned.runner is not None]
        if running:
            await asyncio.wait(running)

    async def release_all(self) -> None:
        """Finish and let go of everything."""
        await self.settle()
        await self.standbys.stop()
        await self.assign(set())
        if self._closing:
            await asyncio.wait(self._closing.values())
        self._folder.release()
        self._threads.shutdown(wait=False)

    async def tend(self) -> None:
        """Open the failed partitions whose time has come, beside the others' work. Called now and then. Raises Unreadable."""
        if self._app.rebalancing:
            return
        now_s = time.monotonic()
        if now_s >= self._left_states_at_s:
            self._left_states_at_s = now_s + LEFT_STATES_EVERY_S
            self._folder.remove_left(self._in_use())  # Not in a thread: beside it, one of them could be opened.
        for partition, failed in self._failed.items():
            if failed.retry_at_s <= now_s and partition not in self._owned and partition not in self._opening:
                self._opening[partition] = asyncio.create_task(self._take_over(partition))
        for partition in [partition for partition, opening in self._opening.items() if opening.done()]:
            taken = self._opening.pop(partition).result()
            if taken is not None:
                self._install(partition, *taken)
                self.start_reading()

    def _in_use(self) -> set[int]:
        """Partitions whose states are open here, or may be at any moment."""
        return self.standbys.wanted().union(self._owned, self._failed, self._opening, self._closing)

    async def _take_over(self, partition: int) -> tuple[PartitionProducer, Opened] | None:
        """Fence the previous owner and load the tables; None when that failed and will be tried again. Raises Unreadable."""
        app = self._app
        config = app.config
        producer = PartitionProducer(
            config.client, app.conf.id, partition, transaction_timeout_s=config.transaction_timeout_s, compacted=config.compacted
        )
        loop = asyncio.get_running_loop()
        if partition in self._closing:  # Its files are still ours to write.
            await asyncio.wait([self._closing[partition]])
        await self.standbys.let_go(partition)
        try:
            return producer, await loop.run_in_executor(self._threads, self._open, producer, partition)
        except Unreadable:
            raise
        except (KafkaException, Aborted, Fenced, OSError, StateFailed) as error:
            await loop.run_in_executor(self._threads, producer.close)
            if isinstance(error, StateFailed) and not error.may_pass:
                self._suspect.add(partition)
            self._retry_later(partition, "FENCED" if isinstance(error, Fenced) else "NOT_OPENED", str(error))
            return None

    def _open(self, producer: PartitionProducer, partition: int) -> Opened:
        """In a thread."""
        changelogs = self._check_topics()
        if partition in self._suspect:
            self._folder.open_empty(partition).close()
            self._suspect.discard(partition)
        return producer.open(list(self._app.source_types), changelogs, self._folder, self._check_rows, self._app.sources_first, self._app.sources_bulk)

    def _check_topics(self) -> dict[str, Changelog]:
        """Table -> its changelog. Raises Unreadable when a topic has another number of partitions than the app."""
        app = self._app
        with self._admin_lock:  # One for all threads: a client that is replaced while it still has answers to give takes the process with it.
            if self._admin is None:
                self._admin = AdminClient(dict(app.config.client))
        tables = {table.changelog_name: name for name, table in app.tables.items()}
        timeout_s = app.config.transaction_timeout_s
        described = self._admin.describe_topics(TopicCollection([*app.source_types, *tables]), request_timeout=timeout_s)
        changelogs: dict[str, Changelog] = {}
        for topic, future in described.items():
            description = future.result(timeout_s)
            if len(description.partitions) != app.config.partitions:
                raise Unreadable(
                    f"{topic} has {len(description.partitions)} partitions, but the app has {app.config.partitions}: a key's records and its"
                    " row would be in different partitions. Set the app's partitions to what the topics were made with, or move the"
                    " records to topics made anew."
                )
            if topic in tables:
                changelogs[tables[topic]] = Changelog(topic, str(description.topic_id))
        return changelogs

    def _check_rows(self, table: str, rows: Iterable[bytes]) -> None:
        """Read one row of every schema that a changelog was written with. Raises Unreadable."""
        app, head = self._app, self._app.codec.header_bytes
        for row in rows:
            kind = (table, row[:head])
            if kind in self._readable:
                continue
            value_type = app.tables[table].value_type
            try:
                app.codec.decode(row, value_type)
            except Exception as error:
                raise Unreadable(
                    f"{app.tables[table].changelog_name} holds rows that this version cannot read as {value_type.__name__}: {error}."
                    " They are of another schema: run the version that wrote them, or bring the schema back to one that can read them."
                ) from error
            self._readable.add(kind)

    def _install(self, partition: int, producer: PartitionProducer, opened: Opened) -> None:
        self._epoch += 1
        self._owned[partition] = Owned(producer, opened.reader, Rows(opened.state, self._app.codec), self._epoch, opened.positions)
        metrics.STATE_ROWS.labels(partition).set(opened.state.rows_estimate())
        metrics.STATE_BYTES.labels(partition).set(opened.state.size_bytes())
        log.info("engine.partition_opened", extra={"partition": partition, "epoch": self._epoch})

    def _discard(self, partition: int, opening: "asyncio.Task[tuple[PartitionProducer, Opened] | None]") -> None:
        """Give up what was taken over for a partition that went elsewhere meanwhile."""
        if opening.exception() is None and (taken := opening.result()) is not None:
            self._close(partition, taken[0], taken[1].reader, taken[1].state, [])

    async def _release(self, partition: int) -> None:
        owned = self._owned.pop(partition)
        if owned.runner is not None:
            await asyncio.wait([owned.runner])
        self._forget(partition, owned)
        log.info("engine.partition_released", extra={"partition": partition})

    def _forget(self, partition: int, owned: Owned) -> None:
        owned.void()
        users = [task for task in (owned.runner, owned.reading) if task is not None]
        self._close(partition, owned.producer, owned.reader, owned.rows.state, users)

    def _close(self, partition: int, producer: PartitionProducer, reader: SourceReader, state: PartitionState, users: list[asyncio.Task[None]]) -> None:
        """In a thread, once its users are done."""

        def close() -> None:
            producer.close()
            reader.close()
            state.close()

        async def close_after_users() -> None:
            if users:
                await asyncio.wait(users)
            await asyncio.get_running_loop().run_in_executor(self._threads, close)

        closing = self._closing[partition] = asyncio.create_task(close_after_users())
        closing.add_done_callback(lambda done: self._closing.pop(partition, None) if self._closing.get(partition) is done else None)
        for gauge in (metrics.STATE_ROWS, metrics.STATE_BYTES):
            gauge.labels(partition).set(0)

    def _fail(self, partition: int, reason: str, detail: str) -> None:
        """Drop a partition's state and open it again later: memory may hold what the log does not."""
        owned = self._owned.pop(partition, None)
        if owned is not None:
            self._forget(partition, owned)
        if reason == "STATE_FAILED" and not StateFailed(detail).may_pass:
            self._suspect.add(partition)
        self._retry_later(partition, reason, detail)

    def _retry_later(self, partition: int, reason: str, detail: str) -> None:
        attempts = self._failed[partition].attempts + 1 if partition in self._failed else 1
        # Who was fenced may have lost the partition without knowing yet. Opening it at once would fence the new owner in turn: wait
        # until the group must have told us.
        delay_s = self._app.config.fenced_wait_s if reason == "FENCED" else min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2 ** min(attempts - 1, 10))
        self._failed[partition] = Failed(reason, attempts, time.monotonic() + delay_s)
        metrics.PARTITION_RESETS.labels(partition, reason).inc()
        log.warning("engine.partition_reset", extra={"partition": partition, "reason": reason, "detail": detail, "retry_after_s": delay_s})
