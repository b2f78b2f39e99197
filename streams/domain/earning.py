"""A sale -> points: what the programme's rules give for it. Whole numbers throughout, rounded down once at the end."""

from collections.abc import Sequence

from schemas.currencies import MINOR_UNIT_DIGITS
from schemas.records import Account, EntryKind, Transaction
from streams.domain.facts import Posting
from streams.domain.offers import offers_for
from streams.domain.program import Program
from streams.domain.refusals import Refusal
from streams.domain.tiers import earn_percent

ISSUED = "issued"


def earn(account: Account, command: Transaction, program: Program) -> tuple[Posting, ...] | Refusal:
    """The postings of an EARN: the sale's points, then a bonus for each offer that applies. Rules that give nothing post nothing."""
    amount_minor = sale_amount_minor(command)
    if command.points is not None:
        # "Points to move" is what the contract calls them: neither rates nor the tier change a number that the sender computed.
        points, rule_id = command.points, "earn:given"
    elif amount_minor is None:
        points, rule_id = _computed(account, command, program, 0, 1), "earn:nights"
    else:
        rate = program.points_per_unit.get(command.currency or "")
        if rate is None:
            return Refusal.CURRENCY_NOT_EARNING
        minor_units = 10 ** MINOR_UNIT_DIGITS[command.currency or ""]
        points = _computed(account, command, program, amount_minor * rate, minor_units)
        rule_id = "earn:amount+nights" if command.nights else "earn:amount"
    rules = [(EntryKind.EARN, points, rule_id)]
    for offer in offers_for(account, command, program):
        rules.append((EntryKind.OFFER_BONUS, points * offer.bonus_percent // 100, f"offer:{offer.offer_id}"))
    return _postings(rules)


def sale_amount_minor(command: Transaction) -> int | None:
    """Money of the whole sale: given, or the sum of its lines, of which discounts may be below 0 but not the sum."""
    if command.amount_minor is not None or not command.line_items:
        return command.amount_minor
    return max(0, sum(line.amount_minor for line in command.line_items))


def _computed(account: Account, command: Transaction, program: Program, rated_minor: int, minor_units: int) -> int:
    """Points for money (`rated_minor` in fractions of `minor_units`) and nights, times the tier's percentage, rounded down once: rounding
    each part by itself would cost members points."""
    nights_points = (command.nights or 0) * program.points_per_night
    return (rated_minor + nights_points * minor_units) * earn_percent(program, account.tier) // (minor_units * 100)


def _postings(rules: Sequence[tuple[EntryKind, int, str]]) -> tuple[Posting, ...]:
    return tuple(
        Posting(kind=kind, points_delta=points, counter_account=ISSUED, rule_id=rule_id)
        for kind, points, rule_id in rules
        if points
    )  # fmt: skip
