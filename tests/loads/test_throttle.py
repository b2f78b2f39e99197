"""The window of a load against queues that are made up: it finds what the bound allows, and gives way."""

import pytest

from streams.loads.throttle import ADAPT_S, WINDOW_FIRST, WINDOW_MIN, Throttle


def drive(throttle: Throttle, seconds: float, *, ms_per_row: float, live_per_s: float = 50.0, base_ms: float = 5.0, from_s: float = 0.0) -> list[int]:
    """A queue in which each undecided row costs a live command so much. The window is always full. The windows, one for each step."""
    windows, steps = [], int(seconds / 0.1)
    for step in range(steps):
        now_s = from_s + step * 0.1
        waited_ms = base_ms + throttle.window * ms_per_row
        for _ in range(int(live_per_s * 0.1)):
            throttle.note(now_s, waited_ms, is_live=True)
        for _ in range(5):
            throttle.note(now_s, waited_ms, is_live=False)
        throttle.allowance(now_s, throttle.window)
        windows.append(throttle.window)
    return windows


@pytest.mark.parametrize("ms_per_row", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("live_per_s", [50.0, 0.0])
def test_the_bound_is_found_and_held(ms_per_row: float, live_per_s: float) -> None:
    """With live traffic and, by the load's own rows, without."""
    throttle = Throttle(bound_ms=250, window_max=2_000, now_s=0.0)
    windows = drive(throttle, 120, ms_per_row=ms_per_row, live_per_s=live_per_s)[600:]
    allowed = 245 / ms_per_row
    assert max(windows) <= allowed and min(windows) >= allowed * 0.4


def test_it_never_grows_beyond_what_it_may() -> None:
    throttle = Throttle(bound_ms=250, window_max=300, now_s=0.0)
    assert max(drive(throttle, 60, ms_per_row=0.001)) == 300


def test_it_gives_way_to_a_bound_that_cannot_be_held_and_comes_back() -> None:
    throttle = Throttle(bound_ms=250, window_max=500, now_s=0.0)
    assert drive(throttle, 60, ms_per_row=0.01, base_ms=400)[-1] == WINDOW_MIN
    assert drive(throttle, 120, ms_per_row=0.01, from_s=60.0)[-1] == 500


def test_it_is_back_soon_after_a_pause_that_was_not_its_fault() -> None:
    """The worker stood still: all that waited is decided at once, late."""
    throttle = Throttle(bound_ms=250, window_max=2_000, now_s=0.0)
    before = drive(throttle, 60, ms_per_row=0.3)[-1]
    throttle.allowance(80.0, throttle.window)
    for number in range(1_000):
        throttle.note(80.0, 20.0 * number, is_live=True)
    throttle.allowance(80.6, throttle.window)
    assert WINDOW_MIN < throttle.window < before
    assert drive(throttle, 5, ms_per_row=0.3, from_s=80.7)[-1] >= before * 0.8


def test_what_the_load_itself_waits_does_not_count_beside_live_traffic() -> None:
    """Its rows come many at a time, and wait longer than a live command in the same queue does."""
    throttle = Throttle(bound_ms=250, window_max=2_000, now_s=0.0)
    for step in range(300):
        for _ in range(2):
            throttle.note(step * 0.1, 40.0, is_live=True)
        for _ in range(20):
            throttle.note(step * 0.1, 900.0, is_live=False)
        throttle.allowance(step * 0.1, throttle.window)
    assert throttle.window == 2_000


def test_a_change_is_judged_by_what_was_appended_after_it() -> None:
    throttle = Throttle(bound_ms=250, window_max=2_000, now_s=0.0)
    for number in range(60):
        throttle.note(1.0, 900.0 if number % 2 else 5.0, is_live=True)
    throttle.allowance(1.0, WINDOW_FIRST)
    smaller = throttle.window
    assert smaller < WINDOW_FIRST
    for number in range(60):
        throttle.note(1.6, 700.0, is_live=True)  # Appended before the window was smaller.
    throttle.allowance(1.6, smaller)
    assert throttle.window == smaller


def test_a_window_that_is_not_full_does_not_grow() -> None:
    """What was not sent tells nothing of what more would do."""
    throttle = Throttle(bound_ms=250, window_max=2_000, now_s=0.0)
    for step in range(200):
        throttle.note(step * 0.1, 5.0, is_live=True)
        throttle.allowance(step * 0.1, 3)
    assert throttle.window == WINDOW_FIRST


def test_a_rate() -> None:
    throttle, sent = Throttle(bound_ms=250, window_max=2_000, rate_max_per_s=30, now_s=0.0), 0
    for step in range(1, 101):
        rows = throttle.allowance(step * 0.1, 0)
        throttle.sent(rows)
        sent += rows
    assert 299 <= sent <= 300
    assert throttle.allowance(100.0, 0) == 30  # After a pause no more than a second's worth at once.


def test_live_latency_is_of_the_last_seconds() -> None:
    throttle = Throttle(bound_ms=250, window_max=100, now_s=0.0)
    assert throttle.live_p99_ms(0.0) is None
    for number in range(100):
        throttle.note(1.0, number, is_live=True)
    assert throttle.live_p99_ms(1.0 + ADAPT_S) == 99
    assert throttle.live_p99_ms(30.0) is None
