"""One partition's producer on a real broker: fencing, refusing lost offsets, loading tables."""

import secrets
import shutil
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from confluent_kafka import ConsumerGroupTopicPartitions, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient

from streams.engine import metrics, partition
from streams.engine.partition import Changelog, Fenced, Opened, PartitionProducer, Unreadable
from streams.engine.records import Outgoing
from streams.engine.state import StateFolder
from tests.engine import log
from tests.waiting import wait_until


@pytest.fixture
def bootstrap(kafka) -> str:
    return kafka.bootstrap_servers


@pytest.fixture
def group(bootstrap: str) -> str:
    group = f"partition-{secrets.token_hex(4)}"
    log.create(bootstrap, [f"{group}.in", f"{group}.out", f"{group}.rows"], 1)
    return group


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[StateFolder]:
    folder = StateFolder(tmp_path, "worker", memory_bytes=16 << 20, stale_after_s=3600)
    yield folder
    folder.release()


def accept(table: str, rows: Iterable[bytes]) -> None:
    """Every row is one that this program can read."""
    list(rows)


def topic_id(bootstrap: str, topic: str) -> str:
    admin = AdminClient({"bootstrap.servers": bootstrap})
    described = admin.describe_topics(TopicCollection([topic]))
    return str(described[topic].result().topic_id)


def open_partition(bootstrap: str, group: str, folder: StateFolder, check=accept, timeout_s: float = 15):
    producer = PartitionProducer({"bootstrap.servers": bootstrap, "log_level": 0}, group, 0, transaction_timeout_s=timeout_s)
    changelog = Changelog(f"{group}.rows", topic_id(bootstrap, f"{group}.rows"))
    return producer, producer.open([f"{group}.in"], {"rows": changelog}, folder, check)


def rows_of(opened: Opened) -> dict[bytes, bytes | None]:
    return {key: opened.state.get("rows", key) for key in opened.state.keys("rows")}


def read_counter() -> float:
    return metrics.RECOVERED_ROWS.labels("rows")._value.get()


def test_the_next_owner_goes_on_where_the_last_commit_ended(bootstrap: str, group: str, folder: StateFolder, tmp_path: Path) -> None:
    log.produce(bootstrap, [(f"{group}.in", b"k", b"v")] * 5)
    changelog = f"{group}.rows"
    first, opened = open_partition(bootstrap, group, folder)
    assert opened.positions == {(f"{group}.in", 0): 0}
    assert rows_of(opened) == {}
    assert first.commit({changelog: {b"a": b"1", b"b": b"2"}}, [], {(f"{group}.in", 0): 3}) == {changelog: 4}, "after what the new owner had aborted"
    assert first.commit({changelog: {b"a": None}}, [], {(f"{group}.in", 0): 4}) == {changelog: 6}, "a marker lies between them"
    first.close()
    opened.state.close()
    elsewhere = StateFolder(tmp_path / "elsewhere", "worker", memory_bytes=16 << 20, stale_after_s=3600)
    second, opened = open_partition(bootstrap, group, elsewhere)
    assert opened.positions == {(f"{group}.in", 0): 4}
    assert rows_of(opened) == {b"b": b"2"}
    second.close()
    opened.state.close()


def test_a_warm_state_reads_only_what_it_misses(bootstrap: str, group: str, folder: StateFolder) -> None:
    changelog, place = f"{group}.rows", (f"{group}.in", 0)
    first, opened = open_partition(bootstrap, group, folder)
    next_offsets = first.commit({changelog: {b"%d" % n: b"1" for n in range(1000)}}, [], {place: 0})
    opened.state.apply({"rows": {b"%d" % n: b"1" for n in range(1000)}}, {"rows": next_offsets[changelog]}, time.time())
    first.commit({changelog: {b"7": b"2", b"8": None}}, [], {place: 0})  # Committed, but the worker died before its state had it.
    first.close()
    opened.state.close()
    before = read_counter()
    second, opened = open_partition(bootstrap, group, folder)
    assert read_counter() - before == 2
    assert (opened.state.get("rows", b"7"), opened.state.get("rows", b"8"), opened.state.get("rows", b"9")) == (b"2", None, b"1")
    assert len(rows_of(opened)) == 999
    second.close()
    opened.state.close()


@pytest.mark.parametrize("harm", ["corrupt", "stale", "gone"])
def test_a_state_that_cannot_be_trusted_is_filled_anew(bootstrap: str, group: str, folder: StateFolder, harm: str) -> None:
    changelog, place = f"{group}.rows", (f"{group}.in", 0)
    first, opened = open_partition(bootstrap, group, folder)
    next_offsets = first.commit({changelog: {b"a": b"right"}}, [], {place: 0})
    as_of_s = time.time() - (7200 if harm == "stale" else 0)
    opened.state.apply({"rows": {b"a": b"right", b"ghost": b"deleted long ago"}}, {"rows": next_offsets[changelog]}, as_of_s)
    opened.state.flush()
    opened.state.close()
    first.close()
    path = folder.path_of(0)
    if harm == "corrupt":
        for file in path.glob("*.sst"):
            file.write_bytes(b"not a table")
    elif harm == "gone":
        shutil.rmtree(path)
    second, opened = open_partition(bootstrap, group, folder)
    assert rows_of(opened) == {b"a": b"right"}
    second.close()
    opened.state.close()


def test_a_changelog_that_was_created_anew_stops_the_worker(bootstrap: str, group: str, folder: StateFolder) -> None:
    log.produce(bootstrap, [(f"{group}.in", b"k", b"v")])
    changelog = f"{group}.rows"
    first, opened = open_partition(bootstrap, group, folder)
    next_offsets = first.commit({changelog: {b"a": b"1"}}, [], {(f"{group}.in", 0): 1})
    opened.state.apply({"rows": {b"a": b"1"}}, {"rows": next_offsets[changelog]}, time.time())
    opened.state.close()
    first.close()
    admin = AdminClient({"bootstrap.servers": bootstrap})
    for future in admin.delete_topics([changelog]).values():
        future.result()
    wait_until(lambda: not log.exists(bootstrap, changelog), timeout_s=30)
    log.create(bootstrap, [changelog], 1)
    with pytest.raises(Unreadable, match=r"ends at offset 0, but rows up to 3 .*created anew.*reset-offsets"):
        open_partition(bootstrap, group, folder, timeout_s=1)
    log.produce(bootstrap, [(changelog, b"b", b"2")] * 3)
    with pytest.raises(Unreadable, match="created anew.*remove that folder"):
        open_partition(bootstrap, group, folder)
    shutil.rmtree(folder.path_of(0))
    second, opened = open_partition(bootstrap, group, folder)  # As the message says.
    second.close()
    opened.state.close()


def test_a_changelog_of_another_schema_stops_the_worker(bootstrap: str, group: str, folder: StateFolder) -> None:
    first, opened = open_partition(bootstrap, group, folder)
    first.commit({f"{group}.rows": {b"a": b"alien"}}, [], {(f"{group}.in", 0): 0})
    first.close()
    opened.state.close()

    def refuse(table: str, rows: Iterable[bytes]) -> None:
        for row in rows:
            raise Unreadable(f"{table}: {row!r}")

    with pytest.raises(Unreadable, match="rows: b'alien'"):
        open_partition(bootstrap, group, folder, refuse)
    second, opened = open_partition(bootstrap, group, folder)  # Nothing stays locked, and nothing was taken for read.
    assert rows_of(opened) == {b"a": b"alien"}
    second.close()
    opened.state.close()


def test_a_fenced_owner_writes_nothing(bootstrap: str, group: str, folder: StateFolder) -> None:
    old, opened = open_partition(bootstrap, group, folder)
    opened.state.close()
    old.commit({}, [Outgoing(f"{group}.out", b"k", b"before")], {(f"{group}.in", 0): 0})
    new, opened = open_partition(bootstrap, group, folder)
    with pytest.raises(Fenced):
        old.commit({}, [Outgoing(f"{group}.out", b"k", b"zombie")], {(f"{group}.in", 0): 0})
    new.commit({}, [Outgoing(f"{group}.out", b"k", b"after")], {(f"{group}.in", 0): 0})
    assert [row.value for row in log.read(bootstrap, f"{group}.out")] == [b"before", b"after"]


def test_offsets_older_than_the_log_are_refused_with_advice(bootstrap: str, group: str, folder: StateFolder) -> None:
    log.produce(bootstrap, [(f"{group}.in", b"k", b"v")] * 5)
    producer, opened = open_partition(bootstrap, group, folder)
    opened.state.close()
    producer.commit({}, [], {(f"{group}.in", 0): 2})
    producer.close()
    admin = AdminClient({"bootstrap.servers": bootstrap})
    for future in admin.delete_records([TopicPartition(f"{group}.in", 0, 4)]).values():
        future.result()
    with pytest.raises(Unreadable, match=r"retention\.ms.*reset-offsets"):
        open_partition(bootstrap, group, folder)


def test_rows_that_no_committed_offset_stands_for_stop_the_worker(bootstrap: str, group: str, folder: StateFolder) -> None:
    """Handled on such rows, the records after the offsets would count twice."""
    log.produce(bootstrap, [(f"{group}.in", b"k", b"v")] * 5)
    first, opened = open_partition(bootstrap, group, folder)
    first.commit({f"{group}.rows": {b"a": b"1"}}, [], {(f"{group}.in", 0): 2})
    first.close()
    opened.state.close()
    log.produce(bootstrap, [(f"{group}.rows", b"a", b"2")])
    with pytest.raises(Unreadable, match=r"rows past offset 3, .*offsets were lost or set back"):
        open_partition(bootstrap, group, folder, timeout_s=1)
    admin = AdminClient({"bootstrap.servers": bootstrap})  # As the message says: without the metadata, whoever did it means it.
    offsets = ConsumerGroupTopicPartitions(group, [TopicPartition(f"{group}.in", 0, 0)])
    for future in admin.alter_consumer_group_offsets([offsets]).values():
        future.result()
    second, opened = open_partition(bootstrap, group, folder)
    assert (opened.positions, rows_of(opened)) == ({(f"{group}.in", 0): 0}, {b"a": b"2"})
    second.close()
    opened.state.close()


def test_a_load_that_breaks_off_leaves_the_state_as_old_as_it_was(
    bootstrap: str, group: str, folder: StateFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the next load would trust that it misses no deletion that was compacted away meanwhile."""
    monkeypatch.setattr(partition, "RECOVERY_ROWS_MAX", 10)
    first, opened = open_partition(bootstrap, group, folder)
    next_offsets = first.commit({f"{group}.rows": {b"%d" % n: b"1" for n in range(30)}}, [], {(f"{group}.in", 0): 0})
    opened.state.apply({}, {"rows": next_offsets[f"{group}.rows"]}, time.time() - 1000)
    first.commit({f"{group}.rows": {b"%d" % n: b"2" for n in range(30)}}, [], {(f"{group}.in", 0): 0})
    first.close()
    opened.state.close()
    checks = iter([None, None, Unreadable("breaks off")])

    def break_off(table: str, rows: Iterable[bytes]) -> None:
        if (error := next(checks)) is not None:
            raise error

    with pytest.raises(Unreadable, match="breaks off"):
        open_partition(bootstrap, group, folder, break_off)
    state = folder.open(0)
    assert state.next_offset("rows") == 53 and (state.age_s() or 0) >= 1000
    state.close()
    second, opened = open_partition(bootstrap, group, folder)
    assert opened.state.next_offset("rows") == 63 and (opened.state.age_s() or 0) < 100
    second.close()
    opened.state.close()


def test_a_new_owner_aborts_what_may_hang_before_it_commits_anything(bootstrap: str, group: str, folder: StateFolder) -> None:
    """A broker that restarts can leave out the markers of a transaction; the next commit of the same id would then commit that one too."""
    changelog, out = f"{group}.rows", f"{group}.out"
    first, opened = open_partition(bootstrap, group, folder)
    assert (log.end_offsets(bootstrap, changelog), log.end_offsets(bootstrap, out)) == (2, 0), "one record and its abort marker"
    for number in range(2):
        first.commit({changelog: {b"a": b"1"}}, [Outgoing(out, b"k", b"v")], {(f"{group}.in", 0): number})
    assert (log.end_offsets(bootstrap, changelog), log.end_offsets(bootstrap, out)) == (6, 6), "two rows; but in the other topic once more"
    first.close()
    opened.state.close()
    assert [row.value for row in log.read(bootstrap, out)] == [b"v", b"v"]
    assert [row.value for row in log.read(bootstrap, changelog)] == [b"1", b"1"]


def test_a_record_goes_to_another_partition_after_what_may_hang_there_was_aborted(bootstrap: str, group: str, folder: StateFolder) -> None:
    out = f"{group}.wide"
    log.create(bootstrap, [out], 3)
    first, opened = open_partition(bootstrap, group, folder)
    for number in range(2):
        outgoing = [Outgoing(out, b"k", b"own"), Outgoing(out, b"k", b"own", None, 0), Outgoing(out, b"k", b"other", {"h": b"1"}, 2)]
        first.commit({}, outgoing, {(f"{group}.in", 0): number})
    first.close()
    opened.state.close()
    assert [(row.partition, row.offset, row.value) for row in log.read(bootstrap, out)] == [
        (0, 2, b"own"), (0, 3, b"own"), (0, 5, b"own"), (0, 6, b"own"),  # After a record and its abort marker; a commit marker lies between.
        (2, 2, b"other"), (2, 4, b"other"),
    ]  # fmt: skip


def test_what_a_fenced_owner_left_open_in_another_partition_is_never_seen(bootstrap: str, group: str, folder: StateFolder) -> None:
    """The next owner of the same partition ends it, whoever owns the other."""
    out = f"{group}.wide"
    log.create(bootstrap, [out], 2)
    old, opened = open_partition(bootstrap, group, folder)
    opened.state.close()
    old.commit({}, [Outgoing(out, b"k", b"before", None, 1)], {(f"{group}.in", 0): 0})
    producer = old._producer
    assert producer is not None
    producer.begin_transaction()
    producer.produce(out, b"left open", b"k", 1)
    assert producer.flush(10) == 0
    log.produce(bootstrap, [(out, b"%d" % number, b"someone else's") for number in range(10)])
    assert [row.value for row in log.read(bootstrap, out) if row.partition == 1] == [b"before"], "readers wait for the open transaction"
    new, opened = open_partition(bootstrap, group, folder)
    producer.produce(out, b"zombie", b"k", 1)
    with pytest.raises(KafkaException):
        producer.commit_transaction(10)
    new.commit({}, [Outgoing(out, b"k", b"after", None, 1)], {(f"{group}.in", 0): 0})
    values = [row.value for row in log.read(bootstrap, out) if row.partition == 1]
    assert (values[0], values[-1]) == (b"before", b"after") and set(values[1:-1]) == {b"someone else's"}
    new.close()
    opened.state.close()


def test_a_state_ahead_of_the_committed_offsets_is_filled_anew(bootstrap: str, group: str, folder: StateFolder) -> None:
    """It has a unit that was reported as committed, and is to be done again."""
    changelog = f"{group}.rows"
    first, opened = open_partition(bootstrap, group, folder)
    first.commit({changelog: {b"a": b"1"}}, [], {(f"{group}.in", 0): 0})
    opened.state.apply({"rows": {b"a": b"2"}}, {"rows": 4}, time.time())
    first.close()
    opened.state.close()
    second, opened = open_partition(bootstrap, group, folder)
    assert rows_of(opened) == {b"a": b"1"}
    second.close()
    opened.state.close()
