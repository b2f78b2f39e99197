"""The sink for connected systems on a real broker and a real HTTP server: what gets there, in which order, and what is on record of it."""

import logging
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from aiokafka.partitioner import murmur2

from infra.fakes.server import Misbehaviour
from schemas.records import AttemptVerdict, DeliveryAudit, LoyaltyEventKind
from streams import topics
from streams.destinations.model import Action, Job, State
from streams.domain.audit_chain import chained
from streams.settings import Settings
from tests.conftest import MakeSettings
from tests.sinks.broker import dead_letters, fill, read_all
from tests.sinks.connectors.support import CONNECTOR, SECRET, Desk, Points, attempts, audits, process, results, target_of, until
from tests.sinks.examples import event

pytestmark = pytest.mark.usefixtures("kafka")


@pytest.fixture
async def system() -> AsyncIterator[Points]:
    one = Points()
    await one.start()
    yield one
    await one.stop()


@pytest.fixture
def settings(make_settings: MakeSettings) -> Settings:
    return make_settings(kafka_partitions=2)


async def test_the_newest_state_of_each_member_gets_there_and_every_event_is_on_record(settings: Settings, system: Points) -> None:
    async with process(settings, target_of(system.base_url)) as run:
        fill(settings, topics.EVENTS, [event(sequence, f"m-{number}") for sequence in range(1, 6) for number in range(20)])
        await until(lambda: all(system.values.get(f"m-{number}") == {"sequence": 5, "points": 500} for number in range(20)))
        await until(lambda: not any(partition.hand for partition in run.partitions.values()))
    for number in range(20):
        assert system.sequences(f"m-{number}") == sorted(set(system.sequences(f"m-{number}")))
    found = results(settings)
    assert len(found) == 100 and all(len(ends) == 1 for ends in found.values())
    assert {found[f"grand-m-{number}-5"][0] for number in range(20)} == {"DELIVERED"}
    assert {end for ends in found.values() for end in ends} == {"DELIVERED", "SUPERSEDED"}
    assert sum(ends == ["DELIVERED"] for ends in found.values()) == sum(map(len, system.calls))
    records = audits(settings)
    chains: dict[int, list[DeliveryAudit]] = {}
    for record in records:
        chains.setdefault(murmur2(f"grand/{record.member_id}".encode()) % 2, []).append(record)
    for chain in chains.values():
        before = ""
        for number, record in enumerate(chain, 1):
            assert record == chained(record, number, before)
            before = record.record_hash


async def test_members_go_together_and_one_that_fails_alone_holds_up_none(settings: Settings, system: Points) -> None:
    system.refuses = {"m-1": "later", "m-2": "never", "m-3": "unknown"}
    async with process(settings, target_of(system.base_url)) as run:
        fill(settings, topics.EVENTS, [event(1, f"m-{number}") for number in range(6)])
        await until(lambda: len(system.values) == 3)
        await until(lambda: sum(("m-1", 1) in call for call in system.calls) >= 3)
        lanes = run.lanes(10, "")
        assert [(lane["member"], lane["is_blocked"]) for lane in lanes] == [("grand/m-1", False), ("grand/m-2", True)]
        system.refuses = {}
        await until(lambda: system.sequences("m-1") == [1])
        await until(lambda: len(run.lanes(10, "")) == 1)
    assert any(len(call) > 1 for call in system.calls)
    found = results(settings)
    assert [found[f"grand-m-{number}-1"] for number in range(1, 4)] == [["DELIVERED"], ["DEAD_LETTERED"], ["SKIPPED"]]
    assert [(letter.reason, letter.processor) for letter in dead_letters(settings)] == [("NEVER", "connector-points")]
    tried = [one for one in attempts(settings) if one.member_id == "m-1"]
    assert [one.attempt for one in tried] == list(range(1, len(tried) + 1)) and tried[-1].verdict is AttemptVerdict.DELIVERED
    assert tried[0].url == f"{system.base_url}/write" and '"available_points":100' in tried[0].request_body


async def test_what_was_parked_is_tried_with_a_newer_state_or_when_a_person_asks(settings: Settings, system: Points) -> None:
    desk = Desk()
    system.refuses = {"m-1": "never", "m-2": "never"}
    async with process(settings, target_of(system.base_url), desk=desk) as run:
        fill(settings, topics.EVENTS, [event(1, "m-1"), event(1, "m-2")])
        await until(lambda: len(run.lanes(10, "")) == 2)
    async with process(settings, target_of(system.base_url), desk=desk) as run:
        await until(lambda: [lane["is_blocked"] for lane in run.lanes(10, "")] == [True, True])
        calls = len(system.calls)
        system.refuses = {}
        fill(settings, topics.EVENTS, [event(2, "m-1")])
        await until(lambda: system.sequences("m-1") == [2])
        desk.add(Job(job_id="again", destination="points", action=Action.RETRY, created_at_ms=2**42))
        await until(lambda: system.sequences("m-2") == [1])
        assert sum(len(call) for call in system.calls[calls:]) == 2
        await until(lambda: not any(partition.hand for partition in run.partitions.values()))
    assert results(settings) == {
        "grand-m-1-1": ["DEAD_LETTERED"], "grand-m-1-2": ["DELIVERED"], "grand-m-2-1": ["DEAD_LETTERED", "DELIVERED"],
    }  # fmt: skip


async def test_kinds_and_programmes_that_it_does_not_show_are_left_out(settings: Settings, system: Points) -> None:
    assert CONNECTOR.write is not None
    connector = replace(CONNECTOR, write=replace(CONNECTOR.write, kinds=frozenset({LoyaltyEventKind.BALANCE_CHANGED})))
    target = replace(target_of(system.base_url, connector), programs=frozenset({"grand"}))
    async with process(settings, target, connector):
        fill(settings, topics.EVENTS, [
            event(1, "m-1", "other"), event(1, "m-2", kind=LoyaltyEventKind.OFFER_ACTIVATED), event(2, "m-2"),
        ])  # fmt: skip
        await until(lambda: system.sequences("m-2") == [2])
    assert system.calls == [[("m-2", 2)]] and results(settings) == {"grand-m-2-2": ["DELIVERED"]}


@pytest.mark.parametrize("wrong", [
    Misbehaviour(status=503), Misbehaviour(drops=True), Misbehaviour(refuses_token=True), Misbehaviour(status=200, body=b"<html>"),
], ids=["503", "drop after commit", "token ended", "not understood"])  # fmt: skip
async def test_what_goes_wrong_once_is_begun_again(settings: Settings, system: Points, wrong: Misbehaviour) -> None:
    system.misbehaviours.append(wrong)
    async with process(settings, target_of(system.base_url)):
        fill(settings, topics.EVENTS, [event(1, f"m-{number}") for number in range(4)])
        await until(lambda: len(system.values) == 4)
        fill(settings, topics.EVENTS, [event(2, f"m-{number}") for number in range(4)])
        await until(lambda: all(system.sequences(f"m-{number}")[-1:] == [2] for number in range(4)))
    assert all(system.sequences(f"m-{number}") == sorted(system.sequences(f"m-{number}")) for number in range(4))
    assert all(ends == ["DELIVERED"] or ends == ["SUPERSEDED"] for ends in results(settings).values())


async def test_a_limit_of_the_system_pauses_all_and_fails_none(settings: Settings, system: Points) -> None:
    system.misbehaviours.append(Misbehaviour(status=429, headers={"Retry-After": "1"}))
    async with process(settings, target_of(system.base_url)) as run:
        fill(settings, topics.EVENTS, [event(1, "m-1")])
        await until(lambda: run.status()["rests_s"] > 0)
        fill(settings, topics.EVENTS, [event(1, f"m-{number}") for number in range(2, 6)])
        await until(lambda: run.status()["waiting"] == 5)
        assert system.requests["write"] == 1 and run.lanes(10, "") == []
        await until(lambda: len(system.values) == 5)
    assert len(system.calls) == 1, "all that waited goes together"


async def test_what_breaks_a_conversation_is_alone_with_it_in_the_end(settings: Settings, system: Points) -> None:
    """The system fails on one member's record, whatever is sent with it: the others get there, and that one is parked."""
    system.confuses = "m-3"
    async with process(settings, target_of(system.base_url)) as run:
        fill(settings, topics.EVENTS, [event(1, f"m-{number}") for number in range(8)])
        await until(lambda: [lane["member"] for lane in run.lanes(10, "") if lane["is_blocked"]] == ["grand/m-3"])
        await until(lambda: run.status()["waiting"] == 0)
    found = results(settings)
    assert found.pop("grand-m-3-1") == ["DEAD_LETTERED"] and set(map(tuple, found.values())) == {("DELIVERED",)}


async def test_a_paused_target_keeps_what_comes_and_a_resumed_one_gets_the_newest(settings: Settings, system: Points) -> None:
    desk = Desk()
    desk.set_state("points", State.PAUSED)
    async with process(settings, target_of(system.base_url), desk=desk) as run:
        fill(settings, topics.EVENTS, [event(sequence, "m-1") for sequence in range(1, 6)])
        await until(lambda: run.status()["waiting"] == 1 and sum(partition.position for partition in run.partitions.values()) >= 5)
        assert system.requests["write"] == 0 and run.status()["is_paused"]
        desk.set_state("points", State.ACTIVE)
        await until(lambda: system.sequences() == [5])


async def test_nothing_is_written_twice_when_partitions_move(settings: Settings, system: Points) -> None:
    """A second process comes and the first goes, while events keep coming: what is done stays done, and nothing goes back."""
    first, second = target_of(system.base_url), target_of(system.base_url)
    members = [f"m-{number}" for number in range(12)]
    async with process(settings, first) as one:
        fill(settings, topics.EVENTS, [event(1, member) for member in members])
        await until(lambda: len(system.values) == 12)
        async with process(settings, second) as two:
            await until(lambda: len(one.partitions) == len(two.partitions) == 1 and all(partition.is_open for partition in two.partitions.values()))
            fill(settings, topics.EVENTS, [event(2, member) for member in members])
            await until(lambda: all(system.sequences(member)[-1:] == [2] for member in members))
        await until(lambda: len(one.partitions) == 2)
        fill(settings, topics.EVENTS, [event(3, member) for member in members])
        await until(lambda: all(system.sequences(member)[-1:] == [3] for member in members))
    assert all(system.sequences(member) == [1, 2, 3] for member in members)
    assert all(ends == ["DELIVERED"] for ends in results(settings).values())


async def test_no_secret_is_told(settings: Settings, system: Points, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    system.misbehaviours.extend([Misbehaviour(status=503, body=SECRET.encode()), Misbehaviour(drops=True), Misbehaviour(refuses_token=True)])
    async with process(settings, target_of(system.base_url)) as run:
        fill(settings, topics.EVENTS, [event(1, "m-1")])
        await until(lambda: system.sequences()[-1:] == [1])
        shown = repr(run.status()) + repr(run.target)
    kept = repr(audits(settings)) + repr(attempts(settings)) + repr(read_all(settings, topics.CONNECTOR_PROGRESS)) + shown + caplog.text
    assert SECRET not in kept and not any(token in kept for token in system.tokens) and "Bearer" not in kept
