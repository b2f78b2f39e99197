"""The floor: a plain librdkafka and fastavro loop, with the same records as the engine. `txn`: one transaction per batch; `plain`: none.

What it leaves out is what an engine is for: fencing by partition, recovery of its rows, several workers, poison, a store larger than memory.
"""

import signal
import sys
from typing import Any

from confluent_kafka import Consumer, Producer, TopicPartition

from tests.bench import work

BATCH = 1_000


def main(bootstrap: str, prefix: str, _folder: str, mode: str) -> None:
    running = [True]
    signal.signal(signal.SIGTERM, lambda *_: running.clear())
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": f"{prefix}.app", "enable.auto.commit": False, "auto.offset.reset": "earliest",
                         "isolation.level": "read_committed", "fetch.wait.max.ms": 10})  # fmt: skip
    config: dict[str, Any] = {"bootstrap.servers": bootstrap, "enable.idempotence": True, "linger.ms": 0, "queue.buffering.max.messages": 1_000_000}
    transactional = mode == "txn"
    producer = Producer(config | ({"transactional.id": f"{prefix}.app"} if transactional else {}))
    if transactional:
        producer.init_transactions(30)
    consumer.subscribe([f"{prefix}.in"])
    balances: dict[bytes, work.Row] = {}
    changelog, out = f"{prefix}.app-balances-changelog", f"{prefix}.out"
    while running:
        first = consumer.poll(0.2)
        if first is None:
            continue
        messages = [message for message in (first, *consumer.consume(BATCH - 1, 0)) if message.error() is None]
        if not messages:
            continue
        if transactional:
            producer.begin_transaction()
        ends: dict[int, int] = {}
        changed_rows: dict[bytes, int] = {}
        for message in messages:
            key, partition = message.key(), message.partition()
            balances[key], changed = work.decide(balances.get(key), work.decode(work.MOVEMENT, message.value()))
            producer.produce(out, work.encode(work.CHANGED, changed), key, partition)
            changed_rows[key] = partition
            ends[partition] = message.offset() + 1
        for key, partition in changed_rows.items():
            producer.produce(changelog, work.encode(work.BALANCE, balances[key]), key, partition)
        offsets = [TopicPartition(f"{prefix}.in", partition, end) for partition, end in ends.items()]
        if transactional:
            producer.send_offsets_to_transaction(offsets, consumer.consumer_group_metadata(), 30)
            producer.commit_transaction(30)
        else:
            producer.flush(30)
            consumer.commit(offsets=offsets, asynchronous=False)
    consumer.close()


if __name__ == "__main__":
    main(*sys.argv[1:5])
