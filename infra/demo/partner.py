"""A step about a destination of webhooks that is made at run time: tried, lost, found again; a dead letter sent again; removed."""

import time

from infra.demo.checks import Step, duration, poll
from infra.demo.inbox import Inbox
from infra.demo.outages import AFFECTED, OUTAGE_PER_S, give_spa_points, sequences, spa_visits
from infra.demo.world import World
from infra.fakes.receiver import HANG, OK
from streams import signatures

NAME = "partner"
TIMEOUT_S = 1.0
ROUNDS_WELL, ROUNDS_HANGING = 5, 10
SLOWER_MAX_S = TIMEOUT_S / 2
"""What a destination that never answers may cost another at p99. To wait for it once would cost TIMEOUT_S."""
UNWANTED = 422

OUTCOMES = f"""\
SELECT outcome, verdict, count() AS attempts, uniqExact(webhook_id) AS events
FROM delivery_attempts FINAL WHERE destination = '{NAME}' GROUP BY ALL ORDER BY ALL"""


async def connect_and_lose(world: World, step: Step) -> str:
    inbox = Inbox("partner", signatures.new_secret())
    async with inbox.receiver:
        await _connect(world, step, inbox)
        proof = await _lose(world, step, inbox)
        await _send_dead_letter_again(world, step, inbox)
        rows = await poll(
            "attempts in ClickHouse", lambda: world.analyst.ask(OUTCOMES), lambda rows: {"200", "TIMEOUT", str(UNWANTED)} <= {row["outcome"] for row in rows},
            expected=f"attempts that ended with 200, TIMEOUT and {UNWANTED}",
        )  # fmt: skip
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
    before = {member: max(one.sequence for one in begun if one.member == member) for member in AFFECTED}
    inbox.receiver.always(HANG)
    heard = await spa_visits(world, "partner-hangs", ROUNDS_HANGING)
    series = world.note_latencies("... while the partner never answers", heard)
    claim = f"mobile app: {len(heard)} events meanwhile, {series.text} (before: {usual.text})"
    step.holds(claim, series.p99_s <= usual.p99_s + SLOWER_MAX_S, expected=f"p99 up to {duration(SLOWER_MAX_S)} more", seen=series.text)
    down = await poll(
        "the breaker of the partner", lambda: world.gauge("sink-webhooks", "loyalty_delivery_down", NAME), lambda down: down == 1, expected="open"
    )
    step.equal("the pipeline's metrics: the partner counts as down, one probe at a time asks whether it is back", down, 1)
    inbox.receiver.always(OK)
    back_s = time.monotonic()
    ids = {one.command_id for one in heard}
    recovered = await inbox.collect("events after its return", len(ids), lambda one: one.command_id in ids)
    took_s = recovered[-1].at_s - back_s
    step.equal(f"partner: answers again, all {len(recovered)} arrive", {one.command_id for one in recovered}, ids, took_s=took_s)
    expected = {member: list(range(before[member] + 1, before[member] + ROUNDS_HANGING + 1)) for member in AFFECTED}
    step.equal("partner: every member's events in order, none missing, none twice", sequences(recovered), expected)
    return f"{len(heard)} events at {OUTAGE_PER_S} a second: p99 {duration(usual.p99_s)} before, {duration(series.p99_s)} beside a destination that hangs"


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
