"""Sources -> one JSON document with everything that is held of a member, and of the numbers that were merged into it, piece by piece."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from streams.personal_data.places import REMAINS, SECTIONS
from streams.personal_data.sources import Sources

PIECE_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """Whose data it is."""

    program_id: str
    member_id: str
    first_page: Mapping[str, Any]
    """Of the worker that owns the member."""
    cache: Mapping[str, Any] | None
    tables: tuple[str, ...]
    """ClickHouse's tables with rows of members."""

    @property
    def exists(self) -> bool:
        """Whether anybody is enrolled under the number, or something waits for it."""
        return self.first_page["account"] is not None or bool(self.first_page["waiting"])

    @property
    def merged(self) -> tuple[str, ...]:
        """The numbers that were merged into this one."""
        account = self.first_page["account"]
        return tuple(account["moved_from"]) if account is not None else ()


async def document(sources: Sources, subject: Subject, caches: Mapping[str, Mapping[str, Any] | None], exported_at: str) -> AsyncIterator[bytes]:
    """The document's bytes, in pieces: readme, then one entry for each number. It ends with `"complete":true`; one that does not broke off.

    `caches` holds what Redis has of the merged numbers. Raises UnavailableError, also in the middle.
    """
    head = {
        "readme": {
            "what": "Everything that is held of this member, and of the numbers that were merged into it. Times in *_ms are milliseconds since"
            " 1970, all others are RFC 3339 in UTC; points are whole numbers.",
            "sections": SECTIONS,
            "not_in_here": REMAINS,
        },
        "program_id": subject.program_id,
        "member_id": subject.member_id,
        "exported_at": exported_at,
    }  # fmt: skip
    buffer = bytearray(orjson.dumps(head)[:-1] + b',"numbers":[')
    for place, member_id in enumerate((subject.member_id, *subject.merged)):
        page = subject.first_page if place == 0 else await sources.held(subject.program_id, member_id)
        cache = subject.cache if place == 0 else caches[member_id]
        buffer += b"," if place else b""
        async for piece in _number(sources, subject, member_id, page, cache):
            buffer += piece
            if len(buffer) >= PIECE_BYTES:
                yield bytes(buffer)
                buffer.clear()
    yield bytes(buffer) + b'],"complete":true}\n'


async def _number(
    sources: Sources, subject: Subject, member_id: str, page: Mapping[str, Any], cache: Mapping[str, Any] | None
) -> AsyncIterator[bytes]:
    fixed = {name: page[name] for name in ("account", "waiting", "vouchers", "rows_to_forget")}
    yield orjson.dumps({"member_id": member_id} | fixed | {"cache": cache})[:-1] + b',"outcomes":['
    outcomes, following = page["outcomes"], page["next"]
    separator = b""
    while outcomes:
        yield separator + b",".join(map(orjson.dumps, outcomes))
        separator = b","
        if following is None:
            break
        more = await sources.held(subject.program_id, member_id, following)
        outcomes, following = more["outcomes"], more["next"]
    yield b'],"history":{'
    for number, table in enumerate((*subject.tables, "dead_letters")):
        yield (b"," if number else b"") + orjson.dumps(table) + b":["
        of_letters = number == len(subject.tables)
        rows = sources.dead_letters(subject.program_id, member_id) if of_letters else sources.history(table, subject.program_id, member_id)
        separator = b""
        async for row in rows:
            yield separator + row
            separator = b","
        yield b"]"
    yield b"}}"
