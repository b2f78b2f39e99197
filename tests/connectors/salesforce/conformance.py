"""How the conformance suites see an organization."""

import random
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from infra.fakes.salesforce import TOPIC, SalesforceFake
from infra.fakes.salesforce_pubsub import CONTACT_CHANGE_EVENT
from tests.connectors.conformance.inbound import ACTIVE, SUSPENDED, Inbound, System, Understood, by_password, people
from tests.connectors.conformance.outbound import Outbound

PAYLOADS = Path(__file__).parent / "payloads"
DIRECT, HINTED = "D-", "H-"
"""Members whose changes say their number, and those whose records must be read."""


async def _happen(system: System, step: int, chance: random.Random) -> None:
    org: SalesforceFake = system.fake
    for kind in (DIRECT, HINTED):
        await org.create(FirstName="Ada", LastName="Example", Loyalty_Id__c=f"{kind}{step}")
    for record_id, contact in list(org.contacts.items()):
        number = contact["Loyalty_Id__c"]
        if contact["IsDeleted"] or not number.startswith((DIRECT, HINTED)) or chance.random() < 0.5:
            continue
        org.enriches = number.startswith(DIRECT)
        fields: dict[str, Any] = {chance.choice(["FirstName", "LastName", "Email"]): chance.choice(["Bo", "Chi", None])}
        if number.startswith(HINTED) and chance.random() < 0.3:
            org.change_silently(record_id, **fields)
            await org.tell("GAP_UPDATE", record_id, {})
        else:
            await org.update(record_id, **fields)
    if step in (3, 5):
        for number in (f"{DIRECT}{step}", f"{HINTED}{step}"):
            org.enriches = number.startswith(DIRECT)
            await org.delete(org.contact_of(number)["Id"])
    if step == 4:
        await org.undelete(next(one["Id"] for one in org.contacts.values() if one["Loyalty_Id__c"] == f"{DIRECT}3"))


def _expected(system: System) -> Understood:
    found: dict[str, dict[str, Any]] = {}
    for contact in system.fake.contacts.values():
        held = {"given_name": contact.get("FirstName"), "family_name": contact.get("LastName"), "email": contact.get("Email")}
        status = {f"{DIRECT}3": {"status": ACTIVE}}.get(contact["Loyalty_Id__c"], {})
        found[contact["Loyalty_Id__c"]] = {"enrolled": True} | ({"status": SUSPENDED} if contact["IsDeleted"] else {**held, **status})
    return found


async def _garble(system: System) -> None:
    bus = system.fake.bus
    await bus.publish_bytes(TOPIC, bus.add_schema(CONTACT_CHANGE_EVENT), b"\xff\xff")


INBOUND = Inbound(
    kind="salesforce", happen=_happen, expected=_expected, understood=people, garble=_garble, proof=by_password,
    samples=[(PAYLOADS / "change_event.json").read_bytes()],
    # What all records are read for comes when it comes, beside the changes: versions put it in its place.
    options={"secret": "a-long-secret-of-the-relay", "resync_at_start": False},
)  # fmt: skip


async def _add(fake: SalesforceFake, member_id: str) -> Mapping[str, str]:
    return {"salesforce": await fake.create(LastName="Example", Loyalty_Id__c=member_id)}


def _values(fake: SalesforceFake, member_id: str) -> list[int]:
    return [int(value) for value in fake.history[member_id, "Loyalty_Seq__c"]]


def _strangers(fake: SalesforceFake, members: Collection[str]) -> Collection[str]:
    return fake.values.keys() - set(members)


def _refuse(fake: SalesforceFake, member_id: str) -> None:
    fake.refused[member_id] = "FIELD_CUSTOM_VALIDATION_EXCEPTION"


OUTBOUND = Outbound(
    kind="salesforce", program_id="grand", add=_add, values=_values, strangers=_strangers, refuse=_refuse, per_sequence=1,
)  # fmt: skip
