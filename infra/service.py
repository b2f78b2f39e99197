"""One part of the embedded stack as a process: start it, stop it, kill it, pause it. It keeps its port for as long as it lives."""

import os
import signal
import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import ClassVar

from infra import ports
from infra.processes import Child, StartError

PORT_ATTEMPTS_MAX = 3  # Somebody may take a port in the moment between our choice and the server's bind.
ROOT = Path(__file__).resolve().parent.parent  # Where streams, sinks and infra can be imported from.


class State(StrEnum):
    WAITING = "waiting"
    STARTING = "starting"
    READY = "ready"
    PAUSED = "paused"
    STOPPED = "stopped"
    DIED = "died"


class Service(ABC):
    """A process with a port. Subclasses say what to run and how to see that it is ready.

    `start`, `stop`, `kill`, `pause` and `resume` may be called from any thread. `kill` and a crash lose nothing that the service has
    acknowledged: `start` goes on with the same data on the same port.
    """

    start_timeout_s: ClassVar[float] = 60
    stop_timeout_s: ClassVar[float] = 15

    def __init__(self, name: str, home: Path, *, port: int = 0) -> None:
        """`port`: the wanted one; 0 for any that is free. The data go to `home`/`name`."""
        self.name = name
        self.folder = home / name
        self.log_file = home / "logs" / f"{name}.log"
        self.pid_file = home / "run" / f"{name}.json"
        self.note = ""
        """What people should know of this service, for example that it has another port than the wanted one."""
        self.port = 0
        self._wanted_port = port
        self._child: Child | None = None
        self._paused = False
        self._starting = False
        self._never_aborted = threading.Event()
        self._lock = threading.RLock()

    # What subclasses say

    @abstractmethod
    def prepare(self) -> None:
        """Write what the process needs to start on `self.port`. Called before every start."""

    @abstractmethod
    def command(self) -> list[str]:
        """Absolute path of the program, and its arguments."""

    @abstractmethod
    def is_ready(self) -> bool:
        """Whether the process answers as it should. Never raises."""

    @property
    @abstractmethod
    def url(self) -> str:
        """The address as clients want it."""

    def environment(self) -> Mapping[str, str]:
        """What the process finds in its environment besides ours. LOYALTY_ variables of ours are not handed down."""
        return {}

    # What callers do

    @property
    def address(self) -> str:
        return f"{ports.HOST}:{self.port}"

    @property
    def pid(self) -> int | None:
        child = self._child
        return child.pid if child and child.exit_code is None else None

    @property
    def state(self) -> State:
        child = self._child
        if self._starting:
            return State.STARTING
        if child is None:
            return State.STOPPED if self.port else State.WAITING
        if child.exit_code is not None:
            return State.DIED
        return State.PAUSED if self._paused else State.READY

    @property
    def exit_text(self) -> str:
        """How the process ended, for example `killed by SIGKILL`."""
        return self._child.exit_text if self._child else "not started"

    def start(self, aborted: threading.Event | None = None) -> None:
        """Return when the service is ready; nothing happens if it is already. Raises StartError, and StartAborted once `aborted` is set."""
        with self._lock:
            if self.pid is not None:
                return
            self._starting = True
            try:
                for attempt in range(1, PORT_ATTEMPTS_MAX + 1):
                    settled = self._take_port()
                    try:
                        self._launch(aborted or self._never_aborted)
                        return
                    except StartError:
                        # Only the loss of a port that was free a moment ago is worth another attempt, and only on another port.
                        if settled or ports.is_free(self.port) or attempt == PORT_ATTEMPTS_MAX:
                            raise
                        self.release_port()
            finally:
                self._starting = False

    def stop(self) -> bool:
        """End the process in an orderly way, or by force after `stop_timeout_s`. Returns whether it was orderly."""
        with self._lock:
            child, self._child, self._paused = self._child, None, False
            return child.stop(self.stop_timeout_s) if child and child.exit_code is None else True

    def restart(self) -> None:
        """`stop`, then `start`."""
        self.stop()
        self.start()

    def kill(self) -> None:
        """SIGKILL. The state is then `died`, as after a crash."""
        if child := self._child:
            child.kill()

    def kill_soon(self) -> None:
        """`kill` without waiting for the end."""
        if child := self._child:
            child.signal(signal.SIGKILL)

    def pause(self) -> None:
        """SIGSTOP: the process keeps its connections and answers nothing."""
        self._signal_pause(True)

    def resume(self) -> None:
        self._signal_pause(False)

    def _signal_pause(self, paused: bool) -> None:
        with self._lock:
            if self._child is None or self._child.exit_code is not None:
                raise RuntimeError(f"{self.name} is not running")
            self._child.signal(signal.SIGSTOP if paused else signal.SIGCONT)
            self._paused = paused

    def settle_port(self) -> None:
        """Choose the port now, for others to know it before the start."""
        if not self.port:
            self.port = ports.choose(self._wanted_port)
            self.note = "" if self.port == self._wanted_port or not self._wanted_port else f"port {self._wanted_port} is in use"

    def release_port(self) -> None:
        """Let the next start choose again. Only for a service that has been stopped."""
        ports.give_back(self.port)
        self.port = 0

    def _take_port(self) -> bool:
        """Returns whether the port was settled before: clients know it by now, so it stays. Raises StartError when it has been taken."""
        settled = bool(self.port)
        self.settle_port()
        if settled and not ports.is_free(self.port):
            raise StartError(f"{self.name} cannot start: its port {self.port} has been taken by another program.")
        return settled

    def _launch(self, aborted: threading.Event) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.prepare()
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("LOYALTY_")}
        path = os.pathsep.join(filter(None, (str(ROOT), inherited.get("PYTHONPATH", ""))))
        environment = {**inherited, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", **self.environment()}
        self._paused = False
        child = self._child = Child(self.name, self.command(), environment=environment, log_file=self.log_file, pid_file=self.pid_file)
        try:
            child.wait_ready(self.is_ready, self.start_timeout_s, aborted)
        except BaseException:
            child.stop(self.stop_timeout_s)
            raise
