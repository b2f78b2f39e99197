"""account, fact -> account: the one place where the state of a member changes."""

from schemas.records import Account, Lot, MemberStatus, OfferUse, OpenVoucher, QualifyingBucket
from streams.domain.facts import (
    AVAILABLE,
    DEBT,
    HELD,
    PENDING,
    Fact,
    IdentityRefused,
    MemberAbsorbed,
    MemberEnrolled,
    MemberErased,
    MemberMerged,
    OfferActivated,
    OriginsNoted,
    PointsMoved,
    PoolChanged,
    ProfileChanged,
    ProfileVersioned,
    QualifyingCounted,
    RulesUsed,
    StatusChanged,
    StatusScheduled,
    TierChanged,
    TierRetained,
    VoucherClosed,
    VoucherIssued,
)


def evolve(account: Account | None, fact: Fact) -> Account:
    """The account after the fact. None, for a member who does not exist yet, goes with MemberEnrolled only."""
    if account is None:
        if not isinstance(fact, MemberEnrolled):
            raise ValueError(f"{type(fact).__name__} about a member who is not enrolled")
        return _begin(fact)
    sequence = account.event_sequence + 1
    match fact:
        case PointsMoved():
            return account.but(
                available_points=account.available_points + fact.delta_of(AVAILABLE),
                pending_points=account.pending_points + fact.delta_of(PENDING),
                held_points=account.held_points + fact.delta_of(HELD),
                debt_points=account.debt_points - fact.delta_of(DEBT),
                lots=fact.lots,
                holds=fact.holds,
                event_sequence=sequence,
                entry_sequence=account.entry_sequence + len(fact.postings),
                last_activity_at_ms=_latest(account.last_activity_at_ms, fact.activity_at_ms),
            )
        case QualifyingCounted():
            return account.but(qualifying=fact.buckets, qualifying_points=fact.points)
        case RulesUsed():
            return account.but(rule_uses=fact.rule_uses, offer_uses=fact.offer_uses)
        case OriginsNoted():
            versions, version = account.source_versions, fact.version
            if version is not None and version > versions.get(fact.source_system, version - 1):
                versions = dict(sorted({**versions, fact.source_system: version}.items()))
            return account.but(origins=fact.origins, source_versions=versions)
        case ProfileVersioned():
            return account.but(profile_version=account.profile_version + 1)
        case TierChanged():
            return account.but(tier=fact.tier, tier_valid_until_ms=fact.valid_until_ms, event_sequence=sequence)
        case TierRetained():
            return account.but(tier_valid_until_ms=fact.valid_until_ms, event_sequence=sequence)
        case VoucherIssued():
            issued = OpenVoucher(voucher_code=fact.voucher_code, reward_code=fact.reward_code, expires_at_ms=fact.expires_at_ms)
            return account.but(vouchers=(*account.vouchers, issued), event_sequence=sequence)
        case VoucherClosed():
            left = tuple(voucher for voucher in account.vouchers if voucher.voucher_code != fact.voucher.voucher_code)
            return account.but(vouchers=left, event_sequence=sequence)
        case OfferActivated():
            offers = tuple(sorted({*account.active_offers, fact.offer_id}))
            return account.but(active_offers=offers, offer_uses=fact.offer_uses, event_sequence=sequence)
        case ProfileChanged():
            return account.but(attributes=fact.attributes, segments=fact.segments, external_ids=fact.external_ids, event_sequence=sequence)
        case StatusChanged():
            return account.but(
                status=fact.status, status_reason=fact.reason, event_sequence=sequence,
                scheduled_status=None, scheduled_at_ms=None, scheduled_reason=None,
            )  # fmt: skip
        case StatusScheduled():
            return account.but(
                scheduled_status=fact.status, scheduled_at_ms=fact.at_ms, scheduled_reason=fact.reason, event_sequence=sequence
            )
        case MemberMerged():
            return account.but(
                status=fact.status, merged_into=fact.into, vouchers=fact.vouchers, event_sequence=sequence,
                scheduled_status=None, scheduled_at_ms=None, scheduled_reason=None,
                tier_valid_until_ms=fact.tier_valid_until_ms,
            )  # fmt: skip
        case MemberAbsorbed():
            return account.but(
                vouchers=fact.vouchers, offer_uses=fact.offer_uses, active_offers=fact.active_offers,
                moved_from=tuple(sorted({*account.moved_from, *fact.sources})), event_sequence=sequence,
            )  # fmt: skip
        case MemberErased():
            return account.but(
                status=MemberStatus.ERASED, status_reason=None, attributes={}, segments=(), source_versions={},
                external_ids={}, origins=(),
                scheduled_status=None, scheduled_at_ms=None, scheduled_reason=None, pool_member_id=None, event_sequence=sequence,
            )  # fmt: skip
        case IdentityRefused():
            return account.but(external_ids=fact.external_ids, event_sequence=sequence)
        case PoolChanged():
            return account.but(pool_member_id=fact.pool_member_id, event_sequence=sequence)
        case _:
            return account.but(event_sequence=sequence)  # CommandRefused: the event alone.


def brought_up(account: Account | None) -> Account | None:
    """An account from before there were lots: its points become one that does not expire."""
    if account is None or account.clock_ms or account.lots or account.qualifying:
        return account
    lots: tuple[Lot, ...] = ()
    if account.available_points > 0:
        points = account.available_points
        lots = (Lot(lot_id="opening-balance", points=points, remaining=points, earned_at_ms=account.enrolled_at_ms),)
    buckets = (QualifyingBucket(starts_at_ms=0, points=account.qualifying_points),) if account.qualifying_points else ()
    uses = tuple(OfferUse(offer_id=offer_id, period_starts_at_ms=0) for offer_id in account.active_offers)
    return account.but(lots=lots, qualifying=buckets, offer_uses=uses)


def _latest(one_ms: int | None, other_ms: int | None) -> int | None:
    if one_ms is None or other_ms is None:
        return one_ms if other_ms is None else other_ms
    return max(one_ms, other_ms)


def _begin(fact: MemberEnrolled) -> Account:
    return Account(
        program_id=fact.program_id,
        member_id=fact.member_id,
        status=MemberStatus.ACTIVE,
        tier=fact.tier,
        event_sequence=1,
        attributes=fact.attributes,
        segments=fact.segments,
        external_ids=fact.external_ids,
        enrolled_at_ms=fact.enrolled_at_ms,
    )
