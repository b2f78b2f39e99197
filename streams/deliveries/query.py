"""What operators ask of deliveries -> SQL over delivery_attempts and delivery_dead_letters. Pure."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from schemas.records import AttemptVerdict
from streams.history import TIME_MS_MAX, Conditions, Cursor, Query, in_milliseconds

FAILED = "FAILED"
VERDICTS = ("DELIVERED", "RETRY", "GIVEN_UP", FAILED)
"""What may be asked for. FAILED: all but DELIVERED."""
CLASSES = ("2xx", "3xx", "4xx", "5xx", "failure")
"""Of outcomes; failure: there was no HTTP status."""
OUTCOME = re.compile(r"[1-5]xx|failure|[1-9][0-9]{2}|[A-Z][A-Z_]{0,63}", re.ASCII)
_PLACE = ("source_partition", "source_offset")
LISTED = (
    "attempt_id", "destination", "channel", "webhook_id", "event_ids", "kind", "program_id", "member_id", "sequence", "attempt", "verdict",
    "outcome", "status", "detail", "next_attempt_at_ms", "appended_at_ms", "started_at_ms", "duration_us", "correlation_id",
)  # fmt: skip
"""Columns of a list of attempts."""
WHOLE = (*LISTED, "url", "peer_address", "request_headers", "request_body", "response_headers", "response_body")
DEAD_LETTERS = (
    "destination", "event_id", "kind", "program_id", "member_id", "sequence", "result", "reason", "status", "attempts", "ended_at_ms",
    "occurred_at_ms", "recorded_at_ms", "correlation_id", "log_partition", "log_offset",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempts:
    """Which attempts are sought; None: whatever it is. All must hold."""

    destination: str | None = None
    program: str | None = None
    member: str | None = None
    event: str | None = None
    """Id of an event: alone, or in a batch."""
    kind: str | None = None
    """Kind of the event, or BATCH."""
    outcome: str | None = None
    """A status, a name of a failure, or one of CLASSES."""
    verdict: str | None = None
    """One of VERDICTS."""
    correlation: str | None = None
    since_ms: int | None = None
    """Begun at this time or later."""
    until_ms: int | None = None
    """Begun before this time."""
    programs: frozenset[str] = frozenset()
    """Programmes that the asker reaches; empty: all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetters:
    """Which dead letters of a destination are sought; None: whatever it is. All must hold."""

    destination: str
    program: str | None = None
    member: str | None = None
    reason: str | None = None
    event_ids: frozenset[str] = frozenset()
    """Empty: all."""
    since_ms: int | None = None
    """Given up at this time or later."""
    until_ms: int | None = None
    """Given up before this time."""
    programs: frozenset[str] = frozenset()
    """Programmes that the asker reaches; empty: all."""


def attempts(asked: Attempts, limit: int, after: Cursor | None = None) -> Query:
    """The newest `limit` attempts that fit, as LISTED and their place; after a page's last one, those that follow.

    The table keeps verdicts apart, and each is read from its newest end: so a destination's list costs as much as it shows.
    """
    conditions = Conditions()
    conditions.equal({
        "destination": asked.destination, "program_id": asked.program, "member_id": asked.member, "kind": asked.kind,
        "correlation_id": asked.correlation,
    })  # fmt: skip
    conditions.among("program_id", asked.programs)
    if asked.event is not None:
        conditions.texts.append("has(event_ids, {event:String})")
        conditions.values["event"] = asked.event
    if asked.outcome is not None:
        _add_outcome(asked.outcome, conditions)
    conditions.between("started_at", asked.since_ms, asked.until_ms)
    conditions.after("started_at", after)
    newest = "ORDER BY started_at DESC, source_partition DESC, source_offset DESC"
    verdicts = _FAILURES if asked.verdict == FAILED else [asked.verdict] if asked.verdict else [*_FAILURES, "DELIVERED"]
    parts = [
        f"SELECT {', '.join((*(name.removesuffix('_ms') for name in LISTED), *_PLACE))} FROM delivery_attempts"
        f" WHERE verdict = '{verdict}'{''.join(f' AND {text}' for text in conditions.texts)}"
        # Instead of FINAL, which would read all that fits: a row that is there twice has its place twice.
        f" {newest} LIMIT 1 BY source_partition, source_offset LIMIT {{limit:UInt32}}"
        for verdict in verdicts
    ]
    sql = f"SELECT {in_milliseconds((*LISTED, *_PLACE))} FROM ({' UNION ALL '.join(parts)}) {newest} LIMIT {{limit:UInt32}}"
    return Query(sql, conditions.values | {"limit": str(limit)})


_FAILURES = [verdict.value for verdict in AttemptVerdict if verdict is not AttemptVerdict.DELIVERED]


def _add_outcome(outcome: str, conditions: Conditions) -> None:
    if outcome == "failure":
        conditions.texts.append("status IS NULL")
    elif outcome in CLASSES:
        conditions.texts.append("intDiv(status, 100) = {status_class:UInt16}")
        conditions.values["status_class"] = outcome[0]
    else:
        conditions.equal({"outcome": outcome})


def attempt(attempt_id: str, programs: frozenset[str]) -> Query:
    """One attempt, as WHOLE. Its id says where in the table it is. Raises ValueError for what is no attempt's id."""
    destination, _, rest = attempt_id.partition("/")
    _, _, started_at_ms = rest.rpartition("/")
    if not (destination and started_at_ms.isascii() and started_at_ms.isdigit() and len(started_at_ms) < 19 and int(started_at_ms) <= TIME_MS_MAX):
        raise ValueError("no attempt's id")
    conditions = Conditions()
    conditions.equal({"destination": destination, "attempt_id": attempt_id})
    conditions.among("program_id", programs)
    conditions.among("verdict", frozenset(AttemptVerdict))  # All, so that the table's order leads to it.
    conditions.texts.append("started_at = fromUnixTimestamp64Milli({started_at:Int64}, 'UTC')")
    sql = f"SELECT {in_milliseconds(WHOLE)} FROM delivery_attempts{conditions.where} ORDER BY source_offset DESC LIMIT 1"
    return Query(sql, conditions.values | {"started_at": started_at_ms})


def dead_letters(asked: DeadLetters, limit: int, after: Cursor | None = None) -> Query:
    """The `limit` dead letters that were given up last, as DEAD_LETTERS and their place in the audit; after a page's last one, those that follow."""
    conditions = _of_dead_letters(asked)
    conditions.after("ended_at", after)
    sql = f"SELECT {in_milliseconds((*DEAD_LETTERS, *_PLACE))} FROM delivery_dead_letters{conditions.where}"
    sql += " ORDER BY ended_at DESC, source_partition DESC, source_offset DESC LIMIT {limit:UInt32}"
    return Query(sql, conditions.values | {"limit": str(limit)})


def span(asked: DeadLetters) -> Query:
    """Of all that fit: how many, when the first was decided and the last given up, in milliseconds. Each event was appended to the log between."""
    conditions = _of_dead_letters(asked)
    columns = "count(), toUnixTimestamp64Milli(min(recorded_at)), toUnixTimestamp64Milli(max(ended_at))"
    return Query(f"SELECT {columns} FROM delivery_dead_letters{conditions.where}", conditions.values)


def _of_dead_letters(asked: DeadLetters) -> Conditions:
    conditions = Conditions()
    conditions.equal({"destination": asked.destination, "program_id": asked.program, "member_id": asked.member, "reason": asked.reason})
    conditions.among("program_id", asked.programs)
    conditions.among("event_id", asked.event_ids)
    conditions.between("ended_at", asked.since_ms, asked.until_ms)
    return conditions


def named(columns: Sequence[str], row: Sequence[Any]) -> dict[str, Any]:
    """A row by the names of its columns; without its place."""
    return dict(zip(columns, row, strict=False))


def cursor_of(row: Sequence[Any], columns: Sequence[str], time: str) -> Cursor:
    """Where the page after this row begins. `time` is the column by which the list is ordered."""
    return Cursor(row[columns.index(time)], *row[-len(_PLACE) :])
