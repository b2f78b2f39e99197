"""`loyalty load` as a process, and files for it."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from schemas.records import Enrolment, Transaction
from streams.settings import PREFIX, Settings

WITHIN_S = 120


def start(settings: Settings, *arguments: str) -> "subprocess.Popen[str]":
    environment = {key: value for key, value in os.environ.items() if not key.startswith(PREFIX)} | settings.environment()
    command = [sys.executable, "-m", "streams.cli", "load", *arguments, "--json"]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def load(settings: Settings, *arguments: str) -> tuple[int, dict[str, Any]]:
    """Exit code, and what it says at its end."""
    process = start(settings, *arguments)
    out, errors = process.communicate(timeout=WITHIN_S)
    assert out, errors
    return process.returncode, json.loads(out)


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    return path


def row(command: Transaction | Enrolment) -> dict[str, Any]:
    """As a file without a mapping has it."""
    said = {name: value for name, value in command.to_avro().items() if value not in (None, [], {}) and name not in ("program_id", "source_system")}
    return said
