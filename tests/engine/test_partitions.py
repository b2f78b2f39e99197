"""The partitions of one worker, with producers that fail on purpose: nothing raises, nothing is skipped, and it heals."""

import asyncio
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from streams.engine import EngineConfig, Outgoing, Poison
from streams.engine.partition import Aborted, Opened
from streams.engine.recovery import Partitions
from streams.engine.state import StateFailed
from tests.engine.counting import JsonCodec
from tests.engine.test_unit import TOPIC, unit


class ScriptedProducer:
    """What Partitions asks of a PartitionProducer; fails the next commits as it is told."""

    def __init__(self) -> None:
        self.failures: list[Exception] = []
        self.committed: list[dict[Any, int]] = []

    def commit(self, rows: Any, outgoing: Any, ends: dict[Any, int]) -> dict[str, int]:
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
    return SimpleNamespace(codec=JsonCodec(), source_types={"in": dict}, tables={}, unit=None, config=config, rebalancing=False, on_poison=_letter)


def _letter(poison: Poison) -> Outgoing:
    return Outgoing("dead", None, poison.reason.encode())


def opening(partitions: Partitions) -> Opened:
    return Opened({TOPIC: 0}, partitions._folder.open(0))


def opened(app: Any) -> tuple[Partitions, ScriptedProducer]:
    partitions, producer = Partitions(app), ScriptedProducer()
    partitions._install(0, producer, opening(partitions))  # type: ignore[arg-type]
    return partitions, producer


def of(partitions: Partitions, app: Any, values: list[bytes], start: int = 0) -> Any:
    made = unit(values, start)
    made._app, made.epoch = app, partitions.epochs()[0]
    return made


async def finish(partitions: Partitions) -> None:
    while any(owned.runner and not owned.runner.done() for owned in partitions._owned.values()):
        await asyncio.sleep(0)


async def test_units_commit_in_order(app: Any) -> None:
    partitions, producer = opened(app)
    for start in (0, 2):
        await partitions.process(of(partitions, app, [b"1", b"2"], start), lambda one, u: None)
    await finish(partitions)
    assert partitions.positions() == {TOPIC: 4}
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
    await asyncio.sleep(0)
    assert producer.committed == []
    assert partitions.failed() == {0: "UNIT_FAILED"}


async def test_a_unit_from_before_a_reset_is_dropped(app: Any) -> None:
    partitions, producer = opened(app)
    old = of(partitions, app, [b"1"])
    await partitions.settle()
    await partitions.process(old, lambda one, u: None)
    await finish(partitions)
    assert producer.committed == []
    assert partitions.positions() == {TOPIC: 0}


async def test_a_full_queue_holds_the_sender_back(app: Any) -> None:
    partitions, producer = opened(app)
    go_on = threading.Event()
    producer.commit = lambda rows, outgoing, ends: go_on.wait(30) and {}  # type: ignore[method-assign,assignment,return-value]
    sent = 0
    for start in (0, 6):  # One under way, one queued.
        await partitions.process(of(partitions, app, [b"1"] * 6, start), lambda one, u: None)
        await asyncio.sleep(0)
        sent += 6
    third = asyncio.create_task(partitions.process(of(partitions, app, [b"1"] * 6, 12), lambda one, u: None))
    await asyncio.sleep(0.05)
    assert not third.done()
    go_on.set()
    await third
    await finish(partitions)
    assert partitions.positions() == {TOPIC: 18}


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
    producer.commit = lambda rows, outgoing, ends: come_back.wait(30) and {}  # type: ignore[method-assign,assignment,return-value]
    await partitions.process(of(partitions, app, [b"1"]), lambda one, u: None)
    await finish(partitions)
    assert (partitions.owned(), partitions.failed()) == (set(), {0: "ABORTED"})
    come_back.set()
