"""How fast and how late deliveries are when all is well with the broker and the destinations, or one of them never answers. Gives plain numbers."""

import json
import subprocess
import sys
import time
from typing import Any

from infra import ports
from sinks import payloads
from streams import topics
from tests.bench import delivery_figures as figures
from tests.bench import delivery_records
from tests.bench.delivery_rig import DeliveryRig, Place, path
from tests.bench.rig import Others, rate
from tests.sinks.examples import SECRET

DELAY_MS = 10.0
BARE_CONCURRENCY = 32
BARE_TIMEOUT_S = 300
SETTLE_S = 10.0  # What a phase has left under way is waited for this long before the next one begins.
WARM_UP_S = 3.0  # Of a feed: connections are opened, limits grow.
IN_TIME_S = 1.0  # After the feed's end: what comes later was not delivered at the rate of the feed.
SUSTAINED_P99_MS = 1_000.0  # Above it the sink falls behind its feed.


def throughput(rig: DeliveryRig, *, destinations: int, sinks: int, events: int, delay_ms: float = 5.0) -> dict[str, Any]:
    """Deliveries a second of events that came all at once, with audit and attempts on, and those of the bare loop to the same receiver."""
    others = Others()
    with rig.place(destinations, sinks=sinks, delay_ms=delay_ms) as place:
        place.start_sinks()
        before = place.usage()
        place.fill(events)
        place.wait_for(events)
        usage = place.usage()
        arrivals = place.arrivals()
        for sink in place.sinks:
            sink.stop()
        found = {
            "destinations": destinations, "sinks": sinks, "events": events, "deliveries_s": _rate(arrivals),
            "repeated": len(arrivals) - events, "cpu_us": (usage.cpu_s - before.cpu_s) / events * 1e6, "rss_mib": usage.rss_mib,
            "audited": len(recorded := delivery_records.recorded_after_ms(place.settings)),
            "recorded_p50_ms": figures.percentile(recorded, 0.5), "recorded_max_ms": recorded[-1],
            "attempts": delivery_records.count(place.settings, topics.DELIVERY_ATTEMPTS),
        }  # fmt: skip
        bare = _bare(place, events)
    return found | {"bare_s": bare["deliveries_s"], "bare_cpu_us": bare["cpu_us"], "ratio": found["deliveries_s"] / bare["deliveries_s"],
                    "others_cores": others.cores()}  # fmt: skip


def _rate(arrivals: list[figures.Arrival]) -> float:
    return rate([one.at_ns // 1_000_000 for one in arrivals])


def _bare(place: Place, events: int) -> dict[str, float]:
    bodies = place.home / "bodies"
    bodies.write_bytes(b"\n".join(payloads.render(place.mix.event(number), "1") for number in range(events)))
    url = f"http://{ports.HOST}:{place.receiver_port}{path(0)}"
    command = [sys.executable, "-m", "tests.bench.delivery_bare", url, SECRET, str(bodies), str(BARE_CONCURRENCY)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=BARE_TIMEOUT_S)
    said: dict[str, float] = json.loads(done.stdout)
    return said


def latency(rig: DeliveryRig, *, per_second: float, duration_s: float) -> dict[str, Any]:
    """ms from the append to the receiver's socket at a fixed rate, to 8 destinations that take 10 ms each."""
    others = Others()
    with rig.place(8, delay_ms=DELAY_MS) as place:
        place.start_sinks()
        before, started_s = place.usage(), time.monotonic()
        found = phase(place, per_second, duration_s)
        cores = (place.usage().cpu_s - before.cpu_s) / (time.monotonic() - started_s)
    return {**found, "cores": cores, "others_cores": others.cores()}


def sustained(rig: DeliveryRig, rates: tuple[float, ...], duration_s: float) -> list[dict[str, Any]]:
    """Latencies at falling rates, up to the first that one process sustains."""
    found = []
    for per_second in rates:
        found.append(latency(rig, per_second=per_second, duration_s=duration_s))
        if found[-1]["p99_ms"] < SUSTAINED_P99_MS:
            break
    return found


def isolation(rig: DeliveryRig, *, destinations: int, per_second: float, duration_s: float, holes: tuple[int, ...] = (0, 1, 10)) -> list[dict[str, Any]]:
    """Healthy destinations while none, one and ten of all take requests and never answer. `per_second` is the load of all together."""
    found = []
    with rig.place(destinations, delay_ms=DELAY_MS) as place:
        place.start_sinks()
        for count in holes:
            others = Others()
            paths = frozenset(path(number) for number in range(count))
            place.control(holes=sorted(paths))
            one = phase(place, per_second, duration_s, paths)
            found.append({"destinations": destinations, "black_holes": count, **one, "others_cores": others.cores()})
    return found


def phase(place: Place, per_second: float, duration_s: float, holes: frozenset[str] = frozenset()) -> dict[str, Any]:
    """Feed for the duration after a warm-up: how late and how many of the events came to destinations that answer."""
    before = place.control()["taken"]
    feed = place.feed(per_second, duration_s + WARM_UP_S)
    sent = feed.wait()
    end_ns = sent[-1] + int(IN_TIME_S * figures.NS_PER_S)
    mine = {number: path(number % place.mix.programs) for number in range(feed.first, feed.first + feed.count)}
    place.wait_for(before + sum(to not in holes for to in mine.values()), within_s=SETTLE_S)
    place.check()
    counted = {feed.first + index: at_ns for index, at_ns in enumerate(sent) if at_ns - sent[0] >= WARM_UP_S * figures.NS_PER_S}
    counted = {number: at_ns for number, at_ns in counted.items() if mine[number] not in holes}
    firsts = figures.first_attempts(one for one in place.arrivals() if one.event_id.startswith(f"{place.mix.prefix}-"))
    in_time = sum(1 for event_id, one in firsts.items() if figures.number_of(event_id) in counted and one.at_ns <= end_ns)
    return {
        "per_second": per_second, **figures.summary(figures.latencies_ms(firsts, counted)), "delivered_share": in_time / len(counted),
        "rss_mib": place.usage().rss_mib,
    }  # fmt: skip


def cardinality(rig: DeliveryRig, *, destinations: int, events: int) -> dict[str, Any]:
    """As many events all at once, over so many destinations."""
    others = Others()
    with rig.place(destinations, delay_ms=5.0, members=20) as place:
        started_s = time.monotonic()
        place.start_sinks()
        start_s = time.monotonic() - started_s
        before, began_ns = place.usage(), time.monotonic_ns()
        place.fill(events)
        place.wait_for(events)
        arrivals, usage = place.arrivals(), place.usage()
    took_s = (arrivals[-1].at_ns - began_ns) / 1e9  # With the making of the events.
    return {"destinations": destinations, "events": events, "deliveries_s": _rate(arrivals), "took_s": took_s, "start_s": start_s, "rss_mib": usage.rss_mib,
            "cpu_us": (usage.cpu_s - before.cpu_s) / events * 1e6, "others_cores": others.cores()}  # fmt: skip
