"""The state of every account, read in five places and compared with the second opinion."""

import asyncio
from collections.abc import Mapping
from typing import Any

from infra.demo.book import Book
from infra.demo.checks import Step, poll
from infra.demo.world import World

SHOWN_MAX = 3  # Differences that a failed check shows.
ACCOUNTS_AT_ONCE = 16  # Requests to the REST API.

Balance = tuple[int, int, str, int]
Balances = dict[str, Balance]


async def reconcile(world: World, step: Step) -> None:
    """Nothing lost, nothing doubled: at both receivers, in the cache, at the worker and in ClickHouse."""
    book = world.book
    wanted = {member: page.events for member, page in book.pages.items()}
    for inbox in world.inboxes:
        await inbox.collect("every event", book.events, lambda _: True)
        claim = f"{inbox.name}: {book.events:,} events since the start, every member's sequence 1, 2, 3 ... without gap or disorder"
        step.equal(claim, inbox.faults(wanted)[:SHOWN_MAX], [])
        _compare(step, f"{inbox.name}: the last balance of all {len(wanted)} members is the reckoned one", _heard(inbox.arrivals), book)
    cached = await poll(
        "balances in the cache", lambda: _ask_all(world, world.api.balance), lambda seen: _sequences(seen) == wanted, expected="all events"
    )
    _compare(step, "REST API, from the cache: the same", cached, book)
    _compare(step, "REST API, from the worker that owns the member: the same", await _ask_all(world, world.api.account), book)
    stored = await poll("balances in ClickHouse", lambda: _stored(world), lambda seen: _sequences(seen) == wanted, expected="all events")
    _compare(step, "ClickHouse, view balances: the same", stored, book)
    ledger = await poll(
        "ledger in ClickHouse",
        lambda: world.analyst.ask(
            "SELECT sum(entries) AS entries, sum(points_sum) AS points, countIf(NOT gapless) AS gaps, countIf(NOT balanced) AS unbalanced"
            " FROM reconciliation"
        ),
        lambda rows: rows[0]["entries"] >= book.entries,
        expected=f"{book.entries} entries",
    )
    claim = f"ClickHouse, ledger: {book.entries:,} entries of {book.points:,} points in sum, no gap, every balance the sum of its entries"
    step.equal(claim, ledger, [{"entries": book.entries, "points": book.points, "gaps": 0, "unbalanced": 0}])


def _compare(step: Step, claim: str, seen: Balances, book: Book) -> None:
    expected = book.balances
    different = [member for member in sorted(seen.keys() | expected.keys()) if seen.get(member) != expected.get(member)]
    shown = different[:SHOWN_MAX]
    step.holds(
        claim, not different, expected={member: expected.get(member) for member in shown},
        seen=f"{len(different)} others, for example {({member: seen.get(member) for member in shown})}",
    )  # fmt: skip


def _heard(arrivals: Any) -> Balances:
    newest: dict[str, Mapping[str, Any]] = {}
    for one in arrivals:
        newest[one.member] = one.event
    return {member: _balance(event["account"], event["sequence"]) for member, event in newest.items()}


async def _ask_all(world: World, ask: Any) -> Balances:
    few = asyncio.Semaphore(ACCOUNTS_AT_ONCE)

    async def one(member: str) -> Balance:
        async with few:
            body = await ask(member)
        return _balance(body, body.get("sequence", 0))

    members = list(world.book.pages)
    return dict(zip(members, await asyncio.gather(*map(one, members)), strict=True))


async def _stored(world: World) -> Balances:
    rows = await world.analyst.ask("SELECT * FROM balances")
    return {f"{row['program_id']}/{row['member_id']}": _balance(row, row["last_sequence"]) for row in rows}


def _balance(source: Mapping[str, Any], sequence: int) -> Balance:
    return source.get("available_points", 0), source.get("qualifying_points", 0), source.get("tier", ""), sequence


def _sequences(balances: Balances) -> dict[str, int]:
    return {member: balance[3] for member, balance in balances.items()}
