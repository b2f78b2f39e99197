"""Rules of one loyalty programme, as the domain reads them. Validated where they are read (streams/programs.py)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

DAY_MS = 24 * 3600 * 1000
IDEMPOTENCY_DAYS_MIN = 30
AUDIT_SHOWS = frozenset({"locale", "time_zone"})


class Rounding(StrEnum):
    """How a fraction of a point is rounded, once, on the total of a sale."""

    FLOOR = "floor"
    HALF_UP = "half_up"
    CEILING = "ceiling"


class ExpiryRule(StrEnum):
    """When points expire."""

    NEVER = "never"
    AFTER_DAYS = "after_days"
    """`days` after the effective day, at the same local time."""
    END_OF_MONTH = "end_of_month"
    """At the end of the month in which `months` months have passed."""
    END_OF_YEAR = "end_of_year"
    """At the end of the year in which `years` years have passed."""
    FIXED_DAY = "fixed_day"
    """At the start of the next `month`-`day` that is at least `days` days away."""
    INACTIVITY = "inactivity"
    """`days` after the member's last earn or redemption: every activity moves the expiry of all lots."""


class ReversalPolicy(StrEnum):
    """What the reversal of an earn takes when points of it were spent."""

    ONLY_PENDING = "only_pending"
    """Points that are pending still; those that could be spent stay with the member."""
    WITHIN_BALANCE = "within_balance"
    """What the member has, at most; the rest is reported as a shortfall."""
    UNLIMITED = "unlimited"
    """All of it; what the member does not have becomes a debt, which the next points pay."""


class RefundOfExpired(StrEnum):
    """What becomes of a refunded redemption's points whose lot has expired since."""

    EXPIRE_AGAIN = "expire_again"
    GRACE = "grace"
    """They live `refund_grace_days` more."""


class Window(StrEnum):
    """Which qualifying points count for the tier."""

    LIFETIME = "lifetime"
    CALENDAR_YEAR = "calendar_year"
    MEMBERSHIP_YEAR = "membership_year"
    """Years from the day of the enrolment."""
    ROLLING = "rolling"
    """The last `window_days` days, whole ones in the programme's time zone."""


class Demotion(StrEnum):
    """Where a member goes whose tier has ended and was not earned again."""

    ONE_STEP = "one_step"
    BALANCE_BASED = "balance_based"
    """To the tier of the points."""
    NEVER = "never"


class EarnWhileSuspended(StrEnum):
    """What becomes of points that are earned while the member is suspended, or has left."""

    PARK = "park"
    """They are pending until the suspension ends."""
    ACCEPT = "accept"
    """They are the member's, and can be spent once the suspension ends."""
    REFUSE = "refuse"


class PersonalData(StrEnum):
    """How the audit shows the values of attributes, which may be personal."""

    MASKED = "masked"
    """Their first character: enough to recognise a mistake, and not a person."""
    HASHED = "hashed"
    """A keyed hash: equal values show as equal."""
    HIDDEN = "hidden"
    """That they were there."""


class Period(StrEnum):
    """Periods of caps and of activations, in the programme's time zone."""

    ONCE = "once"
    DAY = "day"
    MONTH = "month"
    YEAR = "year"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tier:
    """A tier is reached by who has `threshold_points` qualifying points at least and less than the next tier's."""

    name: str
    threshold_points: int
    earn_percent: int = 100
    """What a computed earn is multiplied by for members of this tier: 125 gives a quarter more. Given points are moved as they are."""
    reward_code: str | None = None
    """Reward whose voucher is issued with a promotion to this tier."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TierPolicy:
    """How tiers are kept and lost. Promotion is immediate, always."""

    window: Window = Window.LIFETIME
    window_days: int = 365
    """ROLLING: how many days count; also how long a tier lasts."""
    grace_days: int = 0
    """Days after the end of a tier's period before it is looked at: what is earned in them still counts."""
    demotion: Demotion = Demotion.BALANCE_BASED
    demote_on_reversal: bool = True
    """Whether the reversal of an earn can cost the tier at once; otherwise at the end of its period."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EarnRule:
    """One rule. It applies to sales that meet all its conditions, in the order of the configuration."""

    rule_id: str
    points_per_unit: Mapping[str, int] = field(default_factory=dict)
    """Points per whole unit (not cent) of a currency, by ISO 4217 code."""
    points_per_night: int = 0
    points_per_stay: int = 0
    """Points for the sale itself, whatever its amount."""
    percent: int = 0
    """Percent of what the rules before it gave, on top: 50 gives half as much again."""
    categories: frozenset[str] = frozenset()
    """Categories it applies to, of the sale, or of its lines if it has any; empty: all."""
    segments: frozenset[str] = frozenset()
    """The member must be in one of them; empty: any member."""
    tiers: frozenset[str] = frozenset()
    """The member must have one of them; empty: any."""
    cap_points: int | None = None
    """Most points per member and cap_period."""
    cap_period: Period = Period.ONCE
    stop: bool = False
    """When it applied, the rules after it do not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expiry:
    """When the points of an earn expire, in the programme's time zone."""

    rule: ExpiryRule = ExpiryRule.NEVER
    days: int = 0
    months: int = 0
    years: int = 0
    month: int = 1
    day: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """Members who activated it earn a bonus on top, while it runs."""

    offer_id: str
    bonus_percent: int = 0
    """Percent of the sale's points: 100 doubles them."""
    bonus_points: int = 0
    """Points for each sale it applies to."""
    starts_at_ms: int = 0
    ends_at_ms: int | None = None
    """First instant after the offer; None: it does not end."""
    categories: frozenset[str] = frozenset()
    """Categories of sales it applies to; empty: all."""
    segments: frozenset[str] = frozenset()
    """Audience: the member must be in one of them; empty: everybody."""
    tiers: frozenset[str] = frozenset()
    """Audience: the member must have one of them; empty: any."""
    period: Period = Period.ONCE
    """A member activates it once per period, and it applies within that period."""
    uses_max: int | None = None
    """Sales per activation that earn the bonus."""
    cap_points: int | None = None
    """Bonus points per activation."""
    budget_points: int | None = None
    """Bonus points over all members. Every activation reserves cap_points of it, so an offer with a budget needs a cap."""
    reward_code: str | None = None
    """Reward whose voucher is issued with the activation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reward:
    """What a voucher is good for."""

    reward_code: str
    points: int | None = None
    """Its price; None: whatever the redemption says."""
    valid_days: int | None = None
    """Days that its vouchers are valid; None: for ever."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """Rules of one programme, in one version."""

    program_id: str
    tiers: tuple[Tier, ...]
    """By rising threshold; the first one's is 0."""
    version: int = 1
    effective_from_ms: int = 0
    """First instant at which this version is in force."""
    time_zone: str = "UTC"
    """IANA name: days, months and years begin by it."""
    points_per_unit: Mapping[str, int] = field(default_factory=dict)
    """Points per whole unit (not cent) of a currency, by ISO 4217 code. A sale in a currency that no rule knows is refused."""
    points_per_night: int = 0
    rules: tuple[EarnRule, ...] = ()
    """Rules beyond the two plain ones above, which come first."""
    rounding: Rounding = Rounding.FLOOR
    expiry: Expiry = field(default_factory=Expiry)
    pending_days: int = 0
    """Days that earned points are pending; 0: they can be spent at once."""
    reversal: ReversalPolicy = ReversalPolicy.WITHIN_BALANCE
    refund_of_expired: RefundOfExpired = RefundOfExpired.EXPIRE_AGAIN
    refund_grace_days: int = 30
    hold_minutes: int | None = None
    """How long a hold lasts that does not say it; None: until it is captured or voided."""
    capture_while_suspended: bool = False
    """Whether a hold that was placed before a suspension can be captured during it."""
    earn_while_suspended: EarnWhileSuspended = EarnWhileSuspended.PARK
    tier_policy: TierPolicy = field(default_factory=TierPolicy)
    offers: Mapping[str, Offer] = field(default_factory=dict)
    rewards: Mapping[str, Reward] = field(default_factory=dict)
    """By their codes. A reward that is not here can be bought for any points, and its vouchers do not expire."""
    idempotency_days: int = 90
    """How long the answer to a command is remembered; IDEMPOTENCY_DAYS_MIN at least. A transaction can be reversed as long."""
    mastering: Mapping[str, str] = field(default_factory=dict)
    """Pattern of parts of a profile -> the source system that masters them (streams/domain/mastering.py). Empty: all is local."""
    personal_data: PersonalData = PersonalData.MASKED
    audit_shows: frozenset[str] = AUDIT_SHOWS
    """Attributes whose values the audit shows as they are."""
    voucher_key: bytes = field(default=b"", repr=False)
    """Secret from which voucher codes and pseudonyms are derived; must never change."""


def in_force(versions: Sequence[Program], at_ms: int) -> Program:
    """The version in force at that instant: the newest that had taken effect, and the first one for all that was before it."""
    found = versions[0]
    for version in versions[1:]:
        if version.effective_from_ms > at_ms:
            break
        found = version
    return found
