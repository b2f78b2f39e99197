"""Copies of other workers' partitions on a real broker: they follow, they let go, and what fails in them stays with them."""

import asyncio
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

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


@pytest.fixture
def changelog(bootstrap: str) -> Changelog:
    topic = f"standby-{secrets.token_hex(4)}.rows"
    log.create(bootstrap, [topic], 1)
    admin = AdminClient({"bootstrap.servers": bootstrap})  # Kept until the answer is there: collecting it would fail the call.
    described = admin.describe_topics(TopicCollection([topic]))
    return Changelog(topic, str(described[topic].result().topic_id))


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
    return all(copy.confirmed_s > 0 for copy in copies._copies.values()) and bool(copies._copies)


async def test_a_copy_follows_and_is_let_go_of_at_once(
    bootstrap: str, changelog: Changelog, folder: StateFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(standby, "CONFIRM_S", 0.05)
    log.produce(bootstrap, [(changelog.topic, b"a", b"1"), (changelog.topic, b"b", b"1")])
    copies = following(bootstrap, folder, changelog)
    copies.follow({0})
    await asyncio.to_thread(wait_until, lambda: confirmed(copies), 30)
    log.produce(bootstrap, [(changelog.topic, b"a", b"2"), (changelog.topic, b"b", None)])
    await asyncio.to_thread(wait_until, lambda: copies._copies[0].state.next_offset("rows") == 4, 30)
    await copies.let_go(0)
    assert copies.copies() == set()
    state = folder.open(0)  # Nobody else holds it.
    assert (rows(state), state.next_offset("rows")) == ({b"a": b"2"}, 4)
    assert (state.age_s() or 3600) < 60, "it was known to have everything a moment ago"
    state.close()
    copies.follow({0})
    await asyncio.to_thread(wait_until, lambda: confirmed(copies), 30)
    await copies.stop()
    folder.open(0).close()


async def test_a_copy_of_another_changelog_is_left_alone(bootstrap: str, changelog: Changelog, folder: StateFolder) -> None:
    """The changelog was created anew: what this state holds may be all there is. Its owner will say so; the copy must not harm it."""
    state = folder.open(0)
    state.set_topic_ids({"rows": "the one before"})
    state.apply({"rows": {b"only": b"copy"}}, {"rows": 7}, time.time())
    state.close()
    log.produce(bootstrap, [(changelog.topic, b"a", b"1")])
    copies = following(bootstrap, folder, changelog)
    copies.follow({0})
    await asyncio.to_thread(wait_until, lambda: 0 in copies._retry_at_s, 30)
    assert copies.copies() == set()
    await copies.stop()
    state = folder.open(0)
    assert (rows(state), state.topic_id("rows")) == ({b"only": b"copy"}, "the one before")
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
    await asyncio.to_thread(wait_until, lambda: bool(copies.copies()) and copies._copies[0].state.next_offset("rows") == 1, 30)
    assert failures == []
    await copies.stop()
