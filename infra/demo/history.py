"""Steps of people who look at it from outside: an analyst with SQL, and an operator who asks what went wrong."""

import time

from infra.demo.checks import Step, poll
from infra.demo.world import World, in_thread
from streams.audit import log
from streams.audit.verification import Chain, Verifier
from streams.codec import open_codec
from streams.settings import Settings

BY_DAY_AND_SOURCE = """\
SELECT day, program_id AS programme, source_system AS source,
       sum(entries) AS entries, sum(points_in) AS points_in, sum(points_out) AS points_out
FROM points_by_day_and_source GROUP BY ALL ORDER BY ALL"""

COMMANDS_AUDITED = (
    # The rules' own publication is audited as well, and what the HR systems of the countries tell, at times of their own.
    "SELECT count() FROM sync_audit FINAL WHERE stream != 'programs' AND source_system NOT IN ('darwinbox', 'successfactors', 'workday')"
)

ZERO_SUM = """\
SELECT program_id AS programme, members, available, held, issued, redeemed, adjusted, expired, in_transit, total, is_zero
FROM zero_sum ORDER BY ALL"""


async def ask_in_sql(world: World, step: Step) -> str:
    book = world.book
    started_s = time.monotonic()
    rows = await world.analyst.ask(BY_DAY_AND_SOURCE)
    took_s = time.monotonic() - started_s
    step.show(rows)
    entries = sum(row["entries"] for row in rows)
    claim = f"points by day and source, over the {entries:,} ledger entries of points that can be spent"
    step.equal(claim, entries, book.entries_of_spendable, took_s=took_s)
    points = sum(row["points_in"] - row["points_out"] for row in rows)
    step.equal(f"points in less points out are {points:,}: the sum of all balances", points, book.points)
    return f"{len(rows)} rows of SQL add up to the {points:,} points that the members have"


async def look_for_trouble(world: World, step: Step) -> str:
    """What would be in the way of a good night's sleep."""
    commands = len(world.sent.at_s) + world.sent.repeats
    audited = await poll(
        "audit of every command", lambda: world.analyst.number(COMMANDS_AUDITED), lambda count: count >= commands,
        expected=commands,
    )  # fmt: skip
    step.equal(f"audit: one record for each of {commands:,} commands, repetitions included", audited, commands)
    chains = await in_thread(lambda: _verified(world.stack.settings))
    links, broken = sum(chain.records for chain in chains), [chain.broken for chain in chains if chain.broken is not None]
    step.equal(f"loyalty audit verify: {links:,} records of what came in and went out, in {len(chains)} chains, none broken", broken, [])
    dead = await world.analyst.ask("SELECT topic, stage, reason, detail FROM dead_letters FINAL LIMIT 3")
    step.equal("dead letters: none", dead, [])
    await _prove_ledger(world, step)
    for inbox in world.inboxes:
        inbox.read()
        step.equal(f"{inbox.name}: no delivery with a wrong signature", [one.problem for one in inbox.receiver.unverified], [])
    return f"{commands:,} commands audited, no dead letters; every programme adds up to zero, and every entry is chained to the one before"


def _verified(settings: Settings) -> list[Chain]:
    """Every record of the audit's topics, hash by hash."""
    verifier = Verifier()
    for link in log.links(settings, open_codec(settings), log.parts(settings)):
        verifier.add(link)
    return verifier.finish()


async def _prove_ledger(world: World, step: Step) -> None:
    """The three proofs that the ledger carries in itself, over all that has happened."""
    book, ask = world.book, world.analyst.ask
    sums = await ask(ZERO_SUM)
    zero = [bool(row.pop("is_zero")) for row in sums]
    step.show(sums)
    seen = {row["programme"]: (row["available"], row["held"], row["in_transit"]) for row in sums}
    step.equal("view zero_sum: what the members have and what the programmes gave and took back is zero in sum", zero, [True] * len(world.rules))
    expected = {program_id: (book.points_of(program_id), 0, 0) for program_id in world.rules}
    step.equal("the members' share of it is the reckoned one, nothing is set aside or on its way any more", seen, expected)
    step.equal(f"{book.expired} points have expired, as reckoned", sum(row["expired"] for row in sums), book.expired)
    chains = await ask("SELECT countIf(NOT chained) AS broken, sum(entries) AS entries, sum(hashed_entries) AS hashed FROM hash_chain")
    claim = f"view hash_chain: each of {book.entries:,} entries names the hash of the one before, no chain is broken"
    step.equal(claim, chains, [{"broken": 0, "entries": book.entries, "hashed": book.entries}])
    proofs = await ask("SELECT count() AS members, countIf(gapless AND balanced) AS proven FROM reconciliation")
    members = sum(page.entries > 0 for page in book.pages.values())
    step.equal(f"view reconciliation: no entry missing, every balance explained, for all {members} members", proofs, [{"members": members, "proven": members}])
