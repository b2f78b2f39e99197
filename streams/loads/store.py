"""LOYALTY_HOME/loads/<load>/: what a load is, and how far it has come, so that it goes on after a kill at any point.

`load.json` and the plan are written once, before the first row is sent. `progress.json` is replaced as a whole: how far decisions were read,
which rows they were of, what they were and how long the file of rejects was are always of one moment.
"""

import fcntl
import json
import os
import shutil
import tempfile
from collections import Counter
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import IO, Any

from streams.errors import ConfigurationError
from streams.settings import Settings

FOLDER = "loads"
NEW = "new-"
PLAN, REJECTS = "plan.bin", "rejects.jsonl"
_LOAD, _PROGRESS, _LOCK = "load.json", "progress.json", "lock"


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What was validated, and is to be sent."""

    load_id: str
    program_id: str
    source_system: str
    stream: str
    rows: int
    files: list[str]
    rejects_form: str
    delimiter: str
    encoding: str
    report: dict[str, Any]
    created_at_ms: int


@dataclass(slots=True, kw_only=True)
class Progress:
    """How far a load has come."""

    positions: dict[str, dict[str, int]] = field(default_factory=dict)
    """Stream -> partition -> next offset of what decisions were read from. Empty: nothing was sent."""
    decided_below: int = 0
    """All rows before this one are decided."""
    decided_above: list[int] = field(default_factory=list)
    """Others that are."""
    results: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    rejects_bytes: int = 0
    started_at_ms: int = 0
    saved_at_ms: int = 0
    sent_before_ms: int = 0
    """When the same load was sent before this time; 0: never."""
    ended_at_ms: int = 0
    """0: not all rows are decided."""


def folder_of(settings: Settings) -> Path:
    path = Path(settings.home) / FOLDER
    path.mkdir(mode=0o700, parents=True, exist_ok=True)  # Rows are people's.
    return path


class Workspace:
    """The folder of one load, held by one process."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: IO[str] = (path / _LOCK).open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            raise ConfigurationError(f"{path} is in use: another process sends this load.") from error

    def close(self) -> None:
        self._lock.close()

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        self.close()

    def load(self) -> Load:
        return Load(**json.loads((self.path / _LOAD).read_text()))

    def progress(self) -> Progress:
        try:
            found = Progress(**json.loads((self.path / _PROGRESS).read_text()))
        except FileNotFoundError:
            return Progress()
        found.results, found.reasons = Counter(found.results), Counter(found.reasons)
        return found

    def save_load(self, load: Load) -> None:
        _replace(self.path / _LOAD, load)

    def save(self, progress: Progress) -> None:
        _replace(self.path / _PROGRESS, progress)

    def end(self) -> None:
        """The load is over: what was sent is in the log, and the plan is not needed any more."""
        for name in (PLAN, Path(PLAN).with_suffix(".index")):
            (self.path / name).unlink(missing_ok=True)


def new(settings: Settings) -> Workspace:
    """One for an input that is to be validated. What processes that were killed have left of theirs is removed."""
    folder = folder_of(settings)
    for path in folder.glob(f"{NEW}*"):
        try:
            Workspace(path).remove()
        except (ConfigurationError, OSError):
            continue  # It is being validated, or was removed this moment.
    return Workspace(Path(tempfile.mkdtemp(prefix=NEW, dir=folder)))


def keep(settings: Settings, made: Workspace, load: Load, *, again: bool) -> Workspace:
    """The folder of this load: the new one, or that of the same load from before, which knows how far it has come; `again`: not if it is over."""
    target = folder_of(settings) / load.load_id
    if (target / _LOAD).exists():
        found = Workspace(target)
        if not (again and found.progress().ended_at_ms):
            made.remove()
            return found
        progress = made.progress()
        progress.sent_before_ms = found.progress().saved_at_ms
        made.save(progress)
        found.remove()
    made.save_load(load)
    made.path.rename(target)
    made.path = target
    return made


def open_existing(settings: Settings, load_id: str) -> Workspace:
    path = folder_of(settings) / load_id
    if not (path / _LOAD).exists():
        known = sorted(one.parent.name for one in folder_of(settings).glob(f"*/{_LOAD}"))
        raise ConfigurationError(f"--resume {load_id}: there is no such load in {path.parent}{'; known are ' + ', '.join(known) if known else ''}.")
    return Workspace(path)


def _replace(path: Path, value: Load | Progress) -> None:
    temporary = path.with_name(path.name + ".part")
    with temporary.open("w") as file:
        json.dump({one.name: getattr(value, one.name) for one in fields(value)}, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
