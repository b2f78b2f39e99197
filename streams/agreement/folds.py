"""Ledger entries and events of a member, one after the other -> what they add up to, and where they first are not what they should be. Pure.

A fold is a list that the shelf keeps between two records of a member; its places have names below.
"""

from typing import Any

from schemas.records import LedgerEntry, LoyaltyEvent
from streams.agreement.model import BALANCES, ENTRY, EVENT, Cause, snapshot
from streams.domain import book

FIRST, LAST, DIGEST, ROWS, FAULT, WAITING_SINCE, WAITING_SEQUENCE, OFFSET = range(8)
"""Numbers of the first and the last record; sum and number of the checksums of those that the mirror must have; [cause, number, id, detail] of
the first fault; when the first one that the mirror need not have yet was recorded, and its number; offset of the last one."""
HASH, RUNNING, THEN_HASH, THEN = range(8, 12)
"""Of entries: the last hash, the four balances (None: not known yet), and both as of the account that they are compared with."""
VALUES, KEPT_SEQUENCE, KEPT_VALUES = range(8, 11)
"""Of events: [number, values, id] as of the account, the number of the last one that Redis must have, and its values."""


def entries_begin(entry: LedgerEntry) -> list[Any]:
    # What was before the first entry that is kept is not known, unless nothing was.
    running = [0] * len(BALANCES) if entry.entry_sequence == 1 else [None] * len(BALANCES)
    return [entry.entry_sequence, entry.entry_sequence - 1, 0, 0, None, 0, 0, -1, entry.previous_hash if entry.entry_sequence > 1 else "", running, None, None]


def events_begin(event: LoyaltyEvent) -> list[Any]:
    return [event.sequence, event.sequence - 1, 0, 0, None, 0, 0, -1, None, 0, None]


def add_entry(fold: list[Any], entry: LedgerEntry, offset: int, account_sequence: int, is_mirrored: bool) -> None:
    """The next entry. `account_sequence`: the last one that the account has."""
    number = entry.entry_sequence
    fault = _order(fold, number, entry.entry_id)
    if fault is None and entry.previous_hash != fold[HASH]:
        fault = [Cause.ALTERED, number, entry.entry_id, "its previous_hash is not the hash of the entry before"]
    if fault is None and entry.entry_hash and entry.entry_hash != hash_of(entry):
        fault = [Cause.ALTERED, number, entry.entry_id, "its content is not what its hash was made of"]
    running = fold[RUNNING]
    for name, change in ((entry.account, entry.points_delta), (entry.counter_account, -entry.points_delta)):
        if name in BALANCES and running[BALANCES.index(name)] is not None:
            running[BALANCES.index(name)] += change
    if entry.account in BALANCES:
        place = BALANCES.index(entry.account)
        if fault is None and running[place] is not None and running[place] != entry.balance_after:
            detail = f"balance_after is {entry.balance_after}, the entries add up to {running[place]}"
            fault = [Cause.BUG, number, entry.entry_id, detail]
        running[place] = entry.balance_after
    running[0] = entry.available_after if entry.entry_hash else entry.balance_after
    fold[HASH] = entry.entry_hash
    if number == account_sequence:
        fold[THEN_HASH], fold[THEN] = entry.entry_hash, list(running)
    _note(fold, number, fault, offset, ENTRY.of(entry), is_mirrored, entry.recorded_at_ms)


def add_event(fold: list[Any], event: LoyaltyEvent, offset: int, account_sequence: int, is_mirrored: bool, is_kept: bool) -> None:
    """The next event. `is_kept`: Redis must have it, or a later one."""
    if event.sequence == account_sequence:
        fold[VALUES] = [event.sequence, snapshot(event), event.event_id]
    if is_kept and event.sequence > fold[KEPT_SEQUENCE]:
        fold[KEPT_SEQUENCE], fold[KEPT_VALUES] = event.sequence, snapshot(event)
    _note(fold, event.sequence, _order(fold, event.sequence, event.event_id), offset, EVENT.of(event), is_mirrored, event.recorded_at_ms)


def _order(fold: list[Any], number: int, record_id: str) -> list[Any] | None:
    expected = fold[LAST] + 1
    if number > expected:
        many = "" if number == expected + 1 else f" to {number - 1}"
        return [Cause.MISSING, expected, "", f"number {expected}{many} is not in the log"]
    return [Cause.DOUBLED, number, record_id, "its number was there before"] if number < expected else None


def _note(fold: list[Any], number: int, fault: list[Any] | None, offset: int, digest: int, is_mirrored: bool, recorded_at_ms: int) -> None:
    fold[LAST], fold[OFFSET], fold[FAULT] = max(number, fold[LAST]), offset, fold[FAULT] or fault
    if is_mirrored:
        fold[DIGEST] += digest
        fold[ROWS] += 1
    elif not fold[WAITING_SINCE]:
        fold[WAITING_SINCE], fold[WAITING_SEQUENCE] = recorded_at_ms, number


def hash_of(entry: LedgerEntry) -> str:
    """What entry_hash must be."""
    cause = book.Cause(
        command_id=entry.transaction_id, stream="", source_system=entry.source_system, reason=None, occurred_at_ms=entry.occurred_at_ms,
        ingested_at_ms=entry.ingested_at_ms, correlation_id=None,
    )  # fmt: skip
    return book.chained(
        entry.previous_hash, entry.entry_sequence, cause, entry.kind, entry.account, entry.points_delta, entry.counter_account, entry.rule_id,
        entry.rule_version, entry.balance_after, entry.counter_member_id, [(part.lot_id, part.points, part.expires_at_ms) for part in entry.lots],
    )  # fmt: skip
