"""Opting in to offers, and which of them apply to a sale."""

from schemas.records import Account, MemberStatus, OfferActivation, Transaction
from streams.domain.facts import Decision, OfferActivated, applied, refused
from streams.domain.program import Offer, Program
from streams.domain.refusals import Refusal


def decide_activation(account: Account, command: OfferActivation, program: Program) -> Decision:
    offer = program.offers.get(command.offer_id)
    if offer is None:
        return refused(Refusal.OFFER_UNKNOWN)
    if account.status is MemberStatus.SUSPENDED:
        return refused(Refusal.ACCOUNT_SUSPENDED)
    if not is_running(offer, command.occurred_at_ms):
        return refused(Refusal.OFFER_NOT_RUNNING)
    if offer.offer_id in account.active_offers:
        return refused(Refusal.OFFER_ALREADY_ACTIVE)
    return applied(OfferActivated(offer_id=offer.offer_id))


def is_running(offer: Offer, at_ms: int) -> bool:
    """From its first instant to the last one before its end."""
    return offer.starts_at_ms <= at_ms and (offer.ends_at_ms is None or at_ms < offer.ends_at_ms)


def offers_for(account: Account, command: Transaction, program: Program) -> list[Offer]:
    """The member's offers that apply to the sale, by the time and the category of the sale, in order of their ids."""
    if not account.active_offers:
        return []
    mine = (program.offers.get(offer_id) for offer_id in account.active_offers)
    return [
        offer
        for offer in mine
        if offer is not None
        and is_running(offer, command.occurred_at_ms)
        and (not offer.categories or command.category in offer.categories)
    ]  # fmt: skip
