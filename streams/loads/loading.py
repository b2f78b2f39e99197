"""One load from its sources to its end: validate, send, say what became of it."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from threading import Event

from schemas.codec import Codec
from schemas.records import RunResult, RunTrigger, SyncRun
from streams import configuration, kafka, programs, publishing, topics
from streams.domain.program import Program
from streams.errors import ConfigurationError
from streams.loads import mapping, rejects, sources, store, validation
from streams.loads.rejects import Rejects
from streams.loads.sending import Sender, Status
from streams.loads.sources import Layout
from streams.loads.store import REJECTS, Load, Progress, Workspace
from streams.loads.throttle import Throttle
from streams.loads.validation import Question, Report
from streams.scheduling.cadence import Cadence, window_text
from streams.settings import Settings

ID_CHARACTERS = 12
DAY_MS = 24 * 3600 * 1000
ASK_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What somebody wants to be loaded."""

    sources: tuple[str, ...]
    program_id: str
    source_system: str
    stream: str
    mapping_file: Path | None = None
    format: str = ""
    sorts: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Validated:
    """An input that was read whole, in a folder of its own that nobody knows yet."""

    workspace: Workspace
    load: Load
    report: Report
    rejects: Rejects


def validate(settings: Settings, order: Order, codec: Codec, advance: Callable[[int, int, int], None] = lambda *_: None) -> Validated:
    """Read and check all of it. `advance` is told bytes read, bytes in all and rows. Raises ConfigurationError and UnavailableError."""
    found = mapping.read(order.mapping_file, order.stream)
    workspace = store.new(settings)
    try:
        parts = sources.find(order.sources, order.format, workspace.path)
        total = sum(part.size_bytes for part in parts)
        kept = Rejects(workspace.path / REJECTS)
        now_ms = int(time.time() * 1000)
        question = Question(
            program_id=order.program_id, source_system=order.source_system, mapping=found, program=_program(settings, order.program_id),
            sorts=order.sorts, now_ms=now_ms,
        )  # fmt: skip
        report, digest = validation.validate(question, parts, codec, kept, workspace.path, lambda read, rows: advance(read, total, rows))
        for part in parts:
            if part.path.parent == workspace.path:
                part.path.unlink()
    except BaseException:
        workspace.remove()
        raise
    name = sha256(f"{settings.topic_prefix}\n{order.stream}\n{digest}".encode()).hexdigest()[:ID_CHARACTERS]
    load = Load(
        load_id=name, program_id=order.program_id, source_system=order.source_system, stream=order.stream, rows=report.to_send, files=report.files,
        rejects_form=rejects.form_of(parts), delimiter=found.layout.delimiter, encoding=found.layout.encoding, report=report.to_json(),
        created_at_ms=now_ms,
    )  # fmt: skip
    workspace.save(Progress(rejects_bytes=kept.sync()))
    return Validated(workspace=workspace, load=load, report=report, rejects=kept)


def _program(settings: Settings, program_id: str) -> Program | None:
    """Its rules as the configuration file has them, if there is one: an input can be checked where no server is."""
    if not settings.config_file:
        return None
    known = configuration.load(settings).programs
    if program_id not in known:
        raise ConfigurationError(f"--program {program_id}: LOYALTY_CONFIG_FILE has {', '.join(known) or 'no programme'}.")
    return known[program_id]


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """When rows may be sent."""

    not_before_ms: int = 0
    cadence: Cadence = Cadence()

    def held(self, now_ms: int) -> str:
        """Why nothing may be sent at that time; empty: it may."""
        if now_ms < self.not_before_ms:
            return f"waits until {validation.rfc_3339(self.not_before_ms)}"
        window = self.cadence.window
        return "" if window is None or self.cadence.is_open(now_ms) else f"waits for {window_text(window)} {self.cadence.time_zone}"


def check(settings: Settings, load: Load, progress: Progress) -> None:
    """Whether the load can be sent, or be gone on with. Raises ConfigurationError and UnavailableError."""
    counts = kafka.partition_counts(settings, timeout_s=ASK_TIMEOUT_S)
    for topic in (topics.BY_STREAM[load.stream], topics.SYNC_AUDIT, topics.DEAD_LETTERS):
        name = topic.name(settings.topic_prefix)
        if counts.get(name) != settings.kafka_partitions:
            has = f"{counts[name]} partitions" if name in counts else "no such topic: no worker has run there yet"
            raise ConfigurationError(f"LOYALTY_KAFKA_PARTITIONS is {settings.kafka_partitions}, but {name} has {has}.")
    published = publishing.read_published(settings).get(load.program_id)
    if not published:
        raise ConfigurationError(f"--program {load.program_id}: no rules of it are published (loyalty program list).")
    days = programs.from_record(published[-1], settings.voucher_key.encode()).idempotency_days
    sent_at_ms = progress.saved_at_ms if progress.positions else progress.sent_before_ms
    if sent_at_ms and sent_at_ms < time.time() * 1000 - days * DAY_MS:
        raise ConfigurationError(
            f"Load {load.load_id} was last sent {validation.rfc_3339(sent_at_ms)}, and answers of {load.program_id} are remembered for"
            f" {days} days (idempotency_days): rows that were posted then would be posted a second time. Nothing was sent."
        )


def send(
    settings: Settings, codec: Codec, workspace: Workspace, load: Load, throttle: Throttle, times: Times, stop: Event, tell: Callable[[Status], None]
) -> tuple[bool, Progress]:
    """Send what is not decided yet. Whether all is, and how far it has come. Raises ConfigurationError and UnavailableError."""
    progress = workspace.progress()
    kept = Rejects(workspace.path / REJECTS, keep_bytes=progress.rejects_bytes)
    try:
        sender = Sender(settings, codec, workspace, load, kept, throttle, stop, may_send=times.held, tell=tell)
        is_done = sender.run()
    finally:
        kept.close()
    if is_done:
        workspace.end()
    return is_done, sender.progress


def write_rejects(workspace: Workspace, load: Load, target: Path | None) -> Path:
    """The rows that were not taken, in the form of the input, where somebody wants them or beside the load."""
    kept = Rejects(workspace.path / REJECTS, keep_bytes=workspace.progress().rejects_bytes)
    path = target or workspace.path / f"rejects.{load.rejects_form}"
    try:
        rejects.write(kept, path, load.files, load.rejects_form, Layout(delimiter=load.delimiter, encoding=load.encoding))
    except OSError as error:
        raise ConfigurationError(f"--rejects {path} cannot be written: {error}.") from error
    finally:
        kept.close()
    return path


def record_run(settings: Settings, codec: Codec, load: Load, progress: Progress, result: RunResult, started_at_ms: int, *, user: str, detail: str) -> None:
    """One line of this run in the topic of runs, for `loyalty sync` and the history. Raises UnavailableError."""
    job = f"load/{load.load_id}"
    run = SyncRun(
        run_id=f"{job}@{started_at_ms}", job=job, trigger=RunTrigger.OPERATOR, result=result, detail=detail, attempt=1, cadence="once",
        requested_by=user, scheduled_for_ms=started_at_ms, started_at_ms=started_at_ms, ended_at_ms=int(time.time() * 1000),
        rows=progress.decided_below + len(progress.decided_above), counts=dict(progress.results), due_after_ms=0,
    )  # fmt: skip
    kafka.write_one(settings, topics.SYNC_RUNS, job, codec.encode(run))
