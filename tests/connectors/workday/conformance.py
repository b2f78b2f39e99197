"""Workday, as the conformance suite sees it."""

import random
from datetime import UTC, datetime, timedelta

from tests.connectors.conformance.inbound import ACTIVE, SUSPENDED, Inbound, System, Understood, people
from tests.connectors.conformance.outbound import Outbound, hired


async def happen(system: System, step: int, chance: random.Random) -> None:
    """Somebody is hired, somebody else gets another name, a third one has left, and a fourth comes back."""
    tenant = system.fake
    tenant.hire(f"C-{step}", given_name="Ada", family_name=f"Example {step}")
    if step > 1:
        tenant.change(f"C-{step - 1}", family_name=f"Other {chance.randrange(100)}")
    if step % 3 == 2:
        tenant.terminate(f"C-{step - 2}", last_day=datetime.now(UTC).date() - timedelta(days=1))
    if step == 6:
        tenant.rescind("C-0")


def expected(system: System) -> Understood:
    """Who has left before anybody read of them is not enrolled."""
    return {
        worker.employee_id: ({"enrolled": True, "status": ACTIVE} if worker.last_day is None else {"status": SUSPENDED}) | {
            "given_name": worker.given_name, "family_name": worker.family_name, "email": worker.email,
        }
        for worker in system.fake.workers.values() if worker.employee_id != BROKEN
    }  # fmt: skip


BROKEN = "C" * 100


async def garble(system: System) -> None:
    system.fake.hire(BROKEN)


INBOUND = Inbound(kind="workday", happen=happen, expected=expected, understood=people, garble=garble, options={"page_size": 3})


OUTBOUND = Outbound(
    kind="workday", program_id="staff", add=hired,
    values=lambda fake, member_id: [int(text) for text in fake.history[member_id, "points"]],
    strangers=lambda fake, members: fake.values.keys() - set(members),
    refuse=lambda fake, member_id: fake.workers.pop(member_id),
)  # fmt: skip
