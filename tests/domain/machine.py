"""One member, any sequence of commands, legal or not, and the invariants after each. Run by test_machine.py and the seeded faults."""

from dataclasses import replace

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from schemas.contract import Command
from schemas.records import Account, CommandResult, LoyaltyEventKind, MemberStatus, SyncAudit, Transaction
from streams.domain import desk
from streams.domain.desk import Settlement
from tests.domain.reference import Reference
from tests.domain.shell import PROGRAM, Shell, activate, adjust, change, earn, enrol, named, received, redeem, reverse

# Small numbers meet boundaries by chance: exactly the balance, exactly the threshold, one more.
POINTS = st.integers(1, 30) | st.sampled_from([250, 499, 500, 999, 1_000, 4_000])
MOMENTS_MS = st.sampled_from([1, 999, 1_000, 1_500, 1_999, 2_000, 9_000])
CURRENCIES = st.sampled_from(["EUR", "JPY", "KWD", "USD"])
CATEGORIES = st.sampled_from([None, "spa", "bar"])
SOURCES = st.sampled_from(["pms", "hr"])
VERSIONS = st.none() | st.integers(0, 6)
BALANCES = {LoyaltyEventKind.BALANCE_CHANGED}


class Member(RuleBasedStateMachine):
    """Every rule sends one command; `send` compares its settlement with the reference."""

    def __init__(self) -> None:
        super().__init__()
        self.shell = Shell()
        self.reference = Reference(PROGRAM)
        self.commands: list[Command] = []  # Every command that was sent under a new id.
        self.waiting: list[Command] = []
        self.folded = 0  # Sum of all entries so far, and how many of them are in it.
        self.counted = 0

    # What may happen.

    @initialize(early=st.booleans())
    def begin(self, early: bool) -> None:
        if not early:
            self.send(enrol(source_version=2))

    @precondition(lambda self: not self.reference.enrolled or len(self.commands) % 8 == 0)  # Seldom, for it is mostly refused.
    @rule(version=VERSIONS)
    def enrol(self, version: int | None) -> None:
        self.send(enrol(source_version=version))

    @rule(points=POINTS, at_ms=MOMENTS_MS, category=CATEGORIES)
    def earn(self, points: int, at_ms: int, category: str | None) -> None:
        self.send(earn(points, occurred_at_ms=at_ms, category=category))

    @rule(amount=st.integers(0, 60_000), currency=CURRENCIES, nights=st.none() | st.integers(0, 4), at_ms=MOMENTS_MS)
    def earn_by_amount(self, amount: int, currency: str, nights: int | None, at_ms: int) -> None:
        self.send(earn(amount_minor=amount, currency=currency, nights=nights, occurred_at_ms=at_ms))

    @rule(points=POINTS, reward=st.sampled_from([None, "spa-day"]))
    def redeem(self, points: int, reward: str | None) -> None:
        self.send(redeem(points, reward_code=reward))

    @precondition(lambda self: self.reference.available > 0)
    @rule(more=st.integers(0, 1))
    def redeem_all_or_one_more(self, more: int) -> None:
        self.send(redeem(self.reference.available + more))

    @rule(points=POINTS, sign=st.sampled_from([1, -1]))
    def adjust(self, points: int, sign: int) -> None:
        self.send(adjust(sign * points))

    @precondition(lambda self: self.commands)
    @rule(data=st.data(), points=st.none() | POINTS)
    def reverse(self, data: st.DataObject, points: int | None) -> None:
        ids = [c.transaction_id for c in self.commands if isinstance(c, Transaction)]
        self.send(reverse(data.draw(st.sampled_from([*ids, "never-sent"])), points))

    @precondition(lambda self: self.reference.movements)
    @rule(data=st.data(), spend=st.booleans(), twice=st.booleans())
    def reverse_what_was_applied(self, data: st.DataObject, spend: bool, twice: bool) -> None:
        """The ways in which points have been made out of nothing: spend, then return the purchase; return it twice."""
        moved = data.draw(st.sampled_from(self.reference.movements))
        if spend and self.reference.available:
            self.send(redeem(self.reference.available))
        for _ in range(1 + twice):
            left = abs(moved.points) - moved.reversed_points
            self.send(reverse(moved.transaction_id, data.draw(st.sampled_from([None, left // 2 or 1, left + 1]))))

    @rule(offer=st.sampled_from([*PROGRAM.offers, "nonsense"]), at_ms=MOMENTS_MS)
    def activate(self, offer: str, at_ms: int) -> None:
        self.send(activate(offer, occurred_at_ms=at_ms))

    @rule(status=st.sampled_from([MemberStatus.ACTIVE, MemberStatus.SUSPENDED]), source=SOURCES, version=VERSIONS)
    def change_status(self, status: MemberStatus, source: str, version: int | None) -> None:
        self.send(change(status=status, source_system=source, source_version=version))

    @rule(
        attributes=st.dictionaries(st.sampled_from("ab"), st.none() | st.sampled_from("xy"), min_size=1),
        segments=st.none() | st.lists(st.sampled_from("st")).map(tuple),
        version=VERSIONS,
    )
    def change_profile(self, attributes: dict[str, str | None], segments: tuple[str, ...] | None, version: int | None) -> None:
        self.send(change(attributes=attributes, segments=segments, source_version=version))

    @precondition(lambda self: self.commands)
    @rule(data=st.data(), at_ms=MOMENTS_MS)
    def repeat(self, data: st.DataObject, at_ms: int) -> None:
        """A duplicate, however late, stamped anew or not: the first answer, and nothing else."""
        command = replace(data.draw(st.sampled_from(self.commands)), occurred_at_ms=at_ms)
        settlement = self.deliver_in_vain(command)
        if settlement.account is not None:
            assert settlement.audit.replayed and _answer(settlement.audit) == _answer(self.first_audit(command))

    @precondition(lambda self: self.commands)
    @rule(data=st.data())
    def reuse_an_id(self, data: st.DataObject) -> None:
        command = replace(data.draw(st.sampled_from(self.commands)), source_system="someone-else")
        settlement = self.deliver_in_vain(command)
        if settlement.account is not None:
            assert settlement.audit.result is CommandResult.CONFLICT

    # How it is sent and compared.

    def send(self, command: Command) -> None:
        command = named(command, f"c{len(self.commands) + 1}")
        self.commands.append(command)
        before = self.shell.account
        settlement = self.deliver(command)
        if not self.reference.enrolled and settlement.audit.result is CommandResult.WAITING:
            self.waiting.append(command)
            return
        self.check(command, before, settlement)
        for earlier in self.waiting:  # The enrolment has released them.
            self.expect(earlier, self.first_audit(earlier))
        self.waiting = []

    def deliver(self, command: Command) -> Settlement:
        self.shell.sent += 1
        arrived = received(command, offset=self.shell.sent)
        settled_before = len(self.shell.audits)
        settlement = self.shell.settle(arrived)
        assert self.shell.audits[settled_before] is settlement.audit
        return settlement

    def deliver_in_vain(self, command: Command) -> Settlement:
        """It must change nothing. Before the enrolment it waits like its first sending, which comes before it when both are released."""
        before, settlement = self.shell.account, self.deliver(command)
        assert settlement == Settlement(account=before, outcome=None, audit=settlement.audit)
        assert (settlement.audit.result is CommandResult.WAITING) == (before is None)
        return settlement

    def first_audit(self, command: Command) -> SyncAudit:
        """The record of the command's decision: the first one that neither waits nor repeats."""
        name = desk.outcome_key(command.program_id, command.member_id, command)
        for arrived, audit in self.decisions():
            if desk.outcome_key("grand", "m-1", arrived) == name:
                return audit
        raise AssertionError("a command was never decided")

    def decisions(self) -> list[tuple[Command, SyncAudit]]:
        by_id = {(arrived.topic, arrived.offset): arrived.command for arrived in self.shell.log}
        undecided = {CommandResult.WAITING, CommandResult.CONFLICT}
        return [(by_id[a.topic, a.offset], a) for a in self.shell.audits if a.result not in undecided and not a.replayed]

    def check(self, command: Command, before: Account | None, settlement: Settlement) -> None:
        self.expect(command, settlement.audit)
        audit, after = settlement.audit, settlement.account
        assert settlement.outcome is not None, "every decision is remembered"
        assert after is not None
        if audit.result is CommandResult.REFUSED:
            assert before is not None
            assert after == replace(before, event_sequence=before.event_sequence + 1), "a refusal moves nothing"
            assert [event.kind for event in settlement.events] == [LoyaltyEventKind.COMMAND_REFUSED]
        if audit.result is CommandResult.SUPERSEDED:
            assert (after, settlement.events) == (before, ())
        assert audit.points_delta == sum(entry.points_delta for entry in settlement.entries)
        assert audit.points_delta == sum(event.points_delta for event in settlement.events)
        changes = [event for event in settlement.events if event.kind is LoyaltyEventKind.TIER_CHANGED]
        assert bool(changes) == (before is not None and before.tier != after.tier)

    def expect(self, command: Command, audit: SyncAudit) -> None:
        expected = self.reference.answer(command)
        got = audit.reason if audit.result is CommandResult.REFUSED else audit.result.value
        assert got is not None and got in expected, f"{got}, expected {expected}"

    # What holds after every step.

    @invariant()
    def the_account_is_what_the_reference_works_out(self) -> None:
        account = self.shell.account
        assert (account is not None) == self.reference.enrolled
        if account is not None:
            assert account.available_points == self.reference.available >= 0
            assert account.qualifying_points == self.reference.qualifying >= 0
            assert account.tier == self.reference.tier
            assert account.active_offers == tuple(sorted(self.reference.offers))
            assert (account.status is MemberStatus.SUSPENDED) == self.reference.suspended
            assert account.source_versions == self.reference.newest

    @invariant()
    def the_entries_add_up_to_the_balance(self) -> None:
        for number, entry in enumerate(self.shell.entries[self.counted :], self.counted + 1):
            self.folded += entry.points_delta
            assert entry.points_delta != 0
            assert (entry.entry_sequence, entry.balance_after) == (number, self.folded)
            assert self.folded >= 0
        self.counted = len(self.shell.entries)
        account = self.shell.account
        if account is not None:
            assert (account.available_points, account.entry_sequence) == (self.folded, self.counted)

    @invariant()
    def the_events_lead_to_the_account(self) -> None:
        account = self.shell.account
        if account is None:
            assert not self.shell.events
            return
        last = self.shell.events[-1]
        assert len(self.shell.events) == last.sequence == account.event_sequence
        snapshot = (last.account.status, last.account.tier, last.account.available_points, last.account.qualifying_points)
        assert snapshot == (account.status, account.tier, account.available_points, account.qualifying_points)
        assert len(self.shell.profiles) == account.profile_version == self.shell.profiles[-1].version

    @invariant()
    def no_transaction_is_reversed_by_more_than_it_moved(self) -> None:
        for outcome in self.shell.outcomes.values():
            assert 0 <= outcome.reversed_points <= abs(outcome.points_delta)

    def teardown(self) -> None:
        """Over the whole run: numbers without gaps, ids that never repeat, and a rebuild from the log that gives the same bytes."""
        shell = self.shell
        assert [event.sequence for event in shell.events] == list(range(1, len(shell.events) + 1))
        assert len({event.event_id for event in shell.events}) == len(shell.events)
        assert len({entry.entry_id for entry in shell.entries}) == len(shell.entries)
        assert len({audit.audit_id for audit in shell.audits}) == len(shell.audits) >= len(shell.log)
        points = sum(event.points_delta for event in shell.events if event.kind in BALANCES)
        assert points == (shell.account.available_points if shell.account else 0)
        again = Shell(recorded_at_ms=shell.recorded_at_ms)
        for arrived in shell.log:
            again.settle(arrived)
        assert (again.account, again.outcomes, again.events, again.entries) == (shell.account, shell.outcomes, shell.events, shell.entries)
        assert (again.profiles, again.audits) == (shell.profiles, shell.audits)


def _answer(audit: SyncAudit) -> tuple[object, ...]:
    return audit.result, audit.reason, audit.sequence, audit.points_delta, audit.available_points, audit.tier, audit.voucher_code
