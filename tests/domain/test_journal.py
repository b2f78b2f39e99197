"""The journal: entries sum to zero, tell the balances after them, name the version of their rule, and are chained."""

from collections import Counter
from dataclasses import fields, replace
from hashlib import sha256

import pytest

from schemas.records import EntryKind, LedgerEntry
from streams.domain.program import Expiry, ExpiryRule, ReversalPolicy
from tests.domain import cases, cases_reversals
from tests.domain.casework import MEMBERS_OWN, PROGRAMMES_OWN, Case, balances, code_of, play, seen
from tests.domain.shell import PROGRAM, Shell, activate, adjust, capture, earn, hold, make_available, redeem, redeem_voucher, reverse, transfer, void

T = 20_000


def busy() -> Shell:
    """A member to whom everything happens that makes an entry."""
    shell = Shell(program=replace(PROGRAM, reversal=ReversalPolicy.UNLIMITED)).enrolled()
    commands = [
        activate("double"), earn(100, category="spa", property_id="BER", reason="stay"), earn(50, pending=True), earn(30, expires_at_ms=T), redeem(40),
        hold(60), capture("c6", 20), hold(10), void("c8"), reverse("c5", 10), adjust(-5), adjust(5), transfer(7, "m-2"), make_available("c3"),
        redeem(250), reverse("c2"), earn(500), earn(1, expires_at_ms=T),
    ]  # fmt: skip
    for command in commands:
        audit = shell.send(command).audit
        assert audit is not None and audit.reason is None
    shell.tick(T)
    return shell


def chain(entries: list[LedgerEntry]) -> list[str]:
    """The hashes, worked out from what the entries say: SHA-256 of the previous hash and the content, parts apart by NUL, 32 characters."""
    hashes, previous = [], ""
    for entry in entries:
        lots = [(part.lot_id, part.points, part.expires_at_ms) for part in entry.lots]
        content = [
            previous, entry.entry_sequence, entry.transaction_id, entry.source_system, entry.occurred_at_ms, entry.ingested_at_ms, entry.kind,
            entry.account, entry.points_delta, entry.counter_account, entry.rule_id, entry.rule_version, entry.balance_after,
            entry.counter_member_id, lots,
        ]  # fmt: skip
        previous = sha256("\0".join(str(part) for part in content).encode()).hexdigest()[:32]
        hashes.append(previous)
    return hashes


def is_whole(entries: list[LedgerEntry]) -> bool:
    """What an auditor does: numbers without gaps, every hash as it must be, each entry naming the one before."""
    hashes = chain(entries)
    return (
        [entry.entry_sequence for entry in entries] == list(range(1, len(entries) + 1))
        and [entry.entry_hash for entry in entries] == hashes
        and [entry.previous_hash for entry in entries] == ["", *hashes[:-1]][: len(hashes)]
    )


@pytest.fixture(scope="module")
def entries() -> list[LedgerEntry]:
    return busy().entries


def test_the_example_has_every_kind_that_one_member_can_cause(entries: list[LedgerEntry]) -> None:
    elsewhere = {
        EntryKind.TRANSFER_IN, EntryKind.TRANSFER_RETURN, EntryKind.MERGE_IN, EntryKind.MERGE_OUT, EntryKind.POOL_IN, EntryKind.POOL_OUT,
    }  # fmt: skip
    assert {entry.kind for entry in entries} == set(EntryKind) - elsewhere - {EntryKind.UNKNOWN}


def test_every_entry_moves_points_between_two_accounts_of_which_one_is_the_members(entries: list[LedgerEntry]) -> None:
    for entry in entries:
        assert entry.points_delta != 0
        assert entry.account in MEMBERS_OWN
        assert entry.counter_account in {*PROGRAMMES_OWN, *MEMBERS_OWN} - {entry.account}
    assert sum(balances(entries).values()) == 0


def test_whenever_available_points_move_the_entry_is_about_them(entries: list[LedgerEntry]) -> None:
    assert "available" not in {entry.counter_account for entry in entries}


def test_balances_after_are_those_of_a_fold_at_every_prefix(entries: list[LedgerEntry]) -> None:
    sums: Counter[str] = Counter()
    for entry in entries:
        sums[entry.account] += entry.points_delta
        sums[entry.counter_account] -= entry.points_delta
        assert (entry.balance_after, entry.available_after) == (sums[entry.account], sums["available"])
    assert min(sums["available"], sums["pending"], sums["held"], -sums["debt"]) >= 0


def test_the_lots_of_an_entry_add_up_to_it(entries: list[LedgerEntry]) -> None:
    for entry in entries:
        assert not entry.lots or sum(part.points for part in entry.lots) == abs(entry.points_delta)
    without = {entry.kind for entry in entries if not entry.lots}
    assert without <= {EntryKind.REVERSAL}, "only a debt has no lots"


def test_the_chain_is_what_an_auditor_works_out(entries: list[LedgerEntry]) -> None:
    assert is_whole(entries)
    assert len({entry.entry_hash for entry in entries}) == len(entries) > 15
    assert {len(entry.entry_hash) for entry in entries} == {32}


def test_the_account_keeps_the_last_hash() -> None:
    shell = busy()
    assert shell.account is not None
    assert (shell.account.entry_hash, shell.account.entry_sequence) == (chain(shell.entries)[-1], len(shell.entries))


CHANGES = {
    "points": {"points_delta": 1}, "balance": {"balance_after": 1}, "kind": {"kind": EntryKind.UNKNOWN}, "account": {"account": "other"},
    "counter account": {"counter_account": "other"}, "rule": {"rule_id": "other"}, "rule's version": {"rule_version": 9},
    "transaction": {"transaction_id": "other"}, "time": {"occurred_at_ms": 1}, "arrival": {"ingested_at_ms": 1}, "source": {"source_system": "other"},
    "lots": {"lots": ()}, "other member": {"counter_member_id": "m-9"}, "number": {"entry_sequence": 99}, "hash": {"entry_hash": "0" * 32},
    "previous hash": {"previous_hash": "0" * 32},
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_an_entry_that_was_changed_shows(entries: list[LedgerEntry], change: dict[str, object]) -> None:
    for at in (0, 7, len(entries) - 1):
        changed = [*entries[:at], replace(entries[at], **change), *entries[at + 1 :]]  # type: ignore[arg-type]
        assert changed != entries
        assert not is_whole(changed)


@pytest.mark.parametrize("at", [0, 7])
def test_an_entry_that_is_missing_shows(entries: list[LedgerEntry], at: int) -> None:
    assert not is_whole([*entries[:at], *entries[at + 1 :]])


def test_an_entry_that_is_missing_shows_even_if_the_others_were_numbered_anew(entries: list[LedgerEntry]) -> None:
    left = [replace(entry, entry_sequence=number) for number, entry in enumerate([*entries[:7], *entries[8:]], 1)]
    assert not is_whole(left)


def test_entries_that_changed_places_show(entries: list[LedgerEntry]) -> None:
    assert not is_whole([entries[1], entries[0], *entries[2:]])


def test_the_workers_clock_is_not_in_the_chain(entries: list[LedgerEntry]) -> None:
    """A rebuild makes the same hashes."""
    assert chain([replace(entry, recorded_at_ms=1) for entry in entries]) == chain(entries)


def test_what_an_entry_does_not_guard_is_known() -> None:
    """Fields outside the chain: ids that follow from it, the worker's clock, and what is told for reading."""
    guarded = {
        "entry_sequence", "transaction_id", "source_system", "occurred_at_ms", "ingested_at_ms", "kind", "account", "points_delta", "counter_account",
        "rule_id", "rule_version", "balance_after", "counter_member_id", "lots", "previous_hash", "entry_hash",
    }  # fmt: skip
    assert {one.name for one in fields(LedgerEntry)} - guarded == {
        "entry_id", "program_id", "member_id", "available_after", "reverses_transaction_id", "property_id", "category", "reason", "recorded_at_ms",
        "correlation_id",
    }  # fmt: skip


def test_the_rules_version_is_that_of_the_effective_time() -> None:
    later = replace(PROGRAM, version=2, effective_from_ms=5_000, expiry=Expiry(rule=ExpiryRule.AFTER_DAYS, days=1))
    shell = Shell(later_versions=(later,)).enrolled()
    for command in (earn(1, occurred_at_ms=4_999), earn(1, occurred_at_ms=5_000), earn(1, occurred_at_ms=4_999), redeem(1, occurred_at_ms=5_001)):
        shell.send(command)
    assert [entry.rule_version for entry in shell.entries] == [1, 2, 1, 2]
    assert shell.account is not None
    assert [lot.expires_at_ms for lot in shell.account.lots] == [None, None], "the old version's points do not expire"


def test_an_entry_tells_the_sale_and_what_it_reverses() -> None:
    shell = busy()
    first = shell.entries[0]
    assert (first.transaction_id, first.category, first.property_id, first.reason, first.source_system) == ("c2", "spa", "BER", "stay", "pms")
    reversals = [entry for entry in shell.entries if entry.transaction_id == "c16"]
    assert reversals and {entry.reverses_transaction_id for entry in reversals} == {"c2"}
    refunds = [entry for entry in shell.entries if entry.kind is EntryKind.REFUND]
    assert [(entry.transaction_id, entry.reverses_transaction_id, entry.counter_account) for entry in refunds] == [("c10", "c5", "redeemed")]
    last = shell.entries[-1]
    assert (last.kind, last.transaction_id, last.source_system, last.occurred_at_ms, last.reason) == (EntryKind.EXPIRY, f"due:{T}", "loyalty-sync", T, None)
    (sent,) = [entry for entry in shell.entries if entry.counter_account == "in_transit"]
    assert (sent.kind, sent.counter_member_id) == (EntryKind.TRANSFER_OUT, "m-2")


@pytest.mark.parametrize("table", cases.TABLES)
def test_the_chain_is_whole_after_every_case(table: str) -> None:
    for case in cases.TABLES[table]:
        shell, _ = play(case)
        assert is_whole(shell.entries), case.name


ANSWERS: dict[str, tuple[tuple[object, ...], int]] = {
    "earn": ((earn(100),), 100),
    "pending earn": ((earn(100, pending=True),), 0),
    "redemption": ((earn(100), redeem(60)), -60),
    "hold": ((earn(100), hold(60)), -60),
    "capture": ((earn(100), hold(60), capture("c2")), 0),
    "capture of a part": ((earn(100), hold(60), capture("c2", 20)), 40),
    "void": ((earn(100), hold(60), void("c2")), 60),
    "void of an expired lot's points": ((earn(100, expires_at_ms=T), hold(60), seen(T, void("c2"))), 0),
    "activation": ((earn(100, pending=True), make_available("c1")), 100),
    "reversal": ((earn(100), redeem(60), reverse("c1")), -40),
    "refund": ((earn(100), redeem(60), reverse("c2")), 60),
    "transfer": ((earn(100), transfer(60, "m-2")), -60),
    "voucher handed in": ((earn(100), redeem(60, reward_code="R"), redeem_voucher(code_of("c2"))), 0),
    "refused": ((redeem(60),), 0),
}


@pytest.mark.parametrize(("steps", "points"), ANSWERS.values(), ids=ANSWERS)
def test_the_answer_tells_how_the_available_points_changed(steps: tuple[object, ...], points: int) -> None:
    _, last = play(Case(name="", steps=steps, result=None, available=0, qualifying=0))  # type: ignore[arg-type]
    assert last.audit is not None and last.audit.points_delta == points
    own = [entry for entry in last.entries if entry.transaction_id == last.audit.command_id and entry.account == "available"]
    assert sum(entry.points_delta for entry in own) == points


def recovered(case: Case) -> int:
    """Points that the case's last step brought back to 'issued'."""
    _, last = play(case)
    return -sum(entry.points_delta for entry in last.entries if entry.counter_account == "issued")


IN_FULL = {
    # Of 100 points: what remained and what was spent; not what was held, and not what had expired (I-10).
    "unspent": 100, "partly spent": 100, "wholly spent": 100, "held": 40, "wholly held": 0, "held and spent": 40, "captured": 100, "expired": 0,
    "spent and expired": 60, "adjusted away": 100, "given away": 100,
}  # fmt: skip


@pytest.mark.parametrize("situation", IN_FULL)
def test_under_unlimited_a_reversal_recovers_all_that_is_not_held_and_has_not_expired(situation: str) -> None:
    (case,) = [case for case in cases_reversals.CASES if case.name == f"unlimited: {situation}"]
    assert recovered(case) == IN_FULL[situation]


@pytest.mark.parametrize("situation", IN_FULL)
def test_within_the_balance_it_recovers_as_much_of_that_as_the_member_has(situation: str) -> None:
    (case,) = [case for case in cases_reversals.CASES if case.name == f"within_balance: {situation}"]
    before, _ = play(replace(case, steps=case.steps[:-1]))
    assert before.account is not None
    assert recovered(case) == min(IN_FULL[situation], before.account.available_points)
