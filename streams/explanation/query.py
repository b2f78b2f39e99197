"""An id -> SQL over the history: which commands it is about, each step of their way, what they have to do with each other. Pure.

The first question finds commands by an index on the id; the others read by member, which is how the tables are ordered.
"""

from collections.abc import Collection, Mapping, Sequence

from streams.history import Conditions, Query

COMMANDS_MAX = 20
STEPS_MAX = 200  # Of one kind, of one command.
LINKED_MAX = 1000
RELATED_MAX = 20
DEAD_LETTERS_MAX = 20

Values = Mapping[str, str | Sequence[str]]

_MEMBER = "program_id = {program:String} AND member_id = {member:String}"
_MEMBERS = "program_id = {program:String} AND member_id IN {members:Array(String)}"
_LAST = f" LIMIT {STEPS_MAX}"
STEPS = {
    "sync_audit": f"SELECT * FROM sync_audit FINAL WHERE {_MEMBERS} AND command_id = {{command:String}} ORDER BY recorded_at, source_offset{_LAST}",
    "ledger_entries": (
        f"SELECT * FROM ledger_entries FINAL WHERE {_MEMBERS} AND transaction_id = {{command:String}} ORDER BY recorded_at, member_id, entry_sequence{_LAST}"
    ),
    "loyalty_events": (
        f"SELECT * FROM loyalty_events FINAL WHERE {_MEMBERS} AND command_id = {{command:String}} ORDER BY recorded_at, member_id, sequence{_LAST}"
    ),
}  # fmt: skip
"""Table -> its rows of one command, in the order in which they came about."""
DELIVERIES = {
    "delivery_attempts": (
        "SELECT * EXCEPT (request_headers, request_body, response_headers, response_body) FROM delivery_attempts"
        f" WHERE hasAny(event_ids, {{events:Array(String)}}) ORDER BY started_at, attempt_id, mirrored_at DESC LIMIT 1 BY attempt_id{_LAST}"
    ),
    "delivery_audit": f"SELECT * FROM delivery_audit FINAL WHERE {_MEMBERS} AND event_id IN {{events:Array(String)}} ORDER BY ended_at{_LAST}",
}
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


def step(table: str, program_id: str, members: Sequence[str], command_id: str) -> Query:
    return Query(STEPS[table], {"program": program_id, "members": members, "command": command_id})


def deliveries(table: str, program_id: str, members: Sequence[str], event_ids: Sequence[str]) -> Query:
    return Query(DELIVERIES[table], {"program": program_id, "members": members, "events": event_ids})


_BY_EVENT = (
    "SELECT '{relation}' AS relation, member_id, command_id, toString(kind) AS kind, points_delta AS points, recorded_at AS at FROM loyalty_events FINAL"
    f" WHERE {_MEMBER} AND command_id != {{command:String}} AND {{column}} IN"
    f" (SELECT {{column}} FROM loyalty_events WHERE {_MEMBER} AND command_id = {{command:String}} AND {{column}} IS NOT NULL)"
)
_BY_ENTRY = (
    f"SELECT '{{relation}}' AS relation, member_id, {{other}} AS command_id, toString(kind) AS kind, {{points}} AS points, recorded_at AS at"
    f" FROM ledger_entries FINAL WHERE {_MEMBER} AND {{condition}}"
)


def _filled(text: str, **words: str) -> str:
    for name, word in words.items():
        text = text.replace(f"{{{name}}}", word)
    return text


_COMMAND = "{command:String}"
_RELATED = " UNION ALL ".join((
    _filled(_BY_ENTRY, relation="reversed by", other="transaction_id", points="points_delta", condition=f"reverses_transaction_id = {_COMMAND}"),
    _filled(_BY_ENTRY, relation="reverses", other="assumeNotNull(reverses_transaction_id)", points="points_delta",
            condition=f"transaction_id = {_COMMAND} AND reverses_transaction_id IS NOT NULL"),
    _filled(_BY_ENTRY, relation="points moved by", other="transaction_id",
            points=f"if(points_delta < 0, -1, 1) * arraySum(arrayMap(lot -> if(lot.1 = {_COMMAND}, lot.2, 0), lots))",
            condition=f"transaction_id != {_COMMAND} AND ifNull(reverses_transaction_id, '') != {_COMMAND} AND has(lots.lot_id, {_COMMAND})"),
    _filled(_BY_ENTRY, relation="points came from", other="(arrayJoin(lots) AS lot).1", points="lot.2",
            condition=f"transaction_id = {_COMMAND} AND points_delta < 0"),
    _filled(_BY_EVENT, relation="same hold", column="hold_id"),
    _filled(_BY_EVENT, relation="same voucher", column="voucher_code"),
))  # fmt: skip


def related(program_id: str, member_id: str, command_id: str) -> Query:
    """relation, member_id, command_id, kinds, points, at: other commands that moved the same points, or ended the same hold or voucher."""
    sql = (
        "SELECT relation, member_id, command_id, groupUniqArray(kind) AS kinds, sum(points) AS points, min(at) AS at"
        f" FROM ({_RELATED}) WHERE command_id != {_COMMAND} GROUP BY relation, member_id, command_id ORDER BY at, command_id LIMIT {RELATED_MAX}"
    )
    return Query(sql, {"program": program_id, "member": member_id, "command": command_id})


def dead_letters(key: str) -> Query:
    """The newest records under a member's key that were given up."""
    sql = f"SELECT * EXCEPT (key) FROM dead_letters FINAL WHERE key = {{key:String}} ORDER BY failed_at DESC LIMIT {DEAD_LETTERS_MAX}"
    return Query(sql, {"key": key})
