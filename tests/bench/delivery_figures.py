"""Requests as the receiver saw them -> rates, latencies, waves. Pure."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tests.bench.delivery_feed import number_of
from tests.bench.delivery_rig import Arrival

NS_PER_S = 1_000_000_000


def percentile(ordered: Sequence[float], share: float) -> float:
    """Of sorted values; 0 of none."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0


def first_attempts(arrivals: Iterable[Arrival]) -> dict[str, Arrival]:
    """Event id -> its first request. For events that go to one destination each."""
    found: dict[str, Arrival] = {}
    for one in arrivals:
        found.setdefault(one.event_id, one)
    return found


def repeats(arrivals: Iterable[Arrival]) -> list[int]:
    """When each request came that was not an event's first."""
    seen: set[str] = set()
    found = []
    for one in arrivals:
        if one.event_id in seen:
            found.append(one.at_ns)
        seen.add(one.event_id)
    return found


def latencies_ms(firsts: Mapping[str, Arrival], sent_ns: Mapping[int, int]) -> list[float]:
    """Sorted, from handing the event to the producer until its first request was there, of those that were sent then."""
    numbered = ((number_of(event_id), one.at_ns) for event_id, one in firsts.items())
    return sorted((at_ns - sent_ns[number]) / 1e6 for number, at_ns in numbered if number in sent_ns)


def per_second(times_ns: Iterable[int], origin_ns: int, bucket_s: float = 1.0) -> dict[int, int]:
    """Bucket, counted from the origin, -> how many."""
    return Counter(int((at_ns - origin_ns) / NS_PER_S / bucket_s) for at_ns in times_ns)


def largest_share(times_ns: Sequence[int]) -> float:
    """The most that any second, wherever it begins, holds of all. 0 of none."""
    ordered, begin, most = sorted(times_ns), 0, 0
    for end, at_ns in enumerate(ordered):
        while at_ns - ordered[begin] >= NS_PER_S:
            begin += 1
        most = max(most, end - begin + 1)
    return most / len(ordered) if ordered else 0.0


def at_once(times_ns: Sequence[int], duration_ns: int) -> int:
    """Most requests under way at one time, when each takes so long."""
    ordered, begin, most = sorted(times_ns), 0, 0
    for end, at_ns in enumerate(ordered):
        while at_ns - ordered[begin] >= duration_ns:
            begin += 1
        most = max(most, end - begin + 1)
    return most


def inversions(arrivals: Iterable[Arrival], members: int) -> int:
    """How often an event of a member was first taken after a later one of the same; for a mix with one programme."""
    newest: dict[int, int] = {}
    seen: set[str] = set()
    count = 0
    for one in arrivals:
        if one.status == 200 and one.event_id not in seen:
            seen.add(one.event_id)
            number = number_of(one.event_id)
            member = number % members
            count += number < newest.get(member, -1)
            newest[member] = max(number, newest.get(member, -1))
    return count


def summary(ordered_ms: Sequence[float]) -> dict[str, Any]:
    return {"p50_ms": percentile(ordered_ms, 0.5), "p99_ms": percentile(ordered_ms, 0.99), "max_ms": ordered_ms[-1] if ordered_ms else 0.0,
            "events": len(ordered_ms)}  # fmt: skip
