"""Inputs -> all that must follow from them: a naive ledger that keeps everything. Shares no code with the pipeline.

It knows the rules of one programme by heart (tests/e2e/oracle.py, RULES_TOML). Every member's commands are decided in the order of the
log, enrolment first: what came before it waits for it, and is decided in the same order.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tests.e2e.oracle import GOLD_FROM, GOLD_PERCENT, UNITS

PAYLOAD = ("kind", "points", "amount_minor", "currency", "reverses_transaction_id", "source_system", "member_id", "program_id")


class Line(NamedTuple):
    """A record of one partition."""

    offset: int
    key: str
    value: Any
    """Decoded; None for a tombstone."""


class Event(NamedTuple):
    kind: str
    command_id: str
    points_delta: int
    available: int
    qualifying: int
    tier: str


class Entry(NamedTuple):
    transaction_id: str
    account: str
    points_delta: int
    balance_after: int


class Answer(NamedTuple):
    """What an audit record says of an input."""

    result: str
    replayed: bool
    points_delta: int | None
    sequence: int | None
    available: int | None


@dataclass(slots=True)
class Outcome:
    """What is remembered of a command."""

    kind: str | None
    result: str
    points_delta: int
    sequence: int
    available: int
    tier: str
    amount: int = 0
    """Points it was about: above 0 for those that came in."""
    reversed: int = 0

    def row(self) -> tuple[Any, ...]:
        return (self.result, self.points_delta, self.reversed, self.sequence, self.available, self.tier)


@dataclass(slots=True)
class Member:
    available: int = 0
    debt: int = 0
    qualifying: int = 0
    tier: str = "MEMBER"
    versions: int = 1
    """Of the profile: the enrolment, and every change of tier."""
    events: list[Event] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    """By the end of the row's key: t: or e:, and the command's id."""
    payloads: dict[str, tuple[Any, ...]] = field(default_factory=dict)

    def row(self) -> tuple[Any, ...]:
        return (self.available, self.debt, self.qualifying, self.tier, len(self.events), len(self.entries), self.versions)


@dataclass(slots=True)
class Expected:
    """Of one partition."""

    members: dict[str, Member] = field(default_factory=dict)
    answers: dict[str, dict[int, Answer]] = field(default_factory=lambda: {"enrolments": {}, "transactions": {}})
    """Stream -> offset of the input -> what its last answer must say."""


def expect(enrolments: Iterable[Line], transactions: Iterable[Line]) -> Expected:
    """Raises AssertionError for inputs that the naive ledger has no rule for."""
    expected = Expected()
    for line in enrolments:
        assert line.key not in expected.members, f"{line.key} is enrolled twice: the naive ledger has no rule for it"
        member = expected.members[line.key] = Member()
        identity = line.value["event_id"]
        member.events.append(Event("MEMBER_ENROLLED", identity, 0, 0, 0, "MEMBER"))
        member.outcomes[f"e:{identity}"] = Outcome(None, "APPLIED", 0, 1, 0, "MEMBER")
        expected.answers["enrolments"][line.offset] = Answer("APPLIED", False, 0, 1, 0)
    answers = expected.answers["transactions"]
    for line in transactions:
        answers[line.offset] = _decide(expected.members[line.key], line.value)
    return expected


def _decide(member: Member, t: dict[str, Any]) -> Answer:
    identity = f"t:{t['transaction_id']}"
    payload = tuple(map(t.__getitem__, PAYLOAD))
    remembered = member.outcomes.get(identity)
    if remembered is not None:
        if member.payloads[identity] != payload:
            return Answer("CONFLICT", False, None, None, None)
        return Answer(remembered.result, True, remembered.points_delta, remembered.sequence, remembered.available)
    member.payloads[identity] = payload
    before = member.available
    result, amount = _apply(member, t)
    moved = member.available - before
    outcome = Outcome(t["kind"], result, moved, len(member.events), member.available, member.tier, amount)
    member.outcomes[identity] = outcome
    return Answer(result, False, moved, outcome.sequence, outcome.available)


def _apply(member: Member, t: dict[str, Any]) -> tuple[str, int]:
    """The result, and the points it was about."""
    kind, points, identity = t["kind"], t["points"], t["transaction_id"]
    if kind == "EARN":
        if points is None:
            per_unit, minor = UNITS[t["currency"]]
            points = t["amount_minor"] * per_unit * (GOLD_PERCENT if member.tier == "GOLD" else 100) // (minor * 100)
        if points:
            _move(member, identity, points, points)
        return "APPLIED", points
    if kind == "REDEEM":
        if points > member.available:
            return _refuse(member, identity)
        _move(member, identity, -points, 0)
        return "APPLIED", -points
    assert kind == "REVERSE"
    original = member.outcomes.get(f"t:{t['reverses_transaction_id']}")
    if original is None or original.result != "APPLIED" or original.amount == 0 or original.kind == "REVERSE":
        return _refuse(member, identity)
    left = abs(original.amount) - original.reversed
    asked = left if points is None else points
    if left <= 0 or asked > left:
        return _refuse(member, identity)
    original.reversed += asked
    came_in = original.amount > 0
    _move(member, identity, -asked if came_in else asked, -asked if came_in else 0)
    return "APPLIED", 0


def _refuse(member: Member, identity: str) -> tuple[str, int]:
    member.events.append(Event("COMMAND_REFUSED", identity, 0, member.available, member.qualifying, member.tier))
    return "REFUSED", 0


def _move(member: Member, identity: str, points: int, qualifying: int) -> None:
    before = member.available
    member.qualifying = max(0, member.qualifying + qualifying)
    if points > 0:
        _enter(member, identity, "available", points)
        # Nobody has points and a debt: what comes in pays it.
        pays = min(member.debt, member.available)
        member.debt -= pays
        _enter(member, identity, "available", -pays)
    else:
        taken = min(-points, member.available)
        _enter(member, identity, "available", -taken)
        member.debt += -points - taken
        _enter(member, identity, "debt", points + taken)
    member.events.append(Event("BALANCE_CHANGED", identity, member.available - before, member.available, member.qualifying, member.tier))
    tier = "GOLD" if member.qualifying >= GOLD_FROM else "MEMBER"
    if tier != member.tier:
        member.tier = tier
        member.versions += 1
        member.events.append(Event("TIER_CHANGED", identity, 0, member.available, member.qualifying, tier))


def _enter(member: Member, identity: str, account: str, points: int) -> None:
    if account == "available":
        member.available += points
    if points:
        balance = member.available if account == "available" else -member.debt
        member.entries.append(Entry(identity, account, points, balance))
