"""topic -> batches -> back end over a real broker: sizes, waits, retries, stops."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from sinks.base import Item, Receipt, Verdict
from sinks.batches import run_batches
from sinks.flushes import Flushes
from sinks.hold import Hold
from sinks.schedule import Schedule
from streams import kafka as kafka_clients
from streams import topics
from streams.scheduling.cadence import REALTIME, Cadence
from streams.settings import Settings
from tests.sinks.broker import codec, dead_letters, fill, left_to_commit, running, until, until_committed
from tests.sinks.examples import event

pytestmark = pytest.mark.stack

OK = Receipt(verdict=Verdict.DELIVERED)
RETRY = Receipt(verdict=Verdict.RETRY, detail="not now")
SOON = Schedule(longest_s=0.2)


@pytest.fixture
def settings(make_settings: Callable[..., Settings]) -> Settings:
    made = make_settings(redis_url="redis://127.0.0.1:1", clickhouse_url="http://127.0.0.1:1")
    kafka_clients.ensure_topics(made, (topics.EVENTS, topics.DEAD_LETTERS))
    return made


class BackEnd:
    """Takes batches as `answers` says, one after the other, then all; remembers each."""

    def __init__(self, *answers: Callable[[Sequence[Item[Any]]], list[Receipt]]) -> None:
        self.answers = list(answers)
        self.always: Callable[[Sequence[Item[Any]]], list[Receipt]] = lambda items: [OK] * len(items)
        self.batches: list[list[str]] = []
        self.written: list[str] = []

    async def write(self, items: Sequence[Item[Any]]) -> list[Receipt]:
        names = [f"{one.record.member_id}/{one.record.sequence}" for one in items]
        self.batches.append(names)
        receipts = (self.answers.pop(0) if self.answers else self.always)(items)
        self.written += [name for name, receipt in zip(names, receipts, strict=True) if receipt.verdict is Verdict.DELIVERED]
        return receipts


def batches(settings: Settings, back_end: BackEnd, **options: Any) -> Callable[[asyncio.Event], Any]:
    options = {"rows_max": 10, "wait_max_s": 0.3, "schedule": SOON, **options}
    return lambda stop: run_batches(
        settings, sink="batch", group="sink-batch", topic=topics.EVENTS, write=back_end.write, stop=stop, codec=codec(), **options
    )


async def test_batches_are_full_under_load_and_small_ones_do_not_wait_long(settings: Settings) -> None:
    back_end = BackEnd()
    fill(settings, topics.EVENTS, [event(n) for n in range(1, 101)])
    async with running(batches(settings, back_end)):
        await until(lambda: len(back_end.written) == 100)
        assert max(map(len, back_end.batches)) == 10
        assert len(back_end.batches) <= 12
        fill(settings, topics.EVENTS, [event(101)])
        await until(lambda: back_end.batches[-1] == ["m-1/101"], 3.0)
        await until_committed(settings, "sink-batch")


async def test_only_what_failed_is_tried_again(settings: Settings) -> None:
    back_end = BackEnd(
        lambda items: [RETRY if number % 2 else OK for number, _ in enumerate(items)],
        lambda items: [RETRY] * len(items),
    )
    fill(settings, topics.EVENTS, [event(n) for n in range(1, 11)])
    async with running(batches(settings, back_end)):
        await until_committed(settings, "sink-batch")
    assert [len(one) for one in back_end.batches] == [10, 5, 5]
    assert sorted(back_end.written) == sorted(f"m-1/{n}" for n in range(1, 11))


async def test_a_write_that_raises_is_tried_again(settings: Settings) -> None:
    def fail(_: Sequence[Item[Any]]) -> list[Receipt]:
        raise RuntimeError("a bug")

    back_end = BackEnd(fail, fail)
    fill(settings, topics.EVENTS, [event(1)])
    async with running(batches(settings, back_end)):
        await until(lambda: back_end.written == ["m-1/1"])


async def test_refused_rows_are_dead_letters_before_their_offsets_are_committed(settings: Settings) -> None:
    refusal = Receipt(verdict=Verdict.REFUSED, reason="ROW_REFUSED", detail="too odd")
    back_end = BackEnd()
    back_end.always = lambda items: [refusal if one.record.sequence == 3 else OK for one in items]
    fill(settings, topics.EVENTS, [event(1), event(2), event(3), b"poison", event(4)], key=b"grand/m-1")
    async with running(batches(settings, back_end)):
        await until_committed(settings, "sink-batch")
    assert back_end.written == ["m-1/1", "m-1/2", "m-1/4"]
    assert {letter.reason for letter in dead_letters(settings)} == {"ROW_REFUSED", "NOT_WIRE_FORMAT"}


async def test_memory_is_bounded_and_nothing_is_committed_while_the_back_end_is_down(settings: Settings) -> None:
    back_end = BackEnd()
    back_end.always = lambda items: [RETRY] * len(items)
    fill(settings, topics.EVENTS, [event(n, f"m-{n % 7}") for n in range(1, 501)])
    async with running(batches(settings, back_end, outstanding_max=30)):
        await until(lambda: len(back_end.batches) >= 5)
        assert left_to_commit(settings, "sink-batch", topics.EVENTS) == 500
        assert len({name for batch in back_end.batches for name in batch}) == 10  # The others wait behind the first batch.
        back_end.always = lambda items: [OK] * len(items)
        await until(lambda: len(back_end.written) == 500)
        await until_committed(settings, "sink-batch")
    assert len(set(back_end.written)) == 500


async def test_a_stop_writes_what_is_held_once_more(settings: Settings) -> None:
    back_end = BackEnd()
    fill(settings, topics.EVENTS, [event(n) for n in range(1, 6)])
    async with running(batches(settings, back_end, wait_max_s=60.0)) as stop:
        await asyncio.sleep(1.5)  # Held: the batch is not full and its time has not come.
        assert back_end.batches == []
        stop.set()
        await until(lambda: len(back_end.written) == 5)
    assert left_to_commit(settings, "sink-batch", topics.EVENTS) == 0


async def test_what_is_not_due_waits_in_the_log_and_a_change_of_the_cadence_counts_at_once(settings: Settings) -> None:
    back_end, cadence, flushed = BackEnd(), [Cadence(every_s=31 * 86_400)], []

    async def ended(*flush: int) -> None:
        flushed.append(flush)

    def waiting(stop: asyncio.Event) -> Any:
        return batches(settings, back_end, rows_max=10, hold=Hold(lambda: cadence[0]), flushes=Flushes(ended))(stop)

    fill(settings, topics.EVENTS, [event(n) for n in range(1, 26)])
    async with running(waiting):
        await until(lambda: left_to_commit(settings, "sink-batch", topics.EVENTS) == 25)
    assert (back_end.written, flushed) == ([], []), "a stop writes nothing that is not due"
    async with running(waiting):
        cadence[0] = Cadence(every_s=1, rate_max_per_s=100)
        await until_committed(settings, "sink-batch")
        await until(lambda: sum(rows for _, _, rows in flushed) == 25)  # Though nothing comes after it.
        assert all(instant_ms % 1000 == 0 and instant_ms <= started_ms for instant_ms, started_ms, _ in flushed)
        cadence[0] = REALTIME
        fill(settings, topics.EVENTS, [event(26)])
        await until(lambda: len(back_end.written) == 26)
    assert sum(rows for _, _, rows in flushed) == 25, "what is realtime has no runs"
    assert back_end.written == [f"m-1/{n}" for n in range(1, 27)]
