"""Darwinbox, as the conformance suite sees it."""

import random
from datetime import UTC, datetime, timedelta

from tests.connectors.conformance.inbound import ACTIVE, SUSPENDED, Inbound, System, Understood, by_password, people
from tests.connectors.conformance.outbound import Outbound, hired

BROKEN = "C" * 100


async def happen(system: System, step: int, chance: random.Random) -> None:
    tenant = system.fake
    tenant.hire(f"C-{step}", first_name="Ada", last_name=f"Example {step}")
    if step > 1:
        tenant.change(f"C-{step - 1}", last_name=f"Other {chance.randrange(100)}")
    if step % 3 == 2:
        tenant.deactivate(f"C-{step - 2}", last_day=(datetime.now(UTC).date() - timedelta(days=2)).strftime("%d-%m-%Y"))
    if step == 6:
        tenant.reactivate("C-0")


def expected(system: System) -> Understood:
    """Who has left before anybody read of them is not enrolled."""
    return {
        employee_id: ({"enrolled": True, "status": ACTIVE} if employee["employee_status"] == "Active" else {"status": SUSPENDED}) | {
            "given_name": employee["first_name"], "family_name": employee["last_name"], "email": employee["company_email_id"],
        }
        for employee_id, employee in system.fake.employees.items() if employee_id != BROKEN
    }  # fmt: skip


async def garble(system: System) -> None:
    system.fake.hire(BROKEN)


INBOUND = Inbound(
    kind="darwinbox", happen=happen, expected=expected, understood=people, garble=garble, proof=by_password,
    samples=[b'{"type":"worker.deactivated","timestamp":"2026-11-22T03:40:00Z","employee_id":"F-1","last_day":"2026-11-21"}'],
)  # fmt: skip


OUTBOUND = Outbound(
    kind="darwinbox", program_id="staff", add=hired,
    values=lambda fake, member_id: [int(text) for text in fake.history[member_id, "loyalty_points"]],
    strangers=lambda fake, members: fake.values.keys() - set(members),
    refuse=lambda fake, member_id: fake.employees.pop(member_id),
)  # fmt: skip
