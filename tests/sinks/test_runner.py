"""topic -> lanes -> destination over a real broker: order, completeness, commits, dead letters, outages, restarts, rebalances."""

import asyncio
import random
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from infra.fakes.receiver import HANG, Behaviour, Receiver
from schemas.records import DeadLetterStage, LoyaltyEvent
from sinks import intake, offsets, webhook
from sinks.base import Health, Item, Receipt, Verdict
from sinks.lanes import by_key
from sinks.runner import run_lanes
from streams import kafka as kafka_clients
from streams import metrics, topics
from streams.configuration import Configuration, Destination
from streams.settings import Settings
from tests.sinks.broker import codec, dead_letters, fill, left_to_commit, read_all, running, until, until_committed
from tests.sinks.examples import SECRET, event

pytestmark = pytest.mark.stack

GROUP = "sink-webhooks-crm"
MakeSettings = Callable[..., Settings]


@pytest.fixture
def settings(kafka: Any, make_settings: MakeSettings) -> Settings:
    made = make_settings()
    kafka_clients.ensure_topics(made, (topics.EVENTS, topics.DEAD_LETTERS, topics.DELIVERY_AUDIT))
    return made


def configuration(*destinations: Destination) -> Configuration:
    return Configuration(programs={}, sources={}, tokens=(), destinations={one.name: one for one in destinations})


def destination(receiver: Receiver, name: str = "crm", **fields: Any) -> Destination:
    return Destination(**{"name": name, "url": receiver.url, "secret": SECRET, "timeout_s": 5.0, **fields})


def webhooks(settings: Settings, *destinations: Destination, health: Health | None = None) -> Callable[[asyncio.Event], Awaitable[None]]:
    return lambda stop: webhook.run(settings, configuration(*destinations), stop, health or Health())


def lanes(settings: Settings, deliver: Callable[[Item[LoyaltyEvent]], Awaitable[Receipt]], **options: Any) -> Any:
    options = {"sink": "test", "group": "sink-test", "topic": topics.EVENTS, "lane": by_key, "concurrency_max": 8, **options}
    return lambda stop: run_lanes(settings, deliver=deliver, stop=stop, codec=codec(), **options)


async def delivered(_: Item[LoyaltyEvent]) -> Receipt:
    return Receipt(verdict=Verdict.DELIVERED)


async def test_order_and_completeness_under_random_failures(settings: Settings) -> None:
    """50 members x 40 events, one event in five fails once or twice first."""
    rng = random.Random(11)
    async with Receiver(SECRET) as receiver:
        events = [event(sequence, f"m-{member}") for sequence in range(1, 41) for member in range(50)]
        for member in range(50):
            for _ in range(40):
                failures = rng.choices((500, 503, 429, 404), k=rng.choice((*[0] * 12, 1, 1, 2)))
                receiver.script(*failures, 200, member=f"grand/m-{member}")
        fill(settings, topics.EVENTS, events)
        async with running(webhooks(settings, destination(receiver))):
            await receiver.wait_for(lambda r: len({one.webhook_id for one in r.accepted}) == len(events), timeout_s=60)
            assert receiver.inversions() == 0
            assert all(receiver.sequences(f"grand/m-{member}") == list(range(1, 41)) for member in range(50))
            assert not receiver.unverified
            await until_committed(settings, GROUP)


async def test_a_destination_that_is_down_gets_everything_in_order_when_it_is_back(settings: Settings) -> None:
    async with Receiver(SECRET) as receiver, Receiver(SECRET) as other:
        fill(settings, topics.EVENTS, [event(sequence, f"m-{member}") for sequence in range(1, 6) for member in range(30)])
        await receiver.go_down()
        async with running(webhooks(settings, destination(receiver), destination(other, "app"))):
            await other.wait_for(lambda r: len(r.accepted) == 150)  # The dead one stops nobody.
            await until(lambda: metrics.DELIVERY_DOWN.labels("crm")._value.get() == 1)
            assert left_to_commit(settings, GROUP, topics.EVENTS) == 150
            await receiver.come_back()
            await receiver.wait_for(lambda r: len(r.accepted) == 150, timeout_s=10)
            assert receiver.inversions() == 0
            assert metrics.DELIVERY_DOWN.labels("crm")._value.get() == 0
            await until_committed(settings, GROUP)


async def test_filters_skip_and_commit(settings: Settings) -> None:
    async with Receiver(SECRET) as receiver:
        fill(settings, topics.EVENTS, [event(1), event(2, program_id="staff"), event(3, program_id="staff", member_id="m-9")])
        async with running(webhooks(settings, destination(receiver, programs=frozenset({"staff"})))):
            await until_committed(settings, GROUP)
        assert {one.webhook_id for one in receiver.received} == {"staff-m-1-2", "staff-m-9-3"}


async def test_what_was_not_committed_is_delivered_again_with_the_same_id_and_the_rest_is_not(settings: Settings) -> None:
    """One member hangs when the process stops. After it, only what was unfinished is sent again, though its offset is the lowest."""
    async with Receiver(SECRET) as receiver:
        fill(settings, topics.EVENTS, [event(1, "stuck")])
        fill(settings, topics.EVENTS, [event(sequence, f"m-{member}") for sequence in range(1, 4) for member in range(40)])
        receiver.script(HANG, member="grand/stuck")
        async with running(webhooks(settings, destination(receiver, timeout_s=1.0))):
            await receiver.wait_for(lambda r: len(r.accepted) == 120)
        before = Counter(one.webhook_id for one in receiver.received)
        assert left_to_commit(settings, GROUP, topics.EVENTS) > 0
        receiver.always(200)
        fill(settings, topics.EVENTS, [event(2, "stuck")])
        async with running(webhooks(settings, destination(receiver))):
            await receiver.wait_for(lambda r: r.sequences("grand/stuck")[-2:] == [1, 2])
            await until_committed(settings, GROUP)
        after = Counter(one.webhook_id for one in receiver.received) - before
        assert set(after) == {"grand-stuck-1", "grand-stuck-2"}


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
        await until_committed(settings, "sink-test")
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
        await until_committed(settings, "sink-test")
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
        before = left_to_commit(settings, "sink-test", topics.EVENTS)
        await until(lambda: metrics.SINK_RECORDS.labels("test", "DELIVERED")._value.get() > 0)
        await asyncio.sleep(3 * intake.COMMIT_S)  # A commit that must not happen has no condition to wait for.
        assert 1 <= left_to_commit(settings, "sink-test", topics.EVENTS) <= before
        sent.set()
        await until_committed(settings, "sink-test")


async def test_memory_is_bounded_while_a_destination_hangs(settings: Settings) -> None:
    release = asyncio.Event()
    done: dict[str, list[int]] = defaultdict(list)

    async def deliver(item: Item[LoyaltyEvent]) -> Receipt:
        await release.wait()
        done[item.record.member_id].append(item.record.sequence)
        return Receipt(verdict=Verdict.DELIVERED)

    fill(settings, topics.EVENTS, [event(sequence, f"m-{member}") for sequence in range(1, 7) for member in range(100)])
    async with running(lanes(settings, deliver, outstanding_max=200, concurrency_max=4, destination="bounded")):
        waiting = metrics.DELIVERIES_WAITING.labels("bounded")
        await until(lambda: waiting._value.get() == 200)
        await asyncio.sleep(1.0)
        assert waiting._value.get() == 200
        release.set()
        await until(lambda: sum(map(len, done.values())) == 600)
        assert all(sequences == list(range(1, 7)) for sequences in done.values())
        await until_committed(settings, "sink-test")


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
        await until_committed(settings, "sink-test", timeout_s=30)
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
        await until(lambda: left_to_commit(settings, "sink-test", topics.EVENTS) == 4000)
        release.set()
        await until_committed(settings, "sink-test")


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


async def test_a_slow_receiver_of_one_member_delays_nobody_else(settings: Settings) -> None:
    async with Receiver(SECRET) as receiver:
        receiver.script(*[Behaviour(delay_s=0.5)] * 4, member="grand/slow")
        fill(settings, topics.EVENTS, [event(sequence, "slow") for sequence in range(1, 5)])
        fill(settings, topics.EVENTS, [event(sequence, f"m-{member}") for sequence in range(1, 11) for member in range(20)])
        async with running(webhooks(settings, destination(receiver, concurrency_max=4))):
            await receiver.wait_for(lambda r: len([one for one in r.accepted if one.member != "grand/slow"]) == 200)
            assert len(receiver.sequences("grand/slow")) < 4
            await receiver.wait_for(lambda r: receiver.sequences("grand/slow") == [1, 2, 3, 4])
