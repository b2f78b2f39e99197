"""Steps of people who look at it from outside: an analyst with SQL, and an operator who asks what went wrong."""

import time

from infra.demo.checks import Step, poll
from infra.demo.world import World

BY_DAY_AND_SOURCE = """\
SELECT day, program_id AS programme, source_system AS source,
       sum(entries) AS entries, sum(points_in) AS points_in, sum(points_out) AS points_out
FROM points_by_day_and_source GROUP BY ALL ORDER BY ALL"""


async def ask_in_sql(world: World, step: Step) -> str:
    book = world.book
    started_s = time.monotonic()
    rows = await world.analyst.ask(BY_DAY_AND_SOURCE)
    took_s = time.monotonic() - started_s
    step.show(rows)
    entries = sum(row["entries"] for row in rows)
    step.equal(f"points by day and source, over {entries:,} ledger entries", entries, book.entries, took_s=took_s)
    points = sum(row["points_in"] - row["points_out"] for row in rows)
    step.equal(f"points in less points out are {points:,}: the sum of all balances", points, book.points)
    return f"{len(rows)} rows of SQL add up to the {points:,} points that the members have"


async def look_for_trouble(world: World, step: Step) -> str:
    """What would be in the way of a good night's sleep."""
    commands = len(world.sent.at_s) + world.sent.repeats
    audited = await poll(
        "audit of every command", lambda: world.analyst.number("SELECT count() FROM sync_audit FINAL"), lambda count: count >= commands,
        expected=commands,
    )  # fmt: skip
    step.equal(f"audit: one record for each of {commands:,} commands, repetitions included", audited, commands)
    dead = await world.analyst.ask("SELECT topic, stage, reason, detail FROM dead_letters FINAL LIMIT 3")
    step.equal("dead letters: none", dead, [])
    for inbox in world.inboxes:
        inbox.read()
        step.equal(f"{inbox.name}: no delivery with a wrong signature", [one.problem for one in inbox.receiver.unverified], [])
    return f"{commands:,} commands audited, no dead letters"
