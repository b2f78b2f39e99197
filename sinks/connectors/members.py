"""Events of members -> what a connected system has to hear of each: the newest state alone, one write at a time. Pure: times come in.

A system keeps the last value that it was told, so only the newest state counts; a member's older ones end as superseded. What is in hand of a member
is one entry, however many events wait: memory is bounded by members, not by events.
"""

from dataclasses import dataclass, field

from schemas.records import LoyaltyEvent, LoyaltyEventKind
from sinks.delivery.records import Outgoing
from streams.connectors.contract import MemberState


@dataclass(slots=True, eq=False, kw_only=True)
class Entry:
    """What a system has to hear of one member. Times are monotonic seconds, but for those in ms."""

    member: str
    """program_id/member_id."""
    newest: Outgoing
    kinds: set[LoyaltyEventKind] = field(default_factory=set)
    """What has happened since the state that the system had before."""
    sent: Outgoing | None = None
    """The state that is being written; nothing else is written of the member meanwhile."""
    since_sent: set[LoyaltyEventKind] = field(default_factory=set)
    """What has happened since."""
    intended_sequence: int = 0
    """The newest state that may have reached the system without an answer; 0: none."""
    intended_life_s: float = 0.0
    attempts: int = 0
    """Failures of its own in a row."""
    broken: int = 0
    """Conversations in a row that broke off with it: it is asked for in smaller company each time."""
    failing_since_ms: int | None = None
    due_s: float = 0.0
    is_parked: bool = False
    reason: str = ""
    detail: str = ""
    ready_s: float = 0.0
    """Since when it could be written."""
    ticket: int = 0
    """Of its place among those that wait for a time; 0: it has none."""
    is_queued: bool = False
    is_gone: bool = False
    """It is another process's affair by now, or none's."""

    @property
    def sequence(self) -> int:
        return sequence_of(self.newest)

    def take(self, record: Outgoing) -> Outgoing | None:
        """Take a newer event in; the one that is superseded by it, if one is. An older one, or the same again, is that itself."""
        if sequence_of(record) <= self.sequence:
            return record if record.offset != self.newest.offset else None
        before, was_parked, was_sent = self.newest, self.is_parked, self.newest is self.sent
        self.newest = record
        self.note_kind(kind_of(record))
        if was_parked:
            self.unpark()
        return None if was_parked or was_sent else before

    def note_kind(self, kind: LoyaltyEventKind) -> None:
        self.kinds.add(kind)
        self.since_sent.add(kind)

    def begin(self) -> None:
        """Its newest state is about to be written."""
        self.sent = self.newest
        self.since_sent = set()
        self.intended_sequence = self.sequence

    def unpark(self) -> None:
        """It is tried again, as if for the first time."""
        self.is_parked, self.reason, self.detail = False, "", ""
        self.attempts, self.failing_since_ms, self.due_s = 0, None, 0.0

    def answered(self) -> bool:
        """The system has said what became of the state that was written; whether a newer one waits by now."""
        has_newer = self.newest is not self.sent
        self.sent = None
        self.intended_sequence, self.intended_life_s, self.broken = 0, 0.0, 0
        return has_newer

    def settled(self) -> None:
        """The system has the state that was written, or does not want it: what counts from now on is what happened since."""
        self.kinds = set(self.since_sent)
        self.attempts, self.failing_since_ms, self.due_s, self.detail = 0, None, 0.0, ""

    def failed(self, now_ms: int, due_s: float, detail: str) -> None:
        self.attempts += 1
        self.failing_since_ms = self.failing_since_ms or now_ms
        self.due_s, self.detail = due_s, detail

    def park(self, now_ms: int, reason: str, detail: str) -> None:
        self.failing_since_ms = self.failing_since_ms or now_ms
        self.is_parked, self.reason, self.detail = True, reason, detail

    def broke_off(self, *, may_still_act: bool, due_s: float, is_its_own: bool) -> bool:
        """The conversation ended without a word about it; whether a newer state waits by now."""
        has_newer = self.newest is not self.sent
        self.sent = None
        self.broken += is_its_own
        self.due_s = max(self.due_s, due_s)
        if not may_still_act:
            self.intended_sequence, self.intended_life_s = 0, 0.0
        return has_newer


def state_of(entry: Entry) -> MemberState:
    """What is written of it, without a profile."""
    event = event_of(entry.newest)
    return MemberState(
        program_id=event.program_id, member_id=event.member_id, sequence=event.sequence, event_id=event.event_id, account=event.account,
        kinds=frozenset(entry.kinds), recorded_at_ms=event.recorded_at_ms,
    )  # fmt: skip


def event_of(record: Outgoing) -> LoyaltyEvent:
    event = record.record
    assert isinstance(event, LoyaltyEvent), "of the events topic"
    return event


def sequence_of(record: Outgoing) -> int:
    return event_of(record).sequence


def kind_of(record: Outgoing) -> LoyaltyEventKind:
    return event_of(record).kind


def batch_max(states_max: int, broken: int) -> int:
    """How many members go into a conversation with one with whom it has broken off so often: what breaks it is alone with it in the end."""
    return max(1, states_max >> min(broken, 16))
