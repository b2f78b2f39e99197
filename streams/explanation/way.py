"""An id -> one document: the ways of its commands, the member as it is now, what still waits, and what could not be asked.

The history has what is old, the log what the history does not have yet; rows of both look the same.
"""

import asyncio
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial

from schemas.contract import ADDRESS_MARK, member_key
from streams import topics
from streams.as_of.query import mirrored
from streams.domain.identities import is_address, parts_of
from streams.explanation import query
from streams.explanation.log import COMMAND, DELIVERED, IDENTIFIERS, MIRRORED, RECORDS_MAX, Behind
from streams.explanation.member import member, waits_for
from streams.explanation.related import NAMED, related
from streams.explanation.sources import HISTORY, LOG, TABLE, Row, Sources

DECISIONS = tuple(name for name in MIRRORED if name not in DELIVERED)
STEPS = ("received", "decided", "posted", "told", "stored", "attempted", "concluded", "mirrored")
"""In the order in which they come about: what is of one instant is shown in it."""
OF_TABLE = {
    "ledger_entries": ("posted", "recorded_at"), "loyalty_events": ("told", "recorded_at"), "delivery_attempts": ("attempted", "started_at"),
    "delivery_audit": ("concluded", "ended_at"),
}  # fmt: skip
"""Table -> its step, and the column with the step's time."""
NOT_DECIDED = "WAITING"
BY_CLOCK = "due:"
"""Beginning of what stands for the command where something was due: many members share one."""
MEMBERS_MAX = 20  # Of one way: two in a transfer or a merge, a few in a chain of merges.

NewRows = dict[str, list[Row]]
"""Table -> rows of the log."""
Found = dict[tuple[str, str], dict[str, set[str]]]
"""(programme, command) -> member -> correlation ids, the newest command first."""


@dataclass(slots=True)
class Way:
    """What is known of one command."""

    program_id: str
    members: list[str]
    command_id: str
    rows: dict[str, list[Row]] = field(default_factory=lambda: defaultdict(list))
    """Table -> rows."""

    @property
    def event_ids(self) -> list[str]:
        return [row["event_id"] for row in self.rows["loyalty_events"]]

    def add(self, table: str, rows: Iterable[Row]) -> None:
        """Rows that are not there yet, of the same record."""
        known = {(row["source_partition"], row["source_offset"]) for row in self.rows[table]}
        self.rows[table] += [row for row in rows if (row["source_partition"], row["source_offset"]) not in known]

    def owns(self, table: str, row: Row) -> bool:
        """Whether a row of the log belongs to it."""
        if table == "delivery_attempts":
            return not set(self.event_ids).isdisjoint(row["event_ids"])
        if table == "delivery_audit":
            return row["event_id"] in self.event_ids
        return row["program_id"] == self.program_id and row["member_id"] in self.members and row[COMMAND[table]] == self.command_id


async def explain(sources: Sources, identifier: str, programs: Collection[str], limit: int) -> Row:
    """`id`; `mirrored_until_ms`, None if the history does not answer; `not_reached`: source -> why it has no say; `ways`, the newest first: a
    command's `program_id`, `member_id`, `members`, `command_id`, `waits_for` (None: it is decided), `total_ms`, `steps` in the order of time,
    each with its `step`, `at`, `after_ms` (since the one before), `from` (history or log) and `row`, and `related` commands; `members`: who has
    this number, see streams.explanation.member; `waiting`: commands that are not decided; `given_up`: dead letters with the id in them, if there
    is nothing else and all programmes are looked at. `programs`: those to look at; none: all.

    Nothing in all of them: nothing is known of the id. Never raises UnavailableError.
    """
    until = await sources.history(mirrored())
    has_history = HISTORY not in sources.not_reached
    behind = await sources.of_log(sources.log.behind, has_history=has_history, otherwise=Behind())
    found, waiting, members = await asyncio.gather(
        _found(sources, identifier, programs, behind, limit), sources.of_log(sources.log.waiting, identifier, otherwise=list[Row]()),
        _members(sources, identifier, programs),
    )  # fmt: skip
    if not found:
        found = await _of_member(sources, identifier, programs, behind, members, limit)
    if not found and not members:
        found = _together(await sources.history(query.renamed(identifier, programs, limit)))
    ways = [way for way in await _linked(sources, found) if not programs or way.program_id in programs][:limit]
    await _fill(sources, ways, behind)
    others = await _related(sources, ways)
    stored = await _stored(sources, ways)
    waiting = [row for row in waiting if not programs or row["program_id"] in programs]
    # A record that cannot be read belongs to no programme that could be looked at.
    is_unknown = not (ways or members or waiting or programs)
    given_up = await sources.of_log(sources.log.given_up, identifier, otherwise=list[Row]()) if is_unknown else []
    _tell_what_was_cut(sources, behind)
    return {
        "id": identifier, "mirrored_until_ms": next(iter(until[0].values())) if until else None, "not_reached": sources.not_reached,
        "ways": [_shown(*one) for one in zip(ways, others, stored, strict=True)], "members": members, "waiting": waiting, "given_up": given_up,
    }  # fmt: skip


# Which commands an id is about.


async def _found(sources: Sources, identifier: str, programs: Collection[str], behind: Behind, limit: int) -> Found:
    known, new = await asyncio.gather(
        sources.history(query.commands(identifier, programs, limit)),
        sources.of_log(sources.log.rows, behind, MIRRORED, (), (identifier,), otherwise=NewRows()),
    )  # fmt: skip
    named = {table: [row for row in rows if identifier in (row[name] for name in IDENTIFIERS[table])] for table, rows in new.items()}
    event_ids = {event_id for row in named.get("delivery_attempts", ()) for event_id in row["event_ids"]}
    event_ids |= {row["event_id"] for row in named.get("delivery_audit", ())}
    found = list(_commands_of(named))
    if event_ids:
        older = await sources.history(query.of_events(sorted(event_ids), programs, limit))
        newer = await sources.of_log(sources.log.rows, behind, DECISIONS, (), event_ids, otherwise=NewRows())
        events = [row for row in newer.get("loyalty_events", ()) if row["event_id"] in event_ids]
        found += [*_commands_of({"loyalty_events": events}), *older]
    return _together([*found, *known])


async def _of_member(
    sources: Sources, identifier: str, programs: Collection[str], behind: Behind, members: Sequence[Row], limit: int
) -> Found:  # fmt: skip
    """The newest commands of a member."""
    whose = {one["program_id"] for one in members} or sources.programs
    keys = {member_key(program_id, identifier) for program_id in whose}
    own = {sources.log.partition_of(key) for key in keys}
    part = Behind({place: bounds for place, bounds in behind.ranges.items() if place[1] in own})
    known, new = await asyncio.gather(
        sources.history(query.of_member(identifier, programs, limit)), sources.of_log(sources.log.rows, part, DECISIONS, keys, (), otherwise=NewRows())
    )
    newest = sorted(_commands_of(new), key=lambda row: row["recorded_at"], reverse=True)
    return dict(list(_together([*newest, *known]).items())[:limit])


def _commands_of(rows: Mapping[str, Iterable[Row]]) -> Iterator[Row]:
    for table in DECISIONS:
        for row in rows.get(table, ()):
            yield {
                "program_id": row["program_id"], "member_id": row["member_id"], "command_id": row[COMMAND[table]], "recorded_at": row["recorded_at"],
                "correlation_ids": [row["correlation_id"] or ""],
            }  # fmt: skip


def _together(rows: Iterable[Row]) -> Found:
    found: Found = {}
    for row in rows:
        members = found.setdefault((row["program_id"], row["command_id"]), {})
        members.setdefault(row["member_id"], set()).update(filter(None, row["correlation_ids"]))
    return found


async def _linked(sources: Sources, found: Found) -> list[Way]:
    """One way for each command and all members it is about: who shares its request. Others may have used the same id for something else."""
    named = sorted({command_id for _, command_id in found if not command_id.startswith(BY_CLOCK)})
    others = _together(await sources.history(query.linked(named))) if named else {}
    ways = []
    for (program_id, command_id), members in found.items():
        every = {name: set(ids) for name, ids in others.get((program_id, command_id), {}).items()}
        for name, ids in members.items():
            every.setdefault(name, set()).update(ids)
        left = list(members)
        while left:
            group = _sharing(left[0], every)
            left = [name for name in left if name not in group]
            ways.append(Way(program_id, group[:MEMBERS_MAX], command_id))
    return ways


def _sharing(first: str, members: Mapping[str, set[str]]) -> list[str]:
    """Members who share a correlation id with the first, or with one who does."""
    group, ids = [first], set(members[first])
    while more := [name for name, own in members.items() if name not in group and not ids.isdisjoint(own)]:
        group += more
        ids |= {one for name in more for one in members[name]}
    return group


async def _members(sources: Sources, identifier: str, programs: Collection[str]) -> list[Row]:
    """Who has this number, or this external id."""
    wanted = frozenset(programs) or sources.programs
    if not wanted:
        wanted = frozenset(row["program_id"] for row in await sources.history(query.of_member(identifier, ())))

    async def owner(program_id: str) -> str | None:
        return await sources.accounts.resolve(program_id, *parts_of(identifier))

    names = [(program_id, identifier) for program_id in sorted(wanted)]
    if is_address(identifier) and ":" in identifier:
        owners = [await sources.ask(TABLE, partial(owner, program_id), None) for program_id, _ in names]
        names += [(program_id, name) for (program_id, _), name in zip(names, owners, strict=True) if name is not None]
    found = await asyncio.gather(*(member(sources, *one) for one in names))
    return [one for one in found if one is not None]


# The steps.


async def _fill(sources: Sources, ways: Sequence[Way], behind: Behind) -> None:
    await _from_history(sources, ways)
    keys = {member_key(way.program_id, name) for way in ways for name in way.members if not name.startswith(ADDRESS_MARK)}
    own = {sources.log.partition_of(key) for key in keys}
    part = Behind({place: bounds for place, bounds in behind.ranges.items() if place[1] in own})
    for tables in (DECISIONS, DELIVERED):
        event_ids = {event_id for way in ways for event_id in way.event_ids} if tables is DELIVERED else ()
        _share(ways, await sources.of_log(sources.log.rows, part, tables, keys, event_ids, otherwise=NewRows()))


async def _from_history(sources: Sources, ways: Sequence[Way]) -> None:
    """All ways at once: a question costs more than its rows."""
    if not ways:
        return
    _share(ways, {"ledger_entries": await sources.history(query.steps("ledger_entries", _whose(ways)))})
    joined = False
    for way in ways:
        others = {row["counter_member_id"] for row in way.rows["ledger_entries"] if row["counter_member_id"]} - set(way.members)
        way.members += sorted(others)[: MEMBERS_MAX - len(way.members)]
        joined |= bool(others)
    rest = DECISIONS if joined else tuple(table for table in DECISIONS if table != "ledger_entries")
    for table, rows in zip(rest, await asyncio.gather(*(sources.history(query.steps(table, _whose(ways))) for table in rest)), strict=True):
        _share(ways, {table: rows})
    if event_ids := [event_id for way in ways for event_id in way.event_ids]:
        found = await asyncio.gather(*(sources.history(query.deliveries(table, _whose(ways), event_ids)) for table in DELIVERED))
        _share(ways, dict(zip(DELIVERED, found, strict=True)))


def _whose(ways: Sequence[Way]) -> dict[str, list[str]]:
    return {
        "programs": sorted({way.program_id for way in ways}), "members": sorted({name for way in ways for name in way.members}),
        "commands": sorted({way.command_id for way in ways}),
    }  # fmt: skip


def _share(ways: Sequence[Way], found: Mapping[str, Sequence[Row]]) -> None:
    for way in ways:
        for table, rows in found.items():
            way.add(table, (row for row in rows if way.owns(table, row)))


async def _related(sources: Sources, ways: Sequence[Way]) -> list[list[Row]]:
    """For each way the other commands that moved the same points, or are about the same hold or voucher."""
    if not ways:
        return []
    told = [row for way in ways for row in way.rows["loyalty_events"]]
    holds, vouchers = (sorted({row[name] for row in told if row[name]}) for name in NAMED)
    entries, events = await asyncio.gather(
        sources.history(query.points_of(_whose(ways))), sources.history(query.ends_of(_whose(ways), holds, vouchers)) if holds or vouchers else _none()
    )  # fmt: skip
    entries += [row for way in ways for row in way.rows["ledger_entries"]]
    return [related(way.command_id, way.members, way.rows["ledger_entries"], way.rows["loyalty_events"], entries, events) for way in ways]


async def _none() -> list[Row]:
    return []


async def _stored(sources: Sources, ways: Sequence[Way]) -> list[list[Row]]:
    """For each way the rows of the accounts' changelog that first have all that its decision did to a member."""
    wanted = [(number, way.program_id, *last) for number, way in enumerate(ways) for last in _last_events(way)]
    if not wanted:
        return [[] for _ in ways]
    sought = [one[1:] for one in wanted]
    found = await sources.of_log(sources.log.account_rows, sought, otherwise=list[Row | None]())
    rows = [(number, row) for (number, *_), row in zip(wanted, found, strict=False) if row is not None]  # None at all: the log does not answer.
    return [[row for number, row in rows if number == place] for place in range(len(ways))]


def _last_events(way: Way) -> Iterator[tuple[str, int, int]]:
    """Each member of whom there are events, the sequence of the last one, and when it was decided, ms."""
    for member_id in way.members:
        own = [row for row in way.rows["loyalty_events"] if row["member_id"] == member_id]
        if own:
            last = max(own, key=lambda row: int(row["sequence"]))
            yield member_id, int(last["sequence"]), int(_moment(last["recorded_at"]).timestamp() * 1000)


def _tell_what_was_cut(sources: Sources, behind: Behind) -> None:
    if HISTORY in sources.not_reached and LOG not in sources.not_reached:
        sources.not_reached[HISTORY] += f". The newest {RECORDS_MAX:,} records of each partition of the log were looked through instead."
    elif behind.cut and LOG not in sources.not_reached:
        (topic, partition), records = max(behind.cut.items(), key=lambda one: one[1])
        sources.not_reached[LOG] = f"the history is {records:,} records behind in {topic}[{partition}]: only the newest {RECORDS_MAX:,} were read"


# The document.


def _shown(way: Way, others: list[Row], stored: Sequence[Row]) -> Row:
    raw = [*_steps(way), *(_step("stored", row["at"], row, LOG) for row in stored)]
    raw.sort(key=lambda one: (_moment(one["at"]), STEPS.index(one["step"])))
    times = [_moment(one["at"]) for one in raw]
    for number, one in enumerate(raw):
        one["after_ms"] = _ms(times[number] - times[number - 1]) if number else 0
    # Who was commanded comes first: the number, where it waited under an external id.
    heard = {row["member_id"] for row in way.rows["sync_audit"]}
    members = sorted(way.members, key=lambda name: (name not in heard, name.startswith(ADDRESS_MARK)))
    # Rows may be mirrored again, long afterwards.
    ends = [at for at, one in zip(times, raw, strict=True) if one["step"] != "mirrored"]
    return {
        "program_id": way.program_id, "member_id": members[0], "members": members, "command_id": way.command_id,
        "waits_for": _waits_for(way), "total_ms": _ms(ends[-1] - ends[0]) if ends else 0, "steps": raw, "related": others,
    }  # fmt: skip


def _steps(way: Way) -> Iterator[Row]:
    versions = {row["member_id"]: row["rule_version"] for row in way.rows["ledger_entries"]}
    for row in way.rows["sync_audit"]:
        yield _step("received", row["ingested_at"], row)
        decision = {name: row[name] for name in ("member_id", "result", "reason", "detail", "replayed", "sequence")}
        yield _step("decided", row["recorded_at"], decision | {"rule_version": versions.get(row["member_id"])}, _origin(row))
    for table, (name, column) in OF_TABLE.items():
        for row in way.rows[table]:
            yield _step(name, row[column], row)
    for table, rows in way.rows.items():
        if written := [row["mirrored_at"] for row in rows if "mirrored_at" in row]:
            yield _step("mirrored", max(written), {"table": table, "rows": len(written)}, HISTORY)


def _step(name: str, at: str, row: Row, origin: str = "") -> Row:
    return {"step": name, "at": at, "from": origin or _origin(row), "row": row}


def _origin(row: Row) -> str:
    return HISTORY if "mirrored_at" in row else LOG


def _waits_for(way: Way) -> str | None:
    """None: it is decided."""
    audits = sorted(way.rows["sync_audit"], key=lambda row: _moment(row["recorded_at"]))
    if not audits or any(row["result"] != NOT_DECIDED for row in audits):
        return None
    last = audits[-1]
    if last["stream"] == topics.OFFER_ACTIVATIONS.stream and last["sequence"]:
        return "the answer of its offer's budget"
    return waits_for(last["member_id"])


def _moment(at: str) -> datetime:
    return datetime.fromisoformat(at)


def _ms(difference: timedelta) -> int:
    return difference // timedelta(milliseconds=1)
