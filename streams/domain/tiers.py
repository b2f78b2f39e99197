"""qualifying points -> tier. Points that qualify are counted by period, apart from those that can be spent.

Promotion is immediate. A tier is lost at the end of its period, when it was not earned again, or, where the policy says so, by the reversal
of an earn that it rested on.
"""

from dataclasses import dataclass

from schemas.records import Account, MemberOperation, ProfileOperation, QualifyingBucket
from streams.domain.book import Book
from streams.domain.facts import ProfileVersioned, QualifyingCounted, TierChanged, TierRetained
from streams.domain.periods import add_days, start_of_day, start_of_membership_year, start_of_year
from streams.domain.program import DAY_MS, Demotion, Program, Tier, Window
from streams.domain.refusals import Refusal
from streams.domain.vouchers import issue

Buckets = tuple[QualifyingBucket, ...]


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


def rank_of(program: Program, tier_name: str) -> int:
    """0 for the first tier; -1 for one that the programme has no more: its members move to the tier of their points."""
    return next((rank for rank, tier in enumerate(program.tiers) if tier.name == tier_name), -1)


def bucket_start(program: Program, enrolled_at_ms: int, at_ms: int) -> int:
    """The period in which points of that effective time count: its first instant, 0 for a lifetime."""
    match program.tier_policy.window:
        case Window.CALENDAR_YEAR:
            return start_of_year(program.time_zone, at_ms)
        case Window.MEMBERSHIP_YEAR:
            return start_of_membership_year(program.time_zone, enrolled_at_ms, at_ms)
        case Window.ROLLING:
            return start_of_day(program.time_zone, at_ms)
        case _:
            return 0


def first_counting(program: Program, enrolled_at_ms: int, at_ms: int) -> int:
    """First instant of the oldest period that counts at that time."""
    if program.tier_policy.window is Window.ROLLING:
        today_ms = start_of_day(program.time_zone, at_ms)
        return start_of_day(program.time_zone, add_days(program.time_zone, today_ms, 1 - program.tier_policy.window_days))
    return bucket_start(program, enrolled_at_ms, at_ms)


def points_at(program: Program, enrolled_at_ms: int, buckets: Buckets, at_ms: int) -> int:
    """Qualifying points that count at that time."""
    first_ms = first_counting(program, enrolled_at_ms, at_ms)
    return sum(bucket.points for bucket in buckets if first_ms <= bucket.starts_at_ms <= at_ms)


def qualifying_at(program: Program, account: Account, at_ms: int) -> int:
    """The account's qualifying points as they count at that time: what is stored is as of the member's last record."""
    if program.tier_policy.window is Window.LIFETIME or not account.qualifying:
        return account.qualifying_points
    return points_at(program, account.enrolled_at_ms, account.qualifying, at_ms)


def count(book: Book, points_delta: int, effective_at_ms: int) -> None:
    """Add to, or take from, the points of the period of the effective time. A period never falls below 0."""
    account, program = book.account, book.program
    start_ms = bucket_start(program, account.enrolled_at_ms, effective_at_ms)
    points = {bucket.starts_at_ms: bucket.points for bucket in account.qualifying}
    points[start_ms] = max(0, points.get(start_ms, 0) + points_delta)
    _recount(book, points)


def roll(book: Book) -> None:
    """Let periods that have passed count no more."""
    account, program = book.account, book.program
    if program.tier_policy.window is not Window.LIFETIME and account.qualifying:
        if points_at(program, account.enrolled_at_ms, account.qualifying, book.now_ms) != account.qualifying_points:
            _recount(book, {bucket.starts_at_ms: bucket.points for bucket in account.qualifying})


def _recount(book: Book, points: dict[int, int]) -> None:
    account, program = book.account, book.program
    kept_from_ms = _kept_from(program, account, book.now_ms)
    buckets = tuple(QualifyingBucket(starts_at_ms=start, points=points[start]) for start in sorted(points) if start >= kept_from_ms and points[start])
    counting = points_at(program, account.enrolled_at_ms, buckets, book.now_ms)
    if buckets != account.qualifying or counting != account.qualifying_points:
        book.record(QualifyingCounted(buckets=buckets, points=counting))


def _kept_from(program: Program, account: Account, now_ms: int) -> int:
    """Periods are kept as long as they can matter: the one before the current one decides at its end, after the days of grace."""
    policy = program.tier_policy
    first_ms = first_counting(program, account.enrolled_at_ms, now_ms)
    match policy.window:
        case Window.CALENDAR_YEAR:
            return start_of_year(program.time_zone, first_ms, -1)
        case Window.MEMBERSHIP_YEAR:
            return start_of_membership_year(program.time_zone, account.enrolled_at_ms, first_ms, -1)
        case Window.ROLLING:
            return first_ms - (policy.grace_days + 1) * DAY_MS
        case _:
            return 0


def promote(book: Book) -> None:
    """Give the tier that the points have reached, if it is above the member's. An earn never demotes: thresholds that were raised since
    must not cost a member the tier on the next purchase."""
    account, program = book.account, book.program
    tier = tier_for(program, account.qualifying_points)
    if tier.name != account.tier and rank_of(program, tier.name) > rank_of(program, account.tier):
        change(book, tier, valid_until(program, account.enrolled_at_ms, book.now_ms))


def change(book: Book, tier: Tier, valid_until_ms: int | None, *, reward: bool = True) -> None:
    """TIER_CHANGED, a new version of the profile, and a promotion's reward."""
    account, program = book.account, book.program
    if rank_of(program, tier.name) == 0:
        valid_until_ms = None
    book.record(TierChanged(previous_tier=account.tier, tier=tier.name, valid_until_ms=valid_until_ms))
    book.record(ProfileVersioned(operation=ProfileOperation.TIER, changed=("tier",)))
    if reward and tier.reward_code is not None and rank_of(program, tier.name) > rank_of(program, account.tier):
        # Named by the number of the event, so that every promotion has a voucher of its own.
        issue(book, tier.reward_code, f"tier:{tier.name}:{book.account.event_sequence}", f"tier:{tier.name}", 0)


def valid_until(program: Program, enrolled_at_ms: int, at_ms: int) -> int | None:
    """When a tier that is given now is looked at again: at the end of the next period, after the days of grace. None: never."""
    policy, zone = program.tier_policy, program.time_zone
    match policy.window:
        case Window.CALENDAR_YEAR:
            end_ms = start_of_year(zone, at_ms, 2)
        case Window.MEMBERSHIP_YEAR:
            end_ms = start_of_membership_year(zone, enrolled_at_ms, at_ms, 2)
        case Window.ROLLING:
            end_ms = add_days(zone, at_ms, policy.window_days)
        case _:
            return None
    return add_days(zone, end_ms, policy.grace_days) if policy.grace_days else end_ms


def _reach(program: Program, account: Account, buckets: Buckets, at_ms: int) -> int:
    """The points on which a tier rests: those that count now, or those of the period before."""
    now_points = points_at(program, account.enrolled_at_ms, buckets, at_ms)
    if program.tier_policy.window in (Window.LIFETIME, Window.ROLLING):
        return now_points
    before_ms = first_counting(program, account.enrolled_at_ms, at_ms) - 1
    return max(now_points, points_at(program, account.enrolled_at_ms, buckets, before_ms))


def reach(book: Book) -> int:
    """The points on which the tier rests now."""
    return _reach(book.program, book.account, book.account.qualifying, book.now_ms)


def demote_after_reversal(book: Book, reach_before: int) -> None:
    """Costs the tier if it rested on points that a reversal has taken back, and the policy says so."""
    account, program = book.account, book.program
    current = next((tier for tier in program.tiers if tier.name == account.tier), None)
    if not program.tier_policy.demote_on_reversal or current is None:
        return
    reached = reach(book)
    if reached < current.threshold_points <= reach_before:
        change(book, tier_for(program, reached), account.tier_valid_until_ms)


def end_period(book: Book) -> None:
    """The tier's time is over (book.now_ms): it is kept if the period's points reach it, and lost if not."""
    account, program = book.account, book.program
    due_ms = account.tier_valid_until_ms
    assert due_ms is not None
    target, held = _rank_after(program, account, due_ms), rank_of(program, account.tier)
    rolling = program.tier_policy.window is Window.ROLLING
    next_ms = valid_until(program, account.enrolled_at_ms, due_ms if rolling else _last_of_period(program, due_ms))
    if target != held:
        change(book, program.tiers[target], next_ms)
    else:
        book.record(TierRetained(valid_until_ms=next_ms))


def _last_of_period(program: Program, due_ms: int) -> int:
    """Last millisecond of the period that decides about a tier that ends at `due_ms`, after its days of grace."""
    return add_days(program.time_zone, due_ms, -program.tier_policy.grace_days) - 1


def _reached_at(program: Program, account: Account, due_ms: int) -> int:
    """The points that decide at the end of a tier. What was earned in the days of grace counts as well, by itself: the better of the two
    periods decides."""
    at_end = points_at(program, account.enrolled_at_ms, account.qualifying, due_ms)
    if program.tier_policy.window is Window.ROLLING:
        return at_end
    return max(points_at(program, account.enrolled_at_ms, account.qualifying, _last_of_period(program, due_ms)), at_end)


def _rank_after(program: Program, account: Account, due_ms: int) -> int:
    """The rank of the tier that follows on a tier's end, with the points that are there."""
    target = rank_of(program, tier_for(program, _reached_at(program, account, due_ms)).name)
    held = rank_of(program, account.tier)
    if target >= held:
        return target
    match program.tier_policy.demotion:
        case Demotion.NEVER:
            return held
        case Demotion.ONE_STEP:
            return held - 1
        case Demotion.BALANCE_BASED:
            return target


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """What becomes of a tier if nothing more is earned."""

    projected_tier: str
    """The tier at the end of the current one; today's if it has no end."""
    points_to_keep: int | None
    """Qualifying points that the deciding period still lacks to keep the tier; None: it has no end."""


def outlook(program: Program, account: Account) -> Outlook:
    due_ms, held = account.tier_valid_until_ms, rank_of(program, account.tier)
    if due_ms is None or held < 0:
        return Outlook(projected_tier=account.tier, points_to_keep=None)
    missing = max(0, program.tiers[held].threshold_points - _reached_at(program, account, due_ms))
    return Outlook(projected_tier=program.tiers[_rank_after(program, account, due_ms)].name, points_to_keep=missing)


def decide_manual(book: Book, command: MemberOperation) -> Refusal | None:
    """SET_TIER: somebody gives a tier, up or down. It is looked at again like any other."""
    program, account = book.program, book.account
    tier = next((tier for tier in program.tiers if tier.name == command.tier), None)
    if tier is None:
        return Refusal.TIER_UNKNOWN
    until_ms = command.valid_until_ms if command.valid_until_ms is not None else valid_until(program, account.enrolled_at_ms, book.now_ms)
    if tier.name != account.tier:
        change(book, tier, until_ms, reward=False)
    elif until_ms != account.tier_valid_until_ms and rank_of(program, tier.name) > 0:
        book.record(TierRetained(valid_until_ms=until_ms))
    return None
