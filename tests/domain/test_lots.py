"""Many lots: how many an entry names, and how an account stays small."""

import pytest

from schemas.records import EntryKind
from streams.domain.lots import LOTS_MAX, PARTS_SHOWN_MAX
from tests.domain.casework import DAY_MS, HOUR_MS, in_order, ms
from tests.domain.shell import Shell, adjust, earn, hold, redeem, reverse

MORNING = ms("2030-06-01 08:00")


def with_lots(count: int, *, apart_ms: int, per_day: int = 10**9) -> Shell:
    """`count` lots of 1 point; every `per_day` of them expire on one day."""
    shell = Shell().enrolled()
    for number in range(count):
        shell.send(earn(1, expires_at_ms=MORNING + number // per_day * DAY_MS + number % per_day * apart_ms))
    return shell


@pytest.mark.parametrize(("count", "named", "in_the_last"), [(1, 1, 1), (63, 63, 1), (64, 64, 1), (65, 64, 2), (100, 64, 37)])
def test_an_entry_names_so_many_lots_and_sums_up_the_others(count: int, named: int, in_the_last: int) -> None:
    shell = with_lots(count, apart_ms=1)
    settlement = shell.send(redeem(count))
    (entry,) = settlement.entries
    assert (len(entry.lots), entry.lots[-1].points, sum(part.points for part in entry.lots)) == (named, in_the_last, count)
    assert (entry.lots[-1].lot_id == "") == (count > PARTS_SHOWN_MAX)
    assert len(settlement.events[0].lots) == named
    refund = shell.send(reverse(f"c{count + 1}"))
    assert refund.audit is not None and refund.audit.points_delta == count
    assert refund.account is not None and len(refund.account.lots) == count, "what an entry does not name is known all the same"


def test_up_to_so_many_lots_stay_what_they_are() -> None:
    shell = with_lots(LOTS_MAX, apart_ms=1)
    assert shell.account is not None
    assert [lot.lot_id for lot in shell.account.lots] == [f"c{number + 1}" for number in range(LOTS_MAX)]


def test_one_more_and_those_of_a_day_are_one_with_the_latest_expiry() -> None:
    shell = with_lots(LOTS_MAX + 1, apart_ms=1)
    account = shell.account
    assert account is not None
    assert [(lot.points, lot.remaining, lot.expires_at_ms) for lot in account.lots] == [(LOTS_MAX + 1, LOTS_MAX + 1, MORNING + LOTS_MAX)]
    assert account.available_points == LOTS_MAX + 1
    in_order(account, shell.entries)
    assert {entry.kind for entry in shell.entries} == {EntryKind.EARN}, "the journal says nothing of it"


def test_days_stay_apart() -> None:
    shell = with_lots(LOTS_MAX + 1, apart_ms=HOUR_MS, per_day=10)
    account = shell.account
    assert account is not None
    days = (LOTS_MAX + 1 + 9) // 10
    assert [lot.remaining for lot in account.lots] == [10] * (days - 1) + [1]
    for number, lot in enumerate(account.lots[:-1]):
        assert lot.expires_at_ms == MORNING + number * DAY_MS + 9 * HOUR_MS
    shell.tick(MORNING + 9 * HOUR_MS - 1)
    assert shell.account is not None and shell.account.available_points == LOTS_MAX + 1
    shell.tick(MORNING + 9 * HOUR_MS)
    assert shell.account.available_points == LOTS_MAX + 1 - 10


def test_two_of_a_day_are_enough() -> None:
    shell = with_lots(LOTS_MAX + 1, apart_ms=HOUR_MS, per_day=2)
    assert shell.account is not None
    assert [lot.remaining for lot in shell.account.lots] == [2] * (LOTS_MAX // 2) + [1]


def test_a_lot_of_many_is_as_old_as_the_oldest() -> None:
    shell = Shell().enrolled()
    for number in range(LOTS_MAX + 1):
        shell.send(earn(1, occurred_at_ms=2_000 - number))
    assert shell.account is not None
    assert [(lot.remaining, lot.earned_at_ms, lot.expires_at_ms) for lot in shell.account.lots] == [(LOTS_MAX + 1, 2_000 - LOTS_MAX, None)]


def test_held_and_pending_points_are_left_alone() -> None:
    shell = Shell().enrolled()
    shell.send(earn(1, expires_at_ms=MORNING))
    shell.send(hold(1))
    shell.send(earn(1, expires_at_ms=MORNING, pending=True))
    for number in range(LOTS_MAX - 1):
        shell.send(earn(1, expires_at_ms=MORNING + number))
    account = shell.account
    assert account is not None
    assert sorted((lot.remaining, lot.held, lot.pending) for lot in account.lots) == [(0, 1, False), (1, 0, True), (LOTS_MAX - 1, 0, False)]
    in_order(account, shell.entries)


def test_what_was_gathered_can_be_reversed_and_refunded() -> None:
    shell = with_lots(LOTS_MAX + 1, apart_ms=1)
    shell.send(adjust(5))
    reversal = shell.send(reverse("c7"))
    assert reversal.audit is not None and (reversal.audit.reason, reversal.audit.points_delta) == (None, -1)
    shell.send(redeem(LOTS_MAX + 5))
    shell.send(reverse(f"c{shell.sent}"))
    account = shell.account
    assert account is not None and account.available_points == LOTS_MAX + 5
    in_order(account, shell.entries)
