"""How a case is written and checked: what a member does, when the log saw it, and what the last step must come to."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import NamedTuple
from zoneinfo import ZoneInfo

from schemas.contract import Command
from schemas.records import Account, CommandResult, LedgerEntry, MemberStatus, OfferActivation, Relay, RelayKind
from streams.domain.desk import Settlement
from streams.domain.lots import order
from streams.domain.program import Program
from streams.domain.refusals import Refusal
from streams.domain.vouchers import voucher_code
from tests.domain.shell import NOW_MS, PROGRAM, Shell, change

APPLIED, SUPERSEDED, CONFLICT = CommandResult.APPLIED, CommandResult.SUPERSEDED, CommandResult.CONFLICT
SUSPENDED, ACTIVE, LEFT = MemberStatus.SUSPENDED, MemberStatus.ACTIVE, MemberStatus.LEFT
suspend, reactivate = change(status=SUSPENDED, status_reason="left"), change(status=ACTIVE)

SECOND_MS = 1_000
MINUTE_MS = 60 * SECOND_MS
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS

MEMBERS_OWN = ("available", "pending", "held", "debt")
PROGRAMMES_OWN = ("issued", "redeemed", "adjusted", "expired", "in_transit")


def ms(text: str, zone: str = "UTC", *, fold: int = 0) -> int:
    """A local time, `2025-03-01 10:00`, as milliseconds since 1970."""
    return round(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold).timestamp() * 1000)


@dataclass(frozen=True)
class Step:
    """A command that the log sees at a time of its own, a tick, or the answer of a budget."""

    command: Command | None = None
    at_ms: int | None = None
    granted: bool | None = None


def seen(at_ms: int, command: Command) -> Step:
    """The command, when it comes in at that time, whenever it happened."""
    return Step(command, at_ms)


def on(at_ms: int, command: Command) -> Step:
    """The command, when it happens and comes in at that time."""
    return Step(replace(command, occurred_at_ms=at_ms), at_ms)


def tick(at_ms: int) -> Step:
    return Step(at_ms=at_ms)


def budget(*, granted: bool) -> Step:
    """The answer to the activation before it."""
    return Step(granted=granted)


def code_of(issuance_id: str) -> str:
    """The code of the voucher that a transaction bought."""
    return voucher_code(PROGRAM.voucher_key, "grand", "m-1", issuance_id)


@dataclass(frozen=True, kw_only=True)
class Case:
    name: str
    steps: tuple[Command | Step, ...]
    result: CommandResult | Refusal | None
    """Of the last step; None: a tick, which decides nothing."""
    available: int
    qualifying: int
    tier: str = "blue"
    pending: int = 0
    held: int = 0
    debt: int = 0
    shortfall: int = 0
    """What the last step could not take back."""
    lots: Mapping[str, int] | None = None
    """Points that remain in the open lots, by id; None: it does not matter."""
    program: Program = PROGRAM
    later_versions: tuple[Program, ...] = ()
    enrolled_at_ms: int = NOW_MS
    segments: tuple[str, ...] = ()
    events: tuple[str, ...] | None = field(default=None)
    """Kinds of the events of the last step; None: they do not matter."""


def case(name: str, *steps: Command | Step, result: CommandResult | Refusal | None = APPLIED, after: tuple[int, int] | tuple[int, int, str],
         **more: object) -> Case:  # fmt: skip
    """`after`: available and qualifying points, and the tier, if it is not the first one."""
    available, qualifying, tier = (*after, "blue")[:3]
    return Case(name=name, steps=steps, result=result, available=available, qualifying=qualifying, tier=tier, **more)  # type: ignore[arg-type]


def play(case: Case) -> tuple[Shell, Settlement]:
    """The case's steps, for a member who enrolled before; the shell and what the last step came to."""
    shell = Shell(program=case.program, later_versions=case.later_versions)
    shell.enrolled(occurred_at_ms=case.enrolled_at_ms, segments=case.segments)
    settlements = [take(shell, step) for step in case.steps]
    return shell, settlements[-1]


def take(shell: Shell, step: Command | Step) -> Settlement:
    if not isinstance(step, Step):
        return shell.send(step)
    if step.granted is not None:
        ask = next(relay for relay in reversed(shell.relays) if relay.kind is RelayKind.BUDGET_ASK)
        command = next(one.command for one in reversed(shell.log) if isinstance(one.command, OfferActivation))
        return shell.receive(answer_to(ask, granted=step.granted), command)
    if step.command is None:
        assert step.at_ms is not None
        return shell.tick(step.at_ms)
    return shell.send(step.command, ingested_at_ms=step.at_ms)


def answer_to(ask: Relay, *, granted: bool) -> Relay:
    return replace(ask, kind=RelayKind.BUDGET_ANSWER, member_id=ask.from_member_id, from_member_id=ask.member_id, granted=granted)


class Numbers(NamedTuple):
    """What a case comes to."""

    result: CommandResult | Refusal | None
    available: int
    qualifying: int
    tier: str
    pending: int
    held: int
    debt: int
    shortfall: int


def check(case: Case) -> None:
    """Raise AssertionError unless the last of the case's steps comes to what the case says, and the books are in order."""
    shell, last = play(case)
    account = last.account
    assert account is not None
    expected = Numbers(case.result, case.available, case.qualifying, case.tier, case.pending, case.held, case.debt, case.shortfall)
    got = Numbers(
        answer(last), account.available_points, account.qualifying_points, account.tier, account.pending_points, account.held_points,
        account.debt_points, sum(event.shortfall_points or 0 for event in last.events),
    )  # fmt: skip
    assert got == expected, f"{got}, expected {expected}"
    if case.lots is not None:
        lots = {lot.lot_id: lot.remaining for lot in account.lots if lot.remaining}
        assert lots == case.lots, f"{lots}, expected {case.lots}"
    if case.events is not None:
        kinds = tuple(event.kind.value for event in last.events)
        assert kinds == case.events, f"{kinds}, expected {case.events}"
    in_order(account, shell.entries)
    if shell.events:
        snapshot = shell.events[-1].account
        assert (snapshot.available_points, snapshot.pending_points, snapshot.held_points, snapshot.debt_points) == (
            account.available_points, account.pending_points, account.held_points, account.debt_points,
        )  # fmt: skip


def answer(settlement: Settlement) -> CommandResult | Refusal | None:
    """The result, or why it was refused."""
    audit = settlement.audit
    if audit is None:
        return None
    return Refusal(audit.reason) if audit.result is CommandResult.REFUSED and audit.reason is not None else audit.result


def balances(entries: Iterable[LedgerEntry]) -> Counter[str]:
    """Every account of the member's books, from both sides of every entry."""
    sums: Counter[str] = Counter()
    for entry in entries:
        sums[entry.account] += entry.points_delta
        sums[entry.counter_account] -= entry.points_delta
    return sums


def in_order(account: Account, entries: Iterable[LedgerEntry]) -> None:
    """What holds of every account, whatever has happened: I-1 to I-5, I-15 (the order), and that lots and holds tell the balances."""
    entries = list(entries)
    for entry in entries:
        assert entry.account in MEMBERS_OWN and entry.counter_account in (*MEMBERS_OWN, *PROGRAMMES_OWN), entry.counter_account
        assert all(part.points > 0 for part in entry.lots)
        assert not entry.lots or sum(part.points for part in entry.lots) == abs(entry.points_delta)
    sums = balances(entries)
    assert sum(sums.values()) == 0
    own = {"available": account.available_points, "pending": account.pending_points, "held": account.held_points, "debt": -account.debt_points}
    assert {name: sums[name] for name in MEMBERS_OWN} == own
    assert min(account.available_points, account.pending_points, account.held_points, account.debt_points) >= 0
    assert not (account.debt_points and account.available_points)
    for lot in account.lots:
        parts = (lot.remaining, lot.held, lot.spent, lot.expired, lot.clawed, lot.settled)
        assert lot.points == sum(parts) and min(parts) >= 0
        assert lot.remaining or lot.held, "a closed lot is with its transaction"
        assert 0 <= lot.claw_when_released <= lot.held
    assert account.available_points == sum(lot.remaining for lot in account.lots if not lot.pending)
    assert account.pending_points == sum(lot.remaining for lot in account.lots if lot.pending)
    assert account.held_points == sum(lot.held for lot in account.lots) == sum(part.points for hold in account.holds for part in hold.parts)
    assert list(account.lots) == sorted(account.lots, key=order)
    for lot in account.lots:
        assert not lot.remaining or lot.expires_at_ms is None or lot.expires_at_ms > account.clock_ms
