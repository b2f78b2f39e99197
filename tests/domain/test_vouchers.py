"""Rows of vouchers: their states are a path that never goes back, codes are never the same twice, and a rebuild makes the same ones."""

from dataclasses import replace

import pytest

from schemas.records import VoucherState
from streams.domain.program import Offer, Reward
from tests.domain import cases_vouchers
from tests.domain.casework import Case, play, take
from tests.domain.shell import NOW_MS, PROGRAM, Shell, activate, cancel_voucher, earn, redeem, redeem_voucher

SHOP = replace(
    PROGRAM, rewards={"SPA": Reward(reward_code="SPA", points=50, valid_days=10)}, offers={"gift": Offer(offer_id="gift", reward_code="BAR")},
    tiers=(PROGRAM.tiers[0], replace(PROGRAM.tiers[1], reward_code="BAR"), PROGRAM.tiers[2]),
)  # fmt: skip


def shopper() -> Shell:
    shell = Shell(program=SHOP).enrolled()
    for command in (earn(1_000), redeem(50, reward_code="SPA"), redeem(7, reward_code="BAR"), activate("gift")):
        shell.send(command)
    return shell


def test_a_row_says_what_it_is_good_for_and_where_it_came_from() -> None:
    shell = shopper()
    rows = [(row.reward_code, row.issued_by, row.points, row.expires_at_ms) for row in shell.vouchers.values()]
    assert rows == [
        ("BAR", "tier:silver", 0, None), ("SPA", "c2", 50, NOW_MS + 10 * 24 * 3_600_000), ("BAR", "c3", 7, None), ("BAR", "offer:gift", 0, None),
    ]  # fmt: skip
    assert {(row.state, row.issued_at_ms, row.closed_at_ms) for row in shell.vouchers.values()} == {(VoucherState.ISSUED, NOW_MS, None)}
    assert shell.account is not None
    assert [opened.voucher_code for opened in shell.account.vouchers] == [row.voucher_code for row in shell.vouchers.values()]


def test_every_issuance_has_a_code_of_its_own_and_a_rebuild_makes_the_same() -> None:
    one, other = shopper(), shopper()
    assert len({row.voucher_code for row in one.vouchers.values()}) == 4
    assert one.vouchers == other.vouchers


def test_another_member_has_other_codes() -> None:
    shell = Shell(program=SHOP).enrolled(member_id="m-2")
    for command in (earn(100, member_id="m-2"), redeem(50, reward_code="SPA", member_id="m-2", transaction_id="c2")):
        shell.send(command)
    assert not {row.voucher_code for row in shell.vouchers.values()} & {row.voucher_code for row in shopper().vouchers.values()}


def test_closing_is_told_with_its_time() -> None:
    shell = shopper()
    code = next(iter(shell.vouchers.values())).voucher_code
    (event,) = shell.send(redeem_voucher(code, occurred_at_ms=NOW_MS + 5)).events
    assert (event.kind.value, event.voucher_code, event.reward_code) == ("VOUCHER_REDEEMED", code, "BAR")
    row = next(iter(shell.vouchers.values()))
    assert (row.state, row.closed_at_ms) == (VoucherState.REDEEMED, NOW_MS + 5)
    assert shell.account is not None and code not in {opened.voucher_code for opened in shell.account.vouchers}


def test_a_cancellation_of_a_gift_moves_no_points() -> None:
    shell = shopper()
    code = next(row.voucher_code for row in shell.vouchers.values() if row.issued_by == "offer:gift")
    settlement = shell.send(cancel_voucher(code))
    assert settlement.entries == ()
    assert [event.kind.value for event in settlement.events] == ["VOUCHER_CANCELLED"]


@pytest.mark.parametrize("case", cases_vouchers.CASES, ids=lambda case: case.name)
def test_a_voucher_leaves_issued_once(case: Case) -> None:
    """I-27, after every step of every case; and what is open in the account is what is ISSUED in the table."""
    shell, _ = play(replace(case, steps=case.steps[:1]))
    seen = dict(shell.vouchers)
    for step in case.steps[1:]:
        take(shell, step)
        for key, row in shell.vouchers.items():
            before = seen.get(key)
            if before is None:
                assert row.state in (VoucherState.ISSUED, VoucherState.EXPIRED)
            elif before.state is not VoucherState.ISSUED:
                assert row == before
            else:
                assert 0 <= row.points <= before.points, "what came back of its price"
                assert replace(row, state=before.state, closed_at_ms=None, points=before.points) == before
        seen = dict(shell.vouchers)
        assert shell.account is not None
        issued = {row.voucher_code for row in shell.vouchers.values() if row.state is VoucherState.ISSUED}
        assert {opened.voucher_code for opened in shell.account.vouchers} == issued
