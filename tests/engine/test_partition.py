"""One partition's producer on a real broker: fencing, refusing lost offsets, loading tables."""

import secrets

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from streams.engine.partition import Fenced, PartitionProducer, Unreadable
from streams.engine.records import Outgoing
from tests.engine import log


@pytest.fixture
def bootstrap(kafka) -> str:
    return kafka.bootstrap_servers


@pytest.fixture
def group(bootstrap: str) -> str:
    group = f"partition-{secrets.token_hex(4)}"
    log.create(bootstrap, [f"{group}.in", f"{group}.out", f"{group}.rows"], 1)
    return group


def open_partition(bootstrap: str, group: str):
    producer = PartitionProducer({"bootstrap.servers": bootstrap, "log_level": 0}, group, 0, transaction_timeout_s=15)
    return producer, producer.open([f"{group}.in"], {"rows": f"{group}.rows"})


def test_the_next_owner_goes_on_where_the_last_commit_ended(bootstrap: str, group: str) -> None:
    log.produce(bootstrap, [(f"{group}.in", b"k", b"v")] * 5)
    first, opened = open_partition(bootstrap, group)
    assert opened.positions == {(f"{group}.in", 0): 0}
    assert opened.tables == {"rows": {}}
    first.commit([Outgoing(f"{group}.rows", b"a", b"1"), Outgoing(f"{group}.rows", b"b", b"2")], {(f"{group}.in", 0): 3})
    first.commit([Outgoing(f"{group}.rows", b"a", None)], {(f"{group}.in", 0): 4})
    first.close()
    _, opened = open_partition(bootstrap, group)
    assert opened.positions == {(f"{group}.in", 0): 4}
    assert opened.tables == {"rows": {b"b": b"2"}}


def test_a_fenced_owner_writes_nothing(bootstrap: str, group: str) -> None:
    old, _ = open_partition(bootstrap, group)
    old.commit([Outgoing(f"{group}.out", b"k", b"before")], {(f"{group}.in", 0): 0})
    new, _ = open_partition(bootstrap, group)
    with pytest.raises(Fenced):
        old.commit([Outgoing(f"{group}.out", b"k", b"zombie")], {(f"{group}.in", 0): 0})
    new.commit([Outgoing(f"{group}.out", b"k", b"after")], {(f"{group}.in", 0): 0})
    assert [row.value for row in log.read(bootstrap, f"{group}.out")] == [b"before", b"after"]


def test_offsets_older_than_the_log_are_refused_with_advice(bootstrap: str, group: str) -> None:
    log.produce(bootstrap, [(f"{group}.in", b"k", b"v")] * 5)
    producer, _ = open_partition(bootstrap, group)
    producer.commit([], {(f"{group}.in", 0): 2})
    producer.close()
    admin = AdminClient({"bootstrap.servers": bootstrap})
    for future in admin.delete_records([TopicPartition(f"{group}.in", 0, 4)]).values():
        future.result()
    with pytest.raises(Unreadable, match=r"retention\.ms.*reset-offsets"):
        open_partition(bootstrap, group)
