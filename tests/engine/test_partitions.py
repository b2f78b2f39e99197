"""The partitions of one worker, with producers that fail on purpose: nothing raises, nothing is skipped, and it heals."""

import asyncio
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from streams.engine import EngineConfig, Input, Outgoing, Poison, ownership
from streams.engine.partition import Aborted, Opened
from streams.engine.reader import Batch, Unreadable
from streams.engine.ownership import Partitions
from streams.engine.state import StateFailed
from tests.engine.counting import JsonCodec
from tests.engine.test_unit import TOPIC, unit


class ScriptedProducer:
    """What Partitions asks of a PartitionProducer; fails the next commits as it is told."""

    def __init__(self) -> None:
        self.failures: list[Exception] = []
        self.committed: list[dict[Any, int]] = []

    def commit(self, rows: Any, outgoing: Any, ends: dict[Any, int], forget: Any) -> dict[str, int]:
        if self.failures:
            raise self.failures.pop(0)
        self.committed.append(dict(ends))
        return {topic: 1 for topic in rows}

    def close(self) -> None:
        """Nothing to close."""


@pytest.fixture
def app(tmp_path: Path) -> Any:
    config = EngineConfig(
        app_id="app", client={}, partitions=1, data_dir=str(tmp_path), batch_records_max=10, fenced_wait_s=1.0, record_bytes_max=5_000
    )
    return SimpleNamespace(
        codec=JsonCodec(), source_types={"in": dict}, sources_bulk=set(), tables={}, unit=None, config=config, rebalancing=False, on_poison=_letter
    )


def _letter(poison: Poison) -> Outgoing:
    return Outgoing("dead", None, poison.reason.encode())


class ScriptedReader:
    """What Partitions asks of a SourceReader: gives one record a call, for ever; or fails."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.failure = failure
        self.position = 0
        self.asked: list[int] = []
        self.closed = False

    def start(self, positions: dict[Any, int]) -> None:
        self.position = positions[TOPIC]

    def read(self, records_max: int, timeout_s: float, bulk_max: int) -> Batch:
        if self.failure is not None:
            raise self.failure
        self.asked.append(records_max)
        start = self.position
        self.position += 1
        return Batch([Input("in", 0, start, 1000, b"k", b"1", ())], {TOPIC: start}, {TOPIC: start + 1})

    def close(self) -> None:
        self.closed = True


def opening(partitions: Partitions, reader: ScriptedReader | None = None) -> Opened:
    return Opened({TOPIC: 0}, partitions._folder.open(0), reader or ScriptedReader())  # type: ignore[arg-type]


def opened(app: Any, reader: ScriptedReader | None = None) -> tuple[Partitions, ScriptedProducer]:
    partitions, producer = Partitions(app), ScriptedProducer()
    partitions._install(0, producer, opening(partitions, reader))  # type: ignore[arg-type]
    return partitions, producer


def of(partitions: Partitions, app: Any, values: list[bytes], start: int = 0) -> Any:
    made = unit(values, start)
    made._app, made.epoch = app, partitions._owned[0].epoch
    made.decode()
    return made


def position(partitions: Partitions) -> int:
    """Where the partition's next unit starts."""
    return partitions._owned[0].positions[TOPIC]


async def finish(partitions: Partitions) -> None:
    running = [owned.runner for owned in partitions._owned.values() if owned.runner is not None]
    if running:
        await asyncio.wait(running)


async def test_units_commit_in_order(app: Any) -> None:
    partitions, producer = opened(app)
    for start in (0, 2):
        await partitions.process(of(partitions, app, [b"1", b"2"], start), lambda one, u: None)
    await finish(partitions)
    assert position(partitions) == 4
    assert producer.committed[-1] == {TOPIC: 4}


async def test_a_unit_after_a_lost_one_is_never_committed(app: Any) -> None:
    partitions, producer = opened(app)
    await partitions.process(of(partitions, app, [b"3"], start=2), lambda one, u: None)
    await asyncio.sleep(0)
    assert producer.committed == []
    assert partitions.failed() == {0: "OUT_OF_STEP"}


async def test_an_aborted_transaction_gives_the_partition_up_until_it_is_taken_over_again(app: Any) -> None:
    partitions, producer = opened(app)
    producer.failures.append(Aborted("no"))
    await partitions.process(of(partitions, app, [b"1"]), lambda one, u: None)
    await finish(partitions)
    assert (partitions.owned(), partitions.failed()) == (set(), {0: "ABORTED"})
    await asyncio.wait(partitions._closing.values())
    partitions._install(0, ScriptedProducer(), opening(partitions))  # type: ignore[arg-type]
    assert partitions.failed() == {}, "what is open again is not failed, with or without traffic"


async def test_a_dead_letter_that_cannot_be_made_holds_the_unit_back(app: Any) -> None:
    partitions, producer = opened(app)

    def broken(poison: Poison) -> Outgoing:
        raise ValueError("no letter")

    app.on_poison = broken
    await partitions.process(of(partitions, app, [b"{"]), lambda one, u: None)
    await finish(partitions)
    assert producer.committed == []
    assert partitions.failed() == {0: "UNIT_FAILED"}


async def test_a_unit_from_before_a_reset_is_dropped(app: Any) -> None:
    partitions, producer = opened(app)
    old = of(partitions, app, [b"1"])
    await partitions.settle()
    await partitions.process(old, lambda one, u: None)
    await finish(partitions)
    assert producer.committed == []
    assert position(partitions) == 0


def agent_of(app: Any, partitions: Partitions) -> None:
    """Units go the whole way: read, delivered, handled, committed."""
    app.consumer_generation_id = 1
    app.consumer = SimpleNamespace(callback=lambda message: partitions.process(message.value, lambda one, u: None))


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


async def test_a_slow_broker_holds_the_reading_back(app: Any) -> None:
    reader = ScriptedReader()
    partitions, producer = opened(app, reader)
    agent_of(app, partitions)
    go_on = threading.Event()
    committing: list[dict[Any, int]] = []

    def commit(rows: Any, outgoing: Any, ends: dict[Any, int], forget: Any) -> dict[str, int]:
        committing.append(dict(ends))
        go_on.wait(30)
        return {}

    producer.commit = commit  # type: ignore[method-assign]
    partitions.start_reading()
    owned = partitions._owned[0]
    await until(lambda: owned.pending is not None and len(owned.pending) == app.config.batch_records_max)
    read = reader.position
    await asyncio.sleep(0.1)  # Nothing may happen, and for that there is no condition to await.
    assert reader.position == read == committing[0][TOPIC] + app.config.batch_records_max
    assert max(reader.asked) <= app.config.batch_records_max
    go_on.set()
    await until(lambda: position(partitions) > read)
    await partitions.release_all()
    assert reader.closed


@pytest.mark.parametrize(("partitions_owned", "share"), [(1, 6), (3, 2), (12, 1)])
async def test_records_of_bulk_topics_have_their_share_of_a_unit(
    app: Any, monkeypatch: pytest.MonkeyPatch, partitions_owned: int, share: int
) -> None:
    """The share is of all partitions that are open here: they take turns in one interpreter."""
    monkeypatch.setattr(ownership, "BULK_RECORDS_MAX", 6)
    monkeypatch.setattr(ownership, "BULK_RECORDS_MIN", 1)

    class BulkReader(ScriptedReader):
        def read(self, records_max: int, timeout_s: float, bulk_max: int) -> Batch:
            refused.append(bulk_max <= 0)
            return super().read(records_max, timeout_s, bulk_max) if bulk_max > 0 else None  # type: ignore[return-value]

    refused: list[bool] = []
    app.sources_bulk = {"in"}
    partitions, producer = opened(app, BulkReader())
    for other in range(1, partitions_owned):
        partitions._owned[other] = partitions._owned[0]
    agent_of(app, partitions)
    go_on = threading.Event()
    committing: list[int] = []

    def commit(rows: Any, outgoing: Any, ends: dict[Any, int], forget: Any) -> dict[str, int]:
        committing.append(ends[TOPIC])
        go_on.wait(30)
        return {}

    producer.commit = commit  # type: ignore[method-assign]
    partitions._owned[0].reading = asyncio.create_task(partitions._read(0, partitions._owned[0], partitions._owned[0].epoch, None))
    await until(lambda: bool(committing))
    since = len(refused)
    await until(lambda: sum(refused[since:]) > 3)
    pending = partitions._owned[0].pending
    assert pending is not None and len(pending) <= share
    go_on.set()
    await until(lambda: position(partitions) > 5 * share)
    units = [end - start for start, end in zip(committing, committing[1:], strict=False)]
    assert max(units) <= 2 * share, "one that is on its way to the agent when the next begins is not counted"
    for other in range(1, partitions_owned):
        del partitions._owned[other]
    await partitions.release_all()


async def test_reading_goes_on_where_the_last_commit_ended_after_a_rebalance(app: Any) -> None:
    reader = ScriptedReader()
    partitions, producer = opened(app, reader)
    agent_of(app, partitions)
    partitions.start_reading()
    await until(lambda: position(partitions) > 5)
    await partitions.settle()
    settled = position(partitions)
    assert producer.committed[-1] == {TOPIC: settled}
    partitions.start_reading()
    await until(lambda: position(partitions) > settled + 5)
    assert partitions.failed() == {}
    await partitions.release_all()


async def test_a_unit_that_the_agent_lost_is_read_again(app: Any) -> None:
    reader = ScriptedReader()
    partitions, _ = opened(app, reader)
    agent_of(app, partitions)
    lossy, deliver = iter([True, True, False]), app.consumer.callback

    async def callback(message: Any) -> None:
        if next(lossy, True):
            await deliver(message)

    app.consumer.callback = callback
    partitions.start_reading()
    await until(lambda: bool(partitions.failed()))
    assert partitions.failed()[0] in ("OUT_OF_STEP", "UNIT_FAILED"), "found when it runs, or when it would be joined to one that waits"
    await partitions.release_all()


@pytest.mark.parametrize(("failure", "crashes"), [(RuntimeError("bug"), False), (Unreadable("records expired"), True)])
async def test_a_failing_reader_costs_its_partition_and_expired_records_stop_the_worker(app: Any, failure: Exception, crashes: bool) -> None:
    partitions, _ = opened(app, ScriptedReader(failure))
    agent_of(app, partitions)
    crashed: list[Exception] = []

    async def crash(reason: Exception) -> None:
        crashed.append(reason)

    app.crash = crash
    partitions.start_reading()
    await until(lambda: bool(crashed if crashes else partitions.failed()))
    assert crashed == ([failure] if crashes else [])
    assert partitions.failed() == ({} if crashes else {0: "READ_FAILED"})
    await partitions.release_all()


@pytest.mark.parametrize(("detail", "emptied"), [("Corruption: bad block", True), ("IO error: No space left on device", False)])
async def test_a_state_that_fails_is_given_up_and_only_a_corrupt_one_is_emptied(app: Any, detail: str, emptied: bool) -> None:
    partitions, producer = opened(app)
    app.tables = {"rows": SimpleNamespace(name="rows", value_type=dict, changelog_name="rows-changelog")}
    state = partitions._owned[0].rows.state

    def fail(*_: Any, **__: Any) -> None:
        raise StateFailed(detail)

    state.apply = fail  # type: ignore[method-assign]
    await partitions.process(of(partitions, app, [b"1"]), lambda one, u: u.write(app.tables["rows"], b"k", {}))
    await finish(partitions)
    assert producer.committed == [{TOPIC: 1}]
    assert partitions.failed() == {0: "STATE_FAILED"}
    assert (0 in partitions._suspect) is emptied


async def test_a_call_that_never_comes_back_costs_the_partition_and_not_the_worker(app: Any) -> None:
    app.config = replace(app.config, transaction_timeout_s=0.05)
    partitions, producer = opened(app)
    come_back = threading.Event()
    producer.commit = lambda rows, outgoing, ends, forget: come_back.wait(30) and {}  # type: ignore[method-assign,assignment,return-value]
    await partitions.process(of(partitions, app, [b"1"]), lambda one, u: None)
    await finish(partitions)
    assert (partitions.owned(), partitions.failed()) == (set(), {0: "ABORTED"})
    come_back.set()


async def test_a_partition_that_fails_while_faust_delivers_nothing_can_be_taken_over_again(app: Any) -> None:
    """During a rebalance a delivery waits, and the rebalance must not wait for the delivery."""
    partitions, _ = opened(app, ScriptedReader())
    stuck = asyncio.Event()

    async def callback(message: Any) -> None:
        stuck.set()
        await asyncio.Event().wait()

    app.consumer_generation_id, app.consumer = 1, SimpleNamespace(callback=callback)
    partitions.start_reading()
    await asyncio.wait_for(stuck.wait(), 10)
    partitions._fail(0, "ABORTED", "no")
    await asyncio.wait_for(asyncio.wait(partitions._closing.values()), 10)
    assert partitions.failed() == {0: "ABORTED"}


async def test_a_commit_that_ends_after_the_reader_failed_does_not_call_the_partition_open(app: Any) -> None:
    reader = ScriptedReader(RuntimeError("bug"))
    partitions, producer = opened(app, reader)
    agent_of(app, partitions)
    go_on = threading.Event()
    producer.commit = lambda rows, outgoing, ends, forget: go_on.wait(30) and {}  # type: ignore[method-assign,assignment,return-value]
    owned = partitions._owned[0]
    await partitions.process(of(partitions, app, [b"1"]), lambda one, u: None)
    partitions.start_reading()
    await until(lambda: partitions.failed() == {0: "READ_FAILED"})
    go_on.set()
    assert owned.runner is not None
    await owned.runner
    assert partitions.failed() == {0: "READ_FAILED"}, "it is still to be opened again"
