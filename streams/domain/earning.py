"""A sale -> points: what the programme's rules give for it. Whole numbers throughout, rounded once, on the total."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from schemas.currencies import MINOR_UNIT_DIGITS
from schemas.records import Account, EntryKind, OfferUse, RuleUse, Transaction
from streams.domain.offers import Bonus, bonuses
from streams.domain.periods import start_of_period
from streams.domain.program import EarnRule, Program, Rounding
from streams.domain.refusals import Refusal
from streams.domain.tiers import earn_percent


@dataclass(frozen=True, slots=True, kw_only=True)
class Earned:
    """What an EARN comes to."""

    lines: tuple[tuple[EntryKind, int, str], ...]
    """Kind, points above 0 and rule of each line."""
    rule_uses: tuple[RuleUse, ...]
    offer_uses: tuple[OfferUse, ...]

    @property
    def points(self) -> int:
        return sum(points for _, points, _ in self.lines)


def earn(account: Account, command: Transaction, program: Program) -> Earned | Refusal:
    """By the rules of the version in force when the sale happened; rules that give nothing have no line."""
    if command.points is not None:
        # "Points to move" is what the contract calls them: neither rates nor the tier change a number that the sender computed.
        lines, rule_uses = [(EntryKind.EARN, command.points, "earn:given")], account.rule_uses
    else:
        computed = _computed(account, command, program)
        if isinstance(computed, Refusal):
            return computed
        lines, rule_uses = computed
    base_points = sum(points for _, points, _ in lines)
    given: list[Bonus] = bonuses(account, command, program, base_points)
    lines += [(EntryKind.OFFER_BONUS, bonus.points, f"offer:{bonus.use.offer_id}") for bonus in given]
    offer_uses = account.offer_uses
    for bonus in given:
        offer_uses = tuple(bonus.use if (use.offer_id, use.period_starts_at_ms) == (bonus.use.offer_id, bonus.use.period_starts_at_ms) else use
                           for use in offer_uses)  # fmt: skip
    return Earned(lines=tuple(line for line in lines if line[1]), rule_uses=rule_uses, offer_uses=offer_uses)


def sale_amount_minor(command: Transaction) -> int | None:
    """Money of the whole sale: given, or the sum of its lines, of which discounts may be below 0 but not the sum."""
    if command.amount_minor is not None or not command.line_items:
        return command.amount_minor
    return max(0, sum(line.amount_minor for line in command.line_items))


def _computed(account: Account, command: Transaction, program: Program) -> tuple[list[tuple[EntryKind, int, str]], tuple[RuleUse, ...]] | Refusal:
    """The lines of an earn by money, nights or the sale itself.

    The exact sum is kept as the numerator of a common denominator: minor units, times 100 for the tier's percentage, times 100 for each
    rule of percent. Lines are rounded so that they add up to the rounded sum: rounding each by itself would cost members points.
    """
    amount_minor = sale_amount_minor(command)
    currency = command.currency or ""
    if amount_minor is not None and currency not in program.points_per_unit and not any(currency in rule.points_per_unit for rule in program.rules):
        return Refusal.CURRENCY_NOT_EARNING
    minor_units = 10 ** MINOR_UNIT_DIGITS[currency] if amount_minor is not None else 1
    percents = sum(1 for rule in program.rules if rule.percent)
    scale = 100**percents
    denominator = minor_units * scale * 100
    tier_percent = earn_percent(program, account.tier)
    plain = (amount_minor or 0) * program.points_per_unit.get(currency, 0) + (command.nights or 0) * program.points_per_night * minor_units
    exact = plain * scale * tier_percent
    given = _rounded(program.rounding, exact, denominator)
    lines: list[tuple[EntryKind, int, str]] = [(EntryKind.EARN, given, _plain_rule(command, amount_minor))]
    rule_uses = account.rule_uses
    for rule in program.rules:
        if not _applies(rule, account, command):
            continue
        if rule.percent:
            exact += exact * rule.percent // 100
        else:
            money_minor = _amount_for(rule, command, amount_minor)
            whole = (command.nights or 0) * rule.points_per_night + rule.points_per_stay
            exact += (money_minor * rule.points_per_unit.get(currency, 0) + whole * minor_units) * scale * tier_percent
        points = _rounded(program.rounding, exact, denominator) - given
        if rule.cap_points is not None:
            allowed, rule_uses = _within_cap(rule, points, program, command.occurred_at_ms, rule_uses)
            if allowed < points:
                points = allowed
                exact = (given + points) * denominator  # What a cap cuts off counts for no later rule, and for no rounding.
        given += points
        lines.append((EntryKind.EARN, points, f"rule:{rule.rule_id}"))
        if rule.stop:
            break
    return lines, rule_uses


def _plain_rule(command: Transaction, amount_minor: int | None) -> str:
    if amount_minor is None:
        return "earn:nights"
    return "earn:amount+nights" if command.nights else "earn:amount"


def _rounded(rounding: Rounding, numerator: int, denominator: int) -> int:
    match rounding:
        case Rounding.FLOOR:
            return numerator // denominator
        case Rounding.HALF_UP:
            return (2 * numerator + denominator) // (2 * denominator)
        case Rounding.CEILING:
            return -(-numerator // denominator)


def _applies(rule: EarnRule, account: Account, command: Transaction) -> bool:
    if rule.tiers and account.tier not in rule.tiers:
        return False
    if rule.segments and not rule.segments.intersection(account.segments):
        return False
    if not rule.categories:
        return True
    return command.category in rule.categories or any(line.category in rule.categories for line in command.line_items)


def _amount_for(rule: EarnRule, command: Transaction, amount_minor: int | None) -> int:
    """Money that a rule counts: of the lines of its categories, if lines say their categories, or of the whole sale."""
    if rule.categories and command.category not in rule.categories:
        return max(0, sum(line.amount_minor for line in command.line_items if line.category in rule.categories))
    return amount_minor or 0


def _within_cap(rule: EarnRule, points: int, program: Program, at_ms: int, uses: Iterable[RuleUse]) -> tuple[int, tuple[RuleUse, ...]]:
    """How many of the points the rule's cap allows, and the uses after them."""
    assert rule.cap_points is not None
    start_ms = start_of_period(program.time_zone, rule.cap_period, at_ms)
    kept: Mapping[tuple[str, int], RuleUse] = {(use.rule_id, use.period_starts_at_ms): use for use in uses}
    used = kept.get((rule.rule_id, start_ms)) or RuleUse(rule_id=rule.rule_id, period_starts_at_ms=start_ms, points=0)
    allowed = max(0, min(points, rule.cap_points - used.points))
    if not allowed:
        return 0, tuple(kept.values())
    now_used = {**kept, (rule.rule_id, start_ms): replace(used, points=used.points + allowed)}
    return allowed, _newest(now_used.values())


USES_KEPT_MAX = 64


def _newest(uses: Iterable[RuleUse]) -> tuple[RuleUse, ...]:
    """Sorted, and not without end: the uses of the oldest periods go first."""
    kept = sorted(uses, key=lambda use: use.period_starts_at_ms)[-USES_KEPT_MAX:]
    return tuple(sorted(kept, key=lambda use: (use.rule_id, use.period_starts_at_ms)))
