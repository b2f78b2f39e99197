"""A naive second ledger, the oracle of the machine: it keeps every movement and works everything out again from the first one.

Written from the rules, not from the code: fractions instead of whole-number formulas, sums instead of running balances.
"""

import math
from dataclasses import dataclass, field
from fractions import Fraction

from schemas.contract import Command, command_id
from schemas.records import Enrolment, MemberStatus, OfferActivation, ProfileChange, Transaction
from streams.domain.program import Program

DIGITS = {"EUR": 2, "JPY": 0, "KWD": 3}


@dataclass
class Moved:
    """An accepted transaction."""

    transaction_id: str
    kind: str
    points: int
    qualifying: int
    reversed_points: int = 0


@dataclass
class Reference:
    program: Program
    movements: list[Moved] = field(default_factory=list)
    offers: list[str] = field(default_factory=list)
    suspended: bool = False
    newest: dict[str, int] = field(default_factory=dict)
    enrolled: bool = False

    @property
    def available(self) -> int:
        return sum(moved.points for moved in self.movements)

    @property
    def qualifying(self) -> int:
        return sum(moved.qualifying for moved in self.movements)

    @property
    def tier(self) -> str:
        return max((t for t in self.program.tiers if t.threshold_points <= self.qualifying), key=lambda t: t.threshold_points).name

    def answer(self, command: Command) -> str:
        """The result, or the code of the refusal, for a command with a new id."""
        if isinstance(command, Enrolment):
            return self._enrol(command)
        if isinstance(command, OfferActivation):
            return self._activate(command)
        if isinstance(command, ProfileChange):
            return self._change(command)
        return {"EARN": self._earn, "REDEEM": self._redeem, "ADJUST": self._adjust, "REVERSE": self._reverse}[command.kind](command)

    def _enrol(self, command: Enrolment) -> str:
        if self.enrolled:
            return "MEMBER_ALREADY_ENROLLED"
        self.enrolled = True
        if command.source_version is not None:
            self.newest[command.source_system] = command.source_version
        return "APPLIED"

    def _activate(self, command: OfferActivation) -> str:
        offer = self.program.offers.get(command.offer_id)
        if offer is None:
            return "OFFER_UNKNOWN"
        if self.suspended:
            return "ACCOUNT_SUSPENDED"
        if command.occurred_at_ms < offer.starts_at_ms or command.occurred_at_ms >= (offer.ends_at_ms or math.inf):
            return "OFFER_NOT_RUNNING"
        if command.offer_id in self.offers:
            return "OFFER_ALREADY_ACTIVE"
        self.offers.append(command.offer_id)
        return "APPLIED"

    def _change(self, command: ProfileChange) -> str:
        if command.source_version is not None:
            if command.source_version <= self.newest.get(command.source_system, -1):
                return "SUPERSEDED"
            self.newest[command.source_system] = command.source_version
        if command.status is not None:
            self.suspended = command.status is MemberStatus.SUSPENDED
        return "APPLIED"

    def _earn(self, command: Transaction) -> str:
        if command.points is not None:
            points = command.points
        elif command.amount_minor is not None and command.currency not in DIGITS:
            return "CURRENCY_NOT_EARNING"
        else:
            exact = Fraction(0)
            if command.amount_minor is not None:
                assert command.currency is not None
                exact += Fraction(command.amount_minor, 10 ** DIGITS[command.currency]) * self.program.points_per_unit[command.currency]
            exact += (command.nights or 0) * self.program.points_per_night
            percent = next(t.earn_percent for t in self.program.tiers if t.name == self.tier)
            points = math.floor(exact * Fraction(percent, 100))
        total = points
        for offer in (self.program.offers[offer_id] for offer_id in self.offers):
            ends = math.inf if offer.ends_at_ms is None else offer.ends_at_ms
            in_time = offer.starts_at_ms <= command.occurred_at_ms < ends
            if in_time and (not offer.categories or command.category in offer.categories):
                total += math.floor(Fraction(points * offer.bonus_percent, 100))
        self._keep(command, total, total)
        return "APPLIED"

    def _redeem(self, command: Transaction) -> str:
        assert command.points is not None
        if self.suspended:
            return "ACCOUNT_SUSPENDED"
        if self.available - command.points < 0:
            return "INSUFFICIENT_POINTS"
        self._keep(command, -command.points, 0)
        return "APPLIED"

    def _adjust(self, command: Transaction) -> str:
        assert command.points is not None
        if self.available + command.points < 0:
            return "INSUFFICIENT_POINTS"
        self._keep(command, command.points, 0)
        return "APPLIED"

    def _reverse(self, command: Transaction) -> str:
        original = next((m for m in self.movements if m.transaction_id == command.reverses_transaction_id), None)
        if original is None:
            return "TRANSACTION_NOT_FOUND or TRANSACTION_NOT_REVERSIBLE"
        if original.kind == "REVERSE" or original.points == 0:
            return "TRANSACTION_NOT_REVERSIBLE"
        left = abs(original.points) - original.reversed_points
        if left == 0:
            return "ALREADY_REVERSED"
        asked = command.points or left
        if asked > left:
            return "REVERSAL_TOO_LARGE"
        original.reversed_points += asked
        back = asked if original.points < 0 else -min(asked, self.available)
        self._keep(command, back, -asked if original.kind == "EARN" else 0)
        return "APPLIED"

    def _keep(self, command: Transaction, points: int, qualifying: int) -> None:
        self.movements.append(Moved(command_id(command), command.kind.value, points, qualifying))
