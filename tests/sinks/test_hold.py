"""What is due of a stream that is held."""

from sinks.hold import Hold
from streams.scheduling.cadence import REALTIME, Cadence

MINUTE_MS = 60_000


def test_what_came_before_the_newest_instant_is_due() -> None:
    cadence = [Cadence(every_s=60)]
    hold = Hold(lambda: cadence[0])
    assert [hold.due_until_ms(at_ms) for at_ms in (90_000, 119_999, 120_000, 600_001)] == [MINUTE_MS, MINUTE_MS, 2 * MINUTE_MS, 10 * MINUTE_MS]
    cadence[0] = Cadence(every_s=300)
    assert hold.due_until_ms(600_001) == 10 * MINUTE_MS and hold.due_until_ms(599_999) == 5 * MINUTE_MS
    cadence[0] = REALTIME
    assert hold.due_until_ms(600_001) is None


def test_in_a_window_the_last_instant_within_it_counts_all_day() -> None:
    hour_ms, day_ms = 3_600_000, 86_400_000
    hold = Hold(lambda: Cadence(every_s=900, window=(60, 300)))
    assert hold.due_until_ms(day_ms + 12 * hour_ms) == day_ms + 5 * hour_ms - 900_000
    assert hold.due_until_ms(day_ms + hour_ms - 1) == 5 * hour_ms - 900_000
