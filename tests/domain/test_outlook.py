"""What becomes of a tier if nothing more is earned: the same that happens when its time comes."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from streams.domain.program import Demotion, TierPolicy, Window
from streams.domain.tiers import Outlook, outlook
from tests.domain.shell import PROGRAM, Shell, earn


def ms(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


def member(policy: TierPolicy, *earns: tuple[str, int]) -> Shell:
    shell = Shell(program=replace(PROGRAM, tier_policy=policy)).enrolled(occurred_at_ms=ms("2026-03-10"))
    for day, points in earns:
        shell.send(earn(points, occurred_at_ms=ms(day)), ingested_at_ms=ms(day))
    return shell


def see(shell: Shell) -> Outlook:
    assert shell.account is not None
    return outlook(shell.program, shell.account)


YEARS = TierPolicy(window=Window.CALENDAR_YEAR)


@pytest.mark.parametrize(
    ("policy", "earns", "projected_tier", "points_to_keep"),
    [
        (TierPolicy(), [("2026-03-11", 5_000)], "gold", None),
        (YEARS, [("2026-03-11", 900)], "blue", None),
        (YEARS, [("2026-03-11", 5_000)], "blue", 5_000),
        (YEARS, [("2026-03-11", 5_000), ("2027-02-01", 1_200)], "silver", 3_800),
        (YEARS, [("2026-03-11", 5_000), ("2027-02-01", 5_000)], "gold", 0),
        (replace(YEARS, demotion=Demotion.ONE_STEP), [("2026-03-11", 5_000)], "silver", 5_000),
        (replace(YEARS, demotion=Demotion.NEVER), [("2026-03-11", 5_000)], "gold", 5_000),
        (TierPolicy(window=Window.ROLLING, window_days=90), [("2026-03-11", 5_000)], "blue", 5_000),
    ],
)
def test_the_outlook_is_what_happens(policy: TierPolicy, earns: list[tuple[str, int]], projected_tier: str, points_to_keep: int | None) -> None:
    shell = member(policy, *earns)
    assert see(shell) == Outlook(projected_tier=projected_tier, points_to_keep=points_to_keep)
    assert shell.account is not None
    if shell.account.tier_valid_until_ms is not None:
        shell.tick(shell.account.tier_valid_until_ms)
        assert shell.account.tier == projected_tier
