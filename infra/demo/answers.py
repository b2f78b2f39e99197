"""Steps of people who ask the command line: a controller for a report, and a service desk for the reasons of one guest's balance."""

import json
import time
from typing import Any

from infra.demo.checks import Step
from infra.demo.guests import SAVING
from infra.demo.telling import loyalty, number_of
from infra.demo.world import World

REPORT = "liability"
COMMANDS_MAX = 20  # As many as an explanation has at most: all of this guest.
OWN_ACCOUNTS = ("available", "pending", "held")


async def report_what_is_owed(world: World, step: Step) -> str:
    book = world.book
    started_s = time.monotonic()
    step.show_output(f"loyalty sync run report/{REPORT}", await loyalty(world, "sync", "run", f"report/{REPORT}"))
    step.show_output(f"loyalty report {REPORT}", await loyalty(world, "report", REPORT))
    rows = [json.loads(line) for line in (await loyalty(world, "report", REPORT, "--format", "json")).splitlines()]
    owed = {program_id: sum(row["points"] for row in rows if row["program_id"] == program_id) for program_id in world.rules}
    claim = f"the report is made, and what the programmes owe is what the members have: {book.points:,} points"
    step.equal(claim, owed, {program_id: book.points_of(program_id) for program_id in world.rules}, took_s=time.monotonic() - started_s)
    step.equal("each of them is of a lot, so that it is known when it expires", sum(row["points_not_in_lots"] for row in rows), 0)
    return f"{book.points:,} points are owed, by the month in which they expire"


async def explain_a_balance(world: World, step: Step) -> str:
    """The guest whose campaign's points have expired."""
    program_id, _, member_id = SAVING.partition("/")
    page = world.book.pages[SAVING]
    started_s = time.monotonic()
    shown = ("explain", member_id, "--limit", "1")
    step.show_output(f"loyalty {' '.join(shown)}", await loyalty(world, *shown, "--program", program_id))
    found = json.loads(await loyalty(world, "explain", member_id, "--limit", str(COMMANDS_MAX), "--program", program_id, "--json"))
    entries = _entries(found)
    claim = f"{len(entries)} entries of the ledger, each with its cause, its rule and who was told of it: all that there are of {number_of(SAVING)}"
    step.equal(claim, sorted(entry["entry_sequence"] for entry in entries), list(range(1, page.entries + 1)), took_s=time.monotonic() - started_s)
    moved = sum(_change(entry) for entry in entries)
    told = ", ".join(f"{entry['kind']} {entry['points_delta']:+,}" for entry in sorted(entries, key=lambda entry: entry["entry_sequence"]))
    step.equal(f"they add up to the balance, {page.points:,} points: {told}", moved, page.points)
    return f"{page.points:,} points are what {len(entries)} entries add up to, each with its cause"


def _entries(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Of the explained ways, each entry once."""
    rows = [one["row"] for way in found["ways"] for one in way["steps"] if one["step"] == "posted"]
    return list({row["entry_id"]: row for row in rows}.values())


def _change(entry: dict[str, Any]) -> int:
    """What an entry gives to or takes from the member's own points."""
    own = entry["points_delta"] if entry["account"] in OWN_ACCOUNTS else 0
    return own - (entry["points_delta"] if entry["counter_account"] in OWN_ACCOUNTS else 0)
