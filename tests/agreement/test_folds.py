"""Entries of one member, one after the other: each way in which a journal can be wrong has its name, and its place."""

from dataclasses import replace

import pytest

from schemas.records import EntryKind, LedgerEntry
from streams.agreement import folds
from streams.agreement.model import Cause


def chain(*deltas: int) -> list[LedgerEntry]:
    entries: list[LedgerEntry] = []
    balance, before = 0, ""
    for number, delta in enumerate(deltas, 1):
        balance += delta
        entry = LedgerEntry(
            entry_id=f"ent_{number}", program_id="grand", member_id="M-1", entry_sequence=number, transaction_id=f"pos:{number}", kind=EntryKind.EARN,
            points_delta=delta, balance_after=balance, available_after=balance, counter_account="issued", rule_id="base", rule_version=1,
            source_system="pos", occurred_at_ms=number, ingested_at_ms=number, recorded_at_ms=number, previous_hash=before,
        )  # fmt: skip
        entries.append(replace(entry, entry_hash=folds.hash_of(entry)))
        before = entries[-1].entry_hash
    return entries


def fault(entries: list[LedgerEntry]) -> tuple[Cause, int] | None:
    fold = folds.entries_begin(entries[0])
    for offset, entry in enumerate(entries):
        folds.add_entry(fold, entry, offset, 3, True)
    return None if fold[folds.FAULT] is None else (fold[folds.FAULT][0], fold[folds.FAULT][1])


WHOLE = chain(100, 50, -30)
REHASHED = replace(WHOLE[1], balance_after=160)


@pytest.mark.parametrize(("entries", "expected"), [
    (WHOLE, None),
    (WHOLE[1:], None),  # What retention has taken is not wrong.
    ([WHOLE[0], WHOLE[2]], (Cause.MISSING, 2)),
    ([*WHOLE[:2], WHOLE[1], WHOLE[2]], (Cause.DOUBLED, 2)),
    ([WHOLE[0], replace(WHOLE[1], points_delta=51), WHOLE[2]], (Cause.ALTERED, 2)),
    ([WHOLE[0], replace(WHOLE[1], previous_hash="0" * 32), WHOLE[2]], (Cause.ALTERED, 2)),
    ([WHOLE[0], replace(REHASHED, entry_hash=folds.hash_of(REHASHED))], (Cause.BUG, 2)),
])  # fmt: skip
def test_the_first_fault_is_named(entries: list[LedgerEntry], expected: tuple[Cause, int] | None) -> None:
    assert fault(entries) == expected


def test_what_it_adds_up_to_is_as_of_the_account() -> None:
    fold = folds.entries_begin(WHOLE[0])
    for offset, entry in enumerate(WHOLE):
        folds.add_entry(fold, entry, offset, 2, offset < 1)
    assert (fold[folds.THEN_HASH], fold[folds.THEN]) == (WHOLE[1].entry_hash, [150, 0, 0, 0])
    assert (fold[folds.ROWS], fold[folds.WAITING_SEQUENCE], fold[folds.LAST]) == (1, 2, 3)
