"""The step of an employee who leaves: HR says so once, and no points can be spent any more."""

from infra.demo.checks import Step, duration
from infra.demo.telling import code_of
from infra.demo.world import World

LEAVER = "staff/E-1007"
SAVED_POINTS, WISHED_POINTS = 500, 100


async def deactivate_employee(world: World, step: Step) -> str:
    employee_id, page = LEAVER.partition("/")[2], world.book.pages[LEAVER]
    earned = await world.api.transact(LEAVER, "app:thanks:1", kind="EARN", points=SAVED_POINTS)
    world.book.earn(LEAVER, SAVED_POINTS)
    world.singles.append("app:thanks:1")
    claim = f"employee {employee_id} is given {SAVED_POINTS} points"
    step.equal(claim, earned.body.get("available_points"), page.points, took_s=earned.took_s)

    world.book.suspend(LEAVER)
    command = await world.hr.deactivate(employee_id)
    world.singles.append(command)
    for inbox in world.inboxes:
        suspension = await inbox.hear("ACCOUNT_SUSPENDED", command)
        seen = (suspension.event["account"]["status"], suspension.event["cause"]["reason"])
        claim = f"{inbox.name}: ACCOUNT_SUSPENDED of {employee_id}, with HR's reason"
        step.equal(claim, seen, ("SUSPENDED", "TERMINATION"), took_s=world.latency_s(suspension))
        if inbox is world.app:
            told_s = world.latency_s(suspension)

    world.book.redeem(LEAVER, WISHED_POINTS)
    answer = await world.api.transact(LEAVER, "app:redeem:3", kind="REDEEM", points=WISHED_POINTS, reward_code="gift-card")
    world.singles.append("app:redeem:3")
    claim = f"{employee_id} asks for {WISHED_POINTS} points: the app shows ACCOUNT_SUSPENDED"
    step.equal(claim, (answer.status, code_of(answer)), (422, "ACCOUNT_SUSPENDED"), took_s=answer.took_s)
    account = await world.api.account(LEAVER)
    seen = (account["status"], account["available_points"])
    step.equal(f"the {page.points} points are kept", seen, ("SUSPENDED", page.points))
    return f"from HR's webhook to the suspended account in the app: {duration(told_s)}"
