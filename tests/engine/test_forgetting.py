"""What a row held before an app's rule says so is gone from the disk: of the owner, of a copy, and of whoever loads the changelog later."""

import secrets
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from streams.engine import partition, state
from streams.engine.partition import Changelog, PartitionProducer
from streams.engine.standby import Standbys
from streams.engine.state import FORGET_KEYS_MAX, PartitionState, StateFolder
from tests.engine import log
from tests.engine.test_standby import described
from tests.waiting import wait_until

SECRET = b"personal-" + secrets.token_hex(24).encode()  # Nothing in it repeats: what is compressed shows it as well.
KEY = b"member-7"


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[StateFolder]:
    folder = StateFolder(tmp_path, "worker", memory_bytes=16 << 20, stale_after_s=3600)
    yield folder
    folder.release()


@pytest.fixture
def opened(folder: StateFolder) -> Iterator[PartitionState]:
    opened = folder.open(0)
    yield opened
    opened.close()


def files_with(folder: StateFolder, text: bytes = SECRET) -> list[str]:
    return sorted(path.name for path in folder.path.rglob("*") if path.is_file() and text in path.read_bytes())


def put(opened: PartitionState, value: bytes | None, key: bytes = KEY, *, forget: bool = False) -> None:
    opened.apply({"rows": {key: value}}, {"rows": 1}, time.time(), forget={"rows": {key}} if forget else None)


def forgotten(opened: PartitionState) -> None:
    wait_until(lambda: opened.rows_to_forget() == 0, 20)


def fill(opened: PartitionState, value: bytes) -> None:
    """Neighbours of the row, so that its file has more than one block."""
    opened.apply({"rows": {b"member-%d" % number: value * 20 for number in range(2_000)}}, {"rows": 1}, time.time())


@pytest.mark.parametrize("after", [b"erased", None], ids=["overwritten", "deleted"])
@pytest.mark.parametrize("flushed", [False, True], ids=["in the log", "in a file"])
def test_what_a_row_held_before_is_gone_from_the_files(folder: StateFolder, opened: PartitionState, after: bytes | None, flushed: bool) -> None:
    fill(opened, b"before")
    put(opened, SECRET)
    if flushed:
        opened.flush()
    put(opened, after)
    assert files_with(folder) != [], "overwriting alone leaves it there"
    put(opened, after, forget=True)
    forgotten(opened)
    assert files_with(folder) == []
    assert (opened.get("rows", KEY), opened.get("rows", b"member-8")) == (after, b"before" * 20)


def test_a_version_in_each_level_is_gone(folder: StateFolder, opened: PartitionState) -> None:
    for _ in range(3):
        put(opened, SECRET)
        fill(opened, b"others")
        put(opened, SECRET)
        opened.flush()
    opened._db.compact_range(None, None)
    put(opened, SECRET)
    opened.flush()
    put(opened, b"erased", forget=True)
    forgotten(opened)
    assert files_with(folder) == []


def test_many_rows_are_forgotten_as_one_range(folder: StateFolder, opened: PartitionState, caplog: pytest.LogCaptureFixture) -> None:
    keys = {b"m-%05d" % number for number in range(FORGET_KEYS_MAX + 1)}
    opened.apply({"rows": dict.fromkeys(keys, SECRET)}, {}, None)
    opened.flush()
    with caplog.at_level("INFO"):
        opened.apply({"rows": dict.fromkeys(keys)}, {}, None, forget={"rows": keys})
        forgotten(opened)
    assert files_with(folder) == []
    assert [(record.rows, record.ranges) for record in caplog.records if record.msg == "engine.files_rewritten"] == [(len(keys), 1)]


def test_a_mark_outlives_the_process_that_made_it(folder: StateFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "FORGET_AFTER_S", 3600.0)  # The worker ends before it comes to it.
    first = folder.open(0)
    put(first, SECRET)
    first.flush()
    put(first, None, forget=True)
    first.close()
    assert files_with(folder) != []
    monkeypatch.setattr(state, "FORGET_AFTER_S", 0.01)
    second = folder.open(0)
    forgotten(second)
    assert files_with(folder) == []
    second.close()


def test_a_row_that_is_marked_again_meanwhile_is_rewritten_again(opened: PartitionState, folder: StateFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    rewrite, again = PartitionState._rewrite, [True]

    def with_a_late_one(self: PartitionState, keys: list[bytes]) -> None:
        rewrite(self, keys)
        if again:
            again.clear()
            put(self, SECRET)
            self.flush()
            put(self, b"erased", forget=True)

    monkeypatch.setattr(PartitionState, "_rewrite", with_a_late_one)
    put(opened, b"erased", forget=True)
    forgotten(opened)
    assert files_with(folder) == []


def test_states_left_behind_are_removed_and_those_in_use_are_kept(tmp_path: Path) -> None:
    folder = StateFolder(tmp_path, "worker", memory_bytes=16 << 20, stale_after_s=0.0)
    for number in range(2):
        kept = folder.open(number)
        put(kept, SECRET)
        kept.close()
    wait_until(lambda: time.time() > max(path.stat().st_mtime for path in folder.path.rglob("*")), 5)
    folder.remove_left({1})
    assert sorted(path.name for path in folder.path.glob("partition-*")) == [folder.path_of(1).name]
    folder.release()


async def test_a_copy_and_whoever_loads_the_changelog_forget_as_well(kafka, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The changelog still has the old version, until the broker compacts it. Its newest one says that no disk is to keep it."""
    bootstrap, group = kafka.bootstrap_servers, f"forgetting-{secrets.token_hex(4)}"
    changelog = f"{group}.rows"
    log.create(bootstrap, [changelog, f"{group}.in"], 1)
    tables: dict[str, Changelog] = {"rows": described(bootstrap, changelog)}
    folders = {name: StateFolder(tmp_path / name, "worker", memory_bytes=16 << 20, stale_after_s=3600) for name in ("owner", "copy", "late")}
    copies = Standbys({"bootstrap.servers": bootstrap, "log_level": 0}, group, folders["copy"], lambda: tables)
    copies.follow({0})
    producer = PartitionProducer({"bootstrap.servers": bootstrap, "log_level": 0}, group, 0, transaction_timeout_s=10)
    opened = producer.open([f"{group}.in"], tables, folders["owner"], lambda table, rows: None)
    producer.commit({changelog: {KEY: SECRET}}, [], {(f"{group}.in", 0): 0})
    wait_until(lambda: 0 in copies.copies() and copies._copies[0].state.get("rows", KEY) == SECRET, 30)
    copies._copies[0].state.flush()
    assert files_with(folders["copy"]) != []
    producer.commit({changelog: {KEY: None}}, [], {(f"{group}.in", 0): 0}, {changelog: {KEY}})
    wait_until(lambda: copies._copies[0].state.get("rows", KEY) is None and copies._copies[0].state.rows_to_forget() == 0, 30)
    assert files_with(folders["copy"]) == []
    await copies.stop()
    opened.state.close()
    opened.reader.close()
    producer.close()

    monkeypatch.setattr(partition, "RECOVERY_ROWS_MAX", 1)  # The old version is written before the new one is read.
    later = PartitionProducer({"bootstrap.servers": bootstrap, "log_level": 0}, group, 0, transaction_timeout_s=10)
    loaded = later.open([f"{group}.in"], tables, folders["late"], lambda table, rows: None)
    assert files_with(folders["late"]) != []
    forgotten(loaded.state)
    assert files_with(folders["late"]) == []
    loaded.state.close()
    loaded.reader.close()
    later.close()
    for folder in folders.values():
        folder.release()


def test_a_quiet_topic_gets_a_record_a_day_that_nobody_sees(kafka, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or its segment would never end, and never be compacted."""
    bootstrap, group = kafka.bootstrap_servers, f"segments-{secrets.token_hex(4)}"
    names = {role: f"{group}.{role}" for role in ("rows", "in", "profiles")}
    log.create(bootstrap, list(names.values()), 1)
    folder = StateFolder(tmp_path, "worker", memory_bytes=16 << 20, stale_after_s=3600)
    client = {"bootstrap.servers": bootstrap, "log_level": 0}
    producer = PartitionProducer(client, group, 0, transaction_timeout_s=10, compacted=[names["profiles"]])
    opened = producer.open([names["in"]], {"rows": described(bootstrap, names["rows"])}, folder, lambda table, rows: None)

    def ends() -> tuple[int, int]:
        return tuple(log.end_offsets(bootstrap, names[role]) for role in ("rows", "profiles"))  # type: ignore[return-value]

    before = ends()
    assert before[1] > 0, "once at the start"
    producer.commit({}, [], {(names["in"], 0): 0})
    assert ends() == before
    producer._end_segments_at_s = time.monotonic()
    producer.commit({}, [], {(names["in"], 0): 0})
    assert all(now > then for now, then in zip(ends(), before, strict=True))
    assert log.read(bootstrap, names["profiles"]) == []
    opened.state.close()
    opened.reader.close()
    producer.close()
    folder.release()
