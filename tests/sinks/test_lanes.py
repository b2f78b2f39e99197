"""Order per lane, independence of lanes, the breaker, giving up: with scripted destinations and a clock moved by hand."""

import random
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import pytest

from sinks.base import Item, Receipt, Verdict
from sinks.lanes import RETRIES_EXHAUSTED, Lanes
from sinks.schedule import DAY_S, Schedule
from tests.sinks.clock import ManualClock, settle
from tests.sinks.examples import event, item

OK = Receipt(verdict=Verdict.DELIVERED, status=200)
FAIL = Receipt(verdict=Verdict.RETRY, status=500, detail="status 500")
REFUSE = Receipt(verdict=Verdict.REFUSED, reason="BAD")
SKIP = Receipt(verdict=Verdict.SKIPPED)


class Destination:
    """Answers as scripted per (member, sequence), else with OK, after `takes_s`; and keeps a log of everything."""

    def __init__(self, clock: ManualClock, takes_s: float = 0.0) -> None:
        self.clock = clock
        self.takes_s = takes_s
        self.script: dict[tuple[str, int], list[Receipt]] = {}
        self.always: Callable[[Item[Any]], Receipt] = lambda _: OK
        self.attempts: list[tuple[str, int, int, float]] = []
        self.delivered: dict[str, list[int]] = defaultdict(list)
        self.finished: list[tuple[str, int, Verdict, str]] = []
        self.busy: set[str] = set()
        self.busy_max = 0
        self.overlaps = 0

    async def deliver(self, one: Item[Any]) -> Receipt:
        member, sequence = one.record.member_id, one.record.sequence
        self.attempts.append((member, sequence, one.attempt, self.clock.now_s))
        self.overlaps += member in self.busy
        self.busy.add(member)
        self.busy_max = max(self.busy_max, len(self.busy))
        if self.takes_s:
            await self.clock.sleep(self.takes_s)
        self.busy.discard(member)
        scripted = self.script.get((member, sequence))
        receipt = scripted.pop(0) if scripted else self.always(one)
        if receipt.verdict is Verdict.DELIVERED:
            self.delivered[member].append(sequence)
        return receipt

    async def finish(self, one: Item[Any], receipt: Receipt) -> None:
        self.finished.append((one.record.member_id, one.record.sequence, receipt.verdict, receipt.reason))


def lanes(destination: Destination, **options: Any) -> Lanes[Any]:
    options = {"concurrency_max": 16, "random": random.Random(7).random, **options}
    return Lanes(destination.deliver, destination.finish, lane=lambda one: one.record.member_id, clock=destination.clock, name="test", **options)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.mark.parametrize("seed", range(5))
async def test_members_keep_their_order_whatever_fails(clock: ManualClock, seed: int) -> None:
    rng = random.Random(seed)
    destination = Destination(clock, takes_s=0.01)
    unit = lanes(destination, concurrency_max=8, breaker_failures=10_000)
    events = [(f"m-{m}", s) for s in range(1, 41) for m in range(50)]
    refused = set()
    for member, sequence in events:
        script = [FAIL] * rng.choice((0, 0, 0, 1, 1, 2, 4))
        if rng.random() < 0.03:
            script.append(REFUSE)
            refused.add((member, sequence))
        if script:
            destination.script[member, sequence] = script
    for offset, (member, sequence) in enumerate(events):
        unit.add(item(event(sequence, member), offset=offset))
        if rng.random() < 0.02:
            await clock.advance(rng.random() * 0.2)
    await clock.run_until(lambda: not unit.outstanding, within_s=3600)
    assert destination.overlaps == 0
    assert destination.busy_max <= 8
    for member in {member for member, _ in events}:
        assert destination.delivered[member] == [s for s in range(1, 41) if (member, s) not in refused]  # No inversion, loss or repetition.
    assert len(destination.finished) == len(events)
    assert {(m, s) for m, s, verdict, _ in destination.finished if verdict is Verdict.REFUSED} == refused
    assert unit._lanes == {} and unit.in_flight == 0


async def test_a_failing_member_delays_nobody_else(clock: ManualClock) -> None:
    destination = Destination(clock, takes_s=0.01)
    destination.always = lambda one: FAIL if one.record.member_id == "bad" else OK
    unit = lanes(destination, concurrency_max=4)
    for sequence in range(1, 101):
        unit.add(item(event(sequence, "bad")))
        unit.add(item(event(sequence, f"good-{sequence}")))
    # 100 deliveries of 10 ms, 4 at once, with one slot lost now and then.
    await clock.run_until(lambda: unit.outstanding == 100, within_s=1.0)
    assert destination.delivered["bad"] == []
    assert {sequence for member, sequence, _, _ in destination.attempts if member == "bad"} == {1}  # Its next one waits.


async def test_delays_double_up_to_the_ceiling_with_jitter(clock: ManualClock) -> None:
    destination = Destination(clock)
    destination.always = lambda _: FAIL
    unit = lanes(destination)
    unit.add(item(event(1)))
    await clock.advance(300)
    at = [when for *_, when in destination.attempts]
    gaps = [later - earlier for earlier, later in zip(at, at[1:], strict=False)]
    for number, gap in enumerate(gaps):
        base = min(0.2 * 2**number, 30.0)
        assert 0.8 * base <= gap <= 1.2 * base
    assert len({round(gap, 6) for gap in gaps[-4:]}) == 4
    assert [attempt for _, _, attempt, _ in destination.attempts] == list(range(1, len(at) + 1))


@pytest.mark.parametrize(("asked_s", "waits_s"), [(7.0, 7.0), (0.0, 0.2), (10**9, 900.0)])
async def test_the_destinations_wish_wins_within_bounds(clock: ManualClock, asked_s: float, waits_s: float) -> None:
    destination = Destination(clock)
    destination.script["m-1", 1] = [Receipt(verdict=Verdict.RETRY, retry_after_s=asked_s)]
    unit = lanes(destination)
    unit.add(item(event(1)))
    await clock.run_until(lambda: not unit.outstanding, within_s=1000)
    assert destination.attempts[1][3] == pytest.approx(waits_s)


async def test_a_destination_that_is_down_is_probed_by_one_and_resumes_at_once(clock: ManualClock) -> None:
    destination = Destination(clock, takes_s=0.01)
    destination.always = lambda _: FAIL
    states: list[bool] = []
    unit = lanes(destination, breaker_changed=states.append)
    for member in range(500):
        unit.add(item(event(1, f"m-{member}")))
    await clock.advance(0.1)
    assert unit.is_down and states == [True]
    assert len(destination.attempts) <= 16 + 10  # Those under way, and those begun before the tenth failure.
    opened = len(destination.attempts)
    destination.busy_max = 0
    await clock.advance(60)
    probes = [when for *_, when in destination.attempts[opened:]]
    assert destination.busy_max == 1
    assert 12 <= len(probes) <= 30  # 0.2 s, doubling to 4 s.
    destination.always = lambda _: OK
    healed_s = clock.now_s
    await clock.run_until(lambda: not unit.outstanding, within_s=10)
    assert states == [True, False] and not unit.is_down
    first_s = next(when for *_, when in destination.attempts if when >= healed_s)
    assert first_s - healed_s <= 5.0
    assert clock.now_s - first_s <= 500 / 16 * 0.01 + 0.1  # All at once again, also those that wait for their next attempt.


async def test_nothing_is_given_up_while_the_destination_is_down(clock: ManualClock) -> None:
    destination = Destination(clock)
    destination.always = lambda _: FAIL
    unit = lanes(destination)
    for member in range(30):
        unit.add(item(event(1, f"m-{member}")))
    await clock.advance(4000)
    clock.now_s += 5 * DAY_S
    await clock.advance(4000)
    assert unit.outstanding == 30 and destination.finished == []


async def test_a_few_failing_members_are_not_an_outage(clock: ManualClock) -> None:
    destination = Destination(clock)
    destination.always = lambda one: FAIL if one.record.member_id.startswith("bad") else OK
    unit = lanes(destination)
    for name in ("bad-1", "bad-2"):
        unit.add(item(event(1, name)))
    await clock.advance(600)
    assert not unit.is_down


async def test_a_failed_probe_may_ask_for_time(clock: ManualClock) -> None:
    destination = Destination(clock)
    destination.always = lambda _: Receipt(verdict=Verdict.RETRY, status=503, retry_after_s=100.0)
    unit = lanes(destination)
    for member in range(200):
        unit.add(item(event(1, f"m-{member}")))
    await clock.advance(1)
    before = len(destination.attempts)
    await clock.advance(1000)
    assert len(destination.attempts) - before <= 11


async def test_skipped_items_say_nothing_about_the_destination(clock: ManualClock) -> None:
    destination = Destination(clock)
    destination.always = lambda one: SKIP if one.record.member_id.startswith("other") else FAIL
    unit = lanes(destination)
    for member in range(100):
        unit.add(item(event(1, f"m-{member}")))
        unit.add(item(event(1, f"other-{member}")))
    await clock.advance(30)
    assert unit.is_down
    assert unit.outstanding < 200


async def test_an_item_that_fails_for_three_days_is_given_up_and_its_lane_goes_on(clock: ManualClock) -> None:
    destination = Destination(clock)
    destination.always = lambda one: FAIL if one.record.sequence == 1 else OK
    unit = lanes(destination)
    unit.add(item(event(1)))
    unit.add(item(event(2)))
    await clock.run_until(lambda: not unit.outstanding, within_s=3 * DAY_S + 60)
    assert clock.now_s >= 3 * DAY_S
    assert destination.finished == [("m-1", 1, Verdict.REFUSED, RETRIES_EXHAUSTED), ("m-1", 2, Verdict.DELIVERED, "")]


async def test_the_age_of_a_failure_survives_a_restart(clock: ManualClock) -> None:
    destination = Destination(clock)
    destination.always = lambda _: FAIL
    noted: list[int | None] = []
    unit = lanes(destination, schedule=Schedule(give_up_after_s=3600), postponed=lambda one: noted.append(one.failing_since_ms))
    old = item(event(1))
    unit.add(Item(**{**{name: getattr(old, name) for name in old.__slots__}, "failing_since_ms": clock.wall_ms() - 3_599_000}))
    unit.add(item(event(1, "m-2")))
    await clock.advance(5)
    assert destination.finished == [("m-1", 1, Verdict.REFUSED, RETRIES_EXHAUSTED)]
    assert {clock.wall_ms() - 5000, clock.wall_ms() - 3_604_000} == set(noted)


async def test_what_an_attempt_raises_counts_as_retry(clock: ManualClock) -> None:
    destination = Destination(clock)
    first = True

    def answer(_: Item[Any]) -> Receipt:
        nonlocal first
        if first:
            first = False
            raise RuntimeError("a bug")
        return OK

    destination.always = answer
    unit = lanes(destination)
    unit.add(item(event(1)))
    await clock.run_until(lambda: not unit.outstanding, within_s=1)
    assert destination.delivered["m-1"] == [1]


async def test_dropped_partitions_are_forgotten_and_not_repeated(clock: ManualClock) -> None:
    destination = Destination(clock, takes_s=1.0)
    destination.always = lambda one: FAIL if one.record.member_id == "m-0" else OK
    unit = lanes(destination)
    for sequence in range(1, 4):
        for member in range(4):
            unit.add(item(event(sequence, f"m-{member}"), partition=member % 2))
    await settle()
    unit.drop([("loyalty.events.v1", 0)])
    assert unit.outstanding == 6 + 2  # Attempts under way may end.
    await clock.run_until(lambda: not unit.outstanding, within_s=10)
    assert {member for member, *_ in destination.finished} == {"m-1", "m-3"}
    assert len([1 for member, *_ in destination.attempts if member == "m-0"]) == 1
    assert unit._lanes == {}


async def test_a_partition_that_returns_starts_again_behind_the_attempt_under_way(clock: ManualClock) -> None:
    destination = Destination(clock, takes_s=1.0)
    unit = lanes(destination)
    unit.add(item(event(1)))
    unit.add(item(event(2)))
    await settle()
    unit.drop([("loyalty.events.v1", 0)])
    unit.add(item(event(1)))
    unit.add(item(event(2)))
    await clock.run_until(lambda: not unit.outstanding, within_s=10)
    assert destination.overlaps == 0
    assert destination.delivered["m-1"] == [1, 1, 2]
    assert [(s, v) for _, s, v, _ in destination.finished] == [(1, Verdict.DELIVERED), (2, Verdict.DELIVERED)]


async def test_the_oldest_item_is_known(clock: ManualClock) -> None:
    destination = Destination(clock, takes_s=1.0)
    unit = lanes(destination)
    assert unit.oldest_timestamp_ms() is None
    unit.add(item(event(1, "m-1"), timestamp_ms=500))
    unit.add(item(event(1, "m-2"), timestamp_ms=400))
    assert unit.oldest_timestamp_ms() == 400


async def test_close_waits_for_attempts_under_way_and_starts_no_more(clock: ManualClock) -> None:
    destination = Destination(clock)
    unit = lanes(destination)
    for sequence in range(1, 4):
        unit.add(item(event(sequence)))
    await unit.close(within_s=5.0)
    assert destination.delivered["m-1"] in ([], [1])
    await settle()
    assert len(destination.delivered["m-1"]) <= 1


async def test_close_cancels_what_takes_too_long(clock: ManualClock) -> None:
    destination = Destination(clock, takes_s=1000.0)
    unit = lanes(destination)
    unit.add(item(event(1)))
    await settle()
    await unit.close(within_s=0.01)
    assert destination.finished == [] and unit.in_flight == 0


@pytest.mark.parametrize("attempt", [1, 2, 8, 9, 100, 10**6])
def test_the_schedule_is_bounded_for_any_attempt(attempt: int) -> None:
    schedule = Schedule()
    base = min(0.2 * 2.0 ** (min(attempt, 60) - 1), 30.0)
    assert schedule.delay_s(attempt, 0.0) == pytest.approx(0.8 * base)
    assert schedule.delay_s(attempt, 0.5) == pytest.approx(base)
    assert schedule.delay_s(attempt, 1.0) == pytest.approx(1.2 * base)
    assert schedule.probe_delay_s(attempt, 1.0) <= 4.8001


def test_retries_spread_over_the_next_wave() -> None:
    rng = random.Random(1)
    schedule = Schedule()
    buckets: dict[int, int] = defaultdict(int)
    for _ in range(10_000):
        buckets[int(schedule.delay_s(9, rng.random()))] += 1
    assert max(buckets.values()) <= 0.1 * 10_000  # 30 s +- 20 %: twelve seconds wide.
