"""A member -> the account as it is now, what Redis has of it, what waits for it, and which destinations are behind for it."""

import asyncio
from collections.abc import Collection, Mapping
from typing import Any

from schemas.contract import ADDRESS_MARK, command_id, member_key
from schemas.records import Enrolment, MemberOperation, OfferActivation, ProfileChange, Transaction
from streams import topics
from streams.explanation import query
from streams.explanation.sources import CACHE, DESTINATIONS, TABLE, Row, Sources
from streams.ingress.commands import format_time

LANES_MAX = 10  # Of one member at one destination: its events, and replays.
DESTINATIONS_MAX = 500  # Asked about one member.
PARTS = ("available_points", "pending_points", "held_points", "debt_points", "qualifying_points")
SHOWN = (
    "status", "tier", *PARTS, "event_sequence", "entry_sequence", "profile_version", "merged_into", "pool_member_id", "scheduled_status", "active_offers",
)  # fmt: skip
TIMES = ("enrolled_at_ms", "tier_valid_until_ms", "scheduled_at_ms", "last_activity_at_ms", "due_at_ms")
LOT = ("lot_id", "points", "remaining", "held", "pending", "parked", "earned_at_ms", "expires_at_ms", "available_from_ms")
Command = Enrolment | Transaction | ProfileChange | OfferActivation | MemberOperation


async def member(sources: Sources, program_id: str, member_id: str) -> Row | None:
    """`program_id`, `member_id`, `account` (None: nobody is enrolled, or the worker does not answer), `cache`, `waiting`, `destinations` (what
    waits behind a failure), `receipts` (the last event with which each destination is done), `dead_letters`; nothing of the profile. None: the
    programme knows nobody of this number, and nothing waits for it."""

    async def held() -> Row:
        return await sources.tables.held(program_id, member_id)

    async def cached() -> Row | None:
        return await sources.accounts.from_cache(program_id, member_id)

    nothing: Row = {"account": None, "waiting": []}
    page, cache = await asyncio.gather(sources.ask(TABLE, held, nothing), sources.ask(CACHE, cached, None))
    if page["account"] is None and cache is None and not page["waiting"]:
        return None
    lanes, receipts, letters = await asyncio.gather(
        sources.ask(DESTINATIONS, lambda: behind(sources, f"{program_id}/{member_id}"), list[Row]()),
        sources.history(query.receipts(program_id, member_id)), sources.history(query.dead_letters(member_key(program_id, member_id).decode())),
    )
    return {
        "program_id": program_id, "member_id": sources.log.shown(program_id, member_id), "account": page["account"] and account(page["account"]),
        "cache": cache and {name.removesuffix("_ms"): _time(value) if name.endswith("_ms") else value for name, value in cache.items()},
        "waiting": [waiting(one, sources.settings.topic_prefix, member_id) for one in page["waiting"]], "destinations": lanes,
        "receipts": receipts, "dead_letters": letters,
    }  # fmt: skip


def account(stored: Mapping[str, Any]) -> Row:
    """What is shown of an account as the worker stores it: points with their lots, holds, vouchers, tier, status."""
    return {
        **{name: stored[name] for name in SHOWN}, **_times(stored, TIMES),
        "lots": [{name: lot[name] for name in LOT if not name.endswith("_ms")} | _times(lot, LOT) for lot in stored["lots"]],
        "holds": [
            {"hold_id": hold["hold_id"], "points": sum(part["points"] for part in hold["parts"])} | _times(hold, ("placed_at_ms", "expires_at_ms"))
            for hold in stored["holds"]
        ],
        "vouchers": [
            {"voucher_code": one["voucher_code"], "reward_code": one["reward_code"]} | _times(one, ("expires_at_ms",)) for one in stored["vouchers"]
        ],
        "offers_asked": [one["offer_id"] for one in stored["offer_uses"] if one["asked"]],
    }  # fmt: skip


def waiting(held: Mapping[str, Any], topic_prefix: str, member_id: str) -> Row:
    """A command that waits for a member, as it is kept beside the accounts; not what it says."""
    stream = held["topic"].removeprefix(f"{topic_prefix}.").rpartition(".v")[0]
    command: Command = topics.BY_STREAM[stream].record.from_avro(held["command"])  # type: ignore[attr-defined]
    return {
        "stream": stream.removeprefix(topics.SCHEDULED_PREFIX), "command_id": command_id(command), "source_system": command.source_system,
        "at": format_time(held["ingested_at_ms"]), "waits_for": waits_for(member_id),
    }  # fmt: skip


def waits_for(member_id: str) -> str:
    """What a command waits for that the worker has put aside."""
    return "a member with this external id" if member_id.startswith(ADDRESS_MARK) else "the enrolment of this number"


async def behind(sources: Sources, key: str) -> list[Row]:
    """Lanes of this member (program_id/member_id) that wait behind a failure, by destination. Raises UnavailableError."""
    names: Collection[str] = sorted(await sources.destinations())[:DESTINATIONS_MAX]
    before = key[:-1] + chr(ord(key[-1]) - 1) + "\U0010ffff"  # Pages begin behind a name.
    answers = await asyncio.gather(*(sources.standings.lanes(name, LANES_MAX, before) for name in names))
    if unreachable := sorted({url for _, missing in answers for url in missing.unreachable}):
        sources.not_reached[DESTINATIONS] = f"LOYALTY_SINK_URLS: no answer from {', '.join(unreachable)}"
    return [
        {"destination": name} | {field.removesuffix("_ms"): _time(value) if field.endswith("_ms") else value for field, value in lane.items()}
        for name, (lanes, _) in zip(names, answers, strict=True) for lane in lanes if lane["member"] == key
    ]  # fmt: skip


def _times(fields: Mapping[str, Any], names: Collection[str]) -> Row:
    return {name.removesuffix("_ms"): _time(fields[name]) for name in names if name.endswith("_ms")}


def _time(at_ms: int | None) -> str | None:
    return None if at_ms is None else format_time(at_ms)
