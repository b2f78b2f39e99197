"""Steps of points that wait: set aside for a dinner until the bill comes, or for whoever spends them before their time is over."""

from typing import Any

from infra.demo.checks import Step
from infra.demo.guests import EATING, SAVING
from infra.demo.telling import both_hear, both_hear_in_time, give, moment_in, number_of, refused, submit
from infra.demo.world import World

RESTAURANT = "restaurant"
SAVED, DINNER, BILL, TOO_MUCH, PARTY, BAR = 1000, 600, 450, 500, 300, 200

EARNED, CAMPAIGN, GIFT = 500, 300, 100

HOLD_S, CAMPAIGN_S = 1.5, 3.0  # How long the bar's hold and the campaign's points last: at least, and
ANSWERS = 12  # that many times what the machine needs for an answer, so that even a busy one can spend the points before.


async def set_points_aside(world: World, step: Step) -> str:
    book, page = world.book, world.book.pages[EATING]
    earned = await give(world, EATING, "app:welcome:1", SAVED)
    book.hold(EATING, DINNER, "table:12")
    await submit(world, EATING, "table:12", "HOLD", points=DINNER, source_system=RESTAURANT)
    claim = f"{DINNER} points are set aside for table 12, the other {page.points} can be spent"
    await both_hear(world, step, claim, EATING, "table:12", movement="HOLD", hold_id="table:12", available_points=page.points, held_points=page.held)
    account = await world.api.account(EATING)
    seen = [(hold["hold_id"], hold["points"]) for hold in account["holds"]]
    step.equal(f"GET /v1/members/{number_of(EATING)}: the hold of table 12 with its {DINNER} points", seen, [("table:12", DINNER)])
    book.redeem(EATING, TOO_MUCH)
    answer = await submit(world, EATING, "app:redeem:4", "REDEEM", points=TOO_MUCH)
    refused(step, f"the app asks for {TOO_MUCH} points, so for some of those that are set aside", answer, "INSUFFICIENT_POINTS")

    book.capture(EATING, "table:12", BILL)
    await submit(world, EATING, "table:12:bill", "CAPTURE", related_transaction_id="table:12", points=BILL, source_system=RESTAURANT)
    claim = f"the dinner costs {BILL}, the other {DINNER - BILL} come back: {page.points} to spend"
    expected: dict[str, Any] = {"movement": "CAPTURE", "hold_id": "table:12", "available_points": page.points, "held_points": page.held}
    await both_hear(world, step, claim, EATING, "table:12:bill", **expected)

    book.hold(EATING, PARTY, "table:7")
    await submit(world, EATING, "table:7", "HOLD", points=PARTY, source_system=RESTAURANT)
    book.let_go(EATING, "table:7")
    await submit(world, EATING, "table:7:off", "VOID", related_transaction_id="table:7", source_system=RESTAURANT)
    claim = f"table 7 was cancelled: its {PARTY} points come back, {page.points} to spend"
    expected = {"movement": "RELEASE", "hold_id": "table:7", "available_points": page.points, "held_points": page.held}
    await both_hear(world, step, claim, EATING, "table:7:off", **expected)

    ends = moment_in(max(HOLD_S, ANSWERS * earned.took_s))
    book.hold(EATING, BAR, "bar:3")
    await submit(world, EATING, "bar:3", "HOLD", points=BAR, expires_at=ends.text, source_system=RESTAURANT)
    book.let_go(EATING, "bar:3")
    claim = f"a hold of {BAR} points that the bar has forgotten lets go by itself: {page.points} to spend"
    late = await both_hear_in_time(
        world, step, claim, EATING, ends, movement="RELEASE", hold_id="bar:3", available_points=page.points, held_points=page.held
    )
    book.capture(EATING, "bar:3", BAR)
    answer = await submit(world, EATING, "bar:3:bill", "CAPTURE", related_transaction_id="bar:3", source_system=RESTAURANT)
    refused(step, "the bar wants the points after all", answer, "HOLD_EXPIRED")
    return f"of three holds one was paid in part, one cancelled, one let go by itself {late}"


async def let_points_expire(world: World, step: Step) -> str:
    book, page = world.book, world.book.pages[SAVING]
    earned = await give(world, SAVING, "app:welcome:2", EARNED)
    ends = moment_in(max(CAMPAIGN_S, ANSWERS * earned.took_s))
    book.adjust(SAVING, CAMPAIGN, "campaign:1", ends.at_ms)
    await submit(world, SAVING, "campaign:1", "ADJUST", points=CAMPAIGN, expires_at=ends.text, reason="flash campaign", actor="marketing")
    account = await world.api.account(SAVING)
    lots = {"campaign:1": CAMPAIGN, "app:welcome:2": EARNED}
    claim = f"GET /v1/members/{number_of(SAVING)}: {CAMPAIGN} points that expire in a moment, {EARNED} that expire years from now"
    step.equal(claim, _lots(account), lots)

    book.redeem(SAVING, GIFT)
    await submit(world, SAVING, "app:redeem:5", "REDEEM", points=GIFT)
    spent = [{"lot_id": "campaign:1", "points": GIFT, "expires_at": ends.text}]
    await both_hear(
        world, step, f"{GIFT} points are spent, of those that expire first", SAVING, "app:redeem:5", movement="REDEEM", lots=spent,
        available_points=page.points,
    )  # fmt: skip
    left = book.expire(SAVING, ends.at_ms)
    lost = [{"lot_id": "campaign:1", "points": left, "expires_at": ends.text}]
    claim = f"the campaign is over: the {left} points that are left of it expire by themselves"
    late = await both_hear_in_time(
        world, step, claim, SAVING, ends, movement="EXPIRY", points_delta=-left, lots=lost, available_points=page.points
    )
    account = await world.api.account(SAVING)
    step.equal(f"GET: the other {EARNED} points are untouched", _lots(account), {"app:welcome:2": EARNED})
    return f"of {CAMPAIGN} points for a moment, {GIFT} were spent first and {left} expired {late}"


def _lots(account: dict[str, Any]) -> dict[str, int]:
    """What is left of each, in the order in which they are spent."""
    return {lot["lot_id"]: lot["remaining"] for lot in account["lots"]}
