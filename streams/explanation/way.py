"""An id -> the ways of its commands, read from the history."""

from datetime import datetime, timedelta
from typing import Any

from streams.as_of.query import mirrored
from streams.explanation import query
from streams.history import Reader

Row = dict[str, Any]


async def explain(history: Reader, identifier: str, program: str | None, limit: int) -> Row:
    """`id`, `mirrored_until_ms`, and `ways`, the newest first: a command's `program_id`, `member_id`, `command_id`, `total_ms` and `steps` in
    the order of time, each with its `step`, `at`, `after_ms` (since the one before) and the `row` of the history. No ways: nothing is known of it.
    Raises UnavailableError."""
    until_ms = [row async for row in history.rows(mirrored())][0][0]
    found = [row async for row in history.rows(query.commands(identifier, program, limit=limit))]
    if not found:
        found = [row async for row in history.rows(query.commands(identifier, program, is_member=True, limit=limit))]
    return {"id": identifier, "mirrored_until_ms": until_ms, "ways": [await _way(history, *row) for row in found]}


async def _way(history: Reader, program_id: str, member_id: str, command_id: str) -> Row:
    steps = []
    for name in query.STEPS:
        async for row in history.objects(query.step(name, program_id, member_id, command_id)):
            steps.append({"step": name, "at": row.pop("at"), "row": row})
    steps.sort(key=lambda one: datetime.fromisoformat(one["at"]))  # Stable: what is of one instant stays in the order of the steps.
    times = [datetime.fromisoformat(one["at"]) for one in steps]
    for number, one in enumerate(steps):
        one["after_ms"] = (times[number] - times[number - 1]) // timedelta(milliseconds=1) if number else 0
    total_ms = (times[-1] - times[0]) // timedelta(milliseconds=1) if times else 0
    return {"program_id": program_id, "member_id": member_id, "command_id": command_id, "total_ms": total_ms, "steps": steps}
