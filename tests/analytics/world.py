"""A few months of two members, small enough to be worked out by hand."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from schemas.records import CommandResult, DeliveryAttempt, EntryKind, LedgerEntry, LotPart, LoyaltyEvent, LoyaltyEventKind, SyncAudit
from sinks.base import Verdict
from sinks.clickhouse import TABLES, History
from streams.settings import Settings
from tests.sinks import examples
from tests.sinks.examples import item


def ms(day: str) -> int:
    return int(datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp() * 1000)


JUNE = ms("2026-06-01")
# Member, day, kind, account, points, counter account, rule, lot, expiry of the lot; the sequence is the place of the member's line.
LINES: Sequence[tuple[str, str, EntryKind, str, int, str, str, str, int | None]] = (
    ("m-1", "2026-01-10", EntryKind.EARN, "available", 100, "issued", "earn:amount", "L1", JUNE),
    ("m-1", "2026-01-10", EntryKind.OFFER_BONUS, "available", 10, "issued", "offer:spring", "L1", JUNE),
    ("m-1", "2026-02-05", EntryKind.REDEEM, "available", -40, "redeemed", "redeem", "L1", JUNE),
    ("m-1", "2026-06-01", EntryKind.EXPIRY, "available", -70, "expired", "expire", "L1", JUNE),
    ("m-2", "2026-02-20", EntryKind.EARN, "pending", 200, "issued", "earn:amount", "L2", None),
    ("m-2", "2026-02-23", EntryKind.ACTIVATION, "available", 200, "pending", "activate", "L2", None),
    ("m-2", "2026-03-01", EntryKind.HOLD, "available", -50, "held", "hold", "L2", None),
    ("m-2", "2026-03-02", EntryKind.CAPTURE, "held", -50, "redeemed", "capture", "L2", None),
    ("m-2", "2026-03-05", EntryKind.REFUND, "available", 20, "redeemed", "refund", "L2", None),
)


def entries() -> list[LedgerEntry]:
    made: list[LedgerEntry] = []
    balances: dict[tuple[str, str], int] = {}
    for member, day, kind, account, points, counter, rule, lot, expires_ms in LINES:
        balances[member, account] = balances.get((member, account), 0) + points
        balances[member, counter] = balances.get((member, counter), 0) - points
        made.append(entry(
            1 + sum(one.member_id == member for one in made), member, day, kind=kind, account=account, points_delta=points, counter_account=counter,
            rule_id=rule, balance_after=balances[member, account], lots=(LotPart(lot_id=lot, points=abs(points), expires_at_ms=expires_ms),),
        ))  # fmt: skip
    return made


def entry(sequence: int, member: str, day: str, **fields: Any) -> LedgerEntry:
    """Without hashes, as entries from before there were any."""
    return replace(
        examples.ledger_entry(sequence, member), occurred_at_ms=ms(day), recorded_at_ms=ms(day) + 1000, transaction_id=f"{member}:{sequence}",
        previous_hash="", entry_hash="", **fields,
    )  # fmt: skip


def events() -> list[LoyaltyEvent]:
    def event(sequence: int, member: str, day: str, kind: LoyaltyEventKind, tier: str = "MEMBER", **fields: Any) -> LoyaltyEvent:
        made = examples.event(sequence, member, kind=kind, **fields)
        return replace(made, account=replace(made.account, tier=tier), occurred_at_ms=ms(day), recorded_at_ms=ms(day) + 1000)

    return [
        event(1, "m-1", "2026-01-05", LoyaltyEventKind.MEMBER_ENROLLED), event(1, "m-2", "2026-02-01", LoyaltyEventKind.MEMBER_ENROLLED),
        event(2, "m-1", "2026-01-08", LoyaltyEventKind.OFFER_ACTIVATED, offer_id="spring"),
        event(3, "m-1", "2026-02-05", LoyaltyEventKind.TIER_CHANGED, tier="GOLD", previous_tier="MEMBER"),
    ]


def audits() -> list[SyncAudit]:
    """Three events of one day: told 10, 20 and 30 s late, decided within 1, 2 and 3 ms; the last two refused, one of them twice."""
    made = []
    for number in (1, 2, 3, 4):
        late, is_repeated = min(number, 3), number == 4
        at_ms = ms("2026-02-05")
        refused = {"result": CommandResult.REFUSED, "reason": "INSUFFICIENT_POINTS"} if number > 1 else {}
        made.append(replace(
            examples.audit(number), occurred_at_ms=at_ms - late * 10_000, ingested_at_ms=at_ms, recorded_at_ms=at_ms + late, stream="transactions",
            source_system="pms", replayed=is_repeated, **refused,
        ))  # fmt: skip
    return made


def attempts() -> list[DeliveryAttempt]:
    """One that failed, and then got through a second later: 1,030 ms from the append on."""
    at_ms = ms("2026-02-05")
    return [
        replace(examples.failed_attempt(1), appended_at_ms=at_ms, started_at_ms=at_ms, duration_us=5_000),
        replace(examples.delivery_attempt(1), appended_at_ms=at_ms, started_at_ms=at_ms + 1000, duration_us=30_000, attempt=2),
    ]


def write(settings: Settings, table: str, records: Sequence[Any], first_offset: int = 0) -> None:
    history = History(settings, next(one for one in TABLES if one.name == table))
    receipts = history.write_now([item(record, offset=first_offset + number) for number, record in enumerate(records)])
    assert {receipt.verdict for receipt in receipts} == {Verdict.DELIVERED}
    history.close()


def fill(settings: Settings) -> None:
    for table, records in (("ledger_entries", entries()), ("loyalty_events", events()), ("sync_audit", audits()), ("delivery_attempts", attempts())):
        write(settings, table, records)
