"""Two to four members and the relays between them, delivered late, twice, and in any order but that of their pair; and the invariants that
concern more than one member. Run by test_machine_many.py and the seeded faults."""

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from schemas.contract import Command
from schemas.records import Account, Budget, LoyaltyEventKind, MemberOperationKind, MemberStatus, Relay, RelayKind, Transaction
from streams.domain import budgets
from streams.domain.desk import Received, Settlement
from streams.domain.program import Expiry, ExpiryRule, Offer, Program, ReversalPolicy, Tier, TierPolicy, Window
from tests.domain.machine import Possible
from tests.domain.reference import DAY, instant
from tests.domain.shell import Shell, activate, capture, earn, enrol, hold, named, operate, received, redeem, reverse, transfer, void

START = instant(2025, 12, 20)
POINTS = st.integers(1, 30) | st.sampled_from([50, 100])
BUDGET, CAP = 50, 20

PROGRAM = Program(
    program_id="grand",
    tiers=(Tier(name="blue", threshold_points=0), Tier(name="silver", threshold_points=100)),
    expiry=Expiry(rule=ExpiryRule.AFTER_DAYS, days=10),
    offers={
        "few": Offer(offer_id="few", bonus_percent=100, cap_points=CAP, budget_points=BUDGET),
        "all": Offer(offer_id="all", bonus_points=1, starts_at_ms=START, ends_at_ms=START + 20 * DAY),
    },
    voucher_key=b"a key for tests, not a secret...",
)
OWN = ("available", "pending", "held", "debt")
MOVES = {RelayKind.TRANSFER_IN, RelayKind.TRANSFER_BACK, RelayKind.MERGE_IN, RelayKind.MERGE_BACK}


possible = Possible()


class Members(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now_ms = START
        self.sent = 0
        self.shells: dict[str, Shell] = {}
        self.budgets: dict[str, Budget] = {}
        self.queues: dict[tuple[str, str], deque[Relay]] = {}  # Relays on their way, by pair.
        self.commands: list[Command] = []
        self.by_place: dict[tuple[str, int, int], Command] = {}
        self.by_relay: dict[str, Command] = {}  # Commands that relays carry along, as the shell around the domain does.
        self.taken: list[tuple[str, Relay]] = []  # Relays that a member took, which can come again.
        self.history: list[tuple[str, Any]] = []

    # What may happen.

    @initialize(
        count=st.integers(2, 4), enrolled=st.sampled_from([4, 4, 3, 2, 1]), reversal=st.sampled_from([ReversalPolicy.WITHIN_BALANCE, ReversalPolicy.UNLIMITED]),
        window=st.sampled_from([Window.LIFETIME, Window.CALENDAR_YEAR]), pending_days=st.sampled_from([0, 0, 3]),
    )  # fmt: skip
    def begin(self, count: int, enrolled: int, reversal: ReversalPolicy, window: Window, pending_days: int) -> None:
        self.program = replace(PROGRAM, reversal=reversal, tier_policy=TierPolicy(window=window), pending_days=pending_days)
        for number in range(1, count + 1):
            self.shells[f"m-{number}"] = Shell(program=self.program)
        for member_id in list(self.shells)[:enrolled]:
            self.send(member_id, enrol())

    @rule(data=st.data())
    def something_happens(self, data: st.DataObject) -> None:
        possible.happen(self, data)

    def member(self, data: st.DataObject) -> str:
        return data.draw(st.sampled_from(sorted(self.shells)))

    @possible(1)
    def enrol(self, data: st.DataObject) -> None:
        self.send(self.member(data), enrol())

    @possible(5, points=POINTS, expires_in_ms=st.sampled_from([None, None, DAY]))
    def earn(self, data: st.DataObject, points: int, expires_in_ms: int | None) -> None:
        self.send(self.member(data), earn(points, expires_at_ms=expires_in_ms and self.now_ms + expires_in_ms))

    @possible(2, points=POINTS, kind=st.sampled_from(["redeem", "hold"]))
    def spend(self, data: st.DataObject, points: int, kind: str) -> None:
        self.send(self.member(data), {"redeem": redeem, "hold": hold}[kind](points))

    @possible(3, part=st.integers(0, 3))
    def transfer(self, data: st.DataObject, part: int) -> None:
        """To anybody, also to who is not there or is the member itself."""
        giver, taker = self.member(data), data.draw(st.sampled_from([*sorted(self.shells), "nobody"]))
        account = self.shells[giver].account
        has = account.available_points if account else 1
        self.send(giver, transfer(max(1, has * part // 2), taker))

    @possible(3, only_if=lambda self: self.commands, how=st.sampled_from(["reverse", "void", "capture"]))
    def follow_up(self, data: st.DataObject, how: str) -> None:
        """To the member that the first command was sent to, wherever its points are by now."""
        kinds = {"reverse": ("EARN", "REDEEM"), "void": ("HOLD",), "capture": ("HOLD",)}[how]
        found = [command for command in self.commands if isinstance(command, Transaction) and command.kind.value in kinds][-6:]
        if found:
            first = found[data.draw(st.integers(0, len(found) - 1))]
            follow: dict[str, Callable[[str], Command]] = {"reverse": reverse, "void": void, "capture": capture}
            self.send(first.member_id, follow[how](first.transaction_id))

    @possible(1, join=st.booleans())
    def pool(self, data: st.DataObject, join: bool) -> None:
        member_id, target = self.member(data), data.draw(st.sampled_from([*sorted(self.shells), "nobody"]))
        kind = MemberOperationKind.JOIN_POOL if join else MemberOperationKind.LEAVE_POOL
        self.send(member_id, operate(kind, target_member_id=target if join else None))

    @possible(2, both=st.booleans())
    def merge(self, data: st.DataObject, both: bool) -> None:
        """Also in circles, at once, and into who is not there."""
        source, target = self.member(data), data.draw(st.sampled_from([*sorted(self.shells), *sorted(self.shells), "nobody"]))
        self.send(source, operate(MemberOperationKind.MERGE, target_member_id=target))
        if both and target in self.shells:
            self.send(target, operate(MemberOperationKind.MERGE, target_member_id=source))

    @possible(2, offer=st.sampled_from(["few", "few", "all"]))
    def activate(self, data: st.DataObject, offer: str) -> None:
        self.send(self.member(data), activate(offer))

    @possible(1, ms=st.sampled_from([1, DAY, 4 * DAY, 11 * DAY]))
    def wait(self, ms: int, data: st.DataObject) -> None:
        self.now_ms += ms
        member_id = self.member(data)
        if self.shells[member_id].account is not None:
            self.history.append((member_id, self.now_ms))
            self.keep(member_id, None, self.shells[member_id].tick(self.now_ms))

    @possible(3, only_if=lambda self: any(self.queues.values()), again=st.booleans())
    def deliver(self, data: st.DataObject, again: bool) -> None:
        pairs = sorted(pair for pair, queue in self.queues.items() if queue)
        self.deliver_from(data.draw(st.sampled_from(pairs)), again=again)

    @possible(2, only_if=lambda self: any(self.queues.values()))
    def deliver_everything(self) -> None:
        self.settle_down()

    @possible(1, only_if=lambda self: self.taken)
    def deliver_again_much_later(self, data: st.DataObject) -> None:
        member_id, relay = self.taken[data.draw(st.integers(0, len(self.taken) - 1))]
        self.deliver_in_vain(member_id, relay)

    @possible(1, only_if=lambda self: self.commands)
    def repeat(self, data: st.DataObject) -> None:
        """A repetition, of the member it was sent to or of who took over: no points move. It is forwarded, if the first one was."""
        command = self.commands[data.draw(st.integers(0, len(self.commands) - 1))]
        self.send(command.member_id, command)

    # How it gets there.

    def send(self, member_id: str, command: Command) -> Settlement:
        if command.occurred_at_ms != self.now_ms:
            command = replace(command, occurred_at_ms=self.now_ms)
        command = named(replace(command, member_id=member_id), f"c{len(self.commands) + 1}")
        if not any((known.member_id, known) == (member_id, replace(command, occurred_at_ms=known.occurred_at_ms)) for known in self.commands):
            self.commands.append(command)
        self.sent += 1
        arrived = received(command, offset=self.sent, ingested_at_ms=self.now_ms)
        self.by_place[arrived.topic, arrived.partition, arrived.offset] = command
        self.history.append((member_id, arrived))
        shell = self.shells[member_id]
        relays = len(shell.relays)
        before = shell.account
        settlement = shell.settle(arrived)
        if before is not None and before.merged_into is not None and settlement.audit is None:
            assert (settlement.account, settlement.events) == (before, ()), "what is sent to the source of a merge changes nothing there"
            assert [(relay.kind, relay.member_id) for relay in settlement.relays] == [(RelayKind.FORWARD, before.merged_into)]
        for relay in shell.relays[relays:]:  # Those of commands that it has released, too.
            carried = self.by_place.get((relay.origin.topic, relay.origin.partition, relay.origin.offset))
            self.put(member_id, relay, carried or self.command_named(member_id, relay.origin.command_id))
        return settlement

    def command_named(self, member_id: str, command_id: str) -> Command | None:
        return next(
            (one for one in self.commands if one.member_id == member_id and command_id in (getattr(one, "transaction_id", ""), getattr(one, "event_id", ""))),
            None,
        )

    def put(self, sender: str, relay: Relay, command: Command | None) -> None:
        if command is not None:
            self.by_relay[relay.relay_id] = command
        self.queues.setdefault((sender, relay.member_id), deque()).append(relay)

    def keep(self, member_id: str, command: Command | None, settlement: Settlement) -> None:
        for relay in settlement.relays:
            self.put(member_id, relay, command)

    def deliver_from(self, pair: tuple[str, str], *, again: bool = False) -> None:
        relay = self.queues[pair].popleft()
        if relay.member_id.startswith("\0"):
            self.ask_the_budget(relay)
            return
        if relay.member_id not in self.shells:
            self.shells[relay.member_id] = Shell(program=self.program)  # Somebody that no record was about before.
        shell = self.shells[relay.member_id]
        before = shell.account
        command = self.by_relay.get(relay.relay_id.removesuffix(":answer"))
        self.history.append((relay.member_id, (relay, command, self.now_ms)))
        settlement = shell.receive(relay, command, ingested_at_ms=self.now_ms)
        self.keep(relay.member_id, command, settlement)
        if settlement.account != before:
            self.taken.append((relay.member_id, relay))
        if again:
            if settlement.account != before:
                self.deliver_in_vain(relay.member_id, relay)
            else:  # Not taken: it is passed on in the same words, so that whoever takes it takes it once.
                assert shell.receive(relay, command, ingested_at_ms=self.now_ms).relays in (settlement.relays, ())
                self.history.append((relay.member_id, (relay, command, self.now_ms)))

    def deliver_in_vain(self, member_id: str, relay: Relay) -> None:
        if relay.kind is RelayKind.FORWARD:
            return  # Told apart by the id of its command: `repeat`.
        shell = self.shells[member_id]
        if relay.kind is RelayKind.BUDGET_ANSWER and shell.account is not None and shell.account.merged_into is not None:
            return  # The answer it gave is remembered by the command, and that is the other's now. The log does not deliver it again.
        before, events = shell.account, len(shell.events)
        command = self.by_relay.get(relay.relay_id.removesuffix(":answer"))
        self.history.append((member_id, (relay, command, self.now_ms)))
        settlement = shell.receive(relay, command, ingested_at_ms=self.now_ms)
        assert (settlement.account, settlement.relays, len(shell.events)) == (before, (), events)

    def ask_the_budget(self, relay: Relay) -> None:
        budget, reply = budgets.answer(self.budgets.get(relay.member_id), relay, self.program)
        self.budgets[relay.member_id] = budget
        self.queues.setdefault((relay.member_id, reply.member_id), deque()).append(reply)

    def settle_down(self) -> None:
        for _ in range(2_000):
            pairs = sorted(pair for pair, queue in self.queues.items() if queue)
            if not pairs:
                return
            for pair in pairs:
                self.deliver_from(pair)
        raise AssertionError("something is passed on for ever")

    # What holds after every step.

    def under_way(self) -> int:
        points = 0
        for queue in self.queues.values():
            for relay in queue:
                if relay.kind in MOVES:
                    points += sum(lot.remaining for lot in relay.lots) - (relay.account.debt_points if relay.account else 0)
        return points

    @invariant()
    def all_accounts_together_are_zero(self) -> None:
        """I-1, I-17: and what is in transit by the journals is what the relays carry."""
        total = Counter[str]()
        for shell in self.shells.values():
            own = Counter[str]()
            for entry in shell.entries:
                for name, points in ((entry.account, entry.points_delta), (entry.counter_account, -entry.points_delta)):
                    (own if name in OWN else total)[name] += points
            account = shell.account
            if account is not None:
                has = (account.available_points, account.pending_points, account.held_points, -account.debt_points)
                assert has == tuple(own[name] for name in OWN)
                total["members"] += sum(has)
        assert sum(total.values()) == 0
        assert total["in_transit"] == self.under_way()

    @invariant()
    def lots_hold_what_the_balances_say(self) -> None:
        for shell in self.shells.values():
            if shell.account is not None:
                account = shell.account
                assert account.available_points == sum(lot.remaining for lot in account.lots if not lot.pending) >= 0
                assert account.pending_points == sum(lot.remaining for lot in account.lots if lot.pending) >= 0
                assert account.held_points == sum(lot.held for lot in account.lots)
                assert not (account.debt_points and account.available_points)
                assert len({lot.lot_id for lot in account.lots}) == len(account.lots)

    @invariant()
    def who_was_merged_has_nothing(self) -> None:
        for shell in self.shells.values():
            account = shell.account
            if account is not None and account.merged_into is not None:
                assert account.status is MemberStatus.MERGED
                has = (account.available_points, account.pending_points, account.held_points, account.debt_points, account.qualifying_points)
                assert has == (0, 0, 0, 0, 0)
                assert not account.lots and not account.holds and not account.vouchers
            elif account is not None:
                assert account.status is not MemberStatus.MERGED

    @invariant()
    def no_budget_is_over_granted(self) -> None:
        for budget in self.budgets.values():
            assert budget.reserved_points == CAP * budget.grants <= BUDGET
        bonuses = [entry for shell in self.shells.values() for entry in shell.entries if entry.rule_id == "offer:few"]
        assert sum(entry.points_delta for entry in bonuses) <= BUDGET
        active = 0
        for member_id, shell in self.shells.items():
            activations = [event.offer_id for event in shell.events if event.kind is LoyaltyEventKind.OFFER_ACTIVATED]
            assert all(number == 1 for number in Counter(activations).values()) or (shell.account is not None and shell.account.moved_from), member_id
            active += activations.count("few")
        assert active <= BUDGET // CAP

    @invariant()
    def nobody_gains_time_by_passing_points_on(self) -> None:
        latest = {shell.account.member_id: self.latest(shell.account) for shell in self.shells.values() if shell.account is not None}
        assert all(at_ms <= self.now_ms + 10 * DAY for at_ms in latest.values())

    def latest(self, account: Account) -> int:
        return max((lot.expires_at_ms or 2**62 for lot in account.lots), default=0)

    def teardown(self) -> None:
        """Once everything is delivered nothing is in transit, and a rebuild gives the same bytes."""
        if not self.shells:
            return
        self.settle_down()
        self.all_accounts_together_are_zero()
        self.who_was_merged_has_nothing()
        self.no_budget_is_over_granted()
        assert self.under_way() == 0
        for shell in self.shells.values():
            assert [event.sequence for event in shell.events] == list(range(1, len(shell.events) + 1))
            assert shell.account is None or not any(use.asked for use in shell.account.offer_uses if shell.account.merged_into is None)
        again = {member_id: Shell(program=self.program) for member_id in self.shells}
        for member_id, what in self.history:
            if isinstance(what, int):
                again[member_id].tick(what)
            elif isinstance(what, Received):
                again[member_id].settle(what)
            elif isinstance(what, tuple):
                again[member_id].receive(what[0], what[1], ingested_at_ms=what[2])
        for member_id, shell in self.shells.items():
            other = again[member_id]
            assert (other.account, other.outcomes, other.vouchers) == (shell.account, shell.outcomes, shell.vouchers)
            assert (other.events, other.entries, other.relays) == (shell.events, shell.entries, shell.relays)
