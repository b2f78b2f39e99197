"""What decisions consist of: facts about one account. Each yields at most one loyalty event; a refusal is a fact as well."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from schemas.records import (
    AttributeOrigin,
    EntryKind,
    Hold,
    Lot,
    LotPart,
    MemberStatus,
    OfferUse,
    OpenVoucher,
    ProfileOperation,
    QualifyingBucket,
    RuleUse,
)
from streams.domain.refusals import Refusal

AVAILABLE, PENDING, HELD, DEBT = "available", "pending", "held", "debt"
"""The member's own accounts. Debt is below 0: what the member owes."""

ISSUED, REDEEMED, ADJUSTED, EXPIRED, IN_TRANSIT = "issued", "redeemed", "adjusted", "expired", "in_transit"
"""The programme's accounts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Posting:
    """One line of the journal: `points_delta`, never 0, to `account` and the opposite to `counter_account`."""

    kind: EntryKind
    points_delta: int
    counter_account: str
    rule_id: str
    account: str = AVAILABLE
    lots: tuple[LotPart, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PointsMoved:
    """BALANCE_CHANGED: one command moved points, by one posting per rule. No posting: a reversal found nothing left to take."""

    postings: tuple[Posting, ...]
    lots: tuple[Lot, ...]
    """All open lots after it."""
    holds: tuple[Hold, ...]
    """All open holds after it."""
    shortfall_points: int = 0
    movement: EntryKind | None = None
    """Why, where no posting says it."""
    hold_id: str | None = None
    expires_at_ms: int | None = None
    counter_member_id: str | None = None
    activity_at_ms: int | None = None
    """Effective time, when it is an activity that keeps points alive."""

    def delta_of(self, account: str) -> int:
        """Change of one of the member's accounts."""
        total = 0
        for posting in self.postings:
            if posting.account == account:
                total += posting.points_delta
            elif posting.counter_account == account:
                total -= posting.points_delta
        return total

    @property
    def points_delta(self) -> int:
        return self.delta_of(AVAILABLE)


@dataclass(frozen=True, slots=True, kw_only=True)
class QualifyingCounted:
    """No event of its own: the qualifying points by period, and how many of them count now."""

    buckets: tuple[QualifyingBucket, ...]
    points: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RulesUsed:
    """No event: how far the caps of earning rules and of offers are used."""

    rule_uses: tuple[RuleUse, ...]
    offer_uses: tuple[OfferUse, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TierChanged:
    """TIER_CHANGED."""

    previous_tier: str
    tier: str
    valid_until_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TierRetained:
    """TIER_RETAINED: the tier's period has ended, and it was earned again."""

    valid_until_ms: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class VoucherIssued:
    """VOUCHER_ISSUED."""

    reward_code: str
    voucher_code: str
    expires_at_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class VoucherClosed:
    """VOUCHER_REDEEMED, VOUCHER_CANCELLED or VOUCHER_EXPIRED."""

    voucher: OpenVoucher
    state: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OfferActivated:
    """OFFER_ACTIVATED."""

    offer_id: str
    offer_uses: tuple[OfferUse, ...] = ()
    """All of them after it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberEnrolled:
    """MEMBER_ENROLLED: the account begins. The only fact that needs no account before it."""

    program_id: str
    member_id: str
    tier: str
    attributes: Mapping[str, str]
    segments: tuple[str, ...]
    enrolled_at_ms: int
    external_ids: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileChanged:
    """PROFILE_CHANGED: attributes, segments and external ids are whole, `changed` names what differs."""

    attributes: Mapping[str, str]
    segments: tuple[str, ...]
    external_ids: Mapping[str, str]
    changed: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusChanged:
    """ACCOUNT_SUSPENDED, MEMBER_LEFT or ACCOUNT_REACTIVATED. What was scheduled before it is off."""

    status: MemberStatus
    reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusScheduled:
    """STATUS_SCHEDULED: a status that takes effect later, by itself."""

    status: MemberStatus
    at_ms: int
    reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberMerged:
    """MEMBER_MERGED: the member's points, tier and vouchers are on their way to another; None: they came back."""

    into: str | None
    status: MemberStatus
    vouchers: tuple[OpenVoucher, ...]
    tier_valid_until_ms: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberAbsorbed:
    """MEMBER_MERGED at the one who takes over: vouchers and offers after it."""

    source: str
    sources: tuple[str, ...]
    """The source and all who were merged into it before."""
    vouchers: tuple[OpenVoucher, ...]
    offer_uses: tuple[OfferUse, ...]
    active_offers: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberErased:
    """MEMBER_ERASED: nothing personal is left; the ledger goes on under the member's number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolChanged:
    """POOL_CHANGED: who receives what this member earns; None: the member again."""

    pool_member_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileVersioned:
    """No event: the profile has a new version. The last fact of a command that changed it, so that a command makes one version at most."""

    operation: ProfileOperation
    changed: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class OriginsNoted:
    """No event: who had the last word on which part of the profile, and the greatest version that a source system has shown."""

    origins: tuple[AttributeOrigin, ...]
    source_system: str
    version: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandRefused:
    """COMMAND_REFUSED: a rule said no."""

    refusal: Refusal
    detail: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentityRefused:
    """IDENTITY_CONFLICT: an external id of this type leads to another member already, and is none of this one's."""

    identity_type: str
    owner: str
    external_ids: Mapping[str, str]
    """Those that are left."""


Fact = (
    PointsMoved | QualifyingCounted | RulesUsed | TierChanged | TierRetained | VoucherIssued | VoucherClosed | OfferActivated
    | MemberEnrolled | ProfileChanged | StatusChanged | StatusScheduled | MemberMerged | MemberAbsorbed | MemberErased | PoolChanged
    | ProfileVersioned | OriginsNoted | CommandRefused | IdentityRefused
)  # fmt: skip

SILENT = (QualifyingCounted, RulesUsed, ProfileVersioned, OriginsNoted)
"""Facts without an event."""
