"""What a destination gets at once, and when."""

import bisect

import pytest

from sinks.delivery.limits import OPEN_FAILURES, RETRIES_MAX_PER_S, SLOT_S, AdaptiveLimit, BreakerState, Pace, Phase, RetrySlots


def test_the_limit_doubles_while_all_is_well_and_used() -> None:
    limit = AdaptiveLimit(64)
    first = limit.limit
    for _ in range(first):
        limit.succeeded(limit.limit)
    assert limit.limit == 2 * first


def test_the_limit_does_not_grow_while_it_is_not_used() -> None:
    limit = AdaptiveLimit(64)
    first = limit.limit
    for _ in range(100):
        limit.succeeded(1)
    assert limit.limit == first


def test_the_limit_stays_between_one_and_the_destinations_own() -> None:
    limit = AdaptiveLimit(10)
    for number in range(1000):
        limit.succeeded(limit.limit)
    assert limit.limit == 10
    for number in range(100):
        limit.overloaded(10.0 * number)
    assert limit.limit == 1


def test_what_fails_at_the_same_time_counts_once() -> None:
    limit = AdaptiveLimit(10)
    for _ in range(50):
        limit.overloaded(5.0)
    assert limit.limit == 5


def test_after_an_overload_the_limit_grows_slowly() -> None:
    limit = AdaptiveLimit(100)
    for _ in range(1000):
        limit.succeeded(limit.limit)
    limit.overloaded(0.0)
    before = limit.limit
    for _ in range(before + 1):
        limit.succeeded(limit.limit)
    assert limit.limit == before + 1


def test_a_smaller_limit_of_the_destination_counts_at_once() -> None:
    limit = AdaptiveLimit(8)
    limit.resize(2)
    assert limit.limit == 2


@pytest.mark.parametrize("rate", [0.5, 1.0, 10.0, 250.0])
def test_a_pace_is_kept_over_a_minute(rate: float) -> None:
    pace, now_s, begun = Pace(rate), 100.0, []
    while now_s < 160.0:
        now_s = max(now_s, pace.free_at_s(now_s))
        pace.began(now_s)
        begun.append(now_s)
    assert len(begun) <= 60 * rate + max(1.0, rate) + 1
    assert len(begun) >= 60 * rate - 1


def test_no_pace_is_no_wait() -> None:
    pace = Pace(None)
    for _ in range(1000):
        pace.began(1.0)
    assert pace.free_at_s(1.0) == 1.0


def test_retries_that_fail_together_do_not_come_back_together() -> None:
    slots = RetrySlots()
    dues = sorted(slots.take(1000.2 + number / 20_000, 1000.0) for number in range(10_000))
    busiest = max(bisect.bisect_left(dues, due + 1.0) - place for place, due in enumerate(dues))
    assert busiest <= RETRIES_MAX_PER_S * (1 + SLOT_S)
    assert busiest / 10_000 <= 0.05


def test_a_few_retries_are_not_put_off() -> None:
    slots = RetrySlots()
    assert [slots.take(7.25, 7.0) for _ in range(3)] == [7.25] * 3


def failing(breaker: BreakerState, count: int, members: int, now_s: float = 0.0) -> list[bool]:
    return [breaker.failed(f"m-{number % members}", now_s, is_probe=False, retry_after_s=None, jitter=1.0) for number in range(count)]


def test_the_breaker_opens_after_a_row_of_failures_of_several_members() -> None:
    breaker = BreakerState()
    assert failing(breaker, OPEN_FAILURES, 3) == [False] * (OPEN_FAILURES - 1) + [True]
    assert breaker.phase is Phase.OPEN


def test_a_single_member_that_is_refused_for_ever_is_no_outage() -> None:
    breaker = BreakerState()
    failing(breaker, 1000, 2)
    assert breaker.phase is Phase.CLOSED


def test_a_success_in_between_starts_the_count_again() -> None:
    breaker = BreakerState()
    failing(breaker, OPEN_FAILURES - 1, 3)
    breaker.succeeded(0.01)
    failing(breaker, OPEN_FAILURES - 1, 3)
    assert breaker.phase is Phase.CLOSED


def test_probes_come_at_growing_intervals_up_to_two_seconds() -> None:
    breaker = BreakerState()
    failing(breaker, OPEN_FAILURES, 3, now_s=0.0)
    waits, now_s = [], breaker.probe_due_s
    for _ in range(8):
        breaker.probing()
        assert breaker.phase is Phase.HALF_OPEN
        breaker.failed("m-1", now_s, is_probe=True, retry_after_s=None, jitter=1.0)
        waits.append(round(breaker.probe_due_s - now_s, 3))
        now_s = breaker.probe_due_s
    assert waits == [0.4, 0.8, 1.6, 2.0, 2.0, 2.0, 2.0, 2.0]


def test_a_probe_waits_as_long_as_the_destination_asks() -> None:
    breaker = BreakerState()
    failing(breaker, OPEN_FAILURES - 1, 3)
    breaker.failed("m-9", 10.0, is_probe=False, retry_after_s=60.0, jitter=1.0)
    assert breaker.probe_due_s == 70.0


def test_late_failures_of_attempts_from_before_do_not_put_the_probe_off() -> None:
    breaker = BreakerState()
    failing(breaker, OPEN_FAILURES, 3, now_s=0.0)
    due_s = breaker.probe_due_s
    failing(breaker, 50, 3, now_s=5.0)
    assert breaker.probe_due_s == due_s


def test_a_success_closes_it() -> None:
    breaker = BreakerState()
    failing(breaker, OPEN_FAILURES, 3)
    breaker.probing()
    assert breaker.succeeded(0.02) is True
    assert breaker.phase is Phase.CLOSED and breaker.succeeded(0.02) is False


def test_a_probe_that_says_nothing_is_followed_by_another() -> None:
    breaker = BreakerState()
    failing(breaker, OPEN_FAILURES, 3)
    breaker.probing()
    breaker.put_off(3.0)
    assert breaker.phase is Phase.OPEN and breaker.probe_due_s > 3.0


def test_a_probe_is_not_waited_for_longer_than_the_destination_usually_needs() -> None:
    breaker = BreakerState()
    assert breaker.probe_timeout_s(15.0) == 2.5
    for _ in range(200):
        breaker.succeeded(2.0)
    assert breaker.probe_timeout_s(15.0) == pytest.approx(6.0, abs=0.1)
    assert breaker.probe_timeout_s(1.0) == 1.0
