"""The stack as `loyalty up`, the demo and the tests use it: real servers, stubs in place of the pipeline's processes."""

import json
import os
import signal
import stat
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from pathlib import Path

import pytest

from infra import ports
from infra.processes import StartAborted, StartError, identity
from infra.service import State
from infra.stack import HomeInUse, Process, Progress, Stack
from streams import settings as settings_module
from streams.configuration import Configuration
from streams.errors import ConfigurationError
from tests.waiting import wait_until


def stub(name: str, *arguments: str) -> Process:
    return Process(name, (sys.executable, "-m", "tests.infra.stub_process", *arguments), 0)


def environment_of(stack: Stack, name: str) -> dict[str, str]:
    with urllib.request.urlopen(stack.service(name).url, timeout=5) as response:
        found: dict[str, str] = json.load(response)["environment"]
        return found


def pids(stack: Stack) -> list[int]:
    return [service.pid for service in stack.services if service.pid]


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(scope="module")
def events() -> list[Progress]:
    return []


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, kafka_jars: list[Path], events: list[Progress]) -> Iterator[Stack]:
    """Three servers and two stubs, for the tests that leave them as they found them."""
    made = Stack(
        tmp_path_factory.mktemp("stack") / "home",
        pipeline=(stub("worker"), stub("sink-redis", "--deaf")),
        partitions=3,
        environment={"LOYALTY_LOG_LEVEL": "WARNING", "STUB_SAYS": "hello"},
        on_progress=events.append,
        free_ports=True,
    )
    for service in made._pipeline:
        service.stop_timeout_s = 0.5  # type: ignore[misc]
    with made:
        yield made


def test_everything_is_ready_and_says_where(stack: Stack, events: list[Progress]) -> None:
    assert [service.name for service in stack.services] == ["kafka", "valkey", "clickhouse", "worker", "sink-redis"]
    assert {service.state for service in stack.services} == {State.READY}
    assert len(set(pids(stack))) == 5
    assert all(service.address.startswith("127.0.0.1:") and ports.accepts(int(service.address[10:])) for service in stack.services)
    settings = stack.settings
    assert settings.kafka_bootstrap_servers == stack.service("kafka").address
    assert settings.redis_url == stack.service("valkey").url == f"redis://{stack.service('valkey').address}/0"
    assert settings.clickhouse_url == stack.service("clickhouse").url
    assert settings.worker_urls == stack.service("worker").url
    assert (settings.kafka_partitions, settings.kafka_replication_factor, settings.log_level) == (3, 1, "WARNING")
    with pytest.raises(KeyError, match="'nothing' is none of kafka, valkey"):
        stack.service("nothing")
    order = [(event.service, event.event) for event in events if event.event in ("starting", "ready")]
    assert order.index(("worker", "starting")) > max(order.index((name, "ready")) for name in ("kafka", "valkey", "clickhouse"))


def test_another_process_reads_the_addresses_from_the_home(stack: Stack) -> None:
    file = stack.home / "stack.env"
    assert mode(file) == 0o600
    assert mode(stack.home) == 0o700
    found = settings_module.load({"LOYALTY_HOME": str(stack.home)})
    assert (found.kafka_bootstrap_servers, found.clickhouse_url, found.redis_url, found.kafka_partitions, found.config_file) == (
        stack.settings.kafka_bootstrap_servers, stack.settings.clickhouse_url, stack.settings.redis_url, 3,
        str(stack.home / "loyalty.toml"),
    )  # fmt: skip
    assert found.voucher_key == stack.settings.voucher_key
    # A worker that is started by hand must not take the port of the one that runs.
    assert "LOYALTY_HTTP_PORT" not in file.read_text()


def test_a_process_finds_its_settings_and_its_own_port(stack: Stack) -> None:
    worker, sink = environment_of(stack, "worker"), environment_of(stack, "sink-redis")
    assert worker["LOYALTY_HTTP_PORT"] == stack.service("worker").address.partition(":")[2]
    assert sink["LOYALTY_HTTP_PORT"] == stack.service("sink-redis").address.partition(":")[2]
    assert {name: value for name, value in worker.items() if name != "LOYALTY_HTTP_PORT"} == {
        name: value for name, value in sink.items() if name != "LOYALTY_HTTP_PORT"
    }
    assert worker["STUB_SAYS"] == "hello"
    # Every setting is given, so that nothing else can put another in its place.
    assert {f"LOYALTY_{field.name.upper()}" for field in fields(stack.settings)} <= worker.keys()


def test_secrets_are_made_once_and_are_nobody_elses(stack: Stack) -> None:
    file = stack.home / "secrets.json"
    assert mode(file) == 0o600
    assert json.loads(file.read_text()) == {
        "internal_token": stack.settings.internal_token,
        "voucher_key": stack.settings.voucher_key,
        "destination_keys": stack.settings.destination_keys,
    }
    assert len(stack.settings.voucher_key) >= 32
    assert mode(stack.home / "loyalty.toml") == 0o600
    assert "{{token}}" not in (stack.home / "loyalty.toml").read_text()


def test_one_stack_per_home(stack: Stack) -> None:
    other = Stack(stack.home, pipeline=False, free_ports=True)
    with pytest.raises(HomeInUse, match=rf"already runs in {stack.home} \(process {os.getpid()}\)"):
        other.start()
    other.stop()
    assert (stack.home / "stack.env").exists(), "the file is the other's"


def test_kill_and_start_again(stack: Stack) -> None:
    before = stack.service("worker")
    stack.kill("worker")
    assert stack.service("worker").state is State.DIED
    stack.start_service("worker")
    after = stack.service("worker")
    assert (after.state, after.url) == (State.READY, before.url)
    assert after.pid != before.pid
    stack.stop_service("worker")
    assert stack.service("worker").state is State.STOPPED
    assert stack.service("worker").pid is None
    stack.start_service("worker")
    assert stack.service("worker").state is State.READY


def test_pause_and_resume(stack: Stack) -> None:
    stack.pause("worker")
    assert stack.service("worker").state is State.PAUSED
    with pytest.raises(OSError, match="timed out"):
        urllib.request.urlopen(stack.service("worker").url, timeout=0.3)
    stack.resume("worker")
    assert stack.service("worker").state is State.READY
    assert environment_of(stack, "worker")


def without_servers(home: Path, *processes: Process) -> Stack:
    """For what concerns the pipeline's processes alone: saves the servers' start."""
    made = Stack(home, pipeline=processes, free_ports=True)
    made._servers = ()
    return made


def test_a_failed_start_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    failing = without_servers(tmp_path, stub("worker", "--never-ready"), stub("sink-redis", "--fail", "no such topic"))
    with pytest.raises(StartError, match="sink-redis ended while starting") as error:
        failing.start()
    assert "no such topic" in str(error.value)
    assert pids(failing) == []
    assert {service.state for service in failing.services} == {State.WAITING}
    assert not (tmp_path / "stack.env").exists()
    # The home is free again, and the same stack may be started again.
    with pytest.raises(StartError):
        failing.start()


@pytest.mark.parametrize(("is_needed", "running"), [(lambda configured: bool(configured.sources), True), (lambda configured: False, False)])
def test_a_process_with_nothing_to_do_is_not_started(tmp_path: Path, is_needed: Callable[[Configuration], bool], running: bool) -> None:
    with without_servers(tmp_path, stub("worker"), replace(stub("sink-redis"), is_needed=is_needed)) as made:
        assert [service.name for service in made.services if service.state is State.READY] == ["worker", *["sink-redis"] * running]


def test_a_start_can_be_aborted(tmp_path: Path) -> None:
    waiting = without_servers(tmp_path, stub("worker", "--never-ready"))
    with ThreadPoolExecutor(1) as thread:
        starting = thread.submit(waiting.start)
        wait_until(lambda: len(pids(waiting)) == 1, 10)
        waiting.abort()
        with pytest.raises(StartAborted):
            starting.result(10)
    assert pids(waiting) == []


@pytest.mark.parametrize("name", ["LOYALTY_KAFKA_BOOTSTRAP_SERVERS", "LOYALTY_REDIS_URL", "LOYALTY_CLICKHOUSE_URL"])
def test_servers_of_ones_own_are_a_contradiction(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{name} is set, but the embedded stack starts its own"):
        Stack(tmp_path, environment={name: "x"}).start()


def test_a_configuration_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="nowhere.toml does not exist"):
        Stack(tmp_path / "home", config_file=tmp_path / "nowhere.toml").start()


PARENT = """
import signal, sys
from pathlib import Path
from infra.stack import Stack
from tests.infra.test_stack import pids, stub
stack = Stack(Path(sys.argv[1]), pipeline=(stub("worker"),), free_ports=True)
stack.start()
print(stack.settings.voucher_key, *pids(stack), flush=True)
signal.pause()
"""


def test_after_kill_of_the_parent_nothing_is_left_and_the_next_start_goes_on(tmp_path: Path, kafka_jars: list[Path]) -> None:
    home = tmp_path / "home"
    with subprocess.Popen([sys.executable, "-c", PARENT, str(home)], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        voucher_key, *children = parent.stdout.readline().split()
        assert len(children) == 4
        stack = Stack(home, pipeline=False, free_ports=True)
        with pytest.raises(HomeInUse, match=rf"\(process {parent.pid}\)"):
            stack.start()
        parent.kill()
        parent.wait()
    if sys.platform == "linux":
        wait_until(lambda: all(identity(int(pid)) is None for pid in children), 10)
    assert (home / "stack.env").exists(), "it is out of date now"

    events: list[Progress] = []
    happened = threading.Event()

    def note(progress: Progress) -> None:
        events.append(progress)
        if (progress.service, progress.event) == ("valkey", "ready") and any(event.event == "died" for event in events):
            happened.set()

    with Stack(home, pipeline=(stub("worker"),), free_ports=True, restart=True, on_progress=note) as stack:
        assert stack.settings.voucher_key == voucher_key
        assert stack.settings.kafka_bootstrap_servers in (home / "stack.env").read_text()
        assert all(identity(int(pid)) is None for pid in children)
        # What ends without being told to is started again, and that is said.
        before = stack.service("valkey")
        os.kill(before.pid or 0, signal.SIGKILL)
        assert happened.wait(20)
        wait_until(lambda: stack.service("valkey").state is State.READY, 10)
        after = stack.service("valkey")
        assert (after.url, after.pid != before.pid) == (before.url, True)
        assert [event.event for event in events if event.service == "valkey"][-4:] == ["died", "restarting", "starting", "ready"]
        died = next(event for event in events if event.event == "died")
        assert died.detail.startswith("killed by SIGKILL; starts again in 0.5 s")
        # What is told to end stays ended.
        stack.stop_service("worker")
        os.kill(stack.service("valkey").pid or 0, signal.SIGKILL)
        wait_until(lambda: sum(event.event == "ready" and event.service == "valkey" for event in events) == 3, 20)
        assert stack.service("worker").state is State.STOPPED
        last = pids(stack)
    assert all(identity(pid) is None for pid in last)
    assert not (home / "stack.env").exists()
    assert list((home / "run").iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_loyalty_up_runs_until_it_is_told_to_end(tmp_path: Path, kafka_jars: list[Path], number: signal.Signals) -> None:
    home = tmp_path / "home"
    command = [sys.executable, "-m", "streams.cli", "up", "--home", str(home), "--only-servers"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LOYALTY_")}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment) as up:
        assert up.stdout
        if number is signal.SIGINT:
            # While it still starts.
            wait_until(lambda: "starting" in up.stdout.readline(), 30)  # type: ignore[union-attr]
        else:
            wait_until((home / "stack.env").exists, 60)
            second = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)
            assert second.returncode == 2
            assert f"loyalty up: A stack already runs in {home} (process {up.pid})" in second.stderr
            started = [json.loads(file.read_text())["pid"] for file in (home / "run").glob("*.json")]
            assert len(started) == 3
        up.send_signal(number)
        output = up.stdout.read()
        assert up.wait(60) == (130 if number is signal.SIGINT else 0)
    assert "Traceback" not in output
    if number is signal.SIGTERM:
        assert "kafka ready after" in output and "kafka stopped after" in output and "Ctrl-C" in output
        assert all(identity(pid) is None for pid in started)
    assert not (home / "stack.env").exists()
    assert list((home / "run").iterdir()) == []
