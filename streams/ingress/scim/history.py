"""Listings: the newest profile of each member, from ClickHouse, which is about a second behind the ledger."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import aiohttp
import orjson

from schemas.contract import EXTERNAL_IDS_PREFIX
from schemas.records import Account, MemberStatus
from streams import clickhouse
from streams.settings import Settings

TIMEOUT_S = 10.0
BEHIND_S_MAX = 5.0
ASK_AGAIN_S = 0.1

PRESENT = """
FROM (SELECT * FROM member_profile_history WHERE program_id = {program_id:String} ORDER BY member_id, version DESC LIMIT 1 BY member_id)
WHERE status IN ('ACTIVE', 'SUSPENDED')
"""
"""Who is there, by the newest profile of each member."""

COUNT = f"SELECT count() AS members {PRESENT}"
NEWEST = f"SELECT member_id, version, attributes, external_ids, status {PRESENT}"

VERSIONS = """
SELECT member_id, max(version) AS version FROM member_profile_history
WHERE program_id = {program_id:String} AND member_id IN {members:Array(String)}
GROUP BY member_id
"""


async def count(settings: Settings, program_id: str) -> int:
    """How many members are ACTIVE or SUSPENDED. Raises UnavailableError."""
    return sum([int(row["members"]) async for row in _rows(settings, COUNT, {"program_id": program_id})])


async def newest(
    settings: Settings, program_id: str, *, equal: Mapping[str, str], user_name_type: str, skip: int = 0, members_max: int
) -> AsyncIterator[Account]:
    """Members who are ACTIVE or SUSPENDED, in the order of their numbers; of the account only what a profile has.

    `equal`: parts of the profile, in the names that mastering uses, and what they must be, without regard to case. Whoever has no
    external id of `user_name_type` has the number instead. Raises UnavailableError.
    """
    query, values = NEWEST, {"program_id": program_id, "skip": str(skip), "members_max": str(members_max)}
    for number, (part, value) in enumerate(equal.items()):
        kind = part.removeprefix(EXTERNAL_IDS_PREFIX)
        values |= {f"name_{number}": kind, f"value_{number}": value}
        column = f"attributes[{{name_{number}:String}}]" if kind == part else f"external_ids[{{name_{number}:String}}]"
        if part == EXTERNAL_IDS_PREFIX + user_name_type:
            column = f"if({column} = '', member_id, {column})"
        query += f"AND lowerUTF8({column}) = lowerUTF8({{value_{number}:String}})\n"
    query += "ORDER BY member_id LIMIT {members_max:UInt64} OFFSET {skip:UInt64}"
    async for row in _rows(settings, query, values):
        yield Account(
            program_id=program_id, member_id=row["member_id"], status=MemberStatus(row["status"]), tier="", enrolled_at_ms=0,
            profile_version=int(row["version"]), attributes=row["attributes"], external_ids=row["external_ids"],
        )  # fmt: skip


async def wait_for(settings: Settings, program_id: str, versions: Mapping[str, int]) -> None:
    """Return when the history has these versions, by member, or after BEHIND_S_MAX. Raises UnavailableError."""
    missing = dict(versions)
    try:
        async with asyncio.timeout(BEHIND_S_MAX):
            while missing:
                members = "[" + ",".join("'" + name.replace("\\", "\\\\").replace("'", "\\'") + "'" for name in missing) + "]"
                async for row in _rows(settings, VERSIONS, {"program_id": program_id, "members": members}):
                    if int(row["version"]) >= missing[row["member_id"]]:
                        del missing[row["member_id"]]
                if missing:
                    await asyncio.sleep(ASK_AGAIN_S)
    except TimeoutError:
        return  # An older listing is better than none.


async def _rows(settings: Settings, query: str, values: Mapping[str, str]) -> AsyncIterator[dict[str, Any]]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT_S)) as session:
        async for row in clickhouse.rows(session, settings, query, values):
            yield orjson.loads(row)
