"""The table at the core: what members do, and what the last command must come to. test_cases.py runs it, and so do the seeded faults."""

from dataclasses import dataclass

from schemas.contract import Command
from schemas.records import CommandResult, LineItem, MemberStatus
from streams.domain.refusals import Refusal
from tests.domain.shell import Shell, activate, adjust, change, earn, enrol, redeem, reverse

APPLIED, SUPERSEDED, CONFLICT = CommandResult.APPLIED, CommandResult.SUPERSEDED, CommandResult.CONFLICT
SUSPENDED, ACTIVE = MemberStatus.SUSPENDED, MemberStatus.ACTIVE
suspend, reactivate = change(status=SUSPENDED, status_reason="left"), change(status=ACTIVE)


@dataclass(frozen=True)
class Case:
    name: str
    commands: tuple[Command, ...]
    result: CommandResult | Refusal
    available: int
    qualifying: int
    tier: str = "blue"


def case(name: str, *commands: Command, result: CommandResult | Refusal, after: tuple[int, int] | tuple[int, int, str]) -> Case:
    return Case(name, commands, result, *after)


CASES = [
    # Earning: given points are moved as they are; computed ones are rounded down once, on the total.
    case("earn given points", earn(100), result=APPLIED, after=(100, 100)),
    case("given points are not multiplied by the tier", earn(1_000), earn(101), result=APPLIED, after=(1_101, 1_101, "silver")),
    case("given points leave nights out", earn(100, nights=2), result=APPLIED, after=(100, 100)),
    case("amount in cents", earn(amount_minor=12_345, currency="EUR"), result=APPLIED, after=(1_234, 1_234, "silver")),
    case("a cent less than a point", earn(amount_minor=9, currency="EUR"), result=APPLIED, after=(0, 0)),
    case("a point exactly", earn(amount_minor=10, currency="EUR"), result=APPLIED, after=(1, 1)),
    case("an amount of 0", earn(amount_minor=0, currency="EUR"), result=APPLIED, after=(0, 0)),
    case("a currency without decimals", earn(amount_minor=111, currency="JPY"), result=APPLIED, after=(333, 333)),
    case("a currency with three decimals", earn(amount_minor=1_024, currency="KWD"), result=APPLIED, after=(40, 40)),
    case("three decimals, a point exactly", earn(amount_minor=1_025, currency="KWD"), result=APPLIED, after=(41, 41)),
    case("nights alone", earn(nights=3), result=APPLIED, after=(150, 150)),
    case("no nights", earn(nights=0), result=APPLIED, after=(0, 0)),
    case("amount and nights", earn(amount_minor=1_000, currency="EUR", nights=3), result=APPLIED, after=(250, 250)),
    case(
        "the tier before the earn multiplies: 10.9 * 125 % = 13.6",
        earn(1_000), earn(amount_minor=109, currency="EUR"), result=APPLIED, after=(1_013, 1_013, "silver"),
    ),
    case(
        "rounded once, after the tier: 1.9 * 125 % = 2.4, while 1 * 125 % is 1",
        earn(1_000), earn(amount_minor=19, currency="EUR"), result=APPLIED, after=(1_002, 1_002, "silver"),
    ),
    case(
        "the tier before the earn, not the one it leads to",
        earn(999), earn(amount_minor=100, currency="EUR"), result=APPLIED, after=(1_009, 1_009, "silver"),
    ),
    case("gold", earn(5_000), earn(nights=1), result=APPLIED, after=(5_075, 5_075, "gold")),
    case(
        "line items count where no amount is given, on their total: 0.9 + 0.9",
        earn(nights=0, currency="EUR", line_items=(LineItem(amount_minor=9), LineItem(amount_minor=9))),
        result=APPLIED, after=(1, 1),
    ),
    case(
        "an amount outweighs its lines",
        earn(amount_minor=100, currency="EUR", line_items=(LineItem(amount_minor=90),)), result=APPLIED, after=(10, 10),
    ),
    case(
        "discounts below 0 never cost points",
        earn(nights=1, currency="EUR", line_items=(LineItem(amount_minor=100), LineItem(amount_minor=-900))),
        result=APPLIED, after=(50, 50),
    ),
    case("a currency without a rate", earn(amount_minor=100, currency="USD"), result=Refusal.CURRENCY_NOT_EARNING, after=(0, 0)),
    case("a suspended member earns", suspend, earn(10), result=APPLIED, after=(10, 10)),
    # Offers.
    case("bonus of an active offer", activate("double"), earn(100), result=APPLIED, after=(200, 200)),
    case("no bonus without activation", earn(100), result=APPLIED, after=(100, 100)),
    case("bonus: first instant", activate("double"), earn(100, occurred_at_ms=1_000), result=APPLIED, after=(200, 200)),
    case("bonus: just before", activate("double"), earn(100, occurred_at_ms=999), result=APPLIED, after=(100, 100)),
    case("bonus: last instant", activate("double"), earn(100, occurred_at_ms=1_999), result=APPLIED, after=(200, 200)),
    case("bonus: at the end", activate("double"), earn(100, occurred_at_ms=2_000), result=APPLIED, after=(100, 100)),
    case("bonus: category", activate("spa-week"), earn(10, category="wellness"), result=APPLIED, after=(13, 13)),
    case("bonus: other category", activate("spa-week"), earn(10, category="bar"), result=APPLIED, after=(10, 10)),
    case("bonus: no category", activate("spa-week"), earn(10), result=APPLIED, after=(10, 10)),
    case("a bonus below one point", activate("spa-week"), earn(3, category="spa"), result=APPLIED, after=(3, 3)),
    case("two bonuses", activate("spa-week"), activate("double"), earn(10, category="spa"), result=APPLIED, after=(23, 23)),
    case(
        "the bonus is on the points after the tier: 12 and 100 % of 12",
        earn(1_000), activate("double"), earn(amount_minor=100, currency="EUR"), result=APPLIED, after=(1_024, 1_024, "silver"),
    ),
    case("offer: unknown", activate("nonsense"), result=Refusal.OFFER_UNKNOWN, after=(0, 0)),
    case("offer: unknown comes before suspended", suspend, activate("nonsense"), result=Refusal.OFFER_UNKNOWN, after=(0, 0)),
    case("offer: suspended", suspend, activate("double"), result=Refusal.ACCOUNT_SUSPENDED, after=(0, 0)),
    case("offer: suspended comes before running", suspend, activate("winter"), result=Refusal.ACCOUNT_SUSPENDED, after=(0, 0)),
    case("offer: too early", activate("double", occurred_at_ms=999), result=Refusal.OFFER_NOT_RUNNING, after=(0, 0)),
    case("offer: first instant", activate("double", occurred_at_ms=1_000), result=APPLIED, after=(0, 0)),
    case("offer: last instant", activate("double", occurred_at_ms=1_999), result=APPLIED, after=(0, 0)),
    case("offer: ended", activate("double", occurred_at_ms=2_000), result=Refusal.OFFER_NOT_RUNNING, after=(0, 0)),
    case("offer: without end", activate("winter", occurred_at_ms=4_000_000_000_000), result=APPLIED, after=(0, 0)),
    case("offer: twice", activate("double"), activate("double"), result=Refusal.OFFER_ALREADY_ACTIVE, after=(0, 0)),
    # Redeeming.
    case("redeem a part", earn(100), redeem(40), result=APPLIED, after=(60, 100)),
    case("redeem exactly the balance", earn(100), redeem(100), result=APPLIED, after=(0, 100)),
    case("redeem one more", earn(100), redeem(101), result=Refusal.INSUFFICIENT_POINTS, after=(100, 100)),
    case("redeem from nothing", redeem(1), result=Refusal.INSUFFICIENT_POINTS, after=(0, 0)),
    case("redeeming does not cost the tier", earn(1_000), redeem(1_000), result=APPLIED, after=(0, 1_000, "silver")),
    case("redeem while suspended", earn(9), suspend, redeem(1), result=Refusal.ACCOUNT_SUSPENDED, after=(9, 9)),
    case("suspended comes before insufficient", suspend, redeem(1), result=Refusal.ACCOUNT_SUSPENDED, after=(0, 0)),
    case("redeem after reactivation", earn(9), suspend, reactivate, redeem(9), result=APPLIED, after=(0, 9)),
    # Adjusting.
    case("adjust up: not qualifying", adjust(2_000), result=APPLIED, after=(2_000, 0)),
    case("adjust down to nothing", earn(100), adjust(-100), result=APPLIED, after=(0, 100)),
    case("adjust below 0", earn(100), adjust(-101), result=Refusal.INSUFFICIENT_POINTS, after=(100, 100)),
    case("adjust while suspended", earn(100), suspend, adjust(-1), result=APPLIED, after=(99, 100)),
    # Reversing.
    case("reverse an earn", earn(100), reverse("c1"), result=APPLIED, after=(0, 0)),
    case("reverse an earn with its bonus", activate("double"), earn(100), reverse("c2"), result=APPLIED, after=(0, 0)),
    case("reverse a part", earn(100), reverse("c1", 30), result=APPLIED, after=(70, 70)),
    case("reverse in two parts", earn(100), reverse("c1", 30), reverse("c1", 70), result=APPLIED, after=(0, 0)),
    case("the rest after a part", earn(100), reverse("c1", 30), reverse("c1"), result=APPLIED, after=(0, 0)),
    case("more than is left", earn(100), reverse("c1", 30), reverse("c1", 71), result=Refusal.REVERSAL_TOO_LARGE, after=(70, 70)),
    case("more than there was", earn(100), reverse("c1", 101), result=Refusal.REVERSAL_TOO_LARGE, after=(100, 100)),
    case("reverse twice", earn(100), reverse("c1"), reverse("c1"), result=Refusal.ALREADY_REVERSED, after=(0, 0)),
    case("a part of nothing left", earn(9), reverse("c1"), reverse("c1", 1), result=Refusal.ALREADY_REVERSED, after=(0, 0)),
    case("reverse an earn that was spent in part", earn(100), redeem(60), reverse("c1"), result=APPLIED, after=(0, 0)),
    case("reverse an earn that was spent", earn(100), redeem(100), reverse("c1"), result=APPLIED, after=(0, 0)),
    case(
        "what could not be taken back is not asked for again",
        earn(100), redeem(100), reverse("c1"), earn(50), reverse("c1"), result=Refusal.ALREADY_REVERSED, after=(50, 50),
    ),
    case("reverse a redemption", earn(100), redeem(60), reverse("c2"), result=APPLIED, after=(100, 100)),
    case("reverse a part of a redemption", earn(100), redeem(60), reverse("c2", 10), result=APPLIED, after=(50, 100)),
    case("refund twice", earn(100), redeem(60), reverse("c2"), reverse("c2"), result=Refusal.ALREADY_REVERSED, after=(100, 100)),
    case("reverse an adjustment up", earn(1_000), adjust(50), reverse("c2"), result=APPLIED, after=(1_000, 1_000, "silver")),
    case("reverse an adjustment down", earn(100), adjust(-50), reverse("c2"), result=APPLIED, after=(100, 100)),
    case("reverse while suspended", earn(100), suspend, reverse("c1"), result=APPLIED, after=(0, 0)),
    case("reverse what never was", reverse("c9"), result=Refusal.TRANSACTION_NOT_FOUND, after=(0, 0)),
    case("reverse what was refused", redeem(1), reverse("c1"), result=Refusal.TRANSACTION_NOT_REVERSIBLE, after=(0, 0)),
    case("reverse what moved nothing", earn(nights=0), reverse("c1"), result=Refusal.TRANSACTION_NOT_REVERSIBLE, after=(0, 0)),
    case("reverse itself", reverse("me", transaction_id="me"), result=Refusal.TRANSACTION_NOT_FOUND, after=(0, 0)),
    case(
        "reverse a reversal",
        earn(100), reverse("c1"), reverse("c2"), result=Refusal.TRANSACTION_NOT_REVERSIBLE, after=(0, 0),
    ),
    case("an event is no transaction", activate("double", "x"), reverse("x"), result=Refusal.TRANSACTION_NOT_FOUND, after=(0, 0)),
    # Tiers.
    case("one point below the threshold", earn(999), result=APPLIED, after=(999, 999, "blue")),
    case("the threshold exactly", earn(1_000), result=APPLIED, after=(1_000, 1_000, "silver")),
    case("the threshold in two steps", earn(999), earn(1), result=APPLIED, after=(1_000, 1_000, "silver")),
    case("past a tier in one step", earn(5_000), result=APPLIED, after=(5_000, 5_000, "gold")),
    case("a reversal demotes at once", earn(1_000), reverse("c1", 1), result=APPLIED, after=(999, 999, "blue")),
    case("a reversal to the threshold keeps the tier", earn(1_001), reverse("c1", 1), result=APPLIED, after=(1_000, 1_000, "silver")),
    case("past a tier downwards", earn(5_000), reverse("c1"), result=APPLIED, after=(0, 0, "blue")),
    case(
        "the tier falls by all that is reversed, also by what was spent",
        earn(1_000), redeem(900), reverse("c1"), result=APPLIED, after=(0, 0, "blue"),
    ),
    # Profiles and enrolment.
    case("enrol twice", enrol("again"), result=Refusal.MEMBER_ALREADY_ENROLLED, after=(0, 0)),
    case("a newer version", change(source_version=5, segments=()), change(source_version=6, segments=()), result=APPLIED, after=(0, 0)),
    case("an equal version", change(source_version=5, segments=()), change(source_version=5, segments=()), result=SUPERSEDED, after=(0, 0)),
    case("an older version", change(source_version=5, segments=()), change(source_version=4, segments=()), result=SUPERSEDED, after=(0, 0)),
    case(
        "versions of another source",
        change(source_version=5, segments=()), change(source_version=4, segments=(), source_system="hr"), result=APPLIED, after=(0, 0),
    ),
    case("no version", change(source_version=5, segments=()), change(segments=()), result=APPLIED, after=(0, 0)),
    # Ids.
    case("a repetition", earn(100, transaction_id="x"), earn(100, transaction_id="x"), result=APPLIED, after=(100, 100)),
    case("an id used again", earn(100, transaction_id="x"), earn(101, transaction_id="x"), result=CONFLICT, after=(100, 100)),
    case(
        "a refusal is remembered",
        redeem(10, transaction_id="x"), earn(100), redeem(10, transaction_id="x"),
        result=Refusal.INSUFFICIENT_POINTS, after=(100, 100),
    ),
    case("a new id may succeed", redeem(10), earn(100), redeem(10), result=APPLIED, after=(90, 100)),
    case("ids of transactions and events are apart", change("x", segments=()), earn(5, transaction_id="x"), result=APPLIED, after=(5, 5)),
]  # fmt: skip


def check(case: Case) -> None:
    """Raise AssertionError unless the last of the case's commands comes to what the case says, for a member enrolled before."""
    shell = Shell().enrolled()
    for command in case.commands:
        last = shell.send(command)
    expected = (CommandResult.REFUSED, case.result) if isinstance(case.result, Refusal) else (case.result, None)
    reason = None if case.result is CONFLICT else last.audit.reason
    assert (last.audit.result, reason) == expected
    account = last.account
    assert account is not None
    assert (account.available_points, account.qualifying_points, account.tier) == (case.available, case.qualifying, case.tier)
    assert sum(entry.points_delta for entry in shell.entries) == case.available
