"""Events of one member, writes of them and their outcomes in any order: what is in hand, and what every event comes to. Properties over all interleavings."""

from hypothesis import given
from hypothesis import strategies as st

from schemas.contract import member_key
from schemas.records import LoyaltyEventKind
from sinks.connectors import progress
from sinks.connectors.lease import MARGIN_S, START_S, Lease, LeaseOver
from sinks.connectors.members import Entry, batch_max, state_of
from sinks.delivery.records import Outgoing
from tests.sinks.broker import codec
from tests.sinks.examples import event

KINDS = (LoyaltyEventKind.BALANCE_CHANGED, LoyaltyEventKind.TIER_CHANGED, LoyaltyEventKind.OFFER_ACTIVATED)


def outgoing(sequence: int, kind: LoyaltyEventKind = KINDS[0]) -> Outgoing:
    return Outgoing(offset=100 + sequence, key=member_key("grand", "m-1"), record=event(sequence, kind=kind), timestamp_ms=1000 + sequence)


def entry(sequence: int = 1, kind: LoyaltyEventKind = KINDS[0]) -> Entry:
    one = Entry(member="grand/m-1", newest=outgoing(sequence, kind))
    one.note_kind(kind)
    return one


class Machine:
    """What the sink does with an entry, and what the system sees."""

    def __init__(self) -> None:
        self.entry: Entry | None = None
        self.sequence = 0
        self.reached: list[int] = []
        self.ends: dict[int, list[str]] = {}
        self.kinds: dict[int, LoyaltyEventKind] = {}
        self.told: set[LoyaltyEventKind] = set()

    def end(self, sequence: int, how: str) -> None:
        self.ends.setdefault(sequence, []).append(how)

    def take(self, kind: LoyaltyEventKind) -> None:
        self.sequence += 1
        self.kinds[self.sequence] = kind
        if self.entry is None:
            self.entry = entry(self.sequence, kind)
        else:
            superseded = self.entry.take(outgoing(self.sequence, kind))
            if superseded is not None:
                self.end(superseded.record.sequence, "SUPERSEDED")  # type: ignore[union-attr]

    def begin(self) -> None:
        if self.entry is not None and self.entry.sent is None and not self.entry.is_parked:
            self.entry.begin()

    def outcome(self, how: str) -> None:
        one = self.entry
        if one is None or one.sent is None:
            return
        sequence = one.sent.record.sequence  # type: ignore[union-attr]
        if how in ("broken", "lost"):
            if how == "lost":
                self.reached.append(sequence)
            if one.broke_off(may_still_act=how == "lost", due_s=0.0, is_its_own=True):
                self.end(sequence, "SUPERSEDED")
            return
        kinds = set(one.kinds) - one.since_sent
        has_newer = one.answered()
        match how:
            case "done":
                self.reached.append(sequence)
                self.told |= {self.kinds[number] for number in range(1, sequence + 1)}
                assert kinds <= self.told
                self.end(sequence, "DELIVERED")
                one.settled()
                if not has_newer:
                    self.entry = None
            case "park":
                self.end(sequence, "DEAD_LETTERED")
                if has_newer:
                    one.unpark()
                else:
                    one.park(5, "X", "x")
            case "retry":
                if has_newer:
                    self.end(sequence, "SUPERSEDED")
                one.failed(5, 0.0, "x")


@given(st.lists(st.sampled_from(KINDS) | st.sampled_from(["begin", "done", "park", "retry", "broken", "lost", "unpark"]), max_size=40))
def test_whatever_happens_no_state_is_older_than_one_before_and_every_event_has_one_end(steps: list[str]) -> None:
    machine = Machine()
    redriven: set[int] = set()
    for step in steps:
        if isinstance(step, LoyaltyEventKind):
            machine.take(step)
        elif step == "begin":
            machine.begin()
        elif step == "unpark":
            if machine.entry is not None and machine.entry.is_parked:
                redriven.add(machine.entry.sequence)
                machine.entry.unpark()
        else:
            machine.outcome(step)
        if machine.entry is not None:
            assert machine.entry.sequence == machine.sequence, "the newest is what is in hand"
            assert machine.entry.kinds and machine.kinds[machine.sequence] in machine.entry.kinds
    assert machine.reached == sorted(machine.reached)
    open_ = set()
    if machine.entry is not None:
        open_ = {machine.entry.sequence} | ({machine.entry.sent.record.sequence} if machine.entry.sent else set())  # type: ignore[union-attr]
    for sequence in range(1, machine.sequence + 1):
        ends = machine.ends.get(sequence, [])
        if sequence in redriven:
            assert ends[0] == "DEAD_LETTERED"
        elif sequence in open_:
            assert ends == ["DEAD_LETTERED"] * (machine.entry is not None and machine.entry.is_parked)
        else:
            assert len(ends) == 1


def test_a_row_brings_an_entry_back_and_what_may_be_under_way_is_waited_for() -> None:
    one = entry(7, KINDS[1])
    one.note_kind(KINDS[2])
    one.begin()
    one.intended_life_s = 12.5
    one.failed(1_000_000, 500.0, "later")
    row = progress.member_row("crm", one, codec(), 1_000_000, 400.0)
    again = progress.entry_of(row, codec(), 1_050_000, 20.0)
    assert (again.member, again.sequence, again.newest.offset, again.kinds, again.attempts) == ("grand/m-1", 7, 107, {KINDS[1], KINDS[2]}, 1)
    assert (again.intended_sequence, again.due_s, again.failing_since_ms, again.sent) == (7, 70.0, 1_000_000, None), "due 100 s after, of which 50 are over"
    one.failed(1_000_000, 0.0, "later")
    assert progress.entry_of(progress.member_row("crm", one, codec(), 0, 0.0), codec(), 0, 20.0).due_s == 32.5, "as long as the writer may still have sent it"
    one.answered()
    assert progress.entry_of(progress.member_row("crm", one, codec(), 0, 0.0), codec(), 0, 20.0).due_s == 20.0


def test_what_is_written_is_the_newest_and_says_all_that_happened() -> None:
    one = entry(1, KINDS[0])
    one.take(outgoing(2, KINDS[1]))
    state = state_of(one)
    assert (state.sequence, state.kinds, state.account.available_points, state.member_id) == (2, frozenset(KINDS[:2]), 200, "m-1")


def test_an_older_event_changes_nothing() -> None:
    one = entry(5)
    older = outgoing(4)
    assert one.take(older) is older and one.sequence == 5
    assert one.take(outgoing(5)) is None and one.sequence == 5


def test_a_lease_ends_by_a_clock_that_goes_on_while_one_sleeps() -> None:
    now_s = 100.0
    lease = Lease(30.0, clock=lambda: now_s)
    assert lease.life_s == START_S + 30.0 + MARGIN_S
    lease.check()
    assert lease.allows(30.0) and not lease.allows(31.0)
    now_s += START_S / 2 + 0.1
    assert not lease.allows(30.0), "too little is left to begin with"
    lease.check()
    now_s += START_S
    try:
        lease.check()
    except LeaseOver:
        assert lease.is_over
    else:
        raise AssertionError("it is over")


def test_company_shrinks_with_each_conversation_that_broke_off() -> None:
    assert [batch_max(200, broken) for broken in (0, 1, 2, 7, 8, 99)] == [200, 100, 50, 1, 1, 1]
