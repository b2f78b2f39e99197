"""What has waited goes on: whole, in order, coalesced, at its schedule, and once whatever is killed. On a real broker."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka import Message, TopicPartition

from schemas.contract import member_key
from schemas.records import Enrolment, MemberStatus, ProfileChange, WaitingCommands
from streams import kafka, topics
from streams.codec import open_codec
from streams.errors import UnavailableError
from streams.scheduling.cadence import REALTIME, Cadence
from streams.settings import Settings
from streams.sync import names
from streams.sync.flush import SCHEDULE, FlushJob


@pytest.fixture
def settings(make_settings: Callable[..., Settings]) -> Settings:
    settings = make_settings(redis_url="redis://unused", clickhouse_url="http://unused")
    kafka.ensure_topics(settings, wanted=(topics.PROFILE_CHANGES, topics.ENROLMENTS, *topics.SCHEDULED))
    return settings


def a_change(member: str, event_id: str, *, source: str = "crm", **more: Any) -> ProfileChange:
    return ProfileChange(program_id="grand", member_id=member, event_id=event_id, source_system=source, occurred_at_ms=1, attributes={"city": event_id}, **more)


def put(settings: Settings, stream: str, commands: list[Any], schedule: str | None = None) -> None:
    codec, producer = open_codec(settings), kafka.producer(settings)
    for command in commands:
        headers: list[Any] = [("correlation_id", f"c-{command.event_id}".encode()), *([(SCHEDULE, schedule.encode())] if schedule else [])]
        key = member_key(command.program_id, command.member_id)
        producer.produce(names.STAGING[stream].name(settings.topic_prefix), key=key, value=codec.encode(command), headers=headers)
    assert producer.flush(20) == 0


def sent(settings: Settings, stream: str, at_least: int = 0) -> list[Message]:
    """Committed records of the stream's own topic, once there are so many: a moment passes between a commit and its being seen."""
    consumer = kafka.consumer(settings, "test-sent", enable_partition_eof=True)
    topic, partitions = names.INBOUND[stream].name(settings.topic_prefix), settings.kafka_partitions
    consumer.assign([TopicPartition(topic, number, 0) for number in range(partitions)])
    found: list[Message] = []
    ended: set[int | None] = set()
    deadline_s = time.monotonic() + 30
    while (len(ended) < partitions or len(found) < at_least) and time.monotonic() < deadline_s:
        for message in consumer.consume(1000, timeout=0.1):
            if message.error() is None:
                found.append(message)
            else:
                ended.add(message.partition())
    consumer.close()
    return found


def event_ids(settings: Settings, messages: list[Message]) -> list[list[str]]:
    """Of each record what it stands for, its own last."""
    codec, found = open_codec(settings), []
    for message in messages:
        headers = dict(message.headers() or [])
        earlier = codec.decode(headers[topics.EARLIER], WaitingCommands).commands if topics.EARLIER in headers else ()
        found.append([codec.decode(one.value, ProfileChange).event_id for one in earlier] + [codec.decode(message.value(), ProfileChange).event_id])
    return found


def job(settings: Settings, name: str = "profile-changes", known: tuple[str, ...] = ("profile-changes",)) -> FlushJob:
    return FlushJob(name, settings, open_codec(settings), lambda: known)


async def flush(one: FlushJob, cadence: Cadence = REALTIME) -> Any:
    return await one.flush(asyncio.Event(), cadence)


async def test_changes_of_a_member_and_source_travel_as_one_and_everything_else_alone(settings: Settings) -> None:
    put(settings, "profile-changes", [
        a_change("M-1", "a"), a_change("M-2", "b"), a_change("M-1", "c"), a_change("M-1", "d", source="app"), a_change("M-1", "e"),
        a_change("M-1", "f", status=MemberStatus.SUSPENDED), a_change("M-1", "g"), a_change("M-2", "h"),
    ])  # fmt: skip
    outcome = await flush(job(settings))
    assert (outcome.rows, outcome.counts) == (6, {"commands": 8, "coalesced": 2})
    found = sent(settings, "profile-changes", 6)
    together = event_ids(settings, found)
    assert [ids for ids in together if ids[-1] not in "bh"] == [["a", "c"], ["d"], ["e"], ["f"], ["g"]]
    assert [ids for ids in together if ids[-1] in "bh"] == [["b", "h"]]
    assert [dict(one.headers())["correlation_id"].decode() for one in found] == [f"c-{ids[-1]}" for ids in together]
    assert (await flush(job(settings))).rows == 0 and await job(settings).waiting_max() == 0


async def test_enrolments_are_never_coalesced(settings: Settings) -> None:
    enrolments = [Enrolment(program_id="grand", member_id="M-1", event_id=f"e{n}", source_system="crm", occurred_at_ms=1) for n in range(3)]
    put(settings, "enrolments", enrolments)
    outcome = await flush(job(settings, "enrolments", ("enrolments",)))
    assert (outcome.rows, outcome.counts) == (3, {"commands": 3, "coalesced": 0})


async def test_each_schedule_takes_its_own_and_the_streams_what_nobody_else_takes(settings: Settings) -> None:
    known = ("profile-changes", "profile-changes/crm")
    put(settings, "profile-changes", [a_change("M-1", "a")], schedule="profile-changes/crm")
    put(settings, "profile-changes", [a_change("M-1", "b", source="app")], schedule="profile-changes")
    put(settings, "profile-changes", [a_change("M-1", "c", source="app")])
    put(settings, "profile-changes", [a_change("M-1", "d", source="app")], schedule="profile-changes/gone")
    assert (await job(settings, known=known).backlog()).records == 3
    assert (await flush(job(settings, known=known))).counts["commands"] == 3
    assert event_ids(settings, sent(settings, "profile-changes", 1)) == [["b", "c", "d"]]
    own = job(settings, "profile-changes/crm", known)
    backlog = await own.backlog()
    assert backlog.records == 1 and backlog.oldest_ms is not None
    await flush(own)
    assert event_ids(settings, sent(settings, "profile-changes", 2)) == [["b", "c", "d"], ["a"]]


async def test_of_two_that_flush_the_newer_one_counts(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that was paused in the middle, and goes on when another has taken its place, sends nothing."""
    put(settings, "profile-changes", [a_change(f"M-{n}", f"e{n}") for n in range(20)])
    paused, taking_over = job(settings), job(settings)
    loop = asyncio.get_running_loop()
    send, raced = FlushJob._send, []

    def racing(self: FlushJob, *arguments: Any) -> None:
        if self is paused and not raced:
            raced.append(asyncio.run_coroutine_threadsafe(flush(taking_over), loop).result(30))
        send(self, *arguments)

    monkeypatch.setattr(FlushJob, "_send", racing)
    with pytest.raises(UnavailableError, match="another scheduler flushes"):
        await flush(paused)
    assert raced[0].rows == 20
    assert sorted(ids for (ids,) in event_ids(settings, sent(settings, "profile-changes", 20))) == sorted(f"e{n}" for n in range(20))


async def test_a_stop_and_a_window_that_closes_leave_the_rest(settings: Settings) -> None:
    put(settings, "profile-changes", [a_change(f"M-{n}", f"e{n}") for n in range(20)])
    stop = asyncio.Event()
    one = job(settings)
    running = asyncio.create_task(one.flush(stop, Cadence(every_s=60, rate_max_per_s=5)))
    while not sent(settings, "profile-changes"):
        await asyncio.sleep(0.02)
    stop.set()
    first = await running
    assert 0 < first.rows < 20
    rest = await flush(one)
    assert first.rows + rest.rows == 20 and len(sent(settings, "profile-changes", 20)) == 20
