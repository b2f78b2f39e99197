"""restatements -> records of the log for one store: what `loyalty reconcile --repair` says again, applied as if it had just been read."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from schemas.codec import Codec
from schemas.records import LedgerEntry, LoyaltyEvent, MemberProfile, RestatedStore, Restatement
from sinks.base import Health, Item, Receipt, Verdict, Write
from sinks.batches import run_batches
from streams import topics
from streams.errors import ContractError
from streams.settings import Settings

ROWS_MAX = 1_000
RECORDS: dict[str, type[LedgerEntry] | type[LoyaltyEvent] | type[MemberProfile]] = {
    topics.LEDGER_ENTRIES.stream: LedgerEntry, topics.EVENTS.stream: LoyaltyEvent, topics.PROFILES.stream: MemberProfile,
}  # fmt: skip
"""Streams of which a record can be said again."""


async def run(
    settings: Settings, store: RestatedStore, writes: Mapping[str, Write[Any]], codec: Codec, stop: asyncio.Event, health: Health | None = None
) -> None:
    """Apply what is restated for `store` until `stop` is set. `writes`: stream -> how its records are written."""
    sink = f"{store.value.lower()}-{topics.RESTATEMENTS.stream}"

    async def write(items: Sequence[Item[Restatement]]) -> list[Receipt]:
        return await apply(store, writes, codec, settings.topic_prefix, items)

    await run_batches(
        settings, sink=sink, group=f"sink-{sink}", topic=topics.RESTATEMENTS, write=write, rows_max=ROWS_MAX, wait_max_s=0.2, stop=stop,
        codec=codec, health=health,
    )  # fmt: skip


async def apply(
    store: RestatedStore, writes: Mapping[str, Write[Any]], codec: Codec, prefix: str, items: Sequence[Item[Restatement]]
) -> list[Receipt]:
    """One attempt: a receipt per item. What is for another store is skipped, what cannot be read refused."""
    receipts = [Receipt(verdict=Verdict.SKIPPED)] * len(items)
    originals: dict[str, list[tuple[int, Item[Any]]]] = {}
    for number, item in enumerate(items):
        if item.record.store is not store:
            continue
        try:
            originals.setdefault(item.record.stream, []).append((number, original(item, codec, prefix)))
        except ContractError as error:
            receipts[number] = Receipt(verdict=Verdict.REFUSED, reason=error.reason, detail=error.detail)
    for stream, numbered in originals.items():
        for (number, _), receipt in zip(numbered, await writes[stream]([item for _, item in numbered]), strict=True):
            receipts[number] = receipt
    return receipts


def original(item: Item[Restatement], codec: Codec, prefix: str) -> Item[Any]:
    """The record that is restated, at its own place in the log. Raises ContractError."""
    said = item.record
    if said.stream not in RECORDS:
        raise ContractError("STREAM_UNKNOWN", f"no record of {said.stream} can be restated")
    return Item(
        record=codec.decode(said.value, RECORDS[said.stream]), topic=topics.BY_STREAM[said.stream].name(prefix), partition=said.partition,
        offset=said.offset, key=item.key, value=said.value, timestamp_ms=said.timestamp_ms,
    )  # fmt: skip
