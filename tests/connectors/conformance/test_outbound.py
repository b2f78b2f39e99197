"""Every connector that writes, through the sink that writes with it: faults from a seed, and what must hold whatever happens."""

import asyncio
import logging
import random
from collections.abc import AsyncIterator

import pytest

from infra.fakes.server import Misbehaviour
from schemas.records import DeliveryResult
from sinks.connectors.outlet import Timing
from streams import topics
from streams.connectors.registry import CONNECTORS
from streams.settings import Settings
from tests.conftest import MakeSettings
from tests.connectors.conformance.outbound import KINDS, POINTS_PER_SEQUENCE, Owners, System, adapters
from tests.sinks.broker import fill, read_all
from tests.sinks.connectors.support import attempts, audits, process, until
from tests.sinks.examples import event

pytestmark = pytest.mark.usefixtures("kafka")

SEED = 20_261_201
EVENTS = 80
MEMBERS = 10
STRANGER = "E-999"
QUICK = Timing(linger_s=0.02, settle_s=0.2)
FAULTS = (
    Misbehaviour(status=503), Misbehaviour(status=503, headers={"Retry-After": "1"}), Misbehaviour(status=502, body=b"<html>gateway</html>"),
    Misbehaviour(drops=True), Misbehaviour(drops=True), Misbehaviour(delay_s=0.05), Misbehaviour(refuses_token=True),
    Misbehaviour(status=200, body=b"<html>maintenance</html>"),
)  # fmt: skip


@pytest.fixture
async def system(request: pytest.FixtureRequest) -> AsyncIterator[System]:
    one = System(adapters()[request.param])
    await one.start()
    yield one
    await one.fake.stop()


@pytest.fixture
def settings(make_settings: MakeSettings) -> Settings:
    return make_settings(kafka_partitions=2)


each = pytest.mark.parametrize("system", sorted(adapters()), indirect=True)


def test_every_connector_that_writes_takes_part() -> None:
    assert set(adapters()) == set(KINDS)


@each
async def test_whatever_goes_wrong_fields_only_rise_and_end_at_the_newest(
    system: System, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    chance, program_id, target = random.Random(SEED), system.adapter.program_id, system.target()
    members = [f"E-{number}" for number in range(1, MEMBERS + 1)]
    for member in members:
        await system.add(member)
    newest = dict.fromkeys([*members, STRANGER], 0)
    async with process(settings, target, CONNECTORS[target.kind], timing=QUICK, accounts=Owners(system)) as run:
        system.fake.fail_at_random(SEED, 0.25, *FAULTS)
        for _ in range(EVENTS):
            member = chance.choice([*members, STRANGER])
            newest[member] += 1
            fill(settings, topics.EVENTS, [event(newest[member], member, program_id, points=POINTS_PER_SEQUENCE * newest[member])])
            await asyncio.sleep(0.005)
        wanted = {member: newest[member] for member in members if newest[member]}
        await until(lambda: sum(one.position for one in run.partitions.values()) >= EVENTS)
        system.fake.behave()
        # What was understood wrongly for certain is parked, and a newer state is tried: as a member's next event would.
        for member in members:
            newest[member] += 1
            fill(settings, topics.EVENTS, [event(newest[member], member, program_id, points=POINTS_PER_SEQUENCE * newest[member])])
        wanted = {member: newest[member] for member in members}
        await until(lambda: all(system.sequences(member)[-1:] == [sequence] for member, sequence in wanted.items()), 60)
        await until(lambda: all(not [one for one in part.hand.values() if not one.is_parked] for part in run.partitions.values()))
        status = repr(run.status())
    for member in members:
        assert system.sequences(member) == sorted(system.sequences(member)), "a field went back"
    assert not system.adapter.strangers(system.fake, members), "something was made for somebody whom the system does not know"
    ends: dict[str, list[DeliveryResult]] = {}
    for audit in audits(settings):
        assert audit.destination == target.name
        ends.setdefault(audit.event_id, []).append(audit.result)
    assert ends.keys() == {f"{program_id}-{member}-{number}" for member, last in newest.items() for number in range(1, last + 1)}
    assert all(len(how) == 1 for how in ends.values()), "every event has one end on record"
    assert {ends[f"{program_id}-{member}-{sequence}"][0] for member, sequence in wanted.items()} == {DeliveryResult.DELIVERED}
    strange = {how[0] for event_id, how in ends.items() if STRANGER in event_id}
    assert strange <= {DeliveryResult.SKIPPED, DeliveryResult.DEAD_LETTERED, DeliveryResult.SUPERSEDED}
    told = repr(audits(settings)) + repr(attempts(settings)) + repr(read_all(settings, topics.CONNECTOR_PROGRESS)) + caplog.text + status + repr(target)
    assert [secret for secret in system.secrets(target) if secret in told] == []


@each
async def test_a_record_that_is_refused_holds_up_no_other_and_a_limit_is_nobodys_fault(system: System, settings: Settings) -> None:
    program_id, target = system.adapter.program_id, system.target()
    members = [f"E-{number}" for number in range(1, 5)]
    for member in members:
        await system.add(member)
    refused = members[0] if system.adapter.refuse is not None else ""
    if system.adapter.refuse is not None:
        system.adapter.refuse(system.fake, refused)
    system.fake.misbehaviours.append(Misbehaviour(status=429, headers={"Retry-After": "1"}))
    async with process(settings, target, CONNECTORS[target.kind], timing=QUICK, accounts=Owners(system)) as run:
        fill(settings, topics.EVENTS, [event(1, member, program_id) for member in members])
        await until(lambda: run.status()["rests_s"] > 0)
        assert run.lanes(10, "") == [] and audits(settings) == []
        await until(lambda: all(system.sequences(member) == [1] for member in members if member != refused))
        await until(lambda: [lane["member"] for lane in run.lanes(10, "")] == ([f"{program_id}/{refused}"] if refused else []))
        await until(lambda: run.status()["waiting"] == 0)
    ends = {audit.member_id: audit.result for audit in audits(settings)}
    assert ends == {member: DeliveryResult.DEAD_LETTERED if member == refused else DeliveryResult.DELIVERED for member in members}
