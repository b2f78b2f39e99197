"""The promise of the engine: whatever kills the worker, each record has its effect once, and the outputs are whole and in order."""

import json
import os
import random
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient
from rocksdict import AccessType, Options, Rdict

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
def prefix(bootstrap: str) -> Iterator[str]:
    prefix = f"engine-{secrets.token_hex(4)}"
    log.create(bootstrap, topic_names(prefix).values(), PARTITIONS)
    yield prefix
    shutil.rmtree(Path(tempfile.gettempdir()) / prefix, ignore_errors=True)


class Worker:
    """The counting app as a process."""

    def __init__(
        self, bootstrap: str, prefix: str, instance: str, data_dir: Path, before: tuple[str, ...] = (), standby_copies: int = 0, first: str = ""
    ) -> None:
        command = [*before, sys.executable, "-m", "tests.engine.counting", bootstrap, prefix, instance, str(data_dir), str(standby_copies), first]
        self._errors = tempfile.TemporaryFile("w+")  # Not a pipe, which nobody would empty.
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self._errors, text=True)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(30)
        self._close()

    def stop(self) -> int:
        """Stop it cleanly; how many records it handled. `recovered` then says how many changelog rows it had read."""
        assert self.process.stdout is not None
        self.process.stdout.readline()  # Until it listens, SIGTERM would just end it: there may have been nothing left to wait for.
        self.process.send_signal(signal.SIGTERM)
        output, _ = self.process.communicate(timeout=60)
        self._errors.seek(0)
        assert self.process.returncode == 0, self._errors.read()[-5000:]
        self._errors.close()
        said = json.loads(output.splitlines()[-1])
        self.recovered = int(said["recovered"])
        return int(said["handled"])

    def wait_for_failure(self) -> str:
        """What it said when it ended by itself."""
        assert self.process.wait(60) == 1
        self._errors.seek(0)
        return self._errors.read()

    def said(self) -> str:
        """What it has logged so far."""
        return os.pread(self._errors.fileno(), 1 << 20, 0).decode()

    def pause(self) -> None:
        os.kill(self.process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.process.pid, signal.SIGCONT)

    def _close(self) -> None:
        assert self.process.stdout is not None
        self.process.stdout.close()
        self._errors.close()


@contextmanager
def running(
    bootstrap: str, prefix: str, instance: str = "one", data_dir: Path | None = None, before: tuple[str, ...] = (), standby_copies: int = 0,
    first: str = "",
) -> Iterator[Worker]:
    """A worker; without `data_dir` its state is the same test's, so that a restart is warm. `before` is the command that starts it."""
    worker = Worker(bootstrap, prefix, instance, data_dir or Path(tempfile.gettempdir()) / prefix, before, standby_copies, first)
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


def test_records_for_other_partitions_arrive_once_also_after_kill_9(bootstrap: str, prefix: str) -> None:
    names, count = topic_names(prefix), 8000
    records = [(names["a"], b"key-%d" % (i % KEYS), json.dumps({"i": i, "to": i % PARTITIONS}).encode()) for i in range(count)]
    feeder = threading.Thread(target=log.produce, args=(bootstrap, records))
    feeder.start()
    for part in range(2):
        with running(bootstrap, prefix) as worker:
            wait_until(lambda part=part: processed(bootstrap, prefix) > (part + 1) * count // 4, timeout_s=60)
            worker.kill()
    feeder.join()
    with running(bootstrap, prefix) as worker:
        wait_until(lambda: processed(bootstrap, prefix) >= 2 * count, timeout_s=60)
        worker.stop()
    forwarded = [(row.partition, row.key, json.loads(row.value or b"")["i"]) for row in log.read(bootstrap, names["b"])]
    assert sorted(forwarded) == sorted((i % PARTITIONS, b"%d" % (i % PARTITIONS), i) for i in range(count))
    assert processed(bootstrap, prefix) == 2 * count
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


def test_three_workers_come_and_go_under_load(bootstrap: str, prefix: str) -> None:
    feeder = threading.Thread(target=log.produce, args=(bootstrap, inputs(prefix, 0, RECORDS)))
    with running(bootstrap, prefix, "one") as one:
        feeder.start()
        wait_until(lambda: processed(bootstrap, prefix) >= 1, timeout_s=60)
        with running(bootstrap, prefix, "two") as two:
            with running(bootstrap, prefix, "three") as three:
                feeder.join()
                wait_until(lambda: processed(bootstrap, prefix) >= RECORDS, timeout_s=90)
                log.produce(bootstrap, inputs(prefix, RECORDS, RECORDS + 5000))
                three.stop()
            two.stop()
        wait_until(lambda: processed(bootstrap, prefix) >= RECORDS + 5000, timeout_s=90)
        one.stop()
    assert differences(bootstrap, prefix) == NONE_WRONG


def test_a_restart_is_warm_also_after_kill_9_and_a_lost_disk_is_filled_anew(bootstrap: str, prefix: str, tmp_path: Path) -> None:
    log.produce(bootstrap, inputs(prefix, 0, 5000))
    with running(bootstrap, prefix) as worker:
        wait_until(lambda: processed(bootstrap, prefix) >= 5000, timeout_s=60)
        worker.stop()
    with running(bootstrap, prefix) as worker:
        log.produce(bootstrap, inputs(prefix, 5000, 6000))
        wait_until(lambda: processed(bootstrap, prefix) >= 6000, timeout_s=60)
        worker.kill()
    rows = len(log.read(bootstrap, topic_names(prefix)["changelog"]))
    for data_dir, is_warm in ((None, True), (tmp_path, False)):
        with running(bootstrap, prefix, data_dir=data_dir) as worker:
            before = processed(bootstrap, prefix)
            log.produce(bootstrap, inputs(prefix, before, before + 1000))
            wait_until(lambda before=before: processed(bootstrap, prefix) >= before + 1000, timeout_s=60)
            worker.stop()
            # Killed between a commit and its write, a partition misses one unit at most.
            assert worker.recovered < KEYS * 2 if is_warm else worker.recovered >= rows
    assert differences(bootstrap, prefix) == NONE_WRONG


def copied(prefix: str, instance: str) -> dict[int, int]:
    """Partition -> changelog offset to go on from, as the state on a worker's disk says, owned or a copy. Read beside its owner."""
    found: dict[int, int] = {}
    for path in (Path(tempfile.gettempdir()) / prefix).glob(f"{prefix}.app/{instance}-0/partition-*"):
        try:
            database = Rdict(str(path), Options(raw_mode=True), access_type=AccessType.read_only())
        except Exception:  # It is being made.
            continue
        stored = database.get(b"ocounts")
        database.close()
        found[int(path.name.removeprefix("partition-").partition(".")[0])] = int.from_bytes(stored or b"", "big")
    return found


@pytest.mark.parametrize("standby_copies", [1, 0])
def test_a_worker_with_copies_takes_over_without_reading_the_changelog(bootstrap: str, prefix: str, standby_copies: int) -> None:
    with running(bootstrap, prefix, "one", standby_copies=standby_copies) as one, running(bootstrap, prefix, "two", standby_copies=standby_copies) as two:
        wait_until(lambda: len(copied(prefix, "one")) + len(copied(prefix, "two")) >= PARTITIONS and bool(copied(prefix, "two")), timeout_s=60)
        for start in range(0, 10_000, 2000):
            log.produce(bootstrap, inputs(prefix, start, start + 2000))
            wait_until(lambda start=start: processed(bootstrap, prefix) >= start + 2000, timeout_s=60)
        rows = log.read(bootstrap, topic_names(prefix)["changelog"])
        ends = {row.partition: row.offset + 1 for row in rows}
        if standby_copies:
            wait_until(lambda: copied(prefix, "one") == copied(prefix, "two") == ends, timeout_s=30)
        else:
            assert copied(prefix, "one") != ends and copied(prefix, "two") != ends, "without copies, only what a worker owns is up to date"
        one.kill()
        log.produce(bootstrap, inputs(prefix, 10_000, 12_000))
        wait_until(lambda: processed(bootstrap, prefix) >= 12_000, timeout_s=60)
        two.stop()
        assert two.recovered == 0 if standby_copies else two.recovered > KEYS
    assert differences(bootstrap, prefix) == NONE_WRONG


def test_a_full_disk_holds_the_partitions_up_and_harms_nothing(bootstrap: str, prefix: str, tmp_path: Path) -> None:
    # A file system of its own, which nobody else sees and which goes with the process. Needs no root where user namespaces are allowed.
    mount = ("unshare", "--map-root-user", "--mount", "sh", "-c", 'mount -t tmpfs -o size=192m none "$0" && exec "$@"', str(tmp_path))
    if shutil.which("unshare") is None or subprocess.run([*mount, "true"], capture_output=True).returncode:
        pytest.skip("this system lets nobody but root mount a small file system (user namespaces); tests/engine/test_partitions.py has the rest")
    with running(bootstrap, prefix, data_dir=tmp_path / "state", before=mount) as worker:
        log.produce(bootstrap, inputs(prefix, 0, 2000))
        wait_until(lambda: processed(bootstrap, prefix) >= 2000, timeout_s=60)
        ballast = Path(f"/proc/{worker.process.pid}/root{tmp_path}/ballast")
        with pytest.raises(OSError, match="No space left"), ballast.open("wb") as file:
            while True:
                file.write(b"x" * 4096)
                file.flush()
        large = [(topic, key, json.dumps(json.loads(value) | {"row_bytes": 200_000}).encode()) for topic, key, value in inputs(prefix, 2000, 2400)]
        log.produce(bootstrap, large)  # 80 MB: more than what RocksDB's logs have reserved.
        wait_until(lambda: "engine.partition_reset" in worker.said(), timeout_s=60)
        assert worker.process.poll() is None
        ballast.unlink()
        log.produce(bootstrap, inputs(prefix, 2400, 4000))
        wait_until(lambda: processed(bootstrap, prefix) >= 4000, timeout_s=90)
        worker.stop()
    assert differences(bootstrap, prefix) == NONE_WRONG


def test_a_topic_with_other_partitions_stops_the_worker(bootstrap: str) -> None:
    prefix = f"engine-{secrets.token_hex(4)}"
    names = topic_names(prefix)
    log.create(bootstrap, [name for role, name in names.items() if role != "changelog"], PARTITIONS)
    log.create(bootstrap, [names["changelog"]], PARTITIONS + 1)
    with running(bootstrap, prefix) as worker:
        assert f"{names['changelog']} has {PARTITIONS + 1} partitions, but the app has {PARTITIONS}" in worker.wait_for_failure()


def test_a_missing_outbound_topic_is_waited_for(bootstrap: str) -> None:
    prefix = f"engine-{secrets.token_hex(4)}"
    names = topic_names(prefix)
    log.create(bootstrap, [name for role, name in names.items() if role != "out"], PARTITIONS)
    log.produce(bootstrap, inputs(prefix, 0, 1000))
    with running(bootstrap, prefix) as worker:
        wait_until(lambda: log.end_offsets(bootstrap, names["changelog"]) > 0, timeout_s=60)  # A try, and its abort marker.
        log.create(bootstrap, [names["out"]], PARTITIONS)
        wait_until(lambda: processed(bootstrap, prefix) >= 1000, timeout_s=90)
        worker.stop()
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
    admin = AdminClient({"bootstrap.servers": bootstrap})
    with running(bootstrap, prefix) as worker:
        log.produce(bootstrap, [(topic, b"k", value)])
        sent = 1
        wait_until(lambda: processed(bootstrap, prefix) >= 1, timeout_s=60)
        for _ in range(5):
            worker.pause()
            # By the time this reader is done, the fetch that was under way has come back empty. If not, what it brings is processed.
            (partition,) = {row.partition for row in log.read(bootstrap, topic_names(prefix)["out"])}
            log.produce(bootstrap, [(topic, b"k", value)] * 10)
            for future in admin.delete_records([TopicPartition(topic, partition, sent + 5)]).values():
                future.result()
            worker.resume()
            wait_until(lambda: worker.process.poll() is not None or processed(bootstrap, prefix) >= sent + 10, timeout_s=60)
            if worker.process.poll() is not None:
                break
            sent += 10
        assert "expired" in worker.wait_for_failure()
    assert processed(bootstrap, prefix) == sent


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
    assert [row.value for row in log.read(bootstrap, names["changelog"])] == [None, b'{"n": 1, "pad": ""}']
