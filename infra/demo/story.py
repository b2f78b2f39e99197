"""The story: its steps in their order, and who tells them."""

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from infra.demo import answers, connected, guests, history, in_time, outages, partner, returns, staff, together
from infra.demo.checks import Series, Step, duration
from infra.demo.telling import number_of
from infra.demo.world import SPRING_BUDGET, World
from infra.processes import identity

Tell = Callable[[World, Step], Awaitable[str]]
"""Does what the step is about and checks it. Returns what it has proven. Raises CheckFailed."""


@dataclass(frozen=True, slots=True)
class Chapter:
    """A step before it is told."""

    title: str
    why: str
    tell: Tell


async def start(world: World, step: Step) -> str:
    started_s = time.monotonic()
    await world.start()
    step.equal("the PMS has subscribed its webhooks", len(world.desk.pms.subscriptions), 1)
    return f"{len(world.stack.services)} processes in {duration(time.monotonic() - started_s)}"


async def stop(world: World, step: Step) -> str:
    started_s = time.monotonic()
    known = {service.name: (service.pid, identity(service.pid)) for service in world.stack.services if service.pid}
    await world.stop()
    left = [name for name, (pid, before) in known.items() if before is not None and identity(pid) == before]
    step.equal(f"of {len(known)} processes none is left behind", left, [], took_s=time.monotonic() - started_s)
    return "no process is left behind"


START = Chapter(
    "Everything starts",
    "Real servers and the pipeline's eight processes. The first start on a machine downloads Kafka.",
    start,
)

CHAPTERS = (
    Chapter(
        "Guests and employees join",
        "The group's website, and HR for the staff, write enrolments into a Kafka topic. The mobile app and the CRM hear of every one by a signed webhook.",
        guests.enrol_members,
    ),
    Chapter(
        "A guest checks out",
        "The hotel's PMS says only that a reservation has changed. It is read again, points are computed, and everybody is told.",
        guests.check_out,
    ),
    Chapter(
        "The CRM's own record shows the balance",
        "Salesforce is connected by its own API: the newest state of each member, up to 200 in a call, on contacts that it has. None is created.",
        connected.show_in_crm,
    ),
    Chapter(
        "The guest redeems points",
        "In the app, with a guest who waits for the answer: first too much, then a spa day.",
        guests.redeem,
    ),
    Chapter(
        "A stay promotes the guest",
        "The points of a longer stay are enough for the next tier. With an offer, the stay after that earns twice its rate.",
        guests.rise_in_tier,
    ),
    Chapter(
        "Points are set aside for a dinner",
        "The restaurant holds points while the guest eats: not spent yet, and nobody can spend them twice. A hold that is forgotten ends by itself.",
        in_time.set_points_aside,
    ),
    Chapter(
        "A campaign's points expire",
        "Points that expire soon are spent first. When their time comes, what is left of them goes, and nothing else. Nobody has to ask for it.",
        in_time.let_points_expire,
    ),
    Chapter(
        "A spa day is cancelled, a stay is corrected",
        "Points that were spent come back to where they came from; points that should not have been given are taken back, once.",
        returns.give_back,
    ),
    Chapter(
        "A voucher is handed in",
        "Bought in the app, good once at the spa.",
        returns.hand_in,
    ),
    Chapter(
        "An offer has a budget",
        f"Whoever joins reserves what the offer may give them. In this demo the budget is {SPRING_BUDGET:,} points for all members: enough for one.",
        together.join_offer,
    ),
    Chapter(
        "Points and guests move",
        "A guest gives points to another. Two numbers turn out to be the same guest, and become one.",
        together.change_hands,
    ),
    Chapter(
        "The CRM is down",
        "Nobody else waits for it. What happens meanwhile is kept and delivered on its return, each member's events in order.",
        outages.crm_goes_down,
    ),
    Chapter(
        "A partner is connected, and stops answering",
        "A destination is made while everything runs. Then it takes connections and never answers, the worst that a receiver can do to others.",
        partner.connect_and_lose,
    ),
    Chapter(
        "Only HR says who an employee is",
        "HR masters the names, addresses and statuses of the staff's programme. What anybody else says of them is refused whole, and audited.",
        staff.edit_profile,
    ),
    Chapter(
        "An employee leaves",
        "HR says so by a signed webhook. The account is suspended everywhere; points cannot be spent any more.",
        staff.deactivate_employee,
    ),
    Chapter(
        "Colleagues of three countries join",
        "Each country has an HR system of its own, and each is asked or listened to in its own way: Darwinbox, SAP SuccessFactors, Workday.",
        connected.hire,
    ),
    Chapter(
        "Two HR systems are down for maintenance",
        "What happens meanwhile waits, and only the newest state goes out on their return. The third one goes on.",
        connected.maintain,
    ),
    Chapter(
        "They leave, and each HR system says so",
        "By a poll, by an event, by another poll: the account is suspended.",
        connected.leave,
    ),
    Chapter(
        "The same check-out is told again",
        "Networks repeat things. Points are credited once, and the audit says what came twice.",
        guests.repeat_check_out,
    ),
    Chapter(
        "The worker is killed",
        "With kill -9, in the middle of a stream of transactions. The stream goes on, and not a point may be lost or doubled.",
        outages.kill_worker,
    ),
    Chapter(
        "The CRM has followed all of it",
        "Every guest's contact is compared with the second opinion, and with its own past.",
        connected.compare_with_crm,
    ),
    Chapter(
        "An analyst asks in SQL",
        "The whole history is in ClickHouse, for any SQL client: points by day and source.",
        history.ask_in_sql,
    ),
    Chapter(
        "The operator looks for trouble",
        "Every command has its audit record, and whatever could not be processed would be among the dead letters.",
        history.look_for_trouble,
    ),
    Chapter(
        "The controller asks what is owed",
        "Analysts' questions are reports, made again by the scheduler at their times, or now. This one says what the programmes owe, and until when.",
        answers.report_what_is_owed,
    ),
    Chapter(
        "A guest asks where the points have gone",
        f"The service desk looks at the balance of {number_of(guests.SAVING)}, and at what has changed it last, from its cause to the receivers.",
        answers.explain_a_balance,
    ),
)


STOP = Chapter("Everything stops", "The pipeline finishes what is under way, then the servers end.", stop)


def note_singles(world: World) -> None:
    """The latencies of all commands that came alone, for the end."""
    singles = set(world.singles)
    world.note_latencies("one at a time: check-outs, redemptions, holds, HR", [one for one in world.app.arrivals if one.command_id in singles])
    world.series.insert(0, world.series.pop())
    world.series.insert(1, Series(situation="what ends by itself, counted from its time", seconds=tuple(world.lapses_s)))


def traffic(world: World) -> Mapping[str, int]:
    """What went in and what came out."""
    for inbox in world.inboxes:
        inbox.read()
    return {
        "commands": len(world.sent.at_s) + world.sent.repeats,
        "repeated_commands": world.sent.repeats,
        "ledger_entries": world.book.entries,
        "events_mobile_app": len(world.app.arrivals),
        "events_crm": len(world.crm.arrivals),
        "deliveries_repeated": sum(inbox.repeated for inbox in world.inboxes),
    }
