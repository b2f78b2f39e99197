"""Copies of other workers' partitions on a real broker: they follow, they let go, and what fails in them stays with them."""

import asyncio
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient

from streams.engine import standby
from streams.engine.partition import Changelog
from streams.engine.standby import Standbys
from streams.engine.state import PartitionState, StateFolder
from tests.engine import log
from tests.waiting import wait_until


@pytest.fixture
def bootstrap(kafka) -> str:
    return kafka.bootstrap_servers


def described(bootstrap: str, topic: str) -> Changelog:
    admin = AdminClient({"bootstrap.servers": bootstrap})  # Kept until the answer is there: collecting it would fail the call.
    described = admin.describe_topics(TopicCollection([topic]))
    return Changelog(topic, str(described[topic].result().topic_id))


@pytest.fixture
def changelog(bootstrap: str) -> Changelog:
    topic = f"standby-{secrets.token_hex(4)}.rows"
    log.create(bootstrap, [topic], 1)
    return described(bootstrap, topic)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[StateFolder]:
    folder = StateFolder(tmp_path, "worker", memory_bytes=16 << 20, stale_after_s=3600)
    yield folder
    folder.release()


def following(bootstrap: str, folder: StateFolder, changelog: Changelog) -> Standbys:
    return Standbys({"bootstrap.servers": bootstrap, "log_level": 0}, "group", folder, lambda: {"rows": changelog})


def rows(state: PartitionState) -> dict[bytes, bytes | None]:
    return {key: state.get("rows", key) for key in state.keys("rows")}


def confirmed(copies: Standbys) -> bool:
    return all(copy.ask_at_s > 0 for copy in copies._copies.values()) and bool(copies._copies)


async def until(condition: Callable[[], bool]) -> None:
    await asyncio.to_thread(wait_until, condition, 30)


def next_offset(copies: Standbys, partition: int = 0) -> int | None:
    copy = copies._copies.get(partition)
    return None if copy is None else copy.state.next_offset("rows")


async def test_a_copy_follows_and_is_let_go_of_at_once(
    bootstrap: str, changelog: Changelog, folder: StateFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(standby, "CONFIRM_S", 0.05)
    log.produce(bootstrap, [(changelog.topic, b"a", b"1"), (changelog.topic, b"b", b"1")])
    copies = following(bootstrap, folder, changelog)
    copies.follow({0})
    await until(lambda: confirmed(copies))
    log.produce(bootstrap, [(changelog.topic, b"a", b"2"), (changelog.topic, b"b", None)])
    await until(lambda: next_offset(copies) == 4)
    await copies.let_go(0)
    assert copies.copies() == set()
    state = folder.open(0)  # Nobody else holds it.
    assert (rows(state), state.next_offset("rows")) == ({b"a": b"2"}, 4)
    assert (state.age_s() or 3600) < 60, "it was known to have everything a moment ago"
    state.close()
    copies.follow({0})
    await until(lambda: confirmed(copies))
    await copies.stop()
    folder.open(0).close()


async def test_a_copy_of_another_changelog_is_left_alone_and_the_others_go_on(bootstrap: str, folder: StateFolder) -> None:
    """The changelog was created anew: what this state holds may be all there is. Its owner will say so; the copy must not harm it."""
    topic = f"standby-{secrets.token_hex(4)}.rows"
    log.create(bootstrap, [topic], 2)
    state = folder.open(0)
    state.set_topic_ids({"rows": "the one before"})
    state.apply({"rows": {b"only": b"copy"}}, {"rows": 7}, time.time())
    state.close()
    log.produce(bootstrap, [(topic, b"%d" % i, b"1") for i in range(20)])
    end = 1 + max(row.offset for row in log.read(bootstrap, topic) if row.partition == 1)
    copies = following(bootstrap, folder, described(bootstrap, topic))
    copies.follow({0, 1})
    await until(lambda: 0 in copies._retry_at_s and next_offset(copies, 1) == end)
    assert copies.copies() == {1}
    await copies.stop()
    state = folder.open(0)
    assert (rows(state), state.topic_id("rows")) == ({b"only": b"copy"}, "the one before")
    state.close()


async def test_a_changelog_that_vanishes_while_it_is_followed_takes_no_copy_with_it(
    bootstrap: str, changelog: Changelog, folder: StateFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(standby, "RETRY_S", 0.05)
    monkeypatch.setattr(standby, "RETRY_MAX_S", 0.2)
    monkeypatch.setattr(standby, "CONFIRM_S", 0.05)
    log.produce(bootstrap, [(changelog.topic, b"a", b"1")])
    copies = Standbys({"bootstrap.servers": bootstrap, "log_level": 0}, "group", folder, lambda: {"rows": described(bootstrap, changelog.topic)})
    copies.follow({0})
    await until(lambda: confirmed(copies) and next_offset(copies) == 1)
    log.delete(bootstrap, changelog.topic)
    await until(lambda: copies._failures[0] > 1 and copies.copies() == set())
    log.create(bootstrap, [changelog.topic], 1)
    log.produce(bootstrap, [(changelog.topic, b"b", b"2")] * 3)
    seen = copies._failures[0]
    await until(lambda: copies._failures[0] > seen + 1)  # Two openings, at least one of them begun when it was there again.
    await copies.let_go(0)
    state = folder.open(0)
    assert (rows(state), state.topic_id("rows")) == ({b"a": b"1"}, changelog.topic_id)
    state.close()
    await copies.stop()


async def test_what_is_not_assigned_any_more_is_closed(bootstrap: str, changelog: Changelog, folder: StateFolder) -> None:
    copies = following(bootstrap, folder, changelog)
    copies.follow({0})
    await until(lambda: copies.copies() == {0})
    copies.follow(set())
    await until(lambda: copies.copies() == set())
    folder.open(0).close()
    await copies.stop()


async def test_who_asks_for_a_state_that_is_just_being_opened_waits(
    bootstrap: str, changelog: Changelog, folder: StateFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, go_on, opening = threading.Event(), threading.Event(), Standbys._open

    def slowly(self: Standbys, *arguments: Any) -> Any:
        copy = opening(self, *arguments)
        opened.set()
        assert go_on.wait(30)
        return copy

    monkeypatch.setattr(Standbys, "_open", slowly)
    copies = following(bootstrap, folder, changelog)
    copies.follow({0})
    await asyncio.to_thread(opened.wait, 30)
    asked = asyncio.create_task(copies.let_go(0))
    done, _ = await asyncio.wait([asked], timeout=0.2)
    assert not done, "its files are still locked"
    go_on.set()
    await asked
    folder.open(0).close()
    await copies.stop()


async def test_a_copy_that_never_reaches_the_end_is_known_to_be_fresh_all_the_same(
    bootstrap: str, changelog: Changelog, folder: StateFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under load a changelog has always grown since it was asked where it ends."""
    monkeypatch.setattr(standby, "CONFIRM_S", 0.0)
    log.produce(bootstrap, [(changelog.topic, b"a", b"1")])
    half_an_hour_ago_s, asking = time.time() - 1800, Standbys._ask
    state = folder.open(0)
    state.apply({}, {}, half_an_hour_ago_s)
    state.close()

    def ask(self: Standbys, consumer: Any) -> None:
        asking(self, consumer)
        log.produce(bootstrap, [(changelog.topic, b"a", b"more")])

    monkeypatch.setattr(Standbys, "_ask", ask)
    copies = following(bootstrap, folder, changelog)
    copies.follow({0})
    await until(lambda: confirmed(copies))
    await copies.stop()
    state = folder.open(0)
    assert (state.age_s() or 1800) < 60
    state.close()


async def test_a_copy_that_stood_still_for_too_long_begins_anew(
    bootstrap: str, changelog: Changelog, folder: StateFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its process was paused, say: the deletion of a row may have come and have been compacted away meanwhile."""
    log.produce(bootstrap, [(changelog.topic, b"a", b"1")])
    state = folder.open(0)
    state.set_topic_ids({"rows": changelog.topic_id})
    state.apply({"rows": {b"deleted": b"since"}}, {"rows": 0}, time.time() - 100)
    state.close()
    opening, found = Standbys._open, []

    def open_and_stand_still(self: Standbys, *arguments: Any) -> Any:
        copy = opening(self, *arguments)
        found.append(rows(copy.state))
        folder.stale_after_s = 50  # As if the rest of the time had passed.
        return copy

    monkeypatch.setattr(Standbys, "_open", open_and_stand_still)
    copies = following(bootstrap, folder, changelog)
    copies.follow({0})
    await until(lambda: confirmed(copies) and next_offset(copies) == 1)
    await copies.stop()
    state = folder.open(0)
    assert (found, rows(state)) == ([{b"deleted": b"since"}, {}], {b"a": b"1"})
    state.close()


async def test_a_copy_that_was_never_complete_has_an_age_too(
    bootstrap: str, changelog: Changelog, folder: StateFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or it would be trusted for ever."""
    monkeypatch.setattr(Standbys, "_confirm", lambda self: None)
    log.produce(bootstrap, [(changelog.topic, b"a", b"1")])
    copies = following(bootstrap, folder, changelog)
    copies.follow({0})
    await until(lambda: next_offset(copies) == 1)
    await copies.stop()
    state = folder.open(0)
    assert state.age_s() is not None
    state.close()


async def test_what_fails_is_tried_again_and_never_in_the_way(
    bootstrap: str, changelog: Changelog, folder: StateFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(standby, "RETRY_S", 0.05)
    failures = [KafkaException("the broker is away"), RuntimeError("a bug")]

    def changelogs() -> dict[str, Changelog]:
        if failures:
            raise failures.pop()
        return {"rows": changelog}

    log.produce(bootstrap, [(changelog.topic, b"a", b"1")])
    copies = Standbys({"bootstrap.servers": bootstrap, "log_level": 0}, "group", folder, changelogs)
    copies.follow({0})
    await copies.let_go(0)  # Also while nothing works.
    copies.follow({0})
    await until(lambda: next_offset(copies) == 1)
    assert failures == []
    await copies.stop()
