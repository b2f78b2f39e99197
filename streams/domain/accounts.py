"""account, fact -> account: the one place where the state of a member changes."""

from collections.abc import Iterable
from dataclasses import replace

from schemas.records import Account, MemberStatus
from streams.domain.facts import (
    Fact,
    MemberEnrolled,
    OfferActivated,
    PointsMoved,
    ProfileChanged,
    ProfileVersioned,
    SourceVersionApplied,
    StatusChanged,
    TierChanged,
)

Step = tuple[Fact, Account]
"""A fact and the account after it."""


def walk(account: Account | None, facts: Iterable[Fact]) -> list[Step]:
    """Every fact with the account after it, in order."""
    steps: list[Step] = []
    for fact in facts:
        account = evolve(account, fact)
        steps.append((fact, account))
    return steps


def evolve(account: Account | None, fact: Fact) -> Account:
    """The account after the fact. None, for a member who does not exist yet, goes with MemberEnrolled only."""
    if account is None:
        if not isinstance(fact, MemberEnrolled):
            raise ValueError(f"{type(fact).__name__} about a member who is not enrolled")
        return _begin(fact)
    match fact:
        case PointsMoved():
            return replace(
                account,
                available_points=account.available_points + fact.points_delta,
                # Counted by earns and their reversals alone it cannot fall below 0; a reader may rely on it.
                qualifying_points=max(0, account.qualifying_points + fact.qualifying_delta),
                event_sequence=account.event_sequence + 1,
                entry_sequence=account.entry_sequence + len(fact.postings),
            )
        case SourceVersionApplied():
            versions = {**account.source_versions, fact.source_system: fact.version}
            return replace(account, source_versions=dict(sorted(versions.items())))
        case ProfileVersioned():
            return replace(account, profile_version=account.profile_version + 1)
        case TierChanged():
            account = replace(account, tier=fact.tier)
        case OfferActivated():
            account = replace(account, active_offers=tuple(sorted((*account.active_offers, fact.offer_id))))
        case ProfileChanged():
            account = replace(account, attributes=fact.attributes, segments=fact.segments)
        case StatusChanged():
            account = replace(account, status=fact.status, status_reason=fact.reason)
        case _:
            pass  # VoucherIssued and CommandRefused: the event alone.
    return replace(account, event_sequence=account.event_sequence + 1)


def _begin(fact: MemberEnrolled) -> Account:
    return Account(
        program_id=fact.program_id,
        member_id=fact.member_id,
        status=MemberStatus.ACTIVE,
        tier=fact.tier,
        event_sequence=1,
        attributes=fact.attributes,
        segments=fact.segments,
        enrolled_at_ms=fact.enrolled_at_ms,
    )
