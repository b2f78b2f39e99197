"""Child processes end when they should, and only ours do."""

import json
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from infra import processes
from infra.processes import Child, StartAborted, StartError, end_leftovers, identity
from tests.waiting import wait_until

NEVER = threading.Event()


def python(code: str) -> list[str]:
    return [sys.executable, "-u", "-c", code]


def make(folder: Path, code: str, name: str = "child") -> Child:
    return Child(name, python(code), environment=dict(os.environ), log_file=folder / "logs/child.log", pid_file=folder / f"run/{name}.json")


def logged(folder: Path, text: str) -> bool:
    return text in (folder / "logs/child.log").read_text()


def test_output_goes_to_the_log_and_the_pid_file_is_there_while_it_runs(tmp_path: Path) -> None:
    child = make(tmp_path, "import time; print('to stdout'); import sys; print('to stderr', file=sys.stderr); time.sleep(60)")
    wait_until(lambda: logged(tmp_path, "to stdout") and logged(tmp_path, "to stderr"), 10)
    entry = json.loads((tmp_path / "run/child.json").read_text())
    assert entry == {"name": "child", "pid": child.pid, "identity": identity(child.pid)}
    assert child.stop(10)
    assert child.exit_text == "killed by SIGTERM"
    assert identity(child.pid) is None
    assert list((tmp_path / "run").iterdir()) == []


def test_ctrl_c_at_our_terminal_does_not_reach_it(tmp_path: Path) -> None:
    child = make(tmp_path, "import time; time.sleep(60)")
    assert os.getsid(child.pid) == child.pid != os.getsid(0)
    child.kill()


def test_one_that_does_not_listen_is_ended_by_force(tmp_path: Path) -> None:
    child = make(tmp_path, "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf'); time.sleep(60)")
    wait_until(lambda: logged(tmp_path, "deaf"), 10)
    assert child.stop(0.2) is False
    assert child.exit_text == "killed by SIGKILL"


def test_a_paused_one_can_be_stopped(tmp_path: Path) -> None:
    child = make(tmp_path, "import time; print('up'); time.sleep(60)")
    wait_until(lambda: logged(tmp_path, "up"), 10)
    child.signal(signal.SIGSTOP)
    assert child.stop(10)


SPAWN = "import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']).pid); sys.stdout.flush();"


@pytest.mark.parametrize("way", ["stop", "kill", "crash"])
def test_what_it_has_started_ends_with_it(tmp_path: Path, way: str) -> None:
    child = make(tmp_path, SPAWN + ("sys.exit(3)" if way == "crash" else "import time; time.sleep(60)"))
    log = tmp_path / "logs/child.log"
    wait_until(lambda: log.read_text().endswith("\n"), 10)
    grandchild = int(log.read_text())
    {"stop": lambda: child.stop(10), "kill": child.kill, "crash": lambda: wait_until(lambda: child.exit_code == 3, 10)}[way]()
    wait_until(lambda: identity(grandchild) is None, 10)


def test_waiting_for_readiness_tells_what_went_wrong(tmp_path: Path) -> None:
    log = tmp_path / "logs/child.log"
    log.parent.mkdir()
    log.write_text("an earlier run\n")
    dying = make(tmp_path, "print('no such table'); raise SystemExit(7)")
    with pytest.raises(StartError, match=r"child ended while starting \(exit code 7\)") as error:
        dying.wait_ready(lambda: False, 10, NEVER)
    assert "no such table" in str(error.value) and str(log) in str(error.value)
    assert "an earlier run" not in str(error.value)
    slow = make(tmp_path, "import time; time.sleep(60)")
    with pytest.raises(StartError, match="child was not ready after 0 s"):
        slow.wait_ready(lambda: False, 0.1, NEVER)
    aborted = threading.Event()
    aborted.set()
    with pytest.raises(StartAborted):
        slow.wait_ready(lambda: False, 10, aborted)
    slow.wait_ready(lambda: True, 10, NEVER)
    slow.kill()
    with pytest.raises(StartError, match="killed by SIGKILL"):
        slow.wait_ready(lambda: True, 10, NEVER)  # Another program answers on the port.


def test_a_long_log_is_set_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "LOG_BYTES_MAX", 100)
    log = tmp_path / "logs/child.log"
    log.parent.mkdir()
    log.write_text("x" * 101)
    child = make(tmp_path, "print('new')")
    wait_until(lambda: child.exit_code == 0, 10)
    assert log.read_text() == "new\n"
    assert (tmp_path / "logs/child.log.1").read_text() == "x" * 101


def test_the_thread_that_asked_for_it_may_end(tmp_path: Path) -> None:
    """The kernel's tie is to a thread. It must be to one that lasts."""
    with ThreadPoolExecutor(1) as thread:
        child = thread.submit(make, tmp_path, "import time; print('up'); time.sleep(60)").result()
    wait_until(lambda: logged(tmp_path, "up"), 10)
    assert child.exit_code is None
    child.kill()


PARENT = """
import os, sys, signal, threading
from pathlib import Path
from infra.processes import Child
folder = Path(sys.argv[1])
code = "import signal; print('up', flush=True); signal.pause()"
for name in ("one", "two"):
    child = Child(name, [sys.executable, "-c", code], environment=dict(os.environ), log_file=folder / f"{name}.log",
                  pid_file=folder / f"run/{name}.json")
    child.wait_ready((folder / f"{name}.log").read_text, 10, threading.Event())
    print(child.pid, flush=True)
child.signal(signal.SIGSTOP)
print("paused", flush=True)
signal.pause()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends the children of a killed process")
def test_children_end_with_a_parent_that_is_killed_even_paused_ones(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path)], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        pids = [int(parent.stdout.readline()) for _ in range(2)]
        assert parent.stdout.readline() == "paused\n"
        assert all(identity(pid) for pid in pids)
        parent.kill()
        wait_until(lambda: all(identity(pid) is None for pid in pids), 10)
    # Their pid files are still there, and name nobody any more.
    assert end_leftovers(tmp_path / "run") == []
    assert list((tmp_path / "run").iterdir()) == []


def test_leftovers_are_ended_and_others_are_not(tmp_path: Path) -> None:
    """Without the kernel's help, the pid file is all that the next start has."""
    code = "import signal; signal.pause()"
    left = subprocess.Popen(python(code), start_new_session=True)
    deaf = subprocess.Popen(python(code), start_new_session=True)
    other = subprocess.Popen(python(code), start_new_session=True)
    try:
        os.kill(deaf.pid, signal.SIGSTOP)
        for name, pid, known in (
            ("left", left.pid, identity(left.pid)),
            ("paused", deaf.pid, identity(deaf.pid)),
            ("reused", other.pid, "another start time"),
            ("unknown", other.pid, None),
            ("gone", 2**22 + 1, "long ago"),
        ):
            (tmp_path / f"{name}.json").write_text(json.dumps({"name": name, "pid": pid, "identity": known}))
        (tmp_path / "broken.json").write_text("{")
        # They are our children here, so somebody must take note of their end.
        reaper = threading.Thread(target=lambda: (left.wait(), deaf.wait()))
        reaper.start()
        assert end_leftovers(tmp_path) == ["left", "paused"]
        reaper.join(10)
        assert (left.returncode, deaf.returncode) == (-signal.SIGTERM, -signal.SIGTERM)
        assert other.poll() is None
        assert list(tmp_path.iterdir()) == []
    finally:
        for process in (left, deaf, other):
            process.kill()
            process.wait()


def test_identity_knows_a_process_from_a_later_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert identity(os.getpid()) == identity(os.getpid())
    with subprocess.Popen(python("input()"), stdin=subprocess.PIPE) as later:  # Not the parent: it may be of the same clock tick.
        assert identity(later.pid) not in (None, identity(os.getpid()))
        later.communicate(b"\n")
    zombie = subprocess.Popen(python(""))
    os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)
    assert identity(zombie.pid) is None
    zombie.wait()
    assert identity(zombie.pid) is None
