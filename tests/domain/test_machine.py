"""Properties: any sequence of commands keeps the invariants (machine.py), and earns come to the same in any order."""

import random

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas.contract import Command
from tests.domain.machine import POINTS, Member
from tests.domain.shell import NOW_MS, Shell, activate, adjust, change, earn

TestMember = Member.TestCase
TestMember.settings = settings(
    max_examples=300, stateful_step_count=50, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)

EARNS = st.lists(st.tuples(POINTS, st.sampled_from([None, "spa"]), st.booleans()), min_size=1, max_size=12)


@settings(deadline=None, max_examples=60)
@given(EARNS, st.randoms(use_true_random=False))
def test_earns_and_profiles_come_to_the_same_in_any_order(earns: list[tuple[int, str | None, bool]], order: random.Random) -> None:
    """I-18. For points that are given: what a computed earn gives depends on the tier that the earns before it led to."""
    commands: list[Command] = [
        earn(points, transaction_id=f"t{n}", category=category) if qualifying else adjust(points, transaction_id=f"t{n}")
        for n, (points, category, qualifying) in enumerate(earns)
    ]
    everything: list[Command] = [*commands, change("p", attributes={"a": "1"}), change("q", segments=("s",))]
    shuffled = list(everything)
    order.shuffle(shuffled)
    accounts = []
    for sequence in (everything, shuffled):
        shell = Shell().enrolled()
        for offer in ("double", "spa-week"):
            shell.send(activate(offer, occurred_at_ms=NOW_MS))
        for command in sequence:
            shell.send(command)
        assert shell.account is not None
        accounts.append(shell.account)
    one, other = accounts
    assert (one.available_points, one.qualifying_points, one.tier) == (other.available_points, other.qualifying_points, other.tier)
    assert (one.attributes, one.segments) == (other.attributes, other.segments)
