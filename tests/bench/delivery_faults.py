"""What deliveries do when a destination fails, a member fails, or the broker is gone. Gives plain numbers."""

import time
from typing import Any

from tests.bench import delivery_figures as figures
from tests.bench.delivery_feed import Mix
from tests.bench.delivery_measure import DELAY_MS, phase
from tests.bench.delivery_rig import DeliveryRig, name
from tests.chaos.deliveries.operator import Operator

BREAKER_DELAY_MS = 50.0
PROBES_BEGIN_AFTER_S = 0.1  # So long a pause between two failures means that the breaker is open.
BUCKET_S = 0.5
HOT = "hot"


def spread(rig: DeliveryRig, *, events: int) -> dict[str, Any]:
    """The first attempt of every event fails, each of a member of its own; there is no breaker. How the second attempts come."""
    with rig.place(1, members=events, options='breaker = "OFF"\nconcurrency_max = 1000') as place:
        place.control(fails_first=True)
        place.start_sinks()
        place.fill(events)
        place.wait_for(events)
        arrivals = place.arrivals()
    firsts = [one.at_ns for one in figures.first_attempts(arrivals).values()]
    seconds = figures.repeats(arrivals)
    return {
        "events": events, "attempts": len(arrivals),
        "first_wave_s": (max(firsts) - min(firsts)) / 1e9, "first_largest_share": figures.largest_share(firsts),
        "second_wave_s": (max(seconds) - min(seconds)) / 1e9, "second_largest_share": figures.largest_share(seconds),
    }  # fmt: skip


def breaker(rig: DeliveryRig, *, per_second: float, before_s: float, down_s: float, after_s: float) -> dict[str, Any]:
    """A destination answers 503 for a while: calls until the breaker is open, probes at once, how soon it has its full rate again."""
    with rig.place(1, delay_ms=BREAKER_DELAY_MS) as place:
        place.start_sinks()
        feed = place.feed(per_second, before_s + down_s + after_s)
        _sleep_until(feed.started_ns, before_s)
        down_ns = place.control(status=503)["now_ns"]
        _sleep_until(feed.started_ns, before_s + down_s)
        healed_ns = place.control(status=200)["now_ns"]
        feed.wait()
        place.wait_for(feed.count)
        arrivals = place.arrivals()
    failed = [one.at_ns for one in arrivals if one.status == 503]
    gaps = [(later - earlier) / 1e9 for earlier, later in zip(failed, failed[1:], strict=False)]
    opened = next((count for count, gap_s in enumerate(gaps, 1) if gap_s > PROBES_BEGIN_AFTER_S), len(failed))
    taken = [one.at_ns for one in arrivals if one.status == 200 and one.at_ns >= healed_ns]
    buckets = figures.per_second(taken, healed_ns, BUCKET_S)
    full = next(bucket for bucket in sorted(buckets) if buckets[bucket] >= per_second * BUCKET_S)
    return {
        "per_second": per_second, "failed_calls_until_open": opened, "open_after_s": (failed[opened - 1] - down_ns) / 1e9,
        "probes": len(failed) - opened, "probes_at_once": figures.at_once(failed[opened:], int(BREAKER_DELAY_MS * 1e6)),
        "first_after_healing_s": (taken[0] - healed_ns) / 1e9, "full_rate_after_s": (full + 1) * BUCKET_S,
        "peak_per_s": max(figures.per_second(taken, healed_ns).values()), "inversions": figures.inversions(arrivals, place.mix.members),
    }  # fmt: skip


def outage(rig: DeliveryRig, *, per_second: float, before_s: float, down_s: float, after_s: float) -> dict[str, Any]:
    """kill -9 of the broker, and its start some time later, while events go on being made: does it recover, does it repeat, does it storm?"""
    with rig.place(4, delay_ms=DELAY_MS) as place:
        place.start_sinks()
        feed = place.feed(per_second, before_s + down_s + after_s)
        _sleep_until(feed.started_ns, before_s)
        killed_ns = time.monotonic_ns()
        rig.kafka.kill()
        _sleep_until(feed.started_ns, before_s + down_s)
        rig.kafka.start()
        back_ns = time.monotonic_ns()
        feed.wait()
        place.wait_for(feed.count)
        arrivals = place.arrivals()
    after, repeated = [one.at_ns for one in arrivals if one.at_ns >= back_ns], figures.repeats(arrivals)
    return {
        "per_second": per_second, "down_s": down_s, "events": feed.count, "delivered_while_down": sum(killed_ns < one.at_ns < back_ns for one in arrivals),
        "first_after_s": (min(after) - back_ns) / 1e9, "peak_per_s": max(figures.per_second(after, back_ns).values()), "repeated": len(repeated),
        "repeated_peak_per_s": max(figures.per_second(repeated, back_ns).values(), default=0),
    }  # fmt: skip


def hot_member(rig: DeliveryRig, *, per_second: float, duration_s: float, events: int) -> dict[str, Any]:
    """One member's events fail while many of them wait: how the others of the same destination fare, and whether order held afterwards."""
    with rig.place(1, delay_ms=DELAY_MS) as place:
        place.start_sinks()
        baseline = phase(place, per_second, duration_s)
        place.control(failing=f"{HOT}-")
        place.fill(events, Mix(1, 1, HOT))
        blocked = phase(place, per_second, duration_s)
        healed_ns = place.control(failing="")["now_ns"]
        place.wait_for(place.sent + events)
        hot = [one for one in place.arrivals() if one.event_id.startswith(f"{HOT}-")]
    taken = [one.at_ns for one in hot if one.status == 200]
    return {
        "per_second": per_second, "pending": events, "baseline_delivered_share": baseline["delivered_share"],
        "others_delivered_share": blocked["delivered_share"], "baseline_p99_ms": baseline["p99_ms"], "others_p99_ms": blocked["p99_ms"],
        "failed_attempts": len(hot) - len(taken), "inversions": figures.inversions(hot, 1), "drained_s": (max(taken) - healed_ns) / 1e9,
    }  # fmt: skip


def pause(rig: DeliveryRig, *, events: int) -> dict[str, Any]:
    """A destination is paused while so many events are made, and resumed: do all of them come, in order, and how fast."""
    with rig.place(1, delay_ms=DELAY_MS) as place:
        place.start_sinks()
        operator = Operator(place.settings)
        operator.start()
        try:
            operator.pause(name(0))
            place.fill(events)
            paused = len(place.arrivals())
            operator.resume(name(0))
            began_s = time.monotonic()
            place.wait_for(events)
            took_s = time.monotonic() - began_s
        finally:
            operator.stop()
        arrivals, usage = place.arrivals(), place.usage()
    return {
        "events": events, "while_paused": paused, "taken": len({one.event_id for one in arrivals}), "repeated": len(figures.repeats(arrivals)),
        "inversions": figures.inversions(arrivals, place.mix.members), "drained_s": events / took_s, "rss_mib": usage.rss_mib,
    }  # fmt: skip


def replay(rig: DeliveryRig, *, per_second: float, duration_s: float, events: int) -> dict[str, Any]:
    """A destination's whole past is sent again as fast as it goes, while live events go on: how late those are, beside the same without it."""
    with rig.place(1, delay_ms=DELAY_MS) as place:
        place.fill(events)
        place.start_sinks()
        place.wait_for(events)
        baseline = phase(place, per_second, duration_s)
        operator = Operator(place.settings)
        operator.start()
        try:
            operator.replay(name(0))
            began_s = time.monotonic()
            beside = phase(place, per_second, duration_s)
            took_s = time.monotonic() - began_s
            again = len(place.arrivals()) - place.sent
        finally:
            operator.stop()
    return {
        "per_second": per_second, "events": events, "baseline_p99_ms": baseline["p99_ms"], "live_p99_ms": beside["p99_ms"],
        "delivered_share": beside["delivered_share"], "replayed": again, "replayed_s": again / took_s, "rss_mib": beside["rss_mib"],
    }  # fmt: skip


def _sleep_until(started_ns: int, after_s: float) -> None:
    """A time that the measurement itself decides."""
    time.sleep(max(0.0, after_s - (time.monotonic_ns() - started_ns) / 1e9))
