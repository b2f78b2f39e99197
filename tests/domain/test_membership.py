"""What concerns two members: transfers, merges, pools; and erasure, after which nothing personal is told any more."""

from dataclasses import replace
from typing import Any

import orjson
import pytest

from schemas.records import (
    Account,
    CommandResult,
    EntryKind,
    LoyaltyEventKind,
    MemberOperation,
    MemberOperationKind,
    MemberStatus,
    RelayKind,
    VoucherState,
)
from streams.domain.desk import Settlement
from streams.domain.program import Offer, ReversalPolicy, Reward, TierPolicy, Window
from streams.domain.refusals import Refusal
from tests.domain.casework import answer, ms
from tests.domain.family import Family
from tests.domain.shell import (
    PROGRAM,
    activate,
    adjust,
    cancel_voucher,
    capture,
    change,
    earn,
    hold,
    make_available,
    operate,
    redeem,
    redeem_voucher,
    reverse,
    transfer,
    void,
)

T = 50_000
SHOP = replace(
    PROGRAM, rewards={"SPA": Reward(reward_code="SPA", points=50, valid_days=10)},
    offers={**PROGRAM.offers, "rare": Offer(offer_id="rare", bonus_points=10, cap_points=10, budget_points=20)},
)  # fmt: skip
UNLIMITED = replace(PROGRAM, reversal=ReversalPolicy.UNLIMITED)
TWO = {"member_id": "m-2"}
THREE = {"member_id": "m-3"}


def merge(source: str = "m-1", target: str = "m-2", event_id: str = "") -> MemberOperation:
    return operate(MemberOperationKind.MERGE, event_id, member_id=source, target_member_id=target)


def join(member_id: str = "m-1", pool: str = "m-2") -> MemberOperation:
    return operate(MemberOperationKind.JOIN_POOL, member_id=member_id, target_member_id=pool)


def points(family: Family, *member_ids: str) -> tuple[int, ...]:
    return tuple(family.account(member_id).available_points for member_id in member_ids)


def lots(account: Account) -> list[tuple[int, int | None, bool]]:
    return [(lot.remaining, lot.expires_at_ms, lot.pending) for lot in account.lots]


# Transfers.


def test_points_are_under_way_until_they_arrive() -> None:
    family = Family.of("m-1", "m-2")
    family.send(earn(100))
    family.send(transfer(60, "m-2"))
    assert points(family, "m-1", "m-2") == (40, 0)
    assert family.points()["in_transit"] == 60
    family.in_order()
    (relay,) = family.deliver()
    assert (relay.kind, relay.from_member_id, relay.origin.command_id) == (RelayKind.TRANSFER_IN, "m-1", "c3")
    assert points(family, "m-1", "m-2") == (40, 60)
    assert family.points()["in_transit"] == 0
    (entry,) = family.shell("m-2").entries
    assert (entry.kind, entry.counter_member_id, entry.counter_account, entry.transaction_id) == (EntryKind.TRANSFER_IN, "m-1", "in_transit", "c3")
    family.in_order()


def test_nobody_gains_time_by_passing_points_on() -> None:
    family = Family.of("m-1", "m-2")
    family.does(earn(10, expires_at_ms=T), earn(10), earn(10, expires_at_ms=T + 5), earn(10, expires_at_ms=T), transfer(35, "m-2"))
    assert lots(family.account("m-2")) == [(20, T, False), (10, T + 5, False), (5, None, False)]
    assert lots(family.account("m-1")) == [(5, None, False)]
    family.tick(T)
    assert points(family, "m-1", "m-2") == (5, 15)


def test_what_expires_under_way_has_expired_when_it_arrives() -> None:
    family = Family.of("m-1", "m-2")
    family.does(earn(10, expires_at_ms=T))
    family.send(transfer(10, "m-2"))
    family.now_ms = T - 1
    family.deliver()
    assert points(family, "m-1", "m-2") == (0, 0)
    assert [(entry.kind, entry.points_delta) for entry in family.shell("m-2").entries] == [(EntryKind.TRANSFER_IN, 10), (EntryKind.EXPIRY, -10)]
    family.in_order()


def test_a_transfer_that_is_read_twice_counts_once() -> None:
    family = Family.of("m-1", "m-2")
    family.does(earn(100))
    family.send(transfer(60, "m-2"))
    family.deliver(twice=True)
    assert points(family, "m-1", "m-2") == (40, 60)
    family.in_order()


def test_a_transfer_that_is_sent_twice_counts_once() -> None:
    family = Family.of("m-1", "m-2")
    family.does(earn(100), transfer(60, "m-2", transaction_id="x"), transfer(60, "m-2", transaction_id="x"))
    assert points(family, "m-1", "m-2") == (40, 60)
    assert len(family.delivered) == 1


@pytest.mark.parametrize("twice", [False, True])
def test_a_transfer_to_nobody_comes_back_with_its_expiry(twice: bool) -> None:
    family = Family.of("m-1")
    family.send(earn(100, expires_at_ms=T))
    family.send(transfer(60, "m-9"))
    way = [(relay.kind, relay.member_id, relay.from_member_id) for relay in family.deliver(twice=twice)]
    assert way == [(RelayKind.TRANSFER_IN, "m-9", "m-1")] + [(RelayKind.TRANSFER_BACK, "m-1", "m-9")] * (1 + twice)
    assert sorted(lots(family.account("m-1"))) == [(40, T, False), (60, T, False)]
    last = family.shell("m-1").entries[-1]
    assert (last.kind, last.counter_member_id, last.balance_after) == (EntryKind.TRANSFER_RETURN, "m-9", 100)
    family.in_order()


def test_a_transfer_to_an_erased_member_comes_back() -> None:
    family = Family.of("m-1", "m-2")
    family.does(operate(MemberOperationKind.ERASE, **TWO), earn(100), transfer(60, "m-2"))
    assert points(family, "m-1", "m-2") == (100, 0)
    family.in_order()


def test_what_comes_back_to_an_erased_member_is_taken() -> None:
    family = Family.of("m-1")
    family.does(earn(100))
    family.send(transfer(60, "m-9"))
    family.send(operate(MemberOperationKind.ERASE))
    family.deliver()
    assert points(family, "m-1") == (100,)
    family.in_order()


def test_a_suspended_member_receives() -> None:
    family = Family.of("m-1", "m-2")
    family.does(change(status=MemberStatus.SUSPENDED, **TWO), earn(100), transfer(60, "m-2"))
    assert points(family, "m-1", "m-2") == (40, 60)


def test_points_that_arrive_pay_a_debt() -> None:
    family = Family.of("m-1", "m-2", program=UNLIMITED)
    family.does(earn(50, transaction_id="e", **TWO), redeem(50, **TWO), reverse("e", **TWO), earn(100), transfer(60, "m-2"))
    target = family.account("m-2")
    assert (target.available_points, target.debt_points) == (10, 0)
    family.in_order()


def test_transferred_points_do_not_count_for_the_tier() -> None:
    family = Family.of("m-1", "m-2")
    family.does(earn(1_000), transfer(1_000, "m-2"))
    assert [(family.account(m).tier, family.account(m).qualifying_points) for m in ("m-1", "m-2")] == [("silver", 1_000), ("blue", 0)]


# Pools.


def test_what_a_member_of_a_pool_earns_is_the_pools() -> None:
    family = Family.of("m-1", "m-2")
    family.does(earn(5), join(), earn(1_000, expires_at_ms=T))
    assert points(family, "m-1", "m-2") == (5, 1_000)
    assert lots(family.account("m-2")) == [(1_000, T, False)]
    assert [(family.account(m).tier, family.account(m).qualifying_points) for m in ("m-1", "m-2")] == [("silver", 1_005), ("blue", 0)]
    assert [entry.kind for entry in family.shell("m-1").entries] == [EntryKind.EARN, EntryKind.EARN, EntryKind.POOL_OUT]
    assert [entry.kind for entry in family.shell("m-2").entries] == [EntryKind.POOL_IN]
    family.in_order()


def test_a_debt_is_paid_before_anything_goes_to_the_pool() -> None:
    family = Family.of("m-1", "m-2", program=UNLIMITED)
    family.does(earn(60, transaction_id="e"), redeem(60), reverse("e"), join(), earn(100))
    assert points(family, "m-1", "m-2") == (0, 40)
    assert family.account("m-1").debt_points == 0
    family.in_order()


def test_pending_points_go_to_the_pool_when_they_are_available() -> None:
    family = Family.of("m-1", "m-2")
    family.does(join(), earn(100, pending=True, transaction_id="e"))
    assert points(family, "m-1", "m-2") == (0, 0)
    family.does(make_available("e"))
    assert points(family, "m-1", "m-2") == (0, 100)
    family.in_order()


@pytest.mark.parametrize("twice", [False, True])
def test_a_pool_that_is_nobody_gives_back(twice: bool) -> None:
    family = Family.of("m-1")
    family.send(join(pool="m-9"))
    family.send(earn(100))
    family.deliver(twice=twice)
    assert points(family, "m-1") == (100,)
    family.in_order()


def test_who_left_a_pool_keeps_what_comes_then() -> None:
    family = Family.of("m-1", "m-2")
    family.does(join(), earn(100), operate(MemberOperationKind.LEAVE_POOL), earn(7))
    assert points(family, "m-1", "m-2") == (7, 100)


# Merges.


def merged(*commands: Any, program: Any = PROGRAM, twice: bool = False) -> Family:
    """m-1 and m-2 do what the commands say, and m-1 is merged into m-2."""
    family = Family.of("m-1", "m-2", program=program)
    if commands:
        family.does(*commands)
    before = sums(family)
    family.send(merge())
    family.in_order()
    family.deliver(twice=twice)
    family.in_order()
    assert sums(family) == before, "a merge changes no sum (I-20)"
    return family


def sums(family: Family) -> dict[str, int]:
    """All accounts; points and debts, which the one pays with the other's, in one."""
    found = family.points()
    found["available"] += found.pop("debt", 0)
    return {name: points for name, points in found.items() if points}


@pytest.mark.parametrize("twice", [False, True])
def test_everything_moves(twice: bool) -> None:
    family = merged(
        earn(100, expires_at_ms=T), earn(30, pending=True, transaction_id="p"), earn(7, available_from_ms=T), earn(5, **TWO), twice=twice
    )  # fmt: skip
    source, target = family.account("m-1"), family.account("m-2")
    assert (source.status, source.merged_into, source.available_points, source.pending_points, source.qualifying_points) == (
        MemberStatus.MERGED, "m-2", 0, 0, 0,
    )  # fmt: skip
    assert (source.lots, source.vouchers, source.tier_valid_until_ms) == ((), (), None)
    assert sorted(lots(target), key=str) == sorted([(100, T, False), (30, None, True), (7, None, True), (5, None, False)], key=str)
    assert (target.available_points, target.pending_points, target.qualifying_points, target.moved_from) == (105, 37, 142, ("m-1",))
    family.does(make_available("p"))
    assert family.account("m-2").available_points == 135, "sent to the old name"
    family.tick(T)
    assert family.account("m-2").available_points == 135 + 7 - 100
    family.in_order()


def test_a_merge_that_is_sent_twice_counts_once() -> None:
    family = Family.of("m-1", "m-2")
    family.does(earn(100), merge(event_id="x"), merge(event_id="x"))
    assert points(family, "m-1", "m-2") == (0, 100)
    assert [audit.replayed for audit in family.shell("m-1").audits[2:]] == [False, True]


def test_a_debt_is_the_targets() -> None:
    owing = (earn(60, transaction_id="e"), redeem(60), reverse("e"))
    family = merged(*owing, earn(100, **TWO), program=UNLIMITED)
    assert (family.account("m-2").available_points, family.account("m-2").debt_points) == (40, 0)
    assert family.account("m-1").debt_points == 0
    family = merged(*owing, earn(50, **TWO), program=UNLIMITED)
    assert (family.account("m-2").available_points, family.account("m-2").debt_points) == (0, 10)


def test_points_of_the_source_pay_the_targets_debt() -> None:
    family = merged(
        earn(60, transaction_id="e", **TWO), redeem(60, **TWO), reverse("e", **TWO), earn(100, expires_at_ms=T), program=UNLIMITED
    )  # fmt: skip
    assert lots(family.account("m-2")) == [(40, T, False)]
    assert family.account("m-2").debt_points == 0


def test_vouchers_are_the_targets() -> None:
    family = merged(earn(100), redeem(50, reward_code="SPA"), program=SHOP)
    (opened,) = family.account("m-2").vouchers
    code = opened.voucher_code
    assert family.account("m-1").vouchers == ()
    family.does(redeem_voucher(code, **TWO))
    assert family.account("m-2").vouchers == ()
    assert answer(family.does(redeem_voucher(code, **TWO))) is Refusal.VOUCHER_ALREADY_REDEEMED


def test_a_voucher_that_moved_is_cancelled_at_its_price() -> None:
    family = merged(earn(100), redeem(50, reward_code="SPA"), program=SHOP)
    (opened,) = family.account("m-2").vouchers
    family.does(cancel_voucher(opened.voucher_code))
    assert [voucher.state for voucher in family.shell("m-2").vouchers.values()] == [VoucherState.CANCELLED]
    assert family.account("m-2").available_points == 100
    family.in_order()


def test_a_voucher_that_moved_expires_once() -> None:
    family = merged(earn(100), redeem(50, reward_code="SPA"), program=SHOP)
    family.tick(1_500 + 10 * 24 * 3_600_000)
    assert [[e.kind.value for e in family.shell(m).events].count("VOUCHER_EXPIRED") for m in ("m-1", "m-2")] == [0, 1]


@pytest.mark.parametrize(
    ("source", "target", "tier", "qualifying"),
    [
        (0, 0, "blue", 0), (1_000, 0, "silver", 1_000), (0, 1_000, "silver", 1_000), (999, 1, "silver", 1_000), (500, 499, "blue", 999),
        (5_000, 1_000, "gold", 6_000), (1_000, 4_000, "gold", 5_000),
    ],
)  # fmt: skip
def test_qualifying_points_add_up_and_the_higher_tier_stays(source: int, target: int, tier: str, qualifying: int) -> None:
    earns = [*([earn(source)] if source else []), *([earn(target, **TWO)] if target else [])]
    account = merged(*earns).account("m-2")
    assert (account.tier, account.qualifying_points) == (tier, qualifying)


def test_a_tier_that_somebody_gave_goes_along_with_its_end() -> None:
    program = replace(PROGRAM, tier_policy=TierPolicy(window=Window.CALENDAR_YEAR))
    until_ms = ms("2030-06-01 00:00")
    account = merged(operate(MemberOperationKind.SET_TIER, tier="gold", valid_until_ms=until_ms), program=program).account("m-2")
    assert (account.tier, account.tier_valid_until_ms) == ("gold", until_ms)


def test_offers_go_along_and_go_on() -> None:
    family = merged(activate("double"), earn(100))
    assert family.account("m-2").active_offers == ("double",)
    family.does(earn(10, **TWO))
    assert family.account("m-2").available_points == 220


def test_a_budget_that_answers_after_the_merge_answers_the_target() -> None:
    family = Family.of("m-1", "m-2", program=SHOP)
    family.send(activate("rare"))
    ask = family.under_way.pop()
    family.send(merge())
    family.deliver()
    family.under_way.append(ask)
    family.deliver()
    assert family.account("m-2").active_offers == ("rare",)
    assert [(audit.member_id, audit.result) for audit in family.shell("m-2").audits[1:]] == [("m-2", CommandResult.APPLIED)]


def test_an_open_hold_is_in_the_way_of_a_merge() -> None:
    family = Family.of("m-1", "m-2")
    family.does(earn(100), hold(10, transaction_id="h"))
    assert answer(family.does(merge())) is Refusal.HOLDS_OPEN
    assert answer(family.does(void("h"))) is CommandResult.APPLIED
    assert answer(family.does(merge())) is CommandResult.APPLIED
    assert points(family, "m-1", "m-2") == (0, 100)


def test_the_targets_own_hold_is_not() -> None:
    family = merged(earn(100), earn(100, **TWO), hold(60, transaction_id="h", **TWO))
    family.does(capture("h", **TWO))
    assert family.account("m-2").available_points == 140


def decided(family: Family, command: Any) -> Settlement:
    """The command for the old name, decided by whoever took over: the settlement of the last relay."""
    audits = {member: len(shell.audits) for member, shell in family.shells.items()}
    assert family.send(command).audit is None, "a merged member answers nothing"
    family.deliver()
    (shell,) = [shell for member, shell in family.shells.items() if len(shell.audits) > audits[member]]
    family.in_order()
    return Settlement(account=shell.account, outcomes={}, vouchers={}, audit=shell.audits[-1])


def test_commands_for_the_old_name_reach_the_target() -> None:
    family = merged(earn(100))
    last = decided(family, earn(10))
    assert last.audit is not None and (last.audit.member_id, last.audit.result) == ("m-2", CommandResult.APPLIED)
    assert answer(decided(family, redeem(200))) is Refusal.INSUFFICIENT_POINTS
    assert answer(decided(family, redeem(110, transaction_id="r"))) is CommandResult.APPLIED
    assert points(family, "m-1", "m-2") == (0, 0)
    again = decided(family, redeem(110, transaction_id="r"))
    assert again.audit is not None and again.audit.replayed
    assert answer(decided(family, redeem(111, transaction_id="r"))) is CommandResult.CONFLICT


def test_what_the_source_answered_before_it_answers_again() -> None:
    family = merged(earn(100, transaction_id="x"))
    settlement = family.send(earn(100, transaction_id="x"))
    assert settlement.audit is not None and settlement.audit.replayed and family.under_way == []


def test_two_members_may_have_used_the_same_id() -> None:
    family = merged(earn(100, transaction_id="x"), earn(7, transaction_id="x", **TWO))
    assert family.account("m-2").available_points == 107
    decided(family, reverse("x"))
    assert family.account("m-2").available_points == 7
    family.does(reverse("x", **TWO))
    assert family.account("m-2").available_points == 0
    family.in_order()


@pytest.mark.parametrize(
    ("before", "named", "available"),
    [
        ((earn(100, transaction_id="x"),), "x", 0),
        ((earn(100, transaction_id="x"), redeem(60)), "x", 0),
        ((earn(100, transaction_id="x"), redeem(100)), "x", 0),
        ((earn(100), redeem(60, transaction_id="x")), "x", 100),
        ((earn(100), redeem(100, transaction_id="x")), "x", 100),
        ((earn(100, transaction_id="e"), redeem(100, transaction_id="x"), reverse("e")), "x", 100),
        ((adjust(100, transaction_id="x"),), "x", 0),
        ((earn(100), hold(60, transaction_id="h"), capture("h", transaction_id="x")), "x", 100),
    ],
    ids=["earn", "earn, partly spent", "earn, spent", "redemption", "redemption of all", "redemption of a reversed earn", "adjustment", "capture"],
)
def test_what_the_source_did_can_be_reversed_at_the_target_once(before: Any, named: str, available: int) -> None:
    family = merged(*before)
    assert answer(decided(family, reverse(named))) is CommandResult.APPLIED
    assert family.account("m-2").available_points == available
    assert answer(decided(family, reverse(named))) is Refusal.ALREADY_REVERSED
    assert family.account("m-2").available_points == available


def test_what_was_reversed_before_the_merge_is_not_reversed_again() -> None:
    family = merged(earn(100, transaction_id="x"), reverse("x", 30))
    assert answer(decided(family, reverse("x", 71))) is Refusal.REVERSAL_TOO_LARGE
    assert answer(decided(family, reverse("x", 70))) is CommandResult.APPLIED
    assert answer(decided(family, reverse("x", 1))) is Refusal.ALREADY_REVERSED
    assert family.account("m-2").available_points == 0


def test_what_never_was_is_not_found_under_the_new_name_either() -> None:
    assert answer(decided(merged(earn(100)), reverse("never"))) is Refusal.TRANSACTION_NOT_FOUND


def test_a_transfer_to_the_old_name_reaches_the_target() -> None:
    family = Family.of("m-1", "m-2", "m-3")
    family.does(earn(100, **THREE), merge(), transfer(60, "m-1", **THREE))
    assert points(family, "m-1", "m-2", "m-3") == (0, 60, 40)
    family.in_order()


def test_a_transfer_under_way_at_the_merge_reaches_the_target() -> None:
    family = Family.of("m-1", "m-2", "m-3")
    family.does(earn(100, **THREE))
    family.send(transfer(60, "m-1", **THREE))
    family.send(merge())
    family.deliver()
    assert points(family, "m-1", "m-2", "m-3") == (0, 60, 40)
    family.in_order()


def test_merged_and_merged_again() -> None:
    family = Family.of("m-1", "m-2", "m-3")
    family.does(earn(1, transaction_id="x"), merge(), merge("m-2", "m-3"))
    assert points(family, "m-1", "m-2", "m-3") == (0, 0, 1)
    decided(family, earn(10))
    assert points(family, "m-1", "m-2", "m-3") == (0, 0, 11)
    assert answer(decided(family, reverse("x"))) is CommandResult.APPLIED
    assert points(family, "m-1", "m-2", "m-3") == (0, 0, 10)


@pytest.mark.parametrize("twice", [False, True])
def test_a_merge_into_nobody_comes_back_and_the_member_is_what_it_was(twice: bool) -> None:
    family = Family.of("m-1", program=SHOP)
    family.does(
        earn(1_000, expires_at_ms=T), earn(9, pending=True), redeem(50, reward_code="SPA"),
        activate("double"),
    )  # fmt: skip
    before = family.account("m-1")
    family.send(merge(target="m-9"))
    assert [relay.kind for relay in family.deliver(twice=twice)] == [RelayKind.MERGE_IN] + [RelayKind.MERGE_BACK] * (1 + twice)
    after = family.account("m-1")
    numbers = ("event_sequence", "entry_sequence", "entry_hash", "profile_version", "clock_ms", "due_at_ms")
    assert replace(after, **{name: getattr(before, name) for name in numbers}) == before  # type: ignore[arg-type]
    assert after.due_at_ms == before.due_at_ms == T
    assert answer(family.does(redeem(950))) is CommandResult.APPLIED
    family.in_order()


def test_a_command_that_was_forwarded_to_nobody_is_decided_by_the_member_again() -> None:
    family = Family.of("m-1")
    family.does(earn(100))
    family.send(merge(target="m-9"))
    family.send(redeem(60))
    family.deliver()
    assert points(family, "m-1") == (40,)
    assert [(audit.command_id, audit.result) for audit in family.shell("m-1").audits[-1:]] == [("c4", CommandResult.APPLIED)]
    family.in_order()


@pytest.mark.parametrize("twice", [False, True])
@pytest.mark.parametrize("first", [0, 1])
def test_two_members_who_are_merged_into_each_other_are_both_there_again_or_one_is(twice: bool, first: int) -> None:
    """I-20: no cycle, and no point is lost, whichever relay is read first."""
    family = Family.of("m-1", "m-2")
    family.does(earn(100), earn(7, **TWO))
    family.send(merge())
    family.send(merge("m-2", "m-1"))
    family.under_way = [family.under_way[first], family.under_way[1 - first]]
    family.deliver(twice=twice)
    assert sum(points(family, "m-1", "m-2")) == 107
    assert any(family.account(m).merged_into is None for m in ("m-1", "m-2"))
    family.in_order()
    for member_id in ("m-1", "m-2"):
        family.does(earn(10, member_id=member_id))
    assert sum(points(family, "m-1", "m-2")) == 127
    family.in_order()


def test_a_merge_back_into_the_source_is_decided_by_the_target() -> None:
    family = merged(earn(100))
    family.does(merge("m-2", "m-1"))
    assert sum(points(family, "m-1", "m-2")) == 100
    family.in_order()
    family.does(earn(1))
    assert sum(points(family, "m-1", "m-2")) == 101


# Erasure.

SECRETS = ("Zqxjkvb", "zqx@example.com", "SEGMENT-Q7", "fired for Wyzzle")


def fed() -> Family:
    family = Family.of("m-1", "m-2", attributes={"family_name": SECRETS[0], "email": SECRETS[1]}, segments=(SECRETS[2],))
    family.does(change(status=MemberStatus.SUSPENDED, status_reason=SECRETS[3]), earn(1_000, expires_at_ms=T), activate("double"))
    family.does(change(status=MemberStatus.ACTIVE), change(status=MemberStatus.SUSPENDED, status_reason=SECRETS[3], status_from_ms=2 * T))
    return family


def bytes_of(*records: Any) -> bytes:
    return orjson.dumps([record.to_avro() for record in records], default=lambda value: value.decode("latin-1"))


def test_after_an_erasure_nothing_personal_is_anywhere() -> None:
    """I-22: in no table, no event, no relay from then on."""
    family = fed()
    shell = family.shell("m-1")
    for secret in SECRETS:
        assert secret.encode() in bytes_of(family.account("m-1"), *shell.profiles, *shell.events), "it was there"
    marks = [len(shell.events), len(shell.entries), len(shell.profiles), len(shell.audits), len(shell.relays)]
    points_before = family.account("m-1").available_points
    family.does(operate(MemberOperationKind.ERASE))
    family.does(earn(5), change(attributes={"family_name": SECRETS[0]}), redeem(1))
    family.tick(T)
    family.tick(2 * T)
    tables = [family.account("m-1"), *shell.outcomes.values(), *shell.vouchers.values()]
    later = [
        *shell.events[marks[0] :], *shell.entries[marks[1] :], *shell.profiles[marks[2] :], *shell.audits[marks[3] :], *shell.relays[marks[4] :],
    ]  # fmt: skip
    written = bytes_of(*tables, *later)
    for secret in SECRETS:
        assert secret.encode() not in written
    assert (points_before, family.account("m-1").available_points) == (1_000, 0), "points stay until they expire"
    assert family.account("m-1").status is MemberStatus.ERASED
    family.in_order()


def test_a_merge_takes_nothing_personal_along() -> None:
    family = fed()
    family.send(merge())
    (relay,) = family.under_way
    for secret in SECRETS[:3]:
        assert secret.encode() not in bytes_of(relay)
    assert relay.account is not None and relay.account.attributes == {}


def test_the_erased_members_profile_is_empty() -> None:
    family = fed()
    family.does(operate(MemberOperationKind.ERASE))
    profile = family.shell("m-1").profiles[-1]
    assert (profile.attributes, profile.segments, profile.status, profile.operation.value) == ({}, (), MemberStatus.ERASED, "ERASE")


def test_erasure_leaves_the_others_alone() -> None:
    family = fed()
    before = family.account("m-2")
    family.does(operate(MemberOperationKind.ERASE))
    assert family.account("m-2") == before


def test_nobodys_words_are_in_the_events_of_one_who_is_erased() -> None:
    family = fed()
    family.does(operate(MemberOperationKind.ERASE, reason="she moved to another country"))
    family.send(replace(earn(100), reason="a word about her"))
    kinds = {event.kind: event.cause.reason for event in family.shell("m-1").events[-2:]}
    assert kinds == {LoyaltyEventKind.MEMBER_ERASED: None, LoyaltyEventKind.COMMAND_REFUSED: None}
