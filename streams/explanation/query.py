"""An id -> SQL over the history: which commands it is about, and each step of their way. Pure.

The first question finds commands by an index on the id; the others read by member, which is how the tables are ordered.
"""

from streams.history import Conditions, Query

COMMANDS_MAX = 20
STEPS_MAX = 200  # Of one kind, of one command.

_MEMBER = "program_id = {program:String} AND member_id = {member:String}"
_OF_COMMAND = f"{_MEMBER} AND %s = {{command:String}}"
_EVENTS = f"(SELECT event_id FROM loyalty_events WHERE {_OF_COMMAND % 'command_id'})"
_LAST = f" LIMIT {STEPS_MAX}"
STEPS = {
    "received": "SELECT *, ingested_at AS at FROM sync_audit FINAL WHERE " + _OF_COMMAND % "command_id" + " ORDER BY recorded_at, source_offset" + _LAST,
    "posted": "SELECT *, recorded_at AS at FROM ledger_entries FINAL WHERE " + _OF_COMMAND % "transaction_id" + " ORDER BY entry_sequence" + _LAST,
    "told": "SELECT *, recorded_at AS at FROM loyalty_events FINAL WHERE " + _OF_COMMAND % "command_id" + " ORDER BY sequence" + _LAST,
    "attempted": (
        "SELECT * EXCEPT (request_headers, request_body, response_headers, response_body), started_at AS at FROM delivery_attempts"
        f" WHERE hasAny(event_ids, {_EVENTS.replace('SELECT event_id', 'SELECT groupArray(event_id)')}) ORDER BY started_at, attempt_id, mirrored_at DESC"
        f" LIMIT 1 BY attempt_id{_LAST}"
    ),
    "concluded": f"SELECT *, ended_at AS at FROM delivery_audit FINAL WHERE {_MEMBER} AND event_id IN {_EVENTS} ORDER BY ended_at{_LAST}",
}
"""Step -> its rows of one command, in the order in which they came about."""
_FINDERS = (
    "SELECT program_id, member_id, command_id, recorded_at FROM sync_audit WHERE command_id = {id:String}",
    "SELECT program_id, member_id, command_id, recorded_at FROM sync_audit WHERE correlation_id = {id:String}",
    "SELECT program_id, member_id, transaction_id AS command_id, recorded_at FROM ledger_entries WHERE transaction_id = {id:String}",
    "SELECT program_id, member_id, transaction_id AS command_id, recorded_at FROM ledger_entries WHERE entry_id = {id:String}",
    "SELECT program_id, member_id, command_id, recorded_at FROM loyalty_events WHERE event_id = {id:String}",
    "SELECT program_id, member_id, command_id, recorded_at FROM loyalty_events WHERE event_id IN"
    " (SELECT arrayJoin(event_ids) FROM delivery_attempts WHERE webhook_id = {id:String})",
)
"""Each by one index: ClickHouse uses none for two columns joined by OR."""
_OF_MEMBER = "SELECT program_id, member_id, command_id, recorded_at FROM loyalty_events WHERE member_id = {id:String}"


def commands(identifier: str, program: str | None, *, is_member: bool = False, limit: int = COMMANDS_MAX) -> Query:
    """program_id, member_id, command_id of the newest commands that an id is about: their own, or that of a transaction, an entry of the
    ledger, an event, a webhook, a request (correlation id); or, with `is_member`, a member's."""
    of_program = Conditions()
    of_program.equal({"program_id": program})
    found = _OF_MEMBER if is_member else " UNION ALL ".join(_FINDERS)
    sql = (
        f"SELECT program_id, member_id, command_id FROM ({found}){of_program.where}"
        f" GROUP BY program_id, member_id, command_id ORDER BY max(recorded_at) DESC, command_id LIMIT {limit}"
    )
    return Query(sql, {"id": identifier} | of_program.values)


def step(name: str, program_id: str, member_id: str, command_id: str) -> Query:
    return Query(STEPS[name], {"program": program_id, "member": member_id, "command": command_id})
