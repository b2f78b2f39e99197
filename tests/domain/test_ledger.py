"""What transactions publish: entries per rule, one balance event per transaction, vouchers, tiers; and the ends of the range."""

from dataclasses import replace

import pytest

from schemas.records import Account, CommandResult, EntryKind, Lot, LoyaltyEventKind, MemberStatus, Outcome, QualifyingBucket, TransactionKind
from streams.domain.desk import Rows, Settlement, outcome_key, settle
from streams.domain.lots import POINTS_LIMIT
from streams.domain.refusals import Refusal
from tests.domain.casework import code_of
from tests.domain.shell import NOW_MS, PROGRAM, Shell, activate, adjust, cancel_voucher, change, earn, received, redeem, reverse

KINDS = LoyaltyEventKind


def postings(shell: Shell) -> list[tuple[object, ...]]:
    return [(e.entry_sequence, e.kind, e.points_delta, e.balance_after, e.counter_account, e.rule_id) for e in shell.entries]


def outcome_of(settlement: Settlement, transaction_id: str) -> Outcome | None:
    """What the settlement stores of a transaction; None: nothing."""
    return settlement.outcomes.get(outcome_key("grand", "m-1", earn(1, transaction_id=transaction_id)))


def without_times(account: Account | None) -> Account:
    """Every decision moves the account's clock and the time under which it is due; they are nobody's business."""
    assert account is not None
    return replace(account, clock_ms=0, due_at_ms=None)


def test_an_earn_writes_one_entry_per_rule_and_one_event() -> None:
    shell = Shell().enrolled()
    shell.send(activate("double"))
    shell.send(activate("spa-week"))
    settlement = shell.send(earn(amount_minor=1_000, currency="EUR", nights=1, category="spa", property_id="BER", reason="stay"))
    assert postings(shell) == [
        (1, EntryKind.EARN, 150, 150, "issued", "earn:amount+nights"),
        (2, EntryKind.OFFER_BONUS, 150, 300, "issued", "offer:double"),
        (3, EntryKind.OFFER_BONUS, 49, 349, "issued", "offer:spa-week"),
    ]
    (event,) = settlement.events
    assert (event.kind, event.points_delta, event.account.available_points) == (KINDS.BALANCE_CHANGED, 349, 349)
    cause = event.cause
    assert (cause.command_id, cause.stream, cause.source_system, cause.reason) == ("c3", "transactions", "pms", "stay")
    entry = settlement.entries[0]
    assert (entry.transaction_id, entry.property_id, entry.category, entry.reason) == ("c3", "BER", "spa", "stay")
    assert (entry.occurred_at_ms, entry.ingested_at_ms, entry.recorded_at_ms) == (NOW_MS, 10_003, 7_777)


def test_rules_name_what_they_counted() -> None:
    shell = Shell().enrolled()
    for command in (earn(1), earn(nights=1), earn(amount_minor=100, currency="EUR"), earn(amount_minor=100, currency="EUR", nights=0)):
        shell.send(command)
    assert [entry.rule_id for entry in shell.entries] == ["earn:given", "earn:nights", "earn:amount", "earn:amount"]


def test_an_earn_of_nothing_is_applied_and_publishes_nothing() -> None:
    shell = Shell().enrolled()
    before = without_times(shell.account)
    settlement = shell.send(earn(amount_minor=1, currency="EUR"))
    assert settlement.audit.result is CommandResult.APPLIED and settlement.audit.points_delta == 0
    assert (settlement.events, settlement.entries, without_times(settlement.account)) == ((), (), before)
    assert outcome_of(settlement, "c1") is not None, "a repetition gets the same answer"


def test_counter_accounts_and_the_link_of_a_reversal() -> None:
    shell = Shell().enrolled()
    for command in (earn(100), redeem(30), adjust(-20), reverse("c2"), reverse("c3"), reverse("c1", 10)):
        shell.send(command)
    assert postings(shell) == [
        (1, EntryKind.EARN, 100, 100, "issued", "earn:given"),
        (2, EntryKind.REDEEM, -30, 70, "redeemed", "redeem"),
        (3, EntryKind.ADJUSTMENT, -20, 50, "adjusted", "adjust"),
        (4, EntryKind.REFUND, 30, 80, "redeemed", "refund"),
        (5, EntryKind.REFUND, 20, 100, "adjusted", "refund"),
        (6, EntryKind.REVERSAL, -10, 90, "issued", "reverse"),
    ]
    assert [entry.reverses_transaction_id for entry in shell.entries] == [None, None, None, "c2", "c3", "c1"]


@pytest.mark.parametrize(
    ("spent", "asked", "delta", "shortfall", "left_qualifying"),
    [
        (0, None, -100, 0, 0),
        (40, None, -60, 40, 0),
        (100, None, 0, 100, 0),
        (70, 30, -30, 0, 70),
        (71, 30, -29, 1, 70),
    ],
)
def test_reversal_of_an_earn_reports_what_was_spent(
    spent: int, asked: int | None, delta: int, shortfall: int, left_qualifying: int
) -> None:
    shell = Shell().enrolled()
    shell.send(earn(100))
    if spent:
        shell.send(redeem(spent))
    settlement = shell.send(reverse("c1", asked))
    (event,) = settlement.events
    assert (event.kind, event.points_delta, event.shortfall_points) == (KINDS.BALANCE_CHANGED, delta, shortfall)
    assert [entry.points_delta for entry in settlement.entries] == ([delta] if delta else []), "entries are never 0"
    original, own = outcome_of(settlement, "c1"), outcome_of(settlement, f"c{shell.sent}")
    assert original is not None and original.reversed_points == (asked or 100)
    assert settlement.account is not None and settlement.account.qualifying_points == left_qualifying
    assert own is not None and own.points_delta == delta


def test_the_original_keeps_its_answer() -> None:
    shell = Shell().enrolled()
    first = outcome_of(shell.send(earn(100)), "c1")
    settlement = shell.send(reverse("c1", 30))
    assert first is not None and outcome_of(settlement, "c1") == replace(first, reversed_points=30)


def test_a_redemption_with_a_reward_issues_a_voucher() -> None:
    shell = Shell().enrolled()
    shell.send(earn(100))
    settlement = shell.send(redeem(100, reward_code="SPA-DAY"))
    balance, voucher = settlement.events
    assert (balance.kind, voucher.kind) == (KINDS.BALANCE_CHANGED, KINDS.VOUCHER_ISSUED)
    assert (voucher.reward_code, voucher.account.available_points, voucher.sequence) == ("SPA-DAY", 0, balance.sequence + 1)
    outcome = outcome_of(settlement, "c2")
    assert outcome is not None
    assert voucher.voucher_code == outcome.voucher_code == settlement.audit.voucher_code is not None
    assert (balance.voucher_code, balance.reward_code) == (None, None)
    assert len(shell.send(earn(1)).events) == 1


def test_a_refused_redemption_issues_none() -> None:
    settlement = Shell().enrolled().send(redeem(1, reward_code="SPA-DAY"))
    assert [event.kind for event in settlement.events] == [KINDS.COMMAND_REFUSED]
    assert settlement.audit.voucher_code is None


def test_a_promotion_follows_the_balance_that_caused_it() -> None:
    shell = Shell().enrolled()
    settlement = shell.send(earn(1_000))
    balance, tier = settlement.events
    assert (balance.kind, balance.account.tier, balance.account.qualifying_points) == (KINDS.BALANCE_CHANGED, "blue", 1_000)
    assert (tier.kind, tier.account.tier, tier.previous_tier) == (KINDS.TIER_CHANGED, "silver", "blue")
    (profile,) = settlement.profiles
    assert (profile.operation, profile.version, profile.tier, profile.changed) == ("TIER", 2, "silver", ("tier",))
    assert settlement.audit.tier == "silver"


def test_a_refusal_publishes_itself_and_moves_nothing() -> None:
    shell = Shell().enrolled()
    before = shell.account
    settlement = shell.send(redeem(1))
    (event,) = settlement.events
    assert (event.kind, event.refusal, event.sequence) == (KINDS.COMMAND_REFUSED, "INSUFFICIENT_POINTS", 2)
    assert without_times(settlement.account) == replace(without_times(before), event_sequence=2)
    assert (settlement.entries, settlement.profiles) == ((), ())
    own = outcome_of(settlement, "c1")
    assert len(settlement.outcomes) == 1
    assert own is not None and own.reason == settlement.audit.reason == "INSUFFICIENT_POINTS"
    assert settlement.audit.changes == ()


@pytest.mark.parametrize(
    ("available", "qualifying", "command", "result"),
    [
        (POINTS_LIMIT - 100, 0, adjust(100), CommandResult.APPLIED),
        (POINTS_LIMIT - 100, 0, adjust(101), CommandResult.REFUSED),
        (POINTS_LIMIT - 100, 0, earn(100), CommandResult.APPLIED),
        (POINTS_LIMIT - 100, 0, earn(101), CommandResult.REFUSED),
        (0, POINTS_LIMIT - 100, earn(100), CommandResult.APPLIED),
        (0, POINTS_LIMIT - 100, earn(101), CommandResult.REFUSED),
        (0, POINTS_LIMIT - 100, adjust(101), CommandResult.APPLIED),
        (POINTS_LIMIT - 99, 0, reverse("spent"), CommandResult.REFUSED),
        (POINTS_LIMIT - 100, 0, reverse("spent"), CommandResult.APPLIED),
        (POINTS_LIMIT - 99, 0, cancel_voucher(code_of("spent")), CommandResult.REFUSED),
        (POINTS_LIMIT - 100, 0, cancel_voucher(code_of("spent")), CommandResult.APPLIED),
        (POINTS_LIMIT, POINTS_LIMIT, redeem(1), CommandResult.APPLIED),
    ],
)
def test_the_end_of_the_range(available: int, qualifying: int, command: object, result: CommandResult) -> None:
    shell = Shell().enrolled()
    shell.send(adjust(100))
    shell.send(redeem(100, transaction_id="spent", reward_code="SPA"))
    assert shell.account is not None
    lots = (Lot(lot_id="huge", points=available, remaining=available, earned_at_ms=1),) if available else ()
    buckets = (QualifyingBucket(starts_at_ms=0, points=qualifying),) if qualifying else ()
    shell.account = replace(shell.account, available_points=available, qualifying_points=qualifying, lots=lots, qualifying=buckets)
    settlement = shell.send(command)  # type: ignore[arg-type]
    assert settlement.audit.result is result
    if result is CommandResult.REFUSED:
        assert settlement.audit.reason == Refusal.POINTS_OVERFLOW
        assert outcome_of(settlement, "spent") is None, "the original is as it was"
        assert settlement.entries == ()


def test_enormous_rates_are_refused_and_not_wrapped() -> None:
    shell = Shell(program=replace(PROGRAM, points_per_unit={"JPY": 10**6})).enrolled()
    settlement = shell.send(earn(amount_minor=10**15, currency="JPY"))
    assert settlement.audit.reason == Refusal.POINTS_OVERFLOW


def test_raised_thresholds_never_demote_on_an_earn() -> None:
    shell = Shell().enrolled()
    shell.send(earn(1_000))
    stricter = replace(PROGRAM, tiers=(PROGRAM.tiers[0], replace(PROGRAM.tiers[1], threshold_points=3_000), PROGRAM.tiers[2]))
    shell.program = stricter
    settlement = shell.send(earn(10))
    assert settlement.account is not None and settlement.account.tier == "silver"
    assert [event.kind for event in settlement.events] == [KINDS.BALANCE_CHANGED]


def test_members_of_a_tier_that_is_gone_move_to_the_tier_of_their_points() -> None:
    shell = Shell().enrolled()
    shell.send(earn(1_000))
    shell.program = replace(PROGRAM, tiers=(PROGRAM.tiers[0], PROGRAM.tiers[2]))
    settlement = shell.send(earn(nights=1))
    assert settlement.account is not None and settlement.account.tier == "blue"
    assert settlement.audit.points_delta == 50, "without a tier there is no percentage"


def test_offers_that_are_gone_give_nothing() -> None:
    shell = Shell().enrolled()
    shell.send(activate("double"))
    shell.program = replace(PROGRAM, offers={})
    assert shell.send(earn(10)).audit.points_delta == 10


def test_a_first_tier_of_its_own_percentage_counts_from_the_first_earn() -> None:
    first = replace(PROGRAM.tiers[0], earn_percent=50)
    shell = Shell(program=replace(PROGRAM, tiers=(first,))).enrolled()
    assert shell.send(earn(nights=1)).audit.points_delta == 25


def test_suspension_leaves_points_alone() -> None:
    shell = Shell().enrolled()
    shell.send(earn(100))
    settlement = shell.send(change(status=MemberStatus.SUSPENDED))
    assert settlement.account is not None and settlement.account.available_points == 100


def test_commands_that_break_the_contract_are_a_bug_of_the_caller() -> None:
    account = Shell().enrolled().account
    assert account is not None
    for command in (replace(redeem(1), points=None), replace(earn(1), kind=TransactionKind.UNKNOWN)):
        with pytest.raises(ValueError, match="breaks the contract"):
            arrived = received(replace(command, transaction_id="x"), offset=9)
            settle(account, arrived, rows=Rows(outcomes={}, vouchers={}), programs=(PROGRAM,), clock_ms=0, recorded_at_ms=1)
