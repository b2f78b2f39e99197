"""A channel in one partition: how far it has come, and its lanes. Belongs to the event loop; knows neither Kafka nor HTTP.

A branch that follows takes what the feed brings. One with too much to do, or whose destination is down or paused, stays behind at its position:
that costs nothing but the position, and the log is read again when there is room.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from schemas.records import DeliveryResult, LoyaltyEvent, NoticeKind
from sinks.base import Receipt, Verdict
from sinks.delivery.attempt import GONE, Result
from sinks.delivery.channels import Channel
from sinks.delivery.evidence import RETRIES_EXHAUSTED, Attempted
from sinks.delivery.lane import Lane
from sinks.delivery.outlet import Outlet
from sinks.delivery.records import Outgoing
from streams.destinations.model import COALESCABLE, OnDeadLetter

if TYPE_CHECKING:
    from sinks.delivery.partition import Partition

WINDOW = 256
"""Most that a branch has in hand, but for what waits behind a failure of its own member."""
REPLAY_WINDOW = 64
COALESCED_WINDOW = 1_000
"""... of a channel in which older events give way to newer ones: those are looked for among what is in hand."""
PARKED_MAX = 50_000
"""Most that waits behind failures; beyond it the branch stays behind. 400 KB."""
LOADED_AT_ONCE = 100


class Branch:
    """One channel's own place in one partition."""

    def __init__(self, partition: "Partition", channel: Channel, outlet: Outlet, *, position: int, follows: bool) -> None:
        self.partition = partition
        self.channel = channel
        self.outlet = outlet
        self.position = position
        """Behind: where reading goes on."""
        self.follows = follows
        self.lanes: dict[str, Lane] = {}
        self.waiting = 0
        """Offsets in lanes."""
        self.parked = 0
        """... of them in lanes that are parked."""
        self.end: int | None = None
        """A replay's, or a retiring channel's: nothing from here on is read."""
        self.counts: dict[str, int] = {}
        self.is_done = False
        self.is_stopping = False
        """No further attempts are begun."""
        self.is_closed = False
        """... and those under way change nothing."""
        self.is_reading = False
        self.is_new = False
        """Where it begins is not known yet."""
        self.unfinished: list[int] = []
        """What was handed out before a restart and is not in lanes yet."""
        self.next_batch_ms = 0
        """Batches: not before is the log read again."""
        self._due_until_ms = 0
        """Batches: an instant that has come. What was appended before it is due."""
        self.behind_since_ms = 0
        """When the first record that it has not taken was appended, about."""

    @property
    def window(self) -> int:
        if self.channel.is_batch:
            return max(self.channel.batch_events_max, COALESCED_WINDOW if self.channel.coalesces else 0)
        return REPLAY_WINDOW if self.channel.is_replay else WINDOW

    @property
    def has_room(self) -> bool:
        return self.waiting - self.parked < self.window and self.parked < PARKED_MAX

    @property
    def wants_more(self) -> bool:
        """Whether it pays to read: not for every single place that becomes free."""
        return self.waiting - self.parked <= self.window // 2 and self.parked < PARKED_MAX and self.outlet.takes_more

    @property
    def is_idle(self) -> bool:
        return self.follows and not self.lanes

    def change(self, channel: Channel) -> None:
        """The channel is another from now on."""
        if channel.cadence != self.channel.cadence:
            self.next_batch_ms = self._due_until_ms = 0
        self.channel = channel

    # What comes in.

    def may_read(self, now_ms: int) -> bool:
        """Whether the cadence, if there is one, lets it read on now."""
        cadence = self.channel.cadence
        return cadence is None or (now_ms >= self.next_batch_ms and cadence.is_open(now_ms))

    def is_due(self, record: Outgoing, now_ms: int) -> bool:
        """Whether an instant of the cadence has come since the record was appended: so no restart puts anything off. If none has, it is next time."""
        cadence = self.channel.cadence
        if cadence is None or cadence.is_realtime or record.timestamp_ms < self._due_until_ms:
            return True
        due_ms = cadence.next_ms(record.timestamp_ms)
        if due_ms > now_ms:
            self.next_batch_ms = due_ms
            return False
        self._due_until_ms = due_ms
        return True

    def take(self, record: Outgoing) -> None:
        """A record that is wanted, in the order of the log."""
        key = "" if self.channel.is_batch else record.lane
        lane = self.lanes.get(key)
        if lane is None:
            lane = self.lanes[key] = Lane(self, key)
        self.waiting += 1
        if lane.is_parked:
            self.parked += 1
            lane.append(record.offset, None)
            self.partition.lane_changed(lane)
        else:
            lane.append(record.offset, record)
            self.partition.branch_changed(self)
        if not self.channel.coalesces:  # Else when it is known what comes after it: `gathered`.
            self.outlet.offer(lane)

    def gathered(self) -> None:
        """Nothing more is read for now."""
        if self.channel.is_batch:
            self.coalesce()
            for lane in list(self.lanes.values()):
                self.outlet.offer(lane)

    def coalesce(self) -> None:
        """Events in hand give way to a later one of their member and kind that names all of their attributes, and are on record as superseded.

        What is under way, or has failed, stays.
        """
        lane = self.lanes.get("")
        if not self.channel.coalesces or lane is None or lane.is_parked:
            return
        later: dict[tuple[str, str], list[frozenset[str]]] = {}
        superseded: list[Outgoing] = []
        for offset in reversed(lane.offsets[self.channel.batch_events_max if lane.busy else 0 :]):
            one = lane.records.get(offset)
            if one is None or not isinstance(one.record, LoyaltyEvent) or one.record.kind.value not in COALESCABLE:
                continue
            names, known = frozenset(one.record.changed_attributes), later.setdefault((one.lane, one.record.kind.value), [])
            if any(names <= more for more in known):
                superseded.append(one)
            else:
                known.append(names)
        for one in reversed(superseded):
            self.partition.ended(self, one, DeliveryResult.SUPERSEDED)
        self.waiting -= lane.discard([one.offset for one in superseded]) if superseded else 0
        self.partition.branch_changed(self)

    def stay_behind(self, position: int) -> None:
        """From here on the log is read when there is room."""
        if self.follows:
            self.follows, self.position = False, position
            self.behind_since_ms = self.partition.now_ms()
            self.partition.branch_changed(self)

    def unload(self) -> None:
        """The destination is paused: nothing is kept in memory but places."""
        self.stay_behind(self.partition.position)
        for lane in self.lanes.values():
            if not lane.busy:
                lane.unload()

    def load(self, lane: Lane) -> None:
        self.partition.load(lane)

    def loaded(self, lane: Lane, records: dict[int, Outgoing | None]) -> None:
        """What was read again for a lane. None: the log does not have it any more."""
        lane.is_loading = False
        if self.is_closed or self.is_done:
            return
        gone = [offset for offset, record in records.items() if record is None]
        for offset, record in records.items():
            if record is not None:
                lane.records[offset] = record
        if gone:
            self.drop(lane, gone, "RETENTION")
        if len(lane):
            self.outlet.offer(lane)
        else:
            self._remove(lane)

    def drop(self, lane: Lane, gone: Sequence[int], reason: str) -> None:
        """Some of a lane's events are no more."""
        lost = lane.discard(gone)
        if lost:
            self.waiting -= lost
            self.parked -= lost if lane.is_parked else 0
            self.count("gone", lost)
            self.partition.dropped(self, min(gone), max(gone), lane.key, reason)
            self._changed(lane)

    # What becomes of it.

    def settle(self, lane: Lane, count: int, result: Result) -> None:
        """An attempt at the lane's first ones has ended."""
        records = lane.head(count) or []
        if len(records) != count or self.is_done:  # Dropped, or cancelled, while under way.
            return
        receipt, now_ms = result.receipt, self.partition.now_ms()
        attempt = lane.attempts + 1
        given_up: Receipt | None = receipt if receipt.verdict is Verdict.REFUSED else None
        next_ms: int | None = None
        if receipt.verdict is Verdict.RETRY:
            lane.attempts = attempt
            lane.failing_since_ms = lane.failing_since_ms or now_ms
            lane.detail = receipt.detail
            given_up = self._exhausted(lane, receipt, now_ms)
            if given_up is None:
                next_ms = self._put_off(lane, receipt)
        self.partition.attempted(Attempted(
            destination=self.channel.destination, channel=self.channel.channel_id, url=self.outlet.destination.url,
            is_batch=self.channel.is_batch, records=records, result=result, attempt=attempt, is_given_up=given_up is not None, next_attempt_at_ms=next_ms,
        ))  # fmt: skip
        if receipt.verdict is Verdict.DELIVERED:
            for record in records:
                self.partition.ended(self, record, DeliveryResult.DELIVERED, status=receipt.status, attempts=attempt)
            self.count("delivered", count)
            self._pop(lane, count)
        elif given_up is not None:
            self._give_up(lane, records, given_up, attempt)
        self.partition.catch_up(self)

    def skip(self, lane: Lane) -> None:
        """An operator passes over the event that blocks the lane."""
        first = lane.first()[0]
        self.partition.skipped(self, lane, first)
        self.count("passed_over", 1)
        self._pop(lane, 1)
        self.outlet.offer(lane)

    def release_blocked(self) -> None:
        """The destination's policy lets no member wait for an operator any more: what was given up is tried once more, and then passed over."""
        if self.outlet.destination.on_dead_letter is OnDeadLetter.RELEASE:
            for lane in list(self.lanes.values()):
                if lane.is_blocked:
                    self.unblock(lane)

    def unblock(self, lane: Lane) -> None:
        """Try the event that was given up again."""
        lane.is_blocked = False
        lane.touch()
        self._changed(lane)
        self.outlet.hurry(lane)

    def count(self, what: str, number: int) -> None:
        if self.channel.is_replay:
            self.counts[what] = self.counts.get(what, 0) + number
            self.partition.branch_changed(self)

    def close(self) -> None:
        """It is no more: nothing that is under way changes anything."""
        self.is_stopping = self.is_closed = True
        for lane in self.lanes.values():
            self.outlet.withdraw(lane)

    def _exhausted(self, lane: Lane, receipt: Receipt, now_ms: int) -> Receipt | None:
        """While the destination as a whole is down nothing is given up: the log keeps it."""
        failing_for_s = (now_ms - max(lane.failing_since_ms or now_ms, self.outlet.back_since_ms)) / 1000
        if self.outlet.is_down or receipt.reason == GONE or failing_for_s < self.outlet.destination.give_up_after_s:
            return None
        detail = f"{lane.attempts} attempts, failing for {failing_for_s:.0f} s; last: {receipt.detail}"
        return Receipt(verdict=Verdict.REFUSED, reason=RETRIES_EXHAUSTED, detail=detail, status=receipt.status)

    def _put_off(self, lane: Lane, receipt: Receipt) -> int:
        lane.is_asked = receipt.retry_after_s is not None
        lane.due_ms = self.outlet.retry_due_ms(lane.attempts, receipt.retry_after_s)
        self.park(lane)
        if receipt.reason == GONE:
            self.partition.gone(self)
        return lane.due_ms

    def park(self, lane: Lane) -> None:
        if not lane.is_parked:
            lane.park()
            self.parked += len(lane)
            head = self.channel.batch_events_max
            kept = lane.first(head)
            lane.records = {offset: lane.records[offset] for offset in kept if offset in lane.records}
        lane.touch()
        self._changed(lane)

    def _give_up(self, lane: Lane, records: Sequence[Outgoing], receipt: Receipt, attempts: int) -> None:
        blocks = self.outlet.destination.on_dead_letter is OnDeadLetter.BLOCK and not self.channel.is_replay
        for record in records:
            self.partition.given_up(self, record, NoticeKind.DELIVERY_BLOCKED if blocks else NoticeKind.DELIVERY_EXHAUSTED, receipt)
        if blocks:
            lane.attempts, lane.is_blocked, lane.due_ms, lane.detail = attempts, True, None, f"{receipt.reason}: {receipt.detail}"
            lane.failing_since_ms = lane.failing_since_ms or self.partition.now_ms()
            self.park(lane)
            return
        for record in records:
            self.partition.ended(self, record, DeliveryResult.DEAD_LETTERED, reason=receipt.reason, status=receipt.status, attempts=attempts)
        self.count("given_up", len(records))
        self._pop(lane, len(records))

    def _pop(self, lane: Lane, count: int) -> None:
        lane.pop(count)
        self.waiting -= count
        self.parked -= count if lane.is_parked else 0
        self._changed(lane)
        if not len(lane):
            self._remove(lane)

    def _remove(self, lane: Lane) -> None:
        if self.lanes.get(lane.key) is lane:
            del self.lanes[lane.key]

    def _changed(self, lane: Lane) -> None:
        if lane.is_parked:
            self.partition.lane_changed(lane)
        else:
            self.partition.branch_changed(self)
