"""topic -> lanes -> `deliver` over a real broker: order, completeness, commits, dead letters, outages, restarts, rebalances."""

import asyncio
import random
from collections import defaultdict
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from schemas.records import DeadLetterStage, LoyaltyEvent
from sinks import intake, offsets
from sinks.base import Health, Item, Receipt, Verdict
from sinks.runner import run_lanes
from streams import kafka as kafka_clients
from streams import metrics, topics
from streams.settings import Settings
from tests.sinks.broker import codec, dead_letters, fill, left_to_commit, read_all, running, until, until_committed
from tests.sinks.examples import event

pytestmark = pytest.mark.stack

GROUP = "sink-test"
MakeSettings = Callable[..., Settings]


@pytest.fixture
def settings(kafka: Any, make_settings: MakeSettings) -> Settings:
    made = make_settings()
    kafka_clients.ensure_topics(made, (topics.EVENTS, topics.DEAD_LETTERS, topics.DELIVERY_AUDIT))
    return made


def lanes(settings: Settings, deliver: Callable[[Item[LoyaltyEvent]], Awaitable[Receipt]], **options: Any) -> Any:
    options = {"sink": "test", "group": GROUP, "topic": topics.EVENTS, "lane": lambda item: item.record.member_id, "concurrency_max": 8, **options}
    return lambda stop: run_lanes(settings, deliver=deliver, stop=stop, codec=codec(), **options)


async def delivered(_: Item[LoyaltyEvent]) -> Receipt:
    return Receipt(verdict=Verdict.DELIVERED)


RETRY = Receipt(verdict=Verdict.RETRY, detail="not now")


class BackEnd:
    """Answers as scripted per (member, sequence), else with success; remembers every attempt."""

    def __init__(self) -> None:
        self.script: dict[tuple[str, int], list[Receipt]] = {}
        self.is_down = False
        self.attempts: list[tuple[str, int]] = []
        self.taken: dict[str, list[int]] = defaultdict(list)

    @property
    def count(self) -> int:
        return sum(map(len, self.taken.values()))

    async def deliver(self, item: Item[LoyaltyEvent]) -> Receipt:
        member, sequence = item.record.member_id, item.record.sequence
        self.attempts.append((member, sequence))
        await asyncio.sleep(0)
        scripted = self.script.get((member, sequence))
        receipt = RETRY if self.is_down else scripted.pop(0) if scripted else await delivered(item)
        if receipt.verdict is Verdict.DELIVERED:
            self.taken[member].append(sequence)
        return receipt


async def test_order_and_completeness_under_random_failures(settings: Settings) -> None:
    """50 members x 40 events, one event in five fails once or twice first."""
    rng = random.Random(11)
    back_end = BackEnd()
    events = [event(sequence, f"m-{member}") for sequence in range(1, 41) for member in range(50)]
    for one in events:
        back_end.script[one.member_id, one.sequence] = [RETRY] * rng.choice((*[0] * 12, 1, 1, 2))
    fill(settings, topics.EVENTS, events)
    async with running(lanes(settings, back_end.deliver)):
        await until(lambda: back_end.count >= len(events), 60)
        await until_committed(settings, GROUP)
    assert all(back_end.taken[f"m-{member}"] == list(range(1, 41)) for member in range(50))


async def test_a_back_end_that_is_down_gets_everything_in_order_when_it_is_back(settings: Settings) -> None:
    back_end = BackEnd()
    back_end.is_down = True
    fill(settings, topics.EVENTS, [event(sequence, f"m-{member}") for sequence in range(1, 6) for member in range(30)])
    async with running(lanes(settings, back_end.deliver, sink="down")):
        await until(lambda: metrics.DELIVERY_DOWN.labels("down")._value.get() == 1)
        assert left_to_commit(settings, GROUP, topics.EVENTS) == 150
        back_end.is_down = False
        await until(lambda: back_end.count == 150)
        assert metrics.DELIVERY_DOWN.labels("down")._value.get() == 0
        await until_committed(settings, GROUP)
    assert all(sequences == [1, 2, 3, 4, 5] for sequences in back_end.taken.values())


async def test_what_is_skipped_is_committed_and_no_dead_letter(settings: Settings) -> None:
    async def deliver(item: Item[LoyaltyEvent]) -> Receipt:
        return Receipt(verdict=Verdict.SKIPPED) if item.record.program_id == "grand" else await delivered(item)

    fill(settings, topics.EVENTS, [event(1), event(2, program_id="staff"), event(3, program_id="staff", member_id="m-9")])
    skipped = metrics.SINK_RECORDS.labels("skips", "SKIPPED")
    async with running(lanes(settings, deliver, sink="skips")):
        await until_committed(settings, GROUP)
    assert skipped._value.get() == 1 and dead_letters(settings) == []


async def test_what_was_not_committed_is_delivered_again_and_the_rest_is_not(settings: Settings) -> None:
    """One member fails when the process stops. After it, only what was unfinished is delivered, though its offset is the lowest."""
    back_end = BackEnd()
    back_end.script["stuck", 1] = [RETRY] * 10_000
    fill(settings, topics.EVENTS, [event(1, "stuck")])
    fill(settings, topics.EVENTS, [event(sequence, f"m-{member}") for sequence in range(1, 4) for member in range(40)])
    async with running(lanes(settings, back_end.deliver)):
        await until(lambda: back_end.count == 120)
    assert left_to_commit(settings, GROUP, topics.EVENTS) > 0
    after = BackEnd()
    fill(settings, topics.EVENTS, [event(2, "stuck")])
    async with running(lanes(settings, after.deliver)):
        await until_committed(settings, GROUP)
    assert after.attempts == [("stuck", 1), ("stuck", 2)]


async def test_poison_and_refusals_become_dead_letters_and_the_lane_goes_on(settings: Settings) -> None:
    seen: list[int] = []

    async def deliver(item: Item[LoyaltyEvent]) -> Receipt:
        seen.append(item.record.sequence)
        if item.record.sequence == 2:
            return Receipt(verdict=Verdict.REFUSED, reason="TOO_ODD", detail="even")
        return Receipt(verdict=Verdict.DELIVERED)

    key = b"grand/m-1"
    fill(settings, topics.EVENTS, [event(1), event(2), b"\x00garbage", b"", event(3)], key=key)
    async with running(lanes(settings, deliver)):
        await until_committed(settings, GROUP)
    assert seen == [1, 2, 3]
    letters = {letter.reason: letter for letter in dead_letters(settings)}
    assert set(letters) == {"TOO_ODD", "SCHEMA_UNKNOWN", "EMPTY"}
    assert {stored for stored, _ in read_all(settings, topics.DEAD_LETTERS)} == {key}
    refused, garbage = letters["TOO_ODD"], letters["SCHEMA_UNKNOWN"]
    assert (refused.stage, refused.processor, refused.detail) == (DeadLetterStage.DELIVERY, "test", "even")
    assert codec().decode(refused.value, LoyaltyEvent).sequence == 2
    assert refused.ingested_at_ms == event(2).ingested_at_ms
    assert (garbage.stage, garbage.value, garbage.key) == (DeadLetterStage.DECODE, b"\x00garbage", key)
    assert garbage.dead_letter_id == f"test-{garbage.topic}-{garbage.partition}-{garbage.offset}"


async def test_a_record_that_fills_a_message_is_dead_lettered_without_its_value(settings: Settings) -> None:
    fill(settings, topics.EVENTS, [b"x" * 999_800])
    async with running(lanes(settings, delivered)):
        await until_committed(settings, GROUP)
    (letter,) = dead_letters(settings)
    assert letter.value is None and "999800 bytes" in letter.detail


async def test_no_offset_is_committed_before_its_dead_letter_is_acknowledged(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(settings, topics.EVENTS, [b"poison", event(1)])
    sent = asyncio.Event()

    class Gate:
        def __init__(self, *_: object, **__: object) -> None: ...

        async def send(self, _: object) -> None:
            await sent.wait()

    monkeypatch.setattr("sinks.runner.DeadLetters", Gate)
    async with running(lanes(settings, delivered)):
        before = left_to_commit(settings, GROUP, topics.EVENTS)
        await until(lambda: metrics.SINK_RECORDS.labels("test", "DELIVERED")._value.get() > 0)
        await asyncio.sleep(3 * intake.COMMIT_S)  # A commit that must not happen has no condition to wait for.
        assert 1 <= left_to_commit(settings, GROUP, topics.EVENTS) <= before
        sent.set()
        await until_committed(settings, GROUP)


async def test_memory_is_bounded_while_a_destination_hangs(settings: Settings) -> None:
    release = asyncio.Event()
    done: dict[str, list[int]] = defaultdict(list)

    async def deliver(item: Item[LoyaltyEvent]) -> Receipt:
        await release.wait()
        done[item.record.member_id].append(item.record.sequence)
        return Receipt(verdict=Verdict.DELIVERED)

    fill(settings, topics.EVENTS, [event(sequence, f"m-{member}") for sequence in range(1, 7) for member in range(100)])
    async with running(lanes(settings, deliver, outstanding_max=200, concurrency_max=4, sink="bounded")):
        waiting = metrics.DELIVERIES_WAITING.labels("bounded")
        await until(lambda: waiting._value.get() == 200)
        await asyncio.sleep(1.0)
        assert waiting._value.get() == 200
        release.set()
        await until(lambda: sum(map(len, done.values())) == 600)
        assert all(sequences == list(range(1, 7)) for sequences in done.values())
        await until_committed(settings, GROUP)


async def test_two_processes_share_the_partitions_and_a_leaver_loses_nothing(settings: Settings) -> None:
    done: list[tuple[str, str, int]] = []

    def deliver_as(name: str) -> Callable[[Item[LoyaltyEvent]], Awaitable[Receipt]]:
        async def deliver(item: Item[LoyaltyEvent]) -> Receipt:
            await asyncio.sleep(0.002)
            done.append((name, item.record.member_id, item.record.sequence))
            return Receipt(verdict=Verdict.DELIVERED)

        return deliver

    last = 0

    def fill_more() -> None:
        nonlocal last
        fill(settings, topics.EVENTS, [event(sequence, f"m-{member}") for sequence in range(last + 1, last + 11) for member in range(40)])
        last += 10

    async def fill_until(name: str) -> None:
        while not any(who == name for who, *_ in done):
            await asyncio.to_thread(fill_more)
            await asyncio.sleep(0.2)

    async with running(lanes(settings, deliver_as("a"))):
        await fill_until("a")
        async with running(lanes(settings, deliver_as("b"))):
            await fill_until("b")
            await asyncio.to_thread(fill_more)
        await asyncio.to_thread(fill_more)
        await until_committed(settings, GROUP, timeout_s=30)
    newest: dict[str, int] = defaultdict(int)
    for _, member, sequence in done:  # First deliveries come in order; a rebalance may repeat some.
        assert sequence <= newest[member] + 1
        newest[member] = max(newest[member], sequence)
    assert set(newest.values()) == {last} and len(newest) == 40


async def test_no_broker_is_waited_for(make_settings: MakeSettings) -> None:
    health = Health()
    alone = make_settings(kafka_bootstrap_servers="127.0.0.1:1")
    async with running(lanes(alone, delivered, health=health)):
        await until(lambda: "waits" in health.readiness())


async def test_readiness_follows_the_assignment(settings: Settings) -> None:
    health = Health()
    async with running(lanes(settings, delivered, health=health)):
        await asyncio.sleep(0)
        assert "waits for its partitions" in health.readiness()
        await until(lambda: health.readiness() == "")
    assert "does not poll" in health.readiness()


async def test_a_broker_that_vanishes_is_noticed_and_waited_for(settings: Settings, kafka: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "SILENCE_S", 0.5)
    monkeypatch.setattr(intake, "ANSWER_S", 0.5)
    health = Health()
    done: list[int] = []

    async def deliver(item: Item[LoyaltyEvent]) -> Receipt:
        done.append(item.record.sequence)
        return Receipt(verdict=Verdict.DELIVERED)

    fill(settings, topics.EVENTS, [event(1)])
    async with running(lanes(settings, deliver, health=health)):
        await until(lambda: done == [1] and not health.readiness())
        kafka.pause()
        try:
            await until(lambda: "no Kafka broker answers" in health.readiness())
        finally:
            kafka.resume()
        fill(settings, topics.EVENTS, [event(2)])
        await until(lambda: done[-1] == 2 and not health.readiness(), 30)


async def test_a_broker_that_takes_no_metadata_gets_offsets_alone(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offsets, "METADATA_CHARACTERS_MAX", 100_000)
    monkeypatch.setattr(intake, "VERIFY_S", 0.3)
    release = asyncio.Event()

    async def deliver(item: Item[LoyaltyEvent]) -> Receipt:
        if item.record.sequence % 2:
            await release.wait()
        return Receipt(verdict=Verdict.DELIVERED)

    # A first lane that is done, then 4000 that are stuck in one partition: too many for the broker's 4096 bytes.
    fill(settings, topics.EVENTS, [event(2), event(4), *(event(1, f"m-{member}") for member in range(4000))], key=b"grand/m-1")
    by_member = {"lane": lambda item: item.record.member_id, "concurrency_max": 5000}
    async with running(lanes(settings, deliver, **by_member)):
        await until(lambda: left_to_commit(settings, GROUP, topics.EVENTS) == 4000)
        release.set()
        await until_committed(settings, GROUP)


async def test_lag_counts_what_is_not_finished(settings: Settings) -> None:
    release = asyncio.Event()

    async def deliver(item: Item[LoyaltyEvent]) -> Receipt:
        if item.record.member_id == "m-0":
            await release.wait()
        return Receipt(verdict=Verdict.DELIVERED)

    def lag() -> Any:
        name = topics.EVENTS.name(settings.topic_prefix)
        return sum(metrics.SINK_LAG.labels("lag", name, str(number))._value.get() for number in range(settings.kafka_partitions))

    fill(settings, topics.EVENTS, [event(sequence, f"m-{member}") for sequence in (1, 2) for member in range(20)])
    async with running(lanes(settings, deliver, sink="lag")):
        await until(lambda: lag() == 2)
        release.set()
        await until(lambda: lag() == 0)


async def test_a_bug_in_the_polling_thread_ends_the_run(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(kafka_clients, "consumer", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        await lanes(settings, delivered)(asyncio.Event())
