"""An id -> SQL over the history: which commands it is about, each step of their way, what they have to do with each other. Pure.

The first question finds commands by an index on the id; the others read by member, which is how the tables are ordered.
"""

from collections.abc import Collection, Mapping, Sequence

from streams.history import Conditions, Query

COMMANDS_MAX = 20
STEPS_MAX = 200  # Of one kind, of one command.
LINKED_MAX = 1000
DEAD_LETTERS_MAX = 20

Values = Mapping[str, str | Sequence[str]]

_MEMBERS = "program_id IN {programs:Array(String)} AND member_id IN {members:Array(String)}"
_OF_COMMANDS = f"{_MEMBERS} AND %s IN {{commands:Array(String)}}"
_LAST = f"LIMIT {STEPS_MAX} BY program_id, %s"
STEPS = {
    "sync_audit": f"FROM sync_audit FINAL WHERE {_OF_COMMANDS % 'command_id'} ORDER BY recorded_at, source_offset {_LAST % 'command_id'}",
    "ledger_entries": (
        f"FROM ledger_entries FINAL WHERE {_OF_COMMANDS % 'transaction_id'} ORDER BY recorded_at, member_id, entry_sequence {_LAST % 'transaction_id'}"
    ),
    "loyalty_events": f"FROM loyalty_events FINAL WHERE {_OF_COMMANDS % 'command_id'} ORDER BY recorded_at, member_id, sequence {_LAST % 'command_id'}",
}  # fmt: skip
"""Table -> its rows of some commands, in the order in which they came about."""
DELIVERIES = {
    "delivery_attempts": (
        "SELECT * EXCEPT (request_headers, request_body, response_headers, response_body) FROM delivery_attempts"
        " WHERE hasAny(event_ids, {events:Array(String)}) ORDER BY started_at, attempt_id, mirrored_at DESC LIMIT 1 BY attempt_id"
        f" LIMIT {COMMANDS_MAX * STEPS_MAX}"
    ),
    "delivery_audit": (
        f"SELECT * FROM delivery_audit FINAL WHERE {_MEMBERS} AND event_id IN {{events:Array(String)}} ORDER BY ended_at LIMIT {STEPS_MAX} BY event_id"
    ),
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
    return Query(f"SELECT * {STEPS[table]}", whose)


def deliveries(table: str, whose: Values, event_ids: Sequence[str]) -> Query:
    return Query(DELIVERIES[table], {**whose, "events": event_ids})


def points_of(whose: Values) -> Query:
    """Entries that took these commands back, or moved points of lots that they made."""
    sql = (
        "SELECT program_id, member_id, transaction_id, reverses_transaction_id, kind, points_delta, lots, recorded_at FROM ledger_entries FINAL"
        f" WHERE {_MEMBERS} AND (reverses_transaction_id IN {{commands:Array(String)}} OR hasAny(lots.lot_id, {{commands:Array(String)}}))"
        f" AND transaction_id NOT IN {{commands:Array(String)}} ORDER BY recorded_at, entry_sequence LIMIT {LINKED_MAX}"
    )
    return Query(sql, whose)


def ends_of(whose: Values, holds: Sequence[str], vouchers: Sequence[str]) -> Query:
    """Events of the same holds and vouchers."""
    sql = (
        "SELECT program_id, member_id, command_id, kind, movement, points_delta, hold_id, voucher_code, recorded_at FROM loyalty_events FINAL"
        f" WHERE {_MEMBERS} AND (hold_id IN {{holds:Array(String)}} OR voucher_code IN {{vouchers:Array(String)}})"
        f" ORDER BY recorded_at, sequence LIMIT {LINKED_MAX}"
    )
    return Query(sql, {**whose, "holds": holds, "vouchers": vouchers})


def dead_letters(key: str) -> Query:
    """The newest records under a member's key that were given up."""
    sql = f"SELECT * EXCEPT (key) FROM dead_letters FINAL WHERE key = {{key:String}} ORDER BY failed_at DESC LIMIT {DEAD_LETTERS_MAX}"
    return Query(sql, {"key": key})
