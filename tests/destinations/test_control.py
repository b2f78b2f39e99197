"""The control log on a real broker: what is written is in force everywhere, one of two writers wins, what is ended stays so, outages pass."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from infra.kafka_server import KafkaServer
from schemas.records import ControlKind, DeliveryControl
from streams import kafka, topics
from streams.destinations import document, sealing
from streams.destinations.control import ConflictError, ControlLog
from streams.destinations.model import Action, Destination, DestinationState, Job, Secret, State
from streams.errors import ConfigurationError, UnavailableError
from streams.settings import Settings
from tests.sinks.broker import codec, fill, read_all, until
from tests.sinks.examples import SECRET

pytestmark = pytest.mark.stack

CRM = Destination(name="crm", url="https://crm.example.com/", secrets=(Secret(secret_id=document.secret_id(SECRET), value=SECRET),), start_at_ms=5)


@pytest.fixture
def settings(make_settings: Callable[..., Settings]) -> Settings:
    """Topics of the test's own."""
    made = make_settings(destination_keys=sealing.new_key(), redis_url="redis://127.0.0.1:9/0", clickhouse_url="http://127.0.0.1:9")
    kafka.ensure_topics(made, (topics.DELIVERY_CONTROL,))
    return made


@asynccontextmanager
async def control_log(settings: Settings, **from_file: Destination) -> AsyncIterator[ControlLog]:
    """One that has read all that was there."""
    made = ControlLog(settings, codec(), from_file)
    made.start()
    try:
        async with asyncio.timeout(30):
            await made.ready()
        yield made
    finally:
        await made.close()


async def test_what_one_writes_all_have_and_a_new_one_too(settings: Settings) -> None:
    async with control_log(settings) as ours, control_log(settings) as theirs:
        heard: list[int] = []
        theirs.on_change(lambda: heard.append(len(theirs.destinations)))
        made = await ours.put_destination(CRM, changed_by="operator")
        assert (made.version, made.changed_by) == (1, "operator") and ours.destinations == {"crm": made}
        changed = await ours.put_destination(replace(made, timeout_s=3.0), changed_by="another")
        paused = await ours.put_state(DestinationState(name="crm", state=State.PAUSED, detail="why"), changed_by="operator")
        job = Job(job_id="replay-1", destination="crm", since_ms=1, until_ms=2, created_by="operator", created_at_ms=3)
        replay = await ours.put_job(job, changed_by="operator")
        await until(lambda: theirs.destinations == {"crm": changed} and theirs.states == {"crm": paused} and theirs.jobs == {"replay-1": replay})
        assert heard and changed.version == 2
    async with control_log(settings) as again:
        assert (again.destinations, again.states, again.jobs) == ({"crm": changed}, {"crm": paused}, {"replay-1": replay})


async def test_nothing_secret_is_in_the_log(settings: Settings) -> None:
    async with control_log(settings) as ours:
        await ours.put_destination(replace(CRM, headers={"x-key": "hunter2"}), changed_by="operator")
    ((key, record),) = await asyncio.to_thread(read_all, settings, topics.DELIVERY_CONTROL)
    assert key == b"DESTINATION/crm" and (record.kind, record.name, record.changed_by) == (ControlKind.DESTINATION, "crm", "operator")
    assert SECRET not in record.document and "hunter2" not in record.document


async def test_of_two_writers_at_once_one_wins_everywhere_and_the_log_ends_with_it(settings: Settings) -> None:
    async with control_log(settings) as ours, control_log(settings) as theirs:
        made = await ours.put_destination(CRM, changed_by="operator")
        await until(lambda: theirs.destinations == {"crm": made})
        for timeout_s in range(3, 13):
            base = ours.destinations["crm"]
            tries = [one.put_destination(replace(base, timeout_s=float(timeout_s + n * 20)), changed_by=f"w{n}") for n, one in enumerate((ours, theirs))]
            results = await asyncio.gather(*tries, return_exceptions=True)
            (winner,) = (one for one in results if isinstance(one, Destination))
            assert sum(isinstance(one, ConflictError) for one in results) == 1, results
            await until(lambda: ours.destinations == theirs.destinations == {"crm": winner})
    records = [record for _, record in await asyncio.to_thread(read_all, settings, topics.DELIVERY_CONTROL)]
    assert (records[-1].version, records[-1].changed_by) == (winner.version, winner.changed_by), "compaction keeps the last one"
    async with control_log(settings) as again:
        assert again.destinations == {"crm": winner}


async def test_who_does_not_know_the_newest_version_is_told(settings: Settings) -> None:
    async with control_log(settings) as ours:
        made = await ours.put_destination(CRM, changed_by="operator")
        await ours.put_destination(made, changed_by="operator")
        for stale in (made, CRM):
            with pytest.raises(ConflictError, match="crm"):
                await ours.put_destination(stale, changed_by="operator")
        with pytest.raises(ConflictError):
            await ours.delete_destination("crm", 1, changed_by="operator")
        assert ours.destinations["crm"].version == 2


async def test_the_end_of_a_destination_is_that_of_its_state_and_jobs_and_its_versions_go_on(settings: Settings) -> None:
    async with control_log(settings) as ours:
        made = await ours.put_destination(CRM, changed_by="operator")
        other = await ours.put_destination(replace(CRM, name="other"), changed_by="operator")
        await ours.put_state(DestinationState(name="crm", state=State.DISABLED), changed_by="sink")
        await ours.put_job(Job(job_id="retry-1", destination="crm", action=Action.RETRY), changed_by="operator")
        await ours.delete_destination("crm", made.version, changed_by="operator")
        assert (ours.destinations, ours.states, ours.jobs) == ({"other": other}, {}, {})
        with pytest.raises(ConflictError):
            await ours.delete_destination("crm", 0, changed_by="operator")
    async with control_log(settings) as again:
        assert (again.destinations, again.states, again.jobs) == ({"other": other}, {}, {})
        assert (await again.put_destination(CRM, changed_by="operator")).version == 3


async def test_a_state_that_a_destination_has_left_behind_is_not_the_next_one_s(settings: Settings) -> None:
    async with control_log(settings) as ours:
        await ours.put_state(DestinationState(name="crm", state=State.PAUSED), changed_by="operator")
        await ours.put_destination(CRM, changed_by="operator")
        assert ours.states == {}


async def test_the_configuration_file_s_win_and_are_changed_there_alone(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    async with control_log(settings) as ours:
        await ours.put_destination(CRM, changed_by="operator")
    of_file = replace(CRM, url="https://file.example.com/")
    async with control_log(settings, crm=of_file) as ours:
        assert ours.destinations == {"crm": of_file} and "destination.named_twice" in caplog.messages
        with pytest.raises(ConflictError, match="configuration file"):
            await ours.put_destination(replace(CRM, version=1), changed_by="operator")
        with pytest.raises(ConflictError, match="configuration file"):
            await ours.delete_destination("crm", 1, changed_by="operator")
        paused = await ours.put_state(DestinationState(name="crm", state=State.PAUSED), changed_by="operator")
        assert ours.states == {"crm": paused}


async def test_one_whose_secrets_cannot_be_opened_is_left_out_and_the_log_names_the_setting(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    async with control_log(settings) as ours:
        made = await ours.put_destination(CRM, changed_by="operator")
    for keys in ("", sealing.new_key()):
        caplog.clear()
        async with control_log(replace(settings, destination_keys=keys)) as ours:
            assert (ours.destinations, ours.unreadable) == ({}, {"crm": 1})
            assert any("LOYALTY_DESTINATION_KEYS" in getattr(record, "reason", "") for record in caplog.records)
            if not keys:
                with pytest.raises(ConfigurationError, match="LOYALTY_DESTINATION_KEYS"):
                    await ours.put_destination(made, changed_by="operator")
    new = replace(settings, destination_keys=f"{sealing.new_key()},{settings.destination_keys}")
    async with control_log(new) as ours:
        assert (ours.destinations, ours.unreadable) == ({"crm": made}, {})
        rewritten = await ours.put_destination(made, changed_by="operator")
    async with control_log(replace(new, destination_keys=new.destination_keys.partition(",")[0])) as ours:
        assert ours.destinations == {"crm": rewritten}, "the old key is not needed any more"


async def test_what_nobody_can_read_is_passed_over(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    def record(kind: ControlKind, name: str, content: str) -> DeliveryControl:
        return DeliveryControl(kind=kind, name=name, document=content, version=1, changed_by="x", changed_at_ms=1)

    broken = [
        record(ControlKind.DESTINATION, "odd", "{"), record(ControlKind.DESTINATION, "list", "[]"), record(ControlKind.DESTINATION, "empty", "{}"),
        record(ControlKind.STATE, "crm", '{"state": "AWAY"}'), record(ControlKind.JOB, "replay-1", '{"since": 7}'), record(ControlKind.UNKNOWN, "x", "{}"),
    ]  # fmt: skip
    async with control_log(settings) as ours:
        await asyncio.to_thread(fill, settings, topics.DELIVERY_CONTROL, [b"poison", *broken])
        made = await ours.put_destination(CRM, changed_by="operator")
        await until(lambda: ours.unreadable == {"odd": 1, "list": 1, "empty": 1})
        assert (ours.destinations, ours.states, ours.jobs) == ({"crm": made}, {}, {})
        await until(lambda: caplog.messages.count("control.undecodable") == 2)
        await ours.delete_destination("odd", 1, changed_by="operator")
        assert "odd" not in ours.unreadable


async def test_an_outage_passes(settings: Settings, kafka: KafkaServer) -> None:
    async with control_log(settings) as ours, control_log(settings) as theirs:
        made = await ours.put_destination(CRM, changed_by="operator")
        await asyncio.to_thread(kafka.kill)
        try:
            with pytest.raises(UnavailableError, match="LOYALTY_KAFKA_BOOTSTRAP_SERVERS"):
                await ours.put_destination(made, changed_by="operator")
            assert ours.destinations == {"crm": made}, "what was in force still is"
        finally:
            await asyncio.to_thread(kafka.start)

        async def written() -> Any:
            while True:
                try:
                    return await ours.put_destination(ours.destinations["crm"], changed_by="again")
                except UnavailableError:
                    continue

        async with asyncio.timeout(60):
            changed = await written()
        await until(lambda: theirs.destinations == {"crm": changed})


async def test_nothing_is_written_before_all_is_read(settings: Settings) -> None:
    ours = ControlLog(settings, codec(), {})
    with pytest.raises(UnavailableError, match="has not been read"):
        await ours.put_destination(CRM, changed_by="operator")
    await ours.close()
