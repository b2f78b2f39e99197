"""A step about a destination of webhooks that is made at run time: tried, lost, found again, paused; a dead letter sent again; removed."""

import time
from collections.abc import Iterable, Mapping
from typing import Any

from infra.demo.checks import Step, duration, poll
from infra.demo.inbox import Arrival, Inbox
from infra.demo.outages import AFFECTED, OUTAGE_PER_S, give_spa_points, sequences, spa_visits
from infra.demo.world import World
from infra.fakes.receiver import HANG, OK
from streams import signatures

NAME = "partner"
TIMEOUT_S = 1.0
ROUNDS_WELL, ROUNDS_HANGING, ROUNDS_PAUSED = 5, 10, 2
SLOWER_MAX_S = TIMEOUT_S
"""What a destination that never answers may cost another at p50: whoever waits for it waits longer. At p99 a busy machine shows, too."""
UNWANTED = 422

OUTCOMES = f"""\
SELECT outcome, verdict, count() AS attempts, uniqExact(webhook_id) AS events
FROM delivery_attempts FINAL WHERE destination = '{NAME}' GROUP BY ALL ORDER BY ALL"""


async def connect_and_lose(world: World, step: Step) -> str:
    inbox = Inbox("partner", signatures.new_secret())
    async with inbox.receiver:
        await _connect(world, step, inbox)
        proof = await _lose(world, step, inbox)
        await _pause(world, step, inbox)
        await _send_dead_letter_again(world, step, inbox)
        rows = await _recorded(world, step, inbox)
        step.show(rows)
        gone = await world.api.manage("DELETE", f"destinations/{NAME}")
        step.equal("DELETE /v1/destinations/partner", gone.status, 200, took_s=gone.took_s)
        step.equal("partner: no delivery with a wrong signature", [one.problem for one in inbox.receiver.unverified], [])
    return proof


async def _connect(world: World, step: Step, inbox: Inbox) -> None:
    made = await world.api.manage("POST", "destinations", {
        "name": NAME, "url": inbox.receiver.url, "secret": inbox.secret, "programs": ["grand"], "events": ["BALANCE_CHANGED"], "timeout_s": TIMEOUT_S,
        "dead_letter_statuses": [UNWANTED],
    })  # fmt: skip
    step.equal("POST /v1/destinations: made, its secret sealed in the log", made.status, 201, took_s=made.took_s)
    tried = await world.api.manage("POST", f"destinations/{NAME}/test")
    seen = [(one.kind, one.verified) for one in inbox.receiver.received]
    step.equal("POST .../test: a signed loyalty.test has arrived", (tried.body.get("delivered"), seen), (True, [("loyalty.test", True)]), took_s=tried.took_s)


async def _lose(world: World, step: Step, inbox: Inbox) -> str:
    well = await spa_visits(world, "partner-well", ROUNDS_WELL)
    usual = world.note_latencies("a partner listens as well", well)
    begun = await inbox.collect("events while all is well", len(well), lambda _: True)
    before = _last_sequences(begun)
    inbox.receiver.always(HANG)
    heard = await spa_visits(world, "partner-hangs", ROUNDS_HANGING)
    series = world.note_latencies("... while the partner never answers", heard)
    claim = f"mobile app: {len(heard)} events meanwhile, {series.text} (before: {usual.text})"
    step.holds(claim, series.p50_s <= usual.p50_s + SLOWER_MAX_S, expected=f"p50 up to {duration(SLOWER_MAX_S)} more", seen=series.text)
    await _shows(world, step, "loyalty_delivery_down", 1, "the pipeline's metrics: the partner counts as down, one probe at a time asks whether it is back")
    inbox.receiver.always(OK)
    back_s = time.monotonic()
    ids = {one.command_id for one in heard}
    recovered = await inbox.collect("events after its return", len(ids), lambda one: one.command_id in ids)
    took_s = recovered[-1].at_s - back_s
    step.equal(f"partner: answers again, all {len(recovered)} arrive", {one.command_id for one in recovered}, ids, took_s=took_s)
    _in_order(step, recovered, before, ROUNDS_HANGING)
    await _shows(world, step, "loyalty_delivery_down", 0, "the pipeline's metrics: it counts as well again")
    return f"{len(heard)} events at {OUTAGE_PER_S} a second: p50 {duration(usual.p50_s)} before, {duration(series.p50_s)} beside a destination that hangs"


async def _pause(world: World, step: Step, inbox: Inbox) -> None:
    inbox.read()
    before = _last_sequences(inbox.arrivals)
    paused = await world.api.manage("POST", f"destinations/{NAME}/pause")
    step.equal("POST .../pause: its state is PAUSED", (paused.status, paused.body["state"]["state"]), (200, "PAUSED"), took_s=paused.took_s)
    await _shows(world, step, "loyalty_delivery_paused", 1, "the pipeline's metrics: nothing is sent to the partner for now")
    heard = await spa_visits(world, "partner-paused", ROUNDS_PAUSED)
    ids = {one.command_id for one in heard}
    inbox.read()
    step.equal(f"partner: of {len(ids)} events that the app knows of, none has arrived", sum(one.command_id in ids for one in inbox.arrivals), 0)
    resumed_s = time.monotonic()
    resumed = await world.api.manage("POST", f"destinations/{NAME}/resume")
    arrived = await inbox.collect("events after the pause", len(ids), lambda one: one.command_id in ids)
    seen = (resumed.status, {one.command_id for one in arrived})
    step.equal(f"POST .../resume: all {len(ids)} arrive", seen, (200, ids), took_s=arrived[-1].at_s - resumed_s)
    _in_order(step, arrived, before, ROUNDS_PAUSED)


async def _send_dead_letter_again(world: World, step: Step, inbox: Inbox) -> None:
    member = AFFECTED[0]
    inbox.receiver.script(UNWANTED, member=member)
    command = await give_spa_points(world, member, "partner-refuses", 7)
    await world.app.hear("BALANCE_CHANGED", command, member)
    letters = await poll(
        "GET .../dead-letters", lambda: world.api.manage("GET", f"destinations/{NAME}/dead-letters"), lambda answer: bool(answer.body.get("dead_letters")),
        expected="the event that the partner refused",
    )  # fmt: skip
    reasons = [one["reason"] for one in letters.body["dead_letters"]]
    step.equal("partner: refuses one event for good; it is among the dead letters, with the reason", reasons, [f"STATUS_{UNWANTED}"])
    again = await world.api.manage("POST", f"destinations/{NAME}/dead-letters/redrive", {"all": True})
    arrived = await inbox.hear("BALANCE_CHANGED", command, member)
    step.equal("POST .../dead-letters/redrive: it is sent again, and taken", (again.status, arrived.member), (201, member))


async def _recorded(world: World, step: Step, inbox: Inbox) -> list[dict[str, Any]]:
    """Every attempt is in ClickHouse, a moment after it ended."""
    inbox.read()
    accepted = len(inbox.arrivals)

    def delivered(rows: list[dict[str, Any]]) -> int:
        return sum(int(row["events"]) for row in rows if row["verdict"] == "DELIVERED")

    rows = await poll(
        "attempts in ClickHouse", lambda: world.analyst.ask(OUTCOMES), lambda rows: delivered(rows) >= accepted, expected=f"{accepted} events delivered"
    )
    step.equal("attempts in ClickHouse: as many events delivered as the partner has accepted", delivered(rows), accepted)
    seen = {row["outcome"] for row in rows}
    step.equal("... and how each of the others ended", seen, {"200", "TIMEOUT", str(UNWANTED)})
    return rows


async def _shows(world: World, step: Step, name: str, wanted: int, claim: str) -> None:
    """A metric of the partner comes to this."""
    seen = await poll(name, lambda: world.gauge("sink-webhooks", name, NAME), lambda value: value == wanted, expected=wanted)
    step.equal(claim, seen, wanted)


def _last_sequences(arrivals: Iterable[Arrival]) -> dict[str, int]:
    return {member: max(numbers) for member, numbers in sequences(arrivals).items()}


def _in_order(step: Step, arrivals: Iterable[Arrival], before: Mapping[str, int], rounds: int) -> None:
    """Each affected member's events follow those `before`, one for each round."""
    expected = {member: list(range(before[member] + 1, before[member] + rounds + 1)) for member in AFFECTED}
    step.equal("partner: every member's events in order, none missing, none twice", sequences(arrivals), expected)
