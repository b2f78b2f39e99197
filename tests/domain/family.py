"""Several members, each in a shell of their own, and what passes between them."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from schemas.contract import Command
from schemas.records import Account, Budget, Relay, RelayKind
from streams.domain import budgets
from streams.domain.desk import Settlement
from streams.domain.program import Program, in_force
from tests.domain.casework import balances, in_order
from tests.domain.shell import PROGRAM, Shell, enrol

CARRYING = {RelayKind.FORWARD, RelayKind.BUDGET_ASK, RelayKind.BUDGET_ANSWER}


@dataclass
class Family:
    """`send` decides a command at its member, `deliver` brings what is under way to whom it is for."""

    program: Program = PROGRAM
    shells: dict[str, Shell] = field(default_factory=dict)
    under_way: list[Relay] = field(default_factory=list)
    delivered: list[Relay] = field(default_factory=list)
    commands: list[Command] = field(default_factory=list)
    budgets: dict[str, Budget] = field(default_factory=dict)
    now_ms: int = 20_000

    @classmethod
    def of(cls, *member_ids: str, program: Program = PROGRAM, **more: Any) -> "Family":
        family = cls(program=program)
        for member_id in member_ids:
            family.send(enrol(f"enrol-{member_id}", member_id=member_id, **more))
        return family

    def shell(self, member_id: str) -> Shell:
        return self.shells.setdefault(member_id, Shell(program=self.program))

    def account(self, member_id: str) -> Account:
        account = self.shell(member_id).account
        assert account is not None
        return account

    def send(self, command: Command, *, at_ms: int | None = None) -> Settlement:
        """The command, without delivering what it passes on."""
        shell = self.shell(command.member_id)
        self._pass(at_ms)
        before = len(shell.relays)
        settlement = shell.send(command, ingested_at_ms=self.now_ms)
        self._collect(shell.relays[before:], shell.log[-1].command)
        return settlement

    def does(self, *commands: Command) -> Settlement:
        """The commands, each with all that it passes on; what the last one came to."""
        settlements = []
        for command in commands:
            settlements.append(self.send(command))
            self.deliver()
        return settlements[-1]

    def deliver(self, *, twice: bool = False) -> list[Relay]:
        """Everything under way, and what follows from it; `twice`: every record is read two times, and the second time nothing happens, unless it
        only went through: then it goes the same way again, and is known by its id where it arrives."""
        begun = len(self.delivered)
        while self.under_way:
            relay = self.under_way.pop(0)
            self.delivered.append(relay)
            waiting = len(self.under_way)
            self.hand_over(relay)
            if twice and not relay.member_id.startswith("\0"):
                shell, first = self.shell(relay.member_id), self.under_way[waiting:]
                before = shell.account, dict(shell.outcomes), list(shell.events), list(shell.entries), dict(shell.vouchers)
                self.hand_over(relay)
                assert (shell.account, shell.outcomes, shell.events, shell.entries, shell.vouchers) == before
                again = self.under_way[waiting + len(first) :]
                assert again in ([], first)
            assert len(self.delivered) - begun < 50, "relays go round for ever"
        return self.delivered[begun:]

    def tick(self, at_ms: int) -> None:
        self._pass(at_ms)
        for shell in self.shells.values():
            if shell.account is not None:
                before = len(shell.relays)
                shell.tick(at_ms)
                self._collect(shell.relays[before:], None)

    def points(self) -> Counter[str]:
        """All members' books together, points under way included."""
        return balances(entry for shell in self.shells.values() for entry in shell.entries)

    def in_order(self) -> None:
        for shell in self.shells.values():
            if shell.account is not None:
                in_order(shell.account, shell.entries)
        way = sum(lot.remaining for relay in self.under_way for lot in relay.lots)
        owed = sum(relay.account.debt_points for relay in self.under_way if relay.account is not None)
        assert self.points()["in_transit"] == way - owed

    def _pass(self, at_ms: int | None) -> None:
        self.now_ms = self.now_ms + 1 if at_ms is None else at_ms

    def hand_over(self, relay: Relay) -> None:
        """One relay to whom it is for; what follows from it is under way."""
        if relay.kind is RelayKind.BUDGET_ASK:
            now = in_force((self.program,), self.now_ms)
            self.budgets[relay.member_id], answer = budgets.answer(self.budgets.get(relay.member_id), relay, now)
            self.under_way.append(answer)
            return
        shell, command = self.shell(relay.member_id), None
        if relay.kind in CARRYING:
            assert relay.origin.value is not None
            command = self.commands[int(relay.origin.value)]
        self.now_ms += 1
        before = len(shell.relays)
        shell.receive(relay, command, ingested_at_ms=self.now_ms)
        self._collect(shell.relays[before:], command)

    def _collect(self, relays: Sequence[Relay], command: Command | None) -> None:
        for relay in relays:
            if relay.kind in CARRYING and relay.origin.value is None:
                assert command is not None
                self.commands.append(command)
                relay = replace(relay, origin=replace(relay.origin, value=str(len(self.commands) - 1).encode()))
            self.under_way.append(relay)
