"""What a worker answers on its internal port about what waits and whom external ids lead to: committed rows of the partitions it owns."""

import asyncio
import struct
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from heapq import nsmallest
from itertools import islice
from typing import Any

from aiohttp import web

from schemas.contract import member_key
from schemas.records import Identity, ProgramVersions, WaitingCommands
from streams import programs, topics
from streams.domain import identities
from streams.domain.identity import address
from streams.domain.program import Program
from streams.engine import App
from streams.internal_access import refusal
from streams.settings import Settings

PAGE_ROWS_MAX = 200
ACCOUNTS_MAX = 5_000  # Of a page: some 3 MB.
LENGTHS = struct.Struct(">HI")  # Before each row of a page of accounts: bytes of its key and of its value.
SOURCE_SYSTEMS_SHOWN_MAX = 10  # Of one member, the most frequent ones: names come with the records.


def add_routes(web_app: web.Application, settings: Settings, running: Sequence[App]) -> None:
    """Serve /internal/waiting, /internal/identities and /internal/accounts. 401 without the internal token, 503 starting; `running` holds the app once it runs.

    `GET /internal/waiting?program=&limit=&after=`: `waiting_page`. `GET /internal/identities/{program}/{kind}/{value}`: {"member_id"},
    404 if the id leads to nobody, 421 if another worker owns the id's partition. `GET /internal/accounts?partition=&start=&limit=`:
    `accounts_page`, 421 if another worker owns the partition.
    """

    async def answer(request: web.Request, look: Callable[[App], Any]) -> web.Response:
        if (refused := refusal(request, settings)) is not None:
            return refused
        if not running:
            return web.json_response({"error": "starting"}, status=503)
        try:
            found = await asyncio.to_thread(look, running[0])  # It may read the disk.
        except KeyError:
            return web.json_response({"error": "another worker owns this partition"}, status=421)
        if isinstance(found, bytes):
            return web.Response(body=found, content_type="application/octet-stream")
        return web.json_response({"error": "nothing is there"}, status=404) if found is None else web.json_response(found)

    async def waiting(request: web.Request) -> web.Response:
        program_id, after, limit = request.query.get("program", ""), request.query.get("after", ""), request.query.get("limit", "")
        if not (limit.isascii() and limit.isdigit() and 1 <= int(limit) <= PAGE_ROWS_MAX):
            return web.json_response({"error": f"limit must be a number from 1 to {PAGE_ROWS_MAX}"}, status=400)
        return await answer(request, lambda app: waiting_page(app, settings, program_id, int(limit), after))

    async def identity(request: web.Request) -> web.Response:
        match = request.match_info
        return await answer(request, lambda app: resolved(app, settings, match["program"], match["kind"], match["value"]))

    async def accounts(request: web.Request) -> web.Response:
        query = request.query
        numbers = [query.get(name, "") for name in ("partition", "limit")]
        if not all(number.isascii() and number.isdigit() for number in numbers) or not 1 <= int(numbers[1]) <= ACCOUNTS_MAX:
            return web.json_response({"error": f"partition must be a number, limit one from 1 to {ACCOUNTS_MAX}"}, status=400)
        return await answer(request, lambda app: accounts_page(app, int(numbers[0]), int(numbers[1]), query.get("start", "")))

    web_app.router.add_get("/internal/waiting", waiting)
    web_app.router.add_get("/internal/accounts", accounts)
    web_app.router.add_get("/internal/identities/{program}/{kind}/{value:[^/]+}", identity)


def accounts_page(app: App, partition: int, limit: int, start: str) -> bytes:
    """Committed accounts of a partition as they are stored, in the order of their keys, from the key `start` on: for each LENGTHS, the key,
    the value. Fewer than `limit` rows: there are no more. Raises KeyError for a partition of another worker, StateFailed."""
    with closing(app.partitions.rows(partition).scan("accounts", start.encode(), None)) as rows:
        return b"".join(LENGTHS.pack(len(key), len(value)) + key + value for key, value in islice(rows, limit))


def waiting_page(app: App, settings: Settings, program_id: str, limit: int, after: str) -> dict[str, Any]:
    """Members and external ids for which commands wait, in the order of their names, from the first one behind `after` on.

    `partitions` are those that were looked at; of each row `member_id` (an external id as a pseudonym), `commands`, `first_ingested_at_ms`,
    `last_ingested_at_ms`, `streams` and `source_systems` with their counts. Nothing of what the commands say. All names are looked at for
    each page, some microseconds each: they do not stand in the order in which they are shown. Raises StateFailed.
    """
    partitions, found = [], []
    for partition in sorted(app.partitions.owned()):
        try:
            program = _program(app, settings, partition, program_id)
            if program is not None:
                found += nsmallest(limit, _names(app, partition, program, after))
        except KeyError:  # Given up just now.
            continue
        partitions.append(partition)
    records = {topic.name(settings.topic_prefix): topic for topic in topics.INBOUND}
    return {"partitions": partitions, "rows": [_row(app, records, name, row) for name, row in nsmallest(limit, found)]}


def _names(app: App, partition: int, program: Program, after: str) -> Iterator[tuple[str, bytes]]:
    """What is shown of each key -> the row as it is stored."""
    start = member_key(program.program_id, "")
    with closing(app.partitions.rows(partition).scan("waiting", start, start[:-1] + b"0")) as rows:  # "0" follows "/".
        for key, row in rows:
            name = identities.shown(program, key[len(start) :].decode())
            if name > after:
                yield name, row


def _row(app: App, records: dict[str, topics.Topic], name: str, row: bytes) -> dict[str, Any]:
    parked = app.codec.decode(row, WaitingCommands).commands
    commands = [(records[one.topic], app.codec.decode(one.value, records[one.topic].record)) for one in parked]
    return {
        "member_id": name,
        "commands": len(parked),
        "first_ingested_at_ms": min(one.ingested_at_ms for one in parked),
        "last_ingested_at_ms": max(one.ingested_at_ms for one in parked),
        "streams": dict(sorted(Counter(topic.stream for topic, _ in commands).items())),
        "source_systems": dict(Counter(command.source_system for _, command in commands).most_common(SOURCE_SYSTEMS_SHOWN_MAX)),
    }


def resolved(app: App, settings: Settings, program_id: str, kind: str, value: str) -> dict[str, Any] | None:
    """Whom an external id leads to, as its claim said: that member may be merged since. Raises KeyError for a partition of another worker,
    StateFailed."""
    address_text = address(kind, value)
    partition = app.partition_of(member_key(program_id, address_text))
    program = _program(app, settings, partition, program_id)
    if program is None:
        return None
    row: Identity | None = app.partitions.rows(partition).read("identities", identities.identity_key(program, address_text), Identity)
    return None if row is None else {"member_id": row.member_id}


def _program(app: App, settings: Settings, partition: int, program_id: str) -> Program | None:
    """A programme that is published; which version does not matter for names. Raises KeyError, StateFailed."""
    row: ProgramVersions | None = app.partitions.rows(partition).read("programs", program_id.encode(), ProgramVersions)
    return None if row is None else programs.from_record(row.versions[-1], settings.voucher_key.encode())
