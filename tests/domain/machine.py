"""One member, any sequence of commands, legal or not, and the invariants after each. Run by test_machine.py and the seeded faults."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from inspect import signature
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from schemas.contract import Command
from schemas.records import Account, CommandResult, EntryKind, LedgerEntry, Lot, LoyaltyEvent, LoyaltyEventKind, MemberOperationKind, MemberStatus
from schemas.records import SyncAudit, Transaction, TransactionKind
from streams.domain import desk
from streams.domain.desk import Received, Settlement
from streams.domain.program import Demotion, EarnRule, EarnWhileSuspended, Expiry, ExpiryRule, Offer, Period, Program, RefundOfExpired, ReversalPolicy
from streams.domain.program import Reward, Rounding, Tier, TierPolicy, Window
from tests.domain.reference import DAY, MINUTE, Reference, instant
from tests.domain.shell import Shell, activate, adjust, cancel_voucher, capture, change, earn, enrol, hold, make_available, named, operate, received
from tests.domain.shell import redeem, redeem_voucher, reverse, void

START = instant(2025, 12, 20) + 10 * 60 * MINUTE
"""Near the end of a year, of a month, and of nothing else."""

# Small numbers meet boundaries by chance: exactly the balance, exactly the threshold, one more.
POINTS = st.integers(1, 30) | st.sampled_from([20, 50, 99, 100, 101, 250, 500])
LATE_MS = st.sampled_from([0, 0, 0, 0, 1, DAY, 12 * DAY, 400 * DAY])
SOURCES = st.sampled_from(["pms", "hr"])
VERSIONS = st.none() | st.integers(0, 6)
SPENDINGS: dict[str, Callable[..., Transaction]] = {"redeem": redeem, "hold": hold, "adjust": lambda points, **more: adjust(-points, **more)}
OWN = ("available", "pending", "held", "debt")

OFFERS = (
    Offer(offer_id="double", bonus_percent=100, starts_at_ms=START, ends_at_ms=START + 3 * DAY, uses_max=2),
    Offer(offer_id="each-month", bonus_points=5, cap_points=12, period=Period.MONTH),
    Offer(offer_id="for-silver", bonus_percent=33, categories=frozenset({"spa"}), tiers=frozenset({"silver"}), reward_code="lounge"),
    Offer(offer_id="winter", bonus_percent=10, starts_at_ms=START + 30 * DAY),
)
TIERS = (
    Tier(name="blue", threshold_points=0),
    Tier(name="silver", threshold_points=100, earn_percent=125),
    Tier(name="gold", threshold_points=500, earn_percent=150, reward_code="lounge"),
)
EXPIRIES = (
    Expiry(), Expiry(rule=ExpiryRule.AFTER_DAYS, days=10), Expiry(rule=ExpiryRule.INACTIVITY, days=10), Expiry(rule=ExpiryRule.END_OF_MONTH, months=1),
    Expiry(rule=ExpiryRule.END_OF_YEAR), Expiry(rule=ExpiryRule.FIXED_DAY, days=12, month=1, day=1),
)  # fmt: skip


CHOICES = st.fixed_dictionaries({
    "rounding": st.sampled_from(Rounding), "expiry": st.sampled_from(EXPIRIES), "pending_days": st.sampled_from([0, 0, 3]),
    "reversal": st.sampled_from(ReversalPolicy), "refund_of_expired": st.sampled_from(RefundOfExpired),
    "hold_minutes": st.sampled_from([None, 30]), "capture_while_suspended": st.booleans(), "idempotency_days": st.sampled_from([400, 30]),
    "earn_while_suspended": st.sampled_from(EarnWhileSuspended),
})  # fmt: skip
POLICIES = st.builds(
    TierPolicy, window=st.sampled_from(Window), window_days=st.just(20), grace_days=st.sampled_from([0, 5]), demotion=st.sampled_from(Demotion),
    demote_on_reversal=st.booleans(),
)  # fmt: skip


def program(**choices: Any) -> Program:
    return Program(
        program_id="grand",
        tiers=TIERS,
        points_per_unit={"EUR": 1, "JPY": 3},
        points_per_night=5,
        rules=(EarnRule(rule_id="more-at-the-spa", percent=50, categories=frozenset({"spa"}), cap_points=40, cap_period=Period.MONTH),),
        refund_grace_days=5,
        offers={offer.offer_id: offer for offer in OFFERS},
        rewards={"spa-day": Reward(reward_code="spa-day", points=20, valid_days=7), "lounge": Reward(reward_code="lounge", valid_days=40)},
        voucher_key=b"a key for tests, not a secret...",
        **choices,
    )


class Possible:
    """What may happen, as often as it is to be tried. One rule draws from it: Hypothesis would leave whole rules out of a run, and whatever
    needs five of them would hardly ever be met."""

    def __init__(self) -> None:
        self._listed: list[tuple[str, Callable[[Any], object] | None, dict[str, st.SearchStrategy[Any]], int]] = []

    def __call__(
        self, weight: int, *, only_if: Callable[[Any], object] | None = None, **drawn: st.SearchStrategy[Any]
    ) -> Callable[[Callable[..., None]], Callable[..., None]]:
        def listed(method: Callable[..., None]) -> Callable[..., None]:
            self._listed.append((method.__name__, only_if, drawn, weight))
            return method

        return listed

    def happen(self, machine: RuleBasedStateMachine, data: st.DataObject) -> None:
        names = [name for name, only_if, _, weight in self._listed if only_if is None or only_if(machine) for _ in range(weight)]
        chosen = data.draw(st.sampled_from(names), label="what")
        drawn = next(drawn for name, _, drawn, _ in self._listed if name == chosen)
        method = getattr(machine, chosen)
        more = {"data": data} if "data" in signature(method).parameters else {}
        method(**more, **{key: data.draw(values, label=key) for key, values in drawn.items()})


possible = Possible()


class Member(RuleBasedStateMachine):
    """Every rule sends one command; `send` compares its settlement with the reference."""

    def __init__(self) -> None:
        super().__init__()
        self.now_ms = START
        self.commands: list[Command] = []  # Every command that was sent under a new id.
        self.decided_at: dict[bytes, int] = {}
        self.history: list[Received | int] = []  # Records, and ticks by their time.
        self.folded = Counter[str]()  # Balances by the entries so far, how many these are, and the hash of the last.
        self.counted, self.chain = 0, ""
        self.told = 0  # Events that were looked at.
        self.tier_told = ""
        self.voucher_states: dict[str, str] = {}

    # What may happen.

    @initialize(choices=CHOICES, policy=POLICIES, early=st.sampled_from([False, False, False, True]))
    def begin(self, choices: dict[str, Any], policy: TierPolicy, early: bool) -> None:
        rules = program(tier_policy=policy, **choices)
        self.shell, self.reference = Shell(program=rules), Reference(rules)
        if not early:
            self.send(enrol(source_version=2, occurred_at_ms=START))

    @rule(data=st.data())
    def something_happens(self, data: st.DataObject) -> None:
        possible.happen(self, data)

    @possible(1, only_if=lambda self: not self.reference.enrolled or self.reference.barred or len(self.commands) % 8 == 0, version=VERSIONS)
    def enrol(self, version: int | None) -> None:
        self.send(enrol(source_version=version, occurred_at_ms=self.now_ms, attributes={"a": "z"} if version in (1, 6) else {}))

    @possible(
        4,
        points=POINTS, late_ms=LATE_MS, expires_in_ms=st.sampled_from([None, None, None, -1, 0, 1, 2 * DAY, 15 * DAY]),
        category=st.sampled_from([None, "spa"]), pending=st.sampled_from(["", "", "", "event", "date"]),
    )  # fmt: skip
    def earn(self, points: int, late_ms: int, expires_in_ms: int | None, category: str | None, pending: str) -> None:
        waits: dict[str, dict[str, Any]] = {"": {}, "event": {"pending": True}, "date": {"available_from_ms": self.now_ms + 2 * DAY}}
        more = waits[pending]
        if expires_in_ms is not None:
            more["expires_at_ms"] = self.now_ms + expires_in_ms
        self.send(earn(points, occurred_at_ms=self.now_ms - late_ms, category=category, **more))

    @possible(
        2,
        amount=st.integers(0, 20_000), currency=st.sampled_from(["EUR", "JPY", "USD"]), nights=st.none() | st.integers(0, 4), late_ms=LATE_MS,
        category=st.sampled_from([None, "spa"]),
    )  # fmt: skip
    def earn_by_amount(self, amount: int, currency: str, nights: int | None, late_ms: int, category: str | None) -> None:
        amount = amount // 100 if currency == "JPY" else amount
        self.send(earn(amount_minor=amount, currency=currency, nights=nights, occurred_at_ms=self.now_ms - late_ms, category=category))

    @possible(2, points=POINTS, reward=st.sampled_from([None, None, "spa-day", "anything"]), late_ms=st.sampled_from([0, 0, 0, 1, 6 * DAY]))
    def redeem(self, points: int, reward: str | None, late_ms: int) -> None:
        self.send(redeem(points, reward_code=reward, occurred_at_ms=self.now_ms - late_ms))

    @possible(
        3, only_if=lambda self: self.reference.available > 0,
        share=st.sampled_from([0, 0, 1, -1, 2]), reward=st.sampled_from([None, "anything"]),
        how=st.sampled_from(["redeem", "redeem", "hold", "hold", "adjust"]),
    )  # fmt: skip
    def spend_all_or_around(self, share: int, how: str, reward: str | None) -> None:
        points = self.reference.available // 2 if share == 2 else self.reference.available + share
        more = {"reward_code": reward} if how == "redeem" else {}
        self.send(SPENDINGS[how](max(1, points), occurred_at_ms=self.now_ms, **more))

    @possible(1, points=POINTS, sign=st.sampled_from([1, 1, -1]), expires_in_ms=st.sampled_from([None, None, 2 * DAY]))
    def adjust(self, points: int, sign: int, expires_in_ms: int | None) -> None:
        self.send(adjust(sign * points, occurred_at_ms=self.now_ms, expires_at_ms=expires_in_ms and self.now_ms + expires_in_ms))

    @possible(1, points=POINTS, lasts_ms=st.sampled_from([None, None, 1, DAY, 15 * DAY]))
    def hold(self, points: int, lasts_ms: int | None) -> None:
        self.send(hold(points, occurred_at_ms=self.now_ms, expires_at_ms=lasts_ms and self.now_ms + lasts_ms))

    @possible(3, only_if=lambda self: self.kinds("HOLD"), how=st.sampled_from(["void", "capture", "capture", "part", "part", "more"]), ended=st.booleans())
    def end_a_hold(self, data: st.DataObject, how: str, ended: bool) -> None:
        names = [*self.reference.holds] if self.reference.holds and not ended else self.kinds("HOLD")
        hold_id = data.draw(st.sampled_from([*names, *names, "never-sent"]))
        held = sum(points for _, points, _ in self.reference.holds[hold_id].parts) if hold_id in self.reference.holds else 1
        points = {"part": max(1, held // 2), "more": held + 1}.get(how)
        self.send((void(hold_id) if how == "void" else capture(hold_id, points)), at_now=True)

    @possible(1, only_if=lambda self: self.kinds("EARN"))
    def make_available(self, data: st.DataObject) -> None:
        waiting = [lot.lot_id for lot in self.reference.open_lots if lot.pending]
        self.send(make_available(data.draw(st.sampled_from(waiting or [*self.kinds("EARN"), "never-sent"]))), at_now=True)

    @possible(1, only_if=lambda self: self.commands, points=st.none() | POINTS)
    def reverse(self, data: st.DataObject, points: int | None) -> None:
        ids = [c.transaction_id for c in self.commands if isinstance(c, Transaction)]
        self.send(reverse(data.draw(st.sampled_from([*ids, "never-sent"])), points), at_now=True)

    @possible(3, only_if=lambda self: self.kinds("EARN", "ADJUST"), first=st.sampled_from([None, "redeem", "hold"]), twice=st.booleans())
    def reverse_what_came_in(self, data: st.DataObject, first: str | None, twice: bool) -> None:
        """The ways in which points have been made out of nothing: spend, then return the purchase; return it twice."""
        original_id = data.draw(st.sampled_from(self.kinds("EARN", "ADJUST")))
        if first and self.reference.available:
            self.send(SPENDINGS[first](self.reference.available), at_now=True)
        for _ in range(1 + twice):
            self.send(reverse(original_id, data.draw(st.sampled_from([None, None, 1, 10]))), at_now=True)

    @possible(3, only_if=lambda self: self.kinds("REDEEM", "CAPTURE"), points=st.sampled_from([None, None, 1, 15]), twice=st.booleans())
    def refund(self, data: st.DataObject, points: int | None, twice: bool) -> None:
        original_id = data.draw(st.sampled_from(self.kinds("REDEEM", "CAPTURE")))
        for _ in range(1 + twice):
            self.send(reverse(original_id, points), at_now=True)

    @possible(2, only_if=lambda self: self.reference.vouchers, use=st.booleans(), twice=st.booleans())
    def use_or_cancel_a_voucher(self, data: st.DataObject, use: bool, twice: bool) -> None:
        code = data.draw(st.sampled_from([voucher.code or "" for voucher in self.reference.vouchers][-3:] + ["NONE-SUCH"]))
        for _ in range(1 + twice):
            self.send(redeem_voucher(code) if use else cancel_voucher(code), at_now=True)

    @possible(1, offer=st.sampled_from([*(offer.offer_id for offer in OFFERS), "nonsense"]), late_ms=LATE_MS)
    def activate_an_offer(self, offer: str, late_ms: int) -> None:
        self.send(activate(offer, occurred_at_ms=self.now_ms - late_ms))

    @possible(
        1,
        status=st.sampled_from([MemberStatus.ACTIVE, MemberStatus.SUSPENDED, MemberStatus.LEFT]), source=SOURCES, version=VERSIONS,
        in_ms=st.sampled_from([None, None, -1, 0, 1, 3 * DAY]),
    )  # fmt: skip
    def change_status(self, status: MemberStatus, source: str, version: int | None, in_ms: int | None) -> None:
        from_ms = None if in_ms is None else self.now_ms + in_ms
        self.send(change(status=status, source_system=source, source_version=version, status_from_ms=from_ms), at_now=True)

    @possible(
        1,
        attributes=st.dictionaries(st.sampled_from("ab"), st.none() | st.sampled_from("xy"), min_size=1),
        tier=st.sampled_from([None, None, "blue", "silver", "gold", "none-such"]), source=SOURCES, status=st.none() | st.just(MemberStatus.SUSPENDED),
        until_in_ms=st.sampled_from([None, 1, 9 * DAY]), version=VERSIONS,
    )  # fmt: skip
    def change_profile_or_tier(
        self, attributes: dict[str, str | None], tier: str | None, source: str, status: MemberStatus | None, until_in_ms: int | None, version: int | None
    ) -> None:
        if tier is None:
            self.send(change(attributes=attributes, status=status, source_system=source, source_version=version), at_now=True)
        else:
            # Given before the enrolment it could end before the membership begins, of which the reference has no periods.
            until_ms = self.now_ms + until_in_ms if until_in_ms and self.reference.enrolled else None
            self.send(operate(MemberOperationKind.SET_TIER, tier=tier, valid_until_ms=until_ms), at_now=True)

    @possible(3, beside_ms=st.sampled_from([-1, 0, 1]), ticked=st.booleans())
    def wait_until_something_is_due(self, data: st.DataObject, beside_ms: int, ticked: bool) -> None:
        limits = [at_ms for offer in OFFERS for at_ms in (offer.starts_at_ms, offer.ends_at_ms) if at_ms is not None]
        dues = [at_ms for at_ms in sorted([*self.reference.dues(), *limits]) if at_ms > self.now_ms][:3]
        self.wait(data.draw(st.sampled_from(dues)) + beside_ms - self.now_ms if dues else DAY, ticked)

    @possible(1, ms=st.sampled_from([1, MINUTE, 30 * MINUTE, DAY, 5 * DAY, 31 * DAY, 370 * DAY]), ticked=st.booleans())
    def wait(self, ms: int, ticked: bool) -> None:
        before_ms, self.now_ms = self.now_ms, max(self.now_ms, self.now_ms + ms)
        if ticked and self.shell.account is not None:
            self.tick(before_ms)

    @possible(1, only_if=lambda self: self.commands)
    def repeat(self, data: st.DataObject) -> None:
        """A duplicate, however late within the window, stamped anew or not: the first answer, and nothing else."""
        command = replace(self.commands[data.draw(st.integers(0, len(self.commands) - 1))], occurred_at_ms=self.now_ms)
        if not self.is_remembered(command) and self.reference.enrolled:
            if not isinstance(command, Transaction) or command.kind is TransactionKind.REDEEM:  # Decided anew, as if never sent.
                self.send(command, again=True)
            return
        settlement = self.deliver_in_vain(command)
        if settlement.account is not None:
            assert settlement.audit is not None
            assert settlement.audit.replayed and _answer(settlement.audit) == _answer(self.last_decision(command))

    @possible(1, only_if=lambda self: self.commands)
    def reuse_an_id(self, data: st.DataObject) -> None:
        command = replace(self.commands[data.draw(st.integers(0, len(self.commands) - 1))], source_system="someone-else")
        is_open = isinstance(command, Transaction) and self.reference.is_open_name(command.transaction_id)
        if self.reference.enrolled and not is_open and not self.is_remembered(command):
            return
        settlement = self.deliver_in_vain(command)
        if settlement.account is not None:
            assert settlement.audit is not None
            assert settlement.audit.result is CommandResult.CONFLICT

    # How it is sent and compared.

    def kinds(self, *kinds: str) -> list[str]:
        """The last transactions of these kinds that took effect."""
        return [name for name, deed in self.reference.deeds.items() if deed.kind in kinds and deed.applied][-5:]

    def is_remembered(self, command: Command) -> bool:
        decided_ms = self.decided_at.get(_name(command))
        return decided_ms is not None and self.now_ms - decided_ms < self.reference.program.idempotency_days * DAY

    def send(self, command: Command, *, again: bool = False, at_now: bool = False) -> None:
        if at_now:
            command = replace(command, occurred_at_ms=self.now_ms)
        if not again:
            command = named(command, f"c{len(self.commands) + 1}")
            self.commands.append(command)
        before = _Before(self.shell, self.now_ms)
        settlement = self.deliver(command)
        if before.account is None and settlement.account is None:
            return
        decided = [audit for audit in self.shell.audits[before.audits :] if not audit.replayed and audit.result is not CommandResult.CONFLICT]
        for audit in decided:  # The enrolment has released the others, in their order.
            mine = self.command_of(audit)
            self.expect(mine, audit)
            self.decided_at[_name(mine)] = self.now_ms
        if len(decided) == 1 and before.account is not None:
            self.check(command, before, settlement)

    def deliver(self, command: Command) -> Settlement:
        self.shell.sent += 1
        arrived = received(command, offset=self.shell.sent, ingested_at_ms=self.now_ms)
        self.history.append(arrived)
        return self.shell.settle(arrived)

    def deliver_in_vain(self, command: Command) -> Settlement:
        """It must change nothing. Before the enrolment it waits like its first sending, which comes before it when both are released."""
        before, settlement = self.shell.account, self.deliver(command)
        assert settlement == Settlement(account=before, outcomes={}, vouchers={}, audit=settlement.audit)
        assert settlement.audit is not None
        assert (settlement.audit.result is CommandResult.WAITING) == (before is None)
        return settlement

    def command_of(self, audit: SyncAudit) -> Command:
        found = next(arrived.command for arrived in self.shell.log if (arrived.topic, arrived.offset) == (audit.topic, audit.offset))
        assert found is not None
        return found

    def last_decision(self, command: Command) -> SyncAudit:
        undecided = {CommandResult.WAITING, CommandResult.CONFLICT}
        decisions = [audit for audit in self.shell.audits if audit.result not in undecided and not audit.replayed]
        return next(audit for audit in reversed(decisions) if _name(self.command_of(audit)) == _name(command))

    def expect(self, command: Command, audit: SyncAudit) -> None:
        expected = self.reference.answer(command, self.now_ms)
        got = audit.reason if audit.result is CommandResult.REFUSED else audit.result.value
        assert got in expected, f"{got}, expected {expected}"
        self.name_the_vouchers()

    def name_the_vouchers(self) -> None:
        codes = [event.voucher_code for event in self.shell.events if event.kind is LoyaltyEventKind.VOUCHER_ISSUED]
        for voucher, code in zip(self.reference.vouchers, codes, strict=False):
            voucher.code = code

    def tick(self, before_ms: int) -> None:
        """However time is cut into ticks, it comes to the same; and a second tick finds nothing left to do."""
        other = _copy(self.shell)
        other.tick((before_ms + self.now_ms) // 2)
        other.tick(self.now_ms)
        self.shell.tick(self.now_ms)
        self.history.append(self.now_ms)
        assert [_without_arrival(event) for event in other.events] == [_without_arrival(event) for event in self.shell.events]
        assert _lasting(other.account) == _lasting(self.shell.account)
        events, account = len(self.shell.events), self.shell.account
        assert self.shell.tick(self.now_ms).events == () and len(self.shell.events) == events
        assert self.shell.account == account
        self.reference.catch_up(self.now_ms)
        self.name_the_vouchers()
        assert account is not None
        assert not any(lot.remaining and lot.expires_at_ms is not None and lot.expires_at_ms <= self.now_ms for lot in account.lots)

    def check(self, command: Command, before: "_Before", settlement: Settlement) -> None:
        """What one decision may do."""
        audit, after = settlement.audit, settlement.account
        assert audit is not None and after is not None
        assert settlement.outcomes, "every decision is remembered"
        own = [entry for entry in self.shell.entries[before.entries :] if entry.source_system != "loyalty-sync"]
        if audit.result is CommandResult.REFUSED:
            assert not own, "a refusal moves nothing"
            mine = [event.kind for event in settlement.events if event.cause.source_system != "loyalty-sync"]
            assert mine == [LoyaltyEventKind.COMMAND_REFUSED]
        if audit.result is CommandResult.SUPERSEDED:
            assert not own
        assert audit.points_delta == sum(_delta(entry, "available") for entry in own)
        if isinstance(command, Transaction) and audit.result is CommandResult.APPLIED:
            if command.kind is TransactionKind.REVERSE:
                self.check_reversal(command, before, own)
            if command.kind in (TransactionKind.REDEEM, TransactionKind.HOLD):
                assert {part.lot_id: part.points for entry in own for part in entry.lots} == before.greedy(command.points or 0, self.now_ms)

    def check_reversal(self, command: Transaction, before: "_Before", own: list[LedgerEntry]) -> None:
        """Of an earn: recovered is what remained, was spent or paid a debt, as far as the policy allows; what is held and expired is not."""
        original = before.outcomes.get(desk.transaction_key("grand", "m-1", command.reverses_transaction_id or ""))
        assert original is not None and before.account is not None
        lot = next((lot for lot in before.account.lots if lot.lot_id == command.reverses_transaction_id), original.lot)
        if original.transaction_kind is not TransactionKind.EARN or lot is None or original.reversed_points or command.points is not None:
            return
        reach = lot.remaining + lot.spent + lot.settled
        recovered = -sum(_delta(entry, account) for entry in own if entry.counter_account == "issued" for account in OWN)
        policy = self.reference.program.reversal
        if policy is ReversalPolicy.ONLY_PENDING:
            reach = lot.remaining if lot.pending else 0
        if policy is ReversalPolicy.WITHIN_BALANCE:
            reach = min(reach, before.account.available_points + (lot.remaining if lot.pending else 0))
        assert recovered == reach

    # What holds after every step.

    @invariant()
    def the_account_is_what_the_reference_works_out(self) -> None:
        account, reference = self.shell.account, self.reference
        assert (account is not None) == reference.enrolled
        if account is None:
            return
        if account.clock_ms < reference.clock_ms:
            return
        assert (account.available_points, account.pending_points) == (reference.available, reference.pending)
        assert (account.held_points, account.debt_points) == (reference.held, reference.debt)
        assert [_shape(lot) for lot in account.lots] == [
            (lot.lot_id, lot.points, *(lot.of(part) for part in ("remaining", "held", "spent", "expired", "clawed", "settled")), lot.pending, lot.parked,
             lot.expires_at_ms)
            for lot in reference.open_lots
        ]  # fmt: skip
        assert [found.hold_id for found in account.holds] == [*reference.holds]
        assert (account.tier, account.tier_valid_until_ms) == (reference.tier, reference.tier_until_ms)
        assert [voucher.voucher_code for voucher in account.vouchers] == reference.open_vouchers()
        assert account.active_offers == tuple(sorted({offer_id for offer_id, _ in reference.activations}))
        assert account.status is reference.status
        assert (account.scheduled_status, account.scheduled_at_ms) == (reference.scheduled or (None, None))
        assert account.attributes == reference.attributes
        words = {name: (one.source_system, one.source_version) for one in account.origins for name in one.names}
        assert words == reference.last_words
        assert account.source_versions == reference.newest

    @invariant()
    def points_count_for_the_tier_as_the_reference_says(self) -> None:
        account = self.shell.account
        if account is not None and self.history and not isinstance(self.history[-1], int) and account.clock_ms == self.now_ms:
            if self.shell.audits[-1].result in (CommandResult.APPLIED, CommandResult.REFUSED) and not self.shell.audits[-1].replayed:
                assert account.qualifying_points == self.reference.qualifying_at(self.now_ms)

    @invariant()
    def every_lot_is_the_sum_of_its_parts(self) -> None:
        account = self.shell.account
        closed = [outcome.lot for outcome in self.shell.outcomes.values() if outcome.lot is not None]
        for lot in (*(account.lots if account else ()), *closed):
            parts = (lot.remaining, lot.held, lot.spent, lot.expired, lot.clawed, lot.settled)
            assert lot.points == sum(parts) and min(parts) >= 0
            assert 0 <= lot.claw_when_released <= lot.held and 0 <= lot.reversed
        assert all(not lot.remaining and not lot.held for lot in closed)
        if account is not None:
            assert account.available_points == sum(lot.remaining for lot in account.lots if not lot.pending)
            assert account.pending_points == sum(lot.remaining for lot in account.lots if lot.pending)
            assert account.held_points == sum(lot.held for lot in account.lots) == sum(part.points for one in account.holds for part in one.parts)

    @invariant()
    def the_entries_add_up_to_the_balances(self) -> None:
        for number, entry in enumerate(self.shell.entries[self.counted :], self.counted + 1):
            self.folded[entry.account] += entry.points_delta
            if entry.counter_account in OWN:
                self.folded[entry.counter_account] -= entry.points_delta
            assert entry.points_delta != 0 and isinstance(entry.points_delta, int)
            assert (entry.entry_sequence, entry.balance_after, entry.available_after) == (number, self.folded[entry.account], self.folded["available"])
            assert min(self.folded["available"], self.folded["pending"], self.folded["held"], -self.folded["debt"]) >= 0
            self.chain = _hashed(self.chain, entry)
            assert entry.entry_hash == self.chain
        self.counted = len(self.shell.entries)
        account = self.shell.account
        if account is not None:
            assert (account.entry_sequence, account.entry_hash) == (self.counted, self.chain)
            assert [account.available_points, account.pending_points, account.held_points, -account.debt_points] == [self.folded[name] for name in OWN]

    @invariant()
    def the_events_lead_to_the_account(self) -> None:
        account, events = self.shell.account, self.shell.events
        if account is None:
            assert not events
            return
        for number, event in enumerate(events[self.told :], self.told + 1):
            told = event.account
            assert event.sequence == number
            assert told.debt_points >= 0 and not (told.debt_points and told.available_points), "nobody has points and a debt"
            assert not told.debt_points or self.reference.program.reversal is ReversalPolicy.UNLIMITED
            if event.kind is LoyaltyEventKind.TIER_CHANGED:
                assert event.previous_tier == self.tier_told != told.tier
            assert event.kind is LoyaltyEventKind.TIER_CHANGED or told.tier == (self.tier_told or told.tier)
            self.tier_told = told.tier
        self.told = len(events)
        told = events[-1].account
        assert (told.status, told.tier, told.tier_valid_until_ms) == (account.status, account.tier, account.tier_valid_until_ms)
        assert (told.available_points, told.pending_points, told.held_points, told.debt_points) == (
            account.available_points, account.pending_points, account.held_points, account.debt_points,
        )  # fmt: skip
        assert len(events) == account.event_sequence
        assert len(self.shell.profiles) == account.profile_version == self.shell.profiles[-1].version

    @invariant()
    def no_transaction_is_reversed_by_more_than_it_moved(self) -> None:
        for outcome in self.shell.outcomes.values():
            assert outcome.reversed_points >= 0
            assert outcome.reversed_points <= (sum(part.points for part in outcome.parts) or (outcome.lot.points if outcome.lot else 2**62))

    @invariant()
    def a_voucher_leaves_issued_once(self) -> None:
        states = {voucher.voucher_code: voucher.state.value for voucher in self.shell.vouchers.values()}
        for code, state in self.voucher_states.items():
            assert states[code] == state or state == "ISSUED"
        self.voucher_states = states
        assert states == {voucher.code: voucher.state for voucher in self.reference.vouchers} or self.is_behind()

    def is_behind(self) -> bool:
        account = self.shell.account
        return account is not None and account.clock_ms < self.reference.clock_ms

    def teardown(self) -> None:
        """Over the whole run: numbers without gaps, ids that never repeat, nothing spent by the suspended, and a rebuild from the log that
        gives the same bytes."""
        if not hasattr(self, "shell"):
            return
        shell = self.shell
        assert len({event.event_id for event in shell.events}) == len(shell.events)
        assert len({entry.entry_id for entry in shell.entries}) == len(shell.entries)
        assert len({audit.audit_id for audit in shell.audits}) == len(shell.audits) >= len(shell.log)
        issued = [event.voucher_code for event in shell.events if event.kind is LoyaltyEventKind.VOUCHER_ISSUED]
        assert len(set(issued)) == len(issued) == len(shell.vouchers)
        points = sum(event.points_delta for event in shell.events if event.kind is LoyaltyEventKind.BALANCE_CHANGED)
        assert points == (shell.account.available_points if shell.account else 0)
        self.nothing_left_while_suspended()
        again = self.played(ticks=True)
        assert (again.account, again.outcomes, again.vouchers) == (shell.account, shell.outcomes, shell.vouchers)
        assert (again.events, again.entries, again.profiles, again.audits) == (shell.events, shell.entries, shell.profiles, shell.audits)
        if shell.account is not None:
            assert again.account is not None and again.account.to_avro() == shell.account.to_avro()
            late = self.played(ticks=False)  # Neither the number of ticks nor their delay shows in a ledger.
            for one in (late, again):
                one.tick(self.now_ms)
            assert [_without_arrival(event) for event in late.events] == [_without_arrival(event) for event in again.events]
            self.balances_as_of_any_time()

    def nothing_left_while_suspended(self) -> None:
        status = {event.sequence: event.account.status for event in self.shell.events}
        allowed = {EntryKind.CAPTURE} if self.reference.program.capture_while_suspended else set()
        for event in self.shell.events:
            if status[event.sequence] is not MemberStatus.ACTIVE and event.kind is LoyaltyEventKind.BALANCE_CHANGED:
                assert event.movement not in {EntryKind.REDEEM, EntryKind.HOLD, EntryKind.CAPTURE, EntryKind.TRANSFER_OUT} - allowed

    def balances_as_of_any_time(self) -> None:
        """By either time, what was written until its end comes to the balance."""
        assert self.shell.account is not None
        total = sum(_delta(entry, "available") for entry in self.shell.entries)
        assert total == self.shell.account.available_points
        recorded = [entry.ingested_at_ms for entry in self.shell.entries]
        assert recorded == sorted(recorded), "what was recorded until a time is a prefix of the journal"
        known = {entry.transaction_id: entry.occurred_at_ms for entry in reversed(self.shell.entries)}
        for entry in self.shell.entries:
            assert entry.occurred_at_ms >= known.get(entry.reverses_transaction_id or "", 0), "no reversal is effective before its original"

    def played(self, *, ticks: bool) -> Shell:
        again = Shell(program=self.shell.program, recorded_at_ms=self.shell.recorded_at_ms)
        for what in self.history:
            if not isinstance(what, int):
                again.settle(what)
            elif ticks:
                again.tick(what)
        return again


class _Before:
    """What was, before a command: once all that is due by its time has happened."""

    def __init__(self, shell: Shell, now_ms: int) -> None:
        self.audits, self.entries = len(shell.audits), len(shell.entries)
        caught_up = _copy(shell)
        if shell.account is not None:
            caught_up.tick(now_ms)
        self.account, self.outcomes = caught_up.account, caught_up.outcomes

    def greedy(self, points: int, now_ms: int) -> Counter[str]:
        """Soonest expiry first, of what could be spent."""
        assert self.account is not None
        taken = Counter[str]()
        for lot in sorted(self.account.lots, key=lambda lot: (lot.expires_at_ms or 2**63, lot.earned_at_ms, lot.lot_id)):
            if not lot.pending and (lot.expires_at_ms is None or now_ms < lot.expires_at_ms):
                taken[lot.lot_id] = min(points, lot.remaining)
                points -= taken[lot.lot_id]
        return +taken


def _answer(audit: SyncAudit) -> tuple[object, ...]:
    return audit.result, audit.reason, audit.sequence, audit.points_delta, audit.available_points, audit.tier, audit.voucher_code


def _name(command: Command) -> bytes:
    return desk.outcome_key("grand", "m-1", command)


def _delta(entry: LedgerEntry, account: str) -> int:
    return (entry.points_delta if entry.account == account else 0) - (entry.points_delta if entry.counter_account == account else 0)


def _shape(lot: Lot) -> tuple[object, ...]:
    return (
        lot.lot_id, lot.points, lot.remaining, lot.held, lot.spent, lot.expired, lot.clawed, lot.settled, lot.pending, lot.parked, lot.expires_at_ms,
    )  # fmt: skip


def _hashed(previous: str, entry: LedgerEntry) -> str:
    """Over the entry before and all that the entry says."""
    parts = [(part.lot_id, part.points, part.expires_at_ms) for part in entry.lots]
    said = (
        previous, entry.entry_sequence, entry.transaction_id, entry.source_system, entry.occurred_at_ms, entry.ingested_at_ms, entry.kind, entry.account,
        entry.points_delta, entry.counter_account, entry.rule_id, entry.rule_version, entry.balance_after, entry.counter_member_id, parts,
    )  # fmt: skip
    assert entry.previous_hash == previous
    return sha256("\0".join(map(str, said)).encode()).hexdigest()[:32]


def _without_arrival(event: LoyaltyEvent) -> LoyaltyEvent:
    """What happens by itself bears the time of the record that brought it up, and the qualifying points of when it was looked at."""
    by_clock = event.cause.stream == "ticks"
    snapshot = replace(event.account, qualifying_points=0)
    return replace(event, ingested_at_ms=0 if by_clock else event.ingested_at_ms, correlation_id=None, account=snapshot)


def _lasting(account: Account | None) -> Account | None:
    """Without what depends on when it was looked at."""
    assert account is not None
    return replace(account, entry_hash="", qualifying_points=0, qualifying=(), due_at_ms=None)


def _copy(shell: Shell) -> Shell:
    return replace(
        shell, outcomes=dict(shell.outcomes), vouchers=dict(shell.vouchers), relays=[*shell.relays], waiting=[*shell.waiting], log=[*shell.log],
        events=[*shell.events], entries=[*shell.entries], profiles=[*shell.profiles], audits=[*shell.audits],
    )  # fmt: skip
