"""Steps of systems that are connected in both directions by their own formats: a CRM's records, and the HR systems of three countries."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from infra.demo.checks import CheckFailed, Step, duration, poll
from infra.demo.guests import GUEST, GUESTS, STAY
from infra.demo.inbox import Arrival
from infra.demo.systems import stay_of
from infra.demo.telling import code_of, loyalty, number_of
from infra.demo.world import World
from infra.fakes.server import FakeServer, Misbehaviour
from infra.fakes.successfactors import HIRE, TERMINATION

ASIAN, EUROPEAN, AMERICAN = "asia/E-501", "europe/10042", "america/21001"
EMPLOYEES = (ASIAN, EUROPEAN, AMERICAN)
WELCOME_POINTS, WISHED_POINTS = 500, 100
ROUNDS, ROUND_POINTS = 5, 10
MAINTENANCE = Misbehaviour(status=503, body=b"<html>Scheduled maintenance</html>")
POINTS, SEQUENCE = "Loyalty_Points__c", "Loyalty_Seq__c"


@dataclass(frozen=True, slots=True)
class Country:
    """One HR system, and how it shows a member's points."""

    name: str
    member: str
    server: FakeServer
    points_field: str

    @property
    def points(self) -> int | None:
        value = self.server.values.get(number_of(self.member), {}).get(self.points_field)
        return None if value is None else int(value)

    @property
    def points_shown(self) -> list[int]:
        """All that it has ever shown, in order."""
        return [int(value) for value in self.server.history[number_of(self.member), self.points_field]]


def _countries(world: World) -> tuple[Country, Country, Country]:
    systems = world.systems
    return (
        Country("Darwinbox", ASIAN, systems.darwinbox, "loyalty_points"),
        Country("SuccessFactors", EUROPEAN, systems.successfactors, "cust_points"),
        Country("Workday", AMERICAN, systems.workday, "points"),
    )


# The CRM.


async def show_in_crm(world: World, step: Step) -> str:
    """The balance after the check-out that the story has told."""
    page = world.book.pages[GUEST]
    took_s = await _shown_in_crm(world, page.points, world.sent.at_s[stay_of(STAY)])
    contact = world.systems.salesforce.values[number_of(GUEST)]
    claim = f"Salesforce, contact of {number_of(GUEST)}: {page.points:,} points, tier {contact['Loyalty_Tier__c']}, as of event {contact[SEQUENCE]}"
    step.equal(claim, (contact[POINTS], contact["Loyalty_Tier__c"]), (page.points, page.tier), took_s=took_s)
    made = len(world.systems.salesforce.contacts) - len(GUESTS)
    step.equal("the CRM says who its contacts are: none was made for anybody else", made, 0)
    calls = world.systems.salesforce.requests["write"]
    return f"the CRM's own record shows what the app shows, {duration(took_s)} after the check-out; {calls} calls so far for {world.book.events:,} events"


async def compare_with_crm(world: World, step: Step) -> str:
    """After everything that has happened: outages, a killed worker, two numbers that became one."""
    pages = {number_of(guest): world.book.pages[guest] for guest in GUESTS}

    async def different() -> list[str]:
        return [number for number, page in pages.items() if world.systems.salesforce.values.get(number, {}).get(POINTS, 0) != page.points]

    started_s = time.monotonic()
    left = await poll("Salesforce shows all balances", different, lambda numbers: not numbers, expected="no difference")
    step.equal(f"Salesforce: the points of all {len(GUESTS)} guests are the reckoned ones", left, [], took_s=time.monotonic() - started_s)
    history = world.systems.salesforce.history
    back = [number for number in pages if (seen := history[number, SEQUENCE]) != sorted(seen)]
    step.equal("and no contact has ever shown an older state after a newer one", back, [])
    shown = sum(len(history[number, SEQUENCE]) for number in pages)
    calls = world.systems.salesforce.requests["write"]
    return f"{shown:,} states were written in {calls:,} calls; of those that came faster than that, the newest"


async def _shown_in_crm(world: World, points: int, since_s: float) -> float:
    async def shown() -> Any:
        return world.systems.salesforce.values.get(number_of(GUEST), {}).get(POINTS)

    await poll(f"Salesforce shows the balance of {number_of(GUEST)}", shown, lambda value: value == points, expected=points)
    return time.monotonic() - since_s


# HR of three countries.


async def hire(world: World, step: Step) -> str:
    """Each in the way of its system: found by a poll, told by an event and read again, found by another poll."""
    systems = world.systems
    began_s = time.monotonic()
    systems.darwinbox.hire(number_of(ASIAN), first_name="Asha")
    systems.successfactors.hire(number_of(EUROPEAN), firstName="Emil")
    systems.workday.hire(number_of(AMERICAN), given_name="Ann")
    for member in EMPLOYEES:
        world.book.enrol(member)
        world.book.change_profile(member)
    await _tell_successfactors(world, HIRE)
    heard = await _hear(world, "PROFILE_CHANGED", EMPLOYEES)
    for country in _countries(world):
        arrival = heard[country.member]
        account = await world.api.account(country.member)
        claim = f"{country.name}: {number_of(country.member)} is hired, and is a member by the name of {account['attributes']['given_name']}"
        step.equal(claim, account["status"], "ACTIVE", took_s=arrival.at_s - began_s)
    for member in EMPLOYEES:
        world.book.earn(member, WELCOME_POINTS)
        answer = await world.api.transact(member, f"app:welcome:{member}", kind="EARN", points=WELCOME_POINTS)
        world.singles.append(f"app:welcome:{member}")
        step.equal(f"{number_of(member)} is given {WELCOME_POINTS} points", answer.body.get("available_points"), WELCOME_POINTS, took_s=answer.took_s)
    for country in _countries(world):
        took_s = await _shows(country, WELCOME_POINTS)
        step.equal(f"{country.name} shows them on the employee's record", country.points, WELCOME_POINTS, took_s=took_s)
    return "three employees of three HR systems, each known and credited, each system showing the points"


async def maintain(world: World, step: Step) -> str:
    """Two of three are down; the third one does not notice."""
    working, *down = _countries(world)
    for country in down:
        country.server.misbehaves = lambda kind: MAINTENANCE
    for number in range(ROUNDS):
        for member in EMPLOYEES:
            world.book.earn(member, ROUND_POINTS)
            await world.api.transact(member, f"app:thanks:{number}:{member}", kind="EARN", points=ROUND_POINTS)
            world.singles.append(f"app:thanks:{number}:{member}")
    expected = world.book.pages[ASIAN].points
    took_s = await _shows(working, expected)
    step.equal(f"{working.name} shows {expected} points meanwhile", working.points, expected, took_s=took_s)
    for country in down:
        await _fails(world, country)
        step.equal(f"{country.name} is down for maintenance, and still shows {WELCOME_POINTS}", country.points, WELCOME_POINTS)
    step.show_output("loyalty connectors", await loyalty(world, "connectors"))
    for country in down:
        country.server.behave()
    back_s = time.monotonic()
    for country in down:
        await _shows(country, expected)
        step.equal(f"{country.name} is back, and shows {expected}", country.points, expected, took_s=time.monotonic() - back_s)
        shown = country.points_shown
        step.holds(f"{country.name} has never shown fewer points after more: {', '.join(map(str, shown))}", shown == sorted(shown),
                   expected="ascending", seen=shown)  # fmt: skip
    return f"{ROUNDS} changes for each employee waited; the newest state arrived within {duration(time.monotonic() - back_s)} of the return"


async def leave(world: World, step: Step) -> str:
    """The same by each system. The account is suspended, wherever it was said."""
    systems = world.systems
    last_day = datetime.now(UTC).date() - timedelta(days=2)
    began_s = time.monotonic()
    systems.darwinbox.deactivate(number_of(ASIAN), last_day=f"{last_day:%d-%m-%Y}")
    systems.successfactors.leave(number_of(EUROPEAN), last_day=last_day)
    systems.workday.terminate(number_of(AMERICAN), last_day=last_day)
    for member in EMPLOYEES:
        world.book.suspend(member)
    await _tell_successfactors(world, TERMINATION)
    heard = await _hear(world, "ACCOUNT_SUSPENDED", EMPLOYEES)
    took = {}
    for country in _countries(world):
        took[country.name] = heard[country.member].at_s - began_s
        status = heard[country.member].event["account"]["status"]
        step.equal(f"{country.name} says that {number_of(country.member)} has left: suspended", status, "SUSPENDED", took_s=took[country.name])
    for member in EMPLOYEES:
        world.book.redeem(member, WISHED_POINTS)
        answer = await world.api.transact(member, f"app:wish:{member}", kind="REDEEM", points=WISHED_POINTS, reward_code="gift-card")
        world.singles.append(f"app:wish:{member}")
        step.equal(f"{number_of(member)} asks for {WISHED_POINTS} points: refused", code_of(answer), "ACCOUNT_SUSPENDED", took_s=answer.took_s)
    told = ", ".join(f"{name} {duration(seconds)}" for name, seconds in took.items())
    return f"suspended after the word of HR: {told}; two of them are asked every second"


async def _tell_successfactors(world: World, kind: str) -> None:
    status = await world.systems.successfactors.push(
        f"{world.stack.service('ingress').url}/v1/webhooks/successfactors", world.systems.event_password, kind, number_of(EUROPEAN)
    )  # fmt: skip
    if status != 200:
        raise CheckFailed("SuccessFactors' event is taken", expected=200, seen=status)


async def _hear(world: World, kind: str, members: tuple[str, ...]) -> Mapping[str, Arrival]:
    """The newest event of this kind of each member, once the app has all of them."""

    def matches(one: Arrival) -> bool:
        return one.kind == kind and one.member in members

    return {one.member: one for one in await world.app.collect(f"{kind} of {len(members)} employees", len(members), matches)}


async def _shows(country: Country, points: int) -> float:
    """Seconds until it shows them."""
    started_s = time.monotonic()

    async def shown() -> int | None:
        return country.points

    await poll(f"{country.name} shows {points} points", shown, lambda seen: seen == points, expected=points)
    return time.monotonic() - started_s


async def _fails(world: World, country: Country) -> None:
    """Until the system has been asked in vain."""
    before = country.server.requests.total()

    async def asked() -> int:
        return country.server.requests.total()

    await poll(f"{country.name} is asked in vain", asked, lambda count: count > before, expected="a call")
