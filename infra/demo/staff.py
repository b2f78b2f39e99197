"""The steps of employees: HR says who they are and when they leave, and nobody else does."""

from datetime import UTC, datetime, timedelta

from infra.demo.checks import Step, duration, poll
from infra.demo.telling import code_of
from infra.demo.world import World

LEAVER = "staff/E-1007"
SAVED_POINTS, WISHED_POINTS = 500, 100
MASTERED = "ATTRIBUTE_MASTERED_EXTERNALLY"
HR_EMAIL, LOCAL_EMAIL = "robin@hotel.example", "robin@home.example"


async def edit_profile(world: World, step: Step) -> str:
    employee_id, page = LEAVER.partition("/")[2], world.book.pages[LEAVER]
    world.book.change_profile(LEAVER)
    update = await world.hr.update(employee_id, datetime.now(UTC), email=HR_EMAIL)
    world.singles.append(update)
    for inbox in world.inboxes:
        change = await inbox.hear("PROFILE_CHANGED", update)
        claim = f"{inbox.name}: HR has changed the e-mail address of {employee_id}"
        step.equal(claim, change.event["changed_attributes"], ["email"], took_s=world.latency_s(change))

    world.book.change_profile(LEAVER)
    refused = await world.api.change_profile(LEAVER, "app:edit:1", attributes={"email": LOCAL_EMAIL, "nickname": "Rob"})
    world.singles.append("app:edit:1")
    seen = (refused.status, code_of(refused), refused.body.get("detail"))
    claim = f"{employee_id} edits the e-mail address in the app: refused, and the app is told why"
    step.equal(claim, seen, (422, MASTERED, "email is mastered by hr"), took_s=refused.took_s)
    account = await world.api.account(LEAVER)
    step.equal("the address is HR's; of the edit nothing was taken, not even the nickname", account["attributes"], {"email": HR_EMAIL, "locale": "en"})

    where = f"member_id = '{employee_id}' AND command_id = 'app:edit:1'"
    columns = "source_system, result, reason, detail, length(changes) AS changes, chain_number, record_hash"
    audit = await poll(
        "the audit of the edit", lambda: world.analyst.ask(f"SELECT {columns} FROM sync_audit FINAL WHERE {where}"), bool, expected="a record"
    )  # fmt: skip
    step.show(audit)
    claim = "the audit has exactly one record of it: from whom, what, and why not"
    told = [(row["source_system"], row["result"], row["reason"], row["detail"], row["changes"]) for row in audit]
    step.equal(claim, told, [("mobile-app", "REFUSED", MASTERED, "email is mastered by hr", 0)])

    late = await world.hr.update(employee_id, datetime.now(UTC) - timedelta(hours=1), email="robin@old.example")
    outcome = await _result(world, employee_id, late)
    step.equal("an older update of HR's that comes late is recorded as superseded", outcome["result"], "SUPERSEDED")
    account = await world.api.account(LEAVER)
    step.equal("and changes nothing", (account["attributes"]["email"], account["sequence"]), (HR_EMAIL, page.events))
    return "a local edit of what HR masters is refused whole, with one audit record"


async def deactivate_employee(world: World, step: Step) -> str:
    employee_id, page = LEAVER.partition("/")[2], world.book.pages[LEAVER]
    earned = await world.api.transact(LEAVER, "app:thanks:1", kind="EARN", points=SAVED_POINTS)
    world.book.earn(LEAVER, SAVED_POINTS)
    world.singles.append("app:thanks:1")
    claim = f"employee {employee_id} is given {SAVED_POINTS} points"
    step.equal(claim, earned.body.get("available_points"), page.points, took_s=earned.took_s)

    before = datetime.now(UTC)
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
    outcome = await _result(world, employee_id, command)
    in_force_s = outcome["in_force_ms"] / 1000
    step.equal("the ledger: in force, counted from the broker's append of HR's word", outcome["result"], "APPLIED", took_s=in_force_s)

    world.book.redeem(LEAVER, WISHED_POINTS)
    answer = await world.api.transact(LEAVER, "app:redeem:3", kind="REDEEM", points=WISHED_POINTS, reward_code="gift-card")
    world.singles.append("app:redeem:3")
    claim = f"{employee_id} asks for {WISHED_POINTS} points: the app shows ACCOUNT_SUSPENDED"
    step.equal(claim, (answer.status, code_of(answer)), (422, "ACCOUNT_SUSPENDED"), took_s=answer.took_s)

    world.book.change_profile(LEAVER)
    refused = await world.api.change_profile(LEAVER, "app:reactivate:1", status="ACTIVE")
    world.singles.append("app:reactivate:1")
    step.equal("a clerk reactivates the account by hand: refused, that is HR's to say", code_of(refused), MASTERED, took_s=refused.took_s)
    late = await world.hr.reactivate(employee_id, before - timedelta(minutes=1))
    outcome = await _result(world, employee_id, late)
    step.equal("HR's reactivation of a minute before comes late: superseded", outcome["result"], "SUPERSEDED")
    account = await world.api.account(LEAVER)
    seen = (account["status"], account["available_points"])
    step.equal(f"the account is suspended, the {page.points} points are kept", seen, ("SUSPENDED", page.points))
    return f"suspended {duration(in_force_s)} after HR's word was in the log; the app knew {duration(told_s)} after HR's webhook"


async def _result(world: World, employee_id: str, command: str) -> dict[str, object]:
    """What became of a command, by the audit."""
    columns = "result, dateDiff('millisecond', ingested_at, recorded_at) AS in_force_ms"
    where = f"member_id = '{employee_id}' AND command_id = '{command}'"
    rows: list[dict[str, object]] = await poll(
        f"the audit of {command}", lambda: world.analyst.ask(f"SELECT {columns} FROM sync_audit FINAL WHERE {where}"), bool, expected="a record"
    )  # fmt: skip
    return rows[0]
