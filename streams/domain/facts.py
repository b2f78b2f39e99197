"""What decisions consist of: facts about one account. Each yields at most one loyalty event; a refusal is a fact as well."""

from collections.abc import Mapping
from dataclasses import dataclass

from schemas.records import CommandResult, EntryKind, MemberStatus, Outcome, ProfileOperation
from streams.domain.refusals import Refusal


@dataclass(frozen=True, slots=True, kw_only=True)
class Posting:
    """One line of the ledger: `points_delta`, never 0, to the member and the opposite to `counter_account`."""

    kind: EntryKind
    points_delta: int
    counter_account: str
    rule_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PointsMoved:
    """BALANCE_CHANGED: one transaction moved points, by one posting per rule. No posting: a reversal found nothing left to take."""

    postings: tuple[Posting, ...]
    qualifying_delta: int = 0
    shortfall_points: int = 0

    @property
    def points_delta(self) -> int:
        return sum(posting.points_delta for posting in self.postings)


@dataclass(frozen=True, slots=True, kw_only=True)
class TierChanged:
    """TIER_CHANGED."""

    previous_tier: str
    tier: str


@dataclass(frozen=True, slots=True, kw_only=True)
class VoucherIssued:
    """VOUCHER_ISSUED."""

    reward_code: str
    voucher_code: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OfferActivated:
    """OFFER_ACTIVATED."""

    offer_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberEnrolled:
    """MEMBER_ENROLLED: the account begins. The only fact that needs no account before it."""

    program_id: str
    member_id: str
    tier: str
    attributes: Mapping[str, str]
    segments: tuple[str, ...]
    enrolled_at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileChanged:
    """PROFILE_CHANGED: `attributes` and `segments` are whole, `changed` names those that differ."""

    attributes: Mapping[str, str]
    segments: tuple[str, ...]
    changed: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusChanged:
    """ACCOUNT_SUSPENDED or ACCOUNT_REACTIVATED."""

    status: MemberStatus
    reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileVersioned:
    """No event: the profile has a new version. The last fact of a command that changed it, so that a command makes one version at most."""

    operation: ProfileOperation
    changed: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceVersionApplied:
    """No event: this version of a source system's record is the newest that was applied."""

    source_system: str
    version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandRefused:
    """COMMAND_REFUSED: a rule said no."""

    refusal: Refusal


Fact = (
    PointsMoved | TierChanged | VoucherIssued | OfferActivated | MemberEnrolled | ProfileChanged | StatusChanged
    | ProfileVersioned | SourceVersionApplied | CommandRefused
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The answer to one command, and what follows from it, in order."""

    result: CommandResult
    facts: tuple[Fact, ...] = ()
    original: Outcome | None = None
    """Reverse: the outcome of the transaction that was taken back, with what is reversed of it now."""


def applied(*facts: Fact, original: Outcome | None = None) -> Decision:
    return Decision(result=CommandResult.APPLIED, facts=facts, original=original)


def refused(refusal: Refusal) -> Decision:
    return Decision(result=CommandResult.REFUSED, facts=(CommandRefused(refusal=refusal),))
