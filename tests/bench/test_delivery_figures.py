"""What the benchmark of deliveries makes of requests, and its bars."""

from typing import Any

import pytest

from tests.bench import delivery_figures as figures
from tests.bench import delivery_report as report
from tests.bench.delivery_feed import Mix
from tests.bench.delivery_rig import Arrival

S = figures.NS_PER_S


def arrival(event_id: str, at_s: float, status: int = 200) -> Arrival:
    return Arrival("/hooks/d0000", event_id, int(at_s * S), status)


def test_a_latency_is_that_of_the_first_attempt_of_what_was_sent_then() -> None:
    arrivals = [arrival("e-1", 1.010), arrival("e-1", 2.0), arrival("e-2", 1.5), arrival("e-9", 3.0)]
    assert figures.latencies_ms(figures.first_attempts(arrivals), {1: S, 2: S}) == [pytest.approx(10.0), pytest.approx(500.0)]
    assert figures.repeats(arrivals) == [2 * S]


def test_the_largest_second_begins_anywhere() -> None:
    assert figures.largest_share([int(at_s * S) for at_s in (0.9, 1.1, 1.8, 2.5)]) == 0.75
    assert figures.largest_share([]) == 0.0


def test_requests_at_once_are_those_that_overlap() -> None:
    assert figures.at_once([0, 10, 25], 10) == 1
    assert figures.at_once([0, 9, 25], 10) == 2


def test_an_inversion_is_a_first_acceptance_behind_a_later_one_of_the_same_member() -> None:
    members = 2  # Numbers of one member are odd, or even.
    assert figures.inversions([arrival("e-1", 1), arrival("e-0", 2), arrival("e-3", 3)], members) == 0
    assert figures.inversions([arrival("e-3", 1), arrival("e-1", 2), arrival("e-3", 3)], members) == 1
    assert figures.inversions([arrival("e-3", 1, 503), arrival("e-1", 2), arrival("e-3", 3)], members) == 0


def test_each_destination_has_its_share_and_members_count_from_one() -> None:
    events = [Mix(programs=2, members=3).event(number) for number in range(12)]
    assert {event.program_id for event in events[::2]} == {"p0000"}
    assert [event.sequence for event in events] == [1] * 6 + [2] * 6
    assert len({(event.program_id, event.member_id, event.sequence) for event in events}) == 12
    assert [event.event_id for event in events] == [f"e-{number}" for number in range(12)]


ISOLATION: dict[str, Any] = {"destinations": 100, "per_second": 500.0, "p99_ms": 20.0, "delivered_share": 1.0, "rss_mib": 100.0}


def test_a_bar_is_met_or_not_by_what_was_measured() -> None:
    rounds = [ISOLATION | {"black_holes": 0}, ISOLATION | {"black_holes": 1, "p99_ms": 24.0}, ISOLATION | {"black_holes": 10, "p99_ms": 24.1}]
    bars = [bar for bar in report.bars({"isolation": rounds}) if bar.name.endswith("p99")]
    assert [bar.met for bar in bars] == [True, False]


def test_what_did_not_end_is_a_bar_that_is_not_met() -> None:
    (bar,) = report.bars({"latency": [{"error": "first line\nthe sink has ended"}]})
    assert (bar.met, bar.measured) == (False, "the sink has ended")
