"""The worker's part of an export: what only the worker that owns a member holds, page by page, on its internal port."""

import asyncio
import re
from collections.abc import Sequence
from contextlib import closing
from itertools import islice
from typing import Any

from aiohttp import web

from schemas.contract import member_key
from schemas.records import Account, Outcome, Voucher, WaitingCommands
from streams import topics
from streams.engine import App
from streams.internal_access import refusal
from streams.settings import Settings

ROWS_MAX = 1_000  # Remembered answers of one page, some 300 bytes each: well below what a reader takes.
KEY = re.compile(r"([0-9a-f]{2}){1,2048}")


def add_route(web_app: web.Application, settings: Settings, running: Sequence[App]) -> None:
    """Serve GET /internal/export/{program}/{member}?after=... : 200, 421 owned by another worker, 401 without the internal token, 503 starting.

    `running` holds the engine's app once it has started.
    """

    async def export(request: web.Request) -> web.Response:
        if (refused := refusal(request, settings)) is not None:
            return refused
        after = request.query.get("after", "")
        if after and not KEY.fullmatch(after):
            return web.json_response({"error": "after must be the `next` of the page before"}, status=400)
        if not running:
            return web.json_response({"error": "starting"}, status=503)
        program_id, member_id = request.match_info["program"], request.match_info["member"]
        try:
            # In a thread: a scan may read the disk.
            page = await asyncio.to_thread(held, running[0], settings.topic_prefix, program_id, member_id, bytes.fromhex(after))
        except KeyError:
            return web.json_response({"error": "another worker owns this member's partition"}, status=421)
        return web.json_response(page)

    web_app.router.add_get("/internal/export/{program}/{member:[^/]+}", export)


def held(app: App, topic_prefix: str, program_id: str, member_id: str, after: bytes = b"") -> dict[str, Any]:
    """One page of what the worker has of a member, as JSON: `account` (None: not enrolled), `waiting`, `vouchers`, `outcomes`, `rows_to_forget` of
    its partition, and `next`, to be given as `after` for the page that follows; None with the last. All but outcomes is in the first page only.

    Raises KeyError when this worker does not own the member, StateFailed.
    """
    key = member_key(program_id, member_id)
    rows = app.partitions.rows(app.partition_of(key))
    first, end = key + b"\0", key + b"\1"
    with closing(rows.scan("outcomes", after or first, end)) as found:
        page = list(islice(found, ROWS_MAX))
    outcomes = [_named(one, first, app.codec.decode(row, Outcome)) for one, row in page]
    following = (page[-1][0] + b"\0").hex() if len(page) == ROWS_MAX else None
    if after:
        return {"outcomes": outcomes, "next": following}
    account: Account | None = rows.read("accounts", key, Account)
    waiting: WaitingCommands | None = rows.read("waiting", key, WaitingCommands)
    with closing(rows.scan("vouchers", first, end)) as found:
        vouchers = [app.codec.decode(row, Voucher).to_avro() for _, row in found]
    records = {topic.name(topic_prefix): topic.record for topic in topics.INBOUND}
    return {
        "account": None if account is None else account.to_avro(),
        "waiting": [
            {"topic": one.topic, "ingested_at_ms": one.ingested_at_ms, "command": app.codec.decode(one.value, records[one.topic]).to_avro()}
            for one in (waiting.commands if waiting is not None else ())
        ],
        "vouchers": vouchers,
        "outcomes": outcomes,
        "rows_to_forget": rows.state.rows_to_forget(),
        "next": following,
    }


def _named(key: bytes, first: bytes, outcome: Outcome) -> dict[str, Any]:
    """An answer with the id of its command: `t:` before that of a transaction, `e:` before all others."""
    return {"id": key[len(first) :].decode()} | outcome.to_avro()
