"""An id -> SQL over the history: which commands it is about, each step of their way, what they have to do with each other. Pure.

The first question finds commands by an index on the id; the others read by member, which is how the tables are ordered.
"""

from collections.abc import Collection, Mapping, Sequence

from streams.history import Conditions, Query

COMMANDS_MAX = 20
STEPS_MAX = 200  # Of one kind, of one command, on average.
LINKED_MAX = 1000
DEAD_LETTERS_MAX = 20

Values = Mapping[str, str | Sequence[str]]

_MEMBERS = "program_id IN {programs:Array(String)} AND member_id IN {members:Array(String)}"
_ROWS = f"LIMIT {COMMANDS_MAX * STEPS_MAX}"


def _once(table: str, condition: str, key: str, columns: str = "*") -> str:
    """Rows that were mirrored again are there once, the newest of each. FINAL would read all columns of many rows to the same end."""
    return f"SELECT {columns} FROM {table} WHERE {condition} ORDER BY {key}, mirrored_at DESC LIMIT 1 BY {key} {_ROWS}"


_COMMANDS = "IN {commands:Array(String)}"
STEPS = {
    "sync_audit": _once("sync_audit", f"{_MEMBERS} AND command_id {_COMMANDS}", "program_id, member_id, audit_id"),
    "ledger_entries": _once("ledger_entries", f"{_MEMBERS} AND transaction_id {_COMMANDS}", "program_id, member_id, entry_sequence"),
    "loyalty_events": _once("loyalty_events", f"{_MEMBERS} AND command_id {_COMMANDS}", "program_id, member_id, sequence"),
}
"""Table -> its rows of some commands."""
DELIVERIES = {
    "delivery_attempts": _once(
        "delivery_attempts", "hasAny(event_ids, {events:Array(String)})", "attempt_id",
        "* EXCEPT (request_headers, request_body, response_headers, response_body)",
    ),
    "delivery_audit": _once("delivery_audit", f"{_MEMBERS} AND event_id IN {{events:Array(String)}}", "destination, source_partition, source_offset"),
}  # fmt: skip
"""Table -> its rows of some events."""
_FINDERS = (
    "SELECT program_id, member_id, command_id, correlation_id, recorded_at FROM sync_audit WHERE command_id = {id:String}",
    "SELECT program_id, member_id, command_id, correlation_id, recorded_at FROM sync_audit WHERE correlation_id = {id:String}",
    "SELECT program_id, member_id, transaction_id AS command_id, correlation_id, recorded_at FROM ledger_entries WHERE transaction_id = {id:String}",
    "SELECT program_id, member_id, transaction_id AS command_id, correlation_id, recorded_at FROM ledger_entries WHERE entry_id = {id:String}",
    "SELECT program_id, member_id, command_id, correlation_id, recorded_at FROM loyalty_events WHERE event_id = {id:String}",
    "SELECT program_id, member_id, command_id, correlation_id, recorded_at FROM loyalty_events WHERE hold_id = {id:String}",
    "SELECT program_id, member_id, command_id, correlation_id, recorded_at FROM loyalty_events WHERE voucher_code = {id:String}",
    "SELECT program_id, member_id, command_id, correlation_id, recorded_at FROM loyalty_events WHERE event_id IN"
    " (SELECT arrayJoin(event_ids) FROM delivery_attempts WHERE webhook_id = {id:String})",
)
"""Each by one index: ClickHouse uses none for two columns joined by OR."""
_OF_EVENTS = "SELECT program_id, member_id, command_id, correlation_id, recorded_at FROM loyalty_events WHERE event_id IN {events:Array(String)}"
_OF_MEMBER = "SELECT program_id, member_id, command_id, correlation_id, recorded_at FROM loyalty_events WHERE member_id = {id:String}"
# What came for a number that was merged has its id behind the number's. No index knows the end of an id: asked when nothing else has it.
_RENAMED = (
    "SELECT program_id, member_id, command_id, correlation_id, recorded_at FROM sync_audit WHERE endsWith(command_id, concat('/', {id:String}))"
)


def commands(identifier: str, programs: Collection[str], limit: int = COMMANDS_MAX) -> Query:
    """program_id, member_id, command_id, correlation_ids of the newest commands that an id is about: their own, or that of a transaction, an
    entry of the ledger, an event, a hold, a voucher, a webhook, a request (correlation id). `programs`: those to look at; none: all."""
    return _newest(" UNION ALL ".join(_FINDERS), {"id": identifier}, programs, limit)


def of_member(member_id: str, programs: Collection[str], limit: int = COMMANDS_MAX) -> Query:
    """The same of a member's newest commands."""
    return _newest(_OF_MEMBER, {"id": member_id}, programs, limit)


def of_events(event_ids: Sequence[str], programs: Collection[str], limit: int = COMMANDS_MAX) -> Query:
    """The same of the commands that caused some events."""
    return _newest(_OF_EVENTS, {"events": event_ids}, programs, limit)


def renamed(identifier: str, programs: Collection[str], limit: int = COMMANDS_MAX) -> Query:
    """The same of commands whose id is another one since their member was merged."""
    return _newest(_RENAMED, {"id": identifier}, programs, limit)


def _newest(found: str, values: Values, programs: Collection[str], limit: int) -> Query:
    of_programs = Conditions()
    of_programs.among("program_id", frozenset(programs))
    sql = (
        f"SELECT program_id, member_id, command_id, groupUniqArray(10)(ifNull(correlation_id, '')) AS correlation_ids FROM ({found}){of_programs.where}"
        f" GROUP BY program_id, member_id, command_id ORDER BY max(recorded_at) DESC, command_id LIMIT {limit}"
    )
    return Query(sql, {**values, **of_programs.values})


def linked(command_ids: Sequence[str]) -> Query:
    """program_id, member_id, command_id, correlation_ids of all members about whom commands of these ids have records: the other side of a
    transfer or a merge, and who waited under an external id."""
    found = " UNION ALL ".join(
        f"SELECT program_id, member_id, {column} AS command_id, correlation_id, recorded_at FROM {table} WHERE {column} IN {{commands:Array(String)}}"
        for table, column in (("sync_audit", "command_id"), ("ledger_entries", "transaction_id"))
    )  # fmt: skip
    return _newest(found, {"commands": command_ids}, (), LINKED_MAX)


def steps(table: str, whose: Values) -> Query:
    """`whose`: programs, members, commands. What other commands of these members and programmes have the same names comes along."""
    return Query(STEPS[table], whose)


def deliveries(table: str, whose: Values, event_ids: Sequence[str]) -> Query:
    return Query(DELIVERIES[table], {**whose, "events": event_ids})


def points_of(whose: Values) -> Query:
    """Entries that took these commands back, or moved points of lots that they made."""
    moved = f"(reverses_transaction_id {_COMMANDS} OR hasAny(lots.lot_id, {{commands:Array(String)}}))"
    columns = "program_id, member_id, transaction_id, reverses_transaction_id, kind, points_delta, lots, recorded_at"
    key = "program_id, member_id, entry_sequence"
    return Query(_once("ledger_entries", f"{_MEMBERS} AND {moved} AND transaction_id NOT {_COMMANDS}", key, columns), whose)


def ends_of(whose: Values, holds: Sequence[str], vouchers: Sequence[str]) -> Query:
    """Events of the same holds and vouchers."""
    same = "(hold_id IN {holds:Array(String)} OR voucher_code IN {vouchers:Array(String)})"
    columns = "program_id, member_id, command_id, kind, movement, points_delta, hold_id, voucher_code, recorded_at"
    sql = _once("loyalty_events", f"{_MEMBERS} AND {same}", "program_id, member_id, sequence", columns)
    return Query(sql, {**whose, "holds": holds, "vouchers": vouchers})


def receipts(program_id: str, member_id: str) -> Query:
    """destination, sequence, result, ended_at of the last event about a member with which each destination is done."""
    sql = (
        "SELECT a.destination AS destination, max(a.sequence) AS sequence, argMax(toString(a.result), a.sequence) AS result,"
        " argMax(a.ended_at, a.sequence) AS ended_at FROM delivery_audit AS a"
        " WHERE a.program_id = {program:String} AND a.member_id = {member:String} AND a.kind != 'MEMBER_READ' GROUP BY destination ORDER BY destination"
    )
    return Query(sql, {"program": program_id, "member": member_id})


def dead_letters(key: str) -> Query:
    """The newest records under a member's key that were given up."""
    sql = f"SELECT * EXCEPT (key) FROM dead_letters FINAL WHERE key = {{key:String}} ORDER BY failed_at DESC LIMIT {DEAD_LETTERS_MAX}"
    return Query(sql, {"key": key})
