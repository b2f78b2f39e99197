"""qualifying points -> tier."""

from schemas.records import Account, ProfileOperation
from streams.domain.facts import Fact, ProfileVersioned, TierChanged
from streams.domain.program import Program, Tier


def tier_for(program: Program, qualifying_points: int) -> Tier:
    """The highest tier whose threshold is reached; exactly reached counts. The first one's threshold is 0, so there always is one."""
    reached = program.tiers[0]
    for tier in program.tiers[1:]:
        if qualifying_points < tier.threshold_points:
            break
        reached = tier
    return reached


def earn_percent(program: Program, tier_name: str) -> int:
    """What a member of the tier earns, in percent; 100 for a tier that the programme has no more."""
    for tier in program.tiers:
        if tier.name == tier_name:
            return tier.earn_percent
    return 100


def changes_of_tier(account: Account, program: Program, qualifying_points: int, *, may_demote: bool) -> tuple[Fact, ...]:
    """The facts that follow when the account has `qualifying_points` from now on; none if the tier stays.

    An earn never demotes: thresholds that were raised since must not cost a member the tier on the next purchase.
    """
    tier = tier_for(program, qualifying_points)
    if tier.name == account.tier:
        return ()
    if not may_demote and tier.threshold_points < _threshold_of(program, account.tier):
        return ()
    return (
        TierChanged(previous_tier=account.tier, tier=tier.name),
        ProfileVersioned(operation=ProfileOperation.TIER, changed=("tier",)),
    )


def _threshold_of(program: Program, tier_name: str) -> int:
    # A tier that the programme has no more ranks below all: its members move to the tier of their points.
    return next((tier.threshold_points for tier in program.tiers if tier.name == tier_name), -1)
