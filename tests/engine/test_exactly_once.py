"""The promise of the engine: whatever kills the worker, each record has its effect once, and the outputs are whole and in order."""

import json
import os
import random
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from tests.engine import log
from tests.engine.counting import PARTITIONS, topic_names
from tests.waiting import wait_until

RECORDS = 40_000
KEYS = 300
KILLS = 4


@pytest.fixture
def bootstrap(kafka) -> str:
    return kafka.bootstrap_servers


@pytest.fixture
def prefix(bootstrap: str) -> str:
    prefix = f"engine-{secrets.token_hex(4)}"
    log.create(bootstrap, topic_names(prefix).values(), PARTITIONS)
    return prefix


class Worker:
    """The counting app as a process."""

    def __init__(self, bootstrap: str, prefix: str, instance: str = "one") -> None:
        command = [sys.executable, "-m", "tests.engine.counting", bootstrap, prefix, instance]
        self._errors = tempfile.TemporaryFile("w+")  # Not a pipe, which nobody would empty.
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self._errors, text=True)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(30)
        self._close()

    def stop(self) -> int:
        """Stop it cleanly; how many records it handled."""
        self.process.send_signal(signal.SIGTERM)
        output, _ = self.process.communicate(timeout=60)
        self._errors.seek(0)
        assert self.process.returncode == 0, self._errors.read()[-5000:]
        self._errors.close()
        return int(json.loads(output.splitlines()[-1])["handled"])

    def pause(self) -> None:
        os.kill(self.process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.process.pid, signal.SIGCONT)

    def _close(self) -> None:
        assert self.process.stdout is not None
        self.process.stdout.close()
        self._errors.close()


@contextmanager
def running(bootstrap: str, prefix: str, instance: str = "one") -> Iterator[Worker]:
    worker = Worker(bootstrap, prefix, instance)
    try:
        yield worker
    finally:
        if worker.process.poll() is None:
            worker.resume()
            worker.kill()


def inputs(prefix: str, start: int, stop: int) -> Iterator[tuple[str, bytes, bytes]]:
    names = topic_names(prefix)
    for i in range(start, stop):
        yield names["ab"[i % 2]], f"key-{i % KEYS}".encode(), json.dumps({"i": i}).encode()


def differences(bootstrap: str, prefix: str) -> dict[str, int]:
    """What an independent recount of the input log finds wrong in the outputs and in the changelog; all 0 when right."""
    names = topic_names(prefix)
    sent: list[tuple[bytes, int]] = []
    for topic in (names["a"], names["b"]):
        sent += [(row.key, json.loads(row.value)["i"]) for row in log.read(bootstrap, topic) if row.value]
    expected = Counter(key for key, _ in sent)
    last: dict[bytes, int] = {}
    breaks = 0
    seen: Counter[tuple[bytes, int]] = Counter()
    for row in log.read(bootstrap, names["out"]):
        value = json.loads(row.value or b"")
        breaks += value["n"] != last.get(row.key, 0) + 1
        last[row.key] = value["n"]
        seen[row.key, value["i"]] += 1
    state = {row.key: json.loads(row.value)["n"] for row in log.read(bootstrap, names["changelog"]) if row.value}
    return {
        "missing": len(set(sent) - set(seen)),
        "doubled": sum(count - 1 for count in seen.values()),
        "out of sequence": breaks,
        "wrong in the changelog": sum(1 for key in expected if state.get(key) != expected[key]),
    }


NONE_WRONG = {"missing": 0, "doubled": 0, "out of sequence": 0, "wrong in the changelog": 0}


def processed(bootstrap: str, prefix: str) -> int:
    return len(log.read(bootstrap, topic_names(prefix)["out"]))


def test_kill_9_in_mid_stream_loses_and_doubles_nothing(bootstrap: str, prefix: str) -> None:
    dice = random.Random(20261122)
    feeder = threading.Thread(target=log.produce, args=(bootstrap, inputs(prefix, 0, RECORDS)))
    feeder.start()
    out = topic_names(prefix)["out"]
    for _ in range(KILLS):
        before = log.end_offsets(bootstrap, out)
        with running(bootstrap, prefix) as worker:
            wanted = before + dice.randrange(1, RECORDS // (KILLS * 2))
            wait_until(lambda wanted=wanted: log.end_offsets(bootstrap, out) >= wanted, timeout_s=60)
            worker.kill()
    feeder.join()
    with running(bootstrap, prefix) as worker:
        wait_until(lambda: processed(bootstrap, prefix) >= RECORDS, timeout_s=60)
        worker.stop()
    assert processed(bootstrap, prefix) == RECORDS
    assert differences(bootstrap, prefix) == NONE_WRONG


def test_a_clean_stop_replays_nothing(bootstrap: str, prefix: str) -> None:
    handled = 0
    for part in range(3):
        log.produce(bootstrap, inputs(prefix, part * 3000, (part + 1) * 3000))
        with running(bootstrap, prefix) as worker:
            wait_until(lambda part=part: processed(bootstrap, prefix) > part * 3000, timeout_s=60)
            handled += worker.stop()
    with running(bootstrap, prefix) as worker:
        wait_until(lambda: processed(bootstrap, prefix) >= 9000, timeout_s=60)
        handled += worker.stop()
    assert handled == 9000
    assert differences(bootstrap, prefix) == NONE_WRONG


def test_a_second_worker_takes_a_share_and_gives_it_back(bootstrap: str, prefix: str) -> None:
    with running(bootstrap, prefix, "one") as one:
        log.produce(bootstrap, inputs(prefix, 0, 5000))
        wait_until(lambda: processed(bootstrap, prefix) >= 5000, timeout_s=60)
        with running(bootstrap, prefix, "two") as two:
            log.produce(bootstrap, inputs(prefix, 5000, 15_000))
            wait_until(lambda: processed(bootstrap, prefix) >= 15_000, timeout_s=60)
            two.stop()
        log.produce(bootstrap, inputs(prefix, 15_000, 20_000))
        wait_until(lambda: processed(bootstrap, prefix) >= 20_000, timeout_s=60)
        one.stop()
    assert differences(bootstrap, prefix) == NONE_WRONG


def test_a_paused_worker_cannot_write_once_another_took_over(bootstrap: str, prefix: str) -> None:
    with running(bootstrap, prefix, "one") as one:
        feeder = threading.Thread(target=log.produce, args=(bootstrap, inputs(prefix, 0, 20_000)))
        feeder.start()
        wait_until(lambda: processed(bootstrap, prefix) >= 1, timeout_s=60)
        one.pause()
        with running(bootstrap, prefix, "two") as two:
            feeder.join()
            wait_until(lambda: processed(bootstrap, prefix) >= 20_000, timeout_s=60)
            one.resume()
            log.produce(bootstrap, inputs(prefix, 20_000, 25_000))
            wait_until(lambda: processed(bootstrap, prefix) >= 25_000, timeout_s=60)
            two.stop()
        one.stop()
    assert differences(bootstrap, prefix) == NONE_WRONG


def test_poison_and_bugs_take_the_dead_letters_place_and_nothing_else(bootstrap: str, prefix: str) -> None:
    names = topic_names(prefix)
    good = [(names["a"], b"k", json.dumps({"i": i}).encode()) for i in range(3)]
    bad = [(names["a"], b"k", b"not json"), (names["a"], b"k", json.dumps({"i": 100, "bug": True}).encode())]
    log.produce(bootstrap, [good[0], bad[0], good[1], bad[1], good[2]])
    with running(bootstrap, prefix) as worker:
        wait_until(lambda: processed(bootstrap, prefix) >= 3, timeout_s=60)
        worker.stop()
    counts = [json.loads(row.value or b"") for row in log.read(bootstrap, names["out"])]
    assert counts == [{"i": 0, "n": 1}, {"i": 1, "n": 2}, {"i": 2, "n": 3}]
    dead = [json.loads(row.value or b"") for row in log.read(bootstrap, names["dead"])]
    assert dead == [{"stage": "DECODE", "reason": "JSONDecodeError"}, {"stage": "HANDLER", "reason": "RuntimeError"}]


def test_records_that_expire_unread_stop_the_worker_instead_of_being_skipped(bootstrap: str, prefix: str) -> None:
    topic = topic_names(prefix)["a"]
    value = json.dumps({"i": 0}).encode()
    with running(bootstrap, prefix) as worker:
        log.produce(bootstrap, [(topic, b"k", value)])
        wait_until(lambda: processed(bootstrap, prefix) >= 1, timeout_s=60)
        worker.pause()
        log.produce(bootstrap, [(topic, b"k", value)] * 10)
        (partition,) = {row.partition for row in log.read(bootstrap, topic)}
        admin = AdminClient({"bootstrap.servers": bootstrap})
        for future in admin.delete_records([TopicPartition(topic, partition, 5)]).values():
            future.result()
        worker.resume()
        assert worker.process.wait(60) == 1
    assert processed(bootstrap, prefix) == 1


def test_a_deleted_row_stays_deleted_after_a_restart(bootstrap: str, prefix: str) -> None:
    names = topic_names(prefix)
    log.produce(bootstrap, [(names["a"], b"k", json.dumps({"i": 0, "delete": True}).encode())])
    with running(bootstrap, prefix) as worker:
        wait_until(lambda: processed(bootstrap, prefix) >= 1, timeout_s=60)
        worker.stop()
    log.produce(bootstrap, [(names["a"], b"k", json.dumps({"i": 1}).encode())])
    with running(bootstrap, prefix) as worker:
        wait_until(lambda: processed(bootstrap, prefix) >= 2, timeout_s=60)
        worker.stop()
    assert [json.loads(row.value or b"")["n"] for row in log.read(bootstrap, names["out"])] == [1, 1]
    assert [row.value for row in log.read(bootstrap, names["changelog"])] == [None, b'{"n": 1}']
