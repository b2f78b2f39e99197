"""Events on the real broker -> a real receiver: order, outages, restarts, pauses, replays."""

import asyncio
import time
from collections.abc import Sequence

import pytest

from infra.fakes.receiver import HANG, Receiver
from schemas.records import DeliveryResult
from sinks.delivery import partition
from sinks.delivery.journal import Journal, Write
from streams import kafka, topics
from streams.destinations.model import Action, Job, OnDeadLetter, State
from tests.conftest import MakeSettings
from tests.sinks.broker import fill
from tests.sinks.delivery.support import Desk, attempts, audit, destination, sequences, sink, until
from tests.sinks.examples import SECRET, event

MEMBERS = [f"m-{number}" for number in range(5)]
EACH = 8


def events(first: int = 1, count: int = EACH) -> list[object]:
    return [event(sequence, member) for sequence in range(first, first + count) for member in MEMBERS]


async def test_all_arrive_in_order_with_audit_and_attempts(make_settings: MakeSettings) -> None:
    settings = make_settings()
    kafka.ensure_topics(settings)
    fill(settings, topics.EVENTS, events())
    async with Receiver(SECRET) as receiver, sink(settings, Desk(destination(receiver))):
        await until(lambda: len(receiver.accepted) == len(MEMBERS) * EACH)
        fill(settings, topics.EVENTS, events(EACH + 1))
        await until(lambda: len(receiver.accepted) == 2 * len(MEMBERS) * EACH)
    wanted = list(range(1, 2 * EACH + 1))
    assert sequences(receiver, [f"grand/{member}" for member in MEMBERS]) == {f"grand/{member}": wanted for member in MEMBERS}
    assert receiver.unverified == []
    ends = audit(settings)
    assert len(ends) == len(attempts(settings)) == 2 * len(MEMBERS) * EACH
    assert {one.result for one in ends} == {DeliveryResult.DELIVERED}


async def test_a_restart_repeats_nothing_that_was_written_down(make_settings: MakeSettings) -> None:
    settings = make_settings()
    kafka.ensure_topics(settings)
    async with Receiver(SECRET) as receiver:
        desk = Desk(destination(receiver))
        for start in (1, EACH + 1, 2 * EACH + 1):
            fill(settings, topics.EVENTS, events(start))
            async with sink(settings, desk):
                await until(lambda: len(receiver.accepted) >= len(MEMBERS) * (start + EACH - 1))
        assert len(receiver.received) == 3 * EACH * len(MEMBERS)
        assert receiver.inversions() == 0


async def test_what_is_not_written_yet_is_bounded(make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill repeats what is in no transaction: with a broker that takes none there is soon no further attempt."""
    settings, concurrency = make_settings(kafka_partitions=1), 8
    monkeypatch.setattr(partition, "UNWRITTEN_MAX", 100)
    monkeypatch.setattr(partition, "HOLD_AFTER_S", 600.0)
    answers, commit = asyncio.Event(), Journal.commit

    async def waiting(journal: Journal, writes: Sequence[Write]) -> None:
        await answers.wait()
        await commit(journal, writes)

    monkeypatch.setattr(Journal, "commit", waiting)
    many = [event(sequence, f"m-{number}") for sequence in range(1, 11) for number in range(60)]
    async with Receiver(SECRET) as receiver, sink(settings, Desk(destination(receiver, concurrency_max=concurrency))) as hub:
        fill(settings, topics.EVENTS, many)
        await until(lambda: len(receiver.accepted) >= 100 and not hub.outlet("crm").in_flight)
        assert len(receiver.accepted) <= 100 + concurrency
        answers.set()
        await until(lambda: len(receiver.accepted) == len(many))
    assert receiver.inversions() == 0 and len(receiver.received) == len(many) == len(audit(settings))


async def test_a_failing_member_waits_alone_and_survives_a_restart(make_settings: MakeSettings) -> None:
    settings = make_settings()
    kafka.ensure_topics(settings)
    async with Receiver(SECRET) as receiver:
        desk = Desk(destination(receiver))
        receiver.script(*[500] * 4, member="grand/m-0")
        fill(settings, topics.EVENTS, events())
        async with sink(settings, desk) as hub:
            await until(lambda: len([one for one in receiver.accepted if one.member != "grand/m-0"]) == (len(MEMBERS) - 1) * EACH)
            await until(lambda: hub.lanes("crm", 10, "") or len(receiver.accepted) == EACH * len(MEMBERS))
        async with sink(settings, desk):
            await until(lambda: len(receiver.accepted) == EACH * len(MEMBERS))
        assert receiver.inversions() == 0
        assert len(receiver.received) == EACH * len(MEMBERS) + 4


async def test_an_outage_is_waited_for_and_costs_the_other_nothing(make_settings: MakeSettings) -> None:
    settings = make_settings()
    kafka.ensure_topics(settings)
    async with Receiver(SECRET) as well, Receiver(SECRET) as ill:
        ill.always(503)
        async with sink(settings, Desk(destination(well, "well"), destination(ill, "ill"))) as hub:
            fill(settings, topics.EVENTS, events(count=100))
            await until(lambda: len(well.accepted) == 100 * len(MEMBERS))
            await until(lambda: hub.outlet("ill").is_down)
            assert ill.accepted == []
            ill.always(200)
            await until(lambda: len(ill.accepted) == 100 * len(MEMBERS))
        assert ill.inversions() == 0 and len(well.received) == 100 * len(MEMBERS)


async def test_what_hangs_is_cut_off(make_settings: MakeSettings) -> None:
    settings = make_settings()
    kafka.ensure_topics(settings)
    async with Receiver(SECRET) as receiver:
        receiver.script(HANG, member="grand/m-0")
        async with sink(settings, Desk(destination(receiver, timeout_s=0.5))):
            fill(settings, topics.EVENTS, events())
            await until(lambda: len(receiver.accepted) == EACH * len(MEMBERS))
        assert receiver.inversions() == 0


async def test_a_pause_keeps_everything(make_settings: MakeSettings) -> None:
    settings = make_settings()
    kafka.ensure_topics(settings)
    async with Receiver(SECRET) as receiver:
        desk = Desk(destination(receiver))
        desk.set_state("crm", State.PAUSED)
        async with sink(settings, desk) as hub:
            fill(settings, topics.EVENTS, events())
            await until(lambda: hub.status()["destinations"]["crm"]["behind_records"] >= EACH * len(MEMBERS))
        assert receiver.received == []
        async with sink(settings, desk):
            fill(settings, topics.EVENTS, events(EACH + 1))
            desk.set_state("crm", State.ACTIVE)
            await until(lambda: len(receiver.accepted) == 2 * EACH * len(MEMBERS))
        assert receiver.inversions() == 0 and len(receiver.received) == 2 * EACH * len(MEMBERS)


async def test_410_disables_and_keeps_and_is_told(make_settings: MakeSettings) -> None:
    settings = make_settings()
    kafka.ensure_topics(settings)
    async with Receiver(SECRET) as receiver, Receiver(SECRET) as watcher:
        desk = Desk(destination(receiver), destination(watcher, "watcher", events=frozenset({"DESTINATION_DISABLED"})))
        receiver.always(410)
        async with sink(settings, desk) as hub:
            fill(settings, topics.EVENTS, events())
            await until(lambda: "crm" in desk.states)
            assert desk.states["crm"].state is State.DISABLED and desk.states["crm"].reason == "GONE"
            await until(lambda: [one.kind for one in watcher.received] == ["loyalty.destination.disabled"])
            tried = len(receiver.received)
            receiver.always(200)
            assert hub.outlet("crm").is_paused
            desk.set_state("crm", State.ACTIVE)
            await until(lambda: len(receiver.accepted) == EACH * len(MEMBERS))
        assert receiver.inversions() == 0 and tried <= len(MEMBERS)


async def test_what_is_given_up_blocks_or_releases_its_member(make_settings: MakeSettings) -> None:
    settings = make_settings()
    kafka.ensure_topics(settings)
    async with Receiver(SECRET) as blocking, Receiver(SECRET) as releasing:
        desk = Desk(
            destination(blocking, "blocking", on_dead_letter=OnDeadLetter.BLOCK, dead_letter_statuses=frozenset({422})),
            destination(releasing, "releasing", dead_letter_statuses=frozenset({422})),
        )
        for receiver in (blocking, releasing):
            receiver.script(422, member="grand/m-0")
        fill(settings, topics.EVENTS, events())
        async with sink(settings, desk) as hub:
            await until(lambda: len(releasing.accepted) == EACH * len(MEMBERS) - 1)
            await until(lambda: len(blocking.accepted) == EACH * (len(MEMBERS) - 1))
            await until(lambda: [one["is_blocked"] for one in hub.lanes("blocking", 10, "")] == [True])
        async with sink(settings, desk) as hub:  # It is remembered.
            await until(lambda: [one["is_blocked"] for one in hub.lanes("blocking", 10, "")] == [True])
            desk.add(Job(job_id="skip-1", destination="blocking", action=Action.SKIP))
            await until(lambda: len(blocking.accepted) == EACH * len(MEMBERS) - 1)
        assert sequences(blocking, ["grand/m-0"] + [f"grand/{member}" for member in MEMBERS[1:]])["grand/m-0"] == list(range(2, EACH + 1))
        results = {(one.destination, one.member_id, one.sequence): one.result for one in audit(settings) if one.result is not DeliveryResult.DELIVERED}
        assert results == {
            ("blocking", "m-0", 1): DeliveryResult.SKIPPED, ("releasing", "m-0", 1): DeliveryResult.DEAD_LETTERED,
        }  # fmt: skip


async def test_a_replay_sends_a_range_again_and_survives_a_restart(make_settings: MakeSettings) -> None:
    settings = make_settings()
    kafka.ensure_topics(settings)
    fill(settings, topics.EVENTS, events(count=40))
    now_ms = time.time_ns() // 1_000_000 + 60_000
    async with Receiver(SECRET) as receiver:
        desk = Desk(destination(receiver))
        total = 40 * len(MEMBERS)
        async with sink(settings, desk):
            await until(lambda: len(receiver.accepted) == total)
            desk.add(Job(job_id="count", destination="crm", until_ms=now_ms, is_dry_run=True))
            desk.add(Job(job_id="again", destination="crm", until_ms=now_ms, rate_max_per_s=100.0))
            await until(lambda: len(receiver.accepted) > total + 20)
        async with sink(settings, desk) as hub:
            await until(lambda: len(hub.progress("again")["done_partitions"]) == 2 and len(hub.progress("count")["done_partitions"]) == 2)
            assert hub.progress("count")["counts"]["matched"] == total
            assert hub.progress("again")["counts"]["delivered"] == total
        replayed = [one for one in receiver.received if "loyalty-replay" in one.headers]
        assert len(replayed) >= total and {one.headers["loyalty-replay"] for one in replayed} == {"again"}
        for member in MEMBERS:
            sent = [one.sequence for one in replayed if one.member == f"grand/{member}"]
            assert sent == sorted(sent)


async def test_batches_come_at_their_cadence_and_points_at_once(make_settings: MakeSettings) -> None:
    from schemas.records import LoyaltyEventKind

    settings = make_settings()
    kafka.ensure_topics(settings)
    profile_changes = [event(sequence, "m-9", kind=LoyaltyEventKind.PROFILE_CHANGED) for sequence in range(1, 31)]
    async with Receiver(SECRET) as receiver, sink(settings, Desk(destination(receiver, cadence_s=1.0, batch_events_max=10))):
        fill(settings, topics.EVENTS, profile_changes + events())
        await until(lambda: len([one for one in receiver.accepted if one.kind == "loyalty.batch"]) >= 3)
        await until(lambda: len([one for one in receiver.accepted if one.kind != "loyalty.batch"]) == EACH * len(MEMBERS))
        batches = [one for one in receiver.accepted if one.kind == "loyalty.batch"]
        sent = [inner["data"]["sequence"] for one in batches for inner in one.data["events"]]
        await asyncio.sleep(0)
        assert sent == list(range(1, 31))


async def test_a_removed_destination_says_what_was_dropped(make_settings: MakeSettings) -> None:
    settings = make_settings()
    kafka.ensure_topics(settings)
    async with Receiver(SECRET) as receiver, Receiver(SECRET) as other:
        desk = Desk(destination(receiver), destination(other, "other"))
        desk.set_state("crm", State.PAUSED)
        async with sink(settings, desk):
            fill(settings, topics.EVENTS, events())
            await until(lambda: len(other.accepted) == EACH * len(MEMBERS))
            desk.remove("crm")
            await until(lambda: {one.result for one in audit(settings) if one.destination == "crm"} == {DeliveryResult.DROPPED})
        assert receiver.received == []
