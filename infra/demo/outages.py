"""Steps of trouble: a system that is away for a while, and a worker that is killed in the middle of its work."""

import asyncio
import random
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Coroutine, Iterable
from contextlib import asynccontextmanager
from typing import Any

from infra.demo import proofs
from infra.demo.checks import Step, duration, poll
from infra.demo.guests import EATING, GUESTS
from infra.demo.inbox import Arrival
from infra.demo.world import World, in_thread
from schemas.records import Transaction, TransactionKind

AFFECTED = GUESTS[20:40]
ROUNDS_BEFORE, ROUNDS = 5, 10  # Events of each affected member before the CRM goes away, and while it is.
OUTAGE_PER_S = 50
SLOWER_MAX_S = 1.0  # What the CRM's absence may cost the app at p50. To wait for the CRM would cost seconds.

STREAM_GUESTS = GUESTS[: GUESTS.index(EATING)]  # Without those of one step each.
STREAM_TRANSACTIONS = 3000
STREAM_PER_S = 250
KILLED_AFTER = 300  # Events of the stream that the app has when the worker is killed.
SEED = 20_261_122
EARN_SHARE, REDEEM_SHARE = 0.80, 0.12  # The rest adjusts.


async def crm_goes_down(world: World, step: Step) -> str:
    usual = world.note_latencies(f"{OUTAGE_PER_S} a second, all well", await spa_visits(world, "before", ROUNDS_BEFORE))
    await world.crm.collect("everything so far", world.book.events, lambda _: True)
    before = {member: world.book.pages[member].events for member in AFFECTED}
    await world.crm.receiver.go_down()
    heard = await spa_visits(world, "down", ROUNDS)
    ids = {one.command_id for one in heard}
    series = world.note_latencies("... while the CRM is down", heard)
    claim = f"mobile app: {len(heard)} events of {len(AFFECTED)} members meanwhile, {series.text} (before: {usual.text})"
    step.holds(claim, series.p50_s <= usual.p50_s + SLOWER_MAX_S, expected=f"p50 up to {SLOWER_MAX_S} s more", seen=series.text)
    waiting = await poll(
        "events that wait for the CRM", lambda: world.gauge("sink-webhooks", "loyalty_deliveries_waiting", "crm"), lambda n: n >= len(ids),
        expected=len(ids),
    )  # fmt: skip
    world.crm.read()
    step.equal("CRM: down, none of them has arrived", sum(one.command_id in ids for one in world.crm.arrivals), 0)
    claim = f"the pipeline's metrics: {waiting:.0f} records of the log wait for the CRM"
    step.holds(claim, waiting >= len(ids), expected=f"{len(ids)} or more: the log has marks of its own between the events", seen=waiting)

    await world.crm.receiver.come_back()
    back_s = time.monotonic()
    recovered = await world.crm.collect("events after its return", len(ids), lambda one: one.command_id in ids)
    took_s = recovered[-1].at_s - back_s
    claim = f"CRM: back, all {len(recovered)} arrive (the first {duration(recovered[0].at_s - back_s)} after its return)"
    step.equal(claim, {one.command_id for one in recovered}, ids, took_s=took_s)
    expected = {member: list(range(count + 1, world.book.pages[member].events + 1)) for member, count in before.items()}
    step.equal("CRM: every member's events in order, none missing, none twice", sequences(recovered), expected)
    return f"{len(ids)} events waited for the CRM; all delivered, in order, {duration(took_s)} after its return"


async def spa_visits(world: World, when: str, rounds: int) -> list[Arrival]:
    """Points for each affected member, some rounds of them; what the app has heard of them."""
    commands = [_earn(world, member, f"spa:{when}:{member}:{number}", 10 + number) for number in range(rounds) for member in AFFECTED]
    ids = {command.transaction_id for command in commands}
    await world.upstream.stream(commands, OUTAGE_PER_S)
    return await world.app.collect(f"events, CRM {when}", len(ids), lambda one: one.command_id in ids)


async def give_spa_points(world: World, member: str, when: str, points: int) -> str:
    """Points for one member; what the command is called."""
    command = _earn(world, member, f"spa:{when}:{member}:0", points)
    world.upstream.send(command)
    await world.upstream.flush()
    return command.transaction_id


async def kill_worker(world: World, step: Step) -> str:
    """The stream does not stop for the outage, as the world outside does not."""
    commands, refusals = _transactions(world)
    ids = {command.transaction_id for command in commands}
    async with _beside(world.upstream.stream(commands, STREAM_PER_S)):
        await world.app.collect("events of the stream", KILLED_AFTER, lambda one: one.command_id in ids)
        killed_s, back_s = await _kill_and_start_again(world, step, ids)
    heard = await world.app.collect(
        "answers to all transactions", len(ids), lambda one: one.command_id in ids and one.kind in ("BALANCE_CHANGED", "COMMAND_REFUSED")
    )
    backlog = [one for one in heard if one.at_s >= killed_s and world.sent.at_s[one.command_id] <= back_s]
    decided_s = max(one.decided_s for one in backlog) - back_s
    claim = f"the {len(backlog):,} transactions that were waiting are decided, counted from that moment"
    step.holds(claim, len(backlog) > 0, expected="a backlog", seen="none", took_s=max(0.0, decided_s))
    told_s = max(one.at_s for one in backlog)
    claim = f"mobile app: has been told of them, and in the end of each of the {len(ids):,} transactions"
    step.equal(claim, {one.command_id for one in heard}, ids, took_s=told_s - back_s)
    refused = sum(one.kind == "COMMAND_REFUSED" for one in heard)
    step.equal(f"{refusals} were refused for lack of points, as an independent reckoning says", refused, refusals)
    affected = {one.command_id for one in heard if one.at_s >= killed_s and world.sent.at_s[one.command_id] <= told_s}
    world.note_latencies(f"{STREAM_PER_S} a second, all well", [one for one in heard if one.command_id not in affected])
    world.note_latencies("... while there was no worker, and catching up", [one for one in heard if one.command_id in affected])
    await proofs.reconcile(world, step)
    return f"{len(ids):,} transactions around a kill ({duration(back_s - killed_s)} without a worker): none lost, none doubled"


async def _kill_and_start_again(world: World, step: Step, ids: set[str]) -> tuple[float, float]:
    """When the worker was killed, and when the next one was ready."""
    pid = world.stack.service("worker").pid
    killed_s = time.monotonic()
    await in_thread(world.stack.kill, "worker")
    sent = len(ids & world.sent.at_s.keys())
    claim = f"kill -9 of the worker (process {pid}), with {sent:,} of {len(ids):,} transactions sent"
    step.holds(claim, sent < len(ids), expected="a stream under way", seen=f"all {sent:,} sent")
    await in_thread(world.stack.start_service, "worker")
    back_s = time.monotonic()
    new_pid = world.stack.service("worker").pid
    meanwhile = len(ids & world.sent.at_s.keys()) - sent
    claim = f"started again, ready as process {new_pid}; {meanwhile:,} transactions have come in meanwhile"
    expected = "another process, and a stream that went on"
    step.holds(claim, new_pid != pid and meanwhile > 0, expected=expected, seen=f"{new_pid}, {meanwhile}", took_s=back_s - killed_s)
    return killed_s, back_s


def _transactions(world: World) -> tuple[list[Transaction], int]:
    """A stream for many guests, entered into the book in the order in which it is sent; and how many of it are to be refused."""
    chance = random.Random(SEED)
    commands, refusals = [], 0
    for number in range(STREAM_TRANSACTIONS):
        member, lot = chance.choice(STREAM_GUESTS), chance.random()
        name = f"pos:{number:05}"
        if lot < EARN_SHARE:
            commands.append(_earn(world, member, name, chance.randint(1, 60)))
        elif lot < EARN_SHARE + REDEEM_SHARE:
            points = chance.randint(10, 200)
            refusals += not world.book.redeem(member, points)
            commands.append(_transaction(member, name, TransactionKind.REDEEM, points))
        else:
            points = chance.choice((-20, -5, 5, 20))
            refusals += not world.book.adjust(member, points)
            commands.append(_transaction(member, name, TransactionKind.ADJUST, points, reason="correction", actor="till-3"))
    return commands, refusals


def _earn(world: World, member: str, name: str, points: int) -> Transaction:
    world.book.earn(member, points)
    return _transaction(member, name, TransactionKind.EARN, points)


def _transaction(member: str, name: str, kind: TransactionKind, points: int, **more: Any) -> Transaction:
    program_id, _, member_id = member.partition("/")
    source = {"spa": "spa", "pos": "restaurant"}[name.partition(":")[0]]
    return Transaction(
        program_id=program_id, member_id=member_id, transaction_id=name, source_system=source, occurred_at_ms=time.time_ns() // 1_000_000,
        kind=kind, points=points, **more,
    )  # fmt: skip


def sequences(arrivals: Iterable[Arrival]) -> dict[str, list[int]]:
    found: defaultdict[str, list[int]] = defaultdict(list)
    for one in arrivals:
        found[one.member].append(one.sequence)
    return dict(found)


@asynccontextmanager
async def _beside(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Work that goes on beside the block, and ends with it. Raises what the work raised."""
    task = asyncio.create_task(work)
    try:
        yield
        await task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
