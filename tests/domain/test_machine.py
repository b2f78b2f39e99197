"""Properties: any sequence of commands keeps the invariants (machine.py), and earns come to the same in any order."""

import random
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas.contract import Command
from schemas.records import Account
from streams.domain.program import TierPolicy
from tests.domain.machine import CHOICES, POINTS, POLICIES, START, Member, program
from tests.domain.reference import DAY
from tests.domain.shell import Shell, activate, adjust, change, earn, enrol, received

SLOW = settings(deadline=None, database=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])

TestMember = Member.TestCase
TestMember.settings = settings(SLOW, max_examples=250, stateful_step_count=40)

EARNS = st.lists(st.tuples(POINTS, st.sampled_from([None, "spa"]), st.booleans(), st.integers(0, 3)), min_size=1, max_size=12)


@settings(SLOW, max_examples=80)
@given(EARNS, CHOICES, POLICIES, st.randoms(use_true_random=False))
def test_earns_adjustments_and_profiles_come_to_the_same_in_any_order(
    earns: list[tuple[int, str | None, bool, int]], choices: dict[str, Any], policy: TierPolicy, order: random.Random
) -> None:
    """I-18. For points that are given: what a computed earn gives depends on the tier that the earns before it led to."""
    commands: list[Command] = [
        earn(points, transaction_id=f"t{n}", category=category, occurred_at_ms=START - days * DAY)
        if qualifying else adjust(points, transaction_id=f"t{n}", occurred_at_ms=START - days * DAY)
        for n, (points, category, qualifying, days) in enumerate(earns)
    ]  # fmt: skip
    everything: list[Command] = [*commands, change("p", attributes={"a": "1"}), change("q", segments=("s",))]
    shuffled = list(everything)
    order.shuffle(shuffled)
    one, other = (_after(Shell(program=program(tier_policy=policy, **choices)), sequence) for sequence in (everything, shuffled))
    assert (one.available_points, one.pending_points, one.qualifying_points) == (other.available_points, other.pending_points, other.qualifying_points)
    assert (one.lots, one.qualifying, one.tier, one.tier_valid_until_ms) == (other.lots, other.qualifying, other.tier, other.tier_valid_until_ms)
    assert (one.attributes, one.segments) == (other.attributes, other.segments)


def _after(shell: Shell, commands: list[Command]) -> Account:
    first: list[Command] = [enrol("e", occurred_at_ms=START - 5 * DAY), activate("winter", "o", occurred_at_ms=START)]
    for number, command in enumerate([*first, *commands]):
        shell.settle(received(command, offset=number, ingested_at_ms=START))
    assert shell.account is not None
    return shell.account
