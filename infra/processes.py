"""Child processes: started, watched, signalled, stopped, and never left behind.

Each child leads its own session, so that Ctrl-C reaches only us and a signal to the child reaches all that it started. A pid file
names it by pid and start time: what a killed parent leaves behind is found by the next start, and no other process is ever taken
for it.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from streams.errors import LoyaltyError

POLL_S = 0.05  # How often a condition of another process is looked at.
LOG_BYTES_MAX = 50 << 20  # A longer log is set aside at the next start of its process; the one before it is dropped.
LOG_TAIL_LINES = 15
KILL_TIMEOUT_S = 10  # The kernel needs a moment for a process with a large memory.
LEFTOVER_GRACE_S = 10

_TETHER = Path(__file__).with_name("tether.py")
# The tie of tether.py is to a thread. This one lives as long as the process does.
_spawner = ThreadPoolExecutor(1, thread_name_prefix="spawner")


class StartError(LoyaltyError):
    """A process did not become ready. The message has the end of its log."""


class StartAborted(LoyaltyError):
    """Someone asked for the stop of what was still starting."""


def identity(pid: int) -> str | None:
    """What tells the process from a later one with the same pid; None when none runs (a zombie does not run)."""
    try:
        # Behind the name, which may contain anything: state is the first field, the start time the twentieth.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return None if fields[0] in "ZX" else f"{boot}:{fields[19]}"
    except OSError:
        if Path("/proc/self/stat").exists() or not shutil.which("ps"):
            return None
    listed = subprocess.run(["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout.strip()
    return None if not listed or listed.startswith("Z") else listed.partition(" ")[2].strip()


class Child:
    """One running process. Its output goes to `log_file`; `pid_file` exists while it does."""

    def __init__(self, name: str, command: Sequence[str], *, environment: Mapping[str, str], log_file: Path, pid_file: Path) -> None:
        self.name = name
        self._log_file = log_file
        self._pid_file = pid_file
        self._group_ended = False
        log_file.parent.mkdir(parents=True, exist_ok=True)
        pid_file.parent.mkdir(parents=True, exist_ok=True)
        if log_file.exists() and log_file.stat().st_size > LOG_BYTES_MAX:
            log_file.replace(log_file.with_suffix(".log.1"))
        tied = [sys.executable, "-I", "-S", str(_TETHER), str(os.getpid()), *command]
        with log_file.open("ab") as output:
            self._log_start = output.tell()
            self._process = _spawner.submit(
                subprocess.Popen, tied, env=dict(environment), stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                start_new_session=True,
            ).result()  # fmt: skip
        self.pid = self._process.pid
        pid_file.write_text(json.dumps({"name": name, "pid": self.pid, "identity": identity(self.pid)}))

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative for the signal that ended it."""
        code = self._process.poll()
        if code is not None:
            self._end_group()
        return code

    @property
    def exit_text(self) -> str:
        code = self.exit_code
        if code is None:
            return "running"
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

    def signal(self, number: signal.Signals) -> None:
        """To the process and all that it started. No effect once it has ended."""
        if self.exit_code is None:
            try:
                os.killpg(self.pid, number)
            except ProcessLookupError:
                pass

    def kill(self) -> None:
        """SIGKILL; returns when the process is gone."""
        self.signal(signal.SIGKILL)
        self._process.wait(KILL_TIMEOUT_S)
        self._end_group()

    def stop(self, grace_s: float) -> bool:
        """SIGTERM, then SIGKILL after `grace_s`. Returns whether it ended by itself; gone it is in any case."""
        self.signal(signal.SIGTERM)
        self.signal(signal.SIGCONT)  # A paused process would not see the SIGTERM.
        try:
            self._process.wait(grace_s)
        except subprocess.TimeoutExpired:
            self.kill()
            return False
        self._end_group()
        return True

    def _end_group(self) -> None:
        """End what the process has started and not ended itself. Only once: later, the number may be somebody else's."""
        if self._group_ended:
            return
        self._group_ended = True
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):  # macOS reports a group of zombies as forbidden.
            pass
        self._pid_file.unlink(missing_ok=True)

    def wait_ready(self, is_ready: Callable[[], bool], timeout_s: float, aborted: threading.Event) -> None:
        """Return when `is_ready` does so. Raises StartError when the process ends or time is up, and StartAborted."""
        deadline_s = time.monotonic() + timeout_s
        while True:
            ready = is_ready()
            if self.exit_code is not None:  # Even if something answers: then it is another program on the same port.
                raise StartError(f"{self.name} ended while starting ({self.exit_text}).{self.log_tail()}")
            if ready:
                return
            if time.monotonic() > deadline_s:
                raise StartError(f"{self.name} was not ready after {timeout_s:.0f} s.{self.log_tail()}")
            if aborted.wait(POLL_S):
                raise StartAborted(f"the start of {self.name} was aborted")

    def log_tail(self) -> str:
        """The last lines that this process has logged, introduced by the name of the file."""
        try:
            with self._log_file.open("rb") as log:
                log.seek(self._log_start)
                lines = log.read().decode(errors="replace").splitlines()[-LOG_TAIL_LINES:]
        except OSError:
            lines = []
        return f" The end of {self._log_file}:\n" + "\n".join(f"    {line}" for line in lines or ["(nothing was logged)"])


def end_leftovers(folder: Path) -> list[str]:
    """End the processes that the pid files in `folder` name, and remove the files. Returns the names of those that still ran."""
    ended = []
    for file in sorted(folder.glob("*.json")):
        try:
            entry = json.loads(file.read_text())
            pid, known, name = int(entry["pid"]), entry["identity"], str(entry["name"])
        except (OSError, ValueError, KeyError, TypeError):
            file.unlink(missing_ok=True)  # Half-written by a parent that was killed; on Linux its child died with it.
            continue
        if known and identity(pid) == known:
            _end(pid, known)
            ended.append(name)
        file.unlink(missing_ok=True)
    return ended


def _end(pid: int, known: str) -> None:
    for number, wait_s in ((signal.SIGTERM, LEFTOVER_GRACE_S), (signal.SIGKILL, KILL_TIMEOUT_S)):
        try:
            os.killpg(pid, number)
            os.killpg(pid, signal.SIGCONT)
        except (ProcessLookupError, PermissionError):
            return
        deadline_s = time.monotonic() + wait_s
        never = threading.Event()
        while identity(pid) == known and time.monotonic() < deadline_s:
            never.wait(POLL_S)  # Not our child any more: there is nothing to wait on but its name.
        if identity(pid) != known:
            return
