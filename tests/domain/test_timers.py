"""What happens by itself: in the order and with the effective time of its due instants, however many ticks there are and however late."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.records import LoyaltyEvent
from streams.domain.program import Expiry, ExpiryRule, Reward, TierPolicy, Window
from tests.domain.casework import DAY_MS, SUSPENDED, in_order, ms
from tests.domain.shell import PROGRAM, Shell, change, earn, hold, redeem

START = ms("2025-03-01 10:00")
PROGRAMME = replace(
    PROGRAM, pending_days=10, expiry=Expiry(rule=ExpiryRule.AFTER_DAYS, days=40), tier_policy=TierPolicy(window=Window.ROLLING, window_days=30),
    rewards={"SPA": Reward(reward_code="SPA", valid_days=25)},
)  # fmt: skip


def day(number: float) -> int:
    return START + round(number * DAY_MS)


def eventful() -> Shell:
    """Pending until day 10, a hold until day 20, a voucher until day 37, a status from day 35, a tier until day 30, an expiry on day 40."""
    shell = Shell(program=PROGRAMME).enrolled(occurred_at_ms=START)
    shell.send(earn(1_000, occurred_at_ms=day(0)), ingested_at_ms=day(0))
    shell.send(earn(50, occurred_at_ms=day(0), available_from_ms=day(5)), ingested_at_ms=day(0.5))
    shell.send(change(status=SUSPENDED, status_from_ms=day(35), occurred_at_ms=day(1)), ingested_at_ms=day(1))
    shell.send(redeem(10, reward_code="SPA", occurred_at_ms=day(12)), ingested_at_ms=day(12))
    shell.send(hold(100, expires_at_ms=day(20), occurred_at_ms=day(13)), ingested_at_ms=day(13))
    return shell


EXPECTED = [
    ("BALANCE_CHANGED", 20), ("TIER_CHANGED", 30), ("ACCOUNT_SUSPENDED", 35), ("VOUCHER_EXPIRED", 37), ("BALANCE_CHANGED", 40),
]  # fmt: skip


def told(events: Sequence[LoyaltyEvent]) -> list[tuple[str, float]]:
    return [(event.kind.value, (event.occurred_at_ms - START) / DAY_MS) for event in events]


def test_everything_happens_in_its_order_and_at_its_time() -> None:
    shell = eventful()
    before = len(shell.events)
    settlement = shell.tick(day(100))
    assert told(shell.events[before:]) == EXPECTED
    assert {event.cause.stream for event in shell.events[before:]} == {"ticks"}
    assert {event.cause.source_system for event in shell.events[before:]} == {"loyalty-sync"}
    assert [event.cause.command_id for event in settlement.events] == [f"due:{day(at)}" for _, at in EXPECTED]
    assert settlement.audit is None
    account = shell.account
    assert account is not None
    assert (account.available_points, account.held_points, account.tier, account.status, account.vouchers) == (0, 0, "blue", SUSPENDED, ())
    assert account.due_at_ms is None, "nothing is due any more"
    in_order(account, shell.entries)


def comparable(shell: Shell) -> list[Any]:
    """All that a reader sees, but for when the log saw the cause."""
    account = shell.account
    assert account is not None
    events = [replace(event, ingested_at_ms=0) for event in shell.events]
    entries = [replace(entry, ingested_at_ms=0, entry_hash="", previous_hash="") for entry in shell.entries]
    return [replace(account, entry_hash="", clock_ms=0), events, entries, shell.profiles and [replace(p, ingested_at_ms=0) for p in shell.profiles]]


@settings(deadline=None, max_examples=60)
@given(st.lists(st.floats(13, 60).map(lambda number: round(number * 4) / 4), max_size=12))
def test_neither_the_number_of_ticks_nor_their_delay_shows(days: list[float]) -> None:
    """I-16: Tick(a), Tick(b) come to the same as Tick(b), for the ledger and all that is told."""
    once, often = eventful(), eventful()
    for at in sorted(days):
        often.tick(day(at))
    for shell in (once, often):
        shell.tick(day(60))
    assert comparable(once) == comparable(often)


@pytest.mark.parametrize("at", [19.99, 20, 29.99, 30, 35, 37, 39.99, 40, 41])
def test_a_command_finds_what_a_tick_before_it_would_have_left(at: float) -> None:
    ticked, not_ticked = eventful(), eventful()
    ticked.tick(day(at))
    for shell in (ticked, not_ticked):
        shell.sent = 50
        shell.send(redeem(1, occurred_at_ms=day(at)), ingested_at_ms=day(at))
    assert comparable(ticked) == comparable(not_ticked)
    assert replace(ticked.audits[-1], changes=()) == replace(not_ticked.audits[-1], changes=())


def test_what_happened_by_itself_is_no_doing_of_the_command_that_came_then() -> None:
    shell = eventful()
    settlement = shell.send(redeem(1, occurred_at_ms=day(41), reason="coffee"), ingested_at_ms=day(41))
    causes = [(event.kind.value, event.cause.command_id, event.cause.reason) for event in settlement.events]
    assert causes[-1] == ("COMMAND_REFUSED", "c6", "coffee")
    assert all(command_id.startswith("due:") and reason is None for _, command_id, reason in causes[:-1])
    assert len(causes) == len(EXPECTED) + 1


def test_a_tick_before_anything_is_due_changes_nothing_that_is_told() -> None:
    shell = eventful()
    settlement = shell.tick(day(14))
    assert (settlement.events, settlement.entries, settlement.profiles, settlement.relays) == ((), (), (), ())
    assert (settlement.outcomes, settlement.vouchers) == ({}, {})


def test_a_late_tick_does_not_take_time_back() -> None:
    shell = eventful()
    shell.tick(day(20))
    account = shell.account
    shell.clock_ms = 0
    shell.tick(day(14))
    assert shell.account == account


def test_the_account_says_when_it_is_to_be_looked_at() -> None:
    shell = eventful()
    dues = []
    while shell.account is not None and shell.account.due_at_ms is not None:
        dues.append((shell.account.due_at_ms - START) / DAY_MS)
        shell.tick(shell.account.due_at_ms)
    assert dues == sorted(dues)
    assert set(dues) >= {at for _, at in EXPECTED}
    assert len(dues) <= len(EXPECTED) + 1, "at most one vain look"


def test_what_was_due_before_it_was_known_moves_points_with_its_own_time_but_behind_what_has_happened() -> None:
    """A late earn whose points have expired: pending, available and gone in its periods, and in the log's order after the earn."""
    shell = eventful()
    shell.tick(day(50))
    settlement = shell.send(earn(5, occurred_at_ms=day(0)), ingested_at_ms=day(51))
    assert told(settlement.events) == [("BALANCE_CHANGED", 0), ("BALANCE_CHANGED", 10), ("BALANCE_CHANGED", 40)]
    assert [entry.points_delta for entry in settlement.entries] == [5, 5, -5]
    assert [entry.account for entry in settlement.entries] == ["pending", "available", "available"]
    assert shell.account is not None and shell.account.clock_ms == day(51)


def test_points_never_leave_before_they_came() -> None:
    shell = eventful()
    settlement = shell.send(earn(5, occurred_at_ms=day(14), expires_at_ms=day(13), available_from_ms=day(12)), ingested_at_ms=day(15))
    assert told(settlement.events) == [("BALANCE_CHANGED", 14)] * 3


RULES = st.sampled_from([
    Expiry(), Expiry(rule=ExpiryRule.AFTER_DAYS, days=200), Expiry(rule=ExpiryRule.END_OF_MONTH, months=3), Expiry(rule=ExpiryRule.END_OF_YEAR),
    Expiry(rule=ExpiryRule.FIXED_DAY, days=100, month=4, day=1),
])  # fmt: skip
EARNED = st.lists(
    st.tuples(st.integers(0, 1_500), st.integers(1, 500), st.none() | st.integers(1, 900), st.none() | st.integers(1, 300)), min_size=1, max_size=6
)
"""Day, points; days until they expire and until they are available, if the row says so."""


@settings(max_examples=150, deadline=None)
@given(RULES, EARNED, st.integers(1_400, 3_000))
def test_a_loaded_past_moves_points_in_the_periods_in_which_they_would_have_moved(
    expiry: Expiry, rows: list[tuple[int, int, int | None, int | None]], loaded_on: int
) -> None:
    """The same earns at their times, and all of them long afterwards in any order: the same movements at the same effective times."""
    loaded_on = max(loaded_on, *(on for on, *_ in rows), 0)
    program = replace(PROGRAMME, expiry=expiry)
    commands = [
        earn(
            points, transaction_id=f"pms:{number}", occurred_at_ms=day(on), expires_at_ms=None if ends is None else day(on + ends),
            available_from_ms=None if begins is None else day(on + begins),
        )
        for number, (on, points, ends, begins) in enumerate(rows)
    ]  # fmt: skip
    then, loaded = (Shell(program=program).enrolled(occurred_at_ms=START) for _ in range(2))
    for command in sorted(commands, key=lambda one: one.occurred_at_ms):
        then.send(command, ingested_at_ms=command.occurred_at_ms)
    then.tick(day(loaded_on))
    for command in commands:
        loaded.send(command, ingested_at_ms=day(loaded_on))
    assert moved(then) == moved(loaded)
    balance = 0
    for (_, account, _), points in sorted(moved(loaded).items()):
        balance += points if account == "available" else 0
        assert balance >= 0, "as of every effective time"
    assert loaded.account is not None
    in_order(loaded.account, loaded.entries)


def moved(shell: Shell) -> Counter[tuple[int, str, str]]:
    """Effective time, account and kind -> points."""
    found: Counter[tuple[int, str, str]] = Counter()
    for entry in shell.entries:
        found[entry.occurred_at_ms, entry.account, entry.kind.value] += entry.points_delta
    return found


def test_two_members_of_one_instant_do_not_share_ids() -> None:
    ids = set()
    for member_id in ("m-1", "m-2"):
        shell = Shell(program=PROGRAMME).enrolled(member_id=member_id)
        shell.send(earn(5, member_id=member_id, expires_at_ms=day(1)))
        shell.tick(day(1))
        ids |= {event.event_id for event in shell.events} | {entry.entry_id for entry in shell.entries}
        assert (len(shell.events), len(shell.entries)) == (4, 3)
    assert len(ids) == 2 * (4 + 3)
