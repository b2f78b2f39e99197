"""Opting in to offers, and what they give for a sale."""

from dataclasses import dataclass, replace

from schemas.records import Account, MemberStatus, OfferActivation, OfferUse, Relay, RelayKind, Transaction
from streams.domain.book import Book
from streams.domain.facts import OfferActivated, RulesUsed
from streams.domain.identity import budget_member_id, derived_id
from streams.domain.periods import start_of_period
from streams.domain.program import Offer, Program
from streams.domain.refusals import Refusal
from streams.domain.relays import origin_of
from streams.domain.suspension import barred
from streams.domain.vouchers import issue

USES_MAX = 100
"""Activations kept per member; beyond it those of offers that have ended are forgotten."""


def decide_activation(book: Book, command: OfferActivation) -> Refusal | None:
    """An offer with a budget is asked for first: the answer comes by a relay, and `decide_answer` takes it."""
    account, program = book.account, book.program
    offer = program.offers.get(command.offer_id)
    if offer is None:
        return Refusal.OFFER_UNKNOWN
    if (refusal := barred(account)) is not None:
        return refusal
    if not is_running(offer, command.occurred_at_ms):
        return Refusal.OFFER_NOT_RUNNING
    if not is_audience(offer, account):
        return Refusal.OFFER_NOT_FOR_MEMBER
    period_ms = start_of_period(program.time_zone, offer.period, command.occurred_at_ms)
    if use_of(account, offer.offer_id, period_ms) is not None:
        return Refusal.OFFER_ALREADY_ACTIVE
    uses = _kept(account, program, command.occurred_at_ms)
    if len(uses) >= USES_MAX:
        return Refusal.ACCOUNT_TOO_LARGE
    use = OfferUse(offer_id=offer.offer_id, period_starts_at_ms=period_ms, asked=offer.budget_points is not None, uses=0, points=0)
    uses = (*uses, use)
    if use.asked:
        book.record(RulesUsed(rule_uses=account.rule_uses, offer_uses=uses))
        book.relays.append(_ask(book, command, offer))
        return None
    _activate(book, offer, uses, command.event_id)
    return None


def decide_answer(book: Book, command: OfferActivation, *, granted: bool) -> Refusal | None:
    """The budget's answer to an activation that is asked."""
    account, program = book.account, book.program
    asked = [use for use in account.offer_uses if use.asked and use.offer_id == command.offer_id]
    left = tuple(use for use in account.offer_uses if use not in asked)
    is_erased = account.status is MemberStatus.ERASED  # Meanwhile: what was reserved stays so.
    if is_erased or not granted:
        book.record(RulesUsed(rule_uses=account.rule_uses, offer_uses=left))
        return Refusal.MEMBER_ERASED if is_erased else Refusal.OFFER_BUDGET_SPENT
    offer = program.offers.get(command.offer_id) or Offer(offer_id=command.offer_id)
    period_ms = asked[0].period_starts_at_ms if asked else start_of_period(program.time_zone, offer.period, command.occurred_at_ms)
    if any((use.offer_id, use.period_starts_at_ms) == (offer.offer_id, period_ms) for use in left):
        # Who asked was merged into a member who has the offer as well.
        book.record(RulesUsed(rule_uses=account.rule_uses, offer_uses=left))
        return Refusal.OFFER_ALREADY_ACTIVE
    use = OfferUse(offer_id=offer.offer_id, period_starts_at_ms=period_ms, asked=False, uses=0, points=0)
    _activate(book, offer, (*left, use), command.event_id)
    return None


def _activate(book: Book, offer: Offer, uses: tuple[OfferUse, ...], event_id: str) -> None:
    in_order = tuple(sorted(uses, key=lambda use: (use.offer_id, use.period_starts_at_ms)))
    book.record(OfferActivated(offer_id=offer.offer_id, offer_uses=in_order))
    if offer.reward_code is not None:
        issue(book, offer.reward_code, event_id, f"offer:{offer.offer_id}", 0)


def _ask(book: Book, command: OfferActivation, offer: Offer) -> Relay:
    account = book.account
    assert offer.cap_points is not None, "an offer with a budget has a cap"
    return Relay(
        program_id=account.program_id,
        member_id=budget_member_id(offer.offer_id),
        relay_id=derived_id("rly", account.program_id, account.member_id, f"ask:{command.event_id}"),
        kind=RelayKind.BUDGET_ASK,
        from_member_id=account.member_id,
        offer_id=offer.offer_id,
        points=offer.cap_points,
        origin=origin_of(book.cause),
    )


def use_of(account: Account, offer_id: str, period_starts_at_ms: int) -> OfferUse | None:
    """The member's activation of an offer in a period."""
    for use in account.offer_uses:
        if use.offer_id == offer_id and use.period_starts_at_ms == period_starts_at_ms:
            return use
    return None


def _kept(account: Account, program: Program, at_ms: int) -> tuple[OfferUse, ...]:
    """The activations without those that nothing can come of any more, once there are many."""
    if len(account.offer_uses) < USES_MAX:
        return account.offer_uses
    offers = program.offers
    return tuple(use for use in account.offer_uses if use.asked or ((offer := offers.get(use.offer_id)) is not None and is_running(offer, at_ms)))


def is_running(offer: Offer, at_ms: int) -> bool:
    """From its first instant to the last one before its end."""
    return offer.starts_at_ms <= at_ms and (offer.ends_at_ms is None or at_ms < offer.ends_at_ms)


def is_audience(offer: Offer, account: Account) -> bool:
    return (not offer.tiers or account.tier in offer.tiers) and (not offer.segments or bool(offer.segments.intersection(account.segments)))


@dataclass(frozen=True, slots=True)
class Bonus:
    """What one offer gives for a sale, and its use after it."""

    points: int
    use: OfferUse


def bonuses(account: Account, command: Transaction, program: Program, base_points: int) -> list[Bonus]:
    """What the member's offers give for the sale, by the time and the category of the sale, in order of their ids."""
    given = []
    for offer_id in account.active_offers:
        offer = program.offers.get(offer_id)
        if offer is None or not is_running(offer, command.occurred_at_ms) or (offer.categories and command.category not in offer.categories):
            continue
        use = use_of(account, offer_id, start_of_period(program.time_zone, offer.period, command.occurred_at_ms))
        if use is None or use.asked or (offer.uses_max is not None and use.uses >= offer.uses_max):
            continue
        points = base_points * offer.bonus_percent // 100 + offer.bonus_points
        if offer.cap_points is not None:
            points = min(points, offer.cap_points - use.points)
        if points > 0:
            given.append(Bonus(points, replace(use, uses=use.uses + 1, points=use.points + points)))
    return given
