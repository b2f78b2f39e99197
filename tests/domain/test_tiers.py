"""Tiers against a recomputation from the journal, and what is told of them."""

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.records import LoyaltyEventKind, ProfileOperation
from streams.domain.program import Demotion, TierPolicy, Window
from streams.domain.tiers import earn_percent, rank_of, tier_for
from tests.domain import cases
from tests.domain.casework import DAY_MS, ms, play
from tests.domain.shell import PROGRAM, Shell, adjust, earn, reverse

START = ms("2024-11-01 10:00")
KINDS = LoyaltyEventKind


@pytest.mark.parametrize(
    ("points", "tier"),
    [(0, "blue"), (1, "blue"), (999, "blue"), (1_000, "silver"), (1_001, "silver"), (4_999, "silver"), (5_000, "gold"), (2**62, "gold")],
)
def test_the_tier_of_so_many_points(points: int, tier: str) -> None:
    assert tier_for(PROGRAM, points).name == tier


def test_a_tier_that_the_programme_has_no_more() -> None:
    assert (rank_of(PROGRAM, "platinum"), earn_percent(PROGRAM, "platinum")) == (-1, 100)
    assert [(rank_of(PROGRAM, tier.name), earn_percent(PROGRAM, tier.name)) for tier in PROGRAM.tiers] == [(0, 100), (1, 125), (2, 150)]


STEPS = st.lists(st.tuples(st.integers(0, 120), st.sampled_from([1, 300, 500, 999, 1_000, 4_000])), min_size=1, max_size=12)


def year_of(at_ms: int) -> int:
    return datetime.fromtimestamp(at_ms / 1000, UTC).year


@settings(deadline=None, max_examples=80)
@given(STEPS, st.booleans())
def test_qualifying_points_of_a_year_are_a_sum_over_the_journal(steps: list[tuple[int, int]], some_reversed: bool) -> None:
    """I-23: by effective time, whatever the order; a naive fold of the entries comes to the same as the buckets."""
    program = replace(PROGRAM, idempotency_days=10_000, tier_policy=TierPolicy(window=Window.CALENDAR_YEAR))
    shell, now_ms = Shell(program=program).enrolled(occurred_at_ms=START), START + 120 * DAY_MS
    for number, (day, points) in enumerate(steps):
        shell.send(earn(points, transaction_id=f"e{number}", occurred_at_ms=START + day * DAY_MS), ingested_at_ms=now_ms)
    if some_reversed:
        for number in range(0, len(steps), 2):
            shell.send(reverse(f"e{number}"), ingested_at_ms=now_ms)
    by_year: Counter[int] = Counter()
    earned_at = {entry.transaction_id: entry.occurred_at_ms for entry in shell.entries}
    for entry in shell.entries:
        by_year[year_of(earned_at[entry.reverses_transaction_id or entry.transaction_id])] += entry.points_delta
    account = shell.account
    assert account is not None
    assert account.qualifying_points == by_year[year_of(now_ms)]
    assert {year_of(bucket.starts_at_ms): bucket.points for bucket in account.qualifying} == {year: points for year, points in by_year.items() if points}


@settings(deadline=None, max_examples=80)
@given(STEPS, st.sampled_from(list(Window)), st.sampled_from(list(Demotion)), st.integers(0, 20))
def test_the_told_tiers_lead_to_the_tier(steps: list[tuple[int, int]], window: Window, demotion: Demotion, grace_days: int) -> None:
    """I-25: each event leads on from the one before, none is told when nothing changed; and the tier is never below that of the points."""
    policy = TierPolicy(window=window, window_days=60, demotion=demotion, grace_days=grace_days)
    shell = Shell(program=replace(PROGRAM, tier_policy=policy)).enrolled(occurred_at_ms=START)
    for number, (day, points) in enumerate(sorted(steps)):
        at_ms = START + 7 * day * DAY_MS
        shell.send(earn(points, transaction_id=f"e{number}", occurred_at_ms=at_ms), ingested_at_ms=at_ms)
        account = shell.account
        assert account is not None
        assert rank_of(PROGRAM, account.tier) >= rank_of(PROGRAM, tier_for(PROGRAM, account.qualifying_points).name)
        assert (account.tier_valid_until_ms is None) == (account.tier == "blue" or window is Window.LIFETIME)
    shell.tick(START + 3_000 * DAY_MS)
    tier = "blue"
    for event in shell.events:
        if event.kind is KINDS.TIER_CHANGED:
            assert event.previous_tier == tier != event.account.tier
            tier = event.account.tier
        assert event.account.tier == tier
    account = shell.account
    assert account is not None and account.tier == tier
    if window is not Window.LIFETIME and demotion is not Demotion.NEVER:
        assert tier == "blue", "in the end nothing is left of it"
    tiers = [profile.tier for profile in shell.profiles if profile.operation is ProfileOperation.TIER]
    assert tiers == [event.account.tier for event in shell.events if event.kind is KINDS.TIER_CHANGED]


@pytest.mark.parametrize("table", cases.TABLES)
def test_no_case_tells_of_a_tier_that_did_not_change(table: str) -> None:
    for case in cases.TABLES[table]:
        shell, _ = play(case)
        tier = case.program.tiers[0].name
        for event in shell.events:
            if event.kind is KINDS.TIER_CHANGED:
                assert event.previous_tier == tier != event.account.tier, case.name
                tier = event.account.tier
            assert event.account.tier == tier, case.name


def test_a_promotion_says_how_long_it_lasts() -> None:
    shell = Shell(program=replace(PROGRAM, tier_policy=TierPolicy(window=Window.CALENDAR_YEAR, grace_days=31))).enrolled(occurred_at_ms=START)
    settlement = shell.send(earn(1_000, occurred_at_ms=START), ingested_at_ms=START)
    assert settlement.events[-1].account.tier_valid_until_ms == ms("2026-02-01 00:00")
    shell.send(earn(1_000, occurred_at_ms=ms("2026-01-31 10:00")), ingested_at_ms=ms("2026-01-31 10:00"))
    (event,) = shell.tick(ms("2026-02-01 00:00")).events
    assert (event.kind, event.account.tier) == (KINDS.TIER_RETAINED, "silver")
    assert event.occurred_at_ms == ms("2026-02-01 00:00")
    assert event.account.tier_valid_until_ms == ms("2027-02-01 00:00")


def test_old_periods_are_forgotten_when_they_can_matter_no_more() -> None:
    shell = Shell(program=replace(PROGRAM, tier_policy=TierPolicy(window=Window.CALENDAR_YEAR))).enrolled(occurred_at_ms=START)
    for year in range(2020, 2030):
        at_ms = ms(f"{year}-06-01 10:00")
        shell.send(earn(10, occurred_at_ms=at_ms), ingested_at_ms=at_ms)
    assert shell.account is not None
    assert [year_of(bucket.starts_at_ms) for bucket in shell.account.qualifying] == [2028, 2029]


def test_a_late_earn_of_a_forgotten_period_counts_for_nothing() -> None:
    shell = Shell(program=replace(PROGRAM, tier_policy=TierPolicy(window=Window.CALENDAR_YEAR))).enrolled(occurred_at_ms=START)
    shell.send(adjust(1, occurred_at_ms=START), ingested_at_ms=ms("2029-06-01 10:00"))
    shell.send(earn(1_000, occurred_at_ms=ms("2024-06-01 10:00")), ingested_at_ms=ms("2029-06-01 10:00"))
    assert shell.account is not None
    assert (shell.account.available_points, shell.account.qualifying, shell.account.tier) == (1_001, (), "blue")
