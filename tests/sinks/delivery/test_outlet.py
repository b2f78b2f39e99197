"""What one destination gets, and when: minutes and hours of it, in virtual time."""

import asyncio
from collections import Counter
from typing import Any

import pytest

from sinks.delivery.limits import OPEN_FAILURES, PROBE_LONGEST_S, Phase
from sinks.delivery.outlet import STALLED_LIMIT, Budget
from streams.destinations.model import Breaker, Destination, Job, OnDeadLetter
from tests.sinks.delivery.support import destination
from tests.sinks.delivery.virtual import Receiver, Stage, now_s, run

WELL = (0.01, 200)
NEVER = (1e9, 0)


def crm(**fields: Any) -> Destination:
    return destination("http://127.0.0.1:9/hooks", **fields)


async def until(predicate: Any, within_s: float) -> float:
    """When it holds. Raises AssertionError."""
    end_s = now_s() + within_s
    while not predicate():
        assert now_s() < end_s, f"not within {within_s} s"
        await asyncio.sleep(0.01)
    return now_s()


def member_of(event_id: str) -> str:
    return event_id.removeprefix("grand-").rpartition("-")[0]


def test_a_members_events_go_one_at_a_time_in_order() -> None:
    async def work() -> None:
        stage = Stage(crm(), Receiver(lambda *_: WELL))
        for sequence in range(1, 51):
            stage.take("m-1", sequence)
        await until(lambda: stage.is_drained, 10)
        assert stage.notes.delivered == [f"grand-m-1-{sequence}" for sequence in range(1, 51)]
        assert stage.receiver.in_flight_max == 1

    run(work)


def test_retries_that_hang_leave_slots_to_first_attempts() -> None:
    async def work() -> None:
        hanging = {f"h-{number}" for number in range(40)}
        receiver = Receiver(lambda event_id, _: NEVER if member_of(event_id) in hanging else WELL)
        stage = Stage(crm(breaker=Breaker.OFF, timeout_s=5.0, concurrency_max=16, retry_delays_s=(0.1,)), receiver)
        for member in sorted(hanging):
            stage.take(member, 1)
        await until(lambda: all(lane.attempts for lane in stage.branch.lanes.values()), 300)  # All that hangs from now on are retries.
        began_s = now_s()
        for number in range(200):
            stage.take(f"w-{number}", 1)
        done_s = await until(lambda: len(stage.notes.delivered) == 200, 60)
        assert done_s - began_s < 5.0, "first attempts wait for no time-out"
        await stage.outlet.close()

    run(work)


def test_replays_take_a_quarter_at_most() -> None:
    async def work() -> None:
        stage = Stage(crm(concurrency_max=8), Receiver(lambda *_: (1.0, 200)), job=Job(job_id="again", destination="crm"))
        for number in range(20):
            stage.take(f"m-{number}", 1)
        await until(lambda: stage.is_drained, 60)
        assert stage.receiver.in_flight_max == 2

    run(work)


def test_the_breaker_opens_early_asks_one_at_a_time_and_closes_soon() -> None:
    async def work() -> None:
        ill = [True]
        receiver = Receiver(lambda *_: (0.01, 503) if ill[0] else WELL)
        stage = Stage(crm(concurrency_max=64), receiver)
        for number in range(1_000):
            stage.take(f"m-{number}", 1)
        await until(lambda: stage.outlet.is_down, 5)
        assert len(receiver.ended) <= 20
        opened_s = now_s()
        await asyncio.sleep(60.0)
        probes = [at_s for at_s, _ in receiver.begun if at_s > opened_s + 0.1]
        assert 25 <= len(probes) <= 70, "one after the other, some two seconds apart"
        receiver.in_flight_max = 0
        await asyncio.sleep(30.0)
        assert receiver.in_flight_max == 1
        ill[0] = False
        healed_s = now_s()
        await until(lambda: not stage.outlet.is_down, 5)
        assert now_s() - healed_s <= PROBE_LONGEST_S * 1.3
        await until(lambda: stage.is_drained, 5)
        assert len(stage.notes.delivered) == 1_000 and Counter(stage.notes.delivered).most_common(1)[0][1] == 1

    run(work)


def test_a_black_hole_is_noticed_before_its_time_out_and_its_probes_are_short() -> None:
    async def work() -> None:
        hole = [False]
        receiver = Receiver(lambda *_: NEVER if hole[0] else WELL)
        stage = Stage(crm(timeout_s=15.0, concurrency_max=64), receiver)
        for number in range(2_000):
            stage.take(f"m-{number}", 1)
        await until(lambda: stage.is_drained, 30)
        hole[0] = True
        receiver.in_flight_max = 0
        for second in range(40):
            stage.take(f"n-{second}", 1)
            await asyncio.sleep(0.25)
        assert stage.outlet.in_flight <= STALLED_LIMIT, "in flight when nothing is answered"
        await until(lambda: stage.outlet.is_down, 30)
        receiver.timeouts_s.clear()
        await asyncio.sleep(30.0)
        assert set(receiver.timeouts_s) == {2.5}
        hole[0] = False
        healed_s = now_s()
        await until(lambda: not stage.outlet.is_down, 10)
        assert now_s() - healed_s <= 5.0

    run(work)


def test_observe_says_what_it_would_do_and_does_nothing() -> None:
    async def work() -> None:
        receiver = Receiver(lambda *_: (0.01, 500))
        stage = Stage(crm(breaker=Breaker.OBSERVE), receiver)
        for number in range(100):
            stage.take(f"m-{number}", 1)
        await asyncio.sleep(5.0)
        assert stage.outlet.breaker.is_open and not stage.outlet.is_down
        assert len(receiver.ended) > 100

    run(work)


def test_what_an_outage_fails_is_not_given_up_for_it() -> None:
    async def work() -> None:
        ill = [True]
        refused = "m-1"
        receiver = Receiver(lambda event_id, _: (0.01, 503) if ill[0] or member_of(event_id) == refused else WELL)
        stage = Stage(crm(give_up_after_s=60.0, retry_delays_s=(1.0,)), receiver)
        for number in range(20):
            stage.take(f"m-{number}", 1)
        await asyncio.sleep(600.0)
        assert stage.outlet.is_down and stage.notes.given_up_events == []
        ill[0] = False
        await until(lambda: len(stage.notes.delivered) == 19, 20)
        assert stage.notes.given_up_events == [], "its time begins when the others get through"
        await until(lambda: stage.notes.given_up_events == [("grand-m-1-1", "RETRIES_EXHAUSTED")], 70)
        assert stage.is_drained

    run(work)


@pytest.mark.parametrize("policy", list(OnDeadLetter))
def test_a_given_up_event_releases_or_blocks_its_member(policy: OnDeadLetter) -> None:
    async def work() -> None:
        receiver = Receiver(lambda event_id, _: (0.01, 500) if event_id == "grand-m-1-1" else WELL)
        stage = Stage(crm(give_up_after_s=5.0, on_dead_letter=policy, retry_delays_s=(1.0,)), receiver)
        for sequence in range(1, 4):
            for member in ("m-1", "m-2"):
                stage.take(member, sequence)
        await asyncio.sleep(30.0)
        assert stage.notes.given_up_events == [("grand-m-1-1", "RETRIES_EXHAUSTED")]
        mine = [event_id for event_id in stage.notes.delivered if member_of(event_id) == "m-1"]
        assert mine == (["grand-m-1-2", "grand-m-1-3"] if policy is OnDeadLetter.RELEASE else [])
        if policy is OnDeadLetter.BLOCK:
            tried = len(receiver.begun)
            await asyncio.sleep(3600.0)
            assert len(receiver.begun) == tried, "nobody asks again by himself"
            stage.outlet.update(crm(give_up_after_s=5.0, on_dead_letter=OnDeadLetter.RELEASE, retry_delays_s=(1.0,)), receiver.send)
            stage.branch.release_blocked()
            await until(lambda: stage.is_drained, 30)

    run(work)


def test_a_hot_member_that_waits_costs_the_others_nothing() -> None:
    async def work() -> None:
        ill = [True]
        receiver = Receiver(lambda event_id, _: (0.01, 500) if ill[0] and member_of(event_id) == "hot" else WELL)
        stage = Stage(crm(), receiver)
        stage.take("hot", 1)
        await asyncio.sleep(1.0)
        for sequence in range(2, 10_001):
            stage.take("hot", sequence)
        began_s = now_s()
        for number in range(500):
            stage.take(f"m-{number}", 1)
        done_s = await until(lambda: len(stage.notes.delivered) == 500, 10)
        assert done_s - began_s < 2.0
        assert stage.branch.waiting == 10_000 == stage.branch.parked and stage.branch.has_room
        ill[0] = False
        await until(lambda: stage.is_drained, 600)
        hot = [event_id for event_id in stage.notes.delivered if member_of(event_id) == "hot"]
        assert hot == [f"grand-hot-{sequence}" for sequence in range(1, 10_001)]
        assert (stage.branch.waiting, stage.branch.parked) == (0, 0)

    run(work)


def test_retries_of_a_wave_are_spread() -> None:
    async def work() -> None:
        receiver = Receiver(lambda _, attempt: (0.001, 503) if attempt == 1 else (0.001, 200))
        stage = Stage(crm(breaker=Breaker.OFF, concurrency_max=1000), receiver)
        stage.outlet.limit.overloaded = lambda _: None  # type: ignore[method-assign]  # All are to fail in the same second.
        for _ in range(1000):
            stage.outlet.limit.succeeded(1000)
        for number in range(10_000):
            stage.take(f"m-{number}", 1)
        await until(lambda: stage.is_drained, 120)
        seen: set[str] = set()
        second_wave = []
        for at_s, event_id in receiver.begun:
            if event_id in seen:
                second_wave.append(at_s)
            seen.add(event_id)
        busiest = max(Counter(int(at_s) for at_s in second_wave).values())
        assert len(second_wave) == 10_000 and busiest <= 500

    run(work)


def test_a_rate_is_kept() -> None:
    async def work() -> None:
        stage = Stage(crm(rate_max_per_s=20.0), Receiver(lambda *_: WELL))
        for number in range(200):
            stage.take(f"m-{number}", 1)
        began_s = now_s()
        done_s = await until(lambda: stage.is_drained, 60)
        assert 8.9 <= done_s - began_s <= 10.5  # One second's worth may go at once.

    run(work)


def test_retry_after_is_kept_up_to_the_destinations_own_bound() -> None:
    async def work() -> None:
        stage = Stage(crm(retry_after_max_s=50.0), Receiver(lambda *_: WELL))
        first_ms, second_ms = stage.outlet.retry_due_ms(1, 30.0), stage.outlet.retry_due_ms(1, 1000.0)
        assert second_ms - first_ms == 20_000

    run(work)


def test_a_black_hole_under_load_is_noticed_although_an_answer_came_after_it_began() -> None:
    async def work() -> None:
        hole = [False]
        receiver = Receiver(lambda *_: NEVER if hole[0] else (0.05, 200))
        stage = Stage(crm(breaker=Breaker.OFF, timeout_s=15.0), receiver)
        for number in range(4_000):
            hole[0] = number >= 2_000
            stage.take(f"m-{number}", 1)
            if not number % 4:
                await asyncio.sleep(0.01)
        assert stage.outlet.in_flight == 32  # What was under way hangs.
        await asyncio.sleep(14.0)
        assert 0 < stage.outlet.in_flight <= STALLED_LIMIT
        await stage.outlet.close()

    run(work)


@pytest.mark.parametrize("is_warm", [False, True], ids=["never-answered", "answered-until-now"])
def test_destinations_that_never_answer_leave_half_of_the_budget(is_warm: bool) -> None:
    """A hundred black holes want all attempts of the process several times over."""

    async def work() -> None:
        budget, is_hole = Budget(500), not is_warm
        holes = [Stage(crm(name=f"hole-{number}", timeout_s=15.0), Receiver(lambda *_: NEVER if is_hole else WELL), budget) for number in range(100)]
        well = Stage(crm(name="well"), Receiver(lambda *_: WELL), budget)
        begun_s: list[float] = []
        for tick in range(1200):
            is_hole = is_hole or tick == 100
            for stage in holes[tick % 4 :: 4]:
                stage.take(f"m-{tick}", 1)
            begun_s.append(now_s())
            well.take(f"m-{tick}", 1)
            await asyncio.sleep(0.05)
        assert [at_s for at_s, _ in well.receiver.begun] == pytest.approx(begun_s, abs=0.5)
        assert max(stage.receiver.in_flight_max for stage in holes) > 1
        for stage in (*holes, well):
            await stage.outlet.close()

    run(work)


def test_everything_is_given_back() -> None:
    async def work() -> None:
        budget = Budget(5)
        stages = [Stage(crm(name=f"d-{number}"), Receiver(lambda *_: WELL), budget) for number in range(10)]
        for sequence in range(1, 6):
            for stage in stages:
                for number in range(5):
                    stage.take(f"m-{number}", sequence)
        for stage in stages:
            await until(lambda stage=stage: stage.is_drained, 60)  # type: ignore[misc]
        assert budget._left == 5 and all(len(stage.notes.delivered) == 25 for stage in stages)

    run(work)


def test_an_attempt_that_raises_is_a_failure_and_no_more() -> None:
    async def work() -> None:
        receiver = Receiver(lambda _, attempt: WELL if attempt > 1 else (0.0, int("none")))
        stage = Stage(crm(), receiver)
        stage.take("m-1", 1)
        stage.take("m-1", 2)
        await until(lambda: stage.is_drained, 10)
        assert stage.notes.delivered == ["grand-m-1-1", "grand-m-1-2"]
        assert stage.outlet.breaker.phase is Phase.CLOSED and OPEN_FAILURES > 2

    run(work)


def test_an_answer_that_closes_the_breaker_does_not_take_its_own_lane_a_second_time() -> None:
    async def work() -> None:
        is_ill = True
        receiver = Receiver(lambda *_: (0.01, 503) if is_ill else (0.01, 200))
        stage = Stage(crm(retry_delays_s=(0.1,)), receiver)
        stage.outlet._breaker_changed = lambda _: [stage.take(f"m-{number}", 2 + len(receiver.begun)) for number in range(3)]  # type: ignore[assignment]
        for number in range(3):
            stage.take(f"m-{number}", 1)
        await until(lambda: stage.outlet.is_down, 60)
        await asyncio.sleep(60.0)  # All lanes are due: none of them waits for its next attempt.
        is_ill = False
        await until(lambda: not stage.outlet.is_down and stage.is_drained, 60)
        for member in (f"m-{number}" for number in range(3)):
            began = [event_id for _, event_id in receiver.begun if member_of(event_id) == member]
            assert began == sorted(began, key=lambda event_id: int(event_id.rpartition("-")[2])), "one attempt at a time, in order"
        assert (stage.outlet._retries_in_flight, stage.outlet._replays_in_flight) == (0, 0)
        assert Counter(stage.notes.delivered).most_common(1)[0][1] == 1

    run(work)


def test_the_time_of_a_pause_is_not_held_against_an_event() -> None:
    async def work() -> None:
        receiver = Receiver(lambda event_id, _: (0.01, 500) if member_of(event_id) == "m-1" else WELL)
        stage = Stage(crm(give_up_after_s=60.0, retry_delays_s=(1.0,)), receiver)
        stage.take("m-1", 1)
        await asyncio.sleep(5.0)
        stage.outlet.pause(True)
        await asyncio.sleep(600.0)
        stage.outlet.pause(False)
        await asyncio.sleep(30.0)
        assert stage.notes.given_up_events == []
        await until(lambda: stage.notes.given_up_events == [("grand-m-1-1", "RETRIES_EXHAUSTED")], 60)

    run(work)
