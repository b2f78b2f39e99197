"""Steps of a guest: join, check out, redeem, rise. Each asserts on what arrived at the app and the CRM, and on what can be read."""

import time
from decimal import Decimal

from infra.demo.checks import Series, Step, duration, poll
from infra.demo.systems import stay_of
from infra.demo.telling import code_of, number_of
from infra.demo.world import World
from schemas.contract import Command
from schemas.records import Enrolment

GUESTS = tuple(f"grand/M-{number:06}" for number in range(1, 201))
EMPLOYEES = tuple(f"staff/E-{number}" for number in range(1001, 1021))
GUEST = GUESTS[0]
"""The one that the story follows."""
EATING, SAVING, SPA_GUEST, SPRING_GUEST, LATE, GIVING, TAKING, TWICE_OLD, TWICE_NEW = GUESTS[-9:]
"""Those of one step each, with nothing else on their accounts."""

STAY, LONG_STAY, DOUBLED_STAY, SPRING_STAY = "STAY-1", "STAY-2", "STAY-3", "STAY-4"
AMOUNTS = {STAY: Decimal("260.00"), LONG_STAY: Decimal("849.90"), DOUBLED_STAY: Decimal("120.50"), SPRING_STAY: Decimal("90.00")}
CURRENCY = "EUR"
NIGHTS = 2
TOO_MUCH_POINTS, REWARD_POINTS, REWARD = 50_000, 1_000, "spa-day"
OFFER = "double-points"


async def enrol_members(world: World, step: Step) -> str:
    members = GUESTS + EMPLOYEES
    await world.systems.know_guests(map(number_of, GUESTS))
    for member in members:
        world.upstream.send(_enrolment(member))
        world.book.enrol(member)
    await world.upstream.flush()
    for inbox in world.inboxes:
        arrivals = await inbox.collect("MEMBER_ENROLLED", len(members), lambda one: one.kind == "MEMBER_ENROLLED")
        heard = {one.member for one in arrivals}
        series = Series(situation="", seconds=tuple(map(world.latency_s, arrivals)))
        claim = f"{inbox.name}: knows all {len(GUESTS)} guests and {len(EMPLOYEES)} employees ({series.text})"
        step.equal(claim, heard, set(members), took_s=max(series.seconds))
        if inbox is world.app:
            world.note_latencies(f"{len(members)} enrolments in one burst", arrivals)
    return f"{len(members)} members enrolled, both systems know every one"


async def check_out(world: World, step: Step) -> str:
    points = await pay_stay(world, step, GUEST, STAY)
    expected = world.book.pages[GUEST]
    shown = await poll(
        f"GET balance of {GUEST}", lambda: world.api.balance(GUEST), lambda body: body.get("sequence") == expected.events,
        expected=f"sequence {expected.events}",
    )  # fmt: skip
    took_s = time.monotonic() - world.sent.at_s[stay_of(STAY)]
    claim = f"GET /v1/members/{number_of(GUEST)}/balance: {expected.points:,} points, from the {shown['source']}"
    step.equal(claim, shown["available_points"], expected.points, took_s=took_s)
    return f"a check-out of {AMOUNTS[STAY]} {CURRENCY} became {points:,} points in two systems"


async def redeem(world: World, step: Step) -> str:
    page = world.book.pages[GUEST]
    world.book.redeem(GUEST, TOO_MUCH_POINTS)
    refused = await world.api.transact(GUEST, "app:redeem:1", kind="REDEEM", points=TOO_MUCH_POINTS, reward_code="suite-upgrade")
    world.singles.append("app:redeem:1")
    claim = f"{TOO_MUCH_POINTS:,} points asked for: the app shows INSUFFICIENT_POINTS while the guest waits"
    step.equal(claim, (refused.status, code_of(refused)), (422, "INSUFFICIENT_POINTS"), took_s=refused.took_s)
    heard = await world.app.hear("COMMAND_REFUSED", "app:redeem:1")
    claim = "mobile app: the refusal arrives as an event as well, with its reason"
    step.equal(claim, heard.event["refusal"], "INSUFFICIENT_POINTS", took_s=world.latency_s(heard))

    world.book.redeem(GUEST, REWARD_POINTS, reward=True, name="app:redeem:2")
    posted = await world.api.transact(GUEST, "app:redeem:2", kind="REDEEM", points=REWARD_POINTS, reward_code=REWARD)
    world.singles.append("app:redeem:2")
    claim = f"{REWARD_POINTS:,} points asked for: posted, new balance {page.points:,}"
    step.equal(claim, (posted.status, posted.body.get("available_points")), (200, page.points), took_s=posted.took_s)
    for inbox in world.inboxes:
        voucher = await inbox.hear("VOUCHER_ISSUED", "app:redeem:2")
        claim = f"{inbox.name}: the voucher {voucher.event['voucher_code']} for {REWARD}, the same that the app was shown"
        step.equal(claim, voucher.event["voucher_code"], posted.body["voucher_code"], took_s=world.latency_s(voucher))
    return f"a redemption is decided while the guest waits: no in {duration(refused.took_s)}, yes in {duration(posted.took_s)}"


async def rise_in_tier(world: World, step: Step) -> str:
    page = world.book.pages[GUEST]
    tier_before = page.tier
    next_tier, missing = world.book.to_next_tier(GUEST)
    progress = (await world.api.account(GUEST))["tier_progress"]
    claim = f"GET /v1/members/{number_of(GUEST)}: {missing:,} points to {next_tier}"
    step.equal(claim, (progress["next_tier"], progress["points_to_next"]), (next_tier, missing))
    await pay_stay(world, step, GUEST, LONG_STAY)
    step.holds("by the programme's rules that is enough for a promotion", page.tier != tier_before, expected="another tier", seen=page.tier)
    for inbox in world.inboxes:
        promotion = await inbox.hear("TIER_CHANGED", stay_of(LONG_STAY))
        seen = (promotion.event["previous_tier"], promotion.event["account"]["tier"])
        claim = f"{inbox.name}: {tier_before} becomes {page.tier} with {page.qualifying:,} points"
        step.equal(claim, seen, (tier_before, page.tier), took_s=world.latency_s(promotion))

    world.book.activate(GUEST, OFFER)
    answer = await world.api.activate_offer(GUEST, "app:offer:1", OFFER)
    world.singles.append("app:offer:1")
    step.equal(f"the guest activates the offer {OFFER} in the app", answer.status, 200, took_s=answer.took_s)
    points = await pay_stay(world, step, GUEST, DOUBLED_STAY)
    percent = next(tier["earn_percent"] for tier in world.rules["grand"]["tiers"] if tier["name"] == page.tier)
    return f"promoted to {page.tier}; {AMOUNTS[DOUBLED_STAY]} {CURRENCY} now give {points:,} points ({percent} %, doubled)"


async def repeat_check_out(world: World, step: Step) -> str:
    command, page = stay_of(STAY), world.book.pages[GUEST]
    program_id, _, member_id = GUEST.partition("/")
    started_s = time.monotonic()
    await world.desk.tell_again(STAY)
    where = f"program_id = '{program_id}' AND member_id = '{member_id}'"
    audit = await poll(
        "audit of the check-out",
        lambda: world.analyst.ask(
            f"SELECT result, replayed, points_delta FROM sync_audit FINAL WHERE {where} AND command_id = '{command}' ORDER BY offset"
        ),
        lambda rows: len(rows) == 3,
        expected="3 rows",
    )
    claim = "audit in ClickHouse: the same check-out came three times, two of them as replays"
    step.equal(claim, [row["replayed"] for row in audit], [False, True, True], took_s=time.monotonic() - started_s)
    step.equal("every time the same answer was given", len({(row["result"], row["points_delta"]) for row in audit}), 1)
    entries = await world.analyst.number(f"SELECT count() FROM ledger_entries FINAL WHERE {where} AND transaction_id = '{command}'")
    step.equal("the ledger has one entry for it", entries, 1)
    account = await world.api.account(GUEST)
    seen = (account["available_points"], account["sequence"])
    step.equal(f"the account is unchanged: {page.points:,} points, {page.events} events", seen, (page.points, page.events))
    return "the same check-out told three times is credited once"


async def pay_stay(world: World, step: Step, member: str, reservation_id: str, of_which: str = "") -> int:
    """The guest checks out, and both systems are told of the points."""
    amount, page = AMOUNTS[reservation_id], world.book.pages[member]
    world.desk.pms.add_reservation(reservation_id, member_id=number_of(member), amount=str(amount), currency=CURRENCY, nights=NIGHTS)
    points = world.book.stay(member, amount, CURRENCY, NIGHTS, name=stay_of(reservation_id))
    command = await world.desk.check_out(reservation_id)
    world.singles.append(command)
    for inbox in world.inboxes:
        credit = await inbox.hear("BALANCE_CHANGED", command)
        seen = (credit.event["points_delta"], credit.event["account"]["available_points"])
        claim = f"{inbox.name}: {amount} {CURRENCY} credited as {points:,} points{of_which}, balance {page.points:,}, signature valid"
        step.equal(claim, seen, (points, page.points), took_s=world.latency_s(credit))
    return points


def _enrolment(member: str) -> Command:
    program_id, _, member_id = member.partition("/")
    source = "hr" if member in EMPLOYEES else "website"  # Of the staff's programme HR is the master: nobody else may enrol.
    now_ms = time.time_ns() // 1_000_000
    return Enrolment(
        program_id=program_id, member_id=member_id, event_id=f"{source}:join:{member_id}", source_system=source,
        occurred_at_ms=now_ms, attributes={"locale": "en"}, source_version=now_ms if source == "hr" else None,
    )  # fmt: skip
