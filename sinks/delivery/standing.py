"""What waits for a destination, as operators and Prometheus see it."""

from typing import Any

from sinks.delivery.branch import Branch
from sinks.delivery.lane import Lane
from sinks.delivery.outlet import Outlet
from streams import metrics

LANES_LOOKED_AT = 1_000


class Standing:
    """What waits for one destination in this process."""

    __slots__ = ("behind", "blocked", "oldest_ms", "parked", "waiting")

    def __init__(self) -> None:
        self.waiting = self.behind = self.parked = self.blocked = 0
        self.oldest_ms: int | None = None

    def add(self, branch: Branch, now_ms: int) -> None:
        self.waiting += branch.waiting
        if not branch.follows:
            self.behind += max(0, branch.partition.position - branch.position)
            if branch.behind_since_ms and branch.position < branch.partition.position:
                self.note(branch.behind_since_ms)
        for number, lane in enumerate(branch.lanes.values()):
            if lane.is_parked:
                self.parked += 1
                self.blocked += lane.is_blocked
            if number < LANES_LOOKED_AT:  # The oldest ones come first.
                head = lane.head()
                self.note(head[0].timestamp_ms if head else lane.failing_since_ms or now_ms)

    def note(self, at_ms: int) -> None:
        """Something has waited since then."""
        self.oldest_ms = at_ms if self.oldest_ms is None else min(self.oldest_ms, at_ms)

    def shown(self, outlet: Outlet) -> dict[str, Any]:
        condition = outlet.condition
        return {
            "waiting": self.waiting, "behind_records": self.behind, "oldest_ms": self.oldest_ms, "in_flight": outlet.in_flight,
            "concurrency": outlet.limit.limit, "breaker": outlet.breaker.phase.value, "parked_members": self.parked, "blocked_members": self.blocked,
            "last_failure": condition.last_failure if condition.failing_since_ms is not None else "", "failing_since_ms": condition.failing_since_ms,
        }  # fmt: skip


class Meters:
    """A destination's metrics, looked up once."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.seconds = metrics.DELIVERY_SECONDS.labels(name)
        self.latency = metrics.DELIVERY_EVENT_SECONDS.labels(name)
        self._attempts: dict[tuple[str, str], Any] = {}

    def attempt(self, verdict: str, outcome: str) -> None:
        counter = self._attempts.get((verdict, outcome))
        if counter is None:
            counter = self._attempts[verdict, outcome] = metrics.DELIVERIES.labels(self._name, verdict, outcome)
        counter.inc()

    def show(self, standing: Standing, in_flight: int, concurrency: int, now_ms: int) -> None:
        name = self._name
        metrics.DELIVERIES_WAITING.labels(name).set(standing.waiting + standing.behind)
        metrics.DELIVERY_OLDEST_SECONDS.labels(name).set(0 if standing.oldest_ms is None else max(0.0, (now_ms - standing.oldest_ms) / 1000))
        metrics.DELIVERIES_IN_FLIGHT.labels(name).set(in_flight)
        metrics.DELIVERY_CONCURRENCY.labels(name).set(concurrency)
        metrics.DELIVERY_PARKED_MEMBERS.labels(name).set(standing.parked)
        metrics.DELIVERY_BLOCKED_MEMBERS.labels(name).set(standing.blocked)

    def remove(self) -> None:
        """The destination is no more."""
        for metric in (
            metrics.DELIVERIES_WAITING, metrics.DELIVERY_OLDEST_SECONDS, metrics.DELIVERIES_IN_FLIGHT, metrics.DELIVERY_CONCURRENCY,
            metrics.DELIVERY_PARKED_MEMBERS, metrics.DELIVERY_BLOCKED_MEMBERS, metrics.DELIVERY_DOWN, metrics.DELIVERY_PAUSED, metrics.DELIVERY_SECONDS,
            metrics.DELIVERY_EVENT_SECONDS,
        ):  # fmt: skip
            try:
                metric.remove(self._name)
            except KeyError:  # It was never shown.
                pass
        for labels in self._attempts:
            metrics.DELIVERIES.remove(self._name, *labels)


def lane_shown(lane: Lane) -> dict[str, Any]:
    head = lane.head()
    return {
        "member": lane.key, "channel": lane.branch.channel.channel_id, "waiting": len(lane), "attempts": lane.attempts,
        "failing_since_ms": lane.failing_since_ms, "due_at_ms": lane.due_ms, "is_blocked": lane.is_blocked,
        "event_id": head[0].event_id if head else None, "detail": lane.detail,
    }  # fmt: skip
