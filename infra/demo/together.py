"""Steps of more than one member: an offer whose budget all share, points for somebody else, and two numbers of the same guest."""

from typing import Any

from infra.demo.checks import Step
from infra.demo.guests import GIVING, LATE, SPRING_GUEST, SPRING_STAY, TAKING, TWICE_NEW, TWICE_OLD, pay_stay
from infra.demo.telling import both_hear, give, number_of, refused, submit
from infra.demo.world import SPRING_BUDGET, SPRING_OFFER, World

GIVEN, PASSED_ON = 800, 300
OF_OLD, OF_NEW, TO_OLD = 250, 400, 120


async def join_offer(world: World, step: Step) -> str:
    book, api = world.book, world.api
    offer = world.rules["grand"]["offers"][SPRING_OFFER]
    book.activate(SPRING_GUEST, SPRING_OFFER)
    world.singles.append("app:offer:2")
    answer = await api.activate_offer(SPRING_GUEST, "app:offer:2", SPRING_OFFER)
    claim = f"a guest joins {SPRING_OFFER} in the app, and {offer['cap_points']} points of the budget are reserved"
    step.equal(claim, answer.status, 200, took_s=answer.took_s)
    await both_hear(world, step, f"{number_of(SPRING_GUEST)} has joined {SPRING_OFFER}", SPRING_GUEST, "app:offer:2", "OFFER_ACTIVATED", offer_id=SPRING_OFFER)
    points = await pay_stay(world, step, SPRING_GUEST, SPRING_STAY, f", {offer['bonus_points']} of them by the offer")
    account = await api.account(SPRING_GUEST)
    seen = [(one["offer_id"], one["uses"], one["points"]) for one in account["offers"]]
    claim = f"GET /v1/members/{number_of(SPRING_GUEST)}: the offer was used once, for {offer['bonus_points']} points"
    step.equal(claim, seen, [(SPRING_OFFER, 1, offer["bonus_points"])])
    for member, command, code in ((SPRING_GUEST, "app:offer:3", "OFFER_ALREADY_ACTIVE"), (LATE, "app:offer:4", "OFFER_BUDGET_SPENT")):
        book.activate(member, SPRING_OFFER)
        world.singles.append(command)
        answer = await api.activate_offer(member, command, SPRING_OFFER)
        refused(step, "she joins again" if member == SPRING_GUEST else "another guest joins, too late", answer, code)
    return f"{points:,} points for a stay with the offer; a budget of {SPRING_BUDGET:,} points, over all members, is kept"


async def change_hands(world: World, step: Step) -> str:
    book, giver, taker = world.book, world.book.pages[GIVING], world.book.pages[TAKING]
    await give(world, GIVING, "app:welcome:4", GIVEN)
    book.transfer(GIVING, TAKING, PASSED_ON)
    await submit(world, GIVING, "app:transfer:1", "TRANSFER", points=PASSED_ON, to_member_id=number_of(TAKING))
    for member, page, movement, other, verb in (
        (GIVING, giver, "TRANSFER_OUT", TAKING, "gives"), (TAKING, taker, "TRANSFER_IN", GIVING, "has"),
    ):  # fmt: skip
        claim = f"{number_of(member)} {verb} {PASSED_ON} points {'to' if member == GIVING else 'from'} {number_of(other)}, balance {page.points}"
        expected: dict[str, Any] = {"movement": movement, "available_points": page.points, "counter_member_id": number_of(other)}
        await both_hear(world, step, claim, member, "app:transfer:1", **expected)

    old, new, page = number_of(TWICE_OLD), number_of(TWICE_NEW), book.pages[TWICE_NEW]
    await give(world, TWICE_OLD, "app:welcome:5", OF_OLD)
    await give(world, TWICE_NEW, "app:welcome:6", OF_NEW)
    book.merge(TWICE_OLD, TWICE_NEW)
    world.singles.append("crm:merge:1")
    about = {"kind": "MERGE", "target_member_id": new, "reason": "the same guest", "actor": "agent-17"}
    answer = await world.api.operate(TWICE_OLD, "crm:merge:1", **about)
    step.equal(f"the CRM merges {old} into {new}: the same guest had two numbers", answer.status, 200, took_s=answer.took_s)
    await both_hear(world, step, f"{old} is merged, nothing is left there", TWICE_OLD, "crm:merge:1", "MEMBER_MERGED",
                    counter_member_id=new, status="MERGED", available_points=0)  # fmt: skip
    claim = f"{new} has the points of both, {page.points}"
    await both_hear(world, step, claim, TWICE_NEW, "crm:merge:1", "MEMBER_MERGED", counter_member_id=old, available_points=page.points)
    book.earn(TWICE_OLD, TO_OLD)
    await submit(world, TWICE_OLD, "app:old:1", "EARN", points=TO_OLD)
    claim = f"{TO_OLD} points are sent to the old number {old}, and arrive at {new}: balance {page.points}"
    since_s = world.sent.at_s["app:old:1"]
    await both_hear(world, step, claim, TWICE_NEW, f"{old}/app:old:1", since_s=since_s, points_delta=TO_OLD, available_points=page.points)
    account = await world.api.account(TWICE_NEW)
    seen = (account["available_points"], account["qualifying_points"])
    step.equal(f"GET /v1/members/{new}: {page.points} points, as many count for the tier", seen, (page.points, page.qualifying))
    account = await world.api.account(TWICE_OLD)
    step.equal(f"GET /v1/members/{old}: merged into {new}", (account["merged_into"], account["available_points"]), (new, 0))
    return f"{PASSED_ON} points changed hands; two numbers of a guest became one, and the old one goes on working"
