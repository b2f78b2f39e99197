"""An organization, its bus and our stream, with everything that may go wrong between them: what we know ends as what the organization holds."""

import asyncio
import base64
import random
from collections import defaultdict, deque
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, cast

import pytest

from infra.fakes.salesforce import TOPIC, SalesforceFake
from infra.fakes.salesforce_pubsub import FAILURES
from schemas.contract import Command
from schemas.records import MemberStatus, ProfileChange
from streams.connectors.contract import Cursor, Found, Hint
from streams.connectors.salesforce import inbound, outbound, rereading
from streams.errors import UnavailableError
from tests.connectors.salesforce.cases import source, target
from tests.connectors.salesforce.test_pubsub import Tokens
from tests.connectors.support import NOW_MS, poll_fake, state_of, write_fake

STEPS = 60
FIELDS = ("FirstName", "LastName", "Email", "Phone")
STATUSES = {"Active": MemberStatus.ACTIVE, "Suspended": MemberStatus.SUSPENDED}


class Members:
    """What is known of each member, part by part, by the ledger's rule: a greater version counts, under equal ones the greater value."""

    def __init__(self) -> None:
        self.parts: dict[str, dict[str, tuple[int, str]]] = defaultdict(dict)
        self.number_of: dict[str, str] = {}
        self.command_ids: dict[str, Command] = {}

    def apply(self, command: Command) -> None:
        if not isinstance(command, ProfileChange):
            return
        assert self.command_ids.setdefault(command.event_id, command) == command, "an id always means the same"
        record_id = (command.external_ids or {}).get("salesforce")
        if record_id:
            self.number_of[record_id] = command.member_id
        member_id = self.number_of.get(command.member_id.removeprefix("@salesforce:"), command.member_id)
        said: dict[str, str | None] = {**command.attributes, **({"status": command.status} if command.status else {})}
        for name, value in said.items():
            assert command.source_version is not None
            word = (command.source_version, value or "")
            self.parts[member_id][name] = max(word, self.parts[member_id].get(name, (0, "")))


class Reader:
    """Reads the stream, is stopped at any time, and goes on at the last cursor that was kept; follows hints whenever."""

    def __init__(self, org: SalesforceFake, chance: random.Random) -> None:
        self.org, self.chance = org, chance
        self.members, self.cursor = Members(), cast(Cursor, {})
        self.hints: deque[Hint] = deque()
        self.source = source(pubsub_url=org.bus.url, status_field="Loyalty_Status__c")
        self.alerts = 0

    async def read(self, steps: int) -> None:
        """So many things that are found; with luck, the cursor is kept."""
        stream = cast(AsyncGenerator[Found, None], inbound.listen(self.source, self.cursor, Tokens(self.org)))
        async with aclosing(stream):
            try:
                for _ in range(steps):
                    found = await anext(stream)
                    self.take(found)
                    if self.chance.random() < 0.9 and found.cursor is not None:
                        self.cursor = found.cursor
                    else:
                        return  # Killed between what was found and its cursor.
            except UnavailableError:
                return

    def take(self, found: Found) -> None:
        assert found.parked == ()
        self.alerts += bool(found.alert)
        self.hints += found.hints
        for command in found.commands:
            self.members.apply(command)

    async def follow(self, hints: int) -> None:
        for _ in range(min(hints, len(self.hints))):
            polling = rereading.read(self.source, self.hints.popleft(), b"", NOW_MS)
            for found in await poll_fake(self.org, polling, {"Authorization": f"Bearer {self.org.new_token()}"}):
                self.take(found)

    async def drain(self) -> None:
        """Until all that was published has been read."""
        while self.cursor.get("replay", {}).get(TOPIC) != base64.b64encode(self.org.bus.last[TOPIC].to_bytes(8)).decode():
            await self.read(5)
        await self.follow(len(self.hints))


async def happen(org: SalesforceFake, chance: random.Random) -> None:
    """One thing in the life of an organization."""
    record_id = chance.choice(list(org.contacts))
    fields: dict[str, Any] = {chance.choice(FIELDS): chance.choice(["Ada", "Bo", "Chi", None]), "Loyalty_Status__c": chance.choice(list(STATUSES))}
    is_deleted = org.contacts[record_id]["IsDeleted"]
    match chance.randrange(12):
        case 0 if not is_deleted:
            await org.delete(record_id)
        case 0 | 1 if is_deleted:
            await org.undelete(record_id)
        case 2 if not is_deleted:
            org.change_silently(record_id, **fields)
            await org.tell("GAP_UPDATE", record_id, {})
        case 3 if not is_deleted:
            org.change_silently(record_id, **fields)
            await org.tell("GAP_OVERFLOW", [], {})
        case 4:
            org.bus.expire(TOPIC, keep=chance.randrange(3))
        case 5 | 6:
            await org.bus.fail(chance.choice(FAILURES))
        case 7:
            org.enriches = not org.enriches
        case _ if not is_deleted:
            await org.update(record_id, **fields)


@pytest.mark.parametrize("seed", range(6))
async def test_whatever_breaks_profiles_end_as_the_organization_holds_them(seed: int) -> None:
    chance = random.Random(seed)
    org = SalesforceFake(keep_alive_s=0.02, page_size=2)
    await org.start()
    try:
        for member in range(4):
            await org.create(LastName="Example", Loyalty_Id__c=f"M-{member}", Loyalty_Status__c="Active")
        await org.create(LastName="Nobody")
        reader = Reader(org, chance)
        async with asyncio.timeout(60):
            for _ in range(STEPS):
                await happen(org, chance)
                if chance.random() < 0.3:
                    await reader.read(chance.randrange(1, 4))
                if chance.random() < 0.3:
                    await reader.follow(2)
            org.bus.failures.clear()
            await reader.drain()
        for contact in org.contacts.values():
            number, known = contact.get("Loyalty_Id__c"), reader.members.parts[contact.get("Loyalty_Id__c") or "nobody"]
            if number is None:
                assert known == {}
                continue
            held = {name: contact.get(field) or "" for name, field in reader.source.options["field_map"].items()}
            held["status"] = STATUSES[contact["Loyalty_Status__c"]]
            if contact["IsDeleted"]:
                assert known["status"][1] == MemberStatus.SUSPENDED
            else:
                assert {name: known.get(name, (0, ""))[1] for name in held} == held
    finally:
        await org.stop()


async def test_what_we_write_does_not_come_back() -> None:
    org = SalesforceFake(keep_alive_s=0.02)
    await org.start()
    try:
        await org.create(LastName="Example", Loyalty_Id__c="M-1")
        writing = outbound.write(target(), [state_of("M-1"), state_of("M-2")], NOW_MS)
        await write_fake(org, writing, {"Authorization": f"Bearer {org.new_token()}"})
        await org.update(next(iter(org.contacts)), Loyalty_Points__c=5.0, Email="ada@example.com")
        reader = Reader(org, random.Random(1))
        reader.source = source(pubsub_url=org.bus.url, resync_at_start=False, field_map={"points": "Loyalty_Points__c", "email": "Email"})
        async with asyncio.timeout(30):
            await reader.drain()
    finally:
        await org.stop()
    assert len(org.bus.events[TOPIC]) == 3, "created, written by us, changed by somebody"
    changes = [one for one in reader.members.command_ids.values() if isinstance(one, ProfileChange)]
    assert [one.attributes for one in changes] == [{}, {"points": "5", "email": "ada@example.com"}]
